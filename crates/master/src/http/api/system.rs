//! `/system` and `/dead-letters`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::{DeadLetter, OutputStoreCheck, System};

use super::super::bodies;
use super::super::description::{CURSOR, Done, LIMIT, Listed, Operation, Parameter, Values};
use super::super::error::Error;
use super::super::params::{Params, id, page_of};
use crate::operations::{Actor, Context, dead_letters, system};

pub const SHOW: Operation = Operation {
    description: "Problems with the database, jobs that are locked in it, and every background loop with its last run.",
    ..Operation::new("get_system", "Get the state of the master", Action::LookAtSystem)
};

/// `GET /system`
pub async fn show(State(context): State<Arc<Context>>, actor: Actor) -> Result<Json<System>, Error> {
    Ok(Json(bodies::system(system::show(&context, &actor).await?)))
}

pub const CHECK_OUTPUT_STORE: Operation = Operation {
    description: "Writes a small object to the object storage with output, reads it and deletes it.",
    ..Operation::new("check_output_store", "Check the object storage with output", Action::LookAtSystem)
};

/// `POST /system/output-store/check`
pub async fn check_output_store(
    State(context): State<Arc<Context>>,
    actor: Actor,
) -> Result<Json<OutputStoreCheck>, Error> {
    Ok(Json(bodies::output_store_check(system::check_output_store(&context, &actor).await?)))
}

pub const LIST_LETTERS: Operation = Operation {
    description: "Reports and output that the database refused, oldest first.",
    query: &[
        LIMIT,
        CURSOR,
        Parameter::new(
            "job",
            Values::Integer { least: 1, most: i64::MAX as u64, default: None },
            "Only dead letters of the job with this number.",
        ),
    ],
    ..Operation::new("list_dead_letters", "List dead letters", Action::ListDeadLetters)
};

/// `GET /dead-letters`
pub async fn dead_letters(
    State(context): State<Arc<Context>>,
    actor: Actor,
    params: Params,
) -> Result<Listed<DeadLetter>, Error> {
    let limit = params.limit()?;
    let job = params.text("job").map(|job| id(job, "job")).transpose()?;
    let after = params.cursor()?.unwrap_or(0);
    let letters = dead_letters::list(&context, &actor, job, after, limit + 1).await?;
    Ok(Listed::of(&params, page_of(letters, limit, |letter| letter.id).map(bodies::dead_letter)))
}

pub const RETRY_LETTER: Operation = Operation {
    errors: &[(409, "The database still refuses it, or it is a report, which is kept as evidence.")],
    ..Operation::new("retry_dead_letter", "Store refused output now", Action::RetryDeadLetter)
};

/// `POST /dead-letters/{letter}/retry`
pub async fn retry(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(letter): Path<String>,
) -> Result<Done, Error> {
    dead_letters::retry(&context, &actor, id(&letter, "dead letter")?).await?;
    Ok(Done)
}

pub const DELETE_LETTER: Operation = Operation {
    description: "What it holds is lost.",
    ..Operation::new("delete_dead_letter", "Delete a dead letter", Action::DeleteDeadLetter)
};

/// `DELETE /dead-letters/{letter}`
pub async fn delete(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(letter): Path<String>,
) -> Result<Done, Error> {
    dead_letters::delete(&context, &actor, id(&letter, "dead letter")?).await?;
    Ok(Done)
}
