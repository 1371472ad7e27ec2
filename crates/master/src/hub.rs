//! Connected workers; delivers messages to their sessions.

mod agreement;
mod outbox;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gaffer_domain::WorkerId;
use gaffer_protocol::output::MAX_CHUNK_PAYLOAD;
use gaffer_protocol::wire::{GoodbyeCode, MachineStats, ToWorker};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::rate::{Buckets, Rate};
use crate::store::transitions::StartOrder;
pub use agreement::{Agreement, Listed};
use outbox::{Budget, Outbox};

/// How many sessions of one worker are begun at once, and then in each second: each writes to its row and its history.
const HELLOS: Rate = Rate { at_once: 100.0, per_second: 2.0 };
/// The most workers whose hellos are counted.
const MAX_HELLOS: usize = 20_000;

/// Total output in flight from all workers.
const OUTPUT_ROOM_BYTES: u64 = 64 << 20;
/// Bounds of what one worker may have on its way.
const MIN_WINDOW_BYTES: u64 = 16 << 10;
const MAX_WINDOW_BYTES: u64 = 8 << 20;
/// How long a worker may still use a larger window after it was sent a smaller one.
const OLD_WINDOW_VALID: Duration = Duration::from_secs(60);
/// Number of concurrent hellos; others wait, so that a returning fleet does not use up the database connections.
const HELLOS_AT_ONCE: usize = 8;

/// All sessions, by worker.
#[derive(Debug, Clone, Default)]
pub struct Hub(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sessions: Mutex<HashMap<WorkerId, Arc<SessionHandle>>>,
    budget: Arc<Budget>,
    /// Turns at being let in.
    turns: Semaphore,
    /// Hello rates by hash of the identity.
    hellos: Mutex<Buckets<[u8; 32]>>,
    /// What each session may have on its way.
    window: AtomicU64,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            sessions: Mutex::default(),
            budget: Arc::default(),
            turns: Semaphore::new(HELLOS_AT_ONCE),
            hellos: Mutex::new(Buckets::new(HELLOS, MAX_HELLOS)),
            window: AtomicU64::new(MAX_WINDOW_BYTES),
        }
    }
}

/// One session, as the rest of the master sees it.
#[derive(Debug)]
pub struct SessionHandle {
    pub id: Uuid,
    pub worker: WorkerId,
    pub worker_name: Arc<str>,
    /// The key it was opened with.
    pub key: i64,
    /// Whether worker and database were found to agree.
    pub agreement: Agreement,
    outbox: Outbox,
    credit: Mutex<Credit>,
    /// Output bytes that arrived and are not committed.
    on_its_way: Arc<AtomicU64>,
    goodbye: watch::Sender<Option<Goodbye>>,
    deaf: CancellationToken,
    last_seen: Mutex<LastSeen>,
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
    pub code: GoodbyeCode,
    /// A sentence for the worker's operator.
    pub message: String,
}

/// The session's own ends of its handle.
#[derive(Debug)]
pub struct SessionEnds {
    /// Set once the session is to end.
    pub goodbye: watch::Receiver<Option<Goodbye>>,
    /// While this exists, messages of this session count.
    pub hearing: DropGuard,
}

/// How much output a worker may have on its way.
#[derive(Debug, Clone, Copy)]
struct Credit {
    window: u64,
    /// A larger one, and when it was taken back.
    before: Option<(u64, Instant)>,
}

