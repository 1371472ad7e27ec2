//! Reads a task's output: stored output, then the live tail, then new output as it arrives.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gaffer_domain::{AttemptRef, JobId, TaskId};
use gaffer_protocol::output::{Chunk, Stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::live::LiveOutput;
use crate::look_rate::LookRate;
use crate::records::Task;
use crate::store::StoreError;
use crate::store::output::{ChunkRow, OutputHead};
use crate::views::Views;

/// Chunks that are read from the store together: few at first, because most readers want a few lines, then more.
const FIRST_READ: u32 = 1;
const READ_AHEAD: u32 = 8;
/// Who takes longer over what was read together gets one chunk again: thousands of slow readers each hold what was read ahead.
const SLOW_READER: Duration = Duration::from_millis(500);
/// A follower polls at this interval, because another master may have written; sooner if the output is not live
/// here, because its worker may be about to connect.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN_SOON: Duration = Duration::from_secs(1);

/// Waits between tries while the database does not answer a reader that has begun.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(2);
/// After this time without an answer it is given up.
const RETRY_FOR: Duration = Duration::from_secs(60);

/// The last lines of one stream are searched backwards in parts of this many bytes.
const BACKWARD_BYTES: u64 = 256 << 10;

/// Where to begin, and whether to follow.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadFrom {
    /// Only this attempt, which may be a future one when following. None continues with later ones.
    pub attempt: Option<u32>,
    /// The attempt to begin with, if not only one is wanted; none for the latest.
    pub first: Option<u32>,
    /// The first byte wanted, in the output of the attempt that it begins with.
    pub offset: u64,
    /// Whether to wait for more until the task has ended.
    pub follow: bool,
}

impl ReadFrom {
    /// What an attempt has written so far.
    pub fn only(attempt: AttemptRef) -> ReadFrom {
        ReadFrom { attempt: Some(attempt.attempt), ..ReadFrom::default() }
    }

    /// The same from a place on that was reached before. Who follows goes on with later attempts, others read this one.
    pub fn continued(self, attempt: Option<u32>, offset: u64) -> ReadFrom {
        match self.follow {
            true => ReadFrom { first: attempt, offset, ..self },
            false => ReadFrom { attempt: self.attempt.or(attempt), offset, ..self },
        }
    }
}

/// The output of one task, piece by piece. What was read ahead stays packed, so that a slow reader costs little.
#[derive(Debug)]
pub struct TaskOutput {
    views: Arc<Views>,
    task: TaskId,
    from: ReadFrom,
    attempt: u32,
    is_first_attempt: bool,
    offset: u64,
    ready: VecDeque<ChunkRow>,
    read_ahead: u32,
    read_at: Instant,
    changes: watch::Receiver<u64>,
    rate: LookRate,
    patience: Patience,
    /// The task when it was last read; output written until then is read first.
    seen: Option<Task>,
    /// It is known to have no output.
    is_empty: bool,
    over: bool,
}

/// A piece of output, or the end of it.
#[derive(Debug)]
pub enum Piece {
    /// Some output of an attempt, directly behind the piece before.
    Output(u32, Arc<Chunk>),
    /// There is nothing more to read; the task is like this.
    End(Box<Task>),
}

/// Output as it was read from the store or from memory.
#[derive(Debug)]
pub enum PackedPiece {
    /// Some output of an attempt, directly behind the piece before.
    Output(PackedOutput),
    /// There is nothing more to read; the task is like this.
    End(Box<Task>),
}

/// Some packed chunks of an attempt's output.
#[derive(Debug)]
pub struct PackedOutput {
    pub attempt: u32,
    /// Whether it is the attempt that reading began with.
    pub is_first_attempt: bool,
    /// The first byte that was not read before; it may be in the midst of the first chunk.
    pub offset: u64,
    /// Not empty.
    pub chunks: VecDeque<ChunkRow>,
}

impl TaskOutput {
    /// Begins to read.
    pub fn new(views: Arc<Views>, job: JobId, task: TaskId, from: ReadFrom) -> TaskOutput {
        let changes = views.changes.of_job(job);
        let attempt = from.attempt.or(from.first).unwrap_or(0);
        TaskOutput {
            views,
            task,
            from,
            attempt,
            is_first_attempt: true,
            offset: from.offset,
            ready: VecDeque::new(),
            read_ahead: FIRST_READ,
            read_at: Instant::now(),
            changes,
            rate: LookRate::default(),
            patience: Patience::default(),
            seen: None,
            is_empty: false,
            over: false,
        }
    }

