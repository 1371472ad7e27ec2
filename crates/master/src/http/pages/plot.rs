//! Plots as SVG paths in a 100 × 100 box, with the values as text.

use std::fmt::Write as _;

use chrono::{DateTime, TimeDelta, Utc};

use super::format::clock;
use crate::background::sampler::{SAMPLE_INTERVAL, Sample};
use crate::background::scheduler::stats::Pass;

/// A plot reaches back so far.
const REACH: TimeDelta = TimeDelta::hours(1);
/// Period of one table row.
const ROWS: i32 = 6;
/// Samples farther apart than this many intervals are not connected.
const GAP: u32 = 3;

/// What was reserved and used of something over the last hour.
#[derive(Debug)]
pub struct Plot {
    pub name: &'static str,
    /// Path of what was reserved.
    pub allocated: String,
    /// Path of what was used.
    pub used: String,
    /// The same as a table: from when on, reserved and used on average.
    pub rows: Vec<[String; 3]>,
}

impl Plot {
    /// The plots of a worker.
    pub fn of_worker(samples: &[Sample], now: DateTime<Utc>) -> Vec<Plot> {
        // One point is no line.
        if samples.len() < 2 {
            return Vec::new();
        }
        let plot = |name, allocated: fn(&Sample) -> Option<f64>, used: fn(&Sample) -> Option<f64>| Plot {
            name,
            allocated: path(samples, allocated, now),
            used: path(samples, used, now),
            rows: rows(samples, allocated, used, now),
        };
        vec![
            plot("CPU", |sample| Some(sample.cpu_allocated), |sample| sample.cpu_used),
            plot("Memory", |sample| Some(sample.memory_allocated), |sample| Some(sample.memory_used)),
        ]
    }
}

/// A line through shares, with gaps where there are no samples.
fn path(samples: &[Sample], share: impl Fn(&Sample) -> Option<f64>, now: DateTime<Utc>) -> String {
    let mut path = String::new();
    let mut last: Option<DateTime<Utc>> = None;
    let connected = TimeDelta::from_std(SAMPLE_INTERVAL * GAP).unwrap_or_default();
    for sample in samples {
        let Some(share) = share(sample) else { continue };
        let x = 100.0 - (now - sample.at).as_seconds_f64() / REACH.as_seconds_f64() * 100.0;
        if x < 0.0 {
            continue;
        }
        let pen = if last.is_some_and(|last| sample.at - last <= connected) { 'L' } else { 'M' };
        // Writing to a text cannot fail.
        let _ = write!(path, "{pen}{x:.2} {:.2}", 100.0 - share.clamp(0.0, 1.0) * 100.0);
        last = Some(sample.at);
    }
    path
}

fn rows(
    samples: &[Sample],
    allocated: impl Fn(&Sample) -> Option<f64>,
    used: impl Fn(&Sample) -> Option<f64>,
    now: DateTime<Utc>,
) -> Vec<[String; 3]> {
    let step = REACH / ROWS;
    let row = |n: i32| {
        let from = now - step * n;
        let within: Vec<&Sample> =
            samples.iter().filter(|sample| sample.at > from && sample.at <= from + step).collect();
        (!within.is_empty()).then(|| {
            let mean = |share: &dyn Fn(&Sample) -> Option<f64>| {
                let shares: Vec<f64> = within.iter().filter_map(|sample| share(sample)).collect();
                match shares.len() {
                    0 => "—".to_owned(),
                    n => format!("{:.0}%", shares.iter().sum::<f64>() / n as f64 * 100.0),
                }
            };
            [clock(&from.timestamp_millis()), mean(&allocated), mean(&used)]
        })
    };
    (1..=ROWS).rev().filter_map(row).collect()
}

/// Durations of passes: one line for the total and one for the decision, and the value at full height. Passes are
/// equally spaced.
#[derive(Debug)]
pub struct PassPlot {
    /// Path of the whole passes.
    pub whole: String,
    /// Path of the decisions.
    pub decision: String,
    /// What the top of the plot is.
    pub top: String,
}

impl PassPlot {
    /// The plot of some passes, oldest first.
    pub fn of(passes: &[Pass]) -> PassPlot {
        let top_micros = passes.iter().map(|pass| pass.micros).max().unwrap_or(0).max(1);
        let path = |micros: fn(&Pass) -> u64| {
            let mut path = String::new();
            for (at, pass) in passes.iter().enumerate() {
                let x = at as f64 / passes.len().saturating_sub(1).max(1) as f64 * 100.0;
                let y = 100.0 - micros(pass) as f64 / top_micros as f64 * 100.0;
                let _ = write!(path, "{}{x:.2} {y:.2}", if at == 0 { 'M' } else { 'L' });
            }
            path
        };
        let top = format!("{:.1} ms", top_micros as f64 / 1e3);
        PassPlot { whole: path(|pass| pass.micros), decision: path(|pass| pass.decision_micros), top }
    }
}
