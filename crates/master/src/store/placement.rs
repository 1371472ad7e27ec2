//! What the scheduler reads: which classes of tasks wait, and which tasks of a class go first.

use std::collections::BTreeMap;

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
    /// Who submitted them.
    pub owner: String,
    /// Their priority.
    pub priority: i16,
    /// What they need.
    pub needs: Needs,
    /// When the first of them may be placed.
    pub first: Time,
}

impl Store {
    /// The classes with pending tasks: highest priority first, then who has waited longest. Costs one index look-up a
    /// class, however many tasks wait.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn classes_pending(&self) -> Result<Vec<PendingClass>, StoreError> {
        let rows: Vec<(i64, i64, String, i16, Json<Needs>, Time)> = sqlx::query_as(
            "WITH RECURSIVE waiting AS ( \
                 (SELECT class_id, not_before FROM tasks WHERE state = 'pending' \
                     ORDER BY class_id, not_before LIMIT 1) \
                 UNION ALL \
                 SELECT next.class_id, next.not_before FROM waiting, LATERAL ( \
                     SELECT class_id, not_before FROM tasks WHERE state = 'pending' \
                     AND class_id > waiting.class_id ORDER BY class_id, not_before LIMIT 1) next) \
             SELECT c.id, c.project_id, c.owner, c.priority, c.needs, waiting.not_before \
             FROM waiting JOIN classes c ON c.id = waiting.class_id \
             ORDER BY c.priority DESC, waiting.not_before, c.id",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(id, project, owner, priority, needs, first)| PendingClass {
                id,
                project: ProjectId(project),
                owner,
                priority,
                needs: needs.0,
                first,
            })
            .collect())
    }

    /// Of each of these classes the tasks that go first, of those that may be placed at `now`, at most so many of each.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn class_heads(
        &self,
        wanted: &[(i64, usize)],
        now: Time,
    ) -> Result<BTreeMap<i64, Vec<TaskId>>, StoreError> {
        let (classes, most): (Vec<i64>, Vec<i64>) =
            wanted.iter().map(|(class, most)| (*class, i64::try_from(*most).unwrap_or(i64::MAX))).unzip();
        let rows: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT wanted.class_id, head.id FROM UNNEST($1::bigint[], $2::bigint[]) AS wanted(class_id, most), \
             LATERAL (SELECT id, not_before FROM tasks WHERE state = 'pending' AND class_id = wanted.class_id \
                 AND not_before <= $3 ORDER BY not_before, id LIMIT wanted.most) head \
             ORDER BY wanted.class_id, head.not_before, head.id",
        )
        .bind(classes)
        .bind(most)
        .bind(now)
        .fetch_all(&self.pool)
        .await?;
        let mut heads: BTreeMap<i64, Vec<TaskId>> = BTreeMap::new();
        for (class, task) in rows {
            heads.entry(class).or_default().push(TaskId(task));
        }
        Ok(heads)
    }
}
