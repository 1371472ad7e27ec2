//! `q=` on an output: the lines that match a regular expression, instead of all of them.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use chrono::DateTime;
use gaffer_domain::JobId;
use gaffer_domain::search::{FoundLine, LineQuery, MAX_CONTEXT_LINES, Pattern};
use gaffer_protocol::rest::{OutputLine, OutputMatch, OutputSearched};

use super::super::super::bodies;
use super::super::super::description::{Parameter, Values};
use super::super::super::error::Error;
use super::super::super::params::{Params, wrong};
use super::{Format, MoreTasks, Wanted, event, json_line, text_or_base64};
use crate::operations::OperationError;
use crate::output::ReadFrom;
use crate::records::Task;
use crate::search::{OutputSearch, SearchPiece, SearchRequest, Written};
use crate::search_budget::Budget;
use crate::views::Views;

/// How long a search may take for one response.
const SEARCH_TIME: Duration = Duration::from_secs(30);
const LINES: Values = Values::Integer { least: 0, most: MAX_CONTEXT_LINES as u64, default: Some(0) };

pub(super) const Q: Parameter = Parameter::new(
    "q",
    Values::Text,
    "Only lines that match this regular expression (syntax of the Rust crate `regex`, at most 4 KiB). Lines are searched as a \
     reader sees them: without escape sequences of terminals.",
);
pub(super) const INVERT: Parameter =
    Parameter::new("invert", Values::Flag, "With `q`, `1`: only lines that do not match.");
pub(super) const COUNT: Parameter =
    Parameter::new("count", Values::Flag, "With `q`, `1`: only how many lines match.");
pub(super) const LINES_BEFORE: Parameter =
    Parameter::new("lines_before", LINES, "With `q`: how many lines to give before each match.");
pub(super) const LINES_AFTER: Parameter =
    Parameter::new("lines_after", LINES, "With `q`: how many lines to give after each match.");
pub(super) const LIMIT: Parameter = Parameter::new(
    "limit",
    Values::Integer { least: 1, most: u64::MAX, default: None },
    "With `q`: stop after this many matching lines.",
);
pub(super) const CURSOR: Parameter = Parameter::new(
    "cursor",
    Values::Pattern(r"^c\d{1,9}\.\d{1,9}\.\d{1,9}\.\d{1,18}$", "c0.0.1.4096"),
    "With `q`: `next_cursor` of an earlier search that did not get to the end.",
);

/// What a search was asked for.
#[derive(Debug)]
pub(super) struct Asked {
    query: LineQuery,
    /// Where to continue.
    pub cursor: Option<Cursor>,
}

/// A place in the output of a job: where a search continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Of the task: its definition.
    pub position: i16,
    /// Of the task: which one of the definition.
    pub index: u32,
    pub attempt: u32,
    pub offset: u64,
}

impl Cursor {
    fn read(text: &str) -> Option<Cursor> {
        let mut numbers = text.strip_prefix('c')?.split('.');
        let mut next = || numbers.next();
        let cursor = Cursor {
            position: next()?.parse().ok().filter(|position| *position >= 0)?,
            index: next()?.parse().ok().filter(|index| *index <= i32::MAX as u32)?,
            attempt: next()?.parse().ok()?,
            offset: next()?.parse().ok()?,
        };
        next().is_none().then_some(cursor)
    }

    fn text(self) -> String {
        let Cursor { position, index, attempt, offset } = self;
        format!("c{position}.{index}.{attempt}.{offset}")
    }

    pub fn is_of(self, task: &Task) -> bool {
        (self.position, self.index) == (task.position, task.index)
    }

    /// Reading from here on; without an attempt the cursor was made before the first one.
    pub fn place(self, from: ReadFrom) -> ReadFrom {
        ReadFrom {
            attempt: from.attempt.or(Some(self.attempt).filter(|attempt| *attempt > 0)),
            offset: self.offset,
            ..from
        }
    }
}

/// The error of a cursor that belongs elsewhere, or is none.
pub(super) fn no_cursor() -> Error {
    wrong("cursor", "not the next_cursor of an earlier search of this output")
}

