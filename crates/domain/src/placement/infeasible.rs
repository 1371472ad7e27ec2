//! Reasons why a worker cannot run a task, as codes and as text.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::feature::Feature;
use super::requirements::HostPort;
use crate::Time;
use crate::quantity::{Bytes, Cpu};
use crate::spec::DriverKind;
use crate::worker::WorkerState;

/// The first requirement of a task that a worker does not meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Infeasible {
    /// The worker belongs to another project. No response has this: each is about the workers of one project.
    OtherProject,
    /// The task is for another worker (`each: worker`).
    OtherWorker,
    /// The worker is not connected.
    Away {
        /// State of the worker: offline or lost.
        state: WorkerState,
    },
    /// The worker is draining.
    Draining,
    /// The worker is cordoned.
    Cordoned,
    /// The worker cannot execute this kind of task.
    Driver {
        /// Name of the driver.
        driver: DriverKind,
        /// Why the driver does not work, if the worker has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The program of the worker is older than something that the task needs.
    Outdated {
        /// What it does not have.
        feature: Feature,
        /// Version of its program.
        version: String,
    },
    /// The worker is in another datacenter.
    Datacenter {
        /// Datacenter of the worker.
        datacenter: String,
    },
    /// The worker does not meet a constraint.
    Constraint {
        /// The part of the constraint that does not hold.
        constraint: String,
        /// The facts of the worker that it is about, such as `labels.gpu is v100`.
        found: String,
    },
    /// The worker could not run the task even if it ran nothing else.
    TooSmall {
        /// The resource that is short.
        resource: Resource,
        /// How much of it the task asks for.
        wanted: String,
        /// How much of it the worker has in all.
        capacity: String,
    },
    /// The worker could run the task, but not beside what it runs now.
    Busy {
        /// The resource that is short.
        resource: Resource,
        /// How much of it the task asks for.
        wanted: String,
        /// How much of it is free.
        free: String,
    },
    /// Another task uses the port on the machine of the worker.
    Port {
        /// The port.
        port: HostPort,
    },
    /// The worker has a task of the same definition, which asks for distinct workers.
    DistinctWorkers,
    /// The worker is reserved for a task that has waited for longer.
    Kept,
    /// The worker has given back such a task without starting it, and is offered none for a while.
    GaveBack {
        /// When it is offered one again.
        until: Time,
    },
    /// Too many attempts wait on the worker for their start.
    Backlogged {
        /// Number of attempts that wait.
        waiting: u32,
    },
}

impl fmt::Display for Infeasible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Infeasible::OtherProject => f.write_str("belongs to another project"),
            Infeasible::OtherWorker => f.write_str("is not the worker of this task"),
            Infeasible::Away { state } => write!(f, "is {state}"),
            Infeasible::Draining => f.write_str("is draining and accepts no new tasks"),
            Infeasible::Cordoned => f.write_str("is cordoned and accepts no new tasks"),
            Infeasible::Driver { driver, why: None } => {
                write!(f, "has no healthy {} driver", driver.as_str())
            }
            Infeasible::Driver { driver, why: Some(why) } => {
                write!(f, "has no healthy {} driver: {why}", driver.as_str())
            }
            Infeasible::Outdated { feature, version } => {
                write!(f, "runs gaffer {version}, which does not support `{feature}`")
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

/// A resource that a worker can have too little of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// CPU cores.
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
    /// Name in the API, the CLI and on pages.
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
