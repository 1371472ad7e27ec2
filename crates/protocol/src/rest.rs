//! Bodies of the REST API. Fields may be added; existing ones stay.

mod accounts;
mod device;
mod health;
mod keys;
mod output;
mod parameters;
mod people;
mod ports;
mod problem;
mod queue;
mod reruns;
mod scale;
mod secrets;
mod stdin;
mod system;
mod templates;
mod versions;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use gaffer_domain::job::JobState;
use gaffer_domain::placement::{Infeasible, Receipt};
use gaffer_domain::quantity::Span;
use gaffer_domain::reason::Reason;
use gaffer_domain::spec::{DriverKind, Item};
use gaffer_domain::task::StateName;
use gaffer_domain::worker::{Intake, WorkerState};
use gaffer_domain::{JobId, WorkerId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::audit::{AuditEntry, AuditOutcome};
use crate::ports::NamedPort;
use crate::wire::{ContainerFacts, DriverStatus, KillReceipt};
pub use accounts::{Invitation, NewInvitation, Session};
pub use device::{DeviceAuthorization, DeviceKey, DeviceRequest, DeviceTokenRequest};
pub use health::{CheckedResult, HealthResult, TaskChecks, TaskHealth};
pub use keys::{Key, NewKey, RotateRequest};
pub use output::{OutputData, OutputLine, OutputMatch, OutputSearched};
pub use parameters::{JobSource, ParameterValue, SubmitRequest};
pub use people::{
    Member, NewProject, NewUser, Project, QuotaUsage, Quotas, SetMember, SetProject, SetQuota, User,
};
pub use ports::{
    TargetGroup, TaskPorts, TraefikBalancer, TraefikConfiguration, TraefikHttp, TraefikServer, TraefikService,
};
pub use problem::{Problem, ProblemField};
pub use queue::{Pass, Passes, Queue, QueueClass};
pub use reruns::{RERUN_IN_PART, RerunRequest, ResultOf};
pub use scale::ScaleRequest;
pub use secrets::{Secret, SecretText};
pub use stdin::{StdinPosition, StdinState};
pub use system::{
    BackgroundLoop, DeadLetter, LockedJob, OutputStoreCheck, RetentionEra, RetentionPreview, SecretsState,
    System, TlsState, Trouble,
};
pub use templates::{JobTemplate, Template, TemplateParameter, TemplateVersion, TemplateVersionEntry};

pub use versions::{
    FieldDifference, JobVersion, JobVersions, PromoteRequest, RollbackRequest, ServiceDiff, ServiceUpdate,
};

/// What a job can be.
const JOB_KINDS: [&str; 3] = ["batch", "service", "system"];

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "{T}List")]
pub struct Page<T> {
    /// The entries of this page.
    pub items: Vec<T>,
    /// `cursor` of the next page; null on the last page.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// The same page with other entries.
    pub fn map<U>(self, entry: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(entry).collect(), next_cursor: self.next_cursor }
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// Job number.
    pub id: JobId,
    /// Name of the job.
    pub name: String,
    /// `batch` runs to completion, `service` is kept running.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = JOB_KINDS))]
    pub kind: String,
    /// State of the job.
    #[schemars(extend("enum" = JobState::ALL.map(JobState::as_str)))]
    pub state: String,
    /// Why the job ended as it did: the reason of the first task that failed, or of the stop.
    pub reason: Option<Reason>,
    /// Why no task of the job can be started, such as a specification that this version of the master cannot read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Labels of the job.
    pub labels: BTreeMap<String, String>,
    /// Priority, 0 to 100; higher goes first.
    pub priority: u8,
    /// Whether the job is kept whatever its retention is.
    #[serde(default)]
    pub pinned: bool,
    /// Number of tasks by task state; states without a task are left out.
    pub task_counts: BTreeMap<String, i64>,
    /// Number of tasks of a running service that run and pass their checks. Only where one job is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<u64>,
    /// Number of instances that a running service is kept at, by task definition. Empty for other jobs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub instances: BTreeMap<String, u32>,
    /// Version of the specification: 1, and one more for each update of a service.
    #[serde(default = "first_version")]
    pub version: u32,
    /// Updates of a service that are not done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub updates: Vec<ServiceUpdate>,
    /// Name of the user who submitted the job.
    pub created_by: String,
    /// Number of the job that this one repeats.
    pub rerun_of: Option<JobId>,
    /// Number of tasks that did not run in this job: they have the results of an earlier one.
    #[serde(default)]
    pub taken_over: u32,
    /// The template that the job was made from.
    #[serde(default)]
    pub template: Option<JobTemplate>,
    /// When the job was accepted.
    pub created_at: DateTime<Utc>,
    /// When its first attempt started.
    pub started_at: Option<DateTime<Utc>>,
    /// When its last task ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// How long the job ran, or has been running, in seconds; null before its first attempt starts.
    #[serde(default)]
    pub ran_seconds: Option<f64>,
    /// Values of the job's parameters by name, as they are in the environment of its tasks. A list has them only with
    /// `spec=1`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// What may be a mistake in the specification. Only in the answer to a request that submits the job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<ProblemField>,
    /// The specification with every default made explicit. A list has it only with `spec=1`.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub spec: serde_json::Value,
}

