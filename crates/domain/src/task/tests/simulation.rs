//! A fleet in trouble, in virtual time: a master that only applies, sweeps and reconciles, workers that crash and come
//! back, connections that break, reports that come late and twice, users who stop things. Afterwards every task must
//! have had exactly one end, and no task may ever have executed twice at once.
//!
//! Assumed of the world: clocks run equally fast; a connection delivers in order and without gaps until it breaks;
//! a worker's machine enforces leases even while the worker's process is down. Delays are arbitrary.

mod master;
mod worker;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::master::{Master, ToMaster};
use self::worker::{ToWorker, Worker};
use super::*;
use crate::{AttemptRef, TaskId, seeds};

/// True time in milliseconds since the beginning.
type Millis = u64;

const SECOND: Millis = 1_000;
/// Nothing bad begins after this.
const TROUBLE_ENDS: Millis = 600 * SECOND;
/// Users stop whatever is left.
const USERS_LOSE_PATIENCE: Millis = TROUBLE_ENDS + 120 * SECOND;
/// By now everything must be over: the longest `lost_after` and its margin, twice, have passed.
const END: Millis = USERS_LOSE_PATIENCE + 180 * SECOND;

const TASKS: usize = 120;
const WORKERS: usize = 5;

fn time(millis: Millis) -> Time {
    Time::from_timestamp_millis(i64::try_from(millis).unwrap()).unwrap()
}

/// How workers keep their lease: rightly, or with a mistake that the simulation must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    /// It counts from when the answered heartbeat was sent, and what has lapsed is over.
    Kept,
    /// It counts from when the answer was read.
    CountsFromTheAnswer,
    /// An attempt that has not started yet gets a new chance when contact comes back after a lapse.
    ForgivesALapse,
}

/// What happens next in the world.
enum Happening {
    Schedule,
    Sweep,
    UserStops(usize),
    OperatorMoves(usize),
    Nonsense,
    /// In the order of the connection, unless that broke before.
    ReachesMaster(usize, u64, ToMaster),
    /// By some detour: late, or for the second time.
    StrayReachesMaster(usize, ToMaster),
    MasterNoticesBreak(usize, u64),
    ReachesWorker(usize, u64, ToWorker),
    Dial(usize),
    Beat(usize, u64),
    Begin(usize, AttemptRef),
    CheckLease(usize, AttemptRef),
    ProcessEnds(usize, AttemptRef, AttemptEnd),
    Trouble(usize),
    PowerOn(usize),
}

struct World {
    now: Millis,
    rng: StdRng,
    agenda: BinaryHeap<Reverse<Entry>>,
    entries: u64,
    lease: Lease,
    master: Master,
    workers: Vec<Worker>,
    truth: Truth,
}

/// What really executes, which nobody in the model can see.
#[derive(Default)]
struct Truth {
    executing: BTreeMap<TaskId, AttemptRef>,
    began: BTreeMap<AttemptRef, Option<AttemptEnd>>,
    double_starts: u32,
    overlaps: u32,
}

impl Truth {
    fn begins(&mut self, attempt: AttemptRef) {
        self.double_starts += u32::from(self.began.insert(attempt, None).is_some());
        self.overlaps += u32::from(self.executing.insert(attempt.task, attempt).is_some());
    }

    fn ends(&mut self, attempt: AttemptRef, end: AttemptEnd) {
        self.began.insert(attempt, Some(end));
        if self.executing.get(&attempt.task) == Some(&attempt) {
            self.executing.remove(&attempt.task);
        }
    }

    fn started_attempts(&self, task: TaskId) -> usize {
        let attempt = |attempt| AttemptRef { task, attempt };
        self.began.range(attempt(0)..=attempt(u32::MAX)).count()
    }
}

struct Entry {
    at: Millis,
    number: u64,
    what: Happening,
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

impl World {
    fn new(mut rng: StdRng, lease: Lease) -> World {
        let master = Master::new(&mut rng);
        let workers = (0..WORKERS).map(|_| Worker::new(&mut rng)).collect();
        let agenda = BinaryHeap::new();
        let truth = Truth::default();
        let mut world = World { now: 0, rng, agenda, entries: 0, lease, master, workers, truth };
        world.later(0, Happening::Schedule);
        world.later(0, Happening::Sweep);
        world.later(0, Happening::Nonsense);
        for worker in 0..WORKERS {
            world.later(0, Happening::Dial(worker));
            world.within(60 * SECOND, Happening::Trouble(worker));
        }
        for task in 0..TASKS {
            if world.one_in(6) {
                world.within(TROUBLE_ENDS, Happening::UserStops(task));
            }
            if world.one_in(4) {
                world.within(TROUBLE_ENDS, Happening::OperatorMoves(task));
            }
            world.later(USERS_LOSE_PATIENCE, Happening::UserStops(task));
        }
        world
    }

