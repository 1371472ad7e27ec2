//! The numbers with which an installation continues after it was restored from a backup, so that none gets two meanings.
//!
//! After the backup the installation went on giving out numbers. Workers still hold attempts by them, followers of events
//! continue after them, people have written them down. How many there were is not known here. The same backup may be restored
//! more than once, too, so what must not be repeated follows from the clock.

use chrono::TimeDelta;

use crate::Time;

/// Seconds per era that a restore leaves out: fewer than it takes to fill one.
const SECONDS_PER_ERA: i64 = 10;
/// Attempts of one task that are left out for each second since the backup, and at least: more than can run in that time, also
/// without a delay between them.
const ATTEMPTS_PER_SECOND: i64 = 100;
const FEWEST_ATTEMPTS: i64 = 1_000;
const MOST_ATTEMPTS: i64 = 1_000_000_000;
/// No attempt that is left out has a higher number: behind it there must be numbers for those to come.
pub const HIGHEST_LEFT_OUT: i64 = 2_000_000_000;
/// How far the clocks of two machines may be apart.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(1);
/// Numbers of jobs are for people: the next one is a round number.
const ROUND_JOB: i64 = 1_000;
/// Events have so many numbers that a restore can leave out more than there ever are.
const EVENTS: i64 = 1 << 40;

/// Numbers that a restore leaves out of those that jobs of an era get for further tasks: so many at least, and so many for each
/// second of three days, so that two restores of the same backup leave out different ones.
const LATE_TASKS: i64 = 1 << 24;
const LATE_TASKS_PER_SECOND: i64 = 64;
const LATE_TASKS_SECONDS: i64 = 1 << 18;

/// The last numbers that a backup knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastNumbers {
    /// The era of the latest task.
    pub era: i64,
    /// Of the leader.
    pub term: i64,
    /// Of the latest job.
    pub job: i64,
    /// Of the latest event.
    pub event: i64,
}

/// The numbers to continue with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextNumbers {
    /// The era of the next task. No earlier task had one so high, so no worker holds a task with the number of a new one.
    pub era: i64,
    /// The term before that of the next leader.
    pub term: i64,
    /// The next job. Higher than any that was submitted after the backup, unless these are more than all before.
    pub job: i64,
    /// A number between the events of the backup, with those after it, and the next.
    pub event: i64,
    /// How many numbers the next attempt of an unfinished task leaves out.
    pub attempts_left_out: i64,
}

/// Whether a backup can be of that time. Numbers to leave out follow from its age, so a time that is too late is a danger.
pub fn is_plausible(taken_at: Time, now: Time) -> bool {
    taken_at <= now + CLOCK_TOLERANCE
}

impl NextNumbers {
    /// Decides them for a backup that was `taken_at` that time.
    pub fn after(last: LastNumbers, taken_at: Time, now: Time) -> NextNumbers {
        // With a clock that is behind, earlier restores of the same backup may have had higher numbers.
        let now = now.max(taken_at);
        let seconds = now.timestamp();
        let since_backup = (now - taken_at).num_seconds().max(0);
        let job = last.job.saturating_add(last.job.max(ROUND_JOB));
        NextNumbers {
            // The era after the last one may exist already.
            era: (last.era + 2).max(seconds / SECONDS_PER_ERA),
            term: (last.term + 1).max(seconds),
            job: job.saturating_add(ROUND_JOB - 1) / ROUND_JOB * ROUND_JOB,
            event: last.event.saturating_add(EVENTS),
            attempts_left_out: since_backup
                .saturating_mul(ATTEMPTS_PER_SECOND)
                .saturating_add(FEWEST_ATTEMPTS)
                .min(MOST_ATTEMPTS),
        }
    }

    /// How many numbers are left out of those that jobs of an era get for further tasks.
    pub fn late_tasks_left_out(&self, now: Time) -> i64 {
        LATE_TASKS + now.timestamp().rem_euclid(LATE_TASKS_SECONDS) * LATE_TASKS_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const LAST: LastNumbers = LastNumbers { era: 3, term: 5, job: 42, event: 10_240 };

    fn at(secs: i64) -> Time {
        Time::from_timestamp(1_800_000_000 + secs, 0).unwrap()
    }

    #[test]
    fn every_number_is_beyond_those_of_the_backup_also_with_a_clock_that_is_wrong() {
        for now in [at(3_600), at(0), at(-3_600), Time::UNIX_EPOCH] {
            let next = NextNumbers::after(LAST, at(0), now);
            assert!(next.era > LAST.era + 1 && next.term > LAST.term, "{next:?}");
            assert!(next.job > LAST.job && next.event > LAST.event, "{next:?}");
            assert!(next.attempts_left_out >= FEWEST_ATTEMPTS, "{next:?}");
            assert!(
                next.era >= at(0).timestamp() / SECONDS_PER_ERA && next.term >= at(0).timestamp(),
                "{next:?}"
            );
        }
    }

    #[test]
    fn a_backup_is_not_of_a_time_to_come() {
        assert!(is_plausible(at(0), at(0)) && is_plausible(at(60), at(0)));
        assert!(!is_plausible(at(61), at(0)));
    }

    #[test]
    fn another_restore_of_the_same_backup_continues_with_other_numbers() {
        let (first, second) = (at(60), at(600));
        let [first, second] = [first, second].map(|now| NextNumbers::after(LAST, at(0), now));
        // An era lasts for longer than it takes to get to the next of them, so the first has not come so far.
        assert!(second.era >= first.era + 540 / SECONDS_PER_ERA);
        assert!(second.term > first.term);
        assert!(second.attempts_left_out >= first.attempts_left_out + 540 * ATTEMPTS_PER_SECOND);
        let late = [at(60), at(600)].map(|now| first.late_tasks_left_out(now));
        assert!((late[1] - late[0]).abs() >= 540 * LATE_TASKS_PER_SECOND, "{late:?}");
        assert!(late.iter().all(|left_out| (1 << 24..1 << 25).contains(left_out)), "{late:?}");
    }

    #[test]
    fn jobs_continue_with_a_round_number_beyond_as_many_as_there_were() {
        for (last, next) in [(0, 1_000), (42, 2_000), (1_000, 2_000), (1_001, 3_000), (1_000_000, 2_000_000)]
        {
            let numbers = NextNumbers::after(LastNumbers { job: last, ..LAST }, at(0), at(60));
            assert_eq!(numbers.job, next, "after {last}");
        }
    }

    #[test]
    fn what_was_backed_up_long_ago_has_numbers_left() {
        let next = NextNumbers::after(LAST, Time::UNIX_EPOCH, at(0));
        assert_eq!(next.attempts_left_out, MOST_ATTEMPTS);
        assert!(next.era < 1 << 31, "task numbers are 63 bits, of which 32 are the era's");
    }
}
