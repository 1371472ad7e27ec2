//! The result of a run: a table with medians and ratios, or JSON with all rounds.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::figures::{Figure, Figures, Unit, median};
use super::limits::processors;
use crate::out::Out;
use crate::style;
use crate::table::{self, Cell};

/// What a scratch installation had in its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Finished tasks that were written to it before.
    pub tasks: u64,
    /// Whether the database had gathered statistics about them.
    pub has_statistics: bool,
    /// Bytes of the database.
    pub database_bytes: i64,
}

/// The outcome of one measurement.
#[derive(Debug)]
pub struct Outcome {
    pub measurement: &'static str,
    /// None on an installation of the user.
    pub history: Option<History>,
    pub figures: Figures,
    pub seconds: f64,
    /// Why it has not all rounds.
    pub error: Option<String>,
}

/// Everything that was measured.
#[derive(Debug)]
pub struct Report {
    pub begun_at: DateTime<Utc>,
    /// The address of the API; none of scratch installations.
    pub server: Option<String>,
    pub rounds: u32,
    /// What the reader of the figures should know.
    pub warnings: Vec<String>,
    pub outcomes: Vec<Outcome>,
    /// Whether a signal ended it.
    pub is_interrupted: bool,
}

impl Report {
    /// Nothing was measured yet.
    pub fn new(rounds: u32) -> Report {
        Report {
            begun_at: Utc::now(),
            server: None,
            rounds,
            warnings: Vec::new(),
            outcomes: Vec::new(),
            is_interrupted: false,
        }
    }

    /// All rounds.
    pub fn to_json(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "begun_at": self.begun_at,
            "server": self.server,
            "machine": {"processors": processors(), "os": std::env::consts::OS, "arch": std::env::consts::ARCH},
            "rounds": self.rounds,
            "interrupted": self.is_interrupted,
            "warnings": self.warnings,
            "results": self.outcomes.iter().map(outcome).collect::<Vec<_>>(),
        })
    }

    /// Medians and ratios.
    pub fn to_table(&self, out: &Out) -> String {
        let mut text = String::new();
        for warning in &self.warnings {
            text.push_str(&format!("! {warning}\n"));
        }
        let mut rows = Vec::new();
        let mut last = None;
        for outcome in &self.outcomes {
            if last != Some(outcome.history) {
                text.push_str(&section(out, &std::mem::take(&mut rows)));
                if let Some(history) = outcome.history {
                    text.push_str(&format!("\n{}\n", title(history)));
                }
            }
            last = Some(outcome.history);
            rows.extend(outcome.figures.0.iter().map(|figure| row(outcome.measurement, figure)));
        }
        text.push_str(&section(out, &rows));
        for outcome in &self.outcomes {
            if let Some(error) = &outcome.error {
                text.push_str(&format!("✗ {}: {}\n", outcome.measurement, style::visible(error)));
            }
        }
        text
    }
}

fn section(out: &Out, rows: &[Vec<Cell>]) -> String {
    let head = ["MEASUREMENT", "FIGURE", "MEDIAN", "OF LIMIT", "LIMIT"];
    if rows.is_empty() { String::new() } else { table::render(out, &head, rows.to_vec()) }
}

fn title(history: History) -> String {
    let statistics = if history.has_statistics { "with" } else { "without" };
    format!(
        "history: {} finished tasks, {} MB, {statistics} statistics",
        number(history.tasks as f64),
        number(history.database_bytes as f64 / 1e6)
    )
}

fn row(measurement: &str, figure: &Figure) -> Vec<Cell> {
    let limit = figure.limit.as_ref().map(|limit| (limit.name, quantity(median(&limit.rounds), figure.unit)));
    vec![
        Cell::text(measurement),
        Cell::text(&figure.name),
        Cell::text(quantity(figure.median(), figure.unit)),
        Cell::maybe(figure.ratio().map(|ratio| ratio_in_words(ratio, figure.unit))),
        Cell::maybe(limit.map(|(name, value)| format!("{name}: {value}"))),
    ]
}

/// A share of a rate, a multiple of a time.
fn ratio_in_words(ratio: f64, unit: Unit) -> String {
    if unit.is_rate { format!("{:.0} %", ratio * 100.0) } else { format!("{ratio:.1} ×") }
}

fn quantity(value: f64, unit: Unit) -> String {
    format!("{} {}", number(value), unit.name)
}

/// Three digits, or all of a large whole number, in groups.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let magnitude = value.abs();
    let decimals = match magnitude {
        0.0 => 0,
        _ if magnitude < 1.0 => 3,
        _ if magnitude < 10.0 => 2,
        _ if magnitude < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::from(sign);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

fn outcome(outcome: &Outcome) -> Value {
    let history = outcome.history;
    json!({
        "measurement": outcome.measurement,
        "history_tasks": history.map(|history| history.tasks),
        "history_statistics": history.map(|history| history.has_statistics),
        "database_bytes": history.map(|history| history.database_bytes),
        "seconds": outcome.seconds,
        "error": outcome.error,
        "figures": outcome.figures.0.iter().map(figure).collect::<Vec<_>>(),
    })
}

fn figure(figure: &Figure) -> Value {
    let limit = figure
        .limit
        .as_ref()
        .map(|limit| json!({"name": limit.name, "median": median(&limit.rounds), "rounds": limit.rounds}));
    json!({
        "name": figure.name,
        "unit": figure.unit.name,
        "median": figure.median(),
        "rounds": figure.rounds,
        "limit": limit,
        "ratio": figure.ratio(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_in_groups() {
        let shown = [0.0, 0.1234, 1.0, 9.87, 45.67, 1_650.4, 1_234_567.0, -1_234.0].map(number);
        assert_eq!(shown, ["0", "0.123", "1.00", "9.87", "45.7", "1,650", "1,234,567", "-1,234"]);
        assert_eq!(number(f64::NAN), "-");
    }
}
