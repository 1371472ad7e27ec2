//! What the scheduler need not ask the database for: from where on tasks of each class may wait, and what is live on workers.
//!
//! Fed by what has been committed, so its price does not grow with the rows that others keep from being tidied up. Where it is
//! not known what was committed, it is counted anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use gaffer_domain::projects::Terms;
use gaffer_domain::{ProjectId, TaskId, Time, WorkerId};

use crate::records::{LiveChange, LiveOnWorker, OnWorker, PlaceInQueue};
use crate::unknown_outcome::UnknownOutcome;
use crate::wakes::Wake;

/// Stored times are coarser than those in memory.
const COARSER: TimeDelta = TimeDelta::milliseconds(1);

/// See the module.
#[derive(Debug, Clone)]
pub struct SchedulingState {
    known: Arc<Mutex<Known>>,
    wake: Wake,
}

#[derive(Debug, Default)]
struct Known {
    /// The classes of which tasks may wait.
    waiting: BTreeMap<i64, Waiting>,
    /// There are no others.
    is_waiting_whole: bool,
    /// None if it has to be counted.
    live: Option<BTreeMap<(WorkerId, i64, bool), i64>>,
    /// Something may be committed of which nobody will tell.
    unknown: Option<Unknown>,
    /// What was set for projects; none if it is to be read.
    terms: Option<Arc<BTreeMap<ProjectId, Terms>>>,
    /// Counts how often that has changed.
    terms_version: u64,
}

/// The outcome of some transactions is unknown.
#[derive(Debug, Clone, Copy)]
struct Unknown {
    outcome: UnknownOutcome,
    /// One of them may change what is live.
    is_live: bool,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    /// None of its tasks waits before that.
    from: PlaceInQueue,
    /// From where on tasks have come to wait since the pass began.
    told: Option<PlaceInQueue>,
}

/// Before all that may be placed at that time or later.
fn since_place(time: Time) -> PlaceInQueue {
    PlaceInQueue { not_before: time - COARSER, task: TaskId(0) }
}

impl SchedulingState {
    /// Nothing is known yet. What comes to wait wakes the scheduler.
    pub fn new(wake: Wake) -> SchedulingState {
        SchedulingState { known: Arc::default(), wake }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tasks of these classes wait, and may be placed at `since` or later. To be called after the commit.
    pub fn waiting(&self, classes: impl IntoIterator<Item = i64>, since: Time) {
        let told = since_place(since);
        let mut known = self.known();
        for class in classes {
            let entry = known.waiting.entry(class).or_insert(Waiting { from: told, told: None });
            entry.from = entry.from.min(told);
            entry.told = Some(entry.told.map_or(told, |earlier| earlier.min(told)));
        }
    }

    /// Everything is to be read once more.
    pub fn read_anew(&self) {
        let mut known = self.known();
        known.is_waiting_whole = false;
        known.live = None;
        known.terms = None;
    }

    /// What is set for projects is about to change: once this is dropped, it is read anew, and the scheduler looks again.
    pub fn terms_change(&self) -> TermsChange<'_> {
        TermsChange { state: self }
    }

    /// What was set for projects; if that is to be read, the number to come back with.
    pub fn terms(&self) -> Result<Arc<BTreeMap<ProjectId, Terms>>, u64> {
        let known = self.known();
        known.terms.clone().ok_or(known.terms_version)
    }

    /// This was read, unless it has changed since.
    pub fn terms_were_read(&self, version: u64, terms: &Arc<BTreeMap<ProjectId, Terms>>) {
        let mut known = self.known();
        if known.terms_version == version {
            known.terms = Some(terms.clone());
        }
    }

    /// There was no answer to a batch: it may have been committed, and it may still be. Until that is over, everything is read
    /// anew every second.
    pub fn batch_is_unknown(&self) {
        self.outcome_is_unknown(true);
    }

    /// The same for a submission, which changes nothing that is live.
    fn submission_is_unknown(&self) {
        self.outcome_is_unknown(false);
    }

    fn outcome_is_unknown(&self, is_live: bool) {
        let (mut known, outcome) = (self.known(), UnknownOutcome::new(Instant::now()));
        let is_live = is_live || known.unknown.is_some_and(|unknown| unknown.is_live);
        known.unknown = Some(Unknown { outcome, is_live });
    }

    /// How long until everything is to be read again, because something may be committed of which nobody will tell.
    pub fn reads_again_in(&self) -> Option<Duration> {
        self.known().unknown.map(|unknown| unknown.outcome.due_in(Instant::now()))
    }

