//! The jobs that are too large to be stopped, or to have their dependencies settled, in one transaction: which, and how far each is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gaffer_domain::JobId;

use crate::store::transitions::{Place, Unfinished};
use crate::wakes::Wake;

/// The jobs that are to be gone on with, and where.
#[derive(Debug, Clone, Default)]
pub struct LargeJobs {
    jobs: Arc<Mutex<BTreeMap<JobId, Progress>>>,
    /// How often the database is to be asked for jobs that nobody has named.
    looks: Arc<AtomicU32>,
    wake: Wake,
}

/// How far a job is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    is_stopping: bool,
    /// Where the next slice begins.
    pub after: Option<Place>,
    /// Counts how often more was found to do: what is found while a slice is under way is not done with it.
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

    /// A job may be there that nobody can name, because the answer to its commit was lost. It is looked for now, and once more a
    /// while later, in case the commit is still on its way.
    pub fn look_for_more(&self) {
        self.looks.store(2, Ordering::Relaxed);
        self.wake.call();
    }

    /// Whether the database is to be asked now.
    pub fn take_look(&self) -> bool {
        let less = |looks: u32| looks.checked_sub(1);
        self.looks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Called when there is more to do.
    pub fn wake(&self) -> Wake {
        self.wake.clone()
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<JobId, Progress> {
        self.lock().clone()
    }

    /// Those that are being stopped and not through with it.
    pub fn stopping(&self) -> Vec<JobId> {
        let known = self.lock();
        known.iter().filter(|(_, progress)| progress.is_stopping).map(|(job, _)| *job).collect()
    }

    /// A slice of a job is done, which goes on after that place; unless it has begun anew meanwhile, to be stopped.
    pub fn advance(&self, job: JobId, before: Progress, after: Option<Place>) {
        if let Some(progress) = self.lock().get_mut(&job)
            && progress.is_stopping == before.is_stopping
        {
            progress.after = after;
        }
    }

    /// A job is through, unless more was found since: then it begins anew.
    pub fn done(&self, job: JobId, before: Progress) {
        let mut known = self.lock();
        match known.get_mut(&job) {
            Some(progress) if progress.found != before.found => progress.after = None,
            _ => {
                known.remove(&job);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Progress>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId(7);

    #[test]
    fn what_is_found_while_the_last_slice_is_under_way_is_not_forgotten() {
        let jobs = LargeJobs::default();
        jobs.add(vec![Unfinished { job: JOB, is_stopping: false }]);
        let at_the_slice = jobs.all()[&JOB];
        jobs.add(vec![Unfinished { job: JOB, is_stopping: false }]);
        jobs.done(JOB, at_the_slice);
        let left = jobs.all()[&JOB];
        assert!(left.after.is_none(), "{left:?}");
        jobs.done(JOB, left);
        assert!(jobs.all().is_empty());
    }

    #[test]
    fn after_a_lost_answer_the_database_is_asked_twice() {
        let jobs = LargeJobs::default();
        assert!(!jobs.take_look());
        jobs.look_for_more();
        assert_eq!([(); 3].map(|()| jobs.take_look()), [true, true, false]);
    }
}
