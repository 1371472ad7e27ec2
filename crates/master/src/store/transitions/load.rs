//! Reads and locks the rows of a batch.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;

use gaffer_domain::conditions::{Standing, StopScope};
use gaffer_domain::policy::Repeats;
use gaffer_domain::task::{AfterStop, StateName, StopCause, Task, TaskEvent, TaskState, Unseen};
use gaffer_domain::{JobId, ProjectId, TaskId, Time, WorkerId};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row as _};

use super::super::StoreError;
use super::super::forms::{known, reason_from};
use super::super::specs::{SpecCache, spec_stand_in, specs_load_locked, versions_load};
use super::{
    Batch, DefinitionWork, JobSlice, JobWork, Place, Scale, StoredJob, TaskWork, Walk, Work, on_worker,
};

#[derive(FromRow)]
struct JobRow {
    id: i64,
    project_id: i64,
    state: String,
    started_at: Option<Time>,
    stop_message: Option<String>,
    #[sqlx(rename = "stops_everything")]
    force: bool,
    reason_code: Option<String>,
    reason_message: Option<String>,
    era: i64,
    version: i32,
    open_workers: Vec<i64>,
}

#[derive(FromRow)]
pub(super) struct TaskRow {
    id: i64,
    job_id: i64,
    position: i16,
    index: i32,
    class_id: i64,
    state: String,
    since: Time,
    attempt: i32,
    repeats: i32,
    repeats_since: Option<Time>,
    not_before: Option<Time>,
    worker_id: Option<i64>,
    started_at: Option<Time>,
    stop_message: Option<String>,
    moving: bool,
    scaled_down: bool,
    reason_code: Option<String>,
    reason_message: Option<String>,
    #[sqlx(default)]
    unseen_attempts: i32,
    #[sqlx(default)]
    unseen_until: Option<Time>,
    /// 0 of one that has ended: the next attempt, if there is one, is of the version that its definition has then.
    #[sqlx(default)]
    wanted_version: i32,
    #[sqlx(default)]
    finished_at: Option<Time>,
}

/// A locked job delays only itself: it is skipped and its changes wait. Passing ids as an array makes the plan use the primary
/// key, whatever the statistics. Of the workers on which something is to be placed, those that accept it are locked until the
/// commit: a placement decided on older data must not land on a draining or removed worker.
const LOCK_JOBS: &str = "WITH open AS MATERIALIZED (SELECT id FROM workers WHERE id = ANY($3) AND intake = 'open' \
         AND removed_at IS NULL ORDER BY id FOR SHARE SKIP LOCKED) \
     SELECT id, project_id, state::text AS state, started_at, stop_message, stops_everything, reason_code, \
         reason_message, era, version, ARRAY(SELECT id FROM open) AS open_workers \
     FROM jobs WHERE id = ANY(ARRAY(SELECT job_id FROM live_tasks WHERE id = ANY($1)) || $2) \
     ORDER BY id FOR UPDATE SKIP LOCKED";

macro_rules! task_columns {
    () => {
        "id, job_id, position, index, class_id, state::text AS state, since, attempt, repeats, repeats_since, \
         not_before, worker_id, started_at, stop_message, moving, scaled_down, reason_code, reason_message, \
         unseen_attempts, unseen_until, wanted_version"
    };
}

pub(super) const LIVE_TASKS: &str = concat!("SELECT ", task_columns!(), " FROM live_tasks");

/// The next blocked tasks of a definition.
const BLOCKED_OF: &str = concat!(
    "SELECT ",
    task_columns!(),
    " FROM live_tasks WHERE job_id = $1 AND position = $2 AND index > $3 AND state = 'blocked' \
     ORDER BY index LIMIT $4"
);

/// The blocked tasks of a definition with some indices.
const BLOCKED_AT: &str = concat!(
    "SELECT ",
    task_columns!(),
    " FROM live_tasks WHERE job_id = $1 AND position = $2 AND index = ANY($3) AND state = 'blocked'"
);

/// The next tasks of a definition that can be stopped.
const UNENDED_OF: &str = concat!(
    "SELECT ",
    task_columns!(),
    " FROM live_tasks WHERE job_id = $1 AND position = $2 AND index > $3 \
         AND (state IN ('blocked', 'pending', 'scheduled', 'running') OR moving OR scaled_down) ORDER BY index LIMIT $4"
);

