//! The page of one worker, and the page that adds one.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::Utc;
use gaffer_domain::worker::{Intake, WorkerState};
use gaffer_domain::{ProjectId, WorkerId};
use serde::Deserialize;

use super::super::Site;
use super::super::error::Error;
use super::super::params::wrong;
use super::fleet::WorkerRow;
use super::format::{ago, bytes, moment, quoted};
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use super::plot::Plot;
use super::stream::{Feed, Feeds, stream};
use super::view::{Browser, View};
use crate::operations::keys::NewKey;
use crate::operations::workers::{self, Drain, WorkerView};
use crate::operations::{Context, OperationError, keys};
use crate::records::{KeyKind, Worker};
use crate::snapshot;
use crate::views::Views;

const PACE: Duration = Duration::from_secs(2);

#[derive(Template)]
#[template(path = "worker.html")]
struct WorkerPage {
    frame: Frame,
    cli: String,
    curl: String,
    row: WorkerRow,
    datacenter: String,
    is_own: bool,
    takes_work: bool,
    can_be_removed: bool,
    shared: Option<&'static str>,
    drains: Option<String>,
    plots: Vec<Plot>,
    away: Option<String>,
    warnings: Vec<String>,
    machine: String,
    first_seen: String,
    drivers: Vec<DriverView>,
}

struct DriverView {
    name: &'static str,
    is_healthy: bool,
    health: String,
}

/// `GET /workers/{worker}`: by number or name.
pub async fn show(
    State(views): State<Arc<Views>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Path(worker): Path<String>,
) -> Result<Response, Error> {
    let view = workers::get(&views, &visitor.actor, &worker).await?;
    let worker = &view.worker;
    let takes_work = worker.intake == Intake::Open;
    let action = if takes_work { "drain" } else { "resume" };
    page(&WorkerPage {
        frame: visitor.frame("/workers"),
        cli: format!("gaffer worker {action} {}", quoted(&worker.name)),
        curl: curl(&site, "POST", &format!("/workers/{}/{action}", worker.id)),
        takes_work,
        can_be_removed: !view.state.is_connected(),
        drains: match worker.intake {
            Intake::Open => None,
            Intake::Cordoned => Some("Cordoned: it gets no new tasks. Running tasks continue.".to_owned()),
            Intake::Draining => Some(drains(worker)),
        },
        plots: match view.is_own {
            true => Plot::of_worker(&views.status.samples.of(worker.id), Utc::now()),
            false => Vec::new(),
        },
        datacenter: worker.datacenter.clone(),
        is_own: view.is_own,
        shared: shared(&view),
        away: away(&view),
        machine: machine(&view),
        first_seen: moment(&worker.created_at.timestamp_millis()),
        drivers: worker
            .drivers
            .iter()
            .map(|driver| {
                let health = if driver.healthy { "healthy" } else { "unhealthy" };
                let detail = driver.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
                let name = driver.driver.as_str();
                DriverView { name, is_healthy: driver.healthy, health: format!("{health}{detail}") }
            })
            .collect(),
        row: WorkerRow::from(&view),
        warnings: view.warnings,
    })
}

/// What it means that a worker is shared.
fn shared(view: &WorkerView) -> Option<&'static str> {
    match (view.is_own, view.worker.sharing.is_shared()) {
        (true, false) => None,
        (true, true) => Some(
            "Shared: it takes tasks of other projects, too. The bars include their reservations; their tasks are not counted here.",
        ),
        (false, _) => Some(
            "Shared by another project, whose members drain and remove it. What is reserved includes tasks of all projects; Running and \
             Queued count those of this one.",
        ),
    }
}

/// Progress of a drain.
fn drains(worker: &Worker) -> String {
    match (worker.drained_at, worker.drain_until) {
        (Some(at), _) => format!(
            "Drained at {}: no tasks are left. The machine can be shut down.",
            moment(&at.timestamp_millis())
        ),
        (None, Some(until)) => format!(
            "Draining: it gets no new tasks. Services move to other workers, batch tasks finish or move. Tasks that remain at {} move then.",
            moment(&until.timestamp_millis())
        ),
        (None, None) => {
            "Draining: it gets no new tasks. Services move to other workers, batch tasks finish or move as their jobs specify."
                .to_owned()
        }
    }
}

/// Since when a worker is away, and what that means.
fn away(view: &WorkerView) -> Option<String> {
    let since = ago(&view.last_seen_at.timestamp_millis(), &Utc::now().timestamp_millis());
    match view.state {
        WorkerState::Lost => Some(format!(
            "Last seen {since}. Its attempts are lost when the lost_after of their jobs has passed."
        )),
        WorkerState::Offline => Some(format!(
            "Last seen {since}. Its tasks may still run; their output arrives when it reconnects."
        )),
        WorkerState::Online | WorkerState::Cordoned | WorkerState::Draining => None,
    }
}

