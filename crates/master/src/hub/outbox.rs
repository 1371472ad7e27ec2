//! The send queue of a worker, limited in bytes per session and in total.
//!
//! A message about an attempt is either repeated by the next comparison of held attempts, or an acknowledgement. A full
//! queue drops only the former. The writing side decides whether a worker reads at all, see [`crate::session`].

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gaffer_domain::placement::DefinitionRef;
use gaffer_protocol::definitions::{Known, parts};
use gaffer_protocol::wire::{Frame, Start, ToWorker};
use tokio::sync::Notify;

use crate::store::transitions::StartOrder;

/// The most bytes that wait for one worker.
const MAX_SESSION_BYTES: usize = 32 << 20;
/// At this multiple of the limit the worker causes more responses than it reads, and its session ends.
const UNREAD_SESSIONS: usize = 2;
/// The most bytes that wait for all workers together.
const MAX_TOTAL_BYTES: usize = 256 << 20;
/// What an entry costs beside its text.
const ENTRY_BYTES: usize = 64;

/// How much may wait before what can be repaired is left out.
#[derive(Debug, Clone, Copy)]
struct Limits {
    session: usize,
    total: usize,
}

/// What waits for all workers: its length, and the definitions in it, each once.
#[derive(Debug)]
pub(super) struct Budget {
    limits: Limits,
    bytes: Arc<AtomicUsize>,
    encoded: Mutex<Encodings>,
}

#[derive(Debug, Default)]
struct Encodings {
    by_definition: HashMap<DefinitionRef, Weak<Encoded>>,
    /// Above this number, unused entries are removed.
    clear_at: usize,
}

/// A definition as encoded messages, shared by all recipients.
#[derive(Debug)]
struct Encoded {
    parts: Vec<Box<str>>,
    /// Of the definition's text, as both sides count it.
    text_bytes: usize,
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Drop for Encoded {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::new(Limits { session: MAX_SESSION_BYTES, total: MAX_TOTAL_BYTES })
    }
}

impl Budget {
    fn new(limits: Limits) -> Budget {
        Budget { limits, bytes: Arc::default(), encoded: Mutex::default() }
    }

    fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= self.limits.total
    }

    fn encoded(&self, order: &StartOrder) -> Option<Arc<Encoded>> {
        let waiting = self.lock().by_definition.get(&order.definition).and_then(Weak::upgrade);
        if waiting.is_some() {
            return waiting;
        }
        let (messages, text_bytes) = parts(order.definition, &order.content()?);
        let parts: Vec<Box<str>> = messages.iter().filter_map(text_of).collect();
        let bytes = parts.iter().map(|part| part.len() + ENTRY_BYTES).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let encoded = Arc::new(Encoded { parts, text_bytes, bytes, total: self.bytes.clone() });
        let mut encodings = self.lock();
        if encodings.by_definition.len() >= encodings.clear_at {
            encodings.by_definition.retain(|_, encoded| encoded.strong_count() > 0);
            encodings.clear_at = (encodings.by_definition.len() * 2).max(1_024);
        }
        encodings.by_definition.insert(order.definition, Arc::downgrade(&encoded));
        Some(encoded)
    }

    fn lock(&self) -> MutexGuard<'_, Encodings> {
        self.encoded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue of one session.
#[derive(Debug)]
pub(super) struct Outbox {
    budget: Arc<Budget>,
    worker_name: Arc<str>,
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Queued>,
    bytes: usize,
    /// The heartbeat to be answered; an answer waits for nothing.
    alive: Option<u64>,
    /// Definitions that the worker has when it reads the next queued message.
    known: Known<()>,
}

#[derive(Debug)]
enum Queued {
    Text(Box<str>),
    Part(Arc<Encoded>, usize),
}

impl Queued {
    fn text(&self) -> &str {
        match self {
            Queued::Text(text) => text,
            Queued::Part(encoded, at) => &encoded.parts[*at],
        }
    }

    fn cost(&self) -> usize {
        self.text().len() + ENTRY_BYTES
    }
}

impl Outbox {
    pub(super) fn new(budget: Arc<Budget>, worker_name: Arc<str>) -> Outbox {
        Outbox { budget, worker_name, state: Mutex::default(), ready: Notify::new() }
    }

