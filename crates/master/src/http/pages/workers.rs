//! The list of workers: who is here, what is reserved on each, how their machines are doing.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use gaffer_domain::ProjectId;

use super::super::api::workers;
use super::super::error::Error;
use super::super::params::Params;
use super::fleet::WorkerRow;
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use super::stream::{Feed, stream};
use super::view::{Browser, View};
use crate::Master;
use crate::snapshot;

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
pub async fn list(State(master): State<Arc<Master>>, visitor: SessionUser) -> Result<Response, Error> {
    let workers = workers::all(&master, visitor.caller.project, snapshot::NOW).await?;
    page(&WorkersPage {
        frame: visitor.frame("/workers"),
        cli: "gaffer workers".to_owned(),
        curl: curl(&master, "GET", "/workers"),
        rows: workers.iter().map(WorkerRow::from).collect(),
        blank: WorkerRow::default(),
    })
}

/// `GET /workers/live`: the stream of that page; with `since`, of those that have connected for the first time since.
pub async fn live(
    State(master): State<Arc<Master>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["since"], &[])?;
    let since = params.parse::<i64>("since", "a time in milliseconds since 1970")?;
    let project = visitor.caller.project;
    let key = format!("{project} workers {since:?}");
    let feed = WorkersFeed { master: master.clone(), project, since };
    Ok(stream(master, key, Browser::default(), || feed))
}

struct WorkersFeed {
    master: Arc<Master>,
    project: ProjectId,
    since: Option<i64>,
}

impl Feed for WorkersFeed {
    async fn look(&mut self) -> Result<View, Error> {
        let workers = workers::all(&self.master, self.project, snapshot::RECENT).await?;
        let rows = |is_wanted: &dyn Fn(i64) -> bool| -> Vec<WorkerRow> {
            let wanted = workers.iter().filter(|worker| is_wanted(worker.created_at.timestamp_millis()));
            wanted.map(WorkerRow::from).collect()
        };
        Ok(match self.since {
            Some(since) => View::default().whole("workers", &rows(&|created| created >= since)),
            None => View::default().some("workers", &rows(&|_| true), true),
        })
    }

    async fn changed(&mut self) {}

    fn pace(&self) -> Duration {
        PACE
    }
}