/// The counts of all definitions of some jobs, and some live tasks: one answer to wait for instead of two.
const COUNTS_AND_TASKS: &str = concat!(
    "SELECT NULL::bigint[] AS counts, NULL::integer AS count, NULL::text AS scaled_by, ",
    task_columns!(),
    " FROM live_tasks WHERE id = ANY($1) UNION ALL \
     SELECT ARRAY[blocked, pending, scheduled, running, stopping, completed, failed, cancelled, skipped, class_id, version, \
             surge], count, scaled_by, NULL, job_id, position, \
         NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL \
     FROM task_definitions WHERE job_id = ANY($2)"
);

/// Joined with the numbers that are asked for: so each is looked up in the partition of its era only.
const FINISHED_TASKS: &str = "SELECT id, job_id, position, index, class_id, state::text AS state, \
     finished_at AS since, attempt, 0 AS repeats, NULL::timestamptz AS repeats_since, NULL::timestamptz AS not_before, \
     worker_id, started_at, NULL::text AS stop_message, false AS moving, false AS scaled_down, reason_code, reason_message, finished_at \
     FROM UNNEST($1::bigint[]) AS asked(task) \
     JOIN finished_tasks ON id = asked.task AND era = era_of_task(asked.task)";

impl Work {
    /// Locks the jobs, then reads them, their definitions, and the tasks that the batch names.
    pub(super) async fn load(
        &mut self,
        tx: &mut PgConnection,
        specs: &SpecCache,
        batch: &Batch,
    ) -> Result<(), StoreError> {
        if batch.inputs.is_empty()
            && batch.stops.is_empty()
            && batch.scales.is_empty()
            && batch.steps.is_empty()
            && batch.slices.is_empty()
        {
            return Ok(());
        }
        let mut tasks: Vec<i64> = batch.inputs.iter().map(|input| input.task.0).collect();
        tasks.sort_unstable();
        tasks.dedup();
        let stopped: BTreeSet<JobId> = batch.stops.iter().map(|stop| stop.job).collect();
        self.by_index.continued = batch.slices.iter().map(|slice| slice.job).collect();
        // A stop begins with the first task, wherever the slices are.
        let from = |slice: &JobSlice| slice.after.filter(|_| !stopped.contains(&slice.job));
        self.slices = batch.slices.iter().map(|slice| (slice.job, from(slice))).collect();
        let mut whole: BTreeSet<JobId> = stopped.union(&self.by_index.continued).copied().collect();
        whole.extend(batch.scales.iter().map(|scale| scale.job));
        whole.extend(batch.steps.iter().map(|step| step.job));
        let whole: Vec<i64> = whole.into_iter().map(|job| job.0).collect();

        let workers: Vec<i64> = workers_chosen(batch).into_iter().map(|worker| worker.0).collect();
        let mut locked = self.load_jobs(tx, specs, (&tasks, &whole), &workers).await?;
        locked.extend(self.load_finished(tx, specs, &tasks, &workers).await?);
        locked.sort_unstable();
        self.find_busy(tx, &locked, &whole).await?;
        for job in whole.into_iter().map(JobId) {
            let force = batch.stops.iter().any(|stop| stop.job == job && stop.force);
            let is_stopping = self.jobs.get(&job).is_some_and(|work| work.row.stop_message.is_some());
            if is_stopping || stopped.contains(&job) {
                self.load_stoppable(tx, job, force).await?;
            }
        }
        self.load_own_classes(tx).await?;
        self.load_versions(tx, specs, batch).await
    }

    /// Reads the specifications with which tasks are placed that are not of the present version.
    async fn load_versions(
        &mut self,
        tx: &mut PgConnection,
        specs: &SpecCache,
        batch: &Batch,
    ) -> Result<(), StoreError> {
        let placed = batch.inputs.iter().filter(|input| matches!(input.event, TaskEvent::Placed { .. }));
        let of_before = placed.filter_map(|input| {
            let work = self.tasks.get(&input.task)?;
            let definition = self.jobs.get(&work.job)?.definitions.get(work.position)?;
            (work.version != definition.version).then_some((work.job, work.version))
        });
        let wanted: Vec<(JobId, u32)> = of_before.collect::<BTreeSet<_>>().into_iter().collect();
        if !wanted.is_empty() {
            self.versions = versions_load(specs, tx, &wanted).await?;
        }
        Ok(())
    }

