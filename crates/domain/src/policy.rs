//! What follows the end of an attempt: done, failed, or another try, and when.

use chrono::TimeDelta;

use crate::Time;
use crate::quantity::Span;
use crate::reason::AttemptEnd;
use crate::spec::{Backoff, OnLost, Restart, RestartPolicy};

/// The longest wait that exponential back-off grows to.
pub const MAX_BACKOFF: Span = Span::from_millis(60 * 60 * 1000);

/// How often a task was repeated in the window that is now open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repeats {
    /// Repeats granted in this window.
    pub count: u32,
    /// When the window opened: at its first repeat. None before the first.
    pub since: Option<Time>,
}

/// What follows the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The task completed.
    Complete,
    /// The task failed, for the attempt's reason.
    Fail,
    /// The task waits for a worker again, not before `not_before`.
    Retry {
        /// End of the back-off.
        not_before: Time,
        /// The count with this repeat in it.
        repeats: Repeats,
    },
}

/// Decides what follows `end`, for a task that nobody asked to stop.
pub fn after_end(restart: &Restart, repeats: Repeats, end: &AttemptEnd, now: Time) -> Next {
    let succeeded = matches!(end, AttemptEnd::Exited { code: 0 });
    let wanted = match end {
        AttemptEnd::Lost { .. } => restart.on_lost == OnLost::Restart,
        // A worker that stopped an attempt without being asked had its reasons; the task is not to blame, but only a
        // task that may be repeated is.
        AttemptEnd::Stopped { .. } => restart.policy != RestartPolicy::Never,
        _ => match restart.policy {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => !succeeded,
            RestartPolicy::Always => true,
        },
    };
    let repeats = in_window(restart, repeats, now);
    if wanted && repeats.count < restart.limit {
        let wait = delay(restart, repeats.count);
        return Next::Retry {
            not_before: now
                + TimeDelta::milliseconds(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX / 2)),
            repeats: Repeats { count: repeats.count + 1, since: repeats.since.or(Some(now)) },
        };
    }
    if succeeded { Next::Complete } else { Next::Fail }
}

/// The count that applies now: a window that is over starts anew.
fn in_window(restart: &Restart, repeats: Repeats, now: Time) -> Repeats {
    match (restart.within, repeats.since) {
        (Some(within), Some(since)) if (now - since).num_milliseconds() >= within.as_millis() as i64 => {
            Repeats::default()
        }
        _ => repeats,
    }
}

/// The wait before repeat number `done + 1`.
pub fn delay(restart: &Restart, done: u32) -> Span {
    match restart.backoff {
        Backoff::Constant => restart.delay,
        Backoff::Exponential => {
            let factor = 1_u64.checked_shl(done).unwrap_or(u64::MAX);
            let millis = restart.delay.as_millis().saturating_mul(factor);
            Span::from_millis(millis.min(MAX_BACKOFF.as_millis().max(restart.delay.as_millis())))
        }
    }
}
