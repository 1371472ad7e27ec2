//! Batches all changes of tasks into few large transactions, then sends commands and acknowledgements.
//!
//! There is one write batcher. What arrives while a batch commits forms the next one. Items are handled in the order in
//! which they were sent, so that a comparison with what a worker holds sees all that the worker had reported before.

mod batch;
mod commit;
mod deferred;
mod poison;
mod queue;
mod repair;
mod tempo;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use chrono::Utc;
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::task::{Report, TaskEvent};
use gaffer_domain::worker::{Occasion, ReportedAttempt};
use gaffer_domain::{AttemptRef, WorkerId};
use gaffer_protocol::ports::NamedPort;
use gaffer_protocol::wire::{ContainerFacts, Ended};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::changes::Changes;
use crate::health::Healths;
use crate::hub::{Hub, Listed, OnItsWay, SessionHandle};
use crate::large_jobs::LargeJobs;
use crate::live::{LiveOutput, LiveOutputs};
use crate::metrics::output::OutputMetrics;
use crate::metrics::transitions::TransitionMetrics;
use crate::pace::Pace;
use crate::pauses::Pauses;
use crate::records::LiveOnWorker;
use crate::scheduling_state::SchedulingState;
use crate::store::output::{ChunkRow, ReceivedOutput};
use crate::store::transitions::{
    Detail, Input, JobSlice, ScaleJob, ScaleResult, SliceResult, StartFacts, StopJob, StopResult, UpdateStep,
};
use crate::store::{Store, StoreError};
use crate::troubles::Troubles;
use crate::wakes::Wake;
use batch::{Answer, Change, MAX_BATCH_CHANGES, Pending, Results};
use deferred::Deferred;
use queue::Charge;
pub use queue::{NotTaken, Reporter};
pub use repair::lost;
use tempo::Tempo;

/// Waits between tries while the database is away.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);
/// How long a stop, or a scaling, is retried while another transaction holds the job.
const STOP_TRIED_FOR: Duration = Duration::from_secs(5);

/// Number of workers compared with one query.
const MAX_COMPARISONS: usize = 200;
/// What an item costs beside its texts.
const ITEM_BYTES: usize = 256;

/// Sends items to the write batcher. Never waits for room, see [`queue`].
#[derive(Debug, Clone)]
pub struct WriteBatcherHandle {
    items: mpsc::UnboundedSender<Item>,
    queued: Arc<AtomicUsize>,
    output: OutputMetrics,
}

#[derive(Debug)]
enum Item {
    /// Something for a batch.
    Gather(Gatherable),
    /// Count what is live on workers, after all that came before, and before all that comes after.
    CountLive(oneshot::Sender<Result<Vec<LiveOnWorker>, StoreError>>),
}

/// What is committed and compared together with others.
#[derive(Debug)]
enum Gatherable {
    Change(Change),
    Compare(Comparison),
}

/// The attempts that a worker holds, to be compared once all earlier reports are committed.
#[derive(Debug)]
struct Comparison {
    worker: WorkerId,
    held: Arc<Vec<ReportedAttempt>>,
    of: Of,
}

/// Time of the report.
#[derive(Debug)]
enum Of {
    Hello { rebooted: bool, done: oneshot::Sender<bool> },
    Heartbeat { session: Arc<SessionHandle>, listed: Listed },
}

impl Comparison {
    fn occasion(&self) -> Occasion {
        match self.of {
            Of::Hello { rebooted, .. } => Occasion::Hello { rebooted },
            Of::Heartbeat { .. } => Occasion::Heartbeat,
        }
    }
}

/// The write batcher has ended: the master is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the master is shutting down")]
pub struct ShuttingDown;

impl WriteBatcherHandle {
    /// A reported start.
    ///
    /// # Errors
    /// When the master is shutting down, or the worker has reported too much; likewise below.
    pub fn started(
        &self,
        from: &Reporter,
        attempt: AttemptRef,
        at: chrono::DateTime<Utc>,
        facts: StartFacts,
    ) -> Result<(), NotTaken> {
        let bytes = told_bytes(facts.container.as_ref(), &facts.ports);
        let event = TaskEvent::Started(Report { worker: from.worker, attempt: attempt.attempt }, at);
        let has_facts = facts.container.is_some() || !facts.ports.is_empty();
        let detail = if has_facts { Detail::Start(Box::new(facts)) } else { Detail::None };
        let input = Input { task: attempt.task, event, actor: from.actor.clone(), detail };
        self.report(from, input, None, bytes)
    }

