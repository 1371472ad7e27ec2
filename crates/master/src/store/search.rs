//! Searches jobs: by an index, or among the latest with a cursor for the rest.

use gaffer_domain::job::JobState;
use gaffer_domain::{JobId, ProjectId};
use serde_json::Value;
use sqlx::FromRow;
use sqlx::types::Json;

use super::counts::DEFINITIONS;
use super::jobs::{COLUMNS, JobFilter, JobRow};
use super::{ReadStore, StoreError};
use crate::records::Job;

/// The most jobs that one answer looks at. The next request continues where it ended.
pub const MAX_SEARCHED: u32 = 15_000;
/// Jobs with a label are all looked at, wherever they are, if they are no more than this.
const MAX_LABELLED: i64 = 5_000;

/// Jobs by number, of a project: `$1` and `$2`. A plan made while there are few jobs may be kept: they are looked up by their number
/// and by nothing else.
const JOBS_ASKED_FOR: &str = "FROM UNNEST($1::bigint[]) AS asked(job), \
     LATERAL (SELECT * FROM jobs WHERE id = asked.job OFFSET 0) jobs WHERE project_id = $2";
/// A specification of up to this size, as it is stored, is read together with its job.
const SMALL_SPEC_BYTES: u32 = 8_192;

#[derive(Debug, Clone, Default)]
pub struct JobsFound {
    /// Newest first.
    pub jobs: Vec<Job>,
    /// The job after which to continue, if the search ended early.
    pub searched_to: Option<JobId>,
}

/// The jobs that a search looks at.
struct Among<'a> {
    /// The condition that a partial index serves.
    narrowed: &'static str,
    /// These, and no others.
    labelled: Option<&'a [i64]>,
    most: Option<i64>,
}

