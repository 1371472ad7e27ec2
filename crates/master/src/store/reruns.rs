//! Jobs that take results of an earlier job over.

use gaffer_domain::JobId;
use gaffer_domain::rerun::{Selection, Uncompleted};
use gaffer_domain::task::StateName;
use sqlx::PgConnection;

use super::forms::{known, reason_code};
use super::{ReadStore, StoreError};

/// The results of an earlier job's tasks as tasks of a new one. A result that was taken over itself is that of the job where it
/// ran. One that was for a worker has the class of the new definition and of that worker. Nothing is inserted if the earlier job was deleted.
const TAKE_OVER: &str = "INSERT INTO finished_tasks (id, job_id, position, index, class_id, state, finished_at, reason_code, \
         reason_message, attempt, era, result_job, result_task, result_attempt) \
     SELECT nextval('live_tasks_id_seq'), j.id, d.position, o.index, COALESCE(own.id, d.class_id), o.state, j.created_at, o.reason_code, \
         o.reason_message, 0, j.era, CASE WHEN o.state = 'completed' THEN COALESCE(o.result_job, o.job_id) END, \
         CASE WHEN o.state = 'completed' THEN COALESCE(o.result_task, o.id) END, \
         CASE WHEN o.state = 'completed' THEN COALESCE(o.result_attempt, o.attempt) END \
     FROM jobs j, jobs e, \
         UNNEST($3::smallint[], $4::smallint[], $5::int[], $6::int[]) AS g(position, earlier, range_from, range_to) \
         JOIN task_definitions d ON d.job_id = $1 AND d.position = g.position, \
         LATERAL UNNEST(($7::int[])[g.range_from:g.range_to], ($8::int[])[g.range_from:g.range_to]) AS r(first, last), \
         LATERAL (SELECT * FROM finished_tasks f WHERE f.job_id = $2 AND f.era = e.era AND f.position = g.earlier \
             AND f.index BETWEEN r.first AND r.last OFFSET 0) o \
         LEFT JOIN LATERAL (SELECT own.id FROM classes was, classes own WHERE $9 AND was.id = o.class_id \
             AND own.base_id = d.class_id AND own.worker_id = was.worker_id OFFSET 0) own ON true \
     WHERE j.id = $1 AND e.id = $2";

impl ReadStore {
    /// The tasks of a finished job that did not complete.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tasks_uncompleted(&self, job: JobId) -> Result<Vec<Uncompleted>, StoreError> {
        let Some(era) = self.era_of_job(job).await? else { return Ok(Vec::new()) };
        let rows: Vec<(i16, i32, String, Option<String>)> = sqlx::query_as(
            "SELECT position, index, state::text, reason_code FROM finished_tasks \
             WHERE job_id = $1 AND era = $2 AND state <> 'completed'",
        )
        .bind(job.0)
        .bind(era)
        .fetch_all(&self.pool)
        .await?;
        let uncompleted =
            |(position, index, state, reason): (i16, i32, String, Option<String>)| -> Result<_, StoreError> {
                let state: StateName = known("task state", &state)?;
                Ok(Uncompleted {
                    position: position as usize,
                    index: index as u32,
                    is_skipped: state.is_skipped(reason.as_deref().map(reason_code)),
                })
            };
        rows.into_iter().map(uncompleted).collect()
    }
}

/// Adds the tasks of a new job that take results over; `is_for_workers`: some of them are for one worker each. False if the earlier job does not have them any more.
pub(super) async fn take_over(
    connection: &mut PgConnection,
    job: JobId,
    earlier: JobId,
    selection: &Selection,
    is_for_workers: bool,
) -> Result<bool, StoreError> {
    let (mut positions, mut places) = (Vec::new(), Vec::new());
    let mut ranges = Ranges::default();
    for (position, share) in selection.definitions().iter().enumerate() {
        let Some(earlier) = share.earlier.filter(|_| !share.taken_over.is_empty()) else { continue };
        positions.push(position as i16);
        places.push(earlier as i16);
        ranges.add(share.taken_over.iter().map(|range| (*range.start(), *range.end())));
    }
    let Ranges { from, to, firsts, lasts } = ranges;
    let added = sqlx::query(TAKE_OVER)
        .bind(job.0)
        .bind(earlier.0)
        .bind(positions)
        .bind(places)
        .bind(from)
        .bind(to)
        .bind(firsts)
        .bind(lasts)
        .bind(is_for_workers)
        .execute(connection)
        .await?;
    Ok(added.rows_affected() == u64::from(selection.taken_over()))
}

/// Ranges of indices of several definitions as arrays: those of a definition are at `from..=to` in `firsts` and `lasts`, counted
/// from 1.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    pub from: Vec<i32>,
    pub to: Vec<i32>,
    pub firsts: Vec<i32>,
    pub lasts: Vec<i32>,
}

impl Ranges {
    /// Adds those of the next definition.
    pub fn add(&mut self, ranges: impl Iterator<Item = (u32, u32)>) {
        self.from.push(self.firsts.len() as i32 + 1);
        for (first, last) in ranges {
            self.firsts.push(first as i32);
            self.lasts.push(last as i32);
        }
        self.to.push(self.firsts.len() as i32);
    }
}
