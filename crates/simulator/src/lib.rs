//! Simulates placement in virtual time, with the functions that place real tasks.
//!
//! Time jumps from event to event: a submission, or the end of a task. After all events of a moment there is one pass of
//! [`decide`]. A task runs as long as the trace says if it gets the CPU that it uses, which is its reservation times the
//! *overuse*. If the tasks of a machine use more than it has, all of them slow down equally. Measurements are exact and
//! fresh; a placed task starts at once, and nothing queues on a worker. All workers belong to one project, and the
//! projects of the trace are its owners, so that they compete; or, with weights, all workers are shared among the projects of the trace.
//! The same arguments give the same result.

pub mod generate;
mod outcome;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::str::FromStr;
use std::sync::Arc;

use chrono::TimeDelta;

use self::outcome::Ledger;
pub use self::outcome::{Outcome, Waits, table};
use gaffer_domain::placement::{
    Feature, Lasting, Measured, Requirements, Strategy, Taken, WorkerSnapshot, suitable,
};
use gaffer_domain::projects::{Terms, Weight};
use gaffer_domain::quantity::{Bytes, Cpu, Span, shown};
use gaffer_domain::queue::{Class, InUse, PassOptions, Turns, decide};
use gaffer_domain::spec::{DriverKind, Resources};
use gaffer_domain::worker::{Sharing, WorkerState};
use gaffer_domain::{ProjectId, Time, WorkerId};
use gaffer_protocol::trace::Arrival;

/// All workers of a simulation are this project's.
const PROJECT: ProjectId = ProjectId(1);
/// Rounding remainder below which a task is finished.
const HALF_A_MILLI: f64 = 0.5;
/// The most machines of one kind.
const MAX_MACHINES: u32 = 10_000;

/// Machines of one kind. Written `20x4:16GiB:100GiB`: how many, processors, memory, disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machines {
    pub count: u32,
    /// What each of them has.
    pub capacity: Resources,
}

/// A text that does not say what machines there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} does not say what machines there are: write COUNTxCPU:MEMORY:DISK such as 20x4:16GiB:100GiB")]
pub struct InvalidMachines {
    text: String,
}

impl FromStr for Machines {
    type Err = InvalidMachines;

    fn from_str(text: &str) -> Result<Machines, InvalidMachines> {
        let read = || {
            let (count, each) = text.split_once('x')?;
            let count = count.trim().parse().ok().filter(|count| (1..=MAX_MACHINES).contains(count))?;
            let mut amounts = each.split(':');
            let cpu: Cpu = amounts.next()?.parse().ok()?;
            let memory: Bytes = amounts.next()?.parse().ok()?;
            let disk: Bytes = amounts.next()?.parse().ok()?;
            let capacity = Resources { cpu, memory, disk };
            amounts.next().is_none().then_some(Machines { count, capacity })
        };
        read().ok_or_else(|| InvalidMachines { text: shown(text) })
    }
}

/// Runs a trace on a fleet. With an overuse of 1 tasks use the processors that they reserve, with 2 twice as many.
pub fn simulate(fleet: &[Machines], trace: &[Arrival], strategy: Strategy, overuse: f64) -> Outcome {
    run(Simulation::new(fleet, trace, strategy, overuse))
}

/// The same on shared workers: the projects of the trace are projects, with these weights, or else the default one.
pub fn simulate_shared(
    fleet: &[Machines],
    trace: &[Arrival],
    strategy: Strategy,
    overuse: f64,
    weights: &Weights,
) -> Outcome {
    run(Simulation::shared(fleet, trace, strategy, overuse, weights))
}

/// Weights of projects by name.
pub type Weights = BTreeMap<String, Weight>;

fn run(mut simulation: Simulation<'_>) -> Outcome {
    let strategy = simulation.how.strategy;
    while simulation.step() {}
    simulation.ledger.close(strategy)
}

/// What happens at a moment, ends before submissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Unless the load of the machine has changed since, as its version shows.
    Ended {
        machine: usize,
        version: u64,
    },
    Submitted {
        arrival: usize,
    },
}

/// Waiting tasks of a class, first come first served.
struct Line<'a> {
    project: &'a str,
    /// Its number among the projects.
    id: ProjectId,
    priority: u8,
    needs: Requirements,
    /// Positions in the trace, each with how many of its tasks wait.
    waiting: VecDeque<(usize, u32)>,
    pending: usize,
}

/// The tasks of a machine.
#[derive(Debug, Clone, Default)]
struct Work {
    running: Vec<Running>,
    /// Until then it is done.
    at: Span,
    version: u64,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    arrival: usize,
    line: usize,
    started: Span,
    /// Remaining work, at full speed.
    left_millis: f64,
}

