//! The output viewer: chosen attempt, lines, and links to other lines.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use gaffer_domain::ProjectId;
use gaffer_domain::search::ResumePoint;
use gaffer_domain::task::StateName;
use gaffer_protocol::output::Stream;
use serde::Serialize;

use super::super::bodies::result_of;
use super::super::error::Error;
use super::super::params::{Params, id, wrong};
use super::format::{address, bytes, count, many};
use super::frame::SessionUser;
use super::lines::{Output, Window, read_or_problem};
use super::log_search::{self, Links, LogSearch, Searched};
use super::rows::Choice;
use super::stream_lines::StreamLines;
use crate::operations::output::attempt_of;
use crate::operations::tasks::{self, Addressed};
use crate::records::{ResultOf, Task};
use crate::render::Line;
use crate::views::Views;

/// Lines on a page.
const PAGE_LINES: u64 = 500;
/// Attempts to choose from.
const MAX_ATTEMPTS: u32 = 12;

/// What the template shows of an output.
#[derive(Debug)]
pub struct LogView {
    /// Tasks to choose from; `href` is the state.
    pub tasks: Vec<Choice>,
    /// Attempts to choose from.
    pub attempts: Vec<Choice>,
    /// Streams to choose from.
    pub streams: Vec<Choice>,
    /// `stdout`, `stderr`, or nothing for both.
    pub only: String,
    /// The page that forms lead to.
    pub action: String,
    pub kept: Vec<(&'static str, String)>,
    pub lines_href: String,
    pub raw_href: String,
    /// What to call it on the reader's disk.
    pub file_name: String,
    /// Which attempt; 0 if there was none.
    pub attempt: u32,
    /// Lines that have ended.
    pub total: u64,
    /// Whether one more has begun.
    pub is_open: bool,
    /// Whether the newest lines are wanted.
    pub follows: bool,
    /// Whether more may come.
    pub is_live: bool,
    /// The lines with their numbers.
    pub lines: Vec<(u64, Line)>,
    /// The page of lines before these.
    pub older_href: Option<String>,
    pub newer_href: Option<String>,
    /// Which lines these are, in words.
    pub shown: String,
    /// What to say if there are none.
    pub empty: String,
    /// Where the output is of a task that did not run in this job.
    pub elsewhere: Option<Choice>,
    /// What a search found, in place of the lines.
    pub search: Option<LogSearch>,
}

/// What of a query concerns the viewer.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Only this attempt; else the latest.
    pub attempt: Option<u32>,
    at: Option<u64>,
    before: Option<u64>,
    only: Option<Stream>,
    /// What to search for.
    q: Option<String>,
    /// Where the search begins.
    after: ResumePoint,
}

impl LogQuery {
    /// Names of the parameters.
    pub const PARAMS: [&str; 7] = ["task", "attempt", "at", "before", "stream", "q", "after"];

    /// Reads them.
    pub fn of(params: &Params) -> Result<LogQuery, Error> {
        let params = params.given();
        Ok(LogQuery {
            attempt: params.parse("attempt", "an attempt number")?,
            at: params.parse("at", "a line number")?,
            before: params.parse("before", "a line number")?,
            only: stream(&params)?,
            q: params.text("q").map(str::to_owned),
            after: params.parse("after", "where a search stopped")?.unwrap_or_default(),
        })
    }
}

/// The one stream that is asked for; none for both.
fn stream(params: &Params) -> Result<Option<Stream>, Error> {
    match params.text("stream").unwrap_or_default() {
        "" => Ok(None),
        "stdout" => Ok(Some(Stream::Stdout)),
        "stderr" => Ok(Some(Stream::Stderr)),
        other => Err(wrong("stream", &format!("expected stdout or stderr, found {other:?}"))),
    }
}

