//! The one gate through which tasks change: a batch of events is applied to locked rows in a single transaction.
//!
//! Locks are taken on the rows of the jobs, in the order of their numbers; whoever holds a job's lock owns its tasks.
//! What the batch leads to (commands to workers, acknowledgements) is returned and may be acted on: it is committed.

mod load;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use gaffer_domain::job::{JobState, TaskCounts};
use gaffer_domain::placement::{DefinitionRef, Receipt};
use gaffer_domain::reason::{AttemptEnd, Reason, ReasonCode};
use gaffer_domain::spec::JobSpec;
use gaffer_domain::task::{
    AttemptChange, Command, Rejected, StateName, StopCause, Task, TaskEvent, TaskState, apply,
};
use gaffer_domain::{AttemptRef, JobId, ProjectId, TaskId, Time, WorkerId};
use gaffer_protocol::definitions::Definition;
use gaffer_protocol::wire::{ContainerFacts, Ended};

use super::output::ChunkRow;
use super::{Store, StoreError};

/// What is to be applied together.
#[derive(Debug, Default)]
pub struct Batch {
    /// Events, in the order in which they happened.
    pub inputs: Vec<Input>,
    /// Jobs to be stopped, with all their tasks.
    pub stops: Vec<StopJob>,
    /// Output to be stored.
    pub chunks: Vec<ChunkRow>,
}

/// One event and what belongs to it.
#[derive(Debug, Clone)]
pub struct Input {
    /// On which task.
    pub task: TaskId,
    /// What happened.
    pub event: TaskEvent,
    /// Who or what caused it.
    pub actor: Arc<str>,
    /// What is kept with the attempt.
    pub detail: Detail,
}

/// What is kept with an attempt beyond what the rules need.
#[derive(Debug, Clone)]
pub enum Detail {
    /// Nothing.
    None,
    /// How the worker was chosen.
    Placement(Box<Receipt>),
    /// What it runs in.
    Container(Box<ContainerFacts>),
    /// What the worker reported, and the line ends in the stored output.
    End(Box<Ended>, u64),
}

/// A wish to stop a job.
#[derive(Debug, Clone)]
pub struct StopJob {
    /// Which.
    pub job: JobId,
    /// Whose it must be.
    pub project: ProjectId,
    /// Who wants it.
    pub actor: Arc<str>,
}

/// What became of a batch, once it is committed.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For each input, whether it changed anything.
    pub results: Vec<Result<(), Rejected>>,
    /// For each job to be stopped.
    pub stops: Vec<StopResult>,
    /// What to tell workers, in this order.
    pub commands: Vec<Dispatch>,
    /// Jobs of which something changed.
    pub jobs: Vec<JobId>,
    /// Some task waits for a worker now that did not before, or some worker has room.
    pub scheduling_wanted: bool,
    /// Runs that a worker reported the end of.
    pub runs: Vec<Run>,
    /// Attempts that are not live any more: over, or given back.
    pub closed: Vec<AttemptRef>,
    /// Workers of which something else is expected than before.
    pub workers: BTreeSet<WorkerId>,
}

/// One run of an attempt, for judging how fast work goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The task's class.
    pub class: i64,
    /// Where it ran.
    pub worker: WorkerId,
    /// How long.
    pub micros: u64,
}

/// What became of a wish to stop a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopResult {
    /// It is stopping, or has stopped already because nothing of it was running.
    Stopping,
    /// It was over.
    Over(JobState),
    /// There is no such job in that project.
    Unknown,
}

/// An attempt to be started, with the specification that it comes from.
#[derive(Debug, Clone)]
pub struct StartOrder {
    /// Which.
    pub attempt: AttemptRef,
    /// What it is of.
    pub definition: DefinitionRef,
    /// The task's index.
    pub index: u32,
    /// Of its job.
    pub spec: Arc<JobSpec>,
}

impl StartOrder {
    /// What its worker has to know of the definition; none if the specification has no such definition.
    pub fn content(&self) -> Option<Definition> {
        let task = self.spec.tasks.get(usize::from(self.definition.position))?;
        Some(Definition {
            job: self.definition.job,
            task: task.name.clone(),
            driver: task.driver,
            container: task.container.clone().map(Box::new),
            action: task.action.clone(),
            env: task.env.clone(),
            resources: task.resources.amounts,
            countables: task.resources.countables.clone(),
            timeout: task.timeout,
            output: task.output,
            stop: task.stop,
            lost_after: self.spec.lost_after,
        })
    }
}

/// What to tell a worker.
#[derive(Debug, Clone)]
pub enum Dispatch {
    /// Start an attempt.
    Start(WorkerId, StartOrder),
    /// Stop an attempt.
    Stop(WorkerId, AttemptRef),
}

