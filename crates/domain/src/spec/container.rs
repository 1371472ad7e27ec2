//! The container of a task whose driver is `docker`: what it runs, what it may reach, and what keeps it in.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::as_text::as_text;
use crate::quantity::{Bytes, shown};

/// The most processes and threads of a container whose spec does not say.
pub const DEFAULT_PIDS_LIMIT: u32 = 4096;

/// What a container is made from. The task's command, environment and resources come on top: its memory is a hard
/// limit (0: none), and so are its processors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The image as people write it: `busybox`, `registry.lab:5000/tools/train:v3`, `busybox@sha256:…`.
    pub image: String,
    /// When the image is fetched from its registry.
    pub pull: PullPolicy,
    /// Takes the place of the image's own entry point; the command becomes its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// `user`, `user:group` or their numbers; none means as the image says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// An absolute path; none means as the image says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// The most processes and threads that it may have at once.
    pub pids_limit: u32,
    /// Ports that are reachable from outside of the worker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Directories of the worker's machine; only below those that its operator allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Absolute paths in the container that are kept in memory, with their sizes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tmpfs: BTreeMap<String, Bytes>,
    /// What it is connected to.
    pub network: Network,
    /// Capabilities by name, in capitals and without `CAP_`: all others are dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// The graphics processors that it sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Gpus>,
}

/// When an image is fetched from its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// When the worker does not have it.
    Missing,
    /// Before each start.
    Always,
    /// Not at all: it must be there.
    Never,
}

/// What a container is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// A network of its own behind the machine's.
    Bridge,
    /// Nothing.
    None,
    /// The machine's own network; only where the worker's operator allows it.
    Host,
}

/// The graphics processors of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gpus {
    /// All that the machine has.
    All,
    /// So many; at least 1.
    #[serde(untagged)]
    Count(u32),
}

/// A port of the container and where it is to be found on the worker. Written `8080:80`, `8080:80/udp`, `0:80`, or `80`
/// for `0:80`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// On the worker; 0 means any that is free.
    pub host: u16,
    /// In the container; not 0.
    pub container: u16,
    /// Over what.
    pub protocol: PortProtocol,
}

/// What a port speaks.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum PortProtocol {
    Tcp,
    Udp,
}

/// A directory of the worker's machine in the container. Written `/data:/data` or `/data:/data:ro`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Volume {
    /// An absolute path on the worker's machine, without `.` and `..`, and without a slash at the end.
    pub source: String,
    /// An absolute path in the container, without `.` and `..`, and without a slash at the end; not `/`.
    pub target: String,
    /// The container cannot write to it.
    pub read_only: bool,
}

/// A text that is not a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text} is not a port: write host:container such as 8080:80, 0:80 for any free port of the host, and /udp at the end for UDP"
)]
pub struct InvalidPort {
    text: String,
}

/// A text that is not a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text} is not a volume: write source:target such as /data/set:/data, with :ro at the end for a read-only one; \
     both are absolute paths without . and .. and without a slash at the end, and the target is not /"
)]
pub struct InvalidVolume {
    text: String,
}

impl PortProtocol {
    /// The word used on every door.
    pub fn as_str(self) -> &'static str {
        match self {
            PortProtocol::Tcp => "tcp",
            PortProtocol::Udp => "udp",
        }
    }
}

impl Display for Port {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.container)?;
        match self.protocol {
            PortProtocol::Tcp => Ok(()),
            PortProtocol::Udp => f.write_str("/udp"),
        }
    }
}

impl FromStr for Port {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Port, InvalidPort> {
        let invalid = || InvalidPort { text: shown(text) };
        let (numbers, protocol) = match text.split_once('/') {
            None => (text, PortProtocol::Tcp),
            Some((numbers, "tcp")) => (numbers, PortProtocol::Tcp),
            Some((numbers, "udp")) => (numbers, PortProtocol::Udp),
            Some(_) => return Err(invalid()),
        };
        let number = |text: &str| -> Option<u16> {
            text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
        };
        let (host, container) = numbers.split_once(':').unwrap_or(("0", numbers));
        match (number(host), number(container)) {
            (Some(host), Some(container)) if container > 0 => Ok(Port { host, container, protocol }),
            _ => Err(invalid()),
        }
    }
}

impl Display for Volume {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.source, self.target, if self.read_only { ":ro" } else { "" })
    }
}

impl FromStr for Volume {
    type Err = InvalidVolume;

    fn from_str(text: &str) -> Result<Volume, InvalidVolume> {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, read_only) = match parts[..] {
            [source, target] | [source, target, "rw"] => (source, target, false),
            [source, target, "ro"] => (source, target, true),
            _ => return Err(InvalidVolume { text: shown(text) }),
        };
        if !is_plain_path(source) || !is_plain_path(target) || target == "/" {
            return Err(InvalidVolume { text: shown(text) });
        }
        Ok(Volume { source: source.to_owned(), target: target.to_owned(), read_only })
    }
}

/// Whether a path is absolute, has no `.`, `..` and empty parts, and nothing that could be mistaken for syntax. Each
/// place has one such path, so that two of them are the same place only if they are the same text.
pub(super) fn is_plain_path(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    path == "/"
        || path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain))
            && !path.chars().any(|c| c.is_control() || matches!(c, ':' | ','))
}

as_text!(Port);
as_text!(Volume);
