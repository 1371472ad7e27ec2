//! `gaffer jobs`: lists jobs.

use chrono::{DateTime, Utc};
use clap::Args;
use clap::builder::PossibleValuesParser;
use gaffer_domain::job::JobState;
use gaffer_domain::task::StateName;
use gaffer_protocol::rest::Job;

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Entry, List, Output};
use crate::out::Out;
use crate::table::Cell;
use crate::timestamp;

/// Which jobs to list.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer jobs --state failed
  gaffer jobs -l team=vision --limit 100
  gaffer jobs --worker pi4 --state failed
  gaffer jobs --all -o jsonl | jq .id")]
pub struct JobsArgs {
    /// Only jobs in one of these states: failed,cancelled
    #[arg(
        long = "state",
        value_name = "STATE",
        value_delimiter = ',',
        value_parser = PossibleValuesParser::new(JobState::ALL.map(JobState::as_str))
    )]
    states: Vec<String>,
    /// Only jobs whose name contains this (ignores case)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only jobs with this label (repeatable)
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Only jobs with a task for this driver
    #[arg(long, value_name = "DRIVER", value_parser = ["host", "docker"])]
    driver: Option<String>,
    /// Only jobs with a task that was ever placed on this worker
    ///
    /// The worker's name or number; one that was removed is found by its number.
    #[arg(long, value_name = "WORKER")]
    worker: Option<String>,
    /// Maximum number of jobs to list (≤ 500)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: Option<u16>,
    /// List all jobs, not only the latest
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: JobsArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let mut query = Query::new();
    query.extend(args.states.into_iter().map(|state| ("state", state)));
    query.extend(args.name.map(|name| ("name", name)));
    query.extend(args.labels.into_iter().map(|label| ("label", label)));
    query.extend(args.driver.map(|driver| ("driver", driver)));
    query.extend(args.worker.map(|worker| ("worker", worker)));
    query.extend(args.limit.map(|limit| ("limit", limit.to_string())));
    let list = List { path: &["jobs"], query, all: args.all };
    listing::show::<Job>(&client, out, list, args.output.format).await?;
    Ok(0)
}

impl Entry for Job {
    const HEAD: &'static [&'static str] =
        &["JOB", "NAME", "STATE", "TASKS", "SUBMITTED", "DURATION", "REASON"];
    const WIDE_HEAD: &'static [&'static str] = &["TYPE", "PRIORITY", "BY", "LABELS"];
    const NONE: &'static str = "no jobs";

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(self.id.to_string()),
            Cell::text(&self.name),
            Cell::state(&self.state),
            Cell::text(tasks(self)),
            Cell::text(timestamp::ago(self.created_at, now)),
            Cell::maybe(took(self.ran_seconds, self.started_at, self.finished_at)),
            Cell::text(
                self.problem
                    .as_deref()
                    .or(self.reason.as_ref().map(|reason| reason.message.as_str()))
                    .unwrap_or_default(),
            ),
        ]
    }

    fn wide_cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        let labels: Vec<_> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        vec![
            Cell::text(&self.kind),
            Cell::text(self.priority.to_string()),
            Cell::text(&self.created_by),
            Cell::text(labels.join(",")),
        ]
    }
}

/// `3/10`: completed of all. Of a service that is kept running: `2 of 3 available`.
pub fn tasks(job: &Job) -> String {
    let total = job.tasks_in_all();
    match job.available {
        Some(available) => format!("{available} of {total} available"),
        None => format!("{}/{total}", job.tasks_in(StateName::Completed)),
    }
}

/// How long a job ran, or has been running, as reported by the master; older masters report only the times.
pub fn took(
    ran_seconds: Option<f64>,
    started: Option<DateTime<Utc>>,
    finished: Option<DateTime<Utc>>,
) -> Option<String> {
    let by_times =
        || started.map(|started| timestamp::lasted(started, finished.unwrap_or_else(timestamp::now)));
    ran_seconds.map(timestamp::lasted_seconds).or_else(by_times)
}
