//! Intake of workers (cordon, drain), their removal, and tasks that may have to move.

use std::collections::BTreeSet;

use gaffer_domain::placement::DefinitionRef;
use gaffer_domain::worker::Intake;
use gaffer_domain::{JobId, ProjectId, TaskId, Time, WorkerId};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use super::{Store, StoreError, WriteStore};

/// A task that is placed on a worker, or was.
#[derive(Debug, Clone, Copy)]
pub struct Resident {
    pub task: TaskId,
    pub attempt: u32,
    pub definition: DefinitionRef,
    pub project: ProjectId,
    /// Where it is; none if it has left and is placed nowhere yet.
    pub worker: Option<WorkerId>,
    /// When it came into its state, or started.
    pub since: Time,
}

/// The outcome of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Removed.
    Removed,
    /// It is connected, and would be back at once.
    Connected,
    /// It has live attempts.
    Busy,
}

impl FromRow<'_, PgRow> for Resident {
    fn from_row(row: &PgRow) -> sqlx::Result<Resident> {
        let job = JobId(row.try_get("job_id")?);
        let position = u16::try_from(row.try_get::<i16, _>("position")?).unwrap_or(0);
        Ok(Resident {
            task: TaskId(row.try_get("id")?),
            attempt: u32::try_from(row.try_get::<i32, _>("attempt")?).unwrap_or(0),
            definition: DefinitionRef { job, position },
            project: ProjectId(row.try_get("project_id")?),
            worker: row.try_get::<Option<i64>, _>("worker_id")?.map(WorkerId),
            since: row.try_get("since")?,
        })
    }
}

/// The row of a task that waits for its next attempt is still about the one before.
const RESIDENT: &str = "SELECT t.id, t.attempt, t.job_id, t.position, j.project_id, \
     CASE WHEN t.state <> 'pending' THEN t.worker_id END AS worker_id, \
     CASE WHEN t.state IN ('running', 'stopping') THEN coalesce(t.started_at, t.since) ELSE t.since END AS since";

impl WriteStore {
    /// Sets what a worker takes, and how long it may take to drain; false if the project has no such worker.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_intake(
        &self,
        project: ProjectId,
        worker: WorkerId,
        intake: Intake,
        deadline_secs: Option<f64>,
        actor: &str,
    ) -> Result<bool, StoreError> {
        let kind = match intake {
            Intake::Open => "worker.resumed",
            Intake::Cordoned => "worker.cordoned",
            Intake::Draining => "worker.draining",
        };
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "WITH changed AS (UPDATE workers SET intake = $3, drained_at = NULL, \
                 drain_until = now() + $4 * interval '1 second' \
                 WHERE id = $1 AND project_id + 0 = $2 RETURNING project_id, id, drain_until) \
             INSERT INTO events (project_id, at, kind, worker_id, actor, message) \
             SELECT project_id, now(), $5, id, $6, coalesce('until ' || to_char(drain_until AT TIME ZONE 'UTC', \
                 'YYYY-MM-DD HH24:MI:SS') || ' UTC', '') FROM changed",
        )
        .bind(worker.0)
        .bind(project.0)
        .bind(intake.as_str())
        .bind(deadline_secs)
        .bind(kind)
        .bind(actor)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }
}

impl Store {
    /// Notes the draining workers that have nothing left, each once. Returns how many those were. Nothing comes later: the
    /// scheduler places nothing on a worker that drains.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn workers_drained(&self) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "WITH empty AS (UPDATE workers SET drained_at = now() WHERE intake = 'draining' AND drained_at IS NULL \
                 AND NOT EXISTS (SELECT 1 FROM live_tasks t WHERE t.worker_id = workers.id \
                     AND t.state IN ('scheduled', 'running', 'stopping')) \
                 RETURNING project_id, id) \
             INSERT INTO events (project_id, at, kind, worker_id, actor, message) \
             SELECT project_id, now(), 'worker.drained', id, 'gaffer', 'it has nothing left' FROM empty",
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }
}

