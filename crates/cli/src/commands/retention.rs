//! `gaffer retention preview`: shows what will expire, when, and what is kept.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gaffer_protocol::rest::{RetentionEra, RetentionPreview};

use crate::client::{Client, Query};
use crate::commands::workers::size;
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Format, Output};
use crate::out::Out;
use crate::table::{self, Cell};
use crate::timestamp;

/// What about retention.
#[derive(Debug, Args)]
pub struct RetentionArgs {
    #[command(subcommand)]
    action: RetentionAction,
}

#[derive(Debug, Subcommand)]
enum RetentionAction {
    /// Show what will expire, when, and what is kept
    #[command(after_help = "\
Examples:
  gaffer retention preview
  gaffer retention preview -o json")]
    Preview {
        #[command(flatten)]
        output: Output,
    },
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: RetentionArgs, out: &Out) -> Result<u8, Failure> {
    let RetentionAction::Preview { output } = args.action;
    let client = Client::new(&config::access()?)?;
    let answer = client.get(&["retention"], &Query::new()).await?;
    match output.format {
        Format::Json | Format::Jsonl => listing::show_answer(out, &answer)?,
        Format::Name => {
            for era in answer.read::<RetentionPreview>()?.eras {
                out.line(&name(&era))?;
            }
        }
        Format::Table | Format::Wide => show(&answer.read()?, out)?,
    }
    Ok(0)
}

fn show(preview: &RetentionPreview, out: &Out) -> Result<(), Failure> {
    out.line(&format!("finished jobs are kept: {}", preview.retention))?;
    let now = timestamp::now();
    let rows = preview.eras.iter().map(|era| row(era, now)).collect();
    let head =
        ["ERA", "OPENED", "SIZE", "IN OBJECTS", "EXPIRING JOBS", "TASKS", "LAST EXPIRY", "HOW", "KEPT"];
    out.print(table::render(out, &head, rows).as_bytes())
}

fn name(era: &RetentionEra) -> String {
    era.era.map_or_else(|| "earlier".to_owned(), |number| number.to_string())
}

fn row(era: &RetentionEra, now: DateTime<Utc>) -> Vec<Cell> {
    let (jobs, tasks) = (era.expiring_jobs + era.waiting_jobs, era.expiring_tasks + era.waiting_tasks);
    let how = match (jobs, era.is_dropped) {
        (0, _) => "",
        (_, true) => "dropped",
        (_, false) => "in batches",
    };
    let kept =
        [("unfinished", era.unfinished_jobs), ("pinned", era.pinned_jobs), ("for ever", era.unlimited_jobs)];
    let kept = kept.iter().filter(|(_, jobs)| *jobs > 0).map(|(why, jobs)| format!("{jobs} {why}"));
    vec![
        Cell::text(name(era)),
        Cell::maybe(era.opened_at.map(|at| timestamp::ago(at, now))),
        Cell::text(size(era.bytes)),
        Cell::text(if era.objects > 0 { size(era.object_bytes) } else { String::new() }),
        Cell::text(jobs.to_string()),
        Cell::text(tasks.to_string()),
        Cell::maybe(era.expires_until.map(|at| at.format("%Y-%m-%d %H:%M UTC").to_string())),
        Cell::text(how),
        Cell::text(kept.collect::<Vec<_>>().join(", ")),
    ]
}