    /// An attempt was given back unstarted.
    ///
    /// # Errors
    /// As above.
    pub fn returned(&self, from: &Reporter, attempt: AttemptRef) -> Result<(), NotTaken> {
        let event = TaskEvent::Returned(Report { worker: from.worker, attempt: attempt.attempt });
        let input = Input { task: attempt.task, event, actor: from.actor.clone(), detail: Detail::None };
        self.report(from, input, None, 0)
    }

    /// A reported end; its output was sent here before. `received` is the state of that output.
    ///
    /// # Errors
    /// As above.
    pub fn ended(
        &self,
        from: &Reporter,
        ended: Box<Ended>,
        received: ReceivedOutput,
    ) -> Result<(), NotTaken> {
        let message = match &ended.end {
            AttemptEnd::StartFailed { message, .. } => message.len(),
            _ => 0,
        };
        let facts = told_bytes(ended.container.as_ref(), &ended.ports);
        let bytes = size_of::<Ended>() + message + facts;
        let attempt = ended.attempt;
        let report = Report { worker: from.worker, attempt: attempt.attempt };
        let event = TaskEvent::Ended(report, ended.end.clone());
        let detail = Detail::End(ended, received);
        let input = Input { task: attempt.task, event, actor: from.actor.clone(), detail };
        self.report(from, input, Some(from.worker), bytes)
    }

    /// Output arrived.
    ///
    /// # Errors
    /// When the master is shutting down.
    pub fn output(&self, row: ChunkRow, live: Arc<LiveOutput>, on_its_way: OnItsWay) -> Result<(), NotTaken> {
        self.output.received(row.payload_bytes);
        Ok(self.change(Change::Output { row, live, on_its_way })?)
    }

    /// Applies decisions of the master and returns which of them changed something, after the commit.
    ///
    /// # Errors
    /// When the master is shutting down; likewise below.
    pub async fn events(&self, inputs: Vec<Input>) -> Result<Results, ShuttingDown> {
        let (done, result) = oneshot::channel();
        let answer = Answer::new(inputs.len(), done);
        for (place, input) in inputs.into_iter().enumerate() {
            self.change(Change::Decision { input, answer: answer.clone(), place })?;
        }
        drop(answer);
        result.await.map_err(|_| ShuttingDown)
    }

    /// Stops a job, after the commit. A locked job is retried briefly.
    pub async fn stop(&self, stop: StopJob) -> Result<StopResult, ShuttingDown> {
        let begun = Instant::now();
        loop {
            let (done, result) = oneshot::channel();
            self.change(Change::Stop(stop.clone(), done))?;
            match result.await.map_err(|_| ShuttingDown)? {
                StopResult::Busy if begun.elapsed() < STOP_TRIED_FOR => tokio::time::sleep(RETRY_FIRST).await,
                result => return Ok(result),
            }
        }
    }

    /// Keeps another number of instances of a service, after the commit. A locked job is retried briefly.
    pub async fn scale(&self, scale: ScaleJob) -> Result<ScaleResult, ShuttingDown> {
        let begun = Instant::now();
        loop {
            let (done, result) = oneshot::channel();
            self.change(Change::Scale(scale.clone(), done))?;
            match result.await.map_err(|_| ShuttingDown)? {
                ScaleResult::Busy if begun.elapsed() < STOP_TRIED_FOR => {
                    tokio::time::sleep(RETRY_FIRST).await;
                }
                result => return Ok(result),
            }
        }
    }

    /// Takes a step of an update, after the commit. Returns whether it was taken; it is decided again otherwise.
    pub async fn update_step(&self, step: UpdateStep) -> Result<bool, ShuttingDown> {
        let (done, result) = oneshot::channel();
        self.change(Change::Step(step, done))?;
        // Dropped if the job is locked.
        Ok(result.await.unwrap_or(false))
    }

    /// Continues a job that is too large for one transaction, after the commit.
    pub async fn slice(&self, slice: JobSlice) -> Result<SliceResult, ShuttingDown> {
        let (done, result) = oneshot::channel();
        self.change(Change::Slice(slice, done))?;
        result.await.map_err(|_| ShuttingDown)
    }

