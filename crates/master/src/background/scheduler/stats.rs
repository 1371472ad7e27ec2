//! Statistics of the scheduler's passes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gaffer_domain::Time;

use crate::metrics::loops::SchedulerMetrics;

/// Number of recorded passes.
const MAX_RECENT: usize = 300;

/// How the scheduler has done since the master started, and lately, for all projects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Passes {
    /// Passes with work to do.
    pub count: u64,
    /// The last ones, oldest first; at most 300.
    pub recent: Vec<Pass>,
}

/// One pass of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    pub at: Time,
    /// How long it took in all, with the database, in microseconds.
    pub micros: u64,
    /// How long the decision alone took.
    pub decision_micros: u64,
}

/// A shared handle on the counters since the start.
#[derive(Debug, Clone)]
pub struct SchedulerStats {
    passes: Arc<Mutex<Passes>>,
    metrics: SchedulerMetrics,
}

impl SchedulerStats {
    pub fn new(metrics: SchedulerMetrics) -> SchedulerStats {
        SchedulerStats { passes: Arc::default(), metrics }
    }

    /// Counts a pass.
    pub fn note(&self, pass: Pass) {
        self.metrics.passed(Duration::from_micros(pass.micros), Duration::from_micros(pass.decision_micros));
        let passes = &mut *self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        passes.count += 1;
        if passes.recent.len() >= MAX_RECENT {
            passes.recent.remove(0);
        }
        passes.recent.push(pass);
    }

    /// What has been counted so far.
    pub fn passes(&self) -> Passes {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
