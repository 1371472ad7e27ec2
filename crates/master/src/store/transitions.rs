//! The only code that changes tasks: applies a batch of events to locked rows in one transaction.
//!
//! Locks are taken on the rows of the jobs, in the order of their numbers; the holder of a job's lock owns its tasks.
//! What the batch leads to (commands to workers, acknowledgements) is returned and may be acted on: it is committed.

mod attempt_updates;
mod batch;
mod by_index;
mod count_columns;
mod known;
mod late_reports;
mod load;
mod scale;
mod settle;
mod system_jobs;
mod task_columns;
mod updates;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use chrono::SubsecRound as _;
use gaffer_domain::conditions::{Standing, StopScope};
use gaffer_domain::job::{JobState, TaskCounts};
use gaffer_domain::placement::DefinitionRef;
use gaffer_domain::reason::{AttemptEnd, Reason, ReasonCode};
use gaffer_domain::scale::Instances;
use gaffer_domain::spec::{JobSpec, TaskSpec};
use gaffer_domain::task::{
    AfterStop, AttemptChange, Command, Rejected, StateName, StopCause, Task, TaskEvent, TaskState, apply,
};
use gaffer_domain::{AttemptRef, JobId, ProjectId, TaskId, Time, WorkerId};

use super::event_rows::EventRow;
use super::specs::StoredSpec;
use super::{Store, StoreError};
use crate::records::{DispatchStage, LiveChange, OnWorker, TaskChanges};
use attempt_updates::AttemptUpdates;
use by_index::ByIndex;

pub use known::{KnownRows, NewRows};

pub use batch::{
    Batch, Detail, Dispatch, Input, InstanceChanges, JobSlice, Outcome, Place, Run, ScaleJob, ScaleResult,
    SliceResult, StartFacts, StartOrder, StopJob, StopResult, Unfinished, UpdateAction, UpdateStep, Walk,
};

/// Event text for an attempt whose stored output has another checksum than its worker reported.
const CHECKSUMS_DIFFER: &str =
    "the stored output differs from what the worker read: the checksums do not match";

/// Maximum number of tasks that one transaction changes for a stop or for dependencies; the rest follows in further
/// transactions, with others in between.
pub const SLICE_TASKS: usize = 1_000;

/// All rows that a batch touches, in memory while it is applied.
#[derive(Debug, Default)]
struct Work {
    jobs: BTreeMap<JobId, JobWork>,
    /// Of the workers on which something is to be placed, those that take something new: locked, so that they do until
    /// this is committed.
    open_workers: BTreeSet<WorkerId>,
    tasks: HashMap<TaskId, TaskWork>,
    /// Jobs that another transaction holds.
    busy: BTreeSet<JobId>,
    /// For continued jobs: where the previous batch ended, then where this one ends.
    slices: BTreeMap<JobId, Option<Place>>,
    /// How many more tasks this transaction may change for the sake of large jobs.
    slice_room: usize,
    /// Jobs of which more is left than there was room for.
    unfinished: BTreeSet<JobId>,
    /// Definitions that have fewer blocked tasks than their counts say.
    miscounted: BTreeSet<(JobId, usize)>,
    by_index: ByIndex,
    /// Earlier versions of jobs of which tasks are placed.
    versions: HashMap<(JobId, u32), StoredSpec>,
    /// For tasks that are for one worker each: by their class and that of their definition, the one that they take with it.
    own_classes: HashMap<(i64, i64), i64>,
    attempts: AttemptUpdates,
    events: Vec<EventRow>,
    commands: Vec<Dispatch>,
    scheduling_wanted: bool,
    runs: Vec<Run>,
    given_back: Vec<(i64, WorkerId)>,
    started: Vec<(i64, WorkerId)>,
    unhealthy: Vec<(i64, WorkerId)>,
    closed: Vec<AttemptRef>,
    workers: BTreeSet<WorkerId>,
    changed: TaskChanges,
}

#[derive(Debug)]
struct JobWork {
    project: ProjectId,
    /// Where its history is kept.
    era: i64,
    spec: StoredSpec,
    /// What is stored of it, as the batch has made it so far.
    row: StoredJob,
    /// The same as it is stored.
    stored: StoredJob,
    finished_at: Option<Time>,
    definitions: Vec<DefinitionWork>,
    /// Something of the job has changed, if only a task.
    dirty: bool,
}

