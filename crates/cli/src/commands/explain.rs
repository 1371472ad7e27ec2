//! `gaffer explain`: shows why the tasks of a job wait, with a reason for each worker.

use clap::Args;
use gaffer_protocol::rest::{Explanation, WorkerVerdict};

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Format, Output};
use crate::out::Out;
use crate::selector::One;
use crate::style;
use crate::table::{self, Cell};

/// Which job to explain.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer explain 42
  gaffer explain last -o json")]
pub struct ExplainArgs {
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
pub async fn run(args: ExplainArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let number = args.job.resolve(&client).await?.to_string();
    let answer = client.get(&["jobs", &number, "explain"], &Query::new()).await?;
    match args.output.format {
        Format::Json | Format::Jsonl => listing::show_answer(out, &answer)?,
        Format::Name => out.line(&number)?,
        Format::Table | Format::Wide => out.print(shown(out, &answer.read()?).as_bytes())?,
    }
    Ok(0)
}

fn shown(out: &Out, explanation: &Explanation) -> String {
    let mut text = format!("job {}: {}\n", explanation.job, style::visible(&explanation.message));
    for waiting in &explanation.waiting {
        let count = if waiting.count == 1 { String::new() } else { format!(" ({} tasks)", waiting.count) };
        let task = style::visible(&waiting.task);
        text.push_str(&format!("\n{task}{count}: {}\n", style::visible(&waiting.message)));
        if let Some(help) = &waiting.help {
            text.push_str(&format!("what would help: {}\n", style::visible(help)));
        }
        for help in &waiting.would_help {
            text.push_str(&format!("what would help: {}\n", style::visible(help)));
        }
        if let Some(line) = &waiting.line {
            let place = match line.ahead {
                0 => "next in line".to_owned(),
                ahead => format!("{ahead} of {} waiting tasks are ahead", line.waiting),
            };
            text.push_str(&format!("in the queue: {place}\n"));
        }
        text.push_str(&reasons(out, &waiting.workers));
    }
    for without in &explanation.without_instance {
        let (task, message) = (style::visible(&without.task), style::visible(&without.message));
        text.push_str(&format!("\n{task}: {message}\n"));
        text.push_str(&reasons(out, &without.workers));
    }
    text
}

/// A line for each worker.
fn reasons(out: &Out, workers: &[WorkerVerdict]) -> String {
    let row = |verdict: &WorkerVerdict| vec![Cell::text(&verdict.worker), Cell::text(why_not(verdict))];
    match workers.is_empty() {
        true => String::new(),
        false => table::render(out, &["WORKER", "REASON"], workers.iter().map(row).collect()),
    }
}

/// The sentence names the worker, which the column before it does already.
fn why_not(verdict: &WorkerVerdict) -> &str {
    verdict.message.strip_prefix(&verdict.worker).unwrap_or(&verdict.message).trim_start()
}
