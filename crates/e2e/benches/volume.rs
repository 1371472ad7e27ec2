//! Large output: 100 MB of noise on both streams, and ten million short lines; exact to the byte, memory bounded.
//!
//! `cargo build --release && cargo bench -p gaffer-e2e --bench volume`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::process::Stdio;
use std::time::{Duration, Instant};

use gaffer_e2e::gaffer::{Dev, data_dir};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

fn main() {
    gaffer_e2e::cluster::as_for_users();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = data_dir();
        let dev = Dev::start_with(dir.path(), &[("GAFFER_LOG", "warn")]).await;
        // A key stream is noise that can be made again for comparing.
        let noise = |seed: u32| {
            format!("head -c 50000000 /dev/zero | openssl enc -aes-128-ctr -nosalt -pass pass:{seed} -pbkdf2")
        };
        let both = json!({ "script": format!("{} & {} >&2; wait", noise(1), noise(2)) });
        let expected = (plain(&noise(1)).await, plain(&noise(2)).await);
        run(&dev, "100 MB of noise on both streams", both, Some(expected)).await;
        let lines = json!({ "script": "seq 1 10000000" });
        let expected = (plain("seq 1 10000000").await, (String::new(), 0));
        run(&dev, "10 million short lines", lines, Some((expected.0, (sha(&[]), 0)))).await;
        dev.interrupt().await;
    });
}

async fn run(dev: &Dev, name: &str, spec: Value, expected: Option<((String, u64), (String, u64))>) {
    let before = resident_mb(dev);
    let start = Instant::now();
    let job = dev.client.submit(spec).await;
    let mut peak = before;
    let done = loop {
        let job = dev.client.get(&format!("/jobs/{job}?wait=100ms")).await;
        peak = peak.max(resident_mb(dev));
        if !job.body["finished_at"].is_null() {
            break job.body;
        }
        assert!(start.elapsed() < Duration::from_secs(300), "{name} does not end");
    };
    let took = start.elapsed().as_secs_f64();
    assert_eq!(done["state"], "completed");
    let (stdout, stderr) = logs(dev, job).await;
    let mb = (stdout.1 + stderr.1) as f64 / 1e6;
    if let Some(expected) = expected {
        assert_eq!((stdout, stderr), expected, "{name} is not exact");
    }
    println!(
        "{name}: exact; {mb:.0} MB in {took:.1} s ({:.0} MB/s); resident before {before} MB, at most {peak} MB (master and worker in one process)",
        mb / took
    );
}

/// What `gaffer logs` writes of each stream, as checksum and length.
async fn logs(dev: &Dev, job: i64) -> ((String, u64), (String, u64)) {
    (stream(dev, job, "stdout").await, stream(dev, job, "stderr").await)
}

async fn stream(dev: &Dev, job: i64, stream: &str) -> (String, u64) {
    let start = Instant::now();
    let mut command = dev.cli(&["logs", "--stream", stream, &job.to_string()]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let read = digest(child.stdout.as_mut().unwrap()).await;
    assert!(child.wait().await.unwrap().success());
    let mb = read.1 as f64 / 1e6;
    println!("  {stream} read back by `gaffer logs` at {:.0} MB/s", mb / start.elapsed().as_secs_f64());
    read
}

async fn digest(from: &mut (impl AsyncReadExt + Unpin)) -> (String, u64) {
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = from.read(&mut buffer).await.unwrap();
        if n == 0 {
            return (hex(hash), length);
        }
        hash.update(&buffer[..n]);
        length += n as u64;
    }
}

async fn plain(script: &str) -> (String, u64) {
    let mut command = tokio::process::Command::new("sh");
    let mut child = command.args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let digest = digest(child.stdout.as_mut().unwrap()).await;
    child.wait().await.unwrap();
    digest
}

fn sha(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn resident_mb(dev: &Dev) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", dev.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
