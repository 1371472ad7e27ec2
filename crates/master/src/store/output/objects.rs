//! Output in object storage: what is in which object, and which objects nobody needs any more.

use gaffer_domain::{AttemptRef, TaskId};
use sqlx::{FromRow, PgConnection};

use super::super::{ReadStore, Store, StoreError, WriteStore};

/// Maximum number of objects of a dropped era that one transaction looks at.
const SLICE_OBJECTS: i64 = 500;

/// An object with a part of an attempt's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRow {
    pub attempt: AttemptRef,
    /// Offset of its first byte in the output of the attempt.
    pub offset: u64,
    /// Output bytes in it.
    pub payload_bytes: u64,
    /// Line ends in the attempt's output before it.
    pub lines_before: u64,
    /// Line ends in it.
    pub lines: u64,
    /// Below the address of the store.
    pub name: String,
    /// Its size in the store.
    pub object_bytes: u64,
    /// Of all of the object.
    pub sha256: [u8; 32],
}

impl ObjectRow {
    /// Offset of the byte after its last.
    pub fn end(&self) -> u64 {
        self.offset + self.payload_bytes
    }
}

#[derive(FromRow)]
struct StoredObject {
    start_offset: i64,
    payload_bytes: i64,
    lines_before: i64,
    lines: i64,
    name: String,
    object_bytes: i64,
    sha256: Vec<u8>,
}

impl StoredObject {
    fn of(self, attempt: AttemptRef) -> Result<ObjectRow, StoreError> {
        let sha256 = self.sha256.try_into().map_err(|_| {
            StoreError::Unreadable(format!(
                "output of {attempt}: the checksum of an object has another length"
            ))
        })?;
        Ok(ObjectRow {
            attempt,
            offset: self.start_offset as u64,
            payload_bytes: self.payload_bytes as u64,
            lines_before: self.lines_before as u64,
            lines: self.lines as u64,
            name: self.name,
            object_bytes: self.object_bytes as u64,
            sha256,
        })
    }
}

/// An object as its name says: of which part of which output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPart {
    pub attempt: AttemptRef,
    pub offset: u64,
    pub name: String,
}

/// What lies in object storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromRow)]
pub struct MovedOutput {
    pub objects: i64,
    /// Their size in the store.
    pub object_bytes: i64,
}

/// An object of a dropped era: task, attempt and offset.
pub type ObjectPlace = (i64, i32, i64);

/// How far one look through a dropped era got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EraLook {
    /// Objects that are unused now.
    pub removed: u64,
    /// The last object; none at the end.
    pub next: Option<ObjectPlace>,
}

/// Takes rows of `gone` (`task_id`, `name`, `object_bytes`) away: their objects are unused from then on.
const LET_GO: &str = "unused AS (INSERT INTO unused_objects (name) SELECT name FROM gone ON CONFLICT DO NOTHING), \
     totals AS (UPDATE output_object_eras e SET objects = e.objects - g.objects, object_bytes = e.object_bytes - g.object_bytes \
         FROM (SELECT era_of_task(task_id) AS era, count(*) AS objects, sum(object_bytes)::bigint AS object_bytes \
             FROM gone GROUP BY 1) g WHERE e.era = g.era)";

/// Removes the rows of the objects of these tasks, at most `most`; returns how many that were. Their objects are deleted by
/// the loop for unused objects.
pub(in crate::store) async fn let_go_of_tasks(
    tx: &mut PgConnection,
    tasks: &[i64],
    most: i64,
) -> Result<u64, StoreError> {
    let sql = format!(
        "WITH gone AS (DELETE FROM output_objects o USING ( \
                 SELECT p.task_id, p.attempt, p.start_offset FROM UNNEST($1::bigint[]) AS deleted(task), LATERAL ( \
                     SELECT task_id, attempt, start_offset FROM output_objects WHERE task_id = deleted.task LIMIT $2) p \
                 LIMIT $2) part \
             WHERE o.task_id = part.task_id AND o.attempt = part.attempt AND o.start_offset = part.start_offset \
             RETURNING o.task_id, o.name, o.object_bytes), \
         {LET_GO} SELECT count(*) FROM gone"
    );
    let gone: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(tasks).bind(most).fetch_one(tx).await?;
    Ok(gone.unsigned_abs())
}

