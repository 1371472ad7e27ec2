//! Carries out rolling updates of services, step by step as [`rollout::next`] decides.

use std::collections::HashMap;
use std::time::Duration;

use chrono::Utc;
use gaffer_domain::rollout::{self, Next, Observer, Problem, Rollout};
use gaffer_domain::scale::{self, Instances};
use gaffer_domain::{JobId, Time};
use tokio::task::{AbortHandle, JoinSet};

use super::driver::{Background, Ran};
use crate::changes::Changes;
use crate::health::Healths;
use crate::large_jobs::LargeJobs;
use crate::store::specs::StoredSpec;
use crate::store::transitions::{UpdateAction, UpdateStep};
use crate::store::updates::{InstanceRow, Updating};
use crate::store::versions::{NewVersion, Updated, VersionSource};
use crate::store::{Store, StoreError};
use crate::wakes::Wake;
use crate::write_batcher::WriteBatcherHandle;

/// How often instances are looked at while there is an update that continues by itself.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The loop.
#[derive(Debug)]
pub struct Updates {
    pub store: Store,
    pub write_batcher: WriteBatcherHandle,
    pub healths: Healths,
    pub large_jobs: LargeJobs,
    pub changes: Changes,
    pub wake: Wake,
    /// A system job has another version.
    pub system_jobs: Wake,
    /// Since when this master knows what checks say.
    pub began: Time,
    /// The latest step of each update that this master has taken; else since when it could have.
    pub steps: HashMap<(JobId, usize), LatestStep>,
    pub watches: Watches,
}

/// When an update got further.
#[derive(Debug, Clone, Copy)]
pub struct LatestStep {
    /// Of which version of the job, and whether it was promoted: then it begins anew.
    of: (u32, bool),
    at: Time,
}

/// What a look at an update came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// A step was taken.
    Stepped,
    /// It continues by itself.
    Waits,
    /// It continues when a user says so, or when something happens to the job.
    AwaitsPromotion,
    /// Nothing can be done, because its specification cannot be read.
    Unreadable,
}

/// Wakes the loop when something happens to jobs whose updates wait for a user.
#[derive(Debug, Default)]
pub struct Watches {
    of_jobs: HashMap<JobId, AbortHandle>,
    tasks: JoinSet<()>,
}

impl Watches {
    /// Begins to watch a job. Returns false if it was watched already.
    fn watch(&mut self, job: JobId, changes: &Changes, wake: &Wake) -> bool {
        while self.tasks.try_join_next().is_some() {}
        if self.of_jobs.get(&job).is_some_and(|watch| !watch.is_finished()) {
            return false;
        }
        let (mut changed, wake) = (changes.of_job(job), wake.clone());
        let watch = self.tasks.spawn(async move {
            if changed.changed().await.is_ok() {
                wake.call();
            }
        });
        self.of_jobs.insert(job, watch);
        true
    }

