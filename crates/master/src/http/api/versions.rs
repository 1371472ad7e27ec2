//! Services are updated: `/services/{service}`, `/jobs/{job}/versions`, `/rollback`, `/promote`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use gaffer_domain::JobId;
use gaffer_domain::permissions::Action;
use gaffer_domain::spec::Filled;
use gaffer_protocol::rest::{Job, JobVersions, PromoteRequest, RollbackRequest, ServiceDiff};

use super::super::description::{Accepted, Operation, OptionalJsonBody, Parameter, SpecBody, Values};
use super::super::error::Error;
use super::super::params::{Params, id};
use super::super::{Site, bodies};
use super::jobs::{IDEMPOTENCY_KEY, SubmittedJob, answer, idempotency_key};
use crate::operations::updates::{self, Apply, RollBack};
use crate::operations::{Actor, Context, jobs, services};
use crate::views::Views;

pub const SHOW: Operation = Operation {
    description: "The newest job of `type: service` with that name that has not ended.",
    ..Operation::new("get_service", "Get a service by its name", Action::Look)
};

/// `GET /services/{service}`
pub async fn show(
    State(views): State<Arc<Views>>,
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(service): Path<String>,
) -> Result<Json<Job>, Error> {
    let job = services::find(&views.reads, &actor, &service).await?;
    let (found, spec) = jobs::get_whole(&context, &actor, Action::Look, job).await?;
    Ok(Json(bodies::job(found, spec)))
}

/// The version that a client has seen.
const AFTER: Parameter = Parameter::new(
    "after",
    Values::Integer { least: 1, most: u32::MAX as u64, default: None },
    "Only if this is still the present version of the service; otherwise 409.",
);

pub const APPLY: Operation = Operation {
    description: "Updates the newest job of `type: service` with that name that has not ended, or submits it if there is none or it is being \
        stopped. The \
        name in the specification has to be the same. Instances whose task definition has changed are replaced as `update` says; \
        others stay. A number of instances that was scaled to stays until a version has another `count`. A specification that \
        changes nothing is no new version. Tasks may be added and changed, not removed.",
    query: &[AFTER],
    headers: &[IDEMPOTENCY_KEY],
    errors: &[
        (
            404,
            "With `after`, there is no such service; or the job of an earlier request with the same idempotency key was deleted.",
        ),
        (409, "The present version of the service is not the one in `after`."),
    ],
    ..Operation::new("apply_service", "Update or submit a service", Action::SubmitJob)
};

/// `POST /services/{service}`
pub async fn apply(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    actor: Actor,
    Path(service): Path<String>,
    params: Params,
    headers: HeaderMap,
    body: SpecBody,
) -> Result<SubmittedJob, Error> {
    let idempotency_key = idempotency_key(&headers)?;
    let after = params.parse("after", "the number of a version")?;
    let Filled { spec, source, hints } = of_service(&service, &body)?;
    let wanted = Apply { spec: &spec, source: source.as_deref(), after, idempotency_key };
    let accepted = updates::apply(&context, &actor, wanted).await?;
    answer(&context, &site, &actor, jobs::Accepted { hints, ..accepted }).await
}

pub const DIFF: Operation = Operation {
    description: "Changes nothing: says what `POST /services/{service}` with the same body would change.",
    ..Operation::new("diff_service", "Show what an update would change", Action::Look)
};

/// `POST /services/{service}/diff`
pub async fn diff(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(service): Path<String>,
    body: SpecBody,
) -> Result<Json<ServiceDiff>, Error> {
    let Filled { spec, .. } = of_service(&service, &body)?;
    Ok(Json(bodies::diff(updates::preview(&views, &actor, &spec).await?)))
}

fn of_service(service: &str, body: &SpecBody) -> Result<Filled, Error> {
    jobs::check_size(body.len())?;
    Ok(updates::of_service(service, &body.read()?)?)
}

/// The answer to a request that was carried out for a job.
pub(super) async fn ordered(
    context: &Context,
    actor: &Actor,
    action: Action,
    job: JobId,
) -> Result<Accepted<Job>, Error> {
    let (found, spec) = jobs::get_whole(context, actor, action, job).await?;
    Ok(Accepted(bodies::job(found, spec)))
}

pub const LIST: Operation = Operation {
    description: "The latest 20, and those that instances have.",
    ..Operation::new("list_versions", "List the versions of a service", Action::Look)
};

/// `GET /jobs/{job}/versions`
pub async fn list(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(job): Path<String>,
) -> Result<Json<JobVersions>, Error> {
    let versions = updates::versions(&views, &actor, id(&job, "job")?).await?;
    Ok(Json(JobVersions { items: versions.into_iter().map(bodies::version).collect() }))
}

pub const ROLL_BACK: Operation = Operation {
    description: "Makes an earlier version the next one; the latest one that was not taken back itself, if the body names none. \
        Instances that still have its definitions are not replaced. The body may be empty.",
    errors: &[(409, "The service has ended, or is being stopped, or its present version is another one.")],
    ..Operation::new("roll_back_job", "Go back to an earlier version", Action::SubmitJob)
};

/// `POST /jobs/{job}/rollback`
pub async fn roll_back(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(job): Path<String>,
    body: OptionalJsonBody<RollbackRequest>,
) -> Result<Accepted<Job>, Error> {
    let job: JobId = id(&job, "job")?;
    jobs::get(&context, &actor, Action::SubmitJob, job).await?;
    let RollbackRequest { to, after } = body.read()?.unwrap_or_default();
    updates::roll_back(&context, &actor, RollBack { job, to, after }).await?;
    ordered(&context, &actor, Action::SubmitJob, job).await
}

pub const PROMOTE: Operation = Operation {
    description: "Lets an update continue that waits after its canaries. The body may be empty.",
    errors: &[(
        409,
        "The job is not updated, or its update has stopped, or its present version is another one.",
    )],
    ..Operation::new("promote_job", "Let an update continue", Action::SubmitJob)
};

/// `POST /jobs/{job}/promote`
pub async fn promote(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(job): Path<String>,
    body: OptionalJsonBody<PromoteRequest>,
) -> Result<Accepted<Job>, Error> {
    let job: JobId = id(&job, "job")?;
    jobs::get(&context, &actor, Action::SubmitJob, job).await?;
    let PromoteRequest { version } = body.read()?.unwrap_or_default();
    updates::promote(&context, &actor, job, version).await?;
    ordered(&context, &actor, Action::SubmitJob, job).await
}
