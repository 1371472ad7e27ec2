//! Output: resolves the attempt to read.

use gaffer_domain::AttemptRef;

use super::OperationError;
use crate::records::Task;

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
