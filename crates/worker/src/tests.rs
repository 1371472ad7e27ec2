//! The worker as a whole, against a [`master`] of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bare_containers;
mod docker;
pub(crate) mod docker_daemon;
mod docker_services;
mod host;
mod hung;
pub(crate) mod master;
mod restart;
mod secrets;
mod session;
mod stop;

use std::path::Path;
use std::time::Duration;

use gaffer_domain::quantity::Cpu;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::connection::BackoffSettings;
use crate::startup::{self, Hangup};
use crate::{ApiKey, ExecutorPlace, WorkerConfig, run_with};
use master::{Master, Session, soon, until};

/// A worker in this process, with a separate master and data directory.
struct Worker {
    master: Master,
    dir: TempDir,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Worker {
    /// Dials in, and has not been accepted.
    async fn start() -> Worker {
        Worker::start_with(|config| config).await
    }

    async fn start_with(adjust: impl FnOnce(WorkerConfig) -> WorkerConfig) -> Worker {
        // As each process of a worker does: signals that were ignored when the tests started would be ignored in jobs.
        startup::reset_signals(Hangup::Default);
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let config = adjust(config(&master.url, dir.path()));
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(run_with(config, ExecutorPlace::Here, eager(), shutdown.clone()));
        Worker { master, dir, shutdown, running }
    }

    async fn start_and_welcome() -> (Worker, Session) {
        let worker = Worker::start().await;
        let session = worker.master.accept_and_welcome().await;
        (worker, session)
    }

    /// Goes down in good order; nothing of it may be left.
    async fn stop(self) {
        let token = std::fs::read_to_string(self.dir.path().join("identity")).unwrap();
        self.shutdown.cancel();
        soon("the end of the worker", self.running).await.unwrap().unwrap();
        let token = crate::process_token(token.trim().parse().unwrap());
        assert_eq!(marked(&token), [] as [i32; 0], "processes are left behind");
    }
}

fn config(url: &str, dir: &Path) -> WorkerConfig {
    WorkerConfig {
        name: Some("tester".to_owned()),
        cpu: Some(Cpu::from_millis(8000)),
        scripted_driver: true,
        drivers: Some("host".to_owned()),
        ..WorkerConfig::new(url, ApiKey::from("the-key".to_owned()), dir)
    }
}

/// Does not wait long before it dials again.
fn eager() -> BackoffSettings {
    let short = Duration::from_millis(10);
    BackoffSettings {
        first: short,
        longest: short,
        refused: short..short * 2,
        farewell: Duration::from_millis(300),
    }
}

/// Living processes that carry the token of a worker.
fn marked(token: &str) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let is_marked = |pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(token)
    };
    pids.filter(is_marked).collect()
}

/// Whether a process lives: is there, and no zombie.
fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

/// The number that a job's process writes into a file.
async fn pid_in(path: &Path) -> i32 {
    let read = || std::fs::read_to_string(path).ok()?.trim().parse::<i32>().ok();
    until("a process number in a file", || read().is_some()).await;
    read().unwrap()
}
