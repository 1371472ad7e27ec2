//! The limits of this machine, measured beside gaffer: processes, durable commits, pipes, loopback, and the floor program.

mod floor;
mod streams;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gaffer_master::config::postgres_settings;
use gaffer_master::embedded_postgres::EmbeddedPostgres;
use gaffer_master::store::bench::floor::FloorDatabase;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::directory::ScratchDirectory;
use super::figures::{Figures, MEGABYTES_PER_SECOND, MILLISECONDS, PER_SECOND, TASKS_PER_SECOND};
use super::{Bench, local};
use crate::failure::Failure;
pub use floor::{FloorLatency, Work};
pub use streams::pipe;

/// Processes that are started for the rate of starts.
const SPAWNS: usize = 1_000;
/// For how long commits are counted.
const COMMITS_FOR: Duration = Duration::from_millis(500);
/// Tasks of the floor program alone.
const FLOOR_TASKS: u32 = 2_000;

/// Where the floor program keeps its tasks.
pub struct Limits {
    server_url: String,
    /// A server that was started for that alone; else the one of a scratch installation.
    own_server: Option<(EmbeddedPostgres, ScratchDirectory)>,
}

impl Limits {
    /// Uses the server of a scratch installation: the same log, the same disk.
    ///
    /// # Errors
    /// [`Failure::Local`].
    pub async fn beside(server_url: String) -> Result<Limits, Failure> {
        FloorDatabase::make(&server_url).await.map_err(local("cannot prepare the floor program"))?;
        Ok(Limits { server_url, own_server: None })
    }

    /// Starts a server in a new directory of this machine.
    ///
    /// # Errors
    /// [`Failure::Local`], most often because Postgres is not installed.
    pub async fn alone(dir: ScratchDirectory, pg_bin: Option<PathBuf>) -> Result<Limits, Failure> {
        let settings = postgres_settings(dir.path().to_owned(), pg_bin);
        let server = EmbeddedPostgres::start(settings).await.map_err(local("cannot start a database"))?;
        let limits = Limits::beside(server.url().to_owned()).await?;
        Ok(Limits { own_server: Some((server, dir)), ..limits })
    }

    /// Removes what was made for it.
    ///
    /// # Errors
    /// [`Failure::Local`] if the directory cannot be removed.
    pub async fn stop(self) -> Result<(), Failure> {
        let Some((server, dir)) = self.own_server else { return Ok(()) };
        server.stop().await;
        dir.remove()
    }

    /// Tasks per second of the floor program: durable insert, this work, durable end. Without work it is what the database
    /// allows.
    ///
    /// # Errors
    /// [`Failure::Local`].
    pub async fn floor(&self, tasks: u32, work: Work) -> Result<f64, Failure> {
        floor::throughput(&self.server_url, tasks, work).await
    }

    /// One task of the floor program on an idle machine.
    ///
    /// # Errors
    /// [`Failure::Local`].
    pub async fn floor_latency(&self) -> Result<FloorLatency, Failure> {
        floor::latency(&self.server_url).await
    }

    async fn commits(&self) -> Result<f64, Failure> {
        let failed = || local("cannot commit");
        let mut database = FloorDatabase::connect(&self.server_url).await.map_err(failed())?;
        let (begun, mut commits) = (Instant::now(), 0);
        while begun.elapsed() < COMMITS_FOR {
            database.accept("true", 1).await.map_err(failed())?;
            commits += 1;
        }
        Ok(f64::from(commits) / begun.elapsed().as_secs_f64())
    }
}

/// Measures all of them by themselves.
///
/// # Errors
/// [`Failure::Local`].
pub async fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
    for round in bench.rounds() {
        bench.show("limits", round);
        figures.add("starts of `true`, output captured", PER_SECOND, starts().await?);
        figures.add("pipe, large writes", MEGABYTES_PER_SECOND, pipe(&bench.large_writes()).await? / 1e6);
        figures.add("loopback TCP", MEGABYTES_PER_SECOND, streams::loopback().await? / 1e6);
        if let Some(limits) = bench.limits {
            figures.add("durable commits, one client", PER_SECOND, limits.commits().await?);
            let tasks = FLOOR_TASKS.min(bench.args.first_tasks());
            let work = Work::Process;
            figures.add(work.floor_name(), TASKS_PER_SECOND, limits.floor(tasks, work).await?);
            let latency = limits.floor_latency().await?;
            figures.add("floor program, first byte", MILLISECONDS, latency.first_byte_ms);
            figures.add("floor program, durable end", MILLISECONDS, latency.final_ms);
        }
    }
    Ok(())
}

/// Processes per second, as many at a time as there are processors.
async fn starts() -> Result<f64, Failure> {
    let (at_once, begun) = (processors(), Instant::now());
    let each = SPAWNS.div_ceil(at_once);
    let mut runners = JoinSet::new();
    for _ in 0..at_once {
        runners.spawn(async move {
            for _ in 0..each {
                run_true().await?;
            }
            Ok::<(), Failure>(())
        });
    }
    while let Some(ran) = runners.join_next().await {
        ran.map_err(local("cannot run `true`"))??;
    }
    Ok((each * at_once) as f64 / begun.elapsed().as_secs_f64())
}

async fn run_true() -> Result<std::process::Output, Failure> {
    let mut command = Command::new("true");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command.output().await.map_err(local("cannot run `true`"))
}

/// Processors of this machine.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
