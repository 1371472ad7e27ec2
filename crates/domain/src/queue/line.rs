//! Counts the tasks ahead of a waiting task.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Class;
use crate::ProjectId;

/// Position of a class's first waiting task in its project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Line {
    /// Number of tasks ahead, if owners take equal turns.
    pub ahead: u64,
    /// Number of waiting tasks in total, including this one.
    pub waiting: u64,
}

/// The position of each class: after all of higher priority; after its owner's classes that have waited longer; and
/// after as many tasks of each other owner of that priority as its own owner has before it, because owners take
/// turns. Present usage can change that, and classes that fit nowhere are passed by others.
pub fn lines(classes: &[Class<'_>]) -> Vec<Line> {
    let mut lines = vec![Line::default(); classes.len()];
    let mut levels: BTreeMap<(ProjectId, Reverse<i16>), Vec<usize>> = BTreeMap::new();
    let mut waiting: BTreeMap<ProjectId, u64> = BTreeMap::new();
    for (at, class) in classes.iter().enumerate() {
        levels.entry((class.project, Reverse(class.priority))).or_default().push(at);
        *waiting.entry(class.project).or_default() += class.pending as u64;
    }
    let mut higher: BTreeMap<ProjectId, u64> = BTreeMap::new();
    for ((project, _), mut level) in levels {
        level.sort_unstable_by_key(|at| (classes[*at].since, classes[*at].id));
        let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
        for at in &level {
            *totals.entry(classes[*at].owner).or_default() += classes[*at].pending as u64;
        }
        let totals_in_order = Totals::new(totals.values().copied().collect());
        let mut before: BTreeMap<&str, u64> = BTreeMap::new();
        let higher = higher.entry(project).or_default();
        for at in &level {
            let class = &classes[*at];
            let own = before.entry(class.owner).or_default();
            // Its own owner has at least as many in all as before it.
            let turns = totals_in_order.capped_sum(*own) - *own;
            lines[*at] = Line { ahead: *higher + *own + turns, waiting: waiting[&project] };
            *own += class.pending as u64;
        }
        *higher += totals.values().sum::<u64>();
    }
    lines
}

/// Totals in order, with their running sums.
struct Totals {
    totals: Vec<u64>,
    sums: Vec<u64>,
}

impl Totals {
    fn new(mut totals: Vec<u64>) -> Totals {
        totals.sort_unstable();
        let sums = totals.iter().scan(0, |sum, total| {
            *sum += total;
            Some(*sum)
        });
        Totals { sums: sums.collect(), totals }
    }

    /// The sum of all, each counted as no more than `most`.
    fn capped_sum(&self, most: u64) -> u64 {
        let smaller = self.totals.partition_point(|total| *total <= most);
        let sum = smaller.checked_sub(1).map_or(0, |last| self.sums[last]);
        sum + (self.totals.len() - smaller) as u64 * most
    }
}
