//! What of its worker a container reaches: ports and volumes, each written as a text.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::as_text::as_text;
use crate::quantity::shown;

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
pub(in crate::spec) fn is_plain_path(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    path == "/"
        || path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain))
            && !path.chars().any(|c| c.is_control() || matches!(c, ':' | ','))
}

as_text!(Port);
as_text!(Volume);
