//! Rows of lists: the same values for the template and for the stream, by the same names.

use gaffer_protocol::rest;
use serde::Serialize;

use super::format::{Elapsed, address, count, many};
use super::view::Row;

/// A stretch of a bar: the state that it stands for, where it begins and how wide it is, in hundredths.
pub type Segment = (&'static str, f64, f64);

/// A job in a list.
#[derive(Debug, Clone, Default, Serialize)]
pub struct JobRow {
    /// Names it in its list.
    pub key: String,
    /// Its state.
    pub state: String,
    /// Its number.
    pub number: i64,
    /// Its page.
    pub href: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// Whether it has several tasks.
    pub many: bool,
    /// How far they are.
    pub segments: Vec<Segment>,
    /// The same in numbers.
    pub tasks: String,
    /// When it was accepted.
    pub created: Option<i64>,
    /// When it ran.
    pub ran: Elapsed,
    /// What became of it, or what it waits for.
    pub why: String,
}

impl From<&rest::Job> for JobRow {
    fn from(job: &rest::Job) -> Self {
        let tasks = TaskSummary::of(job);
        JobRow {
            key: job.id.to_string(),
            state: job.state.clone(),
            number: job.id.0,
            href: format!("/jobs/{}", job.id),
            name: job.name.clone(),
            labels: labels(job),
            many: tasks.total > 1,
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
pub fn labels(job: &rest::Job) -> Vec<String> {
    job.labels.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

/// How the tasks of a job are doing.
#[derive(Debug, Clone, Copy, Default)]
pub struct TaskSummary {
    /// All of them.
    pub total: u64,
    /// Those that ended well.
    pub completed: u64,
    failed: u64,
    cancelled: u64,
    running: u64,
    stopping: u64,
    /// Those that wait, for a worker or for other tasks.
    pub waiting: u64,
}

impl TaskSummary {
    /// Of one job.
    pub fn of(job: &rest::Job) -> TaskSummary {
        let n = |state: &str| job.task_counts.get(state).copied().unwrap_or(0).unsigned_abs();
        TaskSummary {
            total: job.task_counts.values().map(|n| n.unsigned_abs()).sum(),
            completed: n("completed"),
            failed: n("failed"),
            cancelled: n("cancelled"),
            running: n("running"),
            stopping: n("stopping"),
            waiting: n("pending") + n("blocked") + n("scheduled"),
        }
    }

    /// Tasks that completed, of all.
    pub fn progress(&self) -> String {
        format!("{}/{}", many(self.completed), many(self.total))
    }

    /// The parts of a bar. What is there at all can be seen.
    pub fn segments(&self) -> Vec<Segment> {
        let parts = [
            ("completed", self.completed),
            ("failed", self.failed),
            ("cancelled", self.cancelled),
            ("stopping", self.stopping),
            ("running", self.running),
        ];
        let mut segments = Vec::new();
        let mut at = 0.0;
        for (state, n) in parts.into_iter().filter(|(_, n)| *n > 0) {
            let share = n as f64 * 100.0 / self.total.max(1) as f64;
            let width = (share * 10.0).round() / 10.0;
            let width = width.max(2.0).min(100.0 - at);
            segments.push((state, (at * 10.0_f64).round() / 10.0, width));
            at += width;
        }
        segments
    }
}

/// What became of a job, or what it waits for, in a few words.
fn what_happened(job: &rest::Job, tasks: &TaskSummary) -> String {
    if let Some(problem) = &job.problem {
        return problem.clone();
    }
    match job.state.as_str() {
        "pending" if job.task_counts.get("scheduled").is_some_and(|placed| *placed > 0) => {
            "about to start".to_owned()
        }
        "pending" => "waits for a worker".to_owned(),
        "running" if tasks.total > 1 && tasks.waiting > 0 => {
            format!("{} running, {} waiting", many(tasks.running), many(tasks.waiting))
        }
        "running" if tasks.total > 1 => format!("{} running", many(tasks.running)),
        "running" if tasks.waiting > 0 => "waits for its next attempt".to_owned(),
        "completed" if tasks.total > 1 => format!("all {} completed", count(tasks.total, "task")),
        "completed" => "exited with code 0".to_owned(),
        "failed" if tasks.total > 1 => match &job.reason {
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
    /// Its state.
    pub state: String,
    /// `name` or `name.index`.
    pub address: String,
    /// Its page.
    pub href: String,
    /// Where its output is shown.
    pub output: String,
    /// Where its latest attempt is or was.
    pub worker: String,
    /// The number of that.
    pub attempt: u32,
    /// When that ran.
    pub ran: Elapsed,
    /// How it exited.
    pub exit: String,
    /// What became of it, or what it waits for.
    pub why: String,
}

impl From<&rest::Task> for TaskRow {
    fn from(task: &rest::Task) -> Self {
        let is_under_way = matches!(task.state.as_str(), "running" | "stopping");
        let ended = task.finished_at.or(task.not_before).filter(|_| !is_under_way);
        TaskRow {
            key: task.address.clone(),
            state: task.state.clone(),
            address: task.address.clone(),
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

/// What became of a task, or what it waits for.
pub fn why(task: &rest::Task) -> String {
    let message = task.reason.as_ref().map(|reason| reason.message.as_str());
    match (task.state.as_str(), message) {
        ("pending", Some(message)) => format!("is tried again; attempt {} {message}", task.attempt),
        ("pending", None) => "waits for a worker".to_owned(),
        ("blocked", _) => "waits for other tasks".to_owned(),
        ("scheduled", _) => {
            format!("placed on {}, about to start", task.worker.as_deref().unwrap_or("a worker"))
        }
        ("completed", _) => "exited with code 0".to_owned(),
        (_, Some(message)) => message.to_owned(),
        (_, None) => String::new(),
    }
}

/// One line of history in a list.
#[derive(Debug, Clone, Default, Serialize)]
pub struct EventRow {
    /// Names it in its list.
    pub key: String,
    /// When it happened.
    pub at: Option<i64>,
    /// What happened.
    pub kind: String,
    /// To what.
    pub subject: String,
    /// Where that is shown.
    pub href: String,
    /// Who or what caused it.
    pub actor: String,
    /// Why.
    pub message: String,
}

impl From<&rest::Event> for EventRow {
    fn from(event: &rest::Event) -> Self {
        let (subject, href) = match (&event.job, &event.task, &event.worker) {
            (Some(job), Some(task), _) => {
                let attempt = event.attempt.filter(|attempt| *attempt > 1);
                let attempt = attempt.map(|attempt| format!(", attempt {attempt}")).unwrap_or_default();
                (format!("{job} {task}{attempt}"), format!("/jobs/{job}/tasks/{task}"))
            }
            (Some(job), None, _) => (format!("job {job}"), format!("/jobs/{job}")),
            (None, _, Some(worker)) => {
                (worker.clone(), format!("/workers/{}", super::format::encoded(worker)))
            }
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
    /// What it says.
    pub name: String,
    /// Where it leads.
    pub href: String,
    /// Whether it is the present one.
    pub is_chosen: bool,
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
        };
        let segments = tasks.segments();
        assert!(segments.iter().all(|(_, at, width)| at + width <= 100.0 && *width >= 0.0), "{segments:?}");
        assert_eq!(tasks.progress(), "99,990/100,000");
        assert!(TaskSummary::default().segments().is_empty());
    }
}
