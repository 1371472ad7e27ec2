//! Output at rest: chunks in, chunks out.

use gaffer_domain::{AttemptRef, TaskId, WorkerId};
use gaffer_protocol::output::{Chunk, ChunkBuilder, EncodedChunk, Encoding, MAX_CHUNK_PAYLOAD};
use sqlx::{FromRow, PgConnection};

use super::{Store, StoreError};

/// A chunk on its way into the database.
#[derive(Debug, Clone)]
pub struct ChunkRow {
    /// The chunk.
    pub chunk: EncodedChunk,
    /// Output bytes in it.
    pub payload_bytes: u32,
    /// Line ends in the attempt's output before it.
    pub lines_before: u64,
    /// Line ends in it.
    pub lines: u32,
}

/// How much of an attempt's output is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputHead {
    /// Offset of the first byte that is not stored.
    pub bytes: u64,
    /// Line ends before it.
    pub lines: u64,
}

/// An attempt whose output may still grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputOwner {
    /// Which.
    pub attempt: AttemptRef,
    /// It is not live any more, but nobody saw its end.
    pub is_over: bool,
    /// How much is stored.
    pub head: OutputHead,
}

#[derive(FromRow)]
struct StoredChunk {
    start_offset: i64,
    encoding: i16,
    body: Vec<u8>,
}

/// Stores chunks; one that is there already stays as it is.
pub(super) async fn chunks_insert(tx: &mut PgConnection, chunks: &[ChunkRow]) -> Result<(), StoreError> {
    if chunks.is_empty() {
        return Ok(());
    }
    let (mut tasks, mut attempts, mut starts, mut sizes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut lines_before, mut lines, mut encodings, mut bodies) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in chunks {
        tasks.push(row.chunk.attempt.task.0);
        attempts.push(row.chunk.attempt.attempt as i32);
        starts.push(row.chunk.offset as i64);
        sizes.push(row.payload_bytes as i32);
        lines_before.push(row.lines_before as i64);
        lines.push(row.lines as i32);
        encodings.push(row.chunk.encoding as i16);
        bodies.push(&row.chunk.body[..]);
    }
    sqlx::query(
        "INSERT INTO output_chunks \
             (task_id, attempt, start_offset, payload_bytes, lines_before, lines, encoding, body) \
         SELECT * FROM UNNEST($1::bigint[], $2::int[], $3::bigint[], $4::int[], $5::bigint[], $6::int[], \
             $7::smallint[], $8::bytea[]) \
         ON CONFLICT DO NOTHING",
    )
    .bind(tasks)
    .bind(attempts)
    .bind(starts)
    .bind(sizes)
    .bind(lines_before)
    .bind(lines)
    .bind(encodings)
    .bind(bodies)
    .execute(tx)
    .await?;
    Ok(())
}

