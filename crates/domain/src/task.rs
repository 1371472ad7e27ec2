//! The states of a task, its events, and [`apply`], the only place where a task's state is decided.
//!
//! | state | dependencies met | cannot run | worker removed | placed | started | returned | ended | stop requested | move requested | scaled up | replaced |
//! |---|---|---|---|---|---|---|---|---|---|---|---|
//! | blocked | pending | cancelled | · | · | stale | stale | stale | cancelled | stale | · | blocked |
//! | pending | · | · | failed | scheduled | stale | stale | stale | cancelled | stale | · | pending |
//! | scheduled | · | · | · | · | running | pending | *policy* | stopping | moving | · | moving |
//! | running | · | · | · | · | · | · | *policy* | stopping | moving | · | moving |
//! | moving, not started | · | · | · | · | moving | pending | *moved* | stopping | · | · | moving |
//! | moving, started | · | · | · | · | · | · | *moved* | stopping | · | · | moving |
//! | scaling down, not started | · | · | · | · | scaling down | scaled down | scaled down | stopping | · | moving | · |
//! | scaling down, started | · | · | · | · | · | · | scaled down | stopping | · | moving | · |
//! | stopping, not started | · | · | · | · | stopping | cancelled | *stopped* | · | · | · | · |
//! | stopping, started | · | · | · | · | · | · | *stopped* | · | · | · | · |
//! | completed | · | · | · | · | stale | stale | stale | · | stale | pending | · |
//! | failed | · | · | · | · | stale | stale | stale | · | stale | pending | · |
//! | cancelled | · | · | · | · | stale | stale | stale | · | stale | · | · |
//! | scaled down | · | · | · | · | stale | stale | stale | · | stale | pending | · |
//!
//! `·` is refused and changes nothing. Reports (started, returned, ended) must name the present attempt and come from
//! its worker, and so must wishes to move it away from there; any other is *stale* in every state. *policy*: completed, failed, or pending again, as
//! [`crate::policy::after_end`] says. *stopped*: completed if it exited successfully by itself before the stop reached
//! it, failed if it had failed before that, cancelled if it was stopped or lost; never pending again. *moving* is
//! stopping for the sake of another attempt elsewhere; *moved*: pending again if it was stopped or its worker shut down,
//! which does not count as a repeat, else as the policy says. *scaling down* is stopping because its service is to have fewer
//! instances, and *scaled down* is cancelled for that reason: a final state that is left again, when the service is
//! scaled up. So are those of an instance that ended by itself, once it was scaled away. A task that waits for others is blocked then, instead of pending.
//! A *replaced* task is to have its next attempt with another version of its definition: it waits from then on, and no repeat
//! counts that was made with the version before.
//!
//! After a restore from a backup, a task may have been placed since the backup without a trace here: see [`Unseen`].

mod state_name;

use crate::policy::{self, Next, Repeats};
use crate::reason::{AttemptEnd, LostCause, Reason, ReasonCode};
use crate::spec::Restart;
use crate::{Time, WorkerId};
pub use state_name::{StateName, UnknownState};

/// A task, as far as its life is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Number of the latest attempt; 0 before the first placement.
    pub attempt: u32,
    /// Repeats so far.
    pub repeats: Repeats,
    /// What may have happened to it that no record tells.
    pub unseen: Unseen,
    /// Its state.
    pub state: TaskState,
}

/// What may have happened to a task after the backup from which the installation was restored. Nothing, in an installation
/// that was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unseen {
    /// Workers may know attempts up to this number. None of them is given out again, so no report is taken for another's.
    pub attempts: u32,
    /// Until then one of them may execute: leases that were granted before the restore are over after that.
    pub until: Option<Time>,
}

