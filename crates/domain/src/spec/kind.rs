//! The type of a job: whether it ends, and on which workers it runs.

use serde::{Deserialize, Serialize};

use super::field::Words;
use super::restart::RestartPolicy;

/// Whether a job ends, and on which workers it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Runs to completion.
    Batch,
    /// Is kept running: its tasks are restarted by default whenever they end.
    Service,
    /// Is kept running with one instance of each task on every worker that matches, also on workers that join later.
    System,
}

impl Words for JobKind {
    const WORDS: &'static [(&'static str, JobKind, &'static str)] = &[
        ("batch", JobKind::Batch, "runs to completion"),
        ("service", JobKind::Service, "its tasks run again when they end"),
        ("system", JobKind::System, "a service with one instance on every worker that matches"),
    ];
}

impl JobKind {
    /// Every type.
    pub const ALL: [JobKind; 3] = [JobKind::Batch, JobKind::Service, JobKind::System];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        self.word()
    }

    /// Whether it is kept running until somebody stops it: such a job has versions and instances.
    pub fn is_kept_running(self) -> bool {
        match self {
            JobKind::Batch => false,
            JobKind::Service | JobKind::System => true,
        }
    }

    /// Whether the workers say which instances there are: one on each that matches.
    pub fn follows_workers(self) -> bool {
        self == JobKind::System
    }

    /// The restart policy of tasks that do not say one.
    pub(super) fn restart_policy(self) -> RestartPolicy {
        match self.is_kept_running() {
            true => RestartPolicy::Always,
            false => RestartPolicy::Never,
        }
    }
}