/// All rows that a batch touches, in memory while it is applied.
#[derive(Debug, Default)]
struct Work {
    jobs: BTreeMap<JobId, JobWork>,
    /// Of the workers on which something is to be placed, those that take something new: locked, so that they do until
    /// this is committed.
    open_workers: BTreeSet<WorkerId>,
    tasks: HashMap<TaskId, TaskWork>,
    attempts: AttemptWrites,
    events: Vec<EventRow>,
    commands: Vec<Dispatch>,
    scheduling_wanted: bool,
    runs: Vec<Run>,
    closed: Vec<AttemptRef>,
    workers: BTreeSet<WorkerId>,
}

#[derive(Debug)]
struct JobWork {
    project: ProjectId,
    spec: Arc<JobSpec>,
    state: JobState,
    started_at: Option<Time>,
    finished_at: Option<Time>,
    stop_message: Option<String>,
    reason: Option<Reason>,
    definitions: Vec<DefinitionWork>,
    dirty: bool,
}

#[derive(Debug, Default, Clone)]
struct DefinitionWork {
    counts: TaskCounts,
    change: TaskCounts,
}

#[derive(Debug)]
struct TaskWork {
    job: JobId,
    position: usize,
    index: u32,
    class: i64,
    task: Task,
    since: Time,
    dirty: bool,
}

#[derive(Debug, Default)]
struct AttemptWrites {
    opened: Vec<(AttemptRef, WorkerId, Time, Option<Box<Receipt>>)>,
    changed: BTreeMap<AttemptRef, AttemptUpdate>,
}

#[derive(Debug, Default)]
struct AttemptUpdate {
    started_at: Option<Time>,
    finished_at: Option<Time>,
    end: Option<AttemptEnd>,
    report: Option<Box<Ended>>,
    container: Option<Box<ContainerFacts>>,
    output_lines: u64,
}

#[derive(Debug)]
struct EventRow {
    project: ProjectId,
    kind: String,
    job: JobId,
    task: Option<TaskId>,
    attempt: Option<u32>,
    worker: Option<WorkerId>,
    actor: Arc<str>,
    message: String,
}

impl Store {
    /// Applies a batch. Everything in it is committed together, or nothing is.
    ///
    /// # Errors
    /// When the database does not answer. Whether the batch was committed is then unknown; applying it again does no
    /// harm, as what has happened already is rejected by the rules.
    pub async fn tasks_apply(&self, batch: &Batch, now: Time) -> Result<Outcome, StoreError> {
        let mut tx = self.begin().await?;
        let mut work = Work::default();
        work.load(&mut tx, &self.specs, batch).await?;

        let mut outcome = Outcome::default();
        for stop in &batch.stops {
            outcome.stops.push(work.stop_job(stop, now));
        }
        for input in &batch.inputs {
            outcome.results.push(work.apply(input, now));
        }
        work.settle_dependencies(&mut tx, now).await?;
        work.settle_jobs(now);

        work.note_late_reports(&mut tx, batch, &outcome.results).await?;
        work.write(&mut tx, now).await?;
        super::output::chunks_insert(&mut tx, &batch.chunks).await?;
        tx.commit().await?;

        outcome.commands = work.commands;
        outcome.jobs = work.jobs.iter().filter(|(_, job)| job.dirty).map(|(id, _)| *id).collect();
        outcome.scheduling_wanted = work.scheduling_wanted;
        outcome.runs = work.runs;
        outcome.closed = work.closed;
        outcome.workers = work.workers;
        Ok(outcome)
    }
}

