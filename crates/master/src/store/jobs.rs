//! Jobs: insert, list, delete.

use std::collections::{BTreeMap, HashMap};

use chrono::Utc;
use gaffer_domain::job::{JobState, TaskCounts};
use gaffer_domain::placement::{DefinitionRef, Requirements};
use gaffer_domain::spec::{JobKind, JobSpec, STORED_VERSION};
use gaffer_domain::task::Task;
use gaffer_domain::{JobId, ProjectId, Time};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

use super::counts::{COUNTS_OF_JOBS, CountsRow};
use super::forms::{known, reason_from};
use super::tasks::ran;
use super::transitions::Unfinished;
use super::{ReadStore, Store, StoreError, WriteStore};
use crate::records::Job;

/// A job to be accepted.
#[derive(Debug)]
pub struct NewJob<'a> {
    pub project: ProjectId,
    /// The specification.
    pub spec: &'a JobSpec,
    pub created_by: &'a str,
    /// The job that it repeats.
    pub rerun_of: Option<JobId>,
    /// The idempotency key, and the hash of the request.
    pub idempotency: Option<(&'a str, [u8; 32])>,
}

/// What became of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// Accepted now.
    Created(JobId),
    /// The same request was accepted before.
    Repeated(JobId),
    /// The idempotency key was used for another request.
    KeyReused,
}

#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only those in one of these states; empty means any.
    pub states: Vec<JobState>,
    /// Only those whose name contains this.
    pub name: Option<String>,
    /// Only those with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only those with a task of this driver.
    pub driver: Option<String>,
    /// Only those below this number.
    pub before: Option<JobId>,
}

#[derive(FromRow)]
pub(super) struct JobRow {
    id: i64,
    name: String,
    kind: String,
    state: String,
    priority: i16,
    labels: Json<BTreeMap<String, String>>,
    created_by: String,
    rerun_of: Option<i64>,
    reason_code: Option<String>,
    reason_message: Option<String>,
    created_at: Time,
    started_at: Option<Time>,
    finished_at: Option<Time>,
    pinned: bool,
}

/// Without the specification, which may be large.
pub(super) const COLUMNS: &str = "id, name, kind, state::text AS state, priority, labels, created_by, rerun_of, \
     reason_code, reason_message, created_at, started_at, finished_at, pinned";

impl WriteStore {
    /// Accepts a job with all its tasks, in one transaction.
    ///
    /// # Errors
    /// When the database does not answer. Whether the job was accepted is then unknown; with an idempotency key the
    /// request can be repeated safely.
    pub async fn job_insert(&self, new: &NewJob<'_>, now: Time) -> Result<Submitted, StoreError> {
        let _turn = self.turn_to_write_much().await?;
        let mut tx = self.begin().await?;
        let spec = new.spec;
        // The era is kept open before the job gets its number, so numbers of jobs and tasks change eras together.
        let (job, era): (i64, i64) = sqlx::query_as(
            "INSERT INTO jobs (project_id, name, kind, priority, labels, spec, lost_after_millis, created_by, \
                 rerun_of, created_at, spec_version, retention, pinned, era) \
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, present.era \
             FROM (SELECT present_era() AS era OFFSET 0) present RETURNING id, era",
        )
        .bind(new.project.0)
        .bind(&spec.name)
        .bind(spec.kind.as_str())
        .bind(i16::from(spec.priority))
        .bind(Json(&spec.labels))
        .bind(Json(spec))
        .bind(spec.lost_after.as_millis() as i64)
        .bind(new.created_by)
        .bind(new.rerun_of.map(|job| job.0))
        .bind(now)
        .bind(STORED_VERSION as i16)
        .bind(Json(&spec.retention))
        .bind(spec.pin)
        .fetch_one(&mut *tx)
        .await?;
        if let Some((key, request_sha256)) = &new.idempotency
            && let Some(earlier) = idempotency_claim(&mut tx, new.project, key, request_sha256, job).await?
        {
            tx.rollback().await?;
            return Ok(earlier);
        }
        let needs: Vec<Requirements> = spec
            .tasks
            .iter()
            .enumerate()
            .map(|(position, definition)| {
                let position = u16::try_from(position).unwrap_or(u16::MAX);
                Requirements::of(spec, definition, DefinitionRef { job: JobId(job), position })
            })
            .collect();
        let classes = classes_ensure(&mut tx, new, &needs).await?;
        tasks_insert(&mut tx, new, (job, era), &classes, now).await?;
        tx.commit().await?;
        Ok(Submitted::Created(JobId(job)))
    }
}

