//! Moves services to much better workers, one task per project at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use gaffer_domain::moves::{Move, Tenant, rebalance};
use gaffer_domain::placement::{Strategy, WorkerSnapshot};
use gaffer_domain::{ProjectId, Time, WorkerId};

use super::driver::{Background, Ran};
use super::moves::{MAX_LOOKED_AT, Moves, tenant};
use crate::records::Worker;
use crate::store::StoreError;

/// How often services are looked at, at most and at least, and how many times while one settles.
const LONGEST_INTERVAL: Duration = Duration::from_secs(30);
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const LOOKS_WHILE_SETTLING: u32 = 10;

#[derive(Debug)]
pub struct Rebalance {
    pub moves: Moves,
    /// How workers are scored where a job does not say.
    pub strategy: Strategy,
    /// How long a service's task executes, and a worker is connected, before they count as settled.
    pub settled_after: Duration,
}

impl Background for Rebalance {
    const NAME: &'static str = "rebalance";
    const DESCRIPTION: &'static str = "moves services to better workers (GAFFER_REBALANCE)";

    fn period(&self) -> Duration {
        (self.settled_after / LOOKS_WHILE_SETTLING).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL)
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let now = Utc::now();
        let workers = self.moves.store.worker_list(None).await?;
        let offers = self.moves.offers(&workers, now);
        let moves = self.balance(&workers, offers, now).await?;
        Ok(Ran { done: self.moves.request(&moves, &workers).await, again_after: None })
    }
}

impl Rebalance {
    /// One task of each project in which nothing is on the move.
    async fn balance(
        &self,
        workers: &[Worker],
        offers: Vec<WorkerSnapshot>,
        now: Time,
    ) -> Result<Vec<Move>, StoreError> {
        let store = &self.moves.store;
        let before = now - TimeDelta::from_std(self.settled_after).unwrap_or_default();
        let is_settled = |worker: &&Worker| worker.online_since.is_some_and(|since| since <= before);
        let settled: BTreeSet<WorkerId> = workers.iter().filter(is_settled).map(|worker| worker.id).collect();
        let unsettled = store.projects_unsettled().await?;
        let known = self.moves.known(store.tasks_of_services(MAX_LOOKED_AT).await?).await?;
        let mut by_project: BTreeMap<ProjectId, (Vec<Tenant<'_>>, Vec<WorkerSnapshot>)> = BTreeMap::new();
        for tenant in known.iter().filter_map(tenant).filter(|tenant| !unsettled.contains(&tenant.project)) {
            by_project.entry(tenant.project).or_default().0.push(tenant);
        }
        for (project, (_, usable)) in &mut by_project {
            usable.extend(offers.iter().filter(|offer| offer.is_for(*project)).cloned());
        }
        let mut moves = Vec::new();
        for (tenants, mut offers) in by_project.into_values() {
            moves.extend(rebalance(&tenants, &settled, &mut offers, self.strategy, before));
            // Each task was placed anew once, so yield the thread.
            tokio::task::yield_now().await;
        }
        Ok(moves)
    }
}
