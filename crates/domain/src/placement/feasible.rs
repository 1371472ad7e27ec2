//! Whether a worker can run a task now, and the first requirement that rules it out.
//!
//! Asked for every class and worker, so the answer is found without making any text; words are made for who wants them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::feature::Feature;
use super::infeasible::{Infeasible, Resource};
use super::requirements::{HostPort, Requirements};
use super::worker_snapshot::WorkerSnapshot;
use super::{BACKLOG_HORIZON, MAX_BACKLOG};
use crate::ProjectId;
use crate::constraint::Constraint;
use crate::spec::Resources;
use crate::worker::WorkerState;

/// What keeps a worker out for good.
enum Unsuitable<'a> {
    OtherProject,
    OtherWorker,
    State(WorkerState),
    Driver,
    Outdated(Feature),
    Datacenter,
    Constraint(&'a Constraint),
    TooSmall(Amount<'a>),
}

/// What keeps it out at this moment.
enum Occupied<'a> {
    Backlogged,
    DistinctWorkers,
    Port(HostPort),
    Busy(Amount<'a>),
}

/// A requested and an available amount.
#[derive(Clone, Copy)]
struct Amount<'a> {
    what: What<'a>,
    wanted: u64,
    there: u64,
}

#[derive(Clone, Copy)]
enum What<'a> {
    Cpu,
    Memory,
    Disk,
    Countable(&'a str),
}

impl Amount<'_> {
    fn resource(&self) -> Resource {
        match self.what {
            What::Cpu => Resource::Cpu,
            What::Memory => Resource::Memory,
            What::Disk => Resource::Disk,
            What::Countable(name) => Resource::Countable(name.to_owned()),
        }
    }

    /// How many times the request fits; none if nothing is requested.
    fn times(&self) -> Option<u64> {
        (self.wanted > 0).then(|| self.there / self.wanted)
    }
}

/// Requested and available CPU, memory and disk.
fn amounts(wanted: &Resources, there: &Resources) -> [Amount<'static>; 3] {
    let amount = |what, wanted, there| Amount { what, wanted, there };
    [
        amount(What::Cpu, u64::from(wanted.cpu.millis()), u64::from(there.cpu.millis())),
        amount(What::Memory, wanted.memory.get(), there.memory.get()),
        amount(What::Disk, wanted.disk.get(), there.disk.get()),
    ]
}

fn countables<'a>(needs: &'a Requirements, there: impl Fn(&str) -> u32) -> impl Iterator<Item = Amount<'a>> {
    needs.countables.iter().map(move |(name, wanted)| Amount {
        what: What::Countable(name),
        wanted: u64::from(*wanted),
        there: u64::from(there(name)),
    })
}

fn unsuitable<'a>(
    needs: &'a Requirements,
    project: ProjectId,
    offer: &WorkerSnapshot,
) -> Option<Unsuitable<'a>> {
    // What is for each worker is for those of its project, which decides what every one of its machines runs.
    let is_theirs = if needs.each_worker { offer.project == project } else { offer.is_for(project) };
    if !is_theirs {
        return Some(Unsuitable::OtherProject);
    }
    if needs.worker.is_some_and(|worker| worker != offer.worker) {
        return Some(Unsuitable::OtherWorker);
    }
    if offer.state != WorkerState::Online {
        return Some(Unsuitable::State(offer.state));
    }
    if !offer.drivers.contains(&needs.driver) {
        return Some(Unsuitable::Driver);
    }
    if let Some(missing) = needs.features.iter().find(|feature| !offer.features.contains(feature)) {
        return Some(Unsuitable::Outdated(*missing));
    }
    if !needs.datacenters.is_empty() && !needs.datacenters.contains(&offer.datacenter) {
        return Some(Unsuitable::Datacenter);
    }
    if !needs.constraints.is_empty() {
        let facts = offer.facts();
        if let Some(unmet) = needs.constraints.iter().find(|constraint| !constraint.holds(&facts)) {
            return Some(Unsuitable::Constraint(unmet));
        }
    }
    let all = |name: &str| offer.countables.get(name).copied().unwrap_or(0);
    let mut all = amounts(&needs.resources, &offer.capacity).into_iter().chain(countables(needs, all));
    all.find(|amount| amount.wanted > amount.there).map(Unsuitable::TooSmall)
}

fn occupied<'a>(needs: &'a Requirements, offer: &WorkerSnapshot, backlog: u32) -> Option<Occupied<'a>> {
    if let Some(occupied) = spoken_for(needs, offer) {
        return Some(occupied);
    }
    if offer.waiting < backlog {
        return None;
    }
    let mut amounts = amounts(&needs.resources, &offer.free()).into_iter();
    amounts.find(|amount| amount.wanted > amount.there).map(Occupied::Busy)
}