    /// Reads those of these tasks that are over: what comes for them is refused by the rules, too. That is rare, so they are
    /// looked for only if they are not among the live ones. Returns the jobs that were locked.
    async fn load_finished(
        &mut self,
        tx: &mut PgConnection,
        specs: &SpecCache,
        tasks: &[i64],
        workers: &[i64],
    ) -> Result<Vec<i64>, StoreError> {
        let missing: Vec<i64> =
            tasks.iter().copied().filter(|task| !self.tasks.contains_key(&TaskId(*task))).collect();
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<TaskRow> = sqlx::query_as(FINISHED_TASKS).bind(&missing).fetch_all(&mut *tx).await?;
        // A job that was passed over stays so: its tasks were read while somebody else held it.
        let asked_for: BTreeSet<JobId> = self.tasks.values().map(|work| work.job).collect();
        let jobs = rows.iter().map(|row| JobId(row.job_id)).filter(|job| !asked_for.contains(job));
        let jobs: Vec<i64> = jobs.filter(|job| !self.jobs.contains_key(job)).map(|job| job.0).collect();
        self.keep(rows)?;
        self.load_jobs(tx, specs, (&[], &jobs), workers).await
    }

    /// Locks the jobs of these live tasks and these jobs, and reads them, their definitions and the tasks. Locks these workers, as
    /// far as they accept placements. Returns the numbers of the jobs that nobody else holds.
    async fn load_jobs(
        &mut self,
        tx: &mut PgConnection,
        specs: &SpecCache,
        (tasks, jobs): (&[i64], &[i64]),
        workers: &[i64],
    ) -> Result<Vec<i64>, StoreError> {
        if tasks.is_empty() && jobs.is_empty() {
            return Ok(Vec::new());
        }
        let jobs: Vec<JobRow> =
            sqlx::query_as(LOCK_JOBS).bind(tasks).bind(jobs).bind(workers).fetch_all(&mut *tx).await?;
        self.open_workers
            .extend(jobs.iter().flat_map(|job| &job.open_workers).map(|worker| WorkerId(*worker)));
        let ids: Vec<JobId> = jobs.iter().map(|job| JobId(job.id)).collect();
        let cache = specs;
        let versions: Vec<(JobId, u32)> =
            jobs.iter().map(|job| (JobId(job.id), job.version as u32)).collect();
        let specs = specs_load_locked(cache, tx, &versions).await?;
        for row in jobs {
            let id = JobId(row.id);
            let Some(spec) = specs.get(&id) else { continue };
            let stored = StoredJob {
                state: known("job state", &row.state)?,
                started_at: row.started_at,
                stop_message: row.stop_message,
                force: row.force,
                reason: reason_from(row.reason_code, row.reason_message),
            };
            let job = JobWork::new(ProjectId(row.project_id), row.era, spec.clone(), stored, Vec::new());
            self.jobs.insert(id, job);
        }

        let ids: Vec<i64> = ids.into_iter().map(|id| id.0).collect();
        // After the lock: only its holder changes these.
        let rows: Vec<Loaded> =
            sqlx::query_as(COUNTS_AND_TASKS).bind(tasks).bind(&ids).fetch_all(&mut *tx).await?;
        let mut definitions = Vec::new();
        for row in rows {
            match row {
                Loaded::Task(row) => self.keep(vec![*row])?,
                Loaded::Definition { job, position, work } => definitions.push((job, position, work)),
            }
        }
        definitions.sort_unstable_by_key(|(job, position, _)| (*job, *position));
        for (job, _, work) in definitions {
            if let Some(job) = self.jobs.get_mut(&JobId(job)) {
                job.definitions.push(*work);
            }
        }
        for (id, job) in &mut self.jobs {
            let (stored, wanted) = (job.definitions.len(), job.spec.tasks.len());
            if stored != wanted {
                let problem = format!("its specification has {wanted} task definitions, {stored} are stored");
                job.spec = spec_stand_in(cache, tx, *id, problem).await?;
            }
        }
        Ok(ids)
    }

