//! Bodies of the REST API. Fields may be added; existing ones stay.

mod output;
mod stdin;
mod system;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use gaffer_domain::job::JobState;
use gaffer_domain::placement::{Infeasible, Receipt};
use gaffer_domain::quantity::Span;
use gaffer_domain::reason::Reason;
use gaffer_domain::task::StateName;
use gaffer_domain::{JobId, WorkerId};
use serde::{Deserialize, Serialize};

use crate::wire::{ContainerFacts, DriverStatus, KillReceipt};
pub use output::{OutputData, OutputLine};
pub use stdin::{StdinPosition, StdinState};
pub use system::{BackgroundLoop, DeadLetter, LockedJob, System, Trouble};

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Give it as `cursor` to get the next page; none on the last.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// The same page with other entries.
    pub fn map<U>(self, entry: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(entry).collect(), next_cursor: self.next_cursor }
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// `batch` or `service`.
    #[serde(rename = "type")]
    pub kind: String,
    /// One of `pending`, `running`, `stopping`, `completed`, `failed`, `cancelled`.
    pub state: String,
    /// Why it ended as it did: that of the first task that failed, or of the stop.
    pub reason: Option<Reason>,
    /// What keeps all of it from being started, such as a specification that this version of the master can't read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The user's marks.
    pub labels: BTreeMap<String, String>,
    /// 0 to 100.
    pub priority: u8,
    /// How many tasks are in which state; states without a task are left out.
    pub task_counts: BTreeMap<String, i64>,
    /// Who submitted it.
    pub created_by: String,
    /// The job that this one repeats.
    pub rerun_of: Option<JobId>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When its first attempt started.
    pub started_at: Option<DateTime<Utc>>,
    /// When its last task ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// How long it ran, or has been running; none before its first attempt started.
    #[serde(default)]
    pub ran_seconds: Option<f64>,
    /// The whole specification, every default explicit. A list leaves it out if asked to (`spec=0`).
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub spec: serde_json::Value,
}

impl Job {
    /// Its state; none if a newer master has one that this version does not know.
    pub fn known_state(&self) -> Option<JobState> {
        self.state.parse().ok()
    }

    /// How many of its tasks are in a state.
    pub fn tasks_in(&self, state: StateName) -> i64 {
        self.task_counts.get(state.as_str()).copied().unwrap_or(0)
    }
}

/// A task of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its job.
    pub job: JobId,
    /// Name of its definition.
    pub task: String,
    /// Its index.
    pub index: u32,
    /// How to address it: `name`, or `name.index` where there are several.
    pub address: String,
    /// What executes it.
    pub driver: String,
    /// One of the eight task states.
    pub state: String,
    /// Why it ended as it did, or why its last attempt did if it is to be repeated.
    pub reason: Option<Reason>,
    /// Exit code of the latest attempt.
    pub exit_code: Option<i32>,
    /// Signal that ended the latest attempt.
    pub signal: Option<i32>,
    /// Number of the latest attempt; 0 before the first.
    pub attempt: u32,
    /// Name of the worker of the latest attempt.
    pub worker: Option<String>,
    /// Number of that worker.
    pub worker_id: Option<WorkerId>,
    /// If it is to be repeated: not before then.
    pub not_before: Option<DateTime<Utc>>,
    /// Whether the stored output of the latest attempt is what its worker read; none if that could not be compared.
    #[serde(default)]
    pub output_complete: Option<bool>,
    /// When its job was accepted.
    pub created_at: DateTime<Utc>,
    /// When its latest attempt started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// How long its latest attempt ran, by a clock of its worker that only goes forward, or has been running; none before
    /// that started.
    #[serde(default)]
    pub ran_seconds: Option<f64>,
}

impl Task {
    /// Its state; none if a newer master has one that this version does not know.
    pub fn known_state(&self) -> Option<StateName> {
        self.state.parse().ok()
    }
}

/// A task with its attempts, latest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskDetail {
    /// The task.
    #[serde(flatten)]
    pub task: Task,
    /// Its attempts.
    pub attempts: Vec<Attempt>,
}

