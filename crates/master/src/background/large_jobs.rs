//! Continues stops and dependency updates of jobs that are too large for one transaction.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::driver::{Background, Ran};
use super::wakes::Wake;
use crate::store::transitions::{JobSlice, Place, SliceResult, Unfinished};
use crate::store::{Store, StoreError};
use crate::write_batcher::WriteBatcherHandle;
use gaffer_domain::JobId;

/// A locked job is retried after this time.
const BUSY_WAIT: Duration = Duration::from_millis(200);

/// The jobs that are to be gone on with, and where.
#[derive(Debug, Clone, Default)]
pub struct LargeJobs {
    jobs: Arc<Mutex<BTreeMap<JobId, Progress>>>,
    wake: Wake,
}

/// How far a job is.
#[derive(Debug, Clone, Copy)]
struct Progress {
    is_stopping: bool,
    after: Option<Place>,
    /// Counts how often work was added: work added during a slice is not finished by it.
    found: u64,
}

impl LargeJobs {
    /// More is to be done for these jobs, from their beginning on.
    pub fn add(&self, jobs: Vec<Unfinished>) {
        if jobs.is_empty() {
            return;
        }
        let mut known = self.lock();
        for Unfinished { job, is_stopping } in jobs {
            let progress = known.entry(job).or_insert(Progress { is_stopping, after: None, found: 0 });
            progress.found += 1;
            if is_stopping && !progress.is_stopping {
                (progress.is_stopping, progress.after) = (true, None);
            }
        }
        self.wake.call();
    }

    /// Those that are being stopped and not through with it.
    pub fn stopping(&self) -> Vec<JobId> {
        let known = self.lock();
        known.iter().filter(|(_, progress)| progress.is_stopping).map(|(job, _)| *job).collect()
    }

    /// Removes a finished job, unless work was added since `found`; then it starts again.
    fn done(&self, job: JobId, found: u64) {
        let mut known = self.lock();
        match known.get_mut(&job) {
            Some(progress) if progress.found != found => progress.after = None,
            _ => {
                known.remove(&job);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Progress>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub struct LargeJobsLoop {
    store: Store,
    write_batcher: WriteBatcherHandle,
    jobs: LargeJobs,
    /// What an earlier master left was looked for.
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
        Some(self.jobs.wake.clone())
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        if !self.has_looked {
            let left = self.store.jobs_unsettled().await?;
            self.jobs.add(left);
            self.has_looked = true;
        }
        // One slice of each in turn: a very large one does not hold up the others.
        let (mut done, mut is_busy) = (0, false);
        let jobs = self.jobs.lock().clone();
        for (job, Progress { is_stopping, after, found }) in jobs {
            let Ok(result) = self.write_batcher.slice(JobSlice { job, after }).await else {
                is_busy = true;
                continue;
            };
            done += 1;
            match result {
                SliceResult::Done => self.jobs.done(job, found),
                SliceResult::More(after) => {
                    if let Some(progress) = self.jobs.lock().get_mut(&job)
                        && progress.is_stopping == is_stopping
                    {
                        progress.after = after;
                    }
                }
                SliceResult::Busy => is_busy = true,
            }
        }
        let is_done = self.jobs.lock().is_empty();
        let again_after = match (is_done, is_busy) {
            (true, _) => None,
            (false, true) => Some(BUSY_WAIT),
            (false, false) => Some(Duration::ZERO),
        };
        Ok(Ran { done, again_after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId(7);

    fn progress(jobs: &LargeJobs) -> Option<Progress> {
        jobs.lock().get(&JOB).copied()
    }

    #[test]
    fn what_is_found_while_the_last_slice_is_under_way_is_not_forgotten() {
        let jobs = LargeJobs::default();
        jobs.add(vec![Unfinished { job: JOB, is_stopping: false }]);
        let at_the_slice = progress(&jobs).map_or(0, |progress| progress.found);
        jobs.add(vec![Unfinished { job: JOB, is_stopping: false }]);
        jobs.done(JOB, at_the_slice);
        let left = progress(&jobs);
        assert!(left.is_some_and(|progress| progress.after.is_none()), "{left:?}");
        jobs.done(JOB, left.map_or(0, |progress| progress.found));
        assert!(progress(&jobs).is_none());
    }
}
