//! Unfinished jobs and their tasks as this master has read or written them last, so that most batches need no reading.
//!
//! A batch of which all is known is decided at once and written by one statement, which is a whole transaction. Under the locks that
//! reading would have taken, the statement compares what the batch was decided by with what is stored. If anything differs,
//! it writes nothing, and the batch is done again with what is read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::size_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gaffer_domain::conditions::Standing;
use gaffer_domain::job::JobState;
use gaffer_domain::spec::JobSpec;
use gaffer_domain::task::{Task, TaskState};
use gaffer_domain::{JobId, ProjectId, TaskId, Time};
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use super::super::kept::Kept;
use super::super::specs::SpecCache;
use super::super::unnest::unnest;
use super::super::{Store, StoreError};
use super::count_columns::{CountColumns, are_equal};
use super::load::workers_chosen;
use super::{Batch, DefinitionWork, JobWork, Outcome, StoredJob, TaskWork, Work, on_worker};

/// Jobs with their tasks are known up to this size; those that were written first are forgotten, and known again as they are read.
const MAX_BYTES: usize = 32 << 20;
/// Tasks of a job are known up to this size, so that a large job does not displace all others.
const MAX_BYTES_OF_JOB: usize = MAX_BYTES / 4;
/// A task with its entries in maps, without texts.
const BYTES_OF_TASK: usize = size_of::<TaskWork>() + 2 * size_of::<(TaskId, JobId)>() + 16;
/// Jobs with more definitions are read each time: all of these are compared.
const MAX_DEFINITIONS: usize = 64;

/// The rows that are known. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct KnownRows(Arc<Mutex<Rows>>);

#[derive(Debug)]
struct Rows {
    jobs: Kept<JobId, KnownJob>,
    /// The jobs of all tasks that are known.
    job_of: HashMap<TaskId, JobId>,
}

/// A job with those of its tasks that are known.
#[derive(Debug, Default)]
struct KnownJob {
    /// None while a batch has it.
    row: Option<KnownRow>,
    tasks: HashMap<TaskId, TaskWork>,
    /// Of its tasks.
    bytes: usize,
}

/// A job without its specification, which has another cache.
#[derive(Debug)]
struct KnownRow {
    project: ProjectId,
    era: i64,
    stored: StoredJob,
    definitions: Vec<Standing>,
}

/// A job that was just accepted as a whole, and its tasks in the order of their definitions and indices.
#[derive(Debug)]
pub struct NewRows<'a> {
    pub job: JobId,
    pub project: ProjectId,
    pub era: i64,
    pub spec: &'a JobSpec,
    /// The numbers of all its tasks.
    pub tasks: &'a [i64],
    /// The class of each definition.
    pub classes: &'a [i64],
    /// When it was accepted.
    pub now: Time,
}

impl KnownRows {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the rows of a batch, as if they had been read and locked; none if something is not known, or has to be looked for.
    /// They are known again once the batch is [remembered](Self::remember).
    fn take(&self, batch: &Batch, specs: &SpecCache) -> Option<Work> {
        let is_nothing = batch.inputs.is_empty() && batch.chunks.is_empty();
        if is_nothing || batch.passes_over_locked || batch.is_about_jobs() {
            return None;
        }
        let mut rows = self.rows();
        let tasks: BTreeSet<TaskId> = batch.inputs.iter().map(|input| input.task).collect();
        let jobs: BTreeSet<JobId> =
            tasks.iter().map(|task| rows.job_of.get(task).copied()).collect::<Option<_>>()?;
        if !jobs.iter().all(|job| rows.jobs.get(*job).is_some_and(|known| known.row.is_some())) {
            return None;
        }
        let specs = jobs.iter().map(|job| specs.get(*job)).collect::<Option<Vec<_>>>()?;
        let mut work = Work { slice_room: batch.slice_tasks, ..Work::default() };
        for (id, spec) in jobs.into_iter().zip(specs) {
            let row = rows.jobs.get_mut(id)?.row.take()?;
            let KnownRow { project, era, stored, definitions } = row;
            work.jobs.insert(id, JobWork::new(project, era, spec, stored, definitions));
        }
        work.tasks.extend(tasks.into_iter().filter_map(|task| Some((task, rows.forget_task(task)?))));
        work.open_workers.extend(workers_chosen(batch));
        Some(work)
    }

