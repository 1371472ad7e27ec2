//! Services that are scaled: how many instances are kept, and the tasks that come and go for that.
//!
//! An instance is a task with an index. To scale down is to stop the tasks with the highest indices, which end as cancelled; to scale
//! up again is to take them out of history, where they were, with all their attempts. Only tasks that never were are new.

use std::collections::BTreeMap;

use gaffer_domain::reason::ReasonCode;
use gaffer_domain::restore::HIGHEST_LEFT_OUT;
use gaffer_domain::scale::{self, Instances};
use gaffer_domain::task::{AfterStop, StateName, StopCause, Task, TaskEvent};
use gaffer_domain::worker::{CLOCK_DRIFT, LOST_MARGIN};
use gaffer_domain::{JobId, TaskId, Time};
use sqlx::PgConnection;

use super::super::StoreError;
use super::load::{LIVE_TASKS, TaskRow, in_order, not_in_order};
use super::task_columns::revive;
use super::{Detail, Input, Scale, ScaleJob, ScaleResult, Work};

/// Tasks of a definition that are not wanted any more, and are not ending for that.
const SURPLUS: &str = "WHERE job_id = $1 AND position = $2 AND index >= $3 AND NOT scaled_down \
     AND (state <> 'stopping' OR moving) ORDER BY index DESC LIMIT $4";
/// Tasks of a definition that are ending, and are wanted again.
const STILL_ENDING: &str =
    "WHERE job_id = $1 AND position = $2 AND index < $3 AND scaled_down ORDER BY index LIMIT $4";
/// Tasks of a definition that ended because the service was scaled down, and are wanted again.
const SCALED_DOWN: &str = "index < $6 AND state = 'cancelled' AND reason_code = $8";
/// Tasks of a definition that ended by themselves, from an index on.
const ENDED_BESIDE: &str = "index >= $6 AND state IN ('completed', 'failed') AND $8 <> ''";
/// Further tasks of a definition, in the order of their numbers. These come from the end of the range of the job's era.
const FURTHER: &str = "WITH late AS (INSERT INTO late_tasks AS l (era, given) VALUES ($3, $5) \
         ON CONFLICT (era) DO UPDATE SET given = l.given + $5 RETURNING given) \
     INSERT INTO live_tasks (id, job_id, position, index, class_id, wanted_version, state, since, not_before) \
         OVERRIDING SYSTEM VALUE \
     SELECT first_task($3 + 1) - late.given + n, job_id, position, $4 + n, class_id, version, $6::task_state, $7, \
         CASE WHEN $6 = 'pending' THEN $7 END \
     FROM task_definitions, late, generate_series(0, $5 - 1) AS n WHERE job_id = $1 AND position = $2 ORDER BY n \
     RETURNING id, job_id, position, index, class_id, state::text AS state, since, attempt, repeats, repeats_since, \
         not_before, worker_id, started_at, stop_message, moving, scaled_down, reason_code, reason_message, \
         unseen_attempts, unseen_until, wanted_version";
/// One that was ever kept at several instances is addressed with an index from then on; further ones of an update do not count.
const KEPT: &str = "UPDATE task_definitions d SET count = u.count, scaled_by = u.scaled_by, surge = u.surge, \
         single = single AND coalesce(u.count, 1) <= 1 \
     FROM UNNEST($1::bigint[], $2::smallint[], $3::int[], $4::text[], $5::int[]) \
         AS u(job_id, position, count, scaled_by, surge) \
     WHERE d.job_id = u.job_id AND d.position = u.position";

/// What workers may know of a task that ended before a restore: joined with the installation as `i` if there was one since.
const UNSEEN: &str = "CASE WHEN i.restored_at IS NULL THEN 0 ELSE LEAST(attempt + i.attempts_left_out, $3) END::integer \
         AS unseen_attempts, \
     i.restored_at + (SELECT lost_after_millis * $1 + $2 FROM jobs j WHERE j.id = t.job_id) * interval '1 millisecond' \
         AS unseen_until";
const SINCE_RESTORE: &str =
    "LEFT JOIN installation i ON t.id < i.restored_before_task AND t.finished_at < i.restored_at";

