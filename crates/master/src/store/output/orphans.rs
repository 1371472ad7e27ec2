//! Output without a task, which earlier versions left when a job was deleted during a merge.

use super::super::{Store, StoreError};

/// Number of chunks deleted per transaction.
const SLICE_CHUNKS: i64 = 2_000;

/// How far one look for orphans got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrphansSeen {
    /// Number of deleted chunks without a task.
    pub deleted: u64,
    /// Where to continue; none at the end.
    pub next: Option<i64>,
}

impl Store {
    /// Looks at the next tasks of the first era with output (earlier versions knew no other), from the one after `after` on, and deletes the output of those that do not
    /// exist. Costs two index look-ups a task, however much output it has.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn output_orphans_delete(&self, after: i64, tasks: u32) -> Result<OrphansSeen, StoreError> {
        let seen: Vec<(i64, bool)> = sqlx::query_as(
            "WITH RECURSIVE walk AS ( \
                 (SELECT task_id, 1 AS n FROM output_chunks WHERE task_id > $1 AND task_id < first_task(1) \
                     ORDER BY task_id LIMIT 1) \
                 UNION ALL \
                 SELECT next.task_id, walk.n + 1 FROM walk, LATERAL (SELECT task_id FROM output_chunks \
                     WHERE task_id > walk.task_id AND task_id < first_task(1) ORDER BY task_id LIMIT 1) next WHERE walk.n < $2) \
             SELECT walk.task_id, NOT EXISTS (SELECT 1 FROM tasks t WHERE t.id = walk.task_id AND t.era = 0) FROM walk",
        )
        .bind(after)
        .bind(i64::from(tasks))
        .fetch_all(&self.pool)
        .await?;
        let mut deleted = 0;
        for (task, _) in seen.iter().filter(|(_, is_gone)| *is_gone) {
            loop {
                let mut tx = self.begin().await?;
                let slice = sqlx::query(
                    "DELETE FROM output_chunks WHERE task_id = $1 AND (attempt, start_offset) IN ( \
                         SELECT attempt, start_offset FROM output_chunks WHERE task_id = $1 LIMIT $2) \
                         AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.id = $1 AND t.era = 0)",
                )
                .bind(task)
                .bind(SLICE_CHUNKS)
                .execute(&mut *tx)
                .await?;
                tx.commit().await?;
                deleted += slice.rows_affected();
                if slice.rows_affected() < SLICE_CHUNKS as u64 {
                    break;
                }
            }
        }
        let next = seen.last().map(|(task, _)| *task).filter(|_| seen.len() == tasks as usize);
        Ok(OrphansSeen { deleted, next })
    }
}
