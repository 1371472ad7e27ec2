//! Records tasks that workers returned unstarted, for the scheduler.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gaffer_domain::placement::pauses;
use gaffer_domain::{Time, WorkerId};

use crate::store::transitions::Outcome;

/// A handle on the pauses; rebuilt from experience after a start.
#[derive(Debug, Clone, Default)]
pub struct Pauses(Arc<Mutex<pauses::Pauses>>);

impl Pauses {
    /// Takes note of what was given back and what was started.
    pub fn note(&self, outcome: &Outcome, now: Time) {
        if outcome.given_back.is_empty() && outcome.started.is_empty() && outcome.runs.is_empty() {
            return;
        }
        let mut pauses = self.lock();
        for (class, worker) in &outcome.given_back {
            pauses.gave_back(*class, *worker, now);
        }
        let ran = outcome.runs.iter().map(|run| (run.class, run.worker));
        for (class, worker) in outcome.started.iter().copied().chain(ran) {
            pauses.started(class, worker);
        }
    }

    /// The classes that are not placed on a worker now, with the end of the pause.
    pub fn of(&self, worker: WorkerId, now: Time) -> BTreeMap<i64, Time> {
        self.lock().of(worker, now)
    }

    /// When the next pause ends.
    pub fn next_end(&self, now: Time) -> Option<Time> {
        self.lock().next_end(now)
    }

    fn lock(&self) -> MutexGuard<'_, pauses::Pauses> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
