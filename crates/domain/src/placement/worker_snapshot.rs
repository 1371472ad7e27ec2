//! The capacity and load of a worker during a pass, updated as tasks are placed there.

use std::collections::{BTreeMap, BTreeSet};

use super::feature::Feature;
use super::requirements::{DefinitionRef, HostPort, Requirements};
use crate::constraint::Facts;
use crate::quantity::{Bytes, Cpu, Span};
use crate::spec::{DriverKind, Resources};
use crate::worker::{Sharing, WorkerState};
use crate::{ProjectId, Time, WorkerId};

/// Validity of a measurement: three heartbeats, after which the connection is closed anyway.
pub const READING_GOOD_FOR: Span = crate::worker::SILENCE_LIMIT;

/// Capacity and load of a worker during a pass.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerSnapshot {
    /// Which worker.
    pub worker: WorkerId,
    /// Its name, for explanations.
    pub name: String,
    /// Whose it is.
    pub project: ProjectId,
    /// The other projects whose tasks it takes.
    pub sharing: Sharing,
    /// Whether it takes work.
    pub state: WorkerState,
    /// Its datacenter.
    pub datacenter: String,
    /// Processor architecture, as printed by `uname -m`.
    pub arch: String,
    /// Operating system.
    pub os: String,
    /// Version of its program.
    pub version: String,
    /// What its program can do that earlier ones could not.
    pub features: Vec<Feature>,
    /// Its operator's marks.
    pub labels: BTreeMap<String, String>,
    /// Drivers.
    pub drivers: Vec<DriverKind>,
    /// Drivers that it has and that do not work, with the reason.
    pub broken_drivers: Vec<(DriverKind, String)>,
    /// All it has.
    pub capacity: Resources,
    /// All it has of countable resources.
    pub countables: BTreeMap<String, u32>,
    /// Reserved by live attempts, started or not. More than `capacity` by what waits in its backlog.
    pub reserved: Resources,
    /// What live attempts hold beside that.
    pub taken: Taken,
    /// What services have of all that: it does not become free by waiting.
    pub lasting: Lasting,
    /// It is kept for a task that has waited for long: nothing waits there that has no room.
    pub kept: bool,
    /// Classes of which it has given tasks back, which are not placed there before then.
    pub paused: BTreeMap<i64, Time>,
    /// Classes of which attempts became unhealthy there lately, and how many: it is the last choice for these.
    pub unhealthy: BTreeMap<i64, u32>,
    /// Attempts placed there that have started and are not over.
    pub running: u32,
    /// Attempts placed there that have not started.
    pub waiting: u32,
    /// Attempts that it finished within the last [`BACKLOG_HORIZON`](super::BACKLOG_HORIZON). A worker that is held up
    /// by long tasks finishes none and is given nothing to keep waiting behind them.
    pub finished_lately: u32,
    /// The last measurement of its machine; none before the first.
    pub measured: Option<Measured>,
}

/// What live attempts hold of a worker beside amounts. None of it is ever promised twice, not even in a backlog.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// Of each countable resource.
    pub countables: BTreeMap<String, u32>,
    /// Ports of the machine.
    pub ports: BTreeSet<HostPort>,
    /// Live attempts by definition, of those definitions whose tasks look at each other.
    pub definitions: BTreeMap<DefinitionRef, u32>,
}

/// What services have in use on a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lasting {
    /// Processors, memory and disk.
    pub resources: Resources,
    /// Of each countable resource.
    pub countables: BTreeMap<String, u32>,
}

impl Default for Lasting {
    fn default() -> Lasting {
        let resources = Resources { cpu: Cpu::default(), memory: Bytes(0), disk: Bytes(0) };
        Lasting { resources, countables: BTreeMap::new() }
    }
}

impl Lasting {
    /// Counts what `count` attempts of a service have; of anything else, nothing.
    pub fn add(&mut self, needs: &Requirements, count: u32) {
        if !needs.service {
            return;
        }
        self.resources = sum(&self.resources, &needs.resources, count);
        for (name, wanted) in &needs.countables {
            let lasting = self.countables.entry(name.clone()).or_default();
            *lasting = lasting.saturating_add(wanted.saturating_mul(count));
        }
    }
}

/// How much of a machine was in use, by whomever.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Share of all processors that was busy, 0 to 1: two readings of /proc/stat, (Δtotal − Δidle) / Δtotal.
    pub cpu: f64,
    /// Memory in use (total less available).
    pub memory_used: Bytes,
    /// Memory of the machine; what the worker offers may be less.
    pub memory_total: Bytes,
    /// How long ago that was.
    pub age: Span,
    /// What was reserved since, which the reading cannot show.
    pub since: Resources,
}

impl Taken {
    /// Takes what `count` attempts need.
    pub fn add(&mut self, needs: &Requirements, count: u32) {
        if count == 0 {
            return;
        }
        for (name, wanted) in &needs.countables {
            let taken = match self.countables.get_mut(name) {
                Some(taken) => taken,
                None => self.countables.entry(name.clone()).or_default(),
            };
            *taken = taken.saturating_add(wanted.saturating_mul(count));
        }
        self.ports.extend(&needs.ports);
        if let Some(definition) = needs.definition {
            *self.definitions.entry(definition).or_default() += count;
        }
    }
}

