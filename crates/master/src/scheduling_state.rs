//! What the scheduler need not ask the database for: from where on tasks of each class may wait, and what is live on workers.
//!
//! Fed by what has been committed, so its price does not grow with the rows that others keep from being tidied up. Where it is
//! not known what was committed, it is counted anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::TimeDelta;
use gaffer_domain::{TaskId, Time, WorkerId};

use crate::wakes::Wake;

/// Stored times are coarser than those in memory.
const COARSER: TimeDelta = TimeDelta::milliseconds(1);

/// A place in the queue of a class: what is to be placed first comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueuePosition {
    pub not_before: Time,
    pub task: TaskId,
}

impl QueuePosition {
    /// Before everything.
    pub const START: QueuePosition = QueuePosition { not_before: Time::UNIX_EPOCH, task: TaskId(0) };

    /// Before all that may be placed at that time or later.
    fn since(time: Time) -> QueuePosition {
        QueuePosition { not_before: time - COARSER, task: TaskId(0) }
    }

    /// The first place behind this one.
    pub fn next(self) -> QueuePosition {
        QueuePosition { task: TaskId(self.task.0 + 1), ..self }
    }
}

/// How many attempts of one class are live on a worker, either waiting there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct LiveOnWorker {
    pub worker_id: i64,
    pub class_id: i64,
    pub waiting: bool,
    pub n: i64,
}

/// Where a task is live: the worker, and whether it waits there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnWorker {
    pub worker: WorkerId,
    pub waiting: bool,
}

/// A task that is live elsewhere than before, or in another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveChange {
    pub class: i64,
    pub before: Option<OnWorker>,
    pub after: Option<OnWorker>,
}

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
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    /// None of its tasks waits before that.
    from: QueuePosition,
    /// From where on tasks have come to wait since the pass began.
    told: Option<QueuePosition>,
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
        let told = QueuePosition::since(since);
        let mut known = self.known();
        for class in classes {
            let entry = known.waiting.entry(class).or_insert(Waiting { from: told, told: None });
            entry.from = entry.from.min(told);
            entry.told = Some(entry.told.map_or(told, |earlier| earlier.min(told)));
        }
    }

    /// Anything may wait.
    pub fn waiting_is_unknown(&self) {
        self.known().is_waiting_whole = false;
    }

    /// Something is about to be submitted.
    pub fn submission(&self) -> Submission<'_> {
        Submission { state: self, is_told: false }
    }

    /// The classes of which tasks may wait, and from where on; none if that is to be read. What is told from now on is kept
    /// beside what the pass finds.
    pub fn begin_pass(&self) -> Option<BTreeMap<i64, QueuePosition>> {
        let mut known = self.known();
        known.waiting.values_mut().for_each(|waiting| waiting.told = None);
        // Until somebody says so again.
        match std::mem::replace(&mut known.is_waiting_whole, true) {
            true => Some(known.waiting.iter().map(|(class, waiting)| (*class, waiting.from)).collect()),
            false => None,
        }
    }

    /// These classes have waiting tasks, as was read after the pass began.
    pub fn waiting_was_read(&self, classes: impl IntoIterator<Item = i64>) {
        let mut known = self.known();
        known.waiting.retain(|_, waiting| waiting.told.is_some());
        for class in classes {
            let told = known.waiting.get(&class).and_then(|waiting| waiting.told);
            known.waiting.insert(class, Waiting { from: QueuePosition::START, told });
        }
    }

    /// The pass has left no task of the class waiting before `from`, or none at all.
    pub fn passed(&self, class: i64, from: Option<QueuePosition>) {
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
            live.map(|((worker, class, waiting), n)| LiveOnWorker {
                worker_id: worker.0,
                class_id: *class,
                waiting: *waiting,
                n: *n,
            })
            .collect(),
        )
    }

    /// What is live was counted between two batches.
    pub fn live_was_counted(&self, live: &[LiveOnWorker]) {
        let counted =
            live.iter().map(|live| ((WorkerId(live.worker_id), live.class_id, live.waiting), live.n));
        self.known().live = Some(counted.collect());
    }

    /// It is not known what has been committed.
    pub fn live_is_unknown(&self) {
        self.known().live = None;
    }

    /// What a batch has changed, after its commit.
    pub fn live_changed(&self, changes: &[LiveChange]) {
        let mut known = self.known();
        let Some(live) = known.live.as_mut() else { return };
        for LiveChange { class, before, after } in changes {
            for (on, by) in [(before, -1), (after, 1)] {
                let Some(OnWorker { worker, waiting }) = on else { continue };
                let key = (*worker, *class, *waiting);
                let count = live.entry(key).or_default();
                *count += by;
                if *count == 0 {
                    live.remove(&key);
                }
            }
        }
    }
}

/// A submission that may be committed at any moment: if it is not told which classes it has, because nobody waited for the
/// answer or none came, everything is read anew.
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
            self.state.waiting_is_unknown();
        }
        self.state.wake.call();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Time {
        Time::UNIX_EPOCH + TimeDelta::milliseconds(millis)
    }

    fn place(millis: i64, task: i64) -> QueuePosition {
        QueuePosition { not_before: at(millis), task: TaskId(task) }
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

    #[test]
    fn a_submission_of_which_nobody_hears_makes_everything_be_read_anew() {
        let state = whole();
        drop(state.submission());
        assert_eq!(state.begin_pass(), None);
        // Told while it was read.
        state.waiting([8], at(1_000));
        state.waiting_was_read([7]);
        let from_start = (7, QueuePosition::START);
        assert_eq!(state.begin_pass(), Some([from_start, (8, place(999, 0))].into()));
        state.submission().told(&[9], at(2_000));
        let all = [from_start, (8, place(999, 0)), (9, place(1_999, 0))];
        assert_eq!(state.begin_pass(), Some(all.into()));
    }

    #[test]
    fn what_is_live_follows_from_what_batches_change() {
        let state = whole();
        assert_eq!(state.live(), None);
        let live = |worker_id, waiting, n| LiveOnWorker { worker_id, class_id: 7, waiting, n };
        let on = |worker, waiting| Some(OnWorker { worker: WorkerId(worker), waiting });
        let change = |before, after| LiveChange { class: 7, before, after };
        state.live_was_counted(&[live(1, false, 2)]);
        state.live_changed(&[change(None, on(1, true)), change(on(1, false), None)]);
        state.live_changed(&[change(None, on(2, true)), change(on(2, true), on(2, false))]);
        assert_eq!(state.live(), Some(vec![live(1, false, 1), live(1, true, 1), live(2, false, 1)]));
        state.live_is_unknown();
        state.live_changed(&[change(None, on(1, true))]);
        assert_eq!(state.live(), None);
    }
}
