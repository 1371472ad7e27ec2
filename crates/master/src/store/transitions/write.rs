//! Writes the changes of a batch in a constant number of statements.

use gaffer_domain::Time;
use gaffer_domain::reason::Reason;
use gaffer_domain::task::{StateName, TaskState};
use serde_json::Value;
use sqlx::PgConnection;

use super::super::StoreError;
use super::{AttemptWrites, EventRow, TaskWork, Work};

impl Work {
    /// Writes all that is dirty.
    pub(super) async fn write(&self, tx: &mut PgConnection, now: Time) -> Result<(), StoreError> {
        self.write_tasks(tx).await?;
        self.write_counts(tx).await?;
        self.write_jobs(tx).await?;
        self.attempts.write(tx).await?;
        write_events(tx, &self.events, now).await
    }

    /// The one statement that changes a task's state.
    async fn write_tasks(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        let mut rows = TaskColumns::default();
        for (id, work) in self.tasks.iter().filter(|(_, work)| work.dirty) {
            rows.push(id.0, work);
        }
        if rows.id.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "UPDATE tasks t SET state = u.state::task_state, since = u.since, attempt = u.attempt, \
                 repeats = u.repeats, repeats_since = u.repeats_since, not_before = u.not_before, \
                 worker_id = u.worker_id, started_at = u.started_at, stop_message = u.stop_message, \
                 reason_code = u.reason_code, reason_message = u.reason_message, finished_at = u.finished_at, \
                 moving = u.moving \
             FROM UNNEST($1::bigint[], $2::text[], $3::timestamptz[], $4::int[], $5::int[], $6::timestamptz[], \
                 $7::timestamptz[], $8::bigint[], $9::timestamptz[], $10::text[], $11::text[], $12::text[], \
                 $13::timestamptz[], $14::boolean[]) \
                 AS u(id, state, since, attempt, repeats, repeats_since, not_before, worker_id, started_at, \
                 stop_message, reason_code, reason_message, finished_at, moving) \
             WHERE t.id = u.id",
        )
        .bind(rows.id)
        .bind(rows.state)
        .bind(rows.since)
        .bind(rows.attempt)
        .bind(rows.repeats)
        .bind(rows.repeats_since)
        .bind(rows.not_before)
        .bind(rows.worker_id)
        .bind(rows.started_at)
        .bind(rows.stop_message)
        .bind(rows.reason_code)
        .bind(rows.reason_message)
        .bind(rows.finished_at)
        .bind(rows.moving)
        .execute(tx)
        .await?;
        Ok(())
    }

    async fn write_counts(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        let (mut jobs, mut positions) = (Vec::new(), Vec::new());
        let mut changes: [Vec<i64>; 8] = Default::default();
        for (id, job) in &self.jobs {
            for (position, definition) in job.definitions.iter().enumerate() {
                if definition.change.as_array() == [0; 8] {
                    continue;
                }
                jobs.push(id.0);
                positions.push(position as i16);
                for (column, change) in changes.iter_mut().zip(definition.change.as_array()) {
                    column.push(change);
                }
            }
        }
        if jobs.is_empty() {
            return Ok(());
        }
        let mut query = sqlx::query(
            "UPDATE task_definitions d SET blocked = d.blocked + u.c1, pending = d.pending + u.c2, \
                 scheduled = d.scheduled + u.c3, running = d.running + u.c4, stopping = d.stopping + u.c5, \
                 completed = d.completed + u.c6, failed = d.failed + u.c7, cancelled = d.cancelled + u.c8 \
             FROM UNNEST($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], \
                 $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[]) \
                 AS u(job_id, position, c1, c2, c3, c4, c5, c6, c7, c8) \
             WHERE d.job_id = u.job_id AND d.position = u.position",
        )
        .bind(jobs)
        .bind(positions);
        for column in changes {
            query = query.bind(column);
        }
        query.execute(tx).await?;
        Ok(())
    }

    async fn write_jobs(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        let (mut ids, mut states) = (Vec::new(), Vec::new());
        let (mut started, mut finished) = (Vec::new(), Vec::new());
        let (mut stops, mut codes, mut messages) = (Vec::new(), Vec::new(), Vec::new());
        for (id, job) in self.jobs.iter().filter(|(_, job)| job.dirty) {
            ids.push(id.0);
            states.push(job.state.as_str());
            started.push(job.started_at);
            finished.push(job.finished_at);
            stops.push(job.stop_message.clone());
            // A reason is shown once the job is over; until then it is only remembered.
            codes.push(job.reason.as_ref().map(|reason| reason.code.as_str()));
            messages.push(job.reason.as_ref().map(|reason| reason.message.clone()));
        }
        if ids.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "UPDATE jobs j SET state = u.state::job_state, started_at = GREATEST(u.started_at, \
                     CASE WHEN u.started_at IS NOT NULL THEN j.created_at END), \
                 finished_at = CASE WHEN u.finished_at IS NOT NULL \
                     THEN GREATEST(u.finished_at, u.started_at, j.created_at) END, \
                 stop_message = u.stop_message, reason_code = u.reason_code, reason_message = u.reason_message \
             FROM UNNEST($1::bigint[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::text[], \
                 $7::text[]) \
                 AS u(id, state, started_at, finished_at, stop_message, reason_code, reason_message) \
             WHERE j.id = u.id",
        )
        .bind(ids)
        .bind(states)
        .bind(started)
        .bind(finished)
        .bind(stops)
        .bind(codes)
        .bind(messages)
        .execute(tx)
        .await?;
        Ok(())
    }
}

