//! The link to the master: dials, says hello, keeps a session going, and dials again for as long as it takes.
//!
//! This is one side of a border, see [`crate::execution`]: nothing here knows how attempts execute.

mod backoff;
mod dial;
mod outbox;
mod session;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gaffer_domain::spec::Resources;
use gaffer_protocol::wire::{GoodbyeCode, Hello, PROTOCOL_VERSION};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::{ApiKey, MasterUrl};
use crate::execution::Execution;
use crate::stats::StatsReader;
use backoff::Backoff;
pub(crate) use backoff::Patience;
use dial::{DialError, Dialer};
use session::SessionEnd;

/// How a worker presents itself, and to whom.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionSettings {
    pub master_url: MasterUrl,
    pub api_key: ApiKey,
    pub tls_ca: Option<PathBuf>,
    pub patience: Patience,
    pub identity: Uuid,
    pub boot_id: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub datacenter: String,
    pub capacity: Resources,
    pub arch: String,
    pub warnings: Vec<String>,
    /// On the file system whose use is reported.
    pub data_dir: PathBuf,
}

/// Another worker has taken this one's place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the master at {url} has another worker with the identity of this one, and that came later: {message}. Was the \
     data directory copied? Remove its file `identity` to begin as a new worker"
)]
pub(crate) struct Superseded {
    url: String,
    message: String,
}

/// Keeps this worker connected until `closing`.
///
/// # Errors
/// When another worker has taken this one's place, or the settings cannot be used.
pub(crate) async fn run(
    settings: ConnectionSettings,
    execution: Execution,
    closing: CancellationToken,
) -> anyhow::Result<()> {
    let dialer = Dialer::new(settings.master_url.clone(), &settings.api_key, settings.tls_ca.as_deref())?;
    let process = Uuid::new_v4();
    let mut stats = StatsReader::new(&settings.data_dir);
    let mut backoff = Backoff::new(settings.patience.clone());
    let mut log = FailureLog::default();
    loop {
        let Some(end) = closing.run_until_cancelled(Box::pin(dialer.dial())).await else { return Ok(()) };
        let (failure, is_refusal) = match end {
            Err(DialError::Unreachable(reason)) => (reason, false),
            Err(DialError::Refused(reason)) => (reason, true),
            Ok(mut socket) => {
                let hello = |execution: &Execution| hello(&settings, process, execution);
                let greeting = session::greet(&mut socket, &execution, hello);
                let Some(greeted) = closing.run_until_cancelled(greeting).await else { return Ok(()) };
                let end = match greeted {
                    Err(end) => end,
                    Ok((welcome, said)) => {
                        backoff.welcomed();
                        log.connected(&dialer, welcome.worker.0, &welcome.name, &welcome.version);
                        execution.welcomed(&welcome);
                        let since = Instant::now();
                        let end =
                            session::run(socket, &execution, &welcome, said, &mut stats, &closing).await;
                        backoff.session_lasted(since.elapsed());
                        end
                    }
                };
                execution.close_session();
                match end {
                    SessionEnd::Closing => return Ok(()),
                    SessionEnd::Goodbye { code: GoodbyeCode::Superseded, message } => {
                        return Err(Superseded { url: dialer.url().to_string(), message }.into());
                    }
                    SessionEnd::Goodbye { code: GoodbyeCode::ProtocolVersion, message } => (
                        format!(
                            "speaks another protocol version than this worker's {PROTOCOL_VERSION}: {message}"
                        ),
                        true,
                    ),
                    SessionEnd::Goodbye { code: GoodbyeCode::KeyRevoked, message } => {
                        (format!("refused the key: {message}"), true)
                    }
                    SessionEnd::Goodbye { message, .. } => (format!("ended the session: {message}"), false),
                    SessionEnd::Broken(reason) => (reason, false),
                }
            }
        };
        log.failed(&dialer, &failure);
        let wait = if is_refusal { backoff.after_refusal() } else { backoff.next() };
        if closing.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return Ok(());
        }
    }
}

fn hello(settings: &ConnectionSettings, process: Uuid, execution: &Execution) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        identity: settings.identity,
        process,
        boot_id: settings.boot_id.clone(),
        name: settings.name.clone(),
        labels: settings.labels.clone(),
        datacenter: settings.datacenter.clone(),
        capacity: settings.capacity,
        drivers: execution.drivers(),
        arch: settings.arch.clone(),
        os: "linux".to_owned(),
        held: execution.open_session(),
        warnings: settings.warnings.clone(),
    }
}

/// Tells of failures once each, however often they come.
#[derive(Debug, Default)]
struct FailureLog {
    last: Option<String>,
}

impl FailureLog {
    fn failed(&mut self, dialer: &Dialer, reason: &str) {
        if self.last.as_deref() != Some(reason) {
            tracing::warn!("the master at {} cannot be worked for: {reason}; trying again", dialer.url());
            self.last = Some(reason.to_owned());
        }
    }

    fn connected(&mut self, dialer: &Dialer, worker: i64, name: &str, version: &str) {
        self.last = None;
        tracing::info!(worker, name, master_version = version, "connected to the master at {}", dialer.url());
    }
}

/// Things that the worker's operator should know, for its page.
pub(crate) fn warnings(data_dir: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    if !crate::driver::lists_children() {
        warnings.push(
            "this kernel does not list the children of processes (CONFIG_PROC_CHILDREN): processes that leave their \
             group may survive the end of a task"
                .to_owned(),
        );
    }
    if crate::stats::disk(data_dir).is_none() {
        warnings.push(format!("the disk of {} cannot be measured", data_dir.display()));
    }
    warnings
}