/// The state of a task, with exactly the data of that state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskState {
    /// Waits for other tasks.
    Blocked,
    /// Waits for a worker.
    Pending {
        /// Not to be placed earlier: the end of a back-off, or when it became pending.
        not_before: Time,
        /// Why the last attempt ended, if this is a repeat.
        after: Option<Reason>,
    },
    /// Placed, not known to have started.
    Scheduled {
        /// Where.
        worker: WorkerId,
        /// When it was placed.
        since: Time,
    },
    /// Executes.
    Running {
        /// Where.
        worker: WorkerId,
        /// When the attempt started.
        since: Time,
    },
    /// A stop was requested; the worker has not confirmed it yet.
    Stopping {
        /// Where.
        worker: WorkerId,
        /// When the attempt started, if it did.
        started: Option<Time>,
        /// Who asked, and why.
        cause: StopCause,
    },
    /// Ended well.
    Completed {
        /// When.
        at: Time,
    },
    /// Ended badly and is not tried again.
    Failed {
        /// When.
        at: Time,
        /// Why.
        reason: Reason,
    },
    /// Was not wanted any more.
    Cancelled {
        /// When.
        at: Time,
        /// Why.
        reason: Reason,
    },
}

/// Who wanted a stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopCause {
    /// Becomes the message of the reason: "stopped by ana".
    pub message: String,
    /// What the stop is for.
    pub then: AfterStop,
}

/// What becomes of a task once its attempt is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterStop {
    /// It ends: the task is not wanted any more.
    Cancel,
    /// It waits for another worker: it is to leave the present one.
    Move,
    /// It ends until its service is scaled up to it again.
    ScaleDown,
}

/// What can happen to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEvent {
    /// All that it waited for has come.
    DependenciesMet,
    /// What it waits for cannot come any more, for this reason.
    CannotRun(Reason),
    /// The only worker that may run it was removed, as the message says.
    WorkerRemoved(String),
    /// The scheduler chose a worker.
    Placed {
        /// The chosen one.
        worker: WorkerId,
    },
    /// The worker started the attempt.
    Started(Report, Time),
    /// The worker gave the attempt back; it never started and never will.
    Returned(Report),
    /// The attempt has ended, as its worker reported, or was declared lost.
    Ended(Report, AttemptEnd),
    /// A stop was requested.
    StopRequested(StopCause),
    /// The attempt is to leave its worker, for a reason such as "moved away from pi4, which drains".
    MoveRequested(Report, String),
    /// Its service was scaled up to it again.
    ScaledUp {
        /// Who asked for that: "scaled up to 5 by ana".
        message: String,
        /// Whether it waits for other tasks first.
        waits_for_others: bool,
    },
    /// Its next attempt is to be of another version of its definition.
    Replaced {
        /// Which: "replaced by version 2".
        message: String,
    },
}

/// The reported attempt, and the worker that reports (or on whose behalf the master does).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The reporting worker.
    pub worker: WorkerId,
    /// The attempt's number.
    pub attempt: u32,
}

/// What an accepted event does. The store writes it in one transaction; commands go out after the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The task from now on.
    pub task: Task,
    /// What happens to the attempt `task.attempt`.
    pub attempt: Option<AttemptChange>,
    /// A command to the attempt's worker.
    pub command: Option<Command>,
}

/// What happens to the present attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptChange {
    /// It exists from now on.
    Opened {
        /// Where it will run.
        worker: WorkerId,
    },
    /// It started.
    Started {
        /// The reported time, limited to what is possible.
        at: Time,
    },
    /// It has ended.
    Closed {
        /// How; none when it was given back unstarted.
        end: Option<AttemptEnd>,
        /// Why it failed, or did not come to its end; none after a success, and when it was given back unstarted.
        reason: Option<Reason>,
    },
}

/// Commands to a worker after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Start the present attempt.
    Start(WorkerId),
    /// Stop the present attempt.
    Stop(WorkerId),
}

/// Why an event changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It speaks of an attempt that is not the present one, or comes from a worker that does not hold it.
    #[error("the report is for an earlier attempt or from another worker")]
    Stale,
    /// It has happened already, or cannot happen in this state.
    #[error("not possible while the task is {0}")]
    NotNow(StateName),
    /// The chosen worker accepts no new tasks by now.
    #[error("the worker accepts no new tasks")]
    NoPlace,
    /// Another transaction writes the task's job. The event is valid and can be retried.
    #[error("another transaction holds the task's job")]
    Busy,
}