struct Simulation<'a> {
    trace: &'a [Arrival],
    how: PassOptions,
    overuse: f64,
    offers: Vec<WorkerSnapshot>,
    /// Of each offer.
    work: Vec<Work>,
    lines: Vec<Line<'a>>,
    line_of: BTreeMap<(&'a str, u8, Resources), usize>,
    events: BinaryHeap<Reverse<(Span, Event)>>,
    in_use: InUse,
    turns: Turns,
    /// Numbers of the projects of the trace, if these are projects.
    projects: BTreeMap<&'a str, ProjectId>,
    ledger: Ledger<'a>,
}

impl<'a> Simulation<'a> {
    fn new(fleet: &[Machines], trace: &'a [Arrival], strategy: Strategy, overuse: f64) -> Simulation<'a> {
        let machines = fleet.iter().flat_map(|kind| (0..kind.count).map(|_| kind.capacity));
        let offers: Vec<WorkerSnapshot> =
            machines.zip(1..).map(|(capacity, id)| machine(id, capacity)).collect();
        let submissions = trace
            .iter()
            .enumerate()
            .map(|(arrival, row)| Reverse((row.submit, Event::Submitted { arrival })));
        Simulation {
            trace,
            how: PassOptions { most: usize::MAX, strategy, now: None },
            overuse,
            ledger: Ledger::new(&offers),
            work: vec![Work::default(); offers.len()],
            offers,
            lines: Vec::new(),
            line_of: BTreeMap::new(),
            events: submissions.collect(),
            in_use: InUse::default(),
            turns: Turns::default(),
            projects: BTreeMap::new(),
        }
    }

    fn shared(
        fleet: &[Machines],
        trace: &'a [Arrival],
        strategy: Strategy,
        overuse: f64,
        weights: &Weights,
    ) -> Simulation<'a> {
        let mut simulation = Simulation::new(fleet, trace, strategy, overuse);
        simulation.offers.iter_mut().for_each(|offer| offer.sharing = Sharing::All);
        let names: BTreeSet<&str> = trace.iter().map(|row| row.project.as_str()).collect();
        simulation.projects = names.into_iter().zip((1..).map(ProjectId)).collect();
        let weight = |name: &str| weights.get(name).copied().unwrap_or_default();
        let terms = simulation
            .projects
            .iter()
            .map(|(name, id)| (*id, Terms { weight: weight(name), ..Terms::default() }));
        simulation.in_use.set_terms(Arc::new(terms.collect()));
        simulation
    }

    /// One moment with all its events; false when nothing comes any more.
    fn step(&mut self) -> bool {
        let Some(Reverse((now, _))) = self.events.peek().copied() else { return false };
        self.ledger.pass_time(now, &self.offers, self.lines.iter().any(|line| line.pending > 0));
        while let Some(Reverse((at, event))) = self.events.peek().copied()
            && at == now
        {
            self.events.pop();
            match event {
                Event::Ended { machine, version } if self.work[machine].version == version => {
                    self.end_due(machine, now);
                }
                Event::Ended { .. } => {}
                Event::Submitted { arrival } => self.submit(arrival),
            }
        }
        self.place(now);
        true
    }

    fn submit(&mut self, arrival: usize) {
        let row = &self.trace[arrival];
        let resources = Resources { cpu: row.cpu, memory: row.memory, disk: row.disk };
        let needs = Requirements::of_resources(DriverKind::Host, resources);
        if !self.offers.iter().any(|offer| suitable(&needs, PROJECT, offer).is_ok()) {
            self.ledger.refuse(row);
            return;
        }
        let (lines, projects) = (&mut self.lines, &self.projects);
        let line = *self.line_of.entry((&row.project, row.priority, resources)).or_insert_with(|| {
            let (waiting, pending) = (VecDeque::new(), 0);
            let id = projects.get(row.project.as_str()).copied().unwrap_or(PROJECT);
            lines.push(Line { project: &row.project, id, priority: row.priority, needs, waiting, pending });
            lines.len() - 1
        });
        self.lines[line].waiting.push_back((arrival, row.count));
        self.lines[line].pending += row.count as usize;
    }

    /// Ends finished tasks on a machine.
    fn end_due(&mut self, machine: usize, now: Span) {
        self.advance(machine, now);
        let (done, left): (Vec<Running>, Vec<Running>) =
            self.work[machine].running.iter().partition(|running| running.left_millis < HALF_A_MILLI);
        self.work[machine].running = left;
        for Running { arrival, line, started, .. } in done {
            let line = &self.lines[line];
            self.offers[machine].release(&line.needs);
            self.in_use.remove(line.id, line.project, &line.needs, 1);
            if self.offers[machine].sharing.is_shared() {
                self.in_use.remove_on_shared(line.id, &line.needs, 1);
            }
            self.ledger.end(&self.trace[arrival], started, now);
        }
        self.look_ahead(machine);
    }

