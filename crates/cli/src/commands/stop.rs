//! `gaffer stop`: stops jobs.

use clap::Args;
use gaffer_protocol::rest::{Job, StopRequest};
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
  gaffer stop --force 42

Each running task gets its stop signal; after the grace period, everything it started is killed. Waiting tasks are cancelled.
Tasks with `when: always` run once the others have ended, and finish. With --force, these are stopped, too.")]
pub struct StopArgs {
    /// Jobs: 42, 1-20, last
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<Selector>,
    /// Stop tasks with `when: always`, too
    #[arg(short, long)]
    force: bool,
    /// Skip the confirmation
    #[arg(short, long)]
    yes: bool,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: StopArgs, out: &Out) -> Result<u8, Failure> {
    let request = json!(StopRequest { force: args.force });
    let bulk = Bulk { verb: "stop", done: "stopping", asks_from: 2, yes: args.yes };
    bulk::each(out, &args.jobs, &bulk, async |client, job| {
        let answer = client.post(&["jobs", &job.to_string(), "stop"], &request).await?;
        if let Some(problem) = answer.read::<Job>().ok().and_then(|job| job.problem) {
            out.note(&format!("gaffer: {job}: {}", style::visible(&problem)));
        }
        Ok(None)
    })
    .await
}
