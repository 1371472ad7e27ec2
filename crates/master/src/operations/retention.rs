//! Retention: pin and unpin jobs, see what is going to expire.

use gaffer_domain::permissions::Action;
use gaffer_domain::retention::{EraRest, Finished, Retention};
use gaffer_domain::{JobId, Time};
use serde_json::json;

use super::context::Effects;
use super::jobs;
use super::{Actor, Context, OperationError, no_job};
use crate::records::Job;
use crate::store::retention::{JobGroup, StoredEra};

/// Keeps a job whatever its retention is, or ends that. Returns the job.
///
/// # Errors
/// When there is no such job.
pub async fn pin(context: &Context, actor: &Actor, job: JobId, pinned: bool) -> Result<Job, OperationError> {
    let mut change = context.change(actor, Action::PinJob, &format!("job {job}")).await?;
    change.after(json!({ "pinned": pinned }));
    let changed = set_pin(change.effects, actor, job, pinned).await;
    change.end(changed).await
}

async fn set_pin(effects: &Effects, actor: &Actor, job: JobId, pinned: bool) -> Result<Job, OperationError> {
    if !effects.writes.job_pin(actor.project, job, pinned, &actor.user).await? {
        return Err(no_job(job));
    }
    effects.changes.announce(&[job]);
    jobs::find(effects, actor, job).await
}

/// What will be removed, as far as a project may see it.
#[derive(Debug, Clone)]
pub struct Preview {
    /// What this server says of jobs that say nothing themselves.
    pub retention: Retention,
    /// Oldest first, after what is kept of earlier ones.
    pub eras: Vec<EraPreview>,
}

/// What will be removed of an era.
#[derive(Debug, Clone, Copy)]
pub struct EraPreview {
    pub record: StoredEra,
    /// Finished jobs that have expired or will.
    pub expiring: Count,
    /// When the first and the last of them expire.
    pub expires: Option<(Time, Time)>,
    pub unfinished: Count,
    pub pinned: Count,
    /// Finished jobs of which nobody says for how long they are kept.
    pub unlimited: Count,
}

/// A number of jobs, and of their tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    pub jobs: i64,
    pub tasks: i64,
}

impl EraPreview {
    fn new(record: StoredEra) -> EraPreview {
        let none = Count::default();
        EraPreview { record, expiring: none, expires: None, unfinished: none, pinned: none, unlimited: none }
    }

    fn add(&mut self, group: &JobGroup, retention: &Retention) {
        let expires = |at| {
            let job = Finished { state: group.state, at, own: &group.own, is_pinned: group.is_pinned };
            retention.expires_at(&job)
        };
        let (first, last) = group.finished.unzip();
        let place = match (group.is_pinned, first.and_then(expires).zip(last.and_then(expires))) {
            (_, Some((from, until))) => {
                let (first, last) = self.expires.unwrap_or((from, until));
                self.expires = Some((first.min(from), last.max(until)));
                &mut self.expiring
            }
            (true, None) => &mut self.pinned,
            (false, None) if group.finished.is_none() => &mut self.unfinished,
            (false, None) => &mut self.unlimited,
        };
        place.jobs += group.jobs;
        place.tasks += group.tasks;
    }

    /// Tasks of jobs that do not expire.
    pub fn kept_tasks(&self) -> i64 {
        self.unfinished.tasks + self.pinned.tasks + self.unlimited.tasks
    }

    /// Whether it is dropped as a whole once all have expired that will.
    pub fn is_dropped(&self) -> bool {
        let rest = EraRest {
            expired_tasks: self.expiring.tasks + self.record.waiting_tasks,
            kept_jobs: self.unfinished.jobs + self.pinned.jobs + self.unlimited.jobs,
            kept_tasks: self.kept_tasks(),
            kept_bytes: 0,
        };
        self.record.number.is_some() && rest.can_go()
    }
}

/// Shows what will be removed, when, and what keeps the rest.
///
/// # Errors
/// When the database does not answer.
pub async fn preview(context: &Context, actor: &Actor) -> Result<Preview, OperationError> {
    let views = context.permit_to_look(actor, Action::LookAtSystem)?;
    let retention = views.status.retention;
    let stored = views.reads.eras_stored().await?;
    let groups = views.reads.jobs_by_retention(actor.project).await?;
    let mut eras: Vec<EraPreview> = stored.into_iter().map(EraPreview::new).collect();
    for group in &groups {
        if let Some(era) = eras.iter_mut().find(|era| era.record.number == group.era) {
            era.add(group, &retention);
        }
    }
    Ok(Preview { retention, eras })
}
