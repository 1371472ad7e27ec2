//! Tasks per second that end as soon as their worker hears of them: the master and its database without any process.

use std::collections::BTreeMap;
use std::time::Instant;

use gaffer_worker::simulated::SimulatedWorker;
use serde_json::json;

use super::figures::{Figures, TASKS_PER_SECOND};
use super::limits::Work;
use super::workers::{Fleet, simulated};
use super::{Bench, in_turn, throughput};
use crate::failure::Failure;

/// Simulated workers.
const WORKERS: u32 = 8;
/// The label that brings the tasks to them.
const LABEL: &str = "simulated";

/// Measures it, beside the floor program without its processes.
///
/// # Errors
/// Errors of the API or the network; [`Failure::Local`] if a task did not complete.
pub async fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
    let workers = simulated(bench, "dispatch", WORKERS).await?.into_iter();
    let labels = BTreeMap::from([(LABEL.to_owned(), "dispatch".to_owned())]);
    let workers: Vec<SimulatedWorker> = workers
        .map(|worker| SimulatedWorker { labels: labels.clone(), takes_tasks: true, ..worker })
        .collect();
    let mut fleet = Fleet::default();
    fleet.connect(&workers).await?;
    for tasks in &bench.args.tasks {
        for round in bench.rounds() {
            bench.show("dispatch", round);
            let floor = bench.floor(*tasks, Work::Nothing);
            let (rate, floor) = in_turn(round, run(bench, *tasks), floor).await;
            let name = throughput::named(bench, &format!("tasks of {WORKERS} workers"), *tasks);
            figures.add_beside(&name, TASKS_PER_SECOND, rate?, floor?);
        }
    }
    Ok(())
}

async fn run(bench: &Bench<'_>, tasks: u32) -> Result<f64, Failure> {
    let installation = bench.installation;
    let constraint = format!("labels.{LABEL} == dispatch");
    let spec = |count| {
        let fields = json!({"command": ["true"], "count": count, "constraints": [constraint]});
        installation.spec("dispatch", fields)
    };
    let begun = Instant::now();
    for job in throughput::submit_all(installation, tasks, spec).await? {
        installation.completed(job).await?;
    }
    Ok(f64::from(tasks) / begun.elapsed().as_secs_f64())
}
