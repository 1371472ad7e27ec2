//! Dead letters: insert, list, retry, delete.

use gaffer_domain::{AttemptRef, JobId, ProjectId, TaskId, WorkerId};
use gaffer_protocol::output::{EncodedChunk, Encoding};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use super::forms::known;
use super::output::{ChunkColumns, ChunkRow, chunks_insert};
use super::{ReadStore, Store, StoreError, WriteStore, tasks};
use crate::records;
use crate::records::LetterKind;

/// Something that is to be set aside.
#[derive(Debug)]
pub struct DeadLetter {
    /// Its task; the attempt is 0 if it is about the task.
    pub attempt: AttemptRef,
    pub worker: Option<WorkerId>,
    pub body: Body,
    pub reason: String,
}

#[derive(Debug)]
pub enum Body {
    /// Output.
    Output(ChunkRow),
    /// A report, as JSON.
    Report(Vec<u8>),
}

impl DeadLetter {
    pub fn kind(&self) -> LetterKind {
        match self.body {
            Body::Output(_) => LetterKind::Output,
            Body::Report(_) => LetterKind::Report,
        }
    }
}

#[derive(FromRow)]
struct OutputRow {
    job_id: Option<i64>,
    task_id: i64,
    attempt: i32,
    start_offset: i64,
    payload_bytes: i32,
    lines_before: i64,
    lines: i32,
    encoding: i16,
    body: Vec<u8>,
}

impl Store {
    /// Sets something aside, with a line in its job's history. Returns its number; none if its job was deleted, or if the
    /// same report is set aside already: workers repeat what was not recorded.
    ///
    /// # Errors
    /// When the database does not take that either.
    pub async fn dead_letter_insert(&self, letter: &DeadLetter) -> Result<Option<i64>, StoreError> {
        let mut tx = self.begin_short().await?;
        let kind = letter.kind();
        let (row, body) = match &letter.body {
            Body::Output(row) => (Some(row), &row.chunk.body[..]),
            Body::Report(body) => (None, &body[..]),
        };
        let id: Option<i64> = sqlx::query_scalar(
            "INSERT INTO dead_letters (kind, project_id, job_id, task_id, attempt, worker_id, start_offset, \
                 payload_bytes, lines_before, lines, encoding, body, reason) \
             SELECT $1, j.project_id, j.id, t.id, $3, $4, $5, $6, $7, $8, $9, $10, $11 \
             FROM tasks t JOIN jobs j ON j.id = t.job_id \
             WHERE t.id = $2 AND t.era = era_of_task($2) AND NOT EXISTS (SELECT 1 FROM dead_letters l WHERE $1 = 'report' \
                 AND l.kind = $1 AND l.task_id = $2 AND l.attempt = $3 AND l.body = $10) RETURNING id",
        )
        .bind(kind.as_str())
        .bind(letter.attempt.task.0)
        .bind(letter.attempt.attempt as i32)
        .bind(letter.worker.map(|worker| worker.0))
        .bind(row.map(|row| row.chunk.offset as i64))
        .bind(row.map(|row| row.payload_bytes as i32))
        .bind(row.map(|row| row.lines_before as i64))
        .bind(row.map(|row| row.lines as i32))
        .bind(row.map(|row| row.chunk.encoding as i16))
        .bind(body)
        .bind(&letter.reason)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(id) = id else { return Ok(None) };
        let what = match row {
            Some(row) => format!("{} bytes of output from byte {} on", row.payload_bytes, row.chunk.offset),
            None => "a report of its worker".to_owned(),
        };
        sqlx::query(
            "INSERT INTO events (project_id, at, kind, job_id, task_id, attempt, worker_id, actor, message, era) \
             SELECT project_id, now(), 'task.set_aside', job_id, task_id, NULLIF(attempt, 0), worker_id, 'gaffer', $2, \
                 era_of_task(task_id) \
             FROM dead_letters WHERE id = $1 AND job_id IS NOT NULL",
        )
        .bind(id)
        .bind(format!("{what} was refused by the database and is kept as dead letter {id}: {}", letter.reason))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Some(id))
    }
}

impl ReadStore {
    /// Dead letters of a project, or of one job, oldest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn dead_letter_list(
        &self,
        project: ProjectId,
        job: Option<JobId>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<records::DeadLetter>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT l.id, l.at, l.tried_at, l.kind, l.job_id, d.name AS task_name, t.index AS task_index, \
                 d.single AS task_single, l.attempt, w.name AS worker_name, l.start_offset, l.payload_bytes, l.reason \
             FROM dead_letters l LEFT JOIN tasks t ON t.id = l.task_id AND t.era = era_of_task(l.task_id) \
             LEFT JOIN task_definitions d ON d.job_id = t.job_id AND d.position = t.position \
             LEFT JOIN workers w ON w.id = l.worker_id \
             WHERE l.project_id = $1 AND ($2::bigint IS NULL OR l.job_id = $2) AND l.id > $3 ORDER BY l.id LIMIT $4",
        )
        .bind(project.0)
        .bind(job.map(|job| job.0))
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?)
    }
}

