//! The executor process: starts for one agent, serves later ones, and exits on request or when it has no attempts
//! left.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use gaffer_protocol::boot_time::BootTime;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::frame::{self, Build, FromExecutor, LogLine, Opening, Refusal, ToExecutor, Wire};
use super::serve::{Served, serve};
use super::spawn::socket_at_stdin;
use super::succession::{self, Succession};
use super::{log, watchdog};
use crate::attempt::scratch::ScratchSpace;
use crate::attempt::secret_files::SecretFiles;
use crate::data_dir::{self, DataDirLock, Holder, LockFile};
use crate::driver;
use crate::execution::{Execution, ExecutionSettings};

const SOCKET: &str = "executor.sock";
/// How long an agent may take to present itself.
const OPENING_PATIENCE: Duration = Duration::from_secs(5);
/// How long a newcomer waits for the end of the agent before it.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(1);
/// An agent that is silent for this long hangs: a new one may replace it.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);
/// How long an executor with nothing to run waits for an agent.
const AGENTLESS_PATIENCE: Duration = Duration::from_secs(5);
/// How long it waits for acknowledgements after the last attempt has ended and it was asked to exit.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);
/// How often it looks whether a watchdog is done.
const WATCHDOG_RETRY: Duration = Duration::from_millis(20);
/// How often it thinks about leaving.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// Runs an executor for the agent at standard input, and for later agents. Call it in a process that was started
/// for this alone, inside a Tokio runtime.
///
/// # Errors
/// When nobody is at standard input, or the system refuses something; what concerns the worker is told to the agent.
pub async fn keep() -> anyhow::Result<()> {
    let stream = socket_at_stdin().context("this command is internal: a worker starts its executor")?;
    let mut wire = frame::wire(stream);
    // Detaches from the terminal. Fails if this process leads a group; then it is detached.
    let _ = nix::unistd::setsid();
    let Some(opening) = hear_opening(&mut wire).await else { return Ok(()) };
    let log = log::collect(&opening.log_level);
    let charge = opening.clone();
    let (kept, listener) = match begin(opening, log).await {
        Ok(Some(kept)) => {
            let listener = listen(&kept.settings.data_dir).context("cannot listen for agents")?;
            (kept, listener)
        }
        Ok(None) => return Ok(frame::say(&mut wire, &FromExecutor::Refused(Refusal::Busy)).await?),
        Err(error) => {
            let reason = Refusal::Failed(format!("{error:#}"));
            return Ok(frame::say(&mut wire, &FromExecutor::Refused(reason)).await?);
        }
    };
    frame::say(&mut wire, &FromExecutor::Ready).await?;
    let socket = kept.settings.data_dir.join(SOCKET);
    tokio::spawn(watchdog::always_have_one(charge, kept.served.execution.lease_end()));
    let ended = kept.attend(wire, listener).await;
    let _ = fs::remove_file(socket);
    ended
}

/// Runs an executor for this agent only, until the agent exits.
pub(super) async fn keep_for(mut wire: Wire) {
    let Some(opening) = hear_opening(&mut wire).await else { return };
    let (_, no_log) = mpsc::channel(1);
    let answer = match begin(opening, no_log).await {
        Ok(Some(kept)) => {
            if frame::say(&mut wire, &FromExecutor::Ready).await.is_ok() {
                serve(kept.served, wire).await;
            }
            return;
        }
        Ok(None) => Refusal::Busy,
        Err(error) => Refusal::Failed(format!("{error:#}")),
    };
    let _ = frame::say(&mut wire, &FromExecutor::Refused(answer)).await;
}

/// Connects to the executor of a data directory.
pub(super) async fn connect(data_dir: &Path) -> io::Result<UnixStream> {
    let dir = File::open(data_dir)?;
    UnixStream::connect(short_path(&dir)).await
}

/// The address of a socket has room for little more than a hundred bytes; a data directory may have a longer name.
fn short_path(dir: &File) -> String {
    format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())
}

fn listen(data_dir: &Path) -> io::Result<UnixListener> {
    let dir = File::open(data_dir)?;
    let path = short_path(&dir);
    // Of an earlier executor: this one has the lock.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn hear_opening(wire: &mut Wire) -> Option<Opening> {
    match timeout(OPENING_PATIENCE, frame::hear_agent(wire)).await {
        Ok(Some(ToExecutor::Open(opening))) => Some(*opening),
        _ => None,
    }
}

/// None if another executor has the data directory.
async fn begin(opening: Opening, log: mpsc::Receiver<LogLine>) -> anyhow::Result<Option<Kept>> {
    let Opening { settings, build, .. } = opening;
    let Some(lock) = take_lock(&settings.data_dir).await? else { return Ok(None) };
    data_dir::own_spool(&settings.data_dir, &settings.token)?;
    let execution = Execution::open(settings.clone()).await?;
    Ok(Some(Kept { served: Served::new(execution, log), settings, build, _lock: lock }))
}

