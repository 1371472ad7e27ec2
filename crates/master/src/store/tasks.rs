//! Reads tasks and attempts, for the API, reconciliation and the sweeper. `transitions` changes them.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::Utc;
use gaffer_domain::placement::DefinitionRef;
use gaffer_domain::quantity::Span;
use gaffer_domain::spec::Item;
use gaffer_domain::task::StateName;
use gaffer_domain::worker::{CLOCK_DRIFT, Expected, ExpectedState, LOST_MARGIN};
use gaffer_domain::{AttemptRef, JobId, ProjectId, TaskId, Time, WorkerId, task_address};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use super::forms::{known, reason_from, understood};
use super::specs::StoredSpec;
use super::transitions::StartOrder;
use super::workers::takes_tasks_of;
use super::{ReadStore, Store, StoreError};
use crate::records::{Attempt, ResultOf, Task};

/// Tasks that take long to start are looked for among so many notes of their job.
const LATEST_NOTES: i64 = 200;

const TASKS: &str = "SELECT t.id, t.job_id, t.position, t.class_id, d.name, t.index, d.single, d.driver, t.state::text AS state, \
         t.reason_code, t.reason_message, t.exit_code, t.signal, t.attempt, w.name AS worker_name, t.worker_id, \
         t.output_complete, t.not_before, j.created_at, t.started_at, t.finished_at, t.attempt_finished_at, t.ran_micros, \
         t.result_job, t.result_task, t.result_attempt, t.output_bytes, r.single AS result_single";

/// What belongs to each of them.
const OF_TASKS: &str = "JOIN jobs j ON j.id = t.job_id \
     JOIN task_definitions d ON d.job_id = t.job_id AND d.position = t.position \
     LEFT JOIN workers w ON w.id = t.worker_id \
     LEFT JOIN task_definitions r ON r.job_id = t.result_job AND r.name = d.name";

/// The same, looked up for one task after the other.
const OF_EACH_TASK: &str = "CROSS JOIN LATERAL (SELECT created_at FROM jobs WHERE id = t.job_id OFFSET 0) j \
     CROSS JOIN LATERAL (SELECT name, single, driver FROM task_definitions WHERE job_id = t.job_id \
         AND position = t.position OFFSET 0) d \
     LEFT JOIN LATERAL (SELECT name FROM workers WHERE id = t.worker_id OFFSET 0) w ON true \
     LEFT JOIN LATERAL (SELECT single FROM task_definitions WHERE job_id = t.result_job AND name = d.name OFFSET 0) r ON true";

impl FromRow<'_, PgRow> for Task {
    fn from_row(row: &PgRow) -> sqlx::Result<Task> {
        let (definition, index): (String, i32) = (row.try_get("name")?, row.try_get("index")?);
        let state = known("task state", row.try_get("state")?)?;
        let reason_code: Option<String> = row.try_get("reason_code")?;
        let started_at = row.try_get("started_at")?;
        // When a task came to its back-off, "not before" lies ahead; else it is only when it became pending.
        let repeats = state == StateName::Pending && reason_code.is_some();
        Ok(Task {
            id: TaskId(row.try_get("id")?),
            job: JobId(row.try_get("job_id")?),
            position: row.try_get("position")?,
            address: task_address(&definition, index as u32, row.try_get("single")?),
            result_of: result_of(row, &definition, index as u32)?,
            item: None,
            class: row.try_get("class_id")?,
            definition,
            index: index as u32,
            driver: row.try_get("driver")?,
            state,
            reason: reason_from(reason_code, row.try_get("reason_message")?),
            waits_for: None,
            exit_code: row.try_get("exit_code")?,
            signal: row.try_get("signal")?,
            attempt: row.try_get::<i32, _>("attempt")? as u32,
            worker: row.try_get("worker_name")?,
            worker_id: row.try_get::<Option<i64>, _>("worker_id")?.map(WorkerId),
            output_bytes: row.try_get::<Option<i64>, _>("output_bytes")?.map(i64::unsigned_abs),
            output_complete: row.try_get("output_complete")?,
            not_before: row.try_get::<Option<Time>, _>("not_before")?.filter(|_| repeats),
            created_at: row.try_get("created_at")?,
            started_at,
            finished_at: row.try_get("finished_at")?,
            ran_seconds: ran(
                row.try_get("ran_micros")?,
                started_at,
                row.try_get("attempt_finished_at")?,
                Utc::now(),
            ),
            health: None,
        })
    }
}

