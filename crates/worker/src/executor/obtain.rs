//! How an agent finds or starts the executor.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tracing::level_filters::LevelFilter;

use super::frame::{self, Build, FromExecutor, Opening, Refusal, ToExecutor, Wire};
use super::handle::{Executor, Host};
use super::process;
use super::watch::ExecutorProcess;
use super::{EXECUTOR_COMMAND, ExecutorPlace};
use crate::config;
use crate::execution::ExecutionSettings;

/// A healthy executor responds faster.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
/// A new executor may have to clean up first.
const BEGIN_PATIENCE: Duration = Duration::from_secs(120);
/// How long another one may take to make room.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(50);
/// Executors log to a file without an agent; it is restarted at this size.
const MAX_LOG_BYTES: u64 = 1 << 20;

/// Gets an executor of that data directory.
///
/// # Errors
/// When another worker has it, or when it cannot begin.
pub(crate) async fn obtain(place: ExecutorPlace, settings: ExecutionSettings) -> anyhow::Result<Executor> {
    let data_dir = settings.data_dir.clone();
    let opening = ToExecutor::Open(Box::new(Opening {
        settings,
        build: Build::own(),
        log_level: LevelFilter::current().to_string(),
    }));
    let began = Instant::now();
    loop {
        let reached = match place {
            ExecutorPlace::Here => here()?,
            ExecutorPlace::Process => match process::connect(&data_dir).await {
                Ok(stream) => already_there(stream)?,
                Err(_nobody) => {
                    let (host, wire) =
                        spawn(&data_dir).context("cannot start the executor of this worker")?;
                    Reached { wire, host, patience: BEGIN_PATIENCE }
                }
            },
        };
        let Reached { wire, host, patience } = reached;
        match timeout(patience, knock(wire, &opening)).await {
            Ok(Some((wire, FromExecutor::Ready))) => return Ok(Executor::new(wire, host)),
            Ok(Some((_, FromExecutor::Refused(Refusal::Failed(reason))))) => bail!(reason),
            Ok(Some((_, FromExecutor::Refused(Refusal::Busy)))) if began.elapsed() >= BUSY_PATIENCE => {
                bail!(
                    "another worker uses the data directory {}: stop it, or set GAFFER_DATA_DIR to another \
                     directory",
                    data_dir.display()
                );
            }
            // It is about to make room, or went while it was spoken to.
            Ok(_) if began.elapsed() < LEAVE_PATIENCE => sleep(RETRY).await,
            Err(_silent) if began.elapsed() < LEAVE_PATIENCE => {
                tracing::error!("the executor of this worker does not respond; replacing it");
                host.kill().await;
            }
            Ok(_) | Err(_) => bail!(
                "the executor of this worker does not start; see {}",
                data_dir.join("executor.log").display()
            ),
        }
    }
}

/// An executor that has not yet accepted this agent.
struct Reached {
    wire: Wire,
    host: Host,
    patience: Duration,
}

/// Presents this agent. Gives the answer; none if there is none.
async fn knock(mut wire: Wire, opening: &ToExecutor) -> Option<(Wire, FromExecutor)> {
    frame::say(&mut wire, opening).await.ok()?;
    let answer = frame::hear_executor(&mut wire).await?;
    Some((wire, answer))
}

fn here() -> anyhow::Result<Reached> {
    let (ours, theirs) = UnixStream::pair().context("cannot create a socket pair")?;
    let task = tokio::spawn(process::keep_for(frame::wire(theirs)));
    Ok(Reached { wire: frame::wire(ours), host: Host::task(task), patience: BEGIN_PATIENCE })
}

fn already_there(stream: UnixStream) -> anyhow::Result<Reached> {
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let process =
        pid.context("the executor has no process id").and_then(|pid| Ok(ExecutorProcess::open(pid)?))?;
    Ok(Reached { wire: frame::wire(stream), host: Host::process(process), patience: ANSWER_PATIENCE })
}

/// Starts an executor's process.
pub(super) fn spawn(data_dir: &Path) -> anyhow::Result<(Host, Wire)> {
    let (mut child, wire) = start(EXECUTOR_COMMAND, data_dir, log_file(data_dir)?.into())?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("it has no process id")?;
    let process = ExecutorProcess::open(pid)?;
    tokio::spawn(async move { child.wait().await });
    Ok((Host::process(process), wire))
}

/// Starts another process of this program (also if its file was replaced), with a socket to this one at its
/// standard input. Its environment has only what programs need, because jobs of the same user can read it.
pub(super) fn start(command: &str, data_dir: &Path, log: Stdio) -> io::Result<(Child, Wire)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let child = Command::new("/proc/self/exe")
        .arg0("gaffer")
        .arg(command)
        .env_clear()
        .envs(config::executor_environment())
        .current_dir(data_dir)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    Ok((child, frame::wire(UnixStream::from_std(ours)?)))
}

fn log_file(data_dir: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().create(true).append(true).mode(0o600).open(data_dir.join("executor.log"))?;
    if file.metadata()?.len() > MAX_LOG_BYTES {
        file.set_len(0)?;
    }
    Ok(file)
}
