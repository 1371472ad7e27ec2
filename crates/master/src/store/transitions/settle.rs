//! Effects of task events on the rest of the job: stops, dependencies, job state.

use std::sync::Arc;

use gaffer_domain::job::{JobState, TaskCounts};
use gaffer_domain::reason::{Reason, ReasonCode};
use gaffer_domain::task::{AfterStop, StateName, StopCause, TaskEvent};
use gaffer_domain::{JobId, TaskId, Time};

use super::super::StoreError;
use super::super::event_rows::EventRow;
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
        if job.state.is_final() {
            return StopResult::Over(job.state);
        }
        let message = StopCause::by(&stop.actor).message;
        job.stop_message.get_or_insert(message);
        job.dirty = true;
        self.stop_tasks(stop.job, &stop.actor, now);
        StopResult::Stopping
    }

    /// Continues a stop or dependency updates; the latter run for every dirty job.
    pub(super) fn continue_job(&mut self, job: JobId, now: Time) {
        // The slice before may have been the last one: it was as full as a slice gets.
        let Some(work) = self.jobs.get_mut(&job).filter(|work| !work.state.is_final()) else { return };
        work.dirty = true;
        if work.stop_message.is_some() {
            self.stop_tasks(job, &"gaffer".into(), now);
        }
    }

    /// Asks the tasks of a job to end that were loaded for that.
    fn stop_tasks(&mut self, job: JobId, actor: &Arc<str>, now: Time) {
        let Some(message) = self.jobs.get(&job).and_then(|job| job.stop_message.clone()) else { return };
        let mut tasks: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, work)| work.job == job && work.task.state.can_be_stopped())
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

    /// Unblocks or cancels tasks whose dependencies were decided by this batch, and their dependants. What exceeds
    /// the batch is left to further ones.
    pub(super) async fn settle_dependencies(
        &mut self,
        tx: &mut sqlx::PgConnection,
        now: Time,
    ) -> Result<(), StoreError> {
        loop {
            let decided = self.decided_dependencies();
            if decided.is_empty() {
                return Ok(());
            }
            for (job, position, event) in decided {
                let blocked = self.load_blocked(tx, job, position).await?;
                if blocked.is_empty() && !self.unfinished.contains(&job) {
                    // The counts say otherwise; nothing would come of looking again.
                    self.miscounted.insert((job, position));
                }
                for task in blocked {
                    let input = Input {
                        task,
                        event: event.clone(),
                        actor: "dependencies".into(),
                        detail: Detail::None,
                    };
                    let _ = self.apply(&input, now);
                }
            }
        }
    }

    fn decided_dependencies(&self) -> Vec<(JobId, usize, TaskEvent)> {
        let mut decided = Vec::new();
        for (id, job) in self.jobs.iter().filter(|(_, job)| job.dirty) {
            // One that is stopped has its blocked tasks cancelled with all others.
            if self.unfinished.contains(id) || job.stop_message.is_some() {
                continue;
            }
            for (position, definition) in job.spec.tasks.iter().enumerate() {
                let is_settled = definition.depends_on.is_empty()
                    || job.counts(position).get(StateName::Blocked) == 0
                    || self.miscounted.contains(&(*id, position));
                if is_settled {
                    continue;
                }
                let needed = definition
                    .depends_on
                    .iter()
                    .filter_map(|name| job.spec.tasks.iter().position(|task| task.name == *name));
                let mut all_met = true;
                let mut broken = None;
                for position in needed {
                    let counts = job.counts(position);
                    all_met &= counts.get(StateName::Completed) == counts.total();
                    if counts.get(StateName::Failed) + counts.get(StateName::Cancelled) > 0 {
                        broken.get_or_insert(job.spec.tasks[position].name.clone());
                    }
                }
                match broken {
                    Some(dependency) => {
                        decided.push((*id, position, TaskEvent::DependencyFailed { dependency }));
                    }
                    None if all_met => decided.push((*id, position, TaskEvent::DependenciesMet)),
                    None => {}
                }
            }
        }
        decided
    }

    /// Derives the state of each touched job from its tasks.
    pub(super) fn settle_jobs(&mut self, now: Time) {
        for (id, job) in self.jobs.iter_mut().filter(|(_, job)| job.dirty) {
            let mut counts = TaskCounts::default();
            for position in 0..job.definitions.len() {
                counts.merge(&job.counts(position));
            }
            let state = JobState::of(&counts, job.started_at.is_some(), job.stop_message.is_some());
            if state == job.state {
                continue;
            }
            job.state = state;
            if state.is_final() {
                job.finished_at = Some(now);
            }
            if state == JobState::Cancelled && job.reason.is_none() {
                let message =
                    job.stop_message.clone().unwrap_or_else(|| "no task failed, some were cancelled".into());
                job.reason = Some(Reason { code: ReasonCode::Stopped, message });
            }
            self.events.push(EventRow {
                project: job.project,
                kind: format!("job.{state}"),
                job: *id,
                era: job.era,
                task: None,
                attempt: None,
                worker: None,
                actor: "gaffer".into(),
                message: match (&job.reason, &job.stop_message) {
                    (Some(reason), _) if state.is_final() => reason.message.clone(),
                    (_, Some(stop)) if state == JobState::Stopping => stop.clone(),
                    _ => String::new(),
                },
            });
        }
    }
}
