//! The pages of one job (output, tasks, history, specification) and its actions.

use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use gaffer_domain::JobId;
use gaffer_domain::rerun::Part;
use serde::Deserialize;
use uuid::Uuid;

use super::super::Site;
use super::super::error::Error;
use super::super::params::{Params, id, wrong};
use super::format::address;
use super::frame::{Frame, SessionUser};
use super::job_head::{
    JobHead, TASKS_LOOKED_AT, Top, VerdictRow, WaitingRow, failure, most_telling, only_task, parameters,
    template, waiting,
};
use super::job_tabs::{EventsTab, PictureTab, SpecTab, TasksTab, VersionsTab};
use super::jobs::curl;
use super::log::{self, LogQuery, LogView};
use super::page;
use super::rows::Choice;
use crate::operations::jobs::{self, Rerun};
use crate::operations::services::{self, ScaleService};
use crate::operations::tasks::{self, Addressed};
use crate::operations::updates::{self, RollBack};
use crate::operations::{Context, OperationError, no_job, retention};
use crate::snapshot;
use crate::store::tasks::TaskFilter;
use crate::views::Views;

/// The tabs, as they stand in the address.
const TABS: [(&str, &str); 7] = [
    ("output", "Output"),
    ("tasks", "Tasks"),
    ("graph", "Graph"),
    ("timeline", "Timeline"),
    ("events", "History"),
    ("spec", "Specification"),
    ("versions", "Versions"),
];