/// Output on its way, from its arrival to its commit.
#[derive(Debug)]
pub struct OnItsWay {
    bytes: u64,
    of_session: Arc<AtomicU64>,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.of_session.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl SessionHandle {
    /// A session that has just begun.
    pub fn new(
        hub: &Hub,
        id: Uuid,
        worker: WorkerId,
        worker_name: &str,
        key: i64,
    ) -> (Arc<SessionHandle>, SessionEnds) {
        let (goodbye, goodbye_end) = watch::channel(None);
        let last_seen = Mutex::new(LastSeen { at: Instant::now(), reading: None });
        let worker_name: Arc<str> = worker_name.into();
        let deaf = CancellationToken::new();
        let ends = SessionEnds { goodbye: goodbye_end, hearing: deaf.clone().drop_guard() };
        let handle = SessionHandle {
            id,
            worker,
            key,
            agreement: Agreement::default(),
            outbox: Outbox::new(hub.0.budget.clone(), Arc::clone(&worker_name)),
            worker_name,
            credit: Mutex::new(Credit { window: hub.window(), before: None }),
            on_its_way: Arc::default(),
            goodbye,
            deaf,
            last_seen,
        };
        (Arc::new(handle), ends)
    }

    /// Queues a message. With too much waiting, one that is repaired anyway is left out, and any other ends the session.
    pub fn send(&self, message: ToWorker) {
        if !self.outbox.send(&message) {
            self.end(GoodbyeCode::TooSlow, "the worker reads too slowly");
        }
    }

    /// Queues a start, with its definition if the worker does not have it in this session.
    pub fn start(&self, order: &StartOrder) {
        self.outbox.start(order);
    }

    /// Waits for something to be sent: the text of a frame.
    pub async fn next_frame(&self) -> String {
        self.outbox.next_frame().await
    }

    /// How much output the worker may have on its way.
    pub fn window(&self) -> u64 {
        self.credit().window
    }

    /// Output arrived. None if that is more than the worker may have on its way.
    pub fn output_arrived(&self, bytes: usize) -> Option<OnItsWay> {
        let credit = *self.credit();
        let before = credit.before.filter(|(_, at)| at.elapsed() < OLD_WINDOW_VALID);
        let window = before.map_or(credit.window, |(window, _)| window.max(credit.window));
        let bytes = bytes as u64;
        // A chunk more: acknowledgements and output pass each other.
        let most = window + MAX_CHUNK_PAYLOAD as u64;
        if self.on_its_way.fetch_add(bytes, Ordering::Relaxed) + bytes > most {
            self.on_its_way.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        Some(OnItsWay { bytes, of_session: self.on_its_way.clone() })
    }

    /// Output bytes that arrived and are not committed.
    pub fn output_on_its_way(&self) -> u64 {
        self.on_its_way.load(Ordering::Relaxed)
    }

    fn set_window(&self, window: u64) {
        let mut credit = self.credit();
        if window < credit.window {
            let larger = credit.before.filter(|(_, at)| at.elapsed() < OLD_WINDOW_VALID);
            let larger = larger.map_or(credit.window, |(larger, _)| larger.max(credit.window));
            credit.before = Some((larger, Instant::now()));
        }
        credit.window = window;
        drop(credit);
        self.send(ToWorker::OutputWindow { bytes: window });
    }

    fn credit(&self) -> MutexGuard<'_, Credit> {
        self.credit.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Waits until no message of this session counts any more.
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

    /// The last measurement of the worker's machine, with its time.
    pub fn reading(&self) -> Option<(Instant, MachineStats)> {
        self.last_seen.lock().unwrap_or_else(PoisonError::into_inner).reading
    }
}

impl Hub {
    /// Makes this the session of its worker. An older one is told why, ends, and is returned.
    pub fn attach(&self, session: Arc<SessionHandle>) -> Option<Arc<SessionHandle>> {
        let older = self.lock().insert(session.worker, session.clone());
        self.share_out();
        // It may have changed since this session was made.
        if session.window() != self.window() {
            session.set_window(self.window());
        }
        let older = older?;
        older.end(GoodbyeCode::Superseded, "another process connected with this worker's identity");
        Some(older)
    }

    /// Forgets a session, unless another one has taken its place.
    pub fn detach(&self, worker: WorkerId, session: Uuid) {
        let mut sessions = self.lock();
        if sessions.get(&worker).is_some_and(|present| present.id == session) {
            sessions.remove(&worker);
        }
        drop(sessions);
        self.share_out();
    }

    /// Whether a worker may begin a session now.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn may_say_hello(&self, identity: [u8; 32]) -> Result<(), Duration> {
        self.0.hellos.lock().unwrap_or_else(PoisonError::into_inner).take(identity, Instant::now())
    }

    /// Waits for a turn to let a worker in.
    pub async fn hello_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.0.turns.acquire().await.ok()
    }

