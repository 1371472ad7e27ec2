//! Continues stops and dependency updates of jobs that are too large for one transaction.

use std::time::{Duration, Instant};

use super::driver::{Background, Ran};
use crate::large_jobs::LargeJobs;
use crate::store::transitions::JobSlice;
use crate::store::{Store, StoreError};
use crate::wakes::Wake;
use crate::write_batcher::WriteBatcherHandle;

/// A locked job is retried after this time.
const BUSY_WAIT: Duration = Duration::from_millis(200);

/// The loop.
#[derive(Debug)]
pub struct LargeJobsLoop {
    store: Store,
    write_batcher: WriteBatcherHandle,
    jobs: LargeJobs,
    /// What an earlier master has left was read.
    has_read: bool,
}

impl LargeJobsLoop {
    /// A loop over these jobs, and over what an earlier master has left.
    pub fn new(store: Store, write_batcher: WriteBatcherHandle, jobs: LargeJobs) -> LargeJobsLoop {
        LargeJobsLoop { store, write_batcher, jobs, has_read: false }
    }
}

impl Background for LargeJobsLoop {
    const NAME: &'static str = "large_jobs";
    const DESCRIPTION: &'static str = "stops large jobs and resolves their dependencies, in batches";

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn wake(&self) -> Option<Wake> {
        Some(self.jobs.wake())
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let now = Instant::now();
        if !self.has_read || self.jobs.is_read_due(now) {
            let left = self.store.jobs_unsettled().await?;
            self.jobs.add(left);
            self.jobs.were_read(now);
            self.has_read = true;
        }
        // One slice of each in turn: a very large one does not hold up the others.
        let (mut done, mut is_busy) = (0, false);
        for (job, progress) in self.jobs.all() {
            let slice = JobSlice { job, after: progress.after };
            let Ok(result) = self.write_batcher.slice(slice).await else {
                is_busy = true;
                continue;
            };
            done += 1;
            is_busy |= self.jobs.sliced(job, progress, result);
        }
        let is_done = self.jobs.all().is_empty();
        let again_after = match (is_done, is_busy) {
            (true, _) => None,
            (false, true) => Some(BUSY_WAIT),
            (false, false) => Some(Duration::ZERO),
        };
        Ok(Ran { done, again_after: again_after.into_iter().chain(self.jobs.reads_again_in()).min() })
    }
}
