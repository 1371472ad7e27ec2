//! What a task requires of a worker; tasks with equal requirements are placed together.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Strategy;
use super::feature::Feature;
use crate::constraint::{Constraint, Fact};
use crate::spec::{Affinity, Concurrency, DriverKind, JobSpec, PortProtocol, Resources, TaskSpec};
use crate::{JobId, WorkerId};

/// What a task needs of a worker. Tasks with equal needs, project and priority share a class and are placed together.
///
/// Stored by its JSON: a field that joins is left out where it says nothing, so that old needs keep their text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Requirements {
    /// What executes it.
    pub driver: DriverKind,
    /// What not every version of a worker can do; sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Feature>,
    /// What it reserves.
    pub resources: Resources,
    /// Where it may run; sorted, empty means anywhere.
    pub datacenters: Vec<String>,
    /// How many it takes of countable resources; none of them 0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub countables: BTreeMap<String, u32>,
    /// Ports of the worker that it takes for itself; sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<HostPort>,
    /// What the worker must be; sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// What the worker should be; sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affinities: Vec<Affinity>,
    /// Each task is for one worker: `each: worker`. Tasks of one definition that are for different workers share no class.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub each_worker: bool,
    /// The worker that they are for, and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// Over the values of this fact the definition's tasks are spread evenly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Fact>,
    /// No two of the definition's tasks are live on one worker.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub distinct_workers: bool,
    /// The most of the definition's tasks that may be live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_once: Option<u32>,
    /// Whose tasks look at each other, where they do (`spread`, `distinct_workers`, `at_once`, `health`): such tasks share
    /// their class with none of another definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<DefinitionRef>,
    /// How workers are scored; none means as the installation does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// They are of a service, which does not end by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub service: bool,
    /// How many attempts of the group may be live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
}

/// A task definition of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DefinitionRef {
    /// Which job.
    pub job: JobId,
    /// Its place in the job's list, from 0.
    pub position: u16,
}

impl DefinitionRef {
    /// The name under which workers keep this version of the definition. They know nothing of versions: to them it is a definition
    /// of another job. Numbers of jobs stay below 2^40.
    pub fn of_version(self, version: u32) -> DefinitionRef {
        let version = i64::from(version.saturating_sub(1));
        DefinitionRef { job: JobId(self.job.0 | version << 40), ..self }
    }

    /// The number of its job, whatever version it is of.
    pub fn job_number(self) -> JobId {
        JobId(self.job.0 & ((1 << 40) - 1))
    }
}

/// A port of a worker's machine.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct HostPort {
    /// Port number.
    pub port: u16,
    /// Protocol of the port.
    pub protocol: PortProtocol,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol.as_str())
    }
}

impl Requirements {
    /// The same for the task that is for this worker.
    pub fn for_worker(&self, worker: WorkerId) -> Requirements {
        Requirements { worker: Some(worker), ..self.clone() }
    }

    /// The needs of one definition of a job. Whatever may be written in any order has one order here.
    pub fn of(job: &JobSpec, task: &TaskSpec, definition: DefinitionRef) -> Requirements {
        let fixed = task.ports().iter().filter_map(|port| {
            let number = port.fixed(task.shares_network())?;
            Some(HostPort { port: number, protocol: port.protocol })
        });
        Requirements {
            driver: task.driver,
            features: features(task),
            resources: task.resources.amounts,
            datacenters: sorted(job.datacenters.clone()),
            countables: task.resources.countables.clone(),
            ports: sorted(fixed.collect()),
            constraints: sorted(job.constraints.iter().chain(&task.constraints).cloned().collect()),
            affinities: sorted(job.affinities.iter().chain(&task.affinities).cloned().collect()),
            each_worker: task.is_for_each_worker(),
            worker: None,
            spread: task.spread.clone(),
            distinct_workers: task.distinct_workers,
            at_once: task.indices.at_once(),
            definition: Requirements::are_of_one_definition(task).then_some(definition),
            strategy: job.placement.and_then(|placement| placement.strategy),
            service: job.kind.is_kept_running(),
            concurrency: job.concurrency.clone(),
        }
    }

    /// Whether tasks of this definition look at each other, or at the workers where others of them became unhealthy, so
    /// that they share their class with none of another one.
    pub fn are_of_one_definition(task: &TaskSpec) -> bool {
        task.distinct_workers
            || task.spread.is_some()
            || task.indices.at_once().is_some()
            || task.health.is_some()
    }

    /// Requirements of so much and nothing else.
    pub fn of_resources(driver: DriverKind, resources: Resources) -> Requirements {
        Requirements {
            driver,
            features: Vec::new(),
            resources,
            datacenters: Vec::new(),
            countables: BTreeMap::new(),
            ports: Vec::new(),
            constraints: Vec::new(),
            affinities: Vec::new(),
            each_worker: false,
            worker: None,
            spread: None,
            distinct_workers: false,
            at_once: None,
            definition: None,
            strategy: None,
            service: false,
            concurrency: None,
        }
    }
}

impl fmt::Display for Requirements {
    /// In a few words, for lists.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Resources { cpu, memory, disk } = self.resources;
        write!(f, "{}, {cpu} cpu", self.driver.as_str())?;
        for (amount, what) in [(memory, "memory"), (disk, "disk")].into_iter().filter(|(n, _)| n.get() > 0) {
            write!(f, ", {amount} {what}")?;
        }
        for (name, count) in &self.countables {
            write!(f, ", {count} {name}")?;
        }
        for port in &self.ports {
            write!(f, ", port {port}")?;
        }
        if !self.datacenters.is_empty() {
            write!(f, ", in {}", self.datacenters.join(" or "))?;
        }
        for constraint in &self.constraints {
            write!(f, ", {constraint}")?;
        }
        if self.each_worker {
            f.write_str(", each worker")?;
        }
        if self.distinct_workers {
            f.write_str(", distinct workers")?;
        }
        if let Some(concurrency) = &self.concurrency {
            write!(f, ", at most {} of {}", concurrency.limit, concurrency.group)?;
        }
        Ok(())
    }
}

/// What its workers must be able to do that earlier ones could not.
fn features(task: &TaskSpec) -> Vec<Feature> {
    let needed = [(Feature::Each, task.each.is_some()), (Feature::Secrets, !task.secrets.is_empty())];
    needed.into_iter().filter_map(|(feature, is_needed)| is_needed.then_some(feature)).collect()
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort_unstable();
    items
}