/// What is stored of a job in its own row and may change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct StoredJob {
    state: JobState,
    started_at: Option<Time>,
    stop_message: Option<String>,
    force: bool,
    reason: Option<Reason>,
}

#[derive(Debug, Default, Clone)]
struct DefinitionWork {
    /// As it is stored.
    stored: Standing,
    /// What the batch adds.
    change: Standing,
    scale: Scale,
    stored_scale: Scale,
    /// The class of tasks of the version that it is to have; none where it was never another one.
    class: Option<i64>,
    /// That version.
    version: u32,
}

/// How many instances of a definition are kept, if it was scaled.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Scale {
    count: Option<u32>,
    /// Who asked for that, as long as its tasks are not as many.
    by: Option<String>,
    /// Maximum number of further ones while it is updated.
    surge: u32,
}

#[derive(Debug)]
struct TaskWork {
    job: JobId,
    position: usize,
    index: u32,
    class: i64,
    /// That of the stored row.
    stored_class: i64,
    /// The version of its next attempt, or of the present one if it is not to be replaced.
    version: u32,
    task: Task,
    /// The attempt that the stored row holds; 0 if none.
    stored_attempt: u32,
    /// The state of the stored row.
    stored_state: StateName,
    /// Where it is live by the stored row.
    stored_on: Option<OnWorker>,
    since: Time,
    dirty: bool,
}

impl Store {
    /// Applies a batch. Everything in it is committed together, or nothing is.
    ///
    /// # Errors
    /// When the database does not answer. Whether the batch was committed is then unknown; applying it again does no
    /// harm, as what has happened already is rejected by the rules.
    pub async fn tasks_apply(&self, batch: &Batch, now: Time) -> Result<Outcome, StoreError> {
        // As exact as it is stored.
        let now = now.trunc_subsecs(6);
        if let Some(outcome) = self.apply_known(batch, now).await? {
            return Ok(outcome);
        }
        let applied = self.apply_read(batch, now).await;
        if applied.is_err() {
            self.known.forget();
        }
        applied
    }

    /// Applies a batch to rows that are read and locked for it.
    async fn apply_read(&self, batch: &Batch, now: Time) -> Result<Outcome, StoreError> {
        let mut tx = self.begin_short().await?;
        let mut work = Work { slice_room: batch.slice_tasks, ..Work::default() };
        work.load(&mut tx, &self.specs, batch).await?;
        if batch.passes_over_locked {
            work.pass_over_locked(&mut tx).await?;
        }

        let mut outcome = Outcome::default();
        for stop in &batch.stops {
            outcome.stops.push(work.stop_job(stop, now));
        }
        for scale in &batch.scales {
            outcome.scales.push(work.scale_job(scale));
        }
        for step in &batch.steps {
            outcome.steps.push(work.take_update_step(&mut tx, step, now).await?);
        }
        for slice in &batch.slices {
            work.continue_job(slice.job, now);
        }
        for input in &batch.inputs {
            outcome.results.push(work.apply(input, now));
        }
        work.settle_scales(&mut tx, now).await?;
        work.settle_dependencies(&mut tx, now).await?;
        work.settle_jobs(now);

        work.note_late_reports(&mut tx, batch, &outcome.results).await?;
        work.write(&mut tx, &batch.chunks, now).await?;
        tx.commit().await?;
        self.known.remember(&work);
        Ok(work.conclude(batch, outcome))
    }
}

impl Work {
    /// The outcome of a batch, after its commit.
    fn conclude(self, batch: &Batch, mut outcome: Outcome) -> Outcome {
        outcome.slices = batch.slices.iter().map(|slice| self.slice_result(slice.job)).collect();
        let is_stopping = |job: &JobId| self.jobs.get(job).is_some_and(|job| job.row.stop_message.is_some());
        let is_stopped = |job: &JobId| batch.stops.iter().any(|stop| stop.job == *job);
        let unfinished = self.unfinished.iter();
        outcome.unfinished = unfinished
            .filter(|job| !self.by_index.continued.contains(job) || is_stopped(job))
            .map(|job| Unfinished { job: *job, is_stopping: is_stopping(job) })
            .collect();
        for task in self.tasks.values().filter(|task| task.dirty) {
            let (before, after) = (task.stored_on, on_worker(&task.task.state));
            match task.class == task.stored_class {
                true if before == after => {}
                true => outcome.live.push(LiveChange { class: task.class, before, after }),
                false => {
                    let (old, new) = (task.stored_class, task.class);
                    outcome.live.push(LiveChange { class: old, before, after: None });
                    outcome.live.push(LiveChange { class: new, before: None, after });
                }
            }
            if let TaskState::Pending { not_before, .. } = task.task.state {
                let first = outcome.waiting.entry(task.class).or_insert(not_before);
                *first = not_before.min(*first);
            }
        }
        outcome.busy = self.busy.into_iter().collect();
        outcome.commands = self.commands;
        outcome.jobs = self.jobs.iter().filter(|(_, job)| job.dirty).map(|(id, _)| *id).collect();
        outcome.scheduling_wanted = self.scheduling_wanted;
        outcome.runs = self.runs;
        (outcome.given_back, outcome.started) = (self.given_back, self.started);
        (outcome.unhealthy, outcome.closed) = (self.unhealthy, self.closed);
        outcome.workers = self.workers;
        outcome.changed = self.changed;
        outcome
    }

