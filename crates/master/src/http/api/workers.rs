//! `/workers`: workers with live statistics.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use gaffer_domain::worker::WorkerState;
use gaffer_protocol::rest::{DrainRequest, Sample, Worker};

use super::super::bodies;
use super::super::error::Error;
use super::super::params::{Params, page_of, wrong};
use super::body_as;
use crate::operations::workers::{self, Drain};
use crate::operations::{Actor, Context};
use crate::snapshot;
use crate::views::Views;

/// `GET /workers`
pub async fn list(State(views): State<Arc<Views>>, actor: Actor, params: Params) -> Result<Response, Error> {
    let params = params.only(&["limit", "cursor", "driver", "name"], &["state"])?;
    let limit = params.limit()?;
    let after = params.cursor()?.unwrap_or(0);
    let states = states(&params)?;
    let workers = workers::list(&views, &actor, snapshot::NOW).await?;
    let workers = workers
        .into_iter()
        .filter(|view| view.worker.id.0 > after)
        .filter(|view| states.is_empty() || states.contains(&view.state))
        .filter(|view| params.text("name").is_none_or(|name| view.worker.name.contains(name)))
        .filter(|view| {
            params.text("driver").is_none_or(|wanted| {
                view.worker.drivers.iter().any(|driver| driver.healthy && driver.driver.as_str() == wanted)
            })
        })
        .take(limit as usize + 1)
        .collect();
    Ok(params.answer(&page_of(workers, limit, |view| view.worker.id.0).map(bodies::worker)))
}

fn states(params: &Params) -> Result<Vec<WorkerState>, Error> {
    let state = |text| {
        WorkerState::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            let known = WorkerState::ALL.map(WorkerState::as_str).join(", ");
            wrong("state", &format!("{text:?} is no state of a worker: {known}"))
        })
    };
    params.list("state").map(state).collect()
}

/// `GET /workers/{worker}`: by number or name.
pub async fn show(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(worker): Path<String>,
) -> Result<Json<Worker>, Error> {
    Ok(Json(bodies::worker(workers::get(&views, &actor, &worker).await?)))
}

/// `GET /workers/{worker}/samples`: how it was doing in the last hour, every ten seconds, since the master started.
pub async fn samples(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(worker): Path<String>,
) -> Result<Json<Vec<Sample>>, Error> {
    let worker = workers::number(&views, &actor, &worker).await?;
    Ok(Json(views.status.samples.of(worker).into_iter().map(bodies::sample).collect()))
}

/// `POST /workers/{worker}/drain`: no new tasks; its tasks finish or move. The body may be empty.
pub async fn drain(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(worker): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Worker>, Error> {
    workers::must_exist(&context, &actor, &worker).await?;
    let DrainRequest { deadline } =
        if body.is_empty() { DrainRequest::default() } else { body_as(&headers, &body)? };
    let wanted = Drain { worker: &worker, deadline };
    Ok(Json(bodies::worker(workers::drain(&context, &actor, wanted).await?)))
}

/// `POST /workers/{worker}/cordon`: no new tasks; running tasks continue.
pub async fn cordon(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(worker): Path<String>,
) -> Result<Json<Worker>, Error> {
    Ok(Json(bodies::worker(workers::cordon(&context, &actor, &worker).await?)))
}

/// `POST /workers/{worker}/resume`: it takes work again.
pub async fn resume(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(worker): Path<String>,
) -> Result<Json<Worker>, Error> {
    Ok(Json(bodies::worker(workers::resume(&context, &actor, &worker).await?)))
}

/// `DELETE /workers/{worker}`: forgets one that is not connected and has nothing left.
pub async fn remove(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(worker): Path<String>,
) -> Result<StatusCode, Error> {
    workers::remove(&context, &actor, &worker).await?;
    Ok(StatusCode::NO_CONTENT)
}
