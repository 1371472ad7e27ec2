//! The stream of a job's pages: its head, why it waits or failed, the rows of a tab, and the newest lines of output.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::Response;
use axum::response::sse::Event;
use gaffer_domain::{AttemptRef, JobId};
use gaffer_protocol::rest;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::api::tasks::{find, own_job};
use super::super::auth::Caller;
use super::super::error::Error;
use super::super::params::Params;
use super::events::PAGE_ROWS;
use super::frame::Visitor;
use super::job_head::{JobHead, TASKS_LOOKED_AT, failure, task_rows, waiting};
use super::job_tabs::{PAGE_TASKS, task_filter};
use super::lines::Output;
use super::log::attempt_of;
use super::rows::{EventRow, TaskRow};
use super::stream::{Feed, Sent, event, stream};
use crate::Master;
use crate::store::output::OutputHead;
use crate::store::tasks::{TaskFilter, TaskRecord};

/// Output is sent at most ten times a second, however fast it comes.
const PACE: Duration = Duration::from_millis(100);
/// The rest is looked at less often: it costs more and nobody reads that fast.
const STATE_PACE: Duration = Duration::from_millis(500);
/// It is looked at again even if nothing is said to have changed: another master may have written.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Lines in the window that moves with the output.
const WINDOW_LINES: u64 = 300;
/// While the output of a running task has not begun to arrive here, it is looked for again so soon.
const LOOK_FOR_OUTPUT: Duration = Duration::from_secs(1);

/// `GET /jobs/{job}/live`
pub async fn live(
    State(master): State<Arc<Master>>,
    visitor: Visitor,
    Path(job): Path<String>,
    params: Params,
) -> Result<Response, Error> {
    let known = ["tab", "task", "attempt", "has", "state", "cursor", "after"];
    let params = params.only(&known, &[])?;
    let job = own_job(&master, &visitor.caller, &job).await?;
    let tab = match params.text("tab").unwrap_or_default() {
        "tasks" => Tab::Tasks(TaskFilter { state: None, ..task_filter(&params)? }),
        "events" => Tab::Events(params.parse("after", "the number of an event")?),
        "spec" => Tab::Nothing,
        tab => Tab::Output { is_task: tab == "task" },
    };
    let viewer = match params.text("task") {
        Some(address) => {
            let task = find(&master, job, address).await?;
            let wished = params.parse("attempt", "the number of an attempt")?;
            Some(Viewer::new(&task, wished, params.text("has"))?)
        }
        None => None,
    };
    let feed = JobFeed {
        changes: master.changes.of_job(job),
        caller: visitor.caller,
        job,
        tab,
        viewer,
        looked: None,
        fields: Value::Null,
        sent: Default::default(),
        is_held_back: false,
        is_over: false,
        master: master.clone(),
    };
    Ok(stream(master, feed))
}

/// What the page shows beside its head.
enum Tab {
    Output {
        is_task: bool,
    },
    Tasks(TaskFilter),
    /// Events after this one; none on a page of older ones.
    Events(Option<i64>),
    Nothing,
}

struct JobFeed {
    master: Arc<Master>,
    caller: Caller,
    job: JobId,
    tab: Tab,
    viewer: Option<Viewer>,
    changes: watch::Receiver<u64>,
    /// When everything but output was looked at.
    looked: Option<Instant>,
    fields: Value,
    /// Reasons for waiting, verdicts, and the rows of the tab, once or twice.
    sent: [Sent; 4],
    /// There are events that can't be shown yet.
    is_held_back: bool,
    is_over: bool,
}

impl Feed for JobFeed {
    async fn look(&mut self) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        let has_changed = self.is_held_back || self.changes.has_changed().unwrap_or(true);
        let is_due = self
            .looked
            .is_none_or(|looked| looked.elapsed() >= if has_changed { STATE_PACE } else { LOOK_AGAIN });
        if is_due {
            self.changes.mark_unchanged();
            self.looked = Some(Instant::now());
            match self.master.store.job_get(self.caller.project, self.job).await? {
                Some(job) => self.look_at(&job, &mut events).await?,
                None => self.is_over = true,
            }
        }
        if let Some(viewer) = &mut self.viewer {
            events.extend(viewer.look(&self.master, self.job).await?);
        }
        Ok(events)
    }

    async fn changed(&mut self) {
        // A copy, so that a change that is noticed while output goes first is noticed again.
        let mut changes = self.changes.clone();
        let not_before = self.looked.map_or_else(Instant::now, |looked| looked + STATE_PACE);
        let arrivals = self.viewer.as_ref().map(|viewer| viewer.arrivals(&self.master));
        let is_held_back = self.is_held_back;
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
        PACE
    }

    fn is_over(&self) -> bool {
        self.is_over
    }
}

