//! Tasks and attempts as columns of the statements that write them: as many rows as there are, in one statement.

use gaffer_domain::reason::Reason;
use gaffer_domain::task::{AfterStop, StateName, TaskState};
use gaffer_domain::{AttemptRef, Time};
use serde::Serialize;
use serde_json::Value;
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use super::super::unnest::{Column, unnest};
use super::TaskWork;
use super::attempt_updates::AttemptUpdate;

/// What a batch tells of an attempt.
const ATTEMPT: [Column; 19] = [
    ("opened", "boolean"),
    ("worker_id", "bigint"),
    ("placement", "jsonb"),
    ("scheduled_at", "timestamptz"),
    ("started_at", "timestamptz"),
    ("attempt_finished_at", "timestamptz"),
    ("ran_micros", "bigint"),
    ("exit_code", "int"),
    ("signal", "int"),
    ("attempt_reason_code", "text"),
    ("attempt_reason_message", "text"),
    ("output_bytes", "bigint"),
    ("output_lines", "bigint"),
    ("output_sha256", "text"),
    ("output_complete", "boolean"),
    ("killed", "jsonb"),
    ("container", "jsonb"),
    ("ports", "jsonb"),
    ("version", "int"),
];

/// The number of a task.
const ID: [Column; 1] = [("id", "bigint")];

/// What a task was when the batch was decided; a row that is something else is left alone.
const BEFORE: [Column; 2] = [("attempt_before", "int"), ("state_before", "text")];

/// Whether a stored row `t` is as the row `u` of [`BEFORE`] says.
const IS_AS_BEFORE: &str =
    "t.id = u.id AND t.attempt = u.attempt_before AND t.state = u.state_before::task_state";

/// What a batch makes of a task, beside its latest attempt.
const TASK: [Column; 14] = [
    ("attempt", "int"),
    ("state", "text"),
    ("since", "timestamptz"),
    ("repeats", "int"),
    ("repeats_since", "timestamptz"),
    ("not_before", "timestamptz"),
    ("stop_message", "text"),
    ("moving", "boolean"),
    ("scaled_down", "boolean"),
    ("reason_code", "text"),
    ("reason_message", "text"),
    ("finished_at", "timestamptz"),
    ("class_id", "bigint"),
    ("wanted_version", "int"),
];

/// The columns of tables that hold attempts.
fn stored_attempt_columns() -> impl Iterator<Item = &'static str> {
    ATTEMPT.into_iter().map(|(name, _)| name).filter(|name| *name != "opened")
}

/// What is to be stored of an attempt: of a row `u` of [`ATTEMPT`] and, unless the batch opened the attempt, of the stored
/// row `t`.
fn merged(column: &str) -> String {
    let scheduled = "CASE WHEN u.opened THEN u.scheduled_at ELSE t.scheduled_at END";
    // Times of one attempt do not go back, whatever clocks they are from. A start is told once.
    let started = format!(
        "CASE WHEN t.started_at IS NOT NULL AND NOT u.opened THEN t.started_at \
         WHEN u.started_at IS NOT NULL THEN GREATEST(u.started_at, {scheduled}) END"
    );
    match column {
        "started_at" => started,
        "attempt_finished_at" => format!(
            "CASE WHEN u.attempt_finished_at IS NOT NULL THEN GREATEST(u.attempt_finished_at, {started}, {scheduled}) \
             WHEN NOT u.opened THEN t.attempt_finished_at END"
        ),
        _ => format!("CASE WHEN u.opened THEN u.{column} ELSE COALESCE(u.{column}, t.{column}) END"),
    }
}

