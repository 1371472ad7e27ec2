//! What the results of health checks make of an attempt.
//!
//! | state | passes, `successes` in a row | passes, fewer | fails in the start period | fails, fewer than `failures` in a row | fails, `failures` in a row |
//! |---|---|---|---|---|---|
//! | starting | healthy | · | · (not counted) | · | unhealthy |
//! | healthy | · | · | · | · | unhealthy |
//! | unhealthy | healthy | · | · | · | · |
//!
//! `·`: the state stays. In the start period failures count as soon as the attempt was healthy once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec::HealthCheck;

/// Which check of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// `health`: a task that fails it is restarted.
    Health,
    /// `readiness`: a task that fails it is not available.
    Readiness,
}

impl CheckKind {
    /// Both.
    pub const ALL: [CheckKind; 2] = [CheckKind::Health, CheckKind::Readiness];

    /// What is said of a task that is in this state by this check.
    pub fn word(self, state: HealthState) -> &'static str {
        match (self, state) {
            (CheckKind::Health, state) => state.as_str(),
            (CheckKind::Readiness, HealthState::Starting) => "not ready yet",
            (CheckKind::Readiness, HealthState::Healthy) => "ready",
            (CheckKind::Readiness, HealthState::Unhealthy) => "not ready",
        }
    }

    /// Name in the API, the CLI and on pages.
    pub fn as_str(self) -> &'static str {
        match self {
            CheckKind::Health => "health",
            CheckKind::Readiness => "readiness",
        }
    }
}

/// What a check says of an attempt.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Nothing yet: too few results in a row.
    #[default]
    Starting,
    /// It passes.
    Healthy,
    /// It fails.
    Unhealthy,
}

impl HealthState {
    /// Name in the API, the CLI and on pages.
    pub fn as_str(self) -> &'static str {
        match self {
            HealthState::Starting => "starting",
            HealthState::Healthy => "healthy",
            HealthState::Unhealthy => "unhealthy",
        }
    }
}

/// One result of a check, as far as it decides anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the answer was as expected.
    pub passed: bool,
    /// Milliseconds from the start of the attempt.
    pub after_millis: u64,
}

/// The state of a check and its latest answer, as they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckStatus<'a> {
    /// What the check says.
    pub state: HealthState,
    /// The latest answer, and whether it passed; none before the first.
    pub last: Option<(bool, &'a str)>,
}

/// What the checks of a running task say, in the CLI and on pages: `healthy`, `not ready: status 503`. `available`: it counts
/// as available.
pub fn in_words(
    health: Option<CheckStatus<'_>>,
    readiness: Option<CheckStatus<'_>>,
    available: bool,
) -> String {
    let answer = |check: CheckStatus<'_>| check.last.map_or("", |(_, detail)| detail).to_owned();
    let failing = |kind: CheckKind, check: Option<CheckStatus<'_>>| {
        let check = check.filter(|check| check.state == HealthState::Unhealthy)?;
        Some(format!("{}: {}", kind.word(check.state), answer(check)))
    };
    let starting = || {
        let mut checks = [health, readiness].into_iter().flatten();
        let failed = checks.find(|check| check.last.is_some_and(|(passed, _)| !passed))?;
        Some(format!("starting: {}", answer(failed)))
    };
    match (available, readiness.is_some()) {
        (true, true) => CheckKind::Readiness.word(HealthState::Healthy).to_owned(),
        (true, false) => CheckKind::Health.word(HealthState::Healthy).to_owned(),
        (false, _) => {
            let words = failing(CheckKind::Health, health);
            let words = words.or_else(|| failing(CheckKind::Readiness, readiness));
            words.or_else(starting).unwrap_or_else(|| HealthState::Starting.as_str().to_owned())
        }
    }
}

/// Name of an outcome in the CLI and on pages.
pub fn outcome_word(passed: bool) -> &'static str {
    if passed { "passed" } else { "failed" }
}

/// What of a check decides between its results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Milliseconds from the start of the attempt in which failures do not count until a check passes.
    pub start_period_millis: u64,
    /// Failures in a row that make it unhealthy.
    pub failures: u32,
    /// Passes in a row that make it healthy.
    pub successes: u32,
}

impl From<&HealthCheck> for Thresholds {
    fn from(check: &HealthCheck) -> Thresholds {
        Thresholds {
            start_period_millis: check.start_period.as_millis(),
            failures: check.failures,
            successes: check.successes,
        }
    }
}

/// What the results so far have made of one check of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Health {
    /// What it says.
    pub state: HealthState,
    /// Results in a row that passed; 0 after a failure.
    pub passed: u32,
    /// Failures in a row that count; 0 after a pass.
    pub failed: u32,
}

impl Health {
    /// After one more result.
    pub fn after(self, thresholds: Thresholds, outcome: Outcome) -> Health {
        if outcome.passed {
            let passed = self.passed.saturating_add(1);
            let state = if passed >= thresholds.successes { HealthState::Healthy } else { self.state };
            return Health { state, passed, failed: 0 };
        }
        let is_grace =
            self.state == HealthState::Starting && outcome.after_millis < thresholds.start_period_millis;
        let failed = if is_grace { 0 } else { self.failed.saturating_add(1) };
        let state = if failed >= thresholds.failures { HealthState::Unhealthy } else { self.state };
        Health { state, passed: 0, failed }
    }
}

/// Whether a running attempt counts as available. None for a check that the task does not have.
pub fn is_available(health: Option<HealthState>, readiness: Option<HealthState>) -> bool {
    match readiness {
        Some(readiness) => {
            readiness == HealthState::Healthy && health.is_none_or(|health| health != HealthState::Unhealthy)
        }
        None => health.is_none_or(|health| health == HealthState::Healthy),
    }
}

#[cfg(test)]
mod tests;
