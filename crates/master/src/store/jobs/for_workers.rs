//! Tasks that are for one worker each: their classes, and those that have to end because their worker was removed.
//!
//! The class of such a task is made of the class of its definition and of its worker, so there are at most as many as workers for
//! each of those, however many jobs there are.

use std::collections::BTreeMap;

use gaffer_domain::rerun::Selection;
use gaffer_domain::spec::JobSpec;
use gaffer_domain::{JobId, TaskId, WorkerId};

use super::super::{ReadStore, Store, StoreError};

/// The workers that the tasks of a job are for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForWorkers {
    /// By the position of the definition, in the order of the indices.
    pub definitions: BTreeMap<usize, Vec<WorkerId>>,
    /// For the history: which workers match and get no task.
    pub left_out: Option<String>,
}

/// The tasks of a new job that are for one worker each, as columns.
#[derive(Debug, Default)]
pub(super) struct TasksForWorkers {
    pub positions: Vec<i16>,
    pub indices: Vec<i32>,
    pub workers: Vec<i64>,
}

impl ForWorkers {
    /// Whether the tasks of this definition are for one worker each.
    pub fn has(&self, position: usize) -> bool {
        self.definitions.contains_key(&position)
    }

    /// Whether no task is for one worker.
    pub fn is_empty(&self) -> bool {
        self.definitions.is_empty()
    }

    /// The tasks that run.
    pub(super) fn tasks(&self, spec: &JobSpec, selection: Option<&Selection>) -> TasksForWorkers {
        let mut tasks = TasksForWorkers::default();
        for (position, workers) in &self.definitions {
            let Some(definition) = spec.tasks.get(*position) else { continue };
            let first = *definition.indices.iter().start();
            let share = selection.and_then(|selection| selection.definitions().get(*position));
            let runs = match share {
                None => vec![definition.indices.iter()],
                Some(share) => share.runs.clone(),
            };
            for index in runs.into_iter().flatten() {
                let worker = index.checked_sub(first).and_then(|at| workers.get(at as usize));
                let Some(worker) = worker else { continue };
                tasks.positions.push(*position as i16);
                tasks.indices.push(index as i32);
                tasks.workers.push(worker.0);
            }
        }
        tasks
    }
}

impl ReadStore {
    /// The workers that the tasks of a finished job were for, by the position of the definition and by index.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_for_workers(
        &self,
        job: JobId,
    ) -> Result<BTreeMap<usize, BTreeMap<u32, WorkerId>>, StoreError> {
        let Some(era) = self.era_of_job(job).await? else { return Ok(BTreeMap::new()) };
        let rows: Vec<(i16, i32, i64)> = sqlx::query_as(
            "SELECT t.position, t.index, c.worker_id FROM finished_tasks t, \
             LATERAL (SELECT worker_id FROM classes WHERE id = t.class_id OFFSET 0) c \
             WHERE t.job_id = $1 AND t.era = $2 AND c.worker_id IS NOT NULL",
        )
        .bind(job.0)
        .bind(era)
        .fetch_all(&self.pool)
        .await?;
        let mut found: BTreeMap<usize, BTreeMap<u32, WorkerId>> = BTreeMap::new();
        for (position, index, worker) in rows {
            found.entry(position as usize).or_default().insert(index as u32, WorkerId(worker));
        }
        Ok(found)
    }

    /// The names of the workers that tasks of these classes are for. Those that were removed have the one that they had.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(in crate::store) async fn workers_of_classes(
        &self,
        classes: &[i64],
    ) -> Result<BTreeMap<i64, String>, StoreError> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "SELECT c.id, w.name FROM UNNEST($1::bigint[]) AS asked(class), \
             LATERAL (SELECT id, worker_id FROM classes WHERE id = asked.class OFFSET 0) c \
             JOIN workers w ON w.id = c.worker_id",
        )
        .bind(classes)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().collect())
    }

    /// The workers that the waiting tasks of a definition are for, by number, each with the class of its tasks; `job`: only tasks of
    /// that job. Costs a look at each worker that ever was one of them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn workers_waited_for(
        &self,
        class: i64,
        job: Option<JobId>,
    ) -> Result<Vec<(WorkerId, i64)>, StoreError> {
        let rows: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT c.worker_id, c.id FROM classes c, \
             LATERAL (SELECT FROM live_tasks WHERE state = 'pending' AND class_id = c.id \
                 AND ($2::bigint IS NULL OR job_id = $2) LIMIT 1) t \
             WHERE c.base_id = $1 ORDER BY c.worker_id",
        )
        .bind(class)
        .bind(job.map(|job| job.0))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(worker, class)| (WorkerId(worker), class)).collect())
    }
}

impl Store {
    /// Tasks that wait for a worker that was removed, with the name that it had. Costs one look-up for each class of which tasks
    /// wait.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tasks_for_removed_workers(&self, limit: u32) -> Result<Vec<(TaskId, String)>, StoreError> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "WITH RECURSIVE waiting AS ( \
                 (SELECT class_id FROM live_tasks WHERE state = 'pending' ORDER BY class_id LIMIT 1) \
                 UNION ALL \
                 SELECT next.class_id FROM waiting, LATERAL ( \
                     SELECT class_id FROM live_tasks WHERE state = 'pending' \
                     AND class_id > waiting.class_id ORDER BY class_id LIMIT 1) next) \
             SELECT t.id, w.name FROM waiting, \
             LATERAL (SELECT worker_id FROM classes WHERE id = waiting.class_id OFFSET 0) c, \
             LATERAL (SELECT name FROM workers WHERE id = c.worker_id AND removed_at IS NOT NULL OFFSET 0) w, \
             LATERAL (SELECT id FROM live_tasks WHERE state = 'pending' AND class_id = waiting.class_id LIMIT $1) t \
             LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(task, name)| (TaskId(task), name)).collect())
    }
}
