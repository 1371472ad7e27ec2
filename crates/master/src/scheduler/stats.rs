//! How the scheduler's passes have gone, for its page.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use gaffer_domain::WorkerId;
use gaffer_protocol::rest::{Pass, Passes};

/// So many passes are remembered one by one.
const MAX_RECENT: usize = 300;

/// Workers that are kept for the tasks of a class.
pub type ReservedFor = BTreeMap<WorkerId, i64>;

/// A handle on what is counted since the master started, and on what the last pass left.
#[derive(Debug, Clone, Default)]
pub struct SchedulerStats(Arc<Mutex<(Passes, ReservedFor)>>);

impl SchedulerStats {
    /// Counts a pass, which keeps these workers.
    pub fn note(&self, pass: Pass, kept: ReservedFor) {
        let (passes, kept_before) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *kept_before = kept;
        passes.count += 1;
        if passes.recent.len() >= MAX_RECENT {
            passes.recent.remove(0);
        }
        passes.recent.push(pass);
    }

    /// Nothing was there to look at, and so nobody to keep a worker for.
    pub fn nothing_waits(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clear();
    }

    /// What has been counted so far.
    pub fn passes(&self) -> Passes {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// The workers that the last pass kept.
    pub fn kept(&self) -> ReservedFor {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}
