//! What workers are to take, who is removed, and which tasks may have to go elsewhere.

use std::collections::BTreeSet;

use gaffer_domain::placement::DefinitionRef;
use gaffer_domain::worker::Intake;
use gaffer_domain::{JobId, ProjectId, TaskId, Time, WorkerId};
use sqlx::FromRow;

use super::{Store, StoreError};

/// A live task of a service, or one on a worker that drains.
#[derive(Debug, Clone)]
pub struct Resident {
    /// Which.
    pub task: TaskId,
    /// What it belongs to.
    pub definition: DefinitionRef,
    /// Whose it is.
    pub project: ProjectId,
    /// Where it is.
    pub worker: WorkerId,
    /// When it came into its state, or started.
    pub since: Time,
}

/// Who may have to go elsewhere, and what is on the way already.
#[derive(Debug, Clone, Default)]
pub struct Residents {
    /// Placed on a worker and not on the way.
    pub staying: Vec<Resident>,
    /// Definitions of services of which a task waits for a worker, has not started, or is being stopped.
    pub moving: BTreeSet<DefinitionRef>,
    /// The projects of these.
    pub unsettled: BTreeSet<ProjectId>,
}

/// What became of the wish to remove a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Removed,
    /// It is connected, and would be back at once.
    Connected,
    /// It has so many attempts that are not known to be over.
    Busy(i64),
}

#[derive(FromRow)]
struct ResidentRow {
    id: i64,
    job_id: i64,
    position: i16,
    project_id: i64,
    worker_id: Option<i64>,
    since: Time,
    is_service: bool,
    state: String,
}

impl Store {
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
        let done = sqlx::query(
            "WITH changed AS (UPDATE workers SET intake = $3, drained_at = NULL, \
                 drain_until = now() + $4 * interval '1 second' \
                 WHERE id = $1 AND project_id = $2 RETURNING project_id, id, drain_until) \
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
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Notes the draining workers that have nothing left, each once. Returns how many those were.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn workers_drained(&self) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "WITH empty AS (UPDATE workers SET drained_at = now() WHERE intake = 'draining' AND drained_at IS NULL \
                 AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.worker_id = workers.id \
                     AND tasks.state IN ('scheduled', 'running', 'stopping')) \
                 RETURNING project_id, id) \
             INSERT INTO events (project_id, at, kind, worker_id, actor, message) \
             SELECT project_id, now(), 'worker.drained', id, 'gaffer', 'it has nothing left' FROM empty",
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

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
            "SELECT offline_since IS NULL FROM workers WHERE id = $1 AND project_id = $2 FOR UPDATE",
        )
        .bind(worker.0)
        .bind(project.0)
        .fetch_optional(&mut *tx)
        .await?;
        if connected != Some(false) {
            return Ok(Removal::Connected);
        }
        let live: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM tasks WHERE worker_id = $1 AND state IN ('scheduled', 'running', 'stopping')",
        )
        .bind(worker.0)
        .fetch_one(&mut *tx)
        .await?;
        if live > 0 {
            return Ok(Removal::Busy(live));
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

    /// The tasks of services that are under way, and all tasks on workers that drain, oldest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tasks_that_may_move(&self, limit: u32) -> Result<Residents, StoreError> {
        let rows: Vec<ResidentRow> = sqlx::query_as(
            "SELECT t.id, t.job_id, t.position, j.project_id, t.worker_id, coalesce(t.started_at, t.since) AS since, \
                 j.kind = 'service' AS is_service, t.state::text AS state \
             FROM jobs j JOIN tasks t ON t.job_id = j.id \
             WHERE j.kind = 'service' AND j.finished_at IS NULL \
                 AND t.state IN ('pending', 'scheduled', 'running', 'stopping') \
             UNION ALL \
             SELECT t.id, t.job_id, t.position, j.project_id, t.worker_id, coalesce(t.started_at, t.since), false, \
                 t.state::text \
             FROM workers w JOIN tasks t ON t.worker_id = w.id AND t.state IN ('scheduled', 'running') \
             JOIN jobs j ON j.id = t.job_id \
             WHERE w.intake = 'draining' AND j.kind = 'batch' \
             ORDER BY id LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        let mut residents = Residents::default();
        for row in rows {
            let position = u16::try_from(row.position).unwrap_or(0);
            let definition = DefinitionRef { job: JobId(row.job_id), position };
            let project = ProjectId(row.project_id);
            if row.is_service && row.state != "running" {
                residents.moving.insert(definition);
                residents.unsettled.insert(project);
            }
            if let (Some(worker), "scheduled" | "running") = (row.worker_id, row.state.as_str()) {
                let (task, worker) = (TaskId(row.id), WorkerId(worker));
                residents.staying.push(Resident { task, definition, project, worker, since: row.since });
            }
        }
        Ok(residents)
    }
}
