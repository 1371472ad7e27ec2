//! REST bodies about versions of services and their updates.

use chrono::{DateTime, Utc};
use gaffer_domain::JobId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A version of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobVersion {
    /// Number of the version, from 1.
    pub version: u32,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// Name of the user who wanted it.
    pub created_by: String,
    /// Why, if it takes an earlier version back; else empty.
    pub message: String,
    /// The earlier version that it goes back to; null if it does not.
    #[serde(default)]
    pub goes_back_to: Option<u32>,
    /// The specification with every default made explicit.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub spec: Value,
}

/// The versions of a service that are kept, the latest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobVersions {
    /// All that are kept.
    pub items: Vec<JobVersion>,
}

/// The update of a task definition of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceUpdate {
    /// Name of the task definition.
    pub task: String,
    /// The version whose definition its instances are to have.
    pub version: u32,
    /// Why the update has stopped; null while it continues.
    pub problem: Option<String>,
}

/// Which version to go back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Number of the version; without it, the latest one before the present that was not taken back itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [1]))]
    pub to: Option<u32>,
    /// Only if this is still the present version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [3]))]
    pub after: Option<u32>,
}

/// Which update may continue after its canaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromoteRequest {
    /// Only the update to this version; whatever there is without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [3]))]
    pub version: Option<u32>,
}

/// What a specification would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceDiff {
    /// Number of the service that it would update; null if it would be a new one.
    pub job: Option<JobId>,
    /// The present version of that service.
    pub version: Option<u32>,
    /// What would differ, with all defaults filled in.
    pub differences: Vec<FieldDifference>,
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FieldDifference {
    /// Such as `tasks.web.env.MODE`.
    pub field: String,
    /// Its value now; null if it is not there.
    pub before: Value,
    /// Its value then; null if it is not there.
    pub after: Value,
}
