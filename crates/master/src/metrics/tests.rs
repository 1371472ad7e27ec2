#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use chrono::{TimeDelta, Utc};
use gaffer_domain::job::TaskCounts;
use gaffer_domain::reason::{AttemptEnd, LostCause};
use gaffer_domain::task::StateName;

use super::*;
use crate::records::PriorityTotals;
use crate::records::{DispatchStage, TaskChanges};

/// The value of one series.
fn value(metrics: &Metrics, series: &str) -> Option<String> {
    let text = metrics.text(Format::OpenMetrics);
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned))
}

#[test]
fn nothing_is_said_of_the_queue_before_it_was_read_and_each_priority_has_its_band() {
    let metrics = Metrics::default();
    assert!(!metrics.text(Format::OpenMetrics).contains("gaffer_queue_tasks"));
    let now = Utc::now();
    let of = |priority, pending, seconds: Option<i64>| {
        let mut counts = TaskCounts::default();
        counts.add(StateName::Pending, pending);
        let waiting_since = seconds.map(|seconds| now - TimeDelta::seconds(seconds));
        PriorityTotals { priority, counts, waiting_since }
    };
    let all =
        [of(0, 1, Some(5)), of(24, 2, Some(60)), of(25, 4, None), of(50, 8, Some(-30)), of(100, 16, Some(7))];
    metrics.queue.show(&all, now);
    for (band, tasks, wait) in
        [("0-24", "3", "60.0"), ("25-49", "4", "0.0"), ("50-74", "8", "0.0"), ("75-100", "16", "7.0")]
    {
        let series = format!("gaffer_queue_tasks{{priority=\"{band}\",waits_for=\"worker\"}}");
        assert_eq!(value(&metrics, &series).as_deref(), Some(tasks), "{band}");
        let series = format!("gaffer_queue_oldest_wait_seconds{{priority=\"{band}\"}}");
        assert_eq!(value(&metrics, &series).as_deref(), Some(wait), "{band}");
    }
    assert_eq!(value(&metrics, "gaffer_tasks{state=\"pending\"}").as_deref(), Some("31"));
    metrics.queue.show(&[], now);
    assert_eq!(value(&metrics, "gaffer_tasks{state=\"pending\"}").as_deref(), Some("0"));
}

#[test]
fn a_batch_counts_what_its_tasks_went_through() {
    let metrics = Metrics::default();
    let mut changed = TaskChanges::default();
    changed.entered.add(StateName::Running, 2);
    changed.waits.push((DispatchStage::Start, std::time::Duration::from_millis(40)));
    let lost = AttemptEnd::Lost { cause: LostCause::Rebooted };
    changed.ended(None);
    changed.ended(lost.reason().as_ref());
    metrics.transitions.changed(&changed);
    for (series, expected) in [
        ("gaffer_transitions_total{state=\"running\"}", "2"),
        ("gaffer_transitions_total{state=\"failed\"}", "0"),
        ("gaffer_dispatch_duration_seconds_bucket{le=\"0.025\",stage=\"start\"}", "0"),
        ("gaffer_dispatch_duration_seconds_bucket{le=\"0.05\",stage=\"start\"}", "1"),
        ("gaffer_attempts_ended_total{end=\"success\"}", "1"),
        ("gaffer_attempts_ended_total{end=\"lost_worker\"}", "1"),
    ] {
        assert_eq!(value(&metrics, series).as_deref(), Some(expected), "{series}");
    }
}
