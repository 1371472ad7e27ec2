//! Workers: list, drain, cordon, resume, remove.

use std::time::Duration;

use chrono::Utc;
use gaffer_domain::permissions::Action;
use gaffer_domain::quantity::Span;
use gaffer_domain::spec::Resources;
use gaffer_domain::worker::{Intake, LONGEST_DRAIN, WorkerState};
use gaffer_domain::{ProjectId, Time, WorkerId};
use gaffer_protocol::wire::MachineStats;
use serde_json::json;

use super::audit::Change;
use super::context::Effects;
use super::{Actor, Context, OperationError};
use crate::background::sampler::Sample;
use crate::records::Worker;
use crate::store::ReadStore;
use crate::store::leaving::Removal;
use crate::views::{Connected, Views};

/// A worker as users see it: its record and its session.
#[derive(Debug, Clone)]
pub struct WorkerView {
    pub worker: Worker,
    /// How it looks from outside.
    pub state: WorkerState,
    /// Whether it belongs to the project that looks.
    pub is_own: bool,
    /// What its operator should know.
    pub warnings: Vec<String>,
    /// When it was last heard of.
    pub last_seen_at: Time,
    /// What its session knows; none if it is not connected.
    pub connected: Option<Connected>,
}

/// A worker that is to have nothing left.
#[derive(Debug, Clone, Copy)]
pub struct Drain<'a> {
    pub worker: &'a str,
    /// After this time, all that it still has moves; without one, batch tasks that do not move may take as long as they do.
    pub deadline: Option<Span>,
}

impl WorkerView {
    /// How a worker is now, as a project sees it. What goes on in the machine of another project stays there.
    pub fn of(views: &Views, project: ProjectId, worker: Worker, now: Time) -> WorkerView {
        let is_own = worker.project == project;
        let mut connected = views.connected(worker.id, now);
        let mut warnings = worker.warnings.clone();
        if !is_own {
            warnings.clear();
            connected =
                connected.map(|Connected { heard_at, .. }| Connected { heard_at, stats: None, clock: None });
        }
        warnings.extend(connected.and_then(|connected| connected.clock).and_then(|clock| clock.warning()));
        let last_seen_at = match (&connected, worker.offline_since) {
            (Some(connected), _) => connected.heard_at,
            // It lies ahead for a few seconds after a master has taken over.
            (None, Some(since)) => since.min(now),
            (None, None) => now,
        };
        WorkerView { state: worker.state(now), is_own, warnings, last_seen_at, connected, worker }
    }

    /// Resources reserved by tasks. Its backlog is not included, because there is no room for it yet.
    pub fn allocated(&self) -> Resources {
        let Worker { reserved, capacity, .. } = &self.worker;
        Resources {
            cpu: reserved.cpu.min(capacity.cpu),
            memory: reserved.memory.min(capacity.memory),
            disk: reserved.disk.min(capacity.disk),
        }
    }

    /// What its machine is doing, if that is known.
    pub fn stats(&self) -> Option<MachineStats> {
        self.connected.and_then(|connected| connected.stats)
    }
}

/// All workers that the actor's project may use, as they are now, or were at most `max_age` ago.
///
/// # Errors
/// When the database does not answer.
pub async fn list(
    views: &Views,
    actor: &Actor,
    max_age: Duration,
) -> Result<Vec<WorkerView>, OperationError> {
    let snapshot = views.snapshots.of(actor.project, max_age).await?;
    let now = Utc::now();
    Ok(snapshot
        .workers
        .iter()
        .map(|worker| WorkerView::of(views, actor.project, worker.clone(), now))
        .collect())
}

/// One worker, by number or name.
///
/// # Errors
/// When there is no such worker.
pub async fn get(views: &Views, actor: &Actor, worker: &str) -> Result<WorkerView, OperationError> {
    Ok(WorkerView::of(views, actor.project, find(&views.reads, actor, worker).await?, Utc::now()))
}

/// Checks that the worker that is to be directed is the actor's, so that nothing about others is revealed.
///
/// # Errors
/// When there is no such worker.
pub async fn must_exist(context: &Context, actor: &Actor, worker: &str) -> Result<(), OperationError> {
    find_own(&context.permit(actor, Action::DirectWorker)?.writes, actor, worker).await.map(drop)
}

/// Drains: no new tasks; its tasks finish or move.
///
/// # Errors
/// When there is no such worker, or the deadline is too far away.
pub async fn drain(
    context: &Context,
    actor: &Actor,
    wanted: Drain<'_>,
) -> Result<WorkerView, OperationError> {
    let Drain { worker, deadline } = wanted;
    if let Some(longest) = deadline.filter(|deadline| *deadline > LONGEST_DRAIN) {
        let detail = format!("the drain deadline is at most {LONGEST_DRAIN}, not {longest}");
        return Err(OperationError::Invalid { code: "invalid_body", detail, field: None });
    }
    direct(context, actor, worker, Intake::Draining, deadline).await
}

