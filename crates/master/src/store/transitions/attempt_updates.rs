//! What a batch tells of attempts.

use std::collections::BTreeMap;

use gaffer_domain::placement::Receipt;
use gaffer_domain::reason::{AttemptEnd, Reason};
use gaffer_domain::task::AttemptChange;
use gaffer_domain::{AttemptRef, Time, WorkerId};
use gaffer_protocol::ports::NamedPort;
use gaffer_protocol::wire::{ContainerFacts, Ended};

use super::super::output::ReceivedOutput;
use super::Detail;

/// What the batch changes of attempts.
#[derive(Debug, Default)]
pub(super) struct AttemptUpdates(pub BTreeMap<AttemptRef, AttemptUpdate>);

#[derive(Debug, Default)]
pub(super) struct AttemptUpdate {
    /// If the batch opened it: on which worker, when, and why there.
    pub opened: Option<(WorkerId, Time, Option<Box<Receipt>>)>,
    pub started_at: Option<Time>,
    pub finished_at: Option<Time>,
    pub end: Option<AttemptEnd>,
    /// Why it failed, or did not come to its end.
    pub reason: Option<Reason>,
    pub report: Option<Box<Ended>>,
    pub container: Option<Box<ContainerFacts>>,
    pub ports: Vec<NamedPort>,
    pub output: ReceivedOutput,
    /// If the batch opened it: which version it has.
    pub version: Option<u32>,
}

impl AttemptUpdates {
    pub fn of(&mut self, attempt: AttemptRef) -> &mut AttemptUpdate {
        self.0.entry(attempt).or_default()
    }

    pub fn note(&mut self, attempt: AttemptRef, change: Option<AttemptChange>, detail: &Detail, now: Time) {
        match change {
            Some(AttemptChange::Opened { worker }) => {
                let receipt = match detail {
                    Detail::Placement(receipt, _) => Some(receipt.clone()),
                    _ => None,
                };
                self.of(attempt).opened = Some((worker, now, receipt));
            }
            Some(AttemptChange::Closed { end, reason }) => {
                let update = self.of(attempt);
                update.finished_at = Some(now);
                (update.end, update.reason) = (end, reason);
                if let Detail::End(report, received) = detail {
                    update.started_at =
                        update.started_at.or(report.started_at.map(|at| at.min(now).max(Time::UNIX_EPOCH)));
                    update.container = update.container.take().or(report.container.clone().map(Box::new));
                    if update.ports.is_empty() {
                        update.ports.clone_from(&report.ports);
                    }
                    update.report = Some(report.clone());
                    update.output = *received;
                }
            }
            Some(AttemptChange::Started { .. }) => {
                if let Detail::Start(facts) = detail {
                    let update = self.of(attempt);
                    update.container = facts.container.clone().map(Box::new);
                    update.ports.clone_from(&facts.ports);
                }
            }
            None => {}
        }
    }
}
