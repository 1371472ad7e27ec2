//! Output in the REST API, as lines or events.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Task;
use crate::output::Stream;

/// Part of an output, one line of `application/x-ndjson` or the data of one server-sent event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputLine {
    /// Bytes of one stream.
    Data(OutputData),
    /// The end of a task's output: what became of the task.
    End(Box<Task>),
}

/// Bytes of one stream of one attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputData {
    /// The task's address.
    pub task: String,
    /// The attempt's number.
    pub attempt: u32,
    /// Offset of the first byte in the attempt's output (both streams together).
    pub offset: u64,
    /// When the bytes were read.
    pub at: DateTime<Utc>,
    /// From where.
    pub stream: Stream,
    /// The bytes, if they are UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes in base64, if they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}
