//! The workers of the simulation: they do what they are told, and what the product promises of them.

use super::*;
use crate::worker::{HEARTBEAT_INTERVAL, HeldPhase, LOST_MARGIN, ReportedAttempt, SILENCE_LIMIT};

/// What the master says.
pub enum ToWorker {
    /// Answers a hello or a heartbeat that was sent then.
    Alive {
        sent: Millis,
    },
    Start {
        attempt: AttemptRef,
        lost_after: Millis,
    },
    Stop(AttemptRef),
    Kill(AttemptRef),
    EndStored(AttemptRef),
}

/// How an attempt was over on its worker.
#[derive(Debug, Clone)]
pub enum Outcome {
    Returned,
    Ended(AttemptEnd),
}

#[derive(Debug, Clone)]
pub enum Phase {
    Queued,
    Running,
    Finished(Outcome),
}

pub struct Worker {
    session: Option<u64>,
    /// For each session so far: from when on nothing that it carried reached the master any more.
    broke_at: Vec<Option<Millis>>,
    boot: u32,
    is_up: bool,
    pub is_gone_for_good: bool,
    /// Whether what it holds outlives a restart of the machine.
    keeps_journal: bool,
    /// Whether processes outlive a restart of the worker's own process.
    keeps_processes: bool,
    last_heard: Millis,
    /// The lease counts from here.
    lease_from: Option<Millis>,
    /// All attempts until their end is acknowledged, with their `lost_after`.
    pub held: BTreeMap<AttemptRef, (Phase, Millis)>,
    /// Nothing sent later arrives earlier.
    arrives_last: Millis,
}

impl Worker {
    pub fn new(rng: &mut StdRng) -> Worker {
        Worker {
            session: None,
            broke_at: Vec::new(),
            boot: 1,
            is_up: true,
            is_gone_for_good: false,
            keeps_journal: rng.random_bool(0.5),
            keeps_processes: rng.random_bool(0.7),
            last_heard: 0,
            lease_from: None,
            held: BTreeMap::new(),
            arrives_last: 0,
        }
    }

    pub fn broke_before(&self, session: u64, now: Millis) -> bool {
        self.broke_at[session as usize - 1].is_some_and(|broke_at| broke_at <= now)
    }

    fn held(&self) -> Vec<ReportedAttempt> {
        let phase = |phase: &Phase| match phase {
            Phase::Queued => HeldPhase::Queued,
            Phase::Running => HeldPhase::Running,
            Phase::Finished(_) => HeldPhase::Finished,
        };
        self.held
            .iter()
            .map(|(attempt, held)| ReportedAttempt { attempt: *attempt, phase: phase(&held.0) })
            .collect()
    }

    fn running(&self) -> Vec<AttemptRef> {
        let is_running = |held: &(Phase, Millis)| matches!(held.0, Phase::Running);
        self.held.iter().filter(|(_, held)| is_running(held)).map(|(attempt, _)| *attempt).collect()
    }

    fn is_running(&self, attempt: AttemptRef) -> bool {
        matches!(self.held.get(&attempt), Some((Phase::Running, _)))
    }

    /// When the lease on an attempt ends, as things stand.
    fn lease_ends(&self, attempt: AttemptRef) -> Millis {
        self.lease_from.map_or(0, |from| from + self.held[&attempt].1)
    }
}

impl World {
    pub fn dial(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        if !worker.is_up || worker.session.is_some() {
            return;
        }
        worker.broke_at.push(None);
        let session = worker.broke_at.len() as u64;
        worker.session = Some(session);
        worker.last_heard = self.now;
        worker.arrives_last = self.now;
        let (boot, held) = (worker.boot, worker.held());
        self.send_to_master(at, ToMaster::Hello { sent: self.now, boot, held });
        self.later(HEARTBEAT_INTERVAL.as_millis(), Happening::Beat(at, session));
        // Ends are reported in each session until they are acknowledged; starts are not.
        let over = self.workers[at].held.iter().filter_map(|(attempt, (phase, _))| match phase {
            Phase::Finished(outcome) => Some(ToMaster::Over(*attempt, outcome.clone())),
            _ => None,
        });
        for message in over.collect::<Vec<_>>() {
            self.send_to_master(at, message);
        }
    }

