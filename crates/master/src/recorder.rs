//! Brings everything that happens to tasks to the gate: few, large transactions, then commands and acknowledgements.
//!
//! There is one recorder. What arrives while a batch commits forms the next one. Items are handled in the order in
//! which they were sent, so that a comparison with what a worker holds sees all that the worker had reported before.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::task::{Rejected, Report, TaskEvent};
use gaffer_domain::worker::{Held, Occasion, Repair, reconcile};
use gaffer_domain::{AttemptRef, WorkerId};
use gaffer_protocol::wire::{ContainerFacts, Ended, ToWorker};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::changes::Changes;
use crate::hub::Hub;
use crate::live::{LiveOutput, LiveOutputs};
use crate::pace::Pace;
use crate::store::gate::{Batch, Detail, Dispatch, Input, Outcome, StopJob, StopResult};
use crate::store::output::ChunkRow;
use crate::store::{Store, StoreError};

/// So many items wait for the recorder; whoever has one more waits itself.
const MAX_QUEUED_ITEMS: usize = 4_096;
/// So much output waits for the recorder, over all workers.
const MAX_QUEUED_OUTPUT_KIB: usize = 64 << 10;
/// A batch is closed when it has so many events or so much output.
const MAX_BATCH_INPUTS: usize = 1_000;
const MAX_BATCH_OUTPUT_BYTES: usize = 2 << 20;
/// Waits between tries while the database is away.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);
/// Output that came in so many chunks of less than this mean size is joined when it is over.
const COMPACT_FROM_CHUNKS: u64 = 8;
const COMPACT_BELOW_BYTES: u64 = 32 << 10;

/// Sends items to the recorder.
#[derive(Debug, Clone)]
pub struct RecorderHandle {
    items: mpsc::Sender<Item>,
    output_room: Arc<Semaphore>,
}

#[derive(Debug)]
enum Item {
    Change(Change),
    Compare(Comparison),
}

/// Whether each of several events changed something.
type Results = Vec<Result<(), Rejected>>;

/// What goes through the gate.
#[derive(Debug)]
enum Change {
    Started(WorkerReport, AttemptRef, chrono::DateTime<Utc>, Option<ContainerFacts>),
    Returned(WorkerReport, AttemptRef),
    Ended(WorkerReport, Box<Ended>, u64),
    Output { row: ChunkRow, live: Arc<LiveOutput>, _room: OwnedSemaphorePermit },
    Events(Vec<Input>, Option<oneshot::Sender<Results>>),
    Stop(StopJob, oneshot::Sender<StopResult>),
}

/// What a worker says it holds, to be compared with the database once all before it is committed.
#[derive(Debug)]
struct Comparison {
    worker: WorkerId,
    held: Vec<Held>,
    occasion: Occasion,
    done: Option<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct WorkerReport {
    worker: WorkerId,
    actor: Arc<str>,
}

/// The recorder is gone: the master is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the master is shutting down")]
pub struct ShuttingDown;

impl RecorderHandle {
    /// An attempt started, as its worker says.
    ///
    /// # Errors
    /// When the master is shutting down; likewise below.
    pub async fn started(
        &self,
        worker: WorkerId,
        actor: &Arc<str>,
        attempt: AttemptRef,
        at: chrono::DateTime<Utc>,
        container: Option<ContainerFacts>,
    ) -> Result<(), ShuttingDown> {
        self.change(Change::Started(WorkerReport { worker, actor: actor.clone() }, attempt, at, container))
            .await
    }

    /// An attempt was given back unstarted.
    pub async fn returned(
        &self,
        worker: WorkerId,
        actor: &Arc<str>,
        attempt: AttemptRef,
    ) -> Result<(), ShuttingDown> {
        self.change(Change::Returned(WorkerReport { worker, actor: actor.clone() }, attempt)).await
    }

    /// An attempt is over, as its worker says; all its output was sent here before. `lines` are the line ends in it.
    pub async fn ended(
        &self,
        worker: WorkerId,
        actor: &Arc<str>,
        ended: Box<Ended>,
        lines: u64,
    ) -> Result<(), ShuttingDown> {
        self.change(Change::Ended(WorkerReport { worker, actor: actor.clone() }, ended, lines)).await
    }

    /// Output arrived. Waits while too much of it is not committed.
    pub async fn output(&self, row: ChunkRow, live: Arc<LiveOutput>) -> Result<(), ShuttingDown> {
        let kib = (row.chunk.body.len() / 1024 + 1).min(MAX_QUEUED_OUTPUT_KIB) as u32;
        let room = self.output_room.clone().acquire_many_owned(kib).await.map_err(|_| ShuttingDown)?;
        self.change(Change::Output { row, live, _room: room }).await
    }

