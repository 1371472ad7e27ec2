//! Versions of services, and how far their updates are.

use std::collections::BTreeMap;

use gaffer_domain::job::JobState;
use gaffer_domain::placement::{DefinitionRef, Requirements};
use gaffer_domain::reason::ReasonCode;
use gaffer_domain::spec::{JobSpec, STORED_VERSION};
use gaffer_domain::task::StateName;
use gaffer_domain::versions::{Refused, arrange};
use gaffer_domain::{AttemptRef, JobId, ProjectId, TaskId, Time};
use gaffer_protocol::definitions::Definition;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

use super::forms::known;
use super::jobs::{Needs, NewJob, classes_ensure};
use super::specs::read;
use super::{ReadStore, Store, StoreError, WriteStore};

/// Number of latest versions that are kept, beside those that instances have.
const KEPT_VERSIONS: i32 = 20;

/// The next version of a service.
#[derive(Debug, Clone, Copy)]
pub struct NewVersion<'a> {
    pub project: ProjectId,
    pub job: JobId,
    pub spec: &'a JobSpec,
    pub source: VersionSource<'a>,
    /// Who wants it.
    pub created_by: &'a str,
    /// Why, if it takes an earlier version back.
    pub message: &'a str,
    /// It is not taken back in turn.
    pub reverts: bool,
    /// Only if this is still the present version.
    pub after: Option<u32>,
}

/// What a version was made of: its specification before the values of its parameters were put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionSource<'a> {
    /// As JSON; none without parameters.
    Text(Option<&'a str>),
    /// The source of an earlier version, which it repeats.
    Version(u32),
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Updated {
    /// It is the present version, of this number.
    Accepted(u32),
    /// It is as the present version, of this number.
    Unchanged(u32),
    /// It cannot be the next version.
    Refused(Refused),
    /// The service is over, or being stopped.
    NotKept(JobState),
    /// The present version is another one by now.
    Overtaken(u32),
    /// Not found in that project.
    Unknown,
    /// This master cannot read the present version.
    Unreadable(String),
}

/// A version of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    pub version: u32,
    pub created_at: Time,
    pub created_by: String,
    pub message: String,
    /// The specification as it is stored.
    pub spec: Value,
}

/// A definition that is updated.
#[derive(Debug, Clone, PartialEq)]
pub struct Updating {
    pub job: JobId,
    pub project: ProjectId,
    pub position: usize,
    /// The version that it is updated to, and that of the job before.
    pub version: u32,
    pub from: u32,
    pub count: u32,
    pub surge: u32,
    pub is_promoted: bool,
    pub reverts: bool,
    /// Some instance of the new version is over.
    pub has_ended: bool,
    pub since: Time,
}

/// An instance of a definition.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceRow {
    pub attempt: AttemptRef,
    pub index: u32,
    pub state: StateName,
    pub since: Time,
    pub started_at: Option<Time>,
    /// Of its attempt, and of the next one.
    pub version: u32,
    pub wanted_version: u32,
    /// An attempt of the version that the update is to has failed since the update began. What was lost with its worker has not.
    pub has_failed: bool,
}

#[derive(FromRow)]
struct JobRow {
    state: String,
    stop_message: Option<String>,
    version: i32,
    spec_version: i16,
    spec: String,
    created_by: String,
    created_at: Time,
}

#[derive(FromRow)]
struct DefinitionRow {
    version: i32,
    count: Option<i32>,
    is_updating: bool,
}

/// What workers get to know of a definition, and which workers it may be placed on.
fn content(spec: &JobSpec, at: DefinitionRef) -> Option<(Definition, Requirements, u8)> {
    let task = spec.tasks.get(usize::from(at.position))?;
    Some((Definition::of(at, spec)?, Requirements::of(spec, task, at), spec.priority))
}

