//! Follows the output of a job to its end, across lost connections and retried attempts.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use gaffer_domain::JobId;
use gaffer_domain::job::JobState;
use gaffer_domain::spec::{JobKind, WORKER};
use gaffer_domain::task::StateName;
use gaffer_protocol::output::Stream;
use gaffer_protocol::rest::{Job, OutputSearched, Page, Task};
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::client::{Client, Query};
use crate::failure::Failure;
use crate::ndjson::{Data, Lines, Match, OutputLine};
use crate::sink::Sink;
use crate::status::Status;

const NDJSON: &str = "application/x-ndjson";
/// The most that the API gives on one page.
const LARGEST_PAGE: &str = "500";
/// A connection that lasted this long counts as established.
const HOLDS_AFTER: Duration = Duration::from_secs(10);
/// How often to look for the next attempt if the stream does not continue with it.
const NEXT_ATTEMPT_PAUSE: Duration = Duration::from_secs(1);
/// The shortest time between two looks for tasks that have started.
const NEXT_TASK_PAUSE: Duration = Duration::from_millis(300);

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
    /// Only what the server finds.
    pub search: Option<LineSearch>,
}

/// Which lines to search for: the parameters of the API.
#[derive(Debug, Clone)]
pub struct LineSearch {
    pub pattern: String,
    pub invert: bool,
    pub counts_only: bool,
    pub before: u32,
    pub after: u32,
    pub limit: Option<u64>,
}

impl LineSearch {
    /// Adds its parameters to a query. `found`: how many lines were found before.
    fn add_to(&self, query: &mut Query, found: u64) {
        query.push(("q", self.pattern.clone()));
        query.extend(self.limit.map(|limit| ("limit", limit.saturating_sub(found).max(1).to_string())));
        let flags = [("invert", self.invert), ("count", self.counts_only)];
        query.extend(flags.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| (name, "1".to_owned())));
        let lines = [("lines_before", self.before), ("lines_after", self.after)];
        query.extend(
            lines.into_iter().filter(|(_, lines)| *lines > 0).map(|(name, lines)| (name, lines.to_string())),
        );
    }

    fn has_enough(&self, found: u64) -> bool {
        self.limit.is_some_and(|limit| found >= limit)
    }
}

/// What was read to the end.
#[derive(Debug, Default)]
pub struct Followed {
    /// The tasks as they were then; without `follow` these may be unfinished.
    pub tasks: Vec<Task>,
    /// How many lines a search found.
    pub found: u64,
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
    /// A search continues with another request.
    NextPart,
    Cut(Failure),
}

/// Reads to the end, attempt after attempt if that is wished, across lost connections.
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
) -> Result<Followed, Failure> {
    let mut reader = Reader::new(wish);
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
            Leg::Over
                if wish.search.as_ref().is_some_and(|search| search.has_enough(reader.followed.found)) =>
            {
                break;
            }
            Leg::Over => {
                targets.pop_front();
            }
            Leg::NextPart => {}
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
    Ok(reader.followed)
}

/// Follows a job that was just accepted. Of one with tasks for one worker each, each line begins with the name of the worker.
///
/// # Errors
/// As [`follow`].
pub async fn follow_job(
    client: &Client,
    job: &Job,
    wish: &FollowOptions,
    sink: &mut Sink<'_>,
    status: &Status<'_>,
) -> Result<Followed, Failure> {
    let tasks = job.spec["tasks"].as_array();
    let is_for_each_worker = tasks.into_iter().flatten().any(|task| task["each"] == WORKER);
    match is_for_each_worker {
        true => follow_by_item(client, job, wish, sink, status).await,
        false => follow(client, &Source::of(job), wish, sink, status, Backoff::for_a_job()).await,
    }
}

