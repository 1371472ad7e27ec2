//! Explains why tasks wait, with the checks that the scheduler uses.

mod for_workers;
mod lacking;
mod without_instance;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;
use gaffer_domain::conditions;
use gaffer_domain::job::JobState;
use gaffer_domain::placement::{
    DefinitionRef, Help, Infeasible, Requirements, WorkerSnapshot, feasible, suitable, what_would_help,
};
use gaffer_domain::queue::{Class, InUse, Line, WaitReason, lines, share_of_shared};
use gaffer_domain::spec::all_awaited;
use gaffer_domain::{JobId, ProjectId, Time, WorkerId};

use crate::background::scheduler::reservations::{KeptFor, ReservedFor};
use crate::records::{Explanation, QueuePosition, WaitingTasks, Worker, WorkerVerdict};
use crate::snapshot::Snapshot;
use crate::store::StoreError;
use crate::store::jobs::WaitingDefinition;
use crate::store::placement::QueuedClass;
use crate::store::tasks::Placed;
use crate::troubles::Troubles;
use crate::views::Views;
use lacking::Lacking;
use without_instance::without_instance;

/// Why most tasks wait.
const BUSY: &str = "all matching workers are busy";
/// Number of slow starts listed individually.
const MAX_STARTING: u32 = 5;
/// Number of listed changes that would help.
const MAX_HELP: usize = 5;

/// Explains why the tasks of a job wait, with fleet and queue at most `max_age` old. None if there is no such job.
///
/// # Errors
/// When the database does not answer.
pub async fn explain(
    views: &Views,
    project: ProjectId,
    job: JobId,
    max_age: Duration,
) -> Result<Option<Explanation>, StoreError> {
    let store = &views.reads;
    let Some(found) = store.job_get(project, job).await? else { return Ok(None) };
    let Some(spec) = store.spec(job).await? else { return Ok(None) };
    let snapshot = views.snapshots.of(project, max_age).await?;
    let line = line_of(&snapshot.queue);
    let lines = lines(&line);
    let kept = views.status.reservations.get();
    let judge = Judge::new(&snapshot, &kept, usize::MAX);
    let awaited = all_awaited(&spec.tasks);
    let mut waiting = Vec::new();
    let lacking = Lacking::of(views, project, &spec).await?;
    for WaitingDefinition { position, class, pending, blocked, unseen_until } in
        store.job_waiting(job).await?
    {
        let Some(definition) = spec.tasks.get(position) else { continue };
        if let Some(problem) = spec.problem() {
            let help = Some("stop the job, or run the version of gaffer that wrote it".to_owned());
            waiting.push(WaitingTasks {
                help,
                ..told(&definition.name, pending + blocked, format!("cannot be started: {problem}"))
            });
            continue;
        }
        if let Some(until) = unseen_until.filter(|until| pending > 0 && *until > Utc::now()) {
            let message = format!(
                "waits until {}: gaffer was restored from a backup, and until then an attempt that the backup does not \
                 know may still execute",
                until.format("%Y-%m-%d %H:%M:%S UTC")
            );
            waiting.push(told(&definition.name, pending, message));
        } else if pending > 0 {
            let position = u16::try_from(position).unwrap_or(u16::MAX);
            let needs = Requirements::of(&spec, definition, DefinitionRef { job, position });
            let place = line.iter().position(|queued| queued.id == class).map(|at| lines[at]);
            let position = place.map(|Line { ahead, waiting }| QueuePosition { ahead, waiting });
            let workers = match needs.each_worker {
                true => Some(store.workers_waited_for(class, Some(job)).await?),
                false => None,
            };
            let why = judge.explain(&definition.name, pending, &needs, class, workers.as_deref());
            waiting.push(lacking.added_to(definition, WaitingTasks { position, ..why }));
        }
        if blocked > 0 {
            let message = conditions::waits_for(&spec, &awaited, position);
            waiting.push(lacking.added_to(definition, told(&definition.name, blocked, message)));
        }
    }
    let starting = store.tasks_starting(job, MAX_STARTING).await?;
    for placed in store.tasks_placed(job, !starting.is_empty(), MAX_STARTING).await? {
        let Some(definition) = spec.tasks.get(placed.position) else { continue };
        waiting.push(told(&definition.name, placed.count, not_started(&placed, Utc::now())));
    }
    for starting in starting {
        waiting.push(told(&starting.address, 1, format!("starts on {}: {}", starting.worker, starting.note)));
    }
    let follows_workers = spec.kind.follows_workers() && spec.problem().is_none() && !found.is_over();
    let without_instance = match follows_workers && found.state != JobState::Stopping {
        true => without_instance(store, (project, job), &spec, &snapshot.workers).await?,
        false => Vec::new(),
    };
    let first = waiting.first().map(|first| (&first.task, &first.message));
    let first = first.or(without_instance.first().map(|first| (&first.task, &first.message)));
    let message = match (first, found.state) {
        (Some((task, message)), _) => format!("{task}: {message}"),
        (None, JobState::Running | JobState::Stopping) => {
            "no task is waiting: every unfinished task is placed on a worker".to_owned()
        }
        (None, state) => format!("no task is waiting: the job is {state}"),
    };
    let message = trouble_of(&views.status.troubles, job).unwrap_or(message);
    Ok(Some(Explanation { job, message, waiting, without_instance }))
}

