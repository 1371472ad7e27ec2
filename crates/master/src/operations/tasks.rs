//! Tasks: find one by its address, send it a signal, write to its standard input.

use std::collections::HashMap;

use gaffer_domain::conditions;
use gaffer_domain::permissions::Action;
use gaffer_domain::spec::{StopSignal, all_awaited};
use gaffer_domain::task::StateName;
use gaffer_domain::{AttemptRef, JobId, WorkerId};
use gaffer_protocol::wire::{InputState, ToWorker};
use serde_json::json;
use tokio::time::Instant;

use super::context::Effects;
use super::{Actor, Context, OperationError, no_job};
use crate::input::{Busy, Written};
use crate::records::Task;
use crate::store::tasks::TaskFilter;
use crate::store::{ReadStore, StoreError};

/// A task of a job.
#[derive(Debug, Clone, Copy)]
pub struct Addressed<'a> {
    pub job: JobId,
    /// `name`, or `name.index`.
    pub task: &'a str,
}

/// How far a writer to standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What was taken of all that it has written.
    pub offset: u64,
    /// Whether more can be written.
    pub state: Reading,
}

/// Whether standard input is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Not now: the same bytes may be sent again.
    Waiting,
    /// It is.
    Open,
    /// Not any more.
    Closed,
}

/// Checks that the job is the actor's, who may do this with it, so that nothing about other jobs is revealed.
///
/// # Errors
/// When there is no such job.
pub async fn job_must_exist(
    context: &Context,
    actor: &Actor,
    action: Action,
    job: JobId,
) -> Result<(), OperationError> {
    own_job(&context.permit(actor, action)?.writes, actor, job).await
}

/// Sends a signal to a running task.
///
/// # Errors
/// When there is no such task, or nothing executes it.
pub async fn signal(
    context: &Context,
    actor: &Actor,
    addressed: Addressed<'_>,
    signal: StopSignal,
) -> Result<(), OperationError> {
    let target = format!("job {} task {}", addressed.job, addressed.task);
    let mut change = context.change(actor, Action::SignalTask, &target).await?;
    change.after(json!({ "signal": signal.to_string() }));
    let sent = send_signal(change.effects, actor, addressed, signal).await;
    change.end(sent).await
}

async fn send_signal(
    effects: &Effects,
    actor: &Actor,
    addressed: Addressed<'_>,
    signal: StopSignal,
) -> Result<(), OperationError> {
    let task = find(&effects.writes, actor, addressed).await?;
    let Some(worker) = task.worker_id.filter(|_| takes_signals(task.state)) else {
        return Err(conflict(
            &task,
            format!("task {} is {}: only running tasks accept signals", task.address, task.state),
        ));
    };
    effects.hub.send(worker, ToWorker::Signal { attempt: present_attempt(&task), signal });
    Ok(())
}

/// Writes to the standard input of a task, and waits a few seconds until its process has read the bytes.
///
/// # Errors
/// When there is no such task, it has no such input, or somebody else writes to it.
pub async fn write_to_stdin(
    context: &Context,
    actor: &Actor,
    addressed: Addressed<'_>,
    written: Written,
) -> Result<Progress, OperationError> {
    let effects = context.permit(actor, Action::WriteToTask)?;
    let task = find(&effects.writes, actor, addressed).await?;
    // One that writes and writes is noted now and then.
    let writer = (actor.shown.credential, present_attempt(&task));
    if !effects.writers.is_news(writer, Instant::now()) {
        return pass_on(effects, &task, written).await;
    }
    let target = format!("job {} task {}", addressed.job, task.address);
    let change = context.change(actor, Action::WriteToTask, &target).await?;
    let progress = pass_on(effects, &task, written).await;
    change.end(progress).await
}

