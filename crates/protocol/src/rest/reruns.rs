//! REST bodies about jobs that repeat a part of an earlier one.

use std::collections::BTreeMap;

use gaffer_domain::JobId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::parameters::ParameterValue;

/// Among the features of a server in [`super::Version`]: it reads [`RerunRequest`]. Earlier ones pass it over and run everything again.
pub const RERUN_IN_PART: &str = "rerun_in_part";

/// What of a job to run again.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RerunRequest {
    /// Whether to run only the tasks that failed or were cancelled, and those that depend on them. The new job takes the
    /// results of the others over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// Name of the task definition to start from: only its tasks run, and those that depend on them, directly or not. With
    /// `failed`, both run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["train"]))]
    pub from: Option<String>,
    /// Specification of the new job, instead of the one of the earlier job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub spec: Option<serde_json::Value>,
    /// Values of parameters. The others keep the values of the earlier job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, ParameterValue>>", extend("examples" = [{"lr": 0.2}]))]
    pub parameters: Option<serde_json::Value>,
}

/// The attempt whose result a task has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResultOf {
    /// Number of the job in which the task ran.
    pub job: JobId,
    /// Address of the task in that job.
    pub task: String,
    /// Number of the attempt that completed.
    pub attempt: u32,
    /// Whether that job was deleted, and the output with it.
    pub is_deleted: bool,
}

impl ResultOf {
    /// `result of train.7 in job 42`
    pub fn in_words(&self) -> String {
        let deleted = if self.is_deleted { ", which was deleted" } else { "" };
        format!("result of {} in job {}{deleted}", self.task, self.job)
    }
}
