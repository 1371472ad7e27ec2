//! How the scheduler's passes have gone, for its page.

use std::sync::{Arc, Mutex, PoisonError};

use gaffer_protocol::rest::{Pass, Passes};

/// So many passes are remembered one by one.
const MAX_RECENT: usize = 300;

/// A handle on what is counted since the master started.
#[derive(Debug, Clone, Default)]
pub struct SchedulerStats(Arc<Mutex<Passes>>);

impl SchedulerStats {
    /// Counts a pass.
    pub fn note(&self, pass: Pass) {
        let passes = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        passes.count += 1;
        if passes.recent.len() >= MAX_RECENT {
            passes.recent.remove(0);
        }
        passes.recent.push(pass);
    }

    /// What has been counted so far.
    pub fn passes(&self) -> Passes {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
