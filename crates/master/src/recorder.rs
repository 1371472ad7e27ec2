//! Brings everything that happens to tasks to the gate: few, large transactions, then commands and acknowledgements.
//!
//! There is one recorder. What arrives while a batch commits forms the next one. Items are handled in the order in
//! which they were sent, so that a comparison with what a worker holds sees all that the worker had reported before.

mod batch;
mod commit;
mod repair;

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use gaffer_domain::worker::{Held, Occasion};
use gaffer_domain::{AttemptRef, WorkerId};
use gaffer_protocol::wire::{ContainerFacts, Ended};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use crate::changes::Changes;
use crate::hub::Hub;
use crate::live::{LiveOutput, LiveOutputs};
use crate::pace::Pace;
use crate::store::Store;
use crate::store::gate::{Input, StopJob, StopResult};
use crate::store::output::ChunkRow;
use batch::{Change, Pending, Results, WorkerReport};
pub use repair::lost;

/// So many items wait for the recorder; whoever has one more waits itself.
const MAX_QUEUED_ITEMS: usize = 4_096;
/// So much output waits for the recorder, over all workers.
const MAX_QUEUED_OUTPUT_KIB: usize = 64 << 10;
/// Waits between tries while the database is away.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

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

/// What a worker says it holds, to be compared with the database once all before it is committed.
#[derive(Debug)]
struct Comparison {
    worker: WorkerId,
    held: Vec<Held>,
    occasion: Occasion,
    done: Option<oneshot::Sender<()>>,
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
}
