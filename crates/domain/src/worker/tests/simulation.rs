//! One master and one worker that disagree all the time, because connections break and processes and machines start
//! anew, and that must agree again once they are left alone. Nothing may ever be started twice.
//!
//! Assumed of the worker: it holds an attempt until the end is acknowledged, one that it gave back too, and writes down
//! what it starts before it starts it. What it wrote down is lost at most together with all that runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;

use super::*;
use crate::seeds;

/// How well the master keeps the conditions of [`reconcile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Master {
    KeepsTheConditions,
    /// It lets what it has found out overtake what the worker says later.
    ReadsExpectedLate,
    /// It acknowledges later reports before it sends the repairs.
    SendsRepairsLate,
    /// It stores the new boot id, and dies before it has repaired anything.
    StoresBootIdFirst,
}

enum ToMaster {
    Hello { boot: u32, held: Vec<ReportedAttempt> },
    Heartbeat { held: Vec<ReportedAttempt> },
    Started(AttemptRef),
    Over(AttemptRef),
}

enum ToWorker {
    Start(AttemptRef),
    Stop(AttemptRef),
    Kill(AttemptRef),
    EndStored(AttemptRef),
}

struct World {
    rng: StdRng,
    now: Time,
    master: Master,
    database: BTreeMap<AttemptRef, (ExpectedState, Time)>,
    stored_boot: u32,
    /// Whether the session's hello has been answered: before, nothing is sent.
    is_welcome: bool,
    /// What a slow master has still to look at, and to send.
    unread: Vec<Vec<ReportedAttempt>>,
    unsent: Vec<ToWorker>,
    to_worker: VecDeque<ToWorker>,
    to_master: VecDeque<ToMaster>,
    held: BTreeMap<AttemptRef, HeldPhase>,
    boot: u32,
    tasks: i64,
    ever_started: BTreeSet<AttemptRef>,
    double_starts: u32,
    /// Attempts that were called lost while they executed.
    wrongly_lost: u32,
    /// Of each kind of repair, how many there were.
    repairs: BTreeMap<&'static str, u32>,
}

impl World {
    fn new(rng: StdRng, master: Master) -> World {
        let mut world = World {
            rng,
            now: now(),
            master,
            database: BTreeMap::new(),
            stored_boot: 1,
            is_welcome: false,
            unread: Vec::new(),
            unsent: Vec::new(),
            to_worker: VecDeque::new(),
            to_master: VecDeque::new(),
            held: BTreeMap::new(),
            boot: 1,
            tasks: 0,
            ever_started: BTreeSet::new(),
            double_starts: 0,
            wrongly_lost: 0,
            repairs: BTreeMap::new(),
        };
        world.dial();
        world
    }

    fn something_happens(&mut self) {
        match self.rng.random_range(0..100) {
            0..25 => self.worker_reads(),
            25..50 => self.master_reads(),
            50..57 => self.master_places(),
            57..60 => self.master_stops(),
            60 => self.master_gives_up(),
            61..69 => self.worker_starts(),
            69..76 => self.worker_ends(HeldPhase::Running),
            76..78 => self.worker_ends(HeldPhase::Queued),
            78..84 => self.say(|held| ToMaster::Heartbeat { held }),
            84..96 => self.now += millis(Span::from_millis(self.rng.random_range(0..8_000))),
            96 | 97 => self.connection_breaks(),
            98 => self.process_restarts(),
            _ => self.machine_restarts(),
        }
        if self.rng.random_ratio(1, 10) {
            self.master_catches_up();
        }
    }

    // The worker.

    fn say(&mut self, message: impl FnOnce(Vec<ReportedAttempt>) -> ToMaster) {
        let held = self.held.iter().map(|(attempt, phase)| held(*attempt, *phase)).collect();
        self.to_master.push_back(message(held));
    }

    fn dial(&mut self) {
        let boot = self.boot;
        self.say(|held| ToMaster::Hello { boot, held });
        let over = self.held.iter().filter(|(_, phase)| **phase == HeldPhase::Finished);
        self.to_master.extend(over.map(|(attempt, _)| ToMaster::Over(*attempt)));
    }

    fn worker_reads(&mut self) {
        match self.to_worker.pop_front() {
            Some(ToWorker::Start(attempt)) => {
                self.held.entry(attempt).or_insert(HeldPhase::Queued);
            }
            // What it does not hold has never started here, and never will.
            Some(ToWorker::Stop(attempt)) => self.end(attempt),
            Some(ToWorker::Kill(attempt)) if self.held.contains_key(&attempt) => self.end(attempt),
            Some(ToWorker::EndStored(attempt)) => {
                self.held.remove(&attempt);
            }
            Some(ToWorker::Kill(_)) | None => {}
        }
    }