/// One execution of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number, from 1.
    pub attempt: u32,
    /// Name of its worker.
    pub worker: String,
    /// Number of its worker.
    pub worker_id: WorkerId,
    /// When it was placed.
    pub scheduled_at: DateTime<Utc>,
    /// When it started, by the master's clock.
    pub started_at: Option<DateTime<Utc>>,
    /// When its end was recorded, by the master's clock.
    pub finished_at: Option<DateTime<Utc>>,
    /// How long it ran, by a clock of its worker that only goes forward, or has been running; none before it started.
    #[serde(default)]
    pub ran_seconds: Option<f64>,
    /// Why it ended; none while it runs and after a success.
    pub reason: Option<Reason>,
    /// Exit code of its process.
    pub exit_code: Option<i32>,
    /// Signal that ended its process.
    pub signal: Option<i32>,
    /// Bytes of output stored.
    pub output_bytes: u64,
    /// Line ends in it.
    pub output_lines: u64,
    /// SHA-256 of the whole output as its worker read it, once the attempt has ended.
    pub output_sha256: Option<String>,
    /// Whether the stored output is what its worker read, by length and checksum; none if that could not be compared: it is
    /// not over, was lost, or the master was restarted meanwhile.
    #[serde(default)]
    pub output_complete: Option<bool>,
    /// How its worker was chosen.
    pub placement: Option<Receipt>,
    /// What ending it took.
    pub killed: Option<KillReceipt>,
    /// What it ran in, if that is a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerFacts>,
}

/// Amounts of what a worker has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Amounts {
    /// Processors.
    pub cpu: f64,
    /// Memory.
    pub memory_bytes: u64,
    /// Disk.
    pub disk_bytes: u64,
    /// Countable resources by name, such as `gpu`.
    #[serde(default)]
    pub countables: BTreeMap<String, u32>,
}

/// How a worker is to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// After so long, all that it still has moves; without one, batch tasks that do not move may take as long as they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
}

/// How far a worker is with draining.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// From then on, all that it still has moves.
    pub until: Option<DateTime<Utc>>,
    /// When it had nothing left; none while it has.
    pub drained_at: Option<DateTime<Utc>>,
}

/// What a worker's machine is doing, tasks or not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Busy share of all processors, 0 to 1.
    pub cpu: Option<f64>,
    /// Memory in use.
    pub memory_bytes: u64,
    /// Memory of the machine.
    pub memory_total_bytes: u64,
    /// Load averages of 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// In use on the file system of the worker's data directory.
    pub disk_bytes: u64,
    /// Its size.
    pub disk_total_bytes: u64,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its number.
    pub id: WorkerId,
    /// Its name, unique in the project.
    pub name: String,
    /// `online`, `cordoned`, `draining`, `offline` or `lost`.
    pub state: String,
    /// What its operator wants it to take, connected or not: `open`, `cordoned` or `draining`.
    #[serde(default)]
    pub intake: String,
    /// How far it is, if it is to drain.
    pub draining: Option<Draining>,
    /// Where it stands.
    pub datacenter: String,
    /// Its operator's marks.
    pub labels: BTreeMap<String, String>,
    /// What it offers.
    pub capacity: Amounts,
    /// What its tasks have reserved of that.
    pub allocated: Amounts,
    /// What its machine is doing; none when it is not connected.
    pub usage: Option<Usage>,
    /// What it can execute with.
    pub drivers: Vec<DriverStatus>,
    /// Attempts that it executes.
    pub running: i64,
    /// Attempts that wait on it.
    pub waiting: i64,
    /// Version of its program.
    pub version: String,
    /// Processor architecture.
    pub arch: String,
    /// Operating system.
    pub os: String,
    /// What its operator should know.
    pub warnings: Vec<String>,
    /// How far its clock is ahead of the master's, less than 0 if it is behind; none until that is measured.
    #[serde(default)]
    pub clock_ahead_seconds: Option<f64>,
    /// When it first dialled in.
    pub created_at: DateTime<Utc>,
    /// When it was last heard of.
    pub last_seen_at: DateTime<Utc>,
}

/// How a worker was doing at a moment: shares of what it offers, and of what its machine has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub at: DateTime<Utc>,
    /// Reserved by tasks.
    pub cpu_allocated: f64,
    /// Busy, whoever it was.
    pub cpu_used: Option<f64>,
    /// Reserved by tasks.
    pub memory_allocated: f64,
    /// In use, by whomever.
    pub memory_used: f64,
    /// Attempts that it executed.
    pub running: i64,
}

/// A key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// Its number.
    pub id: i64,
    /// `worker` or `user`.
    pub kind: String,
    /// What it is for.
    pub name: String,
    /// How the key begins, to recognise it by.
    pub prefix: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to about a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// From when on it is refused.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// The key itself: once, in the answer to its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What to make a key from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// `worker` or `user`.
    pub kind: String,
    /// What it is for.
    pub name: String,
    /// How long it is good for, in seconds; none means until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
}

