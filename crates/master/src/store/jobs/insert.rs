//! Inserts a job with all that belongs to it, in one statement.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use gaffer_domain::placement::{DefinitionRef, Requirements};
use gaffer_domain::rerun::Selection;
use gaffer_domain::spec::{JobSpec, STORED_VERSION};
use gaffer_domain::task::Task;
use gaffer_domain::template::TemplateRef;
use gaffer_domain::{JobId, ProjectId, Time};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

use super::super::StoreError;
use super::super::audit::NewEntry;
use super::super::reruns::Ranges;
use super::super::transitions::NewRows;
use super::for_workers::{ForWorkers, TasksForWorkers, classes_of_workers_ensure};

/// A job to be accepted.
#[derive(Debug)]
pub struct NewJob<'a> {
    pub project: ProjectId,
    /// The specification.
    pub spec: &'a JobSpec,
    pub origin: Origin<'a>,
    pub created_by: &'a str,
    /// Who asks for it, for the audit log; its target will be the job.
    pub asks: Option<NewEntry<'a>>,
    /// The job that it repeats.
    pub rerun_of: Option<JobId>,
    /// The idempotency key, and the hash of the request.
    pub idempotency: Option<(&'a str, [u8; 32])>,
}

impl<'a> NewJob<'a> {
    /// A job that repeats no other one, made of a specification alone.
    pub fn of(project: ProjectId, spec: &'a JobSpec, created_by: &'a str) -> NewJob<'a> {
        NewJob {
            project,
            spec,
            origin: Origin::default(),
            created_by,
            asks: None,
            rerun_of: None,
            idempotency: None,
        }
    }
}

/// What the specification of a job was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin<'a> {
    /// If it has parameters: the specification before their values were put in, as JSON.
    pub source: Option<&'a str>,
    /// The template that it was saved as.
    pub template: Option<&'a TemplateRef>,
}

/// The number of a job whose tasks get theirs in the same transaction: the era stays open until then.
pub(super) const JOB_NUMBER: &str =
    "SELECT nextval('jobs_id_seq') FROM (SELECT present_era() OFFSET 0) present";

/// Maximum number of tasks of a new job that are known without being read.
const MAX_TASKS_RETURNED: u32 = 64;

/// A job with its definitions, tasks, idempotency key and the first line of its history: one statement, which is a transaction of
/// its own where none is open, so one answer to wait for. Nothing is inserted if a class does not exist, or if the key is in use.
/// `$for_workers` and what follows it is about tasks that are for one worker each.
macro_rules! job_write {
    ($for_workers:literal, $have_classes:literal, $tasks:literal, $waiting:literal, $returning:literal, $rows:literal) => {
        concat!("WITH led AS MATERIALIZED (SELECT leader_check($26) AS leads), \
     present AS MATERIALIZED (SELECT present_era() AS era FROM led), \
     given AS MATERIALIZED (SELECT g.*, c.id AS class_id \
         FROM UNNEST($15::smallint[], $16::text[], $17::bytea[], $18::text[], $19::boolean[], $20::text[], $27::int[], \
             $28::int[], $29::int[], $30::int[], $31::int[]) \
             AS g(position, name, needs_sha256, driver, single, state, range_from, range_to, runs, completed, skipped) \
         LEFT JOIN classes c ON c.project_id = $1 AND c.priority = $4 AND c.owner = $8 \
             AND c.needs_sha256 = g.needs_sha256), ", $for_workers, " \
     known AS MATERIALIZED (SELECT count(class_id) = count(*)", $have_classes, " AS are_classes FROM given), \
     numbered AS MATERIALIZED (SELECT COALESCE($14, nextval('jobs_id_seq')) AS id, era FROM present, known \
         WHERE are_classes), \
     claimed AS (INSERT INTO idempotency_keys (project_id, key, request_sha256, job_id) \
         SELECT $1, $23, $24, id FROM numbered WHERE $23::text IS NOT NULL ON CONFLICT DO NOTHING RETURNING job_id), \
     job AS (INSERT INTO jobs (id, project_id, name, kind, priority, labels, spec, lost_after_millis, created_by, \
             rerun_of, created_at, spec_version, retention, pinned, era, taken_over, source, template, \
             template_version) OVERRIDING SYSTEM VALUE \
         SELECT id, $1, $2, $3, $4, $5, $6::text::jsonb, $7, $8, $9, $10, $11, $12, $13, era, \
             (SELECT sum(completed + skipped) FROM given), $32, $33, $34 FROM numbered \
         WHERE $23::text IS NULL OR EXISTS (SELECT FROM claimed) RETURNING id, era), \
     defined AS (INSERT INTO task_definitions (job_id, position, name, class_id, driver, single, blocked, pending, \
             completed, cancelled, skipped) \
         SELECT job.id, position, name, class_id, driver, single, CASE WHEN state = 'blocked' THEN runs ELSE 0 END, \
             CASE WHEN state = 'pending' THEN runs ELSE 0 END, completed, skipped, skipped FROM job, given), \
     told AS (INSERT INTO events (project_id, at, kind, job_id, actor, message, era) \
         SELECT $1, $10, 'job.submitted', id, $8, $25, era FROM job), \
     noted AS (INSERT INTO audit_entries (project_id, at, user_name, credential, address, action, target, outcome, rest) \
         SELECT $1, $10, $8, $35, $36, $37, 'job ' || id, 'done', \
             jsonb_build_object('after', jsonb_strip_nulls(jsonb_build_object('name', $2::text, 'rerun_of', $9::bigint))) \
         FROM job WHERE $37::text IS NOT NULL), \
     tasks AS (INSERT INTO live_tasks (job_id, position, index, class_id, state, since, not_before) \
         SELECT job.id, position, index, class_id, state::task_state, $10, CASE WHEN state = 'pending' THEN $10 END \
         FROM job, given, LATERAL UNNEST(($21::int[])[range_from:range_to], ($22::int[])[range_from:range_to]) \
             AS r(first, last), generate_series(first, last) AS index", $tasks, " ORDER BY position, index", $returning, ") \
     SELECT are_classes, CASE WHEN are_classes THEN false ELSE \
             EXISTS (SELECT FROM idempotency_keys WHERE project_id = $1 AND key = $23) END AS is_claimed, \
         (SELECT id FROM job) AS job, \
         ARRAY(SELECT DISTINCT class_id FROM given WHERE state = 'pending' AND runs > 0 AND class_id IS NOT NULL)", $waiting,
             " AS classes, ", $rows, " FROM known")
    };
}

