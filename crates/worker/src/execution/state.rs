//! The held attempts and pending reports: plain data under one lock.

mod outgoing;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use gaffer_domain::AttemptRef;
use gaffer_domain::health::CheckKind;
use gaffer_domain::quantity::Span;
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::spec::{Resources, StopSignal};
use gaffer_domain::worker::HeldPhase;
use gaffer_protocol::boot_time::BootTime;
use gaffer_protocol::definitions::StartAttempt;
use gaffer_protocol::health::Checked;
use gaffer_protocol::secrets::Secrets;
use gaffer_protocol::wire::{Ended, HeldAttempt, Input, InputState, InputTaken, MAX_HELD, ToMaster};
use tokio::sync::mpsc;

use super::admission::{Admission, Recent};
use super::definitions::SharedDefinitions;
use super::pieces::Pieces;
use crate::attempt::{self, Cause, ControlSender, Controls, StartFacts, StopRequests};
use crate::spool::{Output, OutputWriter, Recovered, Resumed};
use outgoing::Outgoing;
pub(crate) use outgoing::Pending;

/// Number of released attempts that are remembered.
const MAX_REMEMBERED: usize = 10_000;

pub(super) struct State {
    worker_name: Arc<str>,
    held: HashMap<AttemptRef, Holding>,
    admission: Admission,
    pieces: Pieces,
    gone: Recent<AttemptRef, Gone>,
    /// When the master last knew that this worker was alive.
    contact: Option<BootTime>,
    /// No lease runs out before this, as far as is known.
    lease_end: Option<BootTime>,
    is_shutting_down: bool,
    definitions: SharedDefinitions,
    outgoing: Option<Outgoing>,
}

struct Holding {
    phase: Phase,
    output: Option<Arc<Output>>,
    /// Is among those with new output.
    has_grown: bool,
}

enum Phase {
    Queued(Box<StartAttempt>),
    Running(Box<Running>),
    Finished(Box<Ended>),
}

struct Running {
    start: Arc<StartAttempt>,
    started: Option<StartFacts>,
    /// None once it is given back.
    reserved: Option<Resources>,
    controls: ControlSender,
    /// The latest result of each of its health checks.
    checks: BTreeMap<CheckKind, Checked>,
}

/// How an attempt left that is held no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    /// It never started and never will.
    Returned,
    Ended,
}

/// An attempt that executes from now on.
pub(super) struct Launch {
    pub start: Arc<StartAttempt>,
    pub worker_name: Arc<str>,
    pub writer: OutputWriter,
    pub controls: Controls,
}

/// What became of a start.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Accepted {
    /// It waits for room. If `lease_is_first`, no other lease runs out before its own.
    Queued { lease_is_first: bool },
    /// It can never start; this end is to be recorded.
    Misfit(Box<Ended>),
    /// There is nothing to do: it was seen before, or was given back.
    Settled,
}

/// What became of an order to end an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ordered {
    /// It runs, and was asked to stop.
    Told,
    /// It had not started. It is out of the queue; its end is to be recorded.
    WasQueued,
    /// It has ended.
    Over,
    NotHeld,
}

impl State {
    pub fn new(
        worker_name: String,
        admission: Admission,
        pieces: Pieces,
        recovered: Vec<Recovered>,
    ) -> State {
        let held = recovered.into_iter().map(|Recovered { ended, output }| {
            let attempt = ended.attempt;
            let phase = Phase::Finished(Box::new(ended));
            (attempt, Holding { phase, output: Some(output), has_grown: false })
        });
        State {
            worker_name: worker_name.into(),
            held: held.collect(),
            admission,
            pieces,
            gone: Recent::new(MAX_REMEMBERED),
            contact: None,
            lease_end: None,
            is_shutting_down: false,
            definitions: SharedDefinitions::default(),
            outgoing: None,
        }
    }