/// Cordons: no new tasks; running tasks continue.
///
/// # Errors
/// When there is no such worker.
pub async fn cordon(context: &Context, actor: &Actor, worker: &str) -> Result<WorkerView, OperationError> {
    direct(context, actor, worker, Intake::Cordoned, None).await
}

/// Resumes: accepts new tasks again.
///
/// # Errors
/// When there is no such worker.
pub async fn resume(context: &Context, actor: &Actor, worker: &str) -> Result<WorkerView, OperationError> {
    direct(context, actor, worker, Intake::Open, None).await
}

async fn direct(
    context: &Context,
    actor: &Actor,
    worker: &str,
    intake: Intake,
    deadline: Option<Span>,
) -> Result<WorkerView, OperationError> {
    let mut change = context.change(actor, Action::DirectWorker, &format!("worker {worker}")).await?;
    change.after(
        json!({ "intake": intake.as_str(), "deadline": deadline.map(|deadline| deadline.to_string()) }),
    );
    let directed = set_intake(&mut change, actor, worker, intake, deadline).await;
    let worker = change.end(directed).await?;
    let views = context.permit_to_look(actor, Action::DirectWorker)?;
    Ok(WorkerView::of(views, actor.project, worker, Utc::now()))
}

async fn set_intake(
    change: &mut Change<'_>,
    actor: &Actor,
    worker: &str,
    intake: Intake,
    deadline: Option<Span>,
) -> Result<Worker, OperationError> {
    let effects = change.effects;
    let found = find_own(&effects.writes, actor, worker).await?;
    change.before(json!({ "intake": found.intake.as_str() }));
    let worker = found.id;
    let deadline = deadline.map(|deadline| deadline.to_std().as_secs_f64());
    effects.writes.worker_intake(actor.project, worker, intake, deadline, &actor.user).await?;
    effects.changes.announce(&[]);
    effects.wakes.scheduler.call();
    effects.wakes.drain.call();
    effects.wakes.system_jobs.call();
    find(&effects.writes, actor, &worker.to_string()).await
}

/// Removes a disconnected worker without attempts.
///
/// # Errors
/// When there is no such worker, or it would be back at once, or has something left.
pub async fn remove(context: &Context, actor: &Actor, worker: &str) -> Result<(), OperationError> {
    let change = context.change(actor, Action::RemoveWorker, &format!("worker {worker}")).await?;
    let removed = remove_found(change.effects, actor, worker).await;
    change.end(removed).await
}

async fn remove_found(effects: &Effects, actor: &Actor, worker: &str) -> Result<(), OperationError> {
    let worker = find_own(&effects.writes, actor, worker).await?;
    let name = &worker.name;
    let detail = match effects.writes.worker_remove(actor.project, worker.id, &actor.user).await? {
        Removal::Removed => {
            effects.changes.announce(&[]);
            effects.wakes.removed_workers.call();
            effects.wakes.system_jobs.call();
            return Ok(());
        }
        Removal::Connected => format!("{name} is connected: stop the worker first"),
        Removal::Busy => format!("{name} has live attempts: wait until they end or are lost"),
    };
    Err(OperationError::Conflict { detail, state: worker.state(Utc::now()).as_str() })
}

/// The number of a worker that the actor may see.
///
/// # Errors
/// When there is no such worker.
pub async fn number(views: &Views, actor: &Actor, worker: &str) -> Result<WorkerId, OperationError> {
    Ok(find(&views.reads, actor, worker).await?.id)
}

/// The same for what has happened on a worker: one that was removed is known by its number.
///
/// # Errors
/// When there is no worker of that name.
pub async fn number_ever(views: &Views, actor: &Actor, worker: &str) -> Result<WorkerId, OperationError> {
    match (number(views, actor, worker).await, worker.parse()) {
        (Err(OperationError::NotFound(_)), Ok(removed)) => Ok(removed),
        (found, _) => found,
    }
}

/// What was reserved and used lately on a worker of the actor's project.
///
/// # Errors
/// When there is no such worker, or it belongs to another project.
pub async fn samples(views: &Views, actor: &Actor, worker: &str) -> Result<Vec<Sample>, OperationError> {
    Ok(views.status.samples.of(find_own(&views.reads, actor, worker).await?.id))
}

/// A worker that belongs to the actor's project: the members of others decide nothing about it.
async fn find_own(reads: &ReadStore, actor: &Actor, worker: &str) -> Result<Worker, OperationError> {
    let found = find(reads, actor, worker).await?;
    match found.project == actor.project {
        true => Ok(found),
        false => Err(OperationError::OfAnotherProject { worker: found.name }),
    }
}

async fn find(reads: &ReadStore, actor: &Actor, worker: &str) -> Result<Worker, OperationError> {
    let shown: String = worker.chars().filter(|char| !char.is_control()).take(100).collect();
    let not_found = || OperationError::NotFound(format!("worker {shown}"));
    if shown.len() != worker.len() {
        return Err(not_found());
    }
    reads.worker_get(actor.project, worker).await?.ok_or_else(not_found)
}