/// Reads tasks of a definition that have ended, as `which` says by the parameters from $6 on, of which $7 is their era.
pub(super) fn ended_tasks(which: &str) -> String {
    format!(
        "SELECT t.id, job_id, position, index, class_id, state::text AS state, t.finished_at AS since, attempt, \
             0 AS repeats, NULL::timestamptz AS repeats_since, NULL::timestamptz AS not_before, worker_id, started_at, \
             NULL::text AS stop_message, false AS moving, false AS scaled_down, reason_code, reason_message, \
             t.finished_at, {UNSEEN} \
         FROM finished_tasks t {SINCE_RESTORE} WHERE job_id = $4 AND position = $5 AND era = $7 AND {which}"
    )
}

/// How many tasks a definition is to have.
#[derive(Clone, Copy)]
struct Kept {
    instances: Instances,
    /// Further ones, of an update.
    surge: u32,
}

impl Kept {
    /// The first index behind all of them.
    fn end(self) -> u32 {
        self.instances.end() + self.surge
    }
}

impl Work {
    /// Keeps another number of instances from now on. The tasks follow in [`Work::settle_scales`].
    pub(super) fn scale_job(&mut self, wanted: &ScaleJob) -> ScaleResult {
        if self.busy.contains(&wanted.job) {
            return ScaleResult::Busy;
        }
        let Some(job) = self.jobs.get_mut(&wanted.job).filter(|job| job.project == wanted.project) else {
            return ScaleResult::Unknown;
        };
        if job.row.state.is_final() || job.row.stop_message.is_some() {
            return ScaleResult::NotKept(job.row.state);
        }
        let spec = match job.spec.readable() {
            Ok(spec) => spec,
            Err(problem) => return ScaleResult::Unreadable(problem.to_owned()),
        };
        let position = match scale::find(spec, wanted.task.as_deref()) {
            Ok(position) => position,
            Err(refused) => return ScaleResult::Refused(refused),
        };
        let others = (0..job.definitions.len()).filter(|other| *other != position);
        let others: i64 = others.map(|other| job.standing(other).counts.total()).sum();
        if let Err(refused) = scale::check(spec, position, wanted.count, others.unsigned_abs()) {
            return ScaleResult::Refused(refused);
        }
        let task = spec.tasks[position].name.clone();
        let specified = spec.tasks[position].indices.len();
        let definition = &mut job.definitions[position];
        let before = definition.scale.count.unwrap_or(specified);
        if before == wanted.count {
            return ScaleResult::Kept { task };
        }
        let by = scale::message(wanted.count > before, wanted.count, &wanted.actor);
        definition.scale.count = Some(wanted.count);
        definition.scale.by = Some(by);
        job.dirty = true;
        let message = format!("{task}: {before} → {}", wanted.count);
        self.tell_job(wanted.job, "job.scaled", wanted.actor.clone(), message);
        ScaleResult::Kept { task }
    }

    /// Stops and starts tasks of the touched services until there are as many as are kept, as far as there is room in the
    /// transaction. What exceeds it is left to further ones.
    pub(super) async fn settle_scales(&mut self, tx: &mut PgConnection, now: Time) -> Result<(), StoreError> {
        let mut scaling = Vec::new();
        for (id, job) in &mut self.jobs {
            let is_stopping = job.row.stop_message.is_some();
            // Of one that cannot be read, it is unknown which instances it is to have.
            if job.spec.problem().is_some() && !is_stopping {
                continue;
            }
            for position in 0..job.definitions.len() {
                let Scale { by: Some(by), surge, .. } = job.definitions[position].scale.clone() else {
                    continue;
                };
                match job.instances(position) {
                    Some(instances) if !is_stopping && !job.spec.kind.follows_workers() => {
                        scaling.push((*id, position, Kept { instances, surge }, by));
                    }
                    // A stop is for all of them, and which instances a system job has follows from the workers.
                    _ => job.definitions[position].scale.by = None,
                }
            }
        }
        if scaling.is_empty() {
            return self.write_scales(tx).await;
        }
        in_order(tx).await?;
        for (id, position, kept, message) in scaling {
            let is_done = self.settle_scale(tx, (id, position), kept, &message, now).await?;
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.dirty = true;
            match is_done {
                true => job.definitions[position].scale.by = None,
                false => _ = self.unfinished.insert(id),
            }
        }
        not_in_order(tx).await?;
        self.write_scales(tx).await
    }