/// A link that signs in to the dashboard, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoginLink {
    /// Open this in a browser.
    pub url: String,
    /// It is refused from then on.
    pub expires_at: DateTime<Utc>,
}

/// One line of history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counted up; give it as `Last-Event-ID` to go on after it.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// What: `job.submitted`, `task.running`, `worker.online`, …
    pub kind: String,
    /// On which job.
    pub job: Option<JobId>,
    /// On which task of it, by address.
    pub task: Option<String>,
    /// Which attempt.
    pub attempt: Option<u32>,
    /// On, or by, which worker.
    pub worker: Option<String>,
    /// Who or what caused it.
    pub actor: String,
    /// Why, in a sentence.
    pub message: String,
}

/// Why the tasks of a job wait, and where the others were placed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The job.
    pub job: JobId,
    /// The whole in one sentence.
    pub message: String,
    /// One entry for each definition that has waiting tasks, and for the first few tasks that take long to start.
    pub waiting: Vec<WaitingTasks>,
}

/// Why tasks of one definition wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaitingTasks {
    /// Name of the definition, or the address of a task that is about to start.
    pub task: String,
    /// So many of its tasks wait.
    pub count: i64,
    /// Why, in one sentence.
    pub message: String,
    /// What would help; none if waiting does.
    pub help: Option<String>,
    /// Changes of one thing alone that would let it run at once, in sentences; those that help most come first.
    #[serde(default)]
    pub would_help: Vec<String>,
    /// Where the first of them stands in the queue of its project; none if it does not wait for a worker.
    #[serde(default)]
    pub line: Option<PlaceInLine>,
    /// Worker by worker, what keeps it out.
    pub workers: Vec<WorkerVerdict>,
}

/// A place in the queue of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceInLine {
    /// So many tasks go first, if all owners' tasks are alike and take turns.
    pub ahead: u64,
    /// So many wait in all.
    pub waiting: u64,
}

/// What waits for workers, and how the scheduler does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// How workers are chosen for jobs that do not say.
    pub strategy: String,
    /// So many tasks wait.
    pub waiting: u64,
    /// Since when the first of them could have been placed.
    pub waiting_since: Option<DateTime<Utc>>,
    /// The scheduler's passes since the master started.
    pub passes: Passes,
    /// What waits, by class, in the order in which it will go; at most 100.
    pub classes: Vec<QueueClass>,
}

/// How the scheduler has done since the master started, and lately: for all projects, and so told to the first project only,
/// that of the installation's operator.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Passes {
    /// So many passes had something to do.
    pub count: u64,
    /// The last ones, oldest first; at most 300.
    pub recent: Vec<Pass>,
}

/// One pass of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// When it began.
    pub at: DateTime<Utc>,
    /// How long it took in all, with the database, in microseconds.
    pub micros: u64,
    /// How long the decision alone took.
    pub decision_micros: u64,
}

/// Waiting tasks with equal needs, priority and owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueClass {
    /// Its number.
    pub class: i64,
    /// Higher goes first.
    pub priority: i16,
    /// Who submitted them.
    pub owner: String,
    /// What they need, in a few words.
    pub needs: String,
    /// The first job of which some wait.
    pub job: JobId,
    /// Its name.
    pub job_name: String,
    /// When the first of them could have been placed, or can be.
    pub since: DateTime<Utc>,
    /// Why they wait, with what would help.
    #[serde(flatten)]
    pub why: WaitingTasks,
}

/// What keeps one worker out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerVerdict {
    /// Its number.
    pub worker_id: WorkerId,
    /// Its name.
    pub worker: String,
    /// The first need that it does not meet; none if it could take the task now.
    pub unfit: Option<Infeasible>,
    /// The same as a sentence.
    pub message: String,
}

/// What is running here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// `gaffer`.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Version of the protocol that workers speak.
    pub worker_protocol: u32,
}

/// What went wrong, as RFC 9457 has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// `about:blank`: the code says more than a page would.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// Stable, for programs.
    pub code: String,
    /// For people.
    pub detail: String,
    /// Names this request in the master's log.
    #[serde(default)]
    pub request_id: String,
    /// For conflicts: the state that does not allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The fields at fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemField>,
}

/// One field at fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProblemField {
    /// JSON pointer into the body, or `query:name`, or `header:name`.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
    /// What may have been meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}