impl JobFeed {
    async fn look_at(&mut self, job: &rest::Job, events: &mut Vec<Event>) -> Result<(), Error> {
        let tasks = self.master.store.task_list(job.id, &TaskFilter::default(), TASKS_LOOKED_AT).await?;
        if let Some(viewer) = &mut self.viewer
            && let Some(task) = self.master.store.task_by_id(viewer.attempt.task).await?
        {
            viewer.go_on_with(&task);
            if let Tab::Output { is_task: true } = self.tab {
                events.extend(self.fields_changed(json!(TaskRow::from(&task.view))));
                self.is_over = task.is_final();
                return Ok(());
            }
        }
        let (why, verdicts) = waiting(&self.master, &self.caller, job).await?;
        let mut fields = self.head_fields(job, &tasks).await?;
        fields["waits"] = json!(!why.is_empty());
        fields["compares"] = json!(!verdicts.is_empty());
        events.extend(self.fields_changed(fields));
        events.extend(self.sent[0].whole("waiting", &why));
        events.extend(self.sent[1].whole("verdicts", &verdicts));
        match &mut self.tab {
            Tab::Tasks(filter) => {
                let tasks = self.master.store.task_list(job.id, filter, PAGE_TASKS).await?;
                let rows = task_rows(&tasks);
                events.extend(self.sent[2].changes("tasks", &rows, false));
                events.extend(self.sent[3].changes("cells", &rows, false));
            }
            Tab::Events(Some(after)) => {
                let store = &self.master.store;
                let found = store.events_after(self.caller.project, Some(job.id), *after, PAGE_ROWS).await?;
                *after = found.events.last().map_or(*after, |event| event.id);
                self.is_held_back = found.is_held_back || found.events.len() == PAGE_ROWS as usize;
                let rows: Vec<EventRow> = found.events.iter().map(EventRow::from).collect();
                events.extend(self.sent[2].changes("events", &rows, true));
            }
            _ => {}
        }
        self.is_over = job.finished_at.is_some() && !self.is_held_back;
        Ok(())
    }

    async fn head_fields(&self, job: &rest::Job, tasks: &[TaskRecord]) -> Result<Value, Error> {
        let only = if let [only] = tasks { Some(&only.view) } else { None };
        let mut fields = serde_json::to_value(JobHead::of(job, only)).unwrap_or_default();
        let failure = failure(&self.master, job, tasks).await?;
        fields["failed"] = json!(failure.is_some());
        if let Some(failure) = failure {
            fields["failure_heading"] = json!(failure.heading);
            fields["excerpt"] = json!({ "href": failure.href, "lines": failure.lines });
        }
        Ok(fields)
    }

    fn fields_changed(&mut self, fields: Value) -> Option<Event> {
        if fields == self.fields {
            return None;
        }
        self.fields = fields;
        Some(event("fields", &self.fields))
    }
}

/// The viewer's end of an output: a window that moves with the newest lines.
struct Viewer {
    attempt: AttemptRef,
    /// Whether only this attempt is wanted; else it goes on with each new one.
    is_pinned: bool,
    /// Lines that the browser has and that have ended.
    has: u64,
    /// Lines that came and went between two looks.
    skipped: u64,
    seen: Option<OutputHead>,
}

impl Viewer {
    /// `has`: attempt and number of the last line that the browser has.
    fn new(task: &TaskRecord, wished: Option<u32>, has: Option<&str>) -> Result<Viewer, Error> {
        let attempt = attempt_of(task, wished)?;
        let has = has.and_then(|has| {
            let (of, line) = has.split_once(':')?;
            (of.parse() == Ok(attempt.attempt)).then(|| line.parse().ok())?
        });
        Ok(Viewer { attempt, is_pinned: wished.is_some(), has: has.unwrap_or(0), skipped: 0, seen: None })
    }

    fn go_on_with(&mut self, task: &TaskRecord) {
        if !self.is_pinned && task.view.attempt > self.attempt.attempt {
            self.attempt.attempt = task.view.attempt;
            (self.has, self.skipped, self.seen) = (0, 0, None);
        }
    }

    /// Tells when output arrives; none if it does not arrive here yet.
    fn arrivals(&self, master: &Master) -> Option<watch::Receiver<u64>> {
        master.live.get(self.attempt).map(|live| live.subscribe())
    }

    /// The newest lines, without those that the browser has.
    async fn look(&mut self, master: &Arc<Master>, job: JobId) -> Result<Option<Event>, Error> {
        if self.attempt.attempt == 0 {
            return Ok(None);
        }
        let output = Output { master: master.clone(), job, attempt: self.attempt };
        if self.seen.is_some() && self.seen == Some(output.head().await?) {
            return Ok(None);
        }
        let window = output.last(WINDOW_LINES).await?;
        let is_first = self.seen.is_none();
        let from = window.first.max(self.has + 1);
        // What the browser has not seen before it looked is not skipped: it can be scrolled to.
        if !is_first {
            self.skipped += window.first.saturating_sub(self.has + 1);
        }
        let lines = window.lines.get((from - window.first) as usize..).unwrap_or_default();
        let message = json!({
            "attempt": self.attempt.attempt, "total": window.head.lines, "open": window.is_open,
            "first": window.first, "from": from, "lines": lines, "skipped": self.skipped,
        });
        self.has = self.has.max(window.head.lines);
        self.seen = Some(window.head);
        Ok(Some(event("window", &message)))
    }
}