impl Store {
    /// Which output of a project, or of all of them, to try again: what was tried longest ago. Marks it as tried.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn dead_letters_to_try(&self, limit: u32) -> Result<Vec<i64>, StoreError> {
        let mut tx = self.begin().await?;
        let ids = sqlx::query_scalar(
            "UPDATE dead_letters SET tried_at = now() WHERE id = ANY(ARRAY( \
                 SELECT id FROM dead_letters WHERE kind = 'output' ORDER BY tried_at, id LIMIT $1)) RETURNING id",
        )
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(ids)
    }
}

impl ReadStore {
    /// The number of something set aside, if it belongs to that project.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn dead_letter_is_of(&self, project: ProjectId, id: i64) -> Result<bool, StoreError> {
        let found: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM dead_letters WHERE id = $1 AND project_id = $2)")
                .bind(id)
                .bind(project.0)
                .fetch_one(&self.pool)
                .await?;
        Ok(found)
    }
}

impl WriteStore {
    /// Restores refused output. Returns its job if the database accepts it now; none if it is refused again, or not
    /// found.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn dead_letter_retry(&self, id: i64) -> Result<Option<JobId>, StoreError> {
        match self.try_to_restore(id).await {
            Err(StoreError::Refused(_)) => Ok(None),
            result => result,
        }
    }

    async fn try_to_restore(&self, id: i64) -> Result<Option<JobId>, StoreError> {
        let mut tx = self.begin_short().await?;
        let row: Option<OutputRow> = sqlx::query_as(
            "DELETE FROM dead_letters WHERE id = $1 AND kind = 'output' \
             RETURNING job_id, task_id, attempt, start_offset, payload_bytes, lines_before, lines, encoding, body",
        )
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let unreadable =
            |_| StoreError::Unreadable(format!("dead letter {id}: unknown encoding {}", row.encoding));
        let encoding = u8::try_from(row.encoding).unwrap_or(u8::MAX);
        let attempt = AttemptRef { task: TaskId(row.task_id), attempt: row.attempt as u32 };
        let chunk = ChunkRow {
            chunk: EncodedChunk {
                attempt,
                offset: row.start_offset as u64,
                encoding: Encoding::try_from(encoding).map_err(unreadable)?,
                body: row.body.into(),
            },
            payload_bytes: row.payload_bytes as u32,
            lines_before: row.lines_before as u64,
            lines: row.lines as u32,
        };
        let insert = sqlx::query(sqlx::AssertSqlSafe(chunks_insert("", &mut 1)));
        ChunkColumns::of(&[chunk]).bind(insert).execute(&mut *tx).await?;
        sqlx::query(
            "INSERT INTO events (project_id, at, kind, job_id, task_id, attempt, actor, message, era) \
             SELECT j.project_id, now(), 'task.restored', j.id, t.id, $2, 'gaffer', $3, j.era \
             FROM tasks t JOIN jobs j ON j.id = t.job_id \
             WHERE t.id = $1 AND t.era = era_of_task($1)",
        )
        .bind(row.task_id)
        .bind(row.attempt)
        .bind(format!("dead letter {id}: {} bytes of output restored", row.payload_bytes))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(row.job_id.map(JobId))
    }

    /// Deletes a dead letter. False if it is not in that project.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn dead_letter_delete(&self, project: ProjectId, id: i64) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query("DELETE FROM dead_letters WHERE id = $1 AND project_id = $2")
            .bind(id)
            .bind(project.0)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }
}

impl FromRow<'_, PgRow> for records::DeadLetter {
    fn from_row(row: &PgRow) -> sqlx::Result<records::DeadLetter> {
        let attempt: i32 = row.try_get("attempt")?;
        Ok(records::DeadLetter {
            id: row.try_get("id")?,
            at: row.try_get("at")?,
            tried_at: row.try_get("tried_at")?,
            kind: known("kind of dead letter", row.try_get("kind")?)?,
            job: row.try_get::<Option<i64>, _>("job_id")?.map(JobId),
            task: tasks::address_in(row)?,
            attempt: u32::try_from(attempt).ok().filter(|attempt| *attempt > 0),
            worker: row.try_get("worker_name")?,
            offset: row.try_get::<Option<i64>, _>("start_offset")?.map(|offset| offset as u64),
            bytes: row.try_get::<Option<i32>, _>("payload_bytes")?.map(|bytes| bytes as u64),
            reason: row.try_get("reason")?,
        })
    }
}
