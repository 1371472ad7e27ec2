//! `/system` and `/dead-letters`: how the master is doing, and what the database refused.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use gaffer_protocol::rest::{BackgroundLoop, LockedJob, System, Trouble};

use super::super::auth::Principal;
use super::super::error::Error;
use super::super::params::{Params, id, page_of};
use crate::Master;
use crate::background::driver::Status;
use crate::store::StoreError;
use crate::troubles;

/// `GET /system`
pub async fn show(State(master): State<Arc<Master>>, caller: Principal) -> Result<Json<System>, Error> {
    Ok(Json(system(&master, &caller).await?))
}

/// How the master is doing, as far as a project may know.
pub async fn system(master: &Master, caller: &Principal) -> Result<System, Error> {
    let locked = master.troubles.locked();
    let jobs: Vec<_> = locked.iter().map(|(job, _)| *job).collect();
    let own = master.reads.jobs_of_project(caller.project, &jobs).await?;
    let letters = master.reads.dead_letter_list(caller.project, None, 0, 1).await?;
    Ok(System {
        database_trouble: master.troubles.database().map(trouble),
        change_trouble: master.troubles.change().map(trouble),
        locked_jobs: locked
            .into_iter()
            .filter(|(job, _)| own.contains(job))
            .map(|(job, since)| LockedJob { job, since })
            .collect(),
        has_dead_letters: !letters.is_empty(),
        loops: master.loops.all().into_iter().map(background_loop).collect(),
    })
}

fn trouble(trouble: troubles::Trouble) -> Trouble {
    Trouble { since: trouble.since, message: trouble.message }
}

fn background_loop((name, status): (&'static str, Status)) -> BackgroundLoop {
    let last = status.last.as_ref();
    BackgroundLoop {
        name: name.to_owned(),
        description: status.description.to_owned(),
        period_seconds: status.period.as_secs_f64(),
        runs: status.runs,
        running_since: status.running_since,
        failing_since: status.failing_since,
        last_run_at: last.map(|last| last.at),
        last_run_seconds: last.map(|last| last.took.as_secs_f64()),
        last_run_done: last.and_then(|last| last.result.as_ref().ok().copied()),
        last_run_error: last.and_then(|last| last.result.as_ref().err().cloned()),
    }
}

/// `GET /dead-letters`
pub async fn dead_letters(
    State(master): State<Arc<Master>>,
    caller: Principal,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["limit", "cursor", "job"], &[])?;
    let limit = params.limit()?;
    let job = params.text("job").map(|job| id(job, "job")).transpose()?;
    let after = params.cursor()?.unwrap_or(0);
    let letters = master.reads.dead_letter_list(caller.project, job, after, limit + 1).await?;
    Ok(params.answer(&page_of(letters, limit, |letter| letter.id)))
}

/// `POST /dead-letters/{letter}/retry`
pub async fn retry(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(letter): Path<String>,
) -> Result<StatusCode, Error> {
    retry_letter(&master, &caller, &letter).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tries to put output that was set aside where it belongs.
pub async fn retry_letter(master: &Master, caller: &Principal, letter: &str) -> Result<(), Error> {
    let number: i64 = id(letter, "dead letter")?;
    if !master.writes.dead_letter_is_of(caller.project, number).await? {
        return Err(Error::NotFound(format!("dead letter {number}")));
    }
    match master.writes.dead_letter_retry(number).await {
        Ok(Some(job)) => {
            master.changes.announce(&[job]);
            Ok(())
        }
        Ok(None) => {
            let detail = format!(
                "dead letter {number} stays: the database still refuses it, or it is a report, which is kept as evidence"
            );
            Err(Error::Conflict { detail, state: "refused".to_owned() })
        }
        Err(error @ StoreError::Unreadable(_)) => {
            Err(Error::Conflict { detail: error.to_string(), state: "unreadable".to_owned() })
        }
        Err(error) => Err(error.into()),
    }
}

/// `DELETE /dead-letters/{letter}`
pub async fn delete(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(letter): Path<String>,
) -> Result<StatusCode, Error> {
    delete_letter(&master, &caller, &letter).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets something that was set aside.
pub async fn delete_letter(master: &Master, caller: &Principal, letter: &str) -> Result<(), Error> {
    let number: i64 = id(letter, "dead letter")?;
    match master.writes.dead_letter_delete(caller.project, number).await? {
        true => Ok(()),
        false => Err(Error::NotFound(format!("dead letter {number}"))),
    }
}
