//! One worker, and adding one.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::Utc;
use gaffer_domain::quantity::Span;
use gaffer_domain::worker::Intake;
use gaffer_domain::{ProjectId, WorkerId};
use gaffer_protocol::rest::{Draining, NewKey, Worker};
use serde::Deserialize;

use super::super::api::{keys, workers};
use super::super::error::Error;
use super::super::params::wrong;
use super::fleet::WorkerRow;
use super::format::{ago, bytes, moment, quoted};
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use super::plot::Plot;
use super::stream::{Feed, stream};
use super::view::{Browser, View};
use crate::Master;
use crate::snapshot;

const PACE: Duration = Duration::from_secs(2);

#[derive(Template)]
#[template(path = "worker.html")]
struct WorkerPage {
    frame: Frame,
    cli: String,
    curl: String,
    row: WorkerRow,
    takes_work: bool,
    can_be_removed: bool,
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
    State(master): State<Arc<Master>>,
    visitor: SessionUser,
    Path(worker): Path<String>,
) -> Result<Response, Error> {
    let worker = workers::one(&master, &visitor.caller, &worker).await?;
    let row = WorkerRow::from(&worker);
    let takes_work = worker.intake == "open";
    let action = if takes_work { "drain" } else { "resume" };
    page(&WorkerPage {
        frame: visitor.frame("/workers"),
        cli: format!("gaffer worker {action} {}", quoted(&worker.name)),
        curl: curl(&master, "POST", &format!("/workers/{}/{action}", worker.id)),
        takes_work,
        can_be_removed: matches!(worker.state.as_str(), "offline" | "lost"),
        drains: match worker.intake.as_str() {
            "cordoned" => Some("It takes nothing new, and keeps what it has.".to_owned()),
            _ => worker.draining.as_ref().map(drains),
        },
        plots: Plot::of_worker(&master.samples.of(worker.id), Utc::now()),
        away: away(&worker),
        machine: machine(&worker),
        first_seen: moment(&worker.created_at.timestamp_millis()),
        drivers: worker
            .drivers
            .iter()
            .map(|driver| {
                let health = if driver.healthy { "works" } else { "does not work" };
                let detail = driver.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
                let name = driver.driver.as_str();
                DriverView { name, is_healthy: driver.healthy, health: format!("{health}{detail}") }
            })
            .collect(),
        warnings: worker.warnings,
        row,
    })
}

/// How far it is with draining, and what is still to come.
fn drains(draining: &Draining) -> String {
    match (draining.drained_at, draining.until) {
        (Some(at), _) => format!(
            "It takes nothing new and has had nothing left since {}: it may be switched off.",
            moment(&at.timestamp_millis())
        ),
        (None, Some(until)) => format!(
            "It takes nothing new. Services move elsewhere, batch tasks end or move; what is left at {} moves then.",
            moment(&until.timestamp_millis())
        ),
        (None, None) => {
            "It takes nothing new. Services move elsewhere, batch tasks end or move as their jobs say."
                .to_owned()
        }
    }
}

/// Since when a worker is away, and what that means.
fn away(worker: &Worker) -> Option<String> {
    let since = ago(&worker.last_seen_at.timestamp_millis(), &Utc::now().timestamp_millis());
    match worker.state.as_str() {
        "lost" => Some(format!(
            "Last heard of {since}. What it ran has ended or will, as each job's lost_after says."
        )),
        "offline" => Some(format!(
            "Last heard of {since}. What it runs goes on there; its output comes when it is back."
        )),
        _ => None,
    }
}

fn machine(worker: &Worker) -> String {
    let memory = worker.usage.as_ref().map(|usage| format!(", {} memory", bytes(usage.memory_total_bytes)));
    format!("{} {}{}", worker.os, worker.arch, memory.unwrap_or_default())
}

/// `GET /workers/{worker}/live`: the stream of that page.
pub async fn live(
    State(master): State<Arc<Master>>,
    visitor: SessionUser,
    Path(worker): Path<String>,
) -> Result<Response, Error> {
    let worker = workers::one(&master, &visitor.caller, &worker).await?.id;
    let project = visitor.caller.project;
    let feed = WorkerFeed { master: master.clone(), project, worker };
    Ok(stream(master, format!("{project} worker {worker}"), Browser::default(), || feed))
}

