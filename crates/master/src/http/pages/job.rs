//! The pages of one job: its output, its tasks, its history, its specification; and what can be done with it.

use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use gaffer_domain::JobId;
use gaffer_protocol::rest;
use serde::Deserialize;
use uuid::Uuid;

use super::super::api::jobs::{again, delete_job, find, find_short, stop_job, unreadable};
use super::super::api::tasks;
use super::super::error::Error;
use super::super::params::{Params, id, wrong};
use super::format::address;
use super::frame::{Frame, SessionUser};
use super::job_head::{
    Failure, JobHead, TASKS_LOOKED_AT, VerdictRow, WaitingRow, failure, most_telling, waiting,
};
use super::job_tabs::{EventsTab, SpecTab, TasksTab};
use super::jobs::curl;
use super::log::{self, LogQuery, LogView};
use super::page;
use super::rows::Choice;
use crate::Master;
use crate::snapshot;
use crate::store::jobs::Submitted;
use crate::store::tasks::{TaskFilter, TaskRecord};
use crate::submit::Submission;

/// The tabs, as they stand in the address.
const TABS: [(&str, &str); 4] =
    [("output", "Output"), ("tasks", "Tasks"), ("events", "History"), ("spec", "Specification")];

/// What all tabs have on top, and around.
pub struct Top {
    /// The job.
    pub job: rest::Job,
    /// Its tasks, the first ones.
    pub tasks: Vec<TaskRecord>,
    /// Its head.
    pub head: JobHead,
    /// The page's stream.
    pub live: String,
    /// The same on the command line.
    pub cli: String,
    /// The same with curl.
    pub curl: String,
    /// Why its tasks wait.
    pub waiting: Vec<WaitingRow>,
    /// Worker by worker.
    pub verdicts: Vec<VerdictRow>,
    /// What a further reason is made of.
    pub blank_waiting: WaitingRow,
    /// What a further verdict is made of.
    pub blank_verdict: VerdictRow,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// The tabs.
    pub tabs: Vec<Choice>,
    /// Names a rerun from this page, so that pressing twice makes one job.
    pub once: String,
}

impl Top {
    /// Whether there are lines to show with the failure.
    pub fn has_excerpt(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| !failure.lines.is_empty())
    }
}

/// Reads what stands on top of a tab.
async fn top(master: &Arc<Master>, visitor: &SessionUser, job: JobId, tab: &str) -> Result<Top, Error> {
    let job = match tab {
        "spec" => find(&master.reads, &visitor.caller, job).await?,
        _ => find_short(&master.reads, &visitor.caller, job).await?,
    };
    let tasks = master.reads.task_list(job.id, &TaskFilter::default(), TASKS_LOOKED_AT).await?;
    let only = if let [only] = tasks.as_slice() { Some(&only.view) } else { None };
    let (waiting, verdicts) = waiting(master, visitor.caller.project, &job, snapshot::NOW).await?;
    let tabs = TABS.map(|(value, name)| Choice {
        name: name.to_owned(),
        href: match value {
            "output" => format!("/jobs/{}", job.id),
            _ => format!("/jobs/{}?tab={value}", job.id),
        },
        is_chosen: tab == value,
    });
    Ok(Top {
        head: JobHead::of(&job, only),
        live: String::new(),
        cli: String::new(),
        curl: String::new(),
        waiting,
        verdicts,
        blank_waiting: WaitingRow::default(),
        blank_verdict: VerdictRow::default(),
        failure: failure(master, &job, &tasks).await?,
        tabs: tabs.into(),
        once: Uuid::new_v4().to_string(),
        tasks,
        job,
    })
}

#[derive(Template)]
#[template(path = "job_output.html")]
struct OutputTab {
    frame: Frame,
    top: Top,
    log: LogView,
}

/// `GET /jobs/{job}`
pub async fn show(
    State(master): State<Arc<Master>>,
    visitor: SessionUser,
    Path(job): Path<String>,
    params: Params,
) -> Result<Response, Error> {
    let job: JobId = id(&job, "job")?;
    let tab = params.text("tab").unwrap_or("output").to_owned();
    if !TABS.iter().any(|(name, _)| *name == tab) {
        return Err(wrong("tab", &format!("there is no tab {tab:?}: output, tasks, events, spec")));
    }
    let params = match tab.as_str() {
        "tasks" => params.only(&["tab", "state", "cursor"], &[])?,
        "events" => params.only(&["tab", "cursor"], &[])?,
        "spec" => params.only(&["tab"], &[])?,
        _ => params.only(&[&["tab"], &LogQuery::PARAMS[..]].concat(), &[])?,
    };
    let top = top(&master, &visitor, job, &tab).await?;
    let frame = visitor.frame("/jobs");
    match tab.as_str() {
        "tasks" => page(&TasksTab::new(&master, frame, top, &params).await?),
        "events" => page(&EventsTab::new(&master, &visitor.caller, frame, top, &params).await?),
        "spec" => page(&SpecTab::new(&master, frame, top)),
        _ => page(&output_tab(&master, frame, top, &params).await?),
    }
}

