//! The jobs that are too large to be stopped, or to have their dependencies settled, in one transaction: which, and how far each is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gaffer_domain::JobId;

use crate::store::transitions::{Place, SliceResult, Unfinished};
use crate::wakes::Wake;

/// The jobs that are to be gone on with, and where.
#[derive(Debug, Clone, Default)]
pub struct LargeJobs {
    jobs: Arc<Mutex<BTreeMap<JobId, Progress>>>,
    /// How often what is known here has come to be too little.
    unknown: Arc<AtomicU64>,
    wake: Wake,
}

/// How far a job is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    is_stopping: bool,
    /// Where the next slice begins.
    pub after: Option<Place>,
    /// More was found to do since the slices began: they may be past it, so they begin anew once they are through.
    begins_anew: bool,
}

impl LargeJobs {
    /// More is to be done for these jobs, from their beginning on.
    pub fn add(&self, jobs: Vec<Unfinished>) {
        if jobs.is_empty() {
            return;
        }
        let mut known = self.lock();
        for Unfinished { job, is_stopping } in jobs {
            match known.entry(job) {
                Entry::Vacant(entry) => {
                    entry.insert(Progress { is_stopping, after: None, begins_anew: false });
                }
                Entry::Occupied(mut entry) => {
                    let progress = entry.get_mut();
                    progress.begins_anew = true;
                    // A stop does not wait until they are through.
                    if is_stopping && !progress.is_stopping {
                        (progress.is_stopping, progress.after) = (true, None);
                    }
                }
            }
        }
        self.wake.call();
    }

    /// There may be more to do than is known here: something was committed, and nobody heard what it has left. It is to be read
    /// from the database.
    pub fn outcome_is_unknown(&self) {
        self.unknown.fetch_add(1, Ordering::AcqRel);
        self.wake.call();
    }

    /// Changes whenever what is left is to be read from the database.
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Acquire)
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

    /// What became of the next slice of a job, which was asked for with this progress. Returns whether it is to be tried again
    /// later.
    pub fn sliced(&self, job: JobId, before: Progress, result: SliceResult) -> bool {
        let mut known = self.lock();
        let Entry::Occupied(mut entry) = known.entry(job) else { return false };
        let progress = entry.get_mut();
        match result {
            SliceResult::Busy => return true,
            // Else it has begun anew meanwhile, to be stopped.
            SliceResult::More(after) if progress.is_stopping == before.is_stopping => progress.after = after,
            SliceResult::More(_) => {}
            SliceResult::Done if progress.begins_anew => {
                (progress.after, progress.begins_anew) = (None, false);
            }
            SliceResult::Done => _ = entry.remove(),
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Progress>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::transitions::Walk;

    const JOB: JobId = JobId(7);
    const FOUND: Unfinished = Unfinished { job: JOB, is_stopping: false };
    const STOPPED: Unfinished = Unfinished { job: JOB, is_stopping: true };
    const PLACE: Place = Place { walk: Walk::ByIndex, position: 1, index: 2 };

    fn found() -> LargeJobs {
        let jobs = LargeJobs::default();
        jobs.add(vec![FOUND]);
        jobs
    }

    #[test]
    fn what_is_found_while_the_last_slice_is_under_way_is_not_forgotten() {
        let jobs = found();
        let at_the_slice = jobs.all()[&JOB];
        jobs.add(vec![FOUND]);
        jobs.sliced(JOB, at_the_slice, SliceResult::Done);
        let left = jobs.all()[&JOB];
        assert!(left.after.is_none(), "{left:?}");
        jobs.sliced(JOB, left, SliceResult::Done);
        assert!(jobs.all().is_empty());
    }

    #[test]
    fn what_is_found_between_two_slices_is_gone_through_from_the_beginning() {
        let jobs = found();
        jobs.sliced(JOB, jobs.all()[&JOB], SliceResult::More(Some(PLACE)));
        jobs.add(vec![FOUND]);
        let next = jobs.all()[&JOB];
        assert_eq!(next.after, Some(PLACE), "what was begun is brought to its end");
        jobs.sliced(JOB, next, SliceResult::Done);
        assert_eq!(jobs.all()[&JOB].after, None);
        jobs.sliced(JOB, jobs.all()[&JOB], SliceResult::Done);
        assert!(jobs.all().is_empty());
    }

    #[test]
    fn a_stop_begins_at_once_whatever_slice_is_under_way() {
        let jobs = found();
        let at_the_slice = jobs.all()[&JOB];
        jobs.add(vec![STOPPED]);
        jobs.sliced(JOB, at_the_slice, SliceResult::More(Some(PLACE)));
        assert_eq!(jobs.all()[&JOB].after, None);
        assert_eq!(jobs.stopping(), [JOB]);
    }
}
