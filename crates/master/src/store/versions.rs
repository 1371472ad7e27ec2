//! Versions of services.

use std::collections::BTreeMap;

use gaffer_domain::job::JobState;
use gaffer_domain::placement::{DefinitionRef, Requirements};
use gaffer_domain::scale::Instances;
use gaffer_domain::spec::{JobSpec, STORED_VERSION};
use gaffer_domain::versions::{Past, Refused, arrange, check_total, kept_at};
use gaffer_domain::{JobId, ProjectId, Time};
use gaffer_protocol::definitions::Definition;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

use super::forms::known;
use super::jobs::{Needs, NewJob, Submitted, classes_ensure, classes_of_instances_ensure};
use super::specs::read;
use super::{ReadStore, StoreError, WriteStore};

/// How many versions are kept, beside those that instances have or may get.
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
    /// The earlier version that it goes back to, if it does.
    pub goes_back_to: Option<u32>,
    /// It is not taken back in turn.
    pub reverts: bool,
    /// Only if this is still the present version.
    pub after: Option<u32>,
    /// The idempotency key, and the hash of the request.
    pub idempotency: Option<(&'a str, [u8; 32])>,
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
    /// The present version is another one, this.
    Overtaken { present: u32, state: JobState },
    /// The same request was accepted before, for this job.
    Repeated(JobId),
    /// The idempotency key was used for another request.
    KeyReused,
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
    /// The earlier version that it goes back to, if it does.
    pub goes_back_to: Option<u32>,
    /// The specification as it is stored.
    pub spec: Value,
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
    era: i64,
}

#[derive(FromRow)]
struct DefinitionRow {
    version: i32,
    count: Option<i32>,
    is_updating: bool,
}

impl DefinitionRow {
    /// Those of a job, in their order.
    async fn all(tx: &mut PgConnection, job: JobId) -> Result<Vec<DefinitionRow>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT version, count, update_since IS NOT NULL AS is_updating FROM task_definitions \
             WHERE job_id = $1 ORDER BY position",
        )
        .bind(job.0)
        .fetch_all(tx)
        .await?)
    }
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
        if let Some((key, request_sha256)) = &new.idempotency {
            let claimed = sqlx::query(
                "INSERT INTO idempotency_keys (project_id, key, request_sha256, job_id) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT DO NOTHING",
            )
            .bind(new.project.0)
            .bind(key)
            .bind(&request_sha256[..])
            .bind(new.job.0)
            .execute(&mut *tx)
            .await?;
            if claimed.rows_affected() == 0 {
                tx.rollback().await?;
                return match self.idempotency_find(new.project, key, request_sha256).await? {
                    Some(Submitted::Repeated(job)) => Ok(Updated::Repeated(job)),
                    Some(Submitted::KeyReused) => Ok(Updated::KeyReused),
                    _ => Err(StoreError::Unreadable("an idempotency key is gone".to_owned())),
                };
            }
        }
        let found: Option<JobRow> = sqlx::query_as(
            "SELECT state::text AS state, stop_message, version, spec_version, spec::text AS spec, created_by, created_at, era \
             FROM jobs WHERE id = $1 AND project_id + 0 = $2 FOR UPDATE",
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
            return Ok(Updated::Overtaken { present: version, state });
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
            tx.commit().await?;
            return Ok(Updated::Unchanged(version));
        }
        let next = version + 1;
        let rows = DefinitionRow::all(&mut tx, new.job).await?;
        let write = VersionWrite { new, job: &job, present: &present, spec: &spec, rows: &rows, next, now };
        if let Err(refused) = check_total(&spec, &write.counts()) {
            return Ok(Updated::Refused(refused));
        }
        let stored = write.write(&mut tx, self.leadership.term()).await?;
        tx.commit().await?;
        self.specs.put_new(new.job, next, &spec, stored);
        Ok(Updated::Accepted(next))
    }
}

