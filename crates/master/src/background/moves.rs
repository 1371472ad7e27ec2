//! Shared by drain and rebalance: finds tasks that could move, and requests moves.

use chrono::{DateTime, Utc};
use gaffer_domain::moves::{Move, Tenant, Why};
use gaffer_domain::placement::{Requirements, WorkerSnapshot};
use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_domain::spec::{Placement, Resources};
use gaffer_domain::task::{Report, TaskEvent};
use gaffer_domain::worker::WorkerState;
use gaffer_domain::{JobId, WorkerId};

use super::scheduler::candidates::{measured, worker_snapshot};
use super::scheduler::reservations::Reservations;
use crate::hub::Hub;
use crate::records::Worker;
use crate::store::leaving::Resident;
use crate::store::specs::StoredSpec;
use crate::store::transitions::{Detail, Input};
use crate::store::{Store, StoreError};
use crate::write_batcher::WriteBatcherHandle;

/// Number of tasks examined together.
pub const MAX_LOOKED_AT: u32 = 10_000;

/// Reads what could move, and moves it.
#[derive(Debug, Clone)]
pub struct Moves {
    /// Where tasks and workers are read.
    pub store: Store,
    /// How the workers' machines do.
    pub hub: Hub,
    /// Takes moves to the database.
    pub write_batcher: WriteBatcherHandle,
    pub reservations: Reservations,
}

/// Tasks with what they are part of and what they need.
pub type Known = Vec<(Resident, StoredSpec, Requirements)>;

impl Moves {
    /// Worker snapshots for moving tasks. Reserved workers accept none.
    pub fn offers(&self, workers: &[Worker], now: DateTime<Utc>) -> Vec<WorkerSnapshot> {
        let nothing = Resources { cpu: Cpu::default(), memory: Bytes(0), disk: Bytes(0) };
        let reserved = self.reservations.get();
        let offer = |worker: &Worker| {
            let mut offer = worker_snapshot(worker, now);
            offer.measured = measured(&self.hub, worker.id, |_| nothing);
            if reserved.contains_key(&worker.id) && offer.state == WorkerState::Online {
                offer.state = WorkerState::Cordoned;
            }
            offer
        };
        workers.iter().map(offer).collect()
    }

    /// Adds specifications and requirements.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn known(&self, residents: Vec<Resident>) -> Result<Known, StoreError> {
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

    /// Requests moves of these tasks; refused ones are found again in the next pass. Returns the number of requests.
    pub async fn request(&self, moves: &[Move], workers: &[Worker]) -> u64 {
        let name = |id: WorkerId| {
            let worker = workers.iter().find(|worker| worker.id == id);
            worker.map_or_else(|| format!("worker {id}"), |worker| worker.name.clone())
        };
        let inputs: Vec<Input> = moves.iter().map(|one| input(one, name)).collect();
        if inputs.is_empty() {
            return 0;
        }
        let results = self.write_batcher.events(inputs).await.unwrap_or_default();
        results.iter().filter(|result| result.is_ok()).count() as u64
    }
}

/// A task that could move, as the domain looks at it; none if it has no worker.
pub fn tenant((resident, spec, needs): &(Resident, StoredSpec, Requirements)) -> Option<Tenant<'_>> {
    let Placement { on_drain, rebalance: may_rebalance, .. } = spec.placement.unwrap_or_default();
    let Resident { task, attempt, definition, project, worker, since } = *resident;
    let (kind, worker) = (spec.kind, worker?);
    Some(Tenant { task, attempt, definition, project, worker, since, needs, kind, on_drain, may_rebalance })
}

fn input(one: &Move, name: impl Fn(WorkerId) -> String) -> Input {
    let from = name(one.from);
    let message = match &one.why {
        Why::Drains => format!("moved from {from}, which is draining"),
        Why::Deadline => format!("moved from {from}: its drain deadline passed"),
        Why::Gain { to, gain } => {
            let hundredths = gain * 100.0;
            format!("moved from {from} for balance: {} is better by {hundredths:.0}% of a worker", name(*to))
        }
        Why::Spread { to, here, there } => {
            format!("moved from {from} to even out the spread: {here} tasks there, {there} at {}", name(*to))
        }
    };
    let report = Report { worker: one.from, attempt: one.attempt };
    let event = TaskEvent::MoveRequested(report, message);
    Input { task: one.task, event, actor: "gaffer".into(), detail: Detail::None }
}
