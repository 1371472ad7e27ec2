//! The host driver: a process of this machine, in a group of its own, with both its streams captured.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future as _;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::{Pin, pin};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use gaffer_domain::reason::ProcessEnd;
use gaffer_domain::spec::StopSignal;
use gaffer_protocol::output::{Record, Stream};
use gaffer_protocol::wire::KillReceipt;
use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::cgroup::{Cgroup, Cgroups};
use super::process_tree::ProcessTree;
use super::stuck::Stuck;
use super::{Assignment, Exit, InputSink, OutputSource, Process, StartError, Started, program};
use crate::clock::{BootTime, wall_micros};

/// The most that is read at once: what a pipe holds.
const READ_BYTES: usize = 64 << 10;

const KILLED: i32 = Signal::SIGKILL as i32;
const KILLED_CHILD: i32 = 128 + KILLED;

thread_local! {
    /// Read into by whichever attempt reads on this thread; what came is copied out, so that a waiting attempt has no
    /// buffer at all.
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// Starts processes on this machine.
pub(super) struct HostDriver {
    inherited: BTreeMap<String, String>,
    /// None where none can be made.
    cgroups: Option<Cgroups>,
    stuck: Stuck,
}

impl HostDriver {
    /// Ends what an earlier process of the same owner left in its cgroups.
    pub fn new(inherited: BTreeMap<String, String>, owner: &str) -> HostDriver {
        HostDriver { inherited, cgroups: Cgroups::open(owner), stuck: Stuck::new() }
    }

    /// What is left of ended attempts and cannot be killed.
    pub fn stuck(&self) -> &Stuck {
        &self.stuck
    }

    pub fn start(&self, assignment: Assignment<'_>) -> Result<Started, StartError> {
        let Assignment { start, scratch, script, marker, .. } = assignment;
        let environment = program::environment(&self.inherited, &assignment);
        let directory = start.definition.workdir.as_deref().map_or(Ok(scratch), program::work_directory)?;
        let path = environment.get("PATH").map_or("", String::as_str);
        let program = match (&start.definition.action, script) {
            (gaffer_domain::spec::Action::Command(command), _) => program::find(command, directory, path)?,
            (gaffer_domain::spec::Action::Script(_), Some(script)) => program::interpreter(script)?,
            (gaffer_domain::spec::Action::Script(_), None) => {
                return Err(StartError::other("the script was not written to a file"));
            }
        };
        let cgroup =
            self.cgroups.as_ref().map(|cgroups| cgroups.take(start.definition.resources)).transpose();
        let cgroup = cgroup.map_err(|error| StartError::other(format!("cannot make a cgroup: {error}")))?;
        // An absolute program and, where cgroups allow it, nothing to be done between fork and exec: only so is it
        // started without copying the memory map of this process.
        let started = BootTime::now();
        let mut command = Command::new(&program.path);
        command
            .arg0(&program.name)
            .args(&program.arguments)
            .current_dir(directory)
            .env_clear()
            .envs(&environment)
            .stdin(if start.definition.stdin { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = spawn(&mut command, cgroup.as_ref(), start.definition.nice)
            .map_err(|error| refused(&program.name, &error))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| StartError::other("the new process has no number"))?;
        let input = child.stdin.take();
        let output = Pipes { stdout: child.stdout.take(), stderr: child.stderr.take(), turn: Stream::Stdout };
        let tree = ProcessTree::new(pid, marker, scratch.to_owned(), started, cgroup);
        let process = HostProcess { child, tree: Arc::new(tree), killed: None, stuck: self.stuck.clone() };
        Ok(Started {
            input: input.map(|input| Box::pin(input) as InputSink),
            process: Box::new(process),
            output: Box::new(output),
            pid: Some(pid),
            container: None,
        })
    }
}

/// Starts a process. A nice one inherits that from the thread which starts it, and which ends then: without privileges, a
/// thread can become nicer but never less so.
fn spawn(command: &mut Command, cgroup: Option<&Cgroup>, nice: u8) -> io::Result<Child> {
    let spawn = |command: &mut Command| match cgroup {
        Some(cgroup) => cgroup.spawn(command),
        None => command.spawn(),
    };
    if nice == 0 {
        return spawn(command);
    }
    let runtime = tokio::runtime::Handle::current();
    std::thread::scope(|scope| {
        let starter = scope.spawn(|| {
            let _entered = runtime.enter();
            let own = rustix::process::getpriority_process(None)?;
            rustix::process::setpriority_process(None, own.max(i32::from(nice)))?;
            spawn(command)
        });
        starter.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it has panicked")))
    })
}

/// Says why the kernel would not start a program that is there and may be executed.
fn refused(name: &str, error: &io::Error) -> StartError {
    match error.kind() {
        io::ErrorKind::NotFound => StartError {
            exit_code: 126,
            message: format!(
                "not executable: {name} (the interpreter or loader that it asks for is missing)"
            ),
        },
        io::ErrorKind::PermissionDenied => StartError::not_executable(name),
        _ if error.raw_os_error() == Some(nix::libc::ENOEXEC) => StartError {
            exit_code: 126,
            message: format!(
                "not executable: {name} (neither a program for this machine nor a script with a #! line)"
            ),
        },
        _ => StartError::other(format!("cannot start {name}: {error}")),
    }
}

struct HostProcess {
    child: Child,
    tree: Arc<ProcessTree>,
    /// What `kill` had to do.
    killed: Option<KillReceipt>,
    stuck: Stuck,
}

impl HostProcess {
    /// Whether the main process has ended, asked of the kernel itself.
    fn has_exited(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Process for HostProcess {
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        pin!(self.child.wait()).poll(cx).map(|status| match status {
            Ok(status) => match end_of(status) {
                // As the main process was killed, or as a shell says of its own.
                ProcessEnd::Signal(KILLED) | ProcessEnd::Code(KILLED_CHILD)
                    if self.tree.ran_out_of_memory() =>
                {
                    Exit::OutOfMemory
                }
                end => Exit::Process(end),
            },
            Err(error) => {
                // It is gone, and somebody else was told how. Nothing in this program does that.
                tracing::error!(%error, "cannot wait for a process");
                Exit::Process(ProcessEnd::Signal(Signal::SIGKILL as i32))
            }
        })
    }

    fn signal(&mut self, signal: StopSignal) -> BoxFuture<'_, bool> {
        async move {
            if self.has_exited() {
                return false;
            }
            if let Ok(signal) = Signal::try_from(signal.number()) {
                self.tree.signal(signal);
            }
            true
        }
        .boxed()
    }

    fn kill(&mut self) -> BoxFuture<'_, bool> {
        async move {
            if self.has_exited() {
                return false;
            }
            let tree = self.tree.clone();
            let receipt = tokio::task::spawn_blocking(move || tree.kill()).await;
            self.killed = receipt.ok();
            true
        }
        .boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Option<KillReceipt>> {
        async move {
            let late = if self.tree.has_survivors() {
                let tree = self.tree.clone();
                tokio::task::spawn_blocking(move || tree.kill_survivors()).await.ok()
            } else {
                None
            };
            let receipt = sum(self.killed, late);
            if receipt.is_some_and(|receipt| receipt.left > 0) {
                self.stuck.add(self.tree.clone());
            }
            receipt
        }
        .boxed()
    }
}

fn sum(first: Option<KillReceipt>, then: Option<KillReceipt>) -> Option<KillReceipt> {
    let killed = [first, then].into_iter().flatten().map(|receipt| receipt.killed).sum();
    // What was left the first time was tried again.
    let left = then.or(first).map_or(0, |receipt| receipt.left);
    (killed > 0 || left > 0).then_some(KillReceipt { killed, left })
}

fn end_of(status: ExitStatus) -> ProcessEnd {
    match (status.code(), status.signal()) {
        (Some(code), _) => ProcessEnd::Code(code),
        (None, signal) => ProcessEnd::Signal(signal.unwrap_or(0)),
    }
}

/// Both streams of a process, read as they become readable.
struct Pipes {
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// Which is looked at first: after each read the other one, so that neither starves.
    turn: Stream,
}

impl OutputSource for Pipes {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Record>> {
        let turns = match self.turn {
            Stream::Stdout => [Stream::Stdout, Stream::Stderr],
            Stream::Stderr => [Stream::Stderr, Stream::Stdout],
        };
        for stream in turns {
            let read = match stream {
                Stream::Stdout => poll_read(&mut self.stdout, cx),
                Stream::Stderr => poll_read(&mut self.stderr, cx),
            };
            if let Poll::Ready(Some(bytes)) = read {
                self.turn = if stream == Stream::Stdout { Stream::Stderr } else { Stream::Stdout };
                return Poll::Ready(Some(Record { at_micros: wall_micros(), stream, bytes }));
            }
        }
        if self.stdout.is_none() && self.stderr.is_none() { Poll::Ready(None) } else { Poll::Pending }
    }
}

/// What the pipe has; none at its end, where it is closed.
fn poll_read<P: AsyncRead + Unpin>(pipe: &mut Option<P>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
    let Some(open) = pipe else { return Poll::Ready(None) };
    let read = READ_BUFFER.with_borrow_mut(|buffer| {
        let mut buffer = ReadBuf::new(buffer);
        Pin::new(open).poll_read(cx, &mut buffer).map_ok(|()| Bytes::copy_from_slice(buffer.filled()))
    });
    let ended = match read {
        Poll::Pending => return Poll::Pending,
        Poll::Ready(Ok(bytes)) if !bytes.is_empty() => return Poll::Ready(Some(bytes)),
        Poll::Ready(ended) => ended,
    };
    if let Err(error) = ended {
        tracing::warn!(%error, "cannot read the output of a process");
    }
    *pipe = None;
    Poll::Ready(None)
}
