//! How fast tiny tasks go through, and how soon the first byte of one is seen; each beside what the machine can do.
//!
//! `cargo build --release && cargo bench -p gaffer-e2e --bench dispatch`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::process::Stdio;
use std::time::{Duration, Instant};

use futures::StreamExt;
use gaffer_e2e::client::Client;
use gaffer_e2e::gaffer::{Dev, data_dir};
use serde_json::json;

const TASKS: u32 = 10_000;
const FLOOR_SPAWNS: u32 = 4_000;
const ROUNDS: usize = 3;
const LATENCY_RUNS: usize = 50;

fn main() {
    gaffer_e2e::cluster::as_for_users();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = data_dir();
        let dev = Dev::start_with(dir.path(), &[("GAFFER_WORKER_NAME", "one"), ("GAFFER_LOG", "warn")]).await;
        let more = [data_dir(), data_dir()];
        let mut workers = Vec::new();
        for (name, dir) in ["two", "three"].into_iter().zip(&more) {
            workers.push(dev.add_worker(name, dir.path()).await);
        }
        throughput(&dev.client).await;
        latency(&dev.client).await;
        dev.interrupt().await;
    });
}

/// Rounds of both, one after the other, so that a slow moment of the machine meets both.
async fn throughput(client: &Client) {
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let floor = floor().await;
        let rate = tasks(client).await;
        println!("round {round}: {rate:.0} tasks/s, plain spawns {floor:.0}/s, ratio {:.2}", rate / floor);
        ratios.push(rate / floor);
    }
    println!("{TASKS} × true on three workers: median ratio to plain spawns {:.2}", median(ratios));
}

async fn tasks(client: &Client) -> f64 {
    let start = Instant::now();
    let job = client.submit(json!({"command": ["true"], "count": TASKS})).await;
    let done = client.finished_within(job, Duration::from_secs(300)).await;
    assert_eq!(done.task_counts.get("completed"), Some(&i64::from(TASKS)), "{done:?}");
    f64::from(TASKS) / start.elapsed().as_secs_f64()
}

/// The same program in a plain loop, its output captured, as many at a time as there are processors.
async fn floor() -> f64 {
    let start = Instant::now();
    let spawns = futures::stream::iter(0..FLOOR_SPAWNS).for_each_concurrent(2, |_| async {
        let mut command = tokio::process::Command::new("true");
        command.stdin(Stdio::null()).process_group(0);
        assert!(command.output().await.unwrap().status.success());
    });
    spawns.await;
    f64::from(FLOOR_SPAWNS) / start.elapsed().as_secs_f64()
}

/// From before the submission to the first byte that a client of the API reads, on an idle system.
async fn latency(client: &Client) {
    let mut samples = Vec::new();
    for run in 0..LATENCY_RUNS + 5 {
        let start = Instant::now();
        let job = client.submit(json!({"command": ["echo", "hello"]})).await;
        let response = client.open(&format!("/jobs/{job}/output?follow=1"), "text/plain").await;
        let first = response.bytes_stream().next().await.unwrap().unwrap();
        assert!(first.starts_with(b"h"));
        if run >= 5 {
            samples.push(start.elapsed().as_secs_f64() * 1e3);
        }
        client.finished(job).await;
    }
    samples.sort_by(f64::total_cmp);
    let (p95, worst) = (samples[LATENCY_RUNS * 95 / 100], samples[LATENCY_RUNS - 1]);
    println!(
        "submit → first output byte: median {:.1} ms, p95 {p95:.1} ms, worst {worst:.1} ms of {LATENCY_RUNS}",
        median(samples)
    );
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
