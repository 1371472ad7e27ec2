//! The connection to the Docker daemon, and its health.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker};
use gaffer_domain::spec::DriverKind;
use gaffer_protocol::wire::DriverStatus;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::config::DaemonAddress;

/// How often a daemon that is there is asked whether it still is, and one that is away whether it is back.
const LOOK_WHILE_UP: Duration = Duration::from_secs(5);
const LOOK_WHILE_DOWN: Duration = Duration::from_secs(1);
/// A daemon that takes longer to say that it is there is not.
const PATIENCE: Duration = Duration::from_secs(5);
/// Timeout of a request, in seconds.
const REQUEST_SECS: u64 = 120;

/// A daemon that may come and go.
pub(super) struct Daemon {
    address: DaemonAddress,
    /// Its absence is worth telling.
    is_expected: bool,
    health: watch::Sender<Health>,
    client: Mutex<Option<Docker>>,
    /// A caller doubts that it is available.
    doubted: Notify,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Health {
    /// Never seen, and not configured.
    Absent,
    Up {
        name: String,
    },
    Down {
        why: String,
    },
}

impl Daemon {
    pub fn new(address: DaemonAddress, is_expected: bool) -> Daemon {
        let health = watch::Sender::new(Health::Absent);
        Daemon { address, is_expected, health, client: Mutex::default(), doubted: Notify::new() }
    }

    /// Status for the master; none if there is no daemon and none is expected.
    pub fn status(&self) -> Option<DriverStatus> {
        let (healthy, detail) = match &*self.health.borrow() {
            Health::Absent => return None,
            Health::Up { name } => (true, name.clone()),
            Health::Down { why } => (false, why.clone()),
        };
        Some(DriverStatus { driver: DriverKind::Docker, healthy, detail: Some(detail) })
    }

    /// Waits until [`Self::status`] has changed since `seen` was made.
    pub fn changes(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut health = self.health.subscribe();
        async move {
            let _ = health.changed().await;
        }
    }

    /// The daemon, if it is there as far as is known; else why not.
    pub fn client(&self) -> Result<Docker, String> {
        match &*self.health.borrow() {
            Health::Up { .. } => {}
            Health::Absent => return Err(format!("no Docker daemon at {}", self.address)),
            Health::Down { why } => return Err(why.clone()),
        }
        self.slot().clone().ok_or_else(|| format!("no Docker daemon at {}", self.address))
    }

    /// Whether it is Podman.
    pub fn is_podman(&self) -> bool {
        matches!(&*self.health.borrow(), Health::Up { name } if is_podman(name))
    }

    /// Waits for the daemon; after an error of the connection, until it was looked at again.
    pub async fn up(&self) -> Docker {
        let mut health = self.health.subscribe();
        loop {
            if let Ok(docker) = self.client() {
                return docker;
            }
            if health.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// A request failed as if the daemon were away: it is down until it was looked at again.
    pub fn doubt(&self, error: &Error) {
        self.set(Health::Down { why: self.away(error) });
        self.doubted.notify_one();
    }

    /// Looks whether it is there.
    pub async fn look(&self) {
        let health = match timeout(PATIENCE, self.ask()).await {
            Ok(Ok(name)) => Health::Up { name },
            Ok(Err(error)) if self.is_nowhere(&error) => Health::Absent,
            Ok(Err(error)) => Health::Down { why: self.away(&error) },
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                Health::Down {
                    why: format!("the Docker daemon at {} did not respond for {seconds} s", self.address),
                }
            }
        };
        self.set(health);
    }

    /// Looks again and again. Never ends.
    pub async fn watch(&self) {
        loop {
            let pause = match &*self.health.borrow() {
                Health::Up { .. } => LOOK_WHILE_UP,
                Health::Down { .. } | Health::Absent => LOOK_WHILE_DOWN,
            };
            let _ = timeout(pause, self.doubted.notified()).await;
            self.look().await;
        }
    }

    /// Its name and version. A daemon that was away may be another one now.
    async fn ask(&self) -> Result<String, Error> {
        let is_up = matches!(&*self.health.borrow(), Health::Up { .. });
        let known = self.slot().clone().filter(|_| is_up);
        let docker = match known {
            Some(docker) => {
                docker.ping().await?;
                docker
            }
            None => connect(&self.address)?.negotiate_version().await?,
        };
        let name = name(&docker).await?;
        *self.slot() = Some(docker);
        Ok(name)
    }

    fn set(&self, new: Health) {
        let changed = self.health.send_if_modified(|health| {
            let is_new = *health != new;
            health.clone_from(&new);
            is_new
        });
        match &new {
            Health::Up { name } if changed => tracing::info!(daemon = %self.address, "{name} is there"),
            Health::Down { why } if changed => tracing::warn!("{why}: no container tasks start"),
            _ => {}
        }
    }

    /// Not missed: neither configured, nor used by any task so far.
    fn is_nowhere(&self, error: &Error) -> bool {
        let never_seen = *self.health.borrow() == Health::Absent;
        never_seen && !self.is_expected && matches!(error, Error::SocketNotFoundError(_))
    }

    fn away(&self, error: &Error) -> String {
        let address = &self.address;
        let cause = root_cause(error);
        match error {
            Error::SocketNotFoundError(_) => {
                format!("the Docker daemon is unavailable: no socket at {address}")
            }
            _ if cause.contains("Permission denied") => {
                format!("permission denied for the Docker daemon at {address}")
            }
            _ => format!("the Docker daemon at {address} is unavailable: {cause}"),
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Docker>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client of the daemon at an address; nothing is sent yet.
pub(super) fn connect(address: &DaemonAddress) -> Result<Docker, Error> {
    match address {
        DaemonAddress::Socket(path) => {
            Docker::connect_with_unix(&path.to_string_lossy(), REQUEST_SECS, API_DEFAULT_VERSION)
        }
        DaemonAddress::Tcp(address) => Docker::connect_with_http(address, REQUEST_SECS, API_DEFAULT_VERSION),
    }
}

/// Name and version of a daemon.
pub(super) async fn name(docker: &Docker) -> Result<String, Error> {
    let version = docker.version().await?;
    let engine = version.components.unwrap_or_default().into_iter().next();
    let name = engine.map_or_else(|| "Docker".to_owned(), |engine| engine.name.replace(" Engine", ""));
    let name = if name == "Engine" { "Docker".to_owned() } else { name };
    Ok(format!("{name} {}", version.version.unwrap_or_default()).trim().to_owned())
}

/// Whether a daemon of this name is Podman, which understands Docker's API but has other log drivers.
pub(super) fn is_podman(name: &str) -> bool {
    name.starts_with("Podman")
}

/// Whether a request failed because the daemon is unavailable, not because the daemon refused it.
pub(super) fn is_away(error: &Error) -> bool {
    matches!(
        error,
        Error::HyperLegacyError { .. }
            | Error::HyperResponseError { .. }
            | Error::IOError { .. }
            | Error::RequestTimeoutError
            | Error::SocketNotFoundError(_)
    )
}

/// The status code that the daemon refused a request with.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// The daemon's message, or the transport error.
pub(super) fn message(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        Error::DockerStreamError { error } => error.trim().to_owned(),
        _ => root_cause(error),
    }
}

fn root_cause(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
