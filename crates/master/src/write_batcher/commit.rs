//! Commits changes, handles database errors, and notifies everybody who waits.
//!
//! What the world does (the database is away, refuses everything) is waited out, and nothing is acknowledged meanwhile.
//! What concerns a part only (a locked row, a value that is refused, too much at once) is found by halving and dealt with
//! alone, so that it delays nothing else.

use std::collections::BTreeMap;
use std::time::Instant;

use chrono::Utc;
use gaffer_domain::AttemptRef;
use gaffer_domain::task::{Rejected, TaskEvent};
use gaffer_protocol::wire::ToWorker;

use super::batch::{Change, MAX_BATCH_CHANGES, batch_of};
use super::{RETRY_FIRST, RETRY_LONGEST, WriteBatcher};
use crate::store::StoreError;
use crate::store::transitions::{Dispatch, Outcome, ScaleResult, StopResult};

/// After this many failures without a success, the cause is not a single change, and halving stops. A single bad
/// change among [`MAX_BATCH_CHANGES`] is found earlier.
const FAILURES_OF_A_PART: u32 = 12;
/// Output of at least this many chunks with less than this mean size is merged after its end.
const COMPACT_FROM_CHUNKS: u64 = 8;
const COMPACT_BELOW_BYTES: u64 = 32 << 10;

impl WriteBatcher {
    /// Tries again what was deferred and is due.
    pub(super) async fn try_deferred(&mut self) {
        let due = self.deferred.take_due(tokio::time::Instant::now(), MAX_BATCH_CHANGES);
        self.commit(due).await;
        self.deferred.forget_done();
    }

