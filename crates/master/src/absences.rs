//! How long each worker has been disconnected, by the boot clock of the master's machine.
//!
//! The database's clock decides when an absence is too long, and this clock must agree, so that setting the database's
//! clock forward loses nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gaffer_domain::WorkerId;
use gaffer_protocol::boot_time::BootTime;

/// When workers were last heard of; for one that this master never heard of, when absences began to count for it.
#[derive(Debug, Clone)]
pub struct Absences {
    began: BootTime,
    last_heard: Arc<Mutex<HashMap<WorkerId, BootTime>>>,
}

impl Absences {
    /// Absences for a new leader, counted from `grace` later.
    pub fn since(now: BootTime, grace: Duration) -> Absences {
        Absences { began: now.after(grace), last_heard: Arc::default() }
    }

    /// A session ended, that long after the last word of its worker.
    pub fn note(&self, worker: WorkerId, now: BootTime, silent_for: Duration) {
        let mut last_heard = self.last_heard.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = now.before(silent_for);
        last_heard.entry(worker).and_modify(|last| *last = heard.max(*last)).or_insert(heard);
    }

    /// For how long a worker that is not connected has been silent at least.
    pub fn silent_for(&self, worker: WorkerId, now: BootTime) -> Duration {
        let last_heard = self.last_heard.lock().unwrap_or_else(PoisonError::into_inner);
        now.since(last_heard.get(&worker).copied().unwrap_or(self.began))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_worker_is_silent_since_its_last_word_or_since_this_master_counts() {
        let second = |secs: u64| BootTime::from_micros(secs * 1_000_000);
        let absences = Absences::since(second(100), Duration::from_secs(15));
        let silent = |worker, now| absences.silent_for(WorkerId(worker), second(now)).as_secs();
        assert_eq!((silent(1, 110), silent(1, 120)), (0, 5));
        absences.note(WorkerId(1), second(200), Duration::from_secs(10));
        assert_eq!((silent(1, 200), silent(2, 200)), (10, 85));
        // The end of an older session is noted late.
        absences.note(WorkerId(1), second(201), Duration::from_secs(50));
        assert_eq!(silent(1, 201), 11);
    }
}