impl WriteStore {
    /// Makes a specification the next version of a service. Its instances follow in steps of updates.
    ///
    /// # Errors
    /// When the database does not answer. Whether it was accepted is then unknown; the same request can be repeated.
    pub async fn job_update(&self, new: &NewVersion<'_>, now: Time) -> Result<Updated, StoreError> {
        let mut tx = self.begin_short().await?;
        let found: Option<JobRow> = sqlx::query_as(
            "SELECT state::text AS state, stop_message, version, spec_version, spec::text AS spec, created_by, created_at \
             FROM jobs WHERE id = $1 AND project_id = $2 FOR UPDATE",
        )
        .bind(new.job.0)
        .bind(new.project.0)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(job) = found else { return Ok(Updated::Unknown) };
        let state: JobState = known("job state", &job.state)?;
        if state.is_final() || job.stop_message.is_some() {
            return Ok(Updated::NotKept(state));
        }
        let version = job.version as u32;
        if new.after.is_some_and(|after| after != version) {
            return Ok(Updated::Overtaken(version));
        }
        let present = match read(job.spec_version, &job.spec) {
            Ok(present) => present,
            Err(problem) => return Ok(Updated::Unreadable(problem)),
        };
        let spec = match arrange(&present, new.spec) {
            Ok(spec) => spec,
            Err(refused) => return Ok(Updated::Refused(refused)),
        };
        if spec == present {
            return Ok(Updated::Unchanged(version));
        }
        let next = version + 1;
        let write = VersionWrite { new, job: &job, present: &present, spec: &spec, next, now };
        let stored = write.write(&mut tx, self.leadership.term()).await?;
        tx.commit().await?;
        self.specs.put_new(new.job, next, &spec, stored);
        Ok(Updated::Accepted(next))
    }

    /// Continues updates of a service after their canaries. False if there is none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_promote(&self, project: ProjectId, job: JobId, actor: &str) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let promoted = sqlx::query(
            "WITH promoted AS (UPDATE task_definitions d SET promoted = true FROM jobs j \
                 WHERE j.id = $1 AND j.project_id = $2 AND d.job_id = j.id AND d.update_since IS NOT NULL \
                 RETURNING j.project_id, j.id, j.era, j.version) \
             INSERT INTO events (project_id, at, kind, job_id, actor, message, era) \
             SELECT DISTINCT project_id, now(), 'job.promoted', id, $3, 'version ' || version, era FROM promoted",
        )
        .bind(job.0)
        .bind(project.0)
        .bind(actor)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(promoted.rows_affected() > 0)
    }
}

/// A version that is to be written, with what it follows.
struct VersionWrite<'a> {
    new: &'a NewVersion<'a>,
    job: &'a JobRow,
    present: &'a JobSpec,
    spec: &'a JobSpec,
    next: u32,
    now: Time,
}

