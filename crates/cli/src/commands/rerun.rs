//! `gaffer rerun`: submits jobs again.

use clap::Args;
use gaffer_domain::JobId;
use gaffer_protocol::rest::Job;
use serde_json::json;

use crate::client::Client;
use crate::commands::bulk::{self, Bulk};
use crate::commands::submit::{self, Submitted};
use crate::config;
use crate::failure::Failure;
use crate::out::Out;
use crate::selector::Selector;

/// Which jobs to repeat.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer rerun 42
  gaffer rerun last --follow

Prints the numbers of the new jobs. With --follow, exits as `gaffer run` does.")]
pub struct RerunArgs {
    /// Jobs: 42, 1-20, last
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<Selector>,
    /// Follow the output of the new job
    #[arg(short, long)]
    pub follow: bool,
    /// Skip the confirmation
    #[arg(short, long)]
    yes: bool,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: RerunArgs, out: &Out) -> Result<u8, Failure> {
    if args.follow {
        let [Selector::One(one)] = args.jobs[..] else {
            return Err(Failure::Usage("--follow accepts a single job".to_owned()));
        };
        let client = Client::new(&config::access()?)?;
        let job = one.resolve(&client).await?;
        let made = rerun(&client, job).await?;
        out.remark(&format!("job {job} submitted again as job {}", made.job.id));
        return submit::show_to_end(&client, out, &made, false).await;
    }
    let bulk = Bulk { verb: "rerun", done: "again as", asks_from: 2, yes: args.yes };
    bulk::each(out, &args.jobs, &bulk, async |client, job| {
        rerun(client, job).await.map(|made| Some(made.job.id))
    })
    .await
}

async fn rerun(client: &Client, job: JobId) -> Result<Submitted, Failure> {
    let answer = client.post(&["jobs", &job.to_string(), "rerun"], &json!({})).await?;
    Ok(Submitted { job: answer.read::<Job>()?, page: answer.page })
}