/// What no backlog helps against.
fn spoken_for<'a>(needs: &'a Requirements, offer: &WorkerSnapshot) -> Option<Occupied<'a>> {
    if offer.waiting >= MAX_BACKLOG {
        return Some(Occupied::Backlogged);
    }
    if needs.distinct_workers && offer.siblings(needs) > 0 {
        return Some(Occupied::DistinctWorkers);
    }
    if let Some(port) = needs.ports.iter().find(|port| offer.taken.ports.contains(port)) {
        return Some(Occupied::Port(*port));
    }
    let mut counted = countables(needs, |name| offer.free_countable(name));
    counted.find(|amount| amount.wanted > amount.there).map(Occupied::Busy)
}

/// Whether a worker can be given a task now: it has room for it, or fewer than `backlog` (from [`backlog_limit`])
/// attempts of whatever class wait there for their start. More than [`MAX_BACKLOG`] never wait, however little they need.
///
/// # Errors
/// The first need that keeps the worker out.
pub fn feasible(
    needs: &Requirements,
    project: ProjectId,
    offer: &WorkerSnapshot,
    backlog: u32,
) -> Result<(), Infeasible> {
    suitable(needs, project, offer)?;
    match occupied(needs, offer, backlog) {
        None => Ok(()),
        Some(occupied) => Err(occupied.in_words(offer)),
    }
}

/// Whether a worker could run a task if it did nothing else.
///
/// # Errors
/// The first need that keeps the worker out, of those that waiting does not help against.
pub fn suitable(needs: &Requirements, project: ProjectId, offer: &WorkerSnapshot) -> Result<(), Infeasible> {
    match unsuitable(needs, project, offer) {
        None => Ok(()),
        Some(unsuitable) => Err(unsuitable.in_words(needs, offer)),
    }
}

/// How far a suitable worker is from having room: the largest missing share of a resource. None if something else
/// is missing, or if services hold it.
pub(crate) fn shortfall(needs: &Requirements, offer: &WorkerSnapshot) -> Option<f64> {
    let is_taken = needs.ports.iter().any(|port| offer.taken.ports.contains(port));
    if is_taken || (needs.distinct_workers && offer.siblings(needs) > 0) {
        return None;
    }
    let lasting = &offer.lasting;
    let not_lasting = Resources {
        cpu: offer.capacity.cpu.saturating_sub(lasting.resources.cpu),
        memory: offer.capacity.memory.saturating_sub(lasting.resources.memory),
        disk: offer.capacity.disk.saturating_sub(lasting.resources.disk),
    };
    let counted_not_lasting = countables(needs, |name| {
        let of = |counts: &BTreeMap<String, u32>| counts.get(name).copied().unwrap_or(0);
        of(&offer.countables).saturating_sub(of(&lasting.countables))
    });
    let mut to_come = amounts(&needs.resources, &not_lasting).into_iter().chain(counted_not_lasting);
    if to_come.any(|amount| amount.wanted > amount.there) {
        return None;
    }
    let free = amounts(&needs.resources, &offer.free());
    let all = amounts(&needs.resources, &offer.capacity);
    let counted_free = countables(needs, |name| offer.free_countable(name));
    let counted_all = countables(needs, |name| offer.countables.get(name).copied().unwrap_or(0));
    let missing = |(free, all): (Amount<'_>, Amount<'_>)| {
        free.wanted.saturating_sub(free.there) as f64 / all.there.max(1) as f64
    };
    let most = free.into_iter().chain(counted_free).zip(all.into_iter().chain(counted_all)).map(missing);
    let most = most.fold(0.0, f64::max);
    (most > 0.0).then_some(most)
}

/// [`suitable`] without a reason.
pub(crate) fn suits(needs: &Requirements, project: ProjectId, offer: &WorkerSnapshot) -> bool {
    unsuitable(needs, project, offer).is_none()
}

/// How a suitable worker would take a task: none if it cannot now, else whether the task would wait there.
pub(super) fn takes(
    needs: &Requirements,
    offer: &WorkerSnapshot,
    mean_run: Option<Duration>,
) -> Option<bool> {
    let free = offer.free();
    let wanted = &needs.resources;
    let fits = wanted.cpu <= free.cpu && wanted.memory <= free.memory && wanted.disk <= free.disk;
    // Most questions end here where the fleet is full and nothing is known to be short.
    if !fits && (mean_run.is_none() || offer.kept || offer.waiting >= backlog_limit(needs, offer, mean_run)) {
        return None;
    }
    spoken_for(needs, offer).is_none().then_some(!fits)
}