    /// How fast tasks on a machine get on.
    fn pace(&self, machine: usize) -> f64 {
        let offer = &self.offers[machine];
        let used = offer.reserved.cpu.cores() * self.overuse;
        if used > offer.capacity.cpu.cores() { offer.capacity.cpu.cores() / used } else { 1.0 }
    }

    /// Does what there is to do on a machine until `now`.
    fn advance(&mut self, machine: usize, now: Span) {
        let pace = self.pace(machine);
        let work = &mut self.work[machine];
        let done = (now.as_millis() - work.at.as_millis()) as f64 * pace;
        work.at = now;
        work.running.iter_mut().for_each(|running| running.left_millis -= done);
    }

    /// Notes when the next task of a machine ends if nothing changes.
    fn look_ahead(&mut self, machine: usize) {
        let pace = self.pace(machine);
        let work = &mut self.work[machine];
        work.version += 1;
        let next = work.running.iter().map(|running| running.left_millis / pace).reduce(f64::min);
        if let Some(next) = next {
            let at = Span::from_millis(work.at.as_millis() + next.ceil().max(0.0) as u64);
            self.events.push(Reverse((at, Event::Ended { machine, version: work.version })));
        }
    }

    fn place(&mut self, now: Span) {
        let trace = self.trace;
        let waiting: Vec<usize> = (0..self.lines.len()).filter(|at| self.lines[*at].pending > 0).collect();
        if waiting.is_empty() {
            return;
        }
        self.how.now = Some(moment(now));
        if self.how.strategy.needs_readings() {
            self.offers.iter_mut().for_each(|offer| read(offer, self.overuse));
        }
        // Until now, machines went on at the pace of what they had.
        (0..self.offers.len()).for_each(|machine| self.advance(machine, now));
        let class = |at: &usize| {
            let line = &self.lines[*at];
            Class {
                id: *at as i64,
                project: line.id,
                owner: line.project,
                priority: i16::from(line.priority),
                needs: &line.needs,
                pending: line.pending,
                since: line
                    .waiting
                    .front()
                    .map_or(Time::UNIX_EPOCH, |(arrival, _)| moment(trace[*arrival].submit)),
                mean_run: None,
            }
        };
        let classes: Vec<Class<'_>> = waiting.iter().map(class).collect();
        let decision = decide(&classes, &mut self.in_use, &mut self.offers, &mut self.turns, &self.how);
        let mut touched = BTreeSet::new();
        for placed in decision.placed {
            let at = waiting[placed.class];
            let line = &mut self.lines[at];
            let Some((arrival, left)) = line.waiting.front_mut() else { continue };
            let arrival = *arrival;
            let row = &trace[arrival];
            *left -= 1;
            if *left == 0 {
                line.waiting.pop_front();
            }
            line.pending -= 1;
            // Workers are numbered from 1 in the order of the offers.
            let offer = placed.worker.0 as usize - 1;
            self.offers[offer].start_waiting();
            self.ledger.start(row, now);
            let left_millis = row.duration.as_millis() as f64;
            self.work[offer].running.push(Running { arrival, line: at, started: now, left_millis });
            touched.insert(offer);
        }
        touched.into_iter().for_each(|machine| self.look_ahead(machine));
    }
}

fn moment(since_start: Span) -> Time {
    Time::UNIX_EPOCH + TimeDelta::milliseconds(since_start.as_millis() as i64)
}

/// Records the usage of a machine by its tasks.
fn read(offer: &mut WorkerSnapshot, overuse: f64) {
    let (reserved, all) = (offer.reserved, offer.capacity);
    offer.measured = Some(Measured {
        cpu: if all.cpu.millis() == 0 {
            0.0
        } else {
            (reserved.cpu.cores() / all.cpu.cores() * overuse).min(1.0)
        },
        memory_used: reserved.memory,
        memory_total: all.memory,
        age: Span::from_millis(0),
        since: Resources { cpu: Cpu::default(), memory: Bytes(0), disk: Bytes(0) },
    });
}

fn machine(id: i64, capacity: Resources) -> WorkerSnapshot {
    WorkerSnapshot {
        worker: WorkerId(id),
        name: format!("machine-{id}"),
        project: PROJECT,
        sharing: Sharing::Own,
        state: WorkerState::Online,
        datacenter: String::new(),
        arch: "x86_64".to_owned(),
        os: "linux".to_owned(),
        version: String::new(),
        features: Feature::ALL.into(),
        labels: BTreeMap::new(),
        drivers: vec![DriverKind::Host],
        broken_drivers: Vec::new(),
        capacity,
        countables: BTreeMap::new(),
        reserved: Resources { cpu: Cpu::default(), memory: Bytes(0), disk: Bytes(0) },
        taken: Taken::default(),
        lasting: Lasting::default(),
        kept: false,
        paused: BTreeMap::new(),
        unhealthy: BTreeMap::new(),
        running: 0,
        waiting: 0,
        finished_lately: 0,
        measured: None,
    }
}