impl ReadStore {
    /// The object that has the byte at `offset`, or else the next one of the attempt.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn output_object_at(
        &self,
        attempt: AttemptRef,
        offset: u64,
    ) -> Result<Option<ObjectRow>, StoreError> {
        let found: Option<StoredObject> = sqlx::query_as(
            "SELECT start_offset, payload_bytes, lines_before, lines, name, object_bytes, sha256 FROM output_objects \
             WHERE task_id = $1 AND attempt = $2 AND start_offset + payload_bytes > $3 AND start_offset >= COALESCE(( \
                 SELECT start_offset FROM output_objects WHERE task_id = $1 AND attempt = $2 AND start_offset <= $3 \
                 ORDER BY start_offset DESC LIMIT 1), 0) \
             ORDER BY start_offset LIMIT 1",
        )
        .bind(attempt.task.0)
        .bind(attempt.attempt as i32)
        .bind(i64::try_from(offset).unwrap_or(i64::MAX))
        .fetch_optional(&self.pool)
        .await?;
        found.map(|row| row.of(attempt)).transpose()
    }

    /// The object with the line end before a line (1 is the second line); the last one if the objects do not reach that far.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn output_object_of_line(
        &self,
        attempt: AttemptRef,
        line: u64,
    ) -> Result<Option<ObjectRow>, StoreError> {
        let found: Option<StoredObject> = sqlx::query_as(
            "SELECT start_offset, payload_bytes, lines_before, lines, name, object_bytes, sha256 FROM output_objects \
             WHERE task_id = $1 AND attempt = $2 AND lines_before < $3 ORDER BY start_offset DESC LIMIT 1",
        )
        .bind(attempt.task.0)
        .bind(attempt.attempt as i32)
        .bind(i64::try_from(line).unwrap_or(i64::MAX))
        .fetch_optional(&self.pool)
        .await?;
        found.map(|row| row.of(attempt)).transpose()
    }

    /// The directory of the store that new objects of this installation are put into.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn output_directory(&self) -> Result<uuid::Uuid, StoreError> {
        Ok(sqlx::query_scalar("SELECT output_directory FROM installation").fetch_one(&self.pool).await?)
    }

    /// What this installation has in object storage.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn output_in_objects(&self) -> Result<MovedOutput, StoreError> {
        Ok(sqlx::query_as(
            "SELECT COALESCE(sum(objects), 0)::bigint AS objects, COALESCE(sum(object_bytes), 0)::bigint AS object_bytes \
             FROM output_object_eras",
        )
        .fetch_one(&self.pool)
        .await?)
    }

    /// Which of these objects have output of somebody.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn output_objects_used(&self, parts: &[NamedPart]) -> Result<Vec<String>, StoreError> {
        let (mut tasks, mut attempts, mut offsets, mut names) = (vec![], vec![], vec![], vec![]);
        for part in parts {
            tasks.push(part.attempt.task.0);
            attempts.push(part.attempt.attempt as i32);
            offsets.push(i64::try_from(part.offset).unwrap_or(i64::MAX));
            names.push(part.name.as_str());
        }
        Ok(sqlx::query_scalar(
            "SELECT o.name FROM UNNEST($1::bigint[], $2::int[], $3::bigint[], $4::text[]) AS found(task, attempt, place, name), \
             LATERAL (SELECT name FROM output_objects WHERE task_id = found.task AND attempt = found.attempt \
                 AND start_offset = found.place LIMIT 1) o WHERE o.name = found.name",
        )
        .bind(tasks)
        .bind(attempts)
        .bind(offsets)
        .bind(names)
        .fetch_all(&self.pool)
        .await?)
    }

    /// The next objects, by name, that are to be deleted from the store; `after` is the last one seen.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn objects_unused(&self, after: Option<&str>, most: u32) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar("SELECT name FROM unused_objects WHERE name > $1 ORDER BY name LIMIT $2")
            .bind(after.unwrap_or_default())
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .await?)
    }

    /// The dropped eras whose objects have not been looked through.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn eras_with_objects_to_look_through(&self) -> Result<Vec<i64>, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT era FROM output_object_eras o WHERE NOT looked_through \
                 AND NOT EXISTS (SELECT FROM eras e WHERE e.number = o.era) ORDER BY era",
        )
        .fetch_all(&self.pool)
        .await?)
    }
}