    pub fn beat(&mut self, at: usize, session: u64) {
        let worker = &self.workers[at];
        if worker.session != Some(session) {
            return;
        }
        if self.now - worker.last_heard > SILENCE_LIMIT.as_millis() {
            return self.hang_up(at);
        }
        let held = worker.held();
        self.send_to_master(at, ToMaster::Heartbeat { sent: self.now, held });
        self.later(HEARTBEAT_INTERVAL.as_millis(), Happening::Beat(at, session));
    }

    fn send_to_master(&mut self, at: usize, message: ToMaster) {
        let arrives = self.now + self.travel_time();
        let worker = &mut self.workers[at];
        if let Some(session) = worker.session {
            worker.arrives_last = worker.arrives_last.max(arrives);
            let delay = worker.arrives_last - self.now;
            self.later(delay, Happening::ReachesMaster(at, session, message));
        }
    }

    /// The session ends on this side; what is on its way may or may not arrive.
    fn hang_up(&mut self, at: usize) {
        let lingers = self.rng.random_range(0..10 * SECOND);
        if let Some(session) = self.workers[at].session.take() {
            self.workers[at].broke_at[session as usize - 1] = Some(self.now + lingers);
            self.within(20 * SECOND, Happening::MasterNoticesBreak(at, session));
            let away = if self.one_in(4) && !self.is_calm() { 150 * SECOND } else { 5 * SECOND };
            self.within(away, Happening::Dial(at));
        }
    }

    pub fn reaches_worker(&mut self, at: usize, session: u64, message: ToWorker) {
        let (now, lease) = (self.now, self.lease);
        if self.workers[at].session != Some(session) {
            return;
        }
        if lease != Lease::ForgivesALapse {
            self.give_back_lapsed(at);
        }
        let worker = &mut self.workers[at];
        worker.last_heard = now;
        match message {
            ToWorker::Alive { sent } => {
                let from = if lease == Lease::CountsFromTheAnswer { now } else { sent };
                worker.lease_from = worker.lease_from.max(Some(from));
            }
            ToWorker::Start { attempt, .. } if worker.held.contains_key(&attempt) => {}
            ToWorker::Start { attempt, lost_after } => {
                worker.held.insert(attempt, (Phase::Queued, lost_after));
                let has_lapsed = worker.lease_ends(attempt) <= now && lease != Lease::ForgivesALapse;
                if has_lapsed || self.one_in(20) {
                    self.finish(at, attempt, Outcome::Returned);
                } else {
                    // At once, or when there is room.
                    let longest = if self.one_in(3) { 40 * SECOND } else { 2 * SECOND };
                    self.within(longest, Happening::Begin(at, attempt));
                }
            }
            ToWorker::Stop(attempt) => match worker.held.get(&attempt) {
                // It never started, and never will: that is remembered until it is acknowledged.
                None => {
                    worker.held.insert(attempt, (Phase::Queued, 0));
                    self.finish(at, attempt, Outcome::Returned);
                }
                Some(_) => self.take_down(at, attempt, 15 * SECOND),
            },
            ToWorker::Kill(attempt) => self.take_down(at, attempt, SECOND),
            ToWorker::EndStored(attempt) => {
                if matches!(worker.held.get(&attempt), Some((Phase::Finished(_), _))) {
                    worker.held.remove(&attempt);
                }
            }
        }
    }

    /// Before contact renews the lease: what has lapsed until now and has not started never will.
    fn give_back_lapsed(&mut self, at: usize) {
        let worker = &self.workers[at];
        let has_lapsed = |attempt: &AttemptRef| {
            let is_queued = matches!(worker.held[attempt].0, Phase::Queued);
            is_queued && worker.lease_ends(*attempt) <= self.now
        };
        for attempt in worker.held.keys().copied().filter(has_lapsed).collect::<Vec<_>>() {
            self.finish(at, attempt, Outcome::Returned);
        }
    }

    fn take_down(&mut self, at: usize, attempt: AttemptRef, longest: Millis) {
        let stopped = |process| AttemptEnd::Stopped { process };
        match self.workers[at].held.get(&attempt) {
            Some((Phase::Queued, _)) => self.finish(at, attempt, Outcome::Ended(stopped(None))),
            Some((Phase::Running, _)) => {
                let end = stopped(Some(ProcessEnd::Signal(15)));
                self.within(longest, Happening::ProcessEnds(at, attempt, end));
            }
            _ => {}
        }
    }

