//! `/queue` and `/trace`: waiting tasks, and the history as a trace for the simulator.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{TimeDelta, Utc};
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::Queue;
use gaffer_protocol::trace;
use serde_json::json;

use super::super::bodies;
use super::super::description::{Answer, Content, Description, Operation, Parameter, SPAN, Schemas, Success};
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

pub const SHOW: Operation = Operation {
    description: "Waiting tasks by class, in the order in which they will be placed, and the latest passes of the scheduler.",
    ..Operation::new("get_queue", "Get the queue", Action::Look)
};

/// `GET /queue`
pub async fn show(State(views): State<Arc<Views>>, actor: Actor) -> Result<Json<Queue>, Error> {
    Ok(Json(bodies::queue(queue(&views, &actor, snapshot::NOW).await?)))
}

pub const TRACE: Operation = Operation {
    description: "At most the latest 100,000 tasks.",
    query: &[Parameter::new(
        "since",
        SPAN,
        "How far to look back, at most 365 days; one day by default: a duration such as `7d`, or a number of seconds.",
    )],
    ..Operation::new("get_trace", "Get tasks that ran, as CSV for gaffer simulate", Action::Look)
};

/// `GET /trace`
pub async fn trace(State(views): State<Arc<Views>>, actor: Actor, params: Params) -> Result<Csv, Error> {
    let since = params.span("since", LONGEST_TRACE)?.unwrap_or(TRACE_OF);
    let from = Utc::now() - TimeDelta::from_std(since).unwrap_or_default();
    let arrivals = views.reads.trace(actor.project, from, MAX_TRACE_TASKS).await?;
    Ok(Csv(trace::write(&arrivals)))
}

/// A table in text.
#[derive(Debug)]
pub struct Csv(String);

/// Its media type.
const CSV: &str = "text/csv";

impl IntoResponse for Csv {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, format!("{CSV}; charset=utf-8"))], self.0).into_response()
    }
}

impl Answer for Csv {
    fn describe(description: &mut Description, _: &mut Schemas) {
        let content = vec![Content { media_type: CSV, schema: json!({ "type": "string" }) }];
        description.answers(
            StatusCode::OK,
            Success { description: "A row for each task", headers: vec![], content },
        );
    }
}
