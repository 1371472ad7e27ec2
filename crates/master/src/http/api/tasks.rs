//! `/jobs/{job}/tasks`: tasks, their attempts, signals and standard input.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use chrono::Utc;
use gaffer_domain::permissions::Action;
use gaffer_domain::spec::{StopSignal, UnknownSignal};
use gaffer_domain::task::StateName;
use gaffer_domain::{AttemptRef, JobId};
use gaffer_protocol::rest::{Page, SignalRequest, StdinPosition, Task, TaskChecks, TaskDetail};
use gaffer_protocol::wire::MAX_INPUT_BYTES;
use uuid::Uuid;

use super::super::bodies;
use super::super::description::{JsonBody, LIMIT, Listed, Operation, Parameter, PassedOn, Values};
use super::super::error::Error;
use super::super::params::{Params, id, task_cursor, wrong};
use crate::input::Written;
use crate::operations::tasks::{self, Addressed};
use crate::operations::{Actor, Context, OperationError};
use crate::records;
use crate::store::tasks::TaskFilter;
use crate::views::Views;

pub const LIST: Operation = Operation {
    description: "In the order of their definitions and indices.",
    query: &[
        LIMIT,
        Parameter::new(
            "cursor",
            Values::Pattern(r"^c\d+\.\d+$", "c0.49"),
            "`next_cursor` of the previous page.",
        ),
        Parameter::new(
            "state",
            Values::Word(|| StateName::ALL.map(StateName::as_str).to_vec()),
            "Only tasks in this state.",
        ),
    ],
    ..Operation::new("list_tasks", "List the tasks of a job", Action::Look)
};

/// `GET /jobs/{job}/tasks`
pub async fn list(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(job): Path<String>,
    params: Params,
) -> Result<Listed<Task>, Error> {
    let job: JobId = id(&job, "job")?;
    tasks::own_job(&views.reads, &actor, job).await?;
    let limit = params.limit()?;
    let filter = filter(&params)?;
    let tasks = tasks::list(&views.reads, job, &filter, limit + 1).await?;
    let (mut tasks, next_cursor) = page_of_tasks(tasks, limit);
    views.add_health(&mut tasks);
    let items: Vec<Task> = tasks.into_iter().map(bodies::task).collect();
    Ok(Listed::of(&params, Page { items, next_cursor }))
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
    let next = tasks.last().filter(|_| has_more).map(|task| task_cursor(task.position, task.index));
    (tasks, next)
}

pub const SHOW: Operation = Operation::new("get_task", "Get a task with its attempts", Action::Look);

/// `GET /jobs/{job}/tasks/{task}`
pub async fn show(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path((job, task)): Path<(String, String)>,
) -> Result<Json<TaskDetail>, Error> {
    let addressed = Addressed { job: id(&job, "job")?, task: &task };
    let mut task = tasks::find(&views.reads, &actor, addressed).await?;
    views.add_health(std::slice::from_mut(&mut task));
    let attempts = views.reads.attempt_list(task.id).await?;
    let attempts = attempts.into_iter().map(bodies::attempt).collect();
    Ok(Json(TaskDetail { task: bodies::task(task), attempts }))
}

pub const HEALTH: Operation = Operation {
    description: "What the checks of a task say of its latest attempt, with the results of the last hour. Old results are dropped \
        earlier if many tasks are checked often.",
    ..Operation::new("get_task_health", "Get the results of health checks", Action::Look)
};

/// `GET /jobs/{job}/tasks/{task}/health`
pub async fn health(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path((job, task)): Path<(String, String)>,
) -> Result<Json<TaskChecks>, Error> {
    let addressed = Addressed { job: id(&job, "job")?, task: &task };
    let task = tasks::find(&views.reads, &actor, addressed).await?;
    let attempt = AttemptRef { task: task.id, attempt: task.attempt };
    let results = views.healths.results(attempt, Utc::now());
    Ok(Json(bodies::task_checks(views.healths.of(attempt), results)))
}

pub const SIGNAL: Operation = Operation {
    description: "The signal is passed on to the processes of the task; its state does not change by itself.",
    errors: &[(409, "The task is not running.")],
    ..Operation::new("signal_task", "Send a signal to a running task", Action::SignalTask)
};

/// `POST /jobs/{job}/tasks/{task}/signal`
pub async fn signal(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path((job, task)): Path<(String, String)>,
    body: JsonBody<SignalRequest>,
) -> Result<PassedOn, Error> {
    let addressed = Addressed { job: id(&job, "job")?, task: &task };
    tasks::job_must_exist(&context, &actor, Action::SignalTask, addressed.job).await?;
    let signal = wanted_signal(&body.read()?)?;
    tasks::signal(&context, &actor, addressed, signal).await?;
    Ok(PassedOn)
}

fn wanted_signal(request: &SignalRequest) -> Result<StopSignal, OperationError> {
    let signal = request.signal.parse();
    signal.map_err(|error: UnknownSignal| OperationError::field("/signal", error.to_string()))
}

pub const STDIN: Operation = Operation {
    description: "Writes the body, raw bytes (at most 64 KiB), to the standard input of a task with `stdin: true`, and waits a \
        few seconds until its process has taken them. A request whose response was lost can be sent again: bytes before the \
        current offset are skipped. An empty body says that the writer is still there; after two minutes without a request \
        the input ends.",
    query: &[
        Parameter::new(
            "writer",
            Values::Uuid,
            "UUID that the writer has made. One writer writes to an attempt.",
        )
        .required(),
        Parameter::new(
            "offset",
            Values::Integer { least: 0, most: u64::MAX, default: Some(0) },
            "Number of bytes that this writer has written before.",
        ),
        Parameter::new(
            "last",
            Values::Word(|| vec!["true", "false"]),
            "`true`: nothing comes after these bytes.",
        ),
    ],
    errors: &[(409, "Nothing reads the standard input of the task, or another writer writes to it.")],
    ..Operation::new("write_to_task", "Write to the standard input of a task", Action::WriteToTask)
};

/// `POST /jobs/{job}/tasks/{task}/stdin`
pub async fn stdin(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path((job, task)): Path<(String, String)>,
    params: Params,
    bytes: Bytes,
) -> Result<Json<StdinPosition>, Error> {
    let addressed = Addressed { job: id(&job, "job")?, task: &task };
    tasks::job_must_exist(&context, &actor, Action::WriteToTask, addressed.job).await?;
    let writer = params.parse::<Uuid>("writer", "a UUID that the writer has made")?;
    let writer = writer.ok_or_else(|| wrong("writer", "who writes: a UUID that the writer has made"))?;
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