impl Store {
    /// Of these attempts, those of that worker whose output may still grow, and how much of it is stored. Left out is
    /// what was reported to be over with all its output.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn output_owners(
        &self,
        attempts: &[AttemptRef],
        worker: WorkerId,
    ) -> Result<Vec<OutputOwner>, StoreError> {
        let (tasks, numbers): (Vec<i64>, Vec<i32>) =
            attempts.iter().map(|attempt| (attempt.task.0, attempt.attempt as i32)).unzip();
        let rows: Vec<(i64, i32, bool, Option<i64>, Option<i64>)> = sqlx::query_as(
            "SELECT a.task_id, a.attempt, a.finished_at IS NOT NULL, o.bytes, o.lines \
             FROM UNNEST($1::bigint[], $2::int[]) AS asked(task_id, attempt) \
             CROSS JOIN LATERAL (SELECT * FROM attempts WHERE task_id = asked.task_id AND attempt = asked.attempt \
                 AND worker_id = $3 AND output_bytes IS NULL LIMIT 1) a \
             LEFT JOIN LATERAL (SELECT start_offset + payload_bytes AS bytes, lines_before + lines AS lines \
                 FROM output_chunks WHERE task_id = asked.task_id AND attempt = asked.attempt \
                 ORDER BY start_offset DESC LIMIT 1) o ON true",
        )
        .bind(tasks)
        .bind(numbers)
        .bind(worker.0)
        .fetch_all(&self.pool)
        .await?;
        let owner = |(task, attempt, is_over, bytes, lines): (i64, i32, bool, Option<i64>, Option<i64>)| {
            let head = OutputHead {
                bytes: bytes.unwrap_or_default() as u64,
                lines: lines.unwrap_or_default() as u64,
            };
            let attempt = AttemptRef { task: TaskId(task), attempt: attempt as u32 };
            OutputOwner { attempt, is_over, head }
        };
        Ok(rows.into_iter().map(owner).collect())
    }

    /// How much of an attempt's output is stored.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn output_head(&self, attempt: AttemptRef) -> Result<OutputHead, StoreError> {
        let last: Option<(i64, i64)> = sqlx::query_as(
            "SELECT start_offset + payload_bytes, lines_before + lines FROM output_chunks \
             WHERE task_id = $1 AND attempt = $2 ORDER BY start_offset DESC LIMIT 1",
        )
        .bind(attempt.task.0)
        .bind(attempt.attempt as i32)
        .fetch_optional(&self.pool)
        .await?;
        Ok(last
            .map(|(bytes, lines)| OutputHead { bytes: bytes as u64, lines: lines as u64 })
            .unwrap_or_default())
    }

    /// The stored chunks from the one that contains `offset` on, in order, at most `limit`.
    ///
    /// # Errors
    /// When the database does not answer or a chunk is damaged.
    pub async fn output_read(
        &self,
        attempt: AttemptRef,
        offset: u64,
        limit: u32,
    ) -> Result<Vec<Chunk>, StoreError> {
        let rows: Vec<StoredChunk> = sqlx::query_as(
            "SELECT start_offset, encoding, body FROM output_chunks \
             WHERE task_id = $1 AND attempt = $2 AND start_offset >= COALESCE(( \
                 SELECT start_offset FROM output_chunks WHERE task_id = $1 AND attempt = $2 AND start_offset <= $3 \
                 ORDER BY start_offset DESC LIMIT 1), 0) \
             ORDER BY start_offset LIMIT $4",
        )
        .bind(attempt.task.0)
        .bind(attempt.attempt as i32)
        .bind(i64::try_from(offset).unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                decode(attempt, row)
                    .map_err(|error| StoreError::Unreadable(format!("output of {attempt}: {error}")))
            })
            .collect()
    }

    /// The stored chunk with the line end before a line (1 is the second line), as its offset and the line ends before it.
    /// The last one if the stored output does not reach that far; none if nothing is stored.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn output_find_line(
        &self,
        attempt: AttemptRef,
        line: u64,
    ) -> Result<Option<(u64, u64)>, StoreError> {
        let found: Option<(i64, i64)> = sqlx::query_as(
            "SELECT start_offset, lines_before FROM output_chunks \
             WHERE task_id = $1 AND attempt = $2 AND lines_before < $3 \
             ORDER BY lines_before DESC, start_offset DESC LIMIT 1",
        )
        .bind(attempt.task.0)
        .bind(attempt.attempt as i32)
        .bind(i64::try_from(line).unwrap_or(i64::MAX))
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.map(|(offset, lines)| (offset as u64, lines as u64)))
    }

    /// Joins runs of small chunks into large ones, so that output that came line by line is read as fast as any
    /// other. Returns how many chunks it saved.
    ///
    /// # Errors
    /// When the database does not answer; nothing has changed then.
    pub async fn output_compact(&self, attempt: AttemptRef) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let sizes: Vec<(i64, i32, i64, i32)> = sqlx::query_as(
            "SELECT start_offset, payload_bytes, lines_before, lines FROM output_chunks \
             WHERE task_id = $1 AND attempt = $2 ORDER BY start_offset",
        )
        .bind(attempt.task.0)
        .bind(attempt.attempt as i32)
        .fetch_all(&mut *tx)
        .await?;
        let mut saved = 0;
        for run in runs(&sizes) {
            let (first, last) = (run[0].0, run[run.len() - 1].0);
            let rows: Vec<StoredChunk> = sqlx::query_as(
                "DELETE FROM output_chunks WHERE task_id = $1 AND attempt = $2 AND start_offset BETWEEN $3 AND $4 \
                 RETURNING start_offset, encoding, body",
            )
            .bind(attempt.task.0)
            .bind(attempt.attempt as i32)
            .bind(first)
            .bind(last)
            .fetch_all(&mut *tx)
            .await?;
            let Some(joined) = join(attempt, rows)
                .map_err(|error| StoreError::Unreadable(format!("output of {attempt}: {error}")))?
            else {
                // Too many tiny records for one chunk: they stay as they are.
                tx.rollback().await?;
                return Ok(0);
            };
            let row = ChunkRow {
                chunk: joined,
                payload_bytes: run.iter().map(|(_, bytes, _, _)| *bytes as u32).sum(),
                lines_before: run[0].2 as u64,
                lines: run.iter().map(|(_, _, _, lines)| *lines as u32).sum(),
            };
            chunks_insert(&mut tx, &[row]).await?;
            saved += run.len() as u64 - 1;
        }
        tx.commit().await?;
        Ok(saved)
    }
}

