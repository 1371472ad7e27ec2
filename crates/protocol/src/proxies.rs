//! The proxy variables (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`), for workers and commands.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use url::Url;

use crate::network::Network;
use crate::server_url::ServerUrl;

/// The variables that are read, also in small letters.
pub const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"];

/// Proxy settings of the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    plain: Option<Setting>,
    secure: Option<Setting>,
    all: Option<Setting>,
    exceptions: Vec<Exception>,
}

/// A variable that names a proxy. It is checked when it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    variable: &'static str,
    proxy: Result<Proxy, String>,
}

/// An HTTP proxy that tunnels (CONNECT). Its password never shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Which variable named it.
    pub variable: &'static str,
    /// Whether it is spoken to over TLS.
    pub is_secure: bool,
    /// Its name or IP address, an IPv6 one without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User and password, if it wants any.
    pub credentials: Option<(String, String)>,
}

/// A proxy that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} is not a proxy address: {reason}")]
pub struct InvalidProxy {
    variable: &'static str,
    reason: String,
}

/// An entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    Everything,
    /// A name and all names below it; with a port, at that port only.
    Name(String, Option<u16>),
    Address(IpAddr, Option<u16>),
    Network(Network),
}

impl Proxies {
    /// Reads the variables, of which `variable` gives the values. Small letters go first, as everywhere.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Proxies {
        let find = |name: &'static str| {
            let lower = name.to_ascii_lowercase();
            let text = [lower.as_str(), name].iter().find_map(|name| variable(name));
            text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let setting = |name| find(name).map(|text| Setting { variable: name, proxy: proxy(name, &text) });
        // A web server passes the header `Proxy` of a request on to CGI programs under this name: then it is no setting.
        let is_cgi = variable("REQUEST_METHOD").is_some();
        Proxies {
            plain: if is_cgi { None } else { setting("HTTP_PROXY") },
            secure: setting("HTTPS_PROXY"),
            all: setting("ALL_PROXY"),
            exceptions: find("NO_PROXY")
                .unwrap_or_default()
                .split([',', ' '])
                .filter_map(exception)
                .collect(),
        }
    }

    /// The proxy that leads to a server; none if it is reached directly. This machine always is.
    ///
    /// # Errors
    /// When the variable that counts is not the address of an HTTP proxy.
    pub fn to(&self, server: &ServerUrl) -> Result<Option<&Proxy>, InvalidProxy> {
        let own = if server.is_secure() { &self.secure } else { &self.plain };
        let Some(setting) = own.as_ref().or(self.all.as_ref()) else { return Ok(None) };
        if server.is_loopback() || self.exceptions.iter().any(|exception| exception.covers(server)) {
            return Ok(None);
        }
        match &setting.proxy {
            Ok(proxy) => Ok(Some(proxy)),
            Err(reason) => Err(InvalidProxy { variable: setting.variable, reason: reason.clone() }),
        }
    }
}

impl Proxy {
    /// Its address without user and password.
    pub fn url(&self) -> String {
        self.to_string()
    }

