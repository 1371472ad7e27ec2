//! Named ports of an attempt: where the task listens, and where others reach it.

use gaffer_domain::spec::PortProtocol;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A named port as its worker assigned it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NamedPort {
    /// Name of the port.
    pub name: String,
    /// Address of the worker as others reach it: an IP address or a host name.
    pub host: String,
    /// Port on the worker's machine.
    pub port: u16,
    /// Port on which the task listens: the same, unless it runs in a container with a separate network.
    pub target: u16,
    /// Protocol of the port.
    pub protocol: PortProtocol,
}

impl NamedPort {
    /// `host:port`, with an IPv6 address in brackets.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_has_brackets() {
        let port = |host: &str| NamedPort {
            name: "http".to_owned(),
            host: host.to_owned(),
            port: 20_000,
            target: 80,
            protocol: PortProtocol::Tcp,
        };
        assert_eq!(port("10.0.0.7").address(), "10.0.0.7:20000");
        assert_eq!(port("pi4.lab").address(), "pi4.lab:20000");
        assert_eq!(port("fd00::7").address(), "[fd00::7]:20000");
    }
}