    /// Compares the attempts that a worker holds with the database, after all its earlier reports are committed, and
    /// waits until differences are repaired. False if the database took too long.
    ///
    /// # Errors
    /// As above.
    pub async fn reconcile_hello(
        &self,
        worker: WorkerId,
        held: Vec<ReportedAttempt>,
        rebooted: bool,
    ) -> Result<bool, ShuttingDown> {
        let (done, result) = oneshot::channel();
        let of = Of::Hello { rebooted, done };
        self.compare(Comparison { worker, held: Arc::new(held), of })?;
        result.await.map_err(|_| ShuttingDown)
    }

    /// The same for a list in a heartbeat; waits for nothing.
    ///
    /// # Errors
    /// As above.
    pub fn reconcile_heartbeat(
        &self,
        session: &Arc<SessionHandle>,
        listed: Listed,
    ) -> Result<(), ShuttingDown> {
        let (worker, held) = (session.worker, listed.held.clone());
        let of = Of::Heartbeat { session: session.clone(), listed };
        self.compare(Comparison { worker, held, of })
    }

    /// Counts what is live on workers between two batches, so that no change is missed or counted twice.
    ///
    /// # Errors
    /// When the database does not answer, or the master is shutting down.
    pub async fn count_live(&self) -> Result<Vec<LiveOnWorker>, StoreError> {
        let (done, result) = oneshot::channel();
        self.send(Item::CountLive(done)).map_err(|_| StoreError::shutting_down())?;
        result.await.map_err(|_| StoreError::shutting_down())?
    }

    /// How many bytes of reports wait.
    pub fn queued(&self) -> Arc<AtomicUsize> {
        self.queued.clone()
    }

    fn report(
        &self,
        from: &Reporter,
        input: Input,
        acknowledge: Option<WorkerId>,
        bytes: usize,
    ) -> Result<(), NotTaken> {
        let charge = Some(Charge::new(from, &self.queued, ITEM_BYTES + bytes)?);
        Ok(self.change(Change::Report { input, acknowledge, charge })?)
    }

    fn compare(&self, comparison: Comparison) -> Result<(), ShuttingDown> {
        self.send(Item::Gather(Gatherable::Compare(comparison)))
    }

    fn change(&self, change: Change) -> Result<(), ShuttingDown> {
        self.send(Item::Gather(Gatherable::Change(change)))
    }

    fn send(&self, item: Item) -> Result<(), ShuttingDown> {
        self.items.send(item).map_err(|_| ShuttingDown)
    }
}

/// What the write batcher works with.
#[derive(Debug)]
pub struct Parts {
    /// Applies batches, one at a time.
    pub batches: Store,
    /// Does the rest.
    pub store: Store,
    /// Delivers messages to workers.
    pub hub: Hub,
    /// Live output.
    pub live: LiveOutputs,
    /// Learns how long runs take.
    pub pace: Pace,
    /// Learns what workers give back, and what became unhealthy where.
    pub pauses: Pauses,
    /// Health of live attempts.
    pub healths: Healths,
    /// Tells viewers.
    pub changes: Changes,
    /// Asks for a scheduling pass.
    pub scheduler_wake: Wake,
    /// Learns what waits and what is live.
    pub scheduling: SchedulingState,
    /// Receives what is too large for one transaction.
    pub large_jobs: LargeJobs,
    /// Current database problems.
    pub troubles: Troubles,
    pub metrics: TransitionMetrics,
    pub output_metrics: OutputMetrics,
}

#[derive(Debug)]
pub struct WriteBatcher {
    items: mpsc::UnboundedReceiver<Item>,
    /// Taken from the queue, for the batch after the present one.
    next: Option<Item>,
    parts: Parts,
    compacting: Arc<Semaphore>,
    deferred: Deferred,
    /// How many changes make a full batch: fewer while the database is slow.
    most_changes: usize,
    tempo: Tempo,
}

impl WriteBatcher {
    /// A write batcher and the handle to it.
    pub fn new(parts: Parts) -> (WriteBatcher, WriteBatcherHandle) {
        let (sender, items) = mpsc::unbounded_channel();
        let compacting = Arc::new(Semaphore::new(1));
        let deferred = Deferred::default();
        let most_changes = MAX_BATCH_CHANGES;
        let tempo = Tempo::new(Instant::now());
        let output = parts.output_metrics.clone();
        let write_batcher =
            WriteBatcher { items, next: None, parts, compacting, deferred, most_changes, tempo };
        (write_batcher, WriteBatcherHandle { items: sender, queued: Arc::default(), output })
    }

