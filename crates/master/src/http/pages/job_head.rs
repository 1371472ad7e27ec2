//! The head of a job's pages: state, cause and actions.

use std::sync::Arc;
use std::time::Duration;

use gaffer_domain::ProjectId;
use gaffer_domain::job::JobState;
use gaffer_domain::parameters::Parameters;
use gaffer_domain::rerun::can_rerun_failed;
use gaffer_domain::task::StateName;
use gaffer_domain::template::TemplateRef;
use gaffer_protocol::output::Stream;
use serde::Serialize;

use super::super::error::Error;
use super::format::{Elapsed, address, many, sentence, template_page_of};
use super::lines::{Output, read_or_problem};
use super::rows::{Choice, NO_WORKER, Segment, TaskRow, TaskSummary, exit, health, labels, why};
use super::view::Row;
use crate::explain;
use crate::operations::output::attempt_of;
use crate::records::{Job, JobUpdate, Task, WaitingTasks, WorkerVerdict};
use crate::render::{Line, Origin};
use crate::store::tasks::TaskFilter;
use crate::views::Views;

/// Tasks that are looked at to find the one to show.
pub const TASKS_LOOKED_AT: u32 = 200;
/// Parameters in the head; the tab Specification has all.
const SHOWN_PARAMETERS: usize = 8;
/// Lines of a failed task that are shown on top.
const EXCERPT_LINES: usize = 10;
/// The last lines in which those are looked for that say something.
const EXCERPT_FROM: u64 = 100;

/// What all tabs have on top, and around.
pub struct Top {
    /// The job.
    pub job: Job,
    /// Its tasks, the first ones.
    pub tasks: Vec<Task>,
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
    /// The page of the template that it was made from, and what it is called.
    pub template: Option<(String, String)>,
    /// Its parameters, `name=value`, the first ones.
    pub parameters: Vec<String>,
    /// The definitions to start a rerun from, if there are several.
    pub starts: Vec<String>,
    /// The definitions that can be scaled, each with the number of instances at which it is kept.
    pub scales: Vec<(String, u32)>,
}

impl Top {
    /// Whether there are lines to show with the failure.
    pub fn has_excerpt(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| !failure.lines.is_empty())
    }
}

/// The page of the template that a job was made from, and what it is called.
pub fn template(job: &Job) -> Option<(String, String)> {
    let TemplateRef { name, version } = job.template.as_ref()?;
    let href = address(&template_page_of(name), &[("version", &version.to_string())]);
    Some((href, format!("template {name}, version {version}")))
}

/// The first of a job's parameters as `name=value`, and how many more there are.
pub fn parameters(parameters: &Parameters) -> Vec<String> {
    let shown = parameters.iter().take(SHOWN_PARAMETERS);
    let mut all: Vec<String> =
        shown.map(|(name, parameter)| format!("{name}={}", parameter.value.escape_debug())).collect();
    let more = parameters.len().saturating_sub(SHOWN_PARAMETERS);
    all.extend((more > 0).then(|| format!("{more} more")));
    all
}

/// The head of a job's pages.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct JobHead {
    /// The title of the window.
    pub title: String,
    pub number: i64,
    pub name: String,
    pub state: String,
    /// The state that the cause is coloured by.
    pub tone: String,
    /// How it is, in one sentence.
    pub cause: String,
    /// Where its only task is or was.
    pub worker: String,
    pub exit: String,
    /// The number of its attempt.
    pub attempt: String,
    /// Whether it has several tasks.
    pub many: bool,
    pub segments: Vec<Segment>,
    /// The same in words.
    pub tasks: String,
    pub ran: Elapsed,
    pub created: Option<i64>,
    pub created_by: String,
    /// The job that it repeats.
    pub rerun_of: Option<i64>,
    pub labels: Vec<String>,
    /// Whether it can be stopped.
    pub can_stop: bool,
    /// Whether it is being stopped, and has tasks that this leaves to clean up.
    pub can_force: bool,
    /// Whether something of it can be scaled.
    pub can_scale: bool,
    /// Whether an update of it may wait after its canaries.
    pub can_promote: bool,
    /// Of its specification.
    pub version: u32,
    /// Whether it can be repeated, and deleted.
    pub can_rerun: bool,
    /// Whether it can be repeated in part: what failed of it.
    pub can_rerun_failed: bool,
    /// Whether it is kept whatever its retention is, or could be.
    pub is_pinned: bool,
    pub can_pin: bool,
}

