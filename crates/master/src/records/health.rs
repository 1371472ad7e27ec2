//! What health checks say of an attempt.

use gaffer_domain::Time;
use gaffer_domain::health::{CheckKind, HealthState};
use gaffer_protocol::health::CheckResult;

/// The health of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptHealth {
    /// None without a health check.
    pub health: Option<CheckSummary>,
    /// None without a readiness check.
    pub readiness: Option<CheckSummary>,
    /// Whether it counts as available while it runs.
    pub available: bool,
}

/// What one check says.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckSummary {
    pub state: HealthState,
    /// When the state was first seen.
    pub since: Time,
    /// None before the first result.
    pub last: Option<CheckResult>,
}

/// A result of a check.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthResult {
    pub check: CheckKind,
    pub result: CheckResult,
}
