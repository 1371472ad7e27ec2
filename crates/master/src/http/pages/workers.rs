//! The list of workers.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::response::Response;

use super::super::Site;
use super::super::error::Error;
use super::super::params::Params;
use super::fleet::WorkerRow;
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use super::stream::{Feed, Feeds, stream};
use super::view::{Browser, View};
use crate::operations::{Actor, workers};
use crate::snapshot;
use crate::views::Views;

/// Heartbeats change nothing that is announced, so the fleet is looked at now and then.
const PACE: Duration = Duration::from_secs(2);

#[derive(Template)]
#[template(path = "workers.html")]
struct WorkersPage {
    frame: Frame,
    cli: String,
    curl: String,
    rows: Vec<WorkerRow>,
    blank: WorkerRow,
}

/// `GET /workers`
pub async fn list(
    State(views): State<Arc<Views>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
) -> Result<Response, Error> {
    let workers = workers::list(&views, &visitor.actor, snapshot::NOW).await?;
    page(&WorkersPage {
        frame: visitor.frame("/workers"),
        cli: "gaffer workers".to_owned(),
        curl: curl(&site, "GET", "/workers"),
        rows: workers.iter().map(WorkerRow::from).collect(),
        blank: WorkerRow::default(),
    })
}

/// `GET /workers/live`: the stream of that page; with `since`, of those that connected first after it.
pub async fn live(
    State(views): State<Arc<Views>>,
    State(feeds): State<Arc<Feeds>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["since"], &[])?;
    let since = params.parse::<i64>("since", "a time in milliseconds since 1970")?;
    let actor = visitor.actor;
    let key = format!("{} workers {since:?}", actor.project);
    let feed = || WorkersFeed { views: views.clone(), actor, since };
    Ok(stream(&views, &feeds, key, Browser::default(), feed))
}

struct WorkersFeed {
    views: Arc<Views>,
    actor: Actor,
    since: Option<i64>,
}

impl Feed for WorkersFeed {
    async fn look(&mut self) -> Result<View, Error> {
        let workers = workers::list(&self.views, &self.actor, snapshot::RECENT).await?;
        let rows = |is_wanted: &dyn Fn(i64) -> bool| -> Vec<WorkerRow> {
            let wanted =
                workers.iter().filter(|worker| is_wanted(worker.worker.created_at.timestamp_millis()));
            wanted.map(WorkerRow::from).collect()
        };
        Ok(match self.since {
            Some(since) => View::default().whole("workers", &rows(&|created| created >= since)),
            None => View::default().some("workers", &rows(&|_| true), true),
        })
    }

    fn pace(&self) -> Duration {
        PACE
    }
}
