//! Rows of lists, with the same values and names for templates and streams.

use gaffer_domain::health::{CheckStatus, in_words};
use gaffer_domain::job::{JobState, TaskCounts};
use gaffer_domain::task::StateName;
use gaffer_protocol::ports::NamedPort;
use serde::Serialize;

use super::super::bodies::result_of;
use super::super::params::encoded;
use super::format::{Elapsed, address, count, many};
use super::view::Row;
use crate::records::{AttemptHealth, CheckSummary, Event, Job, Task};

/// A segment of a bar: its state, start and width in hundredths.
pub type Segment = (&'static str, f64, f64);

/// A job in a list.
#[derive(Debug, Clone, Default, Serialize)]
pub struct JobRow {
    /// Names it in its list.
    pub key: String,
    pub state: String,
    pub number: i64,
    pub href: String,
    pub name: String,
    pub labels: Vec<String>,
    /// Whether it has several tasks.
    pub many: bool,
    pub segments: Vec<Segment>,
    /// The same in numbers.
    pub tasks: String,
    pub created: Option<i64>,
    pub ran: Elapsed,
    /// Outcome or reason for waiting.
    pub why: String,
}

impl From<&Job> for JobRow {
    fn from(job: &Job) -> Self {
        let tasks = TaskSummary::of(job);
        JobRow {
            key: job.id.to_string(),
            state: job.state.to_string(),
            number: job.id.0,
            href: format!("/jobs/{}", job.id),
            name: job.name.clone(),
            labels: labels(job),
            many: tasks.total > 1 || tasks.available.is_some(),
            segments: tasks.segments(),
            tasks: tasks.progress(),
            created: Some(job.created_at.timestamp_millis()),
            ran: Elapsed::new(job.started_at, job.finished_at),
            why: what_happened(job, &tasks),
        }
    }
}

impl Row for JobRow {
    fn key(&self) -> &str {
        &self.key
    }
}

/// A job's labels as they are written in filters.
pub fn labels(job: &Job) -> Vec<String> {
    job.labels.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

/// How the tasks of a job are doing.
#[derive(Debug, Clone, Copy, Default)]
pub struct TaskSummary {
    /// All of them; of an unfinished service, at how many it is kept.
    pub total: u64,
    /// Those that ended well.
    pub completed: u64,
    failed: u64,
    cancelled: u64,
    running: u64,
    stopping: u64,
    /// Those that wait, for a worker or for other tasks.
    pub waiting: u64,
    /// Of an unfinished service: those that run and pass their checks.
    available: Option<u64>,
}

impl TaskSummary {
    /// Of one job.
    pub fn of(job: &Job) -> TaskSummary {
        let all = TaskSummary::from(&job.task_counts);
        let total = job.kept().unwrap_or(all.total);
        // Instances that a service was scaled down by are no part of what it is to be.
        let cancelled = all.cancelled.saturating_sub(all.total.saturating_sub(total));
        TaskSummary { total, cancelled, available: job.available, ..all }
    }

    /// Tasks that completed, of all; of a service, those that are available.
    pub fn progress(&self) -> String {
        match self.available {
            Some(available) => format!("{} of {} available", many(available), many(self.total)),
            None => format!("{}/{}", many(self.completed), many(self.total)),
        }
    }

    /// The same as words: `3 of 10 tasks completed`.
    pub fn in_words(&self) -> String {
        let total = count(self.total, "task");
        match self.available {
            Some(available) => format!("{} of {total} available", many(available)),
            None => format!("{} of {total} completed", many(self.completed)),
        }
    }

    /// How a completed job ended. Those that were cancelled were skipped.
    pub fn outcome(&self) -> String {
        match self.cancelled {
            0 => format!("all {} completed", count(self.total, "task")),
            n => format!("{} completed, {} skipped", count(self.completed, "task"), many(n)),
        }
    }

    /// The segments of a bar; each non-empty one is visible.
    pub fn segments(&self) -> Vec<Segment> {
        let available = self.available.map_or(self.running, |available| available.min(self.running));
        let parts = [
            (StateName::Completed.as_str(), self.completed),
            (StateName::Failed.as_str(), self.failed),
            (StateName::Cancelled.as_str(), self.cancelled),
            (StateName::Stopping.as_str(), self.stopping),
            (StateName::Running.as_str(), available),
            ("unavailable", self.running - available),
        ];
        let mut segments = Vec::new();
        let mut at = 0.0;
        for (part, n) in parts.into_iter().filter(|(_, n)| *n > 0) {
            let share = n as f64 * 100.0 / self.total.max(1) as f64;
            let width = (share * 10.0).round() / 10.0;
            let width = width.max(2.0).min(100.0 - at);
            segments.push((part, (at * 10.0_f64).round() / 10.0, width));
            at += width;
        }
        segments
    }
}

impl From<&TaskCounts> for TaskSummary {
    fn from(counts: &TaskCounts) -> TaskSummary {
        let n = |state| counts.get(state).unsigned_abs();
        TaskSummary {
            total: counts.total().unsigned_abs(),
            completed: n(StateName::Completed),
            failed: n(StateName::Failed),
            cancelled: n(StateName::Cancelled),
            running: n(StateName::Running),
            stopping: n(StateName::Stopping),
            waiting: n(StateName::Pending) + n(StateName::Blocked) + n(StateName::Scheduled),
            available: None,
        }
    }
}

/// What is said of a system job without instances.
pub const NO_WORKER: &str = "no worker matches";

/// The outcome of a job or why it waits, in a few words.
fn what_happened(job: &Job, tasks: &TaskSummary) -> String {
    if let Some(problem) = &job.problem {
        return problem.clone();
    }
    match job.state {
        JobState::Pending | JobState::Running if job.waits_for_workers() => NO_WORKER.to_owned(),
        JobState::Pending if job.task_counts.get(StateName::Scheduled) > 0 => "starting".to_owned(),
        JobState::Pending => "waiting for a worker".to_owned(),
        JobState::Running if tasks.total > 1 && tasks.waiting > 0 => {
            format!("{} running, {} waiting", many(tasks.running), many(tasks.waiting))
        }
        JobState::Running if tasks.total > 1 => format!("{} running", many(tasks.running)),
        JobState::Running if tasks.waiting > 0 => "waiting for its next attempt".to_owned(),
        JobState::Completed if tasks.total > 1 => tasks.outcome(),
        JobState::Completed => "exited with code 0".to_owned(),
        JobState::Failed if tasks.total > 1 => match &job.reason {
            Some(reason) => {
                format!("{} of {} failed: {}", many(tasks.failed), many(tasks.total), reason.message)
            }
            None => format!("{} of {} failed", many(tasks.failed), many(tasks.total)),
        },
        _ => job.reason.as_ref().map(|reason| reason.message.clone()).unwrap_or_default(),
    }
}

/// A task in the list of a job.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TaskRow {
    /// Names it in its list.
    pub key: String,
    pub state: String,
    /// `name` or `name.index`.
    pub address: String,
    /// Its item, if its definition has items.
    pub item: String,
    pub href: String,
    /// Where its output is shown.
    pub output: String,
    /// Where its latest attempt is or was.
    pub worker: String,
    pub attempt: u32,
    pub ran: Elapsed,
    pub exit: String,
    /// Outcome or reason for waiting.
    pub why: String,
}

impl From<&Task> for TaskRow {
    fn from(task: &Task) -> Self {
        let is_under_way = matches!(task.state, StateName::Running | StateName::Stopping);
        let ended = task.finished_at.or(task.not_before).filter(|_| !is_under_way);
        TaskRow {
            key: task.address.clone(),
            state: task.state.to_string(),
            address: task.address.clone(),
            item: task.item.as_ref().map(ToString::to_string).unwrap_or_default(),
            href: format!("/jobs/{}/tasks/{}", task.job, task.address),
            output: address(&format!("/jobs/{}", task.job), &[("task", &task.address)]),
            worker: task.worker.clone().unwrap_or_default(),
            attempt: task.attempt,
            ran: Elapsed::measured(task.started_at, ended, task.ran_seconds),
            exit: exit(task.exit_code, task.signal),
            why: why(task),
        }
    }
}

impl Row for TaskRow {
    fn key(&self) -> &str {
        &self.key
    }
}

/// How a process ended, in a word.
pub fn exit(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => gaffer_domain::reason::signal_name(signal),
        (None, None) => String::new(),
    }
}

