//! Changes deferred because their job or row cannot be written now; they keep their order and delay nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use gaffer_domain::TaskId;
use tokio::time::Instant;

use super::batch::Change;

/// The waits before what was deferred is tried again.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Deferred changes, by task.
#[derive(Debug, Default)]
pub(super) struct Deferred(BTreeMap<TaskId, Line>);

/// The changes of one task that wait, in order. Empty while they are being tried.
#[derive(Debug)]
struct Line {
    changes: VecDeque<Change>,
    tries: u32,
    due: Instant,
}

impl Deferred {
    /// Whether anything of a task waits.
    pub(super) fn holds(&self, task: TaskId) -> bool {
        self.0.get(&task).is_some_and(|line| !line.changes.is_empty())
    }

    /// Lets changes wait behind what waits of the same task already, and gives back the others.
    pub(super) fn hold_back(&mut self, changes: Vec<Change>) -> Vec<Change> {
        if self.0.is_empty() {
            return changes;
        }
        let mut free = Vec::with_capacity(changes.len());
        for change in changes {
            match change.task().filter(|task| self.holds(*task)).and_then(|task| self.0.get_mut(&task)) {
                // The master decides again; the response is dropped.
                Some(_) if matches!(change, Change::Decision { .. }) => {}
                Some(line) => line.changes.push_back(change),
                None => free.push(change),
            }
        }
        free
    }

    /// Lets a change wait for a while.
    pub(super) fn defer(&mut self, change: Change, now: Instant) {
        let Some(task) = change.task() else { return };
        let line = self.0.entry(task).or_insert(Line { changes: VecDeque::new(), tries: 0, due: now });
        if line.changes.is_empty() {
            line.due = now + FIRST_WAIT.saturating_mul(1 << line.tries.min(16)).min(LONGEST_WAIT);
            line.tries += 1;
        }
        line.changes.push_back(change);
    }

    /// How many tasks have changes that wait.
    pub(super) fn tasks(&self) -> usize {
        self.0.len()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().map(|line| line.due).min()
    }

    /// Changes to retry now, about up to a number. [`Deferred::forget_done`] follows.
    pub(super) fn take_due(&mut self, now: Instant, most: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        for line in self.0.values_mut().filter(|line| line.due <= now) {
            changes.extend(line.changes.drain(..));
            if changes.len() >= most {
                break;
            }
        }
        changes
    }

    /// Forgets the tasks of which nothing waits any more.
    pub(super) fn forget_done(&mut self) {
        self.0.retain(|_, line| !line.changes.is_empty());
    }
}

#[cfg(test)]
mod tests;
