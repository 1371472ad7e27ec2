//! Jobs: insert, list, delete.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use chrono::Utc;
use gaffer_domain::job::{JobState, TaskCounts};
use gaffer_domain::placement::{DefinitionRef, Requirements};
use gaffer_domain::rerun::Selection;
use gaffer_domain::scale;
use gaffer_domain::spec::{JobKind, JobSpec, STORED_VERSION};
use gaffer_domain::task::{StateName, Task};
use gaffer_domain::{JobId, ProjectId, Time, WorkerId};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

use super::counts::{COUNTS_OF_JOBS, CountsRow};
use super::forms::{known, reason_from};
use super::reruns::{Ranges, take_over};
use super::tasks::ran;
use super::transitions::Unfinished;
use super::{ReadStore, Store, StoreError, WriteStore};
use crate::records::{Job, JobUpdate, RunningTasks};

/// The counts of a definition, at how many instances it is kept if it was scaled, and its update if there is one.
type Counted = (TaskCounts, Option<u32>, Option<JobUpdate>);

fn running(spec: &JobSpec, position: usize, (counts, kept, _): &Counted) -> Option<RunningTasks> {
    let task = spec.tasks.get(position)?;
    Some(RunningTasks {
        task: task.name.clone(),
        count: counts.get(StateName::Running).unsigned_abs(),
        kept: kept.unwrap_or(task.indices.len()),
        can_scale: scale::can_scale(spec, position).is_ok(),
        has_checks: task.health.is_some() || task.readiness.is_some(),
    })
}

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
    reason_code: Option<String>,
    reason_message: Option<String>,
    created_at: Time,
    started_at: Option<Time>,
    finished_at: Option<Time>,
    pinned: bool,
    version: i32,
}

/// Without the specification, which may be large.
pub(super) const COLUMNS: &str = "id, name, kind, state::text AS state, priority, labels, created_by, rerun_of, \
     taken_over, reason_code, reason_message, created_at, started_at, finished_at, pinned, version";

impl WriteStore {
    /// Accepts a job with all its tasks, in one transaction.
    ///
    /// # Errors
    /// When the database does not answer. Whether the job was accepted is then unknown; with an idempotency key the
    /// request can be repeated safely.
    pub async fn job_insert(&self, new: &NewJob<'_>, now: Time) -> Result<Submitted, StoreError> {
        self.insert(new, None, now).await
    }

    /// Accepts a job that runs a part of its tasks and takes the results of the others over from the job that it repeats, in one
    /// transaction.
    ///
    /// # Errors
    /// As [`WriteStore::job_insert`].
    pub async fn job_insert_in_part(
        &self,
        new: &NewJob<'_>,
        selection: &Selection,
        now: Time,
    ) -> Result<Submitted, StoreError> {
        self.insert(new, Some(selection), now).await
    }

    async fn insert(
        &self,
        new: &NewJob<'_>,
        selection: Option<&Selection>,
        now: Time,
    ) -> Result<Submitted, StoreError> {
        match self.job_try_insert(new, selection, now).await {
            Err(error) if missed_new_partitions(&error) => self.job_try_insert(new, selection, now).await,
            inserted => inserted,
        }
    }

