//! `gaffer wait`: waits until jobs have ended, and exits with their exit code.

use clap::Args;
use gaffer_domain::JobId;
use gaffer_domain::job::JobState;
use gaffer_domain::quantity::Span;
use gaffer_protocol::rest::{Job, Page, Task};

use crate::attach;
use crate::backoff::Backoff;
use crate::client::{Client, Query};
use crate::config;
use crate::exit;
use crate::failure::Failure;
use crate::out::Out;
use crate::selector::{self, Selector};
use crate::status::Status;

/// Which jobs to wait for.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer wait 42
  gaffer wait 42-50 last --timeout 1h

Exit codes: 0 if all jobs completed, otherwise the highest code of a job: the exit code of its first \
failed task; 128+n for a signal; 124 for a timeout; 125 if gaffer failed or lost the worker; 143 if it was \
stopped. 124 also after --timeout; the jobs continue.")]
pub struct WaitArgs {
    /// Jobs: 42, 1-20, last
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<Selector>,
    /// Maximum time to wait, e.g. 10m
    #[arg(long, value_name = "TIME")]
    timeout: Option<Span>,
    /// Suppress messages
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: WaitArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let status = Status::new(out, args.quiet);
    let all = wait_for_all(&client, out, &args, &status);
    match args.timeout {
        None => all.await,
        Some(limit) => match tokio::time::timeout(limit.to_std(), all).await {
            Ok(done) => done,
            Err(_) => {
                status.retire();
                if !args.quiet {
                    out.note(&format!("gaffer: not finished after {limit}"));
                }
                Ok(exit::TIMED_OUT)
            }
        },
    }
}

async fn wait_for_all(
    client: &Client,
    out: &Out,
    args: &WaitArgs,
    status: &Status<'_>,
) -> Result<u8, Failure> {
    let mut codes = Vec::new();
    // Waiting for one after the other takes as long as waiting for all at once.
    for chosen in selector::resolve(&args.jobs, client).await? {
        match to_end(client, out, chosen.job, status, args.quiet).await {
            Ok(code) => codes.push(code),
            Err(failure) if failure.is_not_found() && !chosen.named => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(exit::of_jobs(codes))
}

/// Waits for the end of a job, reports it and returns its exit code.
///
/// # Errors
/// What the API says, or the network for too long.
pub async fn to_end(
    client: &Client,
    out: &Out,
    job: JobId,
    status: &Status<'_>,
    quiet: bool,
) -> Result<u8, Failure> {
    let job = final_job(client, job, status).await?;
    let tasks = telling_tasks(client, &job).await?;
    status.clear();
    if tasks.is_empty() {
        if !quiet {
            out.remark(&format!("{} {}", job.id, job.state));
        }
    } else {
        attach::tell_end(out, job.id, &tasks, None, quiet);
    }
    Ok(match job.known_state() {
        Some(JobState::Completed) => 0,
        Some(JobState::Cancelled) => exit::CANCELLED,
        _ if tasks.is_empty() => exit::GAFFER_FAILED,
        _ => exit::of_tasks(&tasks),
    })
}

async fn final_job(client: &Client, id: JobId, status: &Status<'_>) -> Result<Job, Failure> {
    let mut patience = Backoff::for_a_job();
    let is_final = |job: &Job| job.known_state().is_some_and(JobState::is_final);
    status.show(&format!("{id} has not ended"));
    loop {
        match client.wait::<Job>(id).await {
            Ok(job) if is_final(&job) => return Ok(job),
            Ok(job) => {
                patience.relax();
                status.show(&format!("{id} is {}", job.state));
            }
            Err(failure) => {
                let tell = |failure: &Failure| status.note(&format!("{failure}; still waiting"));
                patience.endure(failure, tell).await?;
            }
        }
    }
}

/// The tasks that tell how the job ended: of a failed one those that failed.
async fn telling_tasks(client: &Client, job: &Job) -> Result<Vec<Task>, Failure> {
    let state = job.known_state();
    let limit = if state == Some(JobState::Failed) { "500" } else { "1" };
    let mut query: Query = vec![("limit", limit.to_owned())];
    if state != Some(JobState::Completed) {
        query.push(("state", job.state.clone()));
    }
    let page: Page<Task> = client.read(&["jobs", &job.id.to_string(), "tasks"], &query).await?;
    Ok(page.items)
}