/// Decides what `event` makes of `task`. `restart` is the policy of the task's definition.
///
/// # Errors
/// [`Rejected`] when the event does not apply; the task stays as it is.
pub fn apply(task: &Task, restart: &Restart, event: TaskEvent, now: Time) -> Result<Change, Rejected> {
    use TaskEvent as Event;
    use TaskState as State;

    let not_now = Err(Rejected::NotNow(task.state.name()));
    if let Event::Started(report, _)
    | Event::Returned(report)
    | Event::Ended(report, _)
    | Event::MoveRequested(report, _) = &event
        && (report.attempt != task.attempt || task.state.worker() != Some(report.worker))
    {
        return Err(Rejected::Stale);
    }

    match (&task.state, event) {
        (State::Blocked, Event::DependenciesMet) => {
            Ok(task.becomes(State::Pending { not_before: now, after: None }))
        }
        (State::Blocked, Event::CannotRun(reason)) => Ok(task.becomes(State::Cancelled { at: now, reason })),
        (State::Blocked | State::Pending { .. }, Event::StopRequested(cause)) => {
            Ok(task.becomes(State::Cancelled { at: now, reason: cause.into_reason() }))
        }

        (State::Pending { .. }, Event::WorkerRemoved(message)) => {
            let reason = Reason { code: ReasonCode::LostWorker, message };
            Ok(task.becomes(State::Failed { at: now, reason }))
        }
        (State::Pending { .. }, Event::Placed { worker }) => {
            let mut change = task.becomes(State::Scheduled { worker, since: now });
            change.task.attempt = task.attempt.max(task.unseen.attempts) + 1;
            change.attempt = Some(AttemptChange::Opened { worker });
            change.command = Some(Command::Start(worker));
            Ok(change)
        }

        (State::Scheduled { worker, since }, Event::Started(_, at)) => {
            // Between its placement and now, whatever the worker's clock says.
            let at = at.min(now).max(*since);
            let mut change = task.becomes(State::Running { worker: *worker, since: at });
            change.attempt = Some(AttemptChange::Started { at });
            Ok(change)
        }
        (State::Stopping { worker, started: None, cause }, Event::Started(_, at)) => {
            let (worker, cause, at) = (*worker, cause.clone(), at.min(now).max(Time::UNIX_EPOCH));
            let mut change = task.becomes(State::Stopping { worker, started: Some(at), cause });
            change.attempt = Some(AttemptChange::Started { at });
            Ok(change)
        }

        (State::Scheduled { .. }, Event::Returned(_)) => {
            let mut change = task.becomes(State::Pending { not_before: now, after: None });
            change.attempt = Some(AttemptChange::Closed { end: None, reason: None });
            Ok(change)
        }
        (State::Stopping { started: None, cause, .. }, Event::Returned(_)) => {
            let mut change = task.becomes(cause.clone().after_stop(now));
            change.attempt = Some(AttemptChange::Closed { end: None, reason: None });
            Ok(change)
        }

        (State::Scheduled { .. } | State::Running { .. }, Event::Ended(_, end)) => {
            Ok(task.after_end(restart, end, now))
        }
        (State::Stopping { cause, .. }, Event::Ended(_, end)) => {
            let cause = cause.clone();
            Ok(match (cause.then, &end) {
                (AfterStop::Move, end) if was_asked_for(end) => {
                    task.after_move(restart, cause, end.clone(), now)
                }
                (AfterStop::Move, _) => task.after_end(restart, end, now),
                (AfterStop::ScaleDown, end) => task.after_scaling_down(restart, cause, end.clone(), now),
                (AfterStop::Cancel, _) => task.after_stop(restart, &cause, end, now),
            })
        }

        (State::Scheduled { worker, .. }, Event::StopRequested(cause)) => {
            Ok(task.becomes_stopping(*worker, None, cause))
        }
        (State::Running { worker, since }, Event::StopRequested(cause)) => {
            Ok(task.becomes_stopping(*worker, Some(*since), cause))
        }
        (State::Scheduled { worker, .. }, Event::MoveRequested(_, message)) => {
            Ok(task.becomes_stopping(*worker, None, StopCause { message, then: AfterStop::Move }))
        }
        (State::Running { worker, since }, Event::MoveRequested(_, message)) => {
            let cause = StopCause { message, then: AfterStop::Move };
            Ok(task.becomes_stopping(*worker, Some(*since), cause))
        }
        // The worker was told already; only the outcome has changed.
        (State::Stopping { worker, started, cause: known }, Event::StopRequested(cause))
            if known.yields_to(cause.then) =>
        {
            let (worker, started) = (*worker, *started);
            Ok(task.becomes(State::Stopping { worker, started, cause }))
        }

        (State::Cancelled { reason, .. }, Event::ScaledUp { .. })
            if reason.code != ReasonCode::ScaledDown =>
        {
            not_now
        }
        (state, Event::ScaledUp { waits_for_others, .. }) if state.name().is_final() => {
            let born = Task::new(waits_for_others, now);
            let mut change = task.becomes(born.state);
            change.task.repeats = born.repeats;
            Ok(change)
        }
        (State::Stopping { worker, started, cause }, Event::ScaledUp { message, .. })
            if cause.then == AfterStop::ScaleDown =>
        {
            let cause = StopCause { message, then: AfterStop::Move };
            Ok(task.becomes(State::Stopping { worker: *worker, started: *started, cause }))
        }

        (state, Event::Replaced { message }) => {
            let cause = StopCause { message, then: AfterStop::Move };
            let mut change = match state {
                State::Blocked => task.becomes(State::Blocked),
                State::Pending { .. } => {
                    let after = (task.attempt > 0).then(|| cause.into_reason());
                    task.becomes(State::Pending { not_before: now, after })
                }
                State::Scheduled { worker, .. } => task.becomes_stopping(*worker, None, cause),
                State::Running { worker, since } => task.becomes_stopping(*worker, Some(*since), cause),
                // The worker was told already.
                State::Stopping { worker, started, cause: known } if known.then == AfterStop::Move => {
                    task.becomes(State::Stopping { worker: *worker, started: *started, cause })
                }
                _ => return not_now,
            };
            change.task.repeats = Repeats::default();
            Ok(change)
        }

        _ => not_now,
    }
}