    /// What a batch has read and written, after its commit.
    pub(super) fn remember(&self, work: &Work) {
        let mut rows = self.rows();
        let mut tasks: BTreeMap<JobId, Vec<(TaskId, TaskWork)>> = BTreeMap::new();
        for (id, task) in &work.tasks {
            rows.forget_task(*id);
            let is_known = work.jobs.get(&task.job).is_some_and(JobWork::is_worth_knowing);
            if is_known && !task.task.state.name().is_final() {
                tasks.entry(task.job).or_default().push((*id, task.after()));
            }
        }
        for (id, job) in &work.jobs {
            match job.is_worth_knowing() {
                true => rows.put(*id, KnownRow::after(job), tasks.remove(id).unwrap_or_default()),
                false => rows.forget_job(*id),
            }
        }
    }

    /// Forgets everything, because the outcome of a batch is unknown.
    pub(super) fn forget(&self) {
        let mut rows = self.rows();
        rows.jobs.clear();
        rows.job_of.clear();
    }

    /// A job was accepted. What a batch has read of it since is newer.
    pub(in crate::store) fn add(&self, new: NewRows<'_>) {
        let NewRows { job, project, era, spec, tasks, classes, now } = new;
        if tasks.len() != spec.task_count() as usize || spec.tasks.len() > MAX_DEFINITIONS {
            return;
        }
        let mut rows = self.rows();
        if rows.jobs.get(job).is_some() {
            return;
        }
        let mut numbers = tasks.iter();
        let mut added = Vec::with_capacity(tasks.len());
        let mut definitions = Vec::with_capacity(spec.tasks.len());
        for ((position, definition), class) in spec.tasks.iter().enumerate().zip(classes) {
            let task = Task::new(definition.waits_for_others(), now);
            let mut standing = Standing::default();
            for (index, number) in definition.indices.iter().zip(&mut numbers) {
                standing.counts.add(task.state.name(), 1);
                let work = TaskWork::stored(job, (position, index), *class, task.clone(), now);
                added.push((TaskId(*number), work));
            }
            definitions.push(standing);
        }
        let stored = StoredJob {
            state: JobState::Pending,
            started_at: None,
            stop_message: None,
            force: false,
            reason: None,
        };
        rows.put(job, KnownRow { project, era, stored, definitions }, added);
    }
}

impl Default for Rows {
    fn default() -> Rows {
        Rows { jobs: Kept::new(MAX_BYTES), job_of: HashMap::new() }
    }
}

impl Rows {
    /// Keeps a job as the newest, with these tasks beside those that are known.
    fn put(&mut self, id: JobId, row: KnownRow, tasks: Vec<(TaskId, TaskWork)>) {
        let mut job = self.jobs.remove(id).unwrap_or_default();
        let added: usize = tasks.iter().map(|(_, task)| task.bytes()).sum();
        if job.bytes + added > MAX_BYTES_OF_JOB {
            self.forget_tasks(&job);
            job = KnownJob::default();
        }
        let bytes = row.bytes();
        job.row = Some(row);
        job.bytes += added;
        self.job_of.extend(tasks.iter().map(|(task, _)| (*task, id)));
        job.tasks.extend(tasks);
        let bytes = bytes + job.bytes;
        for evicted in self.jobs.put(id, job, bytes) {
            self.forget_tasks(&evicted);
        }
    }

    fn forget_job(&mut self, id: JobId) {
        if let Some(job) = self.jobs.remove(id) {
            self.forget_tasks(&job);
        }
    }

    fn forget_tasks(&mut self, job: &KnownJob) {
        for task in job.tasks.keys() {
            self.job_of.remove(task);
        }
    }

    fn forget_task(&mut self, id: TaskId) -> Option<TaskWork> {
        let job = self.job_of.remove(&id)?;
        let job = self.jobs.get_mut(job)?;
        let task = job.tasks.remove(&id)?;
        job.bytes -= task.bytes();
        Some(task)
    }
}

