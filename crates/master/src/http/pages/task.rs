//! The page of one task: attempts with their placement, kill receipt and output.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use chrono::Utc;
use gaffer_domain::placement::{Candidate, Receipt};
use gaffer_domain::spec::JobSpec;
use gaffer_domain::{AttemptRef, JobId};
use gaffer_protocol::ports::NamedPort;
use gaffer_protocol::wire::{ContainerFacts, KillReceipt, PublishedPort};

use super::super::Site;
use super::super::bodies::result_of;
use super::super::error::Error;
use super::super::params::{Params, id};
use super::checks::{CheckRow, Checks, HourRow};
use super::format::{Elapsed, address, moment};
use super::frame::{Frame, SessionUser};
use super::job_head::JobHead;
use super::jobs::curl;
use super::log::{self, LogQuery, LogView};
use super::page;
use super::rows::{TaskRow, exit, named_port};
use crate::operations::no_job;
use crate::operations::tasks::{self, Addressed};
use crate::records::{Attempt, ResultOf, Task};
use crate::views::Views;

#[derive(Template)]
#[template(path = "task.html")]
struct TaskPage {
    frame: Frame,
    live: String,
    cli: String,
    curl: String,
    job: JobHead,
    row: TaskRow,
    result: Option<ResultLink>,
    workdir: Option<String>,
    attempts: Vec<AttemptView>,
    checks: Checks,
    blank_hour: HourRow,
    blank_check: CheckRow,
    log: LogView,
}

/// Whose result a task has that did not run.
struct ResultLink {
    words: String,
    attempt: u32,
    /// Its page; empty if it was deleted.
    href: String,
}

impl ResultLink {
    fn to(of: &ResultOf) -> ResultLink {
        let ResultOf { job, address, attempt, is_deleted, .. } = of;
        let href = if *is_deleted { String::new() } else { format!("/jobs/{job}/tasks/{address}") };
        ResultLink { words: result_of(of.clone()).in_words(), attempt: *attempt, href }
    }
}

struct AttemptView {
    number: u32,
    how: String,
    worker: String,
    worker_href: String,
    placed: String,
    started: String,
    ran: Elapsed,
    output: String,
    output_href: String,
    sha256: Option<String>,
    /// The stored output is not what the worker read.
    differs: bool,
    killed: Option<String>,
    container: Option<ContainerView>,
    /// Named ports: `http 10.0.0.7:20000 → 80/tcp`.
    ports: Vec<String>,
    /// Of its definition, if that is not the first.
    version: Option<u32>,
    placement: Option<Placement>,
}

/// What an attempt ran in.
struct ContainerView {
    /// As the daemon's own tools show it.
    id: String,
    image: String,
    ports: Vec<String>,
}

struct Placement {
    why: String,
    candidates: Vec<ShownCandidate>,
}

struct ShownCandidate {
    name: String,
    score: String,
    made_of: String,
}

impl AttemptView {
    fn of(attempt: Attempt, page: &str) -> AttemptView {
        let time = |at: Option<chrono::DateTime<Utc>>| {
            at.map_or_else(|| "—".to_owned(), |at| moment(&at.timestamp_millis()))
        };
        let how = match (&attempt.reason, attempt.finished_at) {
            (Some(reason), _) => reason.message.clone(),
            (None, Some(_)) => match exit(attempt.exit_code, attempt.signal).as_str() {
                "" => "returned before it started".to_owned(),
                code => format!("exited with code {code}"),
            },
            (None, None) if attempt.started_at.is_some() => "in progress".to_owned(),
            (None, None) => "starting".to_owned(),
        };
        AttemptView {
            number: attempt.attempt,
            how,
            worker_href: format!("/workers/{}", attempt.worker_id),
            worker: attempt.worker,
            placed: time(Some(attempt.scheduled_at)),
            started: time(attempt.started_at),
            ran: Elapsed::measured(attempt.started_at, attempt.finished_at, attempt.ran_seconds),
            output: log::size(attempt.output_lines, attempt.output_bytes),
            output_href: address(page, &[("attempt", &attempt.attempt.to_string())]),
            sha256: attempt.output_sha256,
            differs: attempt.output_complete == Some(false),
            killed: attempt.killed.as_ref().map(killed),
            container: attempt.container.map(|facts| ContainerView::of(facts, &attempt.ports)),
            ports: attempt.ports.iter().map(named_port).collect(),
            version: Some(attempt.version).filter(|version| *version > 1),
            placement: attempt.placement.map(Placement::of),
        }
    }
}

