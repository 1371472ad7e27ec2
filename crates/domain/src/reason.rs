//! Reason codes of ends: one vocabulary for API, CLI, pages and history.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::{Bytes, Span};

/// Kind of a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasonCode {
    /// The process ended with an exit code other than 0.
    ExitCode,
    /// A signal that gaffer did not send ended the process.
    Signal,
    /// The task ran longer than its `timeout`.
    Timeout,
    /// The task used more memory than it may.
    OutOfMemory,
    /// The task wrote more output than it may.
    OutputLimit,
    /// The worker that ran it was lost, or had to give it up.
    LostWorker,
    /// The health check failed.
    Unhealthy,
    /// The task could not be started.
    StartFailed,
    /// A task that the task depends on did not complete.
    DependencyFailed,
    /// The condition of the task cannot be met any more: it is skipped.
    ConditionNotMet,
    /// Somebody stopped the job, or too many of its tasks failed.
    Stopped,
    /// Its service was scaled down.
    ScaledDown,
    /// A reason that only another version of gaffer knows.
    #[serde(other)]
    Other,
}

impl ReasonCode {
    /// Every code, in the order of its declaration.
    pub const ALL: [ReasonCode; 13] = [
        ReasonCode::ExitCode,
        ReasonCode::Signal,
        ReasonCode::Timeout,
        ReasonCode::OutOfMemory,
        ReasonCode::OutputLimit,
        ReasonCode::LostWorker,
        ReasonCode::Unhealthy,
        ReasonCode::StartFailed,
        ReasonCode::DependencyFailed,
        ReasonCode::ConditionNotMet,
        ReasonCode::Stopped,
        ReasonCode::ScaledDown,
        ReasonCode::Other,
    ];

    /// Whether what ended for it failed. What was stopped or was not needed did not.
    pub fn is_failure(self) -> bool {
        !matches!(
            self,
            ReasonCode::Stopped
                | ReasonCode::ScaledDown
                | ReasonCode::DependencyFailed
                | ReasonCode::ConditionNotMet
        )
    }

    /// Name in the API, the CLI, the database and on pages.
    pub fn as_str(self) -> &'static str {
        match self {
            ReasonCode::ExitCode => "exit_code",
            ReasonCode::Signal => "signal",
            ReasonCode::Timeout => "timeout",
            ReasonCode::OutOfMemory => "out_of_memory",
            ReasonCode::OutputLimit => "output_limit",
            ReasonCode::LostWorker => "lost_worker",
            ReasonCode::Unhealthy => "unhealthy",
            ReasonCode::StartFailed => "start_failed",
            ReasonCode::DependencyFailed => "dependency_failed",
            ReasonCode::ConditionNotMet => "condition_not_met",
            ReasonCode::Stopped => "stopped",
            ReasonCode::ScaledDown => "scaled_down",
            ReasonCode::Other => "other",
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ReasonCode {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        ReasonCode::ALL.into_iter().find(|code| code.as_str() == text).ok_or(UnknownReason)
    }
}

/// The text is not one of [`ReasonCode::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a reason code")]
pub struct UnknownReason;

/// Why something ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// Kind of the reason.
    pub code: ReasonCode,
    /// The reason in one sentence, without a full stop.
    pub message: String,
}