    /// Queues an attempt, unless it was seen before. One that lay on its way for longer than its lease lasts is given
    /// back: the master may have repeated it elsewhere.
    pub fn accept(&mut self, mut start: Box<StartAttempt>, now: BootTime) -> Accepted {
        let attempt = start.attempt;
        if self.held.contains_key(&attempt) {
            return Accepted::Settled;
        }
        match self.gone.get(attempt) {
            // The master did not hear that it was given back.
            Some(Gone::Returned) => self.report(ToMaster::Returned { attempt }),
            Some(Gone::Ended) => {}
            None if self.is_shutting_down || self.held.len() >= MAX_HELD || self.has_lapsed(&start, now) => {
                self.give_back(attempt);
            }
            None => {
                let misfit = self.admission.misfit(start.definition.resources);
                if let Some(misfit) = misfit.or_else(|| self.pieces.misfit(&start.definition.countables)) {
                    let end = AttemptEnd::StartFailed {
                        exit_code: 125,
                        message: format!("cannot start: {misfit}"),
                    };
                    return Accepted::Misfit(Box::new(attempt::unstarted(attempt, end)));
                }
                self.definitions.share(&mut start.definition);
                self.admission.push(attempt, start.definition.resources);
                let lease_end =
                    self.contact.map(|contact| contact.after(start.definition.lost_after.to_std()));
                let phase = Phase::Queued(start);
                self.held.insert(attempt, Holding { phase, output: None, has_grown: false });
                if lease_end.is_some() && (self.lease_end.is_none() || lease_end < self.lease_end) {
                    self.lease_end = lease_end;
                    return Accepted::Queued { lease_is_first: true };
                }
                return Accepted::Queued { lease_is_first: false };
            }
        }
        Accepted::Settled
    }

    /// The next attempt that starts now. What has waited here for longer than its lease lasts is given back instead.
    pub fn next_launch(
        &mut self,
        now: BootTime,
        new_output: impl FnOnce(AttemptRef) -> (Arc<Output>, OutputWriter),
    ) -> Option<Launch> {
        let (attempt, reserved) = loop {
            let (held, pieces) = (&self.held, &self.pieces);
            let has_pieces = |attempt| match held.get(&attempt).map(|held| &held.phase) {
                Some(Phase::Queued(start)) => pieces.has(&start.definition.countables),
                _ => true,
            };
            let (attempt, reserved) = self.admission.next(has_pieces)?;
            let Some(Holding { phase: Phase::Queued(start), .. }) = self.held.get(&attempt) else {
                return None;
            };
            if !self.has_lapsed(start, now) {
                break (attempt, reserved);
            }
            self.admission.release(reserved);
            self.give_back(attempt);
        };
        let held = self.held.get_mut(&attempt)?;
        let Phase::Queued(start) = &held.phase else { return None };
        let pieces = self.pieces.take(&start.definition.countables);
        let start = Arc::new(StartAttempt { pieces, ..(**start).clone() });
        let (output, writer) = new_output(attempt);
        let (running, controls) = Running::new(start.clone(), reserved);
        held.output = Some(output);
        held.phase = Phase::Running(Box::new(running));
        Some(Launch { start, worker_name: self.worker_name.clone(), writer, controls })
    }

    /// Adopts an attempt of an earlier process; its resources are reserved even beyond the capacity.
    pub fn take_over(&mut self, resumed: Resumed) -> Launch {
        let Resumed { start, began, output, writer, .. } = resumed;
        let start = Arc::new(start);
        let reserved = self.admission.take(start.definition.resources);
        self.pieces.take_again(&start.pieces);
        let (running, controls) = Running::new(start.clone(), reserved);
        let held =
            Holding { phase: Phase::Running(Box::new(running)), output: Some(output), has_grown: false };
        self.held.insert(start.attempt, held);
        // Its master knew of this worker when it began; later contacts may be known too.
        self.renew_lease(Some(began.boot));
        Launch { start, worker_name: self.worker_name.clone(), writer, controls }
    }

    pub fn started(&mut self, attempt: AttemptRef, start: StartFacts) {
        if let Some(running) = self.running(attempt) {
            running.started = Some(start.clone());
            let StartFacts { at, container, ports } = start;
            self.report(ToMaster::Started { attempt, at, container, ports });
        }
    }

    /// Nothing of the attempt runs any more.
    pub fn release(&mut self, attempt: AttemptRef) {
        let Some(running) = self.running(attempt) else { return };
        let (reserved, start) = (running.reserved.take(), running.start.clone());
        if let Some(reserved) = reserved {
            self.admission.release(reserved);
            self.pieces.give_back(&start.pieces);
        }
    }

    pub fn finish(&mut self, ended: Ended) {
        let attempt = ended.attempt;
        self.release(attempt);
        let phase = Phase::Finished(Box::new(ended.clone()));
        match self.held.get_mut(&attempt) {
            Some(held) => held.phase = phase,
            None => {
                self.held.insert(attempt, Holding { phase, output: None, has_grown: false });
            }
        }
        self.report(ToMaster::Ended(Box::new(ended)));
    }

