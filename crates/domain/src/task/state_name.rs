//! The states of a task without their data, by name.

use crate::reason::ReasonCode;

/// The states without their data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "as in TaskState")]
pub enum StateName {
    Blocked,
    Pending,
    Scheduled,
    Running,
    Stopping,
    Completed,
    Failed,
    Cancelled,
}

impl StateName {
    /// Every state, in the order of a life.
    pub const ALL: [StateName; 8] = [
        StateName::Blocked,
        StateName::Pending,
        StateName::Scheduled,
        StateName::Running,
        StateName::Stopping,
        StateName::Completed,
        StateName::Failed,
        StateName::Cancelled,
    ];

    /// Whether a task in this state, with a reason of that code, is skipped: cancelled because its condition was not met, or
    /// because its service is to have fewer instances.
    pub fn is_skipped(self, code: Option<ReasonCode>) -> bool {
        let is_no_failure = matches!(code, Some(ReasonCode::ConditionNotMet | ReasonCode::ScaledDown));
        self == StateName::Cancelled && is_no_failure
    }

    /// Name in the API, the CLI, the database and on pages.
    pub fn as_str(self) -> &'static str {
        match self {
            StateName::Blocked => "blocked",
            StateName::Pending => "pending",
            StateName::Scheduled => "scheduled",
            StateName::Running => "running",
            StateName::Stopping => "stopping",
            StateName::Completed => "completed",
            StateName::Failed => "failed",
            StateName::Cancelled => "cancelled",
        }
    }

    /// Whether nothing follows.
    pub fn is_final(self) -> bool {
        matches!(self, StateName::Completed | StateName::Failed | StateName::Cancelled)
    }
}

impl std::fmt::Display for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for StateName {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        StateName::ALL.into_iter().find(|name| name.as_str() == text).ok_or(UnknownState)
    }
}

/// The text is not the name of a task state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a task state; expected blocked, pending, scheduled, running, stopping, completed, failed or cancelled"
)]
pub struct UnknownState;
