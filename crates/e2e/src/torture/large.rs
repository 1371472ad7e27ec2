//! Large definitions, and large jobs that are stopped and deleted beside small jobs. Everything completes or ends
//! as asked, no worker loses its connection, and no small job waits long.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gaffer_protocol::rest::{Event, Job};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::fleet::{Fleet, Setup};
use super::plan::Plan;
use super::trial::Trial;
use super::verdict::Verdict;

const SETTINGS: [(&str, &str); 2] = [("GAFFER_DRIVERS", "host"), ("GAFFER_SCRIPTED_DRIVER", "true")];
/// How often a small job is submitted.
const SMALL_INTERVAL: Duration = Duration::from_millis(500);
/// A small job is over within this time, whatever else goes on.
const SMALL_LIMIT: Duration = Duration::from_secs(10);
/// How long all that is to complete may take once nothing is added.
const SETTLING: Duration = Duration::from_secs(300);
/// How long a large job may take to be stopped, and to be deleted.
const STOPPING: Duration = Duration::from_secs(180);

/// Something large.
#[derive(Debug, Clone, Copy)]
enum Load {
    /// An array whose tasks share a long script.
    Array,
    /// Many jobs with scripts of some length.
    Jobs,
    /// Few jobs with the longest scripts.
    Scripts,
    /// A job of many tasks, which is stopped and deleted.
    Tasks,
}

#[derive(Debug, Default)]
struct Counted {
    small: Vec<Duration>,
    loads: [u32; 4],
    stopped: Vec<(u32, Duration, Duration)>,
}

/// Submits one load after the other, and small jobs beside them.
pub async fn run(plan: &Plan) -> Verdict {
    let setup = Setup { environment: vec![SETTINGS.to_vec(); plan.workers], ..Setup::plain() };
    let mut trial = Trial::begin(plan, setup).await;
    let mut rng: StdRng = trial.rng.clone();
    let (counted, done) = (Mutex::<Counted>::default(), AtomicBool::new(false));
    let broken = Mutex::<Vec<String>>::default();
    let fleet = &trial.fleet;
    let small = async {
        let mut key: u64 = trial.plan.seed;
        while !done.load(Ordering::Relaxed) {
            key = key.wrapping_add(1);
            let begun = Instant::now();
            let job = fleet.submit(&spec("small", "exit 0"), key).await;
            let job = over(fleet, job, SETTLING).await;
            counted.lock().unwrap().small.push(begun.elapsed());
            if job.as_ref().is_none_or(|job| job.state != "completed") {
                broken.lock().unwrap().push(format!("a small job did not complete: {job:?}"));
            }
            sleep(SMALL_INTERVAL).await;
        }
    };
    let large = async {
        let begun = Instant::now();
        let mut jobs = Vec::new();
        let loads = [Load::Array, Load::Jobs, Load::Scripts, Load::Tasks];
        let mut at = 0;
        while begun.elapsed() < plan.duration || at < loads.len() {
            match loads[at % loads.len()] {
                Load::Tasks => {
                    let told = stop_and_delete(fleet, &mut rng, plan.tasks).await;
                    match told {
                        Ok(told) => counted.lock().unwrap().stopped.push(told),
                        Err(why) => broken.lock().unwrap().push(why),
                    }
                }
                load => jobs.extend(submit(fleet, &mut rng, load).await),
            }
            counted.lock().unwrap().loads[at % loads.len()] += 1;
            at += 1;
        }
        for job in &jobs {
            let job = over(fleet, *job, SETTLING).await;
            if job.as_ref().is_none_or(|job| job.state != "completed") {
                broken.lock().unwrap().push(format!("a large job did not complete: {job:?}"));
            }
        }
        done.store(true, Ordering::Relaxed);
        jobs.len()
    };
    let ((), jobs) = tokio::join!(small, large);
    let events = trial.fleet.history(0).await;
    let counted = counted.into_inner().unwrap();
    let mut verdict = trial.judge(&[], &[]).await;
    broken.into_inner().unwrap().into_iter().for_each(|broken| verdict.broken(broken));
    judge(&mut verdict, &counted, jobs, &events, plan.workers);
    trial.faults = counted.loads.iter().sum();
    trial.end(verdict).await
}

