//! Measured values by round, with the limit of this machine that was measured in the same round.

use std::time::Instant;

/// What a figure is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    pub name: &'static str,
    /// The end of the names in JSON.
    pub suffix: &'static str,
    /// Whether more is better.
    pub is_rate: bool,
}

impl Unit {
    const fn rate(name: &'static str, suffix: &'static str) -> Unit {
        Unit { name, suffix, is_rate: true }
    }

    const fn amount(name: &'static str, suffix: &'static str) -> Unit {
        Unit { name, suffix, is_rate: false }
    }
}

pub const TASKS_PER_SECOND: Unit = Unit::rate("tasks/s", "tasks_per_second");
pub const PER_SECOND: Unit = Unit::rate("/s", "per_second");
pub const MEGABYTES_PER_SECOND: Unit = Unit::rate("MB/s", "megabytes_per_second");
pub const LINES_PER_SECOND: Unit = Unit::rate("lines/s", "lines_per_second");
pub const MILLISECONDS: Unit = Unit::amount("ms", "milliseconds");
pub const MICROSECONDS_PER_TASK: Unit = Unit::amount("µs/task", "microseconds_per_task");
pub const SECONDS: Unit = Unit::amount("s", "seconds");
pub const KIBIBYTES: Unit = Unit::amount("KiB", "kibibytes");
pub const MEBIBYTES: Unit = Unit::amount("MiB", "mebibytes");
pub const LINES: Unit = Unit::amount("lines", "lines");
pub const PERCENT: Unit = Unit::amount("%", "percent");

/// A limit of the machine, or another value that a figure is compared with.
#[derive(Debug, Clone)]
pub struct Limit {
    pub name: &'static str,
    pub rounds: Vec<f64>,
}

/// One value of a measurement, by round.
#[derive(Debug, Clone)]
pub struct Figure {
    pub name: String,
    pub unit: Unit,
    pub rounds: Vec<f64>,
    pub limit: Option<Limit>,
}

impl Figure {
    /// Its name in JSON: words joined by `_`, with the unit at the end.
    pub fn key(&self) -> String {
        key(&self.name, self.unit)
    }

    pub fn median(&self) -> f64 {
        median(&self.rounds)
    }

    /// The median over the rounds of value divided by limit.
    pub fn ratio(&self) -> Option<f64> {
        let limit = self.limit.as_ref()?;
        let ratios: Vec<f64> =
            self.rounds.iter().zip(&limit.rounds).map(|(value, limit)| value / limit).collect();
        Some(median(&ratios)).filter(|ratio| ratio.is_finite())
    }
}

/// All figures of one measurement, in the order in which they were first added.
#[derive(Debug, Default)]
pub struct Figures {
    pub all: Vec<Figure>,
    /// What was not measured, and why.
    pub notes: Vec<String>,
}

impl Figures {
    /// Adds the value of a round.
    pub fn add(&mut self, name: &str, unit: Unit, value: f64) {
        self.add_beside(name, unit, value, None);
    }

    /// Adds the value of a round, and that of its limit in the same round.
    pub fn add_beside(&mut self, name: &str, unit: Unit, value: f64, limit: Option<(&'static str, f64)>) {
        let at = self.all.iter().position(|figure| figure.name == name).unwrap_or_else(|| {
            self.all.push(Figure { name: name.to_owned(), unit, rounds: Vec::new(), limit: None });
            self.all.len() - 1
        });
        let figure = &mut self.all[at];
        figure.rounds.push(value);
        if let Some((name, value)) = limit {
            figure.limit.get_or_insert_with(|| Limit { name, rounds: Vec::new() }).rounds.push(value);
        }
    }

    /// Adds percentiles of a round's samples; each beside the same of its limit.
    pub fn add_percentiles(
        &mut self,
        name: &str,
        unit: Unit,
        percents: &[usize],
        samples: &[f64],
        limit: Option<(&'static str, &[f64])>,
    ) {
        for percent in percents {
            let limit = limit.map(|(name, samples)| (name, percentile(samples, *percent)));
            self.add_beside(&format!("{name}, p{percent}"), unit, percentile(samples, *percent), limit);
        }
    }

    /// Says once that something was not measured.
    pub fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// Median and high percentiles of a latency.
pub const OF_LATENCY: &[usize] = &[50, 90, 99];
/// Of requests that people wait for.
pub const OF_REQUESTS: &[usize] = &[50, 95];

/// The name of a value in JSON.
pub fn key(name: &str, unit: Unit) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut words: Vec<String> = words.map(str::to_ascii_lowercase).collect();
    // No `tasks_tasks_per_second`.
    if unit.suffix.split('_').next() == words.last().map(String::as_str) {
        words.pop();
    }
    words.push(unit.suffix.to_owned());
    words.join("_")
}

/// The time since then, in milliseconds.
pub fn millis_since(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

/// The middle value, or the mean of the two in the middle; not a number if there is none.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The smallest value that is not exceeded by so many percent of the values (nearest rank).
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let sorted = sorted(values);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!([50, 90, 99, 100].map(|percent| percentile(&values, percent)), [50.0, 90.0, 99.0, 100.0]);
        assert_eq!([1, 50, 99].map(|percent| percentile(&[7.0], percent)), [7.0; 3]);
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_ratio_compares_within_rounds() {
        let mut figures = Figures::default();
        // The machine was slow in the second round: both met that.
        for (value, limit) in [(50.0, 100.0), (10.0, 20.0), (55.0, 100.0)] {
            figures.add_beside("rate", TASKS_PER_SECOND, value, Some(("floor", limit)));
        }
        assert_eq!((figures.all[0].median(), figures.all[0].ratio()), (50.0, Some(0.5)));
        figures.add("alone", MILLISECONDS, 1.0);
        assert_eq!(figures.all[1].ratio(), None);
    }

    #[test]
    fn a_name_in_json_ends_with_its_unit() {
        let keys = [
            key("submit to final, p50", MILLISECONDS),
            key("`gaffer run true`, p99", MILLISECONDS),
            key("GET /jobs?state=failed, p95", MILLISECONDS),
            key("tasks, 100,000 at once", TASKS_PER_SECOND),
        ];
        let expected = [
            "submit_to_final_p50_milliseconds",
            "gaffer_run_true_p99_milliseconds",
            "get_jobs_state_failed_p95_milliseconds",
            "tasks_100_000_at_once_tasks_per_second",
        ];
        assert_eq!(keys, expected);
    }
}
