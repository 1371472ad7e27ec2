//! Reads the history.

mod settled;

use gaffer_domain::{AttemptRef, JobId, ProjectId, WorkerId};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use super::event_rows::EVENTS_PER_ROW;
use super::{ReadStore, Store, StoreError, tasks};
use crate::records::Event;
pub use settled::{Settled, SettledEvents};

impl FromRow<'_, PgRow> for Event {
    fn from_row(row: &PgRow) -> sqlx::Result<Event> {
        Ok(Event {
            id: row.try_get("id")?,
            at: row.try_get("at")?,
            kind: row.try_get("kind")?,
            job: row.try_get::<Option<i64>, _>("job_id")?.map(JobId),
            task: tasks::address_in(row)?,
            attempt: row.try_get::<Option<i32>, _>("attempt")?.map(|attempt| attempt as u32),
            worker: row.try_get("worker_name")?,
            actor: row.try_get("actor")?,
            message: row.try_get("message")?,
        })
    }
}

/// The oldest events above some number.
#[derive(Debug, Clone)]
pub struct EventsAfter {
    /// In the order of their numbers. A follower that continues from the last of them misses none.
    pub events: Vec<Event>,
    /// Newer events exist but are not settled: a transaction with a lower number is still open.
    pub is_held_back: bool,
}

impl Store {
    /// Adds a note to the history of a worker's present attempt and gives its job; none if the attempt is not that
    /// worker's, or no more.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn attempt_note(
        &self,
        worker: WorkerId,
        attempt: AttemptRef,
        message: &str,
    ) -> Result<Option<JobId>, StoreError> {
        self.attempt_event(worker, attempt, "task.noted", message).await
    }

    /// Records an event of an attempt that is live on this worker; returns its job, none if it is not.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn attempt_event(
        &self,
        worker: WorkerId,
        attempt: AttemptRef,
        kind: &str,
        message: &str,
    ) -> Result<Option<JobId>, StoreError> {
        let mut tx = self.begin().await?;
        let job: Option<i64> = sqlx::query_scalar(
            "INSERT INTO events (project_id, at, kind, job_id, task_id, attempt, worker_id, actor, message, era) \
             SELECT j.project_id, now(), $5, t.job_id, t.id, t.attempt, w.id, 'worker ' || w.name, $4, \
                 era_of_task(t.id) \
             FROM live_tasks t JOIN jobs j ON j.id = t.job_id JOIN workers w ON w.id = t.worker_id \
             WHERE t.id = $1 AND t.attempt = $2 AND t.worker_id = $3 \
                 AND t.state IN ('scheduled', 'running', 'stopping') \
             RETURNING job_id",
        )
        .bind(attempt.task.0)
        .bind(attempt.attempt as i32)
        .bind(worker.0)
        .bind(message)
        .bind(kind)
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(job.map(JobId))
    }
}

impl ReadStore {
    /// The newest events of a project, or of one job of it, below this number, newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn events_before(
        &self,
        project: ProjectId,
        job: Option<JobId>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        self.event_list(project, job, (0, before.unwrap_or(i64::MAX)), "DESC", limit).await
    }

    /// The oldest events after a number, of a project or of one job. Ends before the first unsettled one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn events_after(
        &self,
        project: ProjectId,
        job: Option<JobId>,
        after: i64,
        limit: u32,
    ) -> Result<EventsAfter, StoreError> {
        let settled = self.events_settled().await?;
        let events =
            self.event_list(project, job, (after, settled.upto.saturating_add(1)), "ASC", limit).await?;
        let is_whole = events.len() < limit as usize;
        Ok(EventsAfter { events, is_held_back: is_whole && settled.upto < settled.newest })
    }

    /// Events between two numbers, without these.
    async fn event_list(
        &self,
        project: ProjectId,
        job: Option<JobId>,
        (after, before): (i64, i64),
        order: &str,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let (of_job, era_of_task) = match job {
            Some(_) => ("e.job_id = $2 AND e.era = $6", "$6"),
            None => ("$2::bigint IS NULL AND $6::bigint IS NULL", "era_of_task(f.task_id)"),
        };
        let era = match job {
            Some(job) => match self.era_of_job(job).await? {
                Some(era) => Some(era),
                None => return Ok(Vec::new()),
            },
            None => None,
        };
        // The rows first, then what is in them, then what belongs to that: so no more is looked up than is wanted.
        let sql = format!(
            "SELECT f.id, f.at, f.kind, f.job_id, d.name AS task_name, t.index AS task_index, \
                 d.single AS task_single, f.attempt, w.name AS worker_name, f.actor, f.message \
             FROM (SELECT e.id + i.place AS id, e.at, e.job_id, i.kind, i.task_id, i.attempt, i.worker_id, i.actor, i.message \
                 FROM (SELECT * FROM events e WHERE e.project_id = $1 AND {of_job} AND e.id > $3 - {EVENTS_PER_ROW} \
                     AND e.id + coalesce(jsonb_array_length(e.more), 0) > $3 \
                     AND e.id < $4 ORDER BY e.id {order} LIMIT $5) e \
                 CROSS JOIN LATERAL ( \
                     SELECT 0 AS place, e.kind, e.task_id, e.attempt, e.worker_id, e.actor, e.message \
                     UNION ALL \
                     SELECT place, kind, task_id, attempt, worker_id, actor, message \
                     FROM ROWS FROM (jsonb_to_recordset(e.more) AS (kind text, task_id bigint, attempt int, \
                         worker_id bigint, actor text, message text)) WITH ORDINALITY \
                         AS m(kind, task_id, attempt, worker_id, actor, message, place)) i \
                 WHERE e.id + i.place > $3 AND e.id + i.place < $4 ORDER BY e.id {order}, i.place {order} LIMIT $5) f \
             LEFT JOIN tasks t ON t.id = f.task_id AND t.era = {era_of_task} \
             LEFT JOIN task_definitions d ON d.job_id = t.job_id AND d.position = t.position \
             LEFT JOIN workers w ON w.id = f.worker_id ORDER BY f.id {order}"
        );
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(project.0)
            .bind(job.map(|job| job.0))
            .bind(after)
            .bind(before)
            .bind(i64::from(limit))
            .bind(era)
            .fetch_all(&self.pool)
            .await?)
    }
}
