//! Explains why a system job has no instance on a worker.

use std::collections::HashMap;

use chrono::Utc;
use gaffer_domain::placement::{DefinitionRef, Requirements, WorkerSnapshot, no_worker};
use gaffer_domain::quantity::listed;
use gaffer_domain::system_jobs::{Instance, InstanceState, Verdict, judge};
use gaffer_domain::{JobId, ProjectId, WorkerId};

use crate::background::scheduler::candidates::expected_worker;
use crate::records::{WithoutInstance, Worker, WorkerVerdict};
use crate::store::specs::StoredSpec;
use crate::store::{ReadStore, StoreError};

/// For each definition of a system job, the workers without an instance of it.
///
/// # Errors
/// When the database does not answer.
pub async fn without_instance(
    reads: &ReadStore,
    (project, job): (ProjectId, JobId),
    spec: &StoredSpec,
    workers: &[Worker],
) -> Result<Vec<WithoutInstance>, StoreError> {
    let now = Utc::now();
    // A system job follows the workers of its project.
    let workers = workers.iter().filter(|worker| worker.project == project);
    let offers: Vec<WorkerSnapshot> = workers.map(|worker| expected_worker(worker, now)).collect();
    let mut found = Vec::new();
    for (position, task) in spec.tasks.iter().enumerate() {
        let place = DefinitionRef { job, position: position as u16 };
        let needs = Requirements::of(spec, task, place);
        let instances = reads.system_instances((job, position), spec.version()).await?;
        let instances: HashMap<WorkerId, &Instance> =
            instances.iter().map(|instance| (instance.worker, instance)).collect();
        let verdict = |offer: &WorkerSnapshot| {
            let state = instances.get(&offer.worker).map(|instance| instance.state);
            let (infeasible, why) = match (state, judge(&needs, project, offer)) {
                (Some(InstanceState::Live), _) => return None,
                (Some(InstanceState::Ended { .. }), Verdict::Yes) => {
                    (None, "has had an instance, which has ended and is not restarted".to_owned())
                }
                (Some(InstanceState::Stopped), Verdict::Yes) => {
                    (None, "has had an instance, which was stopped".to_owned())
                }
                (_, Verdict::Yes) => (None, "is about to get an instance".to_owned()),
                (_, Verdict::KeepsOnly(unfit) | Verdict::No(unfit)) => {
                    let why = unfit.to_string();
                    (Some(unfit), why)
                }
            };
            let (worker_id, worker) = (offer.worker, offer.name.clone());
            let message = format!("{worker} {why}");
            Some(WorkerVerdict { worker_id, worker, infeasible, message })
        };
        let verdicts: Vec<WorkerVerdict> = offers.iter().filter_map(verdict).collect();
        let message = match (offers.len(), offers.len() - verdicts.len()) {
            (all, with) if all == with && all > 0 => continue,
            (_, 0) => no_worker(&needs, project, &offers),
            (all, with) => {
                let says: Vec<&str> = verdicts.iter().map(|verdict| verdict.message.as_str()).collect();
                format!("has an instance on {with} of {all} workers: {}", listed(&says))
            }
        };
        found.push(WithoutInstance { task: task.name.clone(), message, workers: verdicts });
    }
    Ok(found)
}
