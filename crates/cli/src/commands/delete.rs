//! `gaffer delete`: deletes finished jobs and their output.

use clap::Args;

use crate::commands::bulk::{self, Bulk};
use crate::failure::Failure;
use crate::out::Out;
use crate::selector::Selector;

/// Which jobs to delete.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer delete 42
  gaffer delete 1-20 -y

A job that has not ended is refused (exit code 5): stop it first.")]
pub struct DeleteArgs {
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
pub async fn run(args: DeleteArgs, out: &Out) -> Result<u8, Failure> {
    let bulk = Bulk { verb: "delete", done: "deleted", asks_from: 1, yes: args.yes };
    bulk::each(out, &args.jobs, &bulk, async |client, job| {
        client.delete(&["jobs", &job.to_string()]).await.map(|()| None)
    })
    .await
}
