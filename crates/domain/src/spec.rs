//! What a user submits: a job's specification, complete and valid, with every default made explicit.
//!
//! [`JobSpec::of`] is the only way in from untrusted data. It reports *all* mistakes at once, each with a JSON
//! pointer. Serialising a `JobSpec` gives the normal form, which is what the master stores and shows; reading the
//! normal form gives the same `JobSpec` again. What is stored is read by [`JobSpec::read_stored`], whatever the rules for
//! new input have become.

mod container;
mod read;
mod scheduling;
mod stored;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::constraint::{Constraint, Fact};
use crate::quantity::{Bytes, Cpu, Span, shown};
pub use container::{
    Container, DEFAULT_PIDS_LIMIT, Gpus, InvalidPort, InvalidVolume, Network, Port, PortProtocol, PullPolicy,
    Volume,
};
pub use read::{FieldError, MAX_SPEC_BYTES};
pub use scheduling::{Affinity, Concurrency, OnDrain, Placement, Reservation};
pub use stored::{STORED_VERSION, UnreadableSpec};

/// The most tasks that one job may have.
pub const MAX_TASKS_PER_JOB: u32 = 100_000;
/// The most task definitions that one job may have.
pub const MAX_DEFINITIONS_PER_JOB: usize = 200;

/// A valid job specification.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobSpec {
    /// Shown in lists; from the first command when the user gave none.
    pub name: String,
    /// Whether the job runs to completion or is kept running.
    #[serde(rename = "type")]
    pub kind: JobKind,
    /// 0..=100, higher goes first.
    pub priority: u8,
    /// The user's own marks, for finding the job again.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Datacenters in which it may run; empty means any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub datacenters: Vec<String>,
    /// What its workers must be; all of them hold, for every task.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// What its workers should be, for every task.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub affinities: Vec<Affinity>,
    /// How workers are chosen; none means as the installation does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// How many attempts may run beside each other; none means any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// How long a worker may be out of contact before its attempts are stopped there and lost here.
    pub lost_after: Span,
    /// At least one; names are unique; `depends_on` names other definitions and has no cycle.
    pub tasks: Vec<TaskSpec>,
}

/// `batch` runs to completion, `service` is kept running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Runs to completion.
    Batch,
    /// Is kept running: its tasks are restarted by default whenever they end.
    Service,
}

impl JobKind {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            JobKind::Batch => "batch",
            JobKind::Service => "service",
        }
    }
}

/// One task definition; it stands for as many tasks as it has indices.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskSpec {
    /// Unique in the job: a letter or digit, then letters, digits, `_` and `-`, at most 63 (no dot: `name.index` is an address).
    pub name: String,
    /// What executes it.
    pub driver: DriverKind,
    /// Its container: there is one exactly if the driver is [`DriverKind::Docker`].
    #[serde(flatten)]
    pub container: Option<Container>,
    /// Where it runs on the host: an absolute path; none means in a scratch directory of the attempt. A container has its
    /// own, [`Container::workdir`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Whether its standard input is what somebody writes through the API; else it is empty. Such a task is not repeated:
    /// what was written is not kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    /// What is executed.
    #[serde(flatten)]
    pub action: Action,
    /// Added to the environment that the worker gives; names as the kernel takes them, without the prefix `GAFFER_`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of the definitions that must complete before this one starts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// The task indices. A single task has index 0 only and is addressed by its bare name.
    #[serde(flatten)]
    pub indices: Indices,
    /// What it reserves on its worker.
    pub resources: Reservation,
    /// What its workers must be, beside what the job says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// What its workers should be, beside what the job says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub affinities: Vec<Affinity>,
    /// Over the values of this fact its tasks are spread evenly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Fact>,
    /// No two of its tasks are live on one worker.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub distinct_workers: bool,
    /// Longest time that one attempt may run; none means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// How much output one attempt may have; none means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputLimit>,
    /// When it is tried again.
    pub restart: Restart,
    /// How it is asked to end.
    pub stop: StopSpec,
}

/// How much output of one attempt is kept, and what happens beyond that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputLimit {
    /// Of both streams together.
    pub limit: Bytes,
    /// What happens when there is more.
    pub on_limit: OnLimit,
}

/// What happens to a task that writes more than it may. A marker in its output says how much is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLimit {
    /// It goes on, and what it writes is left out.
    Truncate,
    /// It is killed, and has failed.
    Kill,
}

/// A command (argument vector) or a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Program and arguments; never through a shell. Only a container's may be empty (then the image's own command
    /// runs), and the program is not an empty string.
    Command(Vec<String>),
    /// Text run by the interpreter that its `#!` line names, else by `/bin/sh`.
    Script(String),
}

/// Which task indices a definition stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Indices {
    /// `count: n`: indices 0 to n-1. At least 1.
    Count(u32),
    /// `array: "first-last"`: both included.
    #[serde(serialize_with = "read::write_array")]
    Array {
        /// Lowest index.
        first: u32,
        /// Highest index.
        last: u32,
    },
}