impl KnownRow {
    /// As a batch has left it.
    fn after(job: &JobWork) -> KnownRow {
        KnownRow {
            project: job.project,
            era: job.era,
            stored: job.row.clone(),
            definitions: (0..job.definitions.len()).map(|position| job.standing(position)).collect(),
        }
    }

    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        let reason = self.stored.reason.as_ref().map_or(0, |reason| reason.message.len());
        let stop = self.stored.stop_message.as_ref().map_or(0, String::len);
        let definitions = self.definitions.len() * size_of::<Standing>();
        size_of::<KnownJob>() + definitions + stop + reason
    }
}

impl JobWork {
    fn is_worth_knowing(&self) -> bool {
        // Of services that were scaled or updated, tasks come and go, and are of several versions.
        let is_as_specified = || self.definitions.iter().all(|definition| definition.scale.count.is_none());
        !self.row.state.is_final()
            && self.definitions.len() <= MAX_DEFINITIONS
            && self.spec.problem().is_none()
            && is_as_specified()
    }
}

impl TaskWork {
    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        let text = match &self.task.state {
            TaskState::Pending { after: Some(reason), .. } => reason.message.len(),
            TaskState::Stopping { cause, .. } => cause.message.len(),
            _ => 0,
        };
        BYTES_OF_TASK + text
    }

    /// As a batch has left it.
    fn after(&self) -> TaskWork {
        let place = (self.position, self.index);
        TaskWork::stored(self.job, place, self.class, self.task.clone(), self.since)
    }

    fn stored(job: JobId, (position, index): (usize, u32), class: i64, task: Task, since: Time) -> TaskWork {
        TaskWork {
            job,
            position,
            index,
            class,
            stored_class: class,
            version: 1,
            stored_attempt: task.attempt,
            stored_state: task.state.name(),
            stored_on: on_worker(&task.state),
            task,
            since,
            dirty: false,
        }
    }
}

