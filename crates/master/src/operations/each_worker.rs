//! Tasks that are for one worker each. Which workers those with `each: worker` are for is decided when their job is accepted; a system
//! job begins with those that match then, and follows the workers from then on.

use std::collections::BTreeMap;

use chrono::Utc;
use gaffer_domain::placement::{DefinitionRef, Requirements, WorkerSnapshot, each_worker, no_worker};
use gaffer_domain::quantity::shown;
use gaffer_domain::spec::{
    FieldError, IndexMatch, Indices, JobSpec, MAX_TASKS_PER_JOB, TaskSpec, all_awaited,
};
use gaffer_domain::{JobId, ProjectId, WorkerId};

use super::OperationError;
use super::context::Effects;
use crate::background::scheduler::candidates::expected_worker;
use crate::store::jobs::ForWorkers;

/// A specification that says how many tasks there are, and the workers that these are for.
#[derive(Debug)]
pub struct ForEachWorker {
    pub spec: JobSpec,
    pub for_workers: ForWorkers,
    /// Which workers match and get no task.
    pub hints: Vec<FieldError>,
}

/// Whether any task is for one worker.
pub fn is_needed(spec: &JobSpec) -> bool {
    spec.tasks.iter().any(|task| task.is_for_each_worker())
}

/// Chooses the workers of a new job. `earlier`: of definitions that are there, too, the tasks are for the workers that they were for in
/// that job.
///
/// # Errors
/// When no worker matches, or the specification does not go with those that do.
pub async fn choose(
    effects: &Effects,
    project: ProjectId,
    spec: &JobSpec,
    earlier: Option<(JobId, &JobSpec)>,
) -> Result<ForEachWorker, OperationError> {
    let now = Utc::now();
    let workers = effects.writes.worker_rows(Some(project)).await?;
    let offers: Vec<WorkerSnapshot> = workers.iter().map(|worker| expected_worker(worker, now)).collect();
    let before = match earlier {
        Some((job, spec)) => of_earlier(spec, effects.writes.job_for_workers(job).await?),
        None => BTreeMap::new(),
    };
    let mut made =
        ForEachWorker { spec: spec.clone(), for_workers: ForWorkers::default(), hints: Vec::new() };
    for (position, task) in spec.tasks.iter().enumerate().filter(|(_, task)| task.is_for_each_worker()) {
        let at_once = task.indices.at_once();
        let (first, chosen) = match before.get(task.name.as_str()) {
            Some((first, chosen)) => (*first, chosen.clone()),
            None => {
                // Nothing of what is chosen by depends on the number of the job.
                let place = DefinitionRef { job: JobId(0), position: position as u16 };
                let needs = Requirements::of(spec, task, place);
                let found = each_worker(&needs, project, &offers);
                if found.chosen.is_empty() {
                    let why = no_worker(&needs, project, &offers);
                    if !spec.kind.follows_workers() {
                        return Err(refused(format!("task {} would run nowhere: {why}", task.name)));
                    }
                    made.hints.push(hint(spec, position, "type", format!("it runs nowhere yet: {why}")));
                } else if let Some(left_out) = found.left_out() {
                    let field = if spec.kind.follows_workers() { "type" } else { "each" };
                    let detail = format!("not on every worker that matches: {left_out}");
                    made.hints.push(hint(spec, position, field, detail));
                    made.for_workers.left_out.get_or_insert(left_out);
                }
                (0, found.chosen.iter().map(|offer| offer.worker).collect::<Vec<WorkerId>>())
            }
        };
        if !task.indices.follow_workers() {
            let last = first + (chosen.len().max(1) - 1) as u32;
            made.spec.tasks[position].indices = Indices::Array { first, last, at_once };
        }
        made.for_workers.definitions.insert(position, chosen);
    }
    check(&made)?;
    Ok(made)
}

/// By the names of its definitions, the first index of each and the workers of its tasks, if these are all known.
fn of_earlier<'s>(
    spec: &'s JobSpec,
    mut known: BTreeMap<usize, BTreeMap<u32, WorkerId>>,
) -> BTreeMap<&'s str, (u32, Vec<WorkerId>)> {
    let definitions = spec.tasks.iter().enumerate().filter(|(_, task)| task.is_for_each_worker());
    let of = |(position, task): (usize, &'s TaskSpec)| {
        let workers = known.remove(&position)?;
        let is_complete = task.indices.iter().eq(workers.keys().copied());
        let first = task.indices.first();
        is_complete.then(|| (task.name.as_str(), (first, workers.into_values().collect())))
    };
    definitions.filter_map(of).collect()
}

/// What could be checked only once the workers are known.
fn check(made: &ForEachWorker) -> Result<(), OperationError> {
    let ForEachWorker { spec, for_workers, .. } = made;
    let tasks = for_workers.task_count(spec);
    if tasks > MAX_TASKS_PER_JOB {
        let most = format!("more than the {MAX_TASKS_PER_JOB} that one job may have");
        return Err(refused(format!("with a task for each worker these are {tasks} tasks, {most}")));
    }
    let awaited = all_awaited(&spec.tasks);
    for (position, awaited) in awaited.iter().enumerate() {
        for other in awaited.iter().filter(|awaited| awaited.index == IndexMatch::Same) {
            let [own, others] = [position, other.position].map(|at| for_workers.definitions.get(&at));
            if own != others {
                return Err(refused(format!(
                    "`index: same` needs the same workers: other ones match {} than {}",
                    shown(&spec.tasks[position].name),
                    shown(&spec.tasks[other.position].name)
                )));
            }
        }
    }
    Ok(())
}

fn refused(detail: String) -> OperationError {
    OperationError::Invalid { code: "no_matching_worker", detail, field: None }
}

/// A hint about `each` of a task, or about the `type` of the job.
fn hint(spec: &JobSpec, position: usize, field: &str, detail: String) -> FieldError {
    let (pointer, detail) = match (field, spec.tasks.len()) {
        (_, 1) => (format!("/{field}"), detail),
        ("type", _) => ("/type".to_owned(), format!("{}: {detail}", spec.tasks[position].name)),
        _ => (format!("/tasks/{position}/{field}"), detail),
    };
    FieldError { pointer, detail, suggestion: None }
}
