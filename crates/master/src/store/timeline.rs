//! Reads when the tasks of a job waited and ran, and how many of each definition are in which state.

use gaffer_domain::job::TaskCounts;
use gaffer_domain::{JobId, TaskId, Time};
use sqlx::types::Json;

use super::counts::{DEFINITIONS, DefinitionCounts};
use super::forms::reason_code;
use super::{ReadStore, StoreError};
use crate::records::{AttemptTimes, DefinitionTimes};

/// Task, attempt, when it was placed, started and ended, and why it ended.
type AttemptRow = (i64, i32, Time, Option<Time>, Option<Time>, Option<String>);
type DefinitionRow = (i16, Option<Time>, Option<Time>, Option<Time>);

impl ReadStore {
    /// The latest attempts of some tasks of a job, at most `limit` of each, and of each task in their order.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn attempt_times(
        &self,
        job: JobId,
        tasks: &[TaskId],
        limit: u32,
    ) -> Result<Vec<AttemptTimes>, StoreError> {
        let Some(era) = self.era_of_job(job).await? else { return Ok(Vec::new()) };
        let tasks: Vec<i64> = tasks.iter().map(|task| task.0).collect();
        let rows: Vec<AttemptRow> = sqlx::query_as(
            "SELECT asked.task, a.attempt, a.scheduled_at, a.started_at, a.finished_at, a.reason_code \
             FROM UNNEST($1::bigint[]) AS asked(task) \
             CROSS JOIN LATERAL (SELECT * FROM attempts WHERE task_id = asked.task AND era = $2 \
                 ORDER BY attempt DESC LIMIT $3) a ORDER BY asked.task, a.attempt",
        )
        .bind(tasks)
        .bind(era)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        let times =
            |(task, attempt, scheduled_at, started_at, finished_at, reason): AttemptRow| AttemptTimes {
                task: TaskId(task),
                attempt: attempt as u32,
                scheduled_at,
                started_at,
                finished_at,
                reason: reason.as_deref().map(reason_code),
            };
        Ok(rows.into_iter().map(times).collect())
    }

    /// When the tasks of each definition of a job ran. Reads all tasks of the job, and the first attempt of each that was repeated.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn definition_times(&self, job: JobId) -> Result<Vec<DefinitionTimes>, StoreError> {
        let Some(era) = self.era_of_job(job).await? else { return Ok(Vec::new()) };
        let rows: Vec<DefinitionRow> = sqlx::query_as(
            "SELECT t.position, min(COALESCE(first.scheduled_at, t.scheduled_at)), \
                 min(COALESCE(first.started_at, t.started_at)), \
                 CASE WHEN bool_and(t.finished_at IS NOT NULL) THEN max(t.finished_at) END \
             FROM tasks t LEFT JOIN LATERAL (SELECT scheduled_at, started_at FROM attempts \
                 WHERE t.attempt > 1 AND task_id = t.id AND era = $2 ORDER BY attempt LIMIT 1) first ON true \
             WHERE t.job_id = $1 AND t.era = $2 GROUP BY t.position ORDER BY t.position",
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
        let found: Option<Json<Vec<DefinitionCounts>>> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT {DEFINITIONS} FROM jobs WHERE id = $1")))
                .bind(job.0)
                .fetch_optional(&self.pool)
                .await?;
        Ok(found.iter().flat_map(|counts| &counts.0).map(TaskCounts::from).collect())
    }
}
