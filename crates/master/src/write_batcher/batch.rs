//! The changes of a batch, and who waits for each.

use std::sync::{Arc, Mutex, PoisonError};

use gaffer_domain::task::{Rejected, TaskEvent};
use gaffer_domain::{TaskId, WorkerId};
use tokio::sync::oneshot;

use super::queue::Charge;
use crate::hub::OnItsWay;
use crate::live::LiveOutput;
use crate::store::output::ChunkRow;
use crate::store::transitions::{
    Batch, Input, JobSlice, ScaleJob, ScaleResult, SliceResult, StopJob, StopResult, UpdateStep,
};

/// A batch is closed at this number of changes or bytes of output.
pub(super) const MAX_BATCH_CHANGES: usize = 1_000;
const MAX_BATCH_OUTPUT_BYTES: usize = 2 << 20;

/// Whether each of several events changed something.
pub(super) type Results = Vec<Result<(), Rejected>>;

/// One change to apply.
#[derive(Debug)]
pub(super) enum Change {
    /// A report, or an observed fact. It must not be forgotten.
    Report {
        input: Input,
        /// Notified after the commit.
        acknowledge: Option<WorkerId>,
        /// Of its worker's share of the queue.
        charge: Option<Charge>,
    },
    /// Output that arrived. It must not be forgotten.
    Output { row: ChunkRow, live: Arc<LiveOutput>, on_its_way: OnItsWay },
    /// A request of the master. It is decided again if it has no effect.
    Decision { input: Input, answer: Arc<Answer>, place: usize },
    /// A job that a user wants stopped.
    Stop(StopJob, oneshot::Sender<StopResult>),
    /// A service that a user wants scaled.
    Scale(ScaleJob, oneshot::Sender<ScaleResult>),
    /// A step of an update.
    Step(UpdateStep, oneshot::Sender<bool>),
    /// More of a job that is too large for one transaction.
    Slice(JobSlice, oneshot::Sender<SliceResult>),
}

/// The answer to several decisions: given when the last of them is through. One that came to nothing was rejected
/// because its job was busy.
#[derive(Debug)]
pub(super) struct Answer {
    results: Mutex<Results>,
    done: Mutex<Option<oneshot::Sender<Results>>>,
}

impl Answer {
    /// A response for several decisions.
    pub(super) fn new(decisions: usize, done: oneshot::Sender<Results>) -> Arc<Answer> {
        let results = Mutex::new(vec![Err(Rejected::Busy); decisions]);
        Arc::new(Answer { results, done: Mutex::new(Some(done)) })
    }

    pub(super) fn set(&self, place: usize, result: Result<(), Rejected>) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = results.get_mut(place) {
            *slot = result;
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let results = std::mem::take(self.results.get_mut().unwrap_or_else(PoisonError::into_inner));
        if let Some(done) = self.done.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = done.send(results);
        }
    }
}

impl Change {
    /// What was found to have happened, beside what a worker reported.
    pub(super) fn found(input: Input) -> Change {
        Change::Report { input, acknowledge: None, charge: None }
    }

    /// The reporting worker, if any.
    pub(super) fn worker(&self) -> Option<WorkerId> {
        match self {
            Change::Report { input, .. } => match &input.event {
                TaskEvent::Started(report, _) | TaskEvent::Returned(report) | TaskEvent::Ended(report, _) => {
                    Some(report.worker)
                }
                _ => None,
            },
            Change::Output { live, .. } => Some(live.worker),
            Change::Decision { .. }
            | Change::Stop(..)
            | Change::Scale(..)
            | Change::Step(..)
            | Change::Slice(..) => None,
        }
    }

    pub(super) fn is_start(&self) -> bool {
        matches!(self, Change::Report { input, .. } if matches!(input.event, TaskEvent::Started(..)))
    }

    /// The task whose changes must stay in order with this one.
    pub(super) fn task(&self) -> Option<TaskId> {
        match self {
            Change::Report { input, .. } | Change::Decision { input, .. } => Some(input.task),
            Change::Output { row, .. } => Some(row.chunk.attempt.task),
            Change::Stop(..) | Change::Scale(..) | Change::Step(..) | Change::Slice(..) => None,
        }
    }
}

/// Changes that are to be committed together.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) changes: Vec<Change>,
    output_bytes: usize,
}

impl Pending {
    pub(super) fn add(&mut self, change: Change) {
        if let Change::Output { row, .. } = &change {
            self.output_bytes += row.chunk.body.len();
        }
        self.changes.push(change);
    }

    pub(super) fn is_full(&self, most: usize) -> bool {
        self.changes.len() >= most || self.output_bytes >= MAX_BATCH_OUTPUT_BYTES
    }
}

/// The changes by kind, as `store/transitions` takes them; results come back in the same order.
pub(super) fn batch_of(changes: &[Change], passes_over_locked: bool) -> Batch {
    let mut batch = Batch { passes_over_locked, ..Batch::default() };
    for change in changes {
        match change {
            Change::Report { input, .. } | Change::Decision { input, .. } => batch.inputs.push(input.clone()),
            Change::Output { row, .. } => batch.chunks.push(row.clone()),
            Change::Stop(stop, _) => batch.stops.push(stop.clone()),
            Change::Scale(scale, _) => batch.scales.push(scale.clone()),
            Change::Step(step, _) => batch.steps.push(step.clone()),
            Change::Slice(slice, _) => batch.slices.push(*slice),
        }
    }
    batch
}