impl Store {
    /// Applies a batch of which all is known. None if something was not, or is not so: then nothing has changed.
    pub(super) async fn apply_known(&self, batch: &Batch, now: Time) -> Result<Option<Outcome>, StoreError> {
        let Some(mut work) = self.known.take(batch, &self.specs) else { return Ok(None) };
        let expected = Expected::by(&work, self.leadership.term());
        let mut outcome = Outcome::default();
        for input in &batch.inputs {
            if work.apply(input, now).is_err() {
                return Ok(None);
            }
            outcome.results.push(Ok(()));
        }
        // What follows for other tasks is to be read.
        if !work.decided().is_empty() {
            return Ok(None);
        }
        work.settle_jobs(now);
        let mut connection = self.pool.acquire().await?;
        match work.write_if(&mut connection, expected, &batch.chunks, now).await {
            Ok(true) => {}
            Ok(false) | Err(StoreError::Unreadable(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        self.known.remember(&work);
        Ok(Some(work.conclude(batch, outcome)))
    }
}

/// What a batch was decided by, to be compared with what is stored.
pub(super) struct Expected {
    term: i64,
    jobs: Vec<i64>,
    states: Vec<&'static str>,
    started: Vec<bool>,
    stops: Vec<Option<String>>,
    force: Vec<bool>,
    codes: Vec<Option<&'static str>>,
    versions: Vec<i32>,
    counts: CountColumns,
    workers: Vec<i64>,
}

/// A condition of each step of a statement that compares first.
pub(super) const IF_KNOWN: &str = " AND (SELECT is_so FROM known)";

/// The steps that compare.
pub(super) fn comparison(next: &mut usize) -> Vec<String> {
    let term = *next;
    *next += 1;
    let columns = [
        ("id", "bigint"),
        ("state", "text"),
        ("is_started", "boolean"),
        ("stop_message", "text"),
        ("stops_everything", "boolean"),
        ("reason_code", "text"),
        ("version", "integer"),
    ];
    let jobs = format!(
        "jobs_as_known AS MATERIALIZED (SELECT j.id FROM {} JOIN jobs j ON j.id = u.id \
             AND j.state = u.state::job_state AND (j.started_at IS NOT NULL) = u.is_started \
             AND j.stop_message IS NOT DISTINCT FROM u.stop_message AND j.stops_everything = u.stops_everything \
             AND j.reason_code IS NOT DISTINCT FROM u.reason_code AND j.version = u.version ORDER BY j.id FOR UPDATE OF j SKIP LOCKED)",
        unnest(&columns, next)
    );
    let definitions = format!(
        "definitions_as_known AS MATERIALIZED (SELECT d.job_id FROM {} \
             JOIN task_definitions d ON d.job_id = u.job_id AND d.position = u.position AND d.count IS NULL \
             AND {} ORDER BY d.job_id, d.position FOR UPDATE OF d SKIP LOCKED)",
        CountColumns::unnest(next),
        are_equal()
    );
    let workers = *next;
    *next += 1;
    vec![
        format!("led AS MATERIALIZED (SELECT leader_check(${term}) AS leads)"),
        jobs,
        definitions,
        format!(
            "workers_as_known AS MATERIALIZED (SELECT id FROM workers WHERE id = ANY(${workers}::bigint[]) \
                 AND intake = 'open' AND removed_at IS NULL ORDER BY id FOR SHARE SKIP LOCKED)"
        ),
        format!(
            "known AS MATERIALIZED (SELECT (SELECT count(*) FROM jobs_as_known) = {jobs} \
                 AND (SELECT count(*) FROM definitions_as_known) = {definitions} \
                 AND (SELECT count(*) FROM workers_as_known) = cardinality(${workers}) AS is_so FROM led)",
            jobs = format_args!("cardinality(${})", term + 1),
            definitions = format_args!("cardinality(${})", term + 8),
        ),
    ]
}

/// The answer of a statement that compares first. It fails if it has written some of the tasks, but not all.
pub(super) fn answer_of(written: &str, next: &mut usize) -> String {
    let wanted = *next;
    *next += 1;
    format!("SELECT is_so AS is_known, all_written_check(NOT is_so OR {written} = ${wanted}) FROM known")
}

impl Expected {
    fn by(work: &Work, term: i64) -> Expected {
        let jobs = || work.jobs.values();
        let mut expected = Expected {
            term,
            jobs: work.jobs.keys().map(|job| job.0).collect(),
            states: jobs().map(|job| job.stored.state.as_str()).collect(),
            started: jobs().map(|job| job.stored.started_at.is_some()).collect(),
            stops: jobs().map(|job| job.stored.stop_message.clone()).collect(),
            force: jobs().map(|job| job.stored.force).collect(),
            codes: jobs().map(|job| job.stored.reason.as_ref().map(|reason| reason.code.as_str())).collect(),
            versions: jobs().map(|job| job.spec.version() as i32).collect(),
            counts: CountColumns::default(),
            workers: work.open_workers.iter().map(|worker| worker.0).collect(),
        };
        for (id, job) in &work.jobs {
            for (position, definition) in job.definitions.iter().enumerate() {
                expected.counts.push(*id, position, &definition.stored);
            }
        }
        expected
    }

    /// Binds what [`comparison`] asks for.
    pub(super) fn bind(self, query: Query<'_, Postgres, PgArguments>) -> Query<'_, Postgres, PgArguments> {
        let query = query
            .bind(self.term)
            .bind(self.jobs)
            .bind(self.states)
            .bind(self.started)
            .bind(self.stops)
            .bind(self.force)
            .bind(self.codes)
            .bind(self.versions);
        self.counts.bind(query).bind(self.workers)
    }
}

impl JobWork {
    /// As it is stored.
    pub(super) fn new(
        project: ProjectId,
        era: i64,
        spec: super::StoredSpec,
        stored: StoredJob,
        definitions: Vec<Standing>,
    ) -> JobWork {
        let unchanged = |stored| DefinitionWork { stored, version: 1, ..DefinitionWork::default() };
        JobWork {
            project,
            era,
            spec,
            row: stored.clone(),
            stored,
            finished_at: None,
            definitions: definitions.into_iter().map(unchanged).collect(),
            dirty: false,
        }
    }
}

#[cfg(test)]
mod tests;