/// Reads what is to be searched for; none if everything is wanted.
pub(super) async fn asked(params: &Params) -> Result<Option<Asked>, Error> {
    let Some(text) = params.text(Q.name) else {
        let others = [INVERT, COUNT, LINES_BEFORE, LINES_AFTER, LIMIT, CURSOR];
        let other = others.into_iter().find(|parameter| params.text(parameter.name).is_some());
        return match other {
            Some(other) => Err(wrong(other.name, "works with q only")),
            None => Ok(None),
        };
    };
    let lines = |name: &str| match params.parse::<u32>(name, "a number of lines")? {
        Some(lines) if lines > MAX_CONTEXT_LINES => {
            Err(wrong(name, &format!("expected at most {MAX_CONTEXT_LINES}, found {lines}")))
        }
        lines => Ok(lines.unwrap_or(0)),
    };
    let limit = params.parse::<u64>(LIMIT.name, "a number of lines")?;
    if limit == Some(0) {
        return Err(wrong(LIMIT.name, "expected a positive number of lines, found 0"));
    }
    let query = LineQuery {
        invert: params.flag(INVERT.name)?,
        before: lines(LINES_BEFORE.name)?,
        after: lines(LINES_AFTER.name)?,
        limit,
        counts_only: params.flag(COUNT.name)?,
        ..LineQuery::new(pattern(text).await?)
    };
    let cursor = match params.text(CURSOR.name) {
        Some(text) => Some(Cursor::read(text).ok_or_else(no_cursor)?),
        None => None,
    };
    Ok(Some(Asked { query, cursor }))
}

/// Compiles a pattern, on a thread that may be busy for a while.
async fn pattern(text: &str) -> Result<Pattern, Error> {
    let owned = text.to_owned();
    match tokio::task::spawn_blocking(move || Pattern::compile(&owned)).await {
        Ok(Ok(pattern)) => Ok(pattern),
        Ok(Err(invalid)) => Err(Error::field("invalid_regex", "query:q", invalid.to_string(), None)),
        Err(_) => Err(Error::Internal),
    }
}

/// Waits until another search may begin.
pub(super) async fn budget(views: &Views, follows: bool) -> Result<Budget, Error> {
    let too_many = |_| OperationError::Busy("too many searches are running").into();
    if follows {
        return views.searches.follow().map_err(too_many);
    }
    views.searches.open(SEARCH_TIME).await.map_err(too_many)
}

/// The body of an answer: what a search finds, task by task.
pub(super) struct Search {
    views: Arc<Views>,
    job: JobId,
    /// The task that is searched.
    address: String,
    position: i16,
    index: u32,
    more: Option<MoreTasks>,
    request: SearchRequest,
    format: Format,
    search: OutputSearch,
    budget: Budget,
    /// In the tasks before.
    found_before: u64,
    ready: VecDeque<Bytes>,
    is_over: bool,
}

impl Search {
    /// A search that begins with this task.
    pub fn new(
        views: Arc<Views>,
        task: &Task,
        more: Option<MoreTasks>,
        wanted: Wanted,
        asked: Asked,
        budget: Budget,
    ) -> Search {
        let Wanted { from, until, stream, format } = wanted;
        let request = SearchRequest { query: asked.query, from, until, stream };
        Search {
            job: task.job,
            address: task.address.clone(),
            position: task.position,
            index: task.index,
            more,
            format,
            search: OutputSearch::new(views.clone(), task.job, task.id, request.clone()),
            request,
            budget,
            found_before: 0,
            ready: VecDeque::new(),
            is_over: false,
            views,
        }
    }

