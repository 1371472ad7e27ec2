//! Traces of submissions as CSV.
//!
//! ```text
//! submit_seconds,duration_seconds,cpu,memory,disk,count,priority,project
//! 0,12.5,1,512MiB,0,10,50,vision
//! ```
//!
//! One line a submission: seconds since the beginning of the trace, seconds that each task runs, what each reserves (as
//! in a job's `resources`), how many tasks, 0 to 100, and whose they are. Lines may stand in any order. Empty lines and those
//! that begin with `#` are passed over; nothing is quoted.

use std::fmt::{Display, Write};
use std::str::FromStr;

use gaffer_domain::quantity::{Bytes, Cpu, Span, shown};
use gaffer_domain::text::without_bom;

/// The first line of a trace.
pub const HEADER: &str = "submit_seconds,duration_seconds,cpu,memory,disk,count,priority,project";
/// The most tasks of a trace.
pub const MAX_TRACE_TASKS: u64 = 10_000_000;
const FIELDS: usize = 8;
const MAX_COUNT: u32 = 100_000;
const MAX_PRIORITY: u8 = 100;
const MAX_PROJECT_CHARS: usize = 63;

/// Equal tasks that are submitted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Since the beginning of the trace.
    pub submit: Span,
    /// How long each of them runs.
    pub duration: Span,
    /// Processors that each reserves.
    pub cpu: Cpu,
    /// Memory that each reserves.
    pub memory: Bytes,
    /// Disk that each reserves.
    pub disk: Bytes,
    /// How many; at least 1.
    pub count: u32,
    /// 0..=100, higher goes first.
    pub priority: u8,
    /// Whose they are.
    pub project: String,
}

/// Why a text is not a trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {detail}")]
pub struct TraceError {
    /// From 1.
    pub line: usize,
    /// The character at which the wrong field begins, from 1.
    pub column: usize,
    /// The mistake.
    pub detail: String,
}

/// Reads a trace, in the order of its lines.
///
/// # Errors
/// The first mistake.
pub fn read(text: &str) -> Result<Vec<Arrival>, TraceError> {
    let is_content = |(_, line): &(usize, &str)| !line.trim().is_empty() && !line.starts_with('#');
    let mut lines = without_bom(text).lines().enumerate().map(|(at, line)| (at + 1, line)).filter(is_content);
    let at_start = |line, detail: String| TraceError { line, column: 1, detail };
    match lines.next() {
        Some((_, header)) if header.trim_end() == HEADER => {}
        Some((line, header)) => {
            return Err(at_start(line, format!("expected the header `{HEADER}`, found {}", shown(header))));
        }
        None => return Err(at_start(1, format!("the trace is empty; expected the header `{HEADER}`"))),
    }
    let mut arrivals = Vec::new();
    let mut tasks = 0_u64;
    for (line, content) in lines {
        let arrival = Fields::of(line, content)?.arrival()?;
        tasks += u64::from(arrival.count);
        if tasks > MAX_TRACE_TASKS {
            return Err(at_start(line, format!("more than {MAX_TRACE_TASKS} tasks")));
        }
        arrivals.push(arrival);
    }
    Ok(arrivals)
}

/// Writes a trace so that it is read as the same.
pub fn write(arrivals: &[Arrival]) -> String {
    let mut text = format!("{HEADER}\n");
    for arrival in arrivals {
        let seconds = |span: Span| span.as_millis() as f64 / 1e3;
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "{},{},{},{},{},{},{},{}",
            seconds(arrival.submit),
            seconds(arrival.duration),
            arrival.cpu,
            arrival.memory,
            arrival.disk,
            arrival.count,
            arrival.priority,
            arrival.project
        );
    }
    text
}

struct Fields<'a> {
    line: usize,
    fields: [&'a str; FIELDS],
}

impl<'a> Fields<'a> {
    fn of(line: usize, content: &'a str) -> Result<Fields<'a>, TraceError> {
        let fields: Vec<&str> = content.split(',').collect();
        match <[&str; FIELDS]>::try_from(fields) {
            Ok(fields) => Ok(Fields { line, fields }),
            Err(fields) => {
                let detail = format!("expected {FIELDS} fields between commas, found {}", fields.len());
                Err(TraceError { line, column: 1, detail })
            }
        }
    }

    fn wrong<T>(&self, at: usize, detail: impl Display) -> Result<T, TraceError> {
        let before: usize = self.fields[..at].iter().map(|field| field.chars().count() + 1).sum();
        let name = HEADER.split(',').nth(at).unwrap_or_default();
        Err(TraceError { line: self.line, column: before + 1, detail: format!("{name}: {detail}") })
    }

    fn read<T: FromStr<Err: Display>>(&self, at: usize) -> Result<T, TraceError> {
        self.fields[at].trim().parse().or_else(|why: T::Err| self.wrong(at, why))
    }

    fn seconds(&self, at: usize) -> Result<Span, TraceError> {
        let field = self.fields[at].trim();
        // `5m` would be a duration, but the name of the field says seconds.
        if field.contains(|c: char| !c.is_ascii_digit() && c != '.') {
            return self
                .wrong(at, format!("expected a number of seconds such as 12.5, found {}", shown(field)));
        }
        self.read(at)
    }

    fn number<T: FromStr + PartialOrd + Display>(
        &self,
        at: usize,
        least: T,
        most: T,
    ) -> Result<T, TraceError> {
        let field = self.fields[at].trim();
        match field.parse::<T>() {
            Ok(number) if number >= least && number <= most => Ok(number),
            _ => {
                let found = shown(field);
                self.wrong(at, format!("expected a whole number from {least} to {most}, found {found}"))
            }
        }
    }

    fn arrival(&self) -> Result<Arrival, TraceError> {
        Ok(Arrival {
            submit: self.seconds(0)?,
            duration: self.seconds(1)?,
            cpu: self.read(2)?,
            memory: self.read(3)?,
            disk: self.read(4)?,
            count: self.number(5, 1, MAX_COUNT)?,
            priority: self.number(6, 0, MAX_PRIORITY)?,
            project: self.project(7)?,
        })
    }

    fn project(&self, at: usize) -> Result<String, TraceError> {
        let project = self.fields[at].trim();
        let is_visible = !project.chars().any(char::is_control);
        if project.is_empty() || project.chars().count() > MAX_PROJECT_CHARS || !is_visible {
            let found = shown(project);
            return self
                .wrong(at, format!("expected a name of 1 to {MAX_PROJECT_CHARS} characters, found {found}"));
        }
        Ok(project.to_owned())
    }
}