    /// How much output a worker may have on its way when its session begins.
    fn window(&self) -> u64 {
        self.0.window.load(Ordering::Relaxed)
    }

    /// Divides the room for output among the workers that are connected. It changes by halves and doubles, so that each of
    /// many workers hears of it a few times only.
    fn share_out(&self) {
        let sessions = self.lock();
        let window = window_of_each(sessions.len());
        if self.0.window.swap(window, Ordering::Relaxed) != window {
            sessions.values().for_each(|session| session.set_window(window));
        }
    }

    /// Sends a start to a worker, likewise.
    pub fn start(&self, worker: WorkerId, order: &StartOrder) {
        if let Some(session) = self.get(worker) {
            session.start(order);
        }
    }

    /// Sends a message to a worker. Without a connection nothing happens: a comparison repairs it later.
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
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The largest power of two of which all workers may have as much on their way.
fn window_of_each(workers: usize) -> u64 {
    let share = OUTPUT_ROOM_BYTES / (workers.max(1) as u64);
    let window = 1_u64 << share.max(1).ilog2();
    window.clamp(MIN_WINDOW_BYTES, MAX_WINDOW_BYTES)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn session(hub: &Hub, worker: i64) -> Arc<SessionHandle> {
        SessionHandle::new(hub, Uuid::now_v7(), WorkerId(worker), "w", 1).0
    }

    #[test]
    fn the_room_for_output_is_shared_out_among_the_workers() {
        for workers in [0, 1, 8, 9, 12, 100, 1_000, 4_096] {
            let window = window_of_each(workers);
            assert!((MIN_WINDOW_BYTES..=MAX_WINDOW_BYTES).contains(&window));
            assert!(window * workers as u64 <= OUTPUT_ROOM_BYTES, "{workers}: {window}");
        }
        assert_eq!(
            (window_of_each(8), window_of_each(12), window_of_each(1_000)),
            (8 << 20, 4 << 20, 64 << 10)
        );
        let hub = Hub::default();
        let sessions: Vec<_> = (0..9).map(|worker| session(&hub, worker)).collect();
        sessions.iter().for_each(|session| drop(hub.attach(session.clone())));
        assert!(sessions.iter().all(|session| session.window() == 4 << 20));
        hub.detach(WorkerId(3), sessions[3].id);
        assert_eq!(sessions[0].window(), 8 << 20);
    }

    #[test]
    fn a_worker_may_have_its_window_on_its_way_and_no_more() {
        let hub = Hub::default();
        let session = session(&hub, 1);
        hub.attach(session.clone());
        let chunk = MAX_CHUNK_PAYLOAD;
        let mut arrived = Vec::new();
        while let Some(more) = session.output_arrived(chunk) {
            arrived.push(more);
        }
        assert_eq!(arrived.len() as u64, MAX_WINDOW_BYTES / chunk as u64 + 1);
        arrived.pop();
        assert!(session.output_arrived(chunk).is_some(), "what is committed makes room");
        session.set_window(MIN_WINDOW_BYTES);
        assert!(session.output_arrived(chunk).is_some(), "it may not have heard of the smaller window yet");
        arrived.clear();
        let past = Instant::now().checked_sub(OLD_WINDOW_VALID).unwrap();
        session.credit().before = Some((MAX_WINDOW_BYTES, past));
        let _one_more = session.output_arrived(chunk).unwrap();
        assert!(session.output_arrived(chunk).is_none());
    }
}
