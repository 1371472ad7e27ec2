//! Who runs where: [`feasible`], then [`score`], then the lowest score wins; each step can be explained.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::quantity::{Bytes, Cpu, Span};
use crate::spec::{DriverKind, JobSpec, Resources, TaskSpec};
use crate::worker::WorkerState;
use crate::{ProjectId, WorkerId};

/// How far ahead of its capacity a worker is given work: as much as it runs in this time, so that short tasks never
/// wait for a message to travel.
pub const BACKLOG_HORIZON: Span = Span::from_millis(1_000);
/// The most tasks that wait on one worker, however short they are.
pub const MAX_BACKLOG: u32 = 512;

/// What a task needs of a worker. Tasks with equal needs, project and priority share a class and are placed together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Needs {
    /// What executes it.
    pub driver: DriverKind,
    /// What it reserves.
    pub resources: Resources,
    /// Where it may run; sorted, empty means anywhere.
    pub datacenters: Vec<String>,
}

impl Needs {
    /// The needs of one definition of a job.
    pub fn of(job: &JobSpec, task: &TaskSpec) -> Needs {
        let mut datacenters = job.datacenters.clone();
        datacenters.sort_unstable();
        Needs { driver: task.driver, resources: task.resources, datacenters }
    }
}

/// What a worker has to offer at this moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Which worker.
    pub worker: WorkerId,
    /// Its name, for explanations.
    pub name: String,
    /// Whose it is; it runs that project's tasks only.
    pub project: ProjectId,
    /// Whether it takes work.
    pub state: WorkerState,
    /// Its datacenter.
    pub datacenter: String,
    /// What it can execute with.
    pub drivers: Vec<DriverKind>,
    /// All it has.
    pub capacity: Resources,
    /// Reserved by live attempts, started or not. More than `capacity` by what waits in its backlog.
    pub reserved: Resources,
    /// Attempts placed there that have not started.
    pub waiting: u32,
}

/// The first need that keeps a worker out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Unfit {
    /// It is not connected.
    Away {
        /// `offline` or `lost`.
        state: String,
    },
    /// It takes nothing new.
    Draining,
    /// It cannot execute this kind of task.
    Driver {
        /// The driver that is missing.
        driver: DriverKind,
    },
    /// It is in another place.
    Datacenter {
        /// Where it is.
        datacenter: String,
    },
    /// It could not run this even if it did nothing else.
    TooSmall {
        /// What there is too little of: `cpu`, `memory` or `disk`.
        resource: String,
        /// What the task wants.
        wanted: String,
        /// What the worker has in all.
        capacity: String,
    },
    /// It could, but not beside what it runs now.
    Busy {
        /// What there is too little of: `cpu`, `memory` or `disk`.
        resource: String,
        /// What the task wants.
        wanted: String,
        /// What is left.
        free: String,
    },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Away { state } => write!(f, "is {state}"),
            Unfit::Draining => f.write_str("is draining and takes nothing new"),
            Unfit::Driver { driver } => write!(f, "has no working {} driver", driver.as_str()),
            Unfit::Datacenter { datacenter } => write!(f, "is in datacenter {datacenter}"),
            Unfit::TooSmall { resource, wanted, capacity } => {
                write!(f, "has {capacity} {resource} in all, {wanted} wanted")
            }
            Unfit::Busy { resource, wanted, free } => {
                write!(f, "has {free} {resource} free, {wanted} wanted")
            }
        }
    }
}

/// Whether a worker can be given a task now. `backlog` is how many unstarted attempts of this class it may hold beyond
/// its capacity, from [`backlog_limit`].
///
/// # Errors
/// The first need that keeps the worker out.
pub fn feasible(needs: &Needs, project: ProjectId, offer: &Offer, backlog: u32) -> Result<(), Unfit> {
    suitable(needs, project, offer)?;
    if offer.waiting < backlog {
        return Ok(());
    }
    for (resource, wanted, capacity, reserved) in dimensions(&needs.resources, offer) {
        let free = capacity.saturating_sub(reserved);
        if wanted > free {
            return Err(Unfit::Busy {
                resource: resource.name().to_owned(),
                wanted: resource.show(wanted),
                free: resource.show(free),
            });
        }
    }
    Ok(())
}

