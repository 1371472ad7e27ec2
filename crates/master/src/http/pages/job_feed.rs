//! The live stream of a job's pages: head, waiting reasons or failure, rows of a tab, newest output.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::Response;
use chrono::Utc;
use gaffer_domain::job::JobState;
use gaffer_domain::{AttemptRef, JobId, ProjectId};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::api::tasks::filter;
use super::super::error::Error;
use super::super::params::{Params, id};
use super::checks::Checks;
use super::events::NewestEvents;
use super::frame::SessionUser;
use super::job_graph::Layout;
use super::job_head::{JobHead, TASKS_LOOKED_AT, failure, only_task, task_rows, waiting};
use super::job_tabs::PAGE_TASKS;
use super::lines::Output;
use super::rows::TaskRow;
use super::stream::{Feed, Feeds, stream};
use super::view::{self, Browser, View};
use super::{job_graph, job_timeline};
use crate::operations::output::attempt_of;
use crate::operations::tasks::{self, Addressed};
use crate::records::{Job, Task};
use crate::snapshot;
use crate::store::output::OutputHead;
use crate::store::tasks::TaskFilter;
use crate::views::Views;

/// Output is sent at most ten times a second, however fast it comes.
const PACE: Duration = Duration::from_millis(100);
/// The rest is refreshed less often, because it costs more.
const STATE_PACE: Duration = Duration::from_millis(500);
/// It is refreshed even without a signal, because another master may have written.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Lines in the window that moves with the output.
const WINDOW_LINES: u64 = 300;
/// While the output of a running task has not begun to arrive here, it is looked for again so soon.
const LOOK_FOR_OUTPUT: Duration = Duration::from_secs(1);

/// `GET /jobs/{job}/live`
pub async fn live(
    State(views): State<Arc<Views>>,
    State(feeds): State<Arc<Feeds>>,
    visitor: SessionUser,
    Path(job): Path<String>,
    params: Params,
) -> Result<Response, Error> {
    let known = ["tab", "task", "attempt", "has", "state", "cursor", "after"];
    let params = params.only(&known, &[])?;
    let job: JobId = id(&job, "job")?;
    tasks::own_job(&views.reads, &visitor.actor, job).await?;
    let project = visitor.actor.project;
    let mut browser = Browser::default();
    let tab = match params.text("tab").unwrap_or_default() {
        "tasks" => Tab::Tasks(TaskFilter { state: None, ..filter(&params.given())? }),
        "events" => {
            let after: Option<i64> = params.parse("after", "an event number")?;
            browser = Browser::with_log("events", after.unwrap_or(0).to_string());
            match after {
                Some(_) => Tab::Events,
                None => Tab::Nothing,
            }
        }
        "spec" | "versions" => Tab::Nothing,
        "graph" => Tab::Graph(None),
        "timeline" => Tab::Timeline,
        tab => Tab::Output { is_task: tab == "task" },
    };
    let watched = match params.text("task") {
        Some(task) => {
            let task = tasks::find(&views.reads, &visitor.actor, Addressed { job, task }).await?;
            let wished = params.parse("attempt", "an attempt number")?;
            let attempt = attempt_of(&task, wished, false)?;
            browser = Browser::with_lines(attempt.attempt, has(params.text("has"), attempt).unwrap_or(0));
            Some(Watched { attempt, is_pinned: wished.is_some() })
        }
        None => None,
    };
    // A pinned attempt is another thing than the latest one, whichever that is now.
    let output =
        watched.map(|watched| (watched.attempt.task, watched.is_pinned.then_some(watched.attempt.attempt)));
    let key = format!("{project} job {job} {tab:?} {output:?}");
    let feed = || JobFeed {
        changes: views.changes.of_job(job),
        project,
        job,
        newest: NewestEvents::new(views.clone(), project, Some(job)),
        tab,
        watched,
        looked: None,
        arrivals: None,
        read: None,
        is_over: false,
        views: views.clone(),
    };
    Ok(stream(&views, &feeds, key, browser, feed))
}

/// The last line that a browser has of this attempt: `has` is an attempt number, and a line number.
fn has(has: Option<&str>, attempt: AttemptRef) -> Option<u64> {
    let (of, line) = has?.split_once(':')?;
    (of.parse() == Ok(attempt.attempt)).then(|| line.parse().ok())?
}

/// What the page shows beside its head.
#[derive(Debug)]
enum Tab {
    Output { is_task: bool },
    Tasks(TaskFilter),
    Events,
    Graph(Option<Layout>),
    Timeline,
    Nothing,
}

/// The displayed output: of one attempt, or of the latest.
#[derive(Debug, Clone, Copy)]
struct Watched {
    attempt: AttemptRef,
    is_pinned: bool,
}

struct JobFeed {
    views: Arc<Views>,
    project: ProjectId,
    job: JobId,
    tab: Tab,
    newest: NewestEvents,
    watched: Option<Watched>,
    changes: watch::Receiver<u64>,
    /// When everything but output was looked at.
    looked: Option<Instant>,
    /// Tells when output arrives; none if it does not arrive here yet.
    arrivals: Option<watch::Receiver<u64>>,
    /// The output that was read last, as its attempt and how much there was.
    read: Option<(u32, OutputHead)>,
    is_over: bool,
}