    /// Applies events and says which of them changed something, after the commit.
    pub async fn events(&self, inputs: Vec<Input>) -> Result<Results, ShuttingDown> {
        let (done, result) = oneshot::channel();
        self.change(Change::Events(inputs, Some(done))).await?;
        result.await.map_err(|_| ShuttingDown)
    }

    /// Stops a job, after the commit.
    pub async fn stop(&self, stop: StopJob) -> Result<StopResult, ShuttingDown> {
        let (done, result) = oneshot::channel();
        self.change(Change::Stop(stop, done)).await?;
        result.await.map_err(|_| ShuttingDown)
    }

    /// Compares what a worker says it holds with the database, once all that it reported before is committed, and
    /// waits until the differences are repaired.
    pub async fn reconcile_hello(
        &self,
        worker: WorkerId,
        held: Vec<Held>,
        rebooted: bool,
    ) -> Result<(), ShuttingDown> {
        let (done, result) = oneshot::channel();
        let occasion = Occasion::Hello { rebooted };
        self.send(Item::Compare(Comparison { worker, held, occasion, done: Some(done) })).await?;
        result.await.map_err(|_| ShuttingDown)
    }

    /// The same for a heartbeat; waits for nothing.
    pub async fn reconcile_heartbeat(&self, worker: WorkerId, held: Vec<Held>) -> Result<(), ShuttingDown> {
        self.send(Item::Compare(Comparison { worker, held, occasion: Occasion::Heartbeat, done: None })).await
    }

    async fn change(&self, change: Change) -> Result<(), ShuttingDown> {
        self.send(Item::Change(change)).await
    }

    async fn send(&self, item: Item) -> Result<(), ShuttingDown> {
        self.items.send(item).await.map_err(|_| ShuttingDown)
    }
}

/// The recorder itself.
#[derive(Debug)]
pub struct Recorder {
    items: mpsc::Receiver<Item>,
    store: Store,
    hub: Hub,
    live: LiveOutputs,
    pace: Pace,
    changes: Changes,
    scheduler_wake: Arc<Notify>,
    compacting: Arc<Semaphore>,
}

/// A batch together with those who wait for it.
#[derive(Debug, Default)]
struct Pending {
    batch: Batch,
    output_bytes: usize,
    /// Whom to tell that the end of an attempt is recorded.
    ends: Vec<(WorkerId, AttemptRef)>,
    stored: BTreeMap<AttemptRef, (Arc<LiveOutput>, u64)>,
    rooms: Vec<OwnedSemaphorePermit>,
    events_done: Vec<(Range<usize>, oneshot::Sender<Results>)>,
    stops_done: Vec<oneshot::Sender<StopResult>>,
}

impl Recorder {
    /// A recorder and the handle to it.
    pub fn new(
        store: Store,
        hub: Hub,
        live: LiveOutputs,
        pace: Pace,
        changes: Changes,
        scheduler_wake: Arc<Notify>,
    ) -> (Recorder, RecorderHandle) {
        let (sender, items) = mpsc::channel(MAX_QUEUED_ITEMS);
        let output_room = Arc::new(Semaphore::new(MAX_QUEUED_OUTPUT_KIB));
        let compacting = Arc::new(Semaphore::new(1));
        let recorder = Recorder { items, store, hub, live, pace, changes, scheduler_wake, compacting };
        (recorder, RecorderHandle { items: sender, output_room })
    }

    /// Records until every handle is gone.
    pub async fn run(mut self) {
        while let Some(item) = self.items.recv().await {
            let (pending, comparison) = self.gather(item);
            self.commit(pending).await;
            let Some(comparison) = comparison else { continue };
            // What is found is committed before anything else, and before the session goes on.
            let mut found = Pending::default();
            found.add(Change::Events(self.repair(&comparison).await, None));
            self.commit(found).await;
            if let Some(done) = comparison.done {
                let _ = done.send(());
            }
        }
    }

    /// Takes what is there, up to the limits of a batch or up to a comparison, which has to see the batch committed.
    fn gather(&mut self, item: Item) -> (Pending, Option<Comparison>) {
        let mut pending = Pending::default();
        let mut next = Some(item);
        while let Some(item) = next {
            match item {
                Item::Compare(comparison) => return (pending, Some(comparison)),
                Item::Change(change) => pending.add(change),
            }
            if pending.is_full() {
                break;
            }
            next = self.items.try_recv().ok();
        }
        (pending, None)
    }