/// Whether a worker could run a task if it did nothing else.
///
/// # Errors
/// The first need that keeps the worker out; never [`Unfit::Busy`].
pub fn suitable(needs: &Needs, project: ProjectId, offer: &Offer) -> Result<(), Unfit> {
    if offer.project != project {
        return Err(Unfit::Away { state: "another project's".to_owned() });
    }
    match offer.state {
        WorkerState::Online => {}
        WorkerState::Draining => return Err(Unfit::Draining),
        away => return Err(Unfit::Away { state: away.to_string() }),
    }
    if !offer.drivers.contains(&needs.driver) {
        return Err(Unfit::Driver { driver: needs.driver });
    }
    if !needs.datacenters.is_empty() && !needs.datacenters.contains(&offer.datacenter) {
        return Err(Unfit::Datacenter { datacenter: offer.datacenter.clone() });
    }
    for (resource, wanted, capacity, _) in dimensions(&needs.resources, offer) {
        if wanted > capacity {
            return Err(Unfit::TooSmall {
                resource: resource.name().to_owned(),
                wanted: resource.show(wanted),
                capacity: resource.show(capacity),
            });
        }
    }
    Ok(())
}

/// How many unstarted attempts of a class a worker may hold: what it gets through within [`BACKLOG_HORIZON`], given
/// how long attempts of the class ran lately. Unknown durations give none.
pub fn backlog_limit(needs: &Needs, capacity: &Resources, mean_run: Option<std::time::Duration>) -> u32 {
    let Some(mean_run) = mean_run else { return 0 };
    let by_cpu = f64::from(capacity.cpu.millis()) / f64::from(needs.resources.cpu.millis().max(1));
    let by_memory = capacity.memory.get() as f64 / needs.resources.memory.get().max(1) as f64;
    let side_by_side = by_cpu.min(by_memory).clamp(1.0, f64::from(MAX_BACKLOG));
    let turns = BACKLOG_HORIZON.to_std().as_secs_f64() / mean_run.as_secs_f64().max(1e-6);
    (side_by_side * turns).min(f64::from(MAX_BACKLOG)) as u32
}

/// How good a worker is for a task; lower is better. The present strategy is *spread*: the share of its fullest
/// resource that would be reserved with the task on it, so the least loaded worker wins. 0 is idle, 1 is full, more is
/// backlog.
pub fn score(needs: &Needs, offer: &Offer) -> f64 {
    dimensions(&needs.resources, offer)
        .into_iter()
        .filter(|(_, _, capacity, _)| *capacity > 0)
        .map(|(_, wanted, capacity, reserved)| reserved.saturating_add(wanted) as f64 / capacity as f64)
        .fold(0.0, f64::max)
}

/// One worker's part in a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which worker.
    pub worker: WorkerId,
    /// Its name at the time.
    pub name: String,
    /// Lower is better.
    pub score: f64,
}

/// How a decision came about; kept with the attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The strategy that scored.
    pub strategy: String,
    /// Workers that were considered at all.
    pub workers: u32,
    /// Of those, the ones that could have taken the task.
    pub feasible: u32,
    /// The best of them, best first, the chosen one leading; at most [`Receipt::MAX_CANDIDATES`].
    pub candidates: Vec<Candidate>,
}

impl Receipt {
    /// So many candidates are kept.
    pub const MAX_CANDIDATES: usize = 5;
}

