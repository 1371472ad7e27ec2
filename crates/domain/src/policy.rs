//! What follows the end of an attempt: completed, failed, or a retry and its time.

use chrono::TimeDelta;

use crate::Time;
use crate::quantity::Span;
use crate::reason::{AttemptEnd, Reason};
use crate::spec::{Backoff, OnLost, Restart, RestartPolicy};

/// The longest wait that exponential back-off grows to.
pub const MAX_BACKOFF: Span = Span::from_millis(60 * 60 * 1000);

/// How often a task was repeated in the window that is now open. A window opens with a repeat and lasts for the policy's
/// `within`; windows follow each other without overlap, so a stretch of `within` that lies across two of them sees fewer
/// than twice `limit` repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repeats {
    /// Repeats granted in this window.
    pub count: u32,
    /// When the window opened: at its first repeat. None before the first.
    pub since: Option<Time>,
}

/// What follows the end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The task completed.
    Complete,
    /// The task failed, for the attempt's reason.
    Fail(Reason),
    /// The task waits for a worker again, not before `not_before`.
    Retry {
        /// End of the back-off.
        not_before: Time,
        /// The count with this repeat in it.
        repeats: Repeats,
    },
}

/// Decides what follows `end`, for a task without a stop request.
pub fn after_end(restart: &Restart, repeats: Repeats, end: &AttemptEnd, now: Time) -> Next {
    let reason = failure(restart, end);
    let wanted = match end {
        AttemptEnd::Lost { .. } => restart.on_lost == OnLost::Restart,
        // The task is not to blame, but it is repeated only if it may be.
        AttemptEnd::Stopped { .. } => restart.policy != RestartPolicy::Never,
        _ => match restart.policy {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => reason.is_some() && may_succeed_later(restart, end),
            RestartPolicy::Always => reason.is_none() || may_succeed_later(restart, end),
        },
    };
    let repeats = in_window(restart, repeats, now);
    if wanted && repeats.count < restart.limit {
        let (not_before, repeats) = repeat(restart, repeats, now);
        return Next::Retry { not_before, repeats };
    }
    match reason {
        None => Next::Complete,
        Some(reason) => Next::Fail(reason),
    }
}

/// The end of the back-off of a repeat that is granted now, and the count with it.
pub fn repeat(restart: &Restart, repeats: Repeats, now: Time) -> (Time, Repeats) {
    let repeats = in_window(restart, repeats, now);
    let wait = i64::try_from(delay(restart, repeats.count).as_millis()).unwrap_or(i64::MAX / 2);
    let count = Repeats { count: repeats.count.saturating_add(1), since: repeats.since.or(Some(now)) };
    (now + TimeDelta::milliseconds(wait), count)
}

/// Why an attempt that ended like this has failed; none if that is a success for its task.
pub fn failure(restart: &Restart, end: &AttemptEnd) -> Option<Reason> {
    match end {
        AttemptEnd::Exited { code } if restart.success.contains(*code) => None,
        end => end.reason(),
    }
}

/// Whether a failure is of a kind that is worth another attempt, by the task's lists of exit codes.
fn may_succeed_later(restart: &Restart, end: &AttemptEnd) -> bool {
    match end {
        AttemptEnd::Exited { code } if restart.not_on_exit.contains(*code) => false,
        AttemptEnd::Exited { code } => restart.on_exit.is_empty() || restart.on_exit.contains(*code),
        _ => restart.on_exit.is_empty(),
    }
}