fn first_version() -> u32 {
    1
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

    /// How many tasks it has; of a service, at how many it is kept.
    pub fn tasks_in_all(&self) -> i64 {
        match self.instances.is_empty() {
            true => self.task_counts.values().sum(),
            false => self.instances.values().copied().map(i64::from).sum(),
        }
    }
}

/// A task of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Task {
    /// Job number.
    pub job: JobId,
    /// Name of the task definition.
    pub task: String,
    /// Index of the task within its definition, from 0 unless the job says otherwise.
    pub index: u32,
    /// Address of the task in paths: `name`, or `name.index` if the definition has several tasks.
    pub address: String,
    /// Item of the task, if its definition has `each`: a text, or an object of texts for a matrix.
    #[serde(default)]
    pub item: Option<Item>,
    /// What executes the task.
    #[schemars(with = "DriverKind")]
    pub driver: String,
    /// State of the task.
    #[schemars(extend("enum" = StateName::ALL.map(StateName::as_str)))]
    pub state: String,
    /// Why the task ended as it did, or why its latest attempt did if the task is to be repeated.
    pub reason: Option<Reason>,
    /// What a blocked task waits for, such as `waits for prepare to complete`.
    #[serde(default)]
    pub waits_for: Option<String>,
    /// Exit code of the latest attempt.
    pub exit_code: Option<i32>,
    /// Number of the signal that ended the latest attempt.
    pub signal: Option<i32>,
    /// Number of the latest attempt; 0 before the first.
    pub attempt: u32,
    /// Name of the worker of the latest attempt.
    pub worker: Option<String>,
    /// Number of that worker.
    pub worker_id: Option<WorkerId>,
    /// If the task is to be repeated: its earliest start.
    pub not_before: Option<DateTime<Utc>>,
    /// Whether the stored output of the latest attempt equals what its worker read; null if the two could not be
    /// compared.
    #[serde(default)]
    pub output_complete: Option<bool>,
    /// When its job was accepted.
    pub created_at: DateTime<Utc>,
    /// When its latest attempt started.
    pub started_at: Option<DateTime<Utc>>,
    /// When the task ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// How long its latest attempt ran, or has been running, in seconds, by a monotonic clock of its worker; null
    /// before it starts.
    #[serde(default)]
    pub ran_seconds: Option<f64>,
    /// What the health check says of the latest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<TaskHealth>,
    /// What the readiness check says of the latest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<TaskHealth>,
    /// Whether the latest attempt counts as available while it runs, if its checks have results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// For a task that did not run in this job, but has the result of an earlier one: where it ran. Its output is read at its
    /// own address, too.
    #[serde(default)]
    pub result_of: Option<ResultOf>,
}

impl Task {
    /// Its state; none if a newer master has one that this version does not know.
    pub fn known_state(&self) -> Option<StateName> {
        self.state.parse().ok()
    }
}

/// A task with its attempts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskDetail {
    /// The task.
    #[serde(flatten)]
    pub task: Task,
    /// Attempts of the task, latest first.
    pub attempts: Vec<Attempt>,
}

