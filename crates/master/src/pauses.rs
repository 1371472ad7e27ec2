//! Records tasks that workers returned unstarted, or that became unhealthy there, for the scheduler.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gaffer_domain::placement::{pauses, unhealthy};
use gaffer_domain::{Time, WorkerId};

use crate::store::transitions::Outcome;

/// A handle on the pauses; rebuilt from experience after a start.
#[derive(Debug, Clone, Default)]
pub struct Pauses(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    pauses: pauses::Pauses,
    unhealthy: unhealthy::Unhealthy,
}

impl Pauses {
    /// Takes note of what was given back, what was started, and what became unhealthy.
    pub fn note(&self, outcome: &Outcome, now: Time) {
        let is_quiet = outcome.given_back.is_empty() && outcome.started.is_empty() && outcome.runs.is_empty();
        if is_quiet && outcome.unhealthy.is_empty() {
            return;
        }
        let Inner { pauses, unhealthy } = &mut *self.lock();
        for (class, worker) in &outcome.unhealthy {
            unhealthy.note(*class, *worker, now);
        }
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
        self.lock().pauses.of(worker, now)
    }

    /// When the next pause ends.
    pub fn next_end(&self, now: Time) -> Option<Time> {
        self.lock().pauses.next_end(now)
    }

    /// The classes of which attempts became unhealthy on a worker lately, and how many.
    pub fn unhealthy_on(&self, worker: WorkerId, now: Time) -> BTreeMap<i64, u32> {
        self.lock().unhealthy.of(worker, now)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