    /// Turns to another task of the job, with all of its output. One that had ended when it was read, just now or before, is not
    /// looked at again.
    pub fn turn_to(&mut self, task: Task) {
        self.task = task.id;
        self.from = ReadFrom { follow: self.from.follow, ..ReadFrom::default() };
        (self.attempt, self.offset, self.is_first_attempt) = (0, 0, true);
        self.ready.clear();
        self.read_ahead = FIRST_READ;
        (self.seen, self.is_empty, self.over) = (None, false, false);
        self.rate.one_is_over();
        if task.is_final() {
            (self.attempt, self.is_empty) = (task.attempt, task.wrote_nothing());
            self.seen = Some(task);
        }
    }

    /// Waits until one may look again at what changes all the time.
    pub async fn turn_to_look(&mut self) {
        self.rate.turn().await;
    }

    /// The next piece; none after the end, or when the task was deleted or the master goes down.
    ///
    /// # Errors
    /// When the database does not answer, or a chunk is damaged. Once there was an answer, the next one is waited for: a response
    /// that has begun can only break off.
    pub async fn next(&mut self) -> Result<Option<Piece>, StoreError> {
        loop {
            while let Some(row) = self.ready.pop_front() {
                let Some(chunk) = row.decode()?.from_offset(self.offset) else { continue };
                self.offset = chunk.end();
                return Ok(Some(Piece::Output(self.attempt, Arc::new(chunk))));
            }
            if !self.get_ready().await? {
                return Ok(self.end().map(Piece::End));
            }
        }
    }

    /// The same without unpacking: all that is there at once.
    ///
    /// # Errors
    /// When the database does not answer, as above.
    pub async fn next_packed(&mut self) -> Result<Option<PackedPiece>, StoreError> {
        if self.ready.is_empty() && !self.get_ready().await? {
            return Ok(self.end().map(PackedPiece::End));
        }
        let (offset, chunks) = (self.offset, mem::take(&mut self.ready));
        self.offset = chunks.back().map_or(offset, ChunkRow::end);
        let (attempt, is_first_attempt) = (self.attempt, self.is_first_attempt);
        Ok(Some(PackedPiece::Output(PackedOutput { attempt, is_first_attempt, offset, chunks })))
    }

    /// Waits until there is something to read. False if nothing more comes.
    async fn get_ready(&mut self) -> Result<bool, StoreError> {
        while !self.over && !self.is_empty {
            if self.attempt > 0 {
                let live = self.views.live_output(self.attempt_ref());
                let arrivals = live.as_ref().map(|live| live.subscribe());
                self.ready = loop {
                    let read = self.read(live.as_deref()).await;
                    if let Some(read) = self.patience.unless_it_waits(read, &self.views.shutdown).await {
                        break read?;
                    }
                };
                if !self.ready.is_empty() {
                    return Ok(true);
                }
                // All is read that was there when the task was last looked at. If it was over then, that was all.
                if self.settled() {
                    return Ok(false);
                }
                if self.seen.is_some() && !self.changes.has_changed().unwrap_or(true) {
                    if !self.wait(arrivals).await {
                        return Ok(false);
                    }
                    continue;
                }
            } else if self.settled() || (self.seen.is_some() && !self.wait(None).await) {
                return Ok(false);
            }
            // A job of many tasks changes all the time.
            self.rate.turn().await;
            self.changes.mark_unchanged();
            let is_there = loop {
                let looked = self.look().await;
                if let Some(looked) = self.patience.unless_it_waits(looked, &self.views.shutdown).await {
                    break looked?;
                }
            };
            if !is_there {
                // The task was deleted.
                self.seen = None;
                return Ok(false);
            }
        }
        Ok(false)
    }

    fn attempt_ref(&self) -> AttemptRef {
        AttemptRef { task: self.task, attempt: self.attempt }
    }

    /// The task, when it is over for the first time.
    fn end(&mut self) -> Option<Box<Task>> {
        self.over = true;
        self.seen.take().map(Box::new)
    }

    /// Whether nothing can follow what was there when the task was last looked at.
    fn settled(&self) -> bool {
        let Some(seen) = &self.seen else { return false };
        !self.from.follow
            || seen.finished_at.is_some()
            || self.from.attempt.is_some_and(|only| seen.attempt > only)
    }

    /// Reads the task. Continues with a new attempt after the previous one is read. False if the task was deleted.
    async fn look(&mut self) -> Result<bool, StoreError> {
        let Some(task) = self.views.reads.task_by_id(self.task).await? else { return Ok(false) };
        let latest = task.attempt;
        if self.from.attempt.is_none() && latest > self.attempt {
            if self.attempt > 0 {
                (self.offset, self.is_first_attempt) = (0, false);
                let next = self.views.reads.attempt_from(self.task, self.attempt + 1).await?;
                self.attempt = next.unwrap_or(latest);
            } else {
                self.attempt = latest;
            }
            // Its output has not been looked at yet.
            self.seen = None;
        } else {
            self.seen = Some(task);
        }
        Ok(true)
    }