/// One pass for one class: chooses workers for up to `tasks` tasks, one after the other, keeping count in `offers` as it
/// goes. Deterministic: equal scores go to the worker with the lower id. Ends at the first task that fits nowhere, as
/// the others have the same needs.
pub fn place(
    needs: &Needs,
    project: ProjectId,
    tasks: usize,
    offers: &mut [Offer],
    mean_run: Option<std::time::Duration>,
) -> Vec<(WorkerId, Receipt)> {
    let mut placed = Vec::new();
    // Which workers can take how much does not depend on the others, so only the chosen one is looked at again.
    let mut ranked: Vec<Option<f64>> =
        offers.iter().map(|offer| rank(needs, project, offer, mean_run)).collect();
    while placed.len() < tasks {
        let mut best: Vec<usize> = (0..offers.len()).filter(|at| ranked[*at].is_some()).collect();
        let feasible = best.len();
        let order = |a: &usize, b: &usize| {
            let by_score = ranked[*a].unwrap_or(f64::MAX).total_cmp(&ranked[*b].unwrap_or(f64::MAX));
            by_score.then(offers[*a].worker.cmp(&offers[*b].worker))
        };
        if best.len() > Receipt::MAX_CANDIDATES {
            best.select_nth_unstable_by(Receipt::MAX_CANDIDATES, order);
            best.truncate(Receipt::MAX_CANDIDATES);
        }
        best.sort_unstable_by(order);
        let Some(&chosen) = best.first() else { break };
        let candidates = best
            .iter()
            .map(|at| Candidate {
                worker: offers[*at].worker,
                name: offers[*at].name.clone(),
                score: ranked[*at].unwrap_or(f64::MAX),
            })
            .collect();
        let receipt = Receipt {
            strategy: "spread".to_owned(),
            workers: offers.len() as u32,
            feasible: feasible as u32,
            candidates,
        };
        placed.push((offers[chosen].worker, receipt));
        offers[chosen].take(needs);
        ranked[chosen] = rank(needs, project, &offers[chosen], mean_run);
    }
    placed
}

fn rank(
    needs: &Needs,
    project: ProjectId,
    offer: &Offer,
    mean_run: Option<std::time::Duration>,
) -> Option<f64> {
    let backlog = backlog_limit(needs, &offer.capacity, mean_run);
    feasible(needs, project, offer, backlog).ok().map(|()| score(needs, offer))
}

impl Offer {
    /// Reserves what one more task needs.
    pub fn take(&mut self, needs: &Needs) {
        self.reserve(&needs.resources, 1);
        self.waiting += 1;
    }

    /// Reserves `resources` for `count` attempts.
    pub fn reserve(&mut self, resources: &Resources, count: u32) {
        let n = u64::from(count);
        self.reserved.cpu = Cpu::from_millis(
            u32::try_from(u64::from(self.reserved.cpu.millis()) + u64::from(resources.cpu.millis()) * n)
                .unwrap_or(u32::MAX),
        );
        self.reserved.memory =
            Bytes(self.reserved.memory.get().saturating_add(resources.memory.get().saturating_mul(n)));
        self.reserved.disk =
            Bytes(self.reserved.disk.get().saturating_add(resources.disk.get().saturating_mul(n)));
    }
}

#[derive(Clone, Copy)]
enum Resource {
    Cpu,
    Memory,
    Disk,
}

impl Resource {
    fn name(self) -> &'static str {
        match self {
            Resource::Cpu => "cpu",
            Resource::Memory => "memory",
            Resource::Disk => "disk",
        }
    }

    fn show(self, amount: u64) -> String {
        match self {
            Resource::Cpu => Cpu::from_millis(u32::try_from(amount).unwrap_or(u32::MAX)).to_string(),
            Resource::Memory | Resource::Disk => Bytes(amount).to_string(),
        }
    }
}

/// Each resource as (wanted, capacity, reserved) in its smallest unit.
fn dimensions(wanted: &Resources, offer: &Offer) -> [(Resource, u64, u64, u64); 3] {
    let (capacity, reserved) = (&offer.capacity, &offer.reserved);
    let cpu = |cpu: Cpu| u64::from(cpu.millis());
    [
        (Resource::Cpu, cpu(wanted.cpu), cpu(capacity.cpu), cpu(reserved.cpu)),
        (Resource::Memory, wanted.memory.get(), capacity.memory.get(), reserved.memory.get()),
        (Resource::Disk, wanted.disk.get(), capacity.disk.get(), reserved.disk.get()),
    ]
}

#[cfg(test)]
mod tests;
