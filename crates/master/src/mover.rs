//! Moves tasks away from workers that drain, and services to where they are much better off: a loop around one look at
//! who might have to move.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use gaffer_domain::moves::{Move, Tenant, UnderWay, Why, leave, rebalance};
use gaffer_domain::placement::{Requirements, Strategy, WorkerSnapshot};
use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_domain::spec::{Placement, Resources};
use gaffer_domain::task::{Report, TaskEvent};
use gaffer_domain::worker::{Intake, WorkerState};
use gaffer_domain::{JobId, ProjectId, Time, WorkerId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::changes::Changes;
use crate::hub::Hub;
use crate::scheduler::stats::SchedulerStats;
use crate::scheduler::{measured, offer_of};
use crate::store::leaving::Resident;
use crate::store::specs::StoredSpec;
use crate::store::transitions::{Detail, Input};
use crate::store::workers::Worker;
use crate::store::{Store, StoreError};
use crate::write_batcher::WriteBatcherHandle;

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
    /// Takes moves to the database.
    pub write_batcher: WriteBatcherHandle,
    /// Asks for a look.
    pub wake: Arc<Notify>,
    /// Who is to know that a worker has nothing left.
    pub changes: Changes,
    /// How workers are scored where a job does not say.
    pub strategy: Strategy,
    /// Which workers are kept.
    pub scheduler_stats: SchedulerStats,
    /// How long a service's task executes, and a worker is connected, before they count as settled; none if services are
    /// never moved for balance.
    pub settled_after: Option<Duration>,
}

/// Tasks with what they are part of and what they need.
type Known = Vec<(Resident, StoredSpec, Requirements)>;

impl Mover {
    /// Takes a look whenever somebody asks for one, and as often as it takes while something drains or may be moved.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut balanced: Option<Instant> = None;
        let mut failing = false;
        loop {
            let balances = self.balance_interval();
            let is_due = balances.is_some_and(|every| balanced.is_none_or(|at| at.elapsed() >= every));
            let wait = match self.move_once(Utc::now(), is_due).await {
                Ok(is_draining) => {
                    failing = false;
                    if is_due {
                        balanced = Some(Instant::now());
                    }
                    if is_draining { Some(DRAIN_INTERVAL) } else { balances }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "a look at who might have to move failed; it is tried again");
                    }
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
        let mut offers = self.offers(&workers, now);
        let mut moves = Vec::new();
        if !drains.is_empty() {
            moves = self.leaving(&drains, &mut offers, now).await?;
        }
        if balances && moves.is_empty() {
            moves = self.balance(&workers, offers, now).await?;
        }
        let name = |id: WorkerId| {
            let worker = workers.iter().find(|worker| worker.id == id);
            worker.map_or_else(|| format!("worker {id}"), |worker| worker.name.clone())
        };
        let inputs: Vec<Input> = moves.iter().map(|one| input(one, name)).collect();
        if !inputs.is_empty() {
            let _ = self.write_batcher.events(inputs).await;
        }
        if !drains.is_empty() && self.store.workers_drained().await? > 0 {
            self.changes.announce(&[]);
        }
        Ok(!drains.is_empty())
    }

    /// What workers have to offer to tasks that move. Those that are kept for somebody take none.
    fn offers(&self, workers: &[Worker], now: Time) -> Vec<WorkerSnapshot> {
        let nothing = Resources { cpu: Cpu::default(), memory: Bytes(0), disk: Bytes(0) };
        let kept = self.scheduler_stats.kept();
        let offer = |worker: &Worker| {
            let mut offer = offer_of(worker, now);
            offer.measured = measured(&self.hub, worker.id, |_| nothing);
            if kept.contains_key(&worker.id) && offer.state == WorkerState::Online {
                offer.state = WorkerState::Cordoned;
            }
            offer
        };
        workers.iter().map(offer).collect()
    }