fn listed(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// Changes tasks that are not over, and returns a row for each, with where it was placed. `gate`: a further condition; likewise
/// below.
pub(super) fn update_live(gate: &str, next: &mut usize) -> String {
    let task =
        TASK.iter().map(|(name, _)| *name).filter(|name| *name != "finished_at").map(|name| match name {
            "state" => "state = u.state::task_state".to_owned(),
            name => format!("{name} = u.{name}"),
        });
    let attempt = stored_attempt_columns().map(|name| format!("{name} = {}", merged(name)));
    let columns = [&ID[..], &BEFORE, &TASK, &ATTEMPT].concat();
    format!(
        "UPDATE live_tasks t SET {} FROM {} WHERE {IS_AS_BEFORE}{gate} \
         RETURNING t.job_id, CASE WHEN u.opened THEN u.worker_id END AS placed_on",
        listed(task.chain(attempt)),
        unnest(&columns, next)
    )
}

/// Takes tasks that are over out of the live ones, and returns them as rows for [`keep_finished`].
pub(super) fn finish(gate: &str, next: &mut usize) -> String {
    let attempt = listed(stored_attempt_columns().map(|name| format!("{} AS {name}", merged(name))));
    let columns = [&ID[..], &BEFORE, &TASK, &ATTEMPT].concat();
    format!(
        "DELETE FROM live_tasks t USING {} WHERE {IS_AS_BEFORE}{gate} \
         RETURNING t.id, t.job_id, t.position, t.index, t.class_id, u.state::task_state AS state, u.finished_at, \
             u.reason_code, u.reason_message, u.attempt, {attempt}",
        unnest(&columns, next)
    )
}

/// Writes tasks that are over into history, from the rows of [`finish`].
pub(super) fn keep_finished(over: &str) -> String {
    let names =
        "id, job_id, position, index, class_id, state, finished_at, reason_code, reason_message, attempt";
    let names = format!("{names}, {}", listed(stored_attempt_columns().map(str::to_owned)));
    format!("INSERT INTO finished_tasks ({names}, era) SELECT {names}, era_of_task(id) FROM {over}")
}

/// Takes tasks of an era out of history again, before [`update_live`] gives them their state. `unseen` and `since_restore` are the
/// columns about restores and the join that they need; the era is $4, the numbers of the tasks are $5.
pub(super) fn revive(unseen: &str, since_restore: &str) -> String {
    let columns = listed(stored_attempt_columns().map(str::to_owned));
    format!(
        "WITH t AS (DELETE FROM finished_tasks WHERE era = $4 AND id = ANY($5) RETURNING *) \
         INSERT INTO live_tasks (id, job_id, position, index, class_id, state, since, attempt, {columns}, \
             unseen_attempts, unseen_until) OVERRIDING SYSTEM VALUE \
         SELECT t.id, job_id, position, index, class_id, 'blocked', finished_at, attempt, {columns}, {unseen} \
         FROM t {since_restore}"
    )
}

/// Keeps attempts that another one of their task follows, before the row of the task is given to that one.
pub(super) fn keep_earlier(gate: &str, next: &mut usize) -> String {
    let columns = [&ID[..], &[("attempt", "int")], &ATTEMPT].concat();
    let names = listed(stored_attempt_columns().map(str::to_owned));
    let values = listed(stored_attempt_columns().map(merged));
    format!(
        "INSERT INTO earlier_attempts (task_id, attempt, {names}) SELECT u.id, u.attempt, {values} \
         FROM {} LEFT JOIN live_tasks t ON t.id = u.id WHERE (u.opened OR t.attempt = u.attempt){gate}",
        unnest(&columns, next)
    )
}

/// Rows for [`update_live`] and [`finish`].
#[derive(Default)]
pub(super) struct TaskColumns<'a> {
    id: Vec<i64>,
    attempt_before: Vec<i32>,
    state_before: Vec<&'static str>,
    attempt: Vec<i32>,
    state: Vec<&'static str>,
    since: Vec<Time>,
    repeats: Vec<i32>,
    repeats_since: Vec<Option<Time>>,
    not_before: Vec<Option<Time>>,
    stop_message: Vec<Option<&'a str>>,
    moving: Vec<bool>,
    scaled_down: Vec<bool>,
    reason_code: Vec<Option<&'static str>>,
    reason_message: Vec<Option<&'a str>>,
    finished_at: Vec<Option<Time>>,
    class_id: Vec<i64>,
    wanted_version: Vec<i32>,
    latest: AttemptColumns,
}

