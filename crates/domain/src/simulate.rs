//! What a strategy would do with a day's work: a simulation in virtual time, through the very functions that place real
//! tasks.
//!
//! Time jumps from event to event: a submission, or the end of a task. After all events of a moment there is one pass of
//! [`decide`]. Tasks run for as long as the trace says and use what they reserve; readings of the machines are exact and
//! fresh; a placed task starts at once, and nothing waits on a worker. All workers belong to one project, and the projects
//! of the trace are owners in it, so that they compete. The same arguments give the same outcome.

pub mod generate;
mod outcome;
#[cfg(test)]
mod tests;
pub mod trace;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::str::FromStr;

use chrono::TimeDelta;

use self::outcome::Ledger;
pub use self::outcome::{Outcome, Waits, table};
use self::trace::Arrival;
use crate::placement::{Measured, Needs, Offer, Strategy, Taken, suitable};
use crate::quantity::{Bytes, Cpu, Span, shown};
use crate::queue::{Class, How, InUse, Turns, decide};
use crate::spec::{DriverKind, Resources};
use crate::worker::WorkerState;
use crate::{ProjectId, Time, WorkerId};

/// All workers of a simulation are this project's.
const PROJECT: ProjectId = ProjectId(1);
/// The most machines of one kind.
const MAX_MACHINES: u32 = 10_000;

/// Machines of one kind. Written `20x4:16GiB:100GiB`: how many, processors, memory, disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machines {
    /// How many there are.
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

/// Runs a trace on a fleet.
pub fn simulate(fleet: &[Machines], trace: &[Arrival], strategy: Strategy) -> Outcome {
    let mut simulation = Simulation::new(fleet, trace, strategy);
    while simulation.step() {}
    simulation.ledger.close(strategy)
}

/// What happens at a moment, ends before submissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ended { offer: usize, line: usize },
    Submitted { arrival: usize },
}

/// Waiting tasks of a class, first come first served.
struct Line<'a> {
    project: &'a str,
    priority: u8,
    needs: Needs,
    /// Positions in the trace, each with how many of its tasks wait.
    waiting: VecDeque<(usize, u32)>,
    pending: usize,
}

struct Simulation<'a> {
    trace: &'a [Arrival],
    how: How,
    offers: Vec<Offer>,
    lines: Vec<Line<'a>>,
    line_of: BTreeMap<(&'a str, u8, Resources), usize>,
    events: BinaryHeap<Reverse<(Span, Event)>>,
    in_use: InUse,
    turns: Turns,
    ledger: Ledger<'a>,
}

impl<'a> Simulation<'a> {
    fn new(fleet: &[Machines], trace: &'a [Arrival], strategy: Strategy) -> Simulation<'a> {
        let machines = fleet.iter().flat_map(|kind| (0..kind.count).map(|_| kind.capacity));
        let offers: Vec<Offer> = machines.zip(1..).map(|(capacity, id)| machine(id, capacity)).collect();
        let submissions = trace
            .iter()
            .enumerate()
            .map(|(arrival, row)| Reverse((row.submit, Event::Submitted { arrival })));
        Simulation {
            trace,
            how: How { most: usize::MAX, strategy, now: None },
            ledger: Ledger::new(&offers),
            offers,
            lines: Vec::new(),
            line_of: BTreeMap::new(),
            events: submissions.collect(),
            in_use: InUse::default(),
            turns: Turns::default(),
        }
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
                Event::Ended { offer, line } => self.end(offer, line),
                Event::Submitted { arrival } => self.submit(arrival),
            }
        }
        self.place(now);
        true
    }

    fn submit(&mut self, arrival: usize) {
        let row = &self.trace[arrival];
        let resources = Resources { cpu: row.cpu, memory: row.memory, disk: row.disk };
        let needs = Needs::of_resources(DriverKind::Host, resources);
        if !self.offers.iter().any(|offer| suitable(&needs, PROJECT, offer).is_ok()) {
            self.ledger.refuse(row);
            return;
        }
        let lines = &mut self.lines;
        let line = *self.line_of.entry((&row.project, row.priority, resources)).or_insert_with(|| {
            let (waiting, pending) = (VecDeque::new(), 0);
            lines.push(Line { project: &row.project, priority: row.priority, needs, waiting, pending });
            lines.len() - 1
        });
        self.lines[line].waiting.push_back((arrival, row.count));
        self.lines[line].pending += row.count as usize;
    }

    fn end(&mut self, offer: usize, line: usize) {
        let (line, offer) = (&self.lines[line], &mut self.offers[offer]);
        offer.release(&line.needs);
        self.in_use.remove(PROJECT, line.project, &line.needs, 1);
    }

    fn place(&mut self, now: Span) {
        let trace = self.trace;
        let waiting: Vec<usize> = (0..self.lines.len()).filter(|at| self.lines[*at].pending > 0).collect();
        if waiting.is_empty() {
            return;
        }
        if self.how.strategy.needs_readings() {
            self.offers.iter_mut().for_each(read);
        }
        let class = |at: &usize| {
            let line = &self.lines[*at];
            Class {
                id: *at as i64,
                project: PROJECT,
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
        for placed in decision.placed {
            let at = waiting[placed.class];
            let line = &mut self.lines[at];
            let Some((arrival, left)) = line.waiting.front_mut() else { continue };
            let row = &trace[*arrival];
            *left -= 1;
            if *left == 0 {
                line.waiting.pop_front();
            }
            line.pending -= 1;
            // Workers are numbered from 1 in the order of the offers.
            let offer = placed.worker.0 as usize - 1;
            self.offers[offer].start_waiting();
            self.ledger.start(row, now);
            let ends = Span::from_millis(now.as_millis() + row.duration.as_millis());
            self.events.push(Reverse((ends, Event::Ended { offer, line: at })));
        }
    }
}

fn moment(since_start: Span) -> Time {
    Time::UNIX_EPOCH + TimeDelta::milliseconds(since_start.as_millis() as i64)
}

/// Notes what is in use on a machine: all that is reserved there, and nothing else.
fn read(offer: &mut Offer) {
    let (reserved, all) = (offer.reserved, offer.capacity);
    offer.measured = Some(Measured {
        cpu: if all.cpu.millis() == 0 { 0.0 } else { reserved.cpu.cores() / all.cpu.cores() },
        memory_used: reserved.memory,
        memory_total: all.memory,
        age: Span::from_millis(0),
        since: Resources { cpu: Cpu::default(), memory: Bytes(0), disk: Bytes(0) },
    });
}

fn machine(id: i64, capacity: Resources) -> Offer {
    Offer {
        worker: WorkerId(id),
        name: format!("machine-{id}"),
        project: PROJECT,
        state: WorkerState::Online,
        datacenter: String::new(),
        arch: "x86_64".to_owned(),
        os: "linux".to_owned(),
        version: String::new(),
        labels: BTreeMap::new(),
        drivers: vec![DriverKind::Host],
        broken_drivers: Vec::new(),
        capacity,
        countables: BTreeMap::new(),
        reserved: Resources { cpu: Cpu::default(), memory: Bytes(0), disk: Bytes(0) },
        taken: Taken::default(),
        running: 0,
        waiting: 0,
        finished_lately: 0,
        measured: None,
    }
}
