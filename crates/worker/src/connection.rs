//! The agent's connection to the master: dials, runs sessions, reconnects.
//!
//! This is one side of a border, see [`crate::executor`]: nothing here knows how attempts execute.

mod backoff;
pub(crate) mod dial;
pub(crate) mod keys;
mod outbox;
mod session;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gaffer_domain::placement::Feature;
use gaffer_domain::spec::Resources;
use gaffer_domain::worker::place::Place;
use gaffer_protocol::server_url::ServerUrl;
use gaffer_protocol::wire::{
    DriverStatus, GoodbyeCode, HeldAttempt, Hello, OwnKey, PROTOCOL_VERSION, ToWorker, Welcome,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::attempt::secret_files::SecretFiles;
use crate::config::ApiKey;
use crate::executor::Executor;
use crate::route::Route;
use crate::stats::StatsReader;
pub(crate) use backoff::{Backoff, BackoffSettings};
use dial::{DialError, Dialer, Socket};
use keys::{Keys, Shown};
use session::SessionEnd;

/// The hello of a worker and the master's address.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionSettings {
    pub route: Route,
    pub api_key: ApiKey,
    pub patience: BackoffSettings,
    pub identity: Uuid,
    pub place: Place,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub datacenter: String,
    pub capacity: Resources,
    pub countables: BTreeMap<String, u32>,
    pub arch: String,
    pub warnings: Vec<String>,
    /// On the file system whose use is reported.
    pub data_dir: PathBuf,
}

/// Another worker has taken this one's place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "another worker connected to the master at {url} with the identity of this one: {message}. If the data \
     directory was copied, remove its file `identity` to start as a new worker"
)]
pub(crate) struct Superseded {
    url: String,
    message: String,
}

/// Another worker has this one's identity and keeps it: a data directory was copied, or a machine cloned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the master at {url} refused this worker: {message}. To run both, remove the file `identity` in this \
     data directory"
)]
pub(crate) struct Duplicate {
    url: String,
    /// Status of the connection.
    pub message: String,
    /// Whether it continues with a new identity.
    pub begins_anew: bool,
}

/// The key does not allow what this worker claims to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the master at {url} refused this worker: {message}")]
pub(crate) struct NotAllowed {
    url: String,
    message: String,
}

