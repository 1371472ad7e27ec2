//! Reasons why a worker cannot run a task, as codes and as text.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::requirements::HostPort;
use crate::Time;
use crate::quantity::{Bytes, Cpu};
use crate::spec::DriverKind;
use crate::worker::WorkerState;

/// The first need that keeps a worker out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Infeasible {
    /// It belongs to another project. Nobody is shown this: who asks sees the workers of one project only.
    OtherProject,
    /// It is not connected.
    Away {
        /// Offline or lost.
        state: WorkerState,
    },
    /// It takes nothing new, and what it has leaves.
    Draining,
    /// It takes nothing new.
    Cordoned,
    /// It cannot execute this kind of task.
    Driver {
        /// The driver that is missing.
        driver: DriverKind,
        /// Why it does not work, if the worker has it at all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// It is in another place.
    Datacenter {
        /// Where it is.
        datacenter: String,
    },
    /// It is not what a constraint asks for.
    Constraint {
        /// The part that does not hold.
        constraint: String,
        /// The facts that it asks about, as they are: `labels.gpu is v100`.
        found: String,
    },
    /// It could not run this even if it did nothing else.
    TooSmall {
        /// What there is too little of.
        resource: Resource,
        /// What the task wants.
        wanted: String,
        /// What the worker has in all.
        capacity: String,
    },
    /// It could, but not beside what it runs now.
    Busy {
        /// What there is too little of.
        resource: Resource,
        /// What the task wants.
        wanted: String,
        /// What is left.
        free: String,
    },
    /// A port of its machine is taken by another task.
    Port {
        /// Which.
        port: HostPort,
    },
    /// It has a task of the same definition, and no two of these may be on one worker.
    DistinctWorkers,
    /// It is kept for a task that has waited for longer, see [`KEPT_AFTER`](crate::queue::KEPT_AFTER).
    Kept,
    /// It has given back a task of this kind without starting it, and is not offered one for a while.
    GaveBack {
        /// It is offered one again then.
        until: Time,
    },
    /// It has [`MAX_BACKLOG`](super::MAX_BACKLOG) attempts to start before it is given another.
    Backlogged {
        /// So many wait there for their start.
        waiting: u32,
    },
}

impl fmt::Display for Infeasible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Infeasible::OtherProject => f.write_str("belongs to another project"),
            Infeasible::Away { state } => write!(f, "is {state}"),
            Infeasible::Draining => f.write_str("is draining and accepts no new tasks"),
            Infeasible::Cordoned => f.write_str("is cordoned and accepts no new tasks"),
            Infeasible::Driver { driver, why: None } => {
                write!(f, "has no healthy {} driver", driver.as_str())
            }
            Infeasible::Driver { driver, why: Some(why) } => {
                write!(f, "has no healthy {} driver: {why}", driver.as_str())
            }
            Infeasible::Datacenter { datacenter } => write!(f, "is in datacenter {datacenter}"),
            Infeasible::Constraint { constraint, found } => {
                write!(f, "does not meet constraint `{constraint}`: {found}")
            }
            Infeasible::TooSmall { resource, wanted, capacity } => {
                write!(f, "has {capacity} {resource} in total, {wanted} requested")
            }
            Infeasible::Busy { resource, wanted, free } => {
                write!(f, "has {free} {resource} free, {wanted} requested")
            }
            Infeasible::Port { port } => write!(f, "has port {port} in use by another task"),
            Infeasible::DistinctWorkers => {
                f.write_str("already runs a task of the same definition (distinct_workers)")
            }
            Infeasible::Kept => f.write_str("is reserved for a task that has waited longer"),
            Infeasible::GaveBack { until } => {
                write!(
                    f,
                    "returned such a task unstarted; not offered again before {}",
                    until.format("%H:%M:%S UTC")
                )
            }
            Infeasible::Backlogged { waiting } => {
                write!(f, "has {waiting} queued tasks that have not started")
            }
        }
    }
}

/// What a worker can have too little of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Processors.
    Cpu,
    /// Memory.
    Memory,
    /// Disk.
    Disk,
    /// A countable resource, by name.
    #[serde(untagged)]
    Countable(String),
}

impl Resource {
    /// The word used on every door.
    pub fn as_str(&self) -> &str {
        match self {
            Resource::Cpu => "cpu",
            Resource::Memory => "memory",
            Resource::Disk => "disk",
            Resource::Countable(name) => name,
        }
    }

    pub(super) fn show(&self, amount: u64) -> String {
        match self {
            Resource::Cpu => Cpu::from_millis(u32::try_from(amount).unwrap_or(u32::MAX)).to_string(),
            Resource::Memory | Resource::Disk => Bytes(amount).to_string(),
            Resource::Countable(_) => amount.to_string(),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