/// Reads the output of the tasks of a job to their ends, one after the other as they start. Each line begins with the item of its
/// task.
async fn follow_by_item(
    client: &Client,
    job: &Job,
    wish: &FollowOptions,
    sink: &mut Sink<'_>,
    status: &Status<'_>,
) -> Result<Followed, Failure> {
    // A system job may get further tasks for as long as it is kept.
    let (follows_workers, job) = (job.kind == JobKind::System.as_str(), job.id);
    let mut all = Followed::default();
    let mut shown = HashSet::new();
    let mut patience = Backoff::for_a_job();
    loop {
        let asked = Instant::now();
        let tasks = match tasks(client, job).await {
            Ok(tasks) => tasks,
            Err(failure) => {
                let tell = |failure: &Failure| {
                    status.note(&format!("{failure}; job {job} continues, reconnecting"));
                };
                patience.endure(failure, tell).await?;
                continue;
            }
        };
        if patience.relax() {
            status.remark("reconnected");
        }
        // Those who ask of ten thousand tasks do not ask all the time.
        let pause = NEXT_TASK_PAUSE.max(asked.elapsed() * 10);
        let before = shown.len();
        for task in tasks.iter().filter(|task| !is_waiting(task)) {
            if !shown.insert(task.address.clone()) {
                continue;
            }
            let item = task.item.as_ref().map_or_else(|| task.address.clone(), ToString::to_string);
            sink.begin_task(&item);
            let source = Source { job, task: Some(task.address.clone()), tasks: 1 };
            let followed = follow(client, &source, wish, sink, status, Backoff::for_a_job()).await?;
            all.tasks.extend(followed.tasks);
        }
        if shown.len() == tasks.len() && (!follows_workers || is_over(client, job).await) {
            return Ok(all);
        }
        if shown.len() == before {
            sleep(pause).await;
        }
    }
}

/// Whether the job is known to be over.
async fn is_over(client: &Client, job: JobId) -> bool {
    let read = client.read::<Job>(&["jobs", &job.to_string()], &Query::new()).await;
    read.is_ok_and(|job| job.finished_at.is_some())
}

/// Whether nothing of the task has run, and it has not ended.
fn is_waiting(task: &Task) -> bool {
    let waiting = [StateName::Blocked, StateName::Pending, StateName::Scheduled];
    waiting.iter().any(|state| state.as_str() == task.state)
}

async fn addresses(client: &Client, job: JobId) -> Result<Vec<String>, Failure> {
    Ok(tasks(client, job).await?.into_iter().map(|task| task.address).collect())
}

async fn tasks(client: &Client, job: JobId) -> Result<Vec<Task>, Failure> {
    let mut tasks = Vec::new();
    let mut query: Query = vec![("limit", LARGEST_PAGE.to_owned())];
    loop {
        let page: Page<Task> = client.read(&["jobs", &job.to_string(), "tasks"], &query).await?;
        tasks.extend(page.items);
        match page.next_cursor {
            Some(cursor) => query = vec![("limit", LARGEST_PAGE.to_owned()), ("cursor", cursor)],
            None => return Ok(tasks),
        }
    }
}

struct Reader<'w> {
    wish: &'w FollowOptions,
    place: Option<Place>,
    /// Where a search continues: in the output of this task, with this cursor.
    continued: Option<(String, String)>,
    /// The present answer was asked for from `place` on.
    resumed: bool,
    /// When the present answer began.
    opened: Option<Instant>,
    followed: Followed,
}

