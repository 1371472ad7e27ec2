//! Decides which tasks leave their worker: tasks of draining workers, and services that fit much better elsewhere.
//!
//! # Draining
//!
//! [`leave`] is called repeatedly while a worker drains. Services go first, each when another worker has room for it
//! beside moves in progress; tasks of one definition go one after the other, the next when the last one runs again.
//! Batch tasks with `on_drain: move` go when there is room; others finish where they are, and so does a task that is for this worker
//! (`each: worker`). Tasks that remain at the deadline move, wherever they may land; one that is for this worker waits for it.
//! Instances of system jobs are not moved but scaled down: see [`crate::system_jobs`].
//!
//! # Rebalancing
//!
//! [`rebalance`] moves one task of a service at a time, never of a batch job, and only if all of this holds:
//! - No task of the project is moving, and no service of it waits for a worker.
//! - The task has run on a worker that accepts tasks, and the other worker has been connected, for the settling time.
//! - Its strategy would choose the other worker if the task were placed anew.
//! - The *gain* is at least [`LEAST_GAIN`]: the difference of the fullest resource between the present worker and the
//!   other one with the task, plus Σ weight / 100 of the affinities that only the other one meets. `binpack` and
//!   `round_robin` do not avoid full workers, so there only affinities count.
//! - Or the definition is spread, and the values of its fact are out of balance by two tasks or more.
//!
//! Moving back would lose the gain, so tasks do not oscillate.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::placement::{
    DefinitionRef, Fleet, Request, Requirements, Strategy, WorkerSnapshot, feasible, place, terms,
};
use crate::quantity::Span;
use crate::spec::{JobKind, OnDrain};
use crate::worker::WorkerState;
use crate::{ProjectId, TaskId, Time, WorkerId};

/// The least that a task must gain for its service to be interrupted: a quarter of a worker.
pub const LEAST_GAIN: f64 = 0.25;
/// How long a service's task executes, and a worker is connected, before they count as settled.
pub const SETTLED_AFTER: Span = Span::from_millis(300_000);

/// A task that executes, as far as moving it is concerned.
#[derive(Debug, Clone)]
pub struct Tenant<'a> {
    /// Which.
    pub task: TaskId,
    /// Its present attempt.
    pub attempt: u32,
    /// Its project and owner.
    pub definition: DefinitionRef,
    /// Whose it is.
    pub project: ProjectId,
    /// Where it executes.
    pub worker: WorkerId,
    /// Since when.
    pub since: Time,
    /// Its requirements.
    pub needs: &'a Requirements,
    /// Whether it is kept running.
    pub kind: JobKind,
    /// What a batch task does when its worker drains.
    pub on_drain: OnDrain,
    /// Whether it may be moved where its worker does not drain.
    pub may_rebalance: bool,
}

/// One task is to leave its worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    /// Which.
    pub task: TaskId,
    /// Its present attempt.
    pub attempt: u32,
    /// Where it executes.
    pub from: WorkerId,
    /// Why.
    pub why: Why,
}

/// Why a task leaves.
#[derive(Debug, Clone, PartialEq)]
pub enum Why {
    /// Its worker drains.
    Drains,
    /// Its worker drains, and the deadline has passed.
    Deadline,
    /// The gain elsewhere.
    Gain {
        /// Where.
        to: WorkerId,
        /// In whole workers.
        gain: f64,
    },
    /// Elsewhere there are fewer of its definition.
    Spread {
        /// Where.
        to: WorkerId,
        /// Number of tasks at its present value.
        here: u32,
        /// Number of tasks at the new value.
        there: u32,
    },
}

/// Moves in progress.
#[derive(Debug, Clone, Default)]
pub struct UnderWay<'a> {
    /// The definitions of services of which a task leaves a worker, or has left one and does not execute yet.
    pub definitions: BTreeSet<DefinitionRef>,
    /// What tasks need that leave a worker or have left one, and are placed on none yet; and whose they are.
    pub unplaced: Vec<(ProjectId, &'a Requirements)>,
}

