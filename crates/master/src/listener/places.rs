//! The connections of one port; when it is full, silent connections without a valid key are closed first.
//!
//! A connection is *proven* once a request on it had a valid key or session. Unproven connections share a part of the
//! port's places, so proven ones always get in; a new connection replaces the oldest silent one. Unproven connections are
//! also limited per address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Open files that are not connections: database, logs, assets.
const OWN_FILES: u64 = 128;
/// The most connections of a port, however many files the system allows.
const MAX_PLACES: u32 = 16_384;
/// One place in this many is reserved for proven connections.
const ONE_RESERVED_OF: u32 = 4;
/// Connections that are closing still hold a file.
const CLOSING: u32 = 16;

/// How many connections a port takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceLimits {
    /// In all.
    pub all: u32,
    /// Of those, the most that are not proven.
    pub unproven: u32,
    /// The most of one address that are not proven.
    pub unproven_of_address: u32,
}

impl PlaceLimits {
    /// Total number of places.
    pub fn new(all: u32, unproven_of_address: u32) -> PlaceLimits {
        let all = all.max(2);
        let unproven = all - (all / ONE_RESERVED_OF).max(1);
        // One address never has all of the places that are for everybody.
        let unproven_of_address = unproven_of_address.min(unproven / 2).max(1);
        PlaceLimits { all, unproven, unproven_of_address }
    }
}

/// How many connections each port may have, so that none takes the files of another: half of what there are for workers,
/// a quarter each for pages and API. `wanted` is what the operator asks for; more than there are files for is not given.
pub fn shares(files: u64, wanted: Option<u32>) -> [u32; 3] {
    let free = files.saturating_sub(OWN_FILES.min(files / 4));
    let part = |of: u64| {
        let part = u32::try_from(free / of).unwrap_or(u32::MAX).saturating_sub(CLOSING);
        part.min(wanted.unwrap_or(MAX_PLACES))
    };
    [part(4), part(4), part(2)]
}

/// The part of an address that identifies a client; for IPv6 the /64 network.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address => address,
    }
}

/// How long a connection may say nothing.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From the connection, or the first byte of a request, to the end of its header.
    pub header: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// Between two parts of a request's body.
    pub body: Duration,
    /// From the first to the last part of a request's body.
    pub whole_body: Duration,
    /// Timeout of an unproven client that does not read its response.
    pub answer: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            header: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body: Duration::from_secs(30),
            whole_body: Duration::from_secs(300),
            answer: Duration::from_secs(60),
        }
    }
}

/// One connection, as the rest of the master sees it.
#[derive(Debug)]
pub struct Connection {
    number: u64,
    /// Who is at the other end: a client, or a proxy.
    pub peer: SocketAddr,
    begun: Instant,
    places: Arc<Places>,
    close: CancellationToken,
    proven: AtomicBool,
    /// Running requests; a session counts as one while it lasts.
    busy: AtomicU32,
    /// When it last became silent, when a request began to arrive, since when an answer is not taken: milliseconds after
    /// `begun`, plus one; 0 for never.
    silent_since: AtomicU64,
    head_since: AtomicU64,
    stuck_since: AtomicU64,
}

impl Connection {
    /// A request on it came with a good key or session: it keeps its place.
    pub fn prove(self: &Arc<Self>) {
        if !self.proven.swap(true, Ordering::Relaxed) {
            self.places.promote(self);
        }
    }

    /// It is a session from now on, which has its own timeouts.
    pub fn becomes_session(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    /// Cancelled when it must close.
    pub fn closing(&self) -> &CancellationToken {
        &self.close
    }

    /// Whether no request is running.
    pub fn is_silent(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }

    pub(super) fn request_begins(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
    }

    pub(super) fn request_ends(&self) {
        self.silent_since.store(self.moment(Instant::now()), Ordering::Relaxed);
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }

    /// Data arrived: without a running request, a request begins.
    pub(super) fn heard(&self) {
        if self.is_silent() && self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.moment(Instant::now()), Ordering::Relaxed);
        }
    }

    /// Whether the client reads what is sent.
    pub(super) fn takes(&self, takes: bool) {
        match (takes, self.stuck_since.load(Ordering::Relaxed)) {
            (true, 0) => {}
            (true, _) => self.stuck_since.store(0, Ordering::Relaxed),
            (false, 0) => self.stuck_since.store(self.moment(Instant::now()), Ordering::Relaxed),
            (false, _) => {}
        }
    }

    fn moment(&self, at: Instant) -> u64 {
        let millis = at.saturating_duration_since(self.begun).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX - 1) + 1
    }

    /// Whether it was silent, or not reading, for too long.
    fn is_overdue(&self, now: Instant, timeouts: &Timeouts) -> bool {
        let now = self.moment(now);
        let longer =
            |since: u64, timeout: Duration| u128::from(now.saturating_sub(since)) >= timeout.as_millis();
        let stuck = self.stuck_since.load(Ordering::Relaxed);
        if stuck > 0 && !self.proven.load(Ordering::Relaxed) && longer(stuck, timeouts.answer) {
            return true;
        }
        if !self.is_silent() {
            return false;
        }
        match (self.head_since.load(Ordering::Relaxed), self.silent_since.load(Ordering::Relaxed)) {
            (0, 0) => longer(1, timeouts.header),
            (0, silent) => longer(silent, timeouts.idle),
            (head, _) => longer(head, timeouts.header),
        }
    }
}

