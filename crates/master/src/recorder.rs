//! Brings everything that happens to tasks to the gate: few, large transactions, then commands and acknowledgements.
//!
//! There is one recorder. What arrives while a batch commits forms the next one. Items are handled in the order in
//! which they were sent, so that a comparison with what a worker holds sees all that the worker had reported before.

mod batch;
mod commit;
mod deferred;
mod poison;
mod repair;

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use gaffer_domain::task::{Report, TaskEvent};
use gaffer_domain::worker::{Held, Occasion};
use gaffer_domain::{AttemptRef, WorkerId};
use gaffer_protocol::wire::{ContainerFacts, Ended};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::background::large_jobs::LargeJobs;
use crate::changes::Changes;
use crate::hub::Hub;
use crate::live::{LiveOutput, LiveOutputs};
use crate::pace::Pace;
use crate::store::Store;
use crate::store::gate::{Detail, Input, JobSlice, SliceResult, StopJob, StopResult};
use crate::store::output::ChunkRow;
use crate::troubles::Troubles;
use batch::{Answer, Change, MAX_BATCH_CHANGES, Pending, Results};
use deferred::Deferred;
pub use repair::lost;

/// So many items wait for the recorder; whoever has one more waits itself.
const MAX_QUEUED_ITEMS: usize = 4_096;
/// So much output waits for the recorder, over all workers.
const MAX_QUEUED_OUTPUT_KIB: usize = 64 << 10;
/// Waits between tries while the database is away.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);
/// A stop of a job that somebody else holds locked is tried for so long.
const STOP_TRIED_FOR: Duration = Duration::from_secs(5);

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
        let event = TaskEvent::Started(Report { worker, attempt: attempt.attempt }, at);
        let detail = container.map_or(Detail::None, |facts| Detail::Container(Box::new(facts)));
        let input = Input { task: attempt.task, event, actor: actor.clone(), detail };
        self.change(Change::Report { input, acknowledge: None }).await
    }

    /// An attempt was given back unstarted.
    pub async fn returned(
        &self,
        worker: WorkerId,
        actor: &Arc<str>,
        attempt: AttemptRef,
    ) -> Result<(), ShuttingDown> {
        let event = TaskEvent::Returned(Report { worker, attempt: attempt.attempt });
        let input = Input { task: attempt.task, event, actor: actor.clone(), detail: Detail::None };
        self.change(Change::Report { input, acknowledge: None }).await
    }

    /// An attempt is over, as its worker says; all its output was sent here before. `lines` are the line ends in it.
    pub async fn ended(
        &self,
        worker: WorkerId,
        actor: &Arc<str>,
        ended: Box<Ended>,
        lines: u64,
    ) -> Result<(), ShuttingDown> {
        let attempt = ended.attempt;
        let event = TaskEvent::Ended(Report { worker, attempt: attempt.attempt }, ended.end.clone());
        let detail = Detail::End(ended, lines);
        let input = Input { task: attempt.task, event, actor: actor.clone(), detail };
        self.change(Change::Report { input, acknowledge: Some(worker) }).await
    }

    /// Output arrived. Waits while too much of it is not committed.
    pub async fn output(&self, row: ChunkRow, live: Arc<LiveOutput>) -> Result<(), ShuttingDown> {
        let kib = (row.chunk.body.len() / 1024 + 1).min(MAX_QUEUED_OUTPUT_KIB) as u32;
        let room = self.output_room.clone().acquire_many_owned(kib).await.map_err(|_| ShuttingDown)?;
        self.change(Change::Output { row, live, _room: room }).await
    }

    /// Applies what the master has decided and says which of it changed something, after the commit.
    pub async fn events(&self, inputs: Vec<Input>) -> Result<Results, ShuttingDown> {
        let (done, result) = oneshot::channel();
        let answer = Answer::new(inputs.len(), done);
        for (place, input) in inputs.into_iter().enumerate() {
            self.change(Change::Decision { input, answer: answer.clone(), place }).await?;
        }
        drop(answer);
        result.await.map_err(|_| ShuttingDown)
    }

    /// Stops a job, after the commit. A job that somebody else holds locked is tried again for a moment.
    pub async fn stop(&self, stop: StopJob) -> Result<StopResult, ShuttingDown> {
        let begun = Instant::now();
        loop {
            let (done, result) = oneshot::channel();
            self.change(Change::Stop(stop.clone(), done)).await?;
            match result.await.map_err(|_| ShuttingDown)? {
                StopResult::Busy if begun.elapsed() < STOP_TRIED_FOR => tokio::time::sleep(RETRY_FIRST).await,
                result => return Ok(result),
            }
        }
    }

    /// Goes on with a job that is too large for one transaction, after the commit.
    pub async fn slice(&self, slice: JobSlice) -> Result<SliceResult, ShuttingDown> {
        let (done, result) = oneshot::channel();
        self.change(Change::Slice(slice, done)).await?;
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

/// What the recorder works with.
#[derive(Debug)]
pub struct Parts {
    /// Where it writes.
    pub store: Store,
    /// Through which workers are told.
    pub hub: Hub,
    /// Output that is under way.
    pub live: LiveOutputs,
    /// Learns how long runs take.
    pub pace: Pace,
    /// Tells viewers.
    pub changes: Changes,
    /// Asks for a scheduling pass.
    pub scheduler_wake: Arc<Notify>,
    /// Takes what is too large for one transaction.
    pub large_jobs: LargeJobs,
    /// Knows what is wrong with the database.
    pub troubles: Troubles,
}

/// The recorder itself.
#[derive(Debug)]
pub struct Recorder {
    items: mpsc::Receiver<Item>,
    parts: Parts,
    compacting: Arc<Semaphore>,
    deferred: Deferred,
    /// How many changes make a full batch: fewer while the database is slow.
    most_changes: usize,
}

impl Recorder {
    /// A recorder and the handle to it.
    pub fn new(parts: Parts) -> (Recorder, RecorderHandle) {
        let (sender, items) = mpsc::channel(MAX_QUEUED_ITEMS);
        let output_room = Arc::new(Semaphore::new(MAX_QUEUED_OUTPUT_KIB));
        let compacting = Arc::new(Semaphore::new(1));
        let deferred = Deferred::default();
        let recorder = Recorder { items, parts, compacting, deferred, most_changes: MAX_BATCH_CHANGES };
        (recorder, RecorderHandle { items: sender, output_room })
    }

    /// Records until every handle is gone.
    pub async fn run(mut self) {
        loop {
            let due = self.deferred.due();
            let item = tokio::select! {
                biased;
                () = sleep_until_or_forever(due) => None,
                item = self.items.recv() => match item {
                    Some(item) => Some(item),
                    None => return,
                },
            };
            let Some(item) = item else {
                self.try_deferred().await;
                continue;
            };
            let (pending, comparison) = self.gather(item);
            self.commit(pending.changes).await;
            let Some(comparison) = comparison else { continue };
            // What is found is committed before anything else, and before the session goes on.
            let found = self.repair(&comparison).await;
            let found = found.into_iter().map(|input| Change::Report { input, acknowledge: None }).collect();
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
            if pending.is_full(self.most_changes) {
                break;
            }
            next = self.items.try_recv().ok();
        }
        (pending, None)
    }
}

async fn sleep_until_or_forever(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