impl Feed for JobFeed {
    async fn look(&mut self) -> Result<View, Error> {
        let mut view = View::default();
        let has_changed = self.newest.is_held_back || self.changes.has_changed().unwrap_or(true);
        let is_due = self
            .looked
            .is_none_or(|looked| looked.elapsed() >= if has_changed { STATE_PACE } else { LOOK_AGAIN });
        if is_due {
            self.changes.mark_unchanged();
            self.looked = Some(Instant::now());
            match self.views.reads.job_get(self.project, self.job).await? {
                Some(job) => view = self.look_at(&job, view).await?,
                None => self.is_over = true,
            }
        }
        let output = self.look_at_output().await?;
        Ok(view.output(output).over(self.is_over))
    }

    async fn changed(&mut self) {
        // A copy, so that a change that is noticed while output goes first is noticed again.
        let mut changes = self.changes.clone();
        let not_before = self.looked.map_or_else(Instant::now, |looked| looked + STATE_PACE);
        let arrivals = self.watched.map(|_| self.arrivals.clone());
        let is_held_back = self.newest.is_held_back;
        let state = async {
            if !is_held_back {
                let _ = changes.changed().await;
            }
            tokio::time::sleep_until(not_before).await;
        };
        let output = async {
            match arrivals {
                None => std::future::pending().await,
                Some(None) => tokio::time::sleep(LOOK_FOR_OUTPUT).await,
                Some(Some(mut arrivals)) => drop(arrivals.changed().await),
            }
        };
        tokio::select! {
            () = state => {}
            () = output => {}
        }
    }

    fn pace(&self) -> Duration {
        if self.watched.is_some() { PACE } else { STATE_PACE }
    }
}

impl JobFeed {
    async fn look_at(&mut self, job: &Job, view: View) -> Result<View, Error> {
        if let Some(watched) = &mut self.watched
            && let Some(task) = self.views.reads.task_by_id(watched.attempt.task).await?
        {
            if !watched.is_pinned {
                watched.attempt.attempt = watched.attempt.attempt.max(task.attempt);
            }
            if let Tab::Output { is_task: true } = self.tab {
                self.is_over = task.is_final();
                return Ok(self.look_at_task(task, view));
            }
        }
        let (why, verdicts) = waiting(&self.views, self.project, job, snapshot::RECENT).await?;
        let mut fields = self.head_fields(job).await?;
        fields["waits"] = json!(!why.is_empty());
        fields["compares"] = json!(!verdicts.is_empty());
        let mut view = view.fields(&fields).whole("waiting", &why).whole("verdicts", &verdicts);
        match &mut self.tab {
            // Each page puts its base path before the addresses in a picture.
            Tab::Graph(layout) => {
                view = view.picture(&job_graph::picture(&self.views, job, "", layout).await?.0);
            }
            Tab::Timeline => {
                view = view.picture(&job_timeline::picture(&self.views, job, "", Utc::now()).await?.0);
            }
            Tab::Tasks(filter) => {
                let mut tasks = tasks::list(&self.views.reads, job.id, filter, PAGE_TASKS).await?;
                self.views.add_health(&mut tasks);
                let rows = task_rows(&tasks);
                view = match job.kind.is_kept_running() {
                    // Its instances come and go.
                    true => view.whole("tasks", &rows).whole("cells", &rows),
                    false => view.some("tasks", &rows, false).some("cells", &rows, false),
                };
            }
            Tab::Events => view = view.log("events", &self.newest.look().await?),
            _ => {}
        }
        self.is_over = job.is_over() && !self.newest.is_held_back;
        Ok(view)
    }

    fn look_at_task(&self, mut task: Task, view: View) -> View {
        self.views.add_health(std::slice::from_mut(&mut task));
        let (now, latest) = (Utc::now(), AttemptRef { task: task.id, attempt: task.attempt });
        let checks = Checks::of(self.views.healths.results(latest, now), now);
        view.fields(&TaskRow::from(&task)).whole("hours", &checks.hours).whole("checks", &checks.rows)
    }

    async fn head_fields(&self, job: &Job) -> Result<Value, Error> {
        // Tasks are read only where one of them describes the whole job.
        let mut tasks = match job.task_counts.total() == 1 || job.state == JobState::Failed {
            true => tasks::list(&self.views.reads, job.id, &TaskFilter::default(), TASKS_LOOKED_AT).await?,
            false => Vec::new(),
        };
        self.views.add_health(&mut tasks);
        let mut job = job.clone();
        self.views.healths.add_availability([&mut job]);
        let job = &job;
        let only = only_task(job, &tasks);
        let mut fields = serde_json::to_value(JobHead::of(job, only)).unwrap_or_default();
        let failure = failure(&self.views, job, &tasks).await?;
        fields["failed"] = json!(failure.is_some());
        if let Some(failure) = failure {
            fields["failure_heading"] = json!(failure.heading);
            fields["excerpt"] = json!({ "href": failure.href, "lines": failure.lines });
        }
        Ok(fields)
    }

    /// The newest lines; none before the first attempt.
    async fn look_at_output(&mut self) -> Result<Option<view::Output>, Error> {
        let Some(Watched { attempt, .. }) = self.watched.filter(|watched| watched.attempt.attempt > 0) else {
            return Ok(None);
        };
        // What arrives from here on is looked at the next time.
        self.arrivals = self.views.live_output(attempt).map(|live| live.subscribe());
        let output = Output { views: self.views.clone(), job: self.job, attempt };
        if self.read == Some((attempt.attempt, output.head().await?)) {
            return Ok(None);
        }
        let window = output.last(WINDOW_LINES).await?;
        self.read = Some((attempt.attempt, window.head));
        Ok(Some(view::Output { attempt: attempt.attempt, window }))
    }
}