    pub fn begin(&mut self, at: usize, attempt: AttemptRef) {
        let worker = &mut self.workers[at];
        if !matches!(worker.held.get(&attempt), Some((Phase::Queued, _))) {
            return;
        }
        if !worker.is_up {
            return self.later(SECOND, Happening::Begin(at, attempt));
        }
        let lease_ends = worker.lease_ends(attempt);
        if lease_ends <= self.now {
            return self.finish(at, attempt, Outcome::Returned);
        }
        if self.rng.random_ratio(1, 20) {
            let end = AttemptEnd::StartFailed { exit_code: 127, message: "no such program".to_owned() };
            return self.finish(at, attempt, Outcome::Ended(end));
        }
        self.truth.begins(attempt);
        if let Some(held) = worker.held.get_mut(&attempt) {
            held.0 = Phase::Running;
        }
        self.send_to_master(at, ToMaster::Started(attempt, self.now));
        let end = match self.rng.random_range(0..10) {
            0 => exited(1),
            1 => AttemptEnd::Signalled { signal: 11 },
            2 => AttemptEnd::OutOfMemory,
            _ => exited(0),
        };
        let longest = if self.one_in(2) { 100 * SECOND } else { 10 * SECOND };
        self.within(longest, Happening::ProcessEnds(at, attempt, end));
        self.later(lease_ends - self.now, Happening::CheckLease(at, attempt));
    }

    /// Somebody on the worker's machine does this, even while the worker's process is down.
    pub fn check_lease(&mut self, at: usize, attempt: AttemptRef) {
        if !self.workers[at].is_running(attempt) {
            return;
        }
        match self.workers[at].lease_ends(attempt).checked_sub(self.now) {
            None | Some(0) => {
                let end = lost(LostCause::LeaseExpired);
                self.within(LOST_MARGIN.as_millis(), Happening::ProcessEnds(at, attempt, end));
            }
            Some(left) => self.later(left, Happening::CheckLease(at, attempt)),
        }
    }

    pub fn process_ends(&mut self, at: usize, attempt: AttemptRef, end: AttemptEnd) {
        if self.workers[at].is_running(attempt) {
            self.truth.ends(attempt, end.clone());
            self.finish(at, attempt, Outcome::Ended(end));
        }
    }

    fn finish(&mut self, at: usize, attempt: AttemptRef, outcome: Outcome) {
        if let Some(held) = self.workers[at].held.get_mut(&attempt) {
            held.0 = Phase::Finished(outcome.clone());
        }
        self.send_to_master(at, ToMaster::Over(attempt, outcome));
    }

    pub fn trouble(&mut self, at: usize) {
        if self.is_calm() {
            return;
        }
        self.within(60 * SECOND, Happening::Trouble(at));
        match self.rng.random_range(0..20) {
            0..8 => self.hang_up(at),
            8..12 => self.stall(at),
            12..16 => self.restart_process(at),
            16..19 => self.restart_machine(at),
            // The first one stays, so that there is always somebody to run things.
            _ if at > 0 && self.one_in(4) => {
                self.restart_machine(at);
                self.workers[at].is_gone_for_good = true;
            }
            _ => {}
        }
    }

    /// For a while nothing gets through, and then all of it, if the session lives that long.
    fn stall(&mut self, at: usize) {
        let until = self.now + self.rng.random_range(0..60 * SECOND);
        let worker = &mut self.workers[at];
        worker.arrives_last = worker.arrives_last.max(until);
        let until = self.now + self.rng.random_range(0..15 * SECOND);
        self.master.stall(at, until);
    }

    fn restart_process(&mut self, at: usize) {
        if !self.workers[at].keeps_processes {
            for attempt in self.workers[at].running() {
                self.process_ends(at, attempt, lost(LostCause::WorkerRestarted));
            }
        }
        self.go_down(at);
    }

    fn restart_machine(&mut self, at: usize) {
        for attempt in self.workers[at].running() {
            self.truth.ends(attempt, lost(LostCause::Rebooted));
            if let Some(held) = self.workers[at].held.get_mut(&attempt) {
                held.0 = Phase::Finished(Outcome::Ended(lost(LostCause::Rebooted)));
            }
        }
        self.workers[at].boot += 1;
        if !self.workers[at].keeps_journal {
            self.workers[at].held.clear();
        }
        self.go_down(at);
    }

    fn go_down(&mut self, at: usize) {
        self.hang_up(at);
        self.workers[at].is_up = false;
        self.within(40 * SECOND, Happening::PowerOn(at));
    }

    pub fn power_on(&mut self, at: usize) {
        if !self.workers[at].is_gone_for_good {
            self.workers[at].is_up = true;
            self.dial(at);
        }
    }
}
