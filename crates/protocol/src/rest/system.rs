//! REST bodies about the state of the master and dead letters.

use chrono::{DateTime, Utc};
use gaffer_domain::JobId;
use serde::{Deserialize, Serialize};

/// Something that a worker sent and the database refused: kept, and not recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its number.
    pub id: i64,
    /// When it was set aside.
    pub at: DateTime<Utc>,
    /// When it was tried last.
    pub tried_at: DateTime<Utc>,
    /// `output` or `report`.
    pub kind: String,
    /// About which job.
    pub job: Option<JobId>,
    /// About which task of it, by address.
    pub task: Option<String>,
    /// Which attempt.
    pub attempt: Option<u32>,
    /// Who sent it.
    pub worker: Option<String>,
    /// Of output: where it belongs in the attempt's output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Of output: how much it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// What the database said.
    pub reason: String,
}

/// How the master is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct System {
    /// What keeps it from recording anything, if something does.
    pub database_trouble: Option<Trouble>,
    /// What single changes wait for, if any did lately.
    pub change_trouble: Option<Trouble>,
    /// Jobs of the project that somebody else holds locked in the database; what happens to them waits.
    pub locked_jobs: Vec<LockedJob>,
    /// Whether the database refused anything of the project that is kept as a dead letter.
    pub has_dead_letters: bool,
    /// Background loops.
    pub loops: Vec<BackgroundLoop>,
}

/// Something that is wrong with the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Since when.
    pub since: DateTime<Utc>,
    /// What it says.
    pub message: String,
}

/// A job that somebody else holds locked in the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedJob {
    /// Which job.
    pub job: JobId,
    /// Since when its changes wait.
    pub since: DateTime<Utc>,
}

/// A background loop and how its last run went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackgroundLoop {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// How long it waits when there is nothing to do.
    pub period_seconds: f64,
    /// How often it ran.
    pub runs: u64,
    /// When the run that is under way began.
    #[serde(default)]
    pub running_since: Option<DateTime<Utc>>,
    /// When it began to fail, if its last run did.
    #[serde(default)]
    pub failing_since: Option<DateTime<Utc>>,
    /// When its last run began.
    pub last_run_at: Option<DateTime<Utc>>,
    /// How long that took.
    pub last_run_seconds: Option<f64>,
    /// How many things it dealt with, unless it failed.
    pub last_run_done: Option<u64>,
    /// Why it failed, if it did.
    pub last_run_error: Option<String>,
}
