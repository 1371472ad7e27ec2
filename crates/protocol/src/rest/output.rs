//! Output in the REST API, as lines or events.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Task;
use crate::output::Stream;

/// Part of an output: one line of `application/x-ndjson`, or the data of one server-sent event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputLine {
    /// Bytes of one stream.
    Data(OutputData),
    /// The end of a task's output, with the task as it is then.
    End(Box<Task>),
}

/// Bytes of one stream of one attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutputData {
    /// Address of the task.
    pub task: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// Offset of the first byte in the output of the attempt (both streams together), in bytes.
    pub offset: u64,
    /// When the bytes were read.
    pub at: DateTime<Utc>,
    /// Which stream the bytes were written to.
    pub stream: Stream,
    /// The bytes, if they are UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes in base64, if they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}
