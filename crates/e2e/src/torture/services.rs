//! A service is updated again and again and scaled, under kills of agents, executors, workers and the master, while its
//! readiness comes and goes. Its processes are counted by themselves, without asking gaffer: never more than its
//! instances and those that an update may have beside them; and while nothing was killed that runs attempts, never fewer than
//! its instances.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use gaffer_protocol::rest::{Job, Page, Task};
use rand::Rng as _;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::fleet::{Fleet, Setup};
use super::plan::Plan;
use super::trial::Trial;
use super::verdict::Verdict;
use super::witness::Witness;

const NAME: &str = "torture";
const FAULTS_EVERY: Duration = Duration::from_millis(2_500);
const TICK: Duration = Duration::from_millis(50);
/// How long an update may take once nothing is killed any more.
const SETTLING: Duration = Duration::from_secs(180);
/// So many instances are replaced at once, and may be there beside the others.
const PARALLEL: usize = 2;

/// What is known of the service while it is under way.
struct Watch {
    /// At how many instances it is kept, and the most of late: those that are scaled away end by and by.
    count: usize,
    most: usize,
    /// Processes of attempts may have been killed, and not all are replaced.
    has_lost: bool,
    fewest: usize,
    highest: usize,
}

/// Updates and scales as long as the faults last, waits until it is as it is to be, and judges.
pub async fn run(plan: &Plan) -> Verdict {
    let mut trial = Trial::begin(plan, Setup::plain()).await;
    let unready = trial.fleet.dir().join("unready");
    let (mut version, mut updates) = (1_u32, 0);
    let spec = spec(&trial, version, &unready);
    let job = apply(&trial.fleet, &spec).await;
    let count = 6;
    settled(&trial.fleet, job, count, SETTLING).await;
    let mut watch = Watch { count, most: count, has_lost: false, fewest: count, highest: count };
    let mut verdict = Verdict::default();
    let end = Instant::now() + plan.duration;
    let mut next_fault = Instant::now() + FAULTS_EVERY;
    // At first only what no attempt notices, so that there are never fewer; then everything.
    let gentle_until = Instant::now() + plan.duration / 2;
    while Instant::now() < end {
        if is_settled(&trial.fleet, job, watch.count).await {
            (watch.most, watch.has_lost) = (watch.count, false);
            if trial.rng.random_ratio(1, 3) {
                watch.count = trial.rng.random_range(4..9);
                watch.most = watch.most.max(watch.count);
                // Those that are added are not there at once.
                watch.has_lost = true;
                scale(&trial.fleet, watch.count).await;
            } else {
                (version, updates) = (version + 1, updates + 1);
                let spec = self::spec(&trial, version, &unready);
                apply(&trial.fleet, &spec).await;
            }
        }
        if Instant::now() >= next_fault {
            next_fault = Instant::now() + FAULTS_EVERY;
            trial.faults += 1;
            let is_gentle = Instant::now() < gentle_until;
            watch.has_lost |= !is_gentle;
            strike(&mut trial.fleet, is_gentle, &mut trial.rng).await;
        }
        flap(&unready, &mut trial.rng);
        watch.look(&trial.witness, &mut verdict);
        sleep(TICK).await;
    }
    let _ = std::fs::remove_file(&unready);
    trial.fleet.restore().await;
    let found = settled(&trial.fleet, job, watch.count, SETTLING).await;
    let found = judge(&trial, job, found, version, watch.count).await;
    count_attempts(&trial.witness, &mut verdict);
    found.into_iter().for_each(|problem| verdict.broken(problem));
    verdict.figure(format!("updates begun {updates}, the last to version {version}"));
    verdict
        .figure(format!("fewest processes while nothing was lost {}, most {}", watch.fewest, watch.highest));
    let stopped = post(&trial.fleet, &format!("/jobs/{job}/stop"), &json!({})).await;
    verdict.promise(stopped.is_some(), "the service was stopped".to_owned());
    trial.fleet.settle(&[(job, 0)], SETTLING).await;
    verdict.survivors = trial.witness.survivors().len();
    trial.end(verdict).await
}

fn count_attempts(witness: &Witness, verdict: &mut Verdict) {
    let seen = witness.seen();
    verdict.tasks = seen.attempts.len();
    verdict.attempts = seen.attempts.values().map(BTreeMap::len).sum();
    verdict.repeats = verdict.attempts - verdict.tasks;
    (verdict.double_starts, verdict.overlaps) = (seen.double_starts.len(), seen.overlaps.len());
}

impl Watch {
    /// Counts the processes.
    fn look(&mut self, witness: &Witness, verdict: &mut Verdict) {
        let processes = witness.survivors().len();
        self.highest = self.highest.max(processes);
        if processes > self.most + PARALLEL {
            let (most, parallel) = (self.most, PARALLEL);
            verdict.broken(format!("{processes} processes of {most} instances and {parallel} beside them"));
        }
        if !self.has_lost {
            self.fewest = self.fewest.min(processes);
            if processes < self.count {
                verdict.broken(format!("{processes} processes of {} instances", self.count));
            }
        }
    }
}

