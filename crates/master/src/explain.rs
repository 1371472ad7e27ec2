//! Why tasks wait: the same questions that the scheduler asks, with their answers in words.

use gaffer_domain::placement::{DefinitionRef, Needs, Unfit, feasible, suitable};
use gaffer_domain::queue::Hold;
use gaffer_domain::{JobId, ProjectId, Time};
use gaffer_protocol::rest::{Explanation, WaitingTasks, WorkerVerdict};

use crate::scheduler::offer_of;
use crate::store::workers::Worker;
use crate::store::{Store, StoreError};

/// So many tasks that take long to start are told one by one.
const MAX_STARTING: u32 = 5;

/// Explains what keeps the tasks of a job waiting. None if there is no such job.
///
/// # Errors
/// When the database does not answer.
pub async fn explain(
    store: &Store,
    project: ProjectId,
    job: JobId,
    now: Time,
) -> Result<Option<Explanation>, StoreError> {
    let Some(view) = store.job_get(project, job).await? else { return Ok(None) };
    let Some(spec) = store.spec(job).await? else { return Ok(None) };
    let (workers, in_use) = store.worker_fleet(Some(project)).await?;
    let mut waiting = Vec::new();
    for (position, pending, blocked) in store.job_waiting(job).await? {
        let Some(definition) = spec.tasks.get(position) else { continue };
        if pending > 0 {
            let position = u16::try_from(position).unwrap_or(u16::MAX);
            let needs = Needs::of(&spec, definition, DefinitionRef { job, position });
            waiting.push(match in_use.hold(project, &needs) {
                Some(hold) => explain_hold(&definition.name, pending, &needs, hold),
                None => explain_pending(&definition.name, pending, &needs, project, &workers, now),
            });
        }
        if blocked > 0 {
            waiting.push(WaitingTasks {
                task: definition.name.clone(),
                count: blocked,
                message: format!("waits for {} to complete", definition.depends_on.join(", ")),
                help: None,
                workers: Vec::new(),
            });
        }
    }
    for starting in store.tasks_starting(job, MAX_STARTING).await? {
        waiting.push(WaitingTasks {
            task: starting.address,
            count: 1,
            message: format!("starts on {}: {}", starting.worker, starting.note),
            help: None,
            workers: Vec::new(),
        });
    }
    let message = match (waiting.first(), view.state.as_str()) {
        (Some(first), _) => format!("{}: {}", first.task, first.message),
        (None, "running" | "stopping") => {
            "nothing waits: every unfinished task is placed on a worker".to_owned()
        }
        (None, state) => format!("nothing waits: the job is {state}"),
    };
    Ok(Some(Explanation { job, message, waiting }))
}

/// Explains why pending tasks of one definition wait whatever the workers do.
fn explain_hold(name: &str, count: i64, needs: &Needs, hold: Hold) -> WaitingTasks {
    let group = needs.concurrency.as_ref().map_or("", |concurrency| concurrency.group.as_str());
    let message = match hold {
        Hold::Concurrency { live, limit } => {
            format!("{live} of the {limit} tasks that the concurrency group {group} allows are under way")
        }
        Hold::NoWorker => "no worker can take it".to_owned(),
    };
    WaitingTasks { task: name.to_owned(), count, message, help: None, workers: Vec::new() }
}

/// Explains what keeps pending tasks of one definition waiting.
fn explain_pending(
    name: &str,
    count: i64,
    needs: &Needs,
    project: ProjectId,
    workers: &[Worker],
    now: Time,
) -> WaitingTasks {
    let verdicts: Vec<WorkerVerdict> = workers
        .iter()
        .map(|worker| {
            let unfit = feasible(needs, project, &offer_of(worker, now), 0).err();
            let message = match &unfit {
                Some(unfit) => format!("{} {unfit}", worker.name),
                None => format!("{} could take it now", worker.name),
            };
            WorkerVerdict { worker_id: worker.id, worker: worker.name.clone(), unfit, message }
        })
        .collect();
    let some = |wanted: fn(&Unfit) -> bool| verdicts.iter().filter_map(|v| v.unfit.as_ref()).any(wanted);
    let could_alone = workers.iter().any(|worker| suitable(needs, project, &offer_of(worker, now)).is_ok());
    let (message, help) = if workers.is_empty() {
        ("no worker has ever connected", Some("start one: gaffer worker, with MASTER_URL and API_KEY"))
    } else if verdicts.iter().any(|verdict| verdict.unfit.is_none()) {
        ("is about to be placed, or waits for its back-off to end", None)
    } else if could_alone {
        ("all workers that could run it are busy", None)
    } else if some(|unfit| matches!(unfit, Unfit::TooSmall { .. })) {
        ("no worker is large enough", Some("ask for less, or add a larger worker"))
    } else if some(|unfit| matches!(unfit, Unfit::Driver { .. })) {
        ("no connected worker has a working driver for it", Some("add a worker with that driver"))
    } else if some(|unfit| matches!(unfit, Unfit::Datacenter { .. })) {
        ("no worker stands in a datacenter that the job allows", Some("add one there, or change datacenters"))
    } else if some(|unfit| matches!(unfit, Unfit::Constraint { .. })) {
        ("no worker meets the constraints", Some("add one that does, or change the constraints"))
    } else if some(|unfit| matches!(unfit, Unfit::Draining)) {
        ("all workers that are connected are draining", Some("resume one: gaffer worker resume NAME"))
    } else {
        ("no worker is connected", Some("start one, or see why those that there are stay away"))
    };
    WaitingTasks {
        task: name.to_owned(),
        count,
        message: message.to_owned(),
        help: help.map(str::to_owned),
        workers: verdicts,
    }
}
