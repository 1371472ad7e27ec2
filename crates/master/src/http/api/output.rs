//! `/jobs/{job}/output` and `/jobs/{job}/tasks/{task}/output`: raw, NDJSON or server-sent events.

mod cursor;
mod last_event;
mod more_tasks;
mod search;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use chrono::DateTime;
use gaffer_domain::permissions::Action;
use gaffer_domain::{AttemptRef, JobId};
use gaffer_protocol::output::{Chunk, Stream};
use gaffer_protocol::rest::{OutputData, OutputLine};
use serde_json::json;

use super::super::bodies;
use super::super::description::{
    Answer, Content, Description, Header, Operation, Parameter, Schemas, Success, Values,
};
use super::super::error::Error;
use super::super::params::{Params, id, wants, wrong};
use crate::operations::output::{attempt_to_read, task_with_output};
use crate::operations::tasks::{self, Addressed};
use crate::operations::{Actor, OperationError};
use crate::output::{Piece, ReadFrom, TaskOutput, head, line_offset, tail_offset};
use crate::records::Task;
use crate::store::tasks::TaskFilter;
use crate::views::Views;
use cursor::Cursor;
use last_event::LastEvent;
use more_tasks::MoreTasks;

/// The attempt with whose output an answer begins.
const ATTEMPT: HeaderName = HeaderName::from_static("x-gaffer-attempt");

/// How the output is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Raw,
    JsonLines,
    Events,
}

/// What of an output is wanted.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    from: ReadFrom,
    /// The first byte that is not wanted any more.
    until: Option<u64>,
    stream: Option<Stream>,
    format: Format,
}

const QUERY: &[Parameter] = &[
    Parameter::new("follow", Values::Flag, "`1`: continue until the task ends."),
    Parameter::new(
        "attempt",
        Values::Integer { least: 1, most: u32::MAX as u64, default: None },
        "Number of the attempt; the latest by default.",
    ),
    Parameter::new(
        "stream",
        Values::Word(|| [Stream::Stdout, Stream::Stderr].map(Stream::as_str).to_vec()),
        "Only this stream.",
    ),
    Parameter::new("offset", BYTES, "Start at this byte of both streams together."),
    Parameter::new("tail", BYTES, "Only the last lines: how many."),
    Parameter::new(
        "lines",
        Values::Pattern("^[0-9]{1,18}(-[0-9]{1,18})?$", "100-200"),
        "Only these lines, counted from 1, both included. Not with `follow`.",
    ),
    search::Q,
    search::INVERT,
    search::COUNT,
    search::LINES_BEFORE,
    search::LINES_AFTER,
    search::LIMIT,
    search::CURSOR,
];
const BYTES: Values = Values::Integer { least: 0, most: u64::MAX, default: None };
const HEADERS: &[Parameter] = &[
    Parameter::new(
        "Range",
        Values::Pattern("^bytes=([0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})$", "bytes=100-199"),
        "One range of bytes of the raw output of one task; not with `follow`, `tail`, `lines`, `stream` or `q`.",
    ),
    Parameter::new(
        "Last-Event-ID",
        Values::Pattern(
            "^[0-9]{1,9}:[0-9]{1,18}$|^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}:[0-9]{1,9}:[0-9]{1,18}$",
            "1:4096",
        ),
        "Of server-sent events: continue after this one (`attempt:offset`, of a job with several tasks `task:attempt:offset`). \
         It takes precedence over `offset`, `tail`, `cursor` and the beginning of `lines`.",
    ),
];

const NO_ATTEMPT: (u16, &str) =
    (404, "The job, the task or the attempt does not exist, or belongs to another project.");

pub const OF_JOB: Operation = Operation {
    description: "The tasks of the job, one after the other; everything else as for a task. If the job has several tasks, \
        `attempt`, `offset`, `tail` and `lines` are not allowed.",
    query: QUERY,
    headers: HEADERS,
    errors: &[NO_ATTEMPT, (416, "")],
    ..Operation::new("get_job_output", "Get or follow the output of a job", Action::Look)
};

