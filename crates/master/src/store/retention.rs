//! Retention: expired jobs, and the eras that are dropped.
//!
//! A job that expires disappears at once, as one that is deleted. What it leaves behind waits until its era is dropped; if too
//! much of that era is kept, it is deleted in batches instead.

use gaffer_domain::job::JobState;
use gaffer_domain::retention::{EraRest, MOST_KEPT_TASKS, Retention};
use gaffer_domain::{JobId, ProjectId, Time};
use sqlx::types::Json;
use sqlx::{Connection as _, FromRow, PgConnection};

use super::eras::BRIEF;
use super::forms::known;
use super::{ReadStore, Store, StoreError, WriteStore};

/// The most jobs that expire in one transaction, and the most rows of `deletions` that are removed in one.
const SLICE_JOBS: i64 = 1_000;
const SLICE_DELETIONS: i64 = 10_000;
/// The most events of no job that are deleted in one transaction.
const SLICE_EVENTS: i64 = 1_000;
/// An era with more jobs than this is not dropped.
const MOST_KEPT_JOBS: i64 = 1_000;
/// The most kinds of finished jobs, by state and their own retention, that are looked at.
const MOST_KINDS: i64 = 10_000;

/// A statement that looks at every job reads tables as a whole, and may take longer than those of other readers.
const WHOLE_TABLES: [&str; 4] = [
    "SET LOCAL enable_seqscan = on",
    "SET LOCAL enable_hashjoin = on",
    "SET LOCAL enable_sort = on",
    "SET LOCAL statement_timeout = '20s'",
];

/// An era that is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct ClosedEra {
    pub number: i64,
    /// The numbers of its jobs: from the first one to the one before the other.
    first_job: i64,
    end_job: i64,
}

/// What became of an attempt to drop an era.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// It is gone; what is kept of it is with what is kept of earlier ones.
    Yes,
    /// Too much of it is kept.
    NotYet(EraRest),
}

/// Finished jobs that ended equally and have the same retention of their own.
#[derive(Debug, FromRow)]
struct KindRow {
    state: String,
    retention: Json<Retention>,
}

impl ReadStore {
    /// The kinds of finished jobs that are not pinned. Costs one index look-up a kind.
    async fn kinds_of_finished_jobs(&self) -> Result<Vec<(JobState, Retention)>, StoreError> {
        let rows: Vec<KindRow> = sqlx::query_as(
            "WITH RECURSIVE kinds AS ( \
                 (SELECT state, retention, 1 AS n FROM jobs WHERE finished_at IS NOT NULL AND NOT pinned \
                     ORDER BY state, retention LIMIT 1) \
                 UNION ALL \
                 SELECT next.state, next.retention, kinds.n + 1 FROM kinds, LATERAL ( \
                     SELECT state, retention FROM jobs WHERE finished_at IS NOT NULL AND NOT pinned \
                         AND (state, retention) > (kinds.state, kinds.retention) \
                     ORDER BY state, retention LIMIT 1) next WHERE kinds.n < $1) \
             SELECT state::text AS state, retention FROM kinds",
        )
        .bind(MOST_KINDS)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|row| Ok((known("job state", &row.state)?, row.retention.0))).collect()
    }

    /// The closed eras, oldest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn eras_closed(&self) -> Result<Vec<ClosedEra>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT number, first_job, end_job FROM ( \
                 SELECT number, first_job, closed_at, lead(first_job) OVER (ORDER BY number) AS end_job FROM eras) e \
             WHERE closed_at IS NOT NULL AND end_job IS NOT NULL ORDER BY number",
        )
        .fetch_all(&self.pool)
        .await?)
    }
}