    fn keep(&mut self, is_kept: impl Fn(JobId) -> bool) {
        self.of_jobs.retain(|job, watch| {
            let is_kept = is_kept(*job);
            if !is_kept {
                watch.abort();
            }
            is_kept
        });
    }
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
        let is_updated = |job| updates.iter().any(|updating| updating.job == job);
        self.watches.keep(is_updated);
        self.steps.retain(|(job, _), _| is_updated(*job));
        let (mut done, mut again_after, mut failure) = (0, None, None);
        for updating in &updates {
            match self.look(updating).await {
                Ok(Looked::Unreadable) => {}
                // What has happened since the look is seen by another one.
                Ok(Looked::AwaitsPromotion) => {
                    if self.watches.watch(updating.job, &self.changes, &self.wake) {
                        again_after = Some(LOOK_INTERVAL);
                    }
                }
                Ok(looked) => {
                    done += u64::from(looked == Looked::Stepped);
                    again_after = Some(LOOK_INTERVAL);
                }
                // Updates of other jobs continue.
                Err(error) => {
                    tracing::debug!(job = updating.job.0, %error, "an update could not be continued");
                    failure = failure.or(Some(error));
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(Ran { done, again_after }),
        }
    }
}

impl Updates {
    /// Takes the next step of an update, if there is one.
    async fn look(&mut self, updating: &Updating) -> Result<Looked, StoreError> {
        let Updating { job, position, version, .. } = *updating;
        let Some(spec) = self.store.spec(job).await? else { return Ok(Looked::Waits) };
        let Some(task) = spec.tasks.get(position).filter(|_| spec.problem().is_none()) else {
            return Ok(Looked::Unreadable);
        };
        if spec.version() != updating.job_version {
            // Another version was accepted meanwhile.
            return Ok(Looked::Waits);
        }
        let (update, now) = (spec.update.unwrap_or_default(), Utc::now());
        let instances = Instances::of(task, updating.scaled_to);
        let latest = self.latest_step(updating, now);
        let observer = Observer { version, instances, now, began: self.began };
        let mut judged = Vec::new();
        for InstanceRow { attempt, observed } in self.store.instances(updating).await? {
            let earlier = match observed.version == version {
                true => None,
                false => self.store.spec_of_attempt((job, observed.version)).await?,
            };
            let of = earlier.as_ref().unwrap_or(&spec).tasks.get(position);
            judged.push(observer.judge(&observed, of, self.healths.checks(attempt)));
        }
        let rollout = Rollout {
            count: match task.indices.follow_workers() {
                true => judged.iter().filter(|instance| !instance.is_away).count() as u32,
                false => instances.count,
            },
            surge: updating.surge,
            can_surge: scale::can_scale(&spec, position).is_ok(),
            is_promoted: updating.is_promoted,
            reverts: updating.reverts,
            has_ended: updating.has_ended,
            idle_millis: (now - latest).num_milliseconds().max(0).unsigned_abs(),
        };
        let action = match rollout::next(&update, rollout, &judged) {
            Next::Wait => return Ok(Looked::Waits),
            Next::AwaitPromotion => return Ok(Looked::AwaitsPromotion),
            Next::Surge(surge) => UpdateAction::Surge(surge),
            Next::Replace(indices) => UpdateAction::Replace(indices),
            Next::Done => UpdateAction::Finish,
            Next::Failed(problem) => return self.failed(updating, (&spec, rollout), problem).await,
        };
        let is_taken = self.take(updating, action).await;
        if is_taken {
            self.note_step(updating, Utc::now());
        }
        Ok(if is_taken { Looked::Stepped } else { Looked::Waits })
    }

    async fn take(&self, updating: &Updating, action: UpdateAction) -> bool {
        let Updating { job, position, version, .. } = *updating;
        let step = UpdateStep { job, position, version, action };
        self.write_batcher.update_step(step).await.unwrap_or(false)
    }

    /// Since when an update could have got further.
    fn latest_step(&mut self, updating: &Updating, now: Time) -> Time {
        let of = (updating.job_version, updating.is_promoted);
        let known = self.steps.get(&(updating.job, updating.position));
        match known {
            Some(latest) if latest.of == of => latest.at,
            Some(_) => self.note_step(updating, now),
            None => self.note_step(updating, updating.since.max(self.began)),
        }
    }

    fn note_step(&mut self, updating: &Updating, at: Time) -> Time {
        let of = (updating.job_version, updating.is_promoted);
        self.steps.insert((updating.job, updating.position), LatestStep { of, at });
        at
    }

    /// Takes the version back, or leaves the update as it is.
    async fn failed(
        &self,
        updating: &Updating,
        (spec, rollout): (&StoredSpec, Rollout),
        problem: Problem,
    ) -> Result<Looked, StoreError> {
        let Updating { job, position, version, from, project, job_version, .. } = *updating;
        let Some(task) = spec.tasks.get(position) else { return Ok(Looked::Unreadable) };
        let mut message = problem.message(version, task);
        if rollout::is_undone(&spec.update.unwrap_or_default(), rollout, (from, version)) {
            let why_not = match self.store.spec_of_version(job, from).await? {
                None => format!("version {from} is not kept"),
                Some(earlier) => {
                    let new = NewVersion {
                        project,
                        job,
                        spec: &earlier,
                        source: VersionSource::Version(from),
                        created_by: "gaffer",
                        message: &format!("back to version {from}, because {message}"),
                        goes_back_to: Some(from),
                        reverts: true,
                        after: Some(job_version),
                        idempotency: None,
                    };
                    let submission = self.large_jobs.submission();
                    let updated = self.store.job_update(&new, Utc::now()).await?;
                    submission.told(Some(job));
                    match updated {
                        Updated::Accepted(_) => {
                            self.system_jobs.call();
                            self.changes.announce(&[job]);
                            return Ok(Looked::Stepped);
                        }
                        Updated::Refused(why) => why.to_string(),
                        Updated::Unchanged(_) => format!("version {from} is the same"),
                        // It is another update now, or none.
                        _ => return Ok(Looked::Waits),
                    }
                }
            };
            message = format!("{message}; it cannot be taken back: {why_not}");
        }
        let is_halted = self.take(updating, UpdateAction::Halt(message)).await;
        Ok(if is_halted { Looked::Stepped } else { Looked::Waits })
    }
}
