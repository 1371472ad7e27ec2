//! Brings everything that happens to tasks to the gate: few, large transactions, then commands and acknowledgements.
//!
//! There is one recorder. What arrives while a batch commits forms the next one. Items are handled in the order in
//! which they were sent, so that a comparison with what a worker holds sees all that the worker had reported before.

mod batch;
mod commit;
mod queue;
mod repair;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use chrono::Utc;
use gaffer_domain::worker::{Held, Occasion};
use gaffer_domain::{AttemptRef, WorkerId};
use gaffer_protocol::wire::{ContainerFacts, Ended};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use crate::changes::Changes;
use crate::hub::{Hub, Listed, OnItsWay, SessionHandle};
use crate::live::{LiveOutput, LiveOutputs};
use crate::pace::Pace;
use crate::store::Store;
use crate::store::gate::{Input, StopJob, StopResult};
use crate::store::output::ChunkRow;
use batch::{Change, Pending, Results, WorkerReport};
use queue::Charge;
pub use queue::{NotTaken, Reporter};
pub use repair::lost;

/// Waits between tries while the database is away.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// So many workers are compared with one look at the database.
const MAX_COMPARISONS: usize = 200;
/// What an item costs beside its texts.
const ITEM_BYTES: usize = 256;

/// Sends items to the recorder. Never waits for room, see [`queue`].
#[derive(Debug, Clone)]
pub struct RecorderHandle {
    items: mpsc::UnboundedSender<Item>,
    queued: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Item {
    Change(Change),
    Compare(Comparison),
}

/// What a worker says it holds, to be compared with the database once all before it is committed.
#[derive(Debug)]
struct Comparison {
    worker: WorkerId,
    held: Arc<Vec<Held>>,
    of: Of,
}

/// When the worker said so.
#[derive(Debug)]
enum Of {
    Hello { rebooted: bool, done: oneshot::Sender<()> },
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

/// The recorder is gone: the master is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the master is shutting down")]
pub struct ShuttingDown;

impl RecorderHandle {
    /// An attempt started, as its worker says.
    ///
    /// # Errors
    /// When the master is shutting down, or the worker has reported too much; likewise below.
    pub fn started(
        &self,
        from: &Reporter,
        attempt: AttemptRef,
        at: chrono::DateTime<Utc>,
        container: Option<ContainerFacts>,
    ) -> Result<(), NotTaken> {
        let facts = container.as_ref().map_or(0, |facts| facts.id.len() + facts.image.len());
        let report = self.report(from, facts)?;
        self.take(Change::Started(report, attempt, at, container))
    }

    /// An attempt was given back unstarted.
    ///
    /// # Errors
    /// As above.
    pub fn returned(&self, from: &Reporter, attempt: AttemptRef) -> Result<(), NotTaken> {
        let report = self.report(from, 0)?;
        self.take(Change::Returned(report, attempt))
    }

    /// An attempt is over, as its worker says; all its output was sent here before. `lines` are the line ends in it.
    ///
    /// # Errors
    /// As above.
    pub fn ended(&self, from: &Reporter, ended: Box<Ended>, lines: u64) -> Result<(), NotTaken> {
        let message = match &ended.end {
            gaffer_domain::reason::AttemptEnd::StartFailed { message, .. } => message.len(),
            _ => 0,
        };
        let facts = ended.container.as_ref().map_or(0, |facts| facts.id.len() + facts.image.len());
        let report = self.report(from, size_of::<Ended>() + message + facts)?;
        self.take(Change::Ended(report, ended, lines))
    }

    /// Output arrived.
    ///
    /// # Errors
    /// When the master is shutting down.
    pub fn output(&self, row: ChunkRow, live: Arc<LiveOutput>, on_its_way: OnItsWay) -> Result<(), NotTaken> {
        self.take(Change::Output { row, live, on_its_way })
    }

    /// Applies events and says which of them changed something, after the commit.
    ///
    /// # Errors
    /// When the master is shutting down; likewise below.
    pub async fn events(&self, inputs: Vec<Input>) -> Result<Results, ShuttingDown> {
        let (done, result) = oneshot::channel();
        self.change(Change::Events(inputs, Some(done)))?;
        result.await.map_err(|_| ShuttingDown)
    }

