//! Measurements during faults: small jobs, reported health, acknowledgements.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gaffer_domain::AttemptRef;
use gaffer_protocol::rest::{Job, System};
use reqwest::Method;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use tokio::time::{sleep, timeout};

use super::super::fleet::Fleet;
use super::super::tap::Tap;

const SMALL_INTERVAL: Duration = Duration::from_millis(300);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// An answer that takes longer is none.
const ANSWER_LIMIT: Duration = Duration::from_secs(12);
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A small job: when it was submitted, and when it was over.
#[derive(Debug, Clone, Copy)]
pub struct Small {
    pub job: i64,
    pub submitted: Instant,
    pub over: Instant,
}

/// Submits one small job after the other. Gives those that were over in time, and all that were accepted.
pub async fn small_jobs(fleet: &Fleet, spec: &Value, key: u64, done: &AtomicBool) -> (Vec<Small>, Vec<i64>) {
    let (mut all, mut accepted) = (Vec::new(), Vec::new());
    let mut key = key;
    while !done.load(Ordering::Relaxed) {
        key = key.wrapping_add(1);
        let submitted = Instant::now();
        let job = fleet.submit(spec, key).await;
        accepted.push(job);
        while !done.load(Ordering::Relaxed) {
            let seen = fleet.ask::<Job>(&format!("/jobs/{job}?wait=5s")).await;
            if seen.is_some_and(|job| job.finished_at.is_some()) {
                all.push(Small { job, submitted, over: Instant::now() });
                break;
            }
            sleep(LOOK_INTERVAL / 5).await;
        }
        sleep(SMALL_INTERVAL).await;
    }
    (all, accepted)
}

/// What the master said of itself at a time.
#[derive(Debug, Clone, Copy)]
pub struct Said {
    pub at: Instant,
    /// That something is wrong.
    pub trouble: bool,
    pub ready: bool,
}

/// Asks `readyz` and `/system` again and again.
pub async fn self_reports(fleet: &Fleet, said: &Mutex<Vec<Said>>, done: &AtomicBool) {
    let client = fleet.client();
    let readyz = format!("http://127.0.0.1:{}/readyz", fleet.api_ports()[0]);
    while !done.load(Ordering::Relaxed) {
        let ready = timeout(ANSWER_LIMIT, reqwest::get(&readyz));
        let system = timeout(ANSWER_LIMIT, client.request(Method::GET, "/system").send());
        let (ready, system) = tokio::join!(ready, system);
        let ready = ready.ok().and_then(Result::ok).map(|answer| answer.status().as_u16());
        let system = match system {
            Ok(Ok(answer)) => {
                fleet.note(&answer);
                let status = answer.status().as_u16();
                Some((status, answer.json::<System>().await.ok()))
            }
            _ => None,
        };
        let is_trouble = |system: &System| {
            system.database_trouble.is_some()
                || system.change_trouble.is_some()
                || !system.locked_jobs.is_empty()
                || system.has_dead_letters
        };
        let trouble = ready == Some(503)
            || match &system {
                Some((503, _)) => true,
                Some((_, Some(system))) => is_trouble(system),
                _ => false,
            };
        let now = Said { at: Instant::now(), trouble, ready: ready == Some(200) };
        said.lock().unwrap().push(now);
        sleep(LOOK_INTERVAL).await;
    }
}

/// Compares what the master acknowledges with what is stored by then. Gives how much was compared, and what was
/// acknowledged too early.
pub async fn acknowledgements(fleet: &Fleet, tap: &Tap, done: &AtomicBool) -> (usize, Vec<String>) {
    let mut owner = PgConnection::connect(fleet.database_url()).await.unwrap();
    let (mut outputs, mut ends) = (HashMap::<AttemptRef, u64>::new(), HashSet::<AttemptRef>::new());
    let (mut compared, mut early) = (0, Vec::new());
    loop {
        let is_last = done.load(Ordering::Relaxed);
        // First what was heard: whatever is stored later counts for it, and not the other way round.
        let heard = tap.heard();
        let new: Vec<(AttemptRef, u64)> = heard
            .outputs
            .iter()
            .filter(|(attempt, offset)| outputs.get(*attempt) != Some(*offset))
            .map(|(attempt, offset)| (*attempt, *offset))
            .collect();
        for (attempt, told, stored) in outputs_stored(&mut owner, &new).await {
            if stored < told {
                early.push(format!("{attempt}: {told} bytes are acknowledged, {stored} stored"));
            }
        }
        let new_ends: Vec<AttemptRef> = heard.ends.difference(&ends).copied().collect();
        let unended = ends_missing(&mut owner, &new_ends).await;
        early.extend(unended.into_iter().map(|(task, attempt)| {
            format!("the end of attempt {attempt} of task {task} is acknowledged, and not stored")
        }));
        compared += new.len() + new_ends.len();
        outputs.extend(new);
        ends.extend(new_ends);
        if is_last {
            return (compared, early);
        }
        sleep(CHECK_INTERVAL).await;
    }
}

/// How much of each output is in its place or set aside, of what begins before the given offset.
async fn outputs_stored(owner: &mut PgConnection, told: &[(AttemptRef, u64)]) -> Vec<(AttemptRef, u64, u64)> {
    let tasks: Vec<i64> = told.iter().map(|(attempt, _)| attempt.task.0).collect();
    let attempts: Vec<i32> = told.iter().map(|(attempt, _)| attempt.attempt.cast_signed()).collect();
    let offsets: Vec<i64> = told.iter().map(|(_, offset)| offset.cast_signed()).collect();
    let stored: Vec<i64> = sqlx::query_scalar(
        "SELECT (COALESCE((SELECT sum(payload_bytes) FROM output_chunks c WHERE c.task_id = t.task \
             AND c.attempt = t.attempt AND c.start_offset < t.told), 0) \
           + COALESCE((SELECT sum(payload_bytes) FROM dead_letters d WHERE d.task_id = t.task \
             AND d.attempt = t.attempt AND d.start_offset < t.told), 0))::bigint \
         FROM UNNEST($1::bigint[], $2::int[], $3::bigint[]) WITH ORDINALITY AS t(task, attempt, told, place) \
         ORDER BY place",
    )
    .bind(tasks)
    .bind(attempts)
    .bind(offsets)
    .fetch_all(owner)
    .await
    .unwrap();
    told.iter()
        .zip(stored)
        .map(|((attempt, told), stored)| (*attempt, *told, stored.unsigned_abs()))
        .collect()
}

async fn ends_missing(owner: &mut PgConnection, told: &[AttemptRef]) -> Vec<(i64, i32)> {
    let tasks: Vec<i64> = told.iter().map(|attempt| attempt.task.0).collect();
    let attempts: Vec<i32> = told.iter().map(|attempt| attempt.attempt.cast_signed()).collect();
    sqlx::query_as(
        "SELECT t.task, t.attempt FROM UNNEST($1::bigint[], $2::int[]) AS t(task, attempt) \
         WHERE NOT EXISTS (SELECT FROM attempts a WHERE a.task_id = t.task AND a.attempt = t.attempt \
             AND a.finished_at IS NOT NULL)",
    )
    .bind(tasks)
    .bind(attempts)
    .fetch_all(owner)
    .await
    .unwrap()
}