impl ReadStore {
    /// One job of a project.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_get(&self, project: ProjectId, job: JobId) -> Result<Option<Job>, StoreError> {
        Ok(self.jobs_by_id(project, &[job]).await?.pop())
    }
}

impl ReadStore {
    /// Which of these jobs are of a project.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn jobs_of_project(
        &self,
        project: ProjectId,
        jobs: &[JobId],
    ) -> Result<Vec<JobId>, StoreError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<i64> = sqlx::query_scalar("SELECT id FROM jobs WHERE id = ANY($1) AND project_id = $2")
            .bind(jobs.iter().map(|job| job.0).collect::<Vec<i64>>())
            .bind(project.0)
            .fetch_all(&self.pool)
            .await?;
        Ok(ids.into_iter().map(JobId).collect())
    }
}

impl Store {
    /// Unfinished jobs with pending stops or dependency updates, left by an earlier master.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn jobs_unsettled(&self) -> Result<Vec<Unfinished>, StoreError> {
        let rows: Vec<(i64, bool)> = sqlx::query_as(
            "SELECT id, true FROM jobs WHERE stop_message IS NOT NULL AND finished_at IS NULL \
             UNION ALL SELECT DISTINCT d.job_id, false FROM task_definitions d JOIN jobs j ON j.id = d.job_id \
             WHERE d.blocked > 0 AND j.stop_message IS NULL",
        )
        .fetch_all(&self.pool)
        .await?;
        let unfinished = |(job, is_stopping)| Unfinished { job: JobId(job), is_stopping };
        Ok(rows.into_iter().map(unfinished).collect())
    }
}

impl ReadStore {
    pub(super) async fn with_counts(&self, rows: Vec<JobRow>) -> Result<Vec<Job>, StoreError> {
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        let counts = self.job_counts(&ids).await?;
        // Ended jobs need no specification; others are cached.
        let unfinished = rows.iter().filter(|row| row.finished_at.is_none());
        let unfinished: Vec<JobId> = unfinished.map(|row| JobId(row.id)).collect();
        let specs = self.specs(&unfinished).await?;
        let now = Utc::now();
        rows.into_iter()
            .map(|row| {
                let counts = counts.get(&row.id).copied().unwrap_or_default();
                let is_over = row.finished_at.is_some();
                let spec = specs.get(&JobId(row.id));
                let problem = spec.and_then(|spec| spec.problem()).map(str::to_owned);
                let reason = reason_from(row.reason_code, row.reason_message).filter(|_| is_over);
                Ok(Job {
                    id: JobId(row.id),
                    name: row.name,
                    kind: job_kind(&row.kind)?,
                    state: known("job state", &row.state)?,
                    reason,
                    problem,
                    labels: row.labels.0,
                    pinned: row.pinned,
                    priority: row.priority as u8,
                    task_counts: counts,
                    created_by: row.created_by,
                    rerun_of: row.rerun_of.map(JobId),
                    created_at: row.created_at,
                    started_at: row.started_at,
                    finished_at: row.finished_at,
                    ran_seconds: ran(None, row.started_at, row.finished_at, now),
                })
            })
            .collect()
    }

