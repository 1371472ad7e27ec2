//! Instances of system jobs: which there are follows from the workers, as `system_jobs::decide` says.
//!
//! An instance is a task of the class of its definition and of its worker. One that is scaled down keeps its class in history, so it
//! runs again on the same worker.

use std::collections::BTreeSet;

use gaffer_domain::quantity::listed;
use gaffer_domain::restore::HIGHEST_LEFT_OUT;
use gaffer_domain::task::{AfterStop, StateName, StopCause, TaskEvent};
use gaffer_domain::worker::{CLOCK_DRIFT, LOST_MARGIN};
use gaffer_domain::{JobId, TaskId, Time};
use sqlx::PgConnection;

use super::super::StoreError;
use super::load::{LIVE_TASKS, TaskRow};
use super::scale::ended_tasks;
use super::{Detail, Input, InstanceChanges, TaskWork, Work};

/// The classes that tasks of these classes take with other classes of their definition.
const OWN_CLASSES: &str = "SELECT asked.class_id, asked.base_id, c.id \
     FROM UNNEST($1::bigint[], $2::bigint[]) AS asked(class_id, base_id), \
     LATERAL (SELECT worker_id FROM classes WHERE id = asked.class_id OFFSET 0) own, \
     LATERAL (SELECT id FROM classes WHERE base_id = asked.base_id AND worker_id = own.worker_id OFFSET 0) c";
/// The classes of tasks of a definition on these workers, in their order.
const CLASSES_ON: &str = "SELECT c.id FROM UNNEST($2::bigint[]) WITH ORDINALITY AS asked(worker_id, place), \
     LATERAL (SELECT id FROM classes WHERE base_id = $1 AND worker_id = asked.worker_id OFFSET 0) c ORDER BY asked.place";
/// Further tasks of a definition, one of each class, in the order of their numbers. These come from the end of the range of the job's
/// era.
const FURTHER_OF: &str = "WITH late AS (INSERT INTO late_tasks AS l (era, given) VALUES ($3, $5) \
         ON CONFLICT (era) DO UPDATE SET given = l.given + $5 RETURNING given) \
     INSERT INTO live_tasks (id, job_id, position, index, class_id, wanted_version, state, since, not_before) \
         OVERRIDING SYSTEM VALUE \
     SELECT first_task($3 + 1) - late.given + of.place - 1, $1, $2, $4 + of.place - 1, of.class_id, $8, 'pending', $7, $7 \
     FROM late, UNNEST($6::bigint[]) WITH ORDINALITY AS of(class_id, place) ORDER BY of.place \
     RETURNING id, job_id, position, index, class_id, state::text AS state, since, attempt, repeats, repeats_since, \
         not_before, worker_id, started_at, stop_message, moving, scaled_down, reason_code, reason_message, \
         unseen_attempts, unseen_until, wanted_version";

impl Work {
    /// Carries a plan out. Returns whether it could be.
    pub(super) async fn change_instances(
        &mut self,
        tx: &mut PgConnection,
        (job, position): (JobId, usize),
        InstanceChanges { plan, total }: &InstanceChanges,
        now: Time,
    ) -> Result<bool, StoreError> {
        let Some(work) = self.jobs.get(&job) else { return Ok(false) };
        let follows = work.spec.tasks.get(position).is_some_and(|task| task.indices.follow_workers());
        let before = work.standing(position).counts.total();
        if !follows || (!plan.start.is_empty() && before.unsigned_abs() != *total) {
            return Ok(false);
        }
        let classes = match plan.start.is_empty() {
            true => Vec::new(),
            false => {
                let workers: Vec<i64> = plan.start.iter().map(|(worker, _)| worker.0).collect();
                let class = work.definitions.get(position).and_then(|definition| definition.class);
                sqlx::query_scalar(CLASSES_ON).bind(class).bind(workers).fetch_all(&mut *tx).await?
            }
        };
        // Another version was accepted since they were made.
        if classes.len() != plan.start.len() {
            return Ok(false);
        }
        let asked: Vec<TaskId> =
            plan.stop.iter().map(|(task, _)| *task).chain(plan.resume.iter().copied()).collect();
        self.load_instances(tx, (job, position), &asked).await?;
        let version = self.jobs.get(&job).and_then(|job| job.definitions.get(position)).map(|of| of.version);
        for (task, message) in &plan.stop {
            // One that ended by itself is scaled away like the others.
            if self.tasks.get(task).is_some_and(|work| work.task.state.name().is_final()) {
                self.resume_instance(*task, version, now);
            }
            let cause = StopCause { message: message.clone(), then: AfterStop::ScaleDown };
            self.change_instance(*task, TaskEvent::StopRequested(cause), now);
        }
        for task in &plan.resume {
            self.resume_instance(*task, version, now);
        }
        if !classes.is_empty() {
            let names: Vec<&str> = plan.start.iter().map(|(_, name)| name.as_str()).collect();
            let place = (before as i32, version.unwrap_or(1));
            self.start_instances(tx, (job, position), place, classes, now).await?;
            let task = self.jobs[&job].spec.tasks[position].name.clone();
            let message = format!("{task}: an instance on {}", listed(&names));
            self.tell_job(job, "job.scaled", "gaffer".into(), message);
        }
        Ok(true)
    }

