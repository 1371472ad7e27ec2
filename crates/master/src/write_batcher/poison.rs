//! Stores data that the database refuses by itself as a dead letter before it is acknowledged, so that nothing is
//! lost or blocked.

use std::time::Duration;

use gaffer_domain::AttemptRef;
use gaffer_domain::reason::{AttemptEnd, LostCause};
use gaffer_domain::task::TaskEvent;
use gaffer_protocol::wire::ToWorker;

use super::batch::Change;
use super::repair::FOUND_BY;
use super::{RETRY_FIRST, RETRY_LONGEST, WriteBatcher};
use crate::store::StoreError;
use crate::store::dead_letters::{Body, DeadLetter};
use crate::store::transitions::{Detail, Input};

impl WriteBatcher {
    /// Stores a refused change as a dead letter, then acknowledges it. The attempt of a refused end has ended anyway:
    /// a loss is pushed onto `parts` to be committed next. Returns whether it was stored.
    pub(super) async fn set_aside(
        &mut self,
        change: Change,
        refusal: &StoreError,
        parts: &mut Vec<Vec<Change>>,
    ) -> bool {
        if is_loss_for_refusal(&change) {
            // The report is kept already, and the loss follows from it: it is tried until it is recorded.
            self.parts.troubles.change_waits(refusal);
            self.deferred.defer(change, tokio::time::Instant::now());
            return false;
        }
        let Some(letter) = letter(&change, refusal) else { return false };
        if let Err(error) = self.keep(&letter).await {
            // Not even that is taken: it waits, unacknowledged, at its worker.
            self.parts.troubles.change_waits(&error);
            self.deferred.defer(change, tokio::time::Instant::now());
            return false;
        }
        match change {
            Change::Report { mut input, acknowledge, charge } => {
                if let TaskEvent::Ended(report, _) = &input.event {
                    input.event =
                        TaskEvent::Ended(*report, AttemptEnd::Lost { cause: LostCause::EndRefused });
                    input.detail = Detail::None;
                    parts.push(vec![Change::Report { input, acknowledge, charge }]);
                }
            }
            Change::Output { row, live, on_its_way } => {
                drop(on_its_way);
                let offset = row.chunk.offset + u64::from(row.payload_bytes);
                self.parts.live.stored(&live, offset);
                let attempt = row.chunk.attempt;
                self.parts.hub.send(live.worker, ToWorker::OutputStored { attempt, offset });
            }
            Change::Decision { .. }
            | Change::Stop(..)
            | Change::Scale(..)
            | Change::Step(..)
            | Change::Slice(..) => {}
        }
        true
    }

    async fn keep(&self, letter: &DeadLetter) -> Result<(), StoreError> {
        let mut wait: Duration = RETRY_FIRST;
        loop {
            match self.parts.store.dead_letter_insert(letter).await {
                Ok(None) => return Ok(()),
                Ok(Some(id)) => {
                    self.parts.metrics.letter_kept(letter.kind().as_str());
                    tracing::error!(
                        dead_letter = id, attempt = %letter.attempt, reason = letter.reason,
                        "the database refused data of a worker; kept as a dead letter (gaffer dead-letters)"
                    );
                    return Ok(());
                }
                Err(StoreError::Unavailable(error)) => {
                    self.parts.troubles.database_fails(&StoreError::Unavailable(error));
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_LONGEST);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a change records the loss of an attempt whose own end was refused.
fn is_loss_for_refusal(change: &Change) -> bool {
    let Change::Report { input, .. } = change else { return false };
    matches!(input.event, TaskEvent::Ended(_, AttemptEnd::Lost { cause: LostCause::EndRefused }))
}

/// The content to keep; none for findings and decisions, which are made again.
fn letter(change: &Change, refusal: &StoreError) -> Option<DeadLetter> {
    let reason = refusal.to_string();
    match change {
        Change::Output { row, live, .. } => Some(DeadLetter {
            attempt: row.chunk.attempt,
            worker: Some(live.worker),
            body: Body::Output(row.clone()),
            reason,
        }),
        // Found by comparison; the next comparison finds it again.
        Change::Report { input, .. }
            if matches!(input.event, TaskEvent::Started(..)) && &*input.actor == FOUND_BY =>
        {
            None
        }
        Change::Report { input, .. } => {
            let (attempt, worker) = match &input.event {
                TaskEvent::Started(report, _) | TaskEvent::Returned(report) | TaskEvent::Ended(report, _) => {
                    (report.attempt, Some(report.worker))
                }
                _ => (0, None),
            };
            Some(DeadLetter {
                attempt: AttemptRef { task: input.task, attempt },
                worker,
                body: Body::Report(describe(input)),
                reason,
            })
        }
        Change::Decision { .. }
        | Change::Stop(..)
        | Change::Scale(..)
        | Change::Step(..)
        | Change::Slice(..) => None,
    }
}

fn describe(input: &Input) -> Vec<u8> {
    let report = match &input.detail {
        Detail::End(ended, _) => serde_json::to_value(ended).unwrap_or_default(),
        Detail::Start(facts) => serde_json::json!({"container": facts.container, "ports": facts.ports}),
        Detail::Placement(..) | Detail::None => serde_json::Value::Null,
    };
    let body =
        serde_json::json!({"actor": &*input.actor, "event": format!("{:?}", input.event), "report": report});
    body.to_string().into_bytes()
}
