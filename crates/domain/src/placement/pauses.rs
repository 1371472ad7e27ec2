//! Growing pauses before a worker that returned tasks unstarted is offered some again.
//!
//! A pause concerns one class on one worker: other classes continue there, and the class continues elsewhere. Tasks that
//! were placed before the pause and are returned during it do not extend it. Once the worker starts a task of the class,
//! the pause is reset.

use std::collections::BTreeMap;

use chrono::TimeDelta;

use crate::{Time, WorkerId};

/// The first pause, in milliseconds; each one after it is twice as long.
const FIRST_MILLIS: i64 = 500;
/// The longest pause, and how long after its end it is remembered.
const LONGEST_MILLIS: i64 = 300_000;
/// The most pauses that are remembered.
const MAX_PAUSES: usize = 50_000;

/// Which classes are not placed on which workers for a while.
#[derive(Debug, Clone, Default)]
pub struct Pauses {
    of_worker: BTreeMap<WorkerId, BTreeMap<i64, Pause>>,
    count: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pause {
    millis: i64,
    until: Time,
}

impl Pauses {
    /// A worker gave back a task of a class.
    pub fn gave_back(&mut self, class: i64, worker: WorkerId, now: Time) {
        if self.count >= MAX_PAUSES {
            self.forget(now);
        }
        let pauses = self.of_worker.entry(worker).or_default();
        let known = pauses.get(&class);
        if known.is_some_and(|pause| now < pause.until) {
            return;
        }
        self.count += usize::from(known.is_none());
        let forgotten = TimeDelta::milliseconds(LONGEST_MILLIS);
        let before = known.filter(|pause| now < pause.until + forgotten).map_or(0, |pause| pause.millis);
        let millis = (before * 2).clamp(FIRST_MILLIS, LONGEST_MILLIS);
        pauses.insert(class, Pause { millis, until: now + TimeDelta::milliseconds(millis) });
    }

    /// A worker started a task of a class.
    pub fn started(&mut self, class: i64, worker: WorkerId) {
        if let Some(pauses) = self.of_worker.get_mut(&worker)
            && pauses.remove(&class).is_some()
        {
            self.count -= 1;
            if pauses.is_empty() {
                self.of_worker.remove(&worker);
            }
        }
    }

    /// The classes that are not placed on a worker now, with the end of the pause.
    pub fn of(&self, worker: WorkerId, now: Time) -> BTreeMap<i64, Time> {
        let pauses = self.of_worker.get(&worker).into_iter().flatten();
        pauses.filter(|(_, pause)| now < pause.until).map(|(class, pause)| (*class, pause.until)).collect()
    }

    /// When the next pause ends.
    pub fn next_end(&self, now: Time) -> Option<Time> {
        self.of_worker
            .values()
            .flat_map(BTreeMap::values)
            .map(|pause| pause.until)
            .filter(|end| now < *end)
            .min()
    }

    /// Forgets expired pauses; if that is not enough, all of them, because they are only an optimisation.
    fn forget(&mut self, now: Time) {
        for pauses in self.of_worker.values_mut() {
            pauses.retain(|_, pause| now < pause.until);
        }
        self.of_worker.retain(|_, pauses| !pauses.is_empty());
        self.count = self.of_worker.values().map(BTreeMap::len).sum();
        if self.count >= MAX_PAUSES {
            *self = Pauses::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: WorkerId = WorkerId(1);

    fn at(millis: i64) -> Time {
        Time::UNIX_EPOCH + TimeDelta::milliseconds(millis)
    }

    fn is_paused(pauses: &Pauses, class: i64, now: Time) -> bool {
        pauses.of(WORKER, now).contains_key(&class)
    }

    #[test]
    fn a_worker_that_gives_everything_back_is_asked_ever_more_rarely() {
        let (mut pauses, mut now, mut offered) = (Pauses::default(), 0, 0);
        while now < 3_600_000 {
            if !is_paused(&pauses, 7, at(now)) {
                offered += 1;
                pauses.gave_back(7, WORKER, at(now));
            }
            now += 10;
        }
        assert!((15..=25).contains(&offered), "{offered}");
        assert_eq!(pauses.next_end(at(now)).map(|end| end <= at(now + LONGEST_MILLIS)), Some(true));
    }

    #[test]
    fn what_comes_back_together_counts_once() {
        let mut pauses = Pauses::default();
        for millis in 0..400 {
            pauses.gave_back(7, WORKER, at(millis));
        }
        assert!(is_paused(&pauses, 7, at(499)) && !is_paused(&pauses, 7, at(500)));
    }

    #[test]
    fn other_classes_and_other_workers_do_not_wait() {
        let mut pauses = Pauses::default();
        pauses.gave_back(7, WORKER, at(0));
        assert!(!is_paused(&pauses, 8, at(0)));
        assert!(pauses.of(WorkerId(2), at(0)).is_empty());
    }

    #[test]
    fn a_start_forgets_the_past_and_so_does_a_long_time() {
        let mut pauses = Pauses::default();
        for millis in [0, 1_000, 3_000] {
            pauses.gave_back(7, WORKER, at(millis));
        }
        assert_eq!(pauses.of(WORKER, at(3_000)).get(&7), Some(&at(5_000)));
        pauses.started(7, WORKER);
        pauses.gave_back(7, WORKER, at(5_000));
        assert_eq!(pauses.of(WORKER, at(5_000)).get(&7), Some(&at(5_500)));
        pauses.gave_back(7, WORKER, at(5_500 + LONGEST_MILLIS));
        assert_eq!(pauses.next_end(at(5_500 + LONGEST_MILLIS)), Some(at(6_000 + LONGEST_MILLIS)));
    }

    #[test]
    fn memory_stays_bounded() {
        let mut pauses = Pauses::default();
        for class in 0..120_000 {
            pauses.gave_back(class, WORKER, at(class / 1_000));
        }
        assert!(pauses.of_worker.values().map(BTreeMap::len).sum::<usize>() <= MAX_PAUSES);
    }
}