fn machine(view: &WorkerView) -> String {
    let memory = view.stats().map(|stats| format!(", {} memory", bytes(stats.memory_total.get())));
    format!("{} {}{}", view.worker.os, view.worker.arch, memory.unwrap_or_default())
}

/// `GET /workers/{worker}/live`: the stream of that page.
pub async fn live(
    State(views): State<Arc<Views>>,
    State(feeds): State<Arc<Feeds>>,
    visitor: SessionUser,
    Path(worker): Path<String>,
) -> Result<Response, Error> {
    let worker = workers::number(&views, &visitor.actor, &worker).await?;
    let project = visitor.actor.project;
    let feed = || WorkerFeed { views: views.clone(), project, worker };
    Ok(stream(&views, &feeds, format!("{project} worker {worker}"), Browser::default(), feed))
}

struct WorkerFeed {
    views: Arc<Views>,
    project: ProjectId,
    worker: WorkerId,
}

impl Feed for WorkerFeed {
    async fn look(&mut self) -> Result<View, Error> {
        let snapshot = self.views.snapshots.of(self.project, snapshot::RECENT).await?;
        let worker = snapshot.workers.iter().find(|worker| worker.id == self.worker).cloned();
        Ok(match worker.map(|worker| WorkerView::of(&self.views, self.project, worker, Utc::now())) {
            Some(view) => View::default().fields(&WorkerRow::from(&view)),
            None => View::default(),
        })
    }

    fn pace(&self) -> Duration {
        PACE
    }
}

/// What the form that drains sends.
#[derive(Debug, Deserialize)]
pub struct DrainForm {
    /// Empty, or a time such as 1h.
    #[serde(default)]
    deadline: String,
}

/// `POST /workers/{worker}/drain`
pub async fn drain(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(worker): Path<String>,
    Form(form): Form<DrainForm>,
) -> Result<Response, Error> {
    let deadline = match form.deadline.trim() {
        "" => None,
        text => Some(text.parse().map_err(|error| wrong("deadline", &format!("{error}")))?),
    };
    let wanted = Drain { worker: &worker, deadline };
    Ok(show_again(&workers::drain(&context, &visitor.actor, wanted).await?))
}

/// `POST /workers/{worker}/cordon`
pub async fn cordon(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(worker): Path<String>,
) -> Result<Response, Error> {
    Ok(show_again(&workers::cordon(&context, &visitor.actor, &worker).await?))
}

/// `POST /workers/{worker}/remove`
pub async fn remove(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(worker): Path<String>,
) -> Result<Response, Error> {
    workers::remove(&context, &visitor.actor, &worker).await?;
    Ok(Redirect::to("/workers").into_response())
}

/// `POST /workers/{worker}/resume`
pub async fn resume(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(worker): Path<String>,
) -> Result<Response, Error> {
    Ok(show_again(&workers::resume(&context, &visitor.actor, &worker).await?))
}

fn show_again(view: &WorkerView) -> Response {
    Redirect::to(&format!("/workers/{}", view.worker.id)).into_response()
}

#[derive(Template)]
#[template(path = "new_worker.html")]
struct NewWorkerPage {
    frame: Frame,
    name: String,
    /// Whether the key is for one worker.
    is_for_one: bool,
    error: Option<String>,
    /// What to run on the new machine.
    line: Option<String>,
    rows: Vec<WorkerRow>,
    blank: WorkerRow,
}

impl NewWorkerPage {
    fn new(visitor: &SessionUser, name: String, is_for_one: bool) -> NewWorkerPage {
        let frame = visitor.frame("/workers");
        let (rows, blank) = (Vec::new(), WorkerRow::default());
        NewWorkerPage { frame, name, is_for_one, error: None, line: None, rows, blank }
    }
}

/// `GET /workers/new`
pub async fn new_form(visitor: SessionUser) -> Result<Response, Error> {
    page(&NewWorkerPage::new(&visitor, "workers".to_owned(), true))
}

#[derive(Debug, Deserialize)]
pub struct NewWorker {
    name: String,
    /// `enrolment`, or a key for several workers.
    #[serde(default)]
    kind: String,
}

/// `POST /workers/new`: makes a key and shows the line to run, this once.
pub async fn new_key(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Form(new): Form<NewWorker>,
) -> Result<Response, Error> {
    let is_for_one = new.kind == KeyKind::Enrolment.as_str();
    let kind = if is_for_one { KeyKind::Enrolment } else { KeyKind::Worker };
    let key = NewKey::new(kind, new.name.clone());
    let mut answer = NewWorkerPage::new(&visitor, new.name, is_for_one);
    match keys::create(&context, &visitor.actor, key).await {
        Ok(created) => {
            let (url, secret) = (&site.worker_url, created.secret);
            answer.line = Some(format!("MASTER_URL={url} \\\nAPI_KEY={secret} \\\ngaffer worker"));
        }
        Err(OperationError::Invalid { detail, .. }) => answer.error = Some(detail),
        Err(error) => return Err(error.into()),
    }
    page(&answer)
}
