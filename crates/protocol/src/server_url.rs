//! The parser of server addresses: `MASTER_URL`, `GAFFER_URL` and `GAFFER_PUBLIC_URL`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use url::{Host, Url};

use crate::wire::WORKER_PATH;

/// Where the REST API is, below the base of an address.
const API_PATH: &str = "/api/v1";
/// The longest text that a message repeats.
const MAX_SHOWN_CHARS: usize = 120;

/// Where a gaffer server is reached: scheme, host, port, and the path below which a proxy serves it, if any.
///
/// One address names all of it: the dashboard, the API ([`ServerUrl::api`]) and the door for workers
/// ([`ServerUrl::worker_door`]).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerUrl {
    is_secure: bool,
    host: Host<String>,
    port: u16,
    /// Empty, or like `/gaffer`.
    path: String,
}

/// Why a text is not the address of a server, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a server address: {reason}")]
pub struct InvalidServerUrl {
    text: String,
    reason: String,
}

impl ServerUrl {
    /// Whether TLS protects it.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// A name or an IP address, an IPv6 one without brackets.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        }
    }

    /// The host's IP address, if it is written as one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.host {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
        }
    }

    /// The port, given or usual.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path below which the server is: empty, or like `/gaffer`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it is on this machine.
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        }
    }

    /// Scheme, host and port as browsers state an origin: the usual port is left out.
    pub fn origin(&self) -> String {
        self.with_scheme(if self.is_secure { "https" } else { "http" })
    }

    /// The base of the REST API.
    pub fn api(&self) -> String {
        format!("{self}{API_PATH}")
    }

    /// Where workers dial in.
    pub fn worker_door(&self) -> String {
        format!("{}{WORKER_PATH}", self.for_workers())
    }

    /// The address as it is given to workers: with a WebSocket's scheme.
    pub fn for_workers(&self) -> String {
        format!("{}{}", self.with_scheme(if self.is_secure { "wss" } else { "ws" }), self.path)
    }

    /// The same server at another port, without a proxy in between: no path, and TLS only if the server itself speaks it.
    pub fn directly_at(&self, port: u16, is_secure: bool) -> ServerUrl {
        ServerUrl { is_secure, port, path: String::new(), ..self.clone() }
    }

    fn with_scheme(&self, scheme: &str) -> String {
        match self.port == usual_port(self.is_secure) {
            true => format!("{scheme}://{}", self.host),
            false => format!("{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// The base: without a slash at its end.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path)
    }
}

impl FromStr for ServerUrl {
    type Err = InvalidServerUrl;

    fn from_str(text: &str) -> Result<ServerUrl, InvalidServerUrl> {
        let text = text.trim_start_matches('\u{feff}').trim();
        read(text).map_err(|reason| InvalidServerUrl { text: shown(text), reason })
    }
}

/// Passwords and keys that were put there by mistake are not repeated.
fn shown(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    // Before the first slash, a query may as well be the rest of a password.
    let has_password = |at: usize| !rest[..at].contains(['/', '\\']) && rest[at..].contains('@');
    if rest.find(['?', '#']).is_some_and(has_password) {
        return if scheme.is_empty() { "…".to_owned() } else { format!("{}://…", shown(scheme)) };
    }
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let text = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    text.chars().take(MAX_SHOWN_CHARS).collect()
}

fn usual_port(is_secure: bool) -> u16 {
    if is_secure { 443 } else { 80 }
}

fn read(text: &str) -> Result<ServerUrl, String> {
    const EXAMPLE: &str = "expected an address such as http://gaffer.lab:8000 or https://gaffer.example.org";
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(match shown(text).as_str() {
            "" => format!("it is empty; {EXAMPLE}"),
            host => format!("it has no scheme; write http://{host} or https://{host}"),
        });
    };
    let is_secure = match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => false,
        "https" | "wss" => true,
        _ => return Err("its scheme must be http, https, ws or wss".to_owned()),
    };
    // `Url` takes more slashes, and other ones, for the end of the scheme.
    if rest.is_empty() || rest.starts_with(['/', '\\', '?', '#', ':']) {
        return Err(format!("it has no host; {EXAMPLE}"));
    }
    let authority = rest.split(['/', '\\', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(
            "it contains a user or password; set the key with GAFFER_KEY, or API_KEY for a worker".to_owned()
        );
    }
    let url = Url::parse(&format!("{}://{rest}", if is_secure { "https" } else { "http" }));
    let url = url.map_err(|error| format!("{error}; {EXAMPLE}"))?;
    let host = url.host().ok_or_else(|| format!("it has no host; {EXAMPLE}"))?.to_owned();
    let port = url.port_or_known_default().unwrap_or(usual_port(is_secure));
    if port == 0 || authority.ends_with(':') {
        return Err("its port is not a number from 1 to 65535".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it has a query or a fragment; remove the part after ? or #".to_owned());
    }
    let path = url.path().trim_end_matches('/');
    // The address of one of its doors is as good as its own.
    let path = [API_PATH, WORKER_PATH].iter().find_map(|door| path.strip_suffix(door)).unwrap_or(path);
    let path = path.trim_end_matches('/');
    if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%".contains(&byte))
        || path.contains("//")
    {
        return Err(
            "its path may contain only letters, digits, -, ., _ and ~ between single slashes".to_owned()
        );
    }
    Ok(ServerUrl { is_secure, host, port, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn url(text: &str) -> ServerUrl {
        text.parse().unwrap()
    }

    #[test]
    fn every_form_of_an_address_means_the_same() {
        for text in [
            "http://host:8000",
            "HTTP://HOST:8000/",
            " ws://host:8000 ",
            "\u{feff}http://host:8000\r\n",
            "http://host:8000///",
            "http://host:8000/api/v1",
            "http://host:8000/api/v1/",
            "ws://host:8000/worker",
            "ws://host:8000/worker/",
        ] {
            assert_eq!(url(text).to_string(), "http://host:8000", "{text}");
        }
    }

    #[test]
    fn each_door_is_below_the_path_of_the_address() {
        for text in [
            "https://example.org/gaffer",
            "https://example.org:443/gaffer/",
            "wss://example.org/gaffer/worker",
            "https://example.org/gaffer/api/v1",
        ] {
            let url = url(text);
            assert_eq!(url.to_string(), "https://example.org/gaffer", "{text}");
            assert_eq!(url.worker_door(), "wss://example.org/gaffer/worker");
            assert_eq!(url.api(), "https://example.org/gaffer/api/v1");
            assert_eq!((url.origin().as_str(), url.path()), ("https://example.org", "/gaffer"));
        }
    }

    #[test]
    fn ports_and_ip_addresses_are_understood() {
        let six = url("ws://[::1]:8080");
        assert_eq!((six.host().as_str(), six.port(), six.is_loopback()), ("::1", 8080, true));
        assert_eq!(six.worker_door(), "ws://[::1]:8080/worker");
        assert_eq!(url("http://[2001:db8::5]").to_string(), "http://[2001:db8::5]");
        assert_eq!((url("http://host").port(), url("https://host").port()), (80, 443));
        assert_eq!(url("http://host:80").to_string(), "http://host");
        assert_eq!(url("http://host:443").to_string(), "http://host:443");
        for (text, expected) in [
            ("http://127.0.0.1:8000", true),
            ("http://127.1.2.3", true),
            ("http://localhost", true),
            ("http://[::1]", true),
            ("http://10.0.0.1", false),
            ("http://example.org", false),
            ("http://127.0.0.1.example.org", false),
        ] {
            assert_eq!(url(text).is_loopback(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_to_write() {
        for (text, expected) in [
            ("", "empty"),
            ("master:8080", "write http://master:8080 or https://master:8080"),
            ("localhost", "write http://localhost"),
            ("ftp://master", "scheme"),
            ("http://", "has no host"),
            ("http:///worker", "has no host"),
            ("ws://:8080", "has no host"),
            ("ws://master:99999", "port"),
            ("ws://master:", "port"),
            ("ws://master:0", "port"),
            ("ws://[::1", "IPv6"),
            ("ws://ma ster", "invalid"),
            ("ws://master/worker?key=1", "query"),
            ("http://master/#top", "fragment"),
            ("http://master/a//b", "path"),
            ("http://master/a;b", "path"),
        ] {
            let error = text.parse::<ServerUrl>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn secrets_in_an_address_are_refused_and_not_repeated() {
        for text in [
            "ws://ana:geheim@master",
            "http://geheim@master/x",
            "http://master/?key=geheim",
            "ana:geheim@master",
            "http://ana:geheim#x@master",
            "http://ana:geheim?x@master",
            "ana:geheim#x@master",
        ] {
            let error = text.parse::<ServerUrl>().unwrap_err().to_string();
            assert!(!error.contains("geheim"), "{error}");
        }
        assert!("ws://ana:geheim@master".parse::<ServerUrl>().unwrap_err().to_string().contains("API_KEY"));
    }
}
