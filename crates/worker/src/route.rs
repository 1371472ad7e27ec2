//! Connections to a server: address, proxy and certificates, for workers, commands and `gaffer doctor`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use gaffer_protocol::proxies::{Proxies, Proxy};
use gaffer_protocol::server_url::ServerUrl;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::MaybeTlsStream;

/// Unacknowledged data closes a connection after this time, because the kernel's retransmission pauses double.
/// Nothing is lost.
const UNACKNOWLEDGED_LIMIT_MILLIS: u32 = 2_000;
/// The longest answer of a proxy that is read.
const MAX_PROXY_ANSWER_BYTES: usize = 16 << 10;

/// The way to a server.
#[derive(Debug, Clone)]
pub struct Route {
    server: ServerUrl,
    proxy: Option<Proxy>,
    tls: Option<Arc<ClientConfig>>,
}

/// A connection to a server, or through a proxy's tunnel; its TLS, if any, is the proxy's.
pub(crate) type Stream = MaybeTlsStream<TcpStream>;

/// Why the connection failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoConnection {
    /// The network or the server does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// The proxy does not want to pass this on. To be tried again only slowly.
    #[error("{0}")]
    Refused(String),
}

impl Route {
    /// The way to `server`. `tls_ca`: a file of certificates that count instead of the system's.
    ///
    /// # Errors
    /// When the proxy's address or the certificates cannot be used.
    pub fn to(server: ServerUrl, proxies: &Proxies, tls_ca: Option<&Path>) -> anyhow::Result<Route> {
        let proxy = proxies.to(&server)?.cloned();
        let needs_tls = server.is_secure() || proxy.as_ref().is_some_and(|proxy| proxy.is_secure);
        // Reading the system's certificates takes longer than many a command.
        let tls = if needs_tls { Some(Arc::new(trusting(tls_ca)?)) } else { None };
        Ok(Route { server, proxy, tls })
    }

    pub fn server(&self) -> &ServerUrl {
        &self.server
    }

    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// Trusted certificates; none without TLS.
    pub fn tls(&self) -> Option<&Arc<ClientConfig>> {
        self.tls.as_ref()
    }

    /// Host and port to which this machine connects first: the proxy's, if there is one.
    pub(crate) fn first_stop(&self) -> (String, u16) {
        match &self.proxy {
            Some(proxy) => (proxy.host.clone(), proxy.port),
            None => (self.server.host(), self.server.port()),
        }
    }

    /// ` (through the proxy …)`, or nothing: for messages.
    pub fn detour(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!(" (through the proxy {proxy}, from {})", proxy.variable),
            None => String::new(),
        }
    }

    /// Connects to the server, or to the proxy and through its tunnel.
    pub(crate) async fn connect(&self) -> Result<Stream, NoConnection> {
        let Some(proxy) = &self.proxy else {
            let stream = tcp(&self.server.host(), self.server.port()).await;
            return stream
                .map(MaybeTlsStream::Plain)
                .map_err(|error| NoConnection::Unreachable(error.to_string()));
        };
        let unreachable = |error: io::Error| {
            NoConnection::Unreachable(format!("the proxy {proxy} (from {}): {error}", proxy.variable))
        };
        let stream = tcp(&proxy.host, proxy.port).await.map_err(unreachable)?;
        let mut stream = match (&self.tls, proxy.is_secure) {
            (Some(tls), true) => {
                let name = ServerName::try_from(proxy.host.clone())
                    .map_err(io::Error::other)
                    .map_err(unreachable)?;
                let connected = TlsConnector::from(tls.clone()).connect(name, stream).await;
                MaybeTlsStream::Rustls(connected.map_err(unreachable)?)
            }
            _ => MaybeTlsStream::Plain(stream),
        };
        let answer = tunnel(&mut stream, proxy, &self.server).await.map_err(unreachable)?;
        match status_of(&answer) {
            Some(200..=299) => Ok(stream),
            Some(407) => Err(NoConnection::Refused(format!(
                "the proxy {proxy} refused the user or password: set {}=http://USER:PASSWORD@HOST:PORT",
                proxy.variable
            ))),
            // It tried, and could not.
            Some(500..=599) => Err(NoConnection::Unreachable(format!(
                "the proxy {proxy} (from {}) answered `{}`",
                proxy.variable,
                first_line(&answer)
            ))),
            _ => Err(NoConnection::Refused(format!(
                "the proxy {proxy} (from {}) does not pass on to it: it answered `{}`; NO_PROXY={} goes around it",
                proxy.variable,
                first_line(&answer),
                self.server.host()
            ))),
        }
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED_LIMIT_MILLIS)?;
    Ok(stream)
}