/// How one attempt ended, as reported by its worker, or by the master that declared it lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum AttemptEnd {
    /// The process ended by itself.
    Exited {
        /// Its exit code; 0 is success.
        code: i32,
    },
    /// A signal from elsewhere ended it.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// It was ended because its time was up.
    TimedOut {
        /// The limit that it exceeded.
        limit: Span,
        /// How the process then ended.
        process: ProcessEnd,
    },
    /// The kernel ended it for want of memory.
    OutOfMemory,
    /// It wrote more than its output limit, and was killed for it if it was not over by then.
    OutputLimit {
        /// The limit that it exceeded.
        limit: Bytes,
        /// How the process then ended.
        process: ProcessEnd,
    },
    /// Its health check failed, and it was stopped for that.
    Unhealthy {
        /// What the checks said.
        message: String,
        /// How the process then ended.
        process: ProcessEnd,
    },
    /// There never was a process.
    StartFailed {
        /// As a shell would exit: 126 not executable, 127 not found, 125 anything else.
        exit_code: i32,
        /// What went wrong, with the name of what was wanted.
        message: String,
    },
    /// It was ended because the master said so.
    Stopped {
        /// How the process then ended; none when it had not started.
        process: Option<ProcessEnd>,
    },
    /// Nobody saw how it ended, or its worker had to give it up.
    Lost {
        /// Why.
        cause: LostCause,
    },
}

/// What the kernel said about an ended process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessEnd {
    /// It returned this exit code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// Why an attempt counts as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LostCause {
    /// The master heard nothing from the worker for `lost_after`.
    OutOfContact,
    /// The worker heard nothing from the master for `lost_after` and stopped the attempt.
    LeaseExpired,
    /// The worker's machine was started anew.
    Rebooted,
    /// The worker's process ended and took the attempt with it.
    WorkerRestarted,
    /// The worker was shut down.
    WorkerShutDown,
    /// The container daemon went away and took the container with it.
    DaemonGone,
    /// Somebody else than gaffer removed the container.
    ContainerRemoved,
    /// The worker says that it knows nothing of the attempt.
    NotHeld,
    /// It ended, but how could not be recorded: the database refused the report.
    EndRefused,
    /// The installation was restored from a backup that was made while the attempt was live.
    Restored,
}

impl LostCause {
    /// One sentence without a full stop.
    pub fn message(self) -> &'static str {
        match self {
            LostCause::OutOfContact => "the worker was out of contact for longer than lost_after",
            LostCause::LeaseExpired => {
                "the worker could not reach the master for lost_after, so it stopped the task"
            }
            LostCause::Rebooted => "the worker's machine was restarted",
            LostCause::WorkerRestarted => "the worker process was restarted and stopped its tasks",
            LostCause::WorkerShutDown => "the worker was shut down",
            LostCause::DaemonGone => "the Docker daemon was stopped, and the container with it",
            LostCause::ContainerRemoved => "the container was removed outside gaffer",
            LostCause::NotHeld => "the worker does not know the attempt any more",
            LostCause::EndRefused => "the attempt ended, but the database refused the worker's report",
            LostCause::Restored => {
                "gaffer was restored from a backup that does not know how the attempt ended"
            }
        }
    }
}

impl AttemptEnd {
    /// The cause to record; none for success.
    pub fn reason(&self) -> Option<Reason> {
        let (code, message) = match self {
            AttemptEnd::Exited { code: 0 } => return None,
            AttemptEnd::Exited { code } => (ReasonCode::ExitCode, format!("exited with code {code}")),
            AttemptEnd::Signalled { signal } => {
                (ReasonCode::Signal, format!("killed by {}", signal_name(*signal)))
            }
            AttemptEnd::TimedOut { limit, .. } => {
                (ReasonCode::Timeout, format!("ran longer than its timeout of {limit}"))
            }
            AttemptEnd::OutOfMemory => (ReasonCode::OutOfMemory, "ran out of memory".to_owned()),
            AttemptEnd::OutputLimit { limit, .. } => {
                (ReasonCode::OutputLimit, format!("wrote more than its output limit of {limit}"))
            }
            AttemptEnd::Unhealthy { message, .. } => (ReasonCode::Unhealthy, message.clone()),
            AttemptEnd::StartFailed { message, .. } => (ReasonCode::StartFailed, message.clone()),
            AttemptEnd::Stopped { process } => (
                ReasonCode::Stopped,
                match process {
                    None => "stopped before it started".to_owned(),
                    Some(ProcessEnd::Code(code)) => format!("stopped, exited with code {code}"),
                    Some(ProcessEnd::Signal(signal)) => format!("stopped with {}", signal_name(*signal)),
                },
            ),
            AttemptEnd::Lost { cause } => (ReasonCode::LostWorker, cause.message().to_owned()),
        };
        Some(Reason { code, message })
    }