impl WriteStore {
    /// Removes a worker that is not connected and has nothing left: it is in no list any more and its name is free. If
    /// it connects again, it is back.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_remove(
        &self,
        project: ProjectId,
        worker: WorkerId,
        actor: &str,
    ) -> Result<Removal, StoreError> {
        let mut tx = self.begin().await?;
        let connected: Option<bool> = sqlx::query_scalar(
            "SELECT offline_since IS NULL FROM workers WHERE id = $1 AND project_id + 0 = $2 FOR UPDATE",
        )
        .bind(worker.0)
        .bind(project.0)
        .fetch_optional(&mut *tx)
        .await?;
        if connected != Some(false) {
            return Ok(Removal::Connected);
        }
        let is_busy: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM live_tasks WHERE worker_id = $1 AND state IN ('scheduled', 'running', 'stopping'))",
        )
        .bind(worker.0)
        .fetch_one(&mut *tx)
        .await?;
        if is_busy {
            return Ok(Removal::Busy);
        }
        sqlx::query(
            "WITH gone AS (UPDATE workers SET removed_at = now(), intake = 'open', drain_until = NULL, \
                 drained_at = NULL WHERE id = $1 RETURNING project_id, id, name) \
             INSERT INTO events (project_id, at, kind, worker_id, actor, message) \
             SELECT project_id, now(), 'worker.removed', id, $2, name FROM gone",
        )
        .bind(worker.0)
        .bind(actor)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Removal::Removed)
    }
}

impl Store {
    /// Tasks placed on draining workers, connected or not, that are not moving yet, grouped by worker.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tasks_on_draining(&self, limit: u32) -> Result<Vec<Resident>, StoreError> {
        let from = "FROM workers w JOIN live_tasks t ON t.worker_id = w.id AND t.state IN ('scheduled', 'running') \
             JOIN jobs j ON j.id = t.job_id WHERE w.intake = 'draining' ORDER BY w.id, t.id LIMIT $1";
        self.residents(from, i64::from(limit)).await
    }

    /// The tasks that leave a worker, or have left one and are placed on none yet.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tasks_on_their_way(&self, limit: u32) -> Result<Vec<Resident>, StoreError> {
        let from = "FROM (SELECT * FROM live_tasks WHERE moving UNION ALL \
             SELECT * FROM live_tasks WHERE state = 'pending' AND reason_code = 'stopped') t \
             JOIN jobs j ON j.id = t.job_id ORDER BY t.id LIMIT $1";
        self.residents(from, i64::from(limit)).await
    }

    /// The tasks of services that execute.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tasks_of_services(&self, limit: u32) -> Result<Vec<Resident>, StoreError> {
        let from = "FROM jobs j JOIN live_tasks t ON t.job_id = j.id AND t.state = 'running' \
             WHERE j.kind = 'service' AND j.finished_at IS NULL ORDER BY t.id LIMIT $1";
        self.residents(from, i64::from(limit)).await
    }

    async fn residents(&self, from: &'static str, limit: i64) -> Result<Vec<Resident>, StoreError> {
        let sql = format!("{RESIDENT} {from}");
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(limit).fetch_all(&self.pool).await?)
    }

    /// Of these jobs the definitions of which a task is placed and has not started.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn definitions_starting(&self, jobs: &[JobId]) -> Result<BTreeSet<DefinitionRef>, StoreError> {
        let jobs: Vec<i64> = jobs.iter().map(|job| job.0).collect();
        let rows: Vec<(i64, i16)> = sqlx::query_as(
            "SELECT job_id, position FROM task_definitions WHERE job_id = ANY($1) AND scheduled > 0",
        )
        .bind(jobs)
        .fetch_all(&self.pool)
        .await?;
        let definition = |(job, position): (i64, i16)| DefinitionRef {
            job: JobId(job),
            position: u16::try_from(position).unwrap_or(0),
        };
        Ok(rows.into_iter().map(definition).collect())
    }

    /// The projects of which a service has tasks that do not execute: they wait, are placed, or are being stopped.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn projects_unsettled(&self) -> Result<BTreeSet<ProjectId>, StoreError> {
        let rows: Vec<i64> = sqlx::query_scalar(
            "SELECT DISTINCT j.project_id FROM jobs j JOIN task_definitions d ON d.job_id = j.id \
             WHERE j.kind = 'service' AND j.finished_at IS NULL AND d.pending + d.scheduled + d.stopping > 0",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(ProjectId).collect())
    }
}
