//! REST bodies about the queue and the scheduler.

use chrono::{DateTime, Utc};
use gaffer_domain::JobId;
use gaffer_domain::projects::Weight;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::WaitingTasks;

/// Waiting tasks and the state of the scheduler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Queue {
    /// Placement strategy of jobs that do not name one.
    pub strategy: String,
    /// Weight of the project beside others on shared workers.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Dominant share that the project has in use of the shared workers open to it, 0 to 1; null without shared workers.
    #[serde(default)]
    pub share: Option<f64>,
    /// Number of waiting tasks.
    pub waiting: u64,
    /// Since when the first of them could have been placed.
    pub waiting_since: Option<DateTime<Utc>>,
    /// Passes of the scheduler since the master started.
    pub passes: Passes,
    /// Waiting tasks by class, in the order in which they will be placed; at most 100 classes.
    pub classes: Vec<QueueClass>,
}

pub(super) fn default_weight() -> u32 {
    Weight::DEFAULT.get()
}

/// Passes of the scheduler, for all projects; empty except for users of the first project, whose installation it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Passes {
    /// Number of passes that had something to do.
    pub count: u64,
    /// The latest passes, oldest first; at most 300.
    pub recent: Vec<Pass>,
}

/// One pass of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pass {
    /// When the pass began.
    pub at: DateTime<Utc>,
    /// Duration of the whole pass, including the database, in microseconds.
    pub micros: u64,
    /// Duration of the decision alone, in microseconds.
    pub decision_micros: u64,
}

/// Waiting tasks with equal requirements, priority and owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QueueClass {
    /// Class number.
    pub class: i64,
    /// Priority; higher goes first.
    pub priority: i16,
    /// Name of the user who submitted the tasks.
    pub owner: String,
    /// Requirements of the tasks, in a few words.
    pub needs: String,
    /// Number of the first job with waiting tasks of this class.
    pub job: JobId,
    /// Name of that job.
    pub job_name: String,
    /// Since when the first of the tasks could have been placed, or when it can be.
    pub since: DateTime<Utc>,
    /// Why the tasks wait, and what would help.
    #[serde(flatten)]
    pub why: WaitingTasks,
}
