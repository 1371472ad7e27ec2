//! Carries out rolling updates of services, step by step as [`rollout::next`] decides.

use std::time::Duration;

use chrono::Utc;
use gaffer_domain::Time;
use gaffer_domain::quantity::Span;
use gaffer_domain::rollout::{self, Condition, Instance, Next, Rollout};
use gaffer_domain::spec::Update;
use gaffer_domain::task::StateName;

use super::driver::{Background, Ran};
use crate::health::Healths;
use crate::large_jobs::LargeJobs;
use crate::store::specs::StoredSpec;
use crate::store::transitions::{UpdateAction, UpdateStep};
use crate::store::versions::{InstanceRow, NewVersion, Updated, Updating, VersionSource};
use crate::store::{Store, StoreError};
use crate::wakes::Wake;
use crate::write_batcher::WriteBatcherHandle;

/// How often instances are looked at while there is an update.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The loop.
#[derive(Debug)]
pub struct Updates {
    pub store: Store,
    pub write_batcher: WriteBatcherHandle,
    pub healths: Healths,
    pub large_jobs: LargeJobs,
    pub wake: Wake,
    /// Since when this master knows what checks say.
    pub began: Time,
}

impl Background for Updates {
    const NAME: &'static str = "updates";
    const DESCRIPTION: &'static str = "replaces instances of services that are updated";

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn wake(&self) -> Option<Wake> {
        Some(self.wake.clone())
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let updates = self.store.updates().await?;
        let mut done = 0;
        for updating in &updates {
            done += u64::from(self.step(updating).await?);
        }
        Ok(Ran { done, again_after: (!updates.is_empty()).then_some(LOOK_INTERVAL) })
    }
}

impl Updates {
    /// Takes the next step of an update. Returns whether there was one.
    async fn step(&self, updating: &Updating) -> Result<bool, StoreError> {
        let Updating { job, position, version, .. } = *updating;
        let Some(spec) = self.store.spec(job).await?.filter(|spec| spec.problem().is_none()) else {
            return Ok(false);
        };
        let mut update = spec.update.unwrap_or_default();
        if updating.reverts {
            // There is no other version to go to: it is waited for.
            update.healthy_within = Span::MAX;
        }
        let rows = self.store.instances(updating).await?;
        let now = Utc::now();
        let mut instances = Vec::with_capacity(rows.len());
        for row in &rows {
            let of = self.store.spec_of_definition((job, position, row.version)).await?;
            instances.push(self.instance(updating, of.as_ref(), row, now));
        }
        let rollout =
            Rollout { count: updating.count, surge: updating.surge, is_promoted: updating.is_promoted };
        if updating.has_ended && !updating.reverts {
            let problem = format!("an instance of version {version} has ended");
            return self.failed(updating, &update, problem).await;
        }
        let action = match rollout::next(&update, rollout, &instances) {
            Next::Wait | Next::AwaitPromotion => return Ok(false),
            Next::Surge(surge) => UpdateAction::Surge(surge),
            Next::Replace(indices) => UpdateAction::Replace(indices),
            Next::Done => UpdateAction::Finish,
            Next::Failed { index, problem } => {
                let name = spec.tasks.get(position).map_or("?", |task| task.name.as_str());
                let problem = format!("an instance of version {version} {problem}: {name}.{index}");
                return self.failed(updating, &update, problem).await;
            }
        };
        let step = UpdateStep { job, position, version, action };
        Ok(self.write_batcher.update_step(step).await.unwrap_or(false))
    }

    /// Takes the version back, or leaves the update as it is.
    async fn failed(
        &self,
        updating: &Updating,
        update: &Update,
        problem: String,
    ) -> Result<bool, StoreError> {
        let Updating { job, position, version, from, project, reverts, .. } = *updating;
        if update.auto_revert && !reverts && from != version {
            let earlier = self.store.spec_of_version(job, from).await?;
            let present = self.store.spec(job).await?.map(|spec| spec.version());
            if let (Some(earlier), Some(present)) = (earlier, present) {
                let message = format!("back to version {from}, because {problem}");
                let new = NewVersion {
                    project,
                    job,
                    spec: &earlier,
                    source: VersionSource::Version(from),
                    created_by: "gaffer",
                    message: &message,
                    reverts: true,
                    after: Some(present),
                };
                let submission = self.large_jobs.submission();
                let updated = self.store.job_update(&new, Utc::now()).await?;
                submission.told(Some(job));
                if matches!(updated, Updated::Accepted(_) | Updated::Overtaken(_)) {
                    return Ok(true);
                }
            }
        }
        let step = UpdateStep { job, position, version, action: UpdateAction::Halt(problem) };
        Ok(self.write_batcher.update_step(step).await.unwrap_or(false))
    }

    /// An instance, with the specification of its attempt.
    fn instance(
        &self,
        updating: &Updating,
        spec: Option<&StoredSpec>,
        row: &InstanceRow,
        now: Time,
    ) -> Instance {
        let task = spec.and_then(|spec| spec.tasks.get(updating.position));
        let has_checks = task.is_some_and(|task| task.has_checks());
        let since = |at: Time| (now - at).num_milliseconds().max(0).unsigned_abs();
        let (condition, version) = match row.state {
            StateName::Blocked | StateName::Pending => {
                (Condition::Waiting(since(row.since)), row.wanted_version)
            }
            StateName::Running => {
                let started = row.started_at.unwrap_or(row.since);
                let available = match has_checks {
                    true => self.healths.available_since(row.attempt),
                    false => Some(started),
                };
                let condition = match available {
                    Some(at) => Condition::Available(since(at)),
                    // What an earlier master knew of its checks is not known here yet.
                    None => Condition::Starting(since(started.max(self.began))),
                };
                (condition, row.version)
            }
            StateName::Stopping => (Condition::Ending, row.version),
            _ => (Condition::Starting(since(row.since.max(self.began))), row.version),
        };
        let is_new = version == updating.version;
        let has_failed = row.has_failed && !updating.reverts;
        Instance { index: row.index, is_new, condition, has_failed }
    }
}