    /// Commits a batch, however long that takes, then tells everybody.
    async fn commit(&mut self, pending: Pending) {
        if pending.is_empty() {
            return;
        }
        let mut wait = RETRY_FIRST;
        let outcome = loop {
            match self.store.tasks_apply(&pending.batch, Utc::now()).await {
                Ok(outcome) => break outcome,
                Err(StoreError::Unavailable(error)) => {
                    tracing::warn!(%error, "the database is away; nothing is acknowledged until it is back");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_LONGEST);
                }
                Err(StoreError::NotLeader) => match self.store.leadership().stand_down_for_good().await {},
                Err(error) => break self.commit_one_by_one(&pending.batch, &error).await,
            }
        };
        self.tell(pending, outcome);
    }

    /// A batch that the database refuses holds something that should not be there. It must not take the rest with it.
    async fn commit_one_by_one(&self, batch: &Batch, error: &StoreError) -> Outcome {
        tracing::error!(%error, "a batch was refused; trying its parts one by one");
        let mut whole = Outcome::default();
        let parts = (batch.stops.iter().map(|stop| Batch { stops: vec![stop.clone()], ..Batch::default() }))
            .chain(batch.chunks.iter().map(|chunk| Batch { chunks: vec![chunk.clone()], ..Batch::default() }))
            .chain(
                batch.inputs.iter().map(|input| Batch { inputs: vec![input.clone()], ..Batch::default() }),
            );
        for part in parts {
            let outcome = loop {
                match self.store.tasks_apply(&part, Utc::now()).await {
                    Ok(outcome) => break outcome,
                    Err(StoreError::Unavailable(_)) => tokio::time::sleep(RETRY_LONGEST).await,
                    Err(StoreError::NotLeader) => {
                        match self.store.leadership().stand_down_for_good().await {}
                    }
                    Err(error) => {
                        tracing::error!(%error, ?part, "a part of a batch was refused and is dropped");
                        break Outcome {
                            results: part.inputs.iter().map(|_| Err(Rejected::Stale)).collect(),
                            stops: part.stops.iter().map(|_| StopResult::Unknown).collect(),
                            ..Outcome::default()
                        };
                    }
                }
            };
            whole.results.extend(outcome.results);
            whole.stops.extend(outcome.stops);
            whole.commands.extend(outcome.commands);
            whole.jobs.extend(outcome.jobs);
            whole.runs.extend(outcome.runs);
            whole.scheduling_wanted |= outcome.scheduling_wanted;
        }
        whole
    }

    /// After a commit: acknowledgements, commands, and calls to whoever waits.
    fn tell(&self, pending: Pending, outcome: Outcome) {
        for (attempt, (live, offset)) in pending.stored {
            live.stored(offset);
            self.hub.send(live.worker, ToWorker::OutputStored { attempt, offset });
        }
        for (worker, attempt) in pending.ends {
            self.hub.send(worker, ToWorker::EndStored { attempt });
        }
        for input in &pending.batch.inputs {
            if let TaskEvent::Ended(report, _) = &input.event {
                self.finish_output(AttemptRef { task: input.task, attempt: report.attempt });
            }
        }
        for command in outcome.commands {
            match command {
                // One that is not sent is found missing at the worker's next heartbeat or hello.
                Dispatch::Start(..) if !self.store.leadership().is_trusted() => {}
                Dispatch::Start(worker, start) => {
                    self.live.open_new(start.attempt, worker);
                    self.hub.send(worker, ToWorker::Start(start));
                }
                Dispatch::Stop(worker, attempt) => self.hub.send(worker, ToWorker::Stop { attempt }),
            }
        }
        self.pace.note(&outcome.runs, Instant::now());
        if !outcome.jobs.is_empty() {
            self.changes.announce(&outcome.jobs);
        }
        if outcome.scheduling_wanted {
            self.scheduler_wake.notify_one();
        }
        for (range, done) in pending.events_done {
            let _ = done.send(outcome.results.get(range).unwrap_or_default().to_vec());
        }
        for (done, result) in pending.stops_done.into_iter().zip(outcome.stops) {
            let _ = done.send(result);
        }
    }

    /// Closes the live output of an attempt, and joins its chunks if they are many and small.
    fn finish_output(&self, attempt: AttemptRef) {
        let Some(live) = self.live.get(attempt) else { return };
        self.live.close(attempt);
        let (chunks, bytes) = (live.chunk_count(), live.received().bytes);
        if chunks < COMPACT_FROM_CHUNKS || bytes / chunks > COMPACT_BELOW_BYTES {
            return;
        }
        let (store, compacting) = (self.store.clone(), self.compacting.clone());
        tokio::spawn(async move {
            let Ok(_turn) = compacting.acquire().await else { return };
            if let Err(error) = store.output_compact(attempt).await {
                tracing::warn!(%attempt, %error, "could not join the chunks of an output; it stays as it is");
            }
        });
    }

