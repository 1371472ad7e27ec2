//! Compares what a worker says it holds with the database, and repairs the differences.

use std::collections::HashMap;
use std::time::Instant;

use chrono::Utc;
use gaffer_domain::reason::{AttemptEnd, LostCause};
use gaffer_domain::task::{Report, TaskEvent};
use gaffer_domain::worker::{Occasion, Repair, reconcile};
use gaffer_domain::{AttemptRef, WorkerId};
use gaffer_protocol::wire::ToWorker;

use super::{Comparison, Of, RETRY_FIRST, RETRY_LONGEST, Recorder};
use crate::store::gate::{Detail, Input};

impl Recorder {
    /// Finds and repairs what workers and the database disagree on. Returns what was found to have happened and is to be
    /// recorded.
    pub(super) async fn repair(&self, comparisons: &[Comparison]) -> Vec<Input> {
        let workers: Vec<WorkerId> = comparisons.iter().map(|comparison| comparison.worker).collect();
        let has_hello = comparisons.iter().any(|comparison| matches!(comparison.of, Of::Hello { .. }));
        let mut wait = RETRY_FIRST;
        let mut expected = loop {
            match self.parts.store.tasks_expected(&workers).await {
                Ok(expected) => break expected,
                // Heartbeats come again by themselves.
                Err(_) if !has_hello => {
                    comparisons.iter().for_each(|comparison| comparison.settle(false));
                    return Vec::new();
                }
                Err(_) => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_LONGEST);
                }
            }
        };
        let (now, mut starts, mut events) = (Utc::now(), HashMap::new(), Vec::new());
        for comparison in comparisons {
            let (worker, occasion) = (comparison.worker, comparison.occasion());
            let expected = expected.remove(&worker).unwrap_or_default();
            // In a heartbeat some differences are only young. Without any, there is nothing that time could change.
            let is_same = reconcile(&expected, &comparison.held, Occasion::Hello { rebooted: false }, now);
            comparison.settle(is_same.is_empty());
            for repair in reconcile(&expected, &comparison.held, occasion, now) {
                // What the worker reported of the task waits to be recorded: until then the database does not know.
                if self.deferred.holds(repair.attempt().task) {
                    continue;
                }
                tracing::info!(%worker, ?repair, "repairing what worker and database disagree on");
                match repair {
                    Repair::SendStart(attempt) => {
                        starts.insert(attempt, worker);
                    }
                    Repair::Started(attempt) => events.push(Input {
                        task: attempt.task,
                        event: TaskEvent::Started(Report { worker, attempt: attempt.attempt }, now),
                        actor: "gaffer".into(),
                        detail: Detail::None,
                    }),
                    Repair::SendStop(attempt) => self.parts.hub.send(worker, ToWorker::Stop { attempt }),
                    Repair::SendKill(attempt) => self.parts.hub.send(worker, ToWorker::Kill { attempt }),
                    Repair::Lost(attempt, cause) => events.push(lost(worker, attempt, cause)),
                }
            }
        }
        if starts.is_empty() {
            return events;
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
                tracing::warn!(%error, "could not send placements again; the next heartbeats will")
            }
        }
        events
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
        actor: "gaffer".into(),
        detail: Detail::None,
    }
}