    /// Finds which of the skipped jobs exist: another transaction has locked these.
    async fn find_busy(
        &mut self,
        tx: &mut PgConnection,
        locked: &[i64],
        whole: &[i64],
    ) -> Result<(), StoreError> {
        let wanted = self.tasks.values().map(|work| work.job.0).chain(whole.iter().copied());
        let mut missing: Vec<i64> = wanted.filter(|job| locked.binary_search(job).is_err()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        missing.sort_unstable();
        missing.dedup();
        let held: Vec<i64> =
            sqlx::query_scalar("SELECT id FROM jobs WHERE id = ANY($1)").bind(missing).fetch_all(tx).await?;
        self.busy = held.into_iter().map(JobId).collect();
        Ok(())
    }

    /// Leaves the jobs alone of which another transaction holds a task that was read.
    pub(super) async fn pass_over_locked(&mut self, tx: &mut PgConnection) -> Result<(), StoreError> {
        // Nothing is done to those that are over.
        let live = self.tasks.iter().filter(|(_, work)| !work.task.state.name().is_final());
        let live: Vec<(TaskId, JobId)> = live.map(|(task, work)| (*task, work.job)).collect();
        let free: Vec<i64> = sqlx::query_scalar(
            "SELECT id FROM live_tasks WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED",
        )
        .bind(live.iter().map(|(task, _)| task.0).collect::<Vec<i64>>())
        .fetch_all(tx)
        .await?;
        let held = live.iter().filter(|(task, _)| free.binary_search(&task.0).is_err()).map(|(_, job)| *job);
        for job in held.collect::<Vec<_>>() {
            self.jobs.remove(&job);
            self.unfinished.remove(&job);
            self.busy.insert(job);
        }
        Ok(())
    }

    /// Reads tasks of a job that is to be stopped, in their order from where the last slice ended, as many as there is room
    /// for.
    async fn load_stoppable(
        &mut self,
        tx: &mut PgConnection,
        job: JobId,
        force: bool,
    ) -> Result<(), StoreError> {
        let Some(work) = self.jobs.get(&job) else { return Ok(()) };
        let scope = StopScope::of(true, force || work.row.force);
        let definitions = work.spec.tasks.iter().enumerate();
        let spared = definitions.filter(|(_, definition)| !scope.covers(definition));
        let spared: Vec<i16> = spared.map(|(position, _)| position as i16).collect();
        let after = self.place_of(job, Walk::Stop);
        let sql = format!(
            "{LIVE_TASKS} WHERE job_id = $1 AND (position, index) > ($2, $3) \
                 AND (state IN ('blocked', 'pending', 'scheduled', 'running') OR moving OR scaled_down) \
                 AND position <> ALL($5) ORDER BY position, index LIMIT $4"
        );
        in_order(tx).await?;
        let rows: Vec<TaskRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(job.0)
            .bind(after.map_or(-1, |place| place.position as i16))
            .bind(after.map_or(-1, |place| place.index as i32))
            .bind(self.slice_room as i64)
            .bind(spared)
            .fetch_all(&mut *tx)
            .await?;
        not_in_order(tx).await?;
        self.take_slice(job, rows, Walk::Stop)
    }

    /// Where the slices of a job are, if that is on this walk: another one begins with the first task.
    fn place_of(&self, job: JobId, walk: Walk) -> Option<Place> {
        self.slices.get(&job).copied().flatten().filter(|place| place.walk == walk)
    }

    /// Keeps the rows of a slice; if they take all the room there is, more may be left.
    fn take_slice(&mut self, job: JobId, rows: Vec<TaskRow>, walk: Walk) -> Result<(), StoreError> {
        if let Some(last) = rows.last() {
            let (position, index) = (last.position as u16, last.index as u32);
            self.slices.insert(job, Some(Place { walk, position, index }));
        }
        if rows.len() >= self.slice_room {
            self.unfinished.insert(job);
        }
        self.slice_room = self.slice_room.saturating_sub(rows.len());
        self.keep(rows)
    }

    /// Reads the blocked tasks of one definition whose job is locked, as many as there is room for; returns them in order.
    pub(super) async fn load_blocked(
        &mut self,
        tx: &mut PgConnection,
        job: JobId,
        position: usize,
    ) -> Result<Vec<TaskId>, StoreError> {
        self.load_slice(tx, BLOCKED_OF, Walk::Blocked, job, position).await?;
        Ok(self.tasks_of(job, position, |state| *state == TaskState::Blocked))
    }

    /// Reads the tasks of one definition that can be stopped, as [`Work::load_blocked`] does.
    pub(super) async fn load_unended(
        &mut self,
        tx: &mut PgConnection,
        job: JobId,
        position: usize,
    ) -> Result<Vec<TaskId>, StoreError> {
        self.load_slice(tx, UNENDED_OF, Walk::Unended, job, position).await?;
        Ok(self.tasks_of(job, position, TaskState::can_be_stopped))
    }

    async fn load_slice(
        &mut self,
        tx: &mut PgConnection,
        sql: &'static str,
        walk: Walk,
        job: JobId,
        position: usize,
    ) -> Result<(), StoreError> {
        let after = self.place_of(job, walk).filter(|place| usize::from(place.position) == position);
        let after = after.map(|place| place.index);
        in_order(tx).await?;
        let rows: Vec<TaskRow> = sqlx::query_as(sql)
            .bind(job.0)
            .bind(position as i16)
            .bind(after.map_or(-1, |index| index as i32))
            .bind(self.slice_room as i64)
            .fetch_all(&mut *tx)
            .await?;
        not_in_order(tx).await?;
        self.take_slice(job, rows, walk)
    }

    /// Reads the next blocked tasks of a definition that are judged one by one, as many as there is room for, from where the
    /// slices of such tasks are. Returns their indices.
    pub(super) async fn load_scanned(
        &mut self,
        tx: &mut PgConnection,
        job: JobId,
        position: usize,
    ) -> Result<Vec<u32>, StoreError> {
        let index = match self.place_of(job, Walk::ByIndex) {
            Some(place) if usize::from(place.position) > position => return Ok(Vec::new()),
            Some(place) if usize::from(place.position) == position => place.index as i32,
            _ => -1,
        };
        in_order(tx).await?;
        let rows: Vec<TaskRow> = sqlx::query_as(BLOCKED_OF)
            .bind(job.0)
            .bind(position as i16)
            .bind(index)
            .bind(self.slice_room as i64)
            .fetch_all(&mut *tx)
            .await?;
        not_in_order(tx).await?;
        let indices = rows.iter().map(|row| row.index as u32).collect();
        self.take_slice(job, rows, Walk::ByIndex)?;
        Ok(indices)
    }

    /// Reads the blocked tasks of a definition with these indices.
    pub(super) async fn load_blocked_at(
        &mut self,
        tx: &mut PgConnection,
        job: JobId,
        position: usize,
        indices: &[u32],
    ) -> Result<(), StoreError> {
        let indices: Vec<i32> = indices.iter().map(|index| *index as i32).collect();
        let rows: Vec<TaskRow> = sqlx::query_as(BLOCKED_AT)
            .bind(job.0)
            .bind(position as i16)
            .bind(indices)
            .fetch_all(&mut *tx)
            .await?;
        self.keep(rows)
    }

    /// The tasks in work of one definition and in such a state, in order.
    fn tasks_of(&self, job: JobId, position: usize, is_such: impl Fn(&TaskState) -> bool) -> Vec<TaskId> {
        let of_it = self.tasks.iter().filter(|(_, work)| work.job == job && work.position == position);
        let such = of_it.filter(|(_, work)| is_such(&work.task.state));
        let mut ids: Vec<TaskId> = such.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Keeps rows as tasks; one that is in work already is left as the batch has made it.
    pub(super) fn keep(&mut self, rows: Vec<TaskRow>) -> Result<(), StoreError> {
        for row in rows {
            if let Entry::Vacant(place) = self.tasks.entry(TaskId(row.id)) {
                place.insert(row.into_work()?);
            }
        }
        Ok(())
    }
}

/// The next statement reads the first rows in the order of an index; everything else of a batch looks rows up, see `store/pools.rs`.
pub(super) async fn in_order(tx: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql("SET LOCAL enable_indexscan = on").execute(tx).await?;
    Ok(())
}

pub(super) async fn not_in_order(tx: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql("SET LOCAL enable_indexscan = off").execute(tx).await?;
    Ok(())
}

/// The workers on which the batch places something.
pub(super) fn workers_chosen(batch: &Batch) -> BTreeSet<WorkerId> {
    let chosen = batch.inputs.iter().filter_map(|input| match &input.event {
        TaskEvent::Placed { worker } => Some(*worker),
        _ => None,
    });
    chosen.collect()
}

/// A row of [`COUNTS_AND_TASKS`].
enum Loaded {
    Task(Box<TaskRow>),
    Definition { job: i64, position: i16, work: Box<DefinitionWork> },
}

impl FromRow<'_, PgRow> for Loaded {
    fn from_row(row: &PgRow) -> Result<Loaded, sqlx::Error> {
        let Some(counts) = row.try_get::<Option<Vec<i64>>, _>("counts")? else {
            return Ok(Loaded::Task(Box::new(TaskRow::from_row(row)?)));
        };
        let [job, position] = ["job_id", "position"];
        let [counts @ .., skipped, class, version, surge]: [i64; 12] =
            counts.try_into().map_err(|_| sqlx::Error::RowNotFound)?;
        let scale = Scale {
            count: row.try_get::<Option<i32>, _>("count")?.map(i32::unsigned_abs),
            by: row.try_get("scaled_by")?,
            surge: surge as u32,
        };
        let work = DefinitionWork {
            stored: Standing { counts: counts.into(), skipped },
            change: Standing::default(),
            stored_scale: scale.clone(),
            scale,
            class: Some(class),
            version: version as u32,
        };
        Ok(Loaded::Definition {
            job: row.try_get(job)?,
            position: row.try_get(position)?,
            work: Box::new(work),
        })
    }
}

impl TaskRow {
    pub(super) fn id(&self) -> TaskId {
        TaskId(self.id)
    }