impl VersionWrite<'_> {
    /// Writes it; returns the length of the stored specification.
    async fn write(&self, tx: &mut PgConnection, term: i64) -> Result<usize, StoreError> {
        let VersionWrite { new, job, spec, next, now, .. } = *self;
        let stored = serde_json::to_string(spec).map_err(|error| {
            StoreError::Unreadable(format!("cannot write a specification as JSON: {error}"))
        })?;
        sqlx::query(
            "INSERT INTO job_versions (job_id, version, spec, spec_version, created_at, created_by, source) \
             SELECT $1, $2, $3::text::jsonb, $4, $5, $6, source FROM jobs WHERE id = $1 ON CONFLICT DO NOTHING",
        )
        .bind(new.job.0)
        .bind(job.version)
        .bind(&job.spec)
        .bind(job.spec_version)
        .bind(job.created_at)
        .bind(&job.created_by)
        .execute(&mut *tx)
        .await?;
        let (source, repeated) = match new.source {
            VersionSource::Text(source) => (source, None),
            VersionSource::Version(version) => (None, Some(version as i32)),
        };
        sqlx::query(
            "INSERT INTO job_versions (job_id, version, spec, spec_version, created_at, created_by, message, source) \
             VALUES ($1, $2, $3::text::jsonb, $4, $5, $6, $7, \
                 coalesce($8, (SELECT source FROM job_versions WHERE job_id = $1 AND version = $9)))",
        )
        .bind(new.job.0)
        .bind(next as i32)
        .bind(&stored)
        .bind(STORED_VERSION as i16)
        .bind(now)
        .bind(new.created_by)
        .bind(new.message)
        .bind(source)
        .bind(repeated)
        .execute(&mut *tx)
        .await?;
        // How long a worker may be out of contact is known to it by the version of its attempt: no shorter time counts here.
        sqlx::query(
            "UPDATE jobs SET version = $2, spec = $3::text::jsonb, spec_version = $4, labels = $5, priority = $6, \
                 lost_after_millis = GREATEST(lost_after_millis, $7), retention = $8, pinned = pinned OR $9, template = NULL, \
                 template_version = NULL, \
                 source = (SELECT source FROM job_versions WHERE job_id = $1 AND version = $2) WHERE id = $1",
        )
        .bind(new.job.0)
        .bind(next as i32)
        .bind(&stored)
        .bind(STORED_VERSION as i16)
        .bind(Json(&spec.labels))
        .bind(i16::from(spec.priority))
        .bind(spec.lost_after.as_millis() as i64)
        .bind(Json(&spec.retention))
        .bind(spec.pin)
        .execute(&mut *tx)
        .await?;
        self.write_definitions(tx, term).await?;
        sqlx::query(
            "INSERT INTO events (project_id, at, kind, job_id, actor, message, era) \
             SELECT project_id, $2, 'job.updated', id, $3, $4, era FROM jobs WHERE id = $1",
        )
        .bind(new.job.0)
        .bind(now)
        .bind(new.created_by)
        .bind(match new.message {
            "" => format!("version {next}"),
            message => format!("version {next}: {message}"),
        })
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "DELETE FROM job_versions v WHERE job_id = $1 AND version <= $2 AND NOT EXISTS ( \
                 SELECT FROM live_tasks t WHERE t.job_id = $1 AND v.version IN (t.wanted_version, coalesce(t.version, 1)))",
        )
        .bind(new.job.0)
        .bind(next as i32 - KEPT_VERSIONS)
        .execute(tx)
        .await?;
        Ok(stored.len())
    }

    /// The version of each definition: that of an earlier specification with the same one, if there is such.
    async fn contents(&self, tx: &mut PgConnection, rows: &[DefinitionRow]) -> Result<Vec<u32>, StoreError> {
        let earlier: Vec<(i32, i16, String)> = sqlx::query_as(
            "SELECT version, spec_version, spec::text FROM job_versions WHERE job_id = $1 AND version < $2 \
             ORDER BY version DESC",
        )
        .bind(self.new.job.0)
        .bind(self.next as i32)
        .fetch_all(tx)
        .await?;
        let earlier: BTreeMap<u32, JobSpec> = earlier
            .into_iter()
            .filter_map(|(version, form, spec)| Some((version as u32, read(form, &spec).ok()?)))
            .collect();
        let of = |position: usize| {
            let at = DefinitionRef { job: self.new.job, position: position as u16 };
            let wanted = content(self.spec, at);
            if let Some(row) = rows.get(position)
                && content(self.present, at) == wanted
            {
                return row.version as u32;
            }
            let same = earlier.iter().find(|(_, spec)| content(spec, at) == wanted);
            same.map_or(self.next, |(version, _)| *version)
        };
        Ok((0..self.spec.tasks.len()).map(of).collect())
    }

    async fn write_definitions(&self, tx: &mut PgConnection, term: i64) -> Result<(), StoreError> {
        let VersionWrite { new, job, present, spec, next, now } = *self;
        let rows: Vec<DefinitionRow> = sqlx::query_as(
            "SELECT version, count, update_since IS NOT NULL AS is_updating FROM task_definitions \
             WHERE job_id = $1 ORDER BY position",
        )
        .bind(new.job.0)
        .fetch_all(&mut *tx)
        .await?;
        let versions = self.contents(tx, &rows).await?;
        let needs = Needs::of(spec, new.job)?;
        let as_new = NewJob::of(new.project, spec, &job.created_by);
        classes_ensure(tx, &as_new, &needs, term).await?;
        for (position, task) in spec.tasks.iter().enumerate() {
            let row = rows.get(position);
            let specified = task.indices.len();
            let before = present.tasks.get(position).map(|task| task.indices.len());
            let kept = row.map(|row| row.count.map_or(before.unwrap_or_default(), |count| count as u32));
            // A number that was scaled to stays until a version has another one.
            let count = kept.filter(|_| before == Some(specified)).unwrap_or(specified);
            let is_other = row.is_some_and(|row| row.version as u32 != versions[position] || row.is_updating);
            // Instances beside the others may have ended in an earlier update: they are looked at again.
            let scaled_by = (kept != Some(count) || is_other)
                .then(|| format!("updated to version {next} by {}", new.created_by));
            let written = sqlx::query(
                "INSERT INTO task_definitions AS d (job_id, position, name, class_id, driver, single, version, count, scaled_by) \
                 SELECT $1, $2, $3, c.id, $4, $5, $6, $7, $8 FROM classes c WHERE c.project_id = $9 AND c.priority = $10 \
                     AND c.owner = $11 AND c.needs_sha256 = $12 \
                 ON CONFLICT (job_id, position) DO UPDATE SET class_id = EXCLUDED.class_id, driver = EXCLUDED.driver, \
                     version = EXCLUDED.version, count = EXCLUDED.count, \
                     scaled_by = coalesce(EXCLUDED.scaled_by, d.scaled_by), single = d.single AND EXCLUDED.count <= 1, \
                     update_since = CASE WHEN $13 THEN $14 END, update_from = CASE WHEN $13 THEN coalesce(d.update_from, $15) END, \
                     update_reverts = $16, promoted = false, update_problem = NULL",
            )
            .bind(new.job.0)
            .bind(position as i16)
            .bind(&task.name)
            .bind(task.driver.as_str())
            .bind(task.indices.is_single())
            .bind(versions[position] as i32)
            .bind(count as i32)
            .bind(scaled_by)
            .bind(new.project.0)
            .bind(i16::from(spec.priority))
            .bind(&job.created_by)
            .bind(&needs.hashes[position])
            .bind(is_other)
            .bind(now)
            .bind(job.version)
            .bind(new.reverts)
            .execute(&mut *tx)
            .await?;
            if written.rows_affected() != 1 {
                return Err(StoreError::Unreadable("the classes of a new version are missing".to_owned()));
            }
        }
        Ok(())
    }
}

