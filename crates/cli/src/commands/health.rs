//! `gaffer health`: shows what the health checks of a task say.

use chrono::{DateTime, Utc};
use clap::Args;
use gaffer_domain::health::{CheckKind, outcome_word};
use gaffer_protocol::rest::{CheckedResult, Page, Task, TaskChecks, TaskHealth};

use crate::client::{Client, Query};
use crate::commands::logs::Whose;
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Entry, Format, Output};
use crate::out::Out;
use crate::style;
use crate::table::Cell;
use crate::timestamp;

/// Whose health to show.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer health 42
  gaffer health 42.web.1
  gaffer health last -o json | jq -r '.results[] | select(.passed | not) | .detail'

The results are those of the latest attempt and the last hour; the newest is at the end.")]
pub struct HealthArgs {
    /// Job with one task, or a task: 42, last, 42.web.1
    #[arg(value_name = "JOB[.TASK]")]
    whose: Whose,
    #[command(flatten)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network; [`Failure::Usage`] for a job with several tasks.
pub async fn run(args: HealthArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let job = args.whose.job.resolve(&client).await?.to_string();
    let task = match args.whose.task {
        Some(task) => task,
        None => only_task(&client, &job).await?,
    };
    let answer = client.get(&["jobs", &job, "tasks", &task, "health"], &Query::new()).await?;
    match args.output.format {
        Format::Json | Format::Jsonl => listing::show_answer(out, &answer)?,
        Format::Name => out.line(&style::visible(&task))?,
        format => {
            let text = shown(out, &task, &answer.read()?, format);
            out.print(text.as_bytes())?;
        }
    }
    Ok(0)
}

async fn only_task(client: &Client, job: &str) -> Result<String, Failure> {
    let query: Query = vec![("limit", "2".to_owned())];
    let tasks: Page<Task> = client.read(&["jobs", job, "tasks"], &query).await?;
    match tasks.items.as_slice() {
        [only] => Ok(only.address.clone()),
        [first, ..] => Err(Failure::Usage(format!(
            "job {job} has several tasks: name one, such as gaffer health {job}.{}",
            first.address
        ))),
        [] => Err(Failure::Usage(format!("job {job} has no tasks"))),
    }
}

fn shown(out: &Out, task: &str, checks: &TaskChecks, format: Format) -> String {
    let now = timestamp::now();
    let mut words: Vec<String> = Vec::new();
    for (kind, check) in [(CheckKind::Health, &checks.health), (CheckKind::Readiness, &checks.readiness)] {
        words.extend(check.as_ref().map(|check| state(kind, check, now)));
    }
    if words.is_empty() {
        words.push("no check has a result".to_owned());
    }
    if checks.ready == Some(false) {
        words.push("not available".to_owned());
    }
    let mut text = format!("{} {}\n", style::visible(task), words.join(", "));
    if !checks.results.is_empty() {
        text.push('\n');
        text.push_str(&listing::table_of(out, &checks.results, format));
    }
    text
}

/// `healthy for 3m12s`
fn state(kind: CheckKind, check: &TaskHealth, now: DateTime<Utc>) -> String {
    format!("{} for {}", kind.word(check.state), timestamp::lasted(check.since, now))
}

impl Entry for CheckedResult {
    const HEAD: &'static [&'static str] = &["TIME", "CHECK", "RESULT", "DURATION", "ANSWER"];
    const WIDE_HEAD: &'static [&'static str] = &[];
    const NONE: &'static str = "no results";

    fn name(&self) -> String {
        self.check.as_str().to_owned()
    }

    fn cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(timestamp::local(self.result.at)),
            Cell::text(self.check.as_str()),
            Cell::text(outcome_word(self.result.passed)),
            Cell::text(format!("{:.3} s", self.result.seconds)),
            Cell::text(&self.result.detail),
        ]
    }

    fn wide_cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        Vec::new()
    }
}
