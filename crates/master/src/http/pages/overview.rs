//! The first page: what is under way, what needs attention, the fleet, and the first steps of a newcomer.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use chrono::{TimeDelta, Utc};
use gaffer_domain::job::JobState;
use tokio::sync::watch;

use super::super::api::workers;
use super::super::auth::Caller;
use super::super::error::Error;
use super::fleet::{Fleet, WorkerRow};
use super::frame::{Frame, Visitor};
use super::jobs::curl;
use super::page;
use super::rows::JobRow;
use super::stream::{Feed, Sent, event, stream};
use crate::Master;
use crate::store::jobs::JobFilter;

const ROWS: u32 = 12;
const PACE: Duration = Duration::from_secs(1);
/// With so many jobs nobody is a newcomer any more.
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

async fn see(master: &Master, caller: &Caller) -> Result<Seen, Error> {
    let list = |states: &[JobState]| {
        let filter = JobFilter { states: states.to_vec(), ..JobFilter::default() };
        async move { master.store.job_list(caller.project, &filter, ROWS).await }
    };
    let running = list(&[JobState::Pending, JobState::Running, JobState::Stopping]).await?;
    let failed = list(&[JobState::Failed]).await?;
    let workers = workers::all(master, caller).await?;
    let yesterday = Utc::now() - TimeDelta::days(1);
    let is_away = |state: &str| matches!(state, "offline" | "lost");
    Ok(Seen {
        fleet: Fleet::of(&workers),
        running: running.iter().map(JobRow::from).collect(),
        failed: failed.iter().filter(|job| job.finished_at > Some(yesterday)).map(JobRow::from).collect(),
        away: workers.iter().filter(|worker| is_away(&worker.state)).map(WorkerRow::from).collect(),
        has_workers: !workers.is_empty(),
    })
}

/// `GET /`
pub async fn show(State(master): State<Arc<Master>>, visitor: Visitor) -> Result<Response, Error> {
    let seen = see(&master, &visitor.caller).await?;
    let steps = first_steps(&master, &visitor.caller, &seen).await?;
    page(&OverviewPage {
        frame: visitor.frame("/"),
        cli: "gaffer jobs --state pending,running,stopping\ngaffer workers".to_owned(),
        curl: curl(&master, "GET", "/jobs?state=running"),
        fleet: seen.fleet,
        steps,
        running: seen.running,
        failed: seen.failed,
        away: seen.away,
        blank: JobRow::default(),
    })
}

/// The first steps, while there is one to take and few jobs were run.
async fn first_steps(master: &Master, caller: &Caller, seen: &Seen) -> Result<Option<Vec<FirstStep>>, Error> {
    let jobs = master.store.job_list(caller.project, &JobFilter::default(), FEW_JOBS).await?;
    if jobs.len() >= FEW_JOBS as usize {
        return Ok(None);
    }
    let first = jobs.last().map(|job| format!("/jobs/{}", job.id));
    let step = |what, command, (href, link): (String, &'static str), is_done| FirstStep {
        what,
        command,
        href,
        link,
        is_done,
    };
    let rerun = jobs.iter().any(|job| job.rerun_of.is_some());
    let failed = jobs.iter().any(|job| job.state == "failed");
    let watch = first.clone().unwrap_or_else(|| "/jobs".to_owned());
    Ok(Some(vec![
        step("Add a machine", None, ("/workers/new".to_owned(), "Add a worker"), seen.has_workers),
        step(
            "Run a command on it",
            Some("gaffer run -- uname -a"),
            ("/jobs/new".to_owned(), "New job"),
            !jobs.is_empty(),
        ),
        step("Watch its output", None, (watch, "Open it"), jobs.iter().any(|job| job.started_at.is_some())),
        step(
            "Break something",
            Some("gaffer run -- false"),
            ("/jobs/new".to_owned(), "New job"),
            failed || rerun,
        ),
        step("Run it again", Some("gaffer rerun last"), ("/jobs".to_owned(), "Choose one"), rerun),
    ]))
}

/// `GET /live`: the stream of that page.
pub async fn live(State(master): State<Arc<Master>>, visitor: Visitor) -> Result<Response, Error> {
    let feed = OverviewFeed {
        changes: master.changes.of_any(),
        master: master.clone(),
        caller: visitor.caller,
        sent: Default::default(),
        fleet: None,
    };
    Ok(stream(master, feed))
}

struct OverviewFeed {
    master: Arc<Master>,
    caller: Caller,
    changes: watch::Receiver<u64>,
    sent: [Sent; 2],
    fleet: Option<Fleet>,
}

impl Feed for OverviewFeed {
    async fn look(&mut self) -> Result<Vec<Event>, Error> {
        self.changes.mark_unchanged();
        let seen = see(&self.master, &self.caller).await?;
        let [running, failed] = &mut self.sent;
        let mut events = Vec::new();
        events.extend(running.whole("running", &seen.running));
        events.extend(failed.whole("failed", &seen.failed));
        if self.fleet.as_ref() != Some(&seen.fleet) {
            events.push(event("fields", &seen.fleet));
            self.fleet = Some(seen.fleet);
        }
        Ok(events)
    }

    async fn changed(&mut self) {
        let _ = self.changes.changed().await;
    }

    fn pace(&self) -> Duration {
        PACE
    }
}