    /// Does it for one definition. Returns whether it has as many tasks as it is to have.
    async fn settle_scale(
        &mut self,
        tx: &mut PgConnection,
        (job, position): (JobId, usize),
        kept: Kept,
        message: &str,
        now: Time,
    ) -> Result<bool, StoreError> {
        let Some(work) = self.jobs.get(&job) else { return Ok(true) };
        let (era, definition) = (work.era, work.spec.tasks.get(position));
        let waits_for_others = definition.is_some_and(|definition| definition.waits_for_others());
        let cause = StopCause { message: message.to_owned(), then: AfterStop::ScaleDown };
        let stop = TaskEvent::StopRequested(cause);
        let start = TaskEvent::ScaledUp { message: message.to_owned(), waits_for_others };
        let end = kept.end();

        let surplus = self.load_of_definition(tx, SURPLUS, (job, position), end).await?;
        self.scale_tasks(surplus.clone(), &stop, now);
        let ending = self.load_of_definition(tx, STILL_ENDING, (job, position), end).await?;
        // Like those that are added.
        let version = self.jobs.get(&job).and_then(|job| job.definitions.get(position)).map(|of| of.version);
        for task in &ending {
            if let Some((work, version)) = self.tasks.get_mut(task).zip(version) {
                work.version = version;
            }
        }
        self.scale_tasks(ending, &start, now);
        let ended = self.load_ended(tx, SCALED_DOWN, (job, position), era, end).await?;
        self.scale_tasks(ended, &start, now);
        // Those beside the instances of the service: one that ended by itself runs again, or is scaled away like the others.
        let mut beside =
            self.load_ended(tx, ENDED_BESIDE, (job, position), era, kept.instances.end()).await?;
        let ends_now = |task: &TaskId| {
            let state = self.tasks.get(task).map(|work| work.task.state.name());
            matches!(state, Some(StateName::Completed | StateName::Failed))
        };
        beside.extend(surplus.into_iter().filter(ends_now));
        let is_away = |task: &TaskId| self.tasks.get(task).is_some_and(|work| work.index >= end);
        let away = beside.iter().copied().filter(is_away).collect();
        self.scale_tasks(beside, &start, now);
        self.scale_tasks(away, &stop, now);

        let known = self.jobs.get(&job).map_or(0, |work| work.standing(position).counts.total());
        let missing = i64::from(kept.instances.count + kept.surge).saturating_sub(known).max(0);
        let further = missing.min(self.slice_room as i64);
        if further > 0 {
            let state = Task::new(waits_for_others, now).state.name();
            let rows: Vec<TaskRow> = sqlx::query_as(FURTHER)
                .bind(job.0)
                .bind(position as i16)
                .bind(era)
                .bind(kept.instances.first as i32 + known as i32)
                .bind(further as i32)
                .bind(state.as_str())
                .bind(now)
                .fetch_all(&mut *tx)
                .await?;
            if rows.len() as i64 != further {
                let problem = format!("{} of {further} further tasks were added", rows.len());
                return Err(StoreError::Unreadable(problem));
            }
            self.slice_room -= rows.len();
            self.keep_new(rows)?;
            if let Some(job) = self.jobs.get_mut(&job) {
                job.definitions[position].change.counts.add(state, further);
            }
            self.changed.entered.add(state, further);
            self.scheduling_wanted |= state == StateName::Pending;
        }
        Ok(self.slice_room > 0 && further == missing)
    }

    /// Reads live tasks of a definition, as many as there is room for; returns them in order.
    async fn load_of_definition(
        &mut self,
        tx: &mut PgConnection,
        which: &str,
        (job, position): (JobId, usize),
        end: u32,
    ) -> Result<Vec<TaskId>, StoreError> {
        let sql = format!("{LIVE_TASKS} {which}");
        let rows: Vec<TaskRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(job.0)
            .bind(position as i16)
            .bind(end as i32)
            .bind(self.slice_room as i64)
            .fetch_all(&mut *tx)
            .await?;
        self.take_scaled(rows)
    }

