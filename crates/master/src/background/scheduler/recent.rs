//! Recent placements that no measurement of the machine shows yet.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use gaffer_domain::WorkerId;
use gaffer_domain::placement::READING_GOOD_FOR;
use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_domain::spec::Resources;

/// The placements on each worker, oldest first. Forgotten with the process: the next readings show what they led to.
#[derive(Debug, Default)]
pub struct Recent(HashMap<WorkerId, VecDeque<(Instant, Resources)>>);

impl Recent {
    /// Records reservations by worker; returns the number of placements. Entries older than any relevant measurement
    /// are removed.
    pub fn add(&mut self, placed: impl Iterator<Item = (WorkerId, Resources)>, now: Instant) -> usize {
        let keep: Duration = READING_GOOD_FOR.to_std();
        self.0.retain(|_, placements| {
            while placements.front().is_some_and(|(at, _)| now.duration_since(*at) > keep) {
                placements.pop_front();
            }
            !placements.is_empty()
        });
        let note = |(worker, resources)| self.0.entry(worker).or_default().push_back((now, resources));
        placed.map(note).count()
    }

    /// What was reserved on a worker after a reading.
    pub fn since(&self, worker: WorkerId, reading: Instant) -> Resources {
        let none = Resources { cpu: Cpu::default(), memory: Bytes(0), disk: Bytes(0) };
        let placements = self.0.get(&worker).into_iter().flat_map(|placements| placements.iter().rev());
        placements.take_while(|(at, _)| *at > reading).fold(none, |sum, (_, more)| Resources {
            cpu: sum.cpu.saturating_add(more.cpu),
            memory: sum.memory.saturating_add(more.memory),
            disk: sum.disk.saturating_add(more.disk),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_placed_counts_until_a_reading_shows_it() {
        let (start, [one, two]) = (Instant::now(), [WorkerId(1), WorkerId(2)]);
        let after = |secs| start + Duration::from_secs(secs);
        let cpu = |millis| Resources { cpu: Cpu::from_millis(millis), memory: Bytes(1), disk: Bytes(0) };
        let mut recent = Recent::default();
        assert_eq!(recent.add([(one, cpu(100)), (two, cpu(7))].into_iter(), after(1)), 2);
        recent.add([(one, cpu(20))].into_iter(), after(3));
        assert_eq!(recent.since(one, start).cpu, Cpu::from_millis(120));
        assert_eq!(recent.since(one, after(2)), cpu(20));
        assert_eq!(recent.since(two, after(2)).memory, Bytes(0));
        recent.add(std::iter::empty(), after(60));
        assert!(recent.0.is_empty());
    }
}