impl<'a> TaskColumns<'a> {
    pub fn len(&self) -> usize {
        self.id.len()
    }

    /// Adds a task, with what the batch tells of its latest attempt.
    pub fn push(&mut self, id: i64, work: &'a TaskWork, latest: Option<&AttemptUpdate>) {
        let task = &work.task;
        let (not_before, stop_message, reason, finished_at) = columns(&task.state);
        self.id.push(id);
        self.attempt_before.push(work.stored_attempt as i32);
        // `revive` has made that of what was over.
        let stored = if work.stored_state.is_final() { StateName::Blocked } else { work.stored_state };
        self.state_before.push(stored.as_str());
        self.attempt.push(task.attempt as i32);
        self.state.push(task.state.name().as_str());
        self.since.push(work.since);
        self.repeats.push(task.repeats.count as i32);
        self.repeats_since.push(task.repeats.since);
        self.not_before.push(not_before);
        self.stop_message.push(stop_message);
        let after_stop = task.state.after_stop();
        self.moving.push(after_stop == Some(AfterStop::Move));
        self.scaled_down.push(after_stop == Some(AfterStop::ScaleDown));
        self.reason_code.push(reason.map(|reason| reason.code.as_str()));
        self.reason_message.push(reason.map(|reason| reason.message.as_str()));
        self.finished_at.push(finished_at);
        self.class_id.push(work.class);
        self.wanted_version.push(work.version as i32);
        self.latest.push(latest);
    }

    pub fn bind<'q>(self, query: Query<'q, Postgres, PgArguments>) -> Query<'q, Postgres, PgArguments>
    where
        'a: 'q,
    {
        let query = query
            .bind(self.id)
            .bind(self.attempt_before)
            .bind(self.state_before)
            .bind(self.attempt)
            .bind(self.state)
            .bind(self.since)
            .bind(self.repeats)
            .bind(self.repeats_since)
            .bind(self.not_before)
            .bind(self.stop_message)
            .bind(self.moving)
            .bind(self.scaled_down)
            .bind(self.reason_code)
            .bind(self.reason_message)
            .bind(self.finished_at)
            .bind(self.class_id)
            .bind(self.wanted_version);
        self.latest.bind(query)
    }
}

/// Rows for [`keep_earlier`].
#[derive(Default)]
pub(super) struct EarlierColumns {
    id: Vec<i64>,
    attempt: Vec<i32>,
    columns: AttemptColumns,
}

impl EarlierColumns {
    /// Adds an attempt, with what the batch tells of it.
    pub fn push(&mut self, attempt: AttemptRef, update: Option<&AttemptUpdate>) {
        self.id.push(attempt.task.0);
        self.attempt.push(attempt.attempt as i32);
        self.columns.push(update);
    }

    pub fn is_empty(&self) -> bool {
        self.id.is_empty()
    }

