//! A cache of job specifications. A version of a specification never changes.
//!
//! A specification that this version cannot read is replaced by a stand-in with what is known of its tasks: the job is
//! shown, its running attempts end, and it can be stopped and deleted. Nothing of it is started.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use gaffer_domain::JobId;
use gaffer_domain::spec::{DriverKind, Indices, JobKind, JobSpec, TaskSpec};
use sqlx::{FromRow, PgConnection};

use super::kept::Kept;
use super::{ReadStore, StoreError};

/// Specifications are kept up to this size, measured as JSON.
const MAX_KEPT_BYTES: usize = 64 << 20;
/// What a specification takes beside that, and what a task of a stand-in takes, about.
const BYTES_BESIDE_JSON: usize = 1_024;

/// A stored specification, or a stand-in for an unreadable one.
#[derive(Debug, Clone)]
pub struct StoredSpec {
    spec: Arc<JobSpec>,
    version: u32,
    problem: Option<Arc<str>>,
}

impl StoredSpec {
    /// Why it can't be read, if it can't: nothing of it may be started then.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Which version of the job's specification it is.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The specification, or its stand-in, to be cached.
    pub fn shared(&self) -> Arc<JobSpec> {
        self.spec.clone()
    }

    /// The specification, if it can be read.
    ///
    /// # Errors
    /// Why it can't.
    pub fn readable(&self) -> Result<&JobSpec, &str> {
        match &self.problem {
            None => Ok(&self.spec),
            Some(problem) => Err(problem),
        }
    }
}

/// Valid for a stand-in, too: names and numbers of tasks, and what an end leads to.
impl Deref for StoredSpec {
    type Target = JobSpec;

    fn deref(&self) -> &JobSpec {
        &self.spec
    }
}

/// Recently used specifications.
#[derive(Debug, Clone)]
pub struct SpecCache(Arc<Mutex<Kept<Key, StoredSpec>>>);

/// A version of a job's specification; none for the present one, as far as it is known here.
type Key = (JobId, Option<u32>);

impl Default for SpecCache {
    fn default() -> Self {
        SpecCache(Arc::new(Mutex::new(Kept::new(MAX_KEPT_BYTES))))
    }
}

impl SpecCache {
    pub(super) fn get(&self, job: JobId) -> Option<StoredSpec> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get((job, None)).cloned()
    }

    /// The present one if it is of this version, or one of before.
    fn get_version(&self, job: JobId, version: u32) -> Option<StoredSpec> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let present = kept.get((job, None)).filter(|spec| spec.version == version);
        present.or_else(|| kept.get((job, Some(version)))).cloned()
    }

    /// Keeps what was read as the present one. A later one may be known already: then it was read before that was written.
    fn put(&self, job: JobId, spec: StoredSpec, json_bytes: usize) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spec.problem.is_some() || kept.get((job, None)).is_none_or(|known| known.version <= spec.version) {
            kept.put((job, None), spec, json_bytes + BYTES_BESIDE_JSON);
        }
    }

    fn put_version(&self, job: JobId, spec: StoredSpec, json_bytes: usize) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put((job, Some(spec.version)), spec, json_bytes + BYTES_BESIDE_JSON);
    }

    /// Keeps the specification of a job that was just accepted or updated: it is placed next.
    pub(super) fn put_new(&self, job: JobId, version: u32, spec: &JobSpec, json_bytes: usize) {
        self.put(job, StoredSpec { spec: Arc::new(spec.clone()), version, problem: None }, json_bytes);
    }

    /// The jobs that are known to be unreadable.
    fn unreadable(&self) -> Vec<JobId> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().filter(|(_, spec)| spec.problem.is_some()).map(|((job, _), _)| job).collect()
    }
}