    /// Finds and repairs what a worker and the database disagree on. Returns what was found to have happened and
    /// is to be recorded.
    async fn repair(&self, comparison: &Comparison) -> Vec<Input> {
        let Comparison { worker, held, occasion, .. } = comparison;
        let (worker, occasion) = (*worker, *occasion);
        let mut wait = RETRY_FIRST;
        let expected = loop {
            match self.store.tasks_expected(worker).await {
                Ok(expected) => break expected,
                // A heartbeat comes again by itself.
                Err(_) if occasion == Occasion::Heartbeat => return Vec::new(),
                Err(_) => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_LONGEST);
                }
            }
        };
        let (mut starts, mut events) = (Vec::new(), Vec::new());
        for repair in reconcile(&expected, held, occasion, Utc::now()) {
            tracing::info!(%worker, ?repair, "repairing what worker and database disagree on");
            match repair {
                Repair::SendStart(attempt) => starts.push(attempt),
                Repair::Started(attempt) => events.push(Input {
                    task: attempt.task,
                    event: TaskEvent::Started(Report { worker, attempt: attempt.attempt }, Utc::now()),
                    actor: "gaffer".into(),
                    detail: Detail::None,
                }),
                Repair::SendStop(attempt) => self.hub.send(worker, ToWorker::Stop { attempt }),
                Repair::SendKill(attempt) => self.hub.send(worker, ToWorker::Kill { attempt }),
                Repair::Lost(attempt, cause) => events.push(lost(worker, attempt, cause)),
            }
        }
        if starts.is_empty() {
            return events;
        }
        match self.store.tasks_start_again(&starts).await {
            Ok(starts) if self.store.leadership().is_trusted() => {
                for start in starts {
                    self.live.open_new(start.attempt, worker);
                    self.hub.send(worker, ToWorker::Start(Box::new(start)));
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%worker, %error, "could not send placements again; the next heartbeat will")
            }
        }
        events
    }
}

/// The event of an attempt that is lost.
pub fn lost(worker: WorkerId, attempt: AttemptRef, cause: gaffer_domain::reason::LostCause) -> Input {
    let report = Report { worker, attempt: attempt.attempt };
    Input {
        task: attempt.task,
        event: TaskEvent::Ended(report, AttemptEnd::Lost { cause }),
        actor: "gaffer".into(),
        detail: Detail::None,
    }
}

impl Pending {
    fn add(&mut self, change: Change) {
        match change {
            Change::Started(from, attempt, at, container) => {
                let event = TaskEvent::Started(Report { worker: from.worker, attempt: attempt.attempt }, at);
                let detail = container.map_or(Detail::None, |facts| Detail::Container(Box::new(facts)));
                self.input(attempt, event, from.actor, detail);
            }
            Change::Returned(from, attempt) => {
                let event = TaskEvent::Returned(Report { worker: from.worker, attempt: attempt.attempt });
                self.input(attempt, event, from.actor, Detail::None);
            }
            Change::Ended(from, ended, lines) => {
                let attempt = ended.attempt;
                let report = Report { worker: from.worker, attempt: attempt.attempt };
                let event = TaskEvent::Ended(report, ended.end.clone());
                self.ends.push((from.worker, attempt));
                self.input(attempt, event, from.actor, Detail::End(ended, lines));
            }
            Change::Output { row, live, _room } => {
                self.output_bytes += row.chunk.body.len();
                let end = row.chunk.offset + u64::from(row.payload_bytes);
                self.stored.insert(row.chunk.attempt, (live, end));
                self.batch.chunks.push(row);
                self.rooms.push(_room);
            }
            Change::Events(inputs, done) => {
                let start = self.batch.inputs.len();
                self.batch.inputs.extend(inputs);
                if let Some(done) = done {
                    self.events_done.push((start..self.batch.inputs.len(), done));
                }
            }
            Change::Stop(stop, done) => {
                self.batch.stops.push(stop);
                self.stops_done.push(done);
            }
        }
    }

    fn input(&mut self, attempt: AttemptRef, event: TaskEvent, actor: Arc<str>, detail: Detail) {
        self.batch.inputs.push(Input { task: attempt.task, event, actor, detail });
    }

    fn is_full(&self) -> bool {
        self.batch.inputs.len() >= MAX_BATCH_INPUTS || self.output_bytes >= MAX_BATCH_OUTPUT_BYTES
    }

    fn is_empty(&self) -> bool {
        self.batch.inputs.is_empty() && self.batch.stops.is_empty() && self.batch.chunks.is_empty()
    }
}
