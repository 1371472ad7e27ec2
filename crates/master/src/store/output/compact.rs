//! Merges small chunks of output into large ones.

use gaffer_domain::AttemptRef;
use gaffer_protocol::output::{ChunkBuilder, EncodedChunk, MAX_CHUNK_PAYLOAD};
use sqlx::FromRow;

use super::super::{Store, StoreError};
use super::{StoredChunk, decode};

/// Number of chunks examined together; at most these are merged into one.
const WINDOW_CHUNKS: usize = 1_000;
/// Fill level of a chunk: half of the limit, to leave room for record headers.
const FULL_BYTES: i32 = (MAX_CHUNK_PAYLOAD / 2) as i32;

#[derive(Debug, Clone, Copy, FromRow)]
struct ChunkSize {
    start_offset: i64,
    payload_bytes: i32,
    lines: i32,
}

impl Store {
    /// Joins runs of small chunks into large ones. Returns how many chunks it saved.
    ///
    /// # Errors
    /// When the database does not answer; each run is joined whole, or is as it was.
    pub async fn output_compact(&self, attempt: AttemptRef) -> Result<u64, StoreError> {
        // Fails at once if another master leads by now.
        self.begin().await?.rollback().await?;
        let (mut saved, mut from) = (0, 0);
        loop {
            let sizes: Vec<ChunkSize> = sqlx::query_as(
                "SELECT start_offset, payload_bytes, lines FROM output_chunks \
                 WHERE task_id = $1 AND attempt = $2 AND start_offset >= $3 ORDER BY start_offset LIMIT $4",
            )
            .bind(attempt.task.0)
            .bind(attempt.attempt as i32)
            .bind(from)
            .bind(WINDOW_CHUNKS as i64)
            .fetch_all(&self.pool)
            .await?;
            let is_last = sizes.len() < WINDOW_CHUNKS;
            let (whole, next) = runs(&sizes, is_last);
            for run in whole.into_iter().filter(|run| run.len() > 1) {
                saved += self.output_join(attempt, run).await?;
            }
            match next {
                Some(next) => from = next,
                None => return Ok(saved),
            }
        }
    }

    /// Joins neighbours into the first of them; nothing happens if they are not all there any more.
    async fn output_join(&self, attempt: AttemptRef, run: &[ChunkSize]) -> Result<u64, StoreError> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(0) };
        let mut tx = self.begin().await?;
        let rows: Vec<StoredChunk> = sqlx::query_as(
            "SELECT start_offset, encoding, body FROM output_chunks \
             WHERE task_id = $1 AND attempt = $2 AND start_offset BETWEEN $3 AND $4 ORDER BY start_offset \
             FOR UPDATE SKIP LOCKED",
        )
        .bind(attempt.task.0)
        .bind(attempt.attempt as i32)
        .bind(first.start_offset)
        .bind(last.start_offset)
        .fetch_all(&mut *tx)
        .await?;
        if rows.len() != run.len() {
            // The job is being deleted.
            return Ok(0);
        }
        // Too many tiny records for one chunk: they stay as they are.
        let Some(joined) = join(attempt, rows)? else { return Ok(0) };
        // The first chunk is changed, not replaced: a deletion of the job waits for this row and then deletes
        // it as it is. A row that joins meanwhile would be missed, and stay for ever.
        sqlx::query(
            "UPDATE output_chunks SET payload_bytes = $4, lines = $5, encoding = $6, body = $7 \
             WHERE task_id = $1 AND attempt = $2 AND start_offset = $3",
        )
        .bind(attempt.task.0)
        .bind(attempt.attempt as i32)
        .bind(first.start_offset)
        .bind(run.iter().map(|chunk| chunk.payload_bytes).sum::<i32>())
        .bind(run.iter().map(|chunk| chunk.lines).sum::<i32>())
        .bind(joined.encoding as i16)
        .bind(&joined.body[..])
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "DELETE FROM output_chunks WHERE task_id = $1 AND attempt = $2 AND start_offset > $3 AND start_offset <= $4",
        )
        .bind(attempt.task.0)
        .bind(attempt.attempt as i32)
        .bind(first.start_offset)
        .bind(last.start_offset)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(run.len() as u64 - 1)
    }
}

/// Splits chunks into runs that fit into one chunk each. Unless these are the last chunks, the last run may
/// continue: it is left out, and the offset to continue at is returned.
fn runs(chunks: &[ChunkSize], is_last: bool) -> (Vec<&[ChunkSize]>, Option<i64>) {
    let mut runs = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    let mut end = chunks.first().map_or(0, |first| first.start_offset);
    for (at, chunk) in chunks.iter().enumerate() {
        // Where output is missing, what follows keeps its offset: the missing part may be put back.
        let is_neighbour = chunk.start_offset == end;
        end = chunk.start_offset + i64::from(chunk.payload_bytes);
        if at > start && (!is_neighbour || bytes + chunk.payload_bytes > FULL_BYTES) {
            runs.push(&chunks[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += chunk.payload_bytes;
    }
    let rest = &chunks[start..];
    match (is_last, start, chunks.last()) {
        (true, _, _) | (_, _, None) => {
            runs.push(rest);
            (runs, None)
        }
        // As many as one run may have.
        (false, 0, Some(last)) => {
            runs.push(rest);
            (runs, Some(last.start_offset + 1))
        }
        (false, _, _) => (runs, rest.first().map(|first| first.start_offset)),
    }
}

/// One chunk of several neighbours; none if their records do not fit into one.
fn join(attempt: AttemptRef, rows: Vec<StoredChunk>) -> Result<Option<EncodedChunk>, StoreError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(sizes: &[i32]) -> Vec<ChunkSize> {
        let mut at = 0;
        let chunk = |size: &i32| {
            let start_offset = at;
            at += i64::from(*size);
            ChunkSize { start_offset, payload_bytes: *size, lines: 1 }
        };
        sizes.iter().map(chunk).collect()
    }

    fn lengths(sizes: &[i32], is_last: bool) -> (Vec<usize>, Option<i64>) {
        let chunks = chunks(sizes);
        let (runs, next) = runs(&chunks, is_last);
        (runs.iter().map(|run| run.len()).collect(), next)
    }

    #[test]
    fn runs_are_as_long_as_fit_and_none_is_cut_by_the_window() {
        let (full, half) = (FULL_BYTES, FULL_BYTES / 2);
        assert_eq!(lengths(&[1, 2, 3], true), (vec![3], None));
        assert_eq!(lengths(&[full, 1, full, full, 1, 1], true), (vec![1, 1, 1, 1, 2], None));
        assert_eq!(lengths(&[half, half, half, 1], true), (vec![2, 2], None));
        let next = i64::from(half) * 2;
        assert_eq!(lengths(&[half, half, half, 1], false), (vec![2], Some(next)), "the last may go on");
        assert_eq!(lengths(&[1, 1, 1], false), (vec![3], Some(3)), "as many as are joined at all");
        assert_eq!(lengths(&[], true).1, None);
    }

    #[test]
    fn what_is_missing_between_two_chunks_keeps_its_place() {
        let mut chunks = chunks(&[5, 5, 5, 5]);
        chunks.remove(2);
        let (runs, _) = runs(&chunks, true);
        assert_eq!(runs.iter().map(|run| run.len()).collect::<Vec<_>>(), [2, 1]);
    }
}
