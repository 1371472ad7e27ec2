//! The page *Overview*: active jobs, failures, fleet, and first steps.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::{TimeDelta, Utc};
use gaffer_domain::ProjectId;
use gaffer_domain::job::JobState;
use tokio::sync::watch;

use super::super::Site;
use super::super::error::Error;
use super::fleet::{Fleet, WorkerRow};
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use super::rows::JobRow;
use super::stream::{Feed, Feeds, stream};
use super::view::{Browser, View};
use crate::operations::{Actor, workers};
use crate::snapshot;
use crate::store::jobs::JobFilter;
use crate::views::Views;

const ROWS: u32 = 12;
const PACE: Duration = Duration::from_secs(1);
/// With this many jobs, the first steps are no longer shown.
const FEW_JOBS: u32 = 5;

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    frame: Frame,
    cli: String,
    curl: String,
    fleet: Fleet,
    steps: Option<Vec<FirstStep>>,
    running: Vec<JobRow>,
    failed: Vec<JobRow>,
    away: Vec<WorkerRow>,
    blank: JobRow,
}

struct FirstStep {
    /// Names it for the stream.
    key: &'static str,
    what: &'static str,
    command: Option<&'static str>,
    href: String,
    link: &'static str,
    is_done: bool,
}

struct Seen {
    fleet: Fleet,
    running: Vec<JobRow>,
    failed: Vec<JobRow>,
    away: Vec<WorkerRow>,
    has_workers: bool,
}

async fn see(views: &Views, actor: &Actor, max_age: Duration) -> Result<Seen, Error> {
    let list = |states: &[JobState]| {
        let filter = JobFilter { states: states.to_vec(), ..JobFilter::default() };
        async move { views.reads.job_list(actor.project, &filter, ROWS).await }
    };
    let mut running = list(&[JobState::Pending, JobState::Running, JobState::Stopping]).await?;
    views.healths.add_availability(&mut running);
    let failed = list(&[JobState::Failed]).await?;
    let workers = workers::list(views, actor, max_age).await?;
    let yesterday = Utc::now() - TimeDelta::days(1);
    Ok(Seen {
        fleet: Fleet::of(&workers),
        running: running.iter().map(JobRow::from).collect(),
        failed: failed.iter().filter(|job| job.finished_at > Some(yesterday)).map(JobRow::from).collect(),
        away: workers.iter().filter(|view| !view.state.is_connected()).map(WorkerRow::from).collect(),
        has_workers: !workers.is_empty(),
    })
}

/// `GET /`
pub async fn show(
    State(views): State<Arc<Views>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
) -> Result<Response, Error> {
    let seen = see(&views, &visitor.actor, snapshot::NOW).await?;
    let steps = first_steps(&views, visitor.actor.project, &seen).await?;
    page(&OverviewPage {
        frame: visitor.frame("/"),
        cli: "gaffer jobs --state pending,running,stopping\ngaffer workers".to_owned(),
        curl: curl(&site, "GET", "/jobs?state=running"),
        fleet: seen.fleet,
        steps,
        running: seen.running,
        failed: seen.failed,
        away: seen.away,
        blank: JobRow::default(),
    })
}

/// The first steps, as long as few jobs were run.
async fn first_steps(
    views: &Views,
    project: ProjectId,
    seen: &Seen,
) -> Result<Option<Vec<FirstStep>>, Error> {
    let jobs = views.reads.job_list(project, &JobFilter::default(), FEW_JOBS).await?;
    if jobs.len() >= FEW_JOBS as usize {
        return Ok(None);
    }
    let ran = jobs.iter().any(|job| job.started_at.is_some());
    let repeated = jobs.iter().any(|job| job.rerun_of.is_some());
    let broke = repeated || jobs.iter().any(|job| job.state == JobState::Failed);
    let first = jobs.last().map_or_else(|| "/jobs".to_owned(), |job| format!("/jobs/{}", job.id));
    let step = |key, what, command, href: &str, link, is_done| FirstStep {
        key,
        what,
        command,
        href: href.to_owned(),
        link,
        is_done,
    };
    let uname = Some("gaffer run -- uname -a");
    Ok(Some(vec![
        step("step_machine", "Add a machine", None, "/workers/new", "Add a worker", seen.has_workers),
        step("step_run", "Run a command", uname, "/jobs/new", "New job", !jobs.is_empty()),
        step("step_watch", "Watch its output", None, &first, "Newest job", ran),
        step(
            "step_break",
            "Run a command that fails",
            Some("gaffer run -- false"),
            "/jobs/new",
            "New job",
            broke,
        ),
        step("step_again", "Rerun it", Some("gaffer rerun last"), "/jobs", "All jobs", repeated),
    ]))
}

/// `GET /live`: the stream of that page.
pub async fn live(
    State(views): State<Arc<Views>>,
    State(feeds): State<Arc<Feeds>>,
    visitor: SessionUser,
) -> Result<Response, Error> {
    let actor = visitor.actor;
    let key = format!("{} overview", actor.project);
    let feed = || OverviewFeed { changes: views.changes.of_any(), views: views.clone(), actor };
    Ok(stream(&views, &feeds, key, Browser::default(), feed))
}

struct OverviewFeed {
    views: Arc<Views>,
    actor: Actor,
    changes: watch::Receiver<u64>,
}

impl Feed for OverviewFeed {
    async fn look(&mut self) -> Result<View, Error> {
        self.changes.mark_unchanged();
        let seen = see(&self.views, &self.actor, snapshot::RECENT).await?;
        let mut fields = serde_json::to_value(&seen.fleet).unwrap_or_default();
        for step in first_steps(&self.views, self.actor.project, &seen).await?.into_iter().flatten() {
            fields[step.key] = step.is_done.into();
        }
        Ok(View::default().fields(&fields).whole("running", &seen.running).whole("failed", &seen.failed))
    }

    async fn changed(&mut self) {
        let _ = self.changes.changed().await;
    }

    fn pace(&self) -> Duration {
        PACE
    }
}