/// The current count: an expired window restarts it.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::reason::{LostCause, ProcessEnd, ReasonCode};
    use crate::spec::ExitCodes;

    fn at(secs: i64) -> Time {
        Time::from_timestamp(secs, 0).unwrap()
    }

    fn on_failure(limit: u32, within: Option<Span>) -> Restart {
        let (policy, on_lost) = (RestartPolicy::OnFailure, OnLost::Restart);
        let [on_exit, not_on_exit, success] = [ExitCodes::default(); 3];
        let (delay, backoff) = (Span::from_secs(5), Backoff::Constant);
        Restart { policy, on_exit, not_on_exit, success, limit, within, delay, backoff, on_lost }
    }

    fn failed() -> AttemptEnd {
        AttemptEnd::Exited { code: 1 }
    }

    /// The counts after failures at these seconds; none once it fails for good.
    fn after_failures_at(restart: &Restart, times: &[i64]) -> Option<Repeats> {
        times.iter().try_fold(Repeats::default(), |repeats, secs| {
            match after_end(restart, repeats, &failed(), at(*secs)) {
                Next::Retry { repeats, .. } => Some(repeats),
                Next::Fail(_) => None,
                Next::Complete => panic!("a failure completed"),
            }
        })
    }

    #[test]
    fn a_task_is_repeated_as_often_as_its_limit_says_and_no_more() {
        for limit in 0..4 {
            let restart = on_failure(limit, None);
            let failures: Vec<i64> = (0..i64::from(limit)).collect();
            assert_eq!(after_failures_at(&restart, &failures).map(|repeats| repeats.count), Some(limit));
            let one_more: Vec<i64> = (0..=i64::from(limit)).collect();
            assert_eq!(after_failures_at(&restart, &one_more), None);
        }
    }

    #[test]
    fn without_a_window_repeats_are_counted_for_life() {
        let a_year = 365 * 24 * 60 * 60;
        assert_eq!(after_failures_at(&on_failure(2, None), &[0, a_year, 2 * a_year]), None);
    }

    #[test]
    fn a_window_opens_with_its_first_repeat_and_after_it_counting_starts_anew() {
        let restart = on_failure(2, Some(Span::from_secs(60)));
        assert_eq!(after_failures_at(&restart, &[100, 150, 159]), None);
        let next_window = Repeats { count: 1, since: Some(at(160)) };
        assert_eq!(after_failures_at(&restart, &[100, 150, 160]), Some(next_window));
    }

    #[test]
    fn back_to_back_windows_allow_almost_twice_the_limit_in_one_stretch() {
        let restart = on_failure(3, Some(Span::from_secs(60)));
        assert!(after_failures_at(&restart, &[0, 58, 59, 60, 61, 62]).is_some());
        assert_eq!(after_failures_at(&restart, &[0, 58, 59, 60, 61, 62, 63]), None);
    }

    #[test]
    fn a_clock_that_goes_back_keeps_the_window_open() {
        let restart = on_failure(1, Some(Span::from_secs(60)));
        assert_eq!(after_failures_at(&restart, &[1_000, 0]), None);
    }

    #[test]
    fn a_repeat_waits_for_its_delay_from_the_end_of_the_attempt() {
        let next = after_end(&on_failure(1, None), Repeats::default(), &failed(), at(100));
        let repeats = Repeats { count: 1, since: Some(at(100)) };
        assert_eq!(next, Next::Retry { not_before: at(105), repeats });
    }

    #[test]
    fn a_task_that_fails_for_good_does_so_for_its_last_attempts_reason() {
        let lost = AttemptEnd::Lost { cause: LostCause::Rebooted };
        let Next::Fail(reason) = after_end(&on_failure(0, None), Repeats::default(), &lost, at(0)) else {
            panic!("it did not fail");
        };
        assert_eq!(reason.code, ReasonCode::LostWorker);
    }

    fn what_follows(restart: &Restart, end: AttemptEnd) -> &'static str {
        match after_end(restart, Repeats::default(), &end, at(0)) {
            Next::Complete => "complete",
            Next::Fail(_) => "fail",
            Next::Retry { .. } => "retry",
        }
    }

    #[test]
    fn named_exit_codes_are_the_only_failures_that_are_repeated() {
        let timed_out = AttemptEnd::TimedOut { limit: Span::from_secs(1), process: ProcessEnd::Code(75) };
        for policy in [RestartPolicy::OnFailure, RestartPolicy::Always] {
            let restart = Restart { policy, on_exit: [75].into_iter().collect(), ..on_failure(3, None) };
            for (end, expected) in [
                (AttemptEnd::Exited { code: 75 }, "retry"),
                (AttemptEnd::Exited { code: 1 }, "fail"),
                (AttemptEnd::Exited { code: 75 + 256 }, "fail"),
                (AttemptEnd::Signalled { signal: 75 }, "fail"),
                (timed_out.clone(), "fail"),
                (AttemptEnd::OutOfMemory, "fail"),
                (AttemptEnd::Lost { cause: LostCause::Rebooted }, "retry"),
                (AttemptEnd::Stopped { process: None }, "retry"),
            ] {
                assert_eq!(what_follows(&restart, end.clone()), expected, "{policy:?} {end:?}");
            }
        }
    }

    #[test]
    fn exit_codes_that_are_not_repeated_are_final_and_all_other_failures_are_not() {
        for policy in [RestartPolicy::OnFailure, RestartPolicy::Always] {
            let restart = Restart { policy, not_on_exit: [2].into_iter().collect(), ..on_failure(3, None) };
            assert_eq!(what_follows(&restart, AttemptEnd::Exited { code: 2 }), "fail");
            assert_eq!(what_follows(&restart, AttemptEnd::Exited { code: 1 }), "retry");
            assert_eq!(what_follows(&restart, AttemptEnd::Signalled { signal: 2 }), "retry");
        }
    }

    #[test]
    fn an_exit_code_that_counts_as_success_is_treated_as_0_is() {
        for policy in [RestartPolicy::Never, RestartPolicy::OnFailure, RestartPolicy::Always] {
            let restart = Restart { policy, success: [0, 3].into_iter().collect(), ..on_failure(3, None) };
            for code in [0, 3] {
                let expected = if policy == RestartPolicy::Always { "retry" } else { "complete" };
                assert_eq!(
                    what_follows(&restart, AttemptEnd::Exited { code }),
                    expected,
                    "{policy:?} {code}"
                );
            }
            assert_eq!(failure(&restart, &AttemptEnd::Exited { code: 3 }), None);
            assert!(failure(&restart, &AttemptEnd::Exited { code: 4 }).is_some());
            let killed = AttemptEnd::TimedOut { limit: Span::from_secs(1), process: ProcessEnd::Code(3) };
            assert!(
                failure(&restart, &killed).is_some(),
                "a timeout is no success, whatever code it exits with"
            );
        }
    }

    #[test]
    fn what_is_always_repeated_completes_when_its_repeats_are_used_up_by_successes() {
        let restart = Restart { policy: RestartPolicy::Always, ..on_failure(1, None) };
        let success = AttemptEnd::Exited { code: 0 };
        let Next::Retry { repeats, .. } = after_end(&restart, Repeats::default(), &success, at(0)) else {
            panic!("it was not repeated");
        };
        assert_eq!(after_end(&restart, repeats, &success, at(1)), Next::Complete);
    }

    #[test]
    fn a_constant_wait_stays_and_an_exponential_one_doubles_up_to_an_hour() {
        let restart = |delay, backoff| Restart { delay, backoff, ..on_failure(100, None) };
        let waits = |restart: Restart, done: &[u32]| -> Vec<String> {
            done.iter().map(|done| delay(&restart, *done).to_string()).collect()
        };
        let constant = restart(Span::from_secs(5), Backoff::Constant);
        assert_eq!(waits(constant, &[0, 1, 50, u32::MAX]), ["5s", "5s", "5s", "5s"]);
        let doubling = restart(Span::from_secs(5), Backoff::Exponential);
        assert_eq!(waits(doubling, &[0, 1, 2, 9, 10]), ["5s", "10s", "20s", "42m40s", "1h"]);
        assert_eq!(waits(doubling, &[11, 63, 64, u32::MAX]), ["1h", "1h", "1h", "1h"]);
        let at_once = restart(Span::from_secs(0), Backoff::Exponential);
        assert_eq!(waits(at_once, &[0, 63, u32::MAX]), ["0s", "0s", "0s"]);
        let patient = restart(Span::from_secs(2 * 60 * 60), Backoff::Exponential);
        assert_eq!(waits(patient, &[0, 5]), ["2h", "2h"], "never shorter than asked for");
    }

    #[test]
    fn the_longest_wait_does_not_overflow_the_calendar() {
        let restart = Restart { delay: Span::MAX, ..on_failure(1, Some(Span::MAX)) };
        let next = after_end(&restart, Repeats::default(), &failed(), at(0));
        assert!(matches!(next, Next::Retry { not_before, .. } if not_before > at(99 * 365 * 24 * 60 * 60)));
    }

    #[test]
    fn a_new_window_starts_with_the_shortest_wait_again() {
        let exponential =
            Restart { backoff: Backoff::Exponential, ..on_failure(5, Some(Span::from_secs(60))) };
        let old = Repeats { count: 4, since: Some(at(0)) };
        let wait = |now| match after_end(&exponential, old, &failed(), at(now)) {
            Next::Retry { not_before, .. } => (not_before - at(now)).num_seconds(),
            other => panic!("{other:?}"),
        };
        assert_eq!((wait(59), wait(60)), (80, 5));
    }
}
