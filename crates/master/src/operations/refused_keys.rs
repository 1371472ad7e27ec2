//! Why a key was refused: for the master's log and the audit log of the key's project, and never for the client that presented it.

use std::net::IpAddr;

use gaffer_protocol::audit::AuditOutcome;
use tokio::time::Instant;

use super::audit;
use super::context::Effects;
use crate::guesses::Presented;
use crate::store::audit::NewEntry;
use crate::store::keys::{KnownKey, RefusedKey};

/// What a refused key was presented for, as the audit log calls it.
const USE_KEY: &str = "use_key";

/// Notes why a key was refused, once a minute for each key and reason. Behind the answer: whether there is anything to be noted must
/// not show in the time that the answer takes.
pub(super) fn note(
    effects: &Effects,
    refused: RefusedKey,
    presented: Presented<'_>,
    address: Option<IpAddr>,
) {
    let (beginning, address) = (presented.beginning.to_owned(), address.map(|address| address.to_string()));
    let known = match refused {
        RefusedKey::Known(known) => known,
        RefusedKey::Unknown => {
            tracing::debug!(address, begins_with = beginning, "refused a key that nobody has");
            return;
        }
    };
    if !effects.refused_keys.is_news((known.id, known.why), Instant::now()) {
        return;
    }
    let (writes, wakes) = (effects.writes.clone(), effects.wakes.clone());
    tokio::spawn(async move {
        let KnownKey { id, project, name, user, why } = known;
        tracing::warn!(key = id, name, address, begins_with = beginning, reason = %why, "refused a key");
        let credential = format!("key {id} ({name})");
        let new = NewEntry {
            project: Some(project),
            user: user.as_deref().unwrap_or("worker"),
            credential: Some(&credential),
            address: address.as_deref(),
            action: USE_KEY,
            target: &format!("key {id}"),
        };
        audit::write(&writes, &wakes, &new, AuditOutcome::Refused, Some(why.to_string())).await;
    });
}
