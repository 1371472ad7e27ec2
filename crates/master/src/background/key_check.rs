//! Ends worker sessions whose key was revoked or expired, and responses whose reader's key or browser session is no good any
//! more, because of itself or because its user is disabled or no member of the project.

use std::time::Duration;

use gaffer_protocol::wire::GoodbyeCode;

use super::driver::{Background, Ran};
use crate::hub::Hub;
use crate::open_streams::{Credential, OpenStreams};
use crate::store::{Store, StoreError};
use crate::wakes::Wake;

/// How long it waits if no key expires before.
const PERIOD: Duration = Duration::from_secs(30);
/// The database's clock has passed the expiry by then.
const AFTER_EXPIRY: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct KeyCheck {
    pub store: Store,
    pub hub: Hub,
    pub open_streams: OpenStreams,
    /// Idle timeout of a browser session.
    pub session_idle_secs: u32,
    /// Asks for a check.
    pub wake: Wake,
}

impl Background for KeyCheck {
    const NAME: &'static str = "key_check";
    const DESCRIPTION: &'static str =
        "ends worker sessions and open responses whose key or browser session was revoked or has expired";

    fn period(&self) -> Duration {
        PERIOD
    }

    fn wake(&self) -> Option<Wake> {
        Some(self.wake.clone())
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let (workers, credentials) = (self.hub.all(), self.open_streams.credentials());
        let mut keys: Vec<i64> = workers.iter().map(|session| session.key).collect();
        let mut sessions = Vec::new();
        for credential in credentials {
            match credential {
                Credential::Key(key) => keys.push(key),
                Credential::WebSession(sha256, project) => sessions.push((sha256, project)),
            }
        }
        keys.sort_unstable();
        keys.dedup();
        // Asked for first: a key that expires in between is refused already.
        let expires_in = self.store.next_key_expires_in().await?;
        let refused = self.store.keys_refused(&keys).await?;
        let mut ended = 0;
        for session in workers.iter().filter(|session| refused.contains(&session.key)) {
            session.end(GoodbyeCode::KeyRevoked, "the key was revoked or has expired");
            ended += 1;
        }
        let over = self.store.web_sessions_over(&sessions, self.session_idle_secs).await?;
        let refused = refused.into_iter().map(Credential::Key);
        let over = over.into_iter().map(|(sha256, project)| Credential::WebSession(sha256, project));
        for credential in refused.chain(over) {
            ended += self.open_streams.end(&credential) as u64;
        }
        // Whatever connects meanwhile: the next key that expires, if it is in use, is noticed at once.
        let again_after = expires_in.map(|wait| (wait + AFTER_EXPIRY).min(PERIOD));
        Ok(Ran { done: ended, again_after })
    }
}
