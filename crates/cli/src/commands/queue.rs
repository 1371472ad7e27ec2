//! `gaffer queue`: shows waiting tasks in scheduling order, and scheduler statistics.

use chrono::{DateTime, Utc};
use clap::Args;
use gaffer_protocol::rest::{Passes, Queue, QueueClass};

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Format, Output};
use crate::out::Out;
use crate::style;
use crate::table::{self, Cell};
use crate::timestamp;

const HEAD: [&str; 8] = ["AHEAD", "TASKS", "PRIORITY", "OWNER", "JOB", "SINCE", "REQUIREMENTS", "REASON"];

/// How to show the queue.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer queue
  gaffer queue -o json

Tasks with equal requirements, priority and owner share one row. `gaffer explain JOB` gives the reasons for each worker.")]
pub struct QueueArgs {
    #[command(flatten)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: QueueArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let answer = client.get(&["queue"], &Query::new()).await?;
    match args.output.format {
        Format::Json | Format::Jsonl => listing::show_answer(out, &answer)?,
        Format::Name => {
            for class in answer.read::<Queue>()?.classes {
                out.line(&class.job.to_string())?;
            }
        }
        Format::Table | Format::Wide => {
            out.print(shown(out, &answer.read()?, timestamp::now()).as_bytes())?
        }
    }
    Ok(0)
}

fn shown(out: &Out, queue: &Queue, now: DateTime<Utc>) -> String {
    let mut text = match queue.waiting_since {
        None => "no waiting tasks".to_owned(),
        Some(since) => {
            let tasks = if queue.waiting == 1 { "waiting task" } else { "waiting tasks" };
            format!("{} {tasks}, the oldest since {}", queue.waiting, timestamp::ago(since, now))
        }
    };
    if let Some(share) = queue.share {
        text.push_str(&format!(
            "; {:.0}% of the shared workers in use, weight {}",
            share * 100.0,
            queue.weight
        ));
    }
    text.push_str(&format!("; default strategy {}; {}\n", queue.strategy, passes(&queue.passes)));
    if !queue.classes.is_empty() {
        text.push_str(&table::render(
            out,
            &HEAD,
            queue.classes.iter().map(|class| cells(class, now)).collect(),
        ));
    }
    text
}

fn passes(passes: &Passes) -> String {
    let mut micros: Vec<u64> = passes.recent.iter().map(|pass| pass.micros).collect();
    micros.sort_unstable();
    let Some(median) = micros.get(micros.len() / 2) else { return "no scheduler pass yet".to_owned() };
    format!(
        "{} scheduler passes, median of the last {}: {:.1} ms",
        passes.count,
        micros.len(),
        *median as f64 / 1e3
    )
}

fn cells(class: &QueueClass, now: DateTime<Utc>) -> Vec<Cell> {
    let ahead = class.why.line.map_or(0, |line| line.ahead);
    vec![
        Cell::text(ahead.to_string()),
        Cell::text(class.why.count.to_string()),
        Cell::text(class.priority.to_string()),
        Cell::text(&class.owner),
        Cell::text(format!("{} {}", class.job, style::visible(&class.job_name))),
        Cell::text(timestamp::ago(class.since, now)),
        Cell::text(&class.needs),
        Cell::text(&class.why.message),
    ]
}
