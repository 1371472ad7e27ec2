//! A task and its attempts.

use gaffer_domain::placement::Receipt;
use gaffer_domain::reason::Reason;
use gaffer_domain::spec::Item;
use gaffer_domain::task::StateName;
use gaffer_domain::{JobId, TaskId, Time, WorkerId};
use gaffer_protocol::ports::NamedPort;
use gaffer_protocol::wire::{ContainerFacts, KillReceipt};

use super::AttemptHealth;

/// A task of a job, with what its latest attempt came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub id: TaskId,
    pub job: JobId,
    /// The place of its definition in the job.
    pub position: i16,
    /// Name of its definition.
    pub definition: String,
    pub index: u32,
    /// Its address: `name`, or `name.index` if the definition has several tasks.
    pub address: String,
    /// Number of its class.
    pub class: i64,
    /// Its item, if its definition has items.
    pub item: Option<Item>,
    pub driver: String,
    pub state: StateName,
    /// Why it ended as it did, or why its last attempt did if it is to be repeated.
    pub reason: Option<Reason>,
    /// What it waits for, if it is blocked: `waits for prepare to complete`. Filled in by `operations::tasks`.
    pub waits_for: Option<String>,
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
    pub not_before: Option<Time>,
    /// How much the latest attempt has written, as its worker says; none before its end.
    pub output_bytes: Option<u64>,
    /// Whether the stored output of the latest attempt is what its worker read; none if that could not be compared.
    pub output_complete: Option<bool>,
    /// When its job was accepted.
    pub created_at: Time,
    /// When its latest attempt started.
    pub started_at: Option<Time>,
    pub finished_at: Option<Time>,
    /// How long its latest attempt ran, or has been running; none before that started.
    pub ran_seconds: Option<f64>,
    /// What health checks say of its latest attempt. None where nobody looked, or it has no checks.
    pub health: Option<AttemptHealth>,
    /// Whose result it has, if it did not run itself.
    pub result_of: Option<ResultOf>,
}

/// Where a result that was taken over comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultOf {
    pub job: JobId,
    pub task: TaskId,
    /// Address of the task in that job.
    pub address: String,
    /// The attempt that completed.
    pub attempt: u32,
    /// The job was deleted, and its output with it.
    pub is_deleted: bool,
}

impl Task {
    /// Whether nothing follows.
    pub fn is_final(&self) -> bool {
        self.state.is_final()
    }

    /// Whether its latest attempt has ended and is known to have written nothing.
    pub fn wrote_nothing(&self) -> bool {
        self.is_final() && self.output_bytes == Some(0) && self.output_complete == Some(true)
    }
}

/// One execution of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// Its number, from 1.
    pub attempt: u32,
    /// Name of its worker.
    pub worker: String,
    /// Number of its worker.
    pub worker_id: WorkerId,
    pub scheduled_at: Time,
    /// When it started, by the master's clock.
    pub started_at: Option<Time>,
    /// When its end was recorded, by the master's clock.
    pub finished_at: Option<Time>,
    /// How long it ran, by a clock of its worker that only goes forward, or has been running; none before it started.
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
    /// Whether the stored output is what its worker read; none if that could not be compared.
    pub output_complete: Option<bool>,
    /// How its worker was chosen.
    pub placement: Option<Receipt>,
    pub killed: Option<KillReceipt>,
    /// The container, if it runs in one.
    pub container: Option<ContainerFacts>,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
    /// The version of its definition.
    pub version: u32,
}

/// A running task that has named ports.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskPorts {
    pub task: TaskId,
    /// The place of its definition in the job.
    pub position: i16,
    pub index: u32,
    /// Its address in its job.
    pub address: String,
    /// Number of its attempt.
    pub attempt: u32,
    /// Name of its worker.
    pub worker: String,
    pub ports: Vec<NamedPort>,
    /// Whether it counts as available. None where nobody looked, and for one without checks or results.
    pub ready: Option<bool>,
}
