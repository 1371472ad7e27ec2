//! `gaffer stop`: stops jobs.

use clap::Args;
use gaffer_protocol::rest::Job;
use serde_json::json;

use crate::commands::bulk::{self, Bulk};
use crate::failure::Failure;
use crate::out::Out;
use crate::selector::Selector;
use crate::style;

/// Which jobs to stop.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer stop 42
  gaffer stop 1-20 -y

Each running task gets its stop signal; after the grace period, everything it started is killed. Waiting tasks are cancelled.")]
pub struct StopArgs {
    /// Jobs: 42, 1-20, last
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<Selector>,
    /// Skip the confirmation
    #[arg(short, long)]
    yes: bool,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: StopArgs, out: &Out) -> Result<u8, Failure> {
    let bulk = Bulk { verb: "stop", done: "stopping", asks_from: 2, yes: args.yes };
    bulk::each(out, &args.jobs, &bulk, async |client, job| {
        let answer = client.post(&["jobs", &job.to_string(), "stop"], &json!({})).await?;
        if let Some(problem) = answer.read::<Job>().ok().and_then(|job| job.problem) {
            out.note(&format!("gaffer: {job}: {}", style::visible(&problem)));
        }
        Ok(None)
    })
    .await
}
