//! Output: resolves the attempt to read.

use gaffer_domain::AttemptRef;

use super::OperationError;
use crate::records::Task;
use crate::store::ReadStore;

/// The task that has the output of a task: the one whose result it has, if it did not run itself.
///
/// # Errors
/// When that one was deleted.
pub async fn task_with_output(reads: &ReadStore, task: Task) -> Result<Task, OperationError> {
    let Some(of) = &task.result_of else { return Ok(task) };
    let found = if of.is_deleted { None } else { reads.task_by_id(of.task).await? };
    // It is shown under the address that was asked for.
    found.map(|found| Task { address: task.address.clone(), ..found }).ok_or_else(|| {
        let (address, job) = (&task.address, of.job);
        OperationError::NotFound(format!(
            "output of task {address}: it was deleted with job {job}, where the task ran"
        ))
    })
}

/// The requested attempt, else the latest. A future attempt can be waited for while it may still begin.
///
/// # Errors
/// When there is no such attempt.
pub fn attempt_of(task: &Task, wished: Option<u32>, can_wait: bool) -> Result<AttemptRef, OperationError> {
    let latest = if can_wait && !task.is_final() { u32::MAX } else { task.attempt };
    match wished {
        Some(attempt) if attempt == 0 || attempt > latest => {
            Err(OperationError::NotFound(format!("attempt {attempt} of task {}", task.address)))
        }
        wished => Ok(AttemptRef { task: task.id, attempt: wished.unwrap_or(task.attempt) }),
    }
}

/// The attempt that a request for output reads. A follower asks for the attempt after the one that it has read; numbers may be
/// left out, so it gets the next one that there is.
///
/// # Errors
/// As [`attempt_of`], or when the database does not answer.
pub async fn attempt_to_read(
    reads: &ReadStore,
    task: &Task,
    wished: Option<u32>,
    follow: bool,
) -> Result<AttemptRef, OperationError> {
    let found = attempt_of(task, wished, follow)?;
    if !follow || found.attempt >= task.attempt {
        return Ok(found);
    }
    let next = reads.attempt_from(task.id, found.attempt).await?;
    Ok(AttemptRef { attempt: next.unwrap_or(found.attempt), ..found })
}