impl WriteStore {
    /// Makes the object the place of its part of the output: notes it, and deletes the chunks that are in it. False if the
    /// chunks are not those that were read, because they were joined or deleted meanwhile: nothing has changed then.
    ///
    /// # Errors
    /// When the database does not answer. Whether it took effect may be unknown.
    pub async fn output_moved(&self, object: &ObjectRow, chunks: usize) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let (found, bytes): (i64, i64) = sqlx::query_as(
            "WITH gone AS (DELETE FROM output_chunks WHERE task_id = $1 AND attempt = $2 \
                 AND start_offset >= $3 AND start_offset < $4 RETURNING payload_bytes) \
             SELECT count(*), COALESCE(sum(payload_bytes), 0)::bigint FROM gone",
        )
        .bind(object.attempt.task.0)
        .bind(object.attempt.attempt as i32)
        .bind(object.offset as i64)
        .bind(object.end() as i64)
        .fetch_one(&mut *tx)
        .await?;
        if (found.unsigned_abs(), bytes.unsigned_abs()) != (chunks as u64, object.payload_bytes) {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO output_objects (task_id, attempt, start_offset, payload_bytes, lines_before, lines, name, \
                 object_bytes, sha256) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(object.attempt.task.0)
        .bind(object.attempt.attempt as i32)
        .bind(object.offset as i64)
        .bind(object.payload_bytes as i64)
        .bind(object.lines_before as i64)
        .bind(object.lines as i64)
        .bind(&object.name)
        .bind(object.object_bytes as i64)
        .bind(&object.sha256[..])
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO output_object_eras (era, objects, object_bytes) VALUES (era_of_task($1), 1, $2) \
             ON CONFLICT (era) DO UPDATE SET objects = output_object_eras.objects + 1, \
                 object_bytes = output_object_eras.object_bytes + $2",
        )
        .bind(object.attempt.task.0)
        .bind(object.object_bytes as i64)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    }
}

impl Store {
    /// Forgets objects that were deleted from the store.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn objects_forget(&self, names: &[String]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM unused_objects WHERE name = ANY($1)").bind(names).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Removes objects of a dropped era whose tasks are not kept, from the one after `after` on.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn era_look_through(
        &self,
        era: i64,
        after: Option<ObjectPlace>,
    ) -> Result<EraLook, StoreError> {
        let (task, attempt, offset) = after.unwrap_or((i64::MIN, 0, 0));
        let mut tx = self.begin().await?;
        let sql = format!(
            "WITH slice AS (SELECT task_id, attempt, start_offset FROM output_objects \
                 WHERE task_id >= first_task($1) AND task_id < first_task($1 + 1) \
                     AND (task_id, attempt, start_offset) > ($2, $3, $4) \
                 ORDER BY task_id, attempt, start_offset LIMIT $5), \
             gone AS (DELETE FROM output_objects o USING slice s \
                 WHERE o.task_id = s.task_id AND o.attempt = s.attempt AND o.start_offset = s.start_offset \
                     AND NOT EXISTS (SELECT FROM tasks t WHERE t.id = s.task_id AND t.era = $1) \
                 RETURNING o.task_id, o.name, o.object_bytes), \
             {LET_GO} \
             SELECT (SELECT count(*) FROM gone), task_id, attempt, start_offset FROM slice \
             ORDER BY task_id, attempt, start_offset"
        );
        let seen: Vec<(i64, i64, i32, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(era)
            .bind(task)
            .bind(attempt)
            .bind(offset)
            .bind(SLICE_OBJECTS)
            .fetch_all(&mut *tx)
            .await?;
        let is_all = (seen.len() as i64) < SLICE_OBJECTS;
        if is_all {
            sqlx::query("UPDATE output_object_eras SET looked_through = true WHERE era = $1")
                .bind(era)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        let last = seen.last().map(|(_, task, attempt, offset)| (*task, *attempt, *offset));
        Ok(EraLook {
            removed: seen.first().map_or(0, |(gone, ..)| gone.unsigned_abs()),
            next: last.filter(|_| !is_all),
        })
    }
}

impl NamedPart {
    /// A part of the output of an attempt.
    pub fn new(task: i64, attempt: u32, offset: u64, name: String) -> NamedPart {
        NamedPart { attempt: AttemptRef { task: TaskId(task), attempt }, offset, name }
    }
}
