//! The worker: connects to a master, runs attempts and streams their output back.
//!
//! Execution (`execution`: attempts, drivers, spool) and connection (`connection`) run in separate processes and exchange
//! messages: see [`executor`].

mod attempt;
mod blocking;
mod clock;
pub mod config;
mod connection;
mod data_dir;
mod directory;
pub mod driver;
mod execution;
mod executor;
mod job_user;
mod machine;
pub mod ports;
mod private_place;
pub mod route;
pub mod simulated;
pub mod spool;
mod startup;
mod stats;
#[cfg(test)]
mod tests;
mod try_master;

use std::path::Path;

use anyhow::Context as _;
use gaffer_domain::quantity::Bytes;
use gaffer_domain::spec::Resources;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use config::{ApiKey, WorkerConfig, default_data_dir};
use config::{OnStop, Settings};
use connection::{BackoffSettings, ConnectionSettings, Duplicate};
use driver::DriverSettings;
use execution::ExecutionSettings;
pub use executor::{EXECUTOR_COMMAND, ExecutorPlace, WATCHDOG_COMMAND, keep, watchdog};
use ports::PortSettings;
use route::Route;
pub use startup::{Hangup, begin, reset_signals};
pub use try_master::{Found, Tried, try_master};

/// Runs a worker until `shutdown`, with its attempts in `place`.
///
/// On `shutdown` nothing new is taken; what runs is asked to end, killed after its grace (at most 10 s) and reported
/// as lost to the shutdown; no process is left behind. Set to leave its attempts ([`WorkerConfig::on_stop`]), it only
/// hangs up.
///
/// For a `wss` master, a default rustls crypto provider must be installed.
///
/// # Errors
/// When the configuration cannot be used, when another worker holds the data directory, or when another worker with
/// the same identity has taken this one's place. An unreachable master, or one that refuses the key, is no error: it
/// is tried again.
pub async fn run(
    config: WorkerConfig,
    place: ExecutorPlace,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    run_with(config, place, BackoffSettings::default(), shutdown).await
}

async fn run_with(
    config: WorkerConfig,
    place: ExecutorPlace,
    patience: BackoffSettings,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let settings = config.resolve()?;
    let data_dir = data_dir::prepare(&settings.data_dir)?;
    data_dir::refuse_copy(&data_dir)?;
    let mut copied_from = None;
    loop {
        let identity = data_dir::identity(&data_dir)?;
        let ran =
            run_as(identity, &settings, &data_dir, copied_from.clone(), place, patience.clone(), &shutdown)
                .await;
        let duplicate = match ran {
            Err(error) => error.downcast::<Duplicate>()?,
            Ok(()) => return Ok(()),
        };
        // A second time would not help either.
        if !duplicate.begins_anew || copied_from.is_some() || shutdown.is_cancelled() {
            return Err(duplicate.into());
        }
        tracing::warn!("{}; this one begins as a new worker", duplicate.message);
        data_dir::replace_identity(&data_dir, identity)?;
        copied_from = Some(duplicate.message);
    }
}

/// Runs a worker with this identity until `shutdown`. `copied_from`: the master's message to the previous identity.
async fn run_as(
    identity: Uuid,
    settings: &Settings,
    data_dir: &Path,
    copied_from: Option<String>,
    place: ExecutorPlace,
    patience: BackoffSettings,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let farewell = patience.farewell;
    let on_stop = settings.on_stop;
    let boot_id = execution::boot_id()?;
    let route = Route::to(settings.master_url.clone(), &settings.proxies, settings.tls_ca.as_deref())?;
    let capacity = capacity(settings, data_dir)?;
    let execution = ExecutionSettings {
        data_dir: data_dir.to_owned(),
        boot_id: boot_id.clone(),
        token: process_token(identity),
        worker_name: settings.name.clone(),
        capacity,
        countables: settings.countables.clone(),
        spool_limit: settings.spool_limit.map(|limit| limit.0),
        drivers: DriverSettings {
            host: settings.host_driver,
            inherited: settings.job_environment.clone(),
            user: settings.job_user.clone(),
            allow_setuid: settings.allow_setuid,
            docker: settings.docker.clone(),
            scripted: settings.scripted_driver,
        },
        owner: container_owner(identity),
        ports: PortSettings {
            range: settings.port_range,
            advertise: settings.advertise_addr.clone(),
            toward: Some(route.first_stop()),
        },
    };
    let mut warnings = connection::warnings(data_dir);
    warnings.extend(settings.job_user_shortcoming());
    warnings.extend(copied_from.map(|message| format!("began as a new worker: {message}")));
    let connection = ConnectionSettings {
        route,
        api_key: settings.api_key.clone(),
        patience,
        identity,
        place: machine::place(data_dir, &boot_id),
        name: settings.name.clone(),
        labels: settings.labels.clone(),
        datacenter: settings.datacenter.clone(),
        capacity,
        countables: settings.countables.clone(),
        arch: architecture(),
        warnings,
        data_dir: data_dir.to_owned(),
    };
    loop {
        // Also during shutdown: an existing executor's attempts must end.
        let executor = executor::obtain(place, execution.clone()).await?;
        let closing = CancellationToken::new();
        let mut connected =
            tokio::spawn(connection::run(connection.clone(), executor.clone(), closing.clone()));
        let early_end = tokio::select! {
            ended = &mut connected => Some(ended),
            () = shutdown.cancelled() => None,
        };
        if early_end.is_some() && executor.is_gone() {
            tracing::error!("the executor of this worker has exited: another one takes its place");
            continue;
        }
        // No process stays behind, however the connection ended; while connected, each end is reported.
        if early_end.is_some() || on_stop == OnStop::End {
            executor.shut_down().await;
        }
        let ended = match early_end {
            Some(ended) => ended,
            None => {
                if on_stop == OnStop::End {
                    let _ = tokio::time::timeout(farewell, executor.all_acknowledged()).await;
                }
                closing.cancel();
                connected.await
            }
        };
        if on_stop == OnStop::End {
            executor.leave().await;
        }
        return ended.context("the connection to the master ended unexpectedly")?;
    }
}

/// Whether a worker with this data directory lives on this machine.
///
/// # Errors
/// When the directory cannot be looked into.
pub fn is_running(data_dir: &Path) -> std::io::Result<bool> {
    data_dir::is_held(data_dir)
}

/// The capacity of the worker. Of the disk, what is free now.
fn capacity(settings: &Settings, data_dir: &Path) -> anyhow::Result<Resources> {
    let disk = stats::disk(data_dir)
        .with_context(|| format!("cannot measure the disk of {}", data_dir.display()))?;
    Ok(Resources { cpu: settings.cpu, memory: settings.memory, disk: Bytes(disk.available) })
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

/// As printed by `uname -m`.
fn architecture() -> String {
    let name = nix::sys::utsname::uname().ok().and_then(|name| name.machine().to_str().map(str::to_owned));
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}