    fn into_work(self) -> Result<TaskWork, StoreError> {
        let name: StateName = known("task state", &self.state)?;
        let incomplete = || StoreError::Unreadable(format!("task {} lacks what a {name} task has", self.id));
        let reason = || reason_from(self.reason_code.clone(), self.reason_message.clone());
        let worker = || self.worker_id.map(WorkerId).ok_or_else(incomplete);
        let state = match name {
            StateName::Blocked => TaskState::Blocked,
            StateName::Pending => {
                TaskState::Pending { not_before: self.not_before.ok_or_else(incomplete)?, after: reason() }
            }
            StateName::Scheduled => TaskState::Scheduled { worker: worker()?, since: self.since },
            StateName::Running => {
                TaskState::Running { worker: worker()?, since: self.started_at.ok_or_else(incomplete)? }
            }
            StateName::Stopping => TaskState::Stopping {
                worker: worker()?,
                started: self.started_at,
                cause: StopCause {
                    message: self.stop_message.clone().ok_or_else(incomplete)?,
                    then: match (self.moving, self.scaled_down) {
                        (true, _) => AfterStop::Move,
                        (false, true) => AfterStop::ScaleDown,
                        (false, false) => AfterStop::Cancel,
                    },
                },
            },
            StateName::Completed => TaskState::Completed { at: self.finished_at.ok_or_else(incomplete)? },
            StateName::Failed => TaskState::Failed {
                at: self.finished_at.ok_or_else(incomplete)?,
                reason: reason().ok_or_else(incomplete)?,
            },
            StateName::Cancelled => TaskState::Cancelled {
                at: self.finished_at.ok_or_else(incomplete)?,
                reason: reason().ok_or_else(incomplete)?,
            },
        };
        let stored_on = on_worker(&state);
        Ok(TaskWork {
            stored_on,
            job: JobId(self.job_id),
            position: self.position as usize,
            index: self.index as u32,
            class: self.class_id,
            stored_class: self.class_id,
            version: self.wanted_version as u32,
            task: Task {
                attempt: self.attempt as u32,
                repeats: Repeats { count: self.repeats as u32, since: self.repeats_since },
                unseen: Unseen { attempts: self.unseen_attempts as u32, until: self.unseen_until },
                state,
            },
            stored_attempt: self.attempt as u32,
            stored_state: name,
            since: self.since,
            dirty: false,
        })
    }
}
