//! REST bodies about the standard input of a task.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Position in the standard input of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StdinPosition {
    /// Offset of the first byte that the process has not taken.
    pub offset: u64,
    /// Whether more bytes can be written.
    pub state: StdinState,
}

/// Whether bytes can be written to the standard input of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StdinState {
    /// Not now: the process has not started, does not read, or cannot be reached. Send the same request again.
    Waiting,
    /// More bytes can be written.
    Open,
    /// The end was written, or the process reads no more.
    Closed,
}
