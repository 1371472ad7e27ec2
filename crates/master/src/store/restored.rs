//! What changes in a database that was restored from a backup, before a master may use it.
//!
//! The backup knows nothing of what happened after it, and workers do: they hold attempts and numbers of that time. So
//! numbers continue where none of theirs can be, and unfinished tasks are marked (see [`gaffer_domain::task::Unseen`]).

use gaffer_domain::Time;
use gaffer_domain::restore::{HIGHEST_LEFT_OUT, LastNumbers, NextNumbers};
use gaffer_domain::worker::{CLOCK_DRIFT, LOST_MARGIN, WORKER_LOST_AFTER};
use sqlx::PgConnection;

use super::output::objects::MovedOutput;
use super::{MIGRATIONS, Store, StoreError, eras};

/// What a restored database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoredJobs {
    pub jobs: i64,
    /// Those of them that have not finished.
    pub unfinished: i64,
    /// Objects in object storage with output of these jobs.
    pub objects: i64,
    /// Number of the next job.
    pub next_job: i64,
}

/// The newest schema that this program knows, by the number of its migration.
pub fn newest_schema() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

impl Store {
    /// Whether the database has tables of gaffer, of whichever version.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_schema(&self) -> Result<bool, StoreError> {
        let tables = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL AND to_regclass('jobs') IS NOT NULL";
        Ok(sqlx::query_scalar(tables).fetch_one(&self.pool).await?)
    }

    /// The schema of the database, by the number of its newest migration.
    ///
    /// # Errors
    /// When the database does not answer, or has no schema of gaffer.
    pub async fn schema(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(&self.pool).await?)
    }

    /// How much the database takes on disk, in bytes.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn database_bytes(&self) -> Result<u64, StoreError> {
        let bytes: i64 =
            sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(&self.pool).await?;
        Ok(bytes.unsigned_abs())
    }

    /// What is in object storage; nothing in a schema of a version that did not know it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn moved_output_of_any_schema(&self) -> Result<MovedOutput, StoreError> {
        let is_known = "SELECT to_regclass('output_object_eras') IS NOT NULL";
        match sqlx::query_scalar(is_known).fetch_one(&self.pool).await? {
            true => self.output_in_objects().await,
            false => Ok(MovedOutput::default()),
        }
    }

    /// Prepares a database that was restored from a backup of that time, for the next master: the caller leads
    /// until then, and does nothing else. The schema is the present one.
    ///
    /// # Errors
    /// When the database does not answer. Nothing but numbers has changed then.
    pub async fn continue_after_restore(&self, taken_at: Time) -> Result<RestoredJobs, StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
        // On the database of an operator, another client may hold a lock: fail instead of waiting for it without end.
        sqlx::query("SET LOCAL lock_timeout = '60s'").execute(&mut *tx).await?;
        // Later than anything in the backup, whatever its clock was.
        let now: Time = sqlx::query_scalar(
            "SELECT GREATEST(clock_timestamp(), \
                 (SELECT max(GREATEST(scheduled_at, since)) + interval '1 microsecond' FROM live_tasks))",
        )
        .fetch_one(&mut *tx)
        .await?;
        let next = NextNumbers::after(last_numbers(&mut tx).await?, taken_at, now);

        let term = "UPDATE leadership SET term = $1, released = true";
        sqlx::query(term).bind(next.term).execute(&mut *tx).await?;
        mark_unfinished(&mut tx, &next, now).await?;
        leave_out_late_tasks(&mut tx, &next, now).await?;
        forget_connections(&mut tx, now).await?;
        // Who had signed out, or used a link, after the backup, would be signed in again.
        sqlx::query("DELETE FROM web_sessions").execute(&mut *tx).await?;
        sqlx::query("DELETE FROM login_links").execute(&mut *tx).await?;
        // Those that were used or revoked after the backup would be good again.
        sqlx::query("UPDATE invitations SET revoked_at = now() WHERE used_at IS NULL AND revoked_at IS NULL")
            .execute(&mut *tx)
            .await?;
        // For the events that are written here: workers and followers may know higher numbers than the backup does.
        sqlx::query("SELECT setval('events_id_seq', $1)").bind(next.event).execute(&mut *tx).await?;
        let unfinished = note(&mut tx, taken_at, now).await?;
        let jobs = sqlx::query_scalar("SELECT count(*) FROM jobs").fetch_one(&mut *tx).await?;
        sqlx::query(
            "UPDATE installation SET restored_at = $1, restored_before_task = first_task($2), \
                 attempts_left_out = LEAST(attempts_left_out + $3, $4), output_directory = gen_random_uuid()",
        )
        .bind(now)
        .bind(next.era)
        .bind(next.attempts_left_out)
        .bind(HIGHEST_LEFT_OUT)
        .execute(&mut *tx)
        .await?;
        let objects = "SELECT COALESCE(sum(objects), 0)::bigint FROM output_object_eras";
        let objects = sqlx::query_scalar(objects).fetch_one(&mut *tx).await?;
        eras::open_far_ahead(&mut tx, next.era, next.job).await?;
        // Last, because it is not undone with the rest: each attempt would double the number.
        sqlx::query("SELECT setval('jobs_id_seq', $1, false)").bind(next.job).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(RestoredJobs { jobs, unfinished, objects, next_job: next.job })
    }
}

