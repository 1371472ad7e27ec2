//! Continues stops and dependency updates of jobs that are too large for one transaction.

use std::time::Duration;

use super::driver::{Background, Ran};
use crate::large_jobs::LargeJobs;
use crate::store::transitions::{JobSlice, SliceResult};
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
    /// What an earlier master left was looked for, and what a lost answer may have left.
    has_looked: bool,
}

impl LargeJobsLoop {
    /// A loop over these jobs, and over what an earlier master has left.
    pub fn new(store: Store, write_batcher: WriteBatcherHandle, jobs: LargeJobs) -> LargeJobsLoop {
        LargeJobsLoop { store, write_batcher, jobs, has_looked: false }
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
        if !self.has_looked || self.jobs.take_look() {
            // If this fails, it is tried again.
            self.has_looked = false;
            let left = self.store.jobs_unsettled().await?;
            self.jobs.add(left);
            self.has_looked = true;
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
            match result {
                SliceResult::Done => self.jobs.done(job, progress),
                SliceResult::More(after) => self.jobs.advance(job, progress, after),
                SliceResult::Busy => is_busy = true,
            }
        }
        let is_done = self.jobs.all().is_empty();
        let again_after = match (is_done, is_busy) {
            (true, _) => None,
            (false, true) => Some(BUSY_WAIT),
            (false, false) => Some(Duration::ZERO),
        };
        Ok(Ran { done, again_after })
    }
}