/// Builds the viewer of one task's output. `page` is its address, `keeps_task` whether links must name the task.
pub async fn view(
    views: &Arc<Views>,
    project: ProjectId,
    page: &str,
    task: &Task,
    siblings: &[Task],
    wish: &LogQuery,
) -> Result<LogView, Error> {
    let attempt = attempt_of(task, wish.attempt, false)?;
    let output = Output { views: views.clone(), job: task.job, attempt };
    let mut problem = None;
    let window = match (attempt.attempt, &wish.q) {
        (0, _) | (_, Some(_)) => StreamLines::default(),
        (_, None) => {
            let read = read_lines(&output, wish.only, wish.at, wish.before, PAGE_LINES).await;
            read_or_problem(read)?.unwrap_or_else(|told| {
                problem = Some(told);
                StreamLines::default()
            })
        }
    };
    let (first, last) = (window.first(), window.last());
    let only = wish.only.map(Stream::as_str).unwrap_or_default();
    let task_param = if siblings.len() > 1 { task.address.as_str() } else { "" };
    let attempt_param = wish.attempt.map(|attempt| attempt.to_string()).unwrap_or_default();
    let href = |attempt: &str, stream: &str, at: &str| {
        address(page, &[("task", task_param), ("attempt", attempt), ("stream", stream), ("at", at)])
    };
    let at_text = wish.at.map(|at| at.to_string()).unwrap_or_default();
    let streams = [("All", ""), ("stdout", "stdout"), ("stderr", "stderr")].map(|(name, value)| Choice {
        name: name.to_owned(),
        href: href(&attempt_param, value, &at_text),
        is_chosen: only == value,
    });
    let numbers = views.reads.attempt_numbers(task.id, MAX_ATTEMPTS).await?;
    let attempts = numbers.into_iter().map(|number| Choice {
        name: format!("attempt {number}"),
        href: href(&number.to_string(), only, ""),
        is_chosen: number == attempt.attempt,
    });
    let tasks = siblings.iter().map(|sibling| Choice {
        name: sibling.address.clone(),
        href: sibling.state.to_string(),
        is_chosen: sibling.id == task.id,
    });
    let is_live = !task.is_final() && attempt.attempt == task.attempt;
    let page_at = |line: u64| href(&attempt_param, only, &line.to_string());
    let page_before = |line: u64| {
        let before = line.to_string();
        let asked =
            [("task", task_param), ("attempt", &attempt_param), ("stream", only), ("before", &before)];
        address(page, &asked)
    };
    let api = format!("/api/v1/jobs/{}/tasks/{}/output", task.job, task.address);
    let search = match wish.q.as_deref().filter(|_| attempt.attempt > 0) {
        None => None,
        Some(q) => {
            let after = |place: ResumePoint| {
                let (number, place) = (attempt.attempt.to_string(), place.to_string());
                let asked = [("task", task_param), ("attempt", &number), ("stream", only)];
                address(page, &[&asked[..], &[("q", q), ("after", &place)]].concat())
            };
            let links = Links { at_line: &page_at, after: &after, back: href(&attempt_param, only, "") };
            let (job, only, after) = (task.job, wish.only, wish.after);
            let searched = Searched { project, job, attempt, only, q, after };
            Some(log_search::search(views, searched, links).await?)
        }
    };
    let in_words =
        |of: &ResultOf| format!("Not run in this job: it has the {}.", result_of(of.clone()).in_words());
    let taken_over = task.result_of.as_ref().map(in_words);
    Ok(LogView {
        tasks: tasks.collect(),
        attempts: attempts.collect(),
        streams: streams.into(),
        only: only.to_owned(),
        action: page.to_owned(),
        kept: [
            ("task", task_param.to_owned()),
            ("attempt", attempt_param.clone()),
            ("stream", only.to_owned()),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect(),
        lines_href: address(&format!("/jobs/{}/lines", task.job), &[("task", &task.address)]),
        raw_href: address(&api, &[("attempt", &attempt_param)]),
        file_name: format!("job-{}-{}.log", task.job, task.address),
        attempt: attempt.attempt,
        total: window.head.lines,
        is_open: window.is_open,
        follows: wish.at.is_none() && wish.before.is_none() && is_live,
        is_live,
        older_href: first.filter(|first| *first > 1).map(page_before),
        newer_href: last.filter(|last| *last < window.head.lines).map(|last| page_at(last + 1)),
        shown: shown(&window, only),
        elsewhere: task.result_of.as_ref().filter(|of| !of.is_deleted).map(|of| Choice {
            name: format!("Output in job {}", of.job),
            href: address(&format!("/jobs/{}", of.job), &[("task", &of.address)]),
            is_chosen: false,
        }),
        empty: problem.or(taken_over).unwrap_or_else(|| match task.state {
            StateName::Running | StateName::Stopping => "No output yet.".to_owned(),
            _ if task.is_final() => "No output.".to_owned(),
            _ => "No output yet. It appears here when the task starts.".to_owned(),
        }),
        lines: window.lines,
        search,
    })
}

/// Lines of both streams or of one: from one on, or the last ones before one or at the end.
async fn read_lines(
    output: &Output,
    only: Option<Stream>,
    at: Option<u64>,
    before: Option<u64>,
    count: u64,
) -> Result<StreamLines, Error> {
    let window = match (only, at, before) {
        (Some(stream), Some(at), _) => return Ok(output.starting_with(stream, at, count).await?),
        (Some(stream), None, before) => return Ok(output.last_of(stream, before, count).await?),
        (None, Some(at), _) => output.from(at.max(1), count).await?,
        (None, None, None) => output.last(count).await?,
        (None, None, Some(before)) => {
            let first = before.saturating_sub(count).max(1);
            output.from(first, before.saturating_sub(first).max(1)).await?
        }
    };
    let Window { first, lines, is_open, head } = window;
    Ok(StreamLines { lines: (first..).zip(lines).collect(), is_open, head })
}

fn shown(window: &StreamLines, only: &str) -> String {
    let (Some(first), Some(last)) = (window.first(), window.last()) else { return String::new() };
    let all = window.head.lines + u64::from(window.is_open);
    let only = if only.is_empty() { String::new() } else { format!(" · {only} only") };
    format!("lines {}–{} of {} · {}{only}", many(first), many(last), many(all), bytes(window.head.bytes))
}

/// How much output there is, in words.
pub fn size(lines: u64, byte_count: u64) -> String {
    format!("{}, {}", count(lines, "line"), bytes(byte_count))
}

/// Lines as they are sent to a viewer.
#[derive(Debug, Serialize)]
pub struct SomeLines {
    attempt: u32,
    first: u64,
    total: u64,
    open: bool,
    lines: Vec<Line>,
    /// Their numbers, where they do not follow each other: of one stream.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    numbers: Vec<u64>,
}

/// `GET /jobs/{job}/lines`: lines around which the reader scrolls.
pub async fn lines(
    State(views): State<Arc<Views>>,
    visitor: SessionUser,
    Path(job): Path<String>,
    params: Params,
) -> Result<Json<SomeLines>, Error> {
    let params = params.only(&["task", "attempt", "from", "before", "count", "stream"], &[])?;
    let task = params.text("task").unwrap_or_default();
    let addressed = Addressed { job: id(&job, "job")?, task };
    let task = tasks::find(&views.reads, &visitor.actor, addressed).await?;
    let attempt = attempt_of(&task, params.parse("attempt", "an attempt number")?, false)?;
    let (mut from, before) =
        (params.parse("from", "a line number")?, params.parse("before", "a line number")?);
    let count = params.parse("count", "a number of lines")?.unwrap_or(PAGE_LINES).clamp(1, PAGE_LINES);
    let only = stream(&params)?;
    if only.is_none() && before.is_none() {
        from = from.or(Some(1));
    }
    let output = Output { views: views.clone(), job: task.job, attempt };
    let window = read_lines(&output, only, from, before, count).await?;
    let (numbers, lines): (Vec<u64>, Vec<Line>) = window.lines.into_iter().unzip();
    Ok(Json(SomeLines {
        attempt: attempt.attempt,
        first: numbers.first().copied().or(from).unwrap_or(1),
        total: window.head.lines,
        open: window.is_open,
        lines,
        numbers: if only.is_some() { numbers } else { Vec::new() },
    }))
}