#[derive(Default)]
struct TaskColumns<'a> {
    id: Vec<i64>,
    state: Vec<&'static str>,
    since: Vec<Time>,
    attempt: Vec<i32>,
    repeats: Vec<i32>,
    repeats_since: Vec<Option<Time>>,
    not_before: Vec<Option<Time>>,
    worker_id: Vec<Option<i64>>,
    started_at: Vec<Option<Time>>,
    stop_message: Vec<Option<&'a str>>,
    reason_code: Vec<Option<&'static str>>,
    reason_message: Vec<Option<&'a str>>,
    finished_at: Vec<Option<Time>>,
    moving: Vec<bool>,
}

impl<'a> TaskColumns<'a> {
    fn push(&mut self, id: i64, work: &'a TaskWork) {
        let task = &work.task;
        let (not_before, started_at, stop_message, reason, finished_at) = columns(&task.state);
        self.id.push(id);
        self.state.push(task.state.name().as_str());
        self.since.push(work.since);
        self.attempt.push(task.attempt as i32);
        self.repeats.push(task.repeats.count as i32);
        self.repeats_since.push(task.repeats.since);
        self.not_before.push(not_before);
        self.worker_id.push(task.state.worker().map(|worker| worker.0));
        self.started_at.push(started_at);
        self.stop_message.push(stop_message);
        self.reason_code.push(reason.map(|reason| reason.code.as_str()));
        self.reason_message.push(reason.map(|reason| reason.message.as_str()));
        self.finished_at.push(finished_at);
        self.moving.push(task.state.is_moving());
    }
}

type StateColumns<'a> = (Option<Time>, Option<Time>, Option<&'a str>, Option<&'a Reason>, Option<Time>);

fn columns(state: &TaskState) -> StateColumns<'_> {
    match state {
        TaskState::Blocked | TaskState::Scheduled { .. } => (None, None, None, None, None),
        TaskState::Pending { not_before, after } => (Some(*not_before), None, None, after.as_ref(), None),
        TaskState::Running { since, .. } => (None, Some(*since), None, None, None),
        TaskState::Stopping { started, cause, .. } => (None, *started, Some(&cause.message), None, None),
        TaskState::Completed { at } => (None, None, None, None, Some(*at)),
        TaskState::Failed { at, reason } | TaskState::Cancelled { at, reason } => {
            (None, None, None, Some(reason), Some(*at))
        }
    }
}

impl AttemptWrites {
    async fn write(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        self.write_opened(tx).await?;
        self.write_changed(tx).await
    }

    async fn write_opened(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        if self.opened.is_empty() {
            return Ok(());
        }
        let (mut tasks, mut attempts, mut workers) = (Vec::new(), Vec::new(), Vec::new());
        let (mut placements, mut times) = (Vec::new(), Vec::new());
        for (attempt, worker, at, receipt) in &self.opened {
            tasks.push(attempt.task.0);
            attempts.push(attempt.attempt as i32);
            workers.push(worker.0);
            placements.push(receipt.as_ref().and_then(|receipt| serde_json::to_value(receipt).ok()));
            times.push(*at);
        }
        sqlx::query(
            "INSERT INTO attempts (task_id, attempt, worker_id, placement, scheduled_at) \
             SELECT * FROM UNNEST($1::bigint[], $2::int[], $3::bigint[], $4::jsonb[], $5::timestamptz[])",
        )
        .bind(tasks)
        .bind(attempts)
        .bind(workers)
        .bind(placements)
        .bind(times)
        .execute(tx)
        .await?;
        Ok(())
    }

