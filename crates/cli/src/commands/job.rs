//! `gaffer job`: shows one job with its tasks.

use chrono::{DateTime, Utc};
use clap::Args;
use gaffer_domain::health::{CheckStatus, in_words};
use gaffer_domain::task::StateName;
use gaffer_protocol::output::Stream;
use gaffer_protocol::rest::{Job, Page, ResultOf, Task, TaskHealth};

use crate::client::{Client, Query};
use crate::commands::jobs::{tasks as tasks_of, took};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Entry, Format, Output};
use crate::out::Out;
use crate::selector::One;
use crate::style;
use crate::table::Cell;
use crate::timestamp;

/// Which job to show.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer job 42
  gaffer job last -o wide
  gaffer job 42 -o json | jq .spec")]
pub struct JobArgs {
    /// Its number, or last
    #[arg(value_name = "JOB")]
    job: One,
    #[command(flatten)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: JobArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let number = args.job.resolve(&client).await?.to_string();
    let answer = client.get(&["jobs", &number], &Query::new()).await?;
    match args.output.format {
        Format::Json | Format::Jsonl => listing::show_answer(out, &answer)?,
        Format::Name => out.line(&answer.read::<Job>()?.name())?,
        format => {
            let tasks: Page<Task> = client.read(&["jobs", &number, "tasks"], &Query::new()).await?;
            show(out, &answer.read()?, &tasks, format)?;
        }
    }
    Ok(0)
}

fn show(out: &Out, job: &Job, tasks: &Page<Task>, format: Format) -> Result<(), Failure> {
    let now = timestamp::now();
    let mut text =
        format!("job {} {} {}\n", job.id, style::visible(&job.name), out.state(&job.state, Stream::Stdout));
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("  {} {}\n", out.dim(&format!("{name:<9}")), style::visible(value)));
        }
    };
    field("reason", job.reason.as_ref().map(|reason| reason.message.as_str()).unwrap_or_default());
    field("problem", job.problem.as_deref().unwrap_or_default());
    field("type", &format!("{}, priority {}", job.kind, job.priority));
    field("submitted", &format!("{} by {}", timestamp::ago(job.created_at, now), job.created_by));
    field("duration", &took(job.ran_seconds, job.started_at, job.finished_at).unwrap_or_default());
    let taken_over = match job.taken_over {
        0 => String::new(),
        n => format!("; {n} of its tasks have results of an earlier job"),
    };
    field("rerun of", &job.rerun_of.map(|of| format!("{of}{taken_over}")).unwrap_or_default());
    let labels: Vec<_> = job.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    field("labels", &labels.join(", "));
    let template = job.template.as_ref();
    let template = template.map(|from| format!("template {}, version {}", from.name, from.version));
    field("from", &template.unwrap_or_default());
    for (name, value) in &job.parameters {
        field("parameter", &format!("{name}={value}"));
    }
    let counts: Vec<_> = job.task_counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let counts = counts.join(", ");
    field("tasks", &if job.available.is_some() { format!("{}: {counts}", tasks_of(job)) } else { counts });
    if job.version > 1 {
        field("version", &job.version.to_string());
    }
    for update in &job.updates {
        let problem = update.problem.as_ref().map(|problem| format!("; it has stopped: {problem}"));
        field(
            "update",
            &format!("{} to version {}{}", update.task, update.version, problem.unwrap_or_default()),
        );
    }
    text.push('\n');
    text.push_str(&listing::table_of(out, &tasks.items, format));
    out.print(text.as_bytes())?;
    if tasks.next_cursor.is_some() {
        out.remark("… and more tasks");
    }
    Ok(())
}

impl Entry for Task {
    const HEAD: &'static [&'static str] =
        &["TASK", "ITEM", "STATE", "WORKER", "ATTEMPT", "DURATION", "EXIT", "REASON"];
    const ONLY_IF_ANY: &'static [&'static str] = &["ITEM"];
    const WIDE_HEAD: &'static [&'static str] = &["DRIVER", "STARTED", "NOT BEFORE"];
    const NONE: &'static str = "no tasks";

    fn name(&self) -> String {
        self.address.clone()
    }

    fn cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(&self.address),
            Cell::text(self.item.as_ref().map(ToString::to_string).unwrap_or_default()),
            Cell::state(&self.state),
            Cell::maybe(self.worker.as_ref()),
            Cell::text(self.attempt.to_string()),
            Cell::maybe(took(self.ran_seconds, self.started_at, self.finished_at)),
            Cell::maybe(exit_of(self)),
            Cell::text(why(self)),
        ]
    }

    fn wide_cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(&self.driver),
            Cell::maybe(self.started_at.map(|at| timestamp::ago(at, now))),
            Cell::maybe(self.not_before.map(|at| timestamp::ago(at, now))),
        ]
    }
}

/// The outcome of a task, what its checks say while it runs, or what it waits for.
fn why(task: &Task) -> String {
    match (task.ready, &task.reason) {
        (Some(ready), _) if task.known_state() == Some(StateName::Running) => {
            in_words(task.health.as_ref().map(check_status), task.readiness.as_ref().map(check_status), ready)
        }
        (_, Some(reason)) => reason.message.clone(),
        (_, None) => {
            let result_of = || task.result_of.as_ref().map(ResultOf::in_words);
            task.waits_for.clone().or_else(result_of).unwrap_or_default()
        }
    }
}

fn check_status(check: &TaskHealth) -> CheckStatus<'_> {
    let last = check.last.as_ref().map(|last| (last.passed, last.detail.as_str()));
    CheckStatus { state: check.state, last }
}

fn exit_of(task: &Task) -> Option<String> {
    let by_signal = task.signal.map(|signal| format!("signal {signal}"));
    task.exit_code.map(|code| code.to_string()).or(by_signal)
}
