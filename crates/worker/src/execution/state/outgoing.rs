//! Reports to send in the current session, in order.

use std::collections::VecDeque;

use gaffer_domain::AttemptRef;
use gaffer_protocol::wire::{HeldAttempt, StoredOutput, ToMaster};

use super::super::Event;
use super::{Holding, Phase, StartFacts, State};

/// Whether events wait to be taken, and how urgent they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pending {
    Nothing,
    /// Starts alone: the output and the end of a short attempt follow at once.
    Starts,
    More,
}

/// Events that wait to be taken.
#[derive(Default)]
pub(super) struct Outgoing {
    reports: VecDeque<ToMaster>,
    /// Attempts with new output, each once.
    grown: Vec<AttemptRef>,
}

impl State {
    pub fn open_session(&mut self) -> Vec<HeldAttempt> {
        self.outgoing = Some(Outgoing::default());
        self.held.values_mut().for_each(|held| held.has_grown = false);
        self.held()
    }

    pub fn close_session(&mut self) {
        self.outgoing = None;
    }

    /// Tells again what the master of a new session may have missed.
    pub fn resume(&mut self, worker_name: &str, stored: &[StoredOutput]) {
        self.worker_name = worker_name.into();
        for StoredOutput { attempt, offset } in stored {
            if let Some(Holding { phase: Phase::Finished(ended), .. }) = self.held.get_mut(attempt)
                && *offset > ended.output_bytes
            {
                // Output that was stored, and gone here, before this worker's process was killed.
                (ended.output_bytes, ended.output_sha256) = (*offset, None);
            }
        }
        let Some(outgoing) = &mut self.outgoing else { return };
        outgoing.reports.retain(|report| match report {
            ToMaster::Started { attempt, .. } => !self.held.contains_key(attempt),
            ToMaster::Ended(ended) => !self.held.contains_key(&ended.attempt),
            ToMaster::Checked(checked) => !self.held.contains_key(&checked.attempt),
            _ => true,
        });
        for (attempt, held) in &mut self.held {
            match &held.phase {
                Phase::Queued(_) => continue,
                Phase::Running(running) => {
                    let started = running.started.clone();
                    outgoing.reports.extend(started.map(|StartFacts { at, container, ports }| {
                        ToMaster::Started { attempt: *attempt, at, container, ports }
                    }));
                    let checks = running.checks.values().cloned();
                    outgoing.reports.extend(checks.map(|checked| ToMaster::Checked(Box::new(checked))));
                }
                Phase::Finished(ended) => outgoing.reports.push_back(ToMaster::Ended(ended.clone())),
            }
            if !held.has_grown {
                held.has_grown = true;
                outgoing.grown.push(*attempt);
            }
        }
    }

    pub fn wrote(&mut self, attempt: AttemptRef) {
        if let (Some(outgoing), Some(held)) = (&mut self.outgoing, self.held.get_mut(&attempt))
            && !held.has_grown
        {
            held.has_grown = true;
            outgoing.grown.push(attempt);
        }
    }

    pub fn pending(&self) -> Pending {
        let is_start = |report: &ToMaster| matches!(report, ToMaster::Started { .. });
        match &self.outgoing {
            Some(outgoing) if !outgoing.grown.is_empty() || !outgoing.reports.iter().all(is_start) => {
                Pending::More
            }
            Some(outgoing) if !outgoing.reports.is_empty() => Pending::Starts,
            _ => Pending::Nothing,
        }
    }

    pub fn take_events(&mut self) -> Vec<Event> {
        let Some(outgoing) = &mut self.outgoing else { return Vec::new() };
        let mut events: Vec<Event> = outgoing.reports.drain(..).map(Event::Report).collect();
        for attempt in outgoing.grown.drain(..) {
            if let Some(held) = self.held.get_mut(&attempt) {
                held.has_grown = false;
                let end = held.output.as_ref().map_or(0, |output| output.end());
                events.push(Event::Output { attempt, end });
            }
        }
        events
    }

    /// Sends an event, if there is a session. Important state is repeated in the next session.
    pub fn report(&mut self, report: ToMaster) {
        if let Some(outgoing) = &mut self.outgoing {
            outgoing.reports.push_back(report);
        }
    }
}
