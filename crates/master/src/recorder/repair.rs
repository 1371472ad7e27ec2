//! Compares what a worker says it holds with the database, and repairs the differences.

use chrono::Utc;
use gaffer_domain::reason::{AttemptEnd, LostCause};
use gaffer_domain::task::{Report, TaskEvent};
use gaffer_domain::worker::{Occasion, Repair, reconcile};
use gaffer_domain::{AttemptRef, WorkerId};
use gaffer_protocol::wire::ToWorker;

use super::{Comparison, RETRY_FIRST, RETRY_LONGEST, Recorder};
use crate::store::gate::{Detail, Input};

impl Recorder {
    /// Finds and repairs what a worker and the database disagree on. Returns what was found to have happened and
    /// is to be recorded.
    pub(super) async fn repair(&self, comparison: &Comparison) -> Vec<Input> {
        let Comparison { worker, held, occasion, .. } = comparison;
        let (worker, occasion) = (*worker, *occasion);
        let mut wait = RETRY_FIRST;
        let expected = loop {
            match self.parts.store.tasks_expected(worker).await {
                Ok(expected) => break expected,
                // A heartbeat comes again by itself.
                Err(_) if occasion == Occasion::Heartbeat => return Vec::new(),
                Err(_) => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_LONGEST);
                }
            }
        };
        let (mut starts, mut events) = (Vec::new(), Vec::new());
        for repair in reconcile(&expected, held, occasion, Utc::now()) {
            tracing::info!(%worker, ?repair, "repairing what worker and database disagree on");
            match repair {
                Repair::SendStart(attempt) => starts.push(attempt),
                Repair::Started(attempt) => events.push(Input {
                    task: attempt.task,
                    event: TaskEvent::Started(Report { worker, attempt: attempt.attempt }, Utc::now()),
                    actor: "gaffer".into(),
                    detail: Detail::None,
                }),
                Repair::SendStop(attempt) => self.parts.hub.send(worker, ToWorker::Stop { attempt }),
                Repair::SendKill(attempt) => self.parts.hub.send(worker, ToWorker::Kill { attempt }),
                Repair::Lost(attempt, cause) => events.push(lost(worker, attempt, cause)),
            }
        }
        if starts.is_empty() {
            return events;
        }
        match self.parts.store.tasks_start_again(&starts).await {
            Ok(starts) if self.parts.store.leadership().is_trusted() => {
                for start in starts {
                    self.parts.live.open_new(start.attempt, worker);
                    self.parts.hub.send(worker, ToWorker::Start(Box::new(start)));
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%worker, %error, "could not send placements again; the next heartbeat will")
            }
        }
        events
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
