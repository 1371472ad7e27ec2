//! Points and lengths of time, as people read them.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Local, TimeDelta, Utc};

/// The master tells its time to the second, and that was a moment ago.
const ALIKE: TimeDelta = TimeDelta::seconds(2);
/// By so many milliseconds the master's clock is ahead of this one.
static MASTER_AHEAD_MILLIS: AtomicI64 = AtomicI64::new(0);

/// Takes in what an answer's `Date` says. Ages are told by the clock that the times are from: the master's.
pub fn heard(date: &str) {
    if let Ok(theirs) = DateTime::parse_from_rfc2822(date) {
        let ahead = theirs.with_timezone(&Utc) - Utc::now();
        let ahead = if ahead.abs() <= ALIKE { TimeDelta::zero() } else { ahead };
        MASTER_AHEAD_MILLIS.store(ahead.num_milliseconds(), Ordering::Relaxed);
    }
}

/// The time now, by the clock of the master that answered last.
pub fn now() -> DateTime<Utc> {
    let ahead = TimeDelta::milliseconds(MASTER_AHEAD_MILLIS.load(Ordering::Relaxed));
    Utc::now().checked_add_signed(ahead).unwrap_or_else(Utc::now)
}

/// `3m ago`; `in 3m` for what is to come.
pub fn ago(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let delta = now - then;
    // Two clocks are never quite the same: what happened just now may seem to lie ahead.
    if delta.abs() < TimeDelta::seconds(1) {
        return "now".to_owned();
    }
    if delta < TimeDelta::zero() {
        format!("in {}", coarse(-delta))
    } else {
        format!("{} ago", coarse(delta))
    }
}

fn coarse(delta: TimeDelta) -> String {
    let seconds = delta.num_seconds();
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `1m12s`: the two largest units that matter.
pub fn lasted(from: DateTime<Utc>, to: DateTime<Utc>) -> String {
    lasted_seconds((to - from).num_milliseconds() as f64 / 1e3)
}

/// The same of a length in seconds.
pub fn lasted_seconds(seconds: f64) -> String {
    let millis = (seconds.max(0.0) * 1e3).round() as i64;
    let seconds = millis / 1_000;
    match seconds {
        0 => format!("{millis}ms"),
        1..10 => format!("{seconds}.{}s", millis % 1_000 / 100),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Date and time by the clock of this machine.
pub fn local(at: DateTime<Utc>) -> String {
    at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::milliseconds(millis)
    }

    #[test]
    fn lengths_have_their_two_largest_units() {
        let cases = [
            (0, "0ms"),
            (999, "999ms"),
            (3_250, "3.2s"),
            (42_900, "42s"),
            (72_000, "1m12s"),
            (3_600_000, "1h00m"),
            (90_000_000, "1d01h"),
            (-5, "0ms"),
        ];
        for (millis, text) in cases {
            assert_eq!(lasted(at(0), at(millis)), text);
        }
    }

    #[test]
    fn ages_are_coarse() {
        let cases =
            [(300, "now"), (-300, "now"), (5_000, "5s ago"), (200_000, "3m ago"), (-7_200_000, "in 2h")];
        for (millis, text) in cases {
            assert_eq!(ago(at(0), at(millis)), text);
        }
    }
}
