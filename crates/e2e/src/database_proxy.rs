//! One master's own way to the database, which goes silent when it is told to: nobody hangs up, and nothing comes through.
//!
//! What is on its way then arrives when the way is whole again. It can also be a long way.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// The way; it ends with this.
pub struct DatabaseProxy {
    url: String,
    is_cut: watch::Sender<bool>,
    latency: watch::Sender<Duration>,
    _dir: tempfile::TempDir,
}

impl DatabaseProxy {
    /// A way to the private server of that URL, which listens on a Unix socket.
    pub async fn start(url: &str) -> DatabaseProxy {
        let options = PgConnectOptions::from_str(url).unwrap();
        let name = format!(".s.PGSQL.{}", options.get_port());
        let server = options.get_socket().expect("a server on a Unix socket").join(&name);
        let dir = tempfile::Builder::new().prefix("gaffer-way-").tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(name)).unwrap();
        let (is_cut, cuts) = watch::channel(false);
        let (latency, latencies) = watch::channel(Duration::ZERO);
        tokio::spawn(lead(listener, server, cuts, latencies));
        let url = with_socket_in(url, dir.path());
        DatabaseProxy { url, is_cut, latency, _dir: dir }
    }

    /// The database by this way.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Goes silent.
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// Whole again, and as short as it was.
    pub fn restore(&self) {
        self.is_cut.send_replace(false);
        self.latency.send_replace(Duration::ZERO);
    }

    /// From now on whatever comes through takes so long, each way.
    pub fn delay(&self, latency: Duration) {
        self.latency.send_replace(latency);
    }

    /// Whether it is silent.
    pub fn is_cut(&self) -> bool {
        *self.is_cut.borrow()
    }

    /// Goes silent for so long.
    pub fn cut_for(&self, duration: Duration) {
        self.cut();
        let is_cut = self.is_cut.clone();
        tokio::spawn(async move {
            sleep(duration).await;
            is_cut.send_replace(false);
        });
    }
}

fn with_socket_in(url: &str, dir: &Path) -> String {
    let (before, query) = url.split_once('?').unwrap();
    let parameters = query.split('&').map(|parameter| match parameter.split_once('=') {
        Some(("host", _)) => format!("host={}", dir.display()),
        _ => parameter.to_owned(),
    });
    format!("{before}?{}", parameters.collect::<Vec<_>>().join("&"))
}

async fn lead(
    listener: UnixListener,
    server: PathBuf,
    mut cuts: watch::Receiver<bool>,
    latency: watch::Receiver<Duration>,
) {
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { return };
                tokio::spawn(carry(client, server.clone(), cuts.clone(), latency.clone()));
            }
            // Ends with its proxy.
            changed = cuts.changed() => if changed.is_err() { return },
        }
    }
}

async fn carry(
    client: UnixStream,
    server: PathBuf,
    mut cuts: watch::Receiver<bool>,
    latency: watch::Receiver<Duration>,
) {
    if cuts.wait_for(|is_cut| !is_cut).await.is_err() {
        return;
    }
    let Ok(server) = UnixStream::connect(server).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = copy(from_client, to_server, cuts.clone(), latency.clone()) => {}
        () = copy(from_server, to_client, cuts, latency) => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut cuts: watch::Receiver<bool>,
    latency: watch::Receiver<Duration>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut buffer).await {
        let delay = *latency.borrow();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        // An end does not come through either.
        if cuts.wait_for(|is_cut| !is_cut).await.is_err()
            || count == 0
            || to.write_all(&buffer[..count]).await.is_err()
        {
            return;
        }
    }
}