impl ContainerView {
    /// Named ports are shown apart.
    fn of(facts: ContainerFacts, named: &[NamedPort]) -> ContainerView {
        let is_unnamed = |port: &&PublishedPort| !named.iter().any(|named| named.port == port.host);
        let port =
            |port: &PublishedPort| format!("{} → {}/{}", port.host, port.container, port.protocol.as_str());
        ContainerView {
            id: facts.id.chars().take(12).collect(),
            image: facts.image,
            ports: facts.ports.iter().filter(is_unnamed).map(port).collect(),
        }
    }
}

fn killed(receipt: &KillReceipt) -> String {
    let processes = |n: u32| if n == 1 { "1 process".to_owned() } else { format!("{n} processes") };
    let left = match receipt.left {
        0 => "none left".to_owned(),
        n => format!("{} could not be killed", processes(n)),
    };
    format!("{} with SIGKILL; {left}", processes(receipt.killed))
}

/// The parts of a score, and what counted before it.
fn made_of(candidate: &Candidate) -> String {
    let mut words: Vec<String> =
        candidate.parts.iter().map(|part| format!("{} {:.4}", part.name, part.value)).collect();
    if candidate.unmeasured {
        words.push("no recent measurement".to_owned());
    }
    if candidate.waits {
        words.push("would queue there".to_owned());
    }
    if candidate.siblings > 0 {
        words.push(format!("{} tasks of the same definition there", candidate.siblings));
    }
    if candidate.unhealthy > 0 {
        words.push(format!("{} became unhealthy there lately", candidate.unhealthy));
    }
    words.join(", ")
}

impl Placement {
    fn of(receipt: Receipt) -> Placement {
        let Receipt { strategy, workers, feasible, .. } = &receipt;
        let why = match receipt.suitable {
            Some(suitable) => format!(
                "{strategy} chose it from {feasible} with room, {suitable} that match, {workers} workers in total"
            ),
            None => format!("{strategy} chose it from {feasible} with room, {workers} workers in total"),
        };
        let candidates = receipt.candidates.into_iter().map(|candidate| ShownCandidate {
            score: format!("{:.4}", candidate.score),
            made_of: made_of(&candidate),
            name: candidate.name,
        });
        Placement { why, candidates: candidates.collect() }
    }
}

/// `GET /jobs/{job}/tasks/{task}`
pub async fn show(
    State(views): State<Arc<Views>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Path((job, task)): Path<(String, String)>,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&LogQuery::PARAMS, &[])?;
    let wish = LogQuery::of(&params)?;
    let job: JobId = id(&job, "job")?;
    let found = views.reads.job_get(visitor.actor.project, job).await?.ok_or_else(|| no_job(job))?;
    let addressed = Addressed { job, task: &task };
    let mut task = tasks::find(&views.reads, &visitor.actor, addressed).await?;
    views.add_health(std::slice::from_mut(&mut task));
    let latest = AttemptRef { task: task.id, attempt: task.attempt };
    let now = Utc::now();
    let checks = Checks::of(views.healths.results(latest, now), now);
    let here = format!("/jobs/{job}/tasks/{}", task.address);
    let attempts = views.reads.attempt_list(task.id).await?;
    let spec = views.reads.spec(job).await?;
    let siblings = std::slice::from_ref(&task);
    let log = log::view(&views, visitor.actor.project, &here, &task, siblings, &wish).await?;
    let attempt = wish.attempt.map(|attempt| attempt.to_string()).unwrap_or_default();
    let live = [("tab", "task"), ("task", task.address.as_str()), ("attempt", &attempt)];
    page(&TaskPage {
        frame: visitor.frame("/jobs"),
        live: address(&format!("/jobs/{job}/live"), &live),
        cli: format!("gaffer logs {job} --task {}\ngaffer explain {job}", task.address),
        curl: curl(&site, "GET", &here),
        workdir: spec.and_then(|spec| workdir(&spec, &task)),
        job: JobHead::of(&found, None),
        row: TaskRow::from(&task),
        checks,
        blank_hour: HourRow::default(),
        blank_check: CheckRow::default(),
        result: task.result_of.as_ref().map(ResultLink::to),
        attempts: attempts.into_iter().map(|attempt| AttemptView::of(attempt, &here)).collect(),
        log,
    })
}

/// Working directory of a definition, if the job sets one.
fn workdir(spec: &JobSpec, task: &Task) -> Option<String> {
    let definition = spec.tasks.get(usize::try_from(task.position).ok()?)?;
    let in_container = definition.container.as_ref().and_then(|container| container.workdir.clone());
    definition.workdir.clone().or(in_container)
}
