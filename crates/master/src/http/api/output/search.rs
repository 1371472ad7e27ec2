//! `q=` on an output: the lines that match a regular expression, instead of all of them.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::{BufMut, Bytes, BytesMut};
use chrono::DateTime;
use gaffer_domain::ProjectId;
use gaffer_domain::search::{FoundLine, LineQuery, MAX_CONTEXT_LINES, ResumePoint};
use gaffer_protocol::rest::{OutputLine, OutputMatch, OutputSearched, Problem};
use tokio_util::sync::CancellationToken;

use super::super::super::bodies;
use super::super::super::description::{Parameter, Values};
use super::super::super::endable::{Ending, endable};
use super::super::super::error::{Error, problem};
use super::super::super::params::{Params, wrong};
use super::super::super::readers::{error_event, error_line};
use super::cursor::Cursor;
use super::more_tasks::MoreTasks;
use super::{Format, LastEvent, Wanted, event, json_line, text_or_base64};
use crate::records::Task;
use crate::search::{OutputSearch, SearchPiece, SearchRequest, StopReason, Written};
use crate::search_budget::{Budget, Lasting, NotBegun, TOO_MANY};
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
    Values::Pattern(
        concat!(
            r"^c\d{1,9}\.\d{1,9}\.\d{1,9}\.\d{1,18}$",
            r"|^c\d{1,9}\.\d{1,9}\.\d{1,9}\.\d{1,18}\.\d{1,18}\.\d{1,18}\.[01]$"
        ),
        "c0.0.1.4096",
    ),
    "With `q`: `next_cursor` of an earlier search that did not get to the end. Repeat the other parameters, except `tail` and \
     `offset`.",
);

/// What a search was asked for.
#[derive(Debug)]
pub(super) struct Asked {
    /// The regular expression, as it was sent.
    pattern: String,
    invert: bool,
    counts_only: bool,
    lines_before: u32,
    lines_after: u32,
    limit: Option<u64>,
    /// Where to continue.
    pub cursor: Option<Cursor>,
}

/// What is searched for, within its budget.
#[derive(Debug)]
pub(super) struct Begun {
    query: LineQuery,
    resume: Option<ResumePoint>,
    budget: Budget,
}

/// The error of a cursor that belongs elsewhere, or is none.
pub(super) fn no_cursor() -> Error {
    wrong("cursor", "not the next_cursor of an earlier search of this output")
}

/// Reads what is to be searched for; none if everything is wanted.
pub(super) fn asked(params: &Params) -> Result<Option<Asked>, Error> {
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
    Ok(Some(Asked {
        pattern: text.to_owned(),
        invert: params.flag(INVERT.name)?,
        counts_only: params.flag(COUNT.name)?,
        lines_before: lines(LINES_BEFORE.name)?,
        lines_after: lines(LINES_AFTER.name)?,
        limit,
        cursor: params.text(CURSOR.name).map(|text| Cursor::read(text).ok_or_else(no_cursor)).transpose()?,
    }))
}

impl Asked {
    /// Waits until another search of the project may begin, and compiles the pattern in the time that it has.
    pub async fn begin(self, views: &Views, project: ProjectId, follows: bool) -> Result<Begun, Error> {
        let lasting = if follows { Lasting::WithTheOutput } else { Lasting::AtMost(SEARCH_TIME) };
        let begun = views.searches.begin(project, &self.pattern, lasting).await;
        let (pattern, budget) = begun.map_err(|error| match error {
            NotBegun::TooMany => Error::Busy(TOO_MANY),
            NotBegun::Pattern(invalid) => Error::field("invalid_regex", "query:q", invalid.to_string(), None),
        })?;
        let query = LineQuery {
            invert: self.invert,
            before: self.lines_before,
            after: self.lines_after,
            limit: self.limit,
            counts_only: self.counts_only,
            ..LineQuery::new(pattern)
        };
        Ok(Begun { query, resume: self.cursor.map(|cursor| cursor.at), budget })
    }
}

