//! Runs a further program in the container of a task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use gaffer_domain::health::CheckKind;
use gaffer_domain::reason::ProcessEnd;
use tokio::time::timeout;

use super::super::{Exec, ExecError, Executed, MAX_EXEC_OUTPUT};
use super::daemon::{Daemon, is_away, message, status};

/// A container in which programs can run.
pub(super) struct ContainerExec {
    daemon: Arc<Daemon>,
    id: String,
    /// The program of each check that had no answer in time. It still runs, as the daemon has no way to end it.
    unanswered: Mutex<BTreeMap<CheckKind, String>>,
}

impl ContainerExec {
    pub fn new(daemon: Arc<Daemon>, id: String) -> ContainerExec {
        ContainerExec { daemon, id, unanswered: Mutex::default() }
    }

    async fn answer(&self, check: CheckKind, command: &[String]) -> Result<Executed, ExecError> {
        let docker = self.daemon.client().map_err(ExecError::Away)?;
        let unanswered = self.lock().get(&check).cloned();
        if let Some(earlier) = unanswered {
            if is_running(&docker, &earlier).await? {
                return Err("the program of an earlier check still runs".to_owned().into());
            }
            self.lock().remove(&check);
        }
        let config = ExecConfig {
            cmd: Some(command.to_vec()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..ExecConfig::default()
        };
        let exec = docker.create_exec(&self.id, config).await.map_err(failed)?.id;
        // Before the start: from then on it may be left behind.
        self.lock().insert(check, exec.clone());
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
        let code = code.and_then(|code| i32::try_from(code).ok());
        let code = code.ok_or_else(|| "the daemon does not tell its exit code".to_owned())?;
        self.lock().remove(&check);
        Ok(Executed { end: ProcessEnd::Code(code), output })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<CheckKind, String>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exec for ContainerExec {
    fn run<'a>(
        &'a self,
        check: CheckKind,
        command: &'a [String],
        limit: Duration,
    ) -> BoxFuture<'a, Result<Executed, ExecError>> {
        async move {
            timeout(limit, self.answer(check, command))
                .await
                .unwrap_or_else(|_| Err("no answer in time".to_owned().into()))
        }
        .boxed()
    }
}

fn failed(error: Error) -> ExecError {
    let why = format!("cannot run it in the container: {}", message(&error));
    if is_away(&error) { ExecError::Away(why) } else { ExecError::Failed(why) }
}

/// Whether a program still runs. The daemon forgets those that ended a while ago.
async fn is_running(docker: &Docker, exec: &str) -> Result<bool, ExecError> {
    match docker.inspect_exec(exec).await {
        Ok(found) => Ok(found.running == Some(true)),
        Err(error) if status(&error) == Some(404) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}