impl Store {
    /// Lets some of the jobs disappear that have expired by now; returns how many. The next call continues.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn jobs_expire(&self, retention: &Retention, now: Time) -> Result<u64, StoreError> {
        let mut expired = 0;
        for (state, own) in self.kinds_of_finished_jobs().await? {
            let Some(cutoff) = retention.cutoff(state, &own, now) else { continue };
            expired += self.jobs_expire_of(state, &own, cutoff).await?;
            if expired >= SLICE_JOBS.unsigned_abs() {
                break;
            }
        }
        Ok(expired)
    }

    async fn jobs_expire_of(
        &self,
        state: JobState,
        own: &Retention,
        cutoff: Time,
    ) -> Result<u64, StoreError> {
        let mut tx = self.begin_short().await?;
        // One that is just being changed, for instance pinned, is looked at again the next time.
        let jobs: Vec<i64> = sqlx::query_scalar(
            "SELECT id FROM jobs WHERE state = $1::job_state AND retention = $2 AND finished_at IS NOT NULL \
                 AND NOT pinned AND finished_at <= $3 ORDER BY finished_at LIMIT $4 FOR UPDATE SKIP LOCKED",
        )
        .bind(state.as_str())
        .bind(Json(own))
        .bind(cutoff)
        .bind(SLICE_JOBS)
        .fetch_all(&mut *tx)
        .await?;
        if jobs.is_empty() {
            return Ok(0);
        }
        // Nothing waits for an era that has been dropped.
        sqlx::query(
            "INSERT INTO deletions (job_id, era, tasks, waits_for_era) \
             SELECT j.id, j.era, (SELECT COALESCE(sum(d.completed + d.failed + d.cancelled), 0) \
                     FROM task_definitions d WHERE d.job_id = j.id), \
                 EXISTS (SELECT FROM eras e WHERE e.number = j.era) \
             FROM UNNEST($1::bigint[]) AS expired(job) JOIN jobs j ON j.id = expired.job",
        )
        .bind(&jobs)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO events (project_id, at, kind, actor, message) \
             SELECT j.project_id, now(), 'job.expired', 'retention', \
                 count(*) || ' ' || $2 || CASE count(*) WHEN 1 THEN ' job has' ELSE ' jobs have' END || ' expired: ' \
                     || min(j.id) || CASE count(*) WHEN 1 THEN '' ELSE ' to ' || max(j.id) END \
             FROM UNNEST($1::bigint[]) AS expired(job) JOIN jobs j ON j.id = expired.job GROUP BY j.project_id",
        )
        .bind(&jobs)
        .bind(state.as_str())
        .execute(&mut *tx)
        .await?;
        sqlx::query("DELETE FROM jobs WHERE id = ANY($1)").bind(&jobs).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(jobs.len() as u64)
    }

    /// Drops a closed era if its jobs have expired, but for a few that are put aside: in one transaction, which waits
    /// only briefly for those who use history.
    ///
    /// # Errors
    /// When the database does not answer, or somebody uses history for long: nothing has changed then.
    pub async fn era_drop(&self, era: ClosedEra) -> Result<Dropped, StoreError> {
        let mut tx = self.begin().await?;
        let expired = "SELECT EXISTS (SELECT FROM deletions WHERE waits_for_era AND era = $1)";
        let has_expired: bool = sqlx::query_scalar(expired).bind(era.number).fetch_one(&mut *tx).await?;
        let kept: Vec<i64> = sqlx::query_scalar(
            "SELECT id FROM jobs WHERE id >= $1 AND id < $2 AND era = $3 ORDER BY id LIMIT $4",
        )
        .bind(era.first_job)
        .bind(era.end_job)
        .bind(era.number)
        // If nothing has expired, any job at all is too much.
        .bind(if has_expired { MOST_KEPT_JOBS + 1 } else { 1 })
        .fetch_all(&mut *tx)
        .await?;
        let mut rest = EraRest { kept_jobs: kept.len() as i64, ..EraRest::default() };
        if rest.kept_jobs > MOST_KEPT_JOBS {
            return Ok(Dropped::NotYet(rest));
        }
        let mut tasks = Vec::new();
        if !kept.is_empty() && has_expired {
            rest.expired_tasks = expired_tasks(&mut tx, era.number).await?;
            tasks = tasks_of(&mut tx, &kept, era.number).await?;
            rest.kept_tasks = tasks.len() as i64;
            if rest.can_go() {
                rest.kept_bytes = bytes_of(&mut tx, &tasks).await?;
            }
        }
        if !rest.can_go() {
            return Ok(Dropped::NotYet(rest));
        }
        for sql in [
            "DELETE FROM dead_letters l WHERE task_id >= first_task($1) AND task_id < first_task($1 + 1) \
                 AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = l.job_id)",
            // Of jobs whose specification another version had damaged.
            "DELETE FROM live_tasks t WHERE id >= first_task($1) AND id < first_task($1 + 1) \
                 AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = t.job_id)",
        ] {
            sqlx::query(sql).bind(era.number).execute(&mut *tx).await?;
        }
        sqlx::query(BRIEF).execute(&mut *tx).await?;
        sqlx::query("SELECT drop_era($1, $2, $3)")
            .bind(era.number)
            .bind(&kept)
            .bind(&tasks)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Dropped::Yes)
    }

    /// Deletes some of the events of no job that are older than that; returns how many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn events_expire(&self, before: Time) -> Result<u64, StoreError> {
        let mut tx = self.begin_short().await?;
        // They are in one partition, so a row's place in it names the row.
        let done = sqlx::query(
            "DELETE FROM events WHERE era IS NULL AND ctid = ANY(ARRAY( \
                 SELECT ctid FROM events WHERE era IS NULL AND at < $1 ORDER BY at LIMIT $2))",
        )
        .bind(before)
        .bind(SLICE_EVENTS)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }

    /// Forgets some of the deletions that were waiting for eras that are gone by now; returns how many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn deletions_forget(&self) -> Result<u64, StoreError> {
        let mut tx = self.begin_short().await?;
        let done = sqlx::query(
            "DELETE FROM deletions WHERE job_id = ANY(ARRAY( \
                 SELECT job_id FROM deletions d WHERE waits_for_era \
                     AND NOT EXISTS (SELECT FROM eras e WHERE e.number = d.era) LIMIT $1))",
        )
        .bind(SLICE_DELETIONS)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }

    /// Lets what expired no later than then be deleted in batches, though its era is still there; returns how many jobs that
    /// are.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn deletions_release(&self, era: i64, expired_until: Time) -> Result<u64, StoreError> {
        let mut tx = self.begin_short().await?;
        let done = sqlx::query(
            "UPDATE deletions SET waits_for_era = false WHERE job_id = ANY(ARRAY( \
                 SELECT job_id FROM deletions WHERE waits_for_era AND era = $1 AND at <= $2 LIMIT $3))",
        )
        .bind(era)
        .bind(expired_until)
        .bind(SLICE_DELETIONS)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }
}

