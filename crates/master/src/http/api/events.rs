//! `/events` and `/jobs/{job}/events`: history in pages or as a stream.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use gaffer_domain::JobId;
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::{self, Page};
use serde_json::json;
use tokio::sync::watch;

use super::super::bodies;
use super::super::description::{
    Answer, CURSOR, Content, Description, LIMIT, Listed, NEXT_PAGE, Operation, Parameter, Schemas, Success,
    Values,
};
use super::super::error::Error;
use super::super::params::{Params, id, page_of, wants, wrong};
use crate::look_rate::LookRate;
use crate::operations::{Actor, events, tasks};
use crate::records::Event;
use crate::views::Views;

/// A live stream polls at this interval, because another master may have written.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// So soon if there are events that can't be shown yet.
const LOOK_AGAIN_HELD_BACK: Duration = Duration::from_millis(100);
const BATCH: u32 = 200;

const QUERY: &[Parameter] = &[
    LIMIT,
    CURSOR,
    Parameter::new(
        "after",
        Values::Integer { least: 0, most: i64::MAX as u64, default: None },
        "Only events after the one with this number, oldest first and without a cursor.",
    ),
];
const LAST_EVENT_ID: Parameter = Parameter::new(
    "Last-Event-ID",
    Values::Pattern("^[0-9]{1,18}$", "42"),
    "Of a live stream: continue after the event with this number.",
);

pub const OF_PROJECT: Operation = Operation {
    description: "A page, newest first. With `Accept: text/event-stream`: a live stream of what happens from now on, or after \
        `Last-Event-ID` or `after`.",
    query: QUERY,
    headers: &[LAST_EVENT_ID],
    ..Operation::new("list_events", "List or follow the history of the project", Action::Look)
};

/// `GET /events`
pub async fn of_project(
    State(views): State<Arc<Views>>,
    actor: Actor,
    headers: HeaderMap,
    params: Params,
) -> Result<History, Error> {
    history(views, actor, None, &headers, params).await
}

pub const OF_JOB: Operation = Operation {
    description: "A page, newest first. With `Accept: text/event-stream`: a live stream from the first event of the job on, or \
        after `Last-Event-ID` or `after`.",
    query: QUERY,
    headers: &[LAST_EVENT_ID],
    ..Operation::new("list_job_events", "List or follow the history of a job", Action::Look)
};

/// `GET /jobs/{job}/events`
pub async fn of_job(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(job): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<History, Error> {
    let job: JobId = id(&job, "job")?;
    tasks::own_job(&views.reads, &actor, job).await?;
    history(views, actor, Some(job), &headers, params).await
}

async fn history(
    views: Arc<Views>,
    actor: Actor,
    job: Option<JobId>,
    headers: &HeaderMap,
    params: Params,
) -> Result<History, Error> {
    let limit = params.limit()?;
    if wants(headers, "text/event-stream") {
        let after = last_event_id(headers, &params)?;
        return Ok(History(live(views, actor, job, after).await?.into_response()));
    }
    if let Some(after) = after(&params)? {
        let found = views.reads.events_after(actor.project, job, after, limit).await?;
        let page = Page { items: found.events, next_cursor: None };
        return Ok(History(Json(page.map(bodies::event)).into_response()));
    }
    let events = views.reads.events_before(actor.project, job, params.cursor()?, limit + 1).await?;
    let page = page_of(events, limit, |event| event.id).map(bodies::event);
    Ok(History(Listed::of(&params, page).into_response()))
}

/// A page of history, or a live stream.
#[derive(Debug)]
pub struct History(Response);

impl IntoResponse for History {
    fn into_response(self) -> Response {
        self.0
    }
}

impl Answer for History {
    fn describe(description: &mut Description, schemas: &mut Schemas) {
        let stream = json!({
            "type": "string",
            "description": "Server-sent events: the event name is the `kind` of an `Event`, the id its number, the data its JSON.",
        });
        let page = Content::json(schemas.answered::<Page<rest::Event>>());
        let content = vec![page, Content { media_type: "text/event-stream", schema: stream }];
        let success = Success { description: "A page, or a live stream", headers: vec![NEXT_PAGE], content };
        description.answers(StatusCode::OK, success);
    }
}

/// The event after which to begin; numbers are not negative.
fn after(params: &Params) -> Result<Option<i64>, Error> {
    let number = params.parse::<u64>("after", "an event number")?;
    Ok(number.map(|number| i64::try_from(number).unwrap_or(i64::MAX)))
}

fn last_event_id(headers: &HeaderMap, params: &Params) -> Result<Option<i64>, Error> {
    if let Some(after) = after(params)? {
        return Ok(Some(after));
    }
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse::<i64>().ok()).filter(|number| *number >= 0);
    number.map(Some).ok_or_else(|| {
        let detail = "expected an event number";
        Error::field("invalid_header", "header:last-event-id", detail, None)
    })
}

struct Live {
    views: Arc<Views>,
    actor: Actor,
    job: Option<JobId>,
    after: i64,
    changes: watch::Receiver<u64>,
    rate: LookRate,
    ready: std::collections::VecDeque<Event>,
}

/// Events from now on, or from the one after the last that the client has seen.
async fn live(
    views: Arc<Views>,
    actor: Actor,
    job: Option<JobId>,
    after: Option<i64>,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, Error> {
    let changes = match job {
        Some(job) => views.changes.of_job(job),
        None => views.changes.of_any(),
    };
    let after = match after {
        Some(after) if after >= 0 => after,
        Some(_) => return Err(wrong("after", "expected an event number")),
        // A job's stream starts with its first event, the project's with the next one.
        None if job.is_some() => 0,
        None => events::from_now_on(&views, actor.project).await?,
    };
    let live =
        Live { views, actor, job, after, changes, rate: LookRate::default(), ready: Default::default() };
    let stream = futures::stream::unfold(live, |mut live| async move {
        let event = bodies::event(live.next().await?);
        let data = serde_json::to_string(&event).unwrap_or_default();
        let sse = SseEvent::default()
            .id(event.id.to_string())
            .event(event.kind.replace(['\n', '\r'], " "))
            .data(data);
        Some((Ok(sse), live))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

impl Live {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.after = event.id;
                return Some(event);
            }
            self.rate.turn().await;
            self.changes.mark_unchanged();
            let found = self.views.reads.events_after(self.actor.project, self.job, self.after, BATCH).await;
            let look_again = match found {
                Ok(found) => {
                    self.ready.extend(found.events);
                    if found.is_held_back { LOOK_AGAIN_HELD_BACK } else { LOOK_AGAIN }
                }
                // A database that is away for a moment is no reason to end the stream.
                Err(_) => LOOK_AGAIN,
            };
            if !self.ready.is_empty() {
                continue;
            }
            tokio::select! {
                () = self.views.shutdown.cancelled() => return None,
                changed = self.changes.changed() => if changed.is_err() { return None },
                () = tokio::time::sleep(look_again) => {}
            }
        }
    }
}