    /// Applies one event to one task, with consequences if its job is stopping: a stop reaches a large job in
    /// batches, and nothing of the job may start meanwhile.
    fn apply(&mut self, input: &Input, now: Time) -> Result<(), Rejected> {
        self.apply_one(input, now)?;
        let Some(work) = self.tasks.get(&input.task).filter(|work| work.task.state.can_be_stopped()) else {
            return Ok(());
        };
        let job = self.jobs.get(&work.job).filter(|job| job.is_to_stop(work.position));
        let Some(message) = job.and_then(|job| job.row.stop_message.clone()) else { return Ok(()) };
        let event = TaskEvent::StopRequested(StopCause { message, then: AfterStop::Cancel });
        self.apply_one(
            &Input { task: input.task, event, actor: input.actor.clone(), detail: Detail::None },
            now,
        )
    }

    /// Applies one event to one task; an event on a task that does not exist (any more) is stale.
    fn apply_one(&mut self, input: &Input, now: Time) -> Result<(), Rejected> {
        let Some(work) = self.tasks.get_mut(&input.task) else { return Err(Rejected::Stale) };
        if self.busy.contains(&work.job) {
            return Err(Rejected::Busy);
        }
        let Some(job) = self.jobs.get_mut(&work.job) else { return Err(Rejected::Stale) };
        let Some(definition) = job.spec.tasks.get(work.position) else { return Err(Rejected::Stale) };
        if let TaskEvent::Placed { worker } = &input.event
            && (!self.open_workers.contains(worker)
                || matches!(input.detail, Detail::Placement(_, Some(class)) if class != work.class)
                || job.spec.problem().is_some()
                || job.is_scaled_away(work.position, work.index)
                || (work.version != 0
                    && job.definitions[work.position].version != work.version
                    && !self.versions.contains_key(&(work.job, work.version)))
                || (job.is_to_stop(work.position) && work.task.state.can_be_stopped()))
        {
            return Err(Rejected::NoPlace);
        }

        // Times do not go back, also where an earlier master's clock was ahead of this one's.
        let now = now.max(work.since);
        let worker_before = work.task.state.worker();
        let change = apply(&work.task, &definition.restart, input.event.clone(), now)?;

        let (before, after) = (work.task.state.name(), change.task.state.name());
        if before != after {
            let definition = &mut job.definitions[work.position];
            definition.change.counts.moved(before, after);
            definition.change.skipped +=
                i64::from(change.task.state.is_skipped()) - i64::from(work.task.state.is_skipped());
            if after.is_final() {
                self.by_index.note_end(work.job, work.position, work.index);
            }
            self.changed.entered.add(after, 1);
            self.changed.waits.extend(wait_that_ended(&work.task.state, &change.attempt, &input.detail, now));
        }
        // One that waits begins to wait anew.
        if before != after || after == StateName::Pending {
            work.since = now;
        }
        work.task = change.task;
        if after == StateName::Pending || after == StateName::Blocked {
            job.definitions[work.position].take_over(work, definition, &self.own_classes);
        }
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
                job.row.started_at.get_or_insert(*at);
                self.started.extend(worker_before.map(|worker| (work.class, worker)));
                self.attempts.of(attempt).started_at = Some(*at);
            }
            Some(AttemptChange::Closed { end: None, .. }) => {
                self.closed.push(attempt);
                self.given_back.extend(worker_before.map(|worker| (work.class, worker)));
            }
            Some(AttemptChange::Closed { end: Some(end), reason }) => {
                self.closed.push(attempt);
                self.changed.ended(reason.as_ref());
                if matches!(end, AttemptEnd::Unhealthy { .. }) {
                    self.unhealthy.extend(worker_before.map(|worker| (work.class, worker)));
                }
                if let Detail::End(report, _) = &input.detail
                    && let Some(at) = report.started_at
                {
                    job.row.started_at.get_or_insert(at.min(now).max(Time::UNIX_EPOCH));
                    let (class, micros) = (work.class, report.ran_micros);
                    self.runs.extend(worker_before.map(|worker| Run { class, worker, micros }));
                }
            }
            Some(AttemptChange::Opened { worker: _ }) | None => {}
        }
        self.attempts.note(attempt, change.attempt, &input.detail, now);
        if before == StateName::Pending && after == StateName::Scheduled {
            self.attempts.of(attempt).version = Some(work.version);
        }
        match change.command {
            Some(Command::Start(worker)) => {
                let position = u16::try_from(work.position).unwrap_or(u16::MAX);
                let definition = DefinitionRef { job: work.job, position }.of_version(work.version);
                let of_before = self.versions.get(&(work.job, work.version));
                let spec = match job.definitions[work.position].version == work.version {
                    true => job.spec.shared(),
                    false => of_before.unwrap_or(&job.spec).shared(),
                };
                let order = StartOrder { attempt, definition, index: work.index, spec };
                self.commands.push(Dispatch::Start(worker, order));
            }
            Some(Command::Stop(worker)) => self.commands.push(Dispatch::Stop(worker, attempt)),
            None => {}
        }
        if let TaskState::Failed { reason, .. } = &work.task.state
            && job.row.reason.is_none()
        {
            let message = match job.spec.tasks.len() == 1 && definition.indices.is_single() {
                true => reason.message.clone(),
                false => format!("task {}: {}", address(&job.spec, work), reason.message),
            };
            job.row.reason = Some(Reason { code: reason.code, message });
        }
        // In the transaction of the end, because a later event would be about an ended attempt.
        if let (Detail::End(_, received), Some(worker)) = (&input.detail, worker_before)
            && received.complete == Some(false)
        {
            self.events.push(EventRow {
                project: job.project,
                kind: "task.noted".to_owned(),
                job: work.job,
                era: job.era,
                task: Some(input.task),
                attempt: Some(attempt.attempt),
                worker: Some(worker),
                actor: input.actor.clone(),
                message: CHECKSUMS_DIFFER.to_owned(),
            });
        }
        self.events.push(EventRow {
            project: job.project,
            kind: format!("task.{after}"),
            job: work.job,
            era: job.era,
            task: Some(input.task),
            attempt: (work.task.attempt > 0).then_some(work.task.attempt),
            worker: work.task.state.worker().or(worker_before),
            actor: input.actor.clone(),
            message: message_of(definition, &work.task.state, &input.detail),
        });
        Ok(())
    }
}

