//! Maps the end of a process, or a failed start, to the end of its attempt.

use chrono::Utc;
use gaffer_domain::AttemptRef;
use gaffer_domain::reason::{AttemptEnd, LostCause, ProcessEnd};
use gaffer_domain::spec::{OutputLimit, StopSignal};
use gaffer_protocol::definitions::StartAttempt;
use gaffer_protocol::wire::Ended;

use super::controls::Cause;
use crate::driver::{Exit, StartError};

/// The report on an attempt that never had a process.
pub(crate) fn unstarted(attempt: AttemptRef, end: AttemptEnd) -> Ended {
    Ended {
        attempt,
        end,
        started_at: None,
        ended_at: Utc::now(),
        ran_micros: 0,
        output_bytes: 0,
        output_sha256: None,
        killed: None,
        container: None,
        ports: Vec::new(),
    }
}

/// `cause`: why gaffer ended it; none if it ended by itself.
pub(super) fn of_process(exit: Exit, cause: Option<Cause>, start: &StartAttempt) -> AttemptEnd {
    match (cause, exit) {
        (None, Exit::Process(ProcessEnd::Code(code))) => AttemptEnd::Exited { code },
        (None, Exit::Process(ProcessEnd::Signal(signal))) => AttemptEnd::Signalled { signal },
        (None, Exit::OutOfMemory) => AttemptEnd::OutOfMemory,
        (None, Exit::Lost(cause)) => AttemptEnd::Lost { cause },
        (Some(cause), Exit::Process(process)) => ended_by(cause, Some(process), start),
        (Some(cause), Exit::OutOfMemory | Exit::Lost(_)) => {
            ended_by(cause, Some(ProcessEnd::Signal(StopSignal::Sigkill.number())), start)
        }
    }
}

/// `cause`: why it was stopped before it started; none if it was not stopped.
pub(super) fn of_start(error: StartError, cause: Option<Cause>, start: &StartAttempt) -> AttemptEnd {
    const MOST_CHARS: usize = 1000;
    match cause {
        Some(cause) => ended_by(cause, None, start),
        None => AttemptEnd::StartFailed {
            exit_code: error.exit_code,
            message: error.message.chars().take(MOST_CHARS).collect(),
        },
    }
}

fn ended_by(cause: Cause, process: Option<ProcessEnd>, start: &StartAttempt) -> AttemptEnd {
    match (cause, process, start.definition.timeout) {
        (Cause::TimedOut, Some(process), Some(limit)) => AttemptEnd::TimedOut { limit, process },
        (Cause::OutputLimit(OutputLimit { limit, .. }), Some(process), _) => {
            AttemptEnd::OutputLimit { limit, process }
        }
        (Cause::Unhealthy(message), Some(process), _) => {
            AttemptEnd::Unhealthy { message: message.to_string(), process }
        }
        (Cause::Stopped | Cause::TimedOut | Cause::OutputLimit(_) | Cause::Unhealthy(_), process, _) => {
            AttemptEnd::Stopped { process }
        }
        (Cause::LeaseExpired, _, _) => AttemptEnd::Lost { cause: LostCause::LeaseExpired },
        (Cause::ShutDown, _, _) => AttemptEnd::Lost { cause: LostCause::WorkerShutDown },
    }
}
