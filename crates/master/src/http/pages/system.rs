//! The page *System*: database problems, dead letters, background loops.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};

use super::super::Site;
use super::super::error::Error;
use super::super::params::{Params, id, page_of};
use super::format::{address, sentence};
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use crate::background::driver::Status;
use crate::operations::system::{SecretsState, System};
use crate::operations::{Context, dead_letters, system};
use crate::records::{DeadLetter, LetterKind};

const PAGE_ROWS: u32 = 50;

#[derive(Template)]
#[template(path = "system.html")]
struct SystemPage {
    frame: Frame,
    cli: String,
    curl: String,
    troubles: Vec<TroubleRow>,
    letters: Vec<LetterRow>,
    more: Option<String>,
    secrets: String,
    /// When the certificate of the ports expires.
    certificate: Option<String>,
    loops: Vec<LoopRow>,
}

struct TroubleRow {
    what: String,
    since: Option<i64>,
    detail: String,
}

struct LetterRow {
    id: i64,
    at: Option<i64>,
    what: String,
    job: Option<i64>,
    task: String,
    worker: String,
    reason: String,
    is_output: bool,
}

struct LoopRow {
    name: String,
    description: String,
    ran: Option<i64>,
    took: String,
    result: String,
    is_failing: bool,
    runs: u64,
}

/// `GET /system`
pub async fn show(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["cursor"], &[])?;
    let state = system::show(&context, &visitor.actor).await?;
    let after = params.cursor()?.unwrap_or(0);
    let letters = dead_letters::list(&context, &visitor.actor, None, after, PAGE_ROWS + 1).await?;
    let letters = page_of(letters, PAGE_ROWS, |letter| letter.id);
    page(&SystemPage {
        frame: visitor.frame("/system"),
        cli: "gaffer system\ngaffer dead-letters list".to_owned(),
        curl: format!("{}\n{}", curl(&site, "GET", "/system"), curl(&site, "GET", "/dead-letters")),
        troubles: troubles(&state),
        more: letters.next_cursor.map(|cursor| address("/system", &[("cursor", &cursor)])),
        letters: letters.items.into_iter().map(LetterRow::of).collect(),
        secrets: secrets(&state.secrets),
        certificate: state
            .tls
            .as_ref()
            .and_then(|tls| tls.expires_at)
            .map(|at| at.format("%Y-%m-%d").to_string()),
        loops: loops(state),
    })
}

/// With which key secrets are encrypted.
fn secrets(state: &SecretsState) -> String {
    match (&state.key, state.on_old_keys) {
        (None, _) => "no master key is set".to_owned(),
        (Some(key), 0) => format!("encrypted with the master key {key}"),
        (Some(key), old) => {
            format!("encrypted with the master key {key}; {old} are still on an old key of the list")
        }
    }
}

fn troubles(state: &System) -> Vec<TroubleRow> {
    let mut rows = Vec::new();
    if let Some(problem) = &state.secrets.problem {
        rows.push(TroubleRow {
            what: "Secrets cannot be used".to_owned(),
            since: None,
            detail: sentence(problem),
        });
    }
    if let Some(problem) = state.tls.as_ref().and_then(|tls| tls.problem.as_ref()) {
        rows.push(TroubleRow {
            what: "The TLS certificate needs attention".to_owned(),
            since: None,
            detail: sentence(problem),
        });
    }
    if let Some(trouble) = &state.database_trouble {
        rows.push(TroubleRow {
            what: "The database refuses writes".to_owned(),
            since: Some(trouble.since.timestamp_millis()),
            detail: trouble.message.clone(),
        });
    }
    if let Some(trouble) = &state.change_trouble {
        rows.push(TroubleRow {
            what: "Some writes are waiting".to_owned(),
            since: Some(trouble.since.timestamp_millis()),
            detail: trouble.message.clone(),
        });
    }
    rows.extend(state.locked_jobs.iter().map(|(job, since)| TroubleRow {
        what: format!("Job {job} is locked"),
        since: Some(since.timestamp_millis()),
        detail: "another transaction in the database has locked its row; writes for this job wait".to_owned(),
    }));
    rows.extend(state.loops.iter().filter_map(|(name, status)| {
        Some(TroubleRow {
            what: format!("The background loop {name} is failing"),
            since: Some(status.failing_since?.timestamp_millis()),
            detail: status.last.as_ref().and_then(|last| last.result.clone().err()).unwrap_or_default(),
        })
    }));
    rows
}

fn loops(state: System) -> Vec<LoopRow> {
    let row = |(name, status): (&str, Status)| {
        let last = status.last.as_ref();
        LoopRow {
            ran: last.map(|last| last.at.timestamp_millis()),
            took: last.map(|last| format!("{:.1} ms", last.took.as_secs_f64() * 1_000.0)).unwrap_or_default(),
            is_failing: last.is_some_and(|last| last.result.is_err()),
            result: match last.map(|last| &last.result) {
                Some(Err(error)) => error.clone(),
                Some(Ok(0)) => "nothing to do".to_owned(),
                Some(Ok(done)) => format!("{done} done"),
                None => String::new(),
            },
            name: name.to_owned(),
            description: status.description.to_owned(),
            runs: status.runs,
        }
    };
    state.loops.into_iter().map(row).collect()
}

impl LetterRow {
    fn of(letter: DeadLetter) -> LetterRow {
        let what = match (letter.bytes, letter.offset) {
            (Some(bytes), Some(offset)) => format!("{bytes} bytes of output from byte {offset}"),
            _ => "a report".to_owned(),
        };
        let attempt = letter.attempt.map(|attempt| format!(" (attempt {attempt})")).unwrap_or_default();
        LetterRow {
            id: letter.id,
            at: Some(letter.at.timestamp_millis()),
            what,
            job: letter.job.map(|job| job.0),
            task: format!("{}{attempt}", letter.task.unwrap_or_default()),
            worker: letter.worker.unwrap_or_default(),
            reason: letter.reason,
            is_output: letter.kind == LetterKind::Output,
        }
    }
}

/// `POST /system/dead-letters/{letter}/retry`
pub async fn retry(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(letter): Path<String>,
) -> Result<Response, Error> {
    dead_letters::retry(&context, &visitor.actor, id(&letter, "dead letter")?).await?;
    Ok(Redirect::to("/system").into_response())
}

/// `POST /system/dead-letters/{letter}/delete`
pub async fn delete(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(letter): Path<String>,
) -> Result<Response, Error> {
    dead_letters::delete(&context, &visitor.actor, id(&letter, "dead letter")?).await?;
    Ok(Redirect::to("/system").into_response())
}
