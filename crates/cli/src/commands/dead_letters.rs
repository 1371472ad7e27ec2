//! `gaffer dead-letters`: lists, retries and deletes dead letters.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gaffer_protocol::rest::DeadLetter;

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Entry, List, Output};
use crate::out::Out;
use crate::table::Cell;
use crate::timestamp;

/// What to do with dead letters.
#[derive(Debug, Args)]
#[command(after_help = "\
Output and reports that the database refused are kept as dead letters. Output is restored as soon as the \
database accepts it.

Examples:
  gaffer dead-letters list
  gaffer dead-letters list --job 42
  gaffer dead-letters retry 7")]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    action: DeadLettersAction,
}

#[derive(Debug, Subcommand)]
enum DeadLettersAction {
    /// List dead letters
    List(ListArgs),
    /// Store refused output again now
    Retry(NumberArgs),
    /// Delete a dead letter and its contents
    Delete(NumberArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only those of this job
    #[arg(long, value_name = "JOB")]
    job: Option<u64>,
    /// List every page, not only the first
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct NumberArgs {
    /// Number of the dead letter, from `gaffer dead-letters list`
    #[arg(value_name = "ID")]
    id: u64,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: DeadLettersArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    match args.action {
        DeadLettersAction::List(args) => {
            let mut query = Query::new();
            if let Some(job) = args.job {
                query.push(("job", job.to_string()));
            }
            let list = List { path: &["dead-letters"], query, all: args.all };
            listing::show::<DeadLetter>(&client, out, list, args.output.format).await?;
        }
        DeadLettersAction::Retry(args) => {
            client.post(&["dead-letters", &args.id.to_string(), "retry"], &()).await?;
            out.remark(&format!("dead letter {} restored", args.id));
        }
        DeadLettersAction::Delete(args) => {
            client.delete(&["dead-letters", &args.id.to_string()]).await?;
            out.remark(&format!("dead letter {} deleted", args.id));
        }
    }
    Ok(0)
}

impl Entry for DeadLetter {
    const HEAD: &'static [&'static str] = &["ID", "JOB", "TASK", "WHAT", "SET ASIDE", "REASON"];
    const WIDE_HEAD: &'static [&'static str] = &["ATTEMPT", "WORKER", "LAST TRIED"];
    const NONE: &'static str = "no dead letters";

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        let what = match (self.bytes, self.offset) {
            (Some(bytes), Some(offset)) => format!("{bytes} bytes of output at {offset}"),
            _ => self.kind.clone(),
        };
        vec![
            Cell::text(self.id.to_string()),
            Cell::maybe(self.job.map(|job| job.to_string())),
            Cell::maybe(self.task.clone()),
            Cell::text(what),
            Cell::text(timestamp::ago(self.at, now)),
            Cell::text(&self.reason),
        ]
    }

    fn wide_cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::maybe(self.attempt.map(|attempt| attempt.to_string())),
            Cell::maybe(self.worker.clone()),
            Cell::text(timestamp::ago(self.tried_at, now)),
        ]
    }
}
