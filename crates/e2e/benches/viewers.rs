//! How much those who look slow down those who work: the same load, alternately without open pages and with 200 of
//! each kind.
//!
//! `cargo bench -p gaffer-e2e --bench viewers [KIND...]`, after `cargo build --release`. A thousand workers without processes, a job of
//! 100,000 tasks. `VIEWERS=n` opens another number of pages, `ROUNDS=n` takes more turns,
//! `JOBS=n` adds jobs of the past and tells how long lists of them take.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::stream::SplitSink;
use futures::{SinkExt as _, StreamExt as _};
use gaffer_domain::reason::AttemptEnd;
use gaffer_e2e::raw_worker::{dial, ended, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::output::{ChunkBuilder, Stream};
use gaffer_protocol::wire::{Heartbeat, MachineStats, ToMaster, ToWorker};
use reqwest::header::{ACCEPT, COOKIE};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

const WORKERS: usize = 1_000;
const TASKS: u32 = 100_000;
/// Number of finished tasks after which a job is replaced.
const ENOUGH: u64 = 50_000;
/// How long each turn is measured, after a while to get going. Short, so that what else the machine does meets both.
const MEASURED: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_millis(700);

fn main() {
    gaffer_e2e::cluster::as_for_users();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let setting = |name: &str, default: usize| {
            std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
        };
        let (viewers, rounds) = (setting("VIEWERS", 200), setting("ROUNDS", 9));
        let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
        let stage = Stage::set().await;
        let done = Arc::new(AtomicU64::new(0));
        let mut fleet = JoinSet::new();
        for n in 0..setting("WORKERS", WORKERS) {
            let (url, key, done) = (stage.worker_url(), stage.worker_key.clone(), done.clone());
            fleet.spawn(async move { work(&url, &key, &format!("w{n}"), &done).await });
        }
        let cookie = stage.sign_in(&stage.client).await;
        let jobs = setting("JOBS", 0);
        if jobs > 0 {
            fill(&stage, jobs as i64).await;
            lists(&stage, &cookie).await;
        }
        // One that waits for ever, to be looked at.
        let large = json!({"name": "waits", "script": "true", "count": 1_000, "resources": {"cpu": 500}});
        let waiting = stage.client.submit(large).await;
        for kind in kinds(waiting)
            .into_iter()
            .filter(|(kind, _)| wanted.is_empty() || wanted.iter().any(|one| one == kind))
        {
            let (name, path) = kind;
            let (mut alone, mut watched, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            let (mut job, mut begun_at) = (begin(&stage).await, done.load(Ordering::Relaxed));
            for round in 0..rounds {
                if done.load(Ordering::Relaxed) - begun_at > ENOUGH {
                    end(&stage, job).await;
                    (job, begun_at) = (begin(&stage).await, done.load(Ordering::Relaxed));
                }
                // By turns, and each first as often as the other.
                let mut rates = [0.0; 2];
                for open in if round % 2 == 0 { [0, viewers] } else { [viewers, 0] } {
                    rates[usize::from(open > 0)] = turn(&stage, &cookie, job, &path, open, &done).await;
                }
                alone.push(rates[0]);
                watched.push(rates[1]);
                ratios.push(rates[1] / rates[0]);
            }
            end(&stage, job).await;
            let in_all = watched.iter().sum::<f64>() / alone.iter().sum::<f64>();
            println!(
                "{name:>14}: {:6.0} tasks/s alone, {:6.0} with {viewers} pages open; median ratio {:.3}, of all {in_all:.3}",
                median(alone),
                median(watched),
                median(ratios)
            );
        }
        fleet.abort_all();
        stage.strike().await;
    });
}

/// Adds jobs that are over.
async fn fill(stage: &Stage, jobs: i64) {
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let classes = "INSERT INTO classes (project_id, priority, needs, needs_sha256) \
         SELECT 1, 50, needs, sha256('of the past') FROM classes LIMIT 1 RETURNING id";
    stage.client.submit(json!({"name": "first", "script": "true", "resources": {"cpu": 400}})).await;
    let class: i64 = sqlx::query_scalar(classes).fetch_one(&mut database).await.unwrap();
    let statements = [
        "INSERT INTO jobs (project_id, name, kind, state, priority, labels, spec, lost_after_millis, created_by, \
             created_at, started_at, finished_at, era) \
         SELECT 1, 'build-' || n % 1000, 'batch', 'completed', 50, jsonb_build_object('n', (n % 10000)::text), \
             jsonb_build_object('script', repeat('x', 300)), 60000, 'ana', now(), now(), now(), 0 \
         FROM generate_series(1, $1) n",
        "INSERT INTO task_definitions (job_id, position, name, class_id, driver, single, completed) \
         SELECT id, 0, 'main', $1, 'host', true, 1 FROM jobs WHERE created_by = 'ana'",
    ];
    for (statement, bind) in statements.into_iter().zip([jobs, class]) {
        sqlx::query(statement).bind(bind).execute(&mut database).await.unwrap();
    }
    sqlx::query("ANALYZE").execute(&mut database).await.unwrap();
    println!("{jobs} jobs of the past");
}