/// Splits chunks into runs that fit into one chunk each; runs of a single chunk are left out.
fn runs(chunks: &[(i64, i32, i64, i32)]) -> Vec<&[(i64, i32, i64, i32)]> {
    /// Half of the limit: what a record costs beside its bytes has to fit, too.
    const FULL: i32 = (MAX_CHUNK_PAYLOAD / 2) as i32;
    let mut runs = Vec::new();
    let mut start = 0;
    let mut bytes = 0;
    for (at, chunk) in chunks.iter().enumerate() {
        if bytes + chunk.1 > FULL && at > start {
            runs.push(&chunks[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += chunk.1;
    }
    runs.push(&chunks[start..]);
    runs.retain(|run| run.len() > 1);
    runs
}

/// One chunk of several neighbours; none if their records do not fit into one.
fn join(
    attempt: AttemptRef,
    mut rows: Vec<StoredChunk>,
) -> Result<Option<EncodedChunk>, gaffer_protocol::output::Malformed> {
    rows.sort_unstable_by_key(|row| row.start_offset);
    let start = rows.first().map(|row| row.start_offset as u64).unwrap_or_default();
    let mut builder = ChunkBuilder::new();
    for row in rows {
        for record in decode(attempt, row)?.records {
            if builder.push(record.at_micros, record.stream, &record.bytes) < record.bytes.len() {
                return Ok(None);
            }
        }
    }
    Ok(Some(builder.finish(attempt, start)))
}

fn decode(attempt: AttemptRef, row: StoredChunk) -> Result<Chunk, gaffer_protocol::output::Malformed> {
    let encoding = u8::try_from(row.encoding).unwrap_or(u8::MAX);
    EncodedChunk {
        attempt,
        offset: row.start_offset as u64,
        encoding: Encoding::try_from(encoding)?,
        body: row.body.into(),
    }
    .decode()
}

/// Deletes the output of all tasks of a job.
pub(super) async fn chunks_delete(tx: &mut PgConnection, tasks: &[TaskId]) -> Result<(), StoreError> {
    let ids: Vec<i64> = tasks.iter().map(|task| task.0).collect();
    sqlx::query("DELETE FROM output_chunks WHERE task_id = ANY($1)").bind(ids).execute(tx).await?;
    Ok(())
}