/// How an attempt executes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum DriverKind {
    /// A process on the worker's machine.
    Host,
    /// A container.
    Docker,
    /// A play that the job itself describes line by line; only workers started for tests offer it.
    Scripted,
}

/// What a task reserves. Reserved is what counts for placement; what is really used is measured apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a processor.
    pub cpu: Cpu,
    /// Memory in bytes; 0 reserves none.
    pub memory: Bytes,
    /// Disk in bytes; 0 reserves none.
    pub disk: Bytes,
}

/// When a task is tried again, and how soon.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Restart {
    /// After which ends.
    pub policy: RestartPolicy,
    /// At most so many repeats (of any cause) within `within`; 0 means none.
    pub limit: u32,
    /// The window in which `limit` counts, from its first repeat on; none means the whole life of the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
    /// Wait before the first repeat.
    pub delay: Span,
    /// How the wait grows from repeat to repeat.
    pub backoff: Backoff,
    /// What happens when the worker that ran it is lost.
    pub on_lost: OnLost,
}

/// After which ends a task is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Not at all.
    Never,
    /// When it failed.
    OnFailure,
    /// Whenever it ended by itself.
    Always,
}

/// Growth of the wait between repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// The same wait each time.
    Constant,
    /// Twice the last wait, at most [`crate::policy::MAX_BACKOFF`].
    Exponential,
}

/// What happens to a task whose attempt was lost with its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLost {
    /// Try again elsewhere, within the restart limit.
    Restart,
    /// The task failed.
    Fail,
}

/// How an attempt is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopSpec {
    /// The first, polite signal.
    pub signal: StopSignal,
    /// How long it has until everything it started is killed.
    pub grace: Span,
}

/// The signals that may ask a task to end, and that a user may send to a running one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum StopSignal {
    Sigterm,
    Sigint,
    Sigquit,
    Sighup,
    Sigusr1,
    Sigusr2,
    Sigkill,
}

impl DriverKind {
    /// The word used on every door.
    pub fn as_str(self) -> &'static str {
        match self {
            DriverKind::Host => "host",
            DriverKind::Docker => "docker",
            DriverKind::Scripted => "scripted",
        }
    }
}

impl StopSignal {
    /// The number on Linux.
    pub fn number(self) -> i32 {
        match self {
            StopSignal::Sighup => 1,
            StopSignal::Sigint => 2,
            StopSignal::Sigquit => 3,
            StopSignal::Sigkill => 9,
            StopSignal::Sigusr1 => 10,
            StopSignal::Sigusr2 => 12,
            StopSignal::Sigterm => 15,
        }
    }
}

/// A text that is not the name of a signal which may be sent to a task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is not a signal that a task may get: write one of {}", StopSignal::ALL.map(StopSignal::name).join(", "))]
pub struct UnknownSignal {
    name: String,
}

impl StopSignal {
    /// All of them.
    pub const ALL: [StopSignal; 7] = [
        StopSignal::Sigterm,
        StopSignal::Sigint,
        StopSignal::Sigquit,
        StopSignal::Sighup,
        StopSignal::Sigusr1,
        StopSignal::Sigusr2,
        StopSignal::Sigkill,
    ];

    /// The name as people and the C library write it: `SIGTERM`.
    pub const fn name(self) -> &'static str {
        match self {
            StopSignal::Sigterm => "SIGTERM",
            StopSignal::Sigint => "SIGINT",
            StopSignal::Sigquit => "SIGQUIT",
            StopSignal::Sighup => "SIGHUP",
            StopSignal::Sigusr1 => "SIGUSR1",
            StopSignal::Sigusr2 => "SIGUSR2",
            StopSignal::Sigkill => "SIGKILL",
        }
    }
}

impl Display for StopSignal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for StopSignal {
    type Err = UnknownSignal;

    /// Takes the name in any case, with or without its `SIG`.
    fn from_str(text: &str) -> Result<StopSignal, UnknownSignal> {
        let upper = text.to_ascii_uppercase();
        let short = upper.strip_prefix("SIG").unwrap_or(&upper);
        let known =
            StopSignal::ALL.into_iter().find(|signal| signal.name().strip_prefix("SIG") == Some(short));
        known.ok_or_else(|| UnknownSignal { name: shown(text) })
    }
}

impl Indices {
    /// The indices in order.
    pub fn iter(self) -> std::ops::RangeInclusive<u32> {
        match self {
            Indices::Count(count) => 0..=count - 1,
            Indices::Array { first, last } => first..=last,
        }
    }

    /// How many tasks there are; at least 1.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(self) -> u32 {
        match self {
            Indices::Count(count) => count,
            Indices::Array { first, last } => last - first + 1,
        }
    }

    /// Whether an address needs no index: there is only the task with index 0.
    pub fn is_single(self) -> bool {
        self == Indices::Count(1)
    }
}

impl JobSpec {
    /// Number of tasks over all definitions.
    pub fn task_count(&self) -> u32 {
        self.tasks.iter().map(|task| task.indices.len()).sum()
    }
}