    /// The master knows the end. Gives the output if the attempt was held and over.
    pub fn forget(&mut self, attempt: AttemptRef) -> Option<Option<Arc<Output>>> {
        if !matches!(self.held.get(&attempt)?.phase, Phase::Finished(_)) {
            return None;
        }
        self.gone.insert(attempt, Gone::Ended);
        Some(self.held.remove(&attempt)?.output)
    }

    /// Tells a running attempt to end, or takes it out of the queue.
    pub fn order(&mut self, attempt: AttemptRef, orders: impl Fn(&StartAttempt) -> StopRequests) -> Ordered {
        match self.held.get_mut(&attempt).map(|held| &mut held.phase) {
            None => {
                if self.gone.get(attempt).is_none() {
                    // So that it never starts, should its start still be on its way.
                    self.gone.insert(attempt, Gone::Ended);
                }
                Ordered::NotHeld
            }
            Some(Phase::Finished(_)) => Ordered::Over,
            Some(Phase::Running(running)) => {
                running.controls.stop(orders(&running.start));
                Ordered::Told
            }
            Some(Phase::Queued(_)) => {
                self.admission.remove(attempt);
                Ordered::WasQueued
            }
        }
    }

    /// Reports a result of a health check, and keeps it for the next session.
    pub fn checked(&mut self, checked: Checked) {
        let Some(running) = self.running(checked.attempt) else { return };
        running.checks.insert(checked.check, checked.clone());
        self.report(ToMaster::Checked(Box::new(checked)));
    }

    /// Stops an attempt whose health check failed, if it runs.
    pub fn stop_unhealthy(&mut self, attempt: AttemptRef, message: &str) {
        if let Some(running) = self.running(attempt) {
            let grace = running.start.definition.stop.grace.to_std();
            running
                .controls
                .stop(StopRequests { stop: Some((Cause::Unhealthy(message.into()), grace)), kill: None });
        }
    }

    pub fn signal(&mut self, attempt: AttemptRef, signal: StopSignal) {
        if let Some(running) = self.running(attempt)
            && running.controls.signals.try_send(signal).is_err()
        {
            tracing::warn!(%attempt, %signal, "dropped a signal: the attempt has ended or gets too many");
        }
    }

    /// Hands bytes to an attempt, which answers once its process has taken them; or answers at once.
    pub fn input(&mut self, input: Input) {
        let Input { attempt, request, offset, .. } = input;
        let state = match self.held.get(&attempt).map(|held| &held.phase) {
            // An unknown attempt may still be on its way, behind these bytes. If it has ended, the master knows.
            Some(Phase::Queued(_)) | None => InputState::Waiting,
            Some(Phase::Running(running)) if running.start.definition.stdin => {
                match running.controls.inputs.try_send(input) {
                    // With more than one on its way it is a repeated one; it comes again if need be.
                    Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => return,
                    Err(mpsc::error::TrySendError::Closed(_)) => InputState::Closed,
                }
            }
            Some(Phase::Finished(_)) => InputState::Closed,
            Some(Phase::Running(_)) => InputState::Absent,
        };
        self.report(ToMaster::InputTaken(InputTaken { attempt, request, offset, state }));
    }

    /// Hands its secrets to an attempt that waits for them. An answer to a question that was asked again is dropped.
    pub fn secrets(&mut self, secrets: Secrets) {
        if let Some(running) = self.running(secrets.attempt) {
            let _ = running.controls.secrets.try_send(secrets);
        }
    }

    /// Gives an attempt back if it has not started.
    pub fn take_back(&mut self, attempt: AttemptRef) {
        match self.held.get(&attempt).map(|held| &held.phase) {
            Some(Phase::Queued(_)) => {
                self.admission.remove(attempt);
                self.give_back(attempt);
            }
            None => match self.gone.get(attempt) {
                Some(Gone::Returned) => self.report(ToMaster::Returned { attempt }),
                Some(Gone::Ended) => {}
                // Its start never arrived. Should it still come, it is given back again.
                None => self.give_back(attempt),
            },
            Some(Phase::Running(_) | Phase::Finished(_)) => {}
        }
    }

    /// With too little disk nothing starts. Returns whether this changed.
    pub fn set_disk_is_low(&mut self, is_low: bool) -> bool {
        self.admission.pause(is_low)
    }