/// Where a task is live.
fn on_worker(state: &TaskState) -> Option<OnWorker> {
    let waiting = matches!(state, TaskState::Scheduled { .. });
    state.worker().map(|worker| OnWorker { worker, waiting })
}

/// What a task waited for until now, and for how long: for a worker, or for its start there.
fn wait_that_ended(
    before: &TaskState,
    change: &Option<AttemptChange>,
    detail: &Detail,
    now: Time,
) -> Option<(DispatchStage, Duration)> {
    let (stage, since, until) = match (before, change) {
        (TaskState::Pending { not_before, .. }, Some(AttemptChange::Opened { .. })) => {
            (DispatchStage::Placement, *not_before, now)
        }
        (TaskState::Scheduled { since, .. }, Some(AttemptChange::Started { at })) => {
            (DispatchStage::Start, *since, *at)
        }
        (TaskState::Scheduled { since, .. }, Some(AttemptChange::Closed { .. })) => match detail {
            // Start and end were reported together.
            Detail::End(report, _) => (DispatchStage::Start, *since, report.started_at?),
            _ => return None,
        },
        _ => return None,
    };
    // A worker's clock may be a little behind.
    Some((stage, (until - since).to_std().unwrap_or_default()))
}

impl JobWork {
    /// Whether the job's own row is to be written. Most of what happens to its tasks leaves it as it is.
    fn is_changed(&self) -> bool {
        self.row != self.stored
    }

    /// How one definition stands after the batch so far.
    fn standing(&self, position: usize) -> Standing {
        let Some(definition) = self.definitions.get(position) else { return Standing::default() };
        let mut standing = definition.stored;
        standing.counts.merge(&definition.change.counts);
        standing.skipped += definition.change.skipped;
        standing
    }

