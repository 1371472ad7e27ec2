//! Docker settings: the daemon, and what jobs may request of it.

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// Docker's default socket.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// What Docker leaves to a container by default (`moby`, `oci/caps/defaults.go`): jobs may ask for these by name.
const DEFAULT_CAPABILITIES: &str = "CHOWN,DAC_OVERRIDE,FOWNER,FSETID,KILL,MKNOD,NET_BIND_SERVICE,NET_RAW,SETFCAP,\
                                    SETGID,SETPCAP,SETUID,SYS_CHROOT,AUDIT_WRITE";

/// Options of the docker driver, each with its environment variable.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DockerConfig {
    /// Address of the Docker or Podman daemon
    ///
    /// The default is unix:///var/run/docker.sock.
    #[arg(long, env = "DOCKER_HOST", value_name = "URL")]
    pub docker_host: Option<String>,
    /// Directory of config.json with registry credentials
    ///
    /// The default is .docker in the home directory.
    #[arg(long, env = "DOCKER_CONFIG", value_name = "DIR")]
    pub docker_config: Option<PathBuf>,
    /// Directories below which jobs may mount volumes
    ///
    /// Separated by colons. Jobs may mount what is below them; by default nothing.
    #[arg(long, env = "GAFFER_VOLUME_ROOTS", value_name = "DIRS")]
    pub volume_roots: Option<VolumeRoots>,
    /// Images that jobs may run [default: all]
    ///
    /// Separated by commas; * matches any text. Example: --docker-images 'busybox:*,registry.lab/*'
    #[arg(long, env = "GAFFER_DOCKER_IMAGES", value_name = "PATTERNS")]
    pub docker_images: Option<String>,
    /// Capabilities that jobs may add [default: Docker's set]
    ///
    /// Separated by commas. Docker's set is what its containers have unless they drop it.
    #[arg(long, env = "GAFFER_DOCKER_CAPABILITIES", value_name = "NAMES")]
    pub docker_capabilities: Option<String>,
    /// Allow jobs to use the host network
    #[arg(long, env = "GAFFER_DOCKER_HOST_NETWORK", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub docker_host_network: Option<bool>,
}

/// Absolute directories: read from `/data:/srv/models`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeRoots(pub Vec<PathBuf>);

/// A text that is not a list of directories.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` is not a directory for volumes: write absolute paths without `..`, separated by colons")]
pub struct InvalidVolumeRoot {
    path: String,
}

/// The options with defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DockerSettings {
    pub address: DaemonAddress,
    /// The daemon was configured explicitly, so its absence is reported.
    pub is_expected: bool,
    /// The file with credentials for registries, which need not exist.
    pub credentials: Option<PathBuf>,
    pub policy: ContainerPolicy,
}

/// How to reach the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DaemonAddress {
    Socket(PathBuf),
    /// An address as the client library takes it: `tcp://host:port`.
    Tcp(String),
}

/// What jobs may ask of the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerPolicy {
    pub volume_roots: Vec<PathBuf>,
    /// Patterns; empty means any image.
    pub images: Vec<String>,
    /// In capitals, without `CAP_`.
    pub capabilities: Vec<String>,
    pub host_network: bool,
}

impl DockerConfig {
    pub(super) fn resolve(self, is_named: bool) -> anyhow::Result<DockerSettings> {
        let host = self.docker_host.filter(|host| !host.trim().is_empty());
        let list = |text: &str| -> Vec<String> {
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
        };
        let capabilities = self.docker_capabilities.as_deref().unwrap_or(DEFAULT_CAPABILITIES);
        let capability = |name: String| {
            let upper = name.to_ascii_uppercase();
            upper.strip_prefix("CAP_").map_or(upper.clone(), str::to_owned)
        };
        let home = || std::env::var_os("HOME").filter(|home| !home.is_empty());
        let config_dir = self.docker_config.filter(|dir| !dir.as_os_str().is_empty()).or_else(|| {
            home().map(PathBuf::from).or_else(super::home_of_user).map(|home| home.join(".docker"))
        });
        Ok(DockerSettings {
            is_expected: host.is_some() || is_named,
            address: DaemonAddress::given(host.as_deref()).context("DOCKER_HOST")?,
            credentials: config_dir.map(|dir| dir.join("config.json")),
            policy: ContainerPolicy {
                volume_roots: self.volume_roots.unwrap_or_default().0,
                images: list(self.docker_images.as_deref().unwrap_or_default()),
                capabilities: list(capabilities).into_iter().map(capability).collect(),
                host_network: self.docker_host_network.unwrap_or(false),
            },
        })
    }
}

impl DaemonAddress {
    /// What was given, else Docker's usual socket.
    pub(crate) fn given(address: Option<&str>) -> anyhow::Result<DaemonAddress> {
        address.map_or_else(|| Ok(DaemonAddress::Socket(DEFAULT_SOCKET.into())), str::parse)
    }
}

impl FromStr for DaemonAddress {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<DaemonAddress> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix://") {
            ensure!(path.starts_with('/'), "`{text}` is not a socket address: write unix:///path");
            return Ok(DaemonAddress::Socket(path.into()));
        }
        let is_plain = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://"));
        let address = is_plain.map(|rest| rest.trim_end_matches('/')).filter(|rest| !rest.is_empty());
        let address = address.with_context(|| {
            format!(
                "`{text}` is not a daemon's address: write unix:///path/to/docker.sock or tcp://host:2375"
            )
        })?;
        Ok(DaemonAddress::Tcp(format!("tcp://{address}")))
    }
}

impl std::fmt::Display for DaemonAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DaemonAddress::Socket(path) => path.display().fmt(f),
            DaemonAddress::Tcp(address) => f.write_str(address),
        }
    }
}

impl FromStr for VolumeRoots {
    type Err = InvalidVolumeRoot;

    fn from_str(text: &str) -> Result<VolumeRoots, InvalidVolumeRoot> {
        let parts = text.split(':').map(str::trim).filter(|part| !part.is_empty());
        let root = |part: &str| {
            let path = Path::new(part);
            let is_plain =
                path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
            if !path.is_absolute() || !is_plain {
                return Err(InvalidVolumeRoot { path: part.chars().take(60).collect() });
            }
            Ok(path.to_owned())
        };
        parts.map(root).collect::<Result<_, _>>().map(VolumeRoots)
    }
}
