//! How an agent finds or starts the executor.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tracing::level_filters::LevelFilter;

use super::frame::{self, Build, FromExecutor, Opening, Refusal, ToExecutor, Wire};
use super::handle::Executor;
use super::host::{ExecutorProcess, Host};
use super::spawn::executor;
use super::{ExecutorPlace, process, watch};
use crate::execution::ExecutionSettings;

/// A healthy executor responds faster.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
/// A new executor may have to clean up first.
const BEGIN_PATIENCE: Duration = Duration::from_secs(120);
/// How long another one may take to make room.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(50);

/// Gets an executor of that data directory.
///
/// # Errors
/// When another worker has it, or when it cannot begin.
pub(crate) async fn obtain(place: ExecutorPlace, settings: ExecutionSettings) -> anyhow::Result<Executor> {
    let data_dir = settings.data_dir.clone();
    let allow_setuid = settings.drivers.allow_setuid;
    let opening = ToExecutor::Open(Box::new(Opening {
        settings,
        build: Build::own(),
        log_level: LevelFilter::current().to_string(),
    }));
    let began = Instant::now();
    loop {
        let reached = match place {
            ExecutorPlace::Here => here()?,
            ExecutorPlace::Process => match process::connect(&data_dir).await.and_then(already_there) {
                Ok(reached) => reached,
                Err(_nobody) => {
                    let (host, wire) = executor(&data_dir, allow_setuid)
                        .context("cannot start the executor of this worker")?;
                    Reached { wire, host, patience: BEGIN_PATIENCE }
                }
            },
        };
        let Reached { wire, host, patience } = reached;
        match timeout(patience, knock(wire, &opening)).await {
            Ok(Some((wire, FromExecutor::Ready))) => {
                let executor = Executor::new(wire, host.clone());
                watch::begin(&executor, &host);
                return Ok(executor);
            }
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

/// The executor that listens there. An error if it is dead: what it was just starting may hold its socket open.
fn already_there(stream: UnixStream) -> io::Result<Reached> {
    let pid = stream.peer_cred()?.pid().ok_or_else(|| io::Error::other("the executor has no process id"))?;
    let host = Host::process(ExecutorProcess::open(pid)?);
    Ok(Reached { wire: frame::wire(stream), host, patience: ANSWER_PATIENCE })
}
