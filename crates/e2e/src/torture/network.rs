//! A breakable network between a worker and its master.
//!
//! What is on its way when a direction is cut arrives later, as it does when a real network comes back.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::tap::{Line, Tap, Way};

/// How often a master is asked whether it is ready, for how long, and how often in a row it may fail to say so.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
const MISSES: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Nothing comes through, either way.
    Both,
    /// Nothing reaches the master.
    ToMaster,
    /// Nothing reaches the worker.
    ToWorker,
    /// Every connection is reset, and new ones work.
    Reset,
}

impl Break {
    /// Every kind.
    pub const ALL: [Break; 4] = [Break::Both, Break::ToMaster, Break::ToWorker, Break::Reset];
}

#[derive(Debug, Clone)]
pub enum Target {
    /// To that port.
    Port(u16),
    /// To whichever of these says that it is ready, as a load balancer would.
    Ready {
        /// Each master's port for what is carried.
        ports: Vec<u16>,
        /// Connections to one that is not ready any more are hung up.
        hangs_up: bool,
    },
}

impl Target {
    async fn connect(&self) -> Option<(u16, TcpStream)> {
        let port = match self {
            Target::Port(port) => *port,
            Target::Ready { ports, .. } => first_ready(ports).await?,
        };
        Some((port, TcpStream::connect(("127.0.0.1", port)).await.ok()?))
    }

    /// Ends when a connection to that port is to be hung up.
    async fn forsaken(&self, port: u16) {
        let Target::Ready { hangs_up: true, .. } = self else { return std::future::pending().await };
        let mut misses = 0;
        while misses < MISSES {
            sleep(CHECK_INTERVAL).await;
            misses = if is_ready(port).await { 0 } else { misses + 1 };
        }
    }
}

/// The first of several masters that is ready, if any is.
pub async fn first_ready(ports: &[u16]) -> Option<u16> {
    let asked = ports.iter().map(|port| async move { is_ready(*port).await.then_some(*port) });
    futures::future::join_all(asked).await.into_iter().flatten().next()
}

async fn is_ready(port: u16) -> bool {
    let asking = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = b"GET /readyz HTTP/1.1\r\nhost: master\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.ok()?;
        status.ends_with(b" 200").then_some(())
    };
    tokio::time::timeout(CHECK_TIMEOUT, asking).await.is_ok_and(|ready| ready.is_some())
}

/// A way from one worker to its master.
pub struct Network {
    port: u16,
    cut: watch::Sender<Option<Break>>,
    reset: Arc<Notify>,
}

impl Network {
    /// Leads to that port.
    pub async fn start(master: Target) -> Network {
        Network::lay(master, None).await
    }

    /// The same, read along by a tap.
    pub async fn tapped(master: u16, tap: Arc<Tap>) -> Network {
        Network::lay(Target::Port(master), Some(tap)).await
    }

    async fn lay(master: Target, tap: Option<Arc<Tap>>) -> Network {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, cuts) = watch::channel(None);
        let reset = Arc::new(Notify::new());
        let tap = tap.map(|tap| (tap, Arc::default()));
        tokio::spawn(lead(listener, master, cuts, reset.clone(), tap));
        Network { port, cut, reset }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Breaks it for so long.
    pub fn strike(&self, kind: Break, duration: Duration) {
        if kind == Break::Reset {
            self.reset.notify_waiters();
            return;
        }
        self.cut.send_replace(Some(kind));
        let cut = self.cut.clone();
        tokio::spawn(async move {
            sleep(duration).await;
            cut.send_replace(None);
        });
    }

    /// Whole again, at once.
    pub fn restore(&self) {
        self.cut.send_replace(None);
    }
}

type Tapping = Option<(Arc<Tap>, Arc<Line>)>;

async fn lead(
    listener: TcpListener,
    master: Target,
    cuts: watch::Receiver<Option<Break>>,
    reset: Arc<Notify>,
    tap: Tapping,
) {
    while let Ok((worker, _)) = listener.accept().await {
        tokio::spawn(carry(worker, master.clone(), cuts.clone(), reset.clone(), tap.clone()));
    }
}

async fn carry(
    worker: TcpStream,
    target: Target,
    mut cuts: watch::Receiver<Option<Break>>,
    reset: Arc<Notify>,
    tap: Tapping,
) {
    let reset = reset.notified();
    if cuts.wait_for(Option::is_none).await.is_err() {
        return;
    }
    let Some((port, master)) = target.connect().await else { return };
    for socket in [&worker, &master] {
        // Dropped, it is reset.
        let _ = socket.set_zero_linger();
        let _ = socket.set_nodelay(true);
    }
    let (from_worker, to_worker) = worker.into_split();
    let (from_master, to_master) = master.into_split();
    match tap {
        None => tokio::select! {
            () = copy(from_worker, to_master, cuts.clone(), Break::ToMaster) => {}
            () = copy(from_master, to_worker, cuts, Break::ToWorker) => {}
            () = reset => {}
            () = target.forsaken(port) => {}
        },
        Some((tap, line)) => tokio::select! {
            () = tap.carry(&line, Way::ToMaster, BufReader::new(from_worker), to_master) => {}
            () = tap.carry(&line, Way::ToWorker, BufReader::new(from_master), to_worker) => {}
            () = reset => {}
        },
    }
}

/// One direction, until one side is gone.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut cuts: watch::Receiver<Option<Break>>,
    direction: Break,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut buffer).await {
        let is_open = |cut: &Option<Break>| !cut.is_some_and(|cut| cut == direction || cut == Break::Both);
        if count == 0
            || cuts.wait_for(is_open).await.is_err()
            || to.write_all(&buffer[..count]).await.is_err()
        {
            return;
        }
    }
}
