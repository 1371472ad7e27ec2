//! What the scheduler reads: which classes of tasks wait, and which tasks of a class go first.

use gaffer_domain::placement::Needs;
use gaffer_domain::{ProjectId, TaskId, Time};
use sqlx::types::Json;

use super::{Store, StoreError};

/// A class of which at least one task waits.
#[derive(Debug, Clone)]
pub struct PendingClass {
    /// Its number.
    pub id: i64,
    /// Whose tasks they are.
    pub project: ProjectId,
    /// Their priority.
    pub priority: i16,
    /// What they need.
    pub needs: Needs,
    /// When the first of them may be placed.
    pub first: Time,
}

impl Store {
    /// Whether any task waits for a worker.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tasks_any_pending(&self) -> Result<bool, StoreError> {
        let any = "SELECT EXISTS (SELECT 1 FROM tasks WHERE state = 'pending')";
        Ok(sqlx::query_scalar(any).fetch_one(&self.pool).await?)
    }

    /// The classes with pending tasks: highest priority first, then who has waited longest. Costs one index look-up a
    /// class, however many tasks wait.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn classes_pending(&self) -> Result<Vec<PendingClass>, StoreError> {
        let rows: Vec<(i64, i64, i16, Json<Needs>, Time)> = sqlx::query_as(
            "WITH RECURSIVE waiting AS ( \
                 (SELECT class_id, not_before FROM tasks WHERE state = 'pending' \
                     ORDER BY class_id, not_before LIMIT 1) \
                 UNION ALL \
                 SELECT next.class_id, next.not_before FROM waiting, LATERAL ( \
                     SELECT class_id, not_before FROM tasks WHERE state = 'pending' \
                     AND class_id > waiting.class_id ORDER BY class_id, not_before LIMIT 1) next) \
             SELECT c.id, c.project_id, c.priority, c.needs, waiting.not_before \
             FROM waiting JOIN classes c ON c.id = waiting.class_id \
             ORDER BY c.priority DESC, waiting.not_before, c.id",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(id, project, priority, needs, first)| PendingClass {
                id,
                project: ProjectId(project),
                priority,
                needs: needs.0,
                first,
            })
            .collect())
    }

    /// The tasks of a class that go first, of those that may be placed at `now`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn class_heads(&self, class: i64, now: Time, limit: u32) -> Result<Vec<TaskId>, StoreError> {
        let ids: Vec<i64> = sqlx::query_scalar(
            "SELECT id FROM tasks WHERE state = 'pending' AND class_id = $1 AND not_before <= $2 \
             ORDER BY not_before, id LIMIT $3",
        )
        .bind(class)
        .bind(now)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        Ok(ids.into_iter().map(TaskId).collect())
    }
}