impl Task {
    /// A task as it is born: blocked if it waits for others, else pending.
    pub fn new(waits_for_others: bool, now: Time) -> Task {
        let state = match waits_for_others {
            true => TaskState::Blocked,
            false => TaskState::Pending { not_before: now, after: None },
        };
        Task { attempt: 0, repeats: Repeats::default(), unseen: Unseen::default(), state }
    }

    fn becomes(&self, state: TaskState) -> Change {
        let state = match (state, self.unseen.until) {
            (TaskState::Pending { not_before, after }, Some(until)) => {
                TaskState::Pending { not_before: not_before.max(until), after }
            }
            (state, _) => state,
        };
        let task = Task { attempt: self.attempt, repeats: self.repeats, unseen: self.unseen, state };
        Change { task, attempt: None, command: None }
    }

    fn becomes_stopping(&self, worker: WorkerId, started: Option<Time>, cause: StopCause) -> Change {
        let mut change = self.becomes(TaskState::Stopping { worker, started, cause });
        change.command = Some(Command::Stop(worker));
        change
    }

    fn after_end(&self, restart: &Restart, end: AttemptEnd, now: Time) -> Change {
        let mut change = match policy::after_end(restart, self.repeats, &end, now) {
            Next::Complete => self.becomes(TaskState::Completed { at: now }),
            Next::Fail(reason) => self.becomes(TaskState::Failed { at: now, reason }),
            Next::Retry { not_before, repeats } => {
                let mut change =
                    self.becomes(TaskState::Pending { not_before, after: policy::failure(restart, &end) });
                change.task.repeats = repeats;
                change
            }
        };
        change.attempt = Some(closed(restart, end));
        change
    }

    fn after_move(&self, restart: &Restart, cause: StopCause, end: AttemptEnd, now: Time) -> Change {
        let mut change = self.becomes(cause.after_stop(now));
        change.attempt = Some(closed(restart, end));
        change
    }

    fn after_scaling_down(&self, restart: &Restart, cause: StopCause, end: AttemptEnd, now: Time) -> Change {
        let mut reason = cause.into_reason();
        if let AttemptEnd::Lost { cause: lost } = &end {
            reason.message = format!("{}; {}", reason.message, lost.message());
        }
        let mut change = self.becomes(TaskState::Cancelled { at: now, reason });
        change.attempt = Some(closed(restart, end));
        change
    }

