//! Runs a further program beside a task: in its cgroup, directory and environment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use gaffer_domain::health::CheckKind;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Child;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::super::process_tree::ProcessTree;
use super::super::{Exec, ExecError, Executed, MAX_EXEC_OUTPUT, program};
use super::end_of;
use crate::blocking::{BlockingThreads, NoAnswer};
use crate::job_user;

/// How long killed processes may take to close their output.
const OUTPUT_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a further program shares with the task.
pub(super) struct HostExec {
    pub environment: Arc<BTreeMap<String, String>>,
    pub directory: PathBuf,
    pub tree: Arc<ProcessTree>,
    pub threads: BlockingThreads,
    /// Checks whose program is being started.
    pub starting: Starting,
}

/// The checks of an attempt whose program is being started: no other one is for the same check until that has come back.
#[derive(Clone, Default)]
pub(super) struct Starting(Arc<Mutex<BTreeSet<CheckKind>>>);

/// One of them, until it is dropped.
struct Start {
    of: Starting,
    check: CheckKind,
}

impl Starting {
    fn begin(&self, check: CheckKind) -> Option<Start> {
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(check);
        is_new.then(|| Start { of: self.clone(), check })
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        self.of.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.check);
    }
}

impl Exec for HostExec {
    fn run<'a>(
        &'a self,
        check: CheckKind,
        command: &'a [String],
        limit: Duration,
    ) -> BoxFuture<'a, Result<Executed, ExecError>> {
        async move {
            let (environment, directory) = (self.environment.clone(), self.directory.clone());
            let (tree, runtime, words) = (self.tree.clone(), Handle::current(), command.to_vec());
            let no_response = || ExecError::Failed("the file of the program does not respond".to_owned());
            let starting = self.starting.begin(check).ok_or_else(no_response)?;
            let (has_thread, begins) = (Arc::new(AtomicBool::new(false)), Instant::now());
            let got_thread = has_thread.clone();
            let spawn = move || {
                got_thread.store(true, Ordering::Relaxed);
                let spawned = spawn(&words, &environment, &directory, &tree, &runtime);
                drop(starting);
                spawned
            };
            let spawned = self.threads.run_until(tokio::time::sleep(limit), spawn).await;
            let child = match spawned {
                Ok(spawned) => spawned?,
                Err(NoAnswer) if has_thread.load(Ordering::Relaxed) => return Err(no_response()),
                // The files of others do not respond.
                Err(NoAnswer) => {
                    return Err(ExecError::Away("all threads that start programs of checks hang".to_owned()));
                }
            };
            let mut running = Running { group: child.id().and_then(|pid| i32::try_from(pid).ok()), child };
            Ok(running.end(limit.saturating_sub(begins.elapsed())).await?)
        }
        .boxed()
    }
}

fn spawn(
    words: &[String],
    environment: &BTreeMap<String, String>,
    directory: &Path,
    tree: &ProcessTree,
    runtime: &Handle,
) -> Result<Child, String> {
    let path = environment.get("PATH").map_or("", String::as_str);
    let found = job_user::with_rights_of(tree.user(), || program::find(words, directory, path));
    let program = found.map_err(|error| error.to_string())?.map_err(|error| error.message)?;
    let mut command = program.command(environment);
    let _runtime = runtime.enter();
    tree.spawn(&mut command, directory).map_err(|error| format!("cannot start {}: {error}", program.name))
}

/// Its process group is killed with this.
struct Running {
    child: Child,
    /// None once it was killed.
    group: Option<i32>,
}

impl Running {
    async fn end(&mut self, limit: Duration) -> Result<Executed, String> {
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let ending = async {
            let ended = timeout(limit, self.child.wait()).await;
            // What it started goes with it. Its number cannot be another's already: numbers are given out in turn.
            kill(&mut self.group);
            ended
        };
        let all = async { tokio::join!(ending, beginning(stdout), beginning(stderr)) };
        let Ok((ended, mut output, more)) = timeout(limit + OUTPUT_CLOSE_TIMEOUT, all).await else {
            return Err("a process that it started keeps its output open".to_owned());
        };
        let status = ended.map_err(|_| "no answer in time: it was killed".to_owned())?;
        let status = status.map_err(|error| format!("cannot wait for it: {error}"))?;
        output.extend(more);
        output.truncate(MAX_EXEC_OUTPUT);
        Ok(Executed { end: end_of(status), output })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        kill(&mut self.group);
    }
}

fn kill(group: &mut Option<i32>) {
    if let Some(group) = group.take() {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

/// The first bytes of a stream. The rest is read and dropped, so that its writer does not wait.
async fn beginning(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut stream) = stream else { return Vec::new() };
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        let room = MAX_EXEC_OUTPUT.saturating_sub(kept.len());
        kept.extend(buffer.iter().take(read.min(room)));
    }
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn no_other_program_of_a_check_is_started_until_the_one_before_has_come_back() {
        let starting = Starting::default();
        let hangs = starting.begin(CheckKind::Health).unwrap();
        assert!(starting.begin(CheckKind::Health).is_none());
        assert!(starting.begin(CheckKind::Readiness).is_some(), "the other check is no concern of it");
        drop(hangs);
        assert!(starting.begin(CheckKind::Health).is_some());
    }
}
