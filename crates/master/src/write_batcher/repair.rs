//! Compares the attempts that a worker reports with the database, and repairs differences.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use chrono::Utc;
use gaffer_domain::reason::{AttemptEnd, LostCause};
use gaffer_domain::task::{Report, TaskEvent};
use gaffer_domain::worker::{Expected, Occasion, Repair, reconcile};
use gaffer_domain::{AttemptRef, WorkerId};
use gaffer_protocol::wire::ToWorker;

use super::{Comparison, Of, RETRY_FIRST, RETRY_LONGEST, WriteBatcher};
use crate::store::transitions::{Detail, Input};

/// The actor of what a comparison found.
pub(super) const FOUND_BY: &str = "gaffer";
/// How often the database is asked what a single worker should hold, when it needs too long for that.
const HELLO_TRIES: u32 = 3;

impl WriteBatcher {
    /// Finds and repairs what workers and the database disagree on. Returns what was found to have happened and is to be
    /// recorded, and the workers that could not be compared.
    pub(super) async fn repair(&self, comparisons: &[Comparison]) -> (Vec<Input>, HashSet<WorkerId>) {
        let workers: Vec<WorkerId> = comparisons.iter().map(|comparison| comparison.worker).collect();
        let has_hello = comparisons.iter().any(|comparison| matches!(comparison.of, Of::Hello { .. }));
        let mut expected = self.expected(workers, has_hello).await;
        let (now, mut starts, mut events) = (Utc::now(), HashMap::new(), Vec::new());
        let mut uncompared = HashSet::new();
        for comparison in comparisons {
            let (worker, occasion) = (comparison.worker, comparison.occasion());
            let Some(expected) = expected.remove(&worker) else {
                comparison.settle(false);
                uncompared.insert(worker);
                continue;
            };
            // In a heartbeat some differences are only young. Without any, there is nothing that time could change.
            let is_same = reconcile(&expected, &comparison.held, Occasion::Hello { rebooted: false }, now);
            comparison.settle(is_same.is_empty());
            for repair in reconcile(&expected, &comparison.held, occasion, now) {
                // What the worker reported of the task waits to be recorded: until then the database does not know.
                if self.deferred.holds(repair.attempt().task) {
                    continue;
                }
                tracing::info!(%worker, ?repair, "repairing a difference between worker and database");
                match repair {
                    Repair::SendStart(attempt) => {
                        starts.insert(attempt, worker);
                    }
                    Repair::Started(attempt) => events.push(Input {
                        task: attempt.task,
                        event: TaskEvent::Started(Report { worker, attempt: attempt.attempt }, now),
                        actor: FOUND_BY.into(),
                        detail: Detail::None,
                    }),
                    Repair::SendStop(attempt) => self.parts.hub.send(worker, ToWorker::Stop { attempt }),
                    Repair::SendKill(attempt) => self.parts.hub.send(worker, ToWorker::Kill { attempt }),
                    Repair::Lost(attempt, cause) => events.push(lost(worker, attempt, cause)),
                }
            }
        }
        if starts.is_empty() {
            return (events, uncompared);
        }
        let attempts: Vec<AttemptRef> = starts.keys().copied().collect();
        match self.parts.store.tasks_start_again(&attempts).await {
            Ok(orders) if self.parts.store.leadership().is_trusted() => {
                for order in orders {
                    let Some(worker) = starts.get(&order.attempt) else { continue };
                    self.parts.live.open_new(order.attempt, *worker);
                    self.parts.hub.start(*worker, &order);
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot resend placements; the next heartbeats will")
            }
        }
        (events, uncompared)
    }

    /// The attempts that each worker should hold. A worker that the database does not answer for is skipped; its next
    /// heartbeat or hello repeats the comparison.
    async fn expected(&self, workers: Vec<WorkerId>, has_hello: bool) -> HashMap<WorkerId, Vec<Expected>> {
        let mut all = HashMap::new();
        let mut parts = vec![(workers, if has_hello { HELLO_TRIES } else { 1 })];
        let mut wait = RETRY_FIRST;
        while let Some((mut workers, tries)) = parts.pop() {
            match self.parts.store.tasks_expected(&workers).await {
                Ok(mut expected) => {
                    all.extend(
                        workers.iter().map(|worker| (*worker, expected.remove(worker).unwrap_or_default())),
                    );
                }
                // Too much at once.
                Err(error) if error.may_be_partial() && workers.len() > 1 => {
                    let second = workers.split_off(workers.len() / 2);
                    parts.extend([(second, tries), (workers, tries)]);
                }
                Err(error) if error.may_be_partial() && tries <= 1 => {
                    tracing::warn!(?workers, %error, "cannot compare a worker with the database");
                }
                Err(_) if !has_hello => return all,
                Err(error) => {
                    parts.push((workers, if error.may_be_partial() { tries - 1 } else { tries }));
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_LONGEST);
                }
            }
        }
        all
    }
}

impl Comparison {
    /// Notes whether worker and database agree.
    fn settle(&self, agree: bool) {
        if let Of::Heartbeat { session, listed } = &self.of {
            session.agreement.compared(listed, agree, Instant::now());
        }
    }
}

/// The event of an attempt that is lost.
pub fn lost(worker: WorkerId, attempt: AttemptRef, cause: LostCause) -> Input {
    let report = Report { worker, attempt: attempt.attempt };
    Input {
        task: attempt.task,
        event: TaskEvent::Ended(report, AttemptEnd::Lost { cause }),
        actor: FOUND_BY.into(),
        detail: Detail::None,
    }
}
