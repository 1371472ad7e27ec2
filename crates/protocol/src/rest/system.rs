//! REST bodies about the state of the master and dead letters.

use chrono::{DateTime, Utc};
use gaffer_domain::JobId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something that a worker sent and the database refused: kept, and not recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    /// Number of the dead letter.
    pub id: i64,
    /// When it was set aside.
    pub at: DateTime<Utc>,
    /// When storing it was last tried.
    pub tried_at: DateTime<Utc>,
    /// What was refused.
    #[schemars(extend("enum" = ["output", "report"]))]
    pub kind: String,
    /// Job number.
    pub job: Option<JobId>,
    /// Address of the task.
    pub task: Option<String>,
    /// Number of the attempt.
    pub attempt: Option<u32>,
    /// Name of the worker that sent it.
    pub worker: Option<String>,
    /// For output: its offset in the output of the attempt, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// For output: its size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Error message of the database.
    pub reason: String,
}

/// Whether the object storage with output works.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutputStoreCheck {
    /// Address of the object storage; null if the master has none.
    pub address: Option<String>,
    /// Objects with output there.
    pub objects: i64,
    /// Their size there, in bytes.
    pub object_bytes: u64,
    /// Why it does not work; null if it does.
    pub problem: Option<String>,
}

/// What retention removes, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RetentionPreview {
    /// How long finished jobs are kept unless they say otherwise, as in the setting `GAFFER_RETENTION`.
    pub retention: String,
    /// The eras of history, oldest first.
    pub eras: Vec<RetentionEra>,
}

/// An era of history: jobs that were submitted one after the other, whose tasks, output and events are stored together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RetentionEra {
    /// Number of the era; null for what is kept of eras that were dropped.
    pub era: Option<i64>,
    /// When its first job could be submitted.
    pub opened_at: Option<DateTime<Utc>>,
    /// Since when no job is submitted to it; null for the present era.
    pub closed_at: Option<DateTime<Utc>>,
    /// Size of its tasks, output and events on disk, of all projects.
    pub bytes: u64,
    /// Objects with its output in object storage.
    #[serde(default)]
    pub objects: i64,
    /// Their size in object storage, in bytes.
    #[serde(default)]
    pub object_bytes: u64,
    /// Expired jobs that are deleted already, and whose tasks, output and events wait for the era to be dropped.
    pub waiting_jobs: i64,
    /// Tasks of these.
    pub waiting_tasks: i64,
    /// Finished jobs that have expired or will.
    pub expiring_jobs: i64,
    /// Tasks of these.
    pub expiring_tasks: i64,
    /// When the first of them expires.
    pub expires_from: Option<DateTime<Utc>>,
    /// When the last of them expires.
    pub expires_until: Option<DateTime<Utc>>,
    /// Jobs that have not finished.
    pub unfinished_jobs: i64,
    /// Jobs that are pinned.
    pub pinned_jobs: i64,
    /// Finished jobs that are kept for ever because no period applies to them.
    pub unlimited_jobs: i64,
    /// Tasks of unfinished, pinned and unlimited jobs.
    pub kept_tasks: i64,
    /// Whether the era is dropped as a whole at `expires_until`; otherwise too much of it is kept, and its expired jobs are
    /// deleted in batches.
    pub is_dropped: bool,
}

/// State of the master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct System {
    /// Why the database records nothing at present; null if it does.
    pub database_trouble: Option<Trouble>,
    /// Why single changes wait, if any did lately.
    pub change_trouble: Option<Trouble>,
    /// Jobs of the project that another transaction holds locked in the database; their changes wait.
    pub locked_jobs: Vec<LockedJob>,
    /// Whether the project has dead letters.
    pub has_dead_letters: bool,
    /// Whether secrets can be used.
    #[serde(default)]
    pub secrets: SecretsState,
    /// The certificate with which the ports speak TLS; null if they speak plain HTTP.
    #[serde(default)]
    pub tls: Option<TlsState>,
    /// Background loops.
    pub loops: Vec<BackgroundLoop>,
}

/// Whether secrets can be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretsState {
    /// What keeps secrets from being used, and what to do; null if nothing does.
    pub problem: Option<String>,
    /// Name of the master key that encrypts new values, a part of its hash; null if there is none.
    pub key: Option<String>,
    /// Number of secrets of all projects that are still encrypted with an old master key of the list.
    pub on_old_keys: u64,
}

/// The certificate with which the ports speak TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TlsState {
    /// When it expires, or the first certificate of its chain.
    pub expires_at: Option<DateTime<Utc>>,
    /// What is wrong with it, and what to do; null if nothing is. It is a problem 14 days before it expires.
    pub problem: Option<String>,
}

/// A problem with the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Trouble {
    /// When it began.
    pub since: DateTime<Utc>,
    /// Error message.
    pub message: String,
}

/// A job that another transaction holds locked in the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LockedJob {
    /// Job number.
    pub job: JobId,
    /// Since when its changes have waited.
    pub since: DateTime<Utc>,
}

/// A background loop and the result of its last run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackgroundLoop {
    /// Name of the loop.
    pub name: String,
    /// Purpose of the loop.
    pub description: String,
    /// Pause between runs when there is nothing to do, in seconds.
    pub period_seconds: f64,
    /// Number of runs since the master started.
    pub runs: u64,
    /// When the present run began; null between runs.
    #[serde(default)]
    pub running_since: Option<DateTime<Utc>>,
    /// When it began to fail; null if its last run succeeded.
    #[serde(default)]
    pub failing_since: Option<DateTime<Utc>>,
    /// When its last run began.
    pub last_run_at: Option<DateTime<Utc>>,
    /// Duration of its last run in seconds.
    pub last_run_seconds: Option<f64>,
    /// Number of items that its last run dealt with; null if the run failed.
    pub last_run_done: Option<u64>,
    /// Why its last run failed; null if it did not.
    pub last_run_error: Option<String>,
}
