//! Specifications of jobs, parsed once and kept while they are in use: they never change.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use gaffer_domain::JobId;
use gaffer_domain::spec::JobSpec;
use sqlx::PgConnection;

use super::{ReadStore, StoreError};

/// So many specifications are kept.
const KEPT: usize = 2_000;

/// Recently used specifications.
#[derive(Debug, Clone, Default)]
pub struct SpecCache(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    specs: HashMap<JobId, Arc<JobSpec>>,
    oldest_first: VecDeque<JobId>,
}

impl SpecCache {
    fn get(&self, job: JobId) -> Option<Arc<JobSpec>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).specs.get(&job).cloned()
    }

    fn put(&self, job: JobId, spec: Arc<JobSpec>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.specs.insert(job, spec).is_none() {
            kept.oldest_first.push_back(job);
        }
        while kept.oldest_first.len() > KEPT {
            if let Some(oldest) = kept.oldest_first.pop_front() {
                kept.specs.remove(&oldest);
            }
        }
    }
}

impl ReadStore {
    /// The specification of one job; none if there is no such job, or this version can't read it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn spec(&self, job: JobId) -> Result<Option<Arc<JobSpec>>, StoreError> {
        if let Some(spec) = self.specs.get(job) {
            return Ok(Some(spec));
        }
        let mut connection = self.pool.acquire().await?;
        Ok(specs_load(&self.specs, &mut connection, &[job]).await?.remove(&job))
    }

    /// The specifications of several jobs, as far as they exist and this version can read them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn specs(&self, jobs: &[JobId]) -> Result<HashMap<JobId, Arc<JobSpec>>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        specs_load(&self.specs, &mut connection, jobs).await
    }
}

/// The specifications of several jobs. Jobs that do not exist are left out, and so are those that this version can't
/// read: one of them must not hold up all others.
pub(super) async fn specs_load(
    cache: &SpecCache,
    connection: &mut PgConnection,
    jobs: &[JobId],
) -> Result<HashMap<JobId, Arc<JobSpec>>, StoreError> {
    let mut found: HashMap<JobId, Arc<JobSpec>> =
        jobs.iter().filter_map(|job| cache.get(*job).map(|spec| (*job, spec))).collect();
    let missing: Vec<i64> = jobs.iter().filter(|job| !found.contains_key(job)).map(|job| job.0).collect();
    if missing.is_empty() {
        return Ok(found);
    }
    let rows: Vec<(i64, serde_json::Value)> = sqlx::query_as("SELECT id, spec FROM jobs WHERE id = ANY($1)")
        .bind(missing)
        .fetch_all(connection)
        .await?;
    for (id, value) in rows {
        match JobSpec::read(&value) {
            Ok(spec) => {
                let spec = Arc::new(spec);
                cache.put(JobId(id), spec.clone());
                found.insert(JobId(id), spec);
            }
            Err(errors) => {
                let first = errors.first().map(ToString::to_string).unwrap_or_default();
                tracing::error!(job = id, error = first, "the specification of a stored job can't be read");
            }
        }
    }
    Ok(found)
}
