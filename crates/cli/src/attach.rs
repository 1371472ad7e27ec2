//! Attached commands: forwards signals, reports why a job waits, and reports its end.

use std::time::Duration;

use futures::StreamExt;
use futures::future::{Either, FutureExt, LocalBoxFuture};
use futures::stream::FuturesUnordered;
use gaffer_domain::JobId;
use gaffer_domain::task::StateName;
use gaffer_protocol::output::Stream;
use gaffer_protocol::rest::{Explanation, Page, Task};
use serde_json::json;
use tokio::time::sleep;

use crate::client::{Client, Query};
use crate::failure::Failure;
use crate::out::Out;
use crate::signals::{Insistence, Signals, Step};
use crate::status::Status;
use crate::style;
use crate::timestamp;

/// A job that ends sooner should not make the terminal flicker.
const FIRST_WORD_AFTER: Duration = Duration::from_millis(80);
/// After this time without output, the reason for waiting is shown.
const REASON_AFTER: Duration = Duration::from_secs(2);
const REASON_EVERY: Duration = Duration::from_secs(3);

/// Handles signals until one of them detaches; returns the exit code.
pub async fn obey(signals: &mut Signals, client: &Client, job: JobId, status: &Status<'_>) -> u8 {
    let mut insistence = Insistence::default();
    let mut under_way: FuturesUnordered<LocalBoxFuture<'_, Result<String, Failure>>> =
        FuturesUnordered::new();
    loop {
        // Further signals are handled even while the API is slow.
        let next = if under_way.is_empty() {
            Either::Left(signals.next().await)
        } else {
            tokio::select! {
                order = signals.next() => Either::Left(order),
                Some(done) = under_way.next() => Either::Right(done),
            }
        };
        match next {
            Either::Left(order) => match insistence.step(order) {
                Step::Forward => under_way.push(interrupt(client, job).boxed_local()),
                Step::Stop => under_way.push(stop(client, job).boxed_local()),
                Step::Leave(code) => {
                    status.note(&format!("job {job} continues; follow it with `gaffer logs -f {job}`"));
                    return code;
                }
            },
            Either::Right(Ok(told)) => status.note(&told),
            Either::Right(Err(failure)) => status.note(&format!("cannot signal job {job}: {failure}")),
        }
    }
}

/// Sends SIGINT to the tasks that run; a job of which none runs is stopped, as a command that has not started would be.
async fn interrupt(client: &Client, job: JobId) -> Result<String, Failure> {
    let number = job.to_string();
    let query: Query = vec![("state", StateName::Running.to_string()), ("limit", "500".to_owned())];
    let running: Page<Task> = client.read(&["jobs", &number, "tasks"], &query).await?;
    let mut told = 0;
    for task in running.items {
        match client
            .post(&["jobs", &number, "tasks", &task.address, "signal"], &json!({"signal": "SIGINT"}))
            .await
        {
            Ok(_) => told += 1,
            // It ended, or its worker has not started it, in between.
            Err(failure) if failure.is_conflict() => {}
            Err(failure) => return Err(failure),
        }
    }
    match told {
        0 => stop(client, job).await,
        _ => Ok(format!(
            "sent SIGINT to job {job}; press Ctrl-C again to stop it, a third time to leave it running"
        )),
    }
}

/// Stops the job; a job that has ended counts as stopped.
pub async fn stop(client: &Client, job: JobId) -> Result<String, Failure> {
    match client.post(&["jobs", &job.to_string(), "stop"], &json!({})).await {
        Ok(_) => Ok(format!("stopping job {job}")),
        Err(failure) if failure.is_conflict() => Ok(format!("job {job} has ended or is stopping")),
        Err(failure) => Err(failure),
    }
}

/// Shows what the job waits for until there is output. Never returns: the caller drops it.
pub async fn explain_silence(client: &Client, job: JobId, status: &Status<'_>) {
    sleep(FIRST_WORD_AFTER).await;
    // Not yet known: whether it waits, or runs and is silent.
    status.show(&format!("{job} accepted"));
    sleep(REASON_AFTER - FIRST_WORD_AFTER).await;
    while status.is_wanted() {
        let path = ["jobs", &job.to_string(), "explain"];
        // Errors are ignored: the output stream reports an unreachable API.
        if let Ok(explanation) = client.read::<Explanation>(&path, &Query::new()).await {
            status.show(&format!("{job} {}", in_a_line(&explanation)));
        }
        sleep(REASON_EVERY).await;
    }
    std::future::pending::<()>().await;
}

fn in_a_line(explanation: &Explanation) -> String {
    match explanation.waiting.first() {
        None => "placed, no output yet".to_owned(),
        Some(waiting) => match &waiting.help {
            Some(help) => format!("waiting: {} ({help})", waiting.message),
            None => format!("waiting: {}", waiting.message),
        },
    }
}

/// What became of the job, on the terminal in a line with everything, elsewhere only what the job's own output does not
/// say: that gaffer, not the job, brought the end about.
pub fn tell_end(out: &Out, job: JobId, tasks: &[Task], page: Option<&str>, quiet: bool) {
    if quiet {
        return;
    }
    let Some(task) = worst(tasks) else { return };
    let reason = task.reason.as_ref().filter(|_| !is_completed(task));
    if !out.is_terminal(Stream::Stderr) {
        let is_the_jobs_own = reason.is_none_or(|reason| reason.code.as_str() == "exit_code");
        if !is_the_jobs_own {
            let why = reason.map(|reason| reason.message.as_str()).unwrap_or_default();
            out.note(&format!("gaffer: job {job} {}: {why}", task.state));
        }
        return;
    }
    let mut line = format!("{} {job} {}", style::glyph(&task.state), task.state);
    if let Some(took) = took(tasks) {
        line.push_str(&format!(" {} {took}", if is_completed(task) { "in" } else { "after" }));
    }
    match (tasks, &task.worker) {
        ([_], Some(worker)) => line.push_str(&format!(" on {}", style::visible(worker))),
        ([_], None) => {}
        (several, _) => line.push_str(&format!(", {} tasks", several.len())),
    }
    if let Some(reason) = reason {
        line.push_str(&format!(": {}", style::visible(&reason.message)));
    }
    line = style::paint(&line, style::colour(&task.state), out.has_colours(Stream::Stderr));
    if let Some(page) = page {
        line.push_str(&format!(" · {page}"));
    }
    out.note(&line);
}

/// The task that tells the job's fate.
fn worst(tasks: &[Task]) -> Option<&Task> {
    let first_in = |state| {
        let tasks = tasks.iter().filter(|task| task.known_state() == Some(state));
        tasks.min_by_key(|task| task.finished_at)
    };
    first_in(StateName::Failed).or_else(|| first_in(StateName::Cancelled)).or(tasks.first())
}

fn is_completed(task: &Task) -> bool {
    task.known_state() == Some(StateName::Completed)
}

fn took(tasks: &[Task]) -> Option<String> {
    if let [only] = tasks
        && let Some(ran) = only.ran_seconds
    {
        return Some(timestamp::lasted_seconds(ran));
    }
    let start = tasks.iter().filter_map(|task| task.started_at).min()?;
    let end = tasks.iter().filter_map(|task| task.finished_at).max()?;
    Some(timestamp::lasted(start, end))
}