/// One execution of a task on one worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Name of its worker.
    pub worker: String,
    /// Number of its worker.
    pub worker_id: WorkerId,
    /// When it was placed on its worker.
    pub scheduled_at: DateTime<Utc>,
    /// When it started, by the master's clock.
    pub started_at: Option<DateTime<Utc>>,
    /// When its end was recorded, by the master's clock.
    pub finished_at: Option<DateTime<Utc>>,
    /// How long it ran, or has been running, in seconds, by a monotonic clock of its worker; null before it starts.
    #[serde(default)]
    pub ran_seconds: Option<f64>,
    /// Why it ended; null while it runs and after success.
    pub reason: Option<Reason>,
    /// Exit code of its process.
    pub exit_code: Option<i32>,
    /// Number of the signal that ended its process.
    pub signal: Option<i32>,
    /// Bytes of output stored.
    pub output_bytes: u64,
    /// Line ends in that output.
    pub output_lines: u64,
    /// SHA-256 of the whole output as the worker read it, in hexadecimal; null until the attempt has ended.
    pub output_sha256: Option<String>,
    /// Whether the stored output equals what the worker read, by length and checksum; null if the two could not be
    /// compared: the attempt has not ended, was lost, or the master was restarted meanwhile.
    #[serde(default)]
    pub output_complete: Option<bool>,
    /// How its worker was chosen.
    pub placement: Option<Receipt>,
    /// What was killed when it ended.
    pub killed: Option<KillReceipt>,
    /// Its container, if it ran in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerFacts>,
    /// Its named ports, once it has started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NamedPort>,
    /// The version of the job whose definition of the task it has.
    #[serde(default = "first_version")]
    pub version: u32,
}

/// Amounts of resources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Amounts {
    /// CPU cores.
    pub cpu: f64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Disk in bytes.
    pub disk_bytes: u64,
    /// Countable resources by name, such as `gpu`.
    #[serde(default)]
    pub countables: BTreeMap<String, u32>,
}

/// How to drain a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Attempts that are left after this time move to other workers: a duration such as `1h30m` or a number of seconds,
    /// at most 7 days. Without a deadline, batch tasks may take as long as they need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("type" = ["string", "number", "null"], "examples" = ["1h30m"]))]
    pub deadline: Option<Span>,
}

/// How to stop a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// Whether to stop its tasks with `when: always`, too. Otherwise these run once the others have ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// A signal to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// Name of the signal, with or without `SIG`.
    #[schemars(extend("examples" = ["SIGUSR1"]))]
    pub signal: String,
}

/// Progress of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Draining {
    /// When attempts that are left move to other workers.
    pub until: Option<DateTime<Utc>>,
    /// When the worker had no attempts left; null while it has some.
    pub drained_at: Option<DateTime<Utc>>,
}

/// What a worker's machine is using, by tasks or anything else.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Busy share of all CPU cores, 0 to 1.
    pub cpu: Option<f64>,
    /// Memory in use, in bytes.
    pub memory_bytes: u64,
    /// Memory of the machine, in bytes.
    pub memory_total_bytes: u64,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Bytes in use on the file system of the worker's data directory.
    pub disk_bytes: u64,
    /// Size of that file system in bytes.
    pub disk_total_bytes: u64,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Worker {
    /// Worker number.
    pub id: WorkerId,
    /// Name of the worker, unique in its project.
    pub name: String,
    /// Whether the worker takes tasks of other projects, too.
    #[serde(default)]
    pub shared: bool,
    /// Whether the worker belongs to this project. Of a shared worker of another project, `usage`, `warnings` and
    /// `clock_ahead_seconds` are not shown, and it cannot be drained, cordoned or removed.
    #[serde(default = "yes")]
    pub own: bool,
    /// State of the worker.
    #[schemars(with = "WorkerState")]
    pub state: String,
    /// Whether the worker accepts new tasks, connected or not.
    #[serde(default)]
    #[schemars(extend("enum" = Intake::ALL.map(Intake::as_str)))]
    pub intake: String,
    /// Progress of the drain; null if the worker is not to drain.
    pub draining: Option<Draining>,
    /// Datacenter of the worker.
    pub datacenter: String,
    /// Labels of the worker.
    pub labels: BTreeMap<String, String>,
    /// What the worker offers.
    pub capacity: Amounts,
    /// What tasks have reserved of that, those of other projects included.
    pub allocated: Amounts,
    /// What its machine is using; null if the worker is not connected, or belongs to another project.
    pub usage: Option<Usage>,
    /// Drivers of the worker.
    pub drivers: Vec<DriverStatus>,
    /// Number of attempts of this project that the worker executes.
    pub running: i64,
    /// Number of attempts of this project that wait on the worker for their start.
    pub waiting: i64,
    /// Version of the worker's program.
    pub version: String,
    /// CPU architecture.
    pub arch: String,
    /// Operating system.
    pub os: String,
    /// What the operator of the worker should know.
    pub warnings: Vec<String>,
    /// How far the worker's clock is ahead of the master's, in seconds; negative if it is behind, null until it is
    /// measured.
    #[serde(default)]
    pub clock_ahead_seconds: Option<f64>,
    /// When the worker first connected.
    pub created_at: DateTime<Utc>,
    /// When the master last heard from the worker.
    pub last_seen_at: DateTime<Utc>,
}

