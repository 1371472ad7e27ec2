//! Who runs where: [`feasible`], then [`score`], then the lowest score wins; each step can be explained.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::quantity::{Bytes, Cpu, Span};
use crate::spec::{DriverKind, JobSpec, Resources, TaskSpec};
use crate::worker::WorkerState;
use crate::{ProjectId, WorkerId};

/// How far ahead of its capacity a worker is given work: as much as it runs in this time, so that short tasks never
/// wait for a message to travel.
pub const BACKLOG_HORIZON: Span = Span::from_millis(1_000);
/// What has waited on a worker for so long was a wrong guess, and is taken back for others.
pub const TAKE_BACK_AFTER: Span = Span::from_millis(3_000);
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
    /// Drivers that it has and that do not work, with the reason.
    pub broken_drivers: Vec<(DriverKind, String)>,
    /// All it has.
    pub capacity: Resources,
    /// Reserved by live attempts, started or not. More than `capacity` by what waits in its backlog.
    pub reserved: Resources,
    /// Attempts placed there that have not started.
    pub waiting: u32,
    /// Attempts that it finished within the last [`BACKLOG_HORIZON`]. A worker that is held up by long tasks finishes none
    /// and is given nothing to keep waiting behind them.
    pub finished_lately: u32,
}

/// The first need that keeps a worker out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Unfit {
    /// It belongs to another project. Nobody is shown this: who asks sees the workers of one project only.
    OtherProject,
    /// It is not connected.
    Away {
        /// Offline or lost.
        state: WorkerState,
    },
    /// It takes nothing new.
    Draining,
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
    /// It has [`MAX_BACKLOG`] attempts to start before it is given another.
    Backlogged {
        /// So many wait there for their start.
        waiting: u32,
    },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::OtherProject => f.write_str("belongs to another project"),
            Unfit::Away { state } => write!(f, "is {state}"),
            Unfit::Draining => f.write_str("is draining and takes nothing new"),
            Unfit::Driver { driver, why: None } => write!(f, "has no working {} driver", driver.as_str()),
            Unfit::Driver { driver, why: Some(why) } => {
                write!(f, "has no working {} driver: {why}", driver.as_str())
            }
            Unfit::Datacenter { datacenter } => write!(f, "is in datacenter {datacenter}"),
            Unfit::TooSmall { resource, wanted, capacity } => {
                write!(f, "has {capacity} {resource} in all, {wanted} wanted")
            }
            Unfit::Busy { resource, wanted, free } => {
                write!(f, "has {free} {resource} free, {wanted} wanted")
            }
            Unfit::Backlogged { waiting } => write!(f, "has {waiting} tasks that it has yet to start"),
        }
    }
}

/// Whether a worker can be given a task now: it has room for it, or fewer than `backlog` (from [`backlog_limit`])
/// attempts of whatever class wait there for their start. More than [`MAX_BACKLOG`] never wait, however little they need.
///
/// # Errors
/// The first need that keeps the worker out.
pub fn feasible(needs: &Needs, project: ProjectId, offer: &Offer, backlog: u32) -> Result<(), Unfit> {
    suitable(needs, project, offer)?;
    if offer.waiting >= MAX_BACKLOG {
        return Err(Unfit::Backlogged { waiting: offer.waiting });
    }
    if offer.waiting < backlog {
        return Ok(());
    }
    for (resource, wanted, free) in dimensions(&needs.resources, &offer.free()) {
        if wanted > free {
            return Err(Unfit::Busy { resource, wanted: resource.show(wanted), free: resource.show(free) });
        }
    }
    Ok(())
}

/// Whether a worker could run a task if it did nothing else.
///
/// # Errors
/// The first need that keeps the worker out; never [`Unfit::Busy`] or [`Unfit::Backlogged`].
pub fn suitable(needs: &Needs, project: ProjectId, offer: &Offer) -> Result<(), Unfit> {
    if offer.project != project {
        return Err(Unfit::OtherProject);
    }
    match offer.state {
        WorkerState::Online => {}
        WorkerState::Draining => return Err(Unfit::Draining),
        state @ (WorkerState::Offline | WorkerState::Lost) => return Err(Unfit::Away { state }),
    }
    if !offer.drivers.contains(&needs.driver) {
        let broken = offer.broken_drivers.iter().find(|(driver, _)| *driver == needs.driver);
        return Err(Unfit::Driver { driver: needs.driver, why: broken.map(|(_, why)| why.clone()) });
    }
    if !needs.datacenters.is_empty() && !needs.datacenters.contains(&offer.datacenter) {
        return Err(Unfit::Datacenter { datacenter: offer.datacenter.clone() });
    }
    for (resource, wanted, capacity) in dimensions(&needs.resources, &offer.capacity) {
        if wanted > capacity {
            return Err(Unfit::TooSmall {
                resource,
                wanted: resource.show(wanted),
                capacity: resource.show(capacity),
            });
        }
    }
    Ok(())
}

/// How many unstarted attempts a worker may hold for one of this class to join them: what it gets through within
/// [`BACKLOG_HORIZON`], given how long attempts of the class ran lately anywhere and how many it finished lately.
/// Unknown durations give none.
pub fn backlog_limit(needs: &Needs, offer: &Offer, mean_run: Option<std::time::Duration>) -> u32 {
    let Some(mean_run) = mean_run else { return 0 };
    let most = f64::from(MAX_BACKLOG.min(offer.finished_lately));
    let side_by_side = dimensions(&needs.resources, &offer.capacity)
        .into_iter()
        .filter(|(_, wanted, _)| *wanted > 0)
        .map(|(_, wanted, capacity)| capacity as f64 / wanted as f64)
        .fold(f64::from(MAX_BACKLOG), f64::min);
    let turns = BACKLOG_HORIZON.to_std().as_secs_f64() / mean_run.as_secs_f64().max(1e-6);
    (side_by_side * turns).min(most) as u32
}

