//! Applies one action to several jobs, after a confirmation, and reports the result of each.

use std::io::{self, BufRead, IsTerminal};

use futures::{StreamExt, stream};
use gaffer_domain::JobId;
use gaffer_protocol::output::Stream;

use crate::client::Client;
use crate::config;
use crate::failure::Failure;
use crate::out::Out;
use crate::selector::{self, Selector};

/// Maximum number of concurrent requests.
const AT_ONCE: usize = 8;

/// The action as a verb.
pub struct Bulk {
    /// `stop`
    pub verb: &'static str,
    /// `stopping`
    pub done: &'static str,
    /// Number of jobs from which a confirmation is required.
    pub asks_from: usize,
    /// Skip the confirmation.
    pub yes: bool,
}

/// Applies the action; `act` returns the number of a new job if it creates one. The exit code is that of the first
/// failure. In a range, jobs that do not exist or that the action does not apply to are skipped.
///
/// # Errors
/// What keeps it from being tried; what the API says of a single job if there is only one.
pub async fn each(
    out: &Out,
    selectors: &[Selector],
    bulk: &Bulk,
    act: impl AsyncFn(&Client, JobId) -> Result<Option<JobId>, Failure>,
) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let chosen = selector::resolve(selectors, &client).await?;
    if chosen.len() >= bulk.asks_from && !bulk.yes && !agreed(out, bulk.verb, chosen.len())? {
        out.note("cancelled, nothing changed");
        return Ok(1);
    }
    let only_one = chosen.len() == 1;
    let act = &act;
    let client = &client;
    let mut results = stream::iter(chosen)
        .map(|chosen| async move { (chosen, act(client, chosen.job).await) })
        .buffered(AT_ONCE);
    let (mut code, mut done) = (0, 0);
    while let Some((chosen, result)) = results.next().await {
        match result {
            Ok(made) => {
                tell(out, chosen.job, bulk.done, made)?;
                done += 1;
            }
            Err(failure) if !chosen.named && failure.is_not_found() => {}
            Err(failure) if !chosen.named && failure.is_conflict() => {
                out.remark(&format!("{}: {failure}", chosen.job));
            }
            Err(failure) if only_one => return Err(failure),
            Err(failure) => {
                out.note(&format!("gaffer: {}: {failure}", chosen.job));
                code = if code == 0 { failure.exit_code(1) } else { code };
            }
        }
    }
    if done == 0 && code == 0 {
        out.remark("nothing to do");
    }
    Ok(code)
}

/// For a program the number that matters: of the new job, or of the job itself.
fn tell(out: &Out, job: JobId, done: &str, made: Option<JobId>) -> Result<(), Failure> {
    let number = made.unwrap_or(job);
    match (out.is_terminal(Stream::Stdout), made) {
        (false, _) => out.line(&number.to_string()),
        (true, Some(made)) => out.line(&format!("job {job} {done} job {made}")),
        (true, None) => out.line(&format!("job {job} {done}")),
    }
}

/// Asks a person; who is none has decided already.
fn agreed(out: &Out, verb: &str, count: usize) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() || !out.is_terminal(Stream::Stderr) {
        return Ok(true);
    }
    let jobs = if count == 1 { "1 job".to_owned() } else { format!("{count} jobs") };
    out.note_raw(&format!("{verb} {jobs}? [y/N] "));
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::Local(format!("cannot read the response: {error}")))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
