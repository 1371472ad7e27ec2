//! Which tasks leave the worker that they execute on: what a draining worker still has, and services that would be much
//! better off elsewhere.
//!
//! # Draining
//!
//! [`leave`] is asked again and again while a worker drains. Services go first, each as soon as another worker has room
//! for it, and of one definition one after the other: the next when the last one executes again. Batch tasks that are
//! to move (`on_drain: move`) go when there is room; the others end where they are. What is still there at the deadline
//! goes then, wherever it may land.
//!
//! # Rebalancing
//!
//! [`rebalance`] moves one task of a service at a time, never of a batch job, and only where all of this holds:
//! - Nothing of the project is on the move, and no service of it waits for a worker.
//! - The task has executed, and the other worker has been connected, for as long as it takes to settle.
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

use crate::placement::{DefinitionRef, Fleet, Needs, Offer, Request, Strategy, feasible, place, terms};
use crate::quantity::Span;
use crate::spec::{JobKind, OnDrain};
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
    /// What it belongs to.
    pub definition: DefinitionRef,
    /// Whose it is.
    pub project: ProjectId,
    /// Where it executes.
    pub worker: WorkerId,
    /// Since when.
    pub since: Time,
    /// What it needs.
    pub needs: &'a Needs,
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

/// The tasks that leave draining workers now. `drains` has the deadline of each worker that drains; `moving` the
/// definitions of which a task waits for a worker or has not started yet. What is to move is counted in `offers`, where
/// it may land.
pub fn leave(
    tenants: &[Tenant<'_>],
    drains: &BTreeMap<WorkerId, Option<Time>>,
    moving: &BTreeSet<DefinitionRef>,
    offers: &mut [Offer],
    now: Time,
) -> Vec<Move> {
    let mut moving = moving.clone();
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
        let landing = offers.iter_mut().find(|offer| {
            offer.worker != tenant.worker && feasible(tenant.needs, tenant.project, offer, 0).is_ok()
        });
        match landing {
            Some(offer) => offer.take(tenant.needs),
            None if !is_over => continue,
            None => {}
        }
        if is_service {
            moving.insert(tenant.definition);
        }
        let why = if is_over { Why::Deadline } else { Why::Drains };
        moves.push(Move { task: tenant.task, from: tenant.worker, why });
    }
    moves
}

/// The task of a service that gains most by a move, if any gains enough; of equal ones the first. The tenants are one
/// project's, of which nothing is on the move; `settled` has the workers that have been connected for long enough.
pub fn rebalance(
    tenants: &[Tenant<'_>],
    settled: &BTreeSet<WorkerId>,
    offers: &[Offer],
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
            best = Some((gain, Move { task: tenant.task, from: tenant.worker, why }));
        }
    }
    best.map(|(_, best)| best)
}

/// Places a task as if it did not execute yet. Says what it gains if that leads elsewhere.
fn gain_of(
    tenant: &Tenant<'_>,
    settled: &BTreeSet<WorkerId>,
    offers: &[Offer],
    strategy: Strategy,
) -> Option<(f64, Why)> {
    let Tenant { needs, project, worker, .. } = *tenant;
    let here = offers.iter().position(|offer| offer.worker == worker)?;
    let mut anew = offers.to_vec();
    anew[here] = offers[here].without(needs);
    let before = anew[here].clone();
    let request = Request { needs, project, tasks: 1, mean_run: None, strategy, last: None, now: None };
    let (chosen, _) = place(&request, &mut anew).pop()?;
    if chosen == worker || !settled.contains(&chosen) {
        return None;
    }
    let there = offers.iter().find(|offer| offer.worker == chosen)?;
    let strategy = needs.strategy.unwrap_or(strategy);
    let gain = worth(strategy, needs, there, offers) - worth(strategy, needs, &before, offers);
    if let Some(fact) = &needs.spread
        && before.facts().get(fact) != there.facts().get(fact)
    {
        let tasks_beside = |offer: &Offer| -> u32 {
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
fn worth(strategy: Strategy, needs: &Needs, offer: &Offer, offers: &[Offer]) -> f64 {
    let terms = terms(Strategy::Spread, needs, offer, &Fleet::of(offer.project, offers));
    match strategy {
        Strategy::Binpack | Strategy::RoundRobin => -terms.affinity,
        _ => -terms.score(Strategy::Spread),
    }
}
