//! A Postgres server is killed, restarted and cut off while jobs are submitted and end: everything that was
//! acknowledged, to a user or a worker, is still there.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gaffer_domain::AttemptRef;
use gaffer_protocol::rest::{Page, Task};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::Method;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::time::sleep;

use super::fleet::{Setup, Ways};
use super::plan::Plan;
use super::server::Server;
use super::tap::{Heard, Tap};
use super::trial::Trial;
use super::verdict::Verdict;
use crate::client::Client;

/// Faults of one run, as time allows.
const CYCLES: u32 = 50;
/// Connections are cut off so often in a storm.
const STORM: u32 = 5;
const PAUSE_MILLIS: std::ops::Range<u64> = 500..1_500;
const SUBMIT_PAUSE: Duration = Duration::from_millis(50);
/// Tasks of a job that is submitted on the side.
const SMALL: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Told {
    /// Jobs that were accepted, with what they follow from.
    accepted: Vec<(i64, u64)>,
    /// What jobs follow from of which nobody said whether they were.
    unknown: Vec<u64>,
    /// Tasks that were shown as completed: job, index, attempt.
    completed: BTreeSet<(i64, u32, u32)>,
}

/// Strikes up to fifty times, as time allows.
pub async fn run(plan: &Plan) -> Verdict {
    let tap = Arc::new(Tap::new(plan.seed, &[]));
    let server = Some(Server::start().await);
    let mut trial =
        Trial::begin(plan, Setup { ways: Ways::Tapped(tap.clone()), server, ..Setup::plain() }).await;
    let mut small = trial.spec(&["play".to_owned(), "SEED".to_owned(), plan.percent.min(10).to_string()]);
    small["count"] = SMALL.into();
    let (client, seed) = (trial.fleet.client().clone(), trial.rng.random());
    let (done, is_done) = watch::channel(false);
    let striking = async {
        let end = Instant::now() + plan.duration;
        while Instant::now() < end && trial.faults < CYCLES {
            // Not while the server is away: this waits for an answer.
            trial.feed().await;
            sleep(Duration::from_millis(trial.rng.random_range(PAUSE_MILLIS))).await;
            trial.faults += 1;
            match trial.rng.random_range(0..3) {
                0 => trial.fleet.server().unwrap().strike(Signal::SIGKILL).await,
                1 => trial.fleet.server().unwrap().strike(Signal::SIGQUIT).await,
                _ => {
                    for _ in 0..STORM {
                        trial.fleet.cut_database().await;
                        sleep(SUBMIT_PAUSE).await;
                    }
                }
            }
        }
        done.send_replace(true);
    };
    let submitting = submit_on_the_side(client, small.clone(), seed, is_done);
    let ((), told) = tokio::join!(striking, submitting);
    let tasks = trial.settle().await;
    let mut on_the_side = told.accepted.clone();
    for seed in &told.unknown {
        // May be there or not; submitted again with the same key it is, once.
        on_the_side.push((trial.fleet.submit(&with_seed(&small, *seed), *seed).await, *seed));
    }
    let jobs = [trial.jobs.clone(), on_the_side.clone()].concat();
    let more = on_the_side.len() * SMALL as usize;
    let on_the_side = trial.fleet.settle(&on_the_side, PATIENCE).await;
    let all = [tasks, on_the_side].concat();
    let repeated = trial.repeated(&all).await;
    let mut verdict = trial.judge_with(more, &all, &repeated).await;
    let (accepted, unknown) = (jobs.len() - told.unknown.len(), told.unknown.len());
    let there: BTreeSet<i64> = all.iter().map(|(_, task)| task.job.0).collect();
    let missing = jobs.iter().filter(|(job, _)| !there.contains(job)).count();
    verdict.promise(
        missing == 0,
        format!("jobs accepted {accepted}, and {unknown} when asked again; missing {missing}"),
    );
    let completed: BTreeSet<_> = all
        .iter()
        .filter(|(_, task)| task.state == "completed")
        .map(|(_, task)| (task.job.0, task.index, task.attempt))
        .collect();
    let undone = told.completed.difference(&completed).count();
    let shown = told.completed.len();
    verdict.promise(undone == 0, format!("tasks shown as completed {shown}, not so in the end {undone}"));
    let Heard { outputs, ends } = tap.heard();
    let [outputs_missing, ends_missing] = missing_of(trial.fleet.database_url(), &outputs, &ends).await;
    let (acknowledged, ended) = (outputs.len(), ends.len());
    verdict.promise(
        outputs_missing.is_empty(),
        format!("outputs acknowledged {acknowledged}, missing {} {outputs_missing:?}", outputs_missing.len()),
    );
    verdict.promise(
        ends_missing.is_empty(),
        format!("ends acknowledged {ended}, missing {} {ends_missing:?}", ends_missing.len()),
    );
    let repeats = verdict.repeats_for_faults();
    verdict.promise(repeats == 0, format!("attempts that were ended or declared lost: {repeats}"));
    trial.end(verdict).await
}

