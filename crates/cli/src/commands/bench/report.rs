//! The result of a run: tables with medians and ratios, the same in Markdown, or JSON with all rounds.

use std::fs;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::figures::{Figure, Figures, Unit, key, median};
use super::history::Standing;
use super::leftovers::Leftovers;
use super::limits::processors;
use crate::out::Out;
use crate::style;
use crate::table::{self, Cell};

/// The scratch installation that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Finished tasks that were asked for.
    pub tasks: u64,
    /// Whether the database had gathered statistics about them.
    pub has_statistics: bool,
}

/// The outcome of one measurement.
#[derive(Debug)]
pub struct Outcome {
    pub measurement: &'static str,
    /// None on an installation of the user.
    pub history: Option<History>,
    /// What was in the database before and after it: earlier measurements leave tasks as well.
    pub before: Option<Standing>,
    pub after: Option<Standing>,
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
    pub fn to_json(&self, leftovers: &Leftovers) -> Value {
        let machine = json!({
            "processors": processors(),
            "processor_model": processor_model(),
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "begun_at": self.begun_at,
            "server": self.server,
            "machine": machine,
            "rounds": self.rounds,
            "interrupted": self.is_interrupted,
            "warnings": self.warnings,
            "left": leftovers.left().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "results": self.outcomes.iter().map(outcome).collect::<Vec<_>>(),
        })
    }

    /// Medians and ratios: a table for each measurement.
    pub fn to_table(&self, out: &Out) -> String {
        let mut text = String::new();
        for warning in &self.warnings {
            text.push_str(&format!("! {warning}\n"));
        }
        let mut last = None;
        for outcome in &self.outcomes {
            if let Some(history) = outcome.history.filter(|_| last != Some(outcome.history)) {
                text.push_str(&format!("\n{}\n", title(history)));
            }
            last = Some(outcome.history);
            text.push_str(&section(out, outcome));
        }
        text
    }

    /// A row for each figure, a column for each installation: for documents.
    pub fn to_markdown(&self) -> String {
        let mut installations: Vec<Option<History>> = Vec::new();
        let mut figures: Vec<(&str, &Figure)> = Vec::new();
        for outcome in &self.outcomes {
            if !installations.contains(&outcome.history) {
                installations.push(outcome.history);
            }
            for figure in &outcome.figures.all {
                let is_same = |(measurement, other): &(&str, &Figure)| {
                    *measurement == outcome.measurement && other.name == figure.name
                };
                if !figures.iter().any(is_same) {
                    figures.push((outcome.measurement, figure));
                }
            }
        }
        let model = processor_model().map(|model| format!(" ({model})")).unwrap_or_default();
        let mut text = format!(
            "gaffer {}, {} processors{model}, {}. Medians of {} rounds.\n\n",
            env!("CARGO_PKG_VERSION"),
            processors(),
            self.begun_at.format("%Y-%m-%d"),
            self.rounds
        );
        let titles = installations.iter().map(|history| history.map_or("installation".to_owned(), title));
        let head: Vec<String> =
            ["measurement", "figure"].map(str::to_owned).into_iter().chain(titles).collect();
        text.push_str(&markdown_row(&head));
        text.push_str(&markdown_row(&vec!["---".to_owned(); head.len()]));
        for (measurement, figure) in figures {
            let beside =
                figure.limit.as_ref().map(|limit| format!(" (of {})", limit.name)).unwrap_or_default();
            let mut row = vec![measurement.to_owned(), format!("{}{beside}", figure.name)];
            for history in &installations {
                let of_it = self
                    .outcomes
                    .iter()
                    .filter(|outcome| outcome.history == *history && outcome.measurement == measurement);
                let mut same = of_it.flat_map(|outcome| &outcome.figures.all);
                row.push(same.find(|other| other.name == figure.name).map_or("-".to_owned(), markdown_value));
            }
            text.push_str(&markdown_row(&row));
        }
        for outcome in &self.outcomes {
            let of = outcome.history.map(|history| format!(", {}", title(history))).unwrap_or_default();
            for line in standing(outcome).into_iter().chain(remarks(outcome)) {
                text.push_str(&format!("\n- {}{of}: {line}", outcome.measurement));
            }
        }
        text + "\n"
    }
}

