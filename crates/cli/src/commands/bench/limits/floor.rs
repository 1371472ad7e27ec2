//! The floor program: what a simple careful program needs for a task that does nothing.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use gaffer_master::store::bench::floor::{FloorDatabase, FloorEnd};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::super::figures::millis_since;
use super::super::local;
use super::{processors, run_true};
use crate::failure::Failure;

/// Tasks that are stored in one transaction, and the most ends.
const ACCEPTED_AT_ONCE: usize = 500;
const ENDED_AT_ONCE: usize = 1_000;
/// Tasks that wait in memory.
const QUEUE: usize = 20_000;

/// What the program does for a task between its two rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Runs `true` and captures its output.
    Process,
    Nothing,
}

impl Work {
    /// What the program is called in results.
    pub fn floor_name(self) -> &'static str {
        match self {
            Work::Process => "floor program",
            Work::Nothing => "floor program without processes",
        }
    }
}

/// Tasks per second. Tasks start as soon as their rows are durable, as many at a time as there are processors; ends are stored
/// together whenever the ones before are.
pub async fn throughput(server_url: &str, tasks: u32, work: Work) -> Result<f64, Failure> {
    let mut accepting = connect(server_url).await?;
    let mut finishing = connect(server_url).await?;
    accepting.empty().await.map_err(failed())?;
    let begun = Instant::now();
    let (accepted, waiting) = mpsc::channel(QUEUE);
    let (ended, mut ends) = mpsc::channel(QUEUE);
    let waiting = Arc::new(Mutex::new(waiting));
    let mut runners = JoinSet::new();
    for _ in 0..processors() {
        runners.spawn(run_tasks(work, waiting.clone(), ended.clone()));
    }
    // What is left are the runners' own.
    drop((waiting, ended));
    let accept = async {
        let mut left = tasks as usize;
        while left > 0 {
            let batch = left.min(ACCEPTED_AT_ONCE);
            for task in accepting.accept("true", batch).await.map_err(failed())? {
                // Fails only if all runners have failed.
                let _ = accepted.send(task).await;
            }
            left -= batch;
        }
        drop(accepted);
        Ok::<(), Failure>(())
    };
    let finish = async {
        let mut batch: Vec<FloorEnd> = Vec::new();
        while ends.recv_many(&mut batch, ENDED_AT_ONCE).await > 0 {
            finishing.finish(&batch).await.map_err(failed())?;
            batch.clear();
        }
        Ok(())
    };
    tokio::try_join!(accept, finish)?;
    let rate = f64::from(tasks) / begun.elapsed().as_secs_f64();
    while let Some(ran) = runners.join_next().await {
        ran.map_err(local("a runner of the floor program failed"))??;
    }
    Ok(rate)
}

async fn run_tasks(
    work: Work,
    waiting: Arc<Mutex<mpsc::Receiver<i64>>>,
    ended: mpsc::Sender<FloorEnd>,
) -> Result<(), Failure> {
    loop {
        let next = waiting.lock().await.recv().await;
        let Some(task) = next else { return Ok(()) };
        let started_at = SystemTime::now();
        let (exit_code, output) = match work {
            Work::Process => {
                let ran = run_true().await?;
                (ran.status.code().unwrap_or(-1), ran.stdout)
            }
            Work::Nothing => (0, Vec::new()),
        };
        let end = FloorEnd { task, started_at, finished_at: SystemTime::now(), exit_code, output };
        if ended.send(end).await.is_err() {
            return Ok(());
        }
    }
}

/// How long one task takes, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct FloorLatency {
    /// From before the insert until the process has been started.
    pub started_ms: f64,
    pub first_byte_ms: f64,
    /// Until its end is durable.
    pub final_ms: f64,
}

/// One task that writes a line, alone.
pub async fn latency(server_url: &str) -> Result<FloorLatency, Failure> {
    let mut database = connect(server_url).await?;
    // A connection in use has its statements prepared.
    one_task(&mut database).await?;
    one_task(&mut database).await
}

async fn one_task(database: &mut FloorDatabase) -> Result<FloorLatency, Failure> {
    let cannot_run = || local("cannot run `echo`");
    let begun = Instant::now();
    let elapsed = || millis_since(begun);
    let task =
        database.accept("echo hello", 1).await.map_err(failed())?.into_iter().next().unwrap_or_default();
    let started_at = SystemTime::now();
    let mut command = Command::new("echo");
    command
        .arg("hello")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut process = command.spawn().map_err(cannot_run())?;
    let started_ms = elapsed();
    let mut output = Vec::with_capacity(64);
    if let Some(mut stdout) = process.stdout.take() {
        stdout.read_buf(&mut output).await.map_err(cannot_run())?;
    }
    let first_byte_ms = elapsed();
    let status = process.wait().await.map_err(cannot_run())?;
    let exit_code = status.code().unwrap_or(-1);
    let end = FloorEnd { task, started_at, finished_at: SystemTime::now(), exit_code, output };
    database.finish(&[end]).await.map_err(failed())?;
    Ok(FloorLatency { started_ms, first_byte_ms, final_ms: elapsed() })
}

async fn connect(server_url: &str) -> Result<FloorDatabase, Failure> {
    FloorDatabase::connect(server_url).await.map_err(failed())
}

fn failed<E: std::fmt::Display>() -> impl FnOnce(E) -> Failure {
    local("the database of the floor program failed")
}