    /// Something is about to be submitted.
    pub fn submission(&self) -> Submission<'_> {
        Submission { state: self, is_told: false }
    }

    /// The classes of which tasks may wait, and from where on; none if that is to be read. What is told from now on is kept
    /// beside what the pass finds.
    pub fn begin_pass(&self) -> Option<BTreeMap<i64, PlaceInQueue>> {
        let mut known = self.known();
        known.waiting.values_mut().for_each(|waiting| waiting.told = None);
        let now = Instant::now();
        if let Some(unknown) = known.unknown.filter(|unknown| unknown.outcome.is_due(now)) {
            known.is_waiting_whole = false;
            if unknown.is_live {
                known.live = None;
            }
            known.unknown = unknown.outcome.after_read(now).map(|outcome| Unknown { outcome, ..unknown });
        }
        // Until somebody says so again.
        let is_whole = std::mem::replace(&mut known.is_waiting_whole, true);
        is_whole.then(|| known.waiting.iter().map(|(class, waiting)| (*class, waiting.from)).collect())
    }

    /// These classes have waiting tasks, as was read after the pass began.
    pub fn waiting_was_read(&self, classes: impl IntoIterator<Item = i64>) {
        let mut known = self.known();
        known.waiting.retain(|_, waiting| waiting.told.is_some());
        for class in classes {
            let told = known.waiting.get(&class).and_then(|waiting| waiting.told);
            known.waiting.insert(class, Waiting { from: PlaceInQueue::START, told });
        }
    }

    /// The pass has left no task of the class waiting before `from`, or none at all; beside those that are never to be placed: of
    /// jobs that are being stopped, or that this version cannot read.
    pub fn passed(&self, class: i64, from: Option<PlaceInQueue>) {
        let mut known = self.known();
        let Some(waiting) = known.waiting.get_mut(&class) else { return };
        match from.into_iter().chain(waiting.told).min() {
            Some(from) => waiting.from = from,
            None => {
                known.waiting.remove(&class);
            }
        }
    }

    /// What is live on workers; none if it is to be counted.
    pub fn live(&self) -> Option<Vec<LiveOnWorker>> {
        let known = self.known();
        let live = known.live.as_ref()?.iter();
        Some(
            live.map(|((worker, class, waiting), count)| LiveOnWorker {
                worker: *worker,
                class: *class,
                waiting: *waiting,
                count: *count,
            })
            .collect(),
        )
    }

    /// What is live was counted between two batches.
    pub fn live_was_counted(&self, live: &[LiveOnWorker]) {
        let counted = live.iter().map(|live| ((live.worker, live.class, live.waiting), live.count));
        self.known().live = Some(counted.collect());
    }

    /// What a batch has changed, after its commit.
    pub fn live_changed(&self, changes: &[LiveChange]) {
        let mut known = self.known();
        let Some(live) = known.live.as_mut() else { return };
        let mut is_wrong = false;
        for LiveChange { class, before, after } in changes {
            for (on, by) in [(before, -1), (after, 1)] {
                let Some(OnWorker { worker, waiting }) = on else { continue };
                let key = (*worker, *class, *waiting);
                let count = live.entry(key).or_default();
                *count += by;
                is_wrong |= *count < 0;
                if *count == 0 {
                    live.remove(&key);
                }
            }
        }
        if is_wrong {
            known.live = None;
        }
    }
}

/// What is set for a project changes.
#[derive(Debug)]
pub struct TermsChange<'a> {
    state: &'a SchedulingState,
}

impl Drop for TermsChange<'_> {
    fn drop(&mut self) {
        let mut known = self.state.known();
        known.terms_version += 1;
        known.terms = None;
        drop(known);
        self.state.wake.call();
    }
}

/// A submission that may be committed at any moment, if it is not told which classes it has: nobody waited for the answer, or none
/// came.
#[derive(Debug)]
pub struct Submission<'a> {
    state: &'a SchedulingState,
    is_told: bool,
}

impl Submission<'_> {
    /// It is committed, with waiting tasks of these classes that may be placed at `since` or later.
    pub fn told(mut self, classes: &[i64], since: Time) {
        self.is_told = true;
        self.state.waiting(classes.iter().copied(), since);
    }
}