    /// Stops a job, after the commit.
    ///
    /// # Errors
    /// As above.
    pub async fn stop(&self, stop: StopJob) -> Result<StopResult, ShuttingDown> {
        let (done, result) = oneshot::channel();
        self.change(Change::Stop(stop, done))?;
        result.await.map_err(|_| ShuttingDown)
    }

    /// Compares what a worker says it holds with the database, once all that it reported before is committed, and
    /// waits until the differences are repaired.
    ///
    /// # Errors
    /// As above.
    pub async fn reconcile_hello(
        &self,
        worker: WorkerId,
        held: Vec<Held>,
        rebooted: bool,
    ) -> Result<(), ShuttingDown> {
        let (done, result) = oneshot::channel();
        let of = Of::Hello { rebooted, done };
        self.send(Item::Compare(Comparison { worker, held: Arc::new(held), of }))?;
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
        self.send(Item::Compare(Comparison { worker, held, of }))
    }

    fn report(&self, from: &Reporter, bytes: usize) -> Result<WorkerReport, NotTaken> {
        let charge = Charge::new(from, &self.queued, ITEM_BYTES + bytes)?;
        Ok(WorkerReport { worker: from.worker, actor: from.actor.clone(), _charge: charge })
    }

    fn take(&self, change: Change) -> Result<(), NotTaken> {
        Ok(self.change(change)?)
    }

    fn change(&self, change: Change) -> Result<(), ShuttingDown> {
        self.send(Item::Change(change))
    }

    fn send(&self, item: Item) -> Result<(), ShuttingDown> {
        self.items.send(item).map_err(|_| ShuttingDown)
    }
}

/// The recorder itself.
#[derive(Debug)]
pub struct Recorder {
    items: mpsc::UnboundedReceiver<Item>,
    /// Taken from the queue, for the batch after the present one.
    next: Option<Item>,
    store: Store,
    hub: Hub,
    live: LiveOutputs,
    pace: Pace,
    changes: Changes,
    scheduler_wake: Arc<Notify>,
    compacting: Arc<Semaphore>,
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
        let (sender, items) = mpsc::unbounded_channel();
        let compacting = Arc::new(Semaphore::new(1));
        let recorder =
            Recorder { items, next: None, store, hub, live, pace, changes, scheduler_wake, compacting };
        (recorder, RecorderHandle { items: sender, queued: Arc::default() })
    }

    /// Records until every handle is gone.
    pub async fn run(mut self) {
        loop {
            let item = match self.next.take() {
                Some(item) => item,
                None => match self.items.recv().await {
                    Some(item) => item,
                    None => return,
                },
            };
            let (pending, comparisons) = self.gather(item);
            self.commit(pending).await;
            if comparisons.is_empty() {
                continue;
            }
            // What is found is committed before anything else, and before the sessions go on.
            let mut found = Pending::default();
            found.add(Change::Events(self.repair(&comparisons).await, None));
            self.commit(found).await;
            for comparison in comparisons {
                if let Of::Hello { done, .. } = comparison.of {
                    let _ = done.send(());
                }
            }
        }
    }

    /// Takes what is there, up to the limits of a batch. What is to be compared has to see everything committed that its
    /// worker reported before, and nothing that it reported after.
    fn gather(&mut self, item: Item) -> (Pending, Vec<Comparison>) {
        let mut pending = Pending::default();
        let mut comparisons = Vec::new();
        let mut compared = HashSet::new();
        let mut has_hello = false;
        let mut next = Some(item);
        while let Some(item) = next {
            let comes_after = match &item {
                Item::Compare(comparison) => compared.contains(&comparison.worker),
                Item::Change(change) => match change.worker() {
                    Some(worker) => compared.contains(&worker),
                    // What is placed on a worker right after its hello would look lost.
                    None => has_hello,
                },
            };
            if comes_after || pending.is_full() || comparisons.len() == MAX_COMPARISONS {
                self.next = Some(item);
                break;
            }
            match item {
                Item::Compare(comparison) => {
                    compared.insert(comparison.worker);
                    has_hello |= matches!(comparison.of, Of::Hello { .. });
                    comparisons.push(comparison);
                }
                Item::Change(change) => pending.add(change),
            }
            next = self.items.try_recv().ok();
        }
        (pending, comparisons)
    }
}
