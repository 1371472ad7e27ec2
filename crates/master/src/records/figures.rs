//! Figures about the whole installation, for monitoring.

use std::time::Duration;

use gaffer_domain::Time;
use gaffer_domain::job::TaskCounts;
use gaffer_domain::reason::{Reason, ReasonCode};

/// Unfinished tasks of one priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PriorityTotals {
    pub priority: i16,
    pub counts: TaskCounts,
    /// When the first of the waiting ones could have been placed.
    pub waiting_since: Option<Time>,
}

/// What a task waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DispatchStage {
    Placement,
    Start,
}

/// What a committed batch did to tasks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskChanges {
    /// How many tasks entered each state.
    pub entered: TaskCounts,
    pub waits: Vec<(DispatchStage, Duration)>,
    /// Of each attempt that ended: why; none after success.
    pub ends: Vec<Option<ReasonCode>>,
}

impl TaskChanges {
    pub fn ended(&mut self, reason: Option<&Reason>) {
        self.ends.push(reason.map(|reason| reason.code));
    }
}

/// The use of a pool of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUse {
    pub pool: &'static str,
    pub open: usize,
    pub idle: usize,
    pub most: u32,
}
