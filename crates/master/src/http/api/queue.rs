//! `/queue` and `/trace`: waiting tasks, and the history as a trace for the simulator.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use chrono::{TimeDelta, Utc};
use gaffer_protocol::rest::Queue;
use gaffer_protocol::trace;

use super::super::bodies;
use super::super::error::Error;
use super::super::params::Params;
use crate::operations::Actor;
use crate::queue::queue;
use crate::snapshot;
use crate::views::Views;

const TRACE_OF: Duration = Duration::from_secs(24 * 3_600);
const LONGEST_TRACE: Duration = Duration::from_secs(365 * 24 * 3_600);
/// The most tasks of a trace: the latest.
const MAX_TRACE_TASKS: u32 = 100_000;

/// `GET /queue`
pub async fn show(
    State(views): State<Arc<Views>>,
    actor: Actor,
    params: Params,
) -> Result<Json<Queue>, Error> {
    params.only(&[], &[])?;
    Ok(Json(bodies::queue(queue(&views, &actor, snapshot::NOW).await?)))
}

/// `GET /trace`: the tasks that have run lately, in the form that `gaffer simulate` reads.
pub async fn trace(
    State(views): State<Arc<Views>>,
    actor: Actor,
    params: Params,
) -> Result<impl IntoResponse, Error> {
    let params = params.only(&["since"], &[])?;
    let since = params.span("since", LONGEST_TRACE)?.unwrap_or(TRACE_OF);
    let from = Utc::now() - TimeDelta::from_std(since).unwrap_or_default();
    let arrivals = views.reads.trace(actor.project, from, MAX_TRACE_TASKS).await?;
    Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], trace::write(&arrivals)))
}
