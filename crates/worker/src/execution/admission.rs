//! Starts accepted attempts in order, as soon as their resources are free.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use gaffer_domain::AttemptRef;
use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_domain::spec::Resources;

/// The queue in front of the worker's resources.
#[derive(Debug)]
pub(super) struct Admission {
    capacity: Resources,
    reserved: Resources,
    running: usize,
    /// Attempts that reserve nothing still cost the worker something.
    max_running: usize,
    queue: VecDeque<(AttemptRef, Resources)>,
    /// Nothing starts for now.
    is_paused: bool,
}

impl Admission {
    pub fn new(capacity: Resources, max_running: usize) -> Admission {
        let none = Resources { cpu: Cpu::default(), memory: Bytes(0), disk: Bytes(0) };
        Admission {
            capacity,
            reserved: none,
            running: 0,
            max_running,
            queue: VecDeque::new(),
            is_paused: false,
        }
    }

    /// What an attempt wants that this worker does not have in all; none if it fits.
    pub fn misfit(&self, wanted: Resources) -> Option<String> {
        let Resources { cpu, memory, disk } = self.capacity;
        if wanted.cpu > cpu {
            Some(format!("it needs {} CPUs, this worker has {cpu}", wanted.cpu))
        } else if wanted.memory > memory {
            Some(format!("it needs {} memory, this worker has {memory}", wanted.memory))
        } else if wanted.disk > disk {
            Some(format!("it needs {} disk, this worker has {disk}", wanted.disk))
        } else {
            None
        }
    }

    pub fn push(&mut self, attempt: AttemptRef, wanted: Resources) {
        self.queue.push_back((attempt, wanted));
    }

    /// Takes an attempt out of the queue.
    pub fn remove(&mut self, attempt: AttemptRef) {
        self.queue.retain(|(queued, _)| *queued != attempt);
    }

    /// Empties the queue.
    pub fn remove_all(&mut self) -> Vec<AttemptRef> {
        self.queue.drain(..).map(|(attempt, _)| attempt).collect()
    }

    /// The next attempt that can start, with its resources reserved. `has_pieces`: whether its devices are free.
    pub fn next(&mut self, has_pieces: impl FnOnce(AttemptRef) -> bool) -> Option<(AttemptRef, Resources)> {
        let (attempt, wanted) = self.queue.front()?;
        let may_start = !self.is_paused && self.running < self.max_running;
        if !may_start || !self.has_room(*wanted) || !has_pieces(*attempt) {
            return None;
        }
        let (attempt, wanted) = self.queue.pop_front()?;
        Some((attempt, self.take(wanted)))
    }

    /// Reserves for an attempt that runs already, whether there is room or not.
    pub fn take(&mut self, wanted: Resources) -> Resources {
        self.running += 1;
        self.reserved = Resources {
            cpu: self.reserved.cpu.saturating_add(wanted.cpu),
            memory: self.reserved.memory.saturating_add(wanted.memory),
            disk: self.reserved.disk.saturating_add(wanted.disk),
        };
        wanted
    }

    /// What there is in all from now on.
    pub fn set_capacity(&mut self, capacity: Resources) {
        self.capacity = capacity;
    }

    /// Whether attempts may start at all. Returns whether this changed.
    pub fn pause(&mut self, is_paused: bool) -> bool {
        std::mem::replace(&mut self.is_paused, is_paused) != is_paused
    }

    /// Gives back what an attempt had reserved.
    pub fn release(&mut self, reserved: Resources) {
        self.running = self.running.saturating_sub(1);
        self.reserved = Resources {
            cpu: self.reserved.cpu.saturating_sub(reserved.cpu),
            memory: self.reserved.memory.saturating_sub(reserved.memory),
            disk: self.reserved.disk.saturating_sub(reserved.disk),
        };
    }

    fn has_room(&self, wanted: Resources) -> bool {
        let Resources { cpu, memory, disk } = self.capacity;
        self.reserved.cpu.saturating_add(wanted.cpu) <= cpu
            && self.reserved.memory.saturating_add(wanted.memory) <= memory
            && self.reserved.disk.saturating_add(wanted.disk) <= disk
    }
}