/// Asks a proxy for a tunnel; gives the head of its answer.
async fn tunnel(stream: &mut Stream, proxy: &Proxy, server: &ServerUrl) -> io::Result<String> {
    let host = match server.ip() {
        Some(ip @ std::net::IpAddr::V6(_)) => format!("[{ip}]"),
        _ => server.host(),
    };
    let target = format!("{host}:{}", server.port());
    let version = env!("CARGO_PKG_VERSION");
    let mut request =
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: gaffer/{version}\r\n");
    if let Some(authorization) = proxy.authorization() {
        request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    // Byte by byte: what comes after the head is the server's.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_PROXY_ANSWER_BYTES {
            return Err(io::Error::other("it does not respond with HTTP"));
        }
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error)
                if error.kind() == io::ErrorKind::UnexpectedEof && status_of_bytes(&head).is_some() =>
            {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn first_line(head: &str) -> String {
    head.lines().next().unwrap_or_default().chars().filter(|char| !char.is_control()).take(120).collect()
}

fn status_of(head: &str) -> Option<u16> {
    status_of_bytes(head.as_bytes())
}

/// The status in a line like `HTTP/1.1 200 OK`.
fn status_of_bytes(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\r').next()?).ok()?;
    let rest = line.strip_prefix("HTTP/1.")?;
    rest.split(' ').nth(1)?.parse().ok()
}

/// Trusts the certificates in a file; otherwise those of the system, or the public ones if it has none.
fn trusting(tls_ca: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match tls_ca {
        Some(path) => {
            let cannot = || format!("cannot read the certificates in {} (GAFFER_TLS_CA)", path.display());
            for certificate in CertificateDer::pem_file_iter(path).with_context(cannot)? {
                roots.add(certificate.with_context(cannot)?).with_context(cannot)?;
            }
            ensure!(!roots.is_empty(), "{} contains no certificate (GAFFER_TLS_CA)", path.display());
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
        }
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn certificates_must_be_there_and_make_sense() {
        let error = |path: &Path| {
            let route = Route::to("wss://m".parse().unwrap(), &Proxies::default(), Some(path));
            format!("{:#}", route.err().unwrap())
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(error(file.path()).contains("contains no certificate"));
        assert!(error(Path::new("/no/such")).contains("cannot read the certificates in /no/such"));
        let plain = Route::to("ws://m".parse().unwrap(), &Proxies::default(), Some(Path::new("/no/such")));
        assert!(plain.unwrap().tls().is_none(), "without TLS no certificate is read");
    }

    #[test]
    fn answers_of_proxies_are_read() {
        assert_eq!(status_of("HTTP/1.1 200 Connection established\r\n\r\n"), Some(200));
        assert_eq!(status_of("HTTP/1.0 407 Proxy Authentication Required\r\n"), Some(407));
        assert_eq!((status_of("SSH-2.0-x\r\n"), status_of("")), (None, None));
        assert_eq!(first_line("HTTP/1.1 403 Not\x1b[31m here\r\nx: y\r\n\r\n"), "HTTP/1.1 403 Not[31m here");
    }
}
