//! Health checks on the page of a task: the newest results, and the last hour at a glance.

use gaffer_domain::Time;
use gaffer_domain::health::{CheckKind, outcome_word};
use serde::Serialize;

use super::format::many;
use super::rows::Segment;
use super::view::Row;
use crate::records::HealthResult;

/// The newest results that are listed.
const LISTED: usize = 10;
/// The last hour in so many parts.
const MINUTES: usize = 60;

/// The results of the last hour of a task.
#[derive(Debug, Default)]
pub struct Checks {
    /// Each check that has results.
    pub hours: Vec<HourRow>,
    /// Newest first.
    pub rows: Vec<CheckRow>,
}

/// A check over the last hour.
#[derive(Debug, Clone, Default, Serialize)]
pub struct HourRow {
    /// Its name, which is its key.
    pub key: &'static str,
    /// Each minute with results; one failure makes it a failed one.
    pub segments: Vec<Segment>,
    /// The same in words.
    pub text: String,
}

/// A result of a check.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CheckRow {
    pub key: String,
    pub check: &'static str,
    pub at: Option<i64>,
    pub outcome: &'static str,
    pub took: String,
    pub detail: String,
}

impl Checks {
    /// Of results of the last hour, oldest first.
    pub fn of(results: Vec<HealthResult>, now: Time) -> Checks {
        let hours = CheckKind::ALL.into_iter().filter_map(|kind| HourRow::of(kind, &results, now));
        let hours = hours.collect();
        let newest = results.into_iter().rev().take(LISTED);
        Checks { hours, rows: newest.map(CheckRow::of).collect() }
    }
}

impl HourRow {
    fn of(kind: CheckKind, results: &[HealthResult], now: Time) -> Option<HourRow> {
        let (mut passed, mut failed) = (0_u64, 0_u64);
        let mut minutes: [Option<bool>; MINUTES] = [None; MINUTES];
        for HealthResult { check: _, result } in results.iter().filter(|found| found.check == kind) {
            *(if result.passed { &mut passed } else { &mut failed }) += 1;
            let ago = usize::try_from((now - result.at).num_minutes().max(0)).unwrap_or(MINUTES);
            if let Some(minute) = MINUTES.checked_sub(ago + 1).and_then(|at| minutes.get_mut(at)) {
                *minute = Some(minute.unwrap_or(true) && result.passed);
            }
        }
        let text = match (passed, failed) {
            (0, 0) => return None,
            (_, 0) => format!("{} passed", many(passed)),
            (0, _) => format!("{} failed", many(failed)),
            _ => format!("{} passed, {} failed", many(passed), many(failed)),
        };
        Some(HourRow { key: kind.as_str(), segments: segments(&minutes), text })
    }
}

/// Minutes in a row with the same outcome are one segment.
fn segments(minutes: &[Option<bool>; MINUTES]) -> Vec<Segment> {
    let width = 100.0 / MINUTES as f64;
    let mut segments: Vec<Segment> = Vec::new();
    let mut last = None;
    for (at, minute) in minutes.iter().enumerate() {
        match (minute, segments.last_mut()) {
            (None, _) => {}
            (same, Some(segment)) if *same == last => segment.2 += width,
            (Some(passed), _) => {
                segments.push((outcome_word(*passed), at as f64 * width, width));
            }
        }
        last = *minute;
    }
    let rounded = |x: f64| (x * 100.0).round() / 100.0;
    segments.into_iter().map(|(class, at, width)| (class, rounded(at), rounded(width))).collect()
}

impl CheckRow {
    fn of(HealthResult { check, result }: HealthResult) -> CheckRow {
        let at = result.at.timestamp_millis();
        CheckRow {
            key: format!("{} {}", check.as_str(), result.at.timestamp_micros()),
            check: check.as_str(),
            at: Some(at),
            outcome: outcome_word(result.passed),
            took: format!("{:.3} s", result.took_micros as f64 / 1e6),
            detail: result.detail,
        }
    }
}

impl Row for HourRow {
    fn key(&self) -> &str {
        self.key
    }
}

impl Row for CheckRow {
    fn key(&self) -> &str {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use chrono::TimeDelta;
    use gaffer_protocol::health::CheckResult;

    use super::*;

    #[test]
    fn a_minute_with_a_failure_is_a_failed_one() {
        let now = Time::from_timestamp(1_800_000_000, 0).unwrap();
        let result = |secs_ago: i64, passed| HealthResult {
            check: CheckKind::Health,
            result: CheckResult {
                at: now - TimeDelta::seconds(secs_ago),
                after_millis: 0,
                passed,
                took_micros: 1_500,
                detail: "status 200".to_owned(),
            },
        };
        let results = vec![
            result(3_590, true),
            result(150, true),
            result(90, true),
            result(80, false),
            result(30, false),
            result(5, true),
            result(-5, true),
        ];
        let checks = Checks::of(results, now);
        let [health] = checks.hours.as_slice() else { panic!("{:?}", checks.hours) };
        assert_eq!((health.key, health.text.as_str()), ("health", "5 passed, 2 failed"));
        let segments = [("passed", 0.0, 1.67), ("passed", 95.0, 1.67), ("failed", 96.67, 3.33)];
        assert_eq!(health.segments, segments);
        assert_eq!((checks.rows[0].outcome, checks.rows[0].took.as_str()), ("passed", "0.002 s"));
    }
}
