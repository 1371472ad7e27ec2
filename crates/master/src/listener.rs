//! One port: accepts connections, serves HTTP, and closes connections that are silent for too long or whose place
//! is needed. Streams and sessions stay open.

mod body;
mod client;
mod places;
mod socket;
mod tls;

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::sys::resource::{Resource, getrlimit};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::certificate::Certificate;
use crate::config::{ConnectionConfig, TrustedProxies};
use crate::metrics::http::{HttpMetrics, OneMore, PortMetrics};
use body::{AnswerBody, RequestBody, UnderWay};
pub use client::Client;
use places::{Admission, Place, Places};
pub use places::{Connection, PlaceLimits, Timeouts, network_of, shares};
use socket::Socket;

/// Silence is looked for so often.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// What happens again and again is logged so often.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// A silent connection is asked so often whether anybody is there; after as long again without an answer it is closed.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// The longest header of a request.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Wait after the system has refused a connection, for instance because there are no more files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A port and its service.
#[derive(Debug)]
pub struct Listener {
    /// For the log: `dashboard`, `api` or `workers`.
    pub name: &'static str,
    pub socket: TcpListener,
    pub router: Router,
    /// How many connections there may be.
    pub limits: PlaceLimits,
    /// How long they may say nothing.
    pub timeouts: Timeouts,
    pub transport: Transport,
    pub metrics: HttpMetrics,
}

/// What is below HTTP, the same for all ports.
#[derive(Debug, Clone, Default)]
pub struct Transport {
    /// With which certificate they speak TLS; none for plain HTTP.
    pub certificate: Option<Arc<Certificate>>,
    pub trusted_proxies: Arc<TrustedProxies>,
}

/// The limits of the three ports (dashboard, API, workers), by the files that this process may open.
pub fn limits(config: &ConnectionConfig) -> [PlaceLimits; 3] {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft);
    let shares = shares(files, config.max_connections);
    tracing::info!(
        files,
        dashboard = shares[0],
        api = shares[1],
        workers = shares[2],
        "limit on open files and connections per port"
    );
    if let Some(wanted) = config.max_connections.filter(|wanted| shares.iter().any(|share| share < wanted)) {
        tracing::warn!(
            wanted,
            "the limit on open files allows fewer connections than GAFFER_MAX_CONNECTIONS asks for"
        );
    }
    shares.map(|share| PlaceLimits::new(share, config.max_connections_per_address))
}

impl Listener {
    /// Accepts connections until `shutdown`, then waits for running requests.
    pub async fn serve(self, shutdown: CancellationToken) {
        let places = Places::new(self.limits);
        let metrics = self.metrics.port(self.name);
        let connections = TaskTracker::new();
        let mut sweep = tokio::time::interval(SWEEP_EVERY.min(self.timeouts.header / 4));
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut log = PeriodicLog::new(self.name);
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                _ = sweep.tick() => {
                    places.sweep(Instant::now(), &self.timeouts);
                    let dropped = places.take_dropped();
                    let (connected, known) = places.count();
                    metrics.connected(connected, known);
                    metrics.replaced(dropped);
                    log.dropped += dropped;
                    log.tell(&places);
                    continue;
                }
                accepted = async { places.room().await; self.socket.accept().await } => accepted,
            };
            match accepted {
                Ok((stream, peer)) => match places.admit(peer, Instant::now()) {
                    Admission::Welcome(place) => {
                        let service = Service {
                            router: self.router.clone(),
                            timeouts: self.timeouts,
                            transport: self.transport.clone(),
                            metrics: metrics.clone(),
                        };
                        connections.spawn(connection(stream, place, service, shutdown.clone()));
                    }
                    Admission::Full => {
                        metrics.refused();
                        log.refused += 1;
                    }
                },
                Err(error) => {
                    if !is_of_one_connection(&error) {
                        log.errors += 1;
                        log.last_error = Some(error);
                        places.make_room();
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        drop(self.socket);
        places.close_silent();
        connections.close();
        connections.wait().await;
        metrics.connected(0, 0);
    }
}

/// Whether an error of `accept` is about the connection, not about this process.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset)
}

/// What is served on a connection.
#[derive(Debug, Clone)]
struct Service {
    router: Router,
    timeouts: Timeouts,
    transport: Transport,
    metrics: PortMetrics,
}

/// Serves one connection until it ends, or must close.
async fn connection(stream: TcpStream, place: Place, service: Service, shutdown: CancellationToken) {
    // Small messages must not wait for each other's acknowledgements.
    let _ = stream.set_nodelay(true);
    // A stream may be silent for hours; keepalive detects a dead client.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4).with_retries(4);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let connection = place.0.clone();
    let socket = Socket::new(stream, place);
    let Some(certificate) = &service.transport.certificate else {
        return requests(socket, connection, service, shutdown).await;
    };
    let encrypted = tokio::select! {
        encrypted = tls::accept(socket, certificate.config()) => encrypted,
        () = connection.closing().cancelled() => return,
        () = shutdown.cancelled() => return,
    };
    match encrypted {
        Ok(encrypted) => requests(encrypted, connection, service, shutdown).await,
        Err(error) => tracing::trace!(%error, peer = %connection.peer, "no TLS on a connection"),
    }
}

/// Serves the requests of one connection.
async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: Arc<Connection>,
    service: Service,
    shutdown: CancellationToken,
) {
    let service = service_fn({
        let connection = connection.clone();
        move |request: Request<Incoming>| answer(service.clone(), request, connection.clone())
    });
    let served = http1::Builder::new()
        // How long a request's header may take is seen by the sweep, which tells it from a pause between two requests.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = connection.closing().cancelled() => return,
        () = shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            tokio::select! {
                ended = served => ended,
                () = connection.closing().cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, peer = %connection.peer, "a connection broke");
    }
}

async fn answer(
    service: Service,
    mut request: Request<Incoming>,
    connection: Arc<Connection>,
) -> Result<Response<AnswerBody>, Infallible> {
    let under_way = UnderWay::on(&connection, OneMore::of(&service.metrics.in_progress));
    let Transport { certificate, trusted_proxies } = &service.transport;
    let client = Client::of(connection.peer.ip(), certificate.is_some(), request.headers(), trusted_proxies);
    request.extensions_mut().insert(client);
    request.extensions_mut().insert(connection);
    let request = request.map(|body| RequestBody::around(body, service.timeouts));
    let response: Response<Body> = service.router.oneshot(request).await?;
    Ok(response.map(|body| AnswerBody::around(body, under_way)))
}

/// Limits the rate of a log message.
struct PeriodicLog {
    port: &'static str,
    dropped: u64,
    refused: u64,
    errors: u64,
    last_error: Option<io::Error>,
    told: Option<Instant>,
}

impl PeriodicLog {
    fn new(port: &'static str) -> PeriodicLog {
        PeriodicLog { port, dropped: 0, refused: 0, errors: 0, last_error: None, told: None }
    }

    fn tell(&mut self, places: &Places) {
        let nothing = self.dropped == 0 && self.refused == 0 && self.errors == 0;
        if nothing || self.told.is_some_and(|told| told.elapsed() < LOG_EVERY) {
            return;
        }
        let (connected, authenticated) = places.count();
        tracing::warn!(
            port = self.port,
            connected,
            authenticated,
            dropped = self.dropped,
            refused = self.refused,
            errors = self.errors,
            last_error = self.last_error.as_ref().map(tracing::field::display),
            "too many connections: closing the oldest ones without a key"
        );
        *self = PeriodicLog { told: Some(Instant::now()), ..PeriodicLog::new(self.port) };
    }
}

#[cfg(test)]
mod tests;
