//! Who is connected: delivers messages to the sessions of workers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gaffer_domain::WorkerId;
use gaffer_protocol::wire::{GoodbyeCode, MachineStats, ToWorker};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::rate::{Buckets, Rate};
use crate::session::reports::Reports;

/// So many messages wait for a worker that does not read; with one more it is disconnected, and reconciled when it is
/// back.
const MAX_QUEUED_MESSAGES: usize = 8_192;

/// How many sessions of one worker are begun at once, and then in each second: each writes to its row and its history.
const HELLOS: Rate = Rate { at_once: 100.0, per_second: 2.0 };
/// The most workers whose hellos are counted.
const MAX_HELLOS: usize = 20_000;

/// All sessions, by worker.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    sessions: Arc<Mutex<HashMap<WorkerId, Arc<SessionHandle>>>>,
    hellos: Arc<Mutex<Hellos>>,
}

/// Who has said hello how often, by the hash of the identity.
#[derive(Debug)]
struct Hellos(Buckets<[u8; 32]>);

impl Default for Hellos {
    fn default() -> Hellos {
        Hellos(Buckets::new(HELLOS, MAX_HELLOS))
    }
}

/// One session, as the rest of the master sees it.
#[derive(Debug)]
pub struct SessionHandle {
    /// Which session.
    pub id: Uuid,
    /// Whose it is.
    pub worker: WorkerId,
    /// The worker's name.
    pub worker_name: Arc<str>,
    /// The key it was opened with.
    pub key: i64,
    queue: mpsc::Sender<ToWorker>,
    goodbye: watch::Sender<Option<Goodbye>>,
    deaf: CancellationToken,
    last_seen: Mutex<LastSeen>,
    /// What it says faster than it is written.
    pub reports: Reports,
}

/// The last signs of life.
#[derive(Debug, Clone, Copy)]
struct LastSeen {
    at: Instant,
    reading: Option<(Instant, MachineStats)>,
}

/// Why a session is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goodbye {
    /// Which kind of reason.
    pub code: GoodbyeCode,
    /// A sentence for the worker's operator.
    pub message: String,
}

/// The session's own ends of its handle.
#[derive(Debug)]
pub struct SessionEnds {
    /// What is to be sent.
    pub queue: mpsc::Receiver<ToWorker>,
    /// Set once the session is to end.
    pub goodbye: watch::Receiver<Option<Goodbye>>,
    /// As long as this lives, what the worker says in this session counts.
    pub hearing: DropGuard,
}

impl SessionHandle {
    /// A session that has just begun.
    pub fn new(id: Uuid, worker: WorkerId, worker_name: &str, key: i64) -> (Arc<SessionHandle>, SessionEnds) {
        let (queue, queue_end) = mpsc::channel(MAX_QUEUED_MESSAGES);
        let (goodbye, goodbye_end) = watch::channel(None);
        let last_seen = Mutex::new(LastSeen { at: Instant::now(), reading: None });
        let reports = Reports::default();
        let worker_name = worker_name.into();
        let deaf = CancellationToken::new();
        let ends = SessionEnds { queue: queue_end, goodbye: goodbye_end, hearing: deaf.clone().drop_guard() };
        let handle = SessionHandle { id, worker, worker_name, key, queue, goodbye, deaf, last_seen, reports };
        (Arc::new(handle), ends)
    }

    /// Queues a message. A worker that is too far behind is disconnected instead.
    pub fn send(&self, message: ToWorker) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(message) {
            self.end(GoodbyeCode::TooSlow, "the worker does not read its messages fast enough");
        }
    }

    /// Ends the session; the first reason given counts.
    pub fn end(&self, code: GoodbyeCode, message: &str) {
        self.goodbye.send_if_modified(|goodbye| {
            let first = goodbye.is_none();
            if first {
                *goodbye = Some(Goodbye { code, message: message.to_owned() });
            }
            first
        });
    }

    /// Waits until nothing that its worker says in this session counts any more.
    pub async fn no_longer_heard(&self) {
        self.deaf.cancelled().await;
    }

    /// Notes a sign of life.
    pub fn heard(&self, stats: Option<MachineStats>) {
        let mut last_seen = self.last_seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        last_seen.at = now;
        last_seen.reading = stats.map(|stats| (now, stats)).or(last_seen.reading);
    }

    /// When the worker was last heard of, and how its machine was doing.
    pub fn last_seen(&self) -> (Instant, Option<MachineStats>) {
        let last_seen = self.last_seen.lock().unwrap_or_else(PoisonError::into_inner);
        (last_seen.at, last_seen.reading.map(|(_, stats)| stats))
    }

    /// How the worker's machine was doing, and when it said so.
    pub fn reading(&self) -> Option<(Instant, MachineStats)> {
        self.last_seen.lock().unwrap_or_else(PoisonError::into_inner).reading
    }
}

impl Hub {
    /// Makes this the session of its worker. An older one is told why and goes, and is given back.
    pub fn attach(&self, session: Arc<SessionHandle>) -> Option<Arc<SessionHandle>> {
        let older = self.lock().insert(session.worker, session)?;
        older.end(GoodbyeCode::Superseded, "another process with this worker's identity has connected");
        Some(older)
    }

    /// Forgets a session, unless another one has taken its place.
    pub fn detach(&self, worker: WorkerId, session: Uuid) {
        let mut sessions = self.lock();
        if sessions.get(&worker).is_some_and(|present| present.id == session) {
            sessions.remove(&worker);
        }
    }

    /// Sends a message to a worker. If it is not connected, nothing happens: what it misses is repaired when it is back.
    pub fn send(&self, worker: WorkerId, message: ToWorker) {
        if let Some(session) = self.get(worker) {
            session.send(message);
        }
    }

    /// The session of a worker.
    pub fn get(&self, worker: WorkerId) -> Option<Arc<SessionHandle>> {
        self.lock().get(&worker).cloned()
    }

    /// All sessions.
    pub fn all(&self) -> Vec<Arc<SessionHandle>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WorkerId, Arc<SessionHandle>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a worker may begin a session now.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn may_say_hello(&self, identity: [u8; 32]) -> Result<(), Duration> {
        self.hellos.lock().unwrap_or_else(PoisonError::into_inner).0.take(identity, Instant::now())
    }
}