    /// Queues a message. False if not even an acknowledgement has room.
    pub(super) fn send(&self, message: &ToWorker) -> bool {
        if let ToWorker::Alive { sequence } = message {
            self.lock().alive = Some(*sequence);
            self.ready.notify_one();
            return true;
        }
        let Some(text) = text_of(message) else { return true };
        let mut state = self.lock();
        if is_repaired(message) && self.is_full(&state) {
            return true;
        }
        if state.bytes >= self.budget.limits.session.saturating_mul(UNREAD_SESSIONS) {
            return false;
        }
        self.push(&mut state, Queued::Text(text));
        drop(state);
        self.ready.notify_one();
        true
    }

    /// Queues a start, after its definition if the worker does not have that yet.
    pub(super) fn start(&self, order: &StartOrder) {
        let mut state = self.lock();
        if self.is_full(&state) {
            return;
        }
        if state.known.get(order.definition).is_none() {
            let Some(encoded) = self.budget.encoded(order) else { return };
            for at in 0..encoded.parts.len() {
                self.push(&mut state, Queued::Part(encoded.clone(), at));
            }
            state.known.insert(order.definition, encoded.text_bytes, ());
        }
        let StartOrder { attempt, definition, index, .. } = *order;
        let (item, lost_after) = (order.item(&self.worker_name), order.spec.lost_after);
        let start = Start { attempt, definition, index, item, lost_after };
        if let Some(text) = text_of(&ToWorker::Start(start)) {
            self.push(&mut state, Queued::Text(text));
        }
        drop(state);
        self.ready.notify_one();
    }

    /// Waits until there is something to be sent, and takes as much of it as makes a frame.
    pub(super) async fn next_frame(&self) -> String {
        loop {
            if let Some(frame) = self.take_frame() {
                return frame;
            }
            self.ready.notified().await;
        }
    }

    fn take_frame(&self) -> Option<String> {
        let mut state = self.lock();
        let mut frame = Frame::default();
        let alive = state.alive.take().and_then(|sequence| text_of(&ToWorker::Alive { sequence }));
        if let Some(alive) = alive {
            frame.push(&alive);
        }
        while let Some(next) = state.queue.front() {
            if !frame.takes(next.text().len()) {
                break;
            }
            frame.push(next.text());
            if let Some(taken) = state.queue.pop_front() {
                self.let_go(&mut state, &taken);
            }
        }
        (!frame.is_empty()).then(|| frame.finish())
    }

    fn is_full(&self, state: &State) -> bool {
        state.bytes >= self.budget.limits.session || (state.bytes > 0 && self.budget.is_full())
    }

    fn push(&self, state: &mut State, queued: Queued) {
        state.bytes += queued.cost();
        // A definition counts once, however many wait for it.
        if let Queued::Text(_) = &queued {
            self.budget.bytes.fetch_add(queued.cost(), Ordering::Relaxed);
        }
        state.queue.push_back(queued);
    }

    fn let_go(&self, state: &mut State, queued: &Queued) {
        state.bytes -= queued.cost();
        if let Queued::Text(_) = queued {
            self.budget.bytes.fetch_sub(queued.cost(), Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let mut state = std::mem::take(&mut *self.lock());
        for queued in std::mem::take(&mut state.queue) {
            self.let_go(&mut state, &queued);
        }
    }
}

/// Whether a comparison of held attempts repeats this message.
fn is_repaired(message: &ToWorker) -> bool {
    match message {
        ToWorker::Start(_)
        | ToWorker::Stop { .. }
        | ToWorker::StopUnhealthy { .. }
        | ToWorker::Kill { .. }
        | ToWorker::TakeBack { .. }
        | ToWorker::Signal { .. }
        // Sent again by who writes.
        | ToWorker::Input(_)
        // Asked for again.
        | ToWorker::Secrets(_)
        // For people; nothing follows from it.
        | ToWorker::Notice { .. } => true,
        ToWorker::Welcome(_)
        | ToWorker::Alive { .. }
        | ToWorker::Definition { .. }
        | ToWorker::OutputStored { .. }
        | ToWorker::OutputWanted { .. }
        | ToWorker::OutputWindow { .. }
        | ToWorker::EndStored { .. }
        | ToWorker::Goodbye { .. } => false,
    }
}

fn text_of(message: &ToWorker) -> Option<Box<str>> {
    // No message of the protocol fails to serialize.
    serde_json::to_string(message).ok().map(String::into_boxed_str)
}

#[cfg(test)]
mod tests;
