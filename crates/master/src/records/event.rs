//! One event of the history.

use gaffer_domain::{JobId, Time};

/// What changed, when, who or what caused it, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Counted up.
    pub id: i64,
    pub at: Time,
    /// What: `job.submitted`, `task.running`, `worker.online`, …
    pub kind: String,
    pub job: Option<JobId>,
    /// On which task of it, by address.
    pub task: Option<String>,
    pub attempt: Option<u32>,
    /// On, or by, which worker.
    pub worker: Option<String>,
    /// Who or what caused it.
    pub actor: String,
    /// Why, in a sentence.
    pub message: String,
}
