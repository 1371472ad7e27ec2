//! How attempts execute: one contract, and the drivers that keep it.
//!
//! A driver starts an attempt and gives a `Process` to control it and an `OutputSource` to read it. The contract:
//!
//! * **capabilities** — what it can do, see [`Capabilities`]. Nobody else asks which driver it is.
//! * **prepare** — before `start` there is nothing outside the worker that would have to be taken down. `start` takes
//!   what is scarce only when it is sure to begin; if it fails, nothing runs and nothing is left behind. It may take
//!   long, and says how it gets on; once it is cancelled it ends soon, one way or the other, also when what it waits
//!   for does not answer. After an error nothing of the job is ever executed.
//! * **adopt** — what a driver started may outlive this process. Then another one goes on with it, from where the
//!   reading of the output was interrupted.
//! * **input** — is empty, or what `InputSink` is given, byte for byte, and ends when that is shut down or dropped. Who
//!   writes waits until the job reads.
//! * **output** — is attached before the first instruction of the job runs, so that no byte is missed, and ends once
//!   nothing can write any more. Each stream is exact; the two are interleaved as they were read, each piece with the
//!   time of its reading. Not reading slows the job down: a driver holds back nothing beyond what the kernel holds.
//! * **wait** — `poll_exit` gives the end of the main process exactly once, with its cause as far as it can be told:
//!   an exit code, a signal, or the want of memory. Output may still come after it.
//! * **stop** — `signal` passes a polite signal on to everything that should hear it, and says whether the main
//!   process was still there to hear it. It never waits for an effect.
//! * **kill** — `kill` ends everything the attempt started, wherever it hid; after it, `poll_exit` is ready as soon as
//!   the kernel lets go of the main process.
//! * **finish** — after the exit, `finish` ends whatever outlived the main process and says what had to be killed in all
//!   and what is still there. It costs nothing when there is nothing to do.
//! * **clean up** — after the end of the output, `clean_up` gives back what `start` took. Nothing is left.
//!
//! Nothing of this waits for a file on the caller's thread: see [`crate::blocking`].
//!
//! Dropping a `Process` that has not exited kills at least its main process, though not always at once.

mod capabilities;
mod cgroup;
mod docker;
mod host;
mod process_tree;
mod processes;
mod program;
pub mod scripted;
mod stuck;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{BoxFuture, pending, ready, select_all};
use gaffer_domain::AttemptRef;
use gaffer_domain::reason::{LostCause, ProcessEnd};
use gaffer_domain::spec::{DriverKind, StopSignal};
use gaffer_protocol::definitions::StartAttempt;
use gaffer_protocol::output::Record;
use gaffer_protocol::wire::{ContainerFacts, DriverStatus, KillReceipt};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;
use tokio_util::sync::CancellationToken;

use crate::config::DockerSettings;
use crate::spool::Position;

pub(crate) use capabilities::Capabilities;
pub(crate) use cgroup::shortcoming as cgroup_shortcoming;
pub(crate) use process_tree::{
    Leftover, MARKER_VARIABLE, adopt_orphans, kill_leftovers, kill_marked, reap_forsaken_orphans,
};
pub(crate) use processes::lists_children;

/// An attempt that is to be executed, as its hooks have prepared it.
#[derive(Debug, Clone)]
pub(crate) struct Assignment {
    pub start: Arc<StartAttempt>,
    /// What the job adds to its environment, and what gaffer says there, whatever it runs in.
    pub environment: BTreeMap<String, String>,
    /// Its own directories, if its driver [uses files of this machine](Capabilities::uses_host_files).
    pub directories: Option<Directories>,
    /// Tells the processes of this attempt from all others on this machine.
    pub marker: String,
}

/// What an attempt has on this machine for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directories {
    /// Private, empty, and gone after the attempt: where it runs unless it says otherwise.
    pub work: PathBuf,
    /// For its temporary files; by a path that leaves room for the name of a socket.
    pub temporary: PathBuf,
    /// The file that holds the script, if the action is one.
    pub script: Option<PathBuf>,
}

/// An attempt that executes.
pub(crate) struct Started {
    pub process: Box<dyn Process>,
    pub output: Box<dyn OutputSource>,
    /// Its standard input, if somebody may write to it.
    pub input: Option<InputSink>,
    /// The number of the main process, where it is one of this machine.
    pub pid: Option<i32>,
    /// What it runs in, if that is a container.
    pub container: Option<ContainerFacts>,
}

/// The standard input of an attempt. Dropping it ends the input.
pub(crate) type InputSink = Pin<Box<dyn AsyncWrite + Send>>;

/// Why there is no process: what a shell would exit with, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartError {
    /// 126: not executable, 127: not found, 125: anything else.
    pub exit_code: i32,
    pub message: String,
}

/// How a main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By itself or by a signal.
    Process(ProcessEnd),
    /// For want of memory.
    OutOfMemory,
    /// With what it ran in, by no fault of its own.
    Lost(LostCause),
}

/// Control over an attempt that executes. See the module for the contract.
pub(crate) trait Process: Send {
    /// How the main process ended. Not to be asked again after it said so.
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<Exit>;
    /// Passes a signal on; false if the main process had ended by itself before.
    fn signal(&mut self, signal: StopSignal) -> BoxFuture<'_, bool>;
    /// Kills everything; false if the main process had ended by itself before.
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
    /// The next piece, at most 64 KiB; none at the end. Nothing is lost if the answer is not waited for.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Record>>;
    /// Whether there is an end soon after that of the process in any case; else something that nobody found may keep
    /// it open.
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

    /// Goes on with an attempt that an earlier process began. `position` is how far its output was read, if that is
    /// known. An error tells why there is nothing to go on with.
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
            let driver = host::HostDriver::new(settings.inherited, &owner)?;
            drivers.push((DriverKind::Host, Box::new(driver)));
        }
        if let Some(settings) = settings.docker {
            let driver = docker::DockerDriver::open(settings, owner, adopting).await?;
            drivers.push((DriverKind::Docker, Box::new(driver)));
        }
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

    /// Goes on with an attempt that an earlier process began; see [`Driver::adopt`].
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

    /// It was told to end before it had begun.
    fn cancelled() -> StartError {
        StartError::other("it was stopped before it started")
    }

    /// Anything else that kept it from starting.
    pub fn other(message: impl Into<String>) -> StartError {
        StartError { exit_code: 125, message: message.into() }
    }
}