/// How long lists take, in milliseconds.
async fn lists(stage: &Stage, cookie: &str) {
    for path in [
        "/jobs",
        "/jobs?name=zzzz",
        "/jobs?driver=docker",
        "/jobs?state=cancelled",
        "/jobs?label=n%3D4242",
        "/jobs?label=n%3D4242&name=zzzz",
        "/jobs?state=failed",
        "/",
    ] {
        let mut times = Vec::new();
        for _ in 0..60 {
            let begun = Instant::now();
            let page = stage.page(path, cookie).await;
            assert_eq!(page.status(), 200);
            page.bytes().await.unwrap();
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        println!(
            "{path:>32}: median {:.1} ms, p95 {:.1} ms, worst {:.1} ms",
            times[30], times[56], times[59]
        );
    }
}

/// Pages by name; `{job}` is the one that runs.
fn kinds(waiting: i64) -> Vec<(&'static str, String)> {
    vec![
        ("job tasks", "/jobs/{job}/live?tab=tasks".to_owned()),
        ("job output", "/jobs/{job}/live?tab=output&task=main.0".to_owned()),
        ("job history", "/jobs/{job}/live?tab=events&after=0".to_owned()),
        ("waiting job", format!("/jobs/{waiting}/live?tab=tasks")),
        ("overview", "/live".to_owned()),
        ("jobs", "/jobs/live".to_owned()),
        ("jobs by name", "/jobs/live?name=zzzz".to_owned()),
        ("queue", "/queue/live".to_owned()),
        ("workers", "/workers/live".to_owned()),
        ("worker", "/workers/w7/live".to_owned()),
        ("history", "/events/live?after=0".to_owned()),
    ]
}

async fn begin(stage: &Stage) -> i64 {
    let spec = json!({"name": "load", "script": "true", "count": TASKS, "resources": {"cpu": 0.1}});
    stage.client.submit(spec).await
}

async fn end(stage: &Stage, job: i64) {
    stage.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    stage.client.finished_within(job, Duration::from_secs(120)).await;
    assert_eq!(stage.client.delete(&format!("/jobs/{job}")).await.status, 204);
}

/// The rate at which tasks end, with so many pages open.
async fn turn(stage: &Stage, cookie: &str, job: i64, path: &str, open: usize, done: &AtomicU64) -> f64 {
    let url = format!(
        "http://{}/projects/default{}",
        stage.running.dashboard,
        path.replace("{job}", &job.to_string())
    );
    let mut pages = JoinSet::new();
    let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    for _ in 0..open {
        let request = http.get(&url).header(ACCEPT, "text/html").header(COOKIE, cookie);
        pages.spawn(async move {
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 200);
            let mut body = response.bytes_stream();
            while let Some(Ok(_)) = body.next().await {}
        });
    }
    pass(WARM_UP).await;
    let (before, begun) = (done.load(Ordering::Relaxed), Instant::now());
    pass(MEASURED).await;
    let rate = (done.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
    assert!(stage.client.job(job).await.finished_at.is_none(), "the job is too short for this machine");
    pages.abort_all();
    rate
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A worker that starts and ends each attempt as soon as it hears of it.
async fn work(url: &str, key: &str, name: &str, done: &AtomicU64) {
    let mut socket = dial(url, key).await.unwrap();
    let said = serde_json::to_string(&[ToMaster::Hello(Box::new(hello(name)))]).unwrap();
    socket.send(Message::Text(said.into())).await.unwrap();
    let (mut to_master, mut from_master) = socket.split();
    let mut beat = tokio::time::interval(Duration::from_secs(5));
    let mut sequence = 0;
    loop {
        let frame = tokio::select! {
            frame = from_master.next() => frame,
            _ = beat.tick() => {
                sequence += 1;
                let stats = MachineStats::default();
                let heartbeat = Heartbeat { sequence, held: Some(Vec::new()), stats, clock: None };
                say(&mut to_master, &[ToMaster::Heartbeat(Box::new(heartbeat))]).await;
                continue;
            }
        };
        let Some(Ok(Message::Text(text))) = frame else {
            let Some(Ok(_)) = frame else { return };
            continue;
        };
        let messages: Vec<ToWorker> = serde_json::from_str(&text).unwrap();
        let mut reports = Vec::new();
        for message in messages {
            match message {
                ToWorker::Start(start) => {
                    let attempt = start.attempt;
                    let mut chunk = ChunkBuilder::new();
                    chunk.push(1_700_000_000_000_000, Stream::Stdout, b"hello\n");
                    let frame = chunk.finish(attempt, 0).to_frame().to_vec();
                    let started = ToMaster::Started {
                        attempt,
                        at: chrono::Utc::now(),
                        container: None,
                        ports: Vec::new(),
                    };
                    say(&mut to_master, &[started]).await;
                    to_master.send(Message::Binary(frame.into())).await.unwrap();
                    reports.push(ToMaster::Ended(Box::new(ended(
                        attempt,
                        AttemptEnd::Exited { code: 0 },
                        6,
                    ))));
                }
                ToWorker::EndStored { .. } => {
                    done.fetch_add(1, Ordering::Relaxed);
                }
                _ => {}
            }
        }
        if !reports.is_empty() {
            say(&mut to_master, &reports).await;
        }
    }
}

async fn say(to_master: &mut SplitSink<Socket, Message>, messages: &[ToMaster]) {
    let text = serde_json::to_string(messages).unwrap();
    let _ = to_master.send(Message::Text(text.into())).await;
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