impl ReadStore {
    /// The versions of a job that are kept, the latest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_versions(&self, job: JobId) -> Result<Vec<Version>, StoreError> {
        let rows: Vec<(i32, Time, String, String, Value)> = sqlx::query_as(
            "SELECT version, created_at, created_by, message, spec FROM job_versions WHERE job_id = $1 \
             UNION ALL SELECT version, created_at, created_by, '', spec FROM jobs WHERE id = $1 AND version = 1 \
                 AND NOT EXISTS (SELECT FROM job_versions WHERE job_id = $1) \
             ORDER BY version DESC",
        )
        .bind(job.0)
        .fetch_all(&self.pool)
        .await?;
        let version =
            |(version, created_at, created_by, message, spec): (i32, Time, String, String, Value)| Version {
                version: version as u32,
                created_at,
                created_by,
                message,
                spec,
            };
        Ok(rows.into_iter().map(version).collect())
    }
}

impl Store {
    /// The definitions whose updates have not halted.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn updates(&self) -> Result<Vec<Updating>, StoreError> {
        #[derive(FromRow)]
        struct Row {
            job_id: i64,
            project_id: i64,
            position: i16,
            version: i32,
            update_from: i32,
            count: i32,
            surge: i32,
            promoted: bool,
            update_reverts: bool,
            has_ended: bool,
            update_since: Time,
        }
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT d.job_id, j.project_id, d.position, d.version, d.update_from, d.count, d.surge, d.promoted, \
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
            position: row.position as usize,
            version: row.version as u32,
            from: row.update_from as u32,
            count: row.count as u32,
            surge: row.surge as u32,
            is_promoted: row.promoted,
            reverts: row.update_reverts,
            has_ended: row.has_ended,
            since: row.update_since,
        };
        Ok(rows.into_iter().map(updating).collect())
    }

    /// The instances of a definition that is updated, as far as they are not over.
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
        }
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, attempt, index, state::text AS state, since, started_at, coalesce(version, 1) AS version, \
                 wanted_version, EXISTS (SELECT FROM (SELECT t.version, t.scheduled_at, t.attempt_reason_code \
                     UNION ALL SELECT e.version, e.scheduled_at, e.attempt_reason_code FROM earlier_attempts e \
                         WHERE e.task_id = t.id) a \
                     WHERE coalesce(a.version, 1) = $3 AND a.scheduled_at >= $4 AND a.attempt_reason_code IS NOT NULL \
                         AND a.attempt_reason_code <> ALL($5)) AS has_failed \
             FROM live_tasks t WHERE job_id = $1 AND position = $2 ORDER BY index",
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
                Ok(InstanceRow {
                    attempt: AttemptRef { task: TaskId(row.id), attempt: row.attempt as u32 },
                    index: row.index as u32,
                    state: known("task state", &row.state)?,
                    since: row.since,
                    started_at: row.started_at,
                    version: row.version as u32,
                    wanted_version: row.wanted_version as u32,
                    has_failed: row.has_failed,
                })
            })
            .collect()
    }
}