/// Nothing in a cell may end it.
fn markdown_row(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn markdown_value(figure: &Figure) -> String {
    let value = quantity(figure.median(), figure.unit);
    match figure.ratio() {
        Some(ratio) => format!("{value} ({})", ratio_in_words(ratio, figure.unit)),
        None => value,
    }
}

/// One measurement: its name, what it is compared with, how full the database was, the figures, and what went wrong.
fn section(out: &Out, outcome: &Outcome) -> String {
    let mut limits: Vec<&str> = Vec::new();
    for limit in outcome.figures.all.iter().filter_map(|figure| figure.limit.as_ref()) {
        if !limits.contains(&limit.name) {
            limits.push(limit.name);
        }
    }
    let mut text = format!("\n{}", outcome.measurement);
    if !limits.is_empty() {
        text.push_str(&format!(", limit: {}", limits.join(", ")));
    }
    text.push('\n');
    text.extend(standing(outcome).map(|standing| format!("{standing}\n")));
    let rows: Vec<Vec<Cell>> = outcome.figures.all.iter().map(row).collect();
    if !rows.is_empty() {
        text.push_str(&table::render(out, &["FIGURE", "MEDIAN", "OF LIMIT", "LIMIT"], rows));
    }
    for remark in remarks(outcome) {
        text.push_str(&format!("✗ {remark}\n"));
    }
    text
}

/// What was not measured, or not to the end.
fn remarks(outcome: &Outcome) -> Vec<String> {
    let remarks = outcome.figures.notes.iter().chain(&outcome.error);
    remarks.map(|remark| style::visible(remark).into_owned()).collect()
}

/// How full the database really was.
fn standing(outcome: &Outcome) -> Option<String> {
    let Standing { finished_tasks, database_bytes } = outcome.before?;
    let after = outcome.after.unwrap_or(Standing { finished_tasks, database_bytes });
    let megabytes = |bytes: i64| count(bytes.unsigned_abs() / 1_000_000);
    Some(format!(
        "{} finished tasks, database {} MB",
        from_to(count(finished_tasks), count(after.finished_tasks)),
        from_to(megabytes(database_bytes), megabytes(after.database_bytes)),
    ))
}

fn from_to(from: String, to: String) -> String {
    if from == to { from } else { format!("{from} to {to}") }
}

fn title(history: History) -> String {
    let statistics = if history.has_statistics { "with" } else { "without" };
    format!("history of {} tasks, {statistics} statistics", count(history.tasks))
}

fn row(figure: &Figure) -> Vec<Cell> {
    vec![
        Cell::text(&figure.name),
        Cell::text(quantity(figure.median(), figure.unit)),
        Cell::maybe(figure.ratio().map(|ratio| ratio_in_words(ratio, figure.unit))),
        Cell::maybe(figure.limit.as_ref().map(|limit| number(median(&limit.rounds)))),
    ]
}

/// The name that Linux has for it.
fn processor_model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// A share of a rate, a multiple of a time.
fn ratio_in_words(ratio: f64, unit: Unit) -> String {
    if unit.is_rate { format!("{:.0} %", ratio * 100.0) } else { format!("{ratio:.1} ×") }
}

fn quantity(value: f64, unit: Unit) -> String {
    format!("{} {}", number(value), unit.name)
}

/// Three digits, or all of a large number, in groups.
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
    let text = format!("{magnitude:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let sign = if value < 0.0 { "-" } else { "" };
    format!("{sign}{}{rest}", grouped(whole))
}

/// All digits, in groups.
pub fn count(number: u64) -> String {
    grouped(&number.to_string())
}

fn grouped(digits: &str) -> String {
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn outcome(outcome: &Outcome) -> Value {
    let Outcome { history, before, after, .. } = outcome;
    json!({
        "measurement": outcome.measurement,
        "history_tasks": history.map(|history| history.tasks),
        "history_statistics": history.map(|history| history.has_statistics),
        "finished_tasks_before": before.map(|standing| standing.finished_tasks),
        "finished_tasks_after": after.map(|standing| standing.finished_tasks),
        "database_bytes": before.map(|standing| standing.database_bytes),
        "database_bytes_after": after.map(|standing| standing.database_bytes),
        "seconds": outcome.seconds,
        "error": outcome.error,
        "notes": outcome.figures.notes,
        "figures": outcome.figures.all.iter().map(figure).collect::<Vec<_>>(),
    })
}

fn figure(figure: &Figure) -> Value {
    let limit = figure.limit.as_ref().map(|limit| {
        json!({
            "key": key(limit.name, figure.unit),
            "name": limit.name,
            "median": median(&limit.rounds),
            "rounds": limit.rounds,
        })
    });
    json!({
        "key": figure.key(),
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
    use super::super::figures::{MILLISECONDS, TASKS_PER_SECOND};
    use super::*;

    #[test]
    fn numbers_are_short_and_in_groups() {
        let shown = [0.0, 0.1234, 1.0, 9.87, 45.67, 1_650.4, 1_234_567.0, -1_234.0].map(number);
        assert_eq!(shown, ["0", "0.123", "1.00", "9.87", "45.7", "1,650", "1,234,567", "-1,234"]);
        assert_eq!(number(f64::NAN), "-");
        assert_eq!([0, 50, 999, 1_000, 1_234_567].map(count), ["0", "50", "999", "1,000", "1,234,567"]);
    }

    fn report() -> Report {
        let mut report = Report::new(2);
        for (has_statistics, rate) in [(false, 1_000.0), (true, 1_200.0)] {
            let mut figures = Figures::default();
            figures.add_beside("tasks", TASKS_PER_SECOND, rate, Some(("floor program", 2_000.0)));
            figures.add("only a time", MILLISECONDS, 4.5);
            let before = Standing { finished_tasks: 1_000_002, database_bytes: 2_500_000_000 };
            let after = Standing { finished_tasks: 1_050_002, database_bytes: 2_600_000_000 };
            report.outcomes.push(Outcome {
                measurement: "throughput",
                history: Some(History { tasks: 1_000_000, has_statistics }),
                before: Some(before),
                after: Some(after),
                figures,
                seconds: 1.0,
                error: has_statistics.then(|| "a|b".to_owned()),
            });
        }
        report
    }

    #[test]
    fn a_table_for_documents_has_a_column_for_each_installation() {
        let text = report().to_markdown();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        let expected = [
            "| measurement | figure | history of 1,000,000 tasks, without statistics \
             | history of 1,000,000 tasks, with statistics |",
            "| --- | --- | --- | --- |",
            "| throughput | tasks (of floor program) | 1,000 tasks/s (50 %) | 1,200 tasks/s (60 %) |",
            "| throughput | only a time | 4.50 ms | 4.50 ms |",
        ];
        assert_eq!(rows, expected);
        assert!(text.contains("- throughput, history of 1,000,000 tasks, with statistics: a|b\n"), "{text}");
    }

    #[test]
    fn what_was_really_in_the_database_is_told() {
        let report = report();
        let expected = "1,000,002 to 1,050,002 finished tasks, database 2,500 to 2,600 MB";
        assert_eq!(standing(&report.outcomes[0]).as_deref(), Some(expected));
        let json = report.to_json(&Leftovers::default());
        let result = &json["results"][0];
        assert_eq!(
            (&result["finished_tasks_before"], &result["finished_tasks_after"]),
            (&json!(1_000_002), &json!(1_050_002))
        );
        assert_eq!(result["figures"][0]["key"], "tasks_per_second");
        assert_eq!(result["figures"][0]["limit"]["key"], "floor_program_tasks_per_second");
    }
}
