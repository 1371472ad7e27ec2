//! Moves tasks away from workers that drain, and services to where they are much better off: a loop around one look at
//! who might have to move.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use gaffer_domain::moves::{Move, Tenant, Why, leave, rebalance};
use gaffer_domain::placement::{Needs, Offer, Strategy};
use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_domain::spec::{JobKind, JobSpec, OnDrain, Placement, Resources};
use gaffer_domain::task::{StopCause, TaskEvent};
use gaffer_domain::worker::Intake;
use gaffer_domain::{ProjectId, Time, WorkerId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::changes::Changes;
use crate::hub::Hub;
use crate::recorder::RecorderHandle;
use crate::scheduler::{measured, offer_of};
use crate::store::gate::{Detail, Input};
use crate::store::leaving::{Resident, Residents};
use crate::store::workers::Worker;
use crate::store::{Store, StoreError};

/// While anything drains, a look is taken so often: whether there is room elsewhere is asked, not told.
const DRAIN_INTERVAL: Duration = Duration::from_secs(1);
/// How often services are looked at, at most and at least, and how many times while one settles.
const LONGEST_INTERVAL: Duration = Duration::from_secs(30);
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const LOOKS_WHILE_SETTLING: u32 = 10;
const RETRY: Duration = Duration::from_secs(1);
/// So many tasks are looked at together.
const MAX_LOOKED_AT: u32 = 10_000;

/// The mover.
#[derive(Debug)]
pub struct Mover {
    /// Where tasks and workers are read.
    pub store: Store,
    /// How the workers' machines do.
    pub hub: Hub,
    /// Through which moves go to the gate.
    pub recorder: RecorderHandle,
    /// Asks for a look.
    pub wake: Arc<Notify>,
    /// Who is to know that a worker has nothing left.
    pub changes: Changes,
    /// How workers are scored where a job does not say.
    pub strategy: Strategy,
    /// How long a service's task executes, and a worker is connected, before they count as settled; none if services are
    /// never moved for balance.
    pub settled_after: Option<Duration>,
}

/// What a look is taken at, in the words of the rules.
struct Seen {
    workers: Vec<Worker>,
    offers: Vec<Offer>,
    residents: Residents,
    /// Of each of them, what it is part of and what it needs.
    known: Vec<(Resident, Arc<JobSpec>, Needs)>,
}

impl Mover {
    /// Takes a look whenever somebody asks for one, and as often as it takes while something drains or may be moved.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut balanced: Option<Instant> = None;
        loop {
            let balances = self.balance_interval();
            let is_due = balances.is_some_and(|every| balanced.is_none_or(|at| at.elapsed() >= every));
            let wait = match self.move_once(Utc::now(), is_due).await {
                Ok(is_draining) => {
                    if is_due {
                        balanced = Some(Instant::now());
                    }
                    if is_draining { Some(DRAIN_INTERVAL) } else { balances }
                }
                Err(error) => {
                    tracing::warn!(%error, "a look at who might have to move failed");
                    Some(RETRY)
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)) => {}
            }
        }
    }

    fn balance_interval(&self) -> Option<Duration> {
        let settled_after = self.settled_after?;
        Some((settled_after / LOOKS_WHILE_SETTLING).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL))
    }

    /// One look: asks what is to leave draining workers to leave, and if `balances`, one task of a service of each
    /// project to go where it is better off. Returns whether anything is left to drain.
    ///
    /// # Errors
    /// When the database does not answer; nothing moves then, or it shows in the next look.
    pub async fn move_once(&self, now: Time, balances: bool) -> Result<bool, StoreError> {
        let workers = self.store.worker_list(None).await?;
        let drains: BTreeMap<WorkerId, Option<Time>> = workers
            .iter()
            .filter(|worker| worker.intake == Intake::Draining && worker.drained_at.is_none())
            .map(|worker| (worker.id, worker.drain_until))
            .collect();
        if drains.is_empty() && !balances {
            return Ok(false);
        }
        let mut seen = self.see(workers, now).await?;
        let tenants: Vec<Tenant<'_>> = seen.known.iter().map(tenant).collect();
        let mut moves = leave(&tenants, &drains, &seen.residents.moving, &mut seen.offers, now);
        if balances && moves.is_empty() {
            moves.extend(self.balance(&tenants, &seen, now));
        }
        let name = |id: WorkerId| {
            let worker = seen.workers.iter().find(|worker| worker.id == id);
            worker.map_or_else(|| format!("worker {id}"), |worker| worker.name.clone())
        };
        let inputs: Vec<Input> = moves.iter().map(|one| input(one, name)).collect();
        if !inputs.is_empty() {
            let _ = self.recorder.events(inputs).await;
        }
        if !drains.is_empty() && self.store.workers_drained().await? > 0 {
            self.changes.announce(&[]);
        }
        Ok(!drains.is_empty())
    }

    async fn see(&self, workers: Vec<Worker>, now: Time) -> Result<Seen, StoreError> {
        let nothing = Resources { cpu: Cpu::default(), memory: Bytes(0), disk: Bytes(0) };
        let offer = |worker: &Worker| {
            let measured = measured(&self.hub, worker.id, |_| nothing);
            Offer { measured, ..offer_of(worker, now) }
        };
        let offers = workers.iter().map(offer).collect();
        let mut residents = self.store.tasks_that_may_move(MAX_LOOKED_AT).await?;
        let mut known = Vec::new();
        for resident in std::mem::take(&mut residents.staying) {
            let Some(spec) = self.store.spec(resident.definition.job).await? else { continue };
            let Some(definition) = spec.tasks.get(usize::from(resident.definition.position)) else {
                continue;
            };
            let needs = Needs::of(&spec, definition, resident.definition);
            known.push((resident, spec, needs));
        }
        Ok(Seen { workers, offers, residents, known })
    }

    /// One task of each project in which nothing is on the move.
    fn balance(&self, tenants: &[Tenant<'_>], seen: &Seen, now: Time) -> Vec<Move> {
        let Some(settled_after) = self.settled_after else { return Vec::new() };
        let before = now - TimeDelta::from_std(settled_after).unwrap_or_default();
        let settled: BTreeSet<WorkerId> = seen
            .workers
            .iter()
            .filter(|worker| worker.online_since.is_some_and(|since| since <= before))
            .map(|worker| worker.id)
            .collect();
        let mut by_project: BTreeMap<ProjectId, Vec<Tenant<'_>>> = BTreeMap::new();
        for tenant in tenants.iter().filter(|tenant| !seen.residents.unsettled.contains(&tenant.project)) {
            by_project.entry(tenant.project).or_default().push(tenant.clone());
        }
        let best =
            |tenants: Vec<Tenant<'_>>| rebalance(&tenants, &settled, &seen.offers, self.strategy, before);
        by_project.into_values().filter_map(best).collect()
    }
}

