//! `gaffer logs --verify`: compares length and checksum of the stored output with what the worker reported.

use gaffer_domain::JobId;
use gaffer_protocol::output::Stream;
use gaffer_protocol::rest::{Attempt, Page, Task, TaskDetail};
use sha2::{Digest, Sha256};

use crate::client::{Client, Query};
use crate::failure::Failure;
use crate::out::Out;
use crate::style::{self, Colour};

/// Exit code if an output is not what its worker read.
const DIFFERS: u8 = 1;
/// Exit code if nothing differs, but an output could not be compared; the same as for other actions in the wrong state.
const UNVERIFIED: u8 = 5;

/// The result of one comparison.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Complete,
    Differs(String),
    Unverified(&'static str),
}

/// Verifies the output of one task, or of all tasks of a job; the latest attempt, or the given one.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(
    client: &Client,
    job: JobId,
    task: Option<String>,
    attempt: Option<u32>,
    out: &Out,
) -> Result<u8, Failure> {
    let job = job.to_string();
    let mut worst = 0;
    let mut cursor = None;
    loop {
        let page = match &task {
            Some(task) => Page {
                items: vec![client.read::<Task>(&["jobs", &job, "tasks", task], &Query::new()).await?],
                next_cursor: None,
            },
            None => {
                let mut query: Query = vec![("limit", "500".to_owned())];
                query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
                client.read::<Page<Task>>(&["jobs", &job, "tasks"], &query).await?
            }
        };
        for task in page.items {
            let code = verify(client, &job, &task, attempt, out).await?;
            // An output that differs is worse than one that could not be compared.
            worst = match (worst, code) {
                (DIFFERS, _) | (_, DIFFERS) => DIFFERS,
                (worst, code) => worst.max(code),
            };
        }
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(worst),
        }
    }
}

async fn verify(
    client: &Client,
    job: &str,
    task: &Task,
    attempt: Option<u32>,
    out: &Out,
) -> Result<u8, Failure> {
    // The output of a task that did not run here is where it ran.
    let of = task.result_of.as_ref();
    let ran_in = of.map_or_else(|| job.to_owned(), |of| of.job.to_string());
    let path = ["jobs", &ran_in, "tasks", of.map_or(&task.address, |of| &of.task)];
    let attempt = attempt.unwrap_or(of.map_or(task.attempt, |of| of.attempt));
    let is_deleted = of.is_some_and(|of| of.is_deleted);
    let detail: Option<TaskDetail> =
        if is_deleted { None } else { Some(client.read(&path, &Query::new()).await?) };
    let mut attempts = detail.iter().flat_map(|detail| &detail.attempts);
    let (verdict, bytes) = match attempts.find(|known| known.attempt == attempt) {
        None if is_deleted => (Verdict::Unverified("the job in which it ran was deleted"), 0),
        None => (Verdict::Unverified("no such attempt"), 0),
        Some(known) if known.finished_at.is_none() => (Verdict::Unverified("it has not ended"), 0),
        Some(known) => {
            let (bytes, sum) = stored(client, &path, attempt).await?;
            (judge(known, bytes, &sum), bytes)
        }
    };
    let (word, colour, why, code) = match &verdict {
        Verdict::Complete => ("complete", Colour::Green, String::new(), 0),
        Verdict::Differs(why) => ("DIFFERS", Colour::Red, format!(": {why}"), DIFFERS),
        Verdict::Unverified(why) => ("unverified", Colour::Yellow, format!(": {why}"), UNVERIFIED),
    };
    let word = style::paint(word, colour, out.has_colours(Stream::Stdout));
    let address = style::visible(&task.address);
    out.line(&format!("{address}  attempt {attempt}  {bytes} bytes  {word}{why}"))?;
    Ok(code)
}

/// Length and checksum of the stored output.
async fn stored(client: &Client, path: &[&str; 4], attempt: u32) -> Result<(u64, String), Failure> {
    let path = [path[0], path[1], path[2], path[3], "output"];
    let query = vec![("attempt", attempt.to_string())];
    let mut response = client.open(&path, &query, "text/plain", None).await?;
    let (mut bytes, mut sha256) = (0, Sha256::new());
    while let Some(chunk) = response.chunk().await.map_err(|error| client.unreachable(&error))? {
        bytes += chunk.len() as u64;
        sha256.update(&chunk);
    }
    let sum = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((bytes, sum))
}

fn judge(attempt: &Attempt, bytes: u64, sum: &str) -> Verdict {
    let Some(expected) = &attempt.output_sha256 else {
        return Verdict::Unverified("the worker reported no checksum");
    };
    if bytes != attempt.output_bytes {
        return Verdict::Differs(format!("{} bytes are stored", attempt.output_bytes));
    }
    match expected.eq_ignore_ascii_case(sum) {
        true => Verdict::Complete,
        false => Verdict::Differs(format!(
            "its SHA-256 is {sum}, the worker reported {}",
            style::visible(expected)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_and_checksum_both_count() -> Result<(), serde_json::Error> {
        let attempt = |sum: Option<&str>| {
            serde_json::from_value::<Attempt>(serde_json::json!({
                "attempt": 1, "worker": "w", "worker_id": 1, "scheduled_at": "2026-01-01T00:00:00Z",
                "output_bytes": 3, "output_lines": 0, "output_sha256": sum,
            }))
        };
        assert_eq!(judge(&attempt(Some("AB"))?, 3, "ab"), Verdict::Complete);
        assert!(matches!(judge(&attempt(Some("ab"))?, 4, "ab"), Verdict::Differs(_)));
        assert!(matches!(judge(&attempt(Some("ab"))?, 3, "cd"), Verdict::Differs(_)));
        assert!(matches!(judge(&attempt(None)?, 3, "ab"), Verdict::Unverified(_)));
        Ok(())
    }
}