    /// The value of a `Proxy-Authorization` header.
    pub fn authorization(&self) -> Option<String> {
        let (user, password) = self.credentials.as_ref()?;
        Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

fn proxy(variable: &'static str, text: &str) -> Result<Proxy, String> {
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    // The text is not repeated, as it may hold a password.
    let url = Url::parse(&text)
        .map_err(|error| format!("{error}; expected an address such as http://proxy.lab:3128"))?;
    let is_secure = match url.scheme() {
        "http" => false,
        "https" => true,
        other => return Err(format!("expected an HTTP proxy (http:// or https://), not {other}")),
    };
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or("it has no host")?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let credentials = (!url.username().is_empty() || url.password().is_some())
        .then(|| (decoded(url.username()), decoded(url.password().unwrap_or_default())));
    Ok(Proxy {
        variable,
        is_secure,
        host: host.trim_matches(['[', ']']).to_owned(),
        port: url.port_or_known_default().unwrap_or(80),
        credentials,
    })
}

fn exception(text: &str) -> Option<Exception> {
    let text = text.trim().to_ascii_lowercase();
    if text.is_empty() {
        return None;
    }
    if text == "*" {
        return Some(Exception::Everything);
    }
    if text.contains('/') {
        return text.parse().ok().map(Exception::Network);
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse() {
        return Some(Exception::Address(address, None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (text.as_str(), None),
    };
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Some(Exception::Address(address, port));
    }
    let name = host.trim_start_matches("*.").trim_start_matches('.').trim_end_matches('.');
    (!name.is_empty()).then(|| Exception::Name(name.to_owned(), port))
}

impl Exception {
    fn covers(&self, server: &ServerUrl) -> bool {
        let is_port = |port: &Option<u16>| port.is_none_or(|port| port == server.port());
        match (self, server.ip()) {
            (Exception::Everything, _) => true,
            (Exception::Name(name, port), None) => {
                let host = server.host();
                let host = host.trim_end_matches('.');
                let is_below = host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                is_below && is_port(port)
            }
            (Exception::Address(address, port), Some(ip)) => *address == ip && is_port(port),
            (Exception::Network(network), Some(ip)) => network.contains(ip),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn proxies(pairs: &[(&str, &str)]) -> Proxies {
        let pairs: Vec<(String, String)> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Proxies::read(|name| pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
    }

    fn to(proxies: &Proxies, url: &str) -> Option<String> {
        proxies.to(&url.parse().unwrap()).unwrap().map(Proxy::url)
    }

    #[test]
    fn the_scheme_decides_which_variable_counts() {
        let set =
            proxies(&[("HTTPS_PROXY", "http://s:1"), ("http_proxy", "p:2"), ("ALL_PROXY", "http://a:3")]);
        assert_eq!(to(&set, "wss://m").as_deref(), Some("http://s:1"));
        assert_eq!(to(&set, "https://m:80").as_deref(), Some("http://s:1"));
        assert_eq!(to(&set, "ws://m").as_deref(), Some("http://p:2"));
        let all = proxies(&[("all_proxy", "https://[2001:db8::1]")]);
        assert_eq!(to(&all, "wss://m").as_deref(), Some("https://[2001:db8::1]:443"));
        assert_eq!(to(&all, "http://m").as_deref(), Some("https://[2001:db8::1]:443"));
        assert_eq!(to(&proxies(&[("HTTPS_PROXY", "http://s:1")]), "ws://m"), None);
        let lower = proxies(&[("https_proxy", "http://small:1"), ("HTTPS_PROXY", "http://large:1")]);
        assert_eq!(to(&lower, "https://m").as_deref(), Some("http://small:1"));
        let cgi = proxies(&[("HTTP_PROXY", "http://p:1"), ("REQUEST_METHOD", "GET")]);
        assert_eq!(to(&cgi, "http://m"), None);
    }

    #[test]
    fn this_machine_is_reached_directly() {
        let set = proxies(&[("ALL_PROXY", "http://a:3")]);
        for url in ["http://localhost:8000", "ws://127.0.0.1:8080", "http://[::1]"] {
            assert_eq!(to(&set, url), None, "{url}");
        }
    }

    #[test]
    fn what_no_proxy_names_is_reached_directly() {
        let list = "lab.example,.corp.example, 10.0.0.0/8,192.168.1.7 *.wild.example,[2001:db8::]/32,one.example:8443";
        let set = proxies(&[("ALL_PROXY", "http://a:3"), ("NO_PROXY", list)]);
        for url in [
            "https://lab.example",
            "https://LAB.example:99",
            "https://a.b.lab.example",
            "https://corp.example",
            "https://x.corp.example",
            "wss://10.200.3.4",
            "wss://192.168.1.7:8080",
            "wss://x.wild.example",
            "wss://[2001:db8:1::5]",
            "wss://one.example:8443",
        ] {
            assert_eq!(to(&set, url), None, "{url}");
        }
        for url in [
            "https://notlab.example",
            "https://lab.example.org",
            "wss://11.0.0.1",
            "wss://192.168.1.70",
            "wss://[2001:db9::5]",
            "wss://one.example",
        ] {
            assert!(to(&set, url).is_some(), "{url}");
        }
        assert_eq!(to(&proxies(&[("ALL_PROXY", "http://a:3"), ("no_proxy", "*")]), "https://m"), None);
    }

    #[test]
    fn a_password_is_sent_and_never_shown() {
        let set = proxies(&[("HTTPS_PROXY", "http://ana:ge%40heim@proxy.lab:3128")]);
        let proxy = set.to(&"https://m".parse().unwrap()).unwrap().unwrap();
        assert_eq!(proxy.credentials, Some(("ana".to_owned(), "ge@heim".to_owned())));
        assert_eq!(proxy.authorization().as_deref(), Some("Basic YW5hOmdlQGhlaW0="));
        assert!(!format!("{set:?} {proxy}").contains("heim"));
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_named_only_where_it_is_needed() {
        let set = proxies(&[("ALL_PROXY", "socks5://ana:geheim@proxy.lab:1080"), ("NO_PROXY", "lab")]);
        assert_eq!(to(&set, "https://lab"), None);
        let error = set.to(&"https://m".parse().unwrap()).unwrap_err().to_string();
        assert!(
            error.contains("ALL_PROXY") && error.contains("socks5") && !error.contains("geheim"),
            "{error}"
        );
    }
}
