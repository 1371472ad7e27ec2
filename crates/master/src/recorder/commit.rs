//! Commits a batch, whatever the database says, then tells everybody who waits for it.

use std::time::Instant;

use chrono::Utc;
use gaffer_domain::AttemptRef;
use gaffer_domain::task::{Rejected, TaskEvent};
use gaffer_protocol::wire::ToWorker;

use super::batch::Pending;
use super::{RETRY_FIRST, RETRY_LONGEST, Recorder};
use crate::store::StoreError;
use crate::store::gate::{Batch, Dispatch, Outcome, StopResult};

/// Output that came in so many chunks of less than this mean size is joined when it is over.
const COMPACT_FROM_CHUNKS: u64 = 8;
const COMPACT_BELOW_BYTES: u64 = 32 << 10;

impl Recorder {
    /// Commits a batch, however long that takes, then tells everybody.
    pub(super) async fn commit(&mut self, pending: Pending) {
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
            whole.closed.extend(outcome.closed);
            whole.workers.extend(outcome.workers);
            whole.scheduling_wanted |= outcome.scheduling_wanted;
        }
        whole
    }

    /// After a commit: acknowledgements, commands, and calls to whoever waits.
    fn tell(&self, pending: Pending, outcome: Outcome) {
        drop(pending.on_its_way);
        for worker in &outcome.workers {
            if let Some(session) = self.hub.get(*worker) {
                session.agreement.expectation_changed();
            }
        }
        for (attempt, (live, offset)) in pending.stored {
            self.live.stored(&live, offset);
            self.hub.send(live.worker, ToWorker::OutputStored { attempt, offset });
        }
        for (worker, attempt) in pending.ends {
            self.hub.send(worker, ToWorker::EndStored { attempt });
        }
        for attempt in outcome.closed {
            self.finish_output(attempt);
        }
        // Also of what was closed before: its worker has no more to say of it.
        for input in &pending.batch.inputs {
            if let TaskEvent::Ended(report, _) = &input.event {
                self.finish_output(AttemptRef { task: input.task, attempt: report.attempt });
            }
        }
        for command in outcome.commands {
            match command {
                Dispatch::Start(worker, order) => {
                    self.live.open_new(order.attempt, worker);
                    self.hub.start(worker, &order);
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
        let Some(live) = self.live.close(attempt) else { return };
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
}
