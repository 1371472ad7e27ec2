//! Stored chunks of output, and what of it was moved to object storage.

mod compact;
pub mod moving;
pub mod objects;
mod orphans;

use gaffer_domain::{AttemptRef, TaskId, WorkerId};
use gaffer_protocol::output::{Chunk, EncodedChunk, Encoding, Malformed};
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{FromRow, Postgres};

use super::unnest::{Column, unnest};
use super::{ReadStore, Store, StoreError};

/// A chunk on its way into the database, or out of it.
#[derive(Debug, Clone)]
pub struct ChunkRow {
    pub chunk: EncodedChunk,
    /// Output bytes in it.
    pub payload_bytes: u32,
    /// Line ends in the attempt's output before it.
    pub lines_before: u64,
    /// Line ends in it.
    pub lines: u32,
}

impl ChunkRow {
    /// Offset of the byte after its last.
    pub fn end(&self) -> u64 {
        self.chunk.offset + u64::from(self.payload_bytes)
    }

    /// The chunk, unpacked.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn decode(&self) -> Result<Chunk, StoreError> {
        self.chunk.decode().map_err(|error| damaged(self.chunk.attempt, error))
    }
}

/// The error of a chunk that cannot be unpacked.
pub fn damaged(attempt: AttemptRef, error: Malformed) -> StoreError {
    StoreError::Unreadable(format!("output of {attempt}: {error}"))
}

/// How much of an attempt's output is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputHead {
    /// Offset of the first byte that is not stored.
    pub bytes: u64,
    /// Line ends before it.
    pub lines: u64,
}

/// The stored state of an attempt's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttemptOutput {
    pub stored: OutputHead,
    /// Its worker has reported the end, so nothing follows.
    pub ended: bool,
    /// The attempt has ended, as reported by its worker or declared by the master.
    pub over: bool,
}

/// The state of the output when the end is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceivedOutput {
    /// Line ends in it.
    pub lines: u64,
    /// Whether it is what its worker read, by length and checksum; none if that could not be compared.
    pub complete: Option<bool>,
}

/// Task, attempt, whether the worker reported the end, whether it has ended, stored bytes and lines.
type RecordedRow = (i64, i32, bool, bool, Option<i64>, Option<i64>);

#[derive(FromRow)]
struct StoredChunk {
    start_offset: i64,
    encoding: i16,
    body: Vec<u8>,
}

/// A chunk with how much is in it, for readers.
#[derive(FromRow)]
struct ReadChunk {
    #[sqlx(flatten)]
    stored: StoredChunk,
    payload_bytes: i32,
    lines_before: i64,
    lines: i32,
}

/// Inserts chunks, except those that are there. `gate`: a condition for all.
pub(super) fn chunks_insert(gate: &str, next: &mut usize) -> String {
    let names = CHUNK.map(|(name, _)| name).join(", ");
    format!(
        "INSERT INTO output_chunks ({names}) SELECT {names} FROM {} WHERE true{gate} ON CONFLICT DO NOTHING",
        unnest(&CHUNK, next)
    )
}

const CHUNK: [Column; 8] = [
    ("task_id", "bigint"),
    ("attempt", "int"),
    ("start_offset", "bigint"),
    ("payload_bytes", "int"),
    ("lines_before", "bigint"),
    ("lines", "int"),
    ("encoding", "smallint"),
    ("body", "bytea"),
];

/// Rows for [`chunks_insert`].
#[derive(Default)]
pub(super) struct ChunkColumns<'a> {
    tasks: Vec<i64>,
    attempts: Vec<i32>,
    starts: Vec<i64>,
    sizes: Vec<i32>,
    lines_before: Vec<i64>,
    lines: Vec<i32>,
    encodings: Vec<i16>,
    bodies: Vec<&'a [u8]>,
}

impl<'a> ChunkColumns<'a> {
    pub fn of(chunks: &'a [ChunkRow]) -> ChunkColumns<'a> {
        let mut columns = ChunkColumns::default();
        for row in chunks {
            columns.tasks.push(row.chunk.attempt.task.0);
            columns.attempts.push(row.chunk.attempt.attempt as i32);
            columns.starts.push(row.chunk.offset as i64);
            columns.sizes.push(row.payload_bytes as i32);
            columns.lines_before.push(row.lines_before as i64);
            columns.lines.push(row.lines as i32);
            columns.encodings.push(row.chunk.encoding as i16);
            columns.bodies.push(&row.chunk.body[..]);
        }
        columns
    }

    pub fn bind<'q>(self, query: Query<'q, Postgres, PgArguments>) -> Query<'q, Postgres, PgArguments>
    where
        'a: 'q,
    {
        query
            .bind(self.tasks)
            .bind(self.attempts)
            .bind(self.starts)
            .bind(self.sizes)
            .bind(self.lines_before)
            .bind(self.lines)
            .bind(self.encodings)
            .bind(self.bodies)
    }
}

