//! When tasks waited and ran.

use gaffer_domain::reason::ReasonCode;
use gaffer_domain::{TaskId, Time};

/// When an attempt waited and ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptTimes {
    /// Its task.
    pub task: TaskId,
    /// Its number.
    pub attempt: u32,
    /// When it was placed on a worker.
    pub scheduled_at: Time,
    pub started_at: Option<Time>,
    pub finished_at: Option<Time>,
    /// Why it ended; none for a success.
    pub reason: Option<ReasonCode>,
}

/// When the tasks of a definition ran, all together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionTimes {
    /// The place of the definition in the job.
    pub position: i16,
    /// When the first attempt was placed on a worker.
    pub scheduled_at: Option<Time>,
    /// When the first attempt started.
    pub started_at: Option<Time>,
    /// When the last task ended; none while one has not.
    pub finished_at: Option<Time>,
}