fn judge(verdict: &mut Verdict, counted: &Counted, jobs: usize, events: &[Event], workers: usize) {
    let Counted { small, loads, stopped } = counted;
    verdict.tasks = jobs + small.len();
    let sessions = events.iter().filter(|event| event.kind == "worker.online").count();
    verdict.promise(sessions == workers, format!("{sessions} sessions of {workers} workers"));
    let mut sorted = small.clone();
    sorted.sort_unstable();
    let of = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
    verdict.figure(format!("loads: {} arrays, {} × 400 jobs, {} × 17 scripts", loads[0], loads[1], loads[2]));
    for (tasks, stop, delete) in stopped {
        verdict.figure(format!(
            "a job of {tasks} tasks: over {stop:.1?} after its stop, deleted in {delete:.1?}"
        ));
    }
    let figure = format!(
        "{} small jobs, half within {:.2?}, 99 % within {:.2?}, all within {:.2?}",
        small.len(),
        of(0.5),
        of(0.99),
        of(1.0)
    );
    verdict.figure(figure);
    if of(1.0) > SMALL_LIMIT {
        verdict.slow.push(format!("a small job took {:.1?}", of(1.0)));
    }
}

fn spec(name: &str, script: &str) -> Value {
    json!({"name": name, "driver": "scripted", "script": script, "resources": {"cpu": 0.01}})
}

/// A script that does nothing, of about this length.
fn padded(rng: &mut StdRng, kib: usize) -> String {
    let line = format!("# {:016x} {}\n", rng.random::<u64>(), "x".repeat(80));
    format!("{}exit 0\n", line.repeat(kib * 1024 / line.len()))
}

async fn submit(fleet: &Fleet, rng: &mut StdRng, load: Load) -> Vec<i64> {
    let mut jobs = Vec::new();
    let (count, kib, array) = match load {
        Load::Array => (1, rng.random_range(100..500), Some(rng.random_range(48..64))),
        Load::Jobs => (400, 25, None),
        Load::Scripts | Load::Tasks => (17, 500, None),
    };
    for _ in 0..count {
        let mut spec = spec("large", &padded(rng, kib));
        if let Some(tasks) = array {
            spec["count"] = json!(tasks);
        }
        jobs.push(fleet.submit(&spec, rng.random()).await);
    }
    jobs
}

/// Submits a job of many tasks, lets it run for a moment, stops it and deletes it. Gives its tasks, how long it took to be
/// over, and how long the deletion.
async fn stop_and_delete(
    fleet: &Fleet,
    rng: &mut StdRng,
    most: u32,
) -> Result<(u32, Duration, Duration), String> {
    let tasks = rng.random_range(most / 5..=most);
    let mut spec = spec("stopped", "sleep 100ms\nexit 0");
    spec["count"] = json!(tasks);
    let job = fleet.submit(&spec, rng.random()).await;
    sleep(Duration::from_millis(rng.random_range(0..5_000))).await;
    let begun = Instant::now();
    while begun.elapsed() < STOPPING {
        let answer = fleet.client().post(&format!("/jobs/{job}/stop"), &json!({})).await;
        if matches!(answer.status.as_u16(), 200..=299 | 409) {
            break;
        }
    }
    let over = over(fleet, job, STOPPING).await;
    let stopped = begun.elapsed();
    if over.is_none_or(|job| job.finished_at.is_none()) {
        return Err(format!("job {job} of {tasks} tasks is not over {stopped:.0?} after its stop"));
    }
    let begun = Instant::now();
    while begun.elapsed() < STOPPING {
        match fleet.client().delete(&format!("/jobs/{job}")).await.status.as_u16() {
            404 => return Ok((tasks, stopped, begun.elapsed())),
            _ => sleep(Duration::from_millis(100)).await,
        }
    }
    Err(format!("job {job} of {tasks} tasks is still there {STOPPING:.0?} after its deletion"))
}

/// Waits for the end of a job; gives it as it is then.
async fn over(fleet: &Fleet, job: i64, patience: Duration) -> Option<Job> {
    let deadline = Instant::now() + patience;
    let mut seen = None;
    while Instant::now() < deadline {
        if let Some(job) = fleet.ask::<Job>(&format!("/jobs/{job}?wait=5s")).await {
            if job.finished_at.is_some() {
                return Some(job);
            }
            seen = Some(job);
        }
    }
    seen
}