    /// The exit code to show, where there is one.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            AttemptEnd::Exited { code } => Some(*code),
            AttemptEnd::StartFailed { exit_code, .. } => Some(*exit_code),
            AttemptEnd::TimedOut { process: ProcessEnd::Code(code), .. }
            | AttemptEnd::OutputLimit { process: ProcessEnd::Code(code), .. }
            | AttemptEnd::Unhealthy { process: ProcessEnd::Code(code), .. }
            | AttemptEnd::Stopped { process: Some(ProcessEnd::Code(code)) } => Some(*code),
            _ => None,
        }
    }

    /// The number of the signal that ended the process, where one did.
    pub fn signal(&self) -> Option<i32> {
        match self {
            AttemptEnd::Signalled { signal }
            | AttemptEnd::TimedOut { process: ProcessEnd::Signal(signal), .. }
            | AttemptEnd::OutputLimit { process: ProcessEnd::Signal(signal), .. }
            | AttemptEnd::Unhealthy { process: ProcessEnd::Signal(signal), .. }
            | AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(signal)) } => Some(*signal),
            _ => None,
        }
    }
}

/// `SIGKILL (9)`, or `signal 64` for one without a name. Numbers are those of Linux on x86 and arm.
pub fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let at = signal.checked_sub(1).and_then(|at| usize::try_from(at).ok());
    match at.and_then(|at| NAMES.get(at)) {
        Some(name) => format!("SIG{name} ({signal})"),
        None => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_reason_code_is_the_same_word_for_people_the_database_and_json() {
        for code in ReasonCode::ALL {
            assert_eq!(code.to_string().parse(), Ok(code));
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
        assert_eq!("lost".parse::<ReasonCode>(), Err(UnknownReason));
        assert_eq!(serde_json::from_value::<ReasonCode>("a_later_word".into()).unwrap(), ReasonCode::Other);
    }

    #[test]
    fn what_was_stopped_or_not_needed_did_not_fail() {
        let no_failures: Vec<ReasonCode> =
            ReasonCode::ALL.into_iter().filter(|code| !code.is_failure()).collect();
        assert_eq!(
            no_failures,
            [
                ReasonCode::DependencyFailed,
                ReasonCode::ConditionNotMet,
                ReasonCode::Stopped,
                ReasonCode::ScaledDown
            ]
        );
    }

    #[test]
    fn every_end_says_why_and_what_the_kernel_saw() {
        let timed_out = |process| AttemptEnd::TimedOut { limit: Span::from_secs(90), process };
        let stopped = |process| AttemptEnd::Stopped { process };
        let lost = AttemptEnd::Lost { cause: LostCause::LeaseExpired };
        let not_found =
            AttemptEnd::StartFailed { exit_code: 127, message: "no program named trane".to_owned() };
        for (end, reason, exit_code, signal) in [
            (AttemptEnd::Exited { code: 0 }, "none", Some(0), None),
            (AttemptEnd::Exited { code: 3 }, "exit_code: exited with code 3", Some(3), None),
            (AttemptEnd::Signalled { signal: 11 }, "signal: killed by SIGSEGV (11)", None, Some(11)),
            (timed_out(ProcessEnd::Code(1)), "timeout: ran longer than its timeout of 1m30s", Some(1), None),
            (
                timed_out(ProcessEnd::Signal(9)),
                "timeout: ran longer than its timeout of 1m30s",
                None,
                Some(9),
            ),
            (AttemptEnd::OutOfMemory, "out_of_memory: ran out of memory", None, None),
            (
                AttemptEnd::OutputLimit { limit: Bytes(1 << 20), process: ProcessEnd::Signal(9) },
                "output_limit: wrote more than its output limit of 1MiB",
                None,
                Some(9),
            ),
            (
                AttemptEnd::Unhealthy {
                    message: "a health check failed: status 500".to_owned(),
                    process: ProcessEnd::Signal(15),
                },
                "unhealthy: a health check failed: status 500",
                None,
                Some(15),
            ),
            (not_found, "start_failed: no program named trane", Some(127), None),
            (stopped(None), "stopped: stopped before it started", None, None),
            (stopped(Some(ProcessEnd::Code(0))), "stopped: stopped, exited with code 0", Some(0), None),
            (stopped(Some(ProcessEnd::Signal(15))), "stopped: stopped with SIGTERM (15)", None, Some(15)),
            (
                lost,
                "lost_worker: the worker could not reach the master for lost_after, so it stopped the task",
                None,
                None,
            ),
        ] {
            let words = end.reason().map(|reason| format!("{}: {}", reason.code, reason.message));
            assert_eq!(words.as_deref().unwrap_or("none"), reason);
            assert_eq!((end.exit_code(), end.signal()), (exit_code, signal), "{reason}");
        }
    }

    #[test]
    fn only_a_success_has_no_reason() {
        assert_eq!(AttemptEnd::Exited { code: 0 }.reason(), None);
        assert!(AttemptEnd::Exited { code: -1 }.reason().is_some());
        // The cause of the stop decides what it means, even if it then exited with 0.
        assert!(AttemptEnd::Stopped { process: Some(ProcessEnd::Code(0)) }.reason().is_some());
    }

    #[test]
    fn signals_have_their_names_and_numbers_from_outside_do_no_harm() {
        for (signal, name) in [
            (1, "SIGHUP (1)"),
            (9, "SIGKILL (9)"),
            (15, "SIGTERM (15)"),
            (19, "SIGSTOP (19)"),
            (31, "SIGSYS (31)"),
            (32, "signal 32"),
            (64, "signal 64"),
            (0, "signal 0"),
            (-9, "signal -9"),
            (i32::MIN, "signal -2147483648"),
            (i32::MAX, "signal 2147483647"),
        ] {
            assert_eq!(signal_name(signal), name);
        }
        for signal in crate::spec::StopSignal::ALL {
            assert_eq!(signal_name(signal.number()), format!("{} ({})", signal.name(), signal.number()));
        }
    }

    #[test]
    fn an_end_travels_as_json_that_says_how_and_comes_back_the_same() {
        let end = AttemptEnd::TimedOut { limit: Span::from_secs(90), process: ProcessEnd::Signal(9) };
        let json = serde_json::json!({"how": "timed_out", "limit": "1m30s", "process": {"signal": 9}});
        assert_eq!(serde_json::to_value(&end).unwrap(), json);
        assert_eq!(serde_json::from_value::<AttemptEnd>(json).unwrap(), end);

        let end = AttemptEnd::Lost { cause: LostCause::WorkerShutDown };
        let json = serde_json::json!({"how": "lost", "cause": "worker_shut_down"});
        assert_eq!(serde_json::to_value(&end).unwrap(), json);
        assert_eq!(serde_json::from_value::<AttemptEnd>(json).unwrap(), end);
    }

    #[test]
    fn what_people_read_is_a_sentence_without_a_full_stop() {
        for cause in [
            LostCause::OutOfContact,
            LostCause::LeaseExpired,
            LostCause::Rebooted,
            LostCause::WorkerRestarted,
            LostCause::WorkerShutDown,
            LostCause::DaemonGone,
            LostCause::ContainerRemoved,
            LostCause::NotHeld,
            LostCause::EndRefused,
            LostCause::Restored,
        ] {
            let message = cause.message();
            assert!(message.starts_with(char::is_lowercase) && !message.ends_with('.'), "{message}");
        }
    }
}
