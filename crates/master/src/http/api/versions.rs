//! Services are updated: `/services/{service}`, `/jobs/{job}/versions`, `/rollback`, `/promote`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use gaffer_domain::JobId;
use gaffer_domain::spec::{Filled, Source, Submission, Unfilled};
use gaffer_protocol::rest::{Job, JobVersions, RollbackRequest, ServiceDiff};

use super::super::description::{Accepted, Operation, OptionalJsonBody, SpecBody};
use super::super::error::Error;
use super::super::params::id;
use super::super::{Site, bodies};
use super::jobs::{SubmittedJob, answer};
use crate::operations::{Actor, Context, OperationError, jobs, updates};
use crate::views::Views;

pub const APPLY: Operation = Operation {
    description: "Updates the newest job of `type: service` with that name that has not ended, or submits it if there is none or it is being \
        stopped. The \
        name in the specification has to be the same. Instances whose task definition has changed are replaced as `update` says; \
        others stay. A number of instances that was scaled to stays until a version has another `count`. A specification that \
        changes nothing is no new version. Tasks may be added and changed, not removed.",
    ..Operation::new("apply_service", "Update or submit a service")
};

/// `POST /services/{service}`
pub async fn apply(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    actor: Actor,
    Path(service): Path<String>,
    body: SpecBody,
) -> Result<SubmittedJob, Error> {
    let Filled { spec, source, hints } = of_service(&service, &body)?;
    let accepted = updates::apply(&context, &actor, &spec, source.as_deref()).await?;
    answer(&context, &site, &actor, jobs::Accepted { hints, ..accepted }).await
}

pub const DIFF: Operation = Operation {
    description: "Changes nothing: says what `POST /services/{service}` with the same body would change.",
    ..Operation::new("diff_service", "Show what an update would change")
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
    let sent = body.read()?;
    let Submission { source, values } = Submission::of(&sent).map_err(Error::spec)?;
    let Source::Sent(document, pointer) = source else {
        let detail = "a service is updated with its specification, not from a template".to_owned();
        return Err(OperationError::field("/template", detail).into());
    };
    let unfilled = Unfilled { pointer: Some(pointer), values, ..Unfilled::new(document) };
    let filled = unfilled.fill().map_err(Error::spec)?;
    updates::check_name(&filled.spec, service, pointer)?;
    Ok(filled)
}

pub const LIST: Operation = Operation {
    description: "The latest 20, and those that instances have.",
    ..Operation::new("list_versions", "List the versions of a service")
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
    description: "Makes an earlier version the next one. Instances that still have its definitions are not replaced. The body may \
        be empty.",
    errors: &[(409, "The service has ended, or is being stopped.")],
    ..Operation::new("roll_back_job", "Go back to an earlier version")
};

/// `POST /jobs/{job}/rollback`
pub async fn roll_back(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(job): Path<String>,
    body: OptionalJsonBody<RollbackRequest>,
) -> Result<Accepted<Job>, Error> {
    let job: JobId = id(&job, "job")?;
    jobs::get(&context, &actor, job).await?;
    let RollbackRequest { to } = body.read()?.unwrap_or_default();
    updates::roll_back(&context, &actor, job, to).await?;
    let (found, spec) = jobs::get_whole(&context, &actor, job).await?;
    Ok(Accepted(bodies::job(found, spec)))
}

pub const PROMOTE: Operation = Operation {
    description: "Lets an update go on that waits after its canaries.",
    errors: &[(409, "The job is not updated.")],
    ..Operation::new("promote_job", "Let an update go on")
};

/// `POST /jobs/{job}/promote`
pub async fn promote(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(job): Path<String>,
) -> Result<Accepted<Job>, Error> {
    let job: JobId = id(&job, "job")?;
    updates::promote(&context, &actor, job).await?;
    let (found, spec) = jobs::get_whole(&context, &actor, job).await?;
    Ok(Accepted(bodies::job(found, spec)))
}
