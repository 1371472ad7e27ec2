//! Many tasks are submitted at once to many workers. No worker exceeds its capacity, as reported by the tasks, and
//! all tasks complete.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use gaffer_protocol::rest::{Task, Worker};
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

/// When a task executed, by its worker's clock: within what really was its time.
struct Stay {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    reserved: Reserved,
}

/// Submits all of them as fast as they are taken, and asks when each was where, once they are done.
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
    let mut fullest = [0.0_f64; 3];
    let rate = tasks.len() as f64 / took.as_secs_f64();
    verdict.figure(format!("accepted within {accepted:.1?}, done within {took:.1?}: {rate:.0} tasks/s"));
    let stays = stays(&trial.fleet, &submitted, &tasks).await;
    for (worker, stays) in &stays {
        let number = (0..plan.workers).find(|number| Fleet::name(*number) == *worker).unwrap();
        let capacity = capacity(&trial.fleet.worker(number).await.unwrap());
        let most = add_up(&mut verdict, worker, stays, &capacity);
        (0..3).for_each(|at| fullest[at] = fullest[at].max(most[at]));
    }
    let told: usize = stays.values().map(Vec::len).sum();
    verdict.promise(told == tasks.len(), format!("{told} of {} tasks say when they executed", tasks.len()));
    let [cpu, memory, gpu] = fullest;
    verdict.figure(format!(
        "the most that a worker executed of what it offers: cpu {cpu:.0}%, memory {memory:.0}%, gpu {gpu:.0}%"
    ));
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
        "script": format!("out begins\nsleep {}ms\nout ends", rng.random_range(1..60)),
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

/// Who was on each worker when. Each task says when it begins and ends.
async fn stays(
    fleet: &Fleet,
    submitted: &[(i64, u64, Reserved)],
    tasks: &[(u64, Task)],
) -> BTreeMap<String, Vec<Stay>> {
    let workers: BTreeMap<(i64, &str), &str> = tasks
        .iter()
        .filter_map(|(_, task)| Some(((task.job.0, task.address.as_str()), task.worker.as_deref()?)))
        .collect();
    let mut stays: BTreeMap<String, Vec<Stay>> = BTreeMap::new();
    for (job, _, reserved) in submitted {
        let mut said: BTreeMap<String, (DateTime<Utc>, DateTime<Utc>)> = BTreeMap::new();
        for record in fleet.output_of_job(*job).await {
            let (_, to) = said.entry(record.task).or_insert((record.at, record.at));
            *to = record.at;
        }
        for (task, (from, to)) in said.into_iter().filter(|(_, (from, to))| from < to) {
            let Some(worker) = workers.get(&(*job, task.as_str())) else { continue };
            let stay = Stay { from, to, reserved: *reserved };
            stays.entry((*worker).to_owned()).or_default().push(stay);
        }
    }
    stays
}

/// Adds up what a worker executed moment by moment; gives the most of each in hundredths of what it offers.
fn add_up(verdict: &mut Verdict, worker: &str, stays: &[Stay], capacity: &Reserved) -> [f64; 3] {
    let begins = stays.iter().map(|stay| (stay.from, 1, stay.reserved));
    let ends = stays.iter().map(|stay| (stay.to, 0, stay.reserved));
    let mut moments: Vec<(DateTime<Utc>, u8, Reserved)> = begins.chain(ends).collect();
    // What ends at a moment makes room for what begins then.
    moments.sort_unstable();
    let (mut sum, mut most): (Reserved, _) = ([0; 3], [0.0_f64; 3]);
    for (moment, begins, reserved) in moments {
        for at in 0..3 {
            sum[at] = if begins == 1 { sum[at] + reserved[at] } else { sum[at].saturating_sub(reserved[at]) };
            most[at] = most[at].max(sum[at] as f64 / capacity[at].max(1) as f64 * 100.0);
            if sum[at] > capacity[at] {
                let what = ["thousandths of a processor", "bytes of memory", "graphics cards"][at];
                verdict
                    .broken(format!("at {moment} {worker} executed {} {what} of {}", sum[at], capacity[at]));
            }
        }
    }
    most
}
