//! Jobs whose stop or dependency updates are not done yet: what is too large for one transaction, or follows from what was taken over
//! from another job.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gaffer_domain::JobId;

use crate::store::transitions::{Place, SliceResult, Unfinished};
use crate::unknown_outcome::UnknownOutcome;
use crate::wakes::Wake;

/// Unfinished updates of jobs, and their progress.
#[derive(Debug, Clone, Default)]
pub struct LargeJobs {
    jobs: Arc<Mutex<BTreeMap<JobId, Progress>>>,
    /// Set while transactions may have left updates unfinished that are not known here.
    unknown: Arc<Mutex<Option<UnknownOutcome>>>,
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

    /// There was no answer to a transaction: it may have been committed, and it may still be. Until that is certain, unfinished
    /// updates are read from the database every second.
    pub fn outcome_is_unknown(&self) {
        *self.unknown_outcome() = Some(UnknownOutcome::new(Instant::now()));
        self.wake.call();
    }

    /// Whether unfinished updates are to be read from the database now.
    pub fn is_read_due(&self, now: Instant) -> bool {
        self.unknown_outcome().is_some_and(|unknown| unknown.is_due(now))
    }

    /// How long until they are to be read again; none if that is not needed.
    pub fn reads_again_in(&self) -> Option<Duration> {
        self.unknown_outcome().map(|unknown| unknown.due_in(Instant::now()))
    }

    /// They were read, from `began` on, and added.
    pub fn were_read(&self, began: Instant) {
        let mut unknown = self.unknown_outcome();
        *unknown = unknown.and_then(|unknown| unknown.after_read(began));
    }

    /// A job is about to be submitted whose tasks may wait for what it takes over from another one.
    pub fn submission(&self) -> Submission<'_> {
        Submission { jobs: self, is_told: false }
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

    fn unknown_outcome(&self) -> MutexGuard<'_, Option<UnknownOutcome>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Progress>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A submission that may be committed at any moment, if it is not told what came of it: nobody waited for the answer, or none came.
#[derive(Debug)]
pub struct Submission<'a> {
    jobs: &'a LargeJobs,
    is_told: bool,
}

impl Submission<'_> {
    /// This job is committed; none if nothing is.
    pub fn told(mut self, job: Option<JobId>) {
        self.is_told = true;
        self.jobs.add(job.map(|job| Unfinished { job, is_stopping: false }).into_iter().collect());
    }
}

impl Drop for Submission<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            self.jobs.outcome_is_unknown();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::COMMITTED_WITHIN;
    use crate::store::transitions::Walk;
    use crate::unknown_outcome::READ_INTERVAL;

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

    /// As if so much time had passed.
    fn later(jobs: &LargeJobs, by: Duration) {
        let mut unknown = jobs.unknown_outcome();
        *unknown = Some(unknown.unwrap().earlier(by).unwrap());
    }

    #[test]
    fn after_a_submission_of_which_nobody_hears_jobs_are_read_every_second_until_it_cannot_be_committed_any_more()
     {
        let jobs = LargeJobs::default();
        jobs.submission().told(None);
        assert_eq!(jobs.reads_again_in(), None);
        drop(jobs.submission());
        for _ in 0..3 {
            assert!(jobs.is_read_due(Instant::now()));
            jobs.were_read(Instant::now());
            assert!(!jobs.is_read_due(Instant::now()) && jobs.reads_again_in().is_some());
            later(&jobs, READ_INTERVAL);
        }
        later(&jobs, COMMITTED_WITHIN);
        jobs.were_read(Instant::now());
        assert_eq!(jobs.reads_again_in(), None);
        jobs.submission().told(Some(JOB));
        assert_eq!((jobs.all().len(), jobs.reads_again_in()), (1, None));
    }

    #[test]
    fn what_becomes_unknown_while_jobs_are_read_is_read_afterwards() {
        let jobs = LargeJobs::default();
        let began = Instant::now().checked_sub(READ_INTERVAL).unwrap();
        jobs.outcome_is_unknown();
        jobs.were_read(began);
        assert!(jobs.is_read_due(Instant::now()));
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
