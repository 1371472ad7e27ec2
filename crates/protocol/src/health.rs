//! Results of health checks, from the worker that makes them to the master that judges.

use chrono::{DateTime, Utc};
use gaffer_domain::AttemptRef;
use gaffer_domain::health::{CheckKind, Health};
use serde::{Deserialize, Serialize};

/// The longest detail of a result, in characters.
pub const MAX_DETAIL_CHARS: usize = 200;

/// A result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Whose.
    pub attempt: AttemptRef,
    /// Of which check.
    pub check: CheckKind,
    /// Grows with each result of the attempt's worker, also over a restart of its executor.
    pub number: u64,
    /// What the results before this one made of it.
    pub before: Health,
    /// Whether those are all since the attempt began. An executor that has adopted the attempt does not know what came before.
    pub is_whole: bool,
    /// The result.
    pub result: CheckResult,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// When it was made, by the worker's clock.
    pub at: DateTime<Utc>,
    /// Milliseconds from the start of the attempt, by a clock that only goes forward.
    pub after_millis: u64,
    /// Whether the answer was as expected.
    pub passed: bool,
    /// How long the answer took.
    pub took_micros: u64,
    /// The answer: `status 500: database is locked`.
    pub detail: String,
}