    fn after_stop(&self, restart: &Restart, cause: &StopCause, end: AttemptEnd, now: Time) -> Change {
        let state = match (&end, policy::failure(restart, &end)) {
            (_, None) => TaskState::Completed { at: now },
            (end, _) if was_asked_for(end) => {
                TaskState::Cancelled { at: now, reason: cause.clone().into_reason() }
            }
            (AttemptEnd::Lost { cause: lost }, _) => {
                let mut reason = cause.clone().into_reason();
                reason.message = format!("{}; {}", reason.message, lost.message());
                TaskState::Cancelled { at: now, reason }
            }
            (_, Some(reason)) => TaskState::Failed { at: now, reason },
        };
        let mut change = self.becomes(state);
        change.attempt = Some(closed(restart, end));
        change
    }
}

fn closed(restart: &Restart, end: AttemptEnd) -> AttemptChange {
    AttemptChange::Closed { reason: policy::failure(restart, &end), end: Some(end) }
}

/// Whether what had been asked for has happened, if not by the asked way.
fn was_asked_for(end: &AttemptEnd) -> bool {
    matches!(end, AttemptEnd::Stopped { .. } | AttemptEnd::Lost { cause: LostCause::WorkerShutDown })
}

impl StopCause {
    /// Stopped by a named user.
    pub fn by(who: &str) -> StopCause {
        StopCause { message: format!("stopped by {who}"), then: AfterStop::Cancel }
    }

    /// Whether a further request for a stop, with that outcome, replaces this one.
    fn yields_to(&self, then: AfterStop) -> bool {
        match self.then {
            AfterStop::Cancel => false,
            AfterStop::Move => true,
            AfterStop::ScaleDown => then == AfterStop::Cancel,
        }
    }

    /// What a task is once nothing runs any more.
    fn after_stop(self, now: Time) -> TaskState {
        match self.then {
            AfterStop::Cancel | AfterStop::ScaleDown => {
                TaskState::Cancelled { at: now, reason: self.into_reason() }
            }
            AfterStop::Move => TaskState::Pending { not_before: now, after: Some(self.into_reason()) },
        }
    }

    fn into_reason(self) -> Reason {
        let code = match self.then {
            AfterStop::Cancel | AfterStop::Move => ReasonCode::Stopped,
            AfterStop::ScaleDown => ReasonCode::ScaledDown,
        };
        Reason { code, message: self.message }
    }
}

impl TaskState {
    /// The state without its data.
    pub fn name(&self) -> StateName {
        match self {
            TaskState::Blocked => StateName::Blocked,
            TaskState::Pending { .. } => StateName::Pending,
            TaskState::Scheduled { .. } => StateName::Scheduled,
            TaskState::Running { .. } => StateName::Running,
            TaskState::Stopping { .. } => StateName::Stopping,
            TaskState::Completed { .. } => StateName::Completed,
            TaskState::Failed { .. } => StateName::Failed,
            TaskState::Cancelled { .. } => StateName::Cancelled,
        }
    }

    /// Whether a stop of its job has anything left to do here: it is not over, and not about to be.
    pub fn can_be_stopped(&self) -> bool {
        match self {
            TaskState::Stopping { cause, .. } => cause.yields_to(AfterStop::Cancel),
            state => !state.name().is_final(),
        }
    }

    /// What becomes of it once its present attempt is stopped; none if that is not being stopped.
    pub fn after_stop(&self) -> Option<AfterStop> {
        match self {
            TaskState::Stopping { cause, .. } => Some(cause.then),
            _ => None,
        }
    }

    /// Whether it is skipped: see [`StateName::is_skipped`].
    pub fn is_skipped(&self) -> bool {
        let code = match self {
            TaskState::Cancelled { reason, .. } => Some(reason.code),
            _ => None,
        };
        self.name().is_skipped(code)
    }

    /// The worker that holds the present attempt, while there is one.
    pub fn worker(&self) -> Option<WorkerId> {
        match self {
            TaskState::Scheduled { worker, .. }
            | TaskState::Running { worker, .. }
            | TaskState::Stopping { worker, .. } => Some(*worker),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
