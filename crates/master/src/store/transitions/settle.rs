//! Effects of task events on the rest of the job: stops, dependencies, job state.

use std::sync::Arc;

use gaffer_domain::conditions::{self, Standing, Verdict};
use gaffer_domain::job::{JobState, TaskCounts};
use gaffer_domain::reason::{Reason, ReasonCode};
use gaffer_domain::task::{AfterStop, StopCause, TaskEvent};
use gaffer_domain::{JobId, TaskId, Time};

use super::super::StoreError;
use super::by_index::Judged;
use super::{Detail, Input, SliceResult, StopJob, StopResult, Work};

impl Work {
    /// Marks a job as to be stopped and asks its unfinished tasks to end, as many of them as were loaded.
    pub(super) fn stop_job(&mut self, stop: &StopJob, now: Time) -> StopResult {
        if self.busy.contains(&stop.job) {
            return StopResult::Busy;
        }
        let Some(job) = self.jobs.get_mut(&stop.job).filter(|job| job.project == stop.project) else {
            return StopResult::Unknown;
        };
        if job.row.state.is_final() {
            return StopResult::Over(job.row.state);
        }
        let message = StopCause::by(&stop.actor).message;
        job.row.stop_message.get_or_insert(message);
        job.row.force |= stop.force;
        job.dirty = true;
        self.stop_tasks(stop.job, &stop.actor, now);
        StopResult::Stopping
    }

    /// Continues a stop or dependency updates; the latter run for every dirty job.
    pub(super) fn continue_job(&mut self, job: JobId, now: Time) {
        let Some(work) = self.jobs.get_mut(&job) else { return };
        work.dirty = true;
        if work.row.stop_message.is_some() {
            self.stop_tasks(job, &"gaffer".into(), now);
        }
    }

    /// Asks the tasks of a job to end that were loaded for that.
    fn stop_tasks(&mut self, job: JobId, actor: &Arc<str>, now: Time) {
        let Some(stopped) = self.jobs.get(&job) else { return };
        let Some(message) = stopped.row.stop_message.clone() else { return };
        let mut tasks: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, work)| work.job == job && work.task.state.can_be_stopped())
            .filter(|(_, work)| stopped.is_to_stop(work.position))
            .map(|(id, _)| *id)
            .collect();
        tasks.sort_unstable();
        for task in tasks {
            let cause = StopCause { message: message.clone(), then: AfterStop::Cancel };
            let event = TaskEvent::StopRequested(cause);
            let _ = self.apply_one(&Input { task, event, actor: actor.clone(), detail: Detail::None }, now);
        }
    }

    pub(super) fn slice_result(&self, job: JobId) -> SliceResult {
        if self.busy.contains(&job) {
            return SliceResult::Busy;
        }
        match self.unfinished.contains(&job) {
            true => SliceResult::More(self.slices.get(&job).copied().flatten()),
            false => SliceResult::Done,
        }
    }

    /// Does what follows for tasks from what this batch has made of others of their job, and what follows from that. What
    /// exceeds the batch is left to further ones.
    pub(super) async fn settle_dependencies(
        &mut self,
        tx: &mut sqlx::PgConnection,
        now: Time,
    ) -> Result<(), StoreError> {
        loop {
            let mut judged = Vec::new();
            let mut is_decided = true;
            for (job, position, verdict) in self.decided() {
                if let Verdict::EachByIndex(others) = verdict {
                    judged.push(Judged { job, position, others });
                    continue;
                }
                is_decided = false;
                let (event, actor, found) = match verdict {
                    Verdict::EachByIndex(_) => continue,
                    Verdict::Release => (
                        TaskEvent::DependenciesMet,
                        "dependencies",
                        self.load_blocked(tx, job, position).await?,
                    ),
                    Verdict::CannotRun(reason) => (
                        TaskEvent::CannotRun(reason),
                        "dependencies",
                        self.load_blocked(tx, job, position).await?,
                    ),
                    Verdict::Stop(cause) => {
                        let found = self.load_unended(tx, job, position).await?;
                        (TaskEvent::StopRequested(cause), "gaffer", found)
                    }
                };
                if found.is_empty() && !self.unfinished.contains(&job) {
                    // The counts say otherwise; nothing would come of looking again.
                    self.miscounted.insert((job, position));
                }
                for task in found {
                    let (event, actor) = (event.clone(), actor.into());
                    let _ = self.apply(&Input { task, event, actor, detail: Detail::None }, now);
                }
            }
            if is_decided && !self.settle_by_index(tx, judged, now).await? {
                return Ok(());
            }
        }
    }

    /// What is to be done about the definitions of the touched jobs.
    pub(super) fn decided(&self) -> Vec<(JobId, usize, Verdict)> {
        let decided = self.jobs.iter().filter(|(_, job)| job.dirty).flat_map(|(id, job)| {
            let standings: Vec<Standing> =
                (0..job.definitions.len()).map(|position| job.standing(position)).collect();
            let verdicts = conditions::decide(&job.spec, &standings, job.stop_scope());
            verdicts.into_iter().map(|(position, verdict)| (*id, position, verdict))
        });
        // What exceeds the batch is left to further slices; but these do not know what has ended in this one.
        let is_left = |id: &JobId, verdict: &Verdict| {
            self.unfinished.contains(id) && !matches!(verdict, Verdict::EachByIndex(_))
        };
        decided
            .filter(|(id, position, verdict)| {
                !self.miscounted.contains(&(*id, *position)) && !is_left(id, verdict)
            })
            .collect()
    }

    /// Derives the state of each touched job from its tasks.
    pub(super) fn settle_jobs(&mut self, now: Time) {
        let mut told = Vec::new();
        for (id, job) in self.jobs.iter_mut().filter(|(_, job)| job.dirty) {
            let (mut counts, mut skipped) = (TaskCounts::default(), 0);
            for position in 0..job.definitions.len() {
                let standing = job.standing(position);
                counts.merge(&standing.counts);
                skipped += standing.skipped;
            }
            let (started, stopping) = (job.row.started_at.is_some(), job.row.stop_message.is_some());
            let state = match job.is_idle(&counts, skipped) {
                true => JobState::of_idle(&counts, started, stopping),
                false => JobState::of(&counts, skipped, started, stopping),
            };
            if state == job.row.state {
                continue;
            }
            job.row.state = state;
            if state.is_final() {
                job.finished_at = Some(now);
            }
            if state == JobState::Cancelled && job.row.reason.is_none() {
                let message = job
                    .row
                    .stop_message
                    .clone()
                    .unwrap_or_else(|| "no task failed, some were cancelled".into());
                job.row.reason = Some(Reason { code: ReasonCode::Stopped, message });
            }
            let message = match (&job.row.reason, &job.row.stop_message) {
                (Some(reason), _) if state.is_final() => reason.message.clone(),
                (_, Some(stop)) if state == JobState::Stopping => stop.clone(),
                _ => String::new(),
            };
            told.push((*id, format!("job.{state}"), message));
        }
        for (id, kind, message) in told {
            self.tell_job(id, &kind, "gaffer".into(), message);
        }
    }
}
