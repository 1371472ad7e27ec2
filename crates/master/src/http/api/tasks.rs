//! `/jobs/{job}/tasks`: tasks, their attempts, signals and standard input.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use gaffer_domain::JobId;
use gaffer_domain::spec::{StopSignal, UnknownSignal};
use gaffer_domain::task::StateName;
use gaffer_protocol::rest::{Page, StdinPosition, Task, TaskDetail};
use gaffer_protocol::wire::MAX_INPUT_BYTES;
use uuid::Uuid;

use super::super::bodies;
use super::super::error::Error;
use super::super::params::{Params, id, task_cursor, wrong};
use super::body_json;
use crate::input::Written;
use crate::operations::tasks::{self, Addressed};
use crate::operations::{Actor, Context, OperationError};
use crate::records;
use crate::store::tasks::TaskFilter;
use crate::views::Views;

/// `GET /jobs/{job}/tasks`
pub async fn list(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(job): Path<String>,
    params: Params,
) -> Result<Response, Error> {
    let job: JobId = id(&job, "job")?;
    tasks::own_job(&views.reads, &actor, job).await?;
    let params = params.only(&["limit", "cursor", "state"], &[])?;
    let limit = params.limit()?;
    let filter = filter(&params)?;
    let tasks = views.reads.task_list(job, &filter, limit + 1).await?;
    let (tasks, next_cursor) = page_of_tasks(tasks, limit);
    let items: Vec<Task> = tasks.into_iter().map(bodies::task).collect();
    Ok(params.answer(&Page { items, next_cursor }))
}

/// Which tasks a query asks for.
pub fn filter(params: &Params) -> Result<TaskFilter, Error> {
    let states = "blocked, pending, scheduled, running, stopping, completed, failed or cancelled";
    Ok(TaskFilter { state: params.parse::<StateName>("state", states)?, after: params.task_cursor()? })
}

/// Splits off the items beyond a page, and makes the cursor for the next.
pub fn page_of_tasks(mut tasks: Vec<records::Task>, limit: u32) -> (Vec<records::Task>, Option<String>) {
    let has_more = tasks.len() > limit as usize;
    tasks.truncate(limit as usize);
    let next = tasks.last().filter(|_| has_more).map(task_cursor);
    (tasks, next)
}

/// `GET /jobs/{job}/tasks/{task}`
pub async fn show(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path((job, task)): Path<(String, String)>,
) -> Result<Json<TaskDetail>, Error> {
    let addressed = Addressed { job: id(&job, "job")?, task: &task };
    let task = tasks::find(&views.reads, &actor, addressed).await?;
    let attempts = views.reads.attempt_list(task.id).await?;
    let attempts = attempts.into_iter().map(bodies::attempt).collect();
    Ok(Json(TaskDetail { task: bodies::task(task), attempts }))
}

/// `POST /jobs/{job}/tasks/{task}/signal`: passes a signal to a running task; nothing else changes.
pub async fn signal(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path((job, task)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Error> {
    let addressed = Addressed { job: id(&job, "job")?, task: &task };
    tasks::job_must_exist(&context, &actor, addressed.job).await?;
    let signal = wanted_signal(&body_json(&headers, &body)?)?;
    tasks::signal(&context, &actor, addressed, signal).await?;
    Ok(StatusCode::ACCEPTED)
}

fn wanted_signal(body: &serde_json::Value) -> Result<StopSignal, OperationError> {
    let text = body.get("signal").and_then(|signal| signal.as_str()).unwrap_or_default();
    text.parse().map_err(|error: UnknownSignal| OperationError::field("/signal", error.to_string()))
}

/// `POST /jobs/{job}/tasks/{task}/stdin?writer=UUID&offset=N&last=true`: writes the body, raw bytes, to the standard input
/// of a task with `stdin: true`, and waits for a few seconds until its process has taken them.
///
/// `offset` counts what this writer has written before; what was taken already is skipped, so that a request whose answer
/// was lost can be sent again. One writer, named by itself, writes to an attempt. With `last=true` nothing comes after
/// these bytes. An empty body is a sign that the writer is still there: without any for two minutes the input ends.
pub async fn stdin(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path((job, task)): Path<(String, String)>,
    params: Params,
    bytes: Bytes,
) -> Result<Json<StdinPosition>, Error> {
    let addressed = Addressed { job: id(&job, "job")?, task: &task };
    tasks::job_must_exist(&context, &actor, addressed.job).await?;
    let params = params.only(&["writer", "offset", "last"], &[])?;
    let writer = params.parse::<Uuid>("writer", "a UUID that identifies the writer")?;
    let writer =
        writer.ok_or_else(|| wrong("writer", "missing; expected a UUID that identifies the writer"))?;
    let offset = params.parse::<u64>("offset", "a number of bytes")?.unwrap_or(0);
    let is_last = params.parse::<bool>("last", "true or false")?.unwrap_or(false);
    if bytes.len() > MAX_INPUT_BYTES {
        let detail =
            format!("the body has {} bytes, more than the {MAX_INPUT_BYTES} of one request", bytes.len());
        return Err(Error::field("body_too_large", "body", detail, None));
    }
    let written = Written { writer, offset, bytes, is_last };
    let progress = tasks::write_to_stdin(&context, &actor, addressed, written).await?;
    Ok(Json(bodies::stdin_position(progress)))
}
