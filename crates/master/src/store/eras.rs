//! Eras: ranges of task numbers whose history is kept in separate partitions.

use gaffer_domain::{JobId, Time};
use sqlx::PgConnection;

use super::{ReadStore, Store, StoreError};

/// A change of which partitions there are waits no longer than this for a lock: later statements wait behind it.
pub(super) const BRIEF: &str = "SET LOCAL lock_timeout = '200ms'";
/// The lock that submissions share, as in `present_era`.
const LOCK_EXCLUSIVE: &str = "SELECT pg_advisory_xact_lock(x'67616666657265'::bigint)";

/// The era of which new tasks get their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresentEra {
    pub number: i64,
    pub opened_at: Time,
    /// How many task numbers it has given out.
    pub tasks: i64,
}

impl ReadStore {
    /// Where the history of a job is kept; none if there is no such job.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(super) async fn era_of_job(&self, job: JobId) -> Result<Option<i64>, StoreError> {
        Ok(sqlx::query_scalar("SELECT era FROM jobs WHERE id = $1")
            .bind(job.0)
            .fetch_optional(&self.pool)
            .await?)
    }
}

impl Store {
    /// The present era. Makes the partitions of the one after it, if there are none.
    ///
    /// # Errors
    /// When the database does not answer, or somebody holds a lock on history.
    pub async fn era_present(&self) -> Result<PresentEra, StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(BRIEF).execute(&mut *tx).await?;
        let number = present(&mut tx).await?;
        let is_known: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM eras WHERE number = $1 AND opened_at IS NOT NULL)",
        )
        .bind(number)
        .fetch_one(&mut *tx)
        .await?;
        if !is_known {
            // Numbers change at once, rows with the commit: the master that opened it was interrupted in between.
            sqlx::query(LOCK_EXCLUSIVE).execute(&mut *tx).await?;
            opened_before(&mut tx, number).await?;
        }
        let has_next: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM eras WHERE number = $1)")
            .bind(number + 1)
            .fetch_one(&mut *tx)
            .await?;
        if !has_next {
            sqlx::query("SELECT make_era($1)").bind(number + 1).execute(&mut *tx).await?;
        }
        let (opened_at, tasks): (Time, i64) = sqlx::query_as(
            "SELECT opened_at, last_value + is_called::int - greatest(first_task(number), 1) \
             FROM eras, live_tasks_id_seq WHERE number = $1",
        )
        .bind(number)
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(PresentEra { number, opened_at, tasks })
    }

    /// Opens the era after this one, unless that has happened. Waits only for submissions that are under way.
    ///
    /// # Errors
    /// When the database does not answer, or a submission takes long: nothing has changed then.
    pub async fn era_open_next(&self, after: i64) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(BRIEF).execute(&mut *tx).await?;
        sqlx::query(LOCK_EXCLUSIVE).execute(&mut *tx).await?;
        if present(&mut tx).await? != after {
            return Ok(());
        }
        let first_job: i64 = sqlx::query_scalar("SELECT last_value + is_called::int FROM jobs_id_seq")
            .fetch_one(&mut *tx)
            .await?;
        opened(&mut tx, after + 1, first_job).await?;
        set_present(&mut tx, after + 1).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Opens an era far ahead, for a restored installation: eras in between are left out. Nothing else may use the database.
pub(super) async fn open_far_ahead(
    tx: &mut PgConnection,
    era: i64,
    first_job: i64,
) -> Result<(), StoreError> {
    // Made ahead, for a time that is left out. The present one stays, also if its record is not complete.
    let left_out = "SELECT drop_era(number, ARRAY[]::bigint[], ARRAY[]::bigint[]) FROM eras \
         WHERE number > $1 AND opened_at IS NULL";
    let present = present(&mut *tx).await?;
    sqlx::query(left_out).bind(present).execute(&mut *tx).await?;
    for made in [era, era + 1] {
        sqlx::query("SELECT make_era($1)").bind(made).execute(&mut *tx).await?;
    }
    let is_incomplete: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM eras WHERE number = $1 AND opened_at IS NULL)")
            .bind(present)
            .fetch_one(&mut *tx)
            .await?;
    if is_incomplete {
        opened_before(tx, present).await?;
    }
    opened(tx, era, first_job).await?;
    set_present(tx, era).await
}

/// Sets the number of the next task. That is not undone with the rest, so it comes last.
async fn set_present(tx: &mut PgConnection, era: i64) -> Result<(), StoreError> {
    sqlx::query("SELECT setval('live_tasks_id_seq', first_task($1), false)").bind(era).execute(tx).await?;
    Ok(())
}

pub(super) async fn present(tx: &mut PgConnection) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("SELECT era_of_task(last_value) FROM live_tasks_id_seq").fetch_one(tx).await?)
}

/// Records an era that was opened without a record, and the lowest number of the jobs that it got since then. Nothing may be
/// submitted meanwhile.
async fn opened_before(tx: &mut PgConnection, number: i64) -> Result<(), StoreError> {
    let first_job = "SELECT COALESCE( \
             (SELECT min(j.id) FROM jobs j WHERE j.id >= (SELECT max(first_job) FROM eras) AND j.era = $1), \
             (SELECT last_value + is_called::int FROM jobs_id_seq))";
    let first_job: i64 = sqlx::query_scalar(first_job).bind(number).fetch_one(&mut *tx).await?;
    opened(tx, number, first_job).await
}

/// Records that an era is open from now on, and those before it closed.
async fn opened(tx: &mut PgConnection, number: i64, first_job: i64) -> Result<(), StoreError> {
    let close =
        "UPDATE eras SET closed_at = now() WHERE number < $1 AND opened_at IS NOT NULL AND closed_at IS NULL";
    sqlx::query(close).bind(number).execute(&mut *tx).await?;
    let opened = sqlx::query("UPDATE eras SET opened_at = now(), first_job = $2 WHERE number = $1")
        .bind(number)
        .bind(first_job)
        .execute(&mut *tx)
        .await?;
    match opened.rows_affected() {
        1 => Ok(()),
        _ => Err(StoreError::Unreadable(format!("era {number} has no partitions"))),
    }
}