impl WorkerSnapshot {
    /// Whether it takes tasks of that project.
    pub fn is_for(&self, project: ProjectId) -> bool {
        self.project == project || self.sharing.includes(project)
    }

    /// What constraints may ask about.
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            arch: &self.arch,
            os: &self.os,
            version: &self.version,
            datacenter: &self.datacenter,
            name: &self.name,
            capacity: &self.capacity,
            labels: &self.labels,
            countables: &self.countables,
        }
    }

    /// Live attempts, started or not.
    pub fn jobs(&self) -> u32 {
        self.running.saturating_add(self.waiting)
    }

    /// The last reading, if it still counts.
    pub fn fresh(&self) -> Option<&Measured> {
        self.measured.as_ref().filter(|measured| measured.age <= READING_GOOD_FOR)
    }

    /// Reserves what one more task needs.
    pub fn take(&mut self, needs: &Requirements) {
        self.reserve(needs, 1);
        self.waiting += 1;
    }

    /// Reserves what `count` attempts need.
    pub fn reserve(&mut self, needs: &Requirements, count: u32) {
        self.reserved = sum(&self.reserved, &needs.resources, count);
        self.taken.add(needs, count);
        self.lasting.add(needs, count);
        if let Some(measured) = &mut self.measured {
            measured.since = sum(&measured.since, &needs.resources, count);
        }
    }

    /// Takes back what [`WorkerSnapshot::reserve`] reserved for one.
    pub(crate) fn unreserve(&mut self, needs: &Requirements) {
        self.reserved = less(&self.reserved, &needs.resources);
        for (name, count) in &needs.countables {
            let (taken, lasting) = (&mut self.taken.countables, &mut self.lasting.countables);
            for counts in [Some(taken), needs.service.then_some(lasting)].into_iter().flatten() {
                if let Some(counted) = counts.get_mut(name) {
                    *counted = counted.saturating_sub(*count);
                }
            }
        }
        if needs.service {
            self.lasting.resources = less(&self.lasting.resources, &needs.resources);
        }
        for port in &needs.ports {
            self.taken.ports.remove(port);
        }
        if let Some(definition) = needs.definition
            && let Some(siblings) = self.taken.definitions.get_mut(&definition)
        {
            *siblings = siblings.saturating_sub(1);
        }
        // As if it had never been there.
        self.taken.countables.retain(|_, count| *count > 0);
        self.lasting.countables.retain(|_, count| *count > 0);
        self.taken.definitions.retain(|_, count| *count > 0);
    }

    /// The same without one of its started attempts, and without the usage of that attempt's reservation.
    pub(crate) fn without(&self, needs: &Requirements) -> WorkerSnapshot {
        let mut offer = self.clone();
        offer.release(needs);
        if let Some(measured) = &mut offer.measured
            && self.capacity.cpu.millis() > 0
        {
            let own = needs.resources.cpu.cores() / self.capacity.cpu.cores();
            measured.cpu = (measured.cpu - own).max(0.0);
            measured.memory_used = measured.memory_used.saturating_sub(needs.resources.memory);
        }
        offer
    }

    /// A task that was placed here starts.
    pub fn start_waiting(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        self.running = self.running.saturating_add(1);
    }

    /// Gives back what a started task had.
    pub fn release(&mut self, needs: &Requirements) {
        self.running = self.running.saturating_sub(1);
        self.unreserve(needs);
    }

    /// Unreserved resources.
    pub fn free(&self) -> Resources {
        Resources {
            cpu: self.capacity.cpu.saturating_sub(self.reserved.cpu),
            memory: self.capacity.memory.saturating_sub(self.reserved.memory),
            disk: self.capacity.disk.saturating_sub(self.reserved.disk),
        }
    }

    /// How many of a countable resource are not taken.
    pub(super) fn free_countable(&self, name: &str) -> u32 {
        let all = self.countables.get(name).copied().unwrap_or(0);
        all.saturating_sub(self.taken.countables.get(name).copied().unwrap_or(0))
    }

    /// Live attempts of the definition that these needs belong to, if its tasks look at each other.
    pub(crate) fn siblings(&self, needs: &Requirements) -> u32 {
        let definition = needs.definition.and_then(|definition| self.taken.definitions.get(&definition));
        definition.copied().unwrap_or(0)
    }
}

/// Adds an amount `count` times.
pub(super) fn sum(reserved: &Resources, more: &Resources, count: u32) -> Resources {
    let n = u64::from(count);
    let bytes = |reserved: Bytes, more: Bytes| reserved.saturating_add(Bytes(more.get().saturating_mul(n)));
    let cpu = u64::from(reserved.cpu.millis()) + u64::from(more.cpu.millis()) * n;
    Resources {
        cpu: Cpu::from_millis(u32::try_from(cpu).unwrap_or(u32::MAX)),
        memory: bytes(reserved.memory, more.memory),
        disk: bytes(reserved.disk, more.disk),
    }
}

fn less(all: &Resources, part: &Resources) -> Resources {
    Resources {
        cpu: all.cpu.saturating_sub(part.cpu),
        memory: all.memory.saturating_sub(part.memory),
        disk: all.disk.saturating_sub(part.disk),
    }
}
