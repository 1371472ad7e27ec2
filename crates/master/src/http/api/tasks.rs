//! `/jobs/{job}/tasks`: the units of a job, their attempts, and signals to them.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use gaffer_domain::spec::StopSignal;
use gaffer_domain::task::StateName;
use gaffer_domain::{AttemptRef, JobId};
use gaffer_protocol::rest::{Page, ProblemField, StdinPosition, StdinState, Task, TaskDetail};
use gaffer_protocol::wire::{InputState, MAX_INPUT_BYTES, ToWorker};
use uuid::Uuid;

use super::super::auth::Principal;
use super::super::error::Error;
use super::super::params::{Params, id, wrong};
use super::body_json;
use crate::Master;
use crate::input::{Busy, Written};
use crate::store::ReadStore;
use crate::store::tasks::{TaskFilter, TaskRecord};

/// `GET /jobs/{job}/tasks`
pub async fn list(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(job): Path<String>,
    params: Params,
) -> Result<Response, Error> {
    let job = own_job(&master.reads, &caller, &job).await?;
    let params = params.only(&["limit", "cursor", "state"], &[])?;
    let limit = params.limit()?;
    let states = "blocked, pending, scheduled, running, stopping, completed, failed or cancelled";
    let filter = TaskFilter { state: params.parse::<StateName>("state", states)?, after: after(&params)? };
    let spec = master.reads.spec(job).await?.ok_or_else(|| Error::NotFound(format!("job {job}")))?;
    let mut tasks = master.reads.task_list(job, &filter, limit + 1).await?;
    let more = tasks.len() > limit as usize;
    tasks.truncate(limit as usize);
    let next_cursor = tasks.last().filter(|_| more).and_then(|last| {
        let position = spec.tasks.iter().position(|definition| definition.name == last.view.task)?;
        Some(format!("c{position}.{}", last.view.index))
    });
    let items: Vec<Task> = tasks.into_iter().map(|task| task.view).collect();
    Ok(params.answer(&Page { items, next_cursor }))
}

/// A cursor of tasks: position of the definition and index.
fn after(params: &Params) -> Result<Option<(i16, i32)>, Error> {
    let Some(text) = params.text("cursor") else { return Ok(None) };
    let read = || {
        let (position, index) = text.strip_prefix('c')?.split_once('.')?;
        Some((position.parse().ok()?, index.parse().ok()?))
    };
    read().map(Some).ok_or_else(|| wrong("cursor", "this is no cursor that an earlier page gave"))
}

/// `GET /jobs/{job}/tasks/{task}`
pub async fn show(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path((job, task)): Path<(String, String)>,
) -> Result<Json<TaskDetail>, Error> {
    let job = own_job(&master.reads, &caller, &job).await?;
    let task = find(&master.reads, job, &task).await?;
    let attempts = master.reads.attempt_list(task.id).await?;
    Ok(Json(TaskDetail { task: task.view, attempts }))
}

