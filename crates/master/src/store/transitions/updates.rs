//! Steps of rolling updates: further instances, and instances that are replaced.

use std::sync::Arc;

use gaffer_domain::policy::Repeats;
use gaffer_domain::task::{Report, TaskEvent, TaskState};
use gaffer_domain::{JobId, TaskId, Time};
use sqlx::PgConnection;

use super::super::StoreError;
use super::super::event_rows::EventRow;
use super::load::{LIVE_TASKS, TaskRow};
use super::{Detail, Input, UpdateAction, UpdateStep, Work};

const BY_INDEX: &str = "WHERE job_id = $1 AND position = $2 AND index = ANY($3) ORDER BY index";
const ENDED: &str = "UPDATE task_definitions SET update_since = NULL, update_from = NULL, update_reverts = false, \
         promoted = false, update_problem = NULL \
     WHERE job_id = $1 AND position = $2";
const HALTED: &str = "UPDATE task_definitions SET update_problem = $3 WHERE job_id = $1 AND position = $2";

impl Work {
    /// Carries out a step of an update. Returns whether the update is still as it was when the step was decided.
    pub(super) async fn take_update_step(
        &mut self,
        tx: &mut PgConnection,
        step: &UpdateStep,
        now: Time,
    ) -> Result<bool, StoreError> {
        let UpdateStep { job: id, position, version, action } = step;
        let Some(job) = self.jobs.get_mut(id).filter(|job| job.row.stop_message.is_none()) else {
            return Ok(false);
        };
        let name = job.spec.tasks.get(*position).map(|task| task.name.clone()).unwrap_or_default();
        let Some(definition) = job.definitions.get_mut(*position) else { return Ok(false) };
        if definition.version != *version || job.row.state.is_final() {
            return Ok(false);
        }
        job.dirty = true;
        match action {
            UpdateAction::Surge(surge) => {
                definition.scale.surge = *surge;
                definition.scale.by = Some(format!("the update to version {version} needs it no more"));
            }
            UpdateAction::Replace(indices) => {
                self.replace(tx, (*id, *position), indices, *version, now).await?
            }
            UpdateAction::Finish => {
                sqlx::query(ENDED).bind(id.0).bind(*position as i16).execute(&mut *tx).await?;
                let message = format!("all instances of {name} have version {version}");
                self.tell_update(*id, "job.update_completed", message);
            }
            UpdateAction::Halt(problem) => {
                sqlx::query(HALTED).bind(id.0).bind(*position as i16).bind(problem).execute(&mut *tx).await?;
                self.tell_update(*id, "job.update_failed", problem.clone());
            }
        }
        Ok(true)
    }

    /// Has the next attempts of these instances be of another version, and stops the present ones.
    async fn replace(
        &mut self,
        tx: &mut PgConnection,
        (job, position): (JobId, usize),
        indices: &[u32],
        version: u32,
        now: Time,
    ) -> Result<(), StoreError> {
        let sql = format!("{LIVE_TASKS} {BY_INDEX}");
        let rows: Vec<TaskRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(job.0)
            .bind(position as i16)
            .bind(indices.iter().map(|index| *index as i32).collect::<Vec<i32>>())
            .fetch_all(&mut *tx)
            .await?;
        let tasks: Vec<TaskId> = rows.iter().map(TaskRow::id).collect();
        self.keep(rows)?;
        let actor: Arc<str> = "gaffer".into();
        for task in tasks {
            let Some(work) = self.tasks.get_mut(&task) else { continue };
            if work.version == version || work.task.state.name().is_final() {
                continue;
            }
            work.version = version;
            work.task.repeats = Repeats::default();
            work.dirty = true;
            let report = work.task.state.worker().map(|worker| Report { worker, attempt: work.task.attempt });
            match (&work.task.state, report) {
                (TaskState::Scheduled { .. } | TaskState::Running { .. }, Some(report)) => {
                    let event = TaskEvent::MoveRequested(report, format!("replaced by version {version}"));
                    let _ = self
                        .apply_one(&Input { task, event, actor: actor.clone(), detail: Detail::None }, now);
                }
                (TaskState::Pending { .. } | TaskState::Blocked, _) => {
                    let definition = self.jobs.get(&job).and_then(|job| job.definitions.get(position));
                    definition.inspect(|definition| definition.take_over(work));
                    self.scheduling_wanted = true;
                }
                // Its next attempt will be of the new version.
                _ => {}
            }
        }
        Ok(())
    }

    fn tell_update(&mut self, id: JobId, kind: &str, message: String) {
        let Some(job) = self.jobs.get(&id) else { return };
        self.events.push(EventRow {
            project: job.project,
            kind: kind.to_owned(),
            job: id,
            era: job.era,
            task: None,
            attempt: None,
            worker: None,
            actor: "gaffer".into(),
            message,
        });
    }
}
