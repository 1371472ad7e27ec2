//! The key that a worker shows: its operator's, or one that it has made for itself and enrols with an enrolment key.
//!
//! The key is on the disk before the master hears of it, and the master never tells it: so nothing is lost when either of them dies. Until the
//! master has said welcome, both keys are tried, the enrolment key first. After that the own one alone counts, so that a worker
//! whose key was revoked does not enrol again by itself.

use std::path::{Path, PathBuf};

use gaffer_protocol::keys::{ENROLMENT_KEY, SHOWN_CHARS};
use gaffer_protocol::wire::OwnKey;
use sha2::{Digest as _, Sha256};

use crate::config::ApiKey;
use crate::data_dir::{self, KeptKey};

/// The keys of a worker.
pub(super) struct Keys {
    given: ApiKey,
    data_dir: PathBuf,
}

/// A key to be shown, and what is said with it.
#[derive(Clone)]
pub(super) struct Shown {
    pub key: ApiKey,
    /// What the master is to enrol, if this is an enrolment key.
    pub enrols: Option<OwnKey>,
    /// The own key, while the master may not know it.
    unconfirmed: Option<KeptKey>,
}

impl Keys {
    pub fn new(given: ApiKey, data_dir: &Path) -> Keys {
        Keys { given, data_dir: data_dir.to_owned() }
    }

    /// The keys to be shown one after the other, until one is not refused.
    pub fn to_show(&self) -> anyhow::Result<Vec<Shown>> {
        if !self.given.reveal().starts_with(ENROLMENT_KEY) {
            return Ok(vec![Shown { key: self.given.clone(), enrols: None, unconfirmed: None }]);
        }
        let kept = data_dir::own_key(&self.data_dir, &hex_sha256(self.given.reveal()))?;
        let own = |unconfirmed| Shown { key: ApiKey::from(kept.key.clone()), enrols: None, unconfirmed };
        if kept.is_enrolled {
            return Ok(vec![own(None)]);
        }
        let prefix = kept.key.chars().take(SHOWN_CHARS).collect();
        let enrols = Some(OwnKey { prefix, sha256: hex_sha256(&kept.key) });
        let enrolment = Shown { key: self.given.clone(), enrols, unconfirmed: Some(kept.clone()) };
        Ok(vec![enrolment, own(Some(kept.clone()))])
    }

    /// The master has said welcome: the own key is known to it from now on. A disk that does not take that is asked again with the next welcome.
    pub fn was_welcome(&self, shown: &Shown) {
        let Some(kept) = &shown.unconfirmed else { return };
        match data_dir::keep_enrolled(&self.data_dir, kept) {
            Ok(()) => tracing::info!("this worker has its own key from now on, in its data directory"),
            Err(error) => tracing::warn!("cannot keep that the key of this worker is enrolled: {error:#}"),
        }
    }
}

/// The key that a worker with this data directory connects with, for who only looks: nothing is made.
pub(crate) fn present(given: &ApiKey, data_dir: &Path) -> ApiKey {
    let is_for_it = |kept: &KeptKey| kept.is_enrolled && kept.enrolment == hex_sha256(given.reveal());
    let kept = data_dir::kept_key(data_dir).ok().flatten().filter(is_for_it);
    kept.map_or_else(|| given.clone(), |kept| ApiKey::from(kept.key))
}

fn hex_sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