/// The outcome of a task or why it waits.
pub fn why(task: &Task) -> String {
    let message = task.reason.as_ref().map(|reason| reason.message.as_str());
    match (task.state, message) {
        (StateName::Pending, Some(message)) => format!("will be retried; attempt {} {message}", task.attempt),
        (StateName::Pending, None) => "waiting for a worker".to_owned(),
        (StateName::Blocked, _) => {
            task.waits_for.clone().unwrap_or_else(|| "waiting for other tasks".to_owned())
        }
        (StateName::Scheduled, _) => {
            format!("placed on {}, starting", task.worker.as_deref().unwrap_or("a worker"))
        }
        (StateName::Completed, _) => match &task.result_of {
            Some(of) => result_of(of.clone()).in_words(),
            None => format!("exited with code {}", task.exit_code.unwrap_or(0)),
        },
        (StateName::Running, _) => health(task),
        (_, Some(message)) => message.to_owned(),
        (_, None) => String::new(),
    }
}

/// What checks say of a task: `healthy`, `not ready: status 503`. Empty for a task without checks.
pub fn health(task: &Task) -> String {
    let Some(AttemptHealth { health, readiness, available }) = &task.health else { return String::new() };
    in_words(health.as_ref().map(check_status), readiness.as_ref().map(check_status), *available)
}