/// `POST /jobs/{job}/tasks/{task}/signal`: passes a signal to a running task; nothing else changes.
pub async fn signal(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path((job, task)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Error> {
    let job = own_job(&master.writes, &caller, &job).await?;
    let signal = wanted_signal(&body_json(&headers, &body)?)?;
    let task = find(&master.writes, job, &task).await?;
    let worker =
        task.view.worker_id.filter(|_| task.view.state == "running" || task.view.state == "stopping");
    let Some(worker) = worker else {
        let detail = format!("task {} is {} and takes no signals", task.view.address, task.view.state);
        return Err(Error::Conflict { detail, state: task.view.state });
    };
    let attempt = AttemptRef { task: task.id, attempt: task.view.attempt };
    master.hub.send(worker, ToWorker::Signal { attempt, signal });
    Ok(StatusCode::ACCEPTED)
}

/// `POST /jobs/{job}/tasks/{task}/stdin?writer=UUID&offset=N&last=true`: writes the body, raw bytes, to the standard input
/// of a task with `stdin: true`, and waits for a few seconds until its process has taken them.
///
/// `offset` counts what this writer has written before; what was taken already is skipped, so that a request whose answer
/// was lost can be sent again. One writer, named by itself, writes to an attempt. With `last=true` nothing comes after
/// these bytes. An empty body is a sign that the writer is still there: without any for two minutes the input ends.
pub async fn stdin(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path((job, task)): Path<(String, String)>,
    params: Params,
    bytes: Bytes,
) -> Result<Json<StdinPosition>, Error> {
    let job = own_job(&master.writes, &caller, &job).await?;
    let params = params.only(&["writer", "offset", "last"], &[])?;
    let writer = params.parse::<Uuid>("writer", "a UUID that the writer has made")?;
    let writer = writer.ok_or_else(|| wrong("writer", "who writes: a UUID that the writer has made"))?;
    let offset = params.parse::<u64>("offset", "a number of bytes")?.unwrap_or(0);
    let is_last = params.parse::<bool>("last", "true or false")?.unwrap_or(false);
    if bytes.len() > MAX_INPUT_BYTES {
        let detail =
            format!("the body has {} bytes, more than the {MAX_INPUT_BYTES} of one request", bytes.len());
        return Err(Error::field("body_too_large", "body", detail, None));
    }
    let task = find(&master.writes, job, &task).await?;
    let refused = |detail: String| Err(Error::Conflict { detail, state: task.view.state.clone() });
    let waiting = Json(StdinPosition { offset, state: StdinState::Waiting });
    let address = &task.view.address;
    let worker = match (task.view.state.as_str(), task.view.worker_id) {
        ("blocked" | "pending", _) => return Ok(waiting),
        ("scheduled" | "running" | "stopping", Some(worker)) => worker,
        (state, _) => return refused(format!("task {address} is {state}: nothing reads its standard input")),
    };
    let attempt = AttemptRef { task: task.id, attempt: task.view.attempt };
    let written = Written { writer, offset, bytes, is_last };
    let taken = match master.inputs.pass_on(&master.hub, worker, attempt, written).await {
        Ok(Some(taken)) => taken,
        Ok(None) | Err(Busy::Others) => return Ok(waiting),
        Err(busy @ Busy::Attempt) => return refused(busy.to_string()),
    };
    let state = match taken.state {
        InputState::Waiting => return Ok(waiting),
        InputState::Open => StdinState::Open,
        InputState::Closed => StdinState::Closed,
        InputState::Foreign => {
            return refused(format!("somebody else writes to the standard input of task {address}"));
        }
        InputState::Absent => {
            return refused(format!(
                "task {address} has no standard input that could be written to: its job says no `stdin: true`, or its \
                 container was taken over by another process of its worker"
            ));
        }
    };
    Ok(Json(StdinPosition { offset: taken.offset, state }))
}

fn wanted_signal(body: &serde_json::Value) -> Result<StopSignal, Error> {
    let text = body.get("signal").and_then(|signal| signal.as_str()).unwrap_or_default();
    text.parse().map_err(|error: gaffer_domain::spec::UnknownSignal| {
        let detail = error.to_string();
        Error::Unprocessable {
            code: "invalid_body",
            detail: detail.clone(),
            errors: vec![ProblemField { pointer: "/signal".to_owned(), detail, suggestion: None }],
        }
    })
}

/// A job's number, if the job is the caller's.
pub async fn own_job(reads: &ReadStore, caller: &Principal, job: &str) -> Result<JobId, Error> {
    let job: JobId = id(job, "job")?;
    match reads.job_is_of(caller.project, job).await? {
        true => Ok(job),
        false => Err(Error::NotFound(format!("job {job}"))),
    }
}

/// A task by its address: `name`, or `name.index`.
pub async fn find(reads: &ReadStore, job: JobId, address: &str) -> Result<TaskRecord, Error> {
    let shown: String = address.chars().filter(|char| !char.is_control()).take(100).collect();
    let not_found = || Error::NotFound(format!("task {shown} in job {job}"));
    if shown.len() != address.len() {
        return Err(not_found());
    }
    let (name, index) = match address.split_once('.') {
        Some((name, index)) => (name, index.parse().map_err(|_| not_found())?),
        None => (address, 0),
    };
    let task = reads.task_get(job, name, index).await?.ok_or_else(not_found)?;
    // The bare name is the address of an only task; of several it is the name of all of them.
    match task.view.address.contains('.') && !address.contains('.') {
        true => {
            Err(Error::NotFound(format!("single task {name} in job {job}; one of several is {name}.{index}")))
        }
        false => Ok(task),
    }
}
