//! `/events` and `/jobs/{job}/events`: history in pages or as a stream.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use gaffer_domain::JobId;
use gaffer_protocol::rest::Page;
use tokio::sync::watch;

use super::super::bodies;
use super::super::error::Error;
use super::super::params::{Params, id, page_of, wrong};
use crate::look_rate::LookRate;
use crate::operations::{Actor, events, tasks};
use crate::records::Event;
use crate::views::Views;

/// A live stream polls at this interval, because another master may have written.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// So soon if there are events that can't be shown yet.
const LOOK_AGAIN_HELD_BACK: Duration = Duration::from_millis(100);
const BATCH: u32 = 200;

/// `GET /events`
pub async fn of_project(
    State(views): State<Arc<Views>>,
    actor: Actor,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Error> {
    history(views, actor, None, &headers, params).await
}

/// `GET /jobs/{job}/events`
pub async fn of_job(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(job): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Error> {
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
) -> Result<Response, Error> {
    let params = params.only(&["limit", "cursor", "after"], &[])?;
    let limit = params.limit()?;
    if wants(headers, "text/event-stream") {
        let after = last_event_id(headers, &params)?;
        return Ok(live(views, actor, job, after).await?.into_response());
    }
    if let Some(after) = params.parse::<i64>("after", "an event number")? {
        let found = views.reads.events_after(actor.project, job, after, limit).await?;
        let page = Page { items: found.events, next_cursor: None };
        return Ok(Json(page.map(bodies::event)).into_response());
    }
    let events = views.reads.events_before(actor.project, job, params.cursor()?, limit + 1).await?;
    Ok(params.answer(&page_of(events, limit, |event| event.id).map(bodies::event)))
}

/// Whether the client prefers this media type: it names it.
pub fn wants(headers: &HeaderMap, media_type: &str) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains(media_type))
}

fn last_event_id(headers: &HeaderMap, params: &Params) -> Result<Option<i64>, Error> {
    if let Some(after) = params.parse("after", "an event number")? {
        return Ok(Some(after));
    }
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
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
