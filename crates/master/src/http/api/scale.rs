//! `/jobs/{job}/scale` and `/services/{service}/scale`.

use std::sync::Arc;

use axum::extract::{Path, State};
use gaffer_domain::JobId;
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::{Job, ScaleRequest};

use super::super::description::{Accepted, JsonBody, Operation};
use super::super::error::Error;
use super::super::params::id;
use super::versions::ordered;
use crate::operations::services::{self, ScaleService};
use crate::operations::{Actor, Context, jobs};
use crate::views::Views;

pub const OF_JOB: Operation = Operation {
    description: "Keeps another number of instances from now on; they start and stop after the answer. Fewer: those with the \
        highest indices get their stop signal, and are `cancelled` with the reason `scaled_down`. More: those continue with a \
        further attempt, and new ones are added. Only tasks with a `count`, for whose completion no other task waits, can be \
        scaled.",
    errors: &[(409, "The job has ended, or is being stopped.")],
    ..Operation::new("scale_job", "Scale a service", Action::ScaleService)
};

/// `POST /jobs/{job}/scale`
pub async fn of_job(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(job): Path<String>,
    body: JsonBody<ScaleRequest>,
) -> Result<Accepted<Job>, Error> {
    let job: JobId = id(&job, "job")?;
    // A mistake in the body of a request for a job that there is not says nothing.
    jobs::get(&context, &actor, Action::ScaleService, job).await?;
    scale(&context, &actor, job, body).await
}

pub const OF_SERVICE: Operation = Operation {
    description: "The same for a service by its name: the newest job of `type: service` with that name that has not ended.",
    errors: &[(409, "The service has ended, or is being stopped.")],
    ..Operation::new("scale_service", "Scale a service by its name", Action::ScaleService)
};

/// `POST /services/{service}/scale`
pub async fn of_service(
    State(context): State<Arc<Context>>,
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(service): Path<String>,
    body: JsonBody<ScaleRequest>,
) -> Result<Accepted<Job>, Error> {
    let job = services::find(&views.reads, &actor, &service).await?;
    scale(&context, &actor, job, body).await
}

async fn scale(
    context: &Context,
    actor: &Actor,
    job: JobId,
    body: JsonBody<ScaleRequest>,
) -> Result<Accepted<Job>, Error> {
    let ScaleRequest { task, count } = body.read()?;
    services::scale(context, actor, ScaleService { job, task: task.as_deref(), count }).await?;
    ordered(context, actor, Action::ScaleService, job).await
}
