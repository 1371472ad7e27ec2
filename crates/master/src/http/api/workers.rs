//! `/workers`: workers with live statistics.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use gaffer_domain::permissions::Action;
use gaffer_domain::worker::WorkerState;
use gaffer_protocol::rest::{DrainRequest, Sample, Worker};

use super::super::bodies;
use super::super::description::{
    CURSOR, Done, LIMIT, Listed, Operation, OptionalJsonBody, Parameter, Values,
};
use super::super::error::Error;
use super::super::params::{Params, page_of, wrong};
use crate::operations::workers::{self, Drain};
use crate::operations::{Actor, Context};
use crate::snapshot;
use crate::views::Views;

pub const LIST: Operation = Operation {
    description: "In the order of their numbers: those of the project, and those of others that are shared with it.",
    query: &[
        LIMIT,
        CURSOR,
        Parameter::new(
            "state",
            Values::Word(|| WorkerState::ALL.map(WorkerState::as_str).to_vec()),
            "Only workers in this state. Several states: repeat it, or separate them with commas.",
        )
        .repeatable(),
        Parameter::new("name", Values::Text, "Only workers whose name contains this."),
        Parameter::new("driver", Values::Text, "Only workers on which this driver is healthy."),
    ],
    ..Operation::new("list_workers", "List workers", Action::Look)
};

/// `GET /workers`
pub async fn list(
    State(views): State<Arc<Views>>,
    actor: Actor,
    params: Params,
) -> Result<Listed<Worker>, Error> {
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
    Ok(Listed::of(&params, page_of(workers, limit, |view| view.worker.id.0).map(bodies::worker)))
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

pub const SHOW: Operation = Operation::new("get_worker", "Get a worker with its present load", Action::Look);

/// `GET /workers/{worker}`
pub async fn show(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(worker): Path<String>,
) -> Result<Json<Worker>, Error> {
    Ok(Json(bodies::worker(workers::get(&views, &actor, &worker).await?)))
}

pub const SAMPLES: Operation = Operation {
    description: "Samples of the last hour, taken every ten seconds since the master started, oldest first.",
    ..Operation::new("list_worker_samples", "Get the load of a worker over the last hour", Action::Look)
};

/// `GET /workers/{worker}/samples`
pub async fn samples(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(worker): Path<String>,
) -> Result<Json<Vec<Sample>>, Error> {
    let samples = workers::samples(&views, &actor, &worker).await?;
    Ok(Json(samples.into_iter().map(bodies::sample).collect()))
}

pub const DRAIN: Operation = Operation {
    description: "The worker accepts no new tasks. Its services move to other workers; its batch tasks finish, or move if their \
        jobs say so. The body may be empty.",
    ..Operation::new("drain_worker", "Drain a worker", Action::DirectWorker)
};

/// `POST /workers/{worker}/drain`
pub async fn drain(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(worker): Path<String>,
    body: OptionalJsonBody<DrainRequest>,
) -> Result<Json<Worker>, Error> {
    workers::must_exist(&context, &actor, &worker).await?;
    let DrainRequest { deadline } = body.read()?.unwrap_or_default();
    let wanted = Drain { worker: &worker, deadline };
    Ok(Json(bodies::worker(workers::drain(&context, &actor, wanted).await?)))
}

pub const CORDON: Operation = Operation {
    description: "The worker accepts no new tasks; those it has stay.",
    ..Operation::new("cordon_worker", "Cordon a worker", Action::DirectWorker)
};

/// `POST /workers/{worker}/cordon`
pub async fn cordon(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(worker): Path<String>,
) -> Result<Json<Worker>, Error> {
    Ok(Json(bodies::worker(workers::cordon(&context, &actor, &worker).await?)))
}

pub const RESUME: Operation = Operation {
    description: "Ends a drain or a cordon.",
    ..Operation::new("resume_worker", "Let a worker take work again", Action::DirectWorker)
};

/// `POST /workers/{worker}/resume`
pub async fn resume(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(worker): Path<String>,
) -> Result<Json<Worker>, Error> {
    Ok(Json(bodies::worker(workers::resume(&context, &actor, &worker).await?)))
}

pub const REMOVE: Operation = Operation {
    errors: &[(409, "The worker is connected, or has attempts that are not known to have ended.")],
    ..Operation::new("remove_worker", "Remove a worker that is not connected", Action::RemoveWorker)
};

/// `DELETE /workers/{worker}`
pub async fn remove(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(worker): Path<String>,
) -> Result<Done, Error> {
    workers::remove(&context, &actor, &worker).await?;
    Ok(Done)
}