    async fn write_changed(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        if self.changed.is_empty() {
            return Ok(());
        }
        let (mut tasks, mut attempts) = (Vec::new(), Vec::new());
        let (mut started, mut finished) = (Vec::new(), Vec::new());
        let mut endings: Vec<Option<Value>> = Vec::new();
        let (mut exit_codes, mut signals) = (Vec::new(), Vec::new());
        let (mut codes, mut messages) = (Vec::new(), Vec::new());
        let (mut bytes, mut lines, mut sums) = (Vec::new(), Vec::new(), Vec::new());
        let mut complete: Vec<Option<bool>> = Vec::new();
        let mut killed: Vec<Option<Value>> = Vec::new();
        let mut containers: Vec<Option<Value>> = Vec::new();
        let mut ran: Vec<Option<i64>> = Vec::new();
        for (attempt, update) in &self.changed {
            let end = update.end.as_ref();
            let reason = end.and_then(|end| end.reason());
            let report = update.report.as_ref();
            tasks.push(attempt.task.0);
            attempts.push(attempt.attempt as i32);
            started.push(update.started_at);
            finished.push(update.finished_at);
            endings.push(end.and_then(|end| serde_json::to_value(end).ok()));
            exit_codes.push(end.and_then(|end| end.exit_code()));
            signals.push(end.and_then(|end| end.signal()));
            codes.push(reason.as_ref().map(|reason| reason.code.as_str()));
            messages.push(reason.map(|reason| reason.message));
            ran.push(
                report
                    .filter(|report| report.started_at.is_some())
                    .map(|report| i64::try_from(report.ran_micros).unwrap_or(i64::MAX)),
            );
            bytes.push(report.map(|report| report.output_bytes as i64));
            lines.push(report.map(|_| update.output.lines as i64));
            complete.push(report.and(update.output.complete));
            sums.push(report.and_then(|report| report.output_sha256.clone()));
            killed.push(
                report
                    .and_then(|report| report.killed.as_ref())
                    .and_then(|killed| serde_json::to_value(killed).ok()),
            );
            containers
                .push(update.container.as_ref().and_then(|container| serde_json::to_value(container).ok()));
        }
        sqlx::query(
            "UPDATE attempts a SET started_at = COALESCE(a.started_at, \
                     CASE WHEN u.started_at IS NOT NULL THEN GREATEST(u.started_at, a.scheduled_at) END), \
                 finished_at = CASE WHEN u.finished_at IS NOT NULL \
                     THEN GREATEST(u.finished_at, a.started_at, a.scheduled_at) END, \
                 ran_micros = u.ran_micros, ending = u.ending, exit_code = u.exit_code, signal = u.signal, \
                 reason_code = u.reason_code, reason_message = u.reason_message, output_bytes = u.output_bytes, \
                 output_lines = u.output_lines, output_sha256 = u.output_sha256, killed = u.killed, \
                 output_complete = u.output_complete, \
                 container = COALESCE(u.container, a.container) \
             FROM UNNEST($1::bigint[], $2::int[], $3::timestamptz[], $4::timestamptz[], $5::jsonb[], $6::int[], \
                 $7::int[], $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::text[], $13::jsonb[], $14::jsonb[], \
                 $15::bigint[], $16::boolean[]) \
                 AS u(task_id, attempt, started_at, finished_at, ending, exit_code, signal, reason_code, \
                 reason_message, output_bytes, output_lines, output_sha256, killed, container, ran_micros, \
                 output_complete) \
             WHERE a.task_id = u.task_id AND a.attempt = u.attempt",
        )
        .bind(tasks)
        .bind(attempts)
        .bind(started)
        .bind(finished)
        .bind(endings)
        .bind(exit_codes)
        .bind(signals)
        .bind(codes)
        .bind(messages)
        .bind(bytes)
        .bind(lines)
        .bind(sums)
        .bind(killed)
        .bind(containers)
        .bind(ran)
        .bind(complete)
        .execute(tx)
        .await?;
        Ok(())
    }
}

async fn write_events(tx: &mut PgConnection, events: &[EventRow], now: Time) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    let (mut projects, mut kinds, mut jobs, mut tasks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut attempts, mut workers, mut actors, mut messages) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for event in events {
        projects.push(event.project.0);
        kinds.push(event.kind.as_str());
        jobs.push(event.job.0);
        tasks.push(event.task.map(|task| task.0));
        attempts.push(event.attempt.map(|attempt| attempt as i32));
        workers.push(event.worker.map(|worker| worker.0));
        actors.push(&*event.actor);
        messages.push(event.message.as_str());
    }
    sqlx::query(
        "INSERT INTO events (project_id, at, kind, job_id, task_id, attempt, worker_id, actor, message) \
         SELECT u.project_id, $1, u.kind, u.job_id, u.task_id, u.attempt, u.worker_id, u.actor, u.message \
         FROM UNNEST($2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::int[], $7::bigint[], $8::text[], \
             $9::text[]) \
             WITH ORDINALITY AS u(project_id, kind, job_id, task_id, attempt, worker_id, actor, message, place) \
         ORDER BY u.place",
    )
    .bind(now)
    .bind(projects)
    .bind(kinds)
    .bind(jobs)
    .bind(tasks)
    .bind(attempts)
    .bind(workers)
    .bind(actors)
    .bind(messages)
    .execute(tx)
    .await?;
    Ok(())
}

/// The order in which [`StateName::ALL`] and the columns of `task_definitions` name the states must agree.
const _: () = assert!(StateName::Blocked as usize == 0 && StateName::Cancelled as usize == 7);