struct WorkerFeed {
    master: Arc<Master>,
    project: ProjectId,
    worker: WorkerId,
}

impl Feed for WorkerFeed {
    async fn look(&mut self) -> Result<View, Error> {
        let snapshot = self.master.snapshots.of(self.project, snapshot::RECENT).await?;
        let worker = snapshot.workers.iter().find(|worker| worker.id == self.worker);
        Ok(match worker {
            Some(worker) => View::default().fields(&WorkerRow::from(&workers::view(
                &self.master,
                worker.clone(),
                Utc::now(),
            ))),
            None => View::default(),
        })
    }

    async fn changed(&mut self) {}

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
    State(master): State<Arc<Master>>,
    visitor: SessionUser,
    Path(worker): Path<String>,
    Form(form): Form<DrainForm>,
) -> Result<Response, Error> {
    let deadline = match form.deadline.trim() {
        "" => None,
        text => Some(text.parse().map_err(|error| wrong("deadline", &format!("{error}")))?),
    };
    set_intake(&master, &visitor, &worker, Intake::Draining, deadline).await
}

/// `POST /workers/{worker}/cordon`
pub async fn cordon(
    State(master): State<Arc<Master>>,
    visitor: SessionUser,
    Path(worker): Path<String>,
) -> Result<Response, Error> {
    set_intake(&master, &visitor, &worker, Intake::Cordoned, None).await
}

/// `POST /workers/{worker}/remove`
pub async fn remove(
    State(master): State<Arc<Master>>,
    visitor: SessionUser,
    Path(worker): Path<String>,
) -> Result<Response, Error> {
    workers::remove_one(&master, &visitor.caller, &worker).await?;
    Ok(Redirect::to("/workers").into_response())
}

/// `POST /workers/{worker}/resume`
pub async fn resume(
    State(master): State<Arc<Master>>,
    visitor: SessionUser,
    Path(worker): Path<String>,
) -> Result<Response, Error> {
    set_intake(&master, &visitor, &worker, Intake::Open, None).await
}

async fn set_intake(
    master: &Master,
    visitor: &SessionUser,
    worker: &str,
    intake: Intake,
    deadline: Option<Span>,
) -> Result<Response, Error> {
    let worker = workers::set_intake(master, &visitor.caller, worker, intake, deadline).await?;
    Ok(Redirect::to(&format!("/workers/{}", worker.id)).into_response())
}

#[derive(Template)]
#[template(path = "new_worker.html")]
struct NewWorkerPage {
    frame: Frame,
    name: String,
    error: Option<String>,
    /// What to run on the new machine.
    line: Option<String>,
    rows: Vec<WorkerRow>,
    blank: WorkerRow,
}

impl NewWorkerPage {
    fn new(visitor: &SessionUser, name: String) -> NewWorkerPage {
        let frame = visitor.frame("/workers");
        NewWorkerPage { frame, name, error: None, line: None, rows: Vec::new(), blank: WorkerRow::default() }
    }
}

/// `GET /workers/new`
pub async fn new_form(visitor: SessionUser) -> Result<Response, Error> {
    page(&NewWorkerPage::new(&visitor, "workers".to_owned()))
}

/// What that form sends.
#[derive(Debug, Deserialize)]
pub struct NewWorker {
    name: String,
}

/// `POST /workers/new`: makes a key and shows the line to run, this once.
pub async fn new_key(
    State(master): State<Arc<Master>>,
    visitor: SessionUser,
    Form(new): Form<NewWorker>,
) -> Result<Response, Error> {
    let key = NewKey { kind: "worker".to_owned(), name: new.name.clone(), expires_in_seconds: None };
    let mut answer = NewWorkerPage::new(&visitor, new.name);
    match keys::create_key(&master, &visitor.caller, key).await {
        Ok(key) => {
            let secret = key.key.unwrap_or_default();
            answer.line =
                Some(format!("MASTER_URL={} \\\nAPI_KEY={secret} \\\ngaffer worker", master.worker_url));
        }
        Err(Error::Unprocessable { detail, .. }) => answer.error = Some(detail),
        Err(error) => return Err(error),
    }
    page(&answer)
}
