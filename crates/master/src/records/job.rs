//! A job, without its specification, which may be large: whoever needs that asks for it.

use std::collections::BTreeMap;

use gaffer_domain::job::{JobState, TaskCounts};
use gaffer_domain::reason::Reason;
use gaffer_domain::spec::JobKind;
use gaffer_domain::{JobId, Time};

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// Whether it runs to completion or is kept running.
    pub kind: JobKind,
    /// Its state.
    pub state: JobState,
    /// Why it ended as it did: that of the first task that failed, or of the stop.
    pub reason: Option<Reason>,
    /// What keeps all of it from being started, such as a specification that this version of the master can't read.
    pub problem: Option<String>,
    /// The user's marks.
    pub labels: BTreeMap<String, String>,
    /// 0 to 100.
    pub priority: u8,
    /// How many tasks are in which state.
    pub task_counts: TaskCounts,
    /// Who submitted it.
    pub created_by: String,
    /// The job that it repeats.
    pub rerun_of: Option<JobId>,
    /// When it was accepted.
    pub created_at: Time,
    /// When its first attempt started.
    pub started_at: Option<Time>,
    /// When its last task ended.
    pub finished_at: Option<Time>,
    /// How long it ran, or has been running; none before its first attempt started.
    pub ran_seconds: Option<f64>,
}

impl Job {
    /// Whether nothing follows.
    pub fn is_over(&self) -> bool {
        self.finished_at.is_some()
    }
}
