//! Where workers are: detects copies, frees the names of lost workers, and finally removes these.

use gaffer_domain::quantity::Span;
use gaffer_domain::worker::WORKER_LOST_AFTER;
use gaffer_domain::worker::place::Place;
use gaffer_domain::{ProjectId, WorkerId};

use super::{Store, StoreError};

/// A known worker and where it was.
#[derive(Debug, Clone)]
pub struct KnownPlace {
    pub id: WorkerId,
    pub name: String,
    /// Its place at the last hello.
    pub place: Place,
}

/// A worker that is lost and has nothing left, in `workers w`; its parameter is how long it must have been away.
const LOST_AND_IDLE: &str = "w.removed_at IS NULL AND w.offline_since < now() - $1 * interval '1 millisecond' \
     AND NOT EXISTS (SELECT 1 FROM live_tasks t WHERE t.worker_id = w.id \
         AND t.state IN ('scheduled', 'running', 'stopping'))";

impl Store {
    /// Whether tasks are placed on a worker, started or not.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_has_attempts(&self, worker: WorkerId) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM live_tasks WHERE worker_id = $1 AND state IN ('scheduled', 'running', 'stopping'))",
        )
        .bind(worker.0)
        .fetch_one(&self.pool)
        .await?)
    }

    /// Writes an event about a duplicate into the history of the worker that keeps its place.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_duplicate(&self, worker: WorkerId, message: &str) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO events (project_id, at, kind, worker_id, actor, message) \
             SELECT project_id, now(), 'worker.duplicate', id, 'gaffer', $2 FROM workers WHERE id = $1",
        )
        .bind(worker.0)
        .bind(message)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Makes a name free that a lost worker with nothing left has: that one keeps it with its number behind it, for the
    /// name alone means the worker that is there.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_name_release(&self, project: ProjectId, name: &str) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let sql = format!(
            "WITH gone AS (UPDATE workers w SET name = w.name || '-' || w.id WHERE w.project_id = $2 AND w.name = $3 \
                 AND {LOST_AND_IDLE} AND NOT EXISTS (SELECT 1 FROM workers other WHERE other.project_id = $2 \
                     AND other.removed_at IS NULL AND other.name = w.name || '-' || w.id) \
                 RETURNING w.project_id, w.id, w.name) \
             INSERT INTO events (project_id, at, kind, worker_id, actor, message) \
             SELECT project_id, now(), 'worker.renamed', id, 'gaffer', \
                 'it is lost, and another worker has its name: it is called ' || name || ' now' FROM gone"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(millis(WORKER_LOST_AFTER))
            .bind(project.0)
            .bind(name)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Removes workers that have been disconnected this long and have no attempts; their names become free. They
    /// return if they reconnect. Returns their number.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn workers_forget(&self, away: Span) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let sql = format!(
            "WITH gone AS (UPDATE workers w SET removed_at = now(), intake = 'open', drain_until = NULL, \
                 drained_at = NULL WHERE {LOST_AND_IDLE} RETURNING w.project_id, w.id, w.name) \
             INSERT INTO events (project_id, at, kind, worker_id, actor, message) \
             SELECT project_id, now(), 'worker.forgotten', id, 'gaffer', \
                 name || ' was away for more than ' || $2 || ' without attempts (GAFFER_FORGET_WORKERS); its name is free' \
             FROM gone"
        );
        let done = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(millis(away))
            .bind(away.to_string())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }
}

pub(super) fn millis(span: Span) -> f64 {
    span.as_millis() as f64
}
