//! Workers, and [`reconcile`]: the one mechanism that repairs differences between master and worker.
//!
//! The times that both go by, and why no two attempts of a task ever execute at once, are in [`crate::lease`].

pub mod limits;
pub mod place;
mod sharing;

use std::collections::HashMap;
use std::fmt;

use chrono::TimeDelta;

pub use crate::lease::{CLOCK_DRIFT, HEARTBEAT_INTERVAL, LOST_MARGIN, SILENCE_LIMIT};
use crate::quantity::Span;
use crate::reason::LostCause;
use crate::{AttemptRef, Time};
pub use sharing::Sharing;

/// A worker that was away for so long is called lost (what becomes of its attempts is each job's `lost_after`).
pub const WORKER_LOST_AFTER: Span = Span::from_millis(120_000);
/// The longest time that a worker may be given to drain: a week.
pub const LONGEST_DRAIN: Span = Span::from_millis(7 * 24 * 3_600_000);
/// A placement that the worker does not hold is sent again once it is this old; younger ones may still be on their way.
pub const RESEND_AFTER: Span = Span::from_millis(10_000);

/// What a worker looks like from outside.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Connected and taking work.
    Online,
    /// Connected, takes nothing new; what it has stays.
    Cordoned,
    /// Connected, takes nothing new; what it has ends or leaves.
    Draining,
    /// Not connected, for a short time.
    Offline,
    /// Not connected for longer than [`WORKER_LOST_AFTER`].
    Lost,
}

/// What a worker's operator wants it to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Intake {
    /// Anything.
    #[default]
    Open,
    /// Nothing new; what it has stays.
    Cordoned,
    /// Nothing new; services move, and batch tasks end or move as their jobs say.
    Draining,
}

impl Intake {
    /// Every one.
    pub const ALL: [Intake; 3] = [Intake::Open, Intake::Cordoned, Intake::Draining];

    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Intake::Open => "open",
            Intake::Cordoned => "cordoned",
            Intake::Draining => "draining",
        }
    }
}

impl WorkerState {
    /// Every state.
    pub const ALL: [WorkerState; 5] = [
        WorkerState::Online,
        WorkerState::Cordoned,
        WorkerState::Draining,
        WorkerState::Offline,
        WorkerState::Lost,
    ];

    /// Follows from the connection and from what its operator wants. `offline_since`: none while connected.
    pub fn of(offline_since: Option<Time>, intake: Intake, now: Time) -> WorkerState {
        match (offline_since, intake) {
            (None, Intake::Open) => WorkerState::Online,
            (None, Intake::Cordoned) => WorkerState::Cordoned,
            (None, Intake::Draining) => WorkerState::Draining,
            (Some(since), _) if now - since >= millis(WORKER_LOST_AFTER) => WorkerState::Lost,
            (Some(_), _) => WorkerState::Offline,
        }
    }

    /// Whether it is here, whatever it takes.
    pub fn is_connected(self) -> bool {
        matches!(self, WorkerState::Online | WorkerState::Cordoned | WorkerState::Draining)
    }

    /// Name in the API, the CLI and on pages.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkerState::Online => "online",
            WorkerState::Cordoned => "cordoned",
            WorkerState::Draining => "draining",
            WorkerState::Offline => "offline",
            WorkerState::Lost => "lost",
        }
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A live attempt as the database has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Which.
    pub attempt: AttemptRef,
    /// What the database says of it.
    pub state: ExpectedState,
    /// When the database recorded that state, by its own clock: what the worker's clock says proves nothing here.
    pub since: Time,
    /// It was placed before the installation was restored from a backup. Its worker may have done anything with it after the
    /// backup: finished it, and forgotten output that is stored nowhere now.
    pub is_of_backup: bool,
}

/// The live states, as far as reconciling is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedState {
    /// Placed, not known to have started.
    Scheduled,
    /// Known to have started.
    Running,
    /// To be stopped.
    Stopping,
}

/// What a worker says it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportedAttempt {
    /// Which.
    pub attempt: AttemptRef,
    /// How far it is there.
    pub phase: HeldPhase,
}

/// How far an attempt is on its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldPhase {
    /// Accepted, not started.
    Queued,
    /// Started, not over.
    Running,
    /// Over; the master has not acknowledged the report yet.
    Finished,
}

