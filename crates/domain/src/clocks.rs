//! The offset of a worker's clock from the master's, measured over round trips.
//!
//! No duration is the difference of two machines' clocks: run times are measured by the worker's monotonic clock, and
//! times of events are the master's. Times that a worker reports are corrected by this offset.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::TimeDelta;

use crate::Time;
use crate::quantity::Span;

/// A worker whose clock is off by more than this is warned about.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);
/// Number of kept samples; the fastest counts.
const KEPT: usize = 8;
/// Clocks wander a little between two samples.
const WANDERS: Duration = Duration::from_millis(100);

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSample {
    /// How far the worker's clock is ahead; less than zero if it is behind.
    pub ahead: TimeDelta,
    /// Round-trip time; the offset is within half of it.
    pub round_trip: Duration,
}

impl ClockSample {
    /// From a message that the worker sent at `sent`, by its clock, `after` the arrival of one of the master's; it arrived
    /// at `arrived`, by the master's clock, `answered_after` the master had sent that one.
    pub fn new(sent: Time, after: Duration, arrived: Time, answered_after: Duration) -> ClockSample {
        let round_trip = answered_after.saturating_sub(after);
        // Times that a worker makes up are not calculated with, but cut.
        let half = TimeDelta::from_std(round_trip / 2).unwrap_or(TimeDelta::zero());
        let ahead = sent.signed_duration_since(arrived).checked_add(&half).unwrap_or(TimeDelta::zero());
        ClockSample { ahead, round_trip }
    }

    /// A sentence for the worker's operator, if its clock is surely off.
    pub fn warning(&self) -> Option<String> {
        let off = self.ahead.abs().to_std().ok()?;
        if off.saturating_sub(self.round_trip / 2) <= CLOCK_TOLERANCE {
            return None;
        }
        let (off, direction) = (
            Span::from_secs((off + Duration::from_millis(500)).as_secs()),
            if self.ahead < TimeDelta::zero() { "behind" } else { "ahead of" },
        );
        Some(format!(
            "its clock is {off} {direction} the master's: synchronise it with NTP. Event times are \
             corrected, timestamps of output lines are not"
        ))
    }
}

/// The measurements of one worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClockOffset(VecDeque<ClockSample>);

impl ClockOffset {
    /// Adds a sample. A contradiction to earlier samples means that a clock was set.
    pub fn take(&mut self, sample: ClockSample) {
        if self.0.iter().any(|known| contradict(known, &sample)) {
            self.0.clear();
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// The best that is known.
    pub fn best(&self) -> Option<&ClockSample> {
        self.0.iter().min_by_key(|sample| sample.round_trip)
    }

    /// A time of the worker, converted to the master's clock as far as the offset is known.
    pub fn ours(&self, theirs: Time) -> Time {
        let ahead = self.best().map_or(TimeDelta::zero(), |sample| sample.ahead);
        theirs.checked_sub_signed(ahead).unwrap_or(theirs)
    }
}

fn contradict(one: &ClockSample, other: &ClockSample) -> bool {
    let may_differ = one.round_trip / 2 + other.round_trip / 2 + WANDERS;
    (one.ahead - other.ahead).abs().to_std().is_ok_and(|differ| differ > may_differ)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Time {
        Time::UNIX_EPOCH + TimeDelta::milliseconds(millis)
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The master sent something at 10,000 that took 30 ms; the worker answers after 5,000 ms, which takes 70 ms.
    fn sample(ahead_millis: i64) -> ClockSample {
        ClockSample::new(at(15_030 + ahead_millis), millis(5_000), at(15_100), millis(5_100))
    }

    #[test]
    fn a_clock_is_measured_to_half_of_a_round_trip() {
        for ahead in [0, 7_200_000, -7_200_000, 1_500] {
            let sample = sample(ahead);
            assert_eq!(sample.round_trip, millis(100));
            assert!((sample.ahead.num_milliseconds() - ahead).abs() <= 50, "{sample:?}");
        }
    }

    #[test]
    fn only_a_clock_that_is_surely_off_is_warned_about() {
        assert_eq!(sample(0).warning(), None);
        assert_eq!(sample(-1_900).warning(), None);
        assert!(
            sample(7_200_000)
                .warning()
                .is_some_and(|warning| warning.contains("is 2h ahead of the master's"))
        );
        assert!(sample(-3_000).warning().is_some_and(|warning| warning.contains("behind the master's")));
        let slow = ClockSample { ahead: TimeDelta::seconds(4), round_trip: Duration::from_secs(8) };
        assert_eq!(slow.warning(), None, "it may as well be right");
    }

    #[test]
    fn the_quickest_of_the_last_samples_counts_until_a_clock_is_set() {
        let mut offset = ClockOffset::default();
        assert_eq!(offset.ours(at(500)), at(500), "as it is told, while nothing is known");
        let slow = ClockSample { ahead: TimeDelta::milliseconds(900), round_trip: millis(2_000) };
        let quick = ClockSample { ahead: TimeDelta::milliseconds(300), round_trip: millis(10) };
        offset.take(slow);
        offset.take(quick);
        offset.take(slow);
        assert_eq!((offset.best(), offset.ours(at(500))), (Some(&quick), at(200)));
        let set = ClockSample { ahead: TimeDelta::hours(1), round_trip: millis(1_000) };
        offset.take(set);
        assert_eq!(offset.best(), Some(&set));
        for _ in 0..20 {
            offset.take(set);
        }
        assert_eq!(offset.0.len(), KEPT);
    }

    #[test]
    fn times_at_the_end_of_all_time_are_no_trouble() {
        for sent in [Time::MIN_UTC, Time::MAX_UTC] {
            let sample = ClockSample::new(sent, Duration::MAX, at(0), Duration::MAX);
            assert!(sample.warning().is_some());
            let mut offset = ClockOffset::default();
            offset.take(sample);
            offset.take(self::sample(0));
            offset.take(sample);
            let _ = (offset.ours(Time::MIN_UTC), offset.ours(Time::MAX_UTC));
        }
    }
}
