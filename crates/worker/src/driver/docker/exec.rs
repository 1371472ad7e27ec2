//! Runs a further program in the container of a task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::errors::Error;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use gaffer_domain::reason::ProcessEnd;
use tokio::time::timeout;

use super::super::{Exec, Executed, MAX_EXEC_OUTPUT};
use super::daemon::{Daemon, message};

/// A container in which programs can run.
pub(super) struct ContainerExec {
    daemon: Arc<Daemon>,
    id: String,
    /// One that had no answer in time still runs: the daemon has no way to end it.
    is_busy: Arc<AtomicBool>,
}

impl ContainerExec {
    pub fn new(daemon: Arc<Daemon>, id: String) -> ContainerExec {
        ContainerExec { daemon, id, is_busy: Arc::default() }
    }
}

impl Exec for ContainerExec {
    fn run<'a>(&'a self, command: &'a [String], limit: Duration) -> BoxFuture<'a, Result<Executed, String>> {
        async move {
            if self.is_busy.swap(true, Ordering::AcqRel) {
                return Err("the program of an earlier check still runs".to_owned());
            }
            let (daemon, id, command) = (self.daemon.clone(), self.id.clone(), command.to_vec());
            let is_busy = self.is_busy.clone();
            let mut running = tokio::spawn(async move {
                let ran = run(&daemon, &id, command).await;
                is_busy.store(false, Ordering::Release);
                ran
            });
            match timeout(limit, &mut running).await {
                Ok(Ok(ran)) => ran,
                Ok(Err(_)) => Err("the check was cancelled".to_owned()),
                Err(_) => Err("no answer in time".to_owned()),
            }
        }
        .boxed()
    }
}

async fn run(daemon: &Daemon, id: &str, command: Vec<String>) -> Result<Executed, String> {
    let failed = |error: Error| format!("cannot run it in the container: {}", message(&error));
    let docker = daemon.client()?;
    let config = ExecConfig {
        cmd: Some(command),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..ExecConfig::default()
    };
    let exec = docker.create_exec(id, config).await.map_err(failed)?.id;
    let started = docker.start_exec(&exec, None).await.map_err(failed)?;
    let mut output = Vec::new();
    if let StartExecResults::Attached { output: mut stream, .. } = started {
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(failed)?.into_bytes();
            let room = MAX_EXEC_OUTPUT.saturating_sub(output.len());
            output.extend(piece.iter().take(room));
        }
    }
    let code = docker.inspect_exec(&exec).await.map_err(failed)?.exit_code;
    let code =
        code.and_then(|code| i32::try_from(code).ok()).ok_or("the daemon does not tell its exit code")?;
    Ok(Executed { end: ProcessEnd::Code(code), output })
}