    /// Available output from the current offset.
    async fn read(&mut self, live: Option<&LiveOutput>) -> Result<VecDeque<ChunkRow>, StoreError> {
        if let Some(chunks) = live.and_then(|live| live.read(self.offset)) {
            return Ok(chunks.into());
        }
        let is_slow = self.read_at.elapsed() > SLOW_READER;
        let limit = if is_slow { FIRST_READ } else { self.read_ahead };
        self.read_ahead = (limit * 2).min(READ_AHEAD);
        self.read_at = Instant::now();
        let stored = self.views.output.read(self.attempt_ref(), self.offset, limit).await?;
        Ok(stored.into_iter().filter(|chunk| chunk.end() > self.offset).collect())
    }

    /// Waits until there may be something new. False if the master goes down.
    async fn wait(&mut self, arrivals: Option<watch::Receiver<u64>>) -> bool {
        let look_again = if arrivals.is_some() { LOOK_AGAIN } else { LOOK_AGAIN_SOON };
        let arrived = async {
            match arrivals {
                Some(mut arrivals) => drop(arrivals.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.views.shutdown.cancelled() => return false,
            _ = self.changes.changed() => self.seen = None,
            () = arrived => {}
            () = tokio::time::sleep(look_again) => self.seen = None,
        }
        true
    }
}

/// Waits for a database that is away or busy, once it has answered a reader.
#[derive(Debug, Default)]
struct Patience {
    has_begun: bool,
    /// Since when there is no answer, and the next wait.
    failing: Option<(Instant, Duration)>,
}

impl Patience {
    /// The answer, or none after a wait, to ask again.
    async fn unless_it_waits<T>(
        &mut self,
        answer: Result<T, StoreError>,
        shutdown: &CancellationToken,
    ) -> Option<Result<T, StoreError>> {
        match &answer {
            Ok(_) => (self.has_begun, self.failing) = (true, None),
            Err(StoreError::Unavailable(error)) if self.has_begun => {
                let (since, wait) = self.failing.unwrap_or((Instant::now(), RETRY_FIRST));
                if since.elapsed() < RETRY_FOR && !shutdown.is_cancelled() {
                    tracing::debug!(%error, "a reader of output waits for the database");
                    self.failing = Some((since, (wait * 2).min(RETRY_LONGEST)));
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = tokio::time::sleep(wait) => return None,
                    }
                }
            }
            Err(_) => {}
        }
        Some(answer)
    }
}

/// How much output an attempt has, stored or arrived.
///
/// # Errors
/// When the database does not answer.
pub async fn head(views: &Views, attempt: AttemptRef) -> Result<OutputHead, StoreError> {
    match views.live_output(attempt) {
        Some(live) => Ok(live.received()),
        None => views.reads.output_head(attempt).await,
    }
}

/// Where the last lines begin. Of one stream, they are the last lines of that stream: what lies between them in the
/// output does not count.
///
/// # Errors
/// When the database does not answer.
pub async fn tail_offset(
    views: &Arc<Views>,
    job: JobId,
    attempt: AttemptRef,
    stream: Option<Stream>,
    lines: u64,
) -> Result<u64, StoreError> {
    let total = head(views, attempt).await?;
    let Some(stream) = stream else {
        let open = ends_open(views, job, attempt, total.bytes).await?;
        let first = (total.lines + u64::from(open)).saturating_sub(lines);
        return Ok(line_offset(views, job, attempt, None, first).await?.unwrap_or(total.bytes));
    };
    Ok(back_to(views, job, attempt, stream, total.bytes, lines, u64::MAX).await?.offset)
}

/// A place in an output, seen from behind.
#[derive(Debug, Clone, Copy)]
pub struct BackTo {
    /// Its offset: the beginning of a line.
    pub offset: u64,
    /// Line ends of both streams from there on.
    pub line_ends: u64,
}

/// Where the last lines of one stream before `end` begin. At most about `budget` bytes are looked through: then it is where
/// the first line begins that was found.
///
/// # Errors
/// When the database does not answer.
pub async fn back_to(
    views: &Arc<Views>,
    job: JobId,
    attempt: AttemptRef,
    stream: Stream,
    end: u64,
    lines: u64,
    budget: u64,
) -> Result<BackTo, StoreError> {
    let mut found_so_far = BackTo { offset: end, line_ends: 0 };
    let mut behind = end;
    let mut ends_behind = 0;
    let mut missing = None;
    while lines > 0 && behind > 0 && end - behind < budget {
        let start = behind.saturating_sub(BACKWARD_BYTES);
        let part = Part::read(views, job, attempt, stream, start, behind).await?;
        if let Some(ends_with_line) = part.ends_with_line {
            // Without a line end at the very end, the last piece counts as a line, too.
            let wanted = missing.unwrap_or(if ends_with_line { lines.saturating_add(1) } else { lines });
            let found = part.line_ends.len() as u64;
            let place = |(offset, before): &(u64, u64)| BackTo {
                offset: *offset,
                line_ends: ends_behind + part.all_line_ends - before,
            };
            if found >= wanted {
                return Ok(place(&part.line_ends[(found - wanted) as usize]));
            }
            missing = Some(wanted - found);
            found_so_far = part.line_ends.first().map_or(found_so_far, place);
        }
        ends_behind += part.all_line_ends;
        behind = start;
    }
    // All of it was looked through, and there are no more lines.
    if behind == 0 && lines > 0 {
        found_so_far = BackTo { offset: 0, line_ends: ends_behind };
    }
    Ok(found_so_far)
}

/// What one stream has in a part of an output.
struct Part {
    /// The offset after each line end, and the number of line ends of both streams before it.
    line_ends: Vec<(u64, u64)>,
    /// Line ends of both streams.
    all_line_ends: u64,
    /// Whether its last byte here is a line end; none if it has none here.
    ends_with_line: Option<bool>,
}

impl Part {
    async fn read(
        views: &Arc<Views>,
        job: JobId,
        attempt: AttemptRef,
        stream: Stream,
        start: u64,
        end: u64,
    ) -> Result<Part, StoreError> {
        let mut part = Part { line_ends: Vec::new(), all_line_ends: 0, ends_with_line: None };
        let from = ReadFrom { offset: start, ..ReadFrom::only(attempt) };
        let mut reader = TaskOutput::new(views.clone(), job, attempt.task, from);
        while let Some(Piece::Output(_, chunk)) = reader.next().await? {
            let mut at = chunk.offset;
            for record in &chunk.records {
                let wanted = &record.bytes[..record.bytes.len().min(end.saturating_sub(at) as usize)];
                for line_end in memchr::memchr_iter(b'\n', wanted) {
                    part.all_line_ends += 1;
                    if record.stream == stream {
                        part.line_ends.push((at + line_end as u64 + 1, part.all_line_ends));
                    }
                }
                if record.stream == stream && !wanted.is_empty() {
                    part.ends_with_line = Some(wanted.ends_with(b"\n"));
                }
                at += record.bytes.len() as u64;
            }
            if at >= end {
                break;
            }
        }
        Ok(part)
    }
}

/// Whether output ends in the middle of a line.
async fn ends_open(
    views: &Arc<Views>,
    job: JobId,
    attempt: AttemptRef,
    bytes: u64,
) -> Result<bool, StoreError> {
    if bytes == 0 {
        return Ok(false);
    }
    let from = ReadFrom { offset: bytes - 1, ..ReadFrom::only(attempt) };
    let mut reader = TaskOutput::new(views.clone(), job, attempt.task, from);
    match reader.next().await? {
        Some(Piece::Output(_, chunk)) => Ok(chunk
            .records
            .first()
            .and_then(|record| record.bytes.first())
            .is_some_and(|byte| *byte != b'\n')),
        _ => Ok(false),
    }
}

/// The offset at which a line begins (0 is the first): right behind the line end before it. None if there are fewer
/// line ends than that. Of one stream, only its own lines count.
///
/// # Errors
/// When the database does not answer.
pub async fn line_offset(
    views: &Arc<Views>,
    job: JobId,
    attempt: AttemptRef,
    stream: Option<Stream>,
    line: u64,
) -> Result<Option<u64>, StoreError> {
    if line == 0 {
        return Ok(Some(0));
    }
    let (offset, mut lines) = match stream {
        None => views.output.find_line(attempt, line).await?.unwrap_or((0, 0)),
        // The lines of a single stream are counted nowhere.
        Some(_) => (0, 0),
    };
    let from = ReadFrom { offset, ..ReadFrom::only(attempt) };
    let mut reader = TaskOutput::new(views.clone(), job, attempt.task, from);
    while let Some(Piece::Output(_, chunk)) = reader.next().await? {
        let mut at = chunk.offset;
        for record in &chunk.records {
            if stream.is_none_or(|stream| stream == record.stream) {
                for end in memchr::memchr_iter(b'\n', &record.bytes) {
                    lines += 1;
                    if lines == line {
                        return Ok(Some(at + end as u64 + 1));
                    }
                }
            }
            at += record.bytes.len() as u64;
        }
    }
    Ok(None)
}