impl Work {
    /// Applies one event to one task; an event on a task that does not exist (any more) is stale.
    fn apply(&mut self, input: &Input, now: Time) -> Result<(), Rejected> {
        let Some(work) = self.tasks.get_mut(&input.task) else { return Err(Rejected::Stale) };
        let Some(job) = self.jobs.get_mut(&work.job) else { return Err(Rejected::Stale) };
        let Some(definition) = job.spec.tasks.get(work.position) else { return Err(Rejected::Stale) };
        if let TaskEvent::Placed { worker } = &input.event
            && !self.open_workers.contains(worker)
        {
            return Err(Rejected::NoPlace);
        }

        let worker_before = work.task.state.worker();
        let change = apply(&work.task, &definition.restart, input.event.clone(), now)?;

        let (before, after) = (work.task.state.name(), change.task.state.name());
        if before != after {
            job.definitions[work.position].change.moved(before, after);
            work.since = now;
        }
        work.task = change.task;
        work.dirty = true;
        job.dirty = true;
        // Pending ones want a worker; an end leaves room on one.
        self.scheduling_wanted |=
            after == StateName::Pending || (worker_before.is_some() && after.is_final());

        let attempt = AttemptRef { task: input.task, attempt: work.task.attempt };
        self.workers.extend(worker_before);
        self.workers.extend(work.task.state.worker());
        match &change.attempt {
            Some(AttemptChange::Started { at }) => {
                job.started_at.get_or_insert(*at);
                self.attempts.changed.entry(attempt).or_default().started_at = Some(*at);
            }
            Some(AttemptChange::Closed { end: _ }) => {
                self.closed.push(attempt);
                if let Detail::End(report, _) = &input.detail
                    && let Some(at) = report.started_at
                {
                    job.started_at.get_or_insert(at);
                    let (class, micros) = (work.class, report.ran_micros);
                    self.runs.extend(worker_before.map(|worker| Run { class, worker, micros }));
                }
            }
            Some(AttemptChange::Opened { worker: _ }) | None => {}
        }
        self.attempts.note(attempt, change.attempt, &input.detail, now);
        match change.command {
            Some(Command::Start(worker)) => {
                let position = u16::try_from(work.position).unwrap_or(u16::MAX);
                let definition = DefinitionRef { job: work.job, position };
                let start = StartOrder { attempt, definition, index: work.index, spec: job.spec.clone() };
                self.commands.push(Dispatch::Start(worker, start));
            }
            Some(Command::Stop(worker)) => self.commands.push(Dispatch::Stop(worker, attempt)),
            None => {}
        }
        if let TaskState::Failed { reason, .. } = &work.task.state
            && job.reason.is_none()
        {
            let message = match job.spec.tasks.len() == 1 && definition.indices.is_single() {
                true => reason.message.clone(),
                false => format!("task {}: {}", address(&job.spec, work), reason.message),
            };
            job.reason = Some(Reason { code: reason.code, message });
        }
        self.events.push(EventRow {
            project: job.project,
            kind: format!("task.{after}"),
            job: work.job,
            task: Some(input.task),
            attempt: (work.task.attempt > 0).then_some(work.task.attempt),
            worker: work.task.state.worker().or(worker_before),
            actor: input.actor.clone(),
            message: message_of(&work.task.state, &input.detail),
        });
        Ok(())
    }

    /// Marks a job as to be stopped and asks each of its unfinished tasks to end.
    fn stop_job(&mut self, stop: &StopJob, now: Time) -> StopResult {
        let Some(job) = self.jobs.get_mut(&stop.job).filter(|job| job.project == stop.project) else {
            return StopResult::Unknown;
        };
        if job.state.is_final() {
            return StopResult::Over(job.state);
        }
        let cause = StopCause::by(&stop.actor);
        job.stop_message.get_or_insert_with(|| cause.message.clone());
        job.dirty = true;
        let mut tasks: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, work)| work.job == stop.job && !work.task.state.name().is_final())
            .map(|(id, _)| *id)
            .collect();
        tasks.sort_unstable();
        for task in tasks {
            let event = TaskEvent::StopRequested(cause.clone());
            let input = Input { task, event, actor: stop.actor.clone(), detail: Detail::None };
            // A task that is stopping already needs nothing more.
            let _ = self.apply(&input, now);
        }
        StopResult::Stopping
    }

    /// Unblocks, or gives up, the tasks whose dependencies were decided by this batch; and those that wait for these.
    async fn settle_dependencies(
        &mut self,
        tx: &mut sqlx::PgConnection,
        now: Time,
    ) -> Result<(), StoreError> {
        loop {
            let decided = self.decided_dependencies();
            if decided.is_empty() {
                return Ok(());
            }
            for (job, position, event) in decided {
                for task in self.load_blocked(tx, job, position).await? {
                    let input = Input {
                        task,
                        event: event.clone(),
                        actor: "dependencies".into(),
                        detail: Detail::None,
                    };
                    let _ = self.apply(&input, now);
                }
            }
        }
    }

    fn decided_dependencies(&self) -> Vec<(JobId, usize, TaskEvent)> {
        let mut decided = Vec::new();
        for (id, job) in self.jobs.iter().filter(|(_, job)| job.dirty) {
            for (position, definition) in job.spec.tasks.iter().enumerate() {
                if definition.depends_on.is_empty() || job.counts(position).get(StateName::Blocked) == 0 {
                    continue;
                }
                let needed = definition
                    .depends_on
                    .iter()
                    .filter_map(|name| job.spec.tasks.iter().position(|task| task.name == *name));
                let mut all_met = true;
                let mut broken = None;
                for position in needed {
                    let counts = job.counts(position);
                    all_met &= counts.get(StateName::Completed) == counts.total();
                    if counts.get(StateName::Failed) + counts.get(StateName::Cancelled) > 0 {
                        broken.get_or_insert(job.spec.tasks[position].name.clone());
                    }
                }
                match broken {
                    Some(dependency) => {
                        decided.push((*id, position, TaskEvent::DependencyFailed { dependency }));
                    }
                    None if all_met => decided.push((*id, position, TaskEvent::DependenciesMet)),
                    None => {}
                }
            }
        }
        decided
    }

    /// Derives the state of each touched job from its tasks.
    fn settle_jobs(&mut self, now: Time) {
        for (id, job) in self.jobs.iter_mut().filter(|(_, job)| job.dirty) {
            let mut counts = TaskCounts::default();
            for position in 0..job.definitions.len() {
                counts.merge(&job.counts(position));
            }
            let state = JobState::of(&counts, job.started_at.is_some(), job.stop_message.is_some());
            if state == job.state {
                continue;
            }
            job.state = state;
            if state.is_final() {
                job.finished_at = Some(now);
            }
            if state == JobState::Cancelled && job.reason.is_none() {
                let message = job
                    .stop_message
                    .clone()
                    .unwrap_or_else(|| "no task of it failed, some were cancelled".into());
                job.reason = Some(Reason { code: ReasonCode::Stopped, message });
            }
            self.events.push(EventRow {
                project: job.project,
                kind: format!("job.{state}"),
                job: *id,
                task: None,
                attempt: None,
                worker: None,
                actor: "gaffer".into(),
                message: match (&job.reason, &job.stop_message) {
                    (Some(reason), _) if state.is_final() => reason.message.clone(),
                    (_, Some(stop)) if state == JobState::Stopping => stop.clone(),
                    _ => String::new(),
                },
            });
        }
    }
}

