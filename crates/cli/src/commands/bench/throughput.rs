//! How many tasks per second go through: real processes that do nothing, from the submission to the end of the last one.

use std::time::Instant;

use gaffer_domain::JobId;
use gaffer_domain::spec::MAX_TASKS_PER_JOB;
use serde_json::{Value, json};

use super::figures::{Figures, MEBIBYTES, MICROSECONDS_PER_TASK, TASKS_PER_SECOND};
use super::installation::Installation;
use super::limits::Work;
use super::memory::MasterMemory;
use super::processes::ProcessorTime;
use super::report::count;
use super::{Bench, in_turn};
use crate::failure::Failure;

/// Measures it, beside the floor program with as many tasks.
///
/// # Errors
/// Errors of the API or the network; [`Failure::Local`] if a task did not complete.
pub async fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
    for tasks in &bench.args.tasks {
        for round in bench.rounds() {
            bench.show("throughput", round);
            let floor = bench.floor(*tasks, Work::Process);
            let (ran, floor) = in_turn(round, run(bench, *tasks), floor).await;
            let (ran, floor, number) = (ran?, floor?, f64::from(*tasks));
            let name = |name: &str| named(bench, name, *tasks);
            figures.add_beside(&name("tasks"), TASKS_PER_SECOND, number / ran.seconds, floor);
            if let Some(used) = ran.processor_time {
                let gaffer = name("processor time of gaffer");
                figures.add(&gaffer, MICROSECONDS_PER_TASK, used.gaffer / number * 1e6);
                let postgres = name("processor time of Postgres");
                figures.add(&postgres, MICROSECONDS_PER_TASK, used.postgres / number * 1e6);
            }
            match ran.highest_mebibytes {
                Ok(highest) => figures.add(&name("memory of the master, highest"), MEBIBYTES, highest),
                Err(failure) => figures.note(format!("memory of the master: {failure}")),
            }
        }
    }
    Ok(())
}

/// The name of a figure, with the number of tasks if several are measured.
pub fn named(bench: &Bench<'_>, name: &str, tasks: u32) -> String {
    match bench.args.tasks.as_slice() {
        [_] => name.to_owned(),
        _ => format!("{name}, {} at once", count(tasks.into())),
    }
}

/// One round.
pub struct Ran {
    pub seconds: f64,
    processor_time: Option<ProcessorTime>,
    /// Of the master, while tasks were queued.
    highest_mebibytes: Result<f64, Failure>,
}

/// Runs so many tasks.
///
/// # Errors
/// As [`measure`].
pub async fn run(bench: &Bench<'_>, tasks: u32) -> Result<Ran, Failure> {
    let installation = bench.installation;
    let processor_time = || bench.scratch.and_then(ProcessorTime::of);
    let before = processor_time();
    let spec = |count| installation.spec("throughput", json!({"command": ["true"], "count": count}));
    let work = Box::pin(async {
        let begun = Instant::now();
        let jobs = submit_all(installation, tasks, spec).await?;
        for job in jobs {
            installation.completed(job).await?;
        }
        Ok::<f64, Failure>(begun.elapsed().as_secs_f64())
    });
    let (seconds, highest_mebibytes) = MasterMemory::of(bench).highest_during(work).await;
    let seconds = seconds?;
    let used = before.zip(processor_time()).map(|(before, after)| after.since(before));
    Ok(Ran { seconds, processor_time: used, highest_mebibytes })
}

/// Submits so many tasks: more than one job may have are several jobs, all submitted before the first is waited for.
///
/// # Errors
/// Errors of the API or the network.
pub async fn submit_all(
    installation: &Installation,
    tasks: u32,
    spec: impl Fn(u32) -> Value,
) -> Result<Vec<JobId>, Failure> {
    let mut jobs = Vec::new();
    let mut left = tasks;
    while left > 0 {
        let count = left.min(MAX_TASKS_PER_JOB);
        jobs.push(installation.submit(&spec(count)).await?.id);
        left -= count;
    }
    Ok(jobs)
}