    /// Follows the world to its end; returns how much happened.
    fn run(&mut self) -> u64 {
        while let Some(Reverse(entry)) = self.agenda.pop() {
            if entry.at > END {
                break;
            }
            self.now = entry.at;
            self.happen(entry.what);
        }
        self.entries
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Schedule => self.schedule(),
            Happening::Sweep => self.sweep(),
            Happening::UserStops(task) => {
                let _ = self.apply(task, TaskEvent::StopRequested(StopCause::by("ana")));
            }
            Happening::OperatorMoves(task) => {
                self.moves(task);
            }
            Happening::Nonsense => self.nonsense(),
            Happening::ReachesMaster(worker, session, message) => {
                self.reaches_master(worker, session, message);
            }
            Happening::StrayReachesMaster(worker, message) => self.report_arrives(worker, message),
            Happening::MasterNoticesBreak(worker, session) => self.master_notices_break(worker, session),
            Happening::ReachesWorker(worker, session, message) => {
                self.reaches_worker(worker, session, message);
            }
            Happening::Dial(worker) => self.dial(worker),
            Happening::Beat(worker, session) => self.beat(worker, session),
            Happening::Begin(worker, attempt) => self.begin(worker, attempt),
            Happening::CheckLease(worker, attempt) => self.check_lease(worker, attempt),
            Happening::ProcessEnds(worker, attempt, end) => self.process_ends(worker, attempt, end),
            Happening::Trouble(worker) => self.trouble(worker),
            Happening::PowerOn(worker) => self.power_on(worker),
        }
    }

    fn later(&mut self, delay: Millis, what: Happening) {
        self.entries += 1;
        self.agenda.push(Reverse(Entry { at: self.now + delay, number: self.entries, what }));
    }

    /// At some time before `limit` has passed.
    fn within(&mut self, limit: Millis, what: Happening) {
        let delay = self.rng.random_range(0..limit);
        self.later(delay, what);
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    fn is_calm(&self) -> bool {
        self.now >= TROUBLE_ENDS
    }

    /// How long a message travels: mostly not long, sometimes longer than any lease.
    fn travel_time(&mut self) -> Millis {
        let longest = match self.rng.random_range(0..100) {
            _ if self.is_calm() => 50,
            0..3 => 60 * SECOND,
            3..15 => 14 * SECOND,
            _ => 50,
        };
        self.rng.random_range(1..=longest)
    }
}

#[test]
fn a_fleet_in_trouble_ends_every_task_once_and_never_runs_one_twice_at_the_same_time() {
    let (mut happened, mut repeats, mut lost, mut leases) = (0, 0, 0, 0);
    seeds::each(0..60, |rng| {
        let mut world = World::new(rng, Lease::Kept);
        happened += world.run();

        assert_eq!((world.truth.overlaps, world.truth.double_starts), (0, 0));
        assert!(world.truth.executing.is_empty(), "something still executes");
        for watched in &world.master.tasks {
            watched.check_at_the_end(&world.truth);
            repeats += watched.repeats.len();
        }
        for worker in &world.workers {
            assert!(
                worker.is_gone_for_good || worker.held.is_empty(),
                "a worker holds on to {:?}",
                worker.held
            );
        }
        assert!(world.master.last_repair < END - 60 * SECOND, "it goes on repairing");
        let ends = || world.truth.began.values().flatten();
        lost += ends().filter(|end| matches!(end, AttemptEnd::Lost { .. })).count();
        leases += ends().filter(|end| **end == self::lost(LostCause::LeaseExpired)).count();
    });
    // The fleet was really in trouble.
    assert!(happened > 200_000, "only {happened} things happened");
    assert!(repeats > 1_000 && lost > 500 && leases > 100, "{repeats} repeats, {lost} lost, {leases} leases");
}

#[test]
fn a_lease_that_counts_from_the_answer_instead_of_the_heartbeat_lets_a_task_run_twice_at_once() {
    assert!(something_overlaps(Lease::CountsFromTheAnswer), "the simulation does not notice the mistake");
}

#[test]
fn a_lease_that_comes_back_to_life_lets_a_task_run_twice_at_once() {
    assert!(something_overlaps(Lease::ForgivesALapse), "the simulation does not notice the mistake");
}

fn something_overlaps(lease: Lease) -> bool {
    (0..100).any(|seed| {
        let mut world = World::new(StdRng::seed_from_u64(seed), lease);
        world.run();
        world.truth.overlaps > 0
    })
}
