//! `gaffer pin` and `gaffer unpin`: keep jobs for ever, or end that.

use clap::Args;
use serde_json::json;

use crate::commands::bulk::{self, Bulk};
use crate::failure::Failure;
use crate::out::Out;
use crate::selector::Selector;

/// Which jobs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer pin 42
  gaffer unpin 42

A pinned job never expires, whatever its retention is.")]
pub struct PinArgs {
    /// Jobs: 42, 1-20, last
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<Selector>,
}

/// Runs the command; `verb` is `pin` or `unpin`.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: PinArgs, verb: &'static str, out: &Out) -> Result<u8, Failure> {
    let done = if verb == "pin" { "pinned" } else { "unpinned" };
    let bulk = Bulk { verb, done, asks_from: usize::MAX, yes: true };
    bulk::each(out, &args.jobs, &bulk, async |client, job| {
        client.post(&["jobs", &job.to_string(), verb], &json!({})).await?;
        Ok(None)
    })
    .await
}