    /// Reads tasks that have ended.
    async fn load_ended(
        &mut self,
        tx: &mut PgConnection,
        which: &str,
        (job, position): (JobId, usize),
        era: i64,
        end: u32,
    ) -> Result<Vec<TaskId>, StoreError> {
        let sql = ended_tasks(&format!("{which} ORDER BY index LIMIT $9"));
        let rows: Vec<TaskRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(1.0 + CLOCK_DRIFT)
            .bind(LOST_MARGIN.as_millis() as f64)
            .bind(HIGHEST_LEFT_OUT)
            .bind(job.0)
            .bind(position as i16)
            .bind(end as i32)
            .bind(era)
            .bind(ReasonCode::ScaledDown.as_str())
            .bind(self.slice_room as i64)
            .fetch_all(&mut *tx)
            .await?;
        self.take_scaled(rows)
    }

    fn take_scaled(&mut self, rows: Vec<TaskRow>) -> Result<Vec<TaskId>, StoreError> {
        self.slice_room = self.slice_room.saturating_sub(rows.len());
        let ids = rows.iter().map(TaskRow::id).collect();
        self.keep(rows)?;
        Ok(ids)
    }

    /// What the batch has made of a task meanwhile may have made the event needless: then it is refused.
    fn scale_tasks(&mut self, tasks: Vec<TaskId>, event: &TaskEvent, now: Time) {
        for task in tasks {
            let event = event.clone();
            let _ = self.apply_one(&Input { task, event, actor: "gaffer".into(), detail: Detail::None }, now);
        }
    }

    /// Keeps tasks that were just added: others learn that they wait.
    pub(super) fn keep_new(&mut self, rows: Vec<TaskRow>) -> Result<(), StoreError> {
        let ids: Vec<TaskId> = rows.iter().map(TaskRow::id).collect();
        self.keep(rows)?;
        for id in ids {
            if let Some(work) = self.tasks.get_mut(&id) {
                work.dirty = true;
            }
        }
        Ok(())
    }

    /// Writes at how many instances definitions are kept.
    async fn write_scales(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        let (mut jobs, mut positions, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        let (mut by, mut surges) = (Vec::new(), Vec::new());
        for (id, job) in &self.jobs {
            for (position, definition) in job.definitions.iter().enumerate() {
                if definition.scale != definition.stored_scale {
                    jobs.push(id.0);
                    positions.push(position as i16);
                    counts.push(definition.scale.count.map(|count| count as i32));
                    by.push(definition.scale.by.as_deref());
                    surges.push(definition.scale.surge as i32);
                }
            }
        }
        if !jobs.is_empty() {
            sqlx::query(KEPT)
                .bind(jobs)
                .bind(positions)
                .bind(counts)
                .bind(by)
                .bind(surges)
                .execute(tx)
                .await?;
        }
        Ok(())
    }

    /// Takes tasks out of history that are not over any more, before their new state is written.
    pub(super) async fn revive(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        let mut of_era: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for (id, work) in self.tasks.iter().filter(|(_, work)| work.dirty && work.stored_state.is_final()) {
            let Some(job) = self.jobs.get(&work.job) else { continue };
            of_era.entry(job.era).or_default().push(id.0);
        }
        for (era, tasks) in of_era {
            let wanted = tasks.len() as u64;
            let revived = sqlx::query(sqlx::AssertSqlSafe(revive(UNSEEN, SINCE_RESTORE)))
                .bind(1.0 + CLOCK_DRIFT)
                .bind(LOST_MARGIN.as_millis() as f64)
                .bind(HIGHEST_LEFT_OUT)
                .bind(era)
                .bind(tasks)
                .execute(&mut *tx)
                .await?;
            if revived.rows_affected() != wanted {
                let problem = format!("{} of {wanted} tasks are still in history", revived.rows_affected());
                return Err(StoreError::Unreadable(problem));
            }
        }
        Ok(())
    }
}