/// Waits for a watchdog that ends what an earlier executor left. None if another executor has it.
async fn take_lock(data_dir: &Path) -> anyhow::Result<Option<DataDirLock>> {
    loop {
        let file = LockFile::of(data_dir)?;
        let lock = file.take(Holder::this_executor())?;
        if lock.is_some() {
            return Ok(lock);
        }
        match file.holder() {
            Holder::Watchdog => {}
            Holder::Executor(earlier) if driver::is_dead(earlier) => {
                let take = move || succession::take(earlier, &file, Holder::this_executor());
                match tokio::task::spawn_blocking(take).await? {
                    Succession::Taken(lock) => return Ok(Some(lock)),
                    // Most often its watchdog.
                    Succession::Another => {}
                    Succession::Stuck => return Ok(None),
                }
            }
            Holder::Executor(_) | Holder::Unknown => return Ok(None),
        }
        tokio::time::sleep(WATCHDOG_RETRY).await;
    }
}

struct Kept {
    served: Arc<Served>,
    settings: ExecutionSettings,
    build: Build,
    _lock: DataDirLock,
}

/// An executor's agents and its will to leave.
struct Attendance {
    agent: Option<JoinHandle<()>>,
    /// Since when no agent is connected.
    linkless: Instant,
    /// Since when it was asked to exit and nothing runs.
    idle: Option<Instant>,
    /// The agent has other settings or another program: it wants a new executor as soon as nothing is kept here.
    is_outdated: bool,
}

impl Kept {
    async fn attend(self, first: Wire, listener: UnixListener) -> anyhow::Result<()> {
        let mut terminated = signal(SignalKind::terminate()).context("cannot listen to signals")?;
        let mut look = tokio::time::interval(PROBE_INTERVAL);
        let mut attendance = Attendance {
            agent: Some(tokio::spawn(serve(self.served.clone(), first))),
            linkless: Instant::now(),
            idle: None,
            is_outdated: false,
        };
        while !self.is_to_leave(&mut attendance) {
            tokio::select! {
                _ = look.tick() => {}
                () = end_of(&mut attendance.agent) => {
                    attendance.agent = None;
                    attendance.linkless = Instant::now();
                }
                Ok((stream, _)) = listener.accept() => self.newcomer(stream, &mut attendance).await,
                _ = terminated.recv() => {
                    tracing::info!("shutting down: stopping all attempts");
                    self.served.shut_down();
                }
            }
        }
        self.served.execution.settled().await;
        ScratchSpace::close(&self.settings.data_dir);
        SecretFiles::leave(&self.settings.data_dir);
        Ok(())
    }

    fn is_to_leave(&self, attendance: &mut Attendance) -> bool {
        if self.served.idle.is_cancelled() {
            let idle = *attendance.idle.get_or_insert_with(Instant::now);
            return attendance.agent.is_none() || idle.elapsed() >= FAREWELL_LIMIT;
        }
        let is_of_use = match attendance.agent {
            Some(_) => !attendance.is_outdated,
            None => attendance.linkless.elapsed() < AGENTLESS_PATIENCE,
        };
        !is_of_use && !self.served.execution.has_unfinished()
    }

    /// Accepts an agent, or says why not.
    async fn newcomer(&self, stream: UnixStream, attendance: &mut Attendance) {
        let is_own = stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == nix::unistd::geteuid().as_raw() || peer.uid() == 0);
        let mut wire = frame::wire(stream);
        if !is_own {
            return;
        }
        let Some(opening) = hear_opening(&mut wire).await else { return };
        let answer = self.answer(&opening, attendance).await;
        let is_welcome = answer == FromExecutor::Ready;
        if frame::say(&mut wire, &answer).await.is_ok() && is_welcome {
            let ExecutionSettings { capacity, countables, .. } = &opening.settings;
            self.served.execution.set_offer(*capacity, countables.clone());
            attendance.agent = Some(tokio::spawn(serve(self.served.clone(), wire)));
        }
    }

    async fn answer(&self, opening: &Opening, attendance: &mut Attendance) -> FromExecutor {
        if let Some(agent) = &mut attendance.agent {
            if timeout(PREDECESSOR_PATIENCE, &mut *agent).await.is_err() {
                let silent_for =
                    BootTime::now().as_micros().saturating_sub(self.served.heard_at().as_micros());
                if Duration::from_micros(silent_for) < SILENCE_LIMIT {
                    return FromExecutor::Refused(Refusal::Busy);
                }
                tracing::warn!("the agent does not respond; a new one replaces it");
                agent.abort();
                let _ = agent.await;
            }
            attendance.agent = None;
            attendance.linkless = Instant::now();
        }
        attendance.is_outdated = opening.build != self.build || differ(&opening.settings, &self.settings);
        if self.served.idle.is_cancelled()
            || attendance.is_outdated && !self.served.execution.has_unfinished()
        {
            return FromExecutor::Refused(Refusal::Leaving);
        }
        FromExecutor::Ready
    }
}

/// Whether settings differ in what cannot be changed while attempts execute.
fn differ(one: &ExecutionSettings, other: &ExecutionSettings) -> bool {
    let ExecutionSettings { capacity, worker_name, .. } = other.clone();
    ExecutionSettings { capacity, worker_name, ..one.clone() } != *other
}

async fn end_of(agent: &mut Option<JoinHandle<()>>) {
    match agent {
        Some(agent) => {
            let _ = agent.await;
        }
        None => std::future::pending().await,
    }
}