impl<'w> Reader<'w> {
    fn new(wish: &'w FollowOptions) -> Reader<'w> {
        let followed = Followed::default();
        Reader { wish, place: None, continued: None, resumed: false, opened: None, followed }
    }

    /// Grows with everything that was read.
    fn progress(&self) -> (usize, Option<Place>, Option<(String, String)>) {
        (self.followed.tasks.len(), self.place.clone(), self.continued.clone())
    }

    fn has_begun(&self) -> bool {
        self.place.is_some() || self.continued.is_some() || !self.followed.tasks.is_empty()
    }

    /// Whether the connection held: if it is lost again later, that is another trouble.
    fn was_open_for_long(&self) -> bool {
        self.opened.is_some_and(|opened| opened.elapsed() >= HOLDS_AFTER)
    }

    /// What is left to read, task by task.
    fn unfinished(&self, addresses: Vec<String>) -> VecDeque<Option<String>> {
        let is_over = |address: &String| self.followed.tasks.iter().any(|task| task.address == *address);
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
        let attempt = response.headers().get("x-gaffer-attempt").and_then(|value| value.to_str().ok());
        self.begins_with(attempt.and_then(|number| number.parse().ok()));
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
                    let (mut goes_on, mut stopped) = (false, false);
                    let mut broken = None;
                    lines.feed(&piece, |line| {
                        if line.is_empty() {
                            // A sign of life.
                            return Ok(());
                        }
                        let line = OutputLine::read(line)?;
                        if let Some(data) = &line.data {
                            self.take(data, sink)?;
                        }
                        if let Some(found) = &line.found {
                            self.take_match(found, sink)?;
                        }
                        if let Some(searched) = line.searched {
                            stopped |= self.take_searched(searched);
                        }
                        broken = broken.take().or(line.error);
                        if let Some(task) = line.end {
                            if self.is_end(&task) {
                                self.followed.tasks.push(*task);
                                over += 1;
                            } else {
                                goes_on = true;
                                self.turn_to_next_attempt(&task);
                            }
                        }
                        Ok(())
                    })?;
                    if let Some(problem) = broken {
                        return Ok(Leg::Cut(Failure::Problem(problem)));
                    }
                    if goes_on {
                        return Ok(Leg::NextAttempt);
                    }
                    if stopped {
                        let enough = |search: &LineSearch| search.has_enough(self.followed.found);
                        let is_over = self.wish.search.as_ref().is_some_and(enough);
                        return Ok(if is_over { Leg::Over } else { Leg::NextPart });
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

    /// Numbers of attempts may be left out: the answer says with which one it begins.
    fn begins_with(&mut self, attempt: Option<u32>) {
        if let (Some(place), Some(attempt), true) = (&mut self.place, attempt, self.resumed)
            && place.attempt < attempt
        {
            *place = Place { task: place.task.clone(), attempt, next: 0 };
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
        if let Some(search) = &self.wish.search {
            search.add_to(&mut query, self.followed.found);
        }
        let is_target = |task: &String| target.is_none_or(|address| address == task);
        if let Some((_, cursor)) = self.continued.as_ref().filter(|(task, _)| is_target(task)) {
            // What it begins with is the cursor's; up to where it goes is not.
            query.extend(self.wish.lines.clone().map(|lines| ("lines", lines)));
            query.push(("cursor", cursor.clone()));
            self.resumed = true;
            return query;
        }
        let place = self.place.as_ref().filter(|place| self.wish.lines.is_none() && is_target(&place.task));
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
        let Some(known) = self.known(&data.task, data.attempt) else { return Ok(()) };
        let skipped =
            usize::try_from(known.saturating_sub(data.offset)).unwrap_or(usize::MAX).min(bytes.len());
        if skipped < bytes.len() {
            sink.take(data.stream, &data.at, &bytes[skipped..]);
        }
        self.moved_to(&data.task, data.attempt, end);
        Ok(())
    }

    /// The same for a line that was found.
    fn take_match(&mut self, found: &Match<'_>, sink: &mut Sink<'_>) -> Result<(), Failure> {
        if self.known(&found.task, found.attempt).is_some_and(|known| found.end > known) {
            sink.take_match(found)?;
            self.followed.found += u64::from(!found.context);
            self.moved_to(&found.task, found.attempt, found.end);
            self.continued = None;
        }
        Ok(())
    }

    /// How far a search went. Whether it stopped before the end.
    fn take_searched(&mut self, searched: OutputSearched) -> bool {
        let counts_only = self.wish.search.as_ref().is_some_and(|search| search.counts_only);
        self.followed.found += if counts_only { searched.found } else { 0 };
        self.continued = searched.next_cursor.map(|cursor| (searched.task, cursor));
        self.continued.is_some()
    }

    /// Up to where the output of an attempt was handed on; none if a later one has begun.
    fn known(&self, task: &str, attempt: u32) -> Option<u64> {
        match &self.place {
            Some(place) if place.task == task && place.attempt == attempt => Some(place.next),
            Some(place) if place.task == task && place.attempt > attempt => None,
            _ => Some(0),
        }
    }

    fn moved_to(&mut self, task: &str, attempt: u32, next: u64) {
        match &mut self.place {
            Some(place) if place.task == task && place.attempt == attempt => {
                place.next = place.next.max(next)
            }
            place => *place = Some(Place { task: task.to_owned(), attempt, next }),
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn numbers_of_attempts_that_are_left_out_are_not_asked_for_one_by_one() {
        let wish = FollowOptions { follow: true, ..FollowOptions::default() };
        let mut reader = Reader::new(&wish);
        reader.place = Some(Place { task: "main".to_owned(), attempt: 2, next: 7 });
        // What was not asked for from there on begins where it was asked to.
        reader.begins_with(Some(864_002));
        assert_eq!(reader.place.as_ref().unwrap().attempt, 2);
        reader.resumed = true;
        reader.begins_with(None);
        reader.begins_with(Some(2));
        assert_eq!(reader.place, Some(Place { task: "main".to_owned(), attempt: 2, next: 7 }));
        reader.begins_with(Some(864_002));
        assert_eq!(reader.place, Some(Place { task: "main".to_owned(), attempt: 864_002, next: 0 }));
    }
}