    /// Commits changes, however long that takes. Changes that must wait alone are deferred.
    pub(super) async fn commit(&mut self, changes: Vec<Change>) {
        // What comes first is last.
        let mut parts = vec![changes];
        let mut failures = 0;
        let mut wait = RETRY_FIRST;
        let mut has_met_lock = false;
        while let Some(part) = parts.pop() {
            let part = self.deferred.hold_back(part);
            if part.is_empty() {
                continue;
            }
            let begun = Instant::now();
            match self.parts.batches.tasks_apply(&batch_of(&part, has_met_lock), Utc::now()).await {
                Ok(outcome) => {
                    (failures, wait) = (0, RETRY_FIRST);
                    self.parts.metrics.committed(part.len(), begun.elapsed());
                    self.most_changes = (self.most_changes * 2).min(MAX_BATCH_CHANGES);
                    self.parts.troubles.database_answers();
                    self.tell(part, outcome);
                }
                Err(StoreError::NotLeader) => {
                    match self.parts.store.leadership().stand_down_for_good().await {}
                }
                Err(StoreError::Locked(_)) if !has_met_lock => {
                    has_met_lock = true;
                    parts.push(part);
                }
                Err(error) if error.may_be_partial() && failures < FAILURES_OF_A_PART => {
                    self.parts.metrics.failed(error.kind());
                    failures += 1;
                    if matches!(error, StoreError::TooSlow(_)) {
                        self.most_changes = (part.len() / 2).max(1);
                    }
                    if self.take_apart(part, error, &mut parts).await {
                        // It stored what it had refused, so it was neither unavailable nor locked.
                        (failures, wait) = (0, RETRY_FIRST);
                        self.parts.troubles.database_answers();
                    }
                }
                Err(error) => {
                    // It may be committed or not, also later.
                    self.parts.scheduling.batch_is_unknown();
                    self.parts.large_jobs.outcome_is_unknown();
                    self.parts.metrics.failed(error.kind());
                    self.parts.troubles.database_fails(&error);
                    failures = 0;
                    parts.push(part);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_LONGEST);
                }
            }
            self.parts.metrics.deferred(self.deferred.tasks());
        }
    }

    /// Handles a part that failed: halves it, or defers or sets aside a single change. Returns whether the database
    /// has stored something.
    async fn take_apart(
        &mut self,
        mut part: Vec<Change>,
        error: StoreError,
        parts: &mut Vec<Vec<Change>>,
    ) -> bool {
        if part.len() > 1 {
            let second = part.split_off(part.len() / 2);
            parts.push(second);
            parts.push(part);
            return false;
        }
        let Some(change) = part.pop() else { return false };
        match (change, error) {
            (change @ (Change::Report { .. } | Change::Output { .. }), StoreError::Refused(error)) => {
                return self.set_aside(change, &StoreError::Refused(error), parts).await;
            }
            (change @ (Change::Report { .. } | Change::Output { .. }), error) => {
                self.parts.troubles.change_waits(&error);
                self.deferred.defer(change, tokio::time::Instant::now());
            }
            // Answered by being dropped; who wants it looks again.
            (Change::Decision { .. }, error) => self.parts.troubles.change_waits(&error),
            (Change::Stop(_, answer), error) => {
                self.parts.troubles.change_waits(&error);
                let _ = answer.send(StopResult::Busy);
            }
            (Change::Scale(_, answer), error) => {
                self.parts.troubles.change_waits(&error);
                let _ = answer.send(ScaleResult::Busy);
            }
            (Change::Step(..) | Change::Slice(..), error) => self.parts.troubles.change_waits(&error),
        }
        false
    }

    /// After a commit: acknowledgements, commands, and answers to callers.
    fn tell(&mut self, changes: Vec<Change>, outcome: Outcome) {
        self.parts.pauses.note(&outcome, Utc::now());
        let Outcome {
            results,
            stops,
            scales,
            steps,
            slices,
            commands,
            jobs,
            busy,
            unfinished,
            scheduling_wanted,
            runs,
            given_back: _,
            started: _,
            unhealthy: _,
            closed,
            workers,
            changed,
            waiting,
            live,
        } = outcome;
        for (class, first) in waiting {
            self.parts.scheduling.waiting([class], first);
        }
        self.parts.scheduling.live_changed(&live);
        self.parts.metrics.changed(&changed);
        // Before a slice is answered: what was found with it or before it is known by then.
        self.parts.large_jobs.add(unfinished);
        for worker in &workers {
            if let Some(session) = self.parts.hub.get(*worker) {
                session.agreement.expectation_changed();
            }
        }
        let (mut results, mut stops) = (results.into_iter(), stops.into_iter());
        let (mut scales, mut slices) = (scales.into_iter(), slices.into_iter());
        let mut steps = steps.into_iter();
        let (mut stored, mut ended) = (BTreeMap::new(), Vec::new());
        for change in changes {
            match change {
                Change::Report { input, acknowledge, charge } => match results.next() {
                    Some(Err(Rejected::Busy)) | None => {
                        let report = Change::Report { input, acknowledge, charge };
                        self.deferred.defer(report, tokio::time::Instant::now());
                    }
                    Some(_) => {
                        let TaskEvent::Ended(report, _) = &input.event else { continue };
                        let attempt = AttemptRef { task: input.task, attempt: report.attempt };
                        ended.push((attempt, acknowledge));
                    }
                },
                Change::Decision { input, answer, place } => {
                    let Some(result) = results.next() else { continue };
                    if let (Ok(()), TaskEvent::Ended(report, _)) = (&result, &input.event) {
                        ended.push((AttemptRef { task: input.task, attempt: report.attempt }, None));
                    }
                    answer.set(place, result);
                }
                Change::Output { row, live, on_its_way } => {
                    // Before any notification: the worker may send as much again then.
                    drop(on_its_way);
                    self.parts.output_metrics.stored(row.payload_bytes);
                    let offset = row.chunk.offset + u64::from(row.payload_bytes);
                    stored.insert(row.chunk.attempt, (live, offset));
                }
                Change::Stop(_, answer) => {
                    let _ = answer.send(stops.next().unwrap_or(StopResult::Busy));
                }
                Change::Scale(_, answer) => {
                    let _ = answer.send(scales.next().unwrap_or(ScaleResult::Busy));
                }
                Change::Step(_, answer) => {
                    let _ = answer.send(steps.next().unwrap_or(false));
                }
                Change::Slice(_, answer) => {
                    if let Some(result) = slices.next() {
                        let _ = answer.send(result);
                    }
                }
            }
        }
        for (attempt, (live, offset)) in stored {
            self.parts.live.stored(&live, offset);
            self.parts.hub.send(live.worker, ToWorker::OutputStored { attempt, offset });
        }
        for (attempt, acknowledge) in ended {
            if let Some(worker) = acknowledge {
                self.parts.hub.send(worker, ToWorker::EndStored { attempt });
            }
            self.finish_output(attempt);
        }
        self.parts.healths.close(&closed, Utc::now());
        self.parts.healths.stopping(commands.iter().filter_map(Dispatch::stopped));
        for attempt in closed {
            self.finish_output(attempt);
        }
        for command in commands {
            match command {
                // One that is not sent is found missing at the worker's next heartbeat or hello.
                Dispatch::Start(..) if !self.parts.store.leadership().is_trusted() => {}
                Dispatch::Start(worker, order) => {
                    self.parts.live.open_new(order.attempt, worker);
                    self.parts.hub.start(worker, &order);
                }
                Dispatch::Stop(worker, attempt) => self.parts.hub.send(worker, ToWorker::Stop { attempt }),
            }
        }
        runs.iter().for_each(|run| self.parts.metrics.ran(run.micros));
        self.parts.pace.note(&runs, Instant::now());
        self.parts.troubles.jobs_written(&jobs);
        self.parts.troubles.jobs_locked(&busy);
        if !jobs.is_empty() {
            self.parts.changes.announce(&jobs);
        }
        if scheduling_wanted {
            self.parts.scheduler_wake.call();
        }
    }

    /// Closes the live output of an attempt, and joins its chunks if they are many and small.
    fn finish_output(&self, attempt: AttemptRef) {
        let Some(live) = self.parts.live.close(attempt) else { return };
        let (chunks, bytes) = (live.chunk_count(), live.received().bytes);
        if chunks < COMPACT_FROM_CHUNKS || bytes / chunks > COMPACT_BELOW_BYTES {
            return;
        }
        let (store, compacting) = (self.parts.store.clone(), self.compacting.clone());
        tokio::spawn(async move {
            let Ok(_turn) = compacting.acquire().await else { return };
            if let Err(error) = store.output_compact(attempt).await {
                tracing::warn!(%attempt, %error, "cannot compact the chunks of an output");
            }
        });
    }
}
