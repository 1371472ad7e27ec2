//! The history: what changed, when, who or what caused it, and why.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use gaffer_domain::JobId;
use tokio::sync::watch;

use super::super::auth::Caller;
use super::super::error::Error;
use super::super::params::{Params, page_of};
use super::frame::{Frame, Visitor};
use super::jobs::curl;
use super::page;
use super::rows::EventRow;
use super::shown::address;
use super::stream::{Feed, Sent, stream};
use crate::Master;

/// Entries on a page.
pub const PAGE_ROWS: u32 = 100;
const PACE: Duration = Duration::from_secs(1);

#[derive(Template)]
#[template(path = "events.html")]
struct EventsPage {
    frame: Frame,
    live: String,
    cli: String,
    curl: String,
    job: String,
    rows: Vec<EventRow>,
    blank: EventRow,
    older: Option<String>,
}

fn wanted_job(params: &Params) -> Result<Option<JobId>, Error> {
    match params.text("job") {
        None | Some("") => Ok(None),
        Some(_) => params.parse("job", "the number of a job"),
    }
}

/// A page of history with the cursor of the next.
pub async fn history(
    master: &Master,
    caller: &Caller,
    job: Option<JobId>,
    params: &Params,
) -> Result<(Vec<EventRow>, Option<String>), Error> {
    let events = master.store.events_before(caller.project, job, params.cursor()?, PAGE_ROWS + 1).await?;
    let events = page_of(events, PAGE_ROWS, |event| event.id);
    Ok((events.items.iter().map(EventRow::from).collect(), events.next_cursor))
}

/// `GET /events`
pub async fn list(
    State(master): State<Arc<Master>>,
    visitor: Visitor,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["cursor", "job"], &[])?;
    let job = wanted_job(&params)?;
    let from_now_on = master.events_from_now_on(&visitor.caller).await?;
    let (rows, next) = history(&master, &visitor.caller, job, &params).await?;
    let job = job.map(|job| job.to_string()).unwrap_or_default();
    let after = from_now_on.to_string();
    let live =
        [("job", job.as_str()), ("after", &after), ("cursor", params.text("cursor").unwrap_or_default())];
    page(&EventsPage {
        frame: visitor.frame("/events"),
        live: address("/events/live", &live),
        cli: format!("gaffer events -f {job}").trim_end().to_owned(),
        curl: curl(
            &master,
            "GET",
            &if job.is_empty() { "/events".to_owned() } else { format!("/jobs/{job}/events") },
        ),
        rows,
        blank: EventRow::default(),
        older: next.map(|cursor| address("/events", &[("job", &job), ("cursor", &cursor)])),
        job,
    })
}

/// `GET /events/live`: the stream of that page. On the first page, the events after the newest there.
pub async fn live(
    State(master): State<Arc<Master>>,
    visitor: Visitor,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["cursor", "job", "after"], &[])?;
    let is_first = params.text("cursor").unwrap_or_default().is_empty();
    let feed = EventsFeed {
        changes: master.changes.of_any(),
        master: master.clone(),
        caller: visitor.caller,
        job: wanted_job(&params)?,
        after: if is_first {
            Some(params.parse("after", "the number of an event")?.unwrap_or(0))
        } else {
            None
        },
        is_held_back: false,
        sent: Sent::default(),
    };
    Ok(stream(master, feed))
}

struct EventsFeed {
    master: Arc<Master>,
    caller: Caller,
    job: Option<JobId>,
    /// The newest event that was sent or is not to be; none if this page gets no new ones.
    after: Option<i64>,
    changes: watch::Receiver<u64>,
    is_held_back: bool,
    sent: Sent,
}

impl Feed for EventsFeed {
    async fn look(&mut self) -> Result<Vec<Event>, Error> {
        self.changes.mark_unchanged();
        let Some(after) = self.after else { return Ok(Vec::new()) };
        let found = self.master.store.events_after(self.caller.project, self.job, after, PAGE_ROWS).await?;
        self.is_held_back = found.is_held_back || found.events.len() == PAGE_ROWS as usize;
        self.after = found.events.last().map(|event| event.id).or(self.after);
        let rows: Vec<EventRow> = found.events.iter().map(EventRow::from).collect();
        Ok(self.sent.changes("events", &rows, true).into_iter().collect())
    }

    async fn changed(&mut self) {
        // What is there already and could not be shown yet is looked for at the feed's pace.
        if !self.is_held_back {
            let _ = self.changes.changed().await;
        }
    }

    fn pace(&self) -> Duration {
        PACE
    }
}
