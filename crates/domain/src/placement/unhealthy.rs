//! Where tasks became unhealthy lately: the next ones of their class are placed elsewhere, if there is room.

use std::collections::BTreeMap;

use chrono::TimeDelta;

use crate::{Time, WorkerId};

/// How long it counts.
const COUNTED: TimeDelta = TimeDelta::hours(1);
/// The most pairs of class and worker that are remembered.
const MAX_REMEMBERED: usize = 50_000;

/// How many attempts of which classes became unhealthy on which workers.
#[derive(Debug, Clone, Default)]
pub struct Unhealthy {
    of_worker: BTreeMap<WorkerId, BTreeMap<i64, Count>>,
    remembered: usize,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    attempts: u32,
    latest: Time,
}

impl Unhealthy {
    /// An attempt of a class became unhealthy on a worker.
    pub fn note(&mut self, class: i64, worker: WorkerId, now: Time) {
        if self.remembered >= MAX_REMEMBERED {
            self.forget(now);
        }
        let counts = self.of_worker.entry(worker).or_default();
        let known = counts.get(&class).copied();
        self.remembered += usize::from(known.is_none());
        let before = known.filter(|count| now < count.latest + COUNTED).map_or(0, |count| count.attempts);
        counts.insert(class, Count { attempts: before.saturating_add(1), latest: now });
    }

    /// The classes of which attempts became unhealthy on a worker lately, and how many.
    pub fn of(&self, worker: WorkerId, now: Time) -> BTreeMap<i64, u32> {
        let counts = self.of_worker.get(&worker).into_iter().flatten();
        let recent = counts.filter(|(_, count)| now < count.latest + COUNTED);
        recent.map(|(class, count)| (*class, count.attempts)).collect()
    }

    /// Forgets what was long ago; if that is not enough, everything: it is only a preference.
    fn forget(&mut self, now: Time) {
        for counts in self.of_worker.values_mut() {
            counts.retain(|_, count| now < count.latest + COUNTED);
        }
        self.of_worker.retain(|_, counts| !counts.is_empty());
        self.remembered = self.of_worker.values().map(BTreeMap::len).sum();
        if self.remembered >= MAX_REMEMBERED {
            *self = Unhealthy::default();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn at(secs: i64) -> Time {
        Time::from_timestamp(secs, 0).unwrap()
    }

    #[test]
    fn it_counts_for_an_hour_after_the_latest() {
        let mut unhealthy = Unhealthy::default();
        unhealthy.note(7, WorkerId(1), at(0));
        unhealthy.note(7, WorkerId(1), at(3_000));
        unhealthy.note(8, WorkerId(1), at(3_000));
        assert_eq!(unhealthy.of(WorkerId(1), at(6_599)), BTreeMap::from([(7, 2), (8, 1)]));
        assert_eq!(unhealthy.of(WorkerId(1), at(6_600)), BTreeMap::new());
        assert_eq!(unhealthy.of(WorkerId(2), at(3_000)), BTreeMap::new());
        unhealthy.note(7, WorkerId(1), at(9_000));
        assert_eq!(unhealthy.of(WorkerId(1), at(9_000)), BTreeMap::from([(7, 1)]));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut unhealthy = Unhealthy::default();
        for class in 0..(2 * MAX_REMEMBERED as i64 + 5) {
            unhealthy.note(class, WorkerId(class % 7), at(0));
            assert!(unhealthy.remembered <= MAX_REMEMBERED);
        }
        unhealthy.note(1, WorkerId(1), at(0));
        assert!(unhealthy.of(WorkerId(1), at(0)).contains_key(&1));
    }
}
