//! What waits for the gate together, and who waits for it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use chrono::Utc;
use gaffer_domain::task::{Rejected, Report, TaskEvent};
use gaffer_domain::{AttemptRef, WorkerId};
use gaffer_protocol::wire::{ContainerFacts, Ended};
use tokio::sync::oneshot;

use super::queue::Charge;
use crate::hub::OnItsWay;
use crate::live::LiveOutput;
use crate::store::gate::{Batch, Detail, Input, StopJob, StopResult};
use crate::store::output::ChunkRow;

/// A batch is closed when it has so many events or so much output.
const MAX_BATCH_INPUTS: usize = 1_000;
const MAX_BATCH_OUTPUT_BYTES: usize = 2 << 20;

/// Whether each of several events changed something.
pub(super) type Results = Vec<Result<(), Rejected>>;

/// What goes through the gate.
#[derive(Debug)]
pub(super) enum Change {
    Started(WorkerReport, AttemptRef, chrono::DateTime<Utc>, Option<ContainerFacts>),
    Returned(WorkerReport, AttemptRef),
    Ended(WorkerReport, Box<Ended>, u64),
    Output { row: ChunkRow, live: Arc<LiveOutput>, on_its_way: OnItsWay },
    Events(Vec<Input>, Option<oneshot::Sender<Results>>),
    Stop(StopJob, oneshot::Sender<StopResult>),
}

impl Change {
    /// The worker that reports it; none if nobody reports it.
    pub(super) fn worker(&self) -> Option<WorkerId> {
        match self {
            Change::Started(from, ..) | Change::Returned(from, ..) | Change::Ended(from, ..) => {
                Some(from.worker)
            }
            Change::Output { live, .. } => Some(live.worker),
            Change::Events(..) | Change::Stop(..) => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct WorkerReport {
    pub(super) worker: WorkerId,
    pub(super) actor: Arc<str>,
    pub(super) _charge: Charge,
}

/// A batch together with those who wait for it.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) batch: Batch,
    output_bytes: usize,
    /// Whom to tell that the end of an attempt is recorded.
    pub(super) ends: Vec<(WorkerId, AttemptRef)>,
    pub(super) stored: BTreeMap<AttemptRef, (Arc<LiveOutput>, u64)>,
    /// Given back before anybody is told that it is stored.
    pub(super) on_its_way: Vec<OnItsWay>,
    pub(super) events_done: Vec<(Range<usize>, oneshot::Sender<Results>)>,
    pub(super) stops_done: Vec<oneshot::Sender<StopResult>>,
}

impl Pending {
    pub(super) fn add(&mut self, change: Change) {
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
            Change::Output { row, live, on_its_way } => {
                self.output_bytes += row.chunk.body.len();
                let end = row.chunk.offset + u64::from(row.payload_bytes);
                self.stored.insert(row.chunk.attempt, (live, end));
                self.batch.chunks.push(row);
                self.on_its_way.push(on_its_way);
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

    pub(super) fn is_full(&self) -> bool {
        self.batch.inputs.len() >= MAX_BATCH_INPUTS || self.output_bytes >= MAX_BATCH_OUTPUT_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.inputs.is_empty() && self.batch.stops.is_empty() && self.batch.chunks.is_empty()
    }
}