impl FromRow<'_, PgRow> for Attempt {
    fn from_row(row: &PgRow) -> sqlx::Result<Attempt> {
        let worker_id = WorkerId(row.try_get("worker_id")?);
        let worker: Option<String> = row.try_get("worker_name")?;
        let (started_at, finished_at) = (row.try_get("started_at")?, row.try_get("finished_at")?);
        Ok(Attempt {
            attempt: row.try_get::<i32, _>("attempt")? as u32,
            worker: worker.unwrap_or_else(|| format!("worker {}", worker_id.0)),
            worker_id,
            scheduled_at: row.try_get("scheduled_at")?,
            started_at,
            finished_at,
            ran_seconds: ran(row.try_get("ran_micros")?, started_at, finished_at, Utc::now()),
            reason: reason_from(row.try_get("reason_code")?, row.try_get("reason_message")?),
            exit_code: row.try_get("exit_code")?,
            signal: row.try_get("signal")?,
            output_bytes: row.try_get::<i64, _>("stored_bytes")? as u64,
            output_lines: row.try_get::<i64, _>("stored_lines")? as u64,
            output_sha256: row.try_get("output_sha256")?,
            output_complete: row.try_get("output_complete")?,
            placement: understood("receipt", row.try_get("placement")?),
            killed: understood("account of an end", row.try_get("killed")?),
            container: understood("container", row.try_get("container")?),
            ports: understood("ports", row.try_get("ports")?).unwrap_or_default(),
            version: row.try_get::<i32, _>("version")? as u32,
        })
    }
}

/// Where the result of a task comes from; none if it is its own. Its definition has the same name there, and once that job is
/// deleted, it counts as one of as many tasks as here.
fn result_of(row: &PgRow, definition: &str, index: u32) -> sqlx::Result<Option<ResultOf>> {
    let job: Option<i64> = row.try_get("result_job")?;
    let task: Option<i64> = row.try_get("result_task")?;
    let attempt: Option<i32> = row.try_get("result_attempt")?;
    let single_there: Option<bool> = row.try_get("result_single")?;
    let single_here: bool = row.try_get("single")?;
    Ok(job.zip(task).zip(attempt).map(|((job, task), attempt)| ResultOf {
        job: JobId(job),
        task: TaskId(task),
        address: task_address(definition, index, single_there.unwrap_or(single_here)),
        attempt: attempt as u32,
        is_deleted: single_there.is_none(),
    }))
}

/// How users address the task of a row with its name, index and whether it is single; none where these are null.
pub(super) fn address_in(row: &PgRow) -> sqlx::Result<Option<String>> {
    let name: Option<String> = row.try_get("task_name")?;
    let index: Option<i32> = row.try_get("task_index")?;
    let single: Option<bool> = row.try_get("task_single")?;
    Ok(name.zip(index).zip(single).map(|((name, index), single)| task_address(&name, index as u32, single)))
}

/// How long something ran, or has been running: as its worker measured it, else between two times of the master's clock.
pub(super) fn ran(
    micros: Option<i64>,
    started: Option<Time>,
    finished: Option<Time>,
    now: Time,
) -> Option<f64> {
    let by_times = || Some((finished.unwrap_or(now) - started?).num_milliseconds().max(0) as f64 / 1e3);
    micros.map(|micros| micros as f64 / 1e6).or_else(by_times)
}

/// Which tasks of a job to list.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Only those in this state.
    pub state: Option<StateName>,
    /// Only those after this one, by definition position and index.
    pub after: Option<(i16, i32)>,
}

/// A live attempt on a worker that has been away for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overdue {
    pub attempt: AttemptRef,
    pub worker: WorkerId,
    /// How long it may be out of contact.
    pub lost_after: Span,
}

/// A task that takes long to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starting {
    pub address: String,
    /// Name of its worker.
    pub worker: String,
    /// The worker's last message.
    pub note: String,
}

/// Tasks of one definition that are placed on a worker and have not started.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// The definition's place in its job.
    pub position: usize,
    /// Name of the worker.
    pub worker: String,
    pub count: i64,
    /// Since when the first of them is placed there.
    pub since: Time,
    /// When the worker was last heard of; none while it is connected.
    pub offline_since: Option<Time>,
    /// Since when it is connected without a break; none while it is not.
    pub online_since: Option<Time>,
}