    /// Reads these tasks of a definition, live or ended.
    async fn load_instances(
        &mut self,
        tx: &mut PgConnection,
        (job, position): (JobId, usize),
        tasks: &[TaskId],
    ) -> Result<(), StoreError> {
        let Some(era) = self.jobs.get(&job).map(|work| work.era).filter(|_| !tasks.is_empty()) else {
            return Ok(());
        };
        let asked: Vec<i64> = tasks.iter().map(|task| task.0).collect();
        let live = format!("{LIVE_TASKS} WHERE id = ANY($1) AND job_id = $2 AND position = $3");
        let rows: Vec<TaskRow> = sqlx::query_as(sqlx::AssertSqlSafe(live))
            .bind(&asked)
            .bind(job.0)
            .bind(position as i16)
            .fetch_all(&mut *tx)
            .await?;
        self.keep(rows)?;
        let is_missing = |task: &&i64| !self.tasks.contains_key(&TaskId(**task));
        let missing: Vec<i64> = asked.iter().filter(is_missing).copied().collect();
        if !missing.is_empty() {
            let rows: Vec<TaskRow> = sqlx::query_as(sqlx::AssertSqlSafe(ended_tasks("t.id = ANY($6)")))
                .bind(1.0 + CLOCK_DRIFT)
                .bind(LOST_MARGIN.as_millis() as f64)
                .bind(HIGHEST_LEFT_OUT)
                .bind(job.0)
                .bind(position as i16)
                .bind(missing)
                .bind(era)
                .fetch_all(&mut *tx)
                .await?;
            self.keep(rows)?;
        }
        self.load_own_classes(tx).await
    }

    fn resume_instance(&mut self, task: TaskId, version: Option<u32>, now: Time) {
        if let Some((work, version)) = self.tasks.get_mut(&task).zip(version) {
            work.version = version;
        }
        let message = "its worker matches again".to_owned();
        self.change_instance(task, TaskEvent::ScaledUp { message, waits_for_others: false }, now);
    }

    /// What the batch has made of the task meanwhile may have made the event needless: then it is refused.
    fn change_instance(&mut self, task: TaskId, event: TaskEvent, now: Time) {
        let _ = self.apply_one(&Input { task, event, actor: "gaffer".into(), detail: Detail::None }, now);
    }

    /// Adds a task of each of these classes.
    async fn start_instances(
        &mut self,
        tx: &mut PgConnection,
        (job, position): (JobId, usize),
        (first, version): (i32, u32),
        classes: Vec<i64>,
        now: Time,
    ) -> Result<(), StoreError> {
        let Some(era) = self.jobs.get(&job).map(|work| work.era) else { return Ok(()) };
        let wanted = classes.len();
        let rows: Vec<TaskRow> = sqlx::query_as(FURTHER_OF)
            .bind(job.0)
            .bind(position as i16)
            .bind(era)
            .bind(first)
            .bind(wanted as i32)
            .bind(classes)
            .bind(now)
            .bind(version as i32)
            .fetch_all(&mut *tx)
            .await?;
        if rows.len() != wanted {
            let problem = format!("{} of {wanted} further tasks were added", rows.len());
            return Err(StoreError::Unreadable(problem));
        }
        self.keep_new(rows)?;
        if let Some(job) = self.jobs.get_mut(&job) {
            job.definitions[position].change.counts.add(StateName::Pending, wanted as i64);
        }
        self.changed.entered.add(StateName::Pending, wanted as i64);
        self.scheduling_wanted = true;
        Ok(())
    }

    /// Reads which classes the tasks in work take with the present versions of their definitions, where these are for one worker each.
    pub(super) async fn load_own_classes(&mut self, tx: &mut PgConnection) -> Result<(), StoreError> {
        let of = |work: &TaskWork| {
            let job = self.jobs.get(&work.job)?;
            let follows = job.spec.tasks.get(work.position)?.indices.follow_workers();
            // Without another version, they have that class.
            let class = job.definitions.get(work.position)?.class.filter(|_| job.spec.version() != 1)?;
            let wanted = (work.class, class);
            (follows && !self.own_classes.contains_key(&wanted)).then_some(wanted)
        };
        let wanted: BTreeSet<(i64, i64)> = self.tasks.values().filter_map(of).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let (classes, bases): (Vec<i64>, Vec<i64>) = wanted.into_iter().unzip();
        let rows: Vec<(i64, i64, i64)> =
            sqlx::query_as(OWN_CLASSES).bind(classes).bind(bases).fetch_all(tx).await?;
        self.own_classes.extend(rows.into_iter().map(|(class, base, own)| ((class, base), own)));
        Ok(())
    }
}
