//! The worker: dials out to a master, executes the attempts it is given, and streams their output back.
//!
//! *What executes* (`execution`: attempts, drivers, spool) and *what talks* (`connection`) meet only in messages of
//! the protocol; either side could be a process of its own.

mod attempt;
mod clock;
pub mod config;
mod connection;
mod data_dir;
pub mod driver;
mod execution;
mod spool;
mod stats;
#[cfg(test)]
mod tests;

use anyhow::Context as _;
use gaffer_domain::quantity::Bytes;
use gaffer_domain::spec::Resources;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use config::Settings;
pub use config::{ApiKey, WorkerConfig, default_data_dir};
use connection::{ConnectionSettings, Patience};
use data_dir::DataDir;
use driver::DriverSettings;
use execution::{Execution, ExecutionSettings};

/// The most that the spool takes if nobody says otherwise; on a small disk half of what is free.
const DEFAULT_SPOOL_LIMIT: u64 = 4 << 30;
/// Files that a worker may have open, if the system allows it. Jobs inherit the limit.
const MAX_OPEN_FILES: u64 = 65_536;
/// Files that the worker itself needs, and those of one attempt: two pipes, its process, its spool.
const OWN_FILES: u64 = 128;
const FILES_PER_ATTEMPT: u64 = 4;

/// Runs a worker until `shutdown`.
///
/// On `shutdown` nothing new is taken; what runs is asked to end, killed after its grace (at most 10 s) and reported
/// as lost to the shutdown; no process is left behind.
///
/// For a `wss` master, a default rustls crypto provider must be installed.
///
/// # Errors
/// When the configuration cannot be used, when another worker holds the data directory, or when another worker with
/// the same identity has taken this one's place. An unreachable master, or one that refuses the key, is no error: it
/// is tried again.
pub async fn run(config: WorkerConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    run_with(config, Patience::default(), shutdown).await
}

async fn run_with(
    config: WorkerConfig,
    patience: Patience,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let farewell = patience.farewell;
    let settings = config.resolve()?;
    let data_dir = DataDir::open(&settings.data_dir)?;
    let identity = data_dir.identity()?;
    let boot_id = execution::boot_id()?;
    let capacity = capacity(&settings, &data_dir)?;
    let execution = Execution::open(ExecutionSettings {
        data_dir: data_dir.path().to_owned(),
        boot_id: boot_id.clone(),
        token: process_token(identity),
        worker_name: settings.name.clone(),
        capacity,
        max_running: max_running(),
        spool_limit: spool_limit(&settings, capacity.disk),
        drivers: DriverSettings {
            host: settings.host_driver,
            inherited: settings.job_environment,
            docker: settings.docker,
            scripted: settings.scripted_driver,
        },
        owner: container_owner(identity),
    })
    .await?;
    let connection = ConnectionSettings {
        master_url: settings.master_url,
        api_key: settings.api_key,
        tls_ca: settings.tls_ca,
        patience,
        identity,
        boot_id,
        name: settings.name,
        labels: settings.labels,
        datacenter: settings.datacenter,
        capacity,
        arch: architecture(),
        warnings: connection::warnings(data_dir.path()),
        data_dir: data_dir.path().to_owned(),
    };
    let closing = CancellationToken::new();
    let mut connected = tokio::spawn(connection::run(connection, execution.clone(), closing.clone()));

    let early_end = tokio::select! {
        ended = &mut connected => Some(ended),
        () = shutdown.cancelled() => None,
    };
    // Whatever ended the connection, no process stays behind; while there is a connection, it tells of each end.
    execution.shut_down().await;
    let ended = match early_end {
        Some(ended) => ended,
        None => {
            let _ = tokio::time::timeout(farewell, execution.all_acknowledged()).await;
            closing.cancel();
            connected.await
        }
    };
    ended.context("the connection to the master ended unexpectedly")?
}

/// Whether a worker with this data directory lives on this machine.
///
/// # Errors
/// When the directory cannot be looked into.
pub fn is_running(data_dir: &std::path::Path) -> std::io::Result<bool> {
    data_dir::is_held(data_dir)
}

/// What the worker offers. Of the disk, what is free now.
fn capacity(settings: &Settings, data_dir: &DataDir) -> anyhow::Result<Resources> {
    let disk = stats::disk(data_dir.path())
        .with_context(|| format!("cannot measure the disk of {}", data_dir.path().display()))?;
    Ok(Resources { cpu: settings.cpu, memory: settings.memory, disk: Bytes(disk.available) })
}

fn spool_limit(settings: &Settings, free_disk: Bytes) -> u64 {
    settings.spool_limit.map_or(DEFAULT_SPOOL_LIMIT.min(free_disk.0 / 2), |limit| limit.0)
}

/// What marks the processes of this worker.
fn process_token(identity: Uuid) -> String {
    token(b"gaffer process token", identity)
}

/// What marks the containers of this worker.
fn container_owner(identity: Uuid) -> String {
    token(b"gaffer container owner", identity)
}

/// What marks something as this worker's, for one purpose: as secret as its identity, without giving that away.
fn token(purpose: &[u8], identity: Uuid) -> String {
    let digest = Sha256::new().chain_update(purpose).chain_update(identity).finalize();
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// As `uname -m` says it.
fn architecture() -> String {
    let name = nix::sys::utsname::uname().ok().and_then(|name| name.machine().to_str().map(str::to_owned));
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// How many attempts the limit on open files allows, after raising it as far as is decent.
fn max_running() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 64 };
    let wanted = hard.min(MAX_OPEN_FILES).max(soft);
    let limit = if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft };
    usize::try_from(limit.saturating_sub(OWN_FILES) / FILES_PER_ATTEMPT).unwrap_or(usize::MAX).max(1)
}
