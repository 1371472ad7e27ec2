//! An entry of the audit log.

use std::str::FromStr;

use gaffer_domain::Time;
use serde_json::Value;

/// How something ended that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditOutcome {
    Done,
    /// It was not allowed, invalid, or not possible in that state.
    Refused,
    /// The database did not do its part.
    Failed,
    /// Nobody noted how it ended: the master or the request ended first.
    Unknown,
}

impl AuditOutcome {
    /// All of them.
    pub const ALL: [AuditOutcome; 4] =
        [AuditOutcome::Done, AuditOutcome::Refused, AuditOutcome::Failed, AuditOutcome::Unknown];

    pub const fn as_str(self) -> &'static str {
        match self {
            AuditOutcome::Done => "done",
            AuditOutcome::Refused => "refused",
            AuditOutcome::Failed => "failed",
            AuditOutcome::Unknown => "unknown",
        }
    }
}

impl FromStr for AuditOutcome {
    type Err = ();

    fn from_str(text: &str) -> Result<AuditOutcome, ()> {
        AuditOutcome::ALL.into_iter().find(|outcome| outcome.as_str() == text).ok_or(())
    }
}

/// Who changed what, or tried to.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// Unique in the installation.
    pub id: i64,
    /// Place in the chain, and the hash of the line before it; none until it has one.
    pub link: Option<(u64, String)>,
    /// None if it concerns the installation.
    pub project: Option<String>,
    pub at: Time,
    pub user: String,
    /// What the user has shown.
    pub credential: Option<String>,
    pub address: Option<String>,
    pub action: String,
    pub target: String,
    /// None while it is under way.
    pub outcome: Option<AuditOutcome>,
    /// Why it was refused or failed.
    pub detail: Option<String>,
    pub before: Option<Value>,
    pub after: Option<Value>,
}