impl Store {
    /// The stored output of those of these attempts that belong to the worker.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn outputs_of_worker(
        &self,
        attempts: &[AttemptRef],
        worker: WorkerId,
    ) -> Result<Vec<(AttemptRef, AttemptOutput)>, StoreError> {
        let (tasks, numbers): (Vec<i64>, Vec<i32>) =
            attempts.iter().map(|attempt| (attempt.task.0, attempt.attempt as i32)).unzip();
        let rows: Vec<RecordedRow> = sqlx::query_as(
            "SELECT a.task_id, a.attempt, a.output_bytes IS NOT NULL, a.finished_at IS NOT NULL, o.bytes, o.lines \
             FROM UNNEST($1::bigint[], $2::int[]) AS asked(task_id, attempt) \
             CROSS JOIN LATERAL (SELECT * FROM attempts WHERE task_id = asked.task_id AND attempt = asked.attempt \
                 AND worker_id = $3 AND era = era_of_task(asked.task_id) \
                 AND NOT is_of_backup(task_id, scheduled_at) LIMIT 1) a \
             LEFT JOIN LATERAL (SELECT bytes, lines FROM ( \
                 (SELECT start_offset + payload_bytes AS bytes, lines_before + lines AS lines FROM output_chunks \
                     WHERE task_id = asked.task_id AND attempt = asked.attempt ORDER BY start_offset DESC LIMIT 1) \
                 UNION ALL (SELECT start_offset + payload_bytes, lines_before + lines FROM output_objects \
                     WHERE task_id = asked.task_id AND attempt = asked.attempt ORDER BY start_offset DESC LIMIT 1)) parts \
                 ORDER BY bytes DESC LIMIT 1) o ON true",
        )
        .bind(tasks)
        .bind(numbers)
        .bind(worker.0)
        .fetch_all(&self.pool)
        .await?;
        let output = |(task, attempt, ended, over, bytes, lines): RecordedRow| {
            let (bytes, lines) = (bytes.unwrap_or_default() as u64, lines.unwrap_or_default() as u64);
            let attempt = AttemptRef { task: TaskId(task), attempt: attempt as u32 };
            (attempt, AttemptOutput { stored: OutputHead { bytes, lines }, ended, over })
        };
        Ok(rows.into_iter().map(output).collect())
    }
}

impl ReadStore {
    /// How much of an attempt's output is stored, in the database or in object storage.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn output_head(&self, attempt: AttemptRef) -> Result<OutputHead, StoreError> {
        let last: Option<(i64, i64)> = sqlx::query_as(
            "SELECT bytes, lines FROM ( \
                 (SELECT start_offset + payload_bytes AS bytes, lines_before + lines AS lines FROM output_chunks \
                     WHERE task_id = $1 AND attempt = $2 ORDER BY start_offset DESC LIMIT 1) \
                 UNION ALL (SELECT start_offset + payload_bytes, lines_before + lines FROM output_objects \
                     WHERE task_id = $1 AND attempt = $2 ORDER BY start_offset DESC LIMIT 1)) parts \
             ORDER BY bytes DESC LIMIT 1",
        )
        .bind(attempt.task.0)
        .bind(attempt.attempt as i32)
        .fetch_optional(&self.pool)
        .await?;
        Ok(last
            .map(|(bytes, lines)| OutputHead { bytes: bytes as u64, lines: lines as u64 })
            .unwrap_or_default())
    }

    /// Whether the stored output of an attempt is what its worker read; none if that could not be compared.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn output_complete(&self, attempt: AttemptRef) -> Result<Option<bool>, StoreError> {
        // What was set aside is missing where it is read.
        let found: Option<Option<bool>> = sqlx::query_scalar(
            "SELECT output_complete AND NOT EXISTS (SELECT 1 FROM dead_letters d \
                 WHERE d.task_id = a.task_id AND d.attempt = a.attempt AND d.kind = 'output') \
             FROM attempts a WHERE task_id = $1 AND attempt = $2 AND era = era_of_task($1)",
        )
        .bind(attempt.task.0)
        .bind(attempt.attempt as i32)
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.flatten())
    }

    /// The chunks in the database from the one that contains `offset` on, or else from the next one, in order and packed, at
    /// most `limit`. Empty if none ends after `offset`.
    ///
    /// # Errors
    /// When the database does not answer or a chunk is damaged.
    pub async fn output_read(
        &self,
        attempt: AttemptRef,
        offset: u64,
        limit: u32,
    ) -> Result<Vec<ChunkRow>, StoreError> {
        let rows: Vec<ReadChunk> = sqlx::query_as(
            "SELECT start_offset, payload_bytes, lines_before, lines, encoding, body FROM output_chunks \
             WHERE task_id = $1 AND attempt = $2 AND start_offset + payload_bytes > $3 AND start_offset >= COALESCE(( \
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
        let packed = |row: ReadChunk| {
            Ok(ChunkRow {
                payload_bytes: row.payload_bytes as u32,
                lines_before: row.lines_before as u64,
                lines: row.lines as u32,
                chunk: packed(attempt, row.stored)?,
            })
        };
        rows.into_iter().map(packed).collect()
    }

    /// The chunk in the database with the line end before a line (1 is the second line), as its offset and the line ends before
    /// it. The last one if these do not reach that far; none if the line is before them.
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
}

fn packed(attempt: AttemptRef, row: StoredChunk) -> Result<EncodedChunk, StoreError> {
    let encoding = u8::try_from(row.encoding).unwrap_or(u8::MAX);
    let encoding = Encoding::try_from(encoding).map_err(|error| damaged(attempt, error))?;
    Ok(EncodedChunk { attempt, offset: row.start_offset as u64, encoding, body: row.body.into() })
}

fn decode(attempt: AttemptRef, row: StoredChunk) -> Result<Chunk, StoreError> {
    packed(attempt, row)?.decode().map_err(|error| damaged(attempt, error))
}
