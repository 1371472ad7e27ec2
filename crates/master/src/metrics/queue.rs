//! What waits and what runs, as the database was last read.

use std::time::Duration;

use chrono::TimeDelta;
use gaffer_domain::Time;
use gaffer_domain::job::TaskCounts;
use gaffer_domain::task::StateName;

use super::registrar::{Family, FloatGauge, Gauge, Label, Registrar};
use crate::records::PriorityTotals;

const PRIORITY: Label = Label::new("priority", "`0-24`, `25-49`, `50-74`, `75-100`: the job's `priority`");
const WAITS_FOR: Label = Label::new("waits_for", "`worker` or `dependencies`");
const STATE: Label = Label::new("state", "a state of tasks that is not final");
const LETTER: Label = Label::new("kind", "`output` or `report`");

/// Bands of priorities, each with its last one.
const BANDS: [(&str, i16); 4] = [("0-24", 24), ("25-49", 49), ("50-74", 74), ("75-100", i16::MAX)];
const WAITS: [(&str, StateName); 2] = [("worker", StateName::Pending), ("dependencies", StateName::Blocked)];

#[derive(Debug, Clone)]
pub struct QueueMetrics {
    waiting: Family<Gauge, 2>,
    oldest_wait: Family<FloatGauge, 1>,
    tasks: Family<Gauge, 1>,
    dead_letters: Family<Gauge, 1>,
}

impl QueueMetrics {
    pub fn register(registrar: &mut Registrar) -> QueueMetrics {
        QueueMetrics {
            waiting: registrar.gauges(
                "gaffer_queue_tasks",
                [PRIORITY, WAITS_FOR],
                "Tasks that wait for a worker or for other tasks",
            ),
            oldest_wait: registrar.float_gauges(
                "gaffer_queue_oldest_wait_seconds",
                [PRIORITY],
                "How long the task at the head of the queue has been waiting for a worker; 0 without one",
            ),
            tasks: registrar.gauges("gaffer_tasks", [STATE], "Unfinished tasks"),
            dead_letters: registrar.gauges(
                "gaffer_dead_letters",
                [LETTER],
                "Dead letters: output and reports that the database refused; counted up to 10,000",
            ),
        }
    }

    /// Shows the unfinished tasks of all projects.
    pub fn show(&self, all: &[PriorityTotals], now: Time) {
        let mut total = TaskCounts::default();
        all.iter().for_each(|of| total.merge(&of.counts));
        for state in StateName::ALL.into_iter().filter(|state| !state.is_final()) {
            self.tasks.of([state.as_str()]).set(total.get(state));
        }
        let mut lowest = i16::MIN;
        for (band, highest) in BANDS {
            let of_band = || all.iter().filter(|of| (lowest..=highest).contains(&of.priority));
            for (waits_for, state) in WAITS {
                let count = of_band().map(|of| of.counts.get(state)).sum();
                self.waiting.of([band, waits_for]).set(count);
            }
            let since = of_band().filter_map(|of| of.waiting_since).min();
            self.oldest_wait.of([band]).set(since.map_or(0.0, |since| seconds(now - since)));
            lowest = highest.saturating_add(1);
        }
    }

    pub fn show_dead_letters(&self, kind: &'static str, count: i64) {
        self.dead_letters.of([kind]).set(count);
    }
}

/// A duration of two wall clock times; what lies in the future has not begun.
fn seconds(duration: TimeDelta) -> f64 {
    duration.to_std().unwrap_or(Duration::ZERO).as_secs_f64()
}
