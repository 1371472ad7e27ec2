//! The queue of the write batcher, limited in bytes per worker and in total.
//!
//! Senders never block: a session must keep answering heartbeats, however long the database takes. A correct worker
//! reports no more than it holds, so only one that repeats itself comes near its limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gaffer_domain::WorkerId;

/// The most bytes of reports of one worker that wait: its largest list of attempts, started and ended.
const MAX_WORKER_BYTES: usize = 96 << 20;
/// The most bytes of reports of all workers together.
const MAX_TOTAL_BYTES: usize = 384 << 20;

/// A report was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// The write batcher has ended.
    #[error("the master is shutting down")]
    ShuttingDown,
    /// The worker has reported more than may wait.
    #[error("too many reports are waiting to be stored; the worker repeats them in its next session")]
    TooMuch,
}

impl From<super::ShuttingDown> for NotTaken {
    fn from(_: super::ShuttingDown) -> NotTaken {
        NotTaken::ShuttingDown
    }
}

/// Who reports, in one session.
#[derive(Debug)]
pub struct Reporter {
    pub(super) worker: WorkerId,
    pub(super) actor: Arc<str>,
    queued: Arc<AtomicUsize>,
}

impl Reporter {
    /// A worker, by number and name.
    pub fn new(worker: WorkerId, name: &str) -> Reporter {
        Reporter { worker, actor: format!("worker {name}").into(), queued: Arc::default() }
    }
}

/// A report's share of what waits, until it waits no more.
#[derive(Debug)]
pub(super) struct Charge {
    bytes: usize,
    counters: [Arc<AtomicUsize>; 2],
}

impl Charge {
    /// Refuses what would be too much.
    pub(super) fn new(reporter: &Reporter, all: &Arc<AtomicUsize>, bytes: usize) -> Result<Charge, NotTaken> {
        let charge = Charge { bytes, counters: [reporter.queued.clone(), all.clone()] };
        let [of_worker, of_all] =
            [0, 1].map(|at| charge.counters[at].fetch_add(bytes, Ordering::Relaxed) + bytes);
        if of_worker > MAX_WORKER_BYTES || of_all > MAX_TOTAL_BYTES {
            return Err(NotTaken::TooMuch);
        }
        Ok(charge)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        for counter in &self.counters {
            counter.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn each_worker_has_its_limit_and_all_have_one_together() {
        let all = Arc::default();
        let reporters: Vec<Reporter> = (0..10).map(|n| Reporter::new(WorkerId(n), "w")).collect();
        let mut charges = Vec::new();
        let half = MAX_WORKER_BYTES / 2;
        for reporter in &reporters {
            charges.extend([half, half, half].map(|bytes| Charge::new(reporter, &all, bytes).ok()));
        }
        let taken: Vec<bool> = charges.iter().map(Option::is_some).collect();
        assert_eq!(taken[..3], [true, true, false]);
        assert_eq!(taken.iter().filter(|taken| **taken).count(), MAX_TOTAL_BYTES / half);
        charges.clear();
        assert_eq!(all.load(Ordering::Relaxed), 0);
        assert!(Charge::new(&reporters[0], &all, half).is_ok());
    }
}