impl ReadStore {
    /// The specification of one job; none if there is no such job.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn spec(&self, job: JobId) -> Result<Option<StoredSpec>, StoreError> {
        if let Some(spec) = self.specs.get(job) {
            return Ok(Some(spec));
        }
        let mut connection = self.pool.acquire().await?;
        Ok(specs_load(&self.specs, &mut connection, &[job]).await?.remove(&job))
    }

    /// The specifications of several jobs, as far as they exist.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn specs(&self, jobs: &[JobId]) -> Result<HashMap<JobId, StoredSpec>, StoreError> {
        let known: Option<_> = jobs.iter().map(|job| Some((*job, self.specs.get(*job)?))).collect();
        if let Some(known) = known {
            return Ok(known);
        }
        let mut connection = self.pool.acquire().await?;
        specs_load(&self.specs, &mut connection, jobs).await
    }

    /// The specification of a version of a job; none if there is no such version any more, or it cannot be read.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn spec_of_version(&self, job: JobId, version: u32) -> Result<Option<StoredSpec>, StoreError> {
        if let Some(spec) = self.specs.get_version(job, version) {
            return Ok(Some(spec));
        }
        let mut connection = self.pool.acquire().await?;
        Ok(versions_load(&self.specs, &mut connection, &[(job, version)]).await?.remove(&(job, version)))
    }

    /// The specification of a job before the values of its parameters were put in, as JSON; none if it has no parameters.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_source(&self, job: JobId) -> Result<Option<String>, StoreError> {
        let source: Option<Option<String>> = sqlx::query_scalar("SELECT source FROM jobs WHERE id = $1")
            .bind(job.0)
            .fetch_optional(&self.pool)
            .await?;
        Ok(source.flatten())
    }

    /// Jobs of which nothing can be started, as far as that has been found out.
    pub fn specs_unreadable(&self) -> Vec<JobId> {
        self.specs.unreadable()
    }
}

/// The specifications of versions of jobs, as far as they are kept and can be read.
pub(super) async fn versions_load(
    cache: &SpecCache,
    connection: &mut PgConnection,
    versions: &[(JobId, u32)],
) -> Result<HashMap<(JobId, u32), StoredSpec>, StoreError> {
    let known = |(job, version): &(JobId, u32)| {
        cache.get_version(*job, *version).map(|spec| ((*job, *version), spec))
    };
    let mut found: HashMap<(JobId, u32), StoredSpec> = versions.iter().filter_map(known).collect();
    let missing: Vec<&(JobId, u32)> = versions.iter().filter(|key| !found.contains_key(key)).collect();
    if missing.is_empty() {
        return Ok(found);
    }
    let rows: Vec<(i64, i32, i16, String)> = sqlx::query_as(
        "SELECT v.job_id, v.version, v.spec_version, v.spec::text \
         FROM UNNEST($1::bigint[], $2::int[]) AS asked(job, version), \
         LATERAL (SELECT * FROM job_versions WHERE job_id = asked.job AND version = asked.version OFFSET 0) v",
    )
    .bind(missing.iter().map(|(job, _)| job.0).collect::<Vec<i64>>())
    .bind(missing.iter().map(|(_, version)| *version as i32).collect::<Vec<i32>>())
    .fetch_all(&mut *connection)
    .await?;
    for (job, version, form, stored) in rows {
        let (job, version) = (JobId(job), version as u32);
        if let Ok(spec) = read(form, &stored) {
            let spec = StoredSpec { spec: Arc::new(spec), version, problem: None };
            cache.put_version(job, spec.clone(), stored.len());
            found.insert((job, version), spec);
        }
    }
    Ok(found)
}

/// A stored specification.
///
/// # Errors
/// Why this version cannot read it.
pub(super) fn read(version: i16, stored: &str) -> Result<JobSpec, String> {
    let version = u16::try_from(version).unwrap_or(0);
    let value = &serde_json::from_str(stored).map_err(|error| error.to_string())?;
    JobSpec::read_stored(version, value).map_err(|why| format!("cannot read its specification: {why}"))
}

/// The specifications of several jobs. Jobs that do not exist are left out.
pub(super) async fn specs_load(
    cache: &SpecCache,
    connection: &mut PgConnection,
    jobs: &[JobId],
) -> Result<HashMap<JobId, StoredSpec>, StoreError> {
    let mut found: HashMap<JobId, StoredSpec> =
        jobs.iter().filter_map(|job| cache.get(*job).map(|spec| (*job, spec))).collect();
    specs_read(cache, connection, jobs, &mut found).await?;
    Ok(found)
}

