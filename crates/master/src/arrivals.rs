//! Workers that say hello with an identity that is known: one at a time, and only the one whose place it is.

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

/// A worker that is well says something within this time.
const SIGN_OF_LIFE: Duration = Duration::from_millis(HEARTBEAT_INTERVAL.as_millis() + 2_000);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);
/// A duplicate that keeps trying is worth one event in this time.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// SHA-256 of a worker's identity.
pub type Identity = [u8; 32];

/// Whoever arrives just now, and which duplicates were told of lately.
#[derive(Debug, Clone, Default)]
pub struct Arrivals(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    turns: HashMap<Identity, Arc<tokio::sync::Mutex<()>>>,
    told: HashMap<WorkerId, Instant>,
}

/// As long as this lives, nobody else with this identity is let in.
#[derive(Debug)]
pub struct Turn {
    arrivals: Arrivals,
    identity: Identity,
    guard: Option<OwnedMutexGuard<()>>,
}

/// Somebody who dials in with the identity of another worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// The worker that keeps its place.
    pub holder: WorkerId,
    /// Its name.
    pub holder_name: String,
    /// How the two compare.
    pub relation: Relation,
    /// Whether the newcomer may go on with an identity of its own.
    pub begins_anew: bool,
}

impl Duplicate {
    /// What to tell the newcomer.
    pub fn message(&self) -> String {
        let name = &self.holder_name;
        match self.begins_anew {
            true => format!(
                "the worker `{name}` has the identity of this one and keeps it: this data directory is a copy of the one \
                 of `{name}`, which is on another machine"
            ),
            false => format!(
                "the worker `{name}` has the identity of this one and is connected from this very machine: this data \
                 directory is a copy of the one of `{name}`"
            ),
        }
    }

    /// What to write into the holder's history.
    pub fn event(&self, newcomer: &Place) -> String {
        let host = newcomer.host.as_deref().unwrap_or("unknown");
        match self.begins_anew {
            true => format!(
                "a copy of its data directory was started on another machine (host {host}), and told to begin as a new worker"
            ),
            false => format!(
                "a copy of its data directory was started on its own machine (host {host}), and refused"
            ),
        }
    }
}

impl Arrivals {
    /// Waits until nobody else with this identity is being let in.
    pub async fn turn(&self, identity: Identity) -> Turn {
        let turn = self.lock().turns.entry(identity).or_default().clone();
        let guard = Some(turn.lock_owned().await);
        Turn { arrivals: self.clone(), identity, guard }
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

/// Whether a worker that says hello from `newcomer` is the one that its identity says; to be asked in its [`Turn`].
///
/// # Errors
/// When the database does not answer.
pub async fn admit(
    store: &Store,
    hub: &Hub,
    known: &KnownPlace,
    newcomer: &Place,
) -> Result<Result<(), Duplicate>, StoreError> {
    let relation = known.place.relation(newcomer);
    let holder = match (relation, hub.get(known.id)) {
        // Whatever its older session says: it must not wait.
        (Relation::Itself, _) => return Ok(Ok(())),
        (_, Some(session)) if is_well(hub, &session).await => Holder::Well,
        (Relation::Elsewhere, _) => Holder::Away { has_attempts: store.worker_has_attempts(known.id).await? },
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
        tokio::time::sleep(LOOK).await;
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
        drop((second, other));
        assert!(arrivals.lock().turns.is_empty());
        assert!(
            arrivals.is_news(WorkerId(1)) && !arrivals.is_news(WorkerId(1)) && arrivals.is_news(WorkerId(2))
        );
    }
}
