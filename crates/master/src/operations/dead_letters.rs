//! Dead letters: list, retry, delete.

use gaffer_domain::JobId;
use gaffer_domain::permissions::Action;

use super::context::Effects;
use super::{Actor, Context, OperationError};
use crate::records::DeadLetter;
use crate::store::StoreError;

/// Dead letters of the actor's project, or of one job, oldest first, after a number.
///
/// # Errors
/// When the database does not answer.
pub async fn list(
    context: &Context,
    actor: &Actor,
    job: Option<JobId>,
    after: i64,
    limit: u32,
) -> Result<Vec<DeadLetter>, OperationError> {
    let views = context.permit_to_look(actor, Action::ListDeadLetters)?;
    Ok(views.reads.dead_letter_list(actor.project, job, after, limit).await?)
}

/// Restores refused output.
///
/// # Errors
/// When there is no such letter, or the database still refuses it.
pub async fn retry(context: &Context, actor: &Actor, letter: i64) -> Result<(), OperationError> {
    let change = context.change(actor, Action::RetryDeadLetter, &format!("dead letter {letter}")).await?;
    let restored = restore(change.effects, actor, letter).await;
    change.end(restored).await
}

async fn restore(effects: &Effects, actor: &Actor, letter: i64) -> Result<(), OperationError> {
    if !effects.writes.dead_letter_is_of(actor.project, letter).await? {
        return Err(no_letter(letter));
    }
    match effects.writes.dead_letter_retry(letter).await {
        Ok(Some(job)) => {
            effects.changes.announce(&[job]);
            Ok(())
        }
        Ok(None) => {
            let detail = format!(
                "dead letter {letter} is not restored: the database still refuses it, or it is a report, which stays as evidence"
            );
            Err(OperationError::Conflict { detail, state: "refused" })
        }
        Err(error @ StoreError::Unreadable(_)) => {
            Err(OperationError::Conflict { detail: error.to_string(), state: "unreadable" })
        }
        Err(error) => Err(error.into()),
    }
}

/// Deletes a dead letter.
///
/// # Errors
/// When there is no such letter.
pub async fn delete(context: &Context, actor: &Actor, letter: i64) -> Result<(), OperationError> {
    let change = context.change(actor, Action::DeleteDeadLetter, &format!("dead letter {letter}")).await?;
    let deleted = match change.effects.writes.dead_letter_delete(actor.project, letter).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(no_letter(letter)),
        Err(error) => Err(error.into()),
    };
    change.end(deleted).await
}

fn no_letter(letter: i64) -> OperationError {
    OperationError::NotFound(format!("dead letter {letter}"))
}