/// When the worker said what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// At the start of a session. Nothing can be on its way: what the master sent before is known to have arrived, or not.
    Hello {
        /// The worker's machine was started anew since the last session.
        rebooted: bool,
    },
    /// In a heartbeat. What was sent lately may still be on its way.
    Heartbeat,
}

/// What repairs a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Send the placement again.
    SendStart(AttemptRef),
    /// It runs, and the report of its start got lost: record it as started now.
    Started(AttemptRef),
    /// Tell the worker (again) to stop an attempt that the database knows as its own.
    SendStop(AttemptRef),
    /// Tell the worker to kill and forget an attempt that is none of its business any more.
    SendKill(AttemptRef),
    /// The attempt is over without anybody having seen its end.
    Lost(AttemptRef, LostCause),
}

impl Repair {
    /// The attempt that it is about.
    pub fn attempt(&self) -> AttemptRef {
        match self {
            Repair::SendStart(attempt)
            | Repair::Started(attempt)
            | Repair::SendStop(attempt)
            | Repair::SendKill(attempt)
            | Repair::Lost(attempt, _) => *attempt,
        }
    }
}

/// Compares what the database expects of a worker with what the worker says it holds. Nothing to repair gives nothing.
///
/// Sound under three conditions:
/// - `expected` is read after everything is committed that the worker reported before `held`, and before anything is
///   committed that it reported after. Else what it has just started or finished would look lost.
/// - The repairs are on their way to the worker before any later acknowledgement is. Else a start could arrive after
///   the worker has forgotten the attempt, and would start it a second time.
/// - A new boot id is stored only together with the repairs that it led to, or after them.
pub fn reconcile(
    expected: &[Expected],
    held: &[ReportedAttempt],
    occasion: Occasion,
    now: Time,
) -> Vec<Repair> {
    let mut unexpected: HashMap<AttemptRef, HeldPhase> =
        held.iter().map(|held| (held.attempt, held.phase)).collect();
    let mut repairs = Vec::new();
    for expected in expected {
        let settled = match occasion {
            Occasion::Hello { .. } => true,
            Occasion::Heartbeat => now - expected.since >= millis(RESEND_AFTER),
        };
        let attempt = expected.attempt;
        let held = unexpected.remove(&attempt);
        if expected.is_of_backup {
            repairs.extend(match held {
                // There is no place for its end, so it is forgotten there soon.
                Some(HeldPhase::Finished) => None,
                Some(_) => Some(Repair::SendKill(attempt)),
                // Only now: nothing of it executes any more.
                None => Some(Repair::Lost(attempt, LostCause::Restored)),
            });
            continue;
        }
        match (held, expected.state) {
            // Its report comes again by itself.
            (Some(HeldPhase::Finished), _) => {}
            (Some(_), ExpectedState::Stopping) if settled => repairs.push(Repair::SendStop(attempt)),
            (Some(HeldPhase::Running), ExpectedState::Scheduled) if settled => {
                repairs.push(Repair::Started(attempt));
            }
            (Some(_), _) => {}
            (None, _) if !settled => {}
            (None, state) => repairs.push(match (occasion, state) {
                (Occasion::Hello { rebooted: true }, _) => Repair::Lost(attempt, LostCause::Rebooted),
                (_, ExpectedState::Scheduled) => Repair::SendStart(attempt),
                // A worker answers a stop for what it does not hold, too: it never started, or says that it is lost.
                (_, ExpectedState::Stopping) => Repair::SendStop(attempt),
                (_, ExpectedState::Running) => Repair::Lost(attempt, LostCause::NotHeld),
            }),
        }
    }
    let mut unexpected: Vec<AttemptRef> = unexpected
        .into_iter()
        .filter(|(_, phase)| *phase != HeldPhase::Finished)
        .map(|(attempt, _)| attempt)
        .collect();
    unexpected.sort_unstable();
    repairs.extend(unexpected.into_iter().map(Repair::SendKill));
    repairs
}

fn millis(span: Span) -> TimeDelta {
    TimeDelta::milliseconds(i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 2))
}

#[cfg(test)]
mod tests;
