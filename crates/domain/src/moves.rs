//! Which tasks leave the worker that they execute on: what a draining worker still has, and services that would be much
//! better off elsewhere.
//!
//! # Draining
//!
//! [`leave`] is asked again and again while a worker drains. Services go first, each as soon as another worker has room
//! for it beside what is on its way already, and of one definition one after the other: the next when the last one
//! executes again. Batch tasks that are to move (`on_drain: move`) go when there is room; the others end where they are.
//! What is still there at the deadline goes then, wherever it may land.
//!
//! # Rebalancing
//!
//! [`rebalance`] moves one task of a service at a time, never of a batch job, and only where all of this holds:
//! - Nothing of the project is on the move, and no service of it waits for a worker.
//! - The task has executed on a worker that takes work, and the other worker has been connected, for as long as it takes
//!   to settle.
//! - Its strategy would choose the other worker if the task were placed anew.
//! - The *gain* is at least [`LEAST_GAIN`]: how much less full the fullest resource of the other worker would be, with
//!   the task, than that of the present one is, and Σ weight / 100 of the affinities that only the other one meets.
//!   `binpack` and `round_robin` do not mind full workers: there, affinities count alone.
//! - Or the definition is spread, and the values of its fact are out of balance by two tasks or more.
//!
//! That damps it: back where it came from, a task would lose what it has just gained, so it never returns by itself.

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
    /// What it belongs to.
    pub definition: DefinitionRef,
    /// Whose it is.
    pub project: ProjectId,
    /// Where it executes.
    pub worker: WorkerId,
    /// Since when.
    pub since: Time,
    /// What it needs.
    pub needs: &'a Requirements,
    /// Whether it is kept running.
    pub kind: JobKind,
    /// What it does when its worker drains, if it is no service.
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
    /// Its worker drains, and the deadline is over.
    Deadline,
    /// It would gain so much elsewhere.
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
        /// So many are where it is.
        here: u32,
        /// So many are there.
        there: u32,
    },
}

/// What is on its way already.
#[derive(Debug, Clone, Default)]
pub struct UnderWay<'a> {
    /// The definitions of services of which a task leaves a worker, or has left one and does not execute yet.
    pub definitions: BTreeSet<DefinitionRef>,
    /// What tasks need that leave a worker or have left one, and are placed on none yet; and whose they are.
    pub unplaced: Vec<(ProjectId, &'a Requirements)>,
}

/// The tasks that leave draining workers now. `drains` has the deadline of each worker that drains. What is to move, and
/// what is on its way, is counted in `offers`, where it may land.
pub fn leave(
    tenants: &[Tenant<'_>],
    drains: &BTreeMap<WorkerId, Option<Time>>,
    under_way: &UnderWay<'_>,
    offers: &mut [WorkerSnapshot],
    now: Time,
) -> Vec<Move> {
    let mut moving = under_way.definitions.clone();
    for (project, needs) in &under_way.unplaced {
        land(needs, *project, None, offers);
    }
    let mut leaving: Vec<&Tenant<'_>> =
        tenants.iter().filter(|tenant| drains.contains_key(&tenant.worker)).collect();
    leaving.sort_unstable_by_key(|tenant| (tenant.kind == JobKind::Batch, tenant.task));
    let mut moves = Vec::new();
    for tenant in leaving {
        let is_over = drains[&tenant.worker].is_some_and(|deadline| deadline <= now);
        let is_service = tenant.kind == JobKind::Service;
        let wants_to = match is_service {
            true => !moving.contains(&tenant.definition),
            false => tenant.on_drain == OnDrain::Move,
        };
        if !is_over && !wants_to {
            continue;
        }
        let has_landed = land(tenant.needs, tenant.project, Some(tenant.worker), offers);
        if !has_landed && !is_over {
            continue;
        }
        if is_service {
            moving.insert(tenant.definition);
        }
        let why = if is_over { Why::Deadline } else { Why::Drains };
        moves.push(Move { task: tenant.task, attempt: tenant.attempt, from: tenant.worker, why });
    }
    moves
}

/// Counts a task where it may land. False if nobody has room for it.
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

/// Places a task as if it did not execute yet. Says what it gains if that leads elsewhere. The offers are as before then.
fn gain_of(
    tenant: &Tenant<'_>,
    settled: &BTreeSet<WorkerId>,
    offers: &mut [WorkerSnapshot],
    strategy: Strategy,
) -> Option<(f64, Why)> {
    let Tenant { needs, project, worker, .. } = *tenant;
    let here = offers.iter().position(|offer| offer.worker == worker)?;
    // Where nothing new is taken, what there is stays; where nobody is, nobody could be told.
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
    let gain = worth(strategy, needs, there, offers) - worth(strategy, needs, &before, offers);
    if let Some(fact) = &needs.spread
        && before.facts().get(fact) != there.facts().get(fact)
    {
        let tasks_beside = |offer: &WorkerSnapshot| -> u32 {
            let alike = offers.iter().filter(|other| {
                other.project == project && other.facts().get(fact) == offer.facts().get(fact)
            });
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
fn worth(strategy: Strategy, needs: &Requirements, offer: &WorkerSnapshot, offers: &[WorkerSnapshot]) -> f64 {
    let terms = terms(Strategy::Spread, needs, offer, &Fleet::of(offer.project, offers));
    match strategy {
        Strategy::Binpack | Strategy::RoundRobin => -terms.affinity,
        _ => -terms.score(Strategy::Spread),
    }
}
