//! How many tasks go before one that waits.

use std::collections::BTreeMap;

use super::Class;

/// Where the first waiting task of a class stands among those of its project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// So many tasks go before it if each of its owner's equals takes as many turns.
    pub ahead: u64,
    /// So many wait in all, itself among them.
    pub waiting: u64,
}

/// Where a class stands in line: behind all of higher priority; behind its owner's classes that have waited longer; and
/// behind as many tasks of each other owner of that priority as its own owner has before it, as owners take turns. What
/// they have in use now can change that, and a class that fits nowhere is passed by others.
pub fn place_in_line(classes: &[Class<'_>], at: usize) -> Line {
    let class = &classes[at];
    let ours = || classes.iter().filter(|other| other.project == class.project);
    let count = |classes: &mut dyn Iterator<Item = &Class<'_>>| -> u64 {
        classes.map(|class| class.pending as u64).sum()
    };
    let higher = count(&mut ours().filter(|other| other.priority > class.priority));
    let equals = || ours().filter(|other| other.priority == class.priority);
    let own_before = count(
        &mut equals()
            .filter(|other| other.owner == class.owner && (other.since, other.id) < (class.since, class.id)),
    );
    let mut others: BTreeMap<&str, u64> = BTreeMap::new();
    for other in equals().filter(|other| other.owner != class.owner) {
        *others.entry(other.owner).or_default() += other.pending as u64;
    }
    let turns: u64 = others.values().map(|pending| (*pending).min(own_before)).sum();
    Line { ahead: higher + own_before + turns, waiting: count(&mut ours()) }
}
