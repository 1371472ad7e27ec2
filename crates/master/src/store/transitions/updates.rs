//! Steps of rolling updates: further instances, and instances that are replaced. And steps towards the instances of system jobs.

use std::sync::Arc;

use gaffer_domain::task::TaskEvent;
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
    /// Carries out a step. Returns whether the definition is still as it was when the step was decided.
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
                definition.scale.by = Some(format!("the update to version {version} no longer needs it"));
            }
            UpdateAction::Replace(indices) => {
                self.replace(tx, (*id, *position), indices, *version, now).await?
            }
            UpdateAction::Instances(changes) => {
                return self.change_instances(tx, (*id, *position), changes, now).await;
            }
            UpdateAction::Finish => {
                sqlx::query(ENDED).bind(id.0).bind(*position as i16).execute(&mut *tx).await?;
                let message = format!("all instances of {name} have version {version}");
                self.tell_job(*id, "job.update_completed", "gaffer".into(), message);
            }
            UpdateAction::Halt(problem) => {
                sqlx::query(HALTED).bind(id.0).bind(*position as i16).bind(problem).execute(&mut *tx).await?;
                self.tell_job(*id, "job.update_failed", "gaffer".into(), problem.clone());
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
        self.load_own_classes(tx).await?;
        let actor: Arc<str> = "gaffer".into();
        for task in tasks {
            let Some(work) = self.tasks.get_mut(&task).filter(|work| work.version != version) else {
                continue;
            };
            // As long as it waits, it has the class of the version that it is to have.
            let before = std::mem::replace(&mut work.version, version);
            let event = TaskEvent::Replaced { message: format!("replaced by version {version}") };
            let input = Input { task, event, actor: actor.clone(), detail: Detail::None };
            if self.apply_one(&input, now).is_err()
                && let Some(work) = self.tasks.get_mut(&task)
            {
                work.version = before;
            }
        }
        Ok(())
    }

    /// Adds an event about a job as a whole.
    pub(super) fn tell_job(&mut self, id: JobId, kind: &str, actor: Arc<str>, message: String) {
        let Some(job) = self.jobs.get(&id) else { return };
        self.events.push(EventRow {
            project: job.project,
            kind: kind.to_owned(),
            job: id,
            era: job.era,
            task: None,
            attempt: None,
            worker: None,
            actor,
            message,
        });
    }
}
