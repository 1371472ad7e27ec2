//! What of its worker a container reaches: ports and volumes, each written as a text.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::as_text::as_text;
use crate::quantity::shown;

/// A port of a task and where it is to be found on the worker. Written `8080:80`, `8080:80/udp`, `0:80`, or `80`
/// for `0:80`; with a name `http`, `http=80` or `http=8080:80`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// By which the task and others find it; only a container has ports without a name.
    pub name: Option<String>,
    /// On the worker; 0 means any that is free.
    pub host: u16,
    /// On which the task listens; 0, which needs a name, means the same as on the worker.
    pub container: u16,
    /// Over what.
    pub protocol: PortProtocol,
}

/// The longest name of a port.
pub const MAX_PORT_NAME_LEN: usize = 32;

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
    "{text} is not a port: write host:container such as 8080:80, 0:80 for any free port of the host, and /udp at the end for \
     UDP; a named port is http, http=80 or http=8080:80"
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
    /// Name in the API, the CLI and on pages.
    pub fn as_str(self) -> &'static str {
        match self {
            PortProtocol::Tcp => "tcp",
            PortProtocol::Udp => "udp",
        }
    }
}

impl Port {
    /// The name as it stands in environment variables: `HTTP` of `http`.
    pub fn variable(name: &str) -> String {
        name.to_ascii_uppercase().replace('-', "_")
    }

    /// The port of the worker that it takes by its number; none if it takes one that is free. `shared`: the task
    /// has the worker's own network, so what it listens on is a port of the worker.
    pub fn fixed(&self, shared: bool) -> Option<u16> {
        let fixed = if shared { self.container } else { self.host };
        (fixed > 0).then_some(fixed)
    }
}

impl Display for Port {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (&self.name, self.host, self.container) {
            (None, host, container) => write!(f, "{host}:{container}")?,
            (Some(name), _, 0) => f.write_str(name)?,
            (Some(name), 0, container) => write!(f, "{name}={container}")?,
            (Some(name), host, container) => write!(f, "{name}={host}:{container}")?,
        }
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
        let (name, numbers) = match numbers.split_once('=') {
            Some((name, numbers)) => (Some(name), Some(numbers)),
            None if numbers.starts_with(|c: char| c.is_ascii_alphabetic()) => (Some(numbers), None),
            None => (None, Some(numbers)),
        };
        if !name.is_none_or(is_port_name) {
            return Err(invalid());
        }
        let name = name.map(str::to_owned);
        let Some(numbers) = numbers else { return Ok(Port { name, host: 0, container: 0, protocol }) };
        let (host, container) = numbers.split_once(':').unwrap_or(("0", numbers));
        match (number(host), number(container)) {
            (Some(host), Some(container)) if container > 0 => Ok(Port { name, host, container, protocol }),
            _ => Err(invalid()),
        }
    }
}

/// A letter, then letters, digits, `_` and `-`.
fn is_port_name(name: &str) -> bool {
    name.len() <= MAX_PORT_NAME_LEN
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
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
