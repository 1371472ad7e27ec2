//! REST bodies about the standard input of a task.

use serde::{Deserialize, Serialize};

/// How far the standard input of a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdinPosition {
    /// The first byte that its process has not taken.
    pub offset: u64,
    /// Whether there can be more.
    pub state: StdinState,
}

/// Whether bytes can be written to the standard input of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StdinState {
    /// Not now: its process has not started, does not read, or cannot be reached. The same request can be sent again.
    Waiting,
    /// Yes.
    Open,
    /// Not any more: the end was written, or its process reads no more.
    Closed,
}