/// The latest of what was remembered, up to a number.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    limit: usize,
    order: VecDeque<K>,
    values: HashMap<K, V>,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    pub fn new(limit: usize) -> Recent<K, V> {
        Recent { limit, order: VecDeque::new(), values: HashMap::new() }
    }

    pub fn insert(&mut self, key: K, value: V) {
        if self.values.insert(key, value).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
    }

    pub fn get(&self, key: K) -> Option<&V> {
        self.values.get(&key)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use gaffer_domain::TaskId;

    use super::*;

    fn attempt(task: i64) -> AttemptRef {
        AttemptRef { task: TaskId(task), attempt: 1 }
    }

    fn needs(cpu_millis: u32, memory: u64) -> Resources {
        Resources { cpu: Cpu::from_millis(cpu_millis), memory: Bytes(memory), disk: Bytes(0) }
    }

    fn started(admission: &mut Admission) -> Vec<i64> {
        std::iter::from_fn(|| admission.next(|_| true)).map(|(attempt, _)| attempt.task.0).collect()
    }

    #[test]
    fn the_oldest_goes_first_and_holds_up_the_younger() {
        let mut admission = Admission::new(needs(2000, 100), 10);
        for (task, wanted) in [(1, needs(1500, 10)), (2, needs(1000, 10)), (3, needs(100, 10))] {
            admission.push(attempt(task), wanted);
        }
        assert_eq!(started(&mut admission), [1], "3 would fit, but 2 is older");
        admission.release(needs(1500, 10));
        assert_eq!(started(&mut admission), [2, 3]);
    }

    #[test]
    fn every_resource_counts_and_so_does_the_number() {
        let mut admission = Admission::new(needs(10_000, 100), 3);
        for task in 1..=5 {
            admission.push(attempt(task), needs(0, if task == 1 { 100 } else { 0 }));
        }
        assert_eq!(started(&mut admission), [1, 2, 3]);
        admission.release(needs(0, 100));
        assert_eq!(started(&mut admission), [4]);
    }

    #[test]
    fn nothing_of_a_resource_is_given_out_twice() {
        let amounts = |n: u32| [(n, 0, 0), (0, n, 0), (0, 0, n)];
        for (all, most) in amounts(100).into_iter().zip(amounts(60)) {
            let of = |(cpu, memory, disk): (u32, u32, u32)| Resources {
                cpu: Cpu::from_millis(cpu),
                memory: Bytes(memory.into()),
                disk: Bytes(disk.into()),
            };
            let mut admission = Admission::new(of(all), 10);
            (1..=2).for_each(|task| admission.push(attempt(task), of(most)));
            assert_eq!(started(&mut admission), [1], "of {all:?}");
            admission.release(of(most));
            assert_eq!(started(&mut admission), [2], "of {all:?}");
        }
    }

    #[test]
    fn nothing_starts_during_a_pause() {
        let mut admission = Admission::new(needs(1000, 100), 10);
        admission.push(attempt(1), needs(100, 0));
        assert!(admission.pause(true) && !admission.pause(true));
        assert_eq!(started(&mut admission), [] as [i64; 0]);
        assert!(admission.pause(false));
        assert_eq!(started(&mut admission), [1]);
    }

    #[test]
    fn what_is_taken_out_does_not_start() {
        let mut admission = Admission::new(needs(1000, 100), 10);
        (1..=3).for_each(|task| admission.push(attempt(task), needs(100, 0)));
        admission.remove(attempt(2));
        assert_eq!(started(&mut admission), [1, 3]);
        admission.push(attempt(4), needs(0, 0));
        assert_eq!(admission.remove_all(), [attempt(4)]);
        assert_eq!(started(&mut admission), [] as [i64; 0]);
    }

    #[test]
    fn what_can_never_fit_is_told_with_both_amounts() {
        let admission = Admission::new(needs(2000, 1 << 30), 10);
        assert_eq!(admission.misfit(needs(2000, 1 << 30)), None);
        let message = admission.misfit(needs(4000, 0)).unwrap();
        assert!(message.contains("4 CPUs") && message.contains("has 2"), "{message}");
        assert!(admission.misfit(needs(0, 2 << 30)).unwrap().contains("2GiB memory"));
    }

    #[test]
    fn only_the_recent_are_remembered() {
        let mut recent = Recent::new(3);
        for key in [1, 2, 2, 3, 4] {
            recent.insert(key, key * 10);
        }
        assert_eq!([1, 2, 3, 4].map(|key| recent.get(key).copied()), [None, Some(20), Some(30), Some(40)]);
    }
}
