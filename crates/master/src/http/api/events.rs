//! `/events` and `/jobs/{job}/events`: history, as pages or live.

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
use tokio::sync::watch;

use super::super::auth::Principal;
use super::super::error::Error;
use super::super::params::{Params, page_of, wrong};
use super::tasks::own_job;
use crate::Master;
use crate::look_rate::LookRate;
use crate::store::StoreError;

/// A live stream looks again after so long even if nothing woke it: another master may have written.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// So soon if there are events that can't be shown yet.
const LOOK_AGAIN_HELD_BACK: Duration = Duration::from_millis(100);
const BATCH: u32 = 200;

/// `GET /events`
pub async fn of_project(
    State(master): State<Arc<Master>>,
    caller: Principal,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Error> {
    history(master, caller, None, &headers, params).await
}

/// `GET /jobs/{job}/events`
pub async fn of_job(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(job): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Error> {
    let job = own_job(&master.reads, &caller, &job).await?;
    history(master, caller, Some(job), &headers, params).await
}

async fn history(
    master: Arc<Master>,
    caller: Principal,
    job: Option<JobId>,
    headers: &HeaderMap,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["limit", "cursor", "after"], &[])?;
    let limit = params.limit()?;
    if wants(headers, "text/event-stream") {
        let after = last_event_id(headers, &params)?;
        return Ok(live(master, caller, job, after).await?.into_response());
    }
    if let Some(after) = params.parse::<i64>("after", "the number of an event")? {
        let found = master.reads.events_after(caller.project, job, after, limit).await?;
        return Ok(
            Json(gaffer_protocol::rest::Page { items: found.events, next_cursor: None }).into_response()
        );
    }
    let events = master.reads.events_before(caller.project, job, params.cursor()?, limit + 1).await?;
    Ok(params.answer(&page_of(events, limit, |event| event.id)))
}

/// Whether the client prefers this media type: it names it.
pub fn wants(headers: &HeaderMap, media_type: &str) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains(media_type))
}

fn last_event_id(headers: &HeaderMap, params: &Params) -> Result<Option<i64>, Error> {
    if let Some(after) = params.parse("after", "the number of an event")? {
        return Ok(Some(after));
    }
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        let detail = "expected the number of an event";
        Error::field("invalid_header", "header:last-event-id", detail, None)
    })
}

impl Master {
    /// The event from which somebody goes on who wants to know what happens from now on: what is under way is still to
    /// come.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn events_from_now_on(&self, caller: &Principal) -> Result<i64, StoreError> {
        let settled = self.reads.events_settled().await?;
        let newest = self.reads.events_before(caller.project, None, None, 1).await?;
        let newest = newest.first().map_or(0, |event| event.id);
        // Nothing may be known to be settled right after the start, while somebody writes for long.
        Ok(if settled.upto > 0 { newest.min(settled.upto) } else { newest })
    }
}

struct Live {
    master: Arc<Master>,
    caller: Principal,
    job: Option<JobId>,
    after: i64,
    changes: watch::Receiver<u64>,
    rate: LookRate,
    ready: std::collections::VecDeque<gaffer_protocol::rest::Event>,
}

/// Events from now on, or from the one after the last that the client has seen.
async fn live(
    master: Arc<Master>,
    caller: Principal,
    job: Option<JobId>,
    after: Option<i64>,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, Error> {
    let changes = match job {
        Some(job) => master.changes.of_job(job),
        None => master.changes.of_any(),
    };
    let after = match after {
        Some(after) if after >= 0 => after,
        Some(_) => return Err(wrong("after", "expected the number of an event")),
        // Of one job, everything is told; of all, what happens from now on.
        None if job.is_some() => 0,
        None => master.events_from_now_on(&caller).await?,
    };
    let live =
        Live { master, caller, job, after, changes, rate: LookRate::default(), ready: Default::default() };
    let stream = futures::stream::unfold(live, |mut live| async move {
        let event = live.next().await?;
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
    async fn next(&mut self) -> Option<gaffer_protocol::rest::Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.after = event.id;
                return Some(event);
            }
            self.rate.turn().await;
            self.changes.mark_unchanged();
            let found =
                self.master.reads.events_after(self.caller.project, self.job, self.after, BATCH).await;
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
                () = self.master.shutdown.cancelled() => return None,
                changed = self.changes.changed() => if changed.is_err() { return None },
                () = tokio::time::sleep(look_again) => {}
            }
        }
    }
}
