//! Small real proxies: one in front of a master, as nginx is set up by its defaults, and one on the way out of a network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// The name that the test certificate is for, beside 127.0.0.1.
pub const TLS_NAME: &str = "gaffer.test";
const MAX_HEAD_BYTES: usize = 64 << 10;

/// A file of the tests' own certificates, which are good for nothing else: `ca.pem`, `server.pem` or `server.key`.
pub fn certificate(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/certificates")).join(name)
}

/// How a reverse proxy passes requests on.
#[derive(Debug, Clone)]
pub struct Passing {
    /// The path that it serves: empty, or like `/gaffer`.
    pub path: &'static str,
    /// Whether it takes that path off.
    pub strips: bool,
    /// Whether it leaves `Host` alone. By default, nginx does not.
    pub keeps_host: bool,
    /// The one server behind it.
    pub to: SocketAddr,
}

/// A listener that is to be a reverse proxy, once it is known what is behind it.
pub struct ReverseProxy {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

/// A reverse proxy that runs until this is dropped.
pub struct Proxying {
    /// Requests that were for none of its paths.
    pub strays: Arc<Mutex<Vec<String>>>,
    _running: JoinSet<()>,
}

impl ReverseProxy {
    /// One that speaks plain HTTP.
    pub async fn plain() -> ReverseProxy {
        ReverseProxy { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), tls: None }
    }

    /// One that speaks TLS, as [`TLS_NAME`].
    pub async fn tls() -> ReverseProxy {
        let chain = CertificateDer::pem_file_iter(certificate("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(certificate("server.key")).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        ReverseProxy { tls: Some(TlsAcceptor::from(Arc::new(config))), ..ReverseProxy::plain().await }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Begins to pass on.
    pub fn pass(self, passing: Passing) -> Proxying {
        let strays = Arc::new(Mutex::new(Vec::new()));
        let mut running = JoinSet::new();
        let seen = strays.clone();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = self.listener.accept().await {
                let (passing, strays, tls) = (passing.clone(), seen.clone(), self.tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => pass(stream, &passing, &strays).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => pass(stream, &passing, &strays).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Proxying { strays, _running: running }
    }
}

/// Passes one request on, and what follows it if that is a WebSocket.
async fn pass<S: AsyncRead + AsyncWrite + Unpin>(
    mut client: S,
    passing: &Passing,
    strays: &Mutex<Vec<String>>,
) -> Option<()> {
    let head = read_head(&mut client).await?;
    let mut lines = head.lines();
    let request = lines.next()?;
    let (method, rest) = request.split_once(' ')?;
    let (target, _) = rest.split_once(' ')?;
    let inner =
        target.strip_prefix(passing.path).filter(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    let Some(inner) = inner else {
        strays.lock().unwrap().push(format!("{method} {target}"));
        let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\nconnection: close\r\n\r\nstray";
        client.write_all(answer.as_bytes()).await.ok()?;
        return None;
    };
    let inner = match (passing.strips, inner.starts_with('/')) {
        (false, _) => target.to_owned(),
        (true, true) => inner.to_owned(),
        (true, false) => format!("/{inner}"),
    };
    let is_upgrade = head.to_ascii_lowercase().contains("\r\nupgrade: websocket");
    let mut passed = format!("{method} {inner} HTTP/1.1\r\n");
    for line in lines.filter(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        match name.as_str() {
            "host" if !passing.keeps_host => passed.push_str(&format!("Host: {}\r\n", passing.to)),
            "connection" if !is_upgrade => {}
            _ => passed.push_str(&format!("{line}\r\n")),
        }
    }
    if !is_upgrade {
        passed.push_str("Connection: close\r\n");
    }
    passed.push_str("\r\n");
    let mut server = TcpStream::connect(passing.to).await.ok()?;
    server.write_all(passed.as_bytes()).await.ok()?;
    copy_bidirectional(&mut client, &mut server).await.ok().map(|_| ())
}

/// What a proxy on the way out was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `CONNECT gaffer.test:443`, or `GET http://…`.
    pub what: String,
    /// Whether user and password were right.
    pub let_through: bool,
}

/// A proxy on the way out that wants a user and a password, and finds names that nobody else does.
pub struct ForwardProxy {
    pub address: SocketAddr,
    /// What it was asked for.
    pub asked: Arc<Mutex<Vec<Asked>>>,
    _running: JoinSet<()>,
}

impl ForwardProxy {
    /// `authorization`: what it wants to be told. `hosts`: where it finds what is at `name:port`.
    pub async fn start(authorization: &str, hosts: &[(String, SocketAddr)]) -> ForwardProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let hosts: Arc<BTreeMap<String, SocketAddr>> = Arc::new(hosts.iter().cloned().collect());
        let wanted = format!("proxy-authorization: {authorization}").to_ascii_lowercase();
        let mut running = JoinSet::new();
        let seen = asked.clone();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(forward(stream, wanted.clone(), hosts.clone(), seen.clone()));
            }
        });
        ForwardProxy { address, asked, _running: running }
    }
}

async fn forward(
    mut client: TcpStream,
    authorization: String,
    hosts: Arc<BTreeMap<String, SocketAddr>>,
    asked: Arc<Mutex<Vec<Asked>>>,
) -> Option<()> {
    let head = read_head(&mut client).await?;
    let request = head.lines().next()?;
    let (method, rest) = request.split_once(' ')?;
    let target = rest.split(' ').next()?;
    let let_through = head.lines().any(|line| line.to_ascii_lowercase() == authorization);
    asked.lock().unwrap().push(Asked { what: format!("{method} {target}"), let_through });
    if !let_through {
        let answer =
            "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        client.write_all(answer.as_bytes()).await.ok()?;
        return None;
    }
    let (host, path) = match target.strip_prefix("http://") {
        Some(rest) => rest.split_once('/').map(|(host, path)| (host, format!("/{path}")))?,
        None => (target, String::new()),
    };
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let Some(address) = hosts.get(&host) else {
        client
            .write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .await
            .ok()?;
        return None;
    };
    let mut server = TcpStream::connect(address).await.ok()?;
    if method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.ok()?;
    } else {
        let rest = head.split_once("\r\n")?.1;
        let rest = rest.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        server.write_all(format!("{method} {path} HTTP/1.1\r\n{rest}").as_bytes()).await.ok()?;
    }
    copy_bidirectional(&mut client, &mut server).await.ok().map(|_| ())
}

async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok().filter(|_| head.len() < MAX_HEAD_BYTES)?);
    }
    String::from_utf8(head).ok()
}