async fn expired_tasks(tx: &mut PgConnection, era: i64) -> Result<i64, StoreError> {
    let sum = "SELECT COALESCE(sum(tasks), 0)::bigint FROM deletions WHERE waits_for_era AND era = $1";
    Ok(sqlx::query_scalar(sum).bind(era).fetch_one(tx).await?)
}

/// The tasks of these jobs of an era, and one more than may be kept if there are more.
async fn tasks_of(tx: &mut PgConnection, jobs: &[i64], era: i64) -> Result<Vec<i64>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT t.id FROM UNNEST($1::bigint[]) AS kept(job), LATERAL ( \
             SELECT id FROM tasks WHERE job_id = kept.job AND era = $2 LIMIT $3) t LIMIT $3",
    )
    .bind(jobs)
    .bind(era)
    .bind(MOST_KEPT_TASKS + 1)
    .fetch_all(tx)
    .await?)
}

async fn bytes_of(tx: &mut PgConnection, tasks: &[i64]) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT COALESCE(sum(octet_length(o.body)), 0)::bigint \
         FROM UNNEST($1::bigint[]) AS kept(task) JOIN output_chunks o ON o.task_id = kept.task",
    )
    .bind(tasks)
    .fetch_one(tx)
    .await?)
}

impl WriteStore {
    /// Pins a job or unpins it. False if there is no such job in the project.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_pin(
        &self,
        project: ProjectId,
        job: JobId,
        pinned: bool,
        actor: &str,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin_short().await?;
        let before: Option<bool> =
            sqlx::query_scalar("SELECT pinned FROM jobs WHERE id = $1 AND project_id + 0 = $2 FOR UPDATE")
                .bind(job.0)
                .bind(project.0)
                .fetch_optional(&mut *tx)
                .await?;
        let Some(before) = before else { return Ok(false) };
        if before != pinned {
            sqlx::query("UPDATE jobs SET pinned = $2 WHERE id = $1")
                .bind(job.0)
                .bind(pinned)
                .execute(&mut *tx)
                .await?;
            sqlx::query(
                "INSERT INTO events (project_id, at, kind, job_id, era, actor, message) \
                 SELECT project_id, now(), $2, id, era, $3, '' FROM jobs WHERE id = $1",
            )
            .bind(job.0)
            .bind(if pinned { "job.pinned" } else { "job.unpinned" })
            .bind(actor)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(true)
    }
}

