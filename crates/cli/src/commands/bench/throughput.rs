//! How many tasks per second go through: real processes that do nothing, from the submission to the end of the last one.

use std::time::Instant;

use gaffer_domain::spec::MAX_TASKS_PER_JOB;
use serde_json::json;

use super::figures::{Figures, MICROSECONDS_PER_TASK, TASKS_PER_SECOND};
use super::limits::FLOOR;
use super::processes::ProcessorTime;
use super::{Bench, in_turn};
use crate::failure::Failure;

/// Measures it, beside the floor program with as many tasks.
///
/// # Errors
/// Errors of the API or the network; [`Failure::Local`] if a task did not complete.
pub async fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
    let tasks = f64::from(bench.args.tasks);
    for round in bench.rounds() {
        bench.show("throughput", round);
        let floor = async {
            let Some(limits) = bench.limits else { return Ok(None) };
            limits.floor(bench.args.tasks).await.map(|rate| Some((FLOOR, rate)))
        };
        let (ran, floor) = in_turn(round, run(bench), floor).await;
        let (ran, floor) = (ran?, floor?);
        figures.add_beside("tasks", TASKS_PER_SECOND, tasks / ran.seconds, floor);
        if let Some(used) = ran.processor_time {
            figures.add("processor time of gaffer", MICROSECONDS_PER_TASK, used.gaffer / tasks * 1e6);
            figures.add("processor time of Postgres", MICROSECONDS_PER_TASK, used.postgres / tasks * 1e6);
        }
    }
    Ok(())
}

/// One round.
struct Ran {
    seconds: f64,
    processor_time: Option<ProcessorTime>,
}

async fn run(bench: &Bench<'_>) -> Result<Ran, Failure> {
    let installation = bench.installation;
    let processor_time = || bench.scratch.and_then(ProcessorTime::of);
    let (before, begun) = (processor_time(), Instant::now());
    let mut jobs = Vec::new();
    let mut left = bench.args.tasks;
    while left > 0 {
        // More tasks than one job may have are several jobs, all submitted before the first is waited for.
        let count = left.min(MAX_TASKS_PER_JOB);
        let spec = installation.spec("throughput", json!({"command": ["true"], "count": count}));
        jobs.push(installation.submit(&spec).await?.id);
        left -= count;
    }
    for job in jobs {
        installation.completed(job).await?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let used = before.zip(processor_time()).map(|(before, after)| after.since(before));
    Ok(Ran { seconds, processor_time: used })
}