    fn any_held(&mut self, phase: HeldPhase) -> Option<AttemptRef> {
        let held = self.held.iter().filter(|(_, held)| **held == phase).map(|(attempt, _)| *attempt);
        held.choose(&mut self.rng)
    }

    fn worker_starts(&mut self) {
        if let Some(attempt) = self.any_held(HeldPhase::Queued) {
            self.double_starts += u32::from(!self.ever_started.insert(attempt));
            self.held.insert(attempt, HeldPhase::Running);
            self.to_master.push_back(ToMaster::Started(attempt));
        }
    }

    fn worker_ends(&mut self, phase: HeldPhase) {
        if let Some(attempt) = self.any_held(phase) {
            self.end(attempt);
        }
    }

    fn end(&mut self, attempt: AttemptRef) {
        if self.held.insert(attempt, HeldPhase::Finished) != Some(HeldPhase::Finished) {
            self.to_master.push_back(ToMaster::Over(attempt));
        }
    }

    /// Some of what was on its way arrives before the end.
    fn connection_breaks(&mut self) {
        for _ in 0..self.rng.random_range(0..=self.to_worker.len()) {
            self.worker_reads();
        }
        for _ in 0..self.rng.random_range(0..=self.to_master.len()) {
            self.master_reads();
        }
        self.session_ends();
        self.dial();
    }

    fn session_ends(&mut self) {
        self.to_worker.clear();
        self.to_master.clear();
        self.unread.clear();
        self.unsent.clear();
        self.is_welcome = false;
    }

    fn process_restarts(&mut self) {
        if self.rng.random_bool(0.5) {
            self.everything_that_runs_ends();
        }
        self.connection_breaks();
    }

    fn machine_restarts(&mut self) {
        match self.rng.random_bool(0.5) {
            true => self.held.clear(),
            false => self.everything_that_runs_ends(),
        }
        self.boot += 1;
        self.session_ends();
        self.dial();
    }

    fn everything_that_runs_ends(&mut self) {
        for phase in self.held.values_mut().filter(|phase| **phase == HeldPhase::Running) {
            *phase = HeldPhase::Finished;
        }
    }

    // The master.

    fn send(&mut self, message: ToWorker) {
        if self.is_welcome {
            self.to_worker.push_back(message);
        }
    }

    fn record(&mut self, attempt: AttemptRef, state: ExpectedState) {
        self.database.insert(attempt, (state, self.now));
    }

    fn master_places(&mut self) {
        self.tasks += 1;
        let attempt = attempt(self.tasks, 1);
        self.record(attempt, ExpectedState::Scheduled);
        self.send(ToWorker::Start(attempt));
    }

    fn master_stops(&mut self) {
        let live = self.database.iter().filter(|(_, (state, _))| *state != ExpectedState::Stopping);
        if let Some(attempt) = live.map(|(attempt, _)| *attempt).choose(&mut self.rng) {
            self.record(attempt, ExpectedState::Stopping);
            self.send(ToWorker::Stop(attempt));
        }
    }

    /// While it is out of contact, an attempt's lease runs out.
    fn master_gives_up(&mut self) {
        if !self.is_welcome
            && let Some(attempt) = self.database.keys().copied().choose(&mut self.rng)
        {
            self.database.remove(&attempt);
        }
    }

    fn master_reads(&mut self) {
        match self.to_master.pop_front() {
            Some(ToMaster::Hello { boot, held }) => {
                let rebooted = std::mem::replace(&mut self.stored_boot, boot) != boot;
                if rebooted && self.master == Master::StoresBootIdFirst {
                    self.session_ends();
                    return self.dial();
                }
                self.is_welcome = true;
                self.repair(&held, Occasion::Hello { rebooted });
                // At a hello there is nothing before it and nothing after it.
                self.to_worker.extend(std::mem::take(&mut self.unsent));
            }
            Some(ToMaster::Heartbeat { held }) if self.master == Master::ReadsExpectedLate => {
                self.unread.push(held);
            }
            Some(ToMaster::Heartbeat { held }) => self.repair(&held, Occasion::Heartbeat),
            Some(ToMaster::Started(attempt)) => self.started(attempt),
            Some(ToMaster::Over(attempt)) => {
                self.database.remove(&attempt);
                self.send(ToWorker::EndStored(attempt));
            }
            None => {}
        }
    }

    fn started(&mut self, attempt: AttemptRef) {
        if matches!(self.database.get(&attempt), Some((ExpectedState::Scheduled, _))) {
            self.record(attempt, ExpectedState::Running);
        }
    }