/// The tasks that should leave draining workers now. `drains` has the deadline of each draining worker. Moves, also
/// those in progress, are counted in `offers` where they may land.
pub fn leave(
    tenants: &[Tenant<'_>],
    drains: &BTreeMap<WorkerId, Option<Time>>,
    under_way: &UnderWay<'_>,
    offers: &mut [WorkerSnapshot],
    now: Time,
) -> Vec<Move> {
    let mut moving = under_way.definitions.clone();
    for (project, needs) in under_way.unplaced.iter().filter(|(_, needs)| !needs.each_worker) {
        land(needs, *project, None, offers);
    }
    let mut leaving: Vec<&Tenant<'_>> =
        tenants.iter().filter(|tenant| drains.contains_key(&tenant.worker)).collect();
    leaving.sort_unstable_by_key(|tenant| (!tenant.kind.is_kept_running(), tenant.task));
    let mut moves = Vec::new();
    for tenant in leaving {
        let is_over = drains[&tenant.worker].is_some_and(|deadline| deadline <= now);
        let is_kept_running = tenant.kind.is_kept_running();
        let wants_to = match is_kept_running {
            true => !moving.contains(&tenant.definition),
            false => tenant.on_drain == OnDrain::Move,
        };
        if !is_over && !wants_to {
            continue;
        }
        // A task that is for this worker lands nowhere.
        let has_landed =
            !tenant.needs.each_worker && land(tenant.needs, tenant.project, Some(tenant.worker), offers);
        if !has_landed && !is_over {
            continue;
        }
        if is_kept_running {
            moving.insert(tenant.definition);
        }
        let why = if is_over { Why::Deadline } else { Why::Drains };
        moves.push(Move { task: tenant.task, attempt: tenant.attempt, from: tenant.worker, why });
    }
    moves
}

/// Counts a task where it may land. False if no worker has room for it.
fn land(
    needs: &Requirements,
    project: ProjectId,
    from: Option<WorkerId>,
    offers: &mut [WorkerSnapshot],
) -> bool {
    let has_room = |offer: &&mut WorkerSnapshot| {
        Some(offer.worker) != from && feasible(needs, project, offer, 0).is_ok()
    };
    let landing = offers.iter_mut().find(has_room);
    landing.map(|offer| offer.take(needs)).is_some()
}

/// The task of a service that gains most by a move, if any gains enough; of equal ones the first. The tenants are one
/// project's, of which nothing is on the move; `settled` has the workers that have been connected for long enough.
pub fn rebalance(
    tenants: &[Tenant<'_>],
    settled: &BTreeSet<WorkerId>,
    offers: &mut [WorkerSnapshot],
    strategy: Strategy,
    settled_before: Time,
) -> Option<Move> {
    let mut best: Option<(f64, Move)> = None;
    for tenant in tenants {
        let is_candidate =
            tenant.kind == JobKind::Service && tenant.may_rebalance && tenant.since <= settled_before;
        if !is_candidate {
            continue;
        }
        let Some((gain, why)) = gain_of(tenant, settled, offers, strategy) else { continue };
        if best.as_ref().is_none_or(|(most, _)| gain > *most) {
            let Tenant { task, attempt, worker, .. } = *tenant;
            best = Some((gain, Move { task, attempt, from: worker, why }));
        }
    }
    best.map(|(_, best)| best)
}

/// Places a task as if it did not run yet. Returns its gain if that leads elsewhere. Restores the offers.
fn gain_of(
    tenant: &Tenant<'_>,
    settled: &BTreeSet<WorkerId>,
    offers: &mut [WorkerSnapshot],
    strategy: Strategy,
) -> Option<(f64, Why)> {
    let Tenant { needs, project, worker, .. } = *tenant;
    let here = offers.iter().position(|offer| offer.worker == worker)?;
    // A worker without new tasks keeps what it has; a disconnected worker cannot be told.
    if offers[here].state != WorkerState::Online {
        return None;
    }
    let before = offers[here].without(needs);
    let with = std::mem::replace(&mut offers[here], before.clone());
    let request = Request { needs, project, tasks: 1, mean_run: None, strategy, last: None, now: None };
    let chosen = place(&request, offers).pop().map(|(chosen, _)| chosen);
    if let Some(at) = chosen.and_then(|chosen| offers.iter().position(|offer| offer.worker == chosen)) {
        offers[at].waiting -= 1;
        offers[at].unreserve(needs);
    }
    offers[here] = with;
    let chosen = chosen.filter(|chosen| *chosen != worker && settled.contains(chosen))?;
    let offers = &*offers;
    let there = offers.iter().find(|offer| offer.worker == chosen)?;
    let strategy = needs.strategy.unwrap_or(strategy);
    let fleet = Fleet::of(project, offers);
    let gain = worth(strategy, needs, there, &fleet) - worth(strategy, needs, &before, &fleet);
    if let Some(fact) = &needs.spread
        && before.facts().get(fact) != there.facts().get(fact)
    {
        let tasks_beside = |offer: &WorkerSnapshot| -> u32 {
            let alike = offers
                .iter()
                .filter(|other| other.is_for(project) && other.facts().get(fact) == offer.facts().get(fact));
            alike.map(|other| other.siblings(needs)).sum()
        };
        let (here, other) = (tasks_beside(&before), tasks_beside(there));
        if here >= other.saturating_add(2) {
            // An imbalance goes before any load.
            return Some((f64::from(here - other) * 100.0, Why::Spread { to: chosen, here, there: other }));
        }
        if here <= other {
            return None;
        }
    }
    (gain >= LEAST_GAIN).then_some((gain, Why::Gain { to: chosen, gain }))
}

/// How well a task would do on a worker, in whole workers: what affinities say for it, less how full it would be.
fn worth(strategy: Strategy, needs: &Requirements, offer: &WorkerSnapshot, fleet: &Fleet) -> f64 {
    let terms = terms(Strategy::Spread, needs, offer, fleet);
    match strategy {
        Strategy::Binpack | Strategy::RoundRobin => -terms.affinity,
        _ => -terms.score(Strategy::Spread),
    }
}
