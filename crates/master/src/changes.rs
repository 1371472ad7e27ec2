//! Notifies readers that something of a job, or of any job, was committed; they read what.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use gaffer_domain::JobId;
use tokio::sync::watch;

/// Above this number of watched jobs, unused entries are removed.
const SWEEP_FROM: usize = 1_024;

/// Wake-up calls after commits.
#[derive(Debug, Clone, Default)]
pub struct Changes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    any: watch::Sender<u64>,
    jobs: Mutex<HashMap<JobId, watch::Sender<u64>>>,
}

impl Changes {
    /// Something of these jobs has changed.
    pub fn announce(&self, jobs: &[JobId]) {
        {
            let watched = self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            for sender in jobs.iter().filter_map(|job| watched.get(job)) {
                sender.send_modify(|version| *version += 1);
            }
        }
        self.0.any.send_modify(|version| *version += 1);
    }

    /// Wakes up when something of one job has changed. Subscribe before reading.
    pub fn of_job(&self, job: JobId) -> watch::Receiver<u64> {
        let mut watched = self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.len() >= SWEEP_FROM {
            watched.retain(|_, sender| sender.receiver_count() > 0);
        }
        watched.entry(job).or_default().subscribe()
    }

    /// Wakes up when anything has changed. Subscribe before reading.
    pub fn of_any(&self) -> watch::Receiver<u64> {
        self.0.any.subscribe()
    }
}
