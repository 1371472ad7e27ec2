//! Runs a further program in the container of a task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryFutureExt as _};
use gaffer_domain::health::CheckKind;
use gaffer_domain::reason::ProcessEnd;
use tokio::time::timeout;

use super::super::{Exec, ExecError, Executed, MAX_EXEC_OUTPUT};
use super::daemon::{Daemon, is_away, message, status};

/// How long the daemon may take for one answer.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(10);

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

    async fn answer(
        &self,
        check: CheckKind,
        command: &[String],
        limit: Duration,
    ) -> Result<Executed, ExecError> {
        let docker = self.daemon.client().map_err(ExecError::Away)?;
        let unanswered = self.lock().get(&check).cloned();
        if let Some(earlier) = unanswered {
            if asked(is_running(&docker, &earlier)).await? {
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
        let exec = asked(docker.create_exec(&self.id, config).map_err(failed)).await?.id;
        // Before the start: from then on it may be left behind.
        self.lock().insert(check, exec.clone());
        let started = asked(docker.start_exec(&exec, None).map_err(failed)).await?;
        let mut output = Vec::new();
        let running = async {
            let StartExecResults::Attached { output: mut stream, .. } = started else { return Ok(()) };
            while let Some(piece) = stream.next().await {
                let piece = piece.map_err(failed)?.into_bytes();
                let room = MAX_EXEC_OUTPUT.saturating_sub(output.len());
                output.extend(piece.iter().take(room));
            }
            Ok::<(), ExecError>(())
        };
        timeout(limit, running).await.map_err(|_| "no answer in time".to_owned())??;
        let code = asked(docker.inspect_exec(&exec).map_err(failed)).await?.exit_code;
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
        self.answer(check, command, limit).boxed()
    }
}

/// The answer of the daemon. That it has none in time says nothing of the task.
async fn asked<T>(answer: impl Future<Output = Result<T, ExecError>>) -> Result<T, ExecError> {
    let away = |_| ExecError::Away("the Docker daemon does not answer".to_owned());
    timeout(DAEMON_TIMEOUT, answer).await.map_err(away)?
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