    async fn job_counts(&self, jobs: &[i64]) -> Result<BTreeMap<i64, TaskCounts>, StoreError> {
        let rows: Vec<CountsRow> = sqlx::query_as(COUNTS_OF_JOBS).bind(jobs).fetch_all(&self.pool).await?;
        let mut counts: BTreeMap<i64, TaskCounts> = BTreeMap::new();
        for row in &rows {
            counts.entry(row.job_id).or_default().merge(&row.into());
        }
        Ok(counts)
    }

    /// The definitions of a job with tasks that wait, in their order.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_waiting(&self, job: JobId) -> Result<Vec<WaitingDefinition>, StoreError> {
        // All tasks of a job have the same time.
        let rows: Vec<(i16, i64, i64, i64, Option<Time>)> = sqlx::query_as(
            "SELECT position, class_id, pending, blocked, \
                 (SELECT unseen_until FROM live_tasks WHERE job_id = $1 LIMIT 1) FROM task_definitions \
             WHERE job_id = $1 AND pending + blocked > 0 ORDER BY position",
        )
        .bind(job.0)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(position, class, pending, blocked, unseen_until)| WaitingDefinition {
                position: position as usize,
                class,
                pending,
                blocked,
                unseen_until,
            })
            .collect())
    }
}

fn job_kind(stored: &str) -> Result<JobKind, StoreError> {
    let kind = [JobKind::Batch, JobKind::Service].into_iter().find(|kind| kind.as_str() == stored);
    kind.ok_or_else(|| StoreError::Unreadable(format!("{stored:?} is not a job type")))
}

/// A task definition of which tasks wait.
#[derive(Debug, Clone, Copy)]
pub struct WaitingDefinition {
    /// Its place in the job's list.
    pub position: usize,
    /// The class of its tasks.
    pub class: i64,
    /// Tasks that wait for a worker.
    pub pending: i64,
    /// Tasks that wait for others.
    pub blocked: i64,
    /// Until then none is placed: an attempt from before a restore may execute.
    pub unseen_until: Option<Time>,
}

/// Claims an idempotency key for a new job. If it exists, returns what it was used for.
async fn idempotency_claim(
    tx: &mut PgConnection,
    project: ProjectId,
    key: &str,
    request_sha256: &[u8; 32],
    job: i64,
) -> Result<Option<Submitted>, StoreError> {
    let claimed = sqlx::query(
        "INSERT INTO idempotency_keys (project_id, key, request_sha256, job_id) VALUES ($1, $2, $3, $4) \
         ON CONFLICT DO NOTHING",
    )
    .bind(project.0)
    .bind(key)
    .bind(&request_sha256[..])
    .bind(job)
    .execute(&mut *tx)
    .await?;
    if claimed.rows_affected() > 0 {
        return Ok(None);
    }
    let (earlier_request, earlier_job): (Vec<u8>, i64) = sqlx::query_as(
        "SELECT request_sha256, job_id FROM idempotency_keys WHERE project_id = $1 AND key = $2",
    )
    .bind(project.0)
    .bind(key)
    .fetch_one(&mut *tx)
    .await?;
    Ok(Some(match earlier_request == request_sha256 {
        true => Submitted::Repeated(JobId(earlier_job)),
        false => Submitted::KeyReused,
    }))
}

