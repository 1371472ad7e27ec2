//! `gaffer master`, `gaffer worker` and its executor: server commands and their common setup.

use std::future::Future;
use std::io;

use clap::{ArgMatches, Args, FromArgMatches, Subcommand};
use gaffer_master::config::MasterConfig;
use gaffer_worker::ExecutorPlace;
use gaffer_worker::config::{ApiKey, WorkerConfig};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::commands::workers::WorkerAction;
use crate::commands::{supervisor, worker_key};
use crate::config::{self, WorkerPart};
use crate::failure::Failure;
use crate::open_files;
use crate::out::Out;
use crate::signals::Signals;

/// Jobs inherit the limit on open files, and some programs look at each file that there could be.
const MAX_OPEN_FILES_OF_JOBS: u64 = 65_536;

/// `gaffer worker` runs one here; with an action it speaks about one elsewhere.
#[derive(Debug)]
pub enum WorkerArgs {
    /// Run a worker on this machine.
    Serve(Box<WorkerConfig>),
    /// Ask the master about a worker.
    Act(WorkerAction),
}

// By hand, because a worker's required options are not required beside an action.
impl FromArgMatches for WorkerArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand_name() {
            Some(_) => WorkerAction::from_arg_matches(matches).map(WorkerArgs::Act),
            None => WorkerConfig::from_arg_matches(matches).map(|config| WorkerArgs::Serve(Box::new(config))),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = WorkerArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for WorkerArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let command = WorkerAction::augment_subcommands(WorkerConfig::augment_args(command));
        command.subcommand_required(false).arg_required_else_help(false).subcommand_negates_reqs(true)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        WorkerArgs::augment_args(command)
    }
}

/// Runs a master until a signal.
///
/// # Errors
/// [`Failure::Local`] with what brought it down.
pub fn master(config: MasterConfig, out: &Out) -> Result<u8, Failure> {
    serve(out, "info", |shutdown| {
        open_files::raise(u64::MAX);
        gaffer_master::run(config, shutdown)
    })
}

/// Runs a worker until a signal. `key` is what the supervisor passes to its agents.
///
/// # Errors
/// [`Failure::Local`] with what brought it down.
pub fn worker(config: WorkerConfig, key: Option<&ApiKey>, out: &Out) -> Result<u8, Failure> {
    let config = match config::worker_part() {
        WorkerPart::Supervisor => return supervisor::run(key, out),
        WorkerPart::Agent { is_given_key: true } => config.with_key(worker_key::receive()?),
        WorkerPart::Agent { is_given_key: false } => config,
    };
    end_with_supervisor();
    serve(out, "info", |shutdown| gaffer_worker::run(config, ExecutorPlace::Process, shutdown))
}

/// Ends this process abruptly when its supervisor has exited, because another agent replaces it.
fn end_with_supervisor() {
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(1);
    });
}

/// Runs the executor of the worker that started this process.
///
/// # Errors
/// [`Failure::Local`] with what brought it down.
pub fn executor() -> Result<u8, Failure> {
    open_files::raise(MAX_OPEN_FILES_OF_JOBS);
    behind_a_worker(&mut Builder::new_multi_thread(), gaffer_worker::keep())
}

/// Watches the executor that started this process.
///
/// # Errors
/// [`Failure::Local`] with what brought it down.
pub fn watchdog() -> Result<u8, Failure> {
    behind_a_worker(&mut Builder::new_current_thread(), gaffer_worker::watchdog())
}

/// Runs an internal process of a worker. It has no terminal and logs elsewhere.
fn behind_a_worker(
    runtime: &mut Builder,
    process: impl Future<Output = anyhow::Result<()>>,
) -> Result<u8, Failure> {
    let runtime = start(runtime)?;
    let ended = runtime.block_on(process);
    runtime.shutdown_background();
    ended.map(|()| 0).map_err(|error| Failure::Local(format!("{error:#}")))
}

fn start(runtime: &mut Builder) -> Result<Runtime, Failure> {
    runtime.enable_all().build().map_err(|error| Failure::Local(format!("cannot start: {error}")))
}

/// Runs a server until SIGTERM or Ctrl-C; a second signal ends it at once. `filter` is the default log filter.
///
/// # Errors
/// [`Failure::Local`] with what brought it down.
pub fn serve<F>(out: &Out, filter: &str, server: impl FnOnce(CancellationToken) -> F) -> Result<u8, Failure>
where
    F: Future<Output = anyhow::Result<()>>,
{
    log_to_stderr(out, filter)?;
    let runtime = start(&mut Builder::new_multi_thread())?;
    let ended = runtime.block_on(until_told(server));
    runtime.shutdown_background();
    ended
}

async fn until_told<F>(server: impl FnOnce(CancellationToken) -> F) -> Result<u8, Failure>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let brought_down = |error: anyhow::Error| Failure::Local(format!("{error:#}"));
    let mut signals = Signals::listen().map_err(|error| Failure::Local(format!("cannot start: {error}")))?;
    let shutdown = CancellationToken::new();
    let server = server(shutdown.clone());
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return ended.map(|()| 0).map_err(brought_down),
        _ = signals.next() => {}
    }
    tracing::info!("shutting down; a second signal ends at once");
    shutdown.cancel();
    tokio::select! {
        ended = server => ended.map(|()| 0).map_err(brought_down),
        order = signals.next() => Ok(order.exit_code()),
    }
}

fn log_to_stderr(out: &Out, filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(config::log_filter().as_deref().unwrap_or(filter))
        .map_err(|error| Failure::Usage(format!("GAFFER_LOG is invalid: {error}")))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let set = if config::logs_json() {
        log.json().try_init()
    } else {
        log.with_ansi(out.has_colours(gaffer_protocol::output::Stream::Stderr)).try_init()
    };
    set.map_err(|error| Failure::Local(format!("cannot start the log: {error}")))
}
