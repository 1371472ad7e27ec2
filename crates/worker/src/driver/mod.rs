//! The contract of drivers, and their registry.
//!
//! A driver starts an attempt and returns a `Process` to control it and an `OutputSource` to read it. The contract:
//!
//! * **capabilities** — what the driver supports, see [`Capabilities`]. No other code asks which driver it is.
//! * **prepare** — before `start` nothing exists outside the worker. `start` takes scarce resources only when it is sure
//!   to begin; after an error nothing runs, nothing is left behind, and nothing of the job is ever executed. It may take
//!   long and reports its progress; once cancelled it returns soon, even if what it waits for does not respond.
//! * **adopt** — attempts may outlive this process. Then another process adopts them and continues to read the output
//!   where the reading was interrupted.
//! * **input** — is empty, or exactly the bytes given to `InputSink`, and ends when that is shut down or dropped. The
//!   writer waits until the job reads.
//! * **output** — is attached before the first instruction of the job, so that no byte is missed, and ends when nothing
//!   can write any more. Each stream is exact; the two are interleaved as they were read, each piece with its time. A
//!   reader that does not read slows the job down: a driver buffers nothing beyond the kernel's buffers.
//! * **wait** — `poll_exit` returns the end of the main process exactly once, with its best known cause: an exit code, a
//!   signal, or out of memory. Output may still follow.
//! * **stop** — `signal` forwards a signal to all processes that should receive it, and returns whether the main process
//!   was still there. It never waits for an effect.
//! * **kill** — `kill` kills every process of the attempt; after it, `poll_exit` is ready as soon as the kernel has
//!   reaped the main process.
//! * **finish** — after the exit, `finish` kills processes that outlived the main process, and returns how many were
//!   killed and how many are left. It is cheap when there are none.
//! * **clean up** — after the end of the output, `clean_up` releases what `start` took. Nothing is left.
//!
//! None of these waits for a file on the caller's thread: see [`crate::blocking`].
//!
//! Dropping a `Process` that has not exited kills at least its main process, though not always at once.

mod capabilities;
mod cgroup;
mod docker;
mod host;
mod process_tree;
mod processes;
mod program;
#[cfg(feature = "scripted")]
pub mod scripted;
mod stuck;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, pending, ready, select_all};
use gaffer_domain::AttemptRef;
use gaffer_domain::health::CheckKind;
use gaffer_domain::reason::{LostCause, ProcessEnd};
use gaffer_domain::spec::{DriverKind, StopSignal};
use gaffer_protocol::definitions::StartAttempt;
use gaffer_protocol::output::{Record, Stream};
use gaffer_protocol::wire::{ContainerFacts, DriverStatus, KillReceipt};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;
use tokio_util::sync::CancellationToken;

use crate::config::DockerSettings;
use crate::job_user::JobUser;
use crate::spool::Position;

pub(crate) use capabilities::Capabilities;
pub(crate) use cgroup::shortcoming as cgroup_shortcoming;
pub use docker::bare_container;
pub(crate) use process_tree::{
    Leftover, adopt_orphans, is_dead, kill_leftovers, kill_marked, kill_what_was_being_started_by,
    reap_forsaken_orphans,
};
pub(crate) use processes::lists_children;

/// An attempt that is to be executed, as its hooks have prepared it.
#[derive(Debug, Clone)]
pub(crate) struct Assignment {
    pub start: Arc<StartAttempt>,
    /// Variables of the job and of gaffer, on every driver.
    pub environment: BTreeMap<String, String>,
    /// Its own directories, if its driver [uses files of this machine](Capabilities::uses_host_files).
    pub directories: Option<Directories>,
    /// Files with secrets for a container: where each is on this machine, and where in the container.
    pub secret_files: Vec<(PathBuf, String)>,
    /// A driver that starts on a thread that may block tells it there.
    pub on_start: OnStart,
    /// Tells the processes of this attempt from all others on this machine.
    pub marker: String,
}

/// What an attempt has on this machine for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directories {
    /// A private, empty directory that is removed after the attempt; the default working directory.
    pub work: PathBuf,
    /// For its temporary files; by a path that leaves room for the name of a socket.
    pub temporary: PathBuf,
    /// The file that holds the script, if the action is one.
    pub script: Option<PathBuf>,
}

/// What is to be done once there is a main process, by the first that is on a thread that may block.
#[derive(Clone, Default)]
pub(crate) struct OnStart(Arc<Mutex<Option<Tell>>>);

/// Takes the number of the main process, where it is one of this machine.
type Tell = Box<dyn FnOnce(Option<i32>) + Send>;

impl OnStart {
    pub fn new(tell: impl FnOnce(Option<i32>) + Send + 'static) -> OnStart {
        OnStart(Arc::new(Mutex::new(Some(Box::new(tell)))))
    }

