//! Follows the output of a job to its end, across lost connections and retried attempts.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use gaffer_domain::JobId;
use gaffer_domain::job::JobState;
use gaffer_protocol::output::Stream;
use gaffer_protocol::rest::{Job, Page, Task};
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::client::{Client, Query};
use crate::failure::Failure;
use crate::ndjson::{Data, Lines, OutputLine};
use crate::sink::Sink;
use crate::status::Status;

const NDJSON: &str = "application/x-ndjson";
/// The most that the API gives on one page.
const LARGEST_PAGE: &str = "500";
/// A connection that lasted this long counts as established.
const HOLDS_AFTER: Duration = Duration::from_secs(10);
/// How often to look for the next attempt if the stream does not continue with it.
const NEXT_ATTEMPT_PAUSE: Duration = Duration::from_secs(1);

/// Whose output.
#[derive(Debug, Clone)]
pub struct Source {
    pub job: JobId,
    /// One task of it, by address; none for all of them.
    pub task: Option<String>,
    /// How many tasks that is.
    pub tasks: i64,
}

impl Source {
    /// All tasks of a job.
    pub fn of(job: &Job) -> Source {
        Source { job: job.id, task: None, tasks: job.task_counts.values().sum() }
    }
}

/// What of it.
#[derive(Debug, Clone, Default)]
pub struct FollowOptions {
    /// Until the end of each task, attempt after attempt.
    pub follow: bool,
    /// This attempt only.
    pub attempt: Option<u32>,
    /// This stream only.
    pub stream: Option<Stream>,
    /// Only this many lines from the end.
    pub tail: Option<u64>,
    /// Only these lines: `A-B`.
    pub lines: Option<String>,
}

/// Where in the output of a task we are.
#[derive(Debug, Clone, PartialEq)]
struct Place {
    task: String,
    attempt: u32,
    next: u64,
}

/// How reading one answer of the API ended, unless it failed for good.
enum Leg {
    Over,
    /// The task is being retried, and the response did not continue with the new attempt.
    NextAttempt,
    Cut(Failure),
}

/// Reads to the end and returns the final tasks. Without `wish.follow` these may be unfinished.
///
/// # Errors
/// What the API says, or the network for longer than `patience`; or [`Failure::Output`].
pub async fn follow(
    client: &Client,
    source: &Source,
    wish: &FollowOptions,
    sink: &mut Sink<'_>,
    status: &Status<'_>,
    mut patience: Backoff,
) -> Result<Vec<Task>, Failure> {
    let mut reader = Reader { wish, place: None, resumed: false, opened: None, ended: Vec::new() };
    let mut targets = VecDeque::from([source.task.clone()]);
    let tell = |failure: &Failure| {
        status.note(&format!("{failure}; job {} continues, reconnecting", source.job));
    };
    while let Some(target) = targets.front() {
        let before = reader.progress();
        let expected = if target.is_some() { 1 } else { source.tasks };
        let leg = reader.read(client, source.job, target.as_deref(), expected, sink).await?;
        sink.flush().await?;
        let has_moved = reader.progress() != before;
        if (has_moved || reader.was_open_for_long()) && patience.relax() {
            status.remark("reconnected");
        }
        match leg {
            Leg::Over => {
                targets.pop_front();
            }
            Leg::NextAttempt if has_moved => {}
            Leg::NextAttempt => sleep(NEXT_ATTEMPT_PAUSE).await,
            Leg::Cut(failure) => {
                let whole_job = target.is_none() && source.tasks > 1;
                patience.endure(failure, tell).await?;
                if whole_job && reader.has_begun() {
                    // The output of a job cannot be resumed in the middle; that of a task can.
                    let all = loop {
                        match addresses(client, source.job).await {
                            Ok(all) => break all,
                            Err(failure) => patience.endure(failure, tell).await?,
                        }
                    };
                    targets = reader.unfinished(all);
                }
            }
        }
    }
    Ok(reader.ended)
}

async fn addresses(client: &Client, job: JobId) -> Result<Vec<String>, Failure> {
    let mut addresses = Vec::new();
    let mut query: Query = vec![("limit", LARGEST_PAGE.to_owned())];
    loop {
        let page: Page<Task> = client.read(&["jobs", &job.to_string(), "tasks"], &query).await?;
        addresses.extend(page.items.into_iter().map(|task| task.address));
        match page.next_cursor {
            Some(cursor) => query = vec![("limit", LARGEST_PAGE.to_owned()), ("cursor", cursor)],
            None => return Ok(addresses),
        }
    }
}

struct Reader<'w> {
    wish: &'w FollowOptions,
    place: Option<Place>,
    /// The present answer was asked for from `place` on.
    resumed: bool,
    /// When the present answer began.
    opened: Option<Instant>,
    ended: Vec<Task>,
}

