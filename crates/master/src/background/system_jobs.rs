//! Keeps one instance of each system job on every worker that matches, as [`system_jobs::decide`] says.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use chrono::Utc;
use gaffer_domain::placement::{DefinitionRef, Requirements, WorkerSnapshot};
use gaffer_domain::system_jobs::{self, Plan};
use gaffer_domain::{ProjectId, WorkerId};

use super::driver::{Background, Ran};
use super::scheduler::candidates::expected_worker;
use crate::store::system_jobs::SystemDefinition;
use crate::store::transitions::{InstanceChanges, UpdateAction, UpdateStep};
use crate::store::{Store, StoreError};
use crate::wakes::Wake;
use crate::write_batcher::WriteBatcherHandle;

/// The most instances of a definition that change together.
const MAX_CHANGES: usize = 500;
/// What could not be done is tried again after this time.
const REFUSED_WAIT: Duration = Duration::from_millis(500);
/// After a look it rests for so many times its duration: workers that connect one by one are looked at together.
const REST: u32 = 9;

/// The loop.
#[derive(Debug)]
pub struct SystemJobs {
    store: Store,
    write_batcher: WriteBatcherHandle,
    /// There is another system job, or a worker matches others than before.
    wake: Wake,
    /// Until when it rests.
    rests_until: Instant,
}

/// What a look at a definition came to.
#[derive(Debug, Clone, Copy, Default)]
struct Looked {
    /// How many instances were changed.
    changed: u64,
    /// There is more to do.
    has_more: bool,
    /// It could not be done now.
    is_refused: bool,
}

impl SystemJobs {
    /// The loop, before its first look.
    pub fn new(store: Store, write_batcher: WriteBatcherHandle, wake: Wake) -> SystemJobs {
        SystemJobs { store, write_batcher, wake, rests_until: Instant::now() }
    }
}

impl Background for SystemJobs {
    const NAME: &'static str = "system_jobs";
    const DESCRIPTION: &'static str = "starts and stops instances of system jobs as workers come and go";

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn wake(&self) -> Option<Wake> {
        Some(self.wake.clone())
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let began = Instant::now();
        if let Some(rest) = self.rests_until.checked_duration_since(began).filter(|rest| !rest.is_zero()) {
            return Ok(Ran { done: 0, again_after: Some(rest) });
        }
        let mut offers: BTreeMap<ProjectId, Vec<WorkerSnapshot>> = BTreeMap::new();
        let (mut all, mut failure) = (Looked::default(), None);
        for definition in self.store.system_definitions().await? {
            if let Entry::Vacant(place) = offers.entry(definition.project) {
                let (workers, now) = (self.store.worker_rows(Some(definition.project)).await?, Utc::now());
                place.insert(workers.iter().map(|worker| expected_worker(worker, now)).collect());
            }
            match self.look(&definition, &offers[&definition.project]).await {
                Ok(looked) => {
                    all.changed += looked.changed;
                    all.has_more |= looked.has_more;
                    all.is_refused |= looked.is_refused;
                }
                // Those of other jobs follow their workers all the same.
                Err(error) => {
                    tracing::debug!(job = definition.job.0, %error, "a system job could not follow its workers");
                    failure = failure.or(Some(error));
                }
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if !all.has_more {
            self.rests_until = Instant::now() + began.elapsed() * REST;
        }
        let again_after = match all {
            Looked { has_more: true, .. } => Some(Duration::ZERO),
            Looked { is_refused: true, .. } => Some(REFUSED_WAIT),
            _ => None,
        };
        Ok(Ran { done: all.changed, again_after })
    }
}

impl SystemJobs {
    /// Does what is to be done about the instances of a definition, or a part of it.
    async fn look(
        &self,
        definition: &SystemDefinition,
        offers: &[WorkerSnapshot],
    ) -> Result<Looked, StoreError> {
        let SystemDefinition { job, project, position, version, class, total, room } = *definition;
        let Some(spec) = self.store.spec(job).await? else { return Ok(Looked::default()) };
        // What cannot be started stays as it is.
        let task = spec.tasks.get(position).filter(|_| spec.problem().is_none());
        let Some(task) = task else { return Ok(Looked::default()) };
        let place = DefinitionRef { job, position: position as u16 };
        let needs = Requirements::of(&spec, task, place);
        let instances = self.store.system_instances((job, position), version).await?;
        let mut plan = system_jobs::decide(&needs, project, offers, &instances);
        if plan.start.len() as u64 > room {
            let left_out = plan.start.len() as u64 - room;
            tracing::warn!(job = job.0, left_out, "a system job has as many tasks as one job may have");
            plan.start.truncate(room as usize);
        }
        if plan.is_empty() {
            return Ok(Looked::default());
        }
        let has_more = plan.len() > MAX_CHANGES;
        plan.truncate(MAX_CHANGES);
        let changed = plan.len() as u64;
        Ok(match self.carry_out(definition, class, plan).await? {
            true => Looked { changed, has_more, is_refused: false },
            false => {
                tracing::debug!(job = job.0, total, "the instances of a system job have changed meanwhile");
                Looked { is_refused: true, ..Looked::default() }
            }
        })
    }

    async fn carry_out(
        &self,
        definition: &SystemDefinition,
        class: i64,
        plan: Plan,
    ) -> Result<bool, StoreError> {
        let SystemDefinition { job, position, version, total, .. } = *definition;
        if !plan.start.is_empty() {
            let workers: Vec<WorkerId> = plan.start.iter().map(|(worker, _)| *worker).collect();
            self.store.classes_of_workers(job, class, &workers).await?;
        }
        let action = UpdateAction::Instances(InstanceChanges { plan, total });
        let step = UpdateStep { job, position, version, action };
        Ok(self.write_batcher.update_step(step).await.unwrap_or(false))
    }
}