/// Why placed tasks have not started.
fn not_started(placed: &Placed, now: Time) -> String {
    let Placed { worker, since, offline_since, online_since, .. } = placed;
    let ago = |time: &Time| format!("{} s ago", (now - *time).num_seconds().max(0));
    let placed = format!("placed on {worker} {}", ago(since));
    match (offline_since, online_since) {
        (Some(gone), _) => format!(
            "{placed}; {worker} is disconnected (last seen {}) and starts it when it reconnects",
            ago(gone)
        ),
        (None, Some(back)) if back > since => {
            format!("{placed}; {worker} reconnected {} and is about to start it", ago(back))
        }
        _ => format!("{placed}; the worker is about to start it"),
    }
}

/// What keeps anything of a job from being recorded.
fn trouble_of(troubles: &Troubles, job: JobId) -> Option<String> {
    if let Some(trouble) = troubles.database() {
        let since = trouble.since.format("%H:%M:%S UTC");
        return Some(format!("the database refuses writes since {since}: {}", trouble.message));
    }
    let since = troubles.locked_since(job)?.format("%H:%M:%S UTC");
    Some(format!("another transaction in the database has locked the job since {since}; its changes wait"))
}

/// What waits, as the rules look at it.
pub fn line_of(queue: &[QueuedClass]) -> Vec<Class<'_>> {
    let of = |queued: &QueuedClass| usize::try_from(queued.count).unwrap_or(0);
    let line = queue.iter().map(|queued| (&queued.class, of(queued)));
    line.map(|(class, pending)| Class {
        id: class.id,
        project: class.of.project,
        owner: &class.of.owner,
        priority: class.of.priority,
        needs: &class.of.needs,
        pending,
        since: class.first,
        mean_run: None,
    })
    .collect()
}

/// Why tasks wait, given the state of the fleet.
pub struct Judge<'a> {
    project: ProjectId,
    /// In the order of their numbers.
    offers: &'a [WorkerSnapshot],
    /// The same workers as records.
    workers: &'a [Worker],
    in_use: &'a InUse,
    /// Number of listed workers.
    most_verdicts: usize,
    /// Classes for which workers are reserved, with their requirements.
    kept: BTreeMap<WorkerId, (i64, &'a Requirements)>,
}

