//! What the loop that moves output to object storage reads: jobs, their attempts, and parts of output.

use gaffer_domain::output_move::{Movable, StoredOutput};
use gaffer_domain::{AttemptRef, JobId, TaskId, Time};

use super::super::{ReadStore, Store, StoreError};
use super::ChunkRow;

/// Maximum number of tasks of a job that are looked at together.
const PAGE_TASKS: i64 = 200;
/// Number of chunks that are read together; each has at most 256 KiB.
const READ_CHUNKS: u32 = 8;
/// Maximum number of chunks of a part. Reading any of them means reading the part.
const MOST_CHUNKS: usize = 512;

/// A finished job whose output has not been moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnmovedJob {
    pub id: JobId,
    pub era: i64,
    pub finished_at: Time,
}

/// A place among the tasks of a job: position and index.
pub type TaskPlace = (i16, i32);

/// Some attempts of a job.
#[derive(Debug, Default)]
pub struct MovablePage {
    /// Those whose output can be moved, and the offset from which on it is in the database.
    pub attempts: Vec<(AttemptRef, u64)>,
    /// Whether there are others whose output may be movable later.
    pub has_others: bool,
    /// After which task to continue; none at the end.
    pub next: Option<TaskPlace>,
}

/// Task, attempt, bytes as its worker reported them, where the first chunk begins, where the stored output ends, and whether it
/// has dead letters.
type AttemptRow = (i64, i32, Option<i64>, i64, i64, bool);

impl ReadStore {
    /// The job that finished first among those that finished no later than `until`, after another one, and have output that
    /// was not moved.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_with_output_to_move(
        &self,
        until: Time,
        after: Option<UnmovedJob>,
    ) -> Result<Option<UnmovedJob>, StoreError> {
        let found: Option<(i64, i64, Time)> = sqlx::query_as(
            "SELECT id, era, finished_at FROM jobs WHERE finished_at IS NOT NULL AND NOT output_moved AND finished_at <= $1 \
                 AND (finished_at, id) > (COALESCE($2, '-infinity'::timestamptz), $3) ORDER BY finished_at, id LIMIT 1",
        )
        .bind(until)
        .bind(after.map(|job| job.finished_at))
        .bind(after.map_or(0, |job| job.id.0))
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.map(|(id, era, finished_at)| UnmovedJob { id: JobId(id), era, finished_at }))
    }

    /// The attempts of the next tasks of a job that have output in the database.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn outputs_to_move(
        &self,
        job: UnmovedJob,
        after: Option<TaskPlace>,
    ) -> Result<MovablePage, StoreError> {
        let (position, index) = after.unwrap_or((-1, 0));
        let tasks: Vec<(i64, i16, i32)> = sqlx::query_as(
            "SELECT id, position, index FROM finished_tasks WHERE job_id = $1 AND era = $2 \
                 AND (position, index) > ($3, $4) ORDER BY position, index LIMIT $5",
        )
        .bind(job.id.0)
        .bind(job.era)
        .bind(position)
        .bind(index)
        .bind(PAGE_TASKS)
        .fetch_all(&self.pool)
        .await?;
        let ids: Vec<i64> = tasks.iter().map(|(id, ..)| *id).collect();
        let rows: Vec<AttemptRow> = sqlx::query_as(
            "SELECT asked.task, a.attempt, a.output_bytes, first.start_offset, GREATEST(last.bytes, ( \
                 SELECT start_offset + payload_bytes FROM output_objects WHERE task_id = asked.task AND attempt = a.attempt \
                     ORDER BY start_offset DESC LIMIT 1)), \
                 EXISTS (SELECT FROM dead_letters d \
                 WHERE d.task_id = asked.task AND d.attempt = a.attempt AND d.kind = 'output') \
             FROM UNNEST($1::bigint[]) AS asked(task) \
             CROSS JOIN LATERAL (SELECT attempt, output_bytes FROM attempts WHERE task_id = asked.task AND era = $2 OFFSET 0) a \
             CROSS JOIN LATERAL (SELECT start_offset FROM output_chunks WHERE task_id = asked.task AND attempt = a.attempt \
                 ORDER BY start_offset LIMIT 1) first \
             CROSS JOIN LATERAL (SELECT start_offset + payload_bytes AS bytes FROM output_chunks \
                 WHERE task_id = asked.task AND attempt = a.attempt ORDER BY start_offset DESC LIMIT 1) last",
        )
        .bind(&ids)
        .bind(job.era)
        .fetch_all(&self.pool)
        .await?;
        let mut page = MovablePage::default();
        for (task, attempt, reported, first, stored, has_dead_letters) in rows {
            let reported_bytes = reported.map(|bytes| bytes as u64);
            let output = StoredOutput { reported_bytes, stored_bytes: stored as u64, has_dead_letters };
            match output.movable() {
                Movable::Now => {
                    let attempt = AttemptRef { task: TaskId(task), attempt: attempt as u32 };
                    page.attempts.push((attempt, first as u64));
                }
                Movable::Later => page.has_others = true,
                Movable::Never => {}
            }
        }
        let last = tasks.last().map(|(_, position, index)| (*position, *index));
        page.next = last.filter(|_| tasks.len() as i64 == PAGE_TASKS);
        Ok(page)
    }

    /// Consecutive chunks of an attempt from `offset` on, until they have about `most_bytes` as they are stored. Empty if there
    /// is no more.
    ///
    /// # Errors
    /// When the database does not answer or a chunk is damaged.
    pub async fn output_part(
        &self,
        attempt: AttemptRef,
        offset: u64,
        most_bytes: usize,
    ) -> Result<Vec<ChunkRow>, StoreError> {
        let (mut part, mut bytes): (Vec<ChunkRow>, usize) = (Vec::new(), 0);
        loop {
            let from = part.last().map_or(offset, ChunkRow::end);
            let read = self.output_read(attempt, from, READ_CHUNKS).await?;
            let is_last = read.len() < READ_CHUNKS as usize;
            for chunk in read {
                let is_next = part.last().is_none_or(|last| last.end() == chunk.chunk.offset);
                if !is_next || bytes >= most_bytes || part.len() >= MOST_CHUNKS {
                    return Ok(part);
                }
                bytes += chunk.chunk.body.len();
                part.push(chunk);
            }
            if is_last {
                return Ok(part);
            }
        }
    }
}

impl Store {
    /// All output of the job was moved that can be.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_output_moved(&self, job: JobId) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE jobs SET output_moved = true WHERE id = $1")
            .bind(job.0)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}