fn yes() -> bool {
    true
}

/// Load of a worker at one time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// When the sample was taken.
    pub at: DateTime<Utc>,
    /// Share of the offered CPU cores that tasks have reserved, 0 to 1.
    pub cpu_allocated: f64,
    /// Busy share of all CPU cores of the machine, 0 to 1.
    pub cpu_used: Option<f64>,
    /// Share of the offered memory that tasks have reserved, 0 to 1.
    pub memory_allocated: f64,
    /// Share of the machine's memory that is in use, 0 to 1.
    pub memory_used: f64,
    /// Number of attempts of its project that the worker executed.
    pub running: i64,
}

/// A link that signs in to the dashboard, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LoginLink {
    /// Address to open in a browser; it signs in once.
    pub url: String,
    /// When the link expires.
    pub expires_at: DateTime<Utc>,
}

/// One line of history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Event number. `Last-Event-ID` or `after` with this number continues after the event.
    pub id: i64,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// What happened, such as `job.submitted`, `task.running` or `worker.online`.
    pub kind: String,
    /// Job number.
    pub job: Option<JobId>,
    /// Address of the task.
    pub task: Option<String>,
    /// Number of the attempt.
    pub attempt: Option<u32>,
    /// Name of the worker.
    pub worker: Option<String>,
    /// Who or what caused the event.
    pub actor: String,
    /// Why it happened, in a sentence.
    pub message: String,
}

/// Why the tasks of a job wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// Job number.
    pub job: JobId,
    /// Summary in one sentence.
    pub message: String,
    /// One entry for each task definition with waiting tasks, and for the first few tasks that take long to start.
    pub waiting: Vec<WaitingTasks>,
    /// For each task definition of a job of `type: system`, the workers without an instance of it. Definitions with an instance on
    /// every worker are left out.
    #[serde(default)]
    pub without_instance: Vec<WithoutInstance>,
}

/// The workers without an instance of one definition of a job of `type: system`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WithoutInstance {
    /// Name of the task definition.
    pub task: String,
    /// Summary in one sentence.
    pub message: String,
    /// For each of these workers, the reason.
    pub workers: Vec<WorkerVerdict>,
}

/// Why tasks of one definition wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WaitingTasks {
    /// Name of the task definition, or address of a task that is about to start.
    pub task: String,
    /// Number of tasks that wait.
    pub count: i64,
    /// Why they wait, in one sentence.
    pub message: String,
    /// What would help; null if waiting does.
    pub help: Option<String>,
    /// Single changes that would let the task run at once, in sentences, the most helpful first.
    #[serde(default)]
    pub would_help: Vec<String>,
    /// Position of the first of them in the queue of its project; null if it does not wait for a worker.
    #[serde(default)]
    pub line: Option<PlaceInLine>,
    /// For each worker, the reason why it cannot run the task.
    pub workers: Vec<WorkerVerdict>,
}

/// A position in the queue of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlaceInLine {
    /// Number of tasks that go first, if the tasks of all owners are alike.
    pub ahead: u64,
    /// Number of tasks that wait in all.
    pub waiting: u64,
}

/// What keeps one worker out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerVerdict {
    /// Worker number.
    pub worker_id: WorkerId,
    /// Name of the worker.
    pub worker: String,
    /// The first requirement that the worker does not meet; null if it could take the task now.
    pub unfit: Option<Infeasible>,
    /// The same as a sentence.
    pub message: String,
}

/// What is running.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// `gaffer`.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Version of the worker protocol.
    pub worker_protocol: u32,
    /// What this server understands that earlier ones pass over in silence: `rerun_in_part` is `failed`, `from` and `spec` of a
    /// rerun.
    #[serde(default)]
    pub features: Vec<String>,
}
