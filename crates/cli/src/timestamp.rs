//! Formats times and durations for people.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Local, TimeDelta, Utc};
use gaffer_protocol::elapsed;

/// The master tells its time to the second, and that was a moment ago.
const ALIKE: TimeDelta = TimeDelta::seconds(2);
/// Milliseconds by which the master's clock is ahead of this one.
static MASTER_AHEAD_MILLIS: AtomicI64 = AtomicI64::new(0);

/// Reads the `Date` of a response, because ages are shown by the master's clock.
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

/// `3m ago`, or `in 3m`.
pub fn ago(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    elapsed::ago(then.timestamp_millis(), now.timestamp_millis())
}

/// `1m12s`: how long it was from one time to another.
pub fn lasted(from: DateTime<Utc>, to: DateTime<Utc>) -> String {
    elapsed::lasted((to - from).num_milliseconds())
}

/// The same of a length in seconds.
pub fn lasted_seconds(seconds: f64) -> String {
    elapsed::lasted((seconds * 1e3).round() as i64)
}

/// Date and time by the clock of this machine.
pub fn local(at: DateTime<Utc>) -> String {
    at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string()
}
