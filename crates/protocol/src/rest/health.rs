//! REST bodies about health checks.

use chrono::{DateTime, Utc};
use gaffer_domain::health::{CheckKind, HealthState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a check says of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskHealth {
    /// State by the check.
    pub state: HealthState,
    /// When that state was first seen.
    pub since: DateTime<Utc>,
    /// The latest result; null before the first.
    pub last: Option<HealthResult>,
}

/// A result of a check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HealthResult {
    /// When the check was made.
    pub at: DateTime<Utc>,
    /// Whether the answer was as expected.
    pub passed: bool,
    /// How long the answer took, in seconds.
    pub seconds: f64,
    /// The answer, such as `status 500: database is locked`.
    pub detail: String,
}

/// Health of the latest attempt of a task, with the results of the last hour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskChecks {
    /// Health; null if the task has no such check, or it has no result yet.
    pub health: Option<TaskHealth>,
    /// Readiness; null if the task has no such check, or it has no result yet.
    pub readiness: Option<TaskHealth>,
    /// Whether the task counts as available while it runs; null without any check.
    pub ready: Option<bool>,
    /// Results of the last hour, oldest first.
    pub results: Vec<CheckedResult>,
}

/// A result and the check that it is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckedResult {
    /// Check that was made.
    pub check: CheckKind,
    /// The result.
    #[serde(flatten)]
    pub result: HealthResult,
}