impl Reader<'_> {
    /// Grows with everything that was read.
    fn progress(&self) -> (usize, Option<Place>) {
        (self.ended.len(), self.place.clone())
    }

    fn has_begun(&self) -> bool {
        self.place.is_some() || !self.ended.is_empty()
    }

    /// Whether the connection held: if it is lost again later, that is another trouble.
    fn was_open_for_long(&self) -> bool {
        self.opened.is_some_and(|opened| opened.elapsed() >= HOLDS_AFTER)
    }

    /// What is left to read, task by task.
    fn unfinished(&self, addresses: Vec<String>) -> VecDeque<Option<String>> {
        let is_over = |address: &String| self.ended.iter().any(|task| task.address == *address);
        addresses.into_iter().filter(|address| !is_over(address)).map(Some).collect()
    }

    async fn read(
        &mut self,
        client: &Client,
        job: JobId,
        target: Option<&str>,
        expected: i64,
        sink: &mut Sink<'_>,
    ) -> Result<Leg, Failure> {
        let number = job.to_string();
        let path: &[&str] = match target {
            Some(address) => &["jobs", &number, "tasks", address, "output"],
            None => &["jobs", &number, "output"],
        };
        let query = self.query(target);
        self.opened = None;
        let response = match client.open(path, &query, NDJSON, None).await {
            Ok(response) => response,
            Err(failure) => return Ok(Leg::Cut(failure)),
        };
        self.opened = Some(Instant::now());
        let mut pieces = response.bytes_stream();
        let mut lines = Lines::default();
        let mut over = 0;
        loop {
            let piece = match ready(&mut pieces).await {
                Some(piece) => piece,
                None => {
                    // The output pauses: what there is should be seen.
                    sink.flush().await?;
                    pieces.next().await
                }
            };
            match piece {
                Some(Ok(piece)) => {
                    let mut goes_on = false;
                    lines.feed(&piece, |line| {
                        if line.is_empty() {
                            // A sign of life.
                            return Ok(());
                        }
                        let line = OutputLine::read(line)?;
                        if let Some(data) = &line.data {
                            self.take(data, sink)?;
                        }
                        if let Some(task) = line.end {
                            if self.is_end(&task) {
                                self.ended.push(*task);
                                over += 1;
                            } else {
                                goes_on = true;
                                self.turn_to_next_attempt(&task);
                            }
                        }
                        Ok(())
                    })?;
                    if goes_on {
                        return Ok(Leg::NextAttempt);
                    }
                    if over >= expected {
                        return Ok(Leg::Over);
                    }
                    if sink.is_full() {
                        sink.flush().await?;
                    }
                }
                Some(Err(error)) => return Ok(Leg::Cut(client.unreachable(&error))),
                None if self.wish.follow => {
                    return Ok(Leg::Cut(Failure::Unreachable(format!(
                        "{} closed the connection",
                        client.address()
                    ))));
                }
                None => return Ok(Leg::Over),
            }
        }
    }

    fn query(&mut self, target: Option<&str>) -> Query {
        let mut query = Query::new();
        if self.wish.follow {
            query.push(("follow", "1".to_owned()));
        }
        if let Some(stream) = self.wish.stream {
            query.push(("stream", stream.as_str().to_owned()));
        }
        let place = self
            .place
            .as_ref()
            .filter(|place| self.wish.lines.is_none() && target.is_none_or(|address| address == place.task));
        self.resumed = place.is_some();
        if let Some(place) = place {
            query.push(("attempt", place.attempt.to_string()));
            query.push(("offset", place.next.to_string()));
            return query;
        }
        if let Some(attempt) = self.wish.attempt {
            query.push(("attempt", attempt.to_string()));
        }
        if let Some(tail) = self.wish.tail {
            query.push(("tail", tail.to_string()));
        }
        if let Some(lines) = &self.wish.lines {
            query.push(("lines", lines.clone()));
        }
        query
    }

    /// Hands on what was not handed on before: after a lost connection some of it comes twice.
    fn take(&mut self, data: &Data<'_>, sink: &mut Sink<'_>) -> Result<(), Failure> {
        let mut scratch = Vec::new();
        let bytes = data.bytes(&mut scratch)?;
        let end = data.offset + bytes.len() as u64;
        let known = match &self.place {
            Some(place) if place.task == data.task && place.attempt == data.attempt => place.next,
            Some(place) if place.task == data.task && place.attempt > data.attempt => return Ok(()),
            _ => 0,
        };
        let skipped =
            usize::try_from(known.saturating_sub(data.offset)).unwrap_or(usize::MAX).min(bytes.len());
        if skipped < bytes.len() {
            sink.take(data.stream, &data.at, &bytes[skipped..]);
        }
        match &mut self.place {
            Some(place) if place.task == data.task && place.attempt == data.attempt => {
                place.next = place.next.max(end)
            }
            place => *place = Some(Place { task: data.task.to_string(), attempt: data.attempt, next: end }),
        }
        Ok(())
    }

    /// Whether nothing follows this end of a task's output, as far as we were asked.
    fn is_end(&self, task: &Task) -> bool {
        if !self.wish.follow || self.wish.attempt.is_some() {
            return true;
        }
        let is_final = JobState::ALL.iter().any(|state| state.is_final() && state.as_str() == task.state);
        is_final && !(self.resumed && self.seen_attempt(task).is_some_and(|seen| seen < task.attempt))
    }

    fn seen_attempt(&self, task: &Task) -> Option<u32> {
        self.place.as_ref().filter(|place| place.task == task.address).map(|place| place.attempt)
    }

    /// An answer that was asked for from some attempt on may give that attempt only: then the next one is asked for.
    fn turn_to_next_attempt(&mut self, task: &Task) {
        if let Some(place) = &mut self.place
            && place.task == task.address
            && place.attempt < task.attempt
        {
            *place = Place { task: place.task.clone(), attempt: place.attempt + 1, next: 0 };
        }
    }
}

/// The next chunk if it is available at once; none if reading would wait.
async fn ready<T>(pieces: &mut (impl futures::Stream<Item = T> + Unpin)) -> Option<Option<T>> {
    if let Some(piece) = pieces.next().now_or_never() {
        return Some(piece);
    }
    // Lets the connection, which runs on this thread too, deliver what it has received.
    tokio::task::yield_now().await;
    pieces.next().now_or_never()
}