const JOB_WRITE: &str = job_write!(
    "",
    "",
    "",
    "",
    "",
    "NULL::bigint AS era, NULL::bigint[] AS tasks, NULL::bigint[] AS task_classes"
);

/// The same for a job with tasks that are for one worker each: these have the class of their definition and worker.
const JOB_WRITE_FOR_WORKERS: &str = job_write!(
    "for_workers AS MATERIALIZED (SELECT w.position, w.index, given.state, c.id AS class_id \
         FROM UNNEST($38::smallint[], $39::int[], $40::bigint[]) AS w(position, index, worker_id) \
         JOIN given ON given.position = w.position \
         LEFT JOIN LATERAL (SELECT id FROM classes WHERE base_id = given.class_id AND worker_id = w.worker_id OFFSET 0) c \
             ON true), ",
    " AND (SELECT count(class_id) = count(*) FROM for_workers)",
    " UNION ALL SELECT job.id, position, index, class_id, state::task_state, $10, CASE WHEN state = 'pending' THEN $10 END \
         FROM job, for_workers",
    " || ARRAY(SELECT class_id FROM for_workers WHERE state = 'pending' AND class_id IS NOT NULL)",
    "",
    "NULL::bigint AS era, NULL::bigint[] AS tasks, NULL::bigint[] AS task_classes"
);

/// The same, which also returns the numbers of the tasks, and the class of each definition, in their order.
const JOB_WRITE_RETURNING_TASKS: &str = job_write!(
    "",
    "",
    "",
    "",
    " RETURNING id, position, index",
    "(SELECT era FROM job) AS era, ARRAY(SELECT id FROM tasks ORDER BY position, index) AS tasks, \
     CASE WHEN are_classes THEN ARRAY(SELECT class_id FROM given ORDER BY position) END AS task_classes"
);

/// Whether a statement began before the partitions of its era were made: rows go to the partition of all that has none, which
/// does not take them any more. The next statement sees them.
pub(super) fn missed_new_partitions(error: &StoreError) -> bool {
    let StoreError::Refused(sqlx::Error::Database(error)) = error else { return false };
    error.code().as_deref() == Some("23514") && error.table().is_some_and(|table| table.ends_with("_rest"))
}

pub(super) fn unwritable(error: serde_json::Error) -> StoreError {
    StoreError::Unreadable(format!("cannot write a specification as JSON: {error}"))
}

/// What the definitions of a job need, in their order, and the hash by which each class is found.
pub(in crate::store) struct Needs {
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
pub(super) struct Written {
    /// Whether all classes of its tasks exist; nothing is inserted else.
    are_classes: bool,
    /// If they do not: whether its idempotency key is in use.
    is_claimed: bool,
    /// Its number, if it was inserted.
    job: Option<i64>,
    /// The classes of its waiting tasks.
    pub classes: Vec<i64>,
    era: Option<i64>,
    /// If they were asked for.
    tasks: Option<Vec<i64>>,
    /// Of each definition.
    task_classes: Option<Vec<i64>>,
}

impl Written {
    /// The rows of a job that was inserted, as far as they were returned.
    pub fn rows<'a>(&'a self, new: &NewJob<'a>, now: Time) -> Option<NewRows<'a>> {
        Some(NewRows {
            job: JobId(self.job?),
            project: new.project,
            era: self.era?,
            spec: new.spec,
            tasks: self.tasks.as_deref()?,
            classes: self.task_classes.as_deref()?,
            now,
        })
    }
}

/// A job that is to be inserted, with all that belongs to it.
pub(super) struct JobWrite<'a> {
    pub new: &'a NewJob<'a>,
    /// Which of its tasks run, if not all of them.
    pub selection: Option<&'a Selection>,
    /// The workers that tasks of it are for.
    pub for_workers: &'a ForWorkers,
    /// If it has its number already.
    pub number: Option<i64>,
    /// The specification as JSON.
    pub stored: &'a str,
    /// Of the master that accepts it.
    pub term: i64,
    pub now: Time,
}