impl JobHead {
    /// Of a job; `only` is its task, if it has but one.
    pub fn of(job: &Job, only: Option<&Task>) -> JobHead {
        let tasks = TaskSummary::of(job);
        let is_over = job.is_over();
        let mark = match job.state {
            JobState::Completed => "✓ ",
            JobState::Failed => "✕ ",
            JobState::Running => "▶ ",
            JobState::Pending => "… ",
            JobState::Stopping | JobState::Cancelled => "",
        };
        JobHead {
            title: format!("{mark}{} {} · gaffer", job.id, job.name),
            number: job.id.0,
            name: job.name.clone(),
            state: job.state.to_string(),
            tone: job.state.to_string(),
            cause: sentence(&cause(job, only, &tasks)),
            worker: only.and_then(|task| task.worker.clone()).unwrap_or_default(),
            exit: only.map(|task| exit(task.exit_code, task.signal)).unwrap_or_default(),
            attempt: only
                .filter(|task| task.attempt > 0)
                .map(|task| task.attempt.to_string())
                .unwrap_or_default(),
            many: job.task_counts.total() > 1 || job.kind.follows_workers(),
            segments: tasks.segments(),
            tasks: match (job.available, job.taken_over) {
                (Some(_), _) => tasks.progress(),
                (None, 0) => format!("{} completed", tasks.progress()),
                (None, n) => {
                    format!("{} completed, {} of them before this job", tasks.progress(), many(n.into()))
                }
            },
            ran: Elapsed::new(job.started_at, job.finished_at),
            created: Some(job.created_at.timestamp_millis()),
            created_by: job.created_by.clone(),
            rerun_of: job.rerun_of.map(|of| of.0),
            labels: labels(job),
            can_stop: !is_over && job.state != JobState::Stopping,
            can_force: job.state.can_force_stop(job.has_cleanup),
            can_scale: !is_over
                && job.state != JobState::Stopping
                && job.running.iter().any(|running| running.can_scale),
            version: job.version,
            can_promote: job.updates.iter().any(|update| update.problem.is_none()),
            can_rerun: is_over,
            can_rerun_failed: can_rerun_failed(job.state, job.task_counts.total()),
            is_pinned: job.pinned,
            can_pin: !job.pinned,
        }
    }
}

/// How a job is, in one sentence without its full stop.
fn cause(job: &Job, only: Option<&Task>, tasks: &TaskSummary) -> String {
    let reason = job.reason.as_ref().map(|reason| reason.message.as_str()).unwrap_or_default();
    let on =
        only.and_then(|task| task.worker.as_ref()).map(|worker| format!(" on {worker}")).unwrap_or_default();
    if let Some(problem) = &job.problem {
        return match job.state {
            JobState::Stopping => format!("stopping{on}; {problem}"),
            _ => problem.clone(),
        };
    }
    match (job.state, only) {
        (JobState::Pending | JobState::Running, _) if !job.updates.is_empty() => {
            format!("{}; {}", tasks.in_words(), updates_in_words(job))
        }
        (JobState::Pending | JobState::Running, _) if job.waits_for_workers() => NO_WORKER.to_owned(),
        (JobState::Pending, Some(task)) => why(task),
        (JobState::Pending, None) => "waiting for a worker".to_owned(),
        (JobState::Running, Some(task)) if task.state != StateName::Running => why(task),
        (JobState::Running, Some(task)) => format!("running{on}{}", health_in_words(task)),
        (JobState::Running, None) => tasks.in_words(),
        (JobState::Stopping, _) => format!("stopping{on}"),
        (JobState::Completed, Some(_)) => format!("exited with code 0{on}"),
        (JobState::Completed, None) => tasks.outcome(),
        (JobState::Failed, Some(_)) => format!("{reason}{on}"),
        (JobState::Failed, None) => format!("a task failed: {reason}"),
        (JobState::Cancelled, _) => reason.to_owned(),
    }
}