/// How many tasks of a class [`place`] would place now if there were enough of them.
pub fn room(
    needs: &Needs,
    project: ProjectId,
    offers: &[Offer],
    mean_run: Option<std::time::Duration>,
) -> usize {
    let fitting = offers.iter().filter(|offer| suitable(needs, project, offer).is_ok());
    fitting
        .map(|offer| {
            let side_by_side = dimensions(&needs.resources, &offer.free())
                .into_iter()
                .filter(|(_, wanted, _)| *wanted > 0)
                .map(|(_, wanted, free)| free / wanted)
                .fold(u64::from(MAX_BACKLOG), u64::min);
            let backlog = backlog_limit(needs, offer, mean_run).saturating_sub(offer.waiting);
            let most = MAX_BACKLOG.saturating_sub(offer.waiting);
            (side_by_side as usize).max(backlog as usize).min(most as usize)
        })
        .sum()
}

/// How good a worker is for a task; lower is better. The present strategy is *spread*: the share of its fullest
/// resource that would be reserved with the task on it, so the least loaded worker wins. 0 is idle, 1 is full, more is
/// backlog.
pub fn score(needs: &Needs, offer: &Offer) -> f64 {
    dimensions(&offer.with(&needs.resources, 1), &offer.capacity)
        .into_iter()
        .filter(|(_, _, capacity)| *capacity > 0)
        .map(|(_, reserved, capacity)| reserved as f64 / capacity as f64)
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
    /// The project's workers, in whatever state.
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
/// goes. Deterministic: of equal scores the worker wins where fewer attempts wait (so that tasks which need nothing are
/// spread, too), then the one with the lower id. Ends at the first task that fits nowhere, as the others have the same
/// needs.
///
/// Each offer is ranked once, and the chosen one again: what a worker can take does not depend on the others.
pub fn place(
    needs: &Needs,
    project: ProjectId,
    tasks: usize,
    offers: &mut [Offer],
    mean_run: Option<std::time::Duration>,
) -> Vec<(WorkerId, Receipt)> {
    // Scores are never negative, and the bits of such numbers sort as the numbers do.
    let rank = |at: usize, offer: &Offer| {
        let backlog = backlog_limit(needs, offer, mean_run);
        feasible(needs, project, offer, backlog).ok()?;
        Some((score(needs, offer).to_bits(), offer.waiting, offer.worker, at))
    };
    let workers = offers.iter().filter(|offer| offer.project == project).count();
    let mut ranking: BTreeSet<(u64, u32, WorkerId, usize)> =
        offers.iter().enumerate().filter_map(|(at, offer)| rank(at, offer)).collect();
    let mut placed = Vec::new();
    while placed.len() < tasks
        && let Some(best) = ranking.first().copied()
    {
        let candidates = ranking.iter().take(Receipt::MAX_CANDIDATES).map(|&(score, _, worker, at)| {
            let name = offers[at].name.clone();
            Candidate { worker, name, score: f64::from_bits(score) }
        });
        let receipt = Receipt {
            strategy: "spread".to_owned(),
            workers: workers as u32,
            feasible: ranking.len() as u32,
            candidates: candidates.collect(),
        };
        let (_, _, worker, at) = best;
        placed.push((worker, receipt));
        ranking.remove(&best);
        offers[at].take(needs);
        ranking.extend(rank(at, &offers[at]));
    }
    placed
}

impl Offer {
    /// Reserves what one more task needs.
    pub fn take(&mut self, needs: &Needs) {
        self.reserve(&needs.resources, 1);
        self.waiting += 1;
    }

    /// Reserves `resources` for `count` attempts.
    pub fn reserve(&mut self, resources: &Resources, count: u32) {
        self.reserved = self.with(resources, count);
    }

    /// What would be reserved with `count` more attempts.
    fn with(&self, resources: &Resources, count: u32) -> Resources {
        let n = u64::from(count);
        let bytes =
            |reserved: Bytes, more: Bytes| reserved.saturating_add(Bytes(more.get().saturating_mul(n)));
        let cpu = u64::from(self.reserved.cpu.millis()) + u64::from(resources.cpu.millis()) * n;
        Resources {
            cpu: Cpu::from_millis(u32::try_from(cpu).unwrap_or(u32::MAX)),
            memory: bytes(self.reserved.memory, resources.memory),
            disk: bytes(self.reserved.disk, resources.disk),
        }
    }

    /// What is not reserved.
    fn free(&self) -> Resources {
        Resources {
            cpu: self.capacity.cpu.saturating_sub(self.reserved.cpu),
            memory: self.capacity.memory.saturating_sub(self.reserved.memory),
            disk: self.capacity.disk.saturating_sub(self.reserved.disk),
        }
    }
}

/// What a worker can have too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Processors.
    Cpu,
    /// Memory.
    Memory,
    /// Disk.
    Disk,
}

impl Resource {
    /// The word used on every door.
    pub fn as_str(self) -> &'static str {
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

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Two amounts of each resource side by side, in its smallest unit.
fn dimensions(one: &Resources, other: &Resources) -> [(Resource, u64, u64); 3] {
    [
        (Resource::Cpu, u64::from(one.cpu.millis()), u64::from(other.cpu.millis())),
        (Resource::Memory, one.memory.get(), other.memory.get()),
        (Resource::Disk, one.disk.get(), other.disk.get()),
    ]
}

#[cfg(test)]
mod tests;
