//! Jobs: insert, list, delete.

mod for_workers;
mod insert;

use std::collections::BTreeMap;

use chrono::{SubsecRound as _, Utc};
use gaffer_domain::job::{JobState, TaskCounts};
use gaffer_domain::placement::Requirements;
use gaffer_domain::rerun::Selection;
use gaffer_domain::scale::{self, Instances};
use gaffer_domain::spec::{JobKind, JobSpec};
use gaffer_domain::task::StateName;
use gaffer_domain::template::TemplateRef;
use gaffer_domain::{JobId, ProjectId, Time, WorkerId};
use sqlx::FromRow;
use sqlx::types::Json;

use super::counts::DefinitionCounts;
use super::forms::{known, reason_from};
use super::reruns::take_over;
use super::tasks::ran;
use super::transitions::Unfinished;
use super::{ReadStore, Store, StoreError, WriteStore};

use crate::records::{Job, JobUpdate, RunningTasks};
use insert::{JOB_NUMBER, JobWrite, missed_new_partitions, unwritable};

pub use for_workers::ForWorkers;
pub(super) use for_workers::classes_of_instances_ensure;
pub(super) use insert::{Needs, classes_ensure};
pub use insert::{NewJob, Origin};

fn running(spec: &JobSpec, position: usize, definition: &DefinitionCounts) -> Option<RunningTasks> {
    let task = spec.tasks.get(position)?;
    let counts = TaskCounts::from(definition);
    Some(RunningTasks {
        task: task.name.clone(),
        count: counts.get(StateName::Running).unsigned_abs(),
        kept: match task.indices.follow_workers() {
            // All but those that were scaled down.
            true => u32::try_from(counts.total() - definition.skipped).unwrap_or(0),
            false => Instances::of(task, definition.count.map(i32::unsigned_abs)).count,
        },
        can_scale: scale::can_scale(spec, position).is_ok(),
        has_checks: task.has_checks(),
    })
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// Accepted now, with waiting tasks of these classes.
    Created { job: JobId, classes: Vec<i64> },
    /// The same request was accepted before.
    Repeated(JobId),
    /// The idempotency key was used for another request.
    KeyReused,
    /// The job whose results it takes over was deleted.
    EarlierGone(JobId),
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
    /// Only those of which a task was ever placed on this worker.
    pub worker: Option<WorkerId>,
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
    taken_over: i32,
    template: Option<String>,
    template_version: Option<i32>,
    reason_code: Option<String>,
    reason_message: Option<String>,
    created_at: Time,
    started_at: Option<Time>,
    finished_at: Option<Time>,
    pinned: bool,
    version: i32,
    definitions: Json<Vec<DefinitionCounts>>,
}

/// Of `jobs`, beside their definitions. Without the specification, which may be large.
pub(super) const COLUMNS: &str = "id, name, kind, state::text AS state, priority, labels, created_by, rerun_of, \
     taken_over, template, template_version, reason_code, reason_message, created_at, started_at, finished_at, pinned, \
     version";

impl WriteStore {
    /// Accepts a job with all its tasks, in one transaction.
    ///
    /// # Errors
    /// When the database does not answer. Whether the job was accepted is then unknown; with an idempotency key the
    /// request can be repeated safely.
    pub async fn job_insert(&self, new: &NewJob<'_>, now: Time) -> Result<Submitted, StoreError> {
        self.insert(new, None, &ForWorkers::default(), now).await
    }

    /// Accepts a job with tasks that are for one worker each. With a selection it runs a part of its tasks and takes the results of
    /// the others over from the job that it repeats, in one transaction.
    ///
    /// # Errors
    /// As [`WriteStore::job_insert`].
    pub async fn job_insert_for(
        &self,
        new: &NewJob<'_>,
        selection: Option<&Selection>,
        for_workers: &ForWorkers,
        now: Time,
    ) -> Result<Submitted, StoreError> {
        self.insert(new, selection, for_workers, now).await
    }