    fn stop_scope(&self) -> StopScope {
        StopScope::of(self.row.stop_message.is_some(), self.row.force)
    }

    /// The instances that a definition is kept at, without further ones.
    fn instances(&self, position: usize) -> Option<Instances> {
        let scaled_to = self.definitions.get(position).and_then(|definition| definition.scale.count);
        Some(Instances::of(self.spec.tasks.get(position)?, scaled_to))
    }

    /// Whether a definition is kept at fewer instances than would include the one with this index.
    fn is_scaled_away(&self, position: usize, index: u32) -> bool {
        let further = self.definitions.get(position).map_or(0, |definition| definition.scale.surge);
        self.instances(position).is_some_and(|instances| index >= instances.end().saturating_add(further))
    }

    /// Whether it is a service without any instance that is to run, for now. `skipped`: how many of its tasks were scaled down.
    fn is_idle(&self, counts: &TaskCounts, skipped: i64) -> bool {
        // Where the workers say which instances there are, that is so until one has ended by itself on each.
        let waits_for_workers = self.spec.kind.follows_workers() && (counts.total() == 0 || skipped > 0);
        let is_scaled_to_none =
            || self.definitions.iter().any(|definition| definition.scale.count == Some(0));
        counts.unfinished() == 0 && (waits_for_workers || is_scaled_to_none())
    }

    /// Whether the job is being stopped, with the tasks of this definition.
    fn is_to_stop(&self, position: usize) -> bool {
        self.spec.tasks.get(position).is_some_and(|definition| self.stop_scope().covers(definition))
    }
}

impl DefinitionWork {
    /// A task that is on no worker is of the class of its version. While it is on one, it takes there what it was placed with.
    fn take_over(&self, work: &mut TaskWork, definition: &TaskSpec, own_classes: &HashMap<(i64, i64), i64>) {
        if work.version == 0 {
            work.version = self.version;
        }
        let class = self.class.filter(|_| work.version == self.version);
        let class = match definition.is_for_each_worker() {
            true => class.and_then(|class| own_classes.get(&(work.class, class)).copied()),
            false => class,
        };
        work.class = class.unwrap_or(work.class);
    }
}

fn message_of(definition: &TaskSpec, state: &TaskState, detail: &Detail) -> String {
    match state {
        TaskState::Blocked => String::new(),
        TaskState::Pending { after: Some(reason), .. } if reason.code == ReasonCode::Stopped => {
            let worker = if definition.is_for_each_worker() { "its worker" } else { "another worker" };
            format!("{}; waiting for {worker}", reason.message)
        }
        TaskState::Pending { after: Some(reason), not_before } => {
            format!("{}; next attempt not before {}", reason.message, not_before.format("%H:%M:%S"))
        }
        TaskState::Pending { after: None, .. } if definition.is_for_each_worker() => {
            "waiting for its worker".to_owned()
        }
        TaskState::Pending { after: None, .. } => "waiting for a worker".to_owned(),
        TaskState::Scheduled { .. } => match detail {
            Detail::Placement(receipt, _) => match receipt.candidates.first() {
                Some(chosen) => format!(
                    "placed on {} ({}, score {:.2}, best of {} with room)",
                    chosen.name, receipt.strategy, chosen.score, receipt.feasible
                ),
                None => String::new(),
            },
            _ => String::new(),
        },
        TaskState::Running { .. } => "started".to_owned(),
        TaskState::Stopping { cause, .. } => cause.message.clone(),
        TaskState::Completed { .. } => match detail {
            Detail::End(report, _) => success(&report.end),
            _ => success(&AttemptEnd::Exited { code: 0 }),
        },
        TaskState::Failed { reason, .. } | TaskState::Cancelled { reason, .. } => reason.message.clone(),
    }
}

/// How a task completed.
fn success(end: &AttemptEnd) -> String {
    match end.exit_code() {
        Some(code) if code != 0 => format!("exited with code {code}, which counts as success"),
        _ => "exited with code 0".to_owned(),
    }
}

/// How users address a task: `name`, or `name.index`.
fn address(spec: &JobSpec, work: &TaskWork) -> String {
    match spec.tasks.get(work.position) {
        Some(definition) => definition.address(work.index),
        None => format!("?.{}", work.index),
    }
}

#[cfg(test)]
mod tests;
