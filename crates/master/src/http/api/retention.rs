//! `/retention`, and the pins of jobs.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::{Job, RetentionPreview};
use serde_json::Value;

use super::super::bodies;
use super::super::description::Operation;
use super::super::error::Error;
use super::super::params::id;
use crate::operations::{Actor, Context, retention};

pub const SHOW: Operation = Operation {
    description: "For each era of history: how many jobs and tasks expire and when, the size on disk, and what keeps the \
        rest. Counts are those of the project, sizes those of the installation.",
    ..Operation::new("get_retention", "Preview what retention removes", Action::LookAtSystem)
};

/// `GET /retention`
pub async fn show(
    State(context): State<Arc<Context>>,
    actor: Actor,
) -> Result<Json<RetentionPreview>, Error> {
    Ok(Json(bodies::retention(retention::preview(&context, &actor).await?)))
}

pub const PIN: Operation = Operation {
    description: "The job never expires until it is unpinned. It can still be deleted.",
    ..Operation::new("pin_job", "Pin a job", Action::PinJob)
};

/// `POST /jobs/{job}/pin`
pub async fn pin(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(job): Path<String>,
) -> Result<Json<Job>, Error> {
    let pinned = retention::pin(&context, &actor, id(&job, "job")?, true).await?;
    Ok(Json(bodies::job(pinned, Value::Null)))
}

pub const UNPIN: Operation = Operation {
    description: "A job that has expired meanwhile is removed with the next run of retention.",
    ..Operation::new("unpin_job", "Unpin a job", Action::PinJob)
};

/// `POST /jobs/{job}/unpin`
pub async fn unpin(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(job): Path<String>,
) -> Result<Json<Job>, Error> {
    let unpinned = retention::pin(&context, &actor, id(&job, "job")?, false).await?;
    Ok(Json(bodies::job(unpinned, Value::Null)))
}
