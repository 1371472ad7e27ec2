//! Finds single changes that would let a waiting task run now.

use std::fmt;

use super::feasible::feasible;
use super::infeasible::Resource;
use super::requirements::Requirements;
use super::worker_snapshot::WorkerSnapshot;
use crate::quantity::{Bytes, Cpu};
use crate::worker::WorkerState;

/// One change that would let a task run now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Help {
    /// What to change.
    pub change: Change,
    /// How many workers could take the task at once then.
    pub workers: u32,
    /// The first of them.
    pub such_as: String,
}

/// What to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Leave out one constraint.
    Constraint(String),
    /// Allow every datacenter.
    Datacenters,
    /// Leave out the fixed ports.
    Ports,
    /// Let tasks of the definition share a worker.
    DistinctWorkers,
    /// Reserve none of a resource.
    None(Resource),
    /// Reserve no more than this of a resource.
    Less {
        /// Of which.
        resource: Resource,
        /// The most that the best worker has free.
        at_most: String,
    },
    /// Let a worker take work again that is cordoned or drains.
    Resume(String),
}

impl fmt::Display for Help {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Help { change, workers, such_as } = self;
        match change {
            Change::Resume(name) => return write!(f, "if {name} is resumed, it can run there"),
            Change::Constraint(constraint) => write!(f, "without the constraint `{constraint}`")?,
            Change::Datacenters => f.write_str("in any datacenter")?,
            Change::Ports => f.write_str("without its fixed ports")?,
            Change::DistinctWorkers => f.write_str("without distinct_workers")?,
            Change::None(resource) => write!(f, "without any {resource}")?,
            Change::Less { resource, at_most } => write!(f, "with at most {at_most} {resource}")?,
        }
        match workers {
            1 => write!(f, ", it can run on {such_as} now"),
            more => write!(f, ", it can run on {more} workers now, such as {such_as}"),
        }
    }
}

/// The changes of one thing alone that would let a task of the project of these workers run at once somewhere, those that open most workers first. Empty
/// where a worker can take it as it is, or where more than one thing is in the way everywhere.
pub fn what_would_help(needs: &Requirements, offers: &[WorkerSnapshot]) -> Vec<Help> {
    let takers = |needs: &Requirements| -> Vec<&WorkerSnapshot> {
        offers.iter().filter(|offer| feasible(needs, offer.project, offer, 0).is_ok()).collect()
    };
    if !takers(needs).is_empty() {
        return Vec::new();
    }
    let mut help = Vec::new();
    let mut open = |change: Change, takers: Vec<&WorkerSnapshot>| {
        let Some(first) = takers.first() else { return };
        help.push(Help { change, workers: takers.len() as u32, such_as: first.name.clone() });
    };
    for (at, constraint) in needs.constraints.iter().enumerate() {
        let mut without = needs.clone();
        without.constraints.remove(at);
        open(Change::Constraint(constraint.to_string()), takers(&without));
    }
    if !needs.datacenters.is_empty() {
        open(Change::Datacenters, takers(&Requirements { datacenters: Vec::new(), ..needs.clone() }));
    }
    if !needs.ports.is_empty() {
        open(Change::Ports, takers(&Requirements { ports: Vec::new(), ..needs.clone() }));
    }
    if needs.distinct_workers {
        open(Change::DistinctWorkers, takers(&Requirements { distinct_workers: false, ..needs.clone() }));
    }
    for resource in resources(needs) {
        let takers = takers(&without(needs, &resource));
        let free = |offer: &&WorkerSnapshot| free(offer, &resource);
        let Some(most) = takers.iter().map(free).max() else { continue };
        if most == 0 {
            open(Change::None(resource), takers);
            continue;
        }
        let at_most = resource.show(most);
        open(Change::Less { resource: resource.clone(), at_most }, {
            takers.iter().copied().filter(|offer| free(offer) == most).collect()
        });
    }
    for offer in offers.iter().filter(|offer| is_held_back(offer.state)) {
        let resumed = WorkerSnapshot { state: WorkerState::Online, ..offer.clone() };
        if feasible(needs, resumed.project, &resumed, 0).is_ok() {
            open(Change::Resume(offer.name.clone()), vec![offer]);
        }
    }
    help.sort_by_key(|help| std::cmp::Reverse(help.workers));
    help
}

fn is_held_back(state: WorkerState) -> bool {
    matches!(state, WorkerState::Cordoned | WorkerState::Draining)
}

/// Of what the needs want some.
fn resources(needs: &Requirements) -> Vec<Resource> {
    let wanted = &needs.resources;
    let mut resources = Vec::new();
    resources.extend((wanted.cpu.millis() > 0).then_some(Resource::Cpu));
    resources.extend((wanted.memory.get() > 0).then_some(Resource::Memory));
    resources.extend((wanted.disk.get() > 0).then_some(Resource::Disk));
    resources.extend(needs.countables.keys().cloned().map(Resource::Countable));
    resources
}

/// The needs with none of one resource.
fn without(needs: &Requirements, resource: &Resource) -> Requirements {
    let mut needs = needs.clone();
    match resource {
        Resource::Cpu => needs.resources.cpu = Cpu::default(),
        Resource::Memory => needs.resources.memory = Bytes(0),
        Resource::Disk => needs.resources.disk = Bytes(0),
        Resource::Countable(name) => {
            needs.countables.remove(name);
        }
    }
    needs
}

fn free(offer: &WorkerSnapshot, resource: &Resource) -> u64 {
    let free = offer.free();
    match resource {
        Resource::Cpu => free.cpu.millis().into(),
        Resource::Memory => free.memory.get(),
        Resource::Disk => free.disk.get(),
        Resource::Countable(name) => offer.free_countable(name).into(),
    }
}