/// Position of the definition, worker, number of tasks, since when, and the worker's `offline_since` and `online_since`.
type PlacedRow = (i16, String, i64, Time, Option<Time>, Option<Time>);

impl ReadStore {
    /// Placed tasks that have not started, by definition and worker, up to a number. With `silent_only`, without
    /// those for which the worker has reported progress. Costs one lookup per worker that the project may use, however large
    /// the job is.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tasks_placed(
        &self,
        job: JobId,
        silent_only: bool,
        limit: u32,
    ) -> Result<Vec<Placed>, StoreError> {
        let rows: Vec<PlacedRow> = sqlx::query_as(
            concat!(
            "SELECT t.position, w.name, count(*), min(t.since), w.offline_since, w.online_since \
             FROM (SELECT DISTINCT d.class_id, j.project_id FROM task_definitions d JOIN jobs j ON j.id = d.job_id \
                 WHERE d.job_id = $1 AND d.scheduled > 0) c \
             JOIN workers w ON ",
            takes_tasks_of!("c.project_id"),
            " AND w.removed_at IS NULL, \
             LATERAL (SELECT * FROM live_tasks WHERE worker_id = w.id AND class_id = ANY(ARRAY( \
                     SELECT c.class_id UNION ALL SELECT id FROM classes WHERE base_id = c.class_id AND worker_id = w.id)) \
                 AND state = 'scheduled' AND job_id = $1 OFFSET 0) t \
             WHERE NOT ($2 AND EXISTS (SELECT 1 FROM events \
                 WHERE task_id = t.id AND attempt = t.attempt AND kind = 'task.noted' AND era = era_of_task(t.id))) \
             GROUP BY t.position, w.id ORDER BY t.position, w.id LIMIT $3",
            ),
        )
        .bind(job.0)
        .bind(silent_only)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        let placed = |(position, worker, count, since, offline_since, online_since): PlacedRow| Placed {
            position: position as usize,
            worker,
            count,
            since,
            offline_since,
            online_since,
        };
        Ok(rows.into_iter().map(placed).collect())
    }

    /// Tasks of a job, in the order of their definitions and indices.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn task_list(
        &self,
        job: JobId,
        filter: &TaskFilter,
        limit: u32,
    ) -> Result<Vec<Task>, StoreError> {
        let Some(era) = self.era_of_job(job).await? else { return Ok(Vec::new()) };
        let (position, index) = filter.after.unwrap_or((-1, -1));
        // Spelled out: so Postgres knows that those that are over are not among the live ones, and uses the index of failures.
        let narrowed = filter.state.map(|state| format!("AND t.state = '{state}'")).unwrap_or_default();
        // These tasks are chosen before anything else is looked up for them: else all of the job are, to be sorted.
        let sql = format!(
            "{TASKS} FROM (SELECT * FROM tasks t WHERE t.job_id = $1 AND (t.position, t.index) > ($2, $3) {narrowed} \
                 AND t.era = $5 ORDER BY t.position, t.index LIMIT $4) t {OF_EACH_TASK} ORDER BY t.position, t.index"
        );
        let tasks: Vec<Task> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(job.0)
            .bind(position)
            .bind(index)
            .bind(i64::from(limit))
            .bind(era)
            .fetch_all(&self.pool)
            .await?;
        self.with_items(job, tasks).await
    }

    /// Placed tasks that have not started and for which the worker has reported progress, latest first. Searches the
    /// latest events, so the cost is independent of the job's size.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tasks_starting(&self, job: JobId, limit: u32) -> Result<Vec<Starting>, StoreError> {
        let Some(era) = self.era_of_job(job).await? else { return Ok(Vec::new()) };
        let rows: Vec<(String, i32, bool, String, String)> = sqlx::query_as(
            "SELECT d.name, t.index, d.single, w.name, n.message \
             FROM (SELECT DISTINCT ON (task_id) task_id, attempt, message FROM ( \
                     SELECT task_id, attempt, message, id FROM events WHERE job_id = $1 AND kind = 'task.noted' \
                         AND era = $4 ORDER BY id DESC LIMIT $3) latest \
                 ORDER BY task_id, id DESC) n, \
             LATERAL (SELECT * FROM live_tasks l WHERE l.id = n.task_id AND l.attempt = n.attempt \
                 AND state = 'scheduled' OFFSET 0) t \
             JOIN task_definitions d ON d.job_id = t.job_id AND d.position = t.position \
             JOIN workers w ON w.id = t.worker_id \
             ORDER BY t.position, t.index LIMIT $2",
        )
        .bind(job.0)
        .bind(i64::from(limit))
        .bind(LATEST_NOTES)
        .bind(era)
        .fetch_all(&self.pool)
        .await?;
        let starting = |(name, index, single, worker, note): (String, i32, bool, String, String)| Starting {
            address: task_address(&name, index as u32, single),
            worker,
            note,
        };
        Ok(rows.into_iter().map(starting).collect())
    }

    /// One task of a job, by name and index.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn task_get(&self, job: JobId, name: &str, index: u32) -> Result<Option<Task>, StoreError> {
        let Ok(index) = i32::try_from(index) else { return Ok(None) };
        let Some(era) = self.era_of_job(job).await? else { return Ok(None) };
        let sql = format!(
            "{TASKS} FROM tasks t {OF_TASKS} WHERE t.job_id = $1 AND d.name = $2 AND t.index = $3 AND t.era = $4"
        );
        let task: Option<Task> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(job.0)
            .bind(name)
            .bind(index)
            .bind(era)
            .fetch_optional(&self.pool)
            .await?;
        Ok(self.with_items(job, task.into_iter().collect()).await?.pop())
    }

    /// Adds the items of tasks of a job, which are in its specification, or the workers that they are for.
    async fn with_items(&self, job: JobId, mut tasks: Vec<Task>) -> Result<Vec<Task>, StoreError> {
        if tasks.is_empty() {
            return Ok(tasks);
        }
        let Some(spec) = self.spec(job).await? else { return Ok(tasks) };
        let of = |task: &Task| spec.tasks.get(task.position as usize);
        let is_for_worker = |task: &&Task| of(task).is_some_and(|task| task.is_for_each_worker());
        let classes: Vec<i64> = tasks.iter().filter(is_for_worker).map(|task| task.class).collect();
        let workers = match classes.is_empty() {
            true => BTreeMap::new(),
            false => self.workers_of_classes(&classes).await?,
        };
        for task in &mut tasks {
            let worker = || workers.get(&task.class).cloned().map(Item::One);
            task.item = of(task).and_then(|definition| definition.item(task.index)).or_else(worker);
        }
        Ok(tasks)
    }

    /// One task by its internal number.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn task_by_id(&self, task: TaskId) -> Result<Option<Task>, StoreError> {
        let sql = format!("{TASKS} FROM tasks t {OF_TASKS} WHERE t.id = $1 AND t.era = era_of_task($1)");
        let found: Option<Task> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(task.0).fetch_optional(&self.pool).await?;
        let Some(found) = found else { return Ok(None) };
        Ok(self.with_items(found.job, vec![found]).await?.pop())
    }

    /// The numbers of the latest attempts of a task, latest first. Numbers may be left out.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn attempt_numbers(&self, task: TaskId, limit: u32) -> Result<Vec<u32>, StoreError> {
        let numbers: Vec<i32> = sqlx::query_scalar(
            "SELECT attempt FROM attempts WHERE task_id = $1 AND era = era_of_task($1) \
             ORDER BY attempt DESC LIMIT $2",
        )
        .bind(task.0)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        Ok(numbers.into_iter().map(|number| number as u32).collect())
    }

    /// The first attempt of a task with this number or a higher one; none if there is none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn attempt_from(&self, task: TaskId, number: u32) -> Result<Option<u32>, StoreError> {
        let found: Option<i32> = sqlx::query_scalar(
            "SELECT attempt FROM attempts WHERE task_id = $1 AND era = era_of_task($1) AND attempt >= $2 \
             ORDER BY attempt LIMIT 1",
        )
        .bind(task.0)
        .bind(i32::try_from(number).unwrap_or(i32::MAX))
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.map(|number| number as u32))
    }

    /// The attempts of a task, latest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn attempt_list(&self, task: TaskId) -> Result<Vec<Attempt>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT a.attempt, a.worker_id, w.name AS worker_name, a.scheduled_at, a.started_at, a.finished_at, \
                 a.ran_micros, a.reason_code, a.reason_message, a.exit_code, a.signal, \
                 COALESCE(a.output_bytes, o.bytes, 0) AS stored_bytes, \
                 COALESCE(a.output_lines, o.lines, 0) AS stored_lines, a.output_sha256, \
                 a.output_complete AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.task_id = a.task_id \
                     AND d.attempt = a.attempt AND d.kind = 'output') AS output_complete, \
                 a.placement, a.killed, a.container, a.ports, a.version \
             FROM attempts a LEFT JOIN workers w ON w.id = a.worker_id \
             LEFT JOIN LATERAL (SELECT bytes, lines FROM ( \
                 (SELECT start_offset + payload_bytes AS bytes, lines_before + lines AS lines FROM output_chunks \
                     WHERE task_id = a.task_id AND attempt = a.attempt ORDER BY start_offset DESC LIMIT 1) \
                 UNION ALL (SELECT start_offset + payload_bytes, lines_before + lines FROM output_objects \
                     WHERE task_id = a.task_id AND attempt = a.attempt ORDER BY start_offset DESC LIMIT 1)) parts \
                 ORDER BY bytes DESC LIMIT 1) o ON true \
             WHERE a.task_id = $1 AND a.era = era_of_task($1) ORDER BY a.attempt DESC",
        )
        .bind(task.0)
        .fetch_all(&self.pool)
        .await?)
    }
}