async fn output_tab(
    master: &Arc<Master>,
    frame: Frame,
    mut top: Top,
    params: &Params,
) -> Result<OutputTab, Error> {
    let job = top.job.id;
    let wish = LogQuery::of(params)?;
    let asked = params.text("task").filter(|task| !task.is_empty());
    let task = match asked {
        Some(task) => tasks::find(&master.reads, job, task).await?,
        None => {
            most_telling(&top.tasks).cloned().ok_or_else(|| Error::NotFound(format!("task in job {job}")))?
        }
    };
    let here = format!("/jobs/{job}");
    let log = log::view(master, &here, &task, &top.tasks, &wish).await?;
    let attempt = wish.attempt.map(|attempt| attempt.to_string()).unwrap_or_default();
    let (word, raw) = match top.head.many {
        true => {
            (format!(".{}", task.view.address), format!("/jobs/{job}/tasks/{}/output", task.view.address))
        }
        false => (String::new(), format!("/jobs/{job}/output")),
    };
    let live = [("tab", "output"), ("task", task.view.address.as_str()), ("attempt", &attempt)];
    top.live = address(&format!("/jobs/{job}/live"), &live);
    top.cli = format!("gaffer job {job}\ngaffer logs -f {job}{word}\ngaffer stop {job}\ngaffer rerun {job}");
    top.curl = curl(master, "GET", &format!("{raw}?follow=1")).replacen("curl ", "curl -N ", 1);
    Ok(OutputTab { frame, top, log })
}

/// `POST /jobs/{job}/stop`
pub async fn stop(
    State(master): State<Arc<Master>>,
    visitor: SessionUser,
    Path(job): Path<String>,
) -> Result<Response, Error> {
    let job: JobId = id(&job, "job")?;
    match stop_job(&master, &visitor.caller, job).await {
        // It ended while its page was being looked at: that page says so.
        Ok(_) | Err(Error::Conflict { .. }) => Ok(Redirect::to(&format!("/jobs/{job}")).into_response()),
        Err(error) => Err(error),
    }
}

/// What the form for a rerun sends.
#[derive(Debug, Deserialize)]
pub struct Again {
    #[serde(default)]
    once: String,
}

/// `POST /jobs/{job}/rerun`: a new job of the same specification.
pub async fn rerun(
    State(master): State<Arc<Master>>,
    visitor: SessionUser,
    Path(job): Path<String>,
    Form(form): Form<Again>,
) -> Result<Response, Error> {
    let job: JobId = id(&job, "job")?;
    let view = find_short(&master.writes, &visitor.caller, job).await?;
    if view.finished_at.is_none() {
        let detail = format!("job {job} is not over yet: it is {}", view.state);
        return Err(Error::Conflict { detail, state: view.state });
    }
    let spec = again(&master, job).await?;
    let spec = spec.readable().map_err(|problem| unreadable(job, problem))?;
    let once = Some(form.once.as_str()).filter(|once| Uuid::try_parse(once).is_ok());
    let submission = Submission {
        project: visitor.caller.project,
        user: &visitor.caller.user,
        spec,
        rerun_of: Some(job),
        idempotency_key: once,
    };
    match master.submit(submission).await? {
        Submitted::Created(new) | Submitted::Repeated(new) => {
            Ok(Redirect::to(&format!("/jobs/{new}")).into_response())
        }
        Submitted::KeyReused => Ok(Redirect::to(&format!("/jobs/{job}")).into_response()),
    }
}

/// `POST /jobs/{job}/delete`
pub async fn delete(
    State(master): State<Arc<Master>>,
    visitor: SessionUser,
    Path(job): Path<String>,
) -> Result<Response, Error> {
    let job: JobId = id(&job, "job")?;
    delete_job(&master, &visitor.caller, job).await?;
    Ok(Redirect::to("/jobs").into_response())
}
