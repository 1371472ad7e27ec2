//! The host driver: a process in its own group, with both streams captured.

mod exec;
mod pipe;
mod start;

use std::collections::BTreeMap;
use std::future::Future as _;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use gaffer_domain::quantity::Span;
use gaffer_domain::reason::ProcessEnd;
use gaffer_domain::spec::{DriverKind, StopSignal};
use gaffer_protocol::wire::{DriverStatus, KillReceipt};
use nix::sys::signal::Signal;
use tokio::process::Child;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cgroup::Cgroups;
use super::process_tree::ProcessTree;
use super::stuck::Stuck;
use super::{Assignment, Capabilities, Driver, Exit, Process, StartError, Started};
use crate::blocking::{BlockingThreads, NoAnswer, PATIENCE, tell_if_slow};
use crate::clock::until;
use crate::job_user::JobUser;
use start::Start;

/// Starts that may wait for files at the same time; more wait for their turn.
const MAX_STARTING: usize = 64;
/// The same of programs that run beside tasks.
const MAX_CHECKING: usize = 16;
const KILLED: i32 = Signal::SIGKILL as i32;
const KILLED_CHILD: i32 = 128 + KILLED;

/// Starts processes on this machine.
pub(super) struct HostDriver {
    inherited: Arc<BTreeMap<String, String>>,
    user: Option<Arc<JobUser>>,
    /// None where none can be made.
    cgroups: Option<Arc<Cgroups>>,
    threads: BlockingThreads,
    /// For programs that run beside tasks.
    check_threads: BlockingThreads,
    stuck: Stuck,
}

impl HostDriver {
    /// Ends what an earlier process of the same owner left in its cgroups.
    pub fn new(
        inherited: BTreeMap<String, String>,
        user: Option<JobUser>,
        owner: &str,
    ) -> io::Result<HostDriver> {
        Ok(HostDriver {
            inherited: Arc::new(inherited),
            user: user.map(Arc::new),
            cgroups: Cgroups::open(owner).map(Arc::new),
            threads: BlockingThreads::new("host-start", MAX_STARTING, PATIENCE)?,
            check_threads: BlockingThreads::new("host-check", MAX_CHECKING, PATIENCE)?,
            stuck: Stuck::new(MAX_STARTING / 2),
        })
    }

    async fn start(
        &self,
        assignment: Assignment,
        note: &(dyn Fn(String) + Send + Sync),
        cancelled: &CancellationToken,
    ) -> Result<Started, StartError> {
        // A start that hangs has no process yet that could be timed out.
        let timeout = assignment.start.definition.timeout.map(Span::to_std);
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let hurry = async {
            tokio::select! {
                () = cancelled.cancelled() => {}
                () = until(end) => {}
            }
        };
        let start = Arc::new(Start::new(
            assignment,
            self.inherited.clone(),
            self.user.clone(),
            self.cgroups.clone(),
            self.check_threads.clone(),
            self.stuck.clone(),
        ));
        let on_thread = start.clone();
        let begun = self.threads.run_until(hurry, move || on_thread.run());
        let begun = async {
            tokio::select! {
                biased;
                begun = begun => begun,
                () = start.overdue() => Ok(()),
            }
        };
        let is_over = tell_if_slow(begun, || note(format!("not started yet: {}", start.obstacle()))).await;
        match is_over {
            Ok(()) => start.take_result(),
            Err(NoAnswer) => start.give_up(note).await,
        }
    }
}

impl Driver for HostDriver {
    fn capabilities(&self) -> Capabilities {
        Capabilities { outlives_executor: false, uses_host_files: true, workdir: true, stdin: true }
    }

    fn status(&self) -> Option<DriverStatus> {
        let detail = self.stuck.complaint();
        Some(DriverStatus { driver: DriverKind::Host, healthy: detail.is_none(), detail })
    }

    fn changes(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.stuck.changes())
    }

    fn look_again(&self) {
        self.stuck.look_again(self.threads.abandoned());
    }

    fn start<'a>(
        &'a self,
        assignment: Assignment,
        note: &'a (dyn Fn(String) + Send + Sync),
        cancelled: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Started, StartError>> {
        Box::pin(HostDriver::start(self, assignment, note, cancelled))
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
                // The signal of the main process, or the exit code by which a shell reports one.
                ProcessEnd::Signal(KILLED) | ProcessEnd::Code(KILLED_CHILD)
                    if self.tree.ran_out_of_memory() =>
                {
                    Exit::OutOfMemory
                }
                end => Exit::Process(end),
            },
            Err(error) => {
                // The process was reaped elsewhere. Nothing in this program does that.
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
            let late = if self.tree.may_have_survivors() {
                let tree = self.tree.clone();
                tokio::task::spawn_blocking(move || tree.kill_survivors()).await.ok().flatten()
            } else {
                None
            };
            let receipt = sum(self.killed, late);
            if receipt.is_some_and(|receipt| receipt.left > 0) {
                let tree = self.tree.clone();
                self.stuck.add(move || tree.has_survivors());
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
