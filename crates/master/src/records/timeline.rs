//! When tasks waited and ran.

use gaffer_domain::{TaskId, Time};

/// When an attempt waited and ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptTimes {
    /// Its task.
    pub task: TaskId,
    /// When it was placed on a worker.
    pub scheduled_at: Time,
    pub started_at: Option<Time>,
    pub finished_at: Option<Time>,
    /// Whether there is a reason for its end: a failure, or somebody ended it.
    pub has_reason: bool,
}

/// When the tasks of a definition ran, all together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionTimes {
    /// The place of the definition in the job.
    pub position: i16,
    /// When the first of the latest attempts was placed on a worker.
    pub scheduled_at: Option<Time>,
    /// When the first of them started.
    pub started_at: Option<Time>,
    /// When the last task ended; none while one has not.
    pub finished_at: Option<Time>,
}