impl JobWrite<'_> {
    /// Inserts the job, and first the classes of its tasks if they are new. None if its idempotency key is in use.
    pub async fn with_classes(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Option<(JobId, Written)>, StoreError> {
        let needs = Needs::of(self.new.spec, JobId(self.number.unwrap_or_default()))?;
        let with_job = |written: Written| written.job.map(|job| (JobId(job), written));
        let for_workers = self.for_workers.tasks(self.new.spec, self.selection);
        // Those that bear the number of the job are always new. Results that are taken over have classes, too.
        let takes_over = self.selection.is_some() && !self.for_workers.is_empty();
        if self.number.is_none() && !takes_over {
            let written = self.write(connection, &needs, &for_workers).await?;
            // Of a job that there will not be, no class is made.
            if written.are_classes || written.is_claimed {
                return Ok(with_job(written));
            }
        }
        classes_ensure(connection, self.new, &needs, self.term).await?;
        if !self.for_workers.is_empty() {
            let wanted = self.for_workers.classes(&needs.hashes);
            let of = (self.new.project, self.new.spec.priority, self.new.created_by);
            classes_of_workers_ensure(connection, of, wanted, self.number, self.term).await?;
        }
        let written = self.write(connection, &needs, &for_workers).await?;
        match written.are_classes {
            true => Ok(with_job(written)),
            false => Err(StoreError::Unreadable("the classes of a new job are missing".to_owned())),
        }
    }

    /// The first line of its history.
    fn told(&self) -> String {
        let tasks = match self.for_workers.task_count(self.new.spec) {
            1 => "1 task".to_owned(),
            n => format!("{n} tasks"),
        };
        let workers = match (self.for_workers.is_empty(), &self.for_workers.left_out) {
            (true, _) => String::new(),
            (false, None) => ", on each worker".to_owned(),
            (false, Some(left_out)) => format!(", on each worker but these: {left_out}"),
        };
        let rerun = match (self.new.rerun_of, self.selection) {
            (None, _) => String::new(),
            (Some(of), None) => format!(", a rerun of job {of}"),
            (Some(of), Some(selection)) => {
                format!(", {} of them run: a rerun in part of job {of}", selection.runs())
            }
        };
        format!("{tasks}{workers}{rerun}")
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        needs: &Needs,
        for_workers: &TasksForWorkers,
    ) -> Result<Written, StoreError> {
        let JobWrite { new, selection, number, stored, term, now, .. } = *self;
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
                // These are written one by one.
                _ if self.for_workers.has(position) => ranges.add([].into_iter()),
                None => ranges.add([definition.indices.iter().into_inner()].into_iter()),
                Some(share) => ranges.add(share.runs.iter().cloned().map(RangeInclusive::into_inner)),
            }
            let (completes, skips) = share.map_or((0, 0), |share| (share.completed, share.skipped));
            let len = self.for_workers.len_of(position, definition);
            runs.push((len - completes - skips) as i32);
            completed.push(completes as i32);
            skipped.push(skips as i32);
        }
        let (key, request_sha256) = new.idempotency.as_ref().map(|(key, hash)| (*key, &hash[..])).unzip();
        let is_small = number.is_none() && selection.is_none() && spec.task_count() <= MAX_TASKS_RETURNED;
        let has_workers = !self.for_workers.is_empty();
        let sql = match (has_workers, is_small) {
            (true, _) => JOB_WRITE_FOR_WORKERS,
            (false, true) => JOB_WRITE_RETURNING_TASKS,
            (false, false) => JOB_WRITE,
        };
        let query = sqlx::query_as(sql)
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
            .bind(self.told())
            .bind(term)
            .bind(ranges.from)
            .bind(ranges.to)
            .bind(runs)
            .bind(completed)
            .bind(skipped)
            .bind(new.origin.source)
            .bind(new.origin.template.map(|template| template.name.as_str()))
            .bind(new.origin.template.map(|template| template.version as i32))
            .bind(new.asks.and_then(|asks| asks.credential))
            .bind(new.asks.and_then(|asks| asks.address))
            .bind(new.asks.map(|asks| asks.action));
        let query = match has_workers {
            true => query.bind(&for_workers.positions).bind(&for_workers.indices).bind(&for_workers.workers),
            false => query,
        };
        Ok(query.fetch_one(connection).await?)
    }
}

/// Makes the classes of tasks with these needs that do not exist yet.
pub(in crate::store) async fn classes_ensure(
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
