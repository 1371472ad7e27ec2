//! Runs a further program beside a task: in its cgroup, directory and environment.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::super::process_tree::ProcessTree;
use super::super::{Exec, Executed, MAX_EXEC_OUTPUT, program};
use super::end_of;
use crate::blocking::BlockingThreads;

/// What a further program shares with the task.
pub(super) struct HostExec {
    pub environment: Arc<BTreeMap<String, String>>,
    pub directory: PathBuf,
    pub tree: Arc<ProcessTree>,
    pub threads: BlockingThreads,
}

impl Exec for HostExec {
    fn run<'a>(&'a self, command: &'a [String], limit: Duration) -> BoxFuture<'a, Result<Executed, String>> {
        async move {
            let (environment, directory) = (self.environment.clone(), self.directory.clone());
            let (tree, runtime, words) = (self.tree.clone(), Handle::current(), command.to_vec());
            let spawn = move || spawn(&words, &environment, &directory, &tree, &runtime);
            let began = self.threads.run_until(tokio::time::sleep(limit), spawn).await;
            let mut running =
                Running(began.map_err(|_| "the file of the program does not respond".to_owned())??);
            let ended = timeout(limit, running.end()).await;
            // What it started goes with it.
            running.kill();
            match ended {
                Ok(executed) => executed.map_err(|error| format!("cannot wait for it: {error}")),
                Err(_) => Err("no answer in time: it was killed".to_owned()),
            }
        }
        .boxed()
    }
}

fn spawn(
    words: &[String],
    environment: &BTreeMap<String, String>,
    directory: &std::path::Path,
    tree: &ProcessTree,
    runtime: &Handle,
) -> Result<Child, String> {
    let path = environment.get("PATH").map_or("", String::as_str);
    let program = program::find(words, directory, path).map_err(|error| error.message)?;
    let mut command = Command::new(&program.path);
    command
        .arg0(&program.name)
        .args(&program.arguments)
        .current_dir(directory)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let _runtime = runtime.enter();
    tree.spawn(&mut command).map_err(|error| format!("cannot start {}: {error}", program.name))
}

/// Its process group is killed with this.
struct Running(Child);

impl Running {
    async fn end(&mut self) -> io::Result<Executed> {
        let (stdout, stderr) = (self.0.stdout.take(), self.0.stderr.take());
        let (status, first, second) = tokio::join!(self.0.wait(), beginning(stdout), beginning(stderr));
        let mut output = first;
        output.extend(second);
        output.truncate(MAX_EXEC_OUTPUT);
        Ok(Executed { end: end_of(status?), output })
    }

    fn kill(&self) {
        // Not once it was waited for: then the number may be another's.
        if let Some(pid) = self.0.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
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