/// An instance says which version it is, and lives until it is stopped.
fn spec(trial: &Trial, version: u32, unready: &Path) -> Value {
    let mut spec = trial.spec(&["serve".to_owned(), version.to_string()]);
    spec["name"] = json!(NAME);
    spec["type"] = json!("service");
    spec["count"] = json!(6);
    spec["restart"] = json!({"policy": "always", "limit": 10_000, "delay": "100ms", "backoff": "constant"});
    spec["readiness"] = json!({
        "command": ["test", "!", "-e", unready], "interval": "1s", "timeout": "30s", "failures": 1,
    });
    // What fails here was killed, which is not the fault of its version.
    spec["update"] = json!({
        "parallel": PARALLEL, "healthy_for": "500ms", "healthy_within": "1h", "auto_revert": false,
    });
    spec
}

async fn post(fleet: &Fleet, path: &str, body: &Value) -> Option<Value> {
    crate::eventually_within(SETTLING, &format!("{path} is accepted"), async || {
        let answer = fleet.client().request(Method::POST, path).json(body).send().await.ok()?;
        fleet.note(&answer);
        let (status, text) = (answer.status(), answer.text().await.ok()?);
        assert!(status.is_success() || status.is_server_error(), "{path} is refused: {text}");
        if status.is_success() { Some(serde_json::from_str(&text).ok()) } else { None }
    })
    .await
}

async fn apply(fleet: &Fleet, spec: &Value) -> i64 {
    let answer = post(fleet, &format!("/services/{NAME}"), spec).await;
    answer.and_then(|job| job["id"].as_i64()).unwrap()
}

async fn scale(fleet: &Fleet, count: usize) {
    post(fleet, &format!("/services/{NAME}/scale"), &json!({"count": count})).await;
}

/// Whether no update is under way, and all instances run and are ready.
async fn is_settled(fleet: &Fleet, job: i64, count: usize) -> bool {
    let Some(found) = fleet.ask::<Job>(&format!("/jobs/{job}")).await else { return false };
    let on_their_way = ["pending", "scheduled", "stopping"];
    let available = found.available.unwrap_or_default();
    let is_as_many = match found.updates.is_empty() {
        true => available == count as u64,
        // One that has stopped counts, with further instances beside the others: the next one goes on from there.
        false => available >= count as u64 && found.updates.iter().all(|update| update.problem.is_some()),
    };
    is_as_many && on_their_way.iter().all(|state| !found.task_counts.contains_key(*state))
}

async fn settled(fleet: &Fleet, job: i64, count: usize, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if is_settled(fleet, job, count).await {
            return true;
        }
        sleep(TICK).await;
    }
    false
}

/// What is not as it is to be in the end.
async fn judge(trial: &Trial, job: i64, is_settled: bool, version: u32, count: usize) -> Vec<String> {
    let mut problems = Vec::new();
    let found: Option<Job> = trial.fleet.ask(&format!("/jobs/{job}")).await;
    if !is_settled {
        let states = found.as_ref().map(|job| (job.available, &job.task_counts, &job.updates));
        problems.push(format!("it does not come to rest: {states:?}"));
    }
    // An instance that was killed while it was new has stopped its update.
    let has_stopped = found.is_some_and(|job| !job.updates.is_empty());
    let running: Option<Page<Task>> =
        trial.fleet.ask(&format!("/jobs/{job}/tasks?state=running&limit=500")).await;
    for task in running.map(|page| page.items).unwrap_or_default() {
        let detail = trial.fleet.detail(&task).await;
        let its = detail.attempts.first().map_or(0, |attempt| attempt.version);
        if its != version && !has_stopped {
            problems.push(format!("{} has version {its}, not {version}", task.address));
        }
    }
    let processes = trial.witness.survivors().len();
    if !has_stopped && processes != count {
        problems.push(format!("{processes} processes of {count} instances in the end"));
    }
    problems
}

async fn strike(fleet: &mut Fleet, is_gentle: bool, rng: &mut StdRng) {
    let worker = rng.random_range(0..fleet.workers());
    match rng.random_range(0..if is_gentle { 3 } else { 6 }) {
        0 | 1 => fleet.kill_agent(worker),
        2 => {
            fleet.kill_master(0).await;
            fleet.revive_master(0);
        }
        3 | 4 => crate::gaffer::kill_executor(&fleet.worker_dir(worker)).await,
        _ => {
            fleet.kill_worker(worker).await;
            fleet.revive_worker(worker);
        }
    }
}

/// Its readiness comes and goes.
fn flap(unready: &Path, rng: &mut StdRng) {
    if rng.random_ratio(1, 60) {
        std::fs::write(unready, "").unwrap();
    } else if rng.random_ratio(1, 20) {
        let _ = std::fs::remove_file(unready);
    }
}