/// Keeps this worker connected until `closing`, or until the executor exits.
///
/// # Errors
/// When another worker has taken this one's place, its key does not allow what it claims to be, or the settings cannot be used.
pub(crate) async fn run(
    settings: ConnectionSettings,
    executor: Executor,
    closing: CancellationToken,
) -> anyhow::Result<()> {
    let mut agent = Agent {
        keys: Keys::new(settings.api_key.clone(), &settings.data_dir),
        process: Uuid::new_v4(),
        stats: StatsReader::new(&settings.data_dir),
        backoff: Backoff::new(settings.patience.clone()),
        log: FailureLog::default(),
        settings,
        executor,
        closing: closing.clone(),
    };
    loop {
        let failure = agent.connect().await;
        agent.executor.close_session();
        let wait = match failure {
            Failure::Closing => return Ok(()),
            Failure::Superseded(superseded) => return Err(superseded.into()),
            Failure::Duplicate(duplicate) => return Err(duplicate.into()),
            Failure::NotAllowed(not_allowed) => return Err(not_allowed.into()),
            Failure::Settings(error) => return Err(error),
            Failure::Passing(reason) => {
                agent.log.failed(&reason);
                agent.backoff.next(Instant::now())
            }
            Failure::Refusal(reason) => {
                agent.log.failed(&reason);
                agent.backoff.after_refusal()
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = closing.cancelled() => return Ok(()),
            () = agent.executor.gone() => return Ok(()),
        }
    }
}

/// Everything that outlives a session.
struct Agent {
    settings: ConnectionSettings,
    executor: Executor,
    keys: Keys,
    /// Names this process of the worker.
    process: Uuid,
    stats: StatsReader,
    backoff: Backoff,
    log: FailureLog,
    closing: CancellationToken,
}

/// Why there is no session, in full sentences.
enum Failure {
    /// This worker goes down.
    Closing,
    /// Another worker has its place.
    Superseded(Superseded),
    /// Another worker has its identity, and was first.
    Duplicate(Duplicate),
    /// Its key does not allow it.
    NotAllowed(NotAllowed),
    /// The key, or the file with it, cannot be used.
    Settings(anyhow::Error),
    /// It may be over soon.
    Passing(String),
    /// The operator must act.
    Refusal(String),
}

impl Agent {
    /// Dials, and keeps the session going if there is one.
    async fn connect(&mut self) -> Failure {
        let url = self.settings.route.server().clone();
        let connect_patience = self.backoff.connect_patience(Instant::now());
        let shown = match self.keys.to_show() {
            Ok(shown) => shown,
            Err(error) => return Failure::Settings(error),
        };
        let dialling = Box::pin(self.dial(shown, connect_patience));
        let dialled = self.closing.run_until_cancelled(dialling).await;
        let (mut socket, shown) = match dialled {
            None => return Failure::Closing,
            Some(Err(error)) => return Failure::Settings(error),
            Some(Ok(dialled)) => match self.reached(dialled, &url) {
                Ok(reached) => reached,
                Err(failure) => return failure,
            },
        };
        let hello = |drivers, held| hello(&self.settings, self.process, shown.enrols.clone(), drivers, held);
        let greeting = session::greet(&mut socket, &self.executor, hello);
        let end = match self.closing.run_until_cancelled(greeting).await {
            None => SessionEnd::Closing,
            Some(Err(end)) => end,
            Some(Ok((welcome, said))) => {
                self.keys.was_welcome(&shown);
                self.converse(socket, welcome, said).await
            }
        };
        match end {
            SessionEnd::Closing => Failure::Closing,
            SessionEnd::Broken(reason) => {
                Failure::Passing(format!("no connection to the master at {url}: {reason}"))
            }
            SessionEnd::Goodbye { code, message } => match code {
                GoodbyeCode::Superseded => Failure::Superseded(Superseded { url: url.to_string(), message }),
                GoodbyeCode::BeginAnew | GoodbyeCode::Duplicate => Failure::Duplicate(Duplicate {
                    url: url.to_string(),
                    message,
                    begins_anew: code == GoodbyeCode::BeginAnew,
                }),
                GoodbyeCode::NotAllowed => Failure::NotAllowed(NotAllowed { url: url.to_string(), message }),
                GoodbyeCode::KeyRevoked => {
                    Failure::Refusal(format!("the master at {url} refused the key: {message}"))
                }
                GoodbyeCode::ProtocolVersion => Failure::Refusal(format!(
                    "the master at {url} does not support worker protocol {PROTOCOL_VERSION}: {message}"
                )),
                GoodbyeCode::ProtocolError | GoodbyeCode::TooSlow | GoodbyeCode::ShuttingDown => {
                    Failure::Passing(format!("the master at {url} ended the session: {message}"))
                }
            },
        }
    }

    /// Dials with one key after the other until one is not refused. Of several that are refused, the first one counts.
    async fn dial(
        &self,
        shown: Vec<Shown>,
        connect_patience: Duration,
    ) -> anyhow::Result<Result<(Socket, Shown), DialError>> {
        let mut refusal = DialError::Refused("was shown no key".to_owned());
        for (number, shown) in shown.into_iter().enumerate() {
            let dialer = Dialer::new(self.settings.route.clone(), Some(&shown.key))?;
            match dialer.dial(connect_patience).await {
                Ok(socket) => return Ok(Ok((socket, shown))),
                Err(refused @ DialError::KeyRefused(_)) if number == 0 => refusal = refused,
                Err(DialError::KeyRefused(_)) => {}
                Err(other) => return Ok(Err(other)),
            }
        }
        Ok(Err(refusal))
    }

    fn reached<T>(&self, dialled: Result<T, DialError>, url: &ServerUrl) -> Result<T, Failure> {
        dialled.map_err(|error| match error {
            DialError::Refused(reason) | DialError::KeyRefused(reason) => {
                Failure::Refusal(format!("the master at {url} {reason}"))
            }
            DialError::Blocked(reason) => {
                Failure::Refusal(format!("cannot reach the master at {url}: {reason}"))
            }
            DialError::Unreachable(reason) => {
                Failure::Passing(format!("cannot reach the master at {url}: {reason}"))
            }
        })
    }

    /// A session from its welcome to its end.
    async fn converse(&mut self, socket: Socket, welcome: Welcome, said: Vec<ToWorker>) -> SessionEnd {
        self.log.connected(self.settings.route.server(), &welcome);
        self.executor.welcomed(&welcome);
        let began = Instant::now();
        let end = session::run(socket, &self.executor, &welcome, said, &mut self.stats, &self.closing).await;
        self.backoff.session_lasted(began.elapsed());
        end
    }
}

fn hello(
    settings: &ConnectionSettings,
    process: Uuid,
    own_key: Option<OwnKey>,
    drivers: Vec<DriverStatus>,
    held: Vec<HeldAttempt>,
) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        identity: settings.identity,
        process,
        boot_id: settings.place.boot_id.clone(),
        place: settings.place.clone(),
        own_key,
        knows_not_allowed: true,
        name: settings.name.clone(),
        labels: settings.labels.clone(),
        datacenter: settings.datacenter.clone(),
        capacity: settings.capacity,
        countables: settings.countables.clone(),
        drivers,
        features: Feature::ALL.map(|feature| feature.as_str().to_owned()).into(),
        arch: settings.arch.clone(),
        os: "linux".to_owned(),
        held,
        warnings: settings.warnings.clone(),
    }
}

/// Tells of failures once each, however often they come.
#[derive(Debug, Default)]
struct FailureLog {
    last: Option<String>,
}

impl FailureLog {
    fn failed(&mut self, reason: &str) {
        if self.last.as_deref() != Some(reason) {
            tracing::warn!("{reason}; retrying");
            self.last = Some(reason.to_owned());
        }
    }

    fn connected(&mut self, url: &ServerUrl, welcome: &Welcome) {
        self.last = None;
        let Welcome { worker, name, version, .. } = welcome;
        tracing::info!(%worker, name, master_version = version, "connected to the master at {url}");
    }
}

/// Things that the worker's operator should know, for its page.
pub(crate) fn warnings(data_dir: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    if !crate::driver::lists_children() {
        warnings.push(
            "the kernel does not list child processes (CONFIG_PROC_CHILDREN): processes that leave their \
             process group can survive their task"
                .to_owned(),
        );
    }
    warnings.extend(crate::driver::cgroup_shortcoming());
    warnings.extend(SecretFiles::shortcoming());
    if ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists()) {
        warnings.push("this worker runs in a container: host tasks run in that container".to_owned());
    }
    if crate::stats::disk(data_dir).is_none() {
        warnings.push(format!("the disk of {} cannot be measured", data_dir.display()));
    }
    warnings
}