    async fn insert(
        &self,
        new: &NewJob<'_>,
        selection: Option<&Selection>,
        for_workers: &ForWorkers,
        now: Time,
    ) -> Result<Submitted, StoreError> {
        match self.job_try_insert(new, selection, for_workers, now).await {
            Err(error) if missed_new_partitions(&error) => {
                self.job_try_insert(new, selection, for_workers, now).await
            }
            inserted => inserted,
        }
    }

    async fn job_try_insert(
        &self,
        new: &NewJob<'_>,
        selection: Option<&Selection>,
        for_workers: &ForWorkers,
        now: Time,
    ) -> Result<Submitted, StoreError> {
        let _turn = self.turn_to_write_much().await?;
        // As exact as it is stored.
        let now = now.trunc_subsecs(6);
        let stored = serde_json::to_string(new.spec).map_err(unwritable)?;
        let term = self.leadership.term();
        // Classes of tasks that look at each other bear the number of their job, so these jobs get it beforehand.
        let needs_number = new.spec.tasks.iter().any(Requirements::are_of_one_definition);
        let inserted = if needs_number || selection.is_some() {
            let mut tx = self.begin().await?;
            let number: Option<i64> = match needs_number {
                true => Some(sqlx::query_scalar(JOB_NUMBER).fetch_one(&mut *tx).await?),
                false => None,
            };
            let write = JobWrite { new, selection, for_workers, number, stored: &stored, term, now };
            let inserted = write.with_classes(&mut tx).await?;
            if let Some(((job, _), (selection, earlier))) = inserted.as_ref().zip(selection.zip(new.rerun_of))
                && !take_over(&mut tx, *job, earlier, selection, !for_workers.is_empty()).await?
            {
                tx.rollback().await?;
                return Ok(Submitted::EarlierGone(earlier));
            }
            match inserted {
                Some(_) => tx.commit().await?,
                // Its classes are of a job that there is not.
                None => tx.rollback().await?,
            }
            inserted
        } else {
            let write = JobWrite { new, selection, for_workers, number: None, stored: &stored, term, now };
            write.with_classes(&mut *self.pool.acquire().await?).await?
        };
        match (inserted, &new.idempotency) {
            (Some((job, written)), _) => {
                self.specs.put_new(job, 1, new.spec, stored.len());
                if let Some(rows) = written.rows(new, now) {
                    self.known.add(rows);
                }
                Ok(Submitted::Created { job, classes: written.classes })
            }
            (None, Some((key, request_sha256))) => {
                let claimed = self.idempotency_find(new.project, key, request_sha256).await?;
                claimed.ok_or_else(|| StoreError::Unreadable("an idempotency key is gone".to_owned()))
            }
            (None, None) => Err(StoreError::Unreadable("a new job was not inserted".to_owned())),
        }
    }

    /// What an idempotency key was used for before, if it was: for the same request, or for another one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn idempotency_find(
        &self,
        project: ProjectId,
        key: &str,
        request_sha256: &[u8; 32],
    ) -> Result<Option<Submitted>, StoreError> {
        let earlier: Option<(Vec<u8>, i64)> = sqlx::query_as(
            "SELECT request_sha256, job_id FROM idempotency_keys WHERE project_id = $1 AND key = $2",
        )
        .bind(project.0)
        .bind(key)
        .fetch_optional(&self.pool)
        .await?;
        Ok(earlier.map(|(request, job)| match request == request_sha256 {
            true => Submitted::Repeated(JobId(job)),
            false => Submitted::KeyReused,
        }))
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
        let ids: Vec<i64> =
            sqlx::query_scalar("SELECT id FROM jobs WHERE id = ANY($1) AND project_id + 0 = $2")
                .bind(jobs.iter().map(|job| job.0).collect::<Vec<i64>>())
                .bind(project.0)
                .fetch_all(&self.pool)
                .await?;
        Ok(ids.into_iter().map(JobId).collect())
    }
}