/// `web is updated to version 3`, or why it is not.
fn updates_in_words(job: &Job) -> String {
    let update = |update: &JobUpdate| match &update.problem {
        Some(problem) => format!("the update of {} has stopped: {problem}", update.task),
        None => format!("{} is updated to version {}", update.task, update.version),
    };
    job.updates.iter().map(update).collect::<Vec<_>>().join("; ")
}

/// `, unhealthy: status 500`; nothing for a task without checks.
fn health_in_words(task: &Task) -> String {
    match health(task) {
        words if words.is_empty() => words,
        words => format!(", {words}"),
    }
}

/// Why a job failed, with the last lines of its task's output.
#[derive(Debug)]
pub struct Failure {
    /// The task and what the lines are; the head shows the reason.
    pub heading: String,
    /// Where its whole output is shown.
    pub href: String,
    /// The last lines of standard error, or of all if there are none; with their numbers.
    pub lines: Vec<(u64, Line)>,
}

/// Looks up why a job failed; none if it did not.
pub async fn failure(views: &Arc<Views>, job: &Job, tasks: &[Task]) -> Result<Option<Failure>, Error> {
    if job.state != JobState::Failed {
        return Ok(None);
    }
    let failed = match tasks.iter().find(|task| task.state == StateName::Failed) {
        Some(failed) => Some(failed.clone()),
        None => {
            let filter = TaskFilter { state: Some(StateName::Failed), after: None };
            views.reads.task_list(job.id, &filter, 1).await?.pop()
        }
    };
    let Some(task) = failed else { return Ok(None) };
    let message = task.reason.as_ref().map(|reason| reason.message.as_str()).unwrap_or_default();
    let whose = if tasks.len() == 1 { "" } else { task.address.as_str() };
    let href = address(&format!("/jobs/{}", job.id), &[("task", whose)]);
    let lines = match task.attempt {
        0 => Vec::new(),
        _ => match read_or_problem(excerpt(views, &task).await)? {
            Ok(lines) => lines,
            Err(heading) => return Ok(Some(Failure { heading, href, lines: Vec::new() })),
        },
    };
    let has_errors = lines.iter().any(|(_, line)| line.origin != Origin::Stdout);
    let heading = match (tasks.len(), lines.is_empty(), has_errors) {
        (1, true, _) => "No output".to_owned(),
        (1, false, true) => "Last lines of standard error".to_owned(),
        (1, false, false) => "Last lines of output".to_owned(),
        (_, true, _) => format!("{}: {message}", task.address),
        (_, false, _) => format!("{}: {message}. Last lines of output:", task.address),
    };
    Ok(Some(Failure { heading, href, lines }))
}

async fn excerpt(views: &Arc<Views>, task: &Task) -> Result<Vec<(u64, Line)>, Error> {
    let attempt = attempt_of(task, None, false)?;
    let output = Output { views: views.clone(), job: task.job, attempt };
    let says_something =
        |(_, line): &(u64, Line)| line.tokens.iter().any(|token| !token.text.trim().is_empty());
    let errors = output.last_of(Stream::Stderr, None, EXCERPT_FROM).await?;
    let mut lines: Vec<(u64, Line)> = errors.lines.into_iter().filter(says_something).collect();
    if lines.is_empty() {
        let window = output.last(EXCERPT_FROM).await?;
        lines = (window.first..).zip(window.lines).filter(says_something).collect();
    }
    lines.drain(..lines.len().saturating_sub(EXCERPT_LINES));
    Ok(lines)
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct WaitingRow {
    /// Names it in its list.
    pub key: String,
    pub what: String,
    pub why: String,
    pub help: String,
}

/// What keeps one worker out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerdictRow {
    /// Names it in its list.
    pub key: String,
    /// In one sentence.
    pub text: String,
}