impl Store {
    /// The job, the position and the version of the definition of an attempt that is live on this worker, and whether it is being
    /// stopped; none if it is not.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn attempt_of_worker(
        &self,
        worker: WorkerId,
        attempt: AttemptRef,
    ) -> Result<Option<(DefinitionRef, u32, bool)>, StoreError> {
        let found: Option<(i64, i16, i32, bool)> = sqlx::query_as(
            "SELECT job_id, position, coalesce(version, 1), state = 'stopping' FROM live_tasks WHERE id = $1 AND attempt = $2 AND worker_id = $3 \
                 AND state IN ('scheduled', 'running', 'stopping')",
        )
        .bind(attempt.task.0)
        .bind(attempt.attempt as i32)
        .bind(worker.0)
        .fetch_optional(&self.pool)
        .await?;
        let definition = |job, position| DefinitionRef { job: JobId(job), position: position as u16 };
        Ok(found.map(|(job, position, version, is_stopping)| {
            (definition(job, position), version as u32, is_stopping)
        }))
    }

    /// The live attempts of workers, for reconciling.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tasks_expected(
        &self,
        workers: &[WorkerId],
    ) -> Result<HashMap<WorkerId, Vec<Expected>>, StoreError> {
        let ids: Vec<i64> = workers.iter().map(|worker| worker.0).collect();
        let rows: Vec<(i64, i64, i32, String, Time, bool)> = sqlx::query_as(
            "SELECT worker_id, id, attempt, state::text, since, is_of_backup(id, scheduled_at) FROM live_tasks \
             WHERE worker_id = ANY($1) AND state IN ('scheduled', 'running', 'stopping') ORDER BY id",
        )
        .bind(ids)
        .fetch_all(&self.pool)
        .await?;
        let mut expected: HashMap<WorkerId, Vec<Expected>> = HashMap::new();
        for (worker, task, attempt, state, since, is_of_backup) in rows {
            expected.entry(WorkerId(worker)).or_default().push(Expected {
                attempt: AttemptRef { task: TaskId(task), attempt: attempt as u32 },
                state: match known("task state", &state)? {
                    StateName::Scheduled => ExpectedState::Scheduled,
                    StateName::Running => ExpectedState::Running,
                    _ => ExpectedState::Stopping,
                },
                since,
                is_of_backup,
            });
        }
        Ok(expected)
    }

    /// What is needed to resend starts of these attempts; attempts that are no longer scheduled are omitted.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tasks_start_again(&self, attempts: &[AttemptRef]) -> Result<Vec<StartOrder>, StoreError> {
        let ids: Vec<i64> = attempts.iter().map(|attempt| attempt.task.0).collect();
        let rows: Vec<(i64, i32, i64, i16, i32, i32)> = sqlx::query_as(
            "SELECT id, attempt, job_id, position, index, coalesce(version, 1) FROM live_tasks \
             WHERE id = ANY($1) AND state = 'scheduled'",
        )
        .bind(ids)
        .fetch_all(&self.pool)
        .await?;
        let wanted: HashSet<&AttemptRef> = attempts.iter().collect();
        let mut starts = Vec::with_capacity(rows.len());
        for (id, attempt, job, position, index, version) in rows {
            let attempt = AttemptRef { task: TaskId(id), attempt: attempt as u32 };
            let found = self.spec_of_attempt((JobId(job), version as u32)).await?;
            let Some(spec) = found.filter(|spec| spec.problem().is_none()) else { continue };
            if wanted.contains(&attempt) {
                let definition = DefinitionRef { job: JobId(job), position: position as u16 };
                let definition = definition.of_version(version as u32);
                let (index, spec) = (index as u32, spec.shared());
                starts.push(StartOrder { attempt, definition, index, spec });
            }
        }
        Ok(starts)
    }

    /// Live attempts on workers that have been away for longer than their job allows, by the database's clock; and
    /// in how many seconds the next ones will be, if any.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tasks_out_of_contact(&self, limit: u32) -> Result<(Vec<Overdue>, Option<f64>), StoreError> {
        let rows: Vec<(i64, i32, i64, i64, f64)> = sqlx::query_as(
            "SELECT t.id, t.attempt, t.worker_id, j.lost_after_millis::bigint, extract(epoch FROM w.offline_since - now())::float8 \
                 + (j.lost_after_millis * $3::float8 + $1) / 1000.0::float8 AS due_in \
             FROM workers w JOIN live_tasks t ON t.worker_id = w.id AND t.state IN ('scheduled', 'running', 'stopping') \
             JOIN jobs j ON j.id = t.job_id \
             WHERE w.offline_since IS NOT NULL ORDER BY due_in LIMIT $2",
        )
        .bind(LOST_MARGIN.as_millis() as f64)
        .bind(i64::from(limit))
        .bind(1.0 + CLOCK_DRIFT)
        .fetch_all(&self.pool)
        .await?;
        let next = rows.iter().map(|(_, _, _, _, due)| *due).find(|due| *due > 0.0);
        let due = rows
            .into_iter()
            .filter(|(_, _, _, _, due)| *due <= 0.0)
            .map(|(task, attempt, worker, lost_after, _)| Overdue {
                attempt: AttemptRef { task: TaskId(task), attempt: attempt as u32 },
                worker: WorkerId(worker),
                lost_after: Span::from_millis(lost_after.unsigned_abs()),
            })
            .collect();
        Ok((due, next))
    }

    /// Attempts placed before `placed_before`, or on workers that accept no new tasks, that have not started, oldest
    /// first; and whether any other is queued.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tasks_unstarted(
        &self,
        placed_before: Time,
        limit: u32,
    ) -> Result<(Vec<(AttemptRef, WorkerId)>, bool), StoreError> {
        let rows: Vec<(i64, i32, i64, bool)> = sqlx::query_as(
            "SELECT t.id, t.attempt, t.worker_id, t.since < $1 OR w.intake <> 'open' \
             FROM live_tasks t JOIN workers w ON w.id = t.worker_id WHERE t.state = 'scheduled' ORDER BY t.since LIMIT $2",
        )
        .bind(placed_before)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        let any = !rows.is_empty();
        let overdue =
            rows.into_iter().filter(|(_, _, _, overdue)| *overdue).map(|(task, attempt, worker, _)| {
                (AttemptRef { task: TaskId(task), attempt: attempt as u32 }, WorkerId(worker))
            });
        Ok((overdue.collect(), any))
    }
}

impl ReadStore {
    /// The specification with which an attempt of this version was placed. It is kept for as long as something may be placed with it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn spec_of_attempt(
        &self,
        (job, version): (JobId, u32),
    ) -> Result<Option<StoredSpec>, StoreError> {
        match self.spec(job).await? {
            // Others have no versions, or are replaced by a stand-in.
            Some(present) if present.problem().is_none() && present.version().max(version) > 1 => {
                self.spec_of_version(job, version).await
            }
            present => Ok(present),
        }
    }

    /// Whether a job is this project's.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_is_of(&self, project: ProjectId, job: JobId) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM jobs WHERE id = $1 AND project_id + 0 = $2)")
            .bind(job.0)
            .bind(project.0)
            .fetch_one(&self.pool)
            .await?)
    }
}