impl ReadStore {
    /// Jobs of a project, newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_list(
        &self,
        project: ProjectId,
        filter: &JobFilter,
        limit: u32,
    ) -> Result<Vec<Job>, StoreError> {
        Ok(self.job_search(project, filter, limit, MAX_SEARCHED).await?.jobs)
    }

    /// Jobs of a project, newest first, and whether there may be more. What an index serves is found however many jobs
    /// there are; for anything else the latest `most_searched` are looked at, so that no search costs more than that.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_search(
        &self,
        project: ProjectId,
        filter: &JobFilter,
        limit: u32,
        most_searched: u32,
    ) -> Result<JobsFound, StoreError> {
        // Spelled out so that the partial indexes can serve the two filters that everybody uses.
        let narrowed = match filter.states.as_slice() {
            [JobState::Failed] => "AND state = 'failed'",
            states if !states.is_empty() && states.iter().all(|state| !state.is_final()) => {
                "AND finished_at IS NULL"
            }
            _ => "",
        };
        let mut among = Among { narrowed, labelled: None, most: None };
        let labelled = self.jobs_labelled(filter).await?;
        if let Some(labelled) = &labelled {
            among.labelled = Some(labelled);
        } else if !filter.is_indexed() {
            among.most = Some(i64::from(most_searched));
        }
        let jobs = self.jobs_among(&among, project, filter, limit).await?;
        let searched_to = match among.most {
            Some(most) if jobs.len() < limit as usize => {
                self.jobs_searched_to(narrowed, project, filter, most).await?
            }
            _ => None,
        };
        Ok(JobsFound { jobs: self.jobs_from(jobs).await?, searched_to })
    }

    async fn jobs_among(
        &self,
        among: &Among<'_>,
        project: ProjectId,
        filter: &JobFilter,
        limit: u32,
    ) -> Result<Vec<JobRow>, StoreError> {
        let Among { narrowed, labelled, most } = among;
        let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
        // The jobs of a worker are looked up one by one in the order of their numbers, so that the latest are found first.
        let source = match (labelled, filter.worker) {
            (None, None) => format!(
                "SELECT *, id AS place FROM jobs WHERE project_id = $1 AND id < $2 {narrowed} AND $8::bigint[] IS NULL \
                     AND $10::bigint IS NULL ORDER BY id DESC LIMIT $9"
            ),
            (Some(_), _) => format!(
                "SELECT *, id AS place FROM jobs WHERE project_id = $1 AND id < $2 {narrowed} AND id = ANY($8) \
                     AND ($10::bigint IS NULL OR EXISTS ( \
                         SELECT FROM job_workers w WHERE w.job_id = jobs.id AND w.worker_id = $10)) \
                 ORDER BY id DESC LIMIT $9"
            ),
            (None, Some(_)) => format!(
                "SELECT j.*, ran.job_id AS place FROM ( \
                     SELECT job_id FROM job_workers WHERE worker_id = $10 AND job_id < $2 ORDER BY job_id DESC LIMIT $9) ran, \
                 LATERAL (SELECT * FROM jobs WHERE id = ran.job_id AND project_id = $1 {narrowed} \
                     AND $8::bigint[] IS NULL OFFSET 0) j"
            ),
        };
        // The driver is asked for one job at a time: as a join it would read the definitions of all jobs.
        let sql = format!(
            "SELECT {COLUMNS}, {DEFINITIONS} FROM ({source}) jobs \
             WHERE (cardinality($3::text[]) = 0 OR state = ANY($3::job_state[])) \
             AND ($4::text IS NULL OR strpos(lower(name), lower($4)) > 0) \
             AND ($5::jsonb = '{{}}' OR labels @> $5) \
             AND ($6::text IS NULL OR (SELECT true FROM task_definitions d \
                 WHERE d.job_id = jobs.id AND d.driver = $6 LIMIT 1)) \
             ORDER BY place DESC LIMIT $7"
        );
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(project.0)
            .bind(filter.before.map_or(i64::MAX, |job| job.0))
            .bind(states)
            .bind(&filter.name)
            .bind(Json(&filter.labels))
            .bind(&filter.driver)
            .bind(i64::from(limit))
            .bind(*labelled)
            .bind(*most)
            .bind(filter.worker.map(|worker| worker.0))
            .fetch_all(&self.pool)
            .await?)
    }

    /// All jobs with the labels of a filter; none if there are too many, or if it has no labels.
    async fn jobs_labelled(&self, filter: &JobFilter) -> Result<Option<Vec<i64>>, StoreError> {
        if filter.labels.is_empty() {
            return Ok(None);
        }
        let jobs: Vec<i64> = sqlx::query_scalar("SELECT id FROM jobs WHERE labels @> $1 LIMIT $2")
            .bind(Json(&filter.labels))
            .bind(MAX_LABELLED + 1)
            .fetch_all(&self.pool)
            .await?;
        Ok(Some(jobs).filter(|jobs| jobs.len() as i64 <= MAX_LABELLED))
    }

    /// The last of the jobs that were looked at; none if these were all.
    async fn jobs_searched_to(
        &self,
        narrowed: &'static str,
        project: ProjectId,
        filter: &JobFilter,
        most: i64,
    ) -> Result<Option<JobId>, StoreError> {
        let before = filter.before.map_or(i64::MAX, |job| job.0);
        let last: Option<i64> = match filter.worker {
            // Of any project this many were looked at. The number that is told is behind one of the project's own.
            Some(worker) => sqlx::query_scalar(
                "SELECT own.id + 1 FROM ( \
                     SELECT job_id FROM job_workers WHERE worker_id = $1 AND job_id < $2 \
                     ORDER BY job_id DESC OFFSET $3 LIMIT 1) last, \
                 LATERAL (SELECT id FROM jobs WHERE project_id = $4 AND id < last.job_id ORDER BY id DESC LIMIT 1) own",
            )
            .bind(worker.0)
            .bind(before)
            .bind(most - 1)
            .bind(project.0),
            None => sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
                "SELECT id FROM jobs WHERE project_id = $1 AND id < $2 {narrowed} ORDER BY id DESC OFFSET $3 LIMIT 1"
            )))
            .bind(project.0)
            .bind(before)
            .bind(most - 1),
        }
        .fetch_optional(&self.pool)
        .await?;
        Ok(last.map(JobId))
    }

    /// These jobs of a project, in any order.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn jobs_by_id(&self, project: ProjectId, jobs: &[JobId]) -> Result<Vec<Job>, StoreError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
        let sql = format!("SELECT {COLUMNS}, {DEFINITIONS} {JOBS_ASKED_FOR}");
        let rows: Vec<JobRow> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(ids).bind(project.0).fetch_all(&self.pool).await?;
        self.jobs_from(rows).await
    }

    /// One job of a project, with its specification as it is stored, unless that is large: then the specification is left out and
    /// can be read with [`ReadStore::job_specs`].
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_with_spec(
        &self,
        project: ProjectId,
        job: JobId,
    ) -> Result<Option<(Job, Option<Value>)>, StoreError> {
        #[derive(FromRow)]
        struct Row {
            #[sqlx(flatten)]
            job: JobRow,
            spec: Option<String>,
        }
        let sql = format!(
            "SELECT {COLUMNS}, {DEFINITIONS}, CASE WHEN pg_column_size(spec) <= {SMALL_SPEC_BYTES} THEN spec::text END AS spec \
             {JOBS_ASKED_FOR}"
        );
        let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(vec![job.0])
            .bind(project.0)
            .fetch_optional(&self.pool)
            .await?;
        let Some(Row { job, spec }) = row else { return Ok(None) };
        let spec = spec.as_deref().map(spec_value).transpose()?;
        Ok(self.jobs_from(vec![job]).await?.pop().map(|job| (job, spec)))
    }

    /// The specifications of jobs as they are stored, in the same order, until they have more than `most_bytes` together: the
    /// rest is cut off, but never the first. Null for a job that was deleted meanwhile.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_specs(&self, jobs: &[JobId], most_bytes: usize) -> Result<Vec<Value>, StoreError> {
        /// A specification can have one megabyte, so this many are read together.
        const TOGETHER: usize = 8;
        let (mut specs, mut bytes) = (Vec::new(), 0);
        for jobs in jobs.chunks(TOGETHER) {
            if bytes > most_bytes {
                break;
            }
            let rows: Vec<(i64, String)> =
                sqlx::query_as("SELECT id, spec::text FROM jobs WHERE id = ANY($1)")
                    .bind(jobs.iter().map(|job| job.0).collect::<Vec<i64>>())
                    .fetch_all(&self.pool)
                    .await?;
            for job in jobs {
                let stored = rows.iter().find(|(id, _)| *id == job.0).map_or("null", |(_, spec)| spec);
                specs.push(spec_value(stored)?);
                bytes += stored.len();
            }
        }
        Ok(specs)
    }
}

fn spec_value(stored: &str) -> Result<Value, StoreError> {
    serde_json::from_str(stored).map_err(|error| StoreError::Unreadable(error.to_string()))
}

impl JobFilter {
    /// Whether an index has exactly the jobs that it asks for.
    fn is_indexed(&self) -> bool {
        let is_any =
            self.name.is_none() && self.labels.is_empty() && self.driver.is_none() && self.worker.is_none();
        let unfinished = JobState::ALL.into_iter().filter(|state| !state.is_final());
        let by_state = match self.states.as_slice() {
            [] | [JobState::Failed] => true,
            states => {
                states.iter().all(|state| !state.is_final())
                    && unfinished.into_iter().all(|state| states.contains(&state))
            }
        };
        is_any && by_state
    }
}
