//! Counters of tasks by state, stored with each definition.

use gaffer_domain::job::TaskCounts;
use sqlx::FromRow;

/// Reads the counts of the definitions of some jobs, in the order of the definitions.
pub(super) const COUNTS_OF_JOBS: &str = "SELECT job_id, blocked, pending, scheduled, running, stopping, completed, \
     failed, cancelled, skipped, count, name, version, update_since IS NOT NULL AS is_updating, update_problem FROM task_definitions WHERE job_id = ANY($1) ORDER BY job_id, position";

#[derive(FromRow)]
pub(super) struct CountsRow {
    pub job_id: i64,
    blocked: i64,
    pending: i64,
    scheduled: i64,
    running: i64,
    stopping: i64,
    completed: i64,
    failed: i64,
    cancelled: i64,
    /// How many of the cancelled ones were not needed, or were scaled down.
    pub skipped: i64,
    /// At how many instances it is kept, if it was scaled.
    pub count: Option<i32>,
    pub name: String,
    /// The version that its instances are to have.
    pub version: i32,
    pub is_updating: bool,
    pub update_problem: Option<String>,
}

impl From<&CountsRow> for TaskCounts {
    fn from(row: &CountsRow) -> Self {
        TaskCounts::from([
            row.blocked,
            row.pending,
            row.scheduled,
            row.running,
            row.stopping,
            row.completed,
            row.failed,
            row.cancelled,
        ])
    }
}