async fn last_numbers(tx: &mut PgConnection) -> Result<LastNumbers, StoreError> {
    let era = eras::present(&mut *tx).await?;
    let (term, job, event) = sqlx::query_as(
        "SELECT term, (SELECT last_value FROM jobs_id_seq), (SELECT last_value FROM events_id_seq) FROM leadership",
    )
    .fetch_one(tx)
    .await?;
    Ok(LastNumbers { era, term, job, event })
}

/// Any unfinished task may have been placed after the backup, and its attempt may execute until its lease is over: the
/// latest that the earlier master can have granted was granted before `now`.
async fn mark_unfinished(tx: &mut PgConnection, next: &NextNumbers, now: Time) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE live_tasks t SET since = $1, unseen_until = u.until, \
             unseen_attempts = LEAST(GREATEST(t.attempt, t.unseen_attempts) + $2::bigint, $5::bigint), \
             not_before = CASE WHEN t.state = 'pending' THEN GREATEST(t.not_before, u.until) END \
         FROM (SELECT id, $1 + (lost_after_millis * $3::float8 + $4) * interval '1 millisecond' AS until FROM jobs) u \
         WHERE u.id = t.job_id",
    )
    .bind(now)
    .bind(next.attempts_left_out)
    .bind(1.0 + CLOCK_DRIFT)
    .bind(LOST_MARGIN.as_millis() as f64)
    .bind(HIGHEST_LEFT_OUT)
    .execute(tx)
    .await?;
    Ok(())
}

/// Services may have been scaled up after the backup: their jobs are of earlier eras, and numbers of tasks there go on beyond
/// those that workers may know.
async fn leave_out_late_tasks(
    tx: &mut PgConnection,
    next: &NextNumbers,
    now: Time,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE late_tasks SET given = LEAST(given + $1, 1::bigint << 31)")
        .bind(next.late_tasks_left_out(now))
        .execute(tx)
        .await?;
    Ok(())
}

/// No worker was heard since the backup. The name of one that does not come back is free at once; how long those are away
/// that have attempts, the next master counts anew.
async fn forget_connections(tx: &mut PgConnection, now: Time) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE workers SET session = NULL, online_since = NULL, \
             offline_since = $1 - $2 * interval '1 millisecond' WHERE session IS NOT NULL",
    )
    .bind(now)
    .bind(WORKER_LOST_AFTER.as_millis() as f64)
    .execute(tx)
    .await?;
    Ok(())
}

/// Tells each unfinished job, in its history, what is not known of it. Returns how many there are.
async fn note(tx: &mut PgConnection, taken_at: Time, now: Time) -> Result<i64, StoreError> {
    let message = format!(
        "gaffer was restored from the backup of {}; what happened to this job after that is not known, and its unfinished \
         tasks may run again",
        taken_at.format("%Y-%m-%d %H:%M:%S UTC")
    );
    let noted = sqlx::query(
        "INSERT INTO events (project_id, at, kind, job_id, actor, message, era) \
         SELECT project_id, $1, 'job.restored', id, 'gaffer', $2, era FROM jobs WHERE finished_at IS NULL",
    )
    .bind(now)
    .bind(message)
    .execute(tx)
    .await?;
    Ok(i64::try_from(noted.rows_affected()).unwrap_or(i64::MAX))
}