/// The same of jobs whose version was just read under their lock.
pub(super) async fn specs_load_locked(
    cache: &SpecCache,
    connection: &mut PgConnection,
    jobs: &[(JobId, u32)],
) -> Result<HashMap<JobId, StoredSpec>, StoreError> {
    let known = |(job, version): &(JobId, u32)| {
        let spec = cache.get(*job).filter(|spec| spec.version == *version || spec.problem.is_some())?;
        Some((*job, spec))
    };
    let mut found: HashMap<JobId, StoredSpec> = jobs.iter().filter_map(known).collect();
    let jobs: Vec<JobId> = jobs.iter().map(|(job, _)| *job).collect();
    specs_read(cache, connection, &jobs, &mut found).await?;
    Ok(found)
}

async fn specs_read(
    cache: &SpecCache,
    connection: &mut PgConnection,
    jobs: &[JobId],
    found: &mut HashMap<JobId, StoredSpec>,
) -> Result<(), StoreError> {
    let missing: Vec<i64> = jobs.iter().filter(|job| !found.contains_key(job)).map(|job| job.0).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let rows: Vec<(i64, i16, i32, String)> =
        sqlx::query_as("SELECT id, spec_version, version, spec::text FROM jobs WHERE id = ANY($1)")
            .bind(missing)
            .fetch_all(&mut *connection)
            .await?;
    for (id, form, version, stored) in rows {
        let job = JobId(id);
        let spec = match read(form, &stored) {
            Ok(spec) => {
                let spec = StoredSpec { spec: Arc::new(spec), version: version as u32, problem: None };
                cache.put(job, spec.clone(), stored.len());
                spec
            }
            Err(problem) => spec_stand_in(cache, connection, job, problem).await?,
        };
        found.insert(job, spec);
    }
    Ok(())
}

#[derive(FromRow)]
struct DefinitionRow {
    name: String,
    driver: String,
    single: bool,
    first: Option<i32>,
    last: Option<i32>,
}

/// The stand-in for an unreadable specification: tasks by name and number, without retries and dependencies.
pub(super) async fn spec_stand_in(
    cache: &SpecCache,
    connection: &mut PgConnection,
    job: JobId,
    problem: String,
) -> Result<StoredSpec, StoreError> {
    tracing::error!(job = job.0, problem, "cannot start a stored job; it can be stopped and deleted");
    let row: Option<(String, String)> = sqlx::query_as("SELECT name, kind FROM jobs WHERE id = $1")
        .bind(job.0)
        .fetch_optional(&mut *connection)
        .await?;
    let (name, kind) = row.unwrap_or_default();
    let definitions: Vec<DefinitionRow> = sqlx::query_as(
        "SELECT d.name, d.driver, d.single, \
             (SELECT min(index) FROM tasks t WHERE t.job_id = d.job_id AND t.position = d.position \
                 AND t.era = j.era) AS first, \
             (SELECT max(index) FROM tasks t WHERE t.job_id = d.job_id AND t.position = d.position \
                 AND t.era = j.era) AS last \
         FROM task_definitions d JOIN jobs j ON j.id = d.job_id WHERE d.job_id = $1 ORDER BY d.position",
    )
    .bind(job.0)
    .fetch_all(&mut *connection)
    .await?;
    let kind = JobKind::ALL.into_iter().find(|known| known.as_str() == kind).unwrap_or(JobKind::Batch);
    let tasks = definitions.into_iter().map(|definition| definition.into_stand_in(kind)).collect();
    let spec = JobSpec::stand_in(name, kind, tasks);
    let bytes = spec.tasks.len() * BYTES_BESIDE_JSON;
    let spec = StoredSpec { spec: Arc::new(spec), version: 0, problem: Some(problem.into()) };
    cache.put(job, spec.clone(), bytes);
    Ok(spec)
}

impl DefinitionRow {
    fn into_stand_in(self, kind: JobKind) -> TaskSpec {
        let index = |index: Option<i32>| index.and_then(|index| u32::try_from(index).ok()).unwrap_or(0);
        let (first, last) = (index(self.first), index(self.last));
        let driver = DriverKind::named(&self.driver).unwrap_or(DriverKind::Host);
        let indices = match self.single {
            _ if kind.follows_workers() => Indices::Workers,
            true => Indices::Count(1),
            false => Indices::Array { first, last, at_once: None },
        };
        TaskSpec::stand_in(self.name, driver, indices)
    }
}
