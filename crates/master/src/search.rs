//! Searches the output of a task: the next chunks are read while another thread unpacks and searches those before.
//!
//! Each step is a few chunks, for which searches take turns. A search ends when its budget is used up, and says where to
//! continue.

mod scan;

use std::mem;
use std::sync::Arc;

use gaffer_domain::search::{FoundLine, InsideLine, LineQuery, ResumePoint};
use gaffer_domain::{AttemptRef, JobId, TaskId};
use gaffer_protocol::output::Stream;

use crate::output::{PackedOutput, PackedPiece, ReadFrom, TaskOutput};
use crate::records::Task;
use crate::search_budget::Budget;
use crate::store::StoreError;
use crate::store::output::damaged;
use crate::views::Views;
pub use scan::Written;
use scan::{Scan, ScanRange};

/// What to search, and for what.
#[derive(Debug, Clone)]
pub struct SearchRequest {
    pub query: LineQuery,
    pub from: ReadFrom,
    /// The line that is continued there; else the rest of a line that begins before is not searched.
    pub inside: Option<InsideLine>,
    /// The first byte that is not searched any more.
    pub until: Option<u64>,
    /// Only this stream.
    pub stream: Option<Stream>,
}

/// A search of one task's output, step by step.
#[derive(Debug)]
pub struct OutputSearch {
    views: Arc<Views>,
    task: TaskId,
    reader: TaskOutput,
    request: SearchRequest,
    /// None until the first output.
    scan: Option<Box<Scan>>,
    attempt: u32,
    /// What was read ahead.
    next: Option<Result<Option<PackedPiece>, StoreError>>,
    /// What comes after the text that is being searched, once it is known where that ends.
    then: Option<Then>,
    /// Whether it has left the output that it began with.
    has_moved_on: bool,
    found: u64,
    /// In the tasks before.
    found_before: u64,
    searched_bytes: u64,
}

/// What comes after the end of a text.
#[derive(Debug)]
enum Then {
    /// The task began a new attempt.
    Attempt(PackedOutput),
    /// Nothing; with the task if all of its output was searched.
    Nothing(Option<Box<Task>>),
    /// The end was given.
    Over,
}

/// What a step of a search found.
#[derive(Debug)]
pub enum SearchPiece {
    /// Some lines of an attempt.
    Lines(u32, Vec<FoundLine<Written>>),
    /// It stops here; where to continue.
    Stopped { attempt: u32, at: ResumePoint, why: StopReason },
    /// Everything was searched; the task as it is then, if its output has been read to the end.
    Complete(Option<Box<Task>>),
}

/// Why a search stopped before the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// All lines that were wanted were found.
    LimitReached,
    /// It may not search more for now.
    BudgetUsedUp,
    /// The same, and it stands where it began: with another budget like this one it would stop there again.
    NoProgress,
}

impl OutputSearch {
    /// Begins to search.
    pub fn new(views: Arc<Views>, job: JobId, task: TaskId, request: SearchRequest) -> OutputSearch {
        // With the byte before, which says whether a line begins there.
        let from = ReadFrom { offset: request.from.offset.saturating_sub(1), ..request.from };
        let reader = TaskOutput::new(views.clone(), job, task, from);
        OutputSearch {
            views,
            task,
            reader,
            attempt: request.from.attempt.unwrap_or(0),
            request,
            scan: None,
            next: None,
            then: None,
            has_moved_on: false,
            found: 0,
            found_before: 0,
            searched_bytes: 0,
        }
    }

    /// Continues with another task of the job: with all of its output, for what is still to be found.
    pub fn turn_to(&mut self, task: Task) {
        let found = self.found();
        self.found_before += found;
        let query = &mut self.request.query;
        query.limit = query.limit.map(|limit| limit.saturating_sub(found));
        self.request.from = ReadFrom { follow: self.request.from.follow, ..ReadFrom::default() };
        (self.request.inside, self.request.until) = (None, None);
        self.task = task.id;
        self.reader.turn_to(task);
        (self.scan, self.next, self.then) = (None, None, None);
        (self.attempt, self.found, self.searched_bytes, self.has_moved_on) = (0, 0, 0, true);
    }

    /// What reads the output.
    pub fn reader(&mut self) -> &mut TaskOutput {
        &mut self.reader
    }

    /// How many lines were found in this task.
    pub fn found(&self) -> u64 {
        self.found + self.scan.as_ref().map_or(0, |scan| scan.search.found())
    }

    /// How many lines were found in all tasks.
    pub fn found_in_all(&self) -> u64 {
        self.found_before + self.found()
    }

    /// How much of this task's output was searched.
    pub fn searched_bytes(&self) -> u64 {
        self.searched_bytes
    }

