//! The input and outcome of one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gaffer_domain::job::JobState;
use gaffer_domain::placement::{DefinitionRef, Receipt};
use gaffer_domain::scale::Refused;
use gaffer_domain::spec::{Item, JobSpec};
use gaffer_domain::system_jobs::Plan;
use gaffer_domain::task::{Rejected, TaskEvent};
use gaffer_domain::{AttemptRef, JobId, ProjectId, TaskId, Time, WorkerId};
use gaffer_protocol::definitions::Definition;
use gaffer_protocol::ports::NamedPort;
use gaffer_protocol::wire::{ContainerFacts, Ended};

use super::super::output::{ChunkRow, ReceivedOutput};
use super::SLICE_TASKS;
use crate::records::{LiveChange, TaskChanges};

/// Changes applied together.
#[derive(Debug)]
pub struct Batch {
    /// Events, in the order in which they happened.
    pub inputs: Vec<Input>,
    /// Jobs to be stopped, with all their tasks.
    pub stops: Vec<StopJob>,
    /// Services to be scaled.
    pub scales: Vec<ScaleJob>,
    /// Steps of updates.
    pub steps: Vec<UpdateStep>,
    /// Continued jobs that were too large for one transaction.
    pub slices: Vec<JobSlice>,
    /// Output to be stored.
    pub chunks: Vec<ChunkRow>,
    /// Whether a job is left alone if another transaction holds a task of it, as one that is held itself always is. To find
    /// that out locks each task, which writes its row: for a batch that has met such a lock.
    pub passes_over_locked: bool,
    /// Maximum number of tasks to change for stops and dependencies; what is left is in [`Outcome::unfinished`].
    pub slice_tasks: usize,
}

impl Batch {
    /// Whether it has something for whole jobs, of which tasks are looked for.
    pub(super) fn is_about_jobs(&self) -> bool {
        !(self.stops.is_empty() && self.scales.is_empty() && self.steps.is_empty() && self.slices.is_empty())
    }
}

impl Default for Batch {
    fn default() -> Batch {
        Batch {
            inputs: Vec::new(),
            stops: Vec::new(),
            scales: Vec::new(),
            steps: Vec::new(),
            slices: Vec::new(),
            chunks: Vec::new(),
            passes_over_locked: false,
            slice_tasks: SLICE_TASKS,
        }
    }
}

/// The next part of a job that is too large to be stopped, or to have its dependencies settled, in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobSlice {
    pub job: JobId,
    /// Where the last slice ended; none to begin.
    pub after: Option<Place>,
}

/// A job of which only a part was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished {
    pub job: JobId,
    /// It is being stopped; otherwise its dependencies are being settled.
    pub is_stopping: bool,
}

/// Where the slices of a job are: the last task that they have looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which tasks they look for. A place says nothing about another walk, which begins with the first task.
    pub walk: Walk,
    /// Of its definition.
    pub position: u16,
    /// In its definition.
    pub index: u32,
}

/// Which tasks of a job slices look for, in the order of their definitions and indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Those that the stop of the job is for.
    Stop,
    /// The blocked tasks of one definition, which all run, or never will.
    Blocked,
    /// The tasks of one definition that have not ended, to be stopped.
    Unended,
    /// The blocked tasks that each wait for tasks of their index. Most of them stay blocked.
    ByIndex,
}

/// What became of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SliceResult {
    /// Nothing is left to be done.
    Done,
    /// There is more, behind this place if there is one.
    More(Option<Place>),
    /// Another transaction holds the job.
    Busy,
}

/// One event and what belongs to it.
#[derive(Debug, Clone)]
pub struct Input {
    pub task: TaskId,
    pub event: TaskEvent,
    /// Who or what caused it.
    pub actor: Arc<str>,
    /// Stored with the attempt.
    pub detail: Detail,
}

/// What a worker reports about a start, beside its time.
#[derive(Debug, Clone, Default)]
pub struct StartFacts {
    pub container: Option<ContainerFacts>,
    pub ports: Vec<NamedPort>,
}

/// Facts stored with an attempt beyond what the rules need.
#[derive(Debug, Clone)]
pub enum Detail {
    /// Nothing.
    None,
    /// How the worker was chosen, and for which class of tasks, if that matters: the task may be of another one by now.
    Placement(Box<Receipt>, Option<i64>),
    /// What the worker reported about the start.
    Start(Box<StartFacts>),
    /// The reported end, and the state of the received output.
    End(Box<Ended>, ReceivedOutput),
}

/// A request to stop a job.
#[derive(Debug, Clone)]
pub struct StopJob {
    pub job: JobId,
    pub project: ProjectId,
    pub actor: Arc<str>,
    /// Also the tasks that clean up.
    pub force: bool,
}

/// A request to keep another number of instances of a service.
#[derive(Debug, Clone)]
pub struct ScaleJob {
    pub job: JobId,
    pub project: ProjectId,
    pub actor: Arc<str>,
    /// The name of the definition; none for the only one.
    pub task: Option<String>,
    pub count: u32,
}

