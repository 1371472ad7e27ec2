//! Deletes jobs: the job row at once, everything else in batches.

use gaffer_domain::job::JobState;
use gaffer_domain::{JobId, ProjectId};

use super::forms::known;
use super::output::objects::let_go_of_tasks;
use super::{Store, StoreError, WriteStore};

/// The most tasks, pieces of output and lines of history that one transaction removes.
const SLICE_TASKS: i64 = 1_000;
const SLICE_CHUNKS: i64 = 500;
const SLICE_EVENTS: i64 = 5_000;
/// On a slow database a slice is halved down to this part of it.
const SMALLEST_SHARE: i64 = 512;

/// The outcome of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// Deleted.
    Yes,
    /// It is not over yet.
    NotOver(JobState),
    /// Not found in that project.
    Unknown,
}

impl WriteStore {
    /// Deletes a job that has ended. It disappears at once; [`Store::deletion_slice`] removes its tasks and output.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn job_delete(
        &self,
        project: ProjectId,
        job: JobId,
        actor: &str,
    ) -> Result<Deleted, StoreError> {
        let _turn = self.turn_to_write_much().await?;
        let mut tx = self.begin_short().await?;
        let row: Option<(String, i64)> = sqlx::query_as(
            "SELECT state::text, era FROM jobs WHERE id = $1 AND project_id + 0 = $2 FOR UPDATE",
        )
        .bind(job.0)
        .bind(project.0)
        .fetch_optional(&mut *tx)
        .await?;
        let Some((state, era)) = row else { return Ok(Deleted::Unknown) };
        let state: JobState = known("job state", &state)?;
        if !state.is_final() {
            return Ok(Deleted::NotOver(state));
        }
        sqlx::query("INSERT INTO deletions (job_id, era) VALUES ($1, $2)")
            .bind(job.0)
            .bind(era)
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM jobs WHERE id = $1").bind(job.0).execute(&mut *tx).await?;
        sqlx::query(
            "INSERT INTO events (project_id, at, kind, actor, message) VALUES ($1, now(), 'job.deleted', $2, $3)",
        )
        .bind(project.0)
        .bind(actor)
        .bind(format!("job {job} with its tasks, output and history"))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Deleted::Yes)
    }
}

impl Store {
    /// Deletes one batch of a deleted job's rows; returns their number, or none if nothing is left. A task is deleted
    /// after its output, so that the rest can be found after an interruption.
    ///
    /// # Errors
    /// When the database does not answer; the slice is then still there.
    pub async fn deletion_slice(&self) -> Result<Option<u64>, StoreError> {
        let mut share = 1;
        loop {
            match self.deletion_slice_of(share).await {
                Err(StoreError::TooSlow(_)) if share < SMALLEST_SHARE => share *= 2,
                result => return result,
            }
        }
    }

    /// The same with a part of the rows: half, a quarter, …
    async fn deletion_slice_of(&self, share: i64) -> Result<Option<u64>, StoreError> {
        let [most_tasks, most_chunks, most_events] =
            [SLICE_TASKS, SLICE_CHUNKS, SLICE_EVENTS].map(|most| (most / share).max(1));
        let mut tx = self.begin_short().await?;
        let job: Option<(i64, i64)> = sqlx::query_as(
            "SELECT job_id, era FROM deletions WHERE NOT waits_for_era ORDER BY job_id LIMIT 1",
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some((job, era)) = job else { return Ok(None) };
        // In any order: to sort them, all of the job would be read for each slice.
        let tasks: Vec<i64> =
            sqlx::query_scalar("SELECT id FROM tasks WHERE job_id = $1 AND era = $3 LIMIT $2")
                .bind(job)
                .bind(most_tasks)
                .bind(era)
                .fetch_all(&mut *tx)
                .await?;
        let mut rows = 0;
        if !tasks.is_empty() {
            let chunks = sqlx::query(
                "DELETE FROM output_chunks o USING ( \
                     SELECT c.part, c.place FROM UNNEST($1::bigint[]) AS gone(task), LATERAL ( \
                         SELECT tableoid AS part, ctid AS place FROM output_chunks WHERE task_id = gone.task \
                             AND task_id >= first_task($3) AND task_id < first_task($3 + 1) LIMIT $2) c LIMIT $2) chunk \
                 WHERE o.tableoid = chunk.part AND o.ctid = chunk.place \
                     AND o.task_id >= first_task($3) AND o.task_id < first_task($3 + 1)",
            )
            .bind(&tasks)
            .bind(most_chunks)
            .bind(era)
            .execute(&mut *tx)
            .await?;
            rows += chunks.rows_affected();
            // A row that was being joined when it was to be deleted has moved, and was passed over: its task stays until a
            // later slice finds it.
            let any_left: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM output_chunks WHERE task_id = ANY($1) \
                     AND task_id >= first_task($2) AND task_id < first_task($2 + 1))",
            )
            .bind(&tasks)
            .bind(era)
            .fetch_one(&mut *tx)
            .await?;
            // After the chunks: what was being moved when they were to be deleted is noted by now.
            let objects = match any_left {
                true => 0,
                false => let_go_of_tasks(&mut tx, &tasks, most_chunks).await?,
            };
            rows += objects;
            if !any_left && objects < most_chunks.unsigned_abs() {
                for sql in [
                    "DELETE FROM earlier_attempts WHERE task_id = ANY($1) \
                         AND task_id >= first_task($2) AND task_id < first_task($2 + 1)",
                    "DELETE FROM dead_letters WHERE task_id = ANY($1) \
                         AND task_id >= first_task($2) AND task_id < first_task($2 + 1)",
                    "DELETE FROM finished_tasks WHERE id = ANY($1) AND era = $2",
                    // Of a job whose specification another version had damaged.
                    "DELETE FROM live_tasks WHERE id = ANY($1) AND id >= first_task($2) AND id < first_task($2 + 1)",
                ] {
                    rows += sqlx::query(sql).bind(&tasks).bind(era).execute(&mut *tx).await?.rows_affected();
                }
            }
        } else {
            let events = sqlx::query(
                "DELETE FROM events e USING ( \
                     SELECT tableoid AS part, ctid AS place FROM events WHERE job_id = $1 AND era = $3 LIMIT $2) gone \
                 WHERE e.tableoid = gone.part AND e.ctid = gone.place AND e.era = $3",
            )
            .bind(job)
            .bind(most_events)
            .bind(era)
            .execute(&mut *tx)
            .await?;
            rows = events.rows_affected();
            if rows < most_events.unsigned_abs() {
                sqlx::query("DELETE FROM deletions WHERE job_id = $1").bind(job).execute(&mut *tx).await?;
                rows += 1;
            }
        }
        tx.commit().await?;
        Ok(Some(rows))
    }
}