fn with_seed(spec: &Value, seed: u64) -> Value {
    let mut spec = spec.clone();
    spec["command"][3] = seed.to_string().into();
    spec
}

/// Submits small jobs, each once, and notes which were accepted; looks at them now and then.
async fn submit_on_the_side(
    client: Client,
    spec: Value,
    seed: u64,
    mut is_done: watch::Receiver<bool>,
) -> Told {
    let (mut rng, mut told) = (StdRng::seed_from_u64(seed), Told::default());
    while !*is_done.borrow_and_update() {
        let seed = rng.random();
        let request = client.request(Method::POST, "/jobs").json(&with_seed(&spec, seed));
        match request.header("idempotency-key", seed.to_string()).send().await {
            Ok(answer) if answer.status().is_success() => {
                let job: Value = answer.json().await.unwrap();
                told.accepted.push((job["id"].as_i64().unwrap(), seed));
            }
            _ => told.unknown.push(seed),
        }
        if !told.accepted.is_empty() {
            let (job, _) = told.accepted[rng.random_range(0..told.accepted.len())];
            let tasks = client.request(Method::GET, &format!("/jobs/{job}/tasks")).send().await;
            if let Ok(answer) = tasks
                && let Ok(page) = answer.json::<Page<Task>>().await
            {
                let completed = page.items.iter().filter(|task| task.state == "completed");
                told.completed.extend(completed.map(|task| (job, task.index, task.attempt)));
            }
        }
        sleep(SUBMIT_PAUSE).await;
    }
    told
}

/// What workers were told is stored, and the database does not have.
async fn missing_of(
    database_url: &str,
    outputs: &HashMap<AttemptRef, u64>,
    ends: &HashSet<AttemptRef>,
) -> [Vec<String>; 2] {
    let mut connection = PgConnection::connect(database_url).await.unwrap();
    let stored: Vec<(i64, i32, i64)> = sqlx::query_as(
        "SELECT task_id, attempt, max(start_offset + payload_bytes) FROM output_chunks GROUP BY task_id, attempt",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let ended: Vec<(i64, i32)> =
        sqlx::query_as("SELECT task_id, attempt FROM attempts WHERE finished_at IS NOT NULL")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let stored: HashMap<(i64, u32), u64> = stored
        .into_iter()
        .map(|(task, attempt, bytes)| ((task, attempt.unsigned_abs()), bytes.unsigned_abs()))
        .collect();
    let ended: BTreeSet<(i64, u32)> =
        ended.into_iter().map(|(task, attempt)| (task, attempt.unsigned_abs())).collect();
    let outputs = outputs.iter().filter_map(|(attempt, told)| {
        let stored = stored.get(&(attempt.task.0, attempt.attempt)).copied().unwrap_or(0);
        (stored < *told).then(|| format!("{attempt}: {stored} of {told}"))
    });
    let ends = ends.iter().filter(|attempt| !ended.contains(&(attempt.task.0, attempt.attempt)));
    [outputs.collect(), ends.map(ToString::to_string).collect()]
}