impl JobWork {
    /// The counts of one definition as they are after the batch so far.
    fn counts(&self, position: usize) -> TaskCounts {
        let definition = self.definitions.get(position).cloned().unwrap_or_default();
        let mut counts = definition.counts;
        counts.merge(&definition.change);
        counts
    }
}

impl AttemptWrites {
    fn note(&mut self, attempt: AttemptRef, change: Option<AttemptChange>, detail: &Detail, now: Time) {
        match change {
            Some(AttemptChange::Opened { worker }) => {
                let receipt = match detail {
                    Detail::Placement(receipt) => Some(receipt.clone()),
                    _ => None,
                };
                self.opened.push((attempt, worker, now, receipt));
            }
            Some(AttemptChange::Closed { end }) => {
                let update = self.changed.entry(attempt).or_default();
                update.finished_at = Some(now);
                update.end = end;
                if let Detail::End(report, lines) = detail {
                    update.started_at = update.started_at.or(report.started_at);
                    update.container = update.container.take().or(report.container.clone().map(Box::new));
                    update.report = Some(report.clone());
                    update.output_lines = *lines;
                }
            }
            Some(AttemptChange::Started { .. }) => {
                if let Detail::Container(container) = detail {
                    self.changed.entry(attempt).or_default().container = Some(container.clone());
                }
            }
            None => {}
        }
    }
}

fn message_of(state: &TaskState, detail: &Detail) -> String {
    match state {
        TaskState::Blocked => String::new(),
        TaskState::Pending { after: Some(reason), .. } if reason.code == ReasonCode::Stopped => {
            format!("{}; waits for another worker", reason.message)
        }
        TaskState::Pending { after: Some(reason), not_before } => {
            format!("{}; to be repeated from {} on", reason.message, not_before.format("%H:%M:%S"))
        }
        TaskState::Pending { after: None, .. } => "waits for a worker".to_owned(),
        TaskState::Scheduled { .. } => match detail {
            Detail::Placement(receipt) => match receipt.candidates.first() {
                Some(chosen) => format!(
                    "placed on {} ({}, score {:.2}, best of {} that could take it)",
                    chosen.name, receipt.strategy, chosen.score, receipt.feasible
                ),
                None => String::new(),
            },
            _ => String::new(),
        },
        TaskState::Running { .. } => "started".to_owned(),
        TaskState::Stopping { cause, .. } => cause.message.clone(),
        TaskState::Completed { .. } => "exited with code 0".to_owned(),
        TaskState::Failed { reason, .. } | TaskState::Cancelled { reason, .. } => reason.message.clone(),
    }
}

/// How users address a task: `name`, or `name.index`.
fn address(spec: &JobSpec, work: &TaskWork) -> String {
    match spec.tasks.get(work.position) {
        Some(definition) if definition.indices.is_single() => definition.name.clone(),
        Some(definition) => format!("{}.{}", definition.name, work.index),
        None => format!("?.{}", work.index),
    }
}

#[cfg(test)]
mod tests;