fn check_status(check: &CheckSummary) -> CheckStatus<'_> {
    let last = check.last.as_ref().map(|last| (last.passed, last.detail.as_str()));
    CheckStatus { state: check.state, last }
}

/// One line of history in a list.
#[derive(Debug, Clone, Default, Serialize)]
pub struct EventRow {
    /// Names it in its list.
    pub key: String,
    pub at: Option<i64>,
    pub kind: String,
    pub subject: String,
    pub href: String,
    /// Who or what caused it.
    pub actor: String,
    pub message: String,
}

impl From<&Event> for EventRow {
    fn from(event: &Event) -> Self {
        let (subject, href) = match (&event.job, &event.task, &event.worker) {
            (Some(job), Some(task), _) => {
                let attempt = event.attempt.filter(|attempt| *attempt > 1);
                let attempt = attempt.map(|attempt| format!(", attempt {attempt}")).unwrap_or_default();
                (format!("{job} {task}{attempt}"), format!("/jobs/{job}/tasks/{task}"))
            }
            (Some(job), None, _) => (format!("job {job}"), format!("/jobs/{job}")),
            (None, _, Some(worker)) => (worker.clone(), format!("/workers/{}", encoded(worker))),
            (None, _, None) => (String::new(), "/events".to_owned()),
        };
        EventRow {
            key: event.id.to_string(),
            at: Some(event.at.timestamp_millis()),
            kind: event.kind.clone(),
            subject,
            href,
            actor: event.actor.clone(),
            message: match &event.worker {
                Some(worker)
                    if event.job.is_some()
                        && ![&event.message, &event.actor]
                            .iter()
                            .any(|text| text.contains(worker.as_str())) =>
                {
                    let dash = if event.message.is_empty() { "" } else { " · " };
                    format!("{}{dash}on {worker}", event.message)
                }
                _ => event.message.clone(),
            },
        }
    }
}

impl Row for EventRow {
    fn key(&self) -> &str {
        &self.key
    }
}

/// A choice among several, as a link.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    pub name: String,
    pub href: String,
    /// Whether it is the present one.
    pub is_chosen: bool,
}

/// `http 10.0.0.7:20000 → 80/tcp`; the port in the container only if it is another one.
pub fn named_port(port: &NamedPort) -> String {
    let protocol = port.protocol.as_str();
    match port.target == port.port {
        true => format!("{} {}/{protocol}", port.name, port.address()),
        false => format!("{} {} → {}/{protocol}", port.name, port.address(), port.target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_never_wider_than_it_is() {
        let tasks = TaskSummary {
            total: 100_000,
            completed: 99_990,
            failed: 3,
            cancelled: 2,
            running: 4,
            stopping: 1,
            waiting: 0,
            available: None,
        };
        let segments = tasks.segments();
        assert!(segments.iter().all(|(_, at, width)| at + width <= 100.0 && *width >= 0.0), "{segments:?}");
        assert_eq!(tasks.progress(), "99,990/100,000");
        let service =
            TaskSummary { total: 1_000, running: 500, available: Some(200), ..TaskSummary::default() };
        assert_eq!(service.segments(), [("running", 0.0, 20.0), ("unavailable", 20.0, 30.0)]);
        let service = TaskSummary { available: Some(2), ..service };
        assert_eq!(service.progress(), "2 of 1,000 available");
        assert!(TaskSummary::default().segments().is_empty());
    }
}
