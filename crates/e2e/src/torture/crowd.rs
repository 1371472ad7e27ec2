//! Many submit many different tasks at once to many workers. No worker ever executes more than it offers, as the history
//! shows event by event, and all tasks complete.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use gaffer_protocol::rest::{Event, Task, Worker};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use super::fleet::{Fleet, Setup};
use super::plan::Plan;
use super::trial::Trial;
use super::verdict::Verdict;

/// So many are submitting at the same time.
const SUBMITTERS: usize = 16;
const TASKS_PER_JOB: u32 = 50;
const GPUS: u32 = 2;
const MEMORY_GIB: u64 = 8;
const PATIENCE: Duration = Duration::from_secs(300);
const SETTINGS: [(&str, &str); 4] = [
    ("GAFFER_DRIVERS", "host"),
    ("GAFFER_SCRIPTED_DRIVER", "true"),
    ("GAFFER_RESOURCES", "gpu=2"),
    ("GAFFER_MEMORY", "8GiB"),
];

/// What a task reserves: processors in thousandths, memory in bytes, graphics cards.
type Reserved = [u64; 3];

/// Submits all of them as fast as they are taken, and reads the history when they are done.
pub async fn run(plan: &Plan) -> Verdict {
    let setup = Setup { environment: vec![SETTINGS.to_vec(); plan.workers], ..Setup::plain() };
    let mut trial = Trial::begin(plan, setup).await;
    let begun = Instant::now();
    let specs: Vec<(u64, Value)> = (0..plan.tasks.div_ceil(TASKS_PER_JOB))
        .map(|_| (trial.rng.random(), any_job(&mut trial.rng)))
        .collect();
    let fleet = &trial.fleet;
    let submitted = futures::stream::iter(&specs)
        .map(async |(key, spec)| (fleet.submit(spec, *key).await, *key, reserved(spec)))
        .buffer_unordered(SUBMITTERS);
    let submitted: Vec<(i64, u64, Reserved)> = submitted.collect().await;
    let accepted = begun.elapsed();
    let jobs: Vec<(i64, u64)> = submitted.iter().map(|(job, key, _)| (*job, *key)).collect();
    let tasks = trial.fleet.settle(&jobs, PATIENCE).await;
    let took = begun.elapsed();

    let mut verdict = trial.judge(&[], &[]).await;
    verdict.tasks = tasks.len();
    let wanted = specs.len() * TASKS_PER_JOB as usize;
    verdict.promise(tasks.len() == wanted, format!("{} of {wanted} tasks are there", tasks.len()));
    verdict
        .lost
        .extend(tasks.iter().filter(|(_, task)| task.state != "completed").map(|(_, task)| name(task)));
    let rate = tasks.len() as f64 / took.as_secs_f64();
    verdict.figure(format!("accepted within {accepted:.1?}, done within {took:.1?}: {rate:.0} tasks/s"));
    let reserves = submitted.iter().map(|(job, _, reserved)| (*job, *reserved)).collect();
    let mut capacities = BTreeMap::new();
    for number in 0..plan.workers {
        if let Some(worker) = trial.fleet.worker(number).await {
            capacities.insert(Fleet::name(number), capacity(&worker));
        }
    }
    follow(&mut verdict, &trial.fleet.history(0).await, &reserves, &capacities);
    trial.faults = u32::try_from(SUBMITTERS).unwrap_or(u32::MAX);
    trial.end(verdict).await
}

fn any_job(rng: &mut StdRng) -> Value {
    let cpu = *[0.1, 0.25, 0.5, 1.0, 2.0, 4.0].choose(rng).unwrap();
    let memory = *["0", "64MiB", "512MiB", "2GiB"].choose(rng).unwrap();
    let strategy = *["spread", "binpack", "round_robin", "epvm"].choose(rng).unwrap();
    let gpu = u32::from(rng.random_ratio(1, 5));
    json!({
        "name": "crowd", "driver": "scripted", "count": TASKS_PER_JOB,
        "script": format!("sleep {}ms", rng.random_range(1..60)),
        "resources": {"cpu": cpu, "memory": memory, "gpu": gpu},
        "priority": rng.random_range(0..=100),
        "placement": {"strategy": strategy},
    })
}

fn reserved(spec: &Value) -> Reserved {
    let resources = &spec["resources"];
    let memory = match resources["memory"].as_str() {
        Some("64MiB") => 64 << 20,
        Some("512MiB") => 512 << 20,
        Some("2GiB") => 2 << 30,
        _ => 0,
    };
    let cpu = (resources["cpu"].as_f64().unwrap_or_default() * 1_000.0).round() as u64;
    [cpu, memory, resources["gpu"].as_u64().unwrap_or_default()]
}

fn capacity(worker: &Worker) -> Reserved {
    [(worker.capacity.cpu * 1_000.0).round() as u64, MEMORY_GIB << 30, GPUS.into()]
}

fn name(task: &Task) -> String {
    format!("{}/{} is {}", task.job, task.address, task.state)
}

/// Adds up what runs on each worker, event by event.
fn follow(
    verdict: &mut Verdict,
    history: &[Event],
    reserves: &BTreeMap<i64, Reserved>,
    capacities: &BTreeMap<String, Reserved>,
) {
    // By task address: where it runs, and what it holds there.
    let mut running: BTreeMap<(i64, String), String> = BTreeMap::new();
    let mut in_use: BTreeMap<String, Reserved> = BTreeMap::new();
    let mut most = [0.0_f64; 3];
    for event in history {
        let (Some(job), Some(task)) = (event.job, &event.task) else { continue };
        let Some(reserved) = reserves.get(&job.0) else { continue };
        let key = (job.0, task.clone());
        if let Some(worker) = running.remove(&key) {
            let sum = in_use.entry(worker).or_default();
            (0..3).for_each(|at| sum[at] -= reserved[at]);
        }
        if event.kind != "task.running" {
            continue;
        }
        let Some(worker) = &event.worker else { continue };
        running.insert(key, worker.clone());
        let sum = in_use.entry(worker.clone()).or_default();
        (0..3).for_each(|at| sum[at] += reserved[at]);
        let Some(capacity) = capacities.get(worker) else { continue };
        for at in 0..3 {
            most[at] = most[at].max(sum[at] as f64 / capacity[at].max(1) as f64);
            if sum[at] > capacity[at] {
                let what = ["thousandths of a processor", "bytes of memory", "graphics cards"][at];
                verdict
                    .broken(format!("at {} {worker} ran {} {what} of {}", event.at, sum[at], capacity[at]));
            }
        }
    }
    let [cpu, memory, gpu] = most.map(|share| share * 100.0);
    verdict.figure(format!(
        "the most that a worker ran of what it offers: cpu {cpu:.0}%, memory {memory:.0}%, gpu {gpu:.0}%"
    ));
}
