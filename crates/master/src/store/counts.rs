//! Counters of tasks by state, stored with each definition.

use gaffer_domain::job::TaskCounts;
use serde::Deserialize;

/// A column for the rows of `jobs`: the counts of their definitions, in order, as JSON for [`DefinitionCounts`].
pub(super) const DEFINITIONS: &str = "(SELECT COALESCE(json_agg(d), '[]') FROM ( \
     SELECT blocked, pending, scheduled, running, stopping, completed, failed, cancelled, skipped, count, name, version, \
         update_since IS NOT NULL AS is_updating, update_problem \
     FROM task_definitions WHERE job_id = jobs.id ORDER BY position) d) AS definitions";

#[derive(Deserialize)]
pub(super) struct DefinitionCounts {
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

impl From<&DefinitionCounts> for TaskCounts {
    fn from(row: &DefinitionCounts) -> Self {
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