    /// Whether nobody has done it, or begun to.
    pub fn is_waiting(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Does it, unless somebody has. Blocks.
    pub fn tell(&self, pid: Option<i32>) {
        let tell = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(tell) = tell {
            tell(pid);
        }
    }
}

impl fmt::Debug for OnStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnStart").field(&self.is_waiting()).finish()
    }
}

pub(crate) struct Started {
    pub process: Box<dyn Process>,
    pub output: Box<dyn OutputSource>,
    /// Its standard input, if it can be written to.
    pub input: Option<InputSink>,
    /// The number of the main process, where it is one of this machine.
    pub pid: Option<i32>,
    /// The container, if it runs in one.
    pub container: Option<ContainerFacts>,
    /// Runs further programs beside it, if the driver can and the task asks for that.
    pub exec: Option<Box<dyn Exec>>,
}

/// The most output of a further program that is kept.
pub(crate) const MAX_EXEC_OUTPUT: usize = 4 << 10;

/// Runs a further program beside a task: in its directory, with its environment, and within its limits.
pub(crate) trait Exec: Send + Sync {
    /// Runs it and waits for its end, for no longer than `limit` beside what its driver takes to start it.
    /// Where it cannot be killed after that, none is started for the same check until it has ended.
    fn run<'a>(
        &'a self,
        check: CheckKind,
        command: &'a [String],
        limit: Duration,
    ) -> BoxFuture<'a, Result<Executed, ExecError>>;
}

/// Why the end of a further program is not known, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ExecError {
    /// It cannot be started, or has not ended in time.
    Failed(String),
    /// The driver is away, which says nothing of the task.
    Away(String),
}

impl From<String> for ExecError {
    fn from(why: String) -> ExecError {
        ExecError::Failed(why)
    }
}

/// The end of a further program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Executed {
    pub end: ProcessEnd,
    /// The beginning of what it wrote.
    pub output: Vec<u8>,
}

/// The standard input of an attempt. Dropping it ends the input.
pub(crate) type InputSink = Pin<Box<dyn AsyncWrite + Send>>;

/// Why there is no process: the exit code of a shell, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartError {
    /// 126: not executable, 127: not found, 125: anything else.
    pub exit_code: i32,
    pub message: String,
}

/// How a main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Ended by itself or by a signal.
    Process(ProcessEnd),
    /// Out of memory.
    OutOfMemory,
    /// Lost together with its environment; the attempt is not at fault.
    Lost(LostCause),
}

/// Control over an attempt that executes. See the module for the contract.
pub(crate) trait Process: Send {
    /// The end of the main process. Not called again after it was returned.
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<Exit>;
    /// Sends a signal; false if the main process has exited.
    fn signal(&mut self, signal: StopSignal) -> BoxFuture<'_, bool>;
    /// Kills everything; false if the main process has exited.
    fn kill(&mut self) -> BoxFuture<'_, bool>;
    /// After the exit: nothing is to be left. None if nothing had to be killed, now or before.
    fn finish(&mut self) -> BoxFuture<'_, Option<KillReceipt>>;
    /// After the end of the output: nothing is kept.
    fn clean_up(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }
}

/// The output of an attempt that executes.
pub(crate) trait OutputSource: Send {
    /// The next piece, at most 256 KiB; none at the end. Nothing is lost if the answer is not waited for.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Record>>;
    /// There is much output of a stream: the kernel is to hold more of it between two reads, if it can. How many bytes that are by
    /// now, if it is more.
    fn widen(&mut self, _stream: Stream) -> Option<usize> {
        None
    }
    /// The next piece of a stream is asked for in a moment only: until then nobody is to be woken by each write, if that can be.
    fn rest(&mut self, _stream: Stream) {}
    /// What was read and held back; to be asked for when nothing is read any more.
    fn finish(&mut self) -> Vec<Record> {
        Vec::new()
    }
    /// Whether the output ends soon after the process in any case; otherwise an undetected process may keep it open.
    fn has_certain_end(&self) -> bool {
        false
    }
}

/// One way to execute attempts. See the module for the contract.
pub(crate) trait Driver: Send + Sync {
    fn capabilities(&self) -> Capabilities;

    /// What to tell the master; none if there is nothing to tell of this driver.
    fn status(&self) -> Option<DriverStatus>;

    /// Ends once [`Self::status`] has changed since this was called.
    fn changes(&self) -> BoxFuture<'static, ()> {
        Box::pin(pending())
    }

    /// Looks whether what was not well is by now. To be called every few seconds. May block.
    fn look_again(&self) {}

    /// Starts an attempt. `note` hears how far that is.
    fn start<'a>(
        &'a self,
        assignment: Assignment,
        note: &'a (dyn Fn(String) + Send + Sync),
        cancelled: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Started, StartError>>;

    /// Adopts an attempt of an earlier process. `position` is how far its output was read, if known. An error says
    /// why it cannot be adopted.
    fn adopt<'a>(
        &'a self,
        _start: &'a StartAttempt,
        _has_started: bool,
        _position: Option<Position>,
        _cancelled: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Started, LostCause>> {
        Box::pin(ready(Err(LostCause::WorkerRestarted)))
    }
}

