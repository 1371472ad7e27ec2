//! Waiting tasks and their reasons.

use gaffer_domain::placement::Infeasible;
use gaffer_domain::{JobId, Time, WorkerId};

/// Why the tasks of a job wait, and where the others were placed.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    pub job: JobId,
    /// The whole in one sentence.
    pub message: String,
    /// One entry for each definition that has waiting tasks, and for the first few tasks that take long to start.
    pub waiting: Vec<WaitingTasks>,
    /// For each task definition of a system job, the workers without an instance of it.
    pub without_instance: Vec<WithoutInstance>,
}

/// The workers without an instance of a definition of a system job.
#[derive(Debug, Clone, PartialEq)]
pub struct WithoutInstance {
    /// Name of the definition.
    pub task: String,
    /// Why, in one sentence.
    pub message: String,
    /// Worker by worker.
    pub workers: Vec<WorkerVerdict>,
}

/// Why tasks of one definition wait.
#[derive(Debug, Clone, PartialEq)]
pub struct WaitingTasks {
    /// Name of the definition, or the address of a task that is about to start.
    pub task: String,
    /// Number of waiting tasks.
    pub count: i64,
    /// Why, in one sentence.
    pub message: String,
    /// What would help; none if waiting does.
    pub help: Option<String>,
    /// Changes of one thing alone that would let it run at once, in sentences; those that help most come first.
    pub would_help: Vec<String>,
    /// Position of the first one in the project's queue; none if it does not wait for a worker.
    pub position: Option<QueuePosition>,
    /// Worker by worker, what keeps it out.
    pub workers: Vec<WorkerVerdict>,
}

/// A place in the queue of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePosition {
    /// Number of tasks ahead, assuming that all owners' tasks are alike.
    pub ahead: u64,
    /// Number of waiting tasks in total.
    pub waiting: u64,
}

/// What keeps one worker out.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerVerdict {
    pub worker_id: WorkerId,
    pub worker: String,
    /// The first need that it does not meet; none if it could take the task now.
    pub infeasible: Option<Infeasible>,
    /// The same as a sentence.
    pub message: String,
}

/// Waiting tasks with equal needs, priority and owner.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueClass {
    pub class: i64,
    /// Higher goes first.
    pub priority: i16,
    pub owner: String,
    /// What they need, in a few words.
    pub needs: String,
    /// The first job of which some wait.
    pub job: JobId,
    pub job_name: String,
    /// When the first of them could have been placed, or can be.
    pub since: Time,
    /// Why they wait, with what would help.
    pub why: WaitingTasks,
}