/// The outcome of a request to scale a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScaleResult {
    /// The number of instances of the definition with this name is as requested from now on.
    Kept { task: String },
    /// It cannot be scaled like that.
    Refused(Refused),
    /// It is over, or being stopped.
    NotKept(JobState),
    /// Not found in that project.
    Unknown,
    /// Nothing of it is started: its specification cannot be read.
    Unreadable(String),
    /// Another transaction holds the job.
    Busy,
}

/// A step of an update of a definition, or of another change of its instances.
#[derive(Debug, Clone)]
pub struct UpdateStep {
    pub job: JobId,
    pub position: usize,
    /// The version that its instances are to have.
    pub version: u32,
    pub action: UpdateAction,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateAction {
    /// Keep this number of further instances.
    Surge(u32),
    /// Replace the instances with these indices.
    Replace(Vec<u32>),
    /// Have other instances of a system job.
    Instances(InstanceChanges),
    /// The update is done.
    Finish,
    /// The update stops here, for this reason.
    Halt(String),
}

/// Which instances of a definition of a system job begin, run again, and are scaled down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceChanges {
    pub plan: Plan,
    /// How many tasks the definition had when this was decided: of those that begin, none may have begun meanwhile.
    pub total: u64,
}

/// What became of a batch, once it is committed.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For each input, whether it changed anything.
    pub results: Vec<Result<(), Rejected>>,
    /// For each job to be stopped.
    pub stops: Vec<StopResult>,
    /// For each service to be scaled.
    pub scales: Vec<ScaleResult>,
    /// For each step of an update, whether it was taken.
    pub steps: Vec<bool>,
    /// For each slice.
    pub slices: Vec<SliceResult>,
    /// Commands to workers, in this order.
    pub commands: Vec<Dispatch>,
    /// Jobs of which something changed.
    pub jobs: Vec<JobId>,
    /// Jobs that another transaction holds: nothing of them has changed.
    pub busy: Vec<JobId>,
    /// Jobs of which only a part was done, because they are too large for one transaction. A slice reports itself what is left,
    /// unless its job was to be stopped in the same batch.
    pub unfinished: Vec<Unfinished>,
    /// Classes of which tasks have come to wait, and when the first of them may be placed.
    pub waiting: BTreeMap<i64, Time>,
    /// Tasks that are live elsewhere than before, or in another way.
    pub live: Vec<LiveChange>,
    /// Some task waits for a worker now that did not before, or some worker has room.
    pub scheduling_wanted: bool,
    /// Runs that a worker reported the end of.
    pub runs: Vec<Run>,
    /// Classes of attempts that workers gave back unstarted.
    pub given_back: Vec<(i64, WorkerId)>,
    /// Classes of attempts that workers started.
    pub started: Vec<(i64, WorkerId)>,
    /// Classes of attempts that became unhealthy, and where.
    pub unhealthy: Vec<(i64, WorkerId)>,
    /// Attempts that are not live any more: over, or given back.
    pub closed: Vec<AttemptRef>,
    /// Workers of which something else is expected than before.
    pub workers: BTreeSet<WorkerId>,
    /// For the metrics.
    pub changed: TaskChanges,
}

/// One run of an attempt, for judging how fast work goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub class: i64,
    pub worker: WorkerId,
    pub micros: u64,
}

/// The outcome of a stop request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopResult {
    /// It is stopping, or has stopped already because nothing of it was running.
    Stopping,
    /// It was over.
    Over(JobState),
    /// Not found in that project.
    Unknown,
    /// Another transaction holds the job.
    Busy,
}

/// An attempt to be started, with the specification that it comes from.
#[derive(Debug, Clone)]
pub struct StartOrder {
    pub attempt: AttemptRef,
    pub definition: DefinitionRef,
    pub index: u32,
    /// Of its job.
    pub spec: Arc<JobSpec>,
}

impl StartOrder {
    /// What the worker needs of the definition; none if the specification does not have it.
    pub fn content(&self) -> Option<Definition> {
        Definition::of(self.definition, &self.spec)
    }

    /// The item of its task, if it has one; for a task that is for one worker, the name of this worker. It travels with the start: a
    /// definition with all items would be sent to every worker.
    pub fn item(&self, worker: &str) -> Option<Item> {
        let definition = self.spec.tasks.get(usize::from(self.definition.position))?;
        match definition.is_for_each_worker() {
            true => Some(Item::One(worker.to_owned())),
            false => definition.item(self.index),
        }
    }
}

/// A command to a worker.
#[derive(Debug, Clone)]
pub enum Dispatch {
    /// Start an attempt.
    Start(WorkerId, StartOrder),
    /// Stop an attempt.
    Stop(WorkerId, AttemptRef),
}

impl Dispatch {
    /// The attempt that is asked to stop; none for a start.
    pub fn stopped(&self) -> Option<AttemptRef> {
        match self {
            Dispatch::Start(..) => None,
            Dispatch::Stop(_, attempt) => Some(*attempt),
        }
    }
}