/// A version that is to be written, with what it follows.
struct VersionWrite<'a> {
    new: &'a NewVersion<'a>,
    job: &'a JobRow,
    present: &'a JobSpec,
    spec: &'a JobSpec,
    /// The definitions of before.
    rows: &'a [DefinitionRow],
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
            "INSERT INTO job_versions (job_id, version, spec, spec_version, created_at, created_by, message, source, goes_back_to) \
             VALUES ($1, $2, $3::text::jsonb, $4, $5, $6, $7, \
                 coalesce($8, (SELECT source FROM job_versions WHERE job_id = $1 AND version = $9)), $10)",
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
        .bind(new.goes_back_to.map(|version| version as i32))
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
            "DELETE FROM job_versions v WHERE job_id = $1 AND version <= $2 \
                 AND NOT EXISTS (SELECT FROM live_tasks t WHERE t.job_id = $1 \
                     AND v.version IN (t.wanted_version, coalesce(t.version, 1))) \
                 AND NOT EXISTS (SELECT FROM task_definitions d WHERE d.job_id = $1 \
                     AND v.version IN (d.version, d.update_from))",
        )
        .bind(new.job.0)
        .bind(next as i32 - KEPT_VERSIONS)
        .execute(tx)
        .await?;
        Ok(stored.len())
    }

    /// The version of each definition: that of an earlier specification with the same one, if there is such.
    async fn contents(&self, tx: &mut PgConnection) -> Result<Vec<u32>, StoreError> {
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
            if let Some(row) = self.rows.get(position)
                && content(self.present, at) == wanted
            {
                return row.version as u32;
            }
            let same = earlier.iter().find(|(_, spec)| content(spec, at) == wanted);
            same.map_or(self.next, |(version, _)| *version)
        };
        Ok((0..self.spec.tasks.len()).map(of).collect())
    }

    /// At how many instances a definition was kept.
    fn kept_before(&self, position: usize) -> Option<u32> {
        let scaled_to = self.rows.get(position)?.count.map(i32::unsigned_abs);
        Some(Instances::of(self.present.tasks.get(position)?, scaled_to).count)
    }

    /// At how many instances each definition is kept, where it is not the specification that says so.
    fn counts(&self) -> Vec<Option<u32>> {
        let specified = |position: usize| Some(self.present.tasks.get(position)?.indices.len());
        let of = |position| kept_at(self.spec, position, specified(position), self.kept_before(position));
        (0..self.spec.tasks.len()).map(of).collect()
    }

    async fn write_definitions(&self, tx: &mut PgConnection, term: i64) -> Result<(), StoreError> {
        let VersionWrite { new, job, spec, rows, next, now, .. } = *self;
        let versions = self.contents(tx).await?;
        let needs = Needs::of(spec, new.job)?;
        let as_new = NewJob::of(new.project, spec, &job.created_by);
        classes_ensure(tx, &as_new, &needs, term).await?;
        let counts = self.counts();
        let (mut are_other, mut scaled_by) = (Vec::new(), Vec::new());
        for (position, task) in spec.tasks.iter().enumerate() {
            let is_updated =
                |row: &DefinitionRow| row.version as u32 != versions[position] || row.is_updating;
            let is_other = rows.get(position).is_some_and(is_updated);
            let is_as_many = self.kept_before(position) == Some(Instances::of(task, counts[position]).count);
            // Instances beside the others may have ended in an earlier update: they are looked at again.
            let settles = is_other || !is_as_many;
            scaled_by.push(settles.then(|| format!("updated to version {next} by {}", new.created_by)));
            are_other.push(is_other);
        }
        let written = sqlx::query(
            "INSERT INTO task_definitions AS d (job_id, position, name, class_id, driver, single, version, count, scaled_by, \
                 update_since, update_from, update_reverts) \
             SELECT $1, g.position, g.name, c.id, g.driver, g.single, g.version, g.count, g.scaled_by, \
                 CASE WHEN g.is_other THEN $11::timestamptz END, CASE WHEN g.is_other THEN $12::integer END, $13 \
             FROM UNNEST($2::smallint[], $3::text[], $4::text[], $5::boolean[], $6::integer[], $7::integer[], $8::text[], \
                     $9::boolean[], $10::bytea[]) \
                 AS g(position, name, driver, single, version, count, scaled_by, is_other, needs_sha256), \
             LATERAL (SELECT id FROM classes WHERE project_id = $14 AND priority = $15 AND owner = $16 \
                 AND needs_sha256 = g.needs_sha256 OFFSET 0) c \
             ON CONFLICT (job_id, position) DO UPDATE SET class_id = EXCLUDED.class_id, driver = EXCLUDED.driver, \
                 version = EXCLUDED.version, count = EXCLUDED.count, \
                 scaled_by = coalesce(EXCLUDED.scaled_by, d.scaled_by), \
                 single = d.single AND coalesce(EXCLUDED.count, 1) <= 1, \
                 surge = CASE WHEN EXCLUDED.count IS NULL THEN 0 ELSE d.surge END, update_since = EXCLUDED.update_since, \
                 update_from = CASE WHEN EXCLUDED.update_since IS NOT NULL THEN coalesce(d.update_from, EXCLUDED.update_from) END, \
                 update_reverts = EXCLUDED.update_reverts, promoted = false, update_problem = NULL",
        )
        .bind(new.job.0)
        .bind((0..spec.tasks.len()).map(|position| position as i16).collect::<Vec<_>>())
        .bind(spec.tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>())
        .bind(spec.tasks.iter().map(|task| task.driver.as_str()).collect::<Vec<_>>())
        .bind(spec.tasks.iter().map(|task| task.indices.is_single()).collect::<Vec<_>>())
        .bind(versions.iter().map(|version| *version as i32).collect::<Vec<_>>())
        .bind(counts.iter().map(|count| count.map(|count| count as i32)).collect::<Vec<_>>())
        .bind(scaled_by)
        .bind(are_other)
        .bind(&needs.hashes)
        .bind(now)
        .bind(job.version)
        .bind(new.reverts)
        .bind(new.project.0)
        .bind(i16::from(spec.priority))
        .bind(&job.created_by)
        .execute(&mut *tx)
        .await?;
        if spec.kind.follows_workers() {
            classes_of_instances_ensure(tx, (new.job, job.era), term).await?;
        }
        match written.rows_affected() == spec.tasks.len() as u64 {
            true => Ok(()),
            false => Err(StoreError::Unreadable("the classes of a new version are missing".to_owned())),
        }
    }
}