fn tenant((resident, spec, needs): &(Resident, Arc<JobSpec>, Needs)) -> Tenant<'_> {
    let Placement { on_drain, rebalance: may_rebalance, .. } = spec.placement.unwrap_or_default();
    let Resident { task, definition, project, worker, since } = *resident;
    let on_drain = if spec.kind == JobKind::Service { OnDrain::Move } else { on_drain };
    Tenant { task, definition, project, worker, since, needs, kind: spec.kind, on_drain, may_rebalance }
}

fn input(one: &Move, name: impl Fn(WorkerId) -> String) -> Input {
    let from = name(one.from);
    let message = match &one.why {
        Why::Drains => format!("moved away from {from}, which drains"),
        Why::Deadline => format!("moved away from {from}, whose time to drain is over"),
        Why::Gain { to, gain } => {
            let hundredths = gain * 100.0;
            format!("moved away from {from}: {} suits it better, by {hundredths:.0}% of a worker", name(*to))
        }
        Why::Spread { to, here, there } => {
            format!(
                "moved away from {from}, where {here} tasks of its kind are, to even out: {there} at {}",
                name(*to)
            )
        }
    };
    let event = TaskEvent::StopRequested(StopCause::to_move(message));
    Input { task: one.task, event, actor: "gaffer".into(), detail: Detail::None }
}
