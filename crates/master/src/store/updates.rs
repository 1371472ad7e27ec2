//! How far updates of services are.

use gaffer_domain::job::JobState;
use gaffer_domain::reason::ReasonCode;
use gaffer_domain::rollout::Observed;
use gaffer_domain::{AttemptRef, JobId, ProjectId, TaskId, Time};
use sqlx::FromRow;

use super::forms::known;
use super::{Store, StoreError, WriteStore};

/// A definition that is updated.
#[derive(Debug, Clone, PartialEq)]
pub struct Updating {
    pub job: JobId,
    pub project: ProjectId,
    /// The present version of the job.
    pub job_version: u32,
    pub position: usize,
    /// The version that it is updated to, and that of the job before.
    pub version: u32,
    pub from: u32,
    /// At how many instances it is kept, if not at as many as specified; and how many further ones there may be.
    pub scaled_to: Option<u32>,
    pub surge: u32,
    pub is_promoted: bool,
    pub reverts: bool,
    /// Some instance of the new version is over.
    pub has_ended: bool,
    pub since: Time,
}

/// An instance of a definition, and its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceRow {
    pub attempt: AttemptRef,
    pub observed: Observed,
}

/// What became of the wish that an update continues after its canaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promoted {
    /// It does.
    Yes,
    /// There is no update that could.
    NotUpdated(JobState),
    /// The present version is another one, this.
    Overtaken { present: u32, state: JobState },
    /// Not found in that project.
    Unknown,
}

impl WriteStore {
    /// Lets updates of a service continue after their canaries; with a version, only if it is the present one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_promote(
        &self,
        (project, job): (ProjectId, JobId),
        version: Option<u32>,
        actor: &str,
    ) -> Result<Promoted, StoreError> {
        let mut tx = self.begin_short().await?;
        let found: Option<(String, bool, i32)> = sqlx::query_as(
            "SELECT state::text, stop_message IS NOT NULL, version FROM jobs WHERE id = $1 AND project_id + 0 = $2 FOR UPDATE",
        )
        .bind(job.0)
        .bind(project.0)
        .fetch_optional(&mut *tx)
        .await?;
        let Some((state, is_stopping, present)) = found else { return Ok(Promoted::Unknown) };
        let state: JobState = known("job state", &state)?;
        if version.is_some_and(|version| version != present as u32) {
            return Ok(Promoted::Overtaken { present: present as u32, state });
        }
        if state.is_final() || is_stopping {
            return Ok(Promoted::NotUpdated(state));
        }
        let promoted = sqlx::query(
            "UPDATE task_definitions SET promoted = true \
             WHERE job_id = $1 AND update_since IS NOT NULL AND update_problem IS NULL",
        )
        .bind(job.0)
        .execute(&mut *tx)
        .await?;
        if promoted.rows_affected() == 0 {
            return Ok(Promoted::NotUpdated(state));
        }
        sqlx::query(
            "INSERT INTO events (project_id, at, kind, job_id, actor, message, era) \
             SELECT project_id, now(), 'job.promoted', id, $2, 'version ' || version, era FROM jobs WHERE id = $1",
        )
        .bind(job.0)
        .bind(actor)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Promoted::Yes)
    }
}

impl Store {
    /// The definitions that are updated, as far as their updates continue.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn updates(&self) -> Result<Vec<Updating>, StoreError> {
        #[derive(FromRow)]
        struct Row {
            job_id: i64,
            project_id: i64,
            job_version: i32,
            position: i16,
            version: i32,
            update_from: i32,
            count: Option<i32>,
            surge: i32,
            promoted: bool,
            update_reverts: bool,
            has_ended: bool,
            update_since: Time,
        }
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT d.job_id, j.project_id, j.version AS job_version, d.position, d.version, d.update_from, d.count, d.surge, d.promoted, \
                 d.update_reverts, d.update_since, EXISTS (SELECT FROM finished_tasks f WHERE f.job_id = d.job_id AND f.era = j.era \
                     AND f.position = d.position AND coalesce(f.version, 1) = d.version AND f.state <> 'cancelled' \
                     AND f.finished_at >= d.update_since) AS has_ended \
             FROM task_definitions d JOIN jobs j ON j.id = d.job_id \
             WHERE d.update_since IS NOT NULL AND d.update_problem IS NULL AND j.finished_at IS NULL \
                 AND j.stop_message IS NULL ORDER BY d.job_id, d.position",
        )
        .fetch_all(&self.pool)
        .await?;
        let updating = |row: Row| Updating {
            job: JobId(row.job_id),
            project: ProjectId(row.project_id),
            job_version: row.job_version as u32,
            position: row.position as usize,
            version: row.version as u32,
            from: row.update_from as u32,
            scaled_to: row.count.map(i32::unsigned_abs),
            surge: row.surge as u32,
            is_promoted: row.promoted,
            reverts: row.update_reverts,
            has_ended: row.has_ended,
            since: row.update_since,
        };
        Ok(rows.into_iter().map(updating).collect())
    }

    /// The instances of a definition that is updated, as far as they are not over; of a system job without those that are scaled down.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn instances(&self, updating: &Updating) -> Result<Vec<InstanceRow>, StoreError> {
        #[derive(FromRow)]
        struct Row {
            id: i64,
            attempt: i32,
            index: i32,
            state: String,
            since: Time,
            started_at: Option<Time>,
            version: i32,
            wanted_version: i32,
            has_failed: bool,
            is_away: bool,
        }
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, attempt, index, state::text AS state, since, started_at, coalesce(version, 1) AS version, \
                 wanted_version, EXISTS (SELECT FROM (SELECT t.version, t.scheduled_at, t.attempt_reason_code \
                     UNION ALL SELECT e.version, e.scheduled_at, e.attempt_reason_code FROM earlier_attempts e \
                         WHERE e.task_id = t.id) a \
                     WHERE coalesce(a.version, 1) = $3 AND a.scheduled_at >= $4 AND a.attempt_reason_code IS NOT NULL \
                         AND a.attempt_reason_code <> ALL($5)) AS has_failed, \
                 coalesce(w.is_away, false) AS is_away \
             FROM live_tasks t \
             LEFT JOIN LATERAL (SELECT worker_id AS own FROM classes WHERE id = t.class_id OFFSET 0) c ON true \
             LEFT JOIN LATERAL (SELECT offline_since IS NOT NULL OR intake <> 'open' AS is_away FROM workers \
                 WHERE id = c.own OFFSET 0) w ON true \
             WHERE job_id = $1 AND position = $2 AND (c.own IS NULL OR NOT scaled_down) ORDER BY index",
        )
        .bind(updating.job.0)
        .bind(updating.position as i16)
        .bind(updating.version as i32)
        .bind(updating.since)
        .bind([ReasonCode::LostWorker, ReasonCode::Stopped].map(|code| code.as_str()).to_vec())
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                let observed = Observed {
                    index: row.index as u32,
                    state: known("task state", &row.state)?,
                    since: row.since,
                    started_at: row.started_at,
                    version: row.version as u32,
                    wanted_version: row.wanted_version as u32,
                    has_failed: row.has_failed,
                    is_away: row.is_away,
                };
                let attempt = AttemptRef { task: TaskId(row.id), attempt: row.attempt as u32 };
                Ok(InstanceRow { attempt, observed })
            })
            .collect()
    }
}
