//! Reads when the tasks of a job waited and ran, and how many of each definition are in which state.

use gaffer_domain::job::TaskCounts;
use gaffer_domain::{JobId, TaskId, Time};

use super::counts::{COUNTS_OF_JOBS, CountsRow};
use super::{ReadStore, StoreError};
use crate::records::{AttemptTimes, DefinitionTimes};

/// Maximum number of attempts that are read of one task: its latest ones.
const ATTEMPTS_OF_TASK: i64 = 20;

type AttemptRow = (i64, Time, Option<Time>, Option<Time>, bool);
type DefinitionRow = (i16, Option<Time>, Option<Time>, Option<Time>);

impl ReadStore {
    /// The latest attempts of some tasks of a job, of each task in their order.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn attempt_times(&self, job: JobId, tasks: &[TaskId]) -> Result<Vec<AttemptTimes>, StoreError> {
        let Some(era) = self.era_of_job(job).await? else { return Ok(Vec::new()) };
        let tasks: Vec<i64> = tasks.iter().map(|task| task.0).collect();
        let rows: Vec<AttemptRow> = sqlx::query_as(
            "SELECT asked.task, a.scheduled_at, a.started_at, a.finished_at, a.reason_code IS NOT NULL \
             FROM UNNEST($1::bigint[]) AS asked(task) \
             CROSS JOIN LATERAL (SELECT * FROM attempts WHERE task_id = asked.task AND era = $2 \
                 ORDER BY attempt DESC LIMIT $3) a ORDER BY asked.task, a.attempt",
        )
        .bind(tasks)
        .bind(era)
        .bind(ATTEMPTS_OF_TASK)
        .fetch_all(&self.pool)
        .await?;
        let times = |(task, scheduled_at, started_at, finished_at, has_reason): AttemptRow| AttemptTimes {
            task: TaskId(task),
            scheduled_at,
            started_at,
            finished_at,
            has_reason,
        };
        Ok(rows.into_iter().map(times).collect())
    }

    /// When the tasks of each definition of a job ran. Reads all tasks of the job.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn definition_times(&self, job: JobId) -> Result<Vec<DefinitionTimes>, StoreError> {
        let Some(era) = self.era_of_job(job).await? else { return Ok(Vec::new()) };
        let rows: Vec<DefinitionRow> = sqlx::query_as(
            "SELECT position, min(scheduled_at), min(started_at), \
                 CASE WHEN bool_and(finished_at IS NOT NULL) THEN max(finished_at) END \
             FROM tasks WHERE job_id = $1 AND era = $2 GROUP BY position ORDER BY position",
        )
        .bind(job.0)
        .bind(era)
        .fetch_all(&self.pool)
        .await?;
        let times = |(position, scheduled_at, started_at, finished_at): DefinitionRow| DefinitionTimes {
            position,
            scheduled_at,
            started_at,
            finished_at,
        };
        Ok(rows.into_iter().map(times).collect())
    }

    /// How many tasks of each definition of a job are in which state, in the order of the definitions.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn definition_counts(&self, job: JobId) -> Result<Vec<TaskCounts>, StoreError> {
        let rows: Vec<CountsRow> =
            sqlx::query_as(COUNTS_OF_JOBS).bind(vec![job.0]).fetch_all(&self.pool).await?;
        Ok(rows.iter().map(TaskCounts::from).collect())
    }
}
