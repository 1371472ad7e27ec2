//! Output in the REST API, as lines or events.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Problem, Task};
use crate::output::Stream;

/// Part of an output: one line of `application/x-ndjson`, or the data of one server-sent event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputLine {
    /// Bytes of one stream.
    Data(OutputData),
    /// The end of a task's output, with the task as it is then.
    End(Box<Task>),
    /// A line that a search (`q`) found, or one near it.
    Match(OutputMatch),
    /// How far a search went.
    Searched(OutputSearched),
    /// Why the output cannot go on: the last line before it breaks off.
    Error(Box<Problem>),
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

/// A line of an attempt's output that a search found, or one near it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutputMatch {
    /// Address of the task.
    pub task: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// Number of the line, from 1, both streams together.
    pub line: u64,
    /// Offset of its first byte in the output of the attempt (both streams together), in bytes.
    pub offset: u64,
    /// Offset of the byte after its end.
    pub end: u64,
    /// When the bytes of the first match were read; without a match, those at the beginning of the line.
    pub at: DateTime<Utc>,
    /// Which stream these bytes were written to.
    pub stream: Stream,
    /// The line without its line end, if it is UTF-8; of a line of more than 64 KiB the part around the first match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The same in base64, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// Bytes of the line that were left out before this part.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped_bytes: u64,
    /// The line continues after this part.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut: bool,
    /// Start and end of each match, in bytes of this part; at most 100. Empty with `invert`.
    pub matches: Vec<[u32; 2]>,
    /// The line was not looked for, but is near one that was.
    #[serde(default, skip_serializing_if = "is_false")]
    pub context: bool,
}

/// How far a search went through the output of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutputSearched {
    /// Address of the task.
    pub task: String,
    /// Number of the attempt; 0 if there was none.
    pub attempt: u32,
    /// Lines found in this response.
    pub found: u64,
    /// Bytes searched for this response.
    pub searched_bytes: u64,
    /// The `cursor` to continue with, if not all was searched.
    pub next_cursor: Option<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !*flag
}
