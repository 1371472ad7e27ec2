//! System jobs: their definitions, and the instances that these have or had.

use std::collections::HashMap;

use gaffer_domain::reason::ReasonCode;
use gaffer_domain::spec::MAX_TASKS_PER_JOB;
use gaffer_domain::system_jobs::{Instance, InstanceState};
use gaffer_domain::task::StateName;
use gaffer_domain::{JobId, ProjectId, TaskId, WorkerId};
use sqlx::FromRow;

use super::forms::known;
use super::{ReadStore, Store, StoreError};

/// A definition of a system job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
struct DefinitionRow {
    job_id: i64,
    project_id: i64,
    position: i16,
    version: i32,
    class_id: i64,
    total: i64,
}

/// A definition of a system job that is kept running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemDefinition {
    pub job: JobId,
    pub project: ProjectId,
    pub position: usize,
    /// The version that its instances are to have.
    pub version: u32,
    /// Its class, of which those of its instances are made.
    pub class: i64,
    /// How many tasks it has, whatever became of them.
    pub total: u64,
    /// How many more the job may have.
    pub room: u64,
}

#[derive(FromRow)]
struct InstanceRow {
    id: i64,
    worker_id: i64,
    name: String,
    state: String,
    scaled_down: bool,
    is_stopped: bool,
    version: i32,
}

impl Store {
    /// The definitions of all system jobs that are kept running.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn system_definitions(&self) -> Result<Vec<SystemDefinition>, StoreError> {
        let rows: Vec<DefinitionRow> = sqlx::query_as(
            "SELECT d.job_id, j.project_id, d.position, d.version, d.class_id, \
                 d.blocked + d.pending + d.scheduled + d.running + d.stopping + d.completed + d.failed + d.cancelled AS total \
             FROM (SELECT id, project_id FROM jobs WHERE kind = 'system' AND finished_at IS NULL AND stop_message IS NULL) j \
             JOIN task_definitions d ON d.job_id = j.id ORDER BY d.job_id, d.position",
        )
        .fetch_all(&self.pool)
        .await?;
        let mut tasks: HashMap<i64, i64> = HashMap::new();
        for row in &rows {
            *tasks.entry(row.job_id).or_default() += row.total;
        }
        let definition = |row: &DefinitionRow| {
            let tasks = tasks.get(&row.job_id).copied().unwrap_or_default();
            SystemDefinition {
                job: JobId(row.job_id),
                project: ProjectId(row.project_id),
                position: row.position as usize,
                version: row.version as u32,
                class: row.class_id,
                total: row.total.unsigned_abs(),
                room: u64::from(MAX_TASKS_PER_JOB).saturating_sub(tasks.unsigned_abs()),
            }
        };
        Ok(rows.iter().map(definition).collect())
    }
}

impl ReadStore {
    /// The instances that a definition of a system job has or had, in any order. `version` is the one that they are to have.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn system_instances(
        &self,
        (job, position): (JobId, usize),
        version: u32,
    ) -> Result<Vec<Instance>, StoreError> {
        let Some(era) = self.era_of_job(job).await? else { return Ok(Vec::new()) };
        let rows: Vec<InstanceRow> = sqlx::query_as(
            "SELECT t.id, c.worker_id, w.name, t.state, t.scaled_down, t.is_stopped, t.version FROM ( \
                 SELECT id, class_id, state::text AS state, scaled_down, \
                     state = 'stopping' AND NOT scaled_down AND NOT moving AS is_stopped, wanted_version AS version \
                     FROM live_tasks WHERE job_id = $1 AND position = $2 \
                 UNION ALL SELECT id, class_id, state::text, reason_code IS NOT DISTINCT FROM $4, \
                     state = 'cancelled' AND reason_code IS DISTINCT FROM $4, coalesce(version, 1) \
                     FROM finished_tasks WHERE job_id = $1 AND position = $2 AND era = $3) t, \
             LATERAL (SELECT worker_id FROM classes WHERE id = t.class_id AND worker_id IS NOT NULL OFFSET 0) c, \
             LATERAL (SELECT name FROM workers WHERE id = c.worker_id OFFSET 0) w",
        )
        .bind(job.0)
        .bind(position as i16)
        .bind(era)
        .bind(ReasonCode::ScaledDown.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                let is_over = known::<StateName>("task state", &row.state)?.is_final();
                let state = match (row.is_stopped, row.scaled_down, is_over) {
                    (true, ..) => InstanceState::Stopped,
                    (false, true, false) => InstanceState::Leaving,
                    (false, true, true) => InstanceState::Away,
                    (false, false, false) => InstanceState::Live,
                    (false, false, true) => {
                        InstanceState::Ended { is_present: row.version as u32 == version }
                    }
                };
                Ok(Instance { task: TaskId(row.id), worker: WorkerId(row.worker_id), name: row.name, state })
            })
            .collect()
    }
}