/// Inserts the definitions and tasks of a new job, with the first line of its history, in one statement.
async fn tasks_insert(
    tx: &mut PgConnection,
    new: &NewJob<'_>,
    (job, era): (i64, i64),
    classes: &[i64],
    now: Time,
) -> Result<(), StoreError> {
    let (mut positions, mut names, mut drivers, mut single) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut states, mut firsts, mut lasts) = (Vec::new(), Vec::new(), Vec::new());
    for (position, definition) in new.spec.tasks.iter().enumerate() {
        positions.push(position as i16);
        names.push(definition.name.as_str());
        drivers.push(definition.driver.as_str());
        single.push(definition.indices.is_single());
        states.push(Task::new(!definition.depends_on.is_empty(), now).state.name().as_str());
        firsts.push(*definition.indices.iter().start() as i32);
        lasts.push(*definition.indices.iter().end() as i32);
    }
    sqlx::query(
        "WITH given AS (SELECT * FROM UNNEST($2::smallint[], $3::text[], $4::bigint[], $5::text[], $6::boolean[], \
             $7::text[], $8::int[], $9::int[]) AS g(position, name, class_id, driver, single, state, first, last)), \
         defined AS (INSERT INTO task_definitions (job_id, position, name, class_id, driver, single, blocked, pending) \
             SELECT $1, position, name, class_id, driver, single, \
                 CASE WHEN state = 'blocked' THEN last - first + 1 ELSE 0 END, \
                 CASE WHEN state = 'pending' THEN last - first + 1 ELSE 0 END FROM given), \
         told AS (INSERT INTO events (project_id, at, kind, job_id, actor, message, era) \
             VALUES ($11, $10, 'job.submitted', $1, $12, $13, $14)) \
         INSERT INTO live_tasks (job_id, position, index, class_id, state, since, not_before) \
         SELECT $1, position, index, class_id, state::task_state, $10, CASE WHEN state = 'pending' THEN $10 END \
         FROM given, generate_series(first, last) AS index ORDER BY position, index",
    )
    .bind(job)
    .bind(positions)
    .bind(names)
    .bind(classes)
    .bind(drivers)
    .bind(single)
    .bind(states)
    .bind(firsts)
    .bind(lasts)
    .bind(now)
    .bind(new.project.0)
    .bind(new.created_by)
    .bind(match (new.spec.task_count(), new.rerun_of) {
        (1, None) => "1 task".to_owned(),
        (n, None) => format!("{n} tasks"),
        (n, Some(of)) => format!("{n} tasks, a rerun of job {of}"),
    })
    .bind(era)
    .execute(tx)
    .await?;
    Ok(())
}

/// The classes of tasks with these needs, in the same order; made where one is the first of its kind.
async fn classes_ensure(
    tx: &mut PgConnection,
    new: &NewJob<'_>,
    needs: &[Requirements],
) -> Result<Vec<i64>, StoreError> {
    let unreadable = |error: serde_json::Error| StoreError::Unreadable(error.to_string());
    let values: Vec<Value> =
        needs.iter().map(serde_json::to_value).collect::<Result<_, _>>().map_err(unreadable)?;
    let hashes: Vec<Vec<u8>> =
        values.iter().map(|value| Sha256::digest(value.to_string()).to_vec()).collect();
    let rows: Vec<(Vec<u8>, i64)> = sqlx::query_as(
        "SELECT needs_sha256, id FROM classes \
         WHERE project_id = $1 AND priority = $2 AND owner = $3 AND needs_sha256 = ANY($4)",
    )
    .bind(new.project.0)
    .bind(i16::from(new.spec.priority))
    .bind(new.created_by)
    .bind(&hashes)
    .fetch_all(&mut *tx)
    .await?;
    let mut known: HashMap<Vec<u8>, i64> = rows.into_iter().collect();
    // In one order, so that two submissions never wait for each other's classes.
    let missing: BTreeMap<&Vec<u8>, &Value> =
        hashes.iter().zip(&values).filter(|(hash, _)| !known.contains_key(*hash)).collect();
    for (hash, value) in missing {
        known.insert(hash.clone(), class_insert(tx, new, value, hash).await?);
    }
    Ok(hashes.iter().filter_map(|hash| known.get(hash).copied()).collect())
}

/// Makes a class, unless somebody else has just done so.
async fn class_insert(
    tx: &mut PgConnection,
    new: &NewJob<'_>,
    needs: &Value,
    hash: &[u8],
) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(
        "INSERT INTO classes (project_id, priority, owner, needs, needs_sha256) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (project_id, priority, owner, needs_sha256) DO UPDATE SET needs = excluded.needs RETURNING id",
    )
    .bind(new.project.0)
    .bind(i16::from(new.spec.priority))
    .bind(new.created_by)
    .bind(needs)
    .bind(hash)
    .fetch_one(tx)
    .await?)
}