impl Store {
    /// Unfinished jobs with pending stops, scalings, dependency updates or too many failures, left by an earlier master.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn jobs_unsettled(&self) -> Result<Vec<Unfinished>, StoreError> {
        let rows: Vec<(i64, bool)> = sqlx::query_as(
            "SELECT id, true FROM jobs WHERE stop_message IS NOT NULL AND finished_at IS NULL \
             UNION ALL SELECT DISTINCT d.job_id, false FROM task_definitions d JOIN jobs j ON j.id = d.job_id \
             WHERE d.blocked > 0 AND j.stop_message IS NULL \
             UNION ALL SELECT id, false FROM jobs WHERE finished_at IS NULL AND stop_message IS NULL \
                 AND EXISTS (SELECT FROM task_definitions WHERE job_id = jobs.id AND failed > 0) \
             UNION ALL SELECT job_id, false FROM task_definitions WHERE scaled_by IS NOT NULL",
        )
        .fetch_all(&self.pool)
        .await?;
        let unfinished = |(job, is_stopping)| Unfinished { job: JobId(job), is_stopping };
        Ok(rows.into_iter().map(unfinished).collect())
    }
}

impl ReadStore {
    pub(super) async fn jobs_from(&self, rows: Vec<JobRow>) -> Result<Vec<Job>, StoreError> {
        // Ended jobs need no specification; others are cached.
        let unfinished = rows.iter().filter(|row| row.finished_at.is_none());
        let unfinished: Vec<JobId> = unfinished.map(|row| JobId(row.id)).collect();
        let specs = self.specs(&unfinished).await?;
        let now = Utc::now();
        rows.into_iter()
            .map(|row| {
                let definitions = row.definitions.0;
                let mut task_counts = TaskCounts::default();
                definitions.iter().for_each(|definition| task_counts.merge(&definition.into()));
                let is_over = row.finished_at.is_some();
                let spec = specs.get(&JobId(row.id));
                let problem = spec.and_then(|spec| spec.problem()).map(str::to_owned);
                let reason = reason_from(row.reason_code, row.reason_message).filter(|_| is_over);
                let kind = job_kind(&row.kind)?;
                let is_kept_running = kind.is_kept_running() && !is_over;
                let running = spec.filter(|_| is_kept_running).map(|spec| {
                    let definitions = definitions.iter().enumerate();
                    definitions.filter_map(|(position, counts)| running(spec, position, counts)).collect()
                });
                Ok(Job {
                    id: JobId(row.id),
                    name: row.name,
                    kind,
                    state: known("job state", &row.state)?,
                    reason,
                    problem,
                    has_cleanup: spec.is_some_and(|spec| spec.has_cleanup()),
                    labels: row.labels.0,
                    pinned: row.pinned,
                    priority: row.priority as u8,
                    task_counts,
                    running: running.unwrap_or_default(),
                    created_by: row.created_by,
                    rerun_of: row.rerun_of.map(JobId),
                    taken_over: row.taken_over.unsigned_abs(),
                    template: row
                        .template
                        .zip(row.template_version)
                        .map(|(name, version)| TemplateRef { name, version: version.unsigned_abs() }),
                    created_at: row.created_at,
                    started_at: row.started_at,
                    finished_at: row.finished_at,
                    ran_seconds: ran(None, row.started_at, row.finished_at, now),
                    available: None,
                    version: row.version as u32,
                    updates: match is_over {
                        true => Vec::new(),
                        false => definitions.iter().filter_map(update).collect(),
                    },
                })
            })
            .collect()
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

fn update(definition: &DefinitionCounts) -> Option<JobUpdate> {
    definition.is_updating.then(|| JobUpdate {
        task: definition.name.clone(),
        version: definition.version as u32,
        problem: definition.update_problem.clone(),
    })
}

fn job_kind(stored: &str) -> Result<JobKind, StoreError> {
    let kind = JobKind::ALL.into_iter().find(|kind| kind.as_str() == stored);
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