/// An era, and what of it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct StoredEra {
    /// None for what is kept of eras that were dropped.
    pub number: Option<i64>,
    pub opened_at: Option<Time>,
    pub closed_at: Option<Time>,
    /// Of all projects, on disk.
    pub bytes: i64,
    /// Objects with its output in object storage, and their size there, of all projects.
    pub objects: i64,
    pub object_bytes: i64,
    /// Expired jobs that wait for it, and their tasks, of all projects.
    pub waiting_jobs: i64,
    pub waiting_tasks: i64,
}

/// Jobs of an era that are alike as far as retention is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobGroup {
    /// None if that era was dropped.
    pub era: Option<i64>,
    pub state: JobState,
    pub own: Retention,
    pub is_pinned: bool,
    pub jobs: i64,
    pub tasks: i64,
    /// When the first and the last of them finished; none of unfinished ones.
    pub finished: Option<(Time, Time)>,
}

#[derive(FromRow)]
struct GroupRow {
    era: Option<i64>,
    state: String,
    retention: Json<Retention>,
    pinned: bool,
    jobs: i64,
    tasks: i64,
    first: Option<Time>,
    last: Option<Time>,
}

impl ReadStore {
    /// The opened eras, oldest first, after what is kept of earlier ones.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn eras_stored(&self) -> Result<Vec<StoredEra>, StoreError> {
        Ok(sqlx::query_as(
            "WITH parts AS ( \
                 SELECT number, CASE WHEN number IS NULL THEN '_rest' ELSE '_era_' || number END AS suffix, opened_at, closed_at \
                 FROM (SELECT NULL::bigint AS number, NULL::timestamptz AS opened_at, NULL::timestamptz AS closed_at \
                     UNION ALL SELECT number, opened_at, closed_at FROM eras WHERE opened_at IS NOT NULL) e) \
             SELECT p.number, p.opened_at, p.closed_at, \
                 (SELECT COALESCE(sum(pg_total_relation_size(to_regclass(history || p.suffix))), 0)::bigint \
                     FROM UNNEST(ARRAY['finished_tasks', 'earlier_attempts', 'output_chunks', 'events']) history) AS bytes, \
                 COALESCE(m.objects, 0)::bigint AS objects, COALESCE(m.object_bytes, 0)::bigint AS object_bytes, \
                 COALESCE(w.jobs, 0) AS waiting_jobs, COALESCE(w.tasks, 0) AS waiting_tasks \
             FROM parts p LEFT JOIN LATERAL (SELECT sum(objects) AS objects, sum(object_bytes) AS object_bytes \
                 FROM output_object_eras o WHERE o.era = p.number OR (p.number IS NULL \
                     AND NOT EXISTS (SELECT FROM eras e WHERE e.number = o.era))) m ON true \
             LEFT JOIN LATERAL (SELECT count(*) AS jobs, sum(tasks)::bigint AS tasks FROM deletions d \
                 WHERE d.waits_for_era AND d.era = p.number) w ON true ORDER BY p.number NULLS FIRST",
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// All jobs of a project, grouped. Costs a look at each of them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn jobs_by_retention(&self, project: ProjectId) -> Result<Vec<JobGroup>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let mut tx = connection.begin().await?;
        for setting in WHOLE_TABLES {
            sqlx::query(setting).execute(&mut *tx).await?;
        }
        let rows: Vec<GroupRow> = sqlx::query_as(
            "SELECT e.number AS era, j.state::text AS state, j.retention, j.pinned, count(*) AS jobs, \
                 COALESCE(sum(n.tasks), 0)::bigint AS tasks, min(j.finished_at) AS first, max(j.finished_at) AS last \
             FROM jobs j LEFT JOIN eras e ON e.number = j.era LEFT JOIN ( \
                 SELECT job_id, sum(blocked + pending + scheduled + running + stopping + completed + failed + cancelled) AS tasks \
                 FROM task_definitions GROUP BY job_id) n ON n.job_id = j.id \
             WHERE j.project_id = $1 GROUP BY e.number, j.state, j.retention, j.pinned",
        )
        .bind(project.0)
        .fetch_all(&mut *tx)
        .await?;
        tx.rollback().await?;
        rows.into_iter()
            .map(|row| {
                Ok(JobGroup {
                    era: row.era,
                    state: known("job state", &row.state)?,
                    own: row.retention.0,
                    is_pinned: row.pinned,
                    jobs: row.jobs,
                    tasks: row.tasks,
                    finished: row.first.zip(row.last),
                })
            })
            .collect()
    }
}
