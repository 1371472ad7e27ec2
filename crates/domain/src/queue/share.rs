//! Resource usage and dominant share of each project and user.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::WaitReason;
use crate::ProjectId;
use crate::placement::{DefinitionRef, MAX_BACKLOG, Requirements, WorkerSnapshot};
use crate::projects::{Terms, Weight};
use crate::quota::Usage;
use crate::worker::Sharing;

/// Resources of live attempts by project and owner, and live attempts per concurrency group and array. Computed from the live
/// attempts in each pass, so that it cannot leak.
#[derive(Debug, Clone, Default)]
pub struct InUse {
    projects: BTreeMap<ProjectId, OfProject>,
    /// What was set for projects; nothing for the others.
    terms: Arc<BTreeMap<ProjectId, Terms>>,
}

#[derive(Debug, Clone, Default)]
struct OfProject {
    /// Of all workers.
    all: Usage,
    /// Of workers that other projects may use, too.
    on_shared: Use,
    owners: BTreeMap<String, Use>,
    groups: BTreeMap<String, u32>,
    /// Those with a limit of their own.
    definitions: BTreeMap<DefinitionRef, u32>,
}

/// What some attempts have reserved together, in the smallest units: thousandths of a processor, bytes, pieces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Use {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub countables: BTreeMap<String, u64>,
    pub attempts: u32,
}

/// What some connected workers have in all.
#[derive(Debug, Clone, Default)]
pub(super) struct Capacity(Use);

/// What the connected workers have in all.
#[derive(Debug, Default)]
pub(super) struct Capacities {
    /// Of those that are shared.
    pub shared: Capacity,
    /// Of those that a project may use.
    projects: BTreeMap<ProjectId, Capacity>,
}

/// A share of all resources, of an owner or a project; the smaller share goes first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    dominant: f64,
    attempts: u32,
    /// When it was their turn: the count of all tasks placed until then.
    served: u64,
}

impl InUse {
    /// Says what was set for projects.
    pub fn set_terms(&mut self, terms: Arc<BTreeMap<ProjectId, Terms>>) {
        self.terms = terms;
    }

    /// What was set for a project.
    pub fn terms(&self, project: ProjectId) -> Terms {
        self.terms.get(&project).copied().unwrap_or_default()
    }

    /// What a project has in use of its quotas.
    pub fn usage(&self, project: ProjectId) -> Usage {
        self.projects.get(&project).map_or_else(Usage::default, |project| project.all)
    }

    /// Adds `count` live attempts of an owner.
    pub fn add(&mut self, project: ProjectId, owner: &str, needs: &Requirements, count: u32) {
        let project = self.projects.entry(project).or_default();
        project.all = project.all.plus(Usage::of(&needs.resources, count));
        of(&mut project.owners, owner).add(needs, count);
        if let Some(concurrency) = &needs.concurrency {
            let live = of(&mut project.groups, &concurrency.group);
            *live = live.saturating_add(count);
        }
        if let Some(definition) = needs.definition.filter(|_| needs.at_once.is_some()) {
            let live = project.definitions.entry(definition).or_default();
            *live = live.saturating_add(count);
        }
    }

    /// Counts `count` of what was added as attempts on shared workers.
    pub fn add_on_shared(&mut self, project: ProjectId, needs: &Requirements, count: u32) {
        self.projects.entry(project).or_default().on_shared.add(needs, count);
    }

    /// Takes back `count` of these.
    pub fn remove_on_shared(&mut self, project: ProjectId, needs: &Requirements, count: u32) {
        self.projects.entry(project).or_default().on_shared.remove(needs, count);
    }

    /// Takes back `count` of what was added.
    pub fn remove(&mut self, project: ProjectId, owner: &str, needs: &Requirements, count: u32) {
        let project = self.projects.entry(project).or_default();
        project.all = project.all.minus(Usage::of(&needs.resources, count));
        of(&mut project.owners, owner).remove(needs, count);
        if let Some(concurrency) = &needs.concurrency {
            let live = of(&mut project.groups, &concurrency.group);
            *live = live.saturating_sub(count);
        }
        if let Some(live) = needs.definition.and_then(|definition| project.definitions.get_mut(&definition)) {
            *live = live.saturating_sub(count);
        }
    }

    /// Live attempts of a concurrency group.
    pub fn live_in_group(&self, project: ProjectId, group: &str) -> u32 {
        self.projects.get(&project).and_then(|project| project.groups.get(group)).copied().unwrap_or(0)
    }

    /// Why none of these may start, independent of workers; each class has its own limit.
    pub fn hold(&self, project: ProjectId, needs: &Requirements) -> Option<WaitReason> {
        if let (Some(limit), Some(definition)) = (needs.at_once, needs.definition) {
            let project = self.projects.get(&project);
            let live = project.and_then(|project| project.definitions.get(&definition)).copied().unwrap_or(0);
            if live >= limit {
                return Some(WaitReason::AtOnce { live, limit });
            }
        }
        if let Some(concurrency) = &needs.concurrency {
            let (live, limit) = (self.live_in_group(project, &concurrency.group), concurrency.limit);
            if live >= limit {
                return Some(WaitReason::Concurrency { live, limit });
            }
        }
        let quota = self.terms(project).quota;
        quota.over(self.usage(project), &needs.resources).map(WaitReason::Quota)
    }

    /// What a project has in use of shared workers.
    pub fn on_shared(&self, project: ProjectId) -> Option<&Use> {
        self.projects.get(&project).map(|project| &project.on_shared)
    }

