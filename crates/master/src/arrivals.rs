//! Handles hellos with a known identity, one at a time: the worker itself or a copy?

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gaffer_domain::WorkerId;
use gaffer_domain::worker::HEARTBEAT_INTERVAL;
use gaffer_domain::worker::place::{Admission, Holder, Place, Relation};
use tokio::sync::OwnedMutexGuard;

use crate::hub::{Hub, SessionHandle};
use crate::store::places::KnownPlace;
use crate::store::{Store, StoreError};

/// A healthy worker sends something within this time.
const SIGN_OF_LIFE: Duration = Duration::from_millis(HEARTBEAT_INTERVAL.as_millis() + 2_000);
/// How often it is looked whether it has.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// A duplicate that keeps trying is worth one event in this time.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// SHA-256 of a worker's identity.
pub type Identity = [u8; 32];

/// Hellos that are being handled, and the duplicates that were reported lately.
#[derive(Debug, Clone, Default)]
pub struct Arrivals(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    turns: HashMap<Identity, Arc<tokio::sync::Mutex<()>>>,
    told: HashMap<WorkerId, Instant>,
}

/// While this exists, no other hello with this identity is processed.
#[derive(Debug)]
pub struct Turn {
    arrivals: Arrivals,
    identity: Identity,
    guard: Option<OwnedMutexGuard<()>>,
}

/// A connection with the identity of another worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// The worker that keeps its place.
    pub holder: WorkerId,
    pub holder_name: String,
    pub relation: Relation,
    /// Whether the newcomer may continue with a new identity.
    pub begins_anew: bool,
}

impl Duplicate {
    /// What to tell the newcomer.
    pub fn message(&self) -> String {
        let name = &self.holder_name;
        match self.begins_anew {
            true => format!(
                "this data directory is a copy: worker `{name}` on another machine has the same identity \
                 and keeps it"
            ),
            false => format!(
                "this data directory is a copy: worker `{name}` on this machine is connected with the same \
                 identity"
            ),
        }
    }

    /// What to write into the holder's history.
    pub fn event(&self, newcomer: &Place) -> String {
        let host = newcomer.host.as_deref().unwrap_or("unknown");
        match self.begins_anew {
            true => format!(
                "a copy of its data directory was started on another machine (host {host}) and becomes a new worker"
            ),
            false => format!(
                "a copy of its data directory was started on the same machine (host {host}) and was refused"
            ),
        }
    }
}

impl Arrivals {
    /// Waits for other hellos with this identity.
    pub async fn turn(&self, identity: Identity) -> Turn {
        // Made before it is waited for: one that is given up leaves nothing behind.
        let mut waiting = Turn { arrivals: self.clone(), identity, guard: None };
        let turn = self.lock().turns.entry(identity).or_default().clone();
        waiting.guard = Some(turn.lock_owned().await);
        waiting
    }

    /// Whether to write an event about a duplicate of this worker.
    pub fn is_news(&self, holder: WorkerId) -> bool {
        let mut known = self.lock();
        known.told.retain(|_, at| at.elapsed() < TELL_AGAIN);
        known.told.insert(holder, Instant::now()).is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut known = self.arrivals.lock();
        self.guard = None;
        // One for the list; others wait for their turn.
        if known.turns.get(&self.identity).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            known.turns.remove(&self.identity);
        }
    }
}

/// Whether the worker whose identity a newcomer has is heard of; listens for a few seconds if need be.
pub async fn is_holder_well(hub: &Hub, known: &KnownPlace, newcomer: &Place) -> bool {
    match (known.place.relation(newcomer), hub.get(known.id)) {
        // Whatever its older session receives; it must not wait.
        (Relation::Itself, _) | (_, None) => false,
        (_, Some(session)) => is_well(hub, &session).await,
    }
}

/// Whether a worker that says hello from `newcomer` is the one that its identity says; to be asked in its [`Turn`], after
/// [`is_holder_well`].
///
/// # Errors
/// When the database does not answer.
pub async fn admit(
    store: &Store,
    known: &KnownPlace,
    newcomer: &Place,
    is_holder_well: bool,
) -> Result<Result<(), Duplicate>, StoreError> {
    let relation = known.place.relation(newcomer);
    let holder = match relation {
        Relation::Itself => return Ok(Ok(())),
        _ if is_holder_well => Holder::Well,
        Relation::Elsewhere => Holder::Away { has_attempts: store.worker_has_attempts(known.id).await? },
        _ => Holder::Away { has_attempts: false },
    };
    let begins_anew = match relation.admission(holder) {
        Admission::TakesPlace => return Ok(Ok(())),
        Admission::BeginsAnew => true,
        Admission::IsRefused => false,
    };
    Ok(Err(Duplicate { holder: known.id, holder_name: known.name.clone(), relation, begins_anew }))
}

/// Whether something is heard in a session that was not heard before.
async fn is_well(hub: &Hub, session: &SessionHandle) -> bool {
    let asked = Instant::now();
    while asked.elapsed() < SIGN_OF_LIFE {
        if session.last_seen().0 > asked {
            return true;
        }
        if hub.get(session.worker).is_none_or(|present| present.id != session.id) {
            return false;
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_identity_arrives_after_the_other_and_nothing_is_left_of_them() {
        let arrivals = Arrivals::default();
        let first = arrivals.turn([1; 32]).await;
        let other = arrivals.turn([2; 32]).await;
        let second = tokio::spawn({
            let arrivals = arrivals.clone();
            async move { arrivals.turn([1; 32]).await }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        let second = second.await;
        assert!(second.is_ok());
        let third = tokio::spawn({
            let arrivals = arrivals.clone();
            async move { arrivals.turn([1; 32]).await }
        });
        tokio::task::yield_now().await;
        drop((second, other));
        third.abort();
        assert!(third.await.is_err(), "it was given up while it waited");
        assert!(arrivals.lock().turns.is_empty());
        assert!(
            arrivals.is_news(WorkerId(1)) && !arrivals.is_news(WorkerId(1)) && arrivals.is_news(WorkerId(2))
        );
    }
}
