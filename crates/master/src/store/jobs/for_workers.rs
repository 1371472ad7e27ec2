//! Tasks that are for one worker each: their classes, and those that have to end because their worker was removed.
//!
//! The class of such a task is made of the class of its definition and of its worker, so there are at most as many as workers for
//! each of those, however many jobs there are.

use std::collections::BTreeMap;

use gaffer_domain::rerun::Selection;
use gaffer_domain::spec::{JobSpec, TaskSpec};
use gaffer_domain::{JobId, ProjectId, TaskId, WorkerId};
use sqlx::PgConnection;

use super::super::placement::waiting_classes;
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

    /// How many tasks a definition has.
    pub(super) fn len_of(&self, position: usize, definition: &TaskSpec) -> u32 {
        match self.definitions.get(&position) {
            Some(workers) => workers.len() as u32,
            None => definition.indices.len(),
        }
    }

    /// How many tasks a job has.
    pub fn task_count(&self, spec: &JobSpec) -> u32 {
        spec.tasks.iter().enumerate().map(|(position, definition)| self.len_of(position, definition)).sum()
    }

    /// The classes of the tasks: the hash of what their definition needs, of all in their order, and the worker.
    pub(super) fn classes<'a>(&self, hashes: &'a [Vec<u8>]) -> (Vec<&'a [u8]>, Vec<i64>) {
        let definitions = self.definitions.iter();
        let classes = definitions.filter_map(|(at, workers)| Some((hashes.get(*at)?.as_slice(), workers)));
        classes.flat_map(|(hash, workers)| workers.iter().map(move |worker| (hash, worker.0))).unzip()
    }

    /// The tasks that run.
    pub(super) fn tasks(&self, spec: &JobSpec, selection: Option<&Selection>) -> TasksForWorkers {
        let mut tasks = TasksForWorkers::default();
        for (position, workers) in &self.definitions {
            let Some(definition) = spec.tasks.get(*position) else { continue };
            let first = definition.indices.first();
            let share = selection.and_then(|selection| selection.definitions().get(*position));
            let runs = match share {
                None if workers.is_empty() => Vec::new(),
                None => vec![first..=first + (workers.len() - 1) as u32],
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

/// Makes the classes of workers that do not exist yet. Those of the definitions do. `$of`: rows of a class of a definition and a worker.
macro_rules! classes_of_workers {
    ($of:literal) => {
        concat!(
            "WITH led AS MATERIALIZED (SELECT leader_check($1) AS leads) \
             INSERT INTO classes (project_id, priority, owner, needs, needs_sha256, base_id, worker_id, job_id) \
             SELECT b.project_id, b.priority, b.owner, b.needs || jsonb_build_object('worker', w.worker_id), \
                 sha256(b.needs_sha256 || int8send(w.worker_id)), b.id, w.worker_id, \
                 CASE WHEN b.needs ? 'definition' THEN $2::bigint END \
             FROM led, LATERAL (",
            $of,
            ") w, LATERAL (SELECT * FROM classes WHERE id = w.base_id OFFSET 0) b \
             LEFT JOIN LATERAL (SELECT id FROM classes WHERE base_id = b.id AND worker_id = w.worker_id OFFSET 0) known \
                 ON true \
             WHERE known.id IS NULL ORDER BY b.id, w.worker_id ON CONFLICT DO NOTHING"
        )
    };
}

/// Those of a new job, by the hashes of what its definitions need.
const CLASSES_OF_NEW_JOB: &str = classes_of_workers!(
    "SELECT d.id AS base_id, given.worker_id FROM UNNEST($3::bytea[], $4::bigint[]) AS given(needs_sha256, worker_id), \
     LATERAL (SELECT id FROM classes WHERE project_id = $5 AND priority = $6 AND owner = $7 \
         AND needs_sha256 = given.needs_sha256 OFFSET 0) d"
);

/// Those of one definition.
const CLASSES_OF_DEFINITION: &str = classes_of_workers!(
    "SELECT $3::bigint AS base_id, given.worker_id FROM UNNEST($4::bigint[]) AS given(worker_id)"
);

/// Those of the workers on which definitions of a job have, or had, instances.
const CLASSES_OF_INSTANCES: &str = classes_of_workers!(
    "SELECT d.class_id AS base_id, own.worker_id FROM task_definitions d, LATERAL ( \
         SELECT DISTINCT c.worker_id FROM ( \
             SELECT class_id FROM live_tasks WHERE job_id = $2 AND position = d.position \
             UNION ALL SELECT class_id FROM finished_tasks WHERE job_id = $2 AND position = d.position AND era = $3) t, \
         LATERAL (SELECT worker_id FROM classes WHERE id = t.class_id AND worker_id IS NOT NULL OFFSET 0) c) own \
     WHERE d.job_id = $2"
);

/// Makes the classes of workers that do not exist yet, for definitions with these hashes, of a job with this project, priority and owner.
pub(super) async fn classes_of_workers_ensure(
    connection: &mut PgConnection,
    (project, priority, owner): (ProjectId, u8, &str),
    (hashes, workers): (Vec<&[u8]>, Vec<i64>),
    job: Option<i64>,
    term: i64,
) -> Result<(), StoreError> {
    sqlx::query(CLASSES_OF_NEW_JOB)
        .bind(term)
        .bind(job)
        .bind(hashes)
        .bind(workers)
        .bind(project.0)
        .bind(i16::from(priority))
        .bind(owner)
        .execute(connection)
        .await?;
    Ok(())
}

/// Makes the classes that the instances of a system job take with its present version.
pub(in crate::store) async fn classes_of_instances_ensure(
    connection: &mut PgConnection,
    (job, era): (JobId, i64),
    term: i64,
) -> Result<(), StoreError> {
    sqlx::query(CLASSES_OF_INSTANCES).bind(term).bind(job.0).bind(era).execute(connection).await?;
    Ok(())
}

impl Store {
    /// Makes the classes that tasks of a definition with this class have on these workers.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn classes_of_workers(
        &self,
        job: JobId,
        class: i64,
        workers: &[WorkerId],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(CLASSES_OF_DEFINITION)
            .bind(self.leadership.term())
            .bind(job.0)
            .bind(class)
            .bind(workers.iter().map(|worker| worker.0).collect::<Vec<i64>>())
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
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
    /// Tasks that wait for a worker that was removed, with the name that it had, without instances of system jobs, which do not end
    /// with their worker. Costs one look-up for each class of which tasks wait.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tasks_for_removed_workers(&self, limit: u32) -> Result<Vec<(TaskId, String)>, StoreError> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            waiting_classes!(
                "SELECT t.id, w.name FROM waiting, \
                 LATERAL (SELECT worker_id FROM classes WHERE id = waiting.class_id OFFSET 0) c, \
                 LATERAL (SELECT name FROM workers WHERE id = c.worker_id AND removed_at IS NOT NULL OFFSET 0) w, \
                 LATERAL (SELECT id FROM live_tasks l WHERE state = 'pending' AND class_id = waiting.class_id \
                     AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = l.job_id AND j.kind = 'system') LIMIT $1) t \
                 LIMIT $1"
            ),
        )
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(task, name)| (TaskId(task), name)).collect())
    }
}