impl<'a> Judge<'a> {
    /// With the fleet and the queue of a project, and what workers are kept for.
    pub fn new(snapshot: &'a Snapshot, kept: &'a ReservedFor, most_verdicts: usize) -> Judge<'a> {
        let Snapshot { project, offers, workers, in_use, queue, .. } = snapshot;
        let is_of = |queued: &&QueuedClass, worker: WorkerId, class: i64| {
            let own = queued.workers.iter().flatten();
            queued.class.id == class || own.into_iter().any(|own| *own == (worker, class))
        };
        let kept = kept.iter().filter_map(|(worker, KeptFor { class, project: whose, needs })| {
            if whose != project {
                // A shared worker, for a task of which nothing else is told.
                return Some((*worker, (*class, needs)));
            }
            let queued = queue.iter().find(|queued| is_of(queued, *worker, *class))?;
            Some((*worker, (*class, &queued.class.of.needs)))
        });
        Judge { project: *project, offers, workers, in_use, most_verdicts, kept: kept.collect() }
    }

    /// What keeps a worker out.
    fn unfit(&self, needs: &Requirements, offer: &WorkerSnapshot, class: i64) -> Option<Infeasible> {
        let paused = || offer.paused.get(&class).map(|until| Infeasible::GaveBack { until: *until });
        let unfit = feasible(needs, offer.project, offer, 0).err().or_else(paused);
        let kept = self.kept.get(&offer.worker).filter(|(kept_for, _)| *kept_for != class);
        let (None, Some((_, kept))) = (&unfit, kept) else { return unfit };
        let mut beside = offer.clone();
        beside.reserve(kept, 1);
        feasible(needs, offer.project, &beside, 0).err().map(|_| Infeasible::Kept)
    }

    /// Explains what keeps `count` pending tasks of a class, with these needs, waiting. `workers`: those that they are for, each with the
    /// class of its tasks, if each is for one.
    pub fn explain(
        &self,
        name: &str,
        count: i64,
        needs: &Requirements,
        class: i64,
        workers: Option<&[(WorkerId, i64)]>,
    ) -> WaitingTasks {
        match (self.in_use.hold(self.project, needs), workers) {
            (Some(hold), _) => WaitingTasks { help: help(hold), ..told(name, count, held(needs, hold)) },
            (None, Some(workers)) => self.explain_for_workers(name, count, needs, workers),
            (None, None) => self.explain_workers(name, count, needs, class),
        }
    }

    fn explain_workers(&self, name: &str, count: i64, needs: &Requirements, class: i64) -> WaitingTasks {
        let unfits: Vec<Option<Infeasible>> =
            self.offers.iter().map(|offer| self.unfit(needs, offer, class)).collect();
        let (message, help) = self.sentence(needs, &unfits);
        let verdict = |(offer, unfit): (&WorkerSnapshot, Option<Infeasible>)| {
            let message = match &unfit {
                Some(unfit) => format!("{} {unfit}", offer.name),
                None => format!("can run on {} now", offer.name),
            };
            WorkerVerdict { worker_id: offer.worker, worker: offer.name.clone(), infeasible: unfit, message }
        };
        let verdicts = self.offers.iter().zip(unfits).take(self.most_verdicts).map(verdict).collect();
        let kept = self
            .offers
            .iter()
            .find(|offer| self.kept.get(&offer.worker).is_some_and(|(kept_for, _)| *kept_for == class));
        let message = match kept {
            Some(offer) => format!("{message}; {} is reserved for it", offer.name),
            None => message.to_owned(),
        };
        let message = match self.share_told(needs, &message) {
            Some(share) => format!("{message}; {share}"),
            None => message,
        };
        let would_help = what_would_help(needs, self.offers);
        WaitingTasks {
            help: help.map(str::to_owned),
            would_help: would_help.iter().take(MAX_HELP).map(Help::to_string).collect(),
            workers: verdicts,
            ..told(name, count, message)
        }
    }

    /// What the project has of shared workers, if these are what its tasks wait for.
    fn share_told(&self, needs: &Requirements, message: &str) -> Option<String> {
        let is_wanted = |offer: &&WorkerSnapshot| {
            offer.sharing.is_shared() && suitable(needs, self.project, offer).is_ok()
        };
        self.offers.iter().find(is_wanted).filter(|_| message.starts_with(BUSY))?;
        let share = share_of_shared(self.in_use, self.project, self.offers)? * 100.0;
        let weight = self.in_use.terms(self.project).weight.get();
        Some(format!(
            "shared workers go to the project with the least for its weight: this one has {share:.0}% and the weight {weight}"
        ))
    }

    /// The whole in one sentence, and what would help in general.
    fn sentence(
        &self,
        needs: &Requirements,
        unfits: &[Option<Infeasible>],
    ) -> (&'static str, Option<&'static str>) {
        let some = |wanted: fn(&Infeasible) -> bool| unfits.iter().flatten().any(wanted);
        let could_alone = self.offers.iter().any(|offer| suitable(needs, offer.project, offer).is_ok());
        if unfits.is_empty() {
            ("no worker has connected yet", Some("start one: MASTER_URL=… API_KEY=… gaffer worker"))
        } else if unfits.iter().any(Option::is_none) {
            ("about to be placed, or waiting for its restart delay", None)
        } else if some(|unfit| matches!(unfit, Infeasible::GaveBack { .. })) {
            ("a worker returned it unstarted; the scheduler offers it again after a pause", None)
        } else if could_alone {
            (BUSY, None)
        } else if some(|unfit| matches!(unfit, Infeasible::TooSmall { .. })) {
            ("no worker is large enough", Some("reserve less, or add a larger worker"))
        } else if some(|unfit| matches!(unfit, Infeasible::Driver { .. })) {
            ("no connected worker has a healthy driver for it", Some("add a worker with that driver"))
        } else if some(|unfit| matches!(unfit, Infeasible::Outdated { .. })) {
            ("no connected worker is recent enough for it", Some("update gaffer on the workers"))
        } else if some(|unfit| matches!(unfit, Infeasible::Datacenter { .. })) {
            ("no worker is in a datacenter of the job", Some("add a worker there, or change `datacenters`"))
        } else if some(|unfit| matches!(unfit, Infeasible::Constraint { .. })) {
            ("no worker meets the job's constraints", Some("add a matching worker, or change `constraints`"))
        } else if some(|unfit| matches!(unfit, Infeasible::Draining | Infeasible::Cordoned)) {
            ("all connected workers are cordoned or draining", Some("resume one: gaffer worker resume NAME"))
        } else {
            ("no worker is connected", Some("start a worker, or check why the known ones are disconnected"))
        }
    }
}