    /// The attempt that is searched; 0 before there is one.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The next piece; none after the last one.
    ///
    /// # Errors
    /// When the database does not answer, or stored output is damaged.
    pub async fn next(&mut self, budget: &mut Budget) -> Result<Option<SearchPiece>, StoreError> {
        loop {
            if self.scan.as_ref().is_none_or(|scan| scan.needs_text()) {
                match self.then.take() {
                    Some(Then::Over) => {
                        self.then = Some(Then::Over);
                        return Ok(None);
                    }
                    Some(Then::Nothing(task)) => {
                        self.then = Some(Then::Over);
                        return Ok(Some(SearchPiece::Complete(task)));
                    }
                    Some(Then::Attempt(output)) => self.begin(output),
                    None => {
                        if let Some(stopped) = self.stopped(budget) {
                            return Ok(Some(stopped));
                        }
                        self.take_text().await?;
                    }
                }
            }
            if let Some(stopped) = self.stopped(budget) {
                return Ok(Some(stopped));
            }
            let found = self.step(budget).await?;
            if !found.is_empty() {
                return Ok(Some(SearchPiece::Lines(self.attempt, found)));
            }
        }
    }

    /// Where to continue later, if the search has to stop now.
    fn stopped(&mut self, budget: &Budget) -> Option<SearchPiece> {
        let (at, has_enough) = match &self.scan {
            Some(scan) => (scan.search.position(), scan.search.is_done()),
            None if self.then.is_some() => return None,
            // Nothing was searched yet, here or in a task without output: it continues there.
            None => (self.beginning(), self.request.query.limit == Some(0)),
        };
        if !has_enough && !budget.is_used_up() {
            return None;
        }
        let why = match () {
            () if has_enough => StopReason::LimitReached,
            () if self.has_moved_on || at != self.beginning() => StopReason::BudgetUsedUp,
            () => StopReason::NoProgress,
        };
        self.then = Some(Then::Over);
        self.end_text();
        Some(SearchPiece::Stopped { attempt: self.attempt, at, why })
    }

    /// Where the search of this task begins.
    fn beginning(&self) -> ResumePoint {
        ResumePoint { offset: self.request.from.offset, inside: self.request.inside }
    }

    /// Gives the search what comes next, or tells it that nothing does.
    async fn take_text(&mut self) -> Result<(), StoreError> {
        if self.scan.as_ref().is_some_and(|scan| scan.is_complete()) {
            self.then = Some(Then::Nothing(None));
            return Ok(());
        }
        let piece = match self.next.take() {
            Some(piece) => piece?,
            None => self.reader.next_packed().await?,
        };
        let then = match piece {
            Some(PackedPiece::Output(output)) => match &mut self.scan {
                Some(scan) if output.attempt == self.attempt => {
                    scan.take(output);
                    return Ok(());
                }
                Some(_) => Then::Attempt(output),
                None => {
                    self.begin(output);
                    return Ok(());
                }
            },
            Some(PackedPiece::End(task)) => Then::Nothing(Some(task)),
            None => Then::Nothing(None),
        };
        self.then = Some(then);
        if let Some(scan) = &mut self.scan {
            scan.finish();
        }
        Ok(())
    }

    /// Begins with the text of an attempt.
    fn begin(&mut self, output: PackedOutput) {
        self.end_text();
        self.attempt = output.attempt;
        let mut query = self.request.query.clone();
        query.limit = query.limit.map(|limit| limit.saturating_sub(self.found));
        self.has_moved_on |= !output.is_first_attempt;
        let from = match output.is_first_attempt {
            true => self.beginning(),
            false => ResumePoint::from(output.offset),
        };
        let range =
            ScanRange { from, until: self.request.until.unwrap_or(u64::MAX), stream: self.request.stream };
        let attempt = AttemptRef { task: self.task, attempt: output.attempt };
        let mut scan = Scan::new(attempt, query, range);
        scan.take(output);
        self.scan = Some(Box::new(scan));
    }

    fn end_text(&mut self) {
        self.found += self.scan.take().map_or(0, |scan| scan.search.found());
    }

    /// One turn on a thread that may be busy, while the next chunks are read. Who follows would wait for these.
    async fn step(&mut self, budget: &mut Budget) -> Result<Vec<FoundLine<Written>>, StoreError> {
        let Some(mut scan) = self.scan.take() else { return Ok(Vec::new()) };
        let views = self.views.clone();
        let waiting: &Budget = budget;
        let searching = async move {
            let Some(turn) = views.searches.turn(waiting).await else { return Ok((scan, Ok(Vec::new()))) };
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                let found = scan.step();
                (scan, found)
            })
            .await
        };
        let reads_ahead = !self.request.from.follow && self.next.is_none() && self.then.is_none();
        let (reader, next) = (&mut self.reader, &mut self.next);
        let reading = async {
            if reads_ahead {
                *next = Some(reader.next_packed().await);
            }
        };
        let (searched, ()) = tokio::join!(searching, reading);
        let (mut scan, found) = searched.map_err(|_| StoreError::Unreadable("a search failed".to_owned()))?;
        let bytes = mem::take(&mut scan.searched_bytes);
        self.searched_bytes += bytes;
        budget.spend(bytes);
        let attempt = scan.attempt();
        self.scan = Some(scan);
        found.map_err(|error| damaged(attempt, error))
    }
}