    pub fn bind(self, query: Query<'_, Postgres, PgArguments>) -> Query<'_, Postgres, PgArguments> {
        self.columns.bind(query.bind(self.id).bind(self.attempt))
    }
}

/// The columns of [`ATTEMPT`].
#[derive(Default)]
struct AttemptColumns {
    opened: Vec<bool>,
    worker_id: Vec<Option<i64>>,
    placement: Vec<Option<Value>>,
    scheduled_at: Vec<Option<Time>>,
    started_at: Vec<Option<Time>>,
    finished_at: Vec<Option<Time>>,
    ran_micros: Vec<Option<i64>>,
    exit_code: Vec<Option<i32>>,
    signal: Vec<Option<i32>>,
    reason_code: Vec<Option<&'static str>>,
    reason_message: Vec<Option<String>>,
    output_bytes: Vec<Option<i64>>,
    output_lines: Vec<Option<i64>>,
    output_sha256: Vec<Option<String>>,
    output_complete: Vec<Option<bool>>,
    killed: Vec<Option<Value>>,
    container: Vec<Option<Value>>,
    ports: Vec<Option<Value>>,
    version: Vec<Option<i32>>,
}

impl AttemptColumns {
    fn push(&mut self, update: Option<&AttemptUpdate>) {
        let opened = update.and_then(|update| update.opened.as_ref());
        let end = update.and_then(|update| update.end.as_ref());
        let reason = update.and_then(|update| update.reason.as_ref());
        let report = update.and_then(|update| update.report.as_ref());
        let output = update.filter(|_| report.is_some()).map(|update| &update.output);
        let ran = report.filter(|report| report.started_at.is_some());
        self.opened.push(opened.is_some());
        self.worker_id.push(opened.map(|(worker, ..)| worker.0));
        self.placement.push(opened.and_then(|(_, _, receipt)| json(receipt.as_ref())));
        self.scheduled_at.push(opened.map(|(_, at, _)| *at));
        self.started_at.push(update.and_then(|update| update.started_at));
        self.finished_at.push(update.and_then(|update| update.finished_at));
        self.ran_micros.push(ran.map(|report| i64::try_from(report.ran_micros).unwrap_or(i64::MAX)));
        self.exit_code.push(end.and_then(|end| end.exit_code()));
        self.signal.push(end.and_then(|end| end.signal()));
        self.reason_code.push(reason.map(|reason| reason.code.as_str()));
        self.reason_message.push(reason.map(|reason| reason.message.clone()));
        self.output_bytes.push(report.map(|report| report.output_bytes as i64));
        self.output_lines.push(output.map(|output| output.lines as i64));
        self.output_sha256.push(report.and_then(|report| report.output_sha256.clone()));
        self.output_complete.push(output.and_then(|output| output.complete));
        self.killed.push(json(report.and_then(|report| report.killed.as_ref())));
        self.container.push(json(update.and_then(|update| update.container.as_ref())));
        let ports = update.map(|update| &update.ports).filter(|ports| !ports.is_empty());
        self.ports.push(json(ports));
        // The first version is not written: most jobs have no other.
        let version = update.and_then(|update| update.version).filter(|version| *version > 1);
        self.version.push(version.map(|version| version as i32));
    }

    fn bind(self, query: Query<'_, Postgres, PgArguments>) -> Query<'_, Postgres, PgArguments> {
        query
            .bind(self.opened)
            .bind(self.worker_id)
            .bind(self.placement)
            .bind(self.scheduled_at)
            .bind(self.started_at)
            .bind(self.finished_at)
            .bind(self.ran_micros)
            .bind(self.exit_code)
            .bind(self.signal)
            .bind(self.reason_code)
            .bind(self.reason_message)
            .bind(self.output_bytes)
            .bind(self.output_lines)
            .bind(self.output_sha256)
            .bind(self.output_complete)
            .bind(self.killed)
            .bind(self.container)
            .bind(self.ports)
            .bind(self.version)
    }
}

fn json(value: Option<&impl Serialize>) -> Option<Value> {
    serde_json::to_value(value?).ok()
}

type StateColumns<'a> = (Option<Time>, Option<&'a str>, Option<&'a Reason>, Option<Time>);

fn columns(state: &TaskState) -> StateColumns<'_> {
    match state {
        TaskState::Blocked | TaskState::Scheduled { .. } | TaskState::Running { .. } => {
            (None, None, None, None)
        }
        TaskState::Pending { not_before, after } => (Some(*not_before), None, after.as_ref(), None),
        TaskState::Stopping { cause, .. } => (None, Some(&cause.message), None, None),
        TaskState::Completed { at } => (None, None, None, Some(*at)),
        TaskState::Failed { at, reason } | TaskState::Cancelled { at, reason } => {
            (None, None, Some(reason), Some(*at))
        }
    }
}
