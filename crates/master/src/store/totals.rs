//! Totals over all projects, for the metrics.

use gaffer_domain::Time;
use gaffer_domain::job::TaskCounts;
use sqlx::FromRow;

use super::{ReadStore, StoreError};
use crate::records::{LetterKind, PriorityTotals};

/// Dead letters are counted up to this number.
const MAX_LETTERS: i64 = 10_000;

/// How much of everything there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Unfinished tasks by priority.
    pub unfinished: Vec<PriorityTotals>,
    pub dead_letters: [(LetterKind, i64); 2],
}

impl Default for Totals {
    fn default() -> Totals {
        let dead_letters = [(LetterKind::Output, 0), (LetterKind::Report, 0)];
        Totals { unfinished: Vec::new(), dead_letters }
    }
}

#[derive(FromRow)]
struct PriorityRow {
    priority: i16,
    blocked: i64,
    pending: i64,
    scheduled: i64,
    running: i64,
    stopping: i64,
    first: Option<Time>,
}

impl ReadStore {
    /// Counts unfinished tasks and dead letters. Costs a look at each unfinished job, and nothing for finished ones: in the
    /// order of the index on unfinished jobs no plan reads others.
    ///
    /// # Errors
    /// When the database does not answer in time.
    pub async fn totals(&self) -> Result<Totals, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let rows: Vec<PriorityRow> = sqlx::query_as(
            "WITH counted AS ( \
                 SELECT d.class_id, sum(d.blocked) AS blocked, sum(d.pending) AS pending, \
                     sum(d.scheduled) AS scheduled, sum(d.running) AS running, sum(d.stopping) AS stopping \
                 FROM projects p, LATERAL (SELECT id FROM jobs WHERE project_id = p.id AND finished_at IS NULL \
                     ORDER BY project_id, id DESC) j \
                 JOIN task_definitions d ON d.job_id = j.id GROUP BY d.class_id) \
             SELECT c.priority, sum(counted.blocked)::bigint AS blocked, sum(counted.pending)::bigint AS pending, \
                 sum(counted.scheduled)::bigint AS scheduled, sum(counted.running)::bigint AS running, \
                 sum(counted.stopping)::bigint AS stopping, min(head.first) AS first \
             FROM counted JOIN classes c ON c.id = counted.class_id, \
             LATERAL (SELECT min(waiting.first) AS first FROM (SELECT counted.class_id AS id \
                     UNION ALL SELECT id FROM classes WHERE base_id = counted.class_id) of, \
                 LATERAL (SELECT min(not_before) AS first FROM live_tasks \
                     WHERE state = 'pending' AND class_id = of.id) waiting) head \
             GROUP BY c.priority",
        )
        .fetch_all(&mut *connection)
        .await?;
        let letters: Vec<(String, i64)> = sqlx::query_as(
            "SELECT kind, count(*) FROM (SELECT kind FROM dead_letters LIMIT $1) letters GROUP BY kind",
        )
        .bind(MAX_LETTERS)
        .fetch_all(&mut *connection)
        .await?;
        let mut totals =
            Totals { unfinished: rows.iter().map(PriorityTotals::from).collect(), ..Totals::default() };
        for (kind, count) in &mut totals.dead_letters {
            *count = letters.iter().find(|(known, _)| known == kind.as_str()).map_or(0, |(_, count)| *count);
        }
        Ok(totals)
    }
}

impl From<&PriorityRow> for PriorityTotals {
    fn from(row: &PriorityRow) -> PriorityTotals {
        let PriorityRow { priority, blocked, pending, scheduled, running, stopping, first } = *row;
        let counts = TaskCounts::from([blocked, pending, scheduled, running, stopping, 0, 0, 0]);
        PriorityTotals { priority, counts, waiting_since: first }
    }
}
