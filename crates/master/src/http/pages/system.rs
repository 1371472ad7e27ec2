//! The page of how the master is doing: troubles with the database, dead letters, background loops.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use gaffer_protocol::rest::{DeadLetter, System};

use super::super::api::system::{delete_letter, retry_letter, system};
use super::super::error::Error;
use super::super::params::{Params, page_of};
use super::format::address;
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use crate::Master;

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
    State(master): State<Arc<Master>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["cursor"], &[])?;
    let state = system(&master, &visitor.caller).await?;
    let after = params.cursor()?.unwrap_or(0);
    let letters = master.reads.dead_letter_list(visitor.caller.project, None, after, PAGE_ROWS + 1).await?;
    let letters = page_of(letters, PAGE_ROWS, |letter| letter.id);
    page(&SystemPage {
        frame: visitor.frame("/system"),
        cli: "gaffer system\ngaffer dead-letters list".to_owned(),
        curl: format!("{}\n{}", curl(&master, "GET", "/system"), curl(&master, "GET", "/dead-letters")),
        troubles: troubles(&state),
        more: letters.next_cursor.map(|cursor| address("/system", &[("cursor", &cursor)])),
        letters: letters.items.into_iter().map(LetterRow::of).collect(),
        loops: loops(state),
    })
}

fn troubles(state: &System) -> Vec<TroubleRow> {
    let mut rows = Vec::new();
    if let Some(trouble) = &state.database_trouble {
        rows.push(TroubleRow {
            what: "The database accepts nothing".to_owned(),
            since: Some(trouble.since.timestamp_millis()),
            detail: trouble.message.clone(),
        });
    }
    if let Some(trouble) = &state.change_trouble {
        rows.push(TroubleRow {
            what: "Single changes are waiting".to_owned(),
            since: Some(trouble.since.timestamp_millis()),
            detail: trouble.message.clone(),
        });
    }
    rows.extend(state.locked_jobs.iter().map(|locked| TroubleRow {
        what: format!("Job {} is locked", locked.job),
        since: Some(locked.since.timestamp_millis()),
        detail: "another transaction in the database holds its row; its changes wait".to_owned(),
    }));
    rows.extend(state.loops.iter().filter(|one| one.failing_since.is_some()).map(|one| TroubleRow {
        what: format!("The background loop {} fails", one.name),
        since: one.failing_since.map(|since| since.timestamp_millis()),
        detail: one.last_run_error.clone().unwrap_or_default(),
    }));
    rows
}

fn loops(state: System) -> Vec<LoopRow> {
    let row = |one: gaffer_protocol::rest::BackgroundLoop| LoopRow {
        ran: one.last_run_at.map(|at| at.timestamp_millis()),
        took: one.last_run_seconds.map(|seconds| format!("{:.1} ms", seconds * 1_000.0)).unwrap_or_default(),
        is_failing: one.last_run_error.is_some(),
        result: match (one.last_run_error, one.last_run_done) {
            (Some(error), _) => error,
            (None, Some(0)) => "nothing to do".to_owned(),
            (None, Some(done)) => format!("{done} done"),
            (None, None) => String::new(),
        },
        name: one.name,
        description: one.description,
        runs: one.runs,
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
            is_output: letter.kind == "output",
        }
    }
}

/// `POST /system/dead-letters/{letter}/retry`
pub async fn retry(
    State(master): State<Arc<Master>>,
    visitor: SessionUser,
    Path(letter): Path<String>,
) -> Result<Response, Error> {
    retry_letter(&master, &visitor.caller, &letter).await?;
    Ok(Redirect::to("/system").into_response())
}

/// `POST /system/dead-letters/{letter}/delete`
pub async fn delete(
    State(master): State<Arc<Master>>,
    visitor: SessionUser,
    Path(letter): Path<String>,
) -> Result<Response, Error> {
    delete_letter(&master, &visitor.caller, &letter).await?;
    Ok(Redirect::to("/system").into_response())
}