/// The drivers that this worker has.
#[derive(Clone)]
pub(crate) struct Drivers(Arc<Vec<(DriverKind, Box<dyn Driver>)>>);

/// Which drivers a worker has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DriverSettings {
    pub host: bool,
    /// The environment that every job on the host gets from its worker.
    pub inherited: BTreeMap<String, String>,
    /// The user that jobs on the host run as; none for the worker's own.
    #[serde(default)]
    pub user: Option<JobUser>,
    /// Whether jobs may gain rights by setuid programs; if not, the executor has no_new_privs.
    #[serde(default)]
    pub allow_setuid: bool,
    pub docker: Option<DockerSettings>,
    pub scripted: bool,
}

/// Kills all that a process of the same owner left in its cgroups.
pub(crate) fn end_cgroups(owner: &str) {
    drop(cgroup::Cgroups::open(owner));
}

impl Drivers {
    /// `owner` tells what belongs to this worker from what belongs to others; `adopting` are the attempts that will be
    /// [adopted](Driver::adopt).
    pub async fn open(
        settings: DriverSettings,
        owner: String,
        adopting: impl Iterator<Item = AttemptRef>,
    ) -> io::Result<Drivers> {
        let mut drivers: Vec<(DriverKind, Box<dyn Driver>)> = Vec::new();
        if settings.host {
            let driver = host::HostDriver::new(settings.inherited, settings.user, &owner)?;
            drivers.push((DriverKind::Host, Box::new(driver)));
        }
        if let Some(settings) = settings.docker {
            let driver = docker::DockerDriver::open(settings, owner, adopting).await?;
            drivers.push((DriverKind::Docker, Box::new(driver)));
        }
        #[cfg(feature = "scripted")]
        if settings.scripted {
            drivers.push((DriverKind::Scripted, Box::new(scripted::ScriptedDriver)));
        }
        Ok(Drivers(Arc::new(drivers)))
    }

    /// What to tell the master.
    pub fn status(&self) -> Vec<DriverStatus> {
        self.0.iter().filter_map(|(_, driver)| driver.status()).collect()
    }

    /// Ends once [`Self::status`] has changed since this was called.
    pub fn changes(&self) -> BoxFuture<'static, ()> {
        // Never empty, for which there would be nothing to select.
        let never: BoxFuture<'static, ()> = Box::pin(pending());
        let changes: Vec<_> =
            self.0.iter().map(|(_, driver)| driver.changes()).chain(std::iter::once(never)).collect();
        Box::pin(async move {
            select_all(changes).await;
        })
    }

    /// Looks whether what was not well is by now. To be called every few seconds. May block.
    pub fn look_again(&self) {
        self.0.iter().for_each(|(_, driver)| driver.look_again());
    }

    /// What a driver can do: nothing if this worker does not have it.
    pub fn capabilities(&self, kind: DriverKind) -> Capabilities {
        self.of(kind).map(Driver::capabilities).unwrap_or_default()
    }

    /// Starts an attempt. `note` hears how far that is.
    pub async fn start(
        &self,
        assignment: Assignment,
        note: &(dyn Fn(String) + Send + Sync),
        cancelled: &CancellationToken,
    ) -> Result<Started, StartError> {
        let kind = assignment.start.definition.driver;
        let Some(driver) = self.of(kind) else {
            return Err(StartError::other(format!("this worker has no {} driver", kind.as_str())));
        };
        if let Some(what) = driver.capabilities().missing(&assignment.start.definition) {
            return Err(StartError::other(format!("the {} driver does not support {what}", kind.as_str())));
        }
        driver.start(assignment, note, cancelled).await
    }

    /// Adopts an attempt of an earlier process; see [`Driver::adopt`].
    pub async fn adopt(
        &self,
        start: &StartAttempt,
        has_started: bool,
        position: Option<Position>,
        cancelled: &CancellationToken,
    ) -> Result<Started, LostCause> {
        match self.of(start.definition.driver) {
            Some(driver) => driver.adopt(start, has_started, position, cancelled).await,
            None => Err(LostCause::WorkerRestarted),
        }
    }

    fn of(&self, kind: DriverKind) -> Option<&dyn Driver> {
        self.0.iter().find(|(of, _)| *of == kind).map(|(_, driver)| driver.as_ref())
    }
}

impl StartError {
    fn not_found(message: String) -> StartError {
        StartError { exit_code: 127, message }
    }

    fn not_executable(name: &str) -> StartError {
        StartError { exit_code: 126, message: format!("not executable: {name}") }
    }

    /// It was stopped before it started.
    pub fn cancelled() -> StartError {
        StartError::other("it was stopped before it started")
    }

    /// Anything else that kept it from starting.
    pub fn other(message: impl Into<String>) -> StartError {
        StartError { exit_code: 125, message: message.into() }
    }
}
