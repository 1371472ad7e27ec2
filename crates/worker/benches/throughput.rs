//! How fast one worker is: tasks per second, time to the end of one, and output.
//!
//! `cargo bench -p gaffer-worker`, or with a name to run only that. A master of a few lines sits in the same process
//! and takes its share of the processors.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    dead_code
)]

use std::time::{Duration, Instant};

use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_domain::spec::Resources;
use gaffer_protocol::wire::{ToMaster, ToWorker};
use gaffer_worker::{ApiKey, ExecutorPlace, WorkerConfig};
use tokio_util::sync::CancellationToken;

#[path = "../src/tests/master.rs"]
mod master;

use master::{Master, Order, Said, Session};

/// Attempts that the master has under way at once.
const BACKLOG: usize = 64;

#[tokio::main]
async fn main() {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| name.contains(only));
    for slots in [2, 4, 8] {
        if wanted("floor") {
            floor(10_000, slots).await;
        }
        if wanted("true") {
            let words = ["true"];
            tasks(&format!("true, {slots} at once"), 10_000, slots, |task| master::command(task, &words))
                .await;
        }
        if wanted("echo") {
            let words = ["echo", "hello"];
            tasks(&format!("echo, {slots} at once"), 10_000, slots, |task| master::command(task, &words))
                .await;
        }
    }
    if wanted("scripted") {
        tasks("scripted, 64 at once", 100_000, 64, |task| master::play(task, "out hello")).await;
    }
    if wanted("latency") {
        latency().await;
    }
    if wanted("output") {
        output("zeros", "head -c 1000000000 /dev/zero").await;
        output("random", "head -c 500000000 /dev/urandom").await;
        output("lines", "yes 0123456789abcdef | head -c 500000000").await;
    }
}

async fn worker(slots: u32) -> (Session, tempfile::TempDir, impl Future<Output = ()>) {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start().await;
    let config = WorkerConfig {
        cpu: Some(Cpu::from_millis(slots * 1000)),
        scripted_driver: true,
        ..WorkerConfig::new(master.url.clone(), ApiKey::from("key".to_owned()), dir.path())
    };
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(gaffer_worker::run(config, ExecutorPlace::Here, shutdown.clone()));
    let session = master.accept_and_welcome().await;
    let stop = async move {
        shutdown.cancel();
        running.await.unwrap().unwrap();
    };
    (session, dir, stop)
}

async fn tasks(name: &str, count: i64, slots: u32, start: impl Fn(i64) -> Order) {
    let (mut session, _dir, stop) = worker(slots).await;
    let cpu_before = cpu_seconds();
    let began = Instant::now();
    let (mut sent, mut ended) = (0, 0);
    while ended < count {
        let room = BACKLOG as i64 - (sent - ended);
        if room >= 16 && sent < count {
            let next = (sent + 1)..=(sent + room).min(count);
            let resources = Resources { cpu: Cpu::from_millis(1000), memory: Bytes(0), disk: Bytes(0) };
            let starts: Vec<Order> = next.map(|task| Order { resources, ..start(task) }).collect();
            sent += starts.len() as i64;
            session.start(starts).await;
        }
        let mut answers = Vec::new();
        let mut said = Some(session.next().await);
        while let Some(one) = said {
            match one {
                Said::Report(ToMaster::Heartbeat(beat)) => {
                    answers.push(ToWorker::Alive { sequence: beat.sequence })
                }
                Said::Report(ToMaster::Ended(report)) => {
                    assert_eq!(report.end.exit_code(), Some(0), "{report:?}");
                    ended += 1;
                    answers.push(ToWorker::EndStored { attempt: report.attempt });
                }
                Said::Output(chunk) => {
                    answers.push(ToWorker::OutputStored { attempt: chunk.attempt, offset: chunk.end() });
                }
                Said::Report(_) => {}
                Said::Nothing => panic!("the worker went away"),
            }
            said = session.said_already();
        }
        if !answers.is_empty() {
            session.send(&answers).await;
        }
    }
    let took = began.elapsed();
    let cpu = cpu_seconds() - cpu_before;
    let count = count as f64;
    println!(
        "{name:24} {:8.0} tasks/s   {:6.0} us of processor each, with its process and the master",
        count / took.as_secs_f64(),
        cpu / count * 1e6
    );
    stop.await;
}

/// The same processes with nothing around them: what this machine can do at the moment.
async fn floor(count: i64, slots: u32) {
    let cpu_before = cpu_seconds();
    let began = Instant::now();
    let left = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(count));
    let one_after_the_other = |_| {
        let left = left.clone();
        tokio::spawn(async move {
            while left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) > 0 {
                let output = tokio::process::Command::new("/bin/true").process_group(0).output();
                assert!(output.await.unwrap().status.success());
            }
        })
    };
    futures::future::join_all((0..slots).map(one_after_the_other)).await;
    let (took, cpu, count) = (began.elapsed(), cpu_seconds() - cpu_before, count as f64);
    println!(
        "{:24} {:8.0} tasks/s   {:6.0} us of processor each, with its process",
        format!("floor, {slots} at once"),
        count / took.as_secs_f64(),
        cpu / count * 1e6
    );
}

async fn latency() {
    let (mut session, _dir, stop) = worker(2).await;
    let mut times: Vec<Duration> = Vec::new();
    for task in 1..=500 {
        let began = Instant::now();
        session.see_through(vec![master::command(task, &["true"])]).await;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!("start to end of true     {:8.2?} median, {:.2?} at 99 %", times[250], times[495]);
    stop.await;
}

async fn output(name: &str, script: &str) {
    let (mut session, _dir, stop) = worker(2).await;
    let began = Instant::now();
    session.start([master::script(1, script)]).await;
    let mut bytes = 0;
    loop {
        match session.next().await {
            Said::Output(chunk) => {
                bytes = chunk.end();
                session.send(&[ToWorker::OutputStored { attempt: chunk.attempt, offset: bytes }]).await;
            }
            Said::Report(ToMaster::Ended(report)) => {
                assert_eq!(report.output_bytes, bytes);
                session.send(&[ToWorker::EndStored { attempt: report.attempt }]).await;
                break;
            }
            Said::Report(_) => {}
            Said::Nothing => panic!("the worker went away"),
        }
    }
    let rate = bytes as f64 / began.elapsed().as_secs_f64() / 1e6;
    println!("output, {name:16} {rate:8.0} MB/s, peak memory {} MB", peak_memory_mb());
    stop.await;
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_ascii_whitespace()
        .skip(11)
        .take(4)
        .map(|field| field.parse().unwrap())
        .collect();
    fields.iter().sum::<f64>() / 100.0
}

fn peak_memory_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