impl Unsuitable<'_> {
    fn in_words(self, needs: &Requirements, offer: &WorkerSnapshot) -> Infeasible {
        match self {
            Unsuitable::OtherProject => Infeasible::OtherProject,
            Unsuitable::OtherWorker => Infeasible::OtherWorker,
            Unsuitable::State(WorkerState::Draining) => Infeasible::Draining,
            Unsuitable::State(WorkerState::Cordoned) => Infeasible::Cordoned,
            Unsuitable::State(state) => Infeasible::Away { state },
            Unsuitable::Driver => {
                let broken = offer.broken_drivers.iter().find(|(driver, _)| *driver == needs.driver);
                Infeasible::Driver { driver: needs.driver, why: broken.map(|(_, why)| why.clone()) }
            }
            Unsuitable::Outdated(feature) => Infeasible::Outdated { feature, version: offer.version.clone() },
            Unsuitable::Datacenter => Infeasible::Datacenter { datacenter: offer.datacenter.clone() },
            Unsuitable::Constraint(constraint) => {
                let (constraint, found) = match constraint.check(&offer.facts()) {
                    Err(unmet) => (unmet.condition, unmet.found),
                    Ok(()) => (constraint.to_string(), String::new()),
                };
                Infeasible::Constraint { constraint, found }
            }
            Unsuitable::TooSmall(amount) => {
                let resource = amount.resource();
                let (wanted, capacity) = (resource.show(amount.wanted), resource.show(amount.there));
                Infeasible::TooSmall { resource, wanted, capacity }
            }
        }
    }
}

impl Occupied<'_> {
    fn in_words(self, offer: &WorkerSnapshot) -> Infeasible {
        match self {
            Occupied::Backlogged => Infeasible::Backlogged { waiting: offer.waiting.min(MAX_BACKLOG) },
            Occupied::DistinctWorkers => Infeasible::DistinctWorkers,
            Occupied::Port(port) => Infeasible::Port { port },
            Occupied::Busy(amount) => {
                let resource = amount.resource();
                let (wanted, free) = (resource.show(amount.wanted), resource.show(amount.there));
                Infeasible::Busy { resource, wanted, free }
            }
        }
    }
}

/// How many unstarted attempts a worker may hold for one of this class to join: what it completes within
/// [`BACKLOG_HORIZON`], given recent run times of the class and how many it finished recently. Unknown run times
/// give none.
pub fn backlog_limit(needs: &Requirements, offer: &WorkerSnapshot, mean_run: Option<Duration>) -> u32 {
    let Some(mean_run) = mean_run else { return 0 };
    let most = f64::from(MAX_BACKLOG.min(offer.finished_lately));
    let side_by_side = amounts(&needs.resources, &offer.capacity)
        .into_iter()
        .filter(|amount| amount.wanted > 0)
        .map(|amount| amount.there as f64 / amount.wanted as f64)
        .fold(f64::from(MAX_BACKLOG), f64::min);
    let turns = BACKLOG_HORIZON.to_std().as_secs_f64() / mean_run.as_secs_f64().max(1e-6);
    (side_by_side * turns).min(most) as u32
}

/// How many tasks of a class [`place`](super::place) would place now if there were enough of them. The offers are in the order of the
/// numbers of their workers.
pub fn room(
    needs: &Requirements,
    project: ProjectId,
    offers: &[WorkerSnapshot],
    mean_run: Option<Duration>,
) -> usize {
    // With ten thousand classes of one worker each, nobody looks at ten thousand workers for each of them.
    let own = |worker| offers.binary_search_by_key(&worker, |offer| offer.worker).ok();
    let offers = match needs.worker {
        Some(worker) => own(worker).and_then(|at| offers.get(at..=at)).unwrap_or_default(),
        None if needs.each_worker => &[],
        None => offers,
    };
    offers
        .iter()
        .filter(|offer| suits(needs, project, offer))
        .map(|offer| room_on(needs, offer, mean_run))
        .sum()
}

/// How many tasks a suitable worker can be given.
fn room_on(needs: &Requirements, offer: &WorkerSnapshot, mean_run: Option<Duration>) -> usize {
    let most = u64::from(MAX_BACKLOG.saturating_sub(offer.waiting));
    let is_taken = needs.ports.iter().any(|port| offer.taken.ports.contains(port));
    let alone = match (needs.distinct_workers, needs.ports.is_empty()) {
        (true, _) if offer.siblings(needs) > 0 => 0,
        (_, false) if is_taken => 0,
        (false, true) => most,
        _ => 1,
    };
    let counted = countables(needs, |name| offer.free_countable(name));
    let counted = counted.filter_map(|amount| amount.times()).fold(most, u64::min);
    let side_by_side = amounts(&needs.resources, &offer.free()).into_iter();
    let side_by_side = side_by_side.filter_map(|amount| amount.times()).fold(most, u64::min);
    let backlog = backlog_limit(needs, offer, mean_run).saturating_sub(offer.waiting);
    side_by_side.max(u64::from(backlog)).min(most).min(alone).min(counted) as usize
}