    async fn leaving(
        &self,
        drains: &BTreeMap<WorkerId, Option<Time>>,
        offers: &mut [WorkerSnapshot],
        now: Time,
    ) -> Result<Vec<Move>, StoreError> {
        let staying = self.known(self.store.tasks_on_draining(MAX_LOOKED_AT).await?).await?;
        let on_their_way = self.known(self.store.tasks_on_their_way(MAX_LOOKED_AT).await?).await?;
        let jobs: Vec<JobId> = staying.iter().map(|(resident, _, _)| resident.definition.job).collect();
        let mut definitions = self.store.definitions_starting(&jobs).await?;
        definitions.extend(on_their_way.iter().map(|(resident, _, _)| resident.definition));
        let unplaced = on_their_way.iter().map(|(resident, _, needs)| (resident.project, needs)).collect();
        let tenants: Vec<Tenant<'_>> = staying.iter().filter_map(tenant).collect();
        Ok(leave(&tenants, drains, &UnderWay { definitions, unplaced }, offers, now))
    }

    /// One task of each project in which nothing is on the move.
    async fn balance(
        &self,
        workers: &[Worker],
        offers: Vec<WorkerSnapshot>,
        now: Time,
    ) -> Result<Vec<Move>, StoreError> {
        let Some(settled_after) = self.settled_after else { return Ok(Vec::new()) };
        let before = now - TimeDelta::from_std(settled_after).unwrap_or_default();
        let is_settled = |worker: &&Worker| worker.online_since.is_some_and(|since| since <= before);
        let settled: BTreeSet<WorkerId> = workers.iter().filter(is_settled).map(|worker| worker.id).collect();
        let unsettled = self.store.projects_unsettled().await?;
        let known = self.known(self.store.tasks_of_services(MAX_LOOKED_AT).await?).await?;
        let mut by_project: BTreeMap<ProjectId, (Vec<Tenant<'_>>, Vec<WorkerSnapshot>)> = BTreeMap::new();
        for tenant in known.iter().filter_map(tenant).filter(|tenant| !unsettled.contains(&tenant.project)) {
            by_project.entry(tenant.project).or_default().0.push(tenant);
        }
        for offer in offers {
            if let Some((_, offers)) = by_project.get_mut(&offer.project) {
                offers.push(offer);
            }
        }
        let mut moves = Vec::new();
        for (tenants, mut offers) in by_project.into_values() {
            moves.extend(rebalance(&tenants, &settled, &mut offers, self.strategy, before));
            // Each task was placed anew once: others may want the thread.
            tokio::task::yield_now().await;
        }
        Ok(moves)
    }

    async fn known(&self, residents: Vec<Resident>) -> Result<Known, StoreError> {
        let mut jobs: Vec<JobId> = residents.iter().map(|resident| resident.definition.job).collect();
        jobs.sort_unstable();
        jobs.dedup();
        if jobs.is_empty() {
            return Ok(Known::new());
        }
        let specs = self.store.specs(&jobs).await?;
        let known = |resident: Resident| {
            // What could not be started again elsewhere stays where it is.
            let spec = specs.get(&resident.definition.job).filter(|spec| spec.problem().is_none())?;
            let definition = spec.tasks.get(usize::from(resident.definition.position))?;
            let needs = Requirements::of(spec, definition, resident.definition);
            Some((resident, spec.clone(), needs))
        };
        Ok(residents.into_iter().filter_map(known).collect())
    }
}

fn tenant((resident, spec, needs): &(Resident, StoredSpec, Requirements)) -> Option<Tenant<'_>> {
    let Placement { on_drain, rebalance: may_rebalance, .. } = spec.placement.unwrap_or_default();
    let Resident { task, attempt, definition, project, worker, since } = *resident;
    let (kind, worker) = (spec.kind, worker?);
    Some(Tenant { task, attempt, definition, project, worker, since, needs, kind, on_drain, may_rebalance })
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
    let report = Report { worker: one.from, attempt: one.attempt };
    let event = TaskEvent::MoveRequested(report, message);
    Input { task: one.task, event, actor: "gaffer".into(), detail: Detail::None }
}