    /// Runs until all handles are dropped.
    pub async fn run(mut self) {
        loop {
            // One batch of deferred changes, then one of new ones, so that neither starves the other.
            if self.deferred.due().is_some_and(|due| due <= Instant::now()) {
                self.try_deferred().await;
            }
            let item = match self.next.take() {
                Some(item) => item,
                None => tokio::select! {
                    biased;
                    item = self.items.recv() => match item {
                        Some(item) => item,
                        None => return,
                    },
                    () = sleep_until_or_forever(self.deferred.due()) => continue,
                },
            };
            let first = match item {
                Item::Gather(first) => first,
                Item::CountLive(done) => {
                    let _ = done.send(self.count_live().await);
                    continue;
                }
            };
            let Gathered { pending, comparisons, .. } = self.gather(first).await;
            self.commit(pending.changes).await;
            if comparisons.is_empty() {
                continue;
            }
            // Findings are committed before anything else, and before the sessions continue.
            let (found, uncompared) = self.repair(&comparisons).await;
            self.commit(found.into_iter().map(Change::found).collect()).await;
            for comparison in comparisons {
                if let Of::Hello { done, .. } = comparison.of {
                    let _ = done.send(!uncompared.contains(&comparison.worker));
                }
            }
        }
    }

    async fn count_live(&self) -> Result<Vec<LiveOnWorker>, StoreError> {
        let live = self.parts.store.live_on_workers().await?;
        self.parts.scheduling.live_was_counted(&live);
        Ok(live)
    }

    /// Takes what has come for the next batch, beginning with `first`, and waits for more where [`Tempo`] says so.
    async fn gather(&mut self, first: Gatherable) -> Gathered {
        let mut gathered = Gathered::default();
        let begun = Instant::now();
        self.take_waiting(&mut gathered, Item::Gather(first));
        while self.next.is_none() && !gathered.is_full(self.most_changes) {
            let wait = self.tempo.wait(gathered.is_only_starts(), begun);
            if wait.is_zero() {
                break;
            }
            match tokio::time::timeout_at(begun + wait, self.items.recv()).await {
                Ok(Some(item)) => self.take_waiting(&mut gathered, item),
                Ok(None) | Err(_) => break,
            }
        }
        self.tempo.note(gathered.pending.changes.len(), Instant::now());
        gathered
    }

    /// Takes an item and all that wait, up to the limits of a batch. A comparison must see everything that its worker
    /// reported before, and nothing that it reported after.
    fn take_waiting(&mut self, gathered: &mut Gathered, item: Item) {
        let mut next = Some(item);
        while let Some(item) = next {
            match item {
                Item::Gather(item)
                    if !gathered.comes_before(&item) && !gathered.is_full(self.most_changes) =>
                {
                    gathered.add(item);
                }
                later => {
                    self.next = Some(later);
                    return;
                }
            }
            next = self.items.try_recv().ok();
        }
    }
}

/// What is to be committed and compared together.
#[derive(Debug, Default)]
struct Gathered {
    pending: Pending,
    comparisons: Vec<Comparison>,
    compared: HashSet<WorkerId>,
    has_hello: bool,
}

impl Gathered {
    /// Whether an item must wait until this is through.
    fn comes_before(&self, item: &Gatherable) -> bool {
        match item {
            Gatherable::Compare(comparison) => self.compared.contains(&comparison.worker),
            Gatherable::Change(change) => match change.worker() {
                Some(worker) => self.compared.contains(&worker),
                // A placement right after the worker's hello would look lost.
                None => self.has_hello,
            },
        }
    }

    fn is_full(&self, most_changes: usize) -> bool {
        self.pending.is_full(most_changes) || self.comparisons.len() == MAX_COMPARISONS
    }

    fn is_only_starts(&self) -> bool {
        self.comparisons.is_empty() && self.pending.changes.iter().all(Change::is_start)
    }

    fn add(&mut self, item: Gatherable) {
        match item {
            Gatherable::Compare(comparison) => {
                self.compared.insert(comparison.worker);
                self.has_hello |= matches!(comparison.of, Of::Hello { .. });
                self.comparisons.push(comparison);
            }
            Gatherable::Change(change) => self.pending.add(change),
        }
    }
}

/// Bytes of what a worker tells of an attempt's surroundings.
fn told_bytes(container: Option<&ContainerFacts>, ports: &[NamedPort]) -> usize {
    let ports = ports.iter().map(|port| size_of::<NamedPort>() + port.name.len() + port.host.len());
    container.map_or(0, |facts| facts.id.len() + facts.image.len()) + ports.sum::<usize>()
}

async fn sleep_until_or_forever(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