    async fn job_try_insert(
        &self,
        new: &NewJob<'_>,
        selection: Option<&Selection>,
        now: Time,
    ) -> Result<Submitted, StoreError> {
        let _turn = self.turn_to_write_much().await?;
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
            let write = JobWrite { new, selection, number, stored: &stored, term, now };
            let inserted = write.with_classes(&mut tx).await?;
            if let Some(((job, _), (selection, earlier))) = inserted.as_ref().zip(selection.zip(new.rerun_of))
                && !take_over(&mut tx, *job, earlier, selection).await?
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
            let write = JobWrite { new, selection, number: None, stored: &stored, term, now };
            write.with_classes(&mut *self.pool.acquire().await?).await?
        };
        match (inserted, &new.idempotency) {
            (Some((job, classes)), _) => {
                self.specs.put_new(job, 1, new.spec, stored.len());
                Ok(Submitted::Created { job, classes })
            }
            (None, Some((key, request_sha256))) => {
                self.idempotency_claimed(new.project, key, request_sha256).await
            }
            (None, None) => Err(StoreError::Unreadable("a new job was not inserted".to_owned())),
        }
    }

    /// What an idempotency key was used for before.
    async fn idempotency_claimed(
        &self,
        project: ProjectId,
        key: &str,
        request_sha256: &[u8; 32],
    ) -> Result<Submitted, StoreError> {
        let (earlier_request, earlier_job): (Vec<u8>, i64) = sqlx::query_as(
            "SELECT request_sha256, job_id FROM idempotency_keys WHERE project_id = $1 AND key = $2",
        )
        .bind(project.0)
        .bind(key)
        .fetch_one(&self.pool)
        .await?;
        Ok(match earlier_request == request_sha256 {
            true => Submitted::Repeated(JobId(earlier_job)),
            false => Submitted::KeyReused,
        })
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
                let by_definition = counts.get(&row.id).map_or(&[][..], Vec::as_slice);
                let mut task_counts = TaskCounts::default();
                by_definition.iter().for_each(|(counts, ..)| task_counts.merge(counts));
                let is_over = row.finished_at.is_some();
                let spec = specs.get(&JobId(row.id));
                let problem = spec.and_then(|spec| spec.problem()).map(str::to_owned);
                let reason = reason_from(row.reason_code, row.reason_message).filter(|_| is_over);
                let kind = job_kind(&row.kind)?;
                let is_kept_running = kind == JobKind::Service && !is_over;
                let running = spec.filter(|_| is_kept_running).map(|spec| {
                    let definitions = by_definition.iter().enumerate();
                    definitions.filter_map(|(position, counted)| running(spec, position, counted)).collect()
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
                    created_at: row.created_at,
                    started_at: row.started_at,
                    finished_at: row.finished_at,
                    ran_seconds: ran(None, row.started_at, row.finished_at, now),
                    available: None,
                    version: row.version as u32,
                    updates: match is_over {
                        true => Vec::new(),
                        false => by_definition.iter().filter_map(|(.., update)| update.clone()).collect(),
                    },
                })
            })
            .collect()
    }

    /// The counts of each definition of some jobs, in the order of the definitions.
    async fn job_counts(&self, jobs: &[i64]) -> Result<BTreeMap<i64, Vec<Counted>>, StoreError> {
        let rows: Vec<CountsRow> = sqlx::query_as(COUNTS_OF_JOBS).bind(jobs).fetch_all(&self.pool).await?;
        let mut counts: BTreeMap<i64, Vec<Counted>> = BTreeMap::new();
        for row in &rows {
            let kept = row.count.map(i32::unsigned_abs);
            let update = row.is_updating.then(|| JobUpdate {
                task: row.name.clone(),
                version: row.version as u32,
                problem: row.update_problem.clone(),
            });
            counts.entry(row.job_id).or_default().push((row.into(), kept, update));
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

/// The number of a job whose tasks get theirs in the same transaction: the era stays open until then.
const JOB_NUMBER: &str = "SELECT nextval('jobs_id_seq') FROM (SELECT present_era() OFFSET 0) present";

/// A job with its definitions, tasks, idempotency key and the first line of its history: one statement, which is a transaction of
/// its own where none is open, so one answer to wait for. Nothing is inserted if a class does not exist, or if the key is in use.
const JOB_WRITE: &str = "WITH led AS MATERIALIZED (SELECT leader_check($26) AS leads), \
     present AS MATERIALIZED (SELECT present_era() AS era FROM led), \
     given AS MATERIALIZED (SELECT g.*, c.id AS class_id \
         FROM UNNEST($15::smallint[], $16::text[], $17::bytea[], $18::text[], $19::boolean[], $20::text[], $27::int[], \
             $28::int[], $29::int[], $30::int[], $31::int[]) \
             AS g(position, name, needs_sha256, driver, single, state, range_from, range_to, runs, completed, skipped) \
         LEFT JOIN classes c ON c.project_id = $1 AND c.priority = $4 AND c.owner = $8 \
             AND c.needs_sha256 = g.needs_sha256), \
     known AS MATERIALIZED (SELECT count(class_id) = count(*) AS are_classes FROM given), \
     numbered AS MATERIALIZED (SELECT COALESCE($14, nextval('jobs_id_seq')) AS id, era FROM present, known \
         WHERE are_classes), \
     claimed AS (INSERT INTO idempotency_keys (project_id, key, request_sha256, job_id) \
         SELECT $1, $23, $24, id FROM numbered WHERE $23::text IS NOT NULL ON CONFLICT DO NOTHING RETURNING job_id), \
     job AS (INSERT INTO jobs (id, project_id, name, kind, priority, labels, spec, lost_after_millis, created_by, \
             rerun_of, created_at, spec_version, retention, pinned, era, taken_over) OVERRIDING SYSTEM VALUE \
         SELECT id, $1, $2, $3, $4, $5, $6::text::jsonb, $7, $8, $9, $10, $11, $12, $13, era, \
             (SELECT sum(completed + skipped) FROM given) FROM numbered \
         WHERE $23::text IS NULL OR EXISTS (SELECT FROM claimed) RETURNING id, era), \
     defined AS (INSERT INTO task_definitions (job_id, position, name, class_id, driver, single, blocked, pending, \
             completed, cancelled, skipped) \
         SELECT job.id, position, name, class_id, driver, single, CASE WHEN state = 'blocked' THEN runs ELSE 0 END, \
             CASE WHEN state = 'pending' THEN runs ELSE 0 END, completed, skipped, skipped FROM job, given), \
     told AS (INSERT INTO events (project_id, at, kind, job_id, actor, message, era) \
         SELECT $1, $10, 'job.submitted', id, $8, $25, era FROM job), \
     tasks AS (INSERT INTO live_tasks (job_id, position, index, class_id, state, since, not_before) \
         SELECT job.id, position, index, class_id, state::task_state, $10, CASE WHEN state = 'pending' THEN $10 END \
         FROM job, given, LATERAL UNNEST(($21::int[])[range_from:range_to], ($22::int[])[range_from:range_to]) \
             AS r(first, last), generate_series(first, last) AS index ORDER BY position, index) \
     SELECT are_classes, CASE WHEN are_classes THEN false ELSE \
             EXISTS (SELECT FROM idempotency_keys WHERE project_id = $1 AND key = $23) END AS is_claimed, \
         (SELECT id FROM job) AS job, \
         ARRAY(SELECT DISTINCT class_id FROM given WHERE state = 'pending' AND runs > 0 AND class_id IS NOT NULL) AS classes \
     FROM known";

/// Whether a statement began before the partitions of its era were made: rows go to the partition of all that has none, which
/// does not take them any more. The next statement sees them.
fn missed_new_partitions(error: &StoreError) -> bool {
    let StoreError::Refused(sqlx::Error::Database(error)) = error else { return false };
    error.code().as_deref() == Some("23514") && error.table().is_some_and(|table| table.ends_with("_rest"))
}

fn unwritable(error: serde_json::Error) -> StoreError {
    StoreError::Unreadable(format!("cannot write a specification as JSON: {error}"))
}

/// What the definitions of a job need, in their order, and the hash by which each class is found.
pub(super) struct Needs {
    values: Vec<Value>,
    pub hashes: Vec<Vec<u8>>,
}

impl Needs {
    pub fn of(spec: &JobSpec, job: JobId) -> Result<Needs, StoreError> {
        let needs = |(position, definition)| {
            let position = u16::try_from(position).unwrap_or(u16::MAX);
            serde_json::to_value(Requirements::of(spec, definition, DefinitionRef { job, position }))
        };
        let values: Vec<Value> =
            spec.tasks.iter().enumerate().map(needs).collect::<Result<_, _>>().map_err(unwritable)?;
        let hashes = values.iter().map(|value| Sha256::digest(value.to_string()).to_vec()).collect();
        Ok(Needs { values, hashes })
    }
}

/// What an attempt to insert a job came to.
#[derive(FromRow)]
struct Written {
    /// Whether all classes of its tasks exist; nothing is inserted else.
    are_classes: bool,
    /// If they do not: whether its idempotency key is in use.
    is_claimed: bool,
    /// Its number, if it was inserted.
    job: Option<i64>,
    /// The classes of its waiting tasks.
    classes: Vec<i64>,
}

/// A job that is to be inserted, with all that belongs to it.
struct JobWrite<'a> {
    new: &'a NewJob<'a>,
    /// Which of its tasks run, if not all of them.
    selection: Option<&'a Selection>,
    /// If it has its number already.
    number: Option<i64>,
    /// The specification as JSON.
    stored: &'a str,
    /// Of the master that accepts it.
    term: i64,
    now: Time,
}

impl JobWrite<'_> {
    /// Inserts the job, and first the classes of its tasks if they are new. None if its idempotency key is in use.
    async fn with_classes(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Option<(JobId, Vec<i64>)>, StoreError> {
        let needs = Needs::of(self.new.spec, JobId(self.number.unwrap_or_default()))?;
        // Those that bear the number of the job are always new.
        if self.number.is_none() {
            let written = self.write(connection, &needs).await?;
            // Of a job that there will not be, no class is made.
            if written.are_classes || written.is_claimed {
                return Ok(written.job.map(|job| (JobId(job), written.classes)));
            }
        }
        classes_ensure(connection, self.new, &needs, self.term).await?;
        let written = self.write(connection, &needs).await?;
        match written.are_classes {
            true => Ok(written.job.map(|job| (JobId(job), written.classes))),
            false => Err(StoreError::Unreadable("the classes of a new job are missing".to_owned())),
        }
    }

    async fn write(&self, connection: &mut PgConnection, needs: &Needs) -> Result<Written, StoreError> {
        let JobWrite { new, selection, number, stored, term, now } = *self;
        let spec = new.spec;
        let (mut positions, mut names, mut drivers, mut single) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut states, mut ranges) = (Vec::new(), Ranges::default());
        let (mut runs, mut completed, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        for (position, definition) in spec.tasks.iter().enumerate() {
            positions.push(position as i16);
            names.push(definition.name.as_str());
            drivers.push(definition.driver.as_str());
            single.push(definition.indices.is_single());
            states.push(Task::new(definition.waits_for_others(), now).state.name().as_str());
            let share = selection.and_then(|selection| selection.definitions().get(position));
            match share {
                None => ranges.add([definition.indices.iter().into_inner()].into_iter()),
                Some(share) => ranges.add(share.runs.iter().cloned().map(RangeInclusive::into_inner)),
            }
            let (completes, skips) = share.map_or((0, 0), |share| (share.completed, share.skipped));
            runs.push((definition.indices.len() - completes - skips) as i32);
            completed.push(completes as i32);
            skipped.push(skips as i32);
        }
        let (key, request_sha256) = new.idempotency.as_ref().map(|(key, hash)| (*key, &hash[..])).unzip();
        Ok(sqlx::query_as(JOB_WRITE)
            .bind(new.project.0)
            .bind(&spec.name)
            .bind(spec.kind.as_str())
            .bind(i16::from(spec.priority))
            .bind(Json(&spec.labels))
            .bind(stored)
            .bind(spec.lost_after.as_millis() as i64)
            .bind(new.created_by)
            .bind(new.rerun_of.map(|job| job.0))
            .bind(now)
            .bind(STORED_VERSION as i16)
            .bind(Json(&spec.retention))
            .bind(spec.pin)
            .bind(number)
            .bind(positions)
            .bind(names)
            .bind(&needs.hashes)
            .bind(drivers)
            .bind(single)
            .bind(states)
            .bind(ranges.firsts)
            .bind(ranges.lasts)
            .bind(key)
            .bind(request_sha256)
            .bind(match (spec.task_count(), new.rerun_of, selection) {
                (1, None, _) => "1 task".to_owned(),
                (n, None, _) => format!("{n} tasks"),
                (n, Some(of), None) => format!("{n} tasks, a rerun of job {of}"),
                (n, Some(of), Some(selection)) => {
                    format!("{n} tasks, {} of them run: a rerun in part of job {of}", selection.runs())
                }
            })
            .bind(term)
            .bind(ranges.from)
            .bind(ranges.to)
            .bind(runs)
            .bind(completed)
            .bind(skipped)
            .fetch_one(connection)
            .await?)
    }
}

/// Makes the classes of tasks with these needs that do not exist yet.
pub(super) async fn classes_ensure(
    connection: &mut PgConnection,
    new: &NewJob<'_>,
    needs: &Needs,
    term: i64,
) -> Result<(), StoreError> {
    // In one order, so that two submissions never wait for each other's classes.
    let wanted: BTreeMap<&Vec<u8>, &Value> = needs.hashes.iter().zip(&needs.values).collect();
    let (hashes, values): (Vec<&[u8]>, Vec<&Value>) =
        wanted.into_iter().map(|(hash, value)| (&hash[..], value)).unzip();
    sqlx::query(
        "WITH led AS MATERIALIZED (SELECT leader_check($6) AS leads) \
         INSERT INTO classes (project_id, priority, owner, needs, needs_sha256) \
         SELECT $1, $2, $3, w.needs, w.needs_sha256 FROM led, UNNEST($4::jsonb[], $5::bytea[]) \
             WITH ORDINALITY AS w(needs, needs_sha256, place) \
         WHERE NOT EXISTS (SELECT FROM classes c WHERE c.project_id = $1 AND c.priority = $2 AND c.owner = $3 \
             AND c.needs_sha256 = w.needs_sha256) \
         ORDER BY w.place ON CONFLICT DO NOTHING",
    )
    .bind(new.project.0)
    .bind(i16::from(new.spec.priority))
    .bind(new.created_by)
    .bind(values)
    .bind(hashes)
    .bind(term)
    .execute(connection)
    .await?;
    Ok(())
}