/// `GET /jobs/{job}/output`
pub async fn of_job(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(job): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<Output, Error> {
    let job: JobId = id(&job, "job")?;
    tasks::own_job(&views.reads, &actor, job).await?;
    let mut tasks = views.reads.task_list(job, &TaskFilter::default(), 2).await?;
    match (tasks.pop(), tasks.is_empty()) {
        (None, _) => Err(no_task(job)),
        (Some(only), true) => one_task(views, &actor, only, &headers, params).await,
        (Some(_), false) => all_tasks(views, &actor, job, &headers, params).await,
    }
}

pub const OF_TASK: Operation = Operation {
    description: "The format follows from `Accept`: `application/x-ndjson` (an `OutputLine` in each line), \
        `text/event-stream` (events `output` and `end` with an `OutputLine` as data), anything else raw bytes. `offset`, \
        `tail`, `lines` and `cursor` exclude each other, except `cursor` with `lines`.\n\n\
        With `q`, lines are searched where they are stored, in time proportional to the output: NDJSON has a `match` for each \
        line found, and a `searched` at the end of each task. A search that takes longer than 30 s, or reached `limit`, ends \
        with a `next_cursor`. Raw output is the matching lines; it breaks off if the search takes longer than that. A line that \
        begins before `offset` is not searched.\n\n\
        A response ends when its key is revoked: events with `error` (a problem as data), NDJSON with an `error` before it breaks \
        off.",
    query: QUERY,
    headers: HEADERS,
    errors: &[NO_ATTEMPT, (416, "")],
    ..Operation::new("get_task_output", "Get or follow the output of a task", Action::Look)
};

/// `GET /jobs/{job}/tasks/{task}/output`
pub async fn of_task(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path((job, task)): Path<(String, String)>,
    headers: HeaderMap,
    params: Params,
) -> Result<Output, Error> {
    let addressed = Addressed { job: id(&job, "job")?, task: &task };
    let task = tasks::find(&views.reads, &actor, addressed).await?;
    let task = task_with_output(&views.reads, task).await?;
    one_task(views, &actor, task, &headers, params).await
}

fn no_task(job: JobId) -> Error {
    OperationError::NotFound(format!("task in job {job}")).into()
}

async fn one_task(
    views: Arc<Views>,
    actor: &Actor,
    task: Task,
    headers: &HeaderMap,
    params: Params,
) -> Result<Output, Error> {
    let mut wanted = wanted(headers, &params)?;
    let mut asked = search::asked(&params)?;
    let last = LastEvent::of(headers, wanted.format)?;
    if last.as_ref().and_then(|last| last.task.as_ref()).is_some_and(|address| *address != task.address) {
        return Err(LastEvent::wrong("it is of another task"));
    }
    let last = last.map(|last| last.cursor(&task));
    let continued = wanted.continue_at(last, &mut asked, &task)?;
    let attempt: AttemptRef =
        attempt_to_read(&views.reads, &task, wanted.from.attempt, wanted.from.follow).await?;
    wanted.from.attempt = wanted.from.attempt.map(|_| attempt.attempt);
    let job = task.job;
    let tail = params.parse::<u64>("tail", "a number of lines")?;
    if let Some(tail) = tail.filter(|_| !continued) {
        wanted.from.offset = tail_offset(&views, job, attempt, wanted.stream, tail).await?;
    }
    if let Some((first, last)) = line_range(&params)? {
        let total = head(&views, attempt).await?;
        let line = async |line| line_offset(&views, job, attempt, wanted.stream, line).await;
        if !continued {
            wanted.from.offset = line(first - 1).await?.unwrap_or(total.bytes);
        }
        wanted.until = line(last).await?;
    }
    let first = wanted.from.attempt.or(wanted.from.first).unwrap_or(attempt.attempt);
    views.output.probe(AttemptRef { attempt: first, ..attempt }, wanted.from.offset).await?;
    if let Some(asked) = asked {
        let follows = wanted.from.follow && !task.state.is_final();
        let begun = asked.begin(&views, actor.project, follows).await?;
        let mut response = search::Search::new(views, &task, None, wanted, begun).into_body().into_response();
        dress(&mut response, wanted.format);
        response.headers_mut().insert(ATTEMPT, first.into());
        return Ok(Output(response));
    }

    let range = headers.get(header::RANGE).filter(|_| wanted.format == Format::Raw && !wanted.from.follow);
    let mut response = match range {
        Some(range)
            if params.text("tail").is_none() && params.text("lines").is_none() && wanted.stream.is_none() =>
        {
            let total = head(&views, attempt).await?.bytes;
            let Some((start, end)) = byte_range(range, total)? else {
                return Err(Error::OutOfRange(total));
            };
            views.output.probe(attempt, start).await?;
            wanted.from.offset = start;
            wanted.until = Some(end);
            let mut response = StatusCode::PARTIAL_CONTENT.into_response();
            let content_range = format!("bytes {start}-{}/{total}", end - 1);
            if let Ok(value) = HeaderValue::from_str(&content_range) {
                response.headers_mut().insert(header::CONTENT_RANGE, value);
            }
            response
        }
        _ => StatusCode::OK.into_response(),
    };
    if !wanted.from.follow
        && let Some(complete) = views.reads.output_complete(attempt).await?
    {
        let complete = HeaderValue::from_static(if complete { "true" } else { "false" });
        response.headers_mut().insert("x-gaffer-complete", complete);
    }
    let reader = TaskOutput::new(views.clone(), job, task.id, wanted.from);
    let source = Source { views, address: task.address, reader, more: None, wanted, ready: VecDeque::new() };
    *response.body_mut() = body(source);
    dress(&mut response, wanted.format);
    response.headers_mut().insert(ATTEMPT, first.into());
    Ok(Output(response))
}

async fn all_tasks(
    views: Arc<Views>,
    actor: &Actor,
    job: JobId,
    headers: &HeaderMap,
    params: Params,
) -> Result<Output, Error> {
    let one_task_only = ["attempt", "offset", "tail", "lines"];
    if let Some(name) = one_task_only.into_iter().find(|name| params.text(name).is_some()) {
        let detail =
            format!("the job has several tasks: ask for one of them, at /api/v1/jobs/{job}/tasks/…/output");
        return Err(wrong(name, &detail));
    }
    let mut wanted = wanted(headers, &params)?;
    let mut asked = search::asked(&params)?;
    let last = match LastEvent::of(headers, wanted.format)? {
        Some(last) => {
            let task = last.task.as_ref().ok_or_else(|| LastEvent::wrong("it names no task of the job"))?;
            let task = tasks::find(&views.reads, actor, Addressed { job, task }).await?;
            Some(last.cursor(&task))
        }
        None => None,
    };
    let place = last.or(asked.as_ref().and_then(|asked| asked.cursor));
    let after = place.map(|place| (place.position, place.index as i32 - 1));
    let mut more = MoreTasks::of(job, after, wanted.from.follow);
    let Some(first) = more.first(&views).await? else {
        return Err(if place.is_some() { search::no_cursor() } else { no_task(job) });
    };
    wanted.continue_at(last, &mut asked, &first)?;
    let attempt = wanted.from.attempt.or(wanted.from.first).unwrap_or(first.attempt);
    views.output.probe(AttemptRef { task: first.id, attempt }, wanted.from.offset).await?;
    if let Some(asked) = asked {
        let begun = asked.begin(&views, actor.project, wanted.from.follow).await?;
        let search = search::Search::new(views, &first, Some(more), wanted, begun);
        let mut response = search.into_body().into_response();
        dress(&mut response, wanted.format);
        return Ok(Output(response));
    }
    let reader = TaskOutput::new(views.clone(), job, first.id, wanted.from);
    let address = first.address;
    let source = Source { views, address, reader, more: Some(more), wanted, ready: VecDeque::new() };
    let mut response = body(source).into_response();
    dress(&mut response, wanted.format);
    Ok(Output(response))
}

fn wanted(headers: &HeaderMap, params: &Params) -> Result<Wanted, Error> {
    let format = match () {
        () if wants(headers, "application/x-ndjson") => Format::JsonLines,
        () if wants(headers, "text/event-stream") => Format::Events,
        () => Format::Raw,
    };
    let stream = match params.text("stream") {
        None => None,
        Some("stdout") => Some(Stream::Stdout),
        Some("stderr") => Some(Stream::Stderr),
        Some(other) => return Err(wrong("stream", &format!("expected stdout or stderr, found {other:?}"))),
    };
    let from = ReadFrom {
        attempt: params.parse("attempt", "an attempt number")?,
        first: None,
        offset: params.parse("offset", "a number of bytes")?.unwrap_or(0),
        follow: params.flag("follow")?,
    };
    let places: Vec<&str> = ["offset", "tail", "lines", "cursor"]
        .into_iter()
        .filter(|name| params.text(name).is_some())
        .collect();
    if places.len() > 1 && places != ["lines", "cursor"] {
        return Err(wrong(places[1], &format!("cannot be combined with {}", places[0])));
    }
    if from.follow && params.text("lines").is_some() {
        return Err(wrong("lines", "cannot be combined with follow"));
    }
    Ok(Wanted { from, until: None, stream, format })
}

impl Wanted {
    /// Continues after the last event that the client has, or else at the cursor of the search. False if it has neither.
    fn continue_at(
        &mut self,
        last: Option<Cursor>,
        asked: &mut Option<search::Asked>,
        task: &Task,
    ) -> Result<bool, Error> {
        if let (Some(_), Some(asked)) = (&last, asked.as_mut()) {
            asked.cursor = last;
        }
        let Some(place) = last.or(asked.as_ref().and_then(|asked| asked.cursor)) else { return Ok(false) };
        if !place.is_of(task) {
            return Err(search::no_cursor());
        }
        self.from = place.place(self.from);
        let attempt = self.from.attempt.or(self.from.first);
        if attempt.is_some_and(|attempt| attempt > task.attempt) {
            return Err(match last {
                Some(_) => LastEvent::wrong("the task has no such attempt"),
                None => search::no_cursor(),
            });
        }
        Ok(true)
    }
}

/// `lines=a-b`, counted from 1, both included.
fn line_range(params: &Params) -> Result<Option<(u64, u64)>, Error> {
    let Some(text) = params.text("lines") else { return Ok(None) };
    let read = || {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        (first >= 1 && first <= last).then_some((first, last))
    };
    read()
        .map(Some)
        .ok_or_else(|| wrong("lines", &format!("expected a range such as 100-200, found {text:?}")))
}

/// `bytes=a-b`, `bytes=a-` or `bytes=-n` as start and end (excluded). None if it lies outside.
fn byte_range(range: &HeaderValue, total: u64) -> Result<Option<(u64, u64)>, Error> {
    let read = || {
        let (first, last) = range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
        match (first, last) {
            ("", suffix) => Some((total.saturating_sub(suffix.parse().ok()?), total)),
            (first, "") => Some((first.parse().ok()?, total)),
            (first, last) => {
                Some((first.parse().ok()?, last.parse::<u64>().ok()?.saturating_add(1).min(total)))
            }
        }
    };
    let (start, end) = read().ok_or_else(|| {
        let detail = "expected one range of bytes, such as bytes=100-199";
        Error::field("invalid_header", "header:range", detail, None)
    })?;
    Ok((start < end && start < total).then_some((start, end)))
}

fn dress(response: &mut Response, format: Format) {
    let headers = response.headers_mut();
    let content_type = match format {
        Format::Raw => "text/plain; charset=utf-8",
        Format::JsonLines => "application/x-ndjson",
        Format::Events => "text/event-stream",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Proxies must not buffer live responses.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
}

/// Output in the format that was asked for.
#[derive(Debug)]
pub struct Output(Response);

impl IntoResponse for Output {
    fn into_response(self) -> Response {
        self.0
    }
}

impl Answer for Output {
    fn describe(description: &mut Description, schemas: &mut Schemas) {
        let attempt = || Header {
            name: "X-Gaffer-Attempt",
            description: "Of one task: the attempt with whose output the answer begins.",
            is_always_there: false,
        };
        let complete = Header {
            name: "X-Gaffer-Complete",
            description: "Of one task, not followed: whether the stored output equals what its worker read (`true`, `false`); \
                absent if the two could not be compared.",
            is_always_there: false,
        };
        let events = json!({
            "type": "string",
            "description": "Server-sent events `output` and `end`, with `q` `match`, `searched` and `end`: the data is an `OutputLine`, \
                the id of `output` and `match` is `attempt:offset`, of a job with several tasks `task:attempt:offset`. An event `error` has a \
                `Problem` as data and is the last one.",
        });
        let raw = || Content { media_type: "text/plain", schema: json!({}) };
        let lines = schemas.answered::<OutputLine>();
        let content = vec![
            raw(),
            Content { media_type: "application/x-ndjson", schema: lines },
            Content { media_type: "text/event-stream", schema: events },
        ];
        let whole = Success { description: "Output", headers: vec![attempt(), complete], content };
        description.answers(StatusCode::OK, whole);
        let range = Header {
            name: "Content-Range",
            description: "`bytes FIRST-LAST/LENGTH`.",
            is_always_there: true,
        };
        let part = Success {
            description: "The range",
            headers: vec![range, attempt(), complete],
            content: vec![raw()],
        };
        description.answers(StatusCode::PARTIAL_CONTENT, part);
    }
}

/// Where the bytes of an answer come from.
struct Source {
    views: Arc<Views>,
    address: String,
    reader: TaskOutput,
    more: Option<MoreTasks>,
    wanted: Wanted,
    ready: VecDeque<Bytes>,
}

fn body(source: Source) -> Body {
    Body::from_stream(futures::stream::unfold(Some(source), |source| async move {
        let mut source = source?;
        match source.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(source))),
            Ok(None) => None,
            // The status line is long gone; a broken-off body is the only way left to say that this is not all.
            Err(error) => Some((Err(io::Error::other(error.to_string())), None)),
        }
    }))
}