impl Drop for Submission<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            self.state.submission_is_unknown();
        }
        self.state.wake.call();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::COMMITTED_WITHIN;
    use crate::unknown_outcome::READ_INTERVAL;

    fn at(millis: i64) -> Time {
        Time::UNIX_EPOCH + TimeDelta::milliseconds(millis)
    }

    fn place(millis: i64, task: i64) -> PlaceInQueue {
        PlaceInQueue { not_before: at(millis), task: TaskId(task) }
    }

    fn whole() -> SchedulingState {
        let state = SchedulingState::new(Wake::default());
        assert_eq!(state.begin_pass(), None);
        state.waiting_was_read([]);
        state
    }

    #[test]
    fn what_has_come_to_wait_is_looked_for_from_there_on() {
        let state = whole();
        state.waiting([7], at(1_000));
        state.waiting([7], at(2_000));
        assert_eq!(state.begin_pass(), Some([(7, place(999, 0))].into()));
        state.passed(7, Some(place(1_000, 5).next()));
        assert_eq!(state.begin_pass(), Some([(7, place(1_000, 6))].into()));
        state.passed(7, None);
        assert_eq!(state.begin_pass(), Some([].into()));
    }

    #[test]
    fn what_comes_during_a_pass_is_not_passed_over() {
        let state = whole();
        state.waiting([7], at(1_000));
        state.begin_pass();
        // Submitted before those that the pass places, and committed after it looked.
        state.waiting([7], at(500));
        state.passed(7, Some(place(1_000, 5).next()));
        assert_eq!(state.begin_pass(), Some([(7, place(499, 0))].into()));
        state.waiting([7], at(3_000));
        state.passed(7, None);
        assert_eq!(state.begin_pass(), Some([(7, place(2_999, 0))].into()));
    }

    /// As if so much time had gone by.
    fn later(state: &SchedulingState, by: Duration) {
        let mut known = state.known();
        let unknown = known.unknown.as_mut().unwrap();
        unknown.outcome = unknown.outcome.earlier(by).unwrap();
    }

    #[test]
    fn after_a_submission_of_which_nobody_hears_what_waits_is_read_every_second_until_it_must_be_through() {
        let state = whole();
        state.live_was_counted(&[]);
        drop(state.submission());
        for _ in 0..3 {
            assert_eq!(state.begin_pass(), None);
            state.waiting_was_read([7]);
            assert!(state.begin_pass().is_some(), "once a second, however many passes there are");
            assert!(state.reads_again_in().is_some_and(|time| time > Duration::ZERO));
            later(&state, READ_INTERVAL);
        }
        // Another one that is told of changes nothing of that.
        state.submission().told(&[9], at(2_000));
        assert_eq!(state.begin_pass(), None);
        later(&state, COMMITTED_WITHIN);
        // Once more, then no more.
        assert_eq!((state.begin_pass(), state.reads_again_in()), (None, None));
        state.waiting_was_read([7]);
        assert_eq!(state.begin_pass(), Some([(7, PlaceInQueue::START)].into()));
        assert_eq!(state.live(), Some(vec![]), "a submission changes nothing of that");
    }

    #[test]
    fn after_a_batch_of_which_nobody_hears_what_is_live_is_counted_too() {
        let state = whole();
        state.live_was_counted(&[]);
        state.batch_is_unknown();
        drop(state.submission());
        for _ in 0..2 {
            assert_eq!((state.begin_pass(), state.live()), (None, None));
            state.waiting_was_read([7]);
            state.live_was_counted(&[]);
            later(&state, READ_INTERVAL);
        }
    }

    #[test]
    fn what_is_told_while_everything_is_read_is_kept() {
        let state = whole();
        state.read_anew();
        assert_eq!(state.begin_pass(), None);
        state.waiting([8], at(1_000));
        state.waiting_was_read([7]);
        let from_start = (7, PlaceInQueue::START);
        assert_eq!(state.begin_pass(), Some([from_start, (8, place(999, 0))].into()));
        state.submission().told(&[9], at(2_000));
        let all = [from_start, (8, place(999, 0)), (9, place(1_999, 0))];
        assert_eq!(state.begin_pass(), Some(all.into()));
    }

    #[test]
    fn what_is_live_follows_from_what_batches_change() {
        let state = whole();
        assert_eq!(state.live(), None);
        let live =
            |worker, waiting, count| LiveOnWorker { worker: WorkerId(worker), class: 7, waiting, count };
        let on = |worker, waiting| Some(OnWorker { worker: WorkerId(worker), waiting });
        let change = |before, after| LiveChange { class: 7, before, after };
        state.live_was_counted(&[live(1, false, 2)]);
        state.live_changed(&[change(None, on(1, true)), change(on(1, false), None)]);
        state.live_changed(&[change(None, on(2, true)), change(on(2, true), on(2, false))]);
        assert_eq!(state.live(), Some(vec![live(1, false, 1), live(1, true, 1), live(2, false, 1)]));
        state.live_changed(&[change(on(3, true), None)]);
        assert_eq!(state.live(), None, "that cannot be: it is counted anew");
        state.live_changed(&[change(None, on(1, true))]);
        assert_eq!(state.live(), None);
    }
}