/// The holder of a place; returns it when the socket is dropped.
#[derive(Debug)]
pub struct Place(pub Arc<Connection>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places.leave(&self.0);
    }
}

/// What became of a connection that was let in or not.
#[derive(Debug)]
pub enum Admission {
    /// It has a place.
    Welcome(Place),
    /// All places belong to proven connections.
    Full,
}

/// The connections of one port.
#[derive(Debug)]
pub struct Places {
    limits: PlaceLimits,
    inner: Mutex<Inner>,
    /// Notified when a socket is dropped.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// Sockets that are open, those that are about to close among them.
    open: u32,
    unproven: BTreeMap<u64, Arc<Connection>>,
    of_address: HashMap<IpAddr, BTreeSet<u64>>,
    proven: HashMap<u64, Arc<Connection>>,
    dropped: u64,
}

impl Places {
    /// An empty port.
    pub fn new(limits: PlaceLimits) -> Arc<Places> {
        Arc::new(Places { limits, inner: Mutex::default(), freed: Notify::new() })
    }

    /// Finds a place for a new connection, if need be another's that has proven nothing.
    pub fn admit(self: &Arc<Self>, peer: SocketAddr, now: Instant) -> Admission {
        let mut inner = self.lock();
        let network = network_of(peer.ip());
        if inner
            .of_address
            .get(&network)
            .is_some_and(|of| of.len() >= self.limits.unproven_of_address as usize)
        {
            inner.make_room(Some(network));
        }
        let is_full = |inner: &Inner| {
            inner.unproven.len() >= self.limits.unproven as usize
                || inner.unproven.len() + inner.proven.len() >= self.limits.all as usize
        };
        if is_full(&inner) && !inner.make_room(None) {
            return Admission::Full;
        }
        inner.next += 1;
        inner.open += 1;
        let connection = Arc::new(Connection {
            number: inner.next,
            peer,
            begun: now,
            places: self.clone(),
            close: CancellationToken::new(),
            proven: AtomicBool::new(false),
            busy: AtomicU32::new(0),
            silent_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            stuck_since: AtomicU64::new(0),
        });
        inner.unproven.insert(connection.number, connection.clone());
        inner.of_address.entry(network).or_default().insert(connection.number);
        Admission::Welcome(Place(connection))
    }

    /// Waits until another socket may be open, because closing ones hold their files.
    pub async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            if self.lock().open < self.limits.all + CLOSING {
                return;
            }
            freed.await;
        }
    }

    /// Tells those to close that have been silent for too long; returns how many that are.
    pub fn sweep(&self, now: Instant, timeouts: &Timeouts) -> usize {
        let mut inner = self.lock();
        let all = inner.unproven.values().chain(inner.proven.values());
        let overdue: Vec<Arc<Connection>> =
            all.filter(|connection| connection.is_overdue(now, timeouts)).cloned().collect();
        for connection in &overdue {
            inner.forget(connection);
            connection.close.cancel();
        }
        overdue.len()
    }

    /// Tells those to close that are between two requests, or before the first.
    pub fn close_silent(&self) {
        let inner = self.lock();
        let all = inner.unproven.values().chain(inner.proven.values());
        all.filter(|connection| connection.is_silent()).for_each(|connection| connection.close.cancel());
    }

    /// Makes room when the system has no more files.
    pub fn make_room(&self) {
        self.lock().make_room(None);
    }

    /// How many are connected: all, and those that are proven.
    pub fn count(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.unproven.len() + inner.proven.len(), inner.proven.len())
    }

    /// How many had to go since the last call because there was no place for them.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.lock().dropped)
    }

    fn promote(&self, connection: &Arc<Connection>) {
        let mut inner = self.lock();
        if inner.forget(connection) {
            inner.proven.insert(connection.number, connection.clone());
        }
    }

    fn leave(&self, connection: &Connection) {
        let mut inner = self.lock();
        inner.forget(connection);
        inner.open -= 1;
        drop(inner);
        self.freed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Tells one that has proven nothing to close, of that network or of any: the silent one that came first, or if none
    /// is silent, the one that came first. False if there is none.
    fn make_room(&mut self, network: Option<IpAddr>) -> bool {
        let goes = match network {
            Some(network) => {
                let of = self.of_address.get(&network).into_iter().flatten();
                silent_or_first(of.filter_map(|number| self.unproven.get(number)))
            }
            None => silent_or_first(self.unproven.values()),
        };
        let Some(goes) = goes else { return false };
        self.forget(&goes);
        self.dropped += 1;
        goes.close.cancel();
        true
    }

    /// True if it was there.
    fn forget(&mut self, connection: &Connection) -> bool {
        let number = connection.number;
        if self.proven.remove(&number).is_some() {
            return true;
        }
        if self.unproven.remove(&number).is_none() {
            return false;
        }
        let network = network_of(connection.peer.ip());
        if let Some(of_address) = self.of_address.get_mut(&network) {
            of_address.remove(&number);
            if of_address.is_empty() {
                self.of_address.remove(&network);
            }
        }
        true
    }
}

fn silent_or_first<'a>(mut all: impl Iterator<Item = &'a Arc<Connection>>) -> Option<Arc<Connection>> {
    let first = all.next()?;
    if first.is_silent() {
        return Some(first.clone());
    }
    Some(all.find(|connection| connection.is_silent()).unwrap_or(first).clone())
}

#[cfg(test)]
mod tests;
