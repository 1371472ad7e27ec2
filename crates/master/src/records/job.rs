//! A job without its specification, which may be large.

use std::collections::BTreeMap;

use gaffer_domain::job::{JobState, TaskCounts};
use gaffer_domain::reason::Reason;
use gaffer_domain::spec::JobKind;
use gaffer_domain::template::TemplateRef;
use gaffer_domain::{JobId, Time};

#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: JobId,
    pub name: String,
    /// Whether it runs to completion or is kept running.
    pub kind: JobKind,
    pub state: JobState,
    /// The reason of its end: of the first failed task, or of the stop.
    pub reason: Option<Reason>,
    /// What keeps all of it from being started, such as a specification that this version of the master can't read.
    pub problem: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// 0 to 100.
    pub priority: u8,
    /// It never expires.
    pub pinned: bool,
    /// Whether it has tasks that run even if it is stopped; false once it is over.
    pub has_cleanup: bool,
    /// How many tasks are in which state.
    pub task_counts: TaskCounts,
    pub created_by: String,
    /// The job that it repeats.
    pub rerun_of: Option<JobId>,
    /// The template that it was made from.
    pub template: Option<TemplateRef>,
    /// How many of its tasks did not run, because they have results of an earlier job.
    pub taken_over: u32,
    pub created_at: Time,
    /// When its first attempt started.
    pub started_at: Option<Time>,
    /// When its last task ended.
    pub finished_at: Option<Time>,
    /// How long it ran, or has been running; none before its first attempt started.
    pub ran_seconds: Option<f64>,
    /// The tasks that run, of each definition of an unfinished service, in the order of the definitions; else empty.
    pub running: Vec<RunningTasks>,
    /// How many tasks of an unfinished service run and pass their checks. None where nobody looked.
    pub available: Option<u64>,
    /// Version of its specification.
    pub version: u32,
    /// Updates that are not done.
    pub updates: Vec<JobUpdate>,
}

/// An update of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobUpdate {
    /// Name of the definition.
    pub task: String,
    /// The version that its instances are to have.
    pub version: u32,
    /// Why it does not go on.
    pub problem: Option<String>,
}

/// The running tasks of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningTasks {
    /// Name of the definition.
    pub task: String,
    pub count: u64,
    /// At how many instances it is kept.
    pub kept: u32,
    /// Whether that can be changed.
    pub can_scale: bool,
    /// They count as available only while they pass their checks.
    pub has_checks: bool,
}

impl Job {
    /// Whether nothing follows.
    pub fn is_over(&self) -> bool {
        self.finished_at.is_some()
    }

    /// Whether it is a system job without instances: no worker matches at present.
    pub fn waits_for_workers(&self) -> bool {
        self.kind.follows_workers() && self.kept() == Some(0)
    }

    /// At how many instances an unfinished service is kept; none for other jobs.
    pub fn kept(&self) -> Option<u64> {
        let kept = self.running.iter().map(|running| u64::from(running.kept));
        (!self.running.is_empty()).then(|| kept.sum())
    }
}