    /// What one owner has in use of it.
    pub fn of_owner(&self, project: ProjectId, owner: &str) -> Option<&Use> {
        self.projects.get(&project)?.owners.get(owner)
    }
}

/// The entry of this name, a new one if there is none.
fn of<'m, T: Default>(map: &'m mut BTreeMap<String, T>, name: &str) -> &'m mut T {
    map.entry(name.to_owned()).or_default()
}

impl Use {
    fn add(&mut self, needs: &Requirements, count: u32) {
        self.change(needs, |sum, each| sum.saturating_add(each.saturating_mul(u64::from(count))));
        self.attempts = self.attempts.saturating_add(count);
    }

    fn remove(&mut self, needs: &Requirements, count: u32) {
        self.change(needs, |sum, each| sum.saturating_sub(each.saturating_mul(u64::from(count))));
        self.attempts = self.attempts.saturating_sub(count);
    }

    fn change(&mut self, needs: &Requirements, changed: impl Fn(u64, u64) -> u64) {
        let change = |sum: &mut u64, each: u64| *sum = changed(*sum, each);
        change(&mut self.cpu_millis, u64::from(needs.resources.cpu.millis()));
        change(&mut self.memory_bytes, needs.resources.memory.get());
        change(&mut self.disk_bytes, needs.resources.disk.get());
        for (name, wanted) in &needs.countables {
            change(of(&mut self.countables, name), u64::from(*wanted));
        }
    }
}

impl Capacity {
    fn add_worker(&mut self, offer: &WorkerSnapshot) {
        let Capacity(sum) = self;
        sum.cpu_millis = sum.cpu_millis.saturating_add(u64::from(offer.capacity.cpu.millis()));
        sum.memory_bytes = sum.memory_bytes.saturating_add(offer.capacity.memory.get());
        sum.disk_bytes = sum.disk_bytes.saturating_add(offer.capacity.disk.get());
        for (name, count) in &offer.countables {
            let all = of(&mut sum.countables, name);
            *all = all.saturating_add(u64::from(*count));
        }
        sum.attempts = sum.attempts.saturating_add(MAX_BACKLOG);
    }

    fn add(&mut self, Capacity(more): &Capacity) {
        let Capacity(sum) = self;
        sum.cpu_millis = sum.cpu_millis.saturating_add(more.cpu_millis);
        sum.memory_bytes = sum.memory_bytes.saturating_add(more.memory_bytes);
        sum.disk_bytes = sum.disk_bytes.saturating_add(more.disk_bytes);
        for (name, count) in &more.countables {
            let all = of(&mut sum.countables, name);
            *all = all.saturating_add(*count);
        }
        sum.attempts = sum.attempts.saturating_add(more.attempts);
    }
}

impl Capacities {
    /// Of these projects. Looks at each worker once, however many projects there are.
    pub fn of(offers: &[WorkerSnapshot], projects: &BTreeSet<ProjectId>) -> Capacities {
        let mut capacities = Capacities::default();
        let mut of_all = Capacity::default();
        for offer in offers.iter().filter(|offer| offer.state.is_connected()) {
            if offer.sharing.is_shared() {
                capacities.shared.add_worker(offer);
            }
            if offer.sharing == Sharing::All {
                of_all.add_worker(offer);
                continue;
            }
            capacities.projects.entry(offer.project).or_default().add_worker(offer);
            if let Sharing::Projects(others) = &offer.sharing {
                for other in others.iter().filter(|other| **other != offer.project) {
                    capacities.projects.entry(*other).or_default().add_worker(offer);
                }
            }
        }
        for project in projects {
            capacities.projects.entry(*project).or_default().add(&of_all);
        }
        capacities
    }

    /// What a project may use; nothing of a project that was not asked for.
    pub fn of_project(&self, project: ProjectId) -> &Capacity {
        const NOTHING: &Capacity = &Capacity(Use {
            cpu_millis: 0,
            memory_bytes: 0,
            disk_bytes: 0,
            countables: BTreeMap::new(),
            attempts: 0,
        });
        self.projects.get(&project).unwrap_or(NOTHING)
    }
}

impl Share {
    pub fn of(part: Option<&Use>, Capacity(all): &Capacity, served: u64) -> Share {
        let Some(part) = part else { return Share { dominant: 0.0, attempts: 0, served } };
        let share = |part: u64, all: u64| if all == 0 { 0.0 } else { part as f64 / all as f64 };
        let countables = part
            .countables
            .iter()
            .map(|(name, part)| share(*part, all.countables.get(name).copied().unwrap_or(0)));
        let dominant = share(part.cpu_millis, all.cpu_millis)
            .max(share(part.memory_bytes, all.memory_bytes))
            .max(share(part.disk_bytes, all.disk_bytes))
            .max(share(part.attempts.into(), all.attempts.into()));
        Share { dominant: countables.fold(dominant, f64::max), attempts: part.attempts, served }
    }
}

impl Share {
    /// The share of a project with this weight: the dominant share by the weight, as in §4.3 of the paper, with one weight for all
    /// resources.
    pub fn weighted(self, weight: Weight) -> Share {
        Share { dominant: self.dominant / f64::from(weight.get()), ..self }
    }

    /// The dominant share, 0 to 1.
    pub fn dominant(self) -> f64 {
        self.dominant
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Share) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Share {}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Share) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Share {
    fn cmp(&self, other: &Share) -> Ordering {
        let then = |share: &Share| (share.attempts, share.served);
        self.dominant.total_cmp(&other.dominant).then_with(|| then(self).cmp(&then(other)))
    }
}