    fn repair(&mut self, held: &[ReportedAttempt], occasion: Occasion) {
        let expected = |(attempt, (state, since)): (&AttemptRef, &(ExpectedState, Time))| Expected {
            attempt: *attempt,
            state: *state,
            since: *since,
            is_of_backup: false,
        };
        let expected: Vec<Expected> = self.database.iter().map(expected).collect();
        for repair in reconcile(&expected, held, occasion, self.now) {
            let (name, message) = match repair {
                Repair::SendStart(attempt) => ("send start", Some(ToWorker::Start(attempt))),
                Repair::SendStop(attempt) => ("send stop", Some(ToWorker::Stop(attempt))),
                Repair::SendKill(attempt) => ("send kill", Some(ToWorker::Kill(attempt))),
                Repair::Started(attempt) => {
                    self.started(attempt);
                    ("started", None)
                }
                Repair::Lost(attempt, _) => {
                    self.wrongly_lost += u32::from(self.held.get(&attempt) == Some(&HeldPhase::Running));
                    self.database.remove(&attempt);
                    ("lost", None)
                }
            };
            *self.repairs.entry(name).or_default() += 1;
            self.unsent.extend(message);
        }
        if self.master != Master::SendsRepairsLate {
            self.to_worker.extend(std::mem::take(&mut self.unsent));
        }
    }

    fn master_catches_up(&mut self) {
        for held in std::mem::take(&mut self.unread) {
            self.repair(&held, Occasion::Heartbeat);
        }
        self.to_worker.extend(std::mem::take(&mut self.unsent));
    }

    // In peace.

    /// One heartbeat later, with all that follows from it; returns how many repairs it took.
    fn a_quiet_while(&mut self) -> u32 {
        let so_far: u32 = self.repairs.values().sum();
        self.now += millis(RESEND_AFTER);
        self.say(|held| ToMaster::Heartbeat { held });
        while !(self.to_master.is_empty() && self.to_worker.is_empty()) {
            self.master_reads();
            self.master_catches_up();
            self.worker_reads();
            self.worker_starts();
        }
        self.repairs.values().sum::<u32>() - so_far
    }

    fn database_agrees_with_worker(&self) -> bool {
        let held: Vec<_> = self.held.iter().map(|(attempt, phase)| (*attempt, *phase)).collect();
        let expected = self.database.iter().map(|(attempt, (state, _))| match state {
            ExpectedState::Running => (*attempt, HeldPhase::Running),
            ExpectedState::Scheduled | ExpectedState::Stopping => (*attempt, HeldPhase::Finished),
        });
        held == expected.collect::<Vec<_>>() && held.iter().all(|(_, phase)| *phase == HeldPhase::Running)
    }
}

fn after_trouble(rng: StdRng, master: Master) -> World {
    let mut world = World::new(rng, master);
    for _ in 0..1_000 {
        world.something_happens();
    }
    world
}

#[test]
fn master_and_worker_agree_again_once_left_alone_and_nothing_is_ever_started_twice() {
    let mut repairs = BTreeMap::<_, u32>::new();
    seeds::each(0..150, |rng| {
        let mut world = after_trouble(rng, Master::KeepsTheConditions);
        // Two rounds may be needed: what is sent again, and what is found out by that.
        world.a_quiet_while();
        world.a_quiet_while();
        assert_eq!(world.a_quiet_while(), 0, "there is still something to repair");
        assert!(world.database_agrees_with_worker(), "{:?}\n{:?}", world.database, world.held);
        assert_eq!((world.double_starts, world.wrongly_lost), (0, 0));
        for (name, count) in world.repairs {
            *repairs.entry(name).or_default() += count;
        }
    });
    assert!(
        repairs.len() == 5 && repairs.values().all(|count| *count > 50),
        "too little trouble: {repairs:?}"
    );
}

#[test]
fn the_conditions_of_reconcile_are_needed() {
    let (mut late_reads, mut late_repairs, mut early_boot_ids) = (0, 0, 0);
    seeds::each(0..40, |rng| {
        late_reads += after_trouble(rng.clone(), Master::ReadsExpectedLate).wrongly_lost;
        late_repairs += after_trouble(rng.clone(), Master::SendsRepairsLate).double_starts;
        early_boot_ids += after_trouble(rng, Master::StoresBootIdFirst).double_starts;
    });
    assert!(late_reads > 0, "nothing that ran was called lost");
    assert!(late_repairs > 0, "nothing was started twice by a late repair");
    assert!(early_boot_ids > 0, "nothing was started twice after a forgotten reboot");
}
