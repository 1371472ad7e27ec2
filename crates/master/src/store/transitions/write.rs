//! Writes the changes of a batch in a constant number of statements.

use std::sync::LazyLock;

use gaffer_domain::task::StateName;
use gaffer_domain::{AttemptRef, Time};
use sqlx::PgConnection;

use super::super::StoreError;
use super::super::event_rows::write_events;
use super::Work;
use super::task_columns::{EarlierColumns, TaskColumns, finish, keep_earlier, update_live};

static UPDATE_LIVE: LazyLock<String> = LazyLock::new(update_live);
static FINISH: LazyLock<String> = LazyLock::new(finish);
static KEEP_EARLIER: LazyLock<String> = LazyLock::new(keep_earlier);

impl Work {
    /// Writes all that is dirty.
    pub(super) async fn write(&self, tx: &mut PgConnection, now: Time) -> Result<(), StoreError> {
        self.write_tasks(tx).await?;
        self.write_counts(tx).await?;
        self.write_jobs(tx).await?;
        write_events(tx, &self.events, now).await
    }

    /// The statements that change a task's state: of those that go on, and of those that are over.
    async fn write_tasks(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        let (mut live, mut finished) = (TaskColumns::default(), TaskColumns::default());
        let mut earlier = EarlierColumns::default();
        for (id, work) in self.tasks.iter().filter(|(_, work)| work.dirty) {
            let attempt = |number| AttemptRef { task: *id, attempt: number };
            let update = |number| self.attempts.0.get(&attempt(number));
            let latest = work.task.attempt;
            for number in work.stored_attempt.max(1)..latest {
                earlier.push(attempt(number), update(number));
            }
            let columns = if work.task.state.name().is_final() { &mut finished } else { &mut live };
            columns.push(id.0, work, update(latest));
        }
        if !earlier.is_empty() {
            earlier.bind(sqlx::query(KEEP_EARLIER.as_str())).execute(&mut *tx).await?;
        }
        if !live.is_empty() {
            live.bind(sqlx::query(UPDATE_LIVE.as_str())).execute(&mut *tx).await?;
        }
        if !finished.is_empty() {
            finished.bind(sqlx::query(FINISH.as_str())).execute(&mut *tx).await?;
        }
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
        for (id, job) in self.jobs.iter().filter(|(_, job)| job.is_changed()) {
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

/// The order in which [`StateName::ALL`] and the columns of `task_definitions` name the states must agree.
const _: () = assert!(StateName::Blocked as usize == 0 && StateName::Cancelled as usize == 7);