async fn pass_on(effects: &Effects, task: &Task, written: Written) -> Result<Progress, OperationError> {
    let waiting = Progress { offset: written.offset, state: Reading::Waiting };
    let address = &task.address;
    let worker = match reader_of(task) {
        Reader::None => {
            let detail = format!("task {address} is {}: nothing reads its standard input", task.state);
            return Err(conflict(task, detail));
        }
        Reader::ToCome => return Ok(waiting),
        Reader::At(worker) => worker,
    };
    let taken = match effects.inputs.pass_on(&effects.hub, worker, present_attempt(task), written).await {
        Ok(Some(taken)) => taken,
        Ok(None) | Err(Busy::Others) => return Ok(waiting),
        Err(busy @ Busy::Attempt) => return Err(conflict(task, busy.to_string())),
    };
    let state = match taken.state {
        InputState::Waiting => return Ok(waiting),
        InputState::Open => Reading::Open,
        InputState::Closed => Reading::Closed,
        InputState::Foreign => {
            let detail = format!("another writer is connected to the standard input of task {address}");
            return Err(conflict(task, detail));
        }
        InputState::Absent => {
            let detail = format!(
                "task {address} has no standard input: the job does not set `stdin: true`, or the \
                 worker restarted after the container started"
            );
            return Err(conflict(task, detail));
        }
    };
    Ok(Progress { offset: taken.offset, state })
}

/// Who reads the standard input of a task.
enum Reader {
    None,
    ToCome,
    At(WorkerId),
}

fn reader_of(task: &Task) -> Reader {
    match (task.state, task.worker_id) {
        (StateName::Blocked | StateName::Pending, _) => Reader::ToCome,
        (StateName::Scheduled | StateName::Running | StateName::Stopping, Some(worker)) => Reader::At(worker),
        _ => Reader::None,
    }
}

fn takes_signals(state: StateName) -> bool {
    matches!(state, StateName::Running | StateName::Stopping)
}

fn present_attempt(task: &Task) -> AttemptRef {
    AttemptRef { task: task.id, attempt: task.attempt }
}

fn conflict(task: &Task, detail: String) -> OperationError {
    OperationError::Conflict { detail, state: task.state.as_str() }
}

/// Checks that a job is the actor's.
///
/// # Errors
/// When it is not, or there is no such job.
pub async fn own_job(reads: &ReadStore, actor: &Actor, job: JobId) -> Result<(), OperationError> {
    match reads.job_is_of(actor.project, job).await? {
        true => Ok(()),
        false => Err(no_job(job)),
    }
}

/// Tasks of a job, in the order of their definitions and indices, with what the blocked ones wait for.
///
/// # Errors
/// When the database does not answer.
pub async fn list(
    reads: &ReadStore,
    job: JobId,
    filter: &TaskFilter,
    limit: u32,
) -> Result<Vec<Task>, StoreError> {
    let mut tasks = reads.task_list(job, filter, limit).await?;
    add_waits(reads, job, &mut tasks).await?;
    Ok(tasks)
}

/// Adds to the blocked ones among tasks of a job what they wait for.
async fn add_waits(reads: &ReadStore, job: JobId, tasks: &mut [Task]) -> Result<(), StoreError> {
    if tasks.iter().all(|task| task.state != StateName::Blocked) {
        return Ok(());
    }
    let Some(spec) = reads.spec(job).await? else { return Ok(()) };
    let awaited = all_awaited(&spec.tasks);
    let mut known: HashMap<i16, String> = HashMap::new();
    for task in tasks.iter_mut().filter(|task| task.state == StateName::Blocked) {
        let position = task.position;
        let waits = || conditions::waits_for(&spec, &awaited, position as usize);
        let waits = known.entry(position).or_insert_with(waits);
        task.waits_for = Some(waits.clone()).filter(|waits| !waits.is_empty());
    }
    Ok(())
}

/// A task of the actor's project by its address.
///
/// # Errors
/// When there is no such task.
pub async fn find(
    reads: &ReadStore,
    actor: &Actor,
    addressed: Addressed<'_>,
) -> Result<Task, OperationError> {
    own_job(reads, actor, addressed.job).await?;
    let Addressed { job, task: address } = addressed;
    let shown: String = address.chars().filter(|char| !char.is_control()).take(100).collect();
    let not_found = || OperationError::NotFound(format!("task {shown} in job {job}"));
    if shown.len() != address.len() {
        return Err(not_found());
    }
    let (name, index) = match address.split_once('.') {
        Some((name, index)) => (name, index.parse().map_err(|_| not_found())?),
        None => (address, 0),
    };
    let mut task = reads.task_get(job, name, index).await?.ok_or_else(not_found)?;
    add_waits(reads, job, std::slice::from_mut(&mut task)).await?;
    // The bare name is the address of an only task; of several it is the name of all of them.
    match task.address.contains('.') && !address.contains('.') {
        true => Err(OperationError::NotFound(format!(
            "single task {name} in job {job}; one of several is {name}.{index}"
        ))),
        false => Ok(task),
    }
}