    /// Gives back all that has not started, and tells all that runs to end.
    pub fn begin_shutdown(&mut self, longest_grace: Duration) {
        self.is_shutting_down = true;
        for attempt in self.admission.remove_all() {
            self.give_back(attempt);
        }
        for held in self.held.values_mut() {
            if let Phase::Running(running) = &mut held.phase {
                let grace = running.start.definition.stop.grace.to_std().min(longest_grace);
                running.controls.stop(StopRequests { stop: Some((Cause::ShutDown, grace)), kill: None });
            }
        }
    }

    pub fn set_offer(&mut self, capacity: Resources, countables: BTreeMap<String, u32>) {
        self.admission.set_capacity(capacity);
        self.pieces.set_all(countables);
    }

    /// Of those that wait or run.
    pub fn shortest_lost_after(&self) -> Option<Span> {
        self.held.values().filter_map(|held| held.phase.lost_after()).min()
    }

    pub fn renew_lease(&mut self, sent_at: Option<BootTime>) {
        self.contact = self.contact.max(sent_at);
    }

    /// Ends attempts with expired leases: running ones are killed, waiting ones returned. Returns their number, and
    /// the next expiry.
    pub fn expire(&mut self, now: BootTime) -> (usize, Option<BootTime>) {
        let Some(contact) = self.contact else { return (0, None) };
        let mut next = None;
        let mut expired_queued = Vec::new();
        let mut expired = 0;
        for (attempt, held) in &mut self.held {
            let Some(lost_after) = held.phase.lost_after() else { continue };
            let end = contact.after(lost_after.to_std());
            if end > now {
                next = Some(next.map_or(end, |next: BootTime| next.min(end)));
                continue;
            }
            match &mut held.phase {
                Phase::Running(running) => {
                    expired += usize::from(
                        running.controls.stop(StopRequests { stop: None, kill: Some(Cause::LeaseExpired) }),
                    );
                }
                _ => expired_queued.push(*attempt),
            }
        }
        expired += expired_queued.len();
        for attempt in expired_queued {
            self.admission.remove(attempt);
            self.give_back(attempt);
        }
        self.lease_end = next;
        (expired, next)
    }

    pub fn held(&self) -> Vec<HeldAttempt> {
        let phase = |held: &Holding| match held.phase {
            Phase::Queued(_) => HeldPhase::Queued,
            Phase::Running(_) => HeldPhase::Running,
            Phase::Finished(_) => HeldPhase::Finished,
        };
        self.held
            .iter()
            .map(|(attempt, held)| HeldAttempt { attempt: *attempt, phase: phase(held) })
            .collect()
    }

    pub fn output(&self, attempt: AttemptRef) -> Option<Arc<Output>> {
        self.held.get(&attempt)?.output.clone()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    #[cfg(test)]
    pub fn distinct_definitions(&self) -> usize {
        let definition = |held: &Holding| match &held.phase {
            Phase::Queued(start) => Some(Arc::as_ptr(&start.definition)),
            Phase::Running(running) => Some(Arc::as_ptr(&running.start.definition)),
            Phase::Finished(_) => None,
        };
        let distinct: std::collections::HashSet<_> = self.held.values().filter_map(definition).collect();
        distinct.len()
    }

    pub fn is_running(&self) -> bool {
        self.held.values().any(|held| matches!(held.phase, Phase::Running(_)))
    }

    /// Whether the master may count an attempt as lost by now.
    fn has_lapsed(&self, start: &StartAttempt, now: BootTime) -> bool {
        self.contact.is_some_and(|contact| contact.after(start.definition.lost_after.to_std()) <= now)
    }

    fn give_back(&mut self, attempt: AttemptRef) {
        self.held.remove(&attempt);
        self.gone.insert(attempt, Gone::Returned);
        self.report(ToMaster::Returned { attempt });
    }

    fn running(&mut self, attempt: AttemptRef) -> Option<&mut Running> {
        match &mut self.held.get_mut(&attempt)?.phase {
            Phase::Running(running) => Some(running),
            _ => None,
        }
    }
}

impl Phase {
    /// Its lease; none once it has ended.
    fn lost_after(&self) -> Option<Span> {
        match self {
            Phase::Queued(start) => Some(start.definition.lost_after),
            Phase::Running(running) => Some(running.start.definition.lost_after),
            Phase::Finished(_) => None,
        }
    }
}

impl Running {
    fn new(start: Arc<StartAttempt>, reserved: Resources) -> (Running, Controls) {
        let (sender, controls) = attempt::channels();
        let checks = BTreeMap::new();
        (Running { start, started: None, reserved: Some(reserved), controls: sender, checks }, controls)
    }
}
