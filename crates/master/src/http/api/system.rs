//! `/system` and `/dead-letters`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use gaffer_protocol::rest::System;

use super::super::bodies;
use super::super::error::Error;
use super::super::params::{Params, id, page_of};
use crate::operations::{Actor, Context, dead_letters, system};

/// `GET /system`
pub async fn show(State(context): State<Arc<Context>>, actor: Actor) -> Result<Json<System>, Error> {
    Ok(Json(bodies::system(system::show(&context, &actor).await?)))
}

/// `GET /dead-letters`
pub async fn dead_letters(
    State(context): State<Arc<Context>>,
    actor: Actor,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["limit", "cursor", "job"], &[])?;
    let limit = params.limit()?;
    let job = params.text("job").map(|job| id(job, "job")).transpose()?;
    let after = params.cursor()?.unwrap_or(0);
    let letters = dead_letters::list(&context, &actor, job, after, limit + 1).await?;
    Ok(params.answer(&page_of(letters, limit, |letter| letter.id).map(bodies::dead_letter)))
}

/// `POST /dead-letters/{letter}/retry`
pub async fn retry(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(letter): Path<String>,
) -> Result<StatusCode, Error> {
    dead_letters::retry(&context, &actor, id(&letter, "dead letter")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /dead-letters/{letter}`
pub async fn delete(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(letter): Path<String>,
) -> Result<StatusCode, Error> {
    dead_letters::delete(&context, &actor, id(&letter, "dead letter")?).await?;
    Ok(StatusCode::NO_CONTENT)
}