    pub fn into_body(self) -> Body {
        Body::from_stream(futures::stream::unfold(Some(self), |search| async move {
            let mut search = search?;
            match search.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(search))),
                Ok(None) => None,
                // As for any output, a body that breaks off says that this is not all.
                Err(error) => Some((Err(io::Error::other(error.to_string())), None)),
            }
        }))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Ok(Some(bytes));
            }
            if self.is_over {
                return Ok(None);
            }
            match self.search.next(&mut self.budget).await? {
                Some(SearchPiece::Lines(attempt, lines)) => self.write(attempt, lines),
                Some(SearchPiece::Stopped { attempt, offset }) => self.stop(attempt, offset)?,
                Some(SearchPiece::Complete(task)) => {
                    self.tell_searched(self.search.attempt(), None);
                    let end = task.map(|task| OutputLine::End(Box::new(bodies::task(*task))));
                    match self.format {
                        Format::Raw => {}
                        Format::JsonLines => self.ready.extend(end.as_ref().and_then(json_line)),
                        Format::Events => self.ready.extend(end.and_then(|end| event("end", "", &end))),
                    }
                }
                None => self.turn_to_next_task().await?,
            }
        }
    }

    /// It found enough, or may not search more.
    fn stop(&mut self, attempt: u32, offset: u64) -> Result<(), Error> {
        let has_enough = self.request.query.limit.is_some_and(|limit| self.search.found() >= limit);
        if self.format == Format::Raw && !has_enough {
            // There is no place in it to say where to continue.
            return Err(Error::Busy("the search takes too long for one response; ask for NDJSON"));
        }
        let Search { position, index, .. } = *self;
        self.tell_searched(attempt, Some(Cursor { position, index, attempt, offset }));
        self.found_before += self.search.found();
        self.end();
        Ok(())
    }

    async fn turn_to_next_task(&mut self) -> Result<(), Error> {
        let found = self.search.found();
        self.found_before += found;
        let next = match &mut self.more {
            Some(more) => more.next(&self.views, self.job).await?,
            None => None,
        };
        let Some(task) = next else {
            self.end();
            return Ok(());
        };
        let limit = &mut self.request.query.limit;
        *limit = limit.map(|limit| limit.saturating_sub(found));
        // The cursor was for the first task.
        self.request.from = ReadFrom { attempt: None, offset: 0, ..self.request.from };
        self.search = OutputSearch::new(self.views.clone(), self.job, task.id, self.request.clone());
        (self.address, self.position, self.index) = (task.address, task.position, task.index);
        Ok(())
    }

    /// Nothing more is searched. Raw output has the total as its only line, if that was asked for.
    fn end(&mut self) {
        if self.format == Format::Raw && self.request.query.counts_only {
            self.ready.push_back(format!("{}\n", self.found_before).into());
        }
        self.is_over = true;
    }

    fn tell_searched(&mut self, attempt: u32, next: Option<Cursor>) {
        let searched = OutputLine::Searched(OutputSearched {
            task: self.address.clone(),
            attempt,
            found: self.search.found(),
            searched_bytes: self.search.searched_bytes(),
            next_cursor: next.map(Cursor::text),
        });
        match self.format {
            Format::Raw => {}
            Format::JsonLines => self.ready.extend(json_line(&searched)),
            Format::Events => self.ready.extend(event("searched", "", &searched)),
        }
    }

    fn write(&mut self, attempt: u32, lines: Vec<FoundLine<Written>>) {
        let mut text = BytesMut::new();
        for line in lines {
            match self.format {
                Format::Raw => {
                    text.put_slice(&line.text);
                    if line.skipped_bytes > 0 || line.is_cut {
                        text.put_slice(b" [gaffer: part of a longer line]");
                    }
                    text.put_u8(b'\n');
                }
                Format::JsonLines => {
                    text.extend(json_line(&self.body_of(attempt, line)).into_iter().flatten());
                }
                Format::Events => {
                    let id = format!("{attempt}:{}", line.end);
                    text.extend(event("match", &id, &self.body_of(attempt, line)).into_iter().flatten());
                }
            }
        }
        self.ready.push_back(text.freeze());
    }

    fn body_of(&self, attempt: u32, line: FoundLine<Written>) -> OutputLine {
        let (text, base64) = text_or_base64(&line.text);
        OutputLine::Match(OutputMatch {
            task: self.address.clone(),
            attempt,
            line: line.number,
            offset: line.offset,
            end: line.end,
            at: DateTime::from_timestamp_micros(line.tag.at_micros as i64).unwrap_or_default(),
            stream: line.tag.stream,
            text,
            base64,
            skipped_bytes: line.skipped_bytes,
            cut: line.is_cut,
            matches: line.matches.iter().map(|found| [found.start as u32, found.end as u32]).collect(),
            context: line.is_context,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is() {
        let cursor = Cursor { position: 3, index: 17, attempt: 2, offset: 123_456_789_012 };
        assert_eq!(Cursor::read(&cursor.text()), Some(cursor));
        for text in
            ["", "c1", "c1.2.3", "c1.2.3.4.5", "c-1.2.3.4", "c1.2.3.x", "1.2.3.4", "c1.9999999999.3.4"]
        {
            assert_eq!(Cursor::read(text), None, "{text}");
        }
    }
}