impl ReadStore {
    /// The versions of a job that are kept, the latest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_versions(&self, job: JobId) -> Result<Vec<Version>, StoreError> {
        type Row = (i32, Time, String, String, Option<i32>, Value);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT version, created_at, created_by, message, goes_back_to, spec FROM job_versions WHERE job_id = $1 \
             UNION ALL SELECT version, created_at, created_by, '', NULL, spec FROM jobs WHERE id = $1 AND version = 1 \
                 AND NOT EXISTS (SELECT FROM job_versions WHERE job_id = $1) \
             ORDER BY version DESC",
        )
        .bind(job.0)
        .fetch_all(&self.pool)
        .await?;
        let version = |(version, created_at, created_by, message, goes_back_to, spec): Row| Version {
            version: version as u32,
            created_at,
            created_by,
            message,
            goes_back_to: goes_back_to.map(i32::unsigned_abs),
            spec,
        };
        Ok(rows.into_iter().map(version).collect())
    }

    /// The numbers of the versions of a job that are kept, and which of them go back to an earlier one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_past(&self, job: JobId) -> Result<Vec<Past>, StoreError> {
        let rows: Vec<(i32, Option<i32>)> = sqlx::query_as(
            "SELECT version, goes_back_to FROM job_versions WHERE job_id = $1 ORDER BY version",
        )
        .bind(job.0)
        .fetch_all(&self.pool)
        .await?;
        let past = |(version, to): (i32, Option<i32>)| Past {
            version: version as u32,
            goes_back_to: to.map(i32::unsigned_abs),
        };
        Ok(rows.into_iter().map(past).collect())
    }
}
