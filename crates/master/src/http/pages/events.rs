//! The page *History*.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use gaffer_domain::{JobId, ProjectId};
use tokio::sync::watch;

use super::super::Site;
use super::super::error::Error;
use super::super::params::{Params, page_of};
use super::format::address;
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use super::rows::EventRow;
use super::stream::{Feed, Feeds, stream};
use super::view::{Browser, View};
use crate::operations::Actor;
use crate::operations::events::from_now_on;
use crate::views::Views;

/// Entries on a page.
pub const PAGE_ROWS: u32 = 100;
/// Maximum number of new rows at a time.
const MAX_NEW: u32 = 500;
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
        Some(_) => params.parse("job", "a job number"),
    }
}

/// A page of history with the cursor of the next.
pub async fn history(
    views: &Views,
    actor: &Actor,
    job: Option<JobId>,
    params: &Params,
) -> Result<(Vec<EventRow>, Option<String>), Error> {
    let events = views.reads.events_before(actor.project, job, params.cursor()?, PAGE_ROWS + 1).await?;
    let events = page_of(events, PAGE_ROWS, |event| event.id);
    Ok((events.items.iter().map(EventRow::from).collect(), events.next_cursor))
}

/// `GET /events`
pub async fn list(
    State(views): State<Arc<Views>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["cursor", "job"], &[])?;
    let job = wanted_job(&params)?;
    let from_now_on = from_now_on(&views, visitor.actor.project).await?;
    let (rows, next) = history(&views, &visitor.actor, job, &params).await?;
    let job = job.map(|job| job.to_string()).unwrap_or_default();
    let after = from_now_on.to_string();
    let live =
        [("job", job.as_str()), ("after", &after), ("cursor", params.text("cursor").unwrap_or_default())];
    page(&EventsPage {
        frame: visitor.frame("/events"),
        live: address("/events/live", &live),
        cli: format!("gaffer events -f {job}").trim_end().to_owned(),
        curl: curl(
            &site,
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
    State(views): State<Arc<Views>>,
    State(feeds): State<Arc<Feeds>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["cursor", "job", "after"], &[])?;
    let is_first = params.text("cursor").unwrap_or_default().is_empty();
    let after: Option<i64> = params.parse("after", "an event number")?;
    let (job, project) = (wanted_job(&params)?, visitor.actor.project);
    let key = format!("{project} events {job:?} {is_first}");
    let browser = Browser::with_log("events", after.unwrap_or(0).to_string());
    let feed = || EventsFeed {
        changes: views.changes.of_any(),
        newest: NewestEvents::new(views.clone(), project, job),
        is_first,
    };
    Ok(stream(&views, &feeds, key, browser, feed))
}

struct EventsFeed {
    newest: NewestEvents,
    /// Whether new events belong to this page: the first one.
    is_first: bool,
    changes: watch::Receiver<u64>,
}

impl Feed for EventsFeed {
    async fn look(&mut self) -> Result<View, Error> {
        self.changes.mark_unchanged();
        if !self.is_first {
            return Ok(View::default());
        }
        Ok(View::default().log("events", &self.newest.look().await?))
    }

    async fn changed(&mut self) {
        // Events that exist but are not settled yet are polled at the feed's pace.
        if !self.newest.is_held_back {
            let _ = self.changes.changed().await;
        }
    }

    fn pace(&self) -> Duration {
        PACE
    }
}

/// The newest events of a project, or of a job, as pages that are open show them.
pub struct NewestEvents {
    views: Arc<Views>,
    project: ProjectId,
    job: Option<JobId>,
    /// The last one that was read.
    after: Option<i64>,
    /// There are newer ones, which can't be shown yet.
    pub is_held_back: bool,
}

impl NewestEvents {
    /// Begins with those that a page shows which is opened now.
    pub fn new(views: Arc<Views>, project: ProjectId, job: Option<JobId>) -> NewestEvents {
        NewestEvents { views, project, job, after: None, is_held_back: false }
    }

    /// Those that were not read yet, oldest first. Where more come than anybody could read, only the newest.
    pub async fn look(&mut self) -> Result<Vec<EventRow>, Error> {
        let reads = &self.views.reads;
        if let Some(after) = self.after {
            let found = reads.events_after(self.project, self.job, after, MAX_NEW).await?;
            if found.events.len() < MAX_NEW as usize {
                self.is_held_back = found.is_held_back;
                self.after = found.events.last().map(|event| event.id).or(self.after);
                return Ok(found.events.iter().map(EventRow::from).collect());
            }
        }
        let settled = reads.events_settled().await?;
        let before = Some(settled.upto.saturating_add(1));
        let mut events = reads.events_before(self.project, self.job, before, PAGE_ROWS).await?;
        events.reverse();
        let after = self.after.unwrap_or(0);
        events.retain(|event| event.id > after);
        self.after = Some(events.last().map_or(after.max(settled.upto), |event| event.id));
        self.is_held_back = settled.upto < settled.newest;
        Ok(events.iter().map(EventRow::from).collect())
    }
}