/// The body of an answer: what a search finds, task by task.
pub(super) struct Search {
    views: Arc<Views>,
    /// The task that is searched.
    address: String,
    position: i16,
    index: u32,
    more: Option<MoreTasks>,
    counts_only: bool,
    format: Format,
    search: OutputSearch,
    budget: Budget,
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
        begun: Begun,
    ) -> Search {
        let Wanted { from, until, stream, format } = wanted;
        let Begun { query, resume, budget } = begun;
        let inside = resume.and_then(|resume| resume.inside);
        let counts_only = query.counts_only;
        let request = SearchRequest { query, from, inside, until, stream };
        Search {
            address: task.address.clone(),
            position: task.position,
            index: task.index,
            more,
            counts_only,
            format,
            search: OutputSearch::new(views.clone(), task.job, task.id, request),
            budget,
            ready: VecDeque::new(),
            is_over: false,
            views,
        }
    }

    /// The body of the response. What its reader has not taken when its time is over is dropped with the search.
    pub fn into_body(self) -> Body {
        let over = self.budget.over();
        until_over(self.into_stream(), over)
    }

    fn into_stream(self) -> Body {
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
                Some(SearchPiece::Stopped { attempt, at, why }) => self.stop(attempt, at, why)?,
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
    fn stop(&mut self, attempt: u32, at: ResumePoint, why: StopReason) -> Result<(), Error> {
        let problem: Bytes = match (why, self.format) {
            (StopReason::LimitReached, _)
            | (StopReason::BudgetUsedUp, Format::JsonLines | Format::Events) => {
                let Search { position, index, .. } = *self;
                self.tell_searched(attempt, Some(Cursor { position, index, attempt, at }));
                self.end();
                return Ok(());
            }
            // There is no place in it to say where to continue.
            (StopReason::BudgetUsedUp | StopReason::NoProgress, Format::Raw) => {
                return Err(Error::Busy("the search takes too long for one response; ask for NDJSON"));
            }
            // With a cursor it would be the same again.
            (StopReason::NoProgress, Format::JsonLines) => error_line(too_slow()).into(),
            (StopReason::NoProgress, Format::Events) => error_event(&too_slow()).into(),
        };
        self.ready.push_back(problem);
        self.is_over = true;
        Ok(())
    }

    async fn turn_to_next_task(&mut self) -> Result<(), Error> {
        let next = match &mut self.more {
            Some(more) => more.next(&self.views, self.search.reader()).await?,
            None => None,
        };
        let Some(task) = next else {
            self.end();
            return Ok(());
        };
        (self.address, self.position, self.index) = (task.address.clone(), task.position, task.index);
        self.search.turn_to(task);
        Ok(())
    }

    /// Nothing more is searched. Raw output has the total as its only line, if that was asked for.
    fn end(&mut self) {
        if self.format == Format::Raw && self.counts_only {
            self.ready.push_back(format!("{}\n", self.search.found_in_all()).into());
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
                    text.put_slice(&json_line(&self.body_of(attempt, line)).unwrap_or_default());
                }
                Format::Events => {
                    let task = self.more.as_ref().map(|_| self.address.as_str());
                    let id = LastEvent::id(task, attempt, line.end);
                    text.put_slice(&event("match", &id, &self.body_of(attempt, line)).unwrap_or_default());
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

fn too_slow() -> Problem {
    problem(
        StatusCode::UNPROCESSABLE_ENTITY,
        "search_too_slow",
        "the search did not get past one line in its time: use a simpler regular expression, or try again when fewer searches are \
         running",
    )
}

/// A body that breaks off when the search has no place any more.
fn until_over(body: Body, over: CancellationToken) -> Body {
    let (body, ender) = endable(body);
    let breaks_off = Some("the result of the search was not read in time");
    ender.end_after(async move { over.cancelled().await }, Ending { last_words: None, breaks_off });
    body
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::StreamExt;
    use gaffer_domain::search::InsideLine;

    use super::*;

    #[tokio::test]
    async fn a_search_that_nobody_reads_keeps_nothing_when_its_time_is_over() {
        let (state, dropped) = tokio::sync::oneshot::channel::<()>();
        let pieces = futures::stream::once(async { Ok::<_, io::Error>(Bytes::from_static(b"one")) });
        let stream = pieces.chain(futures::stream::pending()).map(move |piece| {
            let _state = &state;
            piece
        });
        let over = CancellationToken::new();
        let unread = until_over(Body::from_stream(stream), over.clone());
        over.cancel();
        assert!(dropped.await.is_err(), "it is gone, though nobody has asked for anything");
        assert!(unread.into_data_stream().next().await.unwrap().is_err());
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is() {
        let offset = 123_456_789_012;
        let inside = InsideLine { line_offset: 123, dropped: 456, has_matched: false };
        for inside in [None, Some(inside), Some(InsideLine { has_matched: true, ..inside })] {
            let cursor = Cursor { position: 3, index: 17, attempt: 2, at: ResumePoint { offset, inside } };
            assert_eq!(Cursor::read(&cursor.text()), Some(cursor));
        }
        for text in [
            "",
            "c1",
            "c1.2.3",
            "c1.2.3.4.5",
            "c-1.2.3.4",
            "c1.2.3.x",
            "1.2.3.4",
            "c1.9999999999.3.4",
            "c1.2.3.4.5.6.0",
        ] {
            assert_eq!(Cursor::read(text), None, "{text}");
        }
    }
}