/// What helps against these.
fn help(hold: WaitReason) -> Option<String> {
    let WaitReason::Quota(over) = hold else { return None };
    let what = over.what.as_str();
    let raise = format!("an administrator of the installation raises it: gaffer projects set NAME --{what}");
    Some(if over.is_for_ever() { format!("reserve less, or {raise}") } else { format!("wait, or {raise}") })
}

/// Reasons for waiting that are independent of workers.
fn held(needs: &Requirements, hold: WaitReason) -> String {
    let group = needs.concurrency.as_ref().map_or("", |concurrency| concurrency.group.as_str());
    match hold {
        WaitReason::AtOnce { live, limit } => {
            format!("{live} tasks of the array are live, and at most {limit} may be at once")
        }
        WaitReason::Concurrency { live, limit } => {
            format!("the concurrency group {group} is full: {live} of {limit} attempts are live")
        }
        WaitReason::Quota(over) => over.to_string(),
        WaitReason::NoWorker => "no worker can run it".to_owned(),
    }
}

/// Tasks that wait for a reason, and no more to say.
fn told(task: &str, count: i64, message: String) -> WaitingTasks {
    let task = task.to_owned();
    WaitingTasks {
        task,
        count,
        message,
        help: None,
        would_help: Vec::new(),
        position: None,
        workers: Vec::new(),
    }
}