impl Row for WaitingRow {
    fn key(&self) -> &str {
        &self.key
    }
}

impl Row for VerdictRow {
    fn key(&self) -> &str {
        &self.key
    }
}

/// Workers that are named, one by one, for each kind of waiting tasks.
const VERDICTS: usize = 50;

/// What keeps the tasks of a job waiting: nothing, if none waits.
pub async fn waiting(
    views: &Views,
    project: ProjectId,
    job: &Job,
    max_age: Duration,
) -> Result<(Vec<WaitingRow>, Vec<VerdictRow>), Error> {
    let tasks = TaskSummary::of(job);
    if (tasks.waiting == 0 && !job.kind.follows_workers()) || job.is_over() {
        return Ok(Default::default());
    }
    let found = explain::explain(views, project, job.id, max_age).await?;
    let Some(found) = found else { return Ok(Default::default()) };
    let is_one = found.waiting.len() + found.without_instance.len() == 1;
    let mut verdicts = Vec::new();
    let mut rows = Vec::new();
    for task in &found.waiting {
        let what = if tasks.total == 1 {
            "Waiting:".to_owned()
        } else {
            format!("{} × {}:", many(task.count.unsigned_abs()), task.task)
        };
        rows.push(WaitingRow {
            key: task.task.clone(),
            what,
            why: sentence(&task.message),
            help: help(task),
        });
        verdicts.extend(verdict_rows(&task.task, &task.workers, is_one));
    }
    for definition in &found.without_instance {
        let is_only = job.running.len() == 1;
        rows.push(WaitingRow {
            key: format!("{}/workers", definition.task),
            what: if is_only { "Workers:".to_owned() } else { format!("{}:", definition.task) },
            why: sentence(&definition.message),
            help: String::new(),
        });
        verdicts.extend(verdict_rows(&definition.task, &definition.workers, is_one));
    }
    Ok((rows, verdicts))
}

/// The first workers of a definition; `is_only`: without its name.
fn verdict_rows(task: &str, workers: &[WorkerVerdict], is_only: bool) -> impl Iterator<Item = VerdictRow> {
    workers.iter().take(VERDICTS).map(move |verdict| VerdictRow {
        key: format!("{task}/{}", verdict.worker_id),
        text: if is_only { verdict.message.clone() } else { format!("{task}: {}", verdict.message) },
    })
}

/// What would help, and the position in the queue.
fn help(task: &WaitingTasks) -> String {
    let mut text = task.help.as_ref().map(|help| format!(" {}", sentence(help))).unwrap_or_default();
    for help in &task.would_help {
        text.push_str(&format!(" {}", sentence(help)));
    }
    if let Some(line) = task.position.filter(|position| position.ahead > 0) {
        text.push_str(&format!(" {} of {} waiting tasks are ahead.", many(line.ahead), many(line.waiting)));
    }
    text
}

/// The only task of a job. A system job may get further ones at any time.
pub fn only_task<'t>(job: &Job, tasks: &'t [Task]) -> Option<&'t Task> {
    match tasks {
        [only] if !job.kind.follows_workers() => Some(only),
        _ => None,
    }
}

/// The task that a page shows when none is asked for: the first that failed, else that runs, else the first.
pub fn most_telling(tasks: &[Task]) -> Option<&Task> {
    let first = |state| tasks.iter().find(|task| task.state == state);
    let states = [StateName::Failed, StateName::Running, StateName::Stopping];
    let own = || tasks.iter().find(|task| task.result_of.is_none());
    states.into_iter().find_map(first).or_else(own).or_else(|| tasks.first())
}

/// The rows of some tasks.
pub fn task_rows(tasks: &[Task]) -> Vec<TaskRow> {
    tasks.iter().map(TaskRow::from).collect()
}