impl Source {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Ok(Some(bytes));
            }
            match self.reader.next().await? {
                Some(Piece::Output(attempt, chunk)) => {
                    let past_end = self.wanted.until.is_some_and(|until| chunk.offset >= until);
                    if past_end {
                        return Ok(None);
                    }
                    self.write(attempt, &chunk);
                }
                Some(Piece::End(task)) => {
                    let end = OutputLine::End(Box::new(bodies::task(*task)));
                    match self.wanted.format {
                        Format::Raw => {}
                        Format::JsonLines => self.ready.extend(json_line(&end)),
                        Format::Events => self.ready.extend(event("end", "", &end)),
                    }
                }
                None => {
                    let Some(more) = &mut self.more else { return Ok(None) };
                    let Some(task) = more.next(&self.views, &mut self.reader).await? else { return Ok(None) };
                    self.address.clone_from(&task.address);
                    // Where to begin was said of the first task.
                    self.reader.turn_to(task);
                }
            }
        }
    }

    /// Writes one chunk in the wanted format, without what was not asked for.
    fn write(&mut self, attempt: u32, chunk: &Chunk) {
        let mut offset = chunk.offset;
        let mut text = BytesMut::new();
        for record in &chunk.records {
            let start = offset;
            offset += record.bytes.len() as u64;
            let wanted_bytes = match self.wanted.until {
                Some(until) if start >= until => break,
                Some(until) => record.bytes.slice(..record.bytes.len().min((until - start) as usize)),
                None => record.bytes.clone(),
            };
            if self.wanted.stream.is_some_and(|stream| stream != record.stream) {
                continue;
            }
            if self.wanted.format == Format::Raw {
                match chunk.records.len() {
                    1 => self.ready.push_back(wanted_bytes),
                    _ => text.extend_from_slice(&wanted_bytes),
                }
                continue;
            }
            let (plain, base64) = text_or_base64(&wanted_bytes);
            let line = OutputLine::Data(OutputData {
                task: self.address.clone(),
                attempt,
                offset: start,
                at: DateTime::from_timestamp_micros(record.at_micros as i64).unwrap_or_default(),
                stream: record.stream,
                text: plain,
                base64,
            });
            match self.wanted.format {
                Format::Events => {
                    let task = self.more.as_ref().map(|_| self.address.as_str());
                    let id = LastEvent::id(task, attempt, start + wanted_bytes.len() as u64);
                    text.extend_from_slice(&event("output", &id, &line).unwrap_or_default());
                }
                _ => text.extend_from_slice(&json_line(&line).unwrap_or_default()),
            }
        }
        if !text.is_empty() {
            self.ready.push_back(text.freeze());
        }
    }
}

/// Bytes as they are, if they are text, else in base64.
fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => {
            use base64::Engine;
            (None, Some(base64::engine::general_purpose::STANDARD.encode(bytes)))
        }
    }
}

fn json_line(line: &OutputLine) -> Option<Bytes> {
    let mut text = serde_json::to_vec(line).ok()?;
    text.push(b'\n');
    Some(text.into())
}

fn event(kind: &str, id: &str, line: &OutputLine) -> Option<Bytes> {
    let data = serde_json::to_string(line).ok()?;
    Some(match id {
        "" => format!("event: {kind}\ndata: {data}\n\n").into(),
        id => format!("event: {kind}\nid: {id}\ndata: {data}\n\n").into(),
    })
}