/// Reads what stands on top of a tab.
async fn top(views: &Arc<Views>, visitor: &SessionUser, job: JobId, tab: &str) -> Result<Top, Error> {
    let project = visitor.actor.project;
    let mut job = views.reads.job_get(project, job).await?.ok_or_else(|| no_job(job))?;
    views.healths.add_availability([&mut job]);
    let mut tasks = tasks::list(&views.reads, job.id, &TaskFilter::default(), TASKS_LOOKED_AT).await?;
    views.add_health(&mut tasks);
    let only = only_task(&job, &tasks);
    let (waiting, verdicts) = waiting(views, project, &job, snapshot::NOW).await?;
    // Other jobs have only one version.
    let is_shown = |tab: &str| tab != "versions" || job.kind.is_kept_running();
    let tabs = TABS.into_iter().filter(|(value, _)| is_shown(value)).map(|(value, name)| Choice {
        name: name.to_owned(),
        href: match value {
            "output" => format!("/jobs/{}", job.id),
            _ => format!("/jobs/{}?tab={value}", job.id),
        },
        is_chosen: tab == value,
    });
    let spec = views.reads.spec(job.id).await?;
    let starts: Vec<String> =
        spec.iter().flat_map(|spec| spec.tasks.iter().map(|task| task.name.clone())).collect();
    Ok(Top {
        head: JobHead::of(&job, only),
        live: String::new(),
        cli: String::new(),
        curl: String::new(),
        waiting,
        verdicts,
        blank_waiting: WaitingRow::default(),
        blank_verdict: VerdictRow::default(),
        failure: failure(views, &job, &tasks).await?,
        tabs: tabs.collect(),
        once: Uuid::new_v4().to_string(),
        template: template(&job),
        parameters: spec.as_ref().map_or_else(Vec::new, |spec| parameters(&spec.parameters)),
        starts: if starts.len() > 1 { starts } else { Vec::new() },
        scales: job
            .running
            .iter()
            .filter(|running| running.can_scale)
            .map(|running| (running.task.clone(), running.kept))
            .collect(),
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
    State(views): State<Arc<Views>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Path(job): Path<String>,
    params: Params,
) -> Result<Response, Error> {
    let job: JobId = id(&job, "job")?;
    let tab = params.text("tab").unwrap_or("output").to_owned();
    if !TABS.iter().any(|(name, _)| *name == tab) {
        let tabs = "output, tasks, graph, timeline, events, spec or versions";
        return Err(wrong("tab", &format!("no tab {tab:?}; expected {tabs}")));
    }
    let params = match tab.as_str() {
        "tasks" => params.only(&["tab", "state", "cursor"], &[])?,
        "events" => params.only(&["tab", "cursor"], &[])?,
        "spec" | "versions" | "graph" | "timeline" => params.only(&["tab"], &[])?,
        _ => params.only(&[&["tab"], &LogQuery::PARAMS[..]].concat(), &[])?,
    };
    let top = top(&views, &visitor, job, &tab).await?;
    if tab == "output" && top.tasks.is_empty() && params.text("task").is_none_or(str::is_empty) {
        // A system job may have no task yet: its tasks are shown as they come.
        return Ok(Redirect::to(&format!("/jobs/{job}?tab=tasks")).into_response());
    }
    let frame = visitor.frame("/jobs");
    match tab.as_str() {
        "tasks" => page(&TasksTab::new(&views, &site, frame, top, &params).await?),
        "events" => page(&EventsTab::new(&views, &site, &visitor.actor, frame, top, &params).await?),
        "graph" => page(&PictureTab::graph(&views, &site, frame, top).await?),
        "timeline" => page(&PictureTab::timeline(&views, &site, frame, top).await?),
        "versions" => page(&VersionsTab::new(&views, &site, &visitor.actor, frame, top).await?),
        "spec" => page(&SpecTab::new(&views, &site, frame, top).await?),
        _ => page(&output_tab(&views, &site, &visitor, frame, top, &params).await?),
    }
}

async fn output_tab(
    views: &Arc<Views>,
    site: &Site,
    visitor: &SessionUser,
    frame: Frame,
    mut top: Top,
    params: &Params,
) -> Result<OutputTab, Error> {
    let job = top.job.id;
    let wish = LogQuery::of(params)?;
    let asked = params.text("task").filter(|task| !task.is_empty());
    let task = match asked {
        Some(task) => tasks::find(&views.reads, &visitor.actor, Addressed { job, task }).await?,
        None => most_telling(&top.tasks)
            .cloned()
            .ok_or_else(|| OperationError::NotFound(format!("task in job {job}")))?,
    };
    let here = format!("/jobs/{job}");
    let log = log::view(views, visitor.actor.project, &here, &task, &top.tasks, &wish).await?;
    let attempt = wish.attempt.map(|attempt| attempt.to_string()).unwrap_or_default();
    let (word, raw) = match top.head.many {
        true => (format!(".{}", task.address), format!("/jobs/{job}/tasks/{}/output", task.address)),
        false => (String::new(), format!("/jobs/{job}/output")),
    };
    let live = [("tab", "output"), ("task", task.address.as_str()), ("attempt", &attempt)];
    top.live = address(&format!("/jobs/{job}/live"), &live);
    top.cli = format!("gaffer job {job}\ngaffer logs -f {job}{word}\ngaffer stop {job}\ngaffer rerun {job}");
    top.curl = curl(site, "GET", &format!("{raw}?follow=1")).replacen("curl ", "curl -N ", 1);
    Ok(OutputTab { frame, top, log })
}

/// What the forms for a stop send.
#[derive(Debug, Deserialize)]
pub struct Stop {
    /// There, if cleaning-up tasks are to be stopped, too.
    #[serde(default)]
    force: Option<String>,
}

/// `POST /jobs/{job}/stop`
pub async fn stop(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(job): Path<String>,
    Form(form): Form<Stop>,
) -> Result<Response, Error> {
    let job: JobId = id(&job, "job")?;
    let stopped = jobs::stop(&context, &visitor.actor, job, form.force.is_some()).await;
    back_to(&format!("/jobs/{job}"), stopped)
}

/// To the page of the job. If it was something else by then than what its page showed, such as over, that page shows it.
fn back_to<T>(page: &str, done: Result<T, OperationError>) -> Result<Response, Error> {
    match done {
        Ok(_) | Err(OperationError::Conflict { .. }) => Ok(Redirect::to(page).into_response()),
        Err(error) => Err(error.into()),
    }
}

/// What the form for going back to a version sends.
#[derive(Debug, Deserialize)]
pub struct Rollback {
    to: u32,
    /// The present version, as the page showed it.
    after: u32,
}

/// `POST /jobs/{job}/rollback`
pub async fn roll_back(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(job): Path<String>,
    Form(form): Form<Rollback>,
) -> Result<Response, Error> {
    let job: JobId = id(&job, "job")?;
    let wanted = RollBack { job, to: Some(form.to), after: Some(form.after) };
    let updated = updates::roll_back(&context, &visitor.actor, wanted).await;
    back_to(&format!("/jobs/{job}?tab=versions"), updated)
}

/// What the form for promoting an update sends.
#[derive(Debug, Deserialize)]
pub struct Promote {
    version: u32,
}

/// `POST /jobs/{job}/promote`
pub async fn promote(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(job): Path<String>,
    Form(form): Form<Promote>,
) -> Result<Response, Error> {
    let job: JobId = id(&job, "job")?;
    let promoted = updates::promote(&context, &visitor.actor, job, Some(form.version)).await;
    back_to(&format!("/jobs/{job}"), promoted)
}

/// What the form for scaling sends.
#[derive(Debug, Deserialize)]
pub struct Scale {
    task: String,
    count: String,
}

/// `POST /jobs/{job}/scale`
pub async fn scale(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(job): Path<String>,
    Form(form): Form<Scale>,
) -> Result<Response, Error> {
    let job: JobId = id(&job, "job")?;
    let count = form.count.trim().parse().map_err(|_| {
        OperationError::field("/count", format!("expected a number of instances, found {:?}", form.count))
    })?;
    let wanted = ScaleService { job, task: Some(&form.task), count };
    let scaled = services::scale(&context, &visitor.actor, wanted).await;
    back_to(&format!("/jobs/{job}"), scaled)
}

/// What the form for a rerun sends.
#[derive(Debug, Deserialize)]
pub struct Again {
    #[serde(default)]
    once: String,
    /// There, if what failed is to run.
    #[serde(default)]
    failed: Option<String>,
    /// The definition to start from; empty for none.
    #[serde(default)]
    from: String,
}

/// `POST /jobs/{job}/rerun`: a new job of the same specification.
pub async fn rerun(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(job): Path<String>,
    Form(form): Form<Again>,
) -> Result<Response, Error> {
    let job: JobId = id(&job, "job")?;
    let (failed, from) = (form.failed.is_some(), Some(form.from.as_str()).filter(|from| !from.is_empty()));
    let part = (failed || from.is_some()).then_some(Part { failed, from });
    // The page has several forms for reruns.
    let key = form_key(&form.once).map(|once| format!("{once} {failed} {}", form.from));
    let earlier = jobs::find_ended(&context, &visitor.actor, job).await?;
    let wanted = Rerun { earlier, part, spec: None, values: None, idempotency_key: key.as_deref() };
    let shown = match jobs::rerun(&context, &visitor.actor, wanted).await {
        Ok(accepted) => accepted.job,
        Err(OperationError::KeyReused) => job,
        Err(error) => return Err(error.into()),
    };
    Ok(Redirect::to(&format!("/jobs/{shown}")).into_response())
}

/// What names the request of a form, so that sending it twice makes one job.
pub fn form_key(once: &str) -> Option<&str> {
    Some(once).filter(|once| Uuid::try_parse(once).is_ok())
}

/// `POST /jobs/{job}/pin`
pub async fn pin(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(job): Path<String>,
) -> Result<Response, Error> {
    let job: JobId = id(&job, "job")?;
    retention::pin(&context, &visitor.actor, job, true).await?;
    Ok(Redirect::to(&format!("/jobs/{job}")).into_response())
}

/// `POST /jobs/{job}/unpin`
pub async fn unpin(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(job): Path<String>,
) -> Result<Response, Error> {
    let job: JobId = id(&job, "job")?;
    retention::pin(&context, &visitor.actor, job, false).await?;
    Ok(Redirect::to(&format!("/jobs/{job}")).into_response())
}

/// `POST /jobs/{job}/delete`
pub async fn delete(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(job): Path<String>,
) -> Result<Response, Error> {
    jobs::delete(&context, &visitor.actor, id(&job, "job")?).await?;
    Ok(Redirect::to("/jobs").into_response())
}
