//! Moves tasks away from draining workers, and records which of these are empty.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;
use gaffer_domain::moves::{Move, Tenant, UnderWay, leave};
use gaffer_domain::placement::WorkerSnapshot;
use gaffer_domain::worker::Intake;
use gaffer_domain::{JobId, Time, WorkerId};

use super::driver::{Background, Ran};
use super::moves::{MAX_LOOKED_AT, Moves, tenant};
use crate::changes::Changes;
use crate::store::StoreError;
use crate::wakes::Wake;

/// Period while a worker drains; free room elsewhere is polled.
const DRAIN_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Drain {
    pub moves: Moves,
    /// Who is to know that a worker has nothing left.
    pub changes: Changes,
    /// Signals draining workers.
    pub wake: Wake,
}

impl Background for Drain {
    const NAME: &'static str = "drain";
    const DESCRIPTION: &'static str = "moves tasks away from draining workers";

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn wake(&self) -> Option<Wake> {
        Some(self.wake.clone())
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let look = self.drain_once(Utc::now()).await?;
        Ok(Ran { done: look.moved, again_after: look.is_draining.then_some(DRAIN_INTERVAL) })
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// Number of requested moves.
    pub moved: u64,
    /// Something drains and is not through with it.
    pub is_draining: bool,
}

impl Drain {
    /// One pass: requests moves of tasks on draining workers.
    ///
    /// # Errors
    /// When the database does not answer; nothing moves then, or it shows in the next look.
    pub async fn drain_once(&self, now: Time) -> Result<Look, StoreError> {
        let store = &self.moves.store;
        let workers = store.worker_list(None).await?;
        let drains: BTreeMap<WorkerId, Option<Time>> = workers
            .iter()
            .filter(|worker| worker.intake == Intake::Draining && worker.drained_at.is_none())
            .map(|worker| (worker.id, worker.drain_until))
            .collect();
        if drains.is_empty() {
            return Ok(Look::default());
        }
        let mut offers = self.moves.offers(&workers, now);
        let leaving = self.leaving(&drains, &mut offers, now).await?;
        let moved = self.moves.request(&leaving, &workers).await;
        if store.workers_drained().await? > 0 {
            self.changes.announce(&[]);
        }
        Ok(Look { moved, is_draining: true })
    }

    async fn leaving(
        &self,
        drains: &BTreeMap<WorkerId, Option<Time>>,
        offers: &mut [WorkerSnapshot],
        now: Time,
    ) -> Result<Vec<Move>, StoreError> {
        let store = &self.moves.store;
        let staying = self.moves.known(store.tasks_on_draining(MAX_LOOKED_AT).await?).await?;
        let on_their_way = self.moves.known(store.tasks_on_their_way(MAX_LOOKED_AT).await?).await?;
        let jobs: Vec<JobId> = staying.iter().map(|(resident, _, _)| resident.definition.job).collect();
        let mut definitions = store.definitions_starting(&jobs).await?;
        definitions.extend(on_their_way.iter().map(|(resident, _, _)| resident.definition));
        let unplaced = on_their_way.iter().map(|(resident, _, needs)| (resident.project, needs)).collect();
        let tenants: Vec<Tenant<'_>> = staying.iter().filter_map(tenant).collect();
        Ok(leave(&tenants, drains, &UnderWay { definitions, unplaced }, offers, now))
    }
}
