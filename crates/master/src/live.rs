//! Output of running attempts: the recent tail for viewers, and the next expected byte.
//!
//! It holds all uncommitted output; committed output can be dropped at any time, because it is in the store. Nothing
//! here waits for a viewer. An attempt without output costs a table entry, one with output its counters, and all tails
//! of committed output share one budget: see [`tails`].

mod tails;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use gaffer_domain::search::line_ends;
use gaffer_domain::{AttemptRef, WorkerId};
use gaffer_protocol::output::{Chunk, EncodedChunk};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::store::output::{AttemptOutput, ChunkRow, OutputHead};
use crate::store::{Store, StoreError};
use tails::Tails;

/// Size of the committed tail of one attempt that is kept for viewers.
const KEPT_BYTES: usize = 256 << 10;

/// Live output of running attempts.
#[derive(Debug, Clone, Default)]
pub struct LiveOutputs(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    tails: Arc<Tails>,
}

#[derive(Debug, Default)]
struct Table {
    slots: HashMap<AttemptRef, Slot>,
    /// Attempts closed while the store was queried: the number of queries, and whether it was closed.
    asked: HashMap<AttemptRef, Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    times: usize,
    is_closed: bool,
}

#[derive(Debug)]
enum Slot {
    /// It was sent to its worker, and has written nothing.
    Fresh(WorkerId),
    Open(Arc<LiveOutput>),
}

impl Slot {
    fn worker(&self) -> WorkerId {
        match self {
            Slot::Fresh(worker) => *worker,
            Slot::Open(live) => live.worker,
        }
    }
}

/// Whose an attempt's output is, as far as is known without asking the store.
#[derive(Debug)]
pub enum Found {
    /// Continues here.
    Open(Arc<LiveOutput>),
    /// It is another worker's.
    Foreign,
    Unknown,
}

/// The output of one attempt.
#[derive(Debug)]
pub struct LiveOutput {
    pub attempt: AttemptRef,
    /// The only worker that may add to it.
    pub worker: WorkerId,
    /// Its attempt was over already when this was opened.
    pub was_over: bool,
    /// The attempt is not live any more: this is forgotten as soon as everything is stored.
    is_late: AtomicBool,
    tails: Arc<Tails>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    tail: VecDeque<TailChunk>,
    /// The committed part of the tail.
    kept_bytes: usize,
    received: OutputHead,
    stored: u64,
    /// Its worker has reported the end: nothing follows.
    ended: bool,
    chunks: u64,
    /// A gap that was reported to the worker.
    told_gap: Option<u64>,
    /// Over all that was received; none if it was begun by an earlier master.
    sha256: Option<Box<Sha256>>,
    /// Made for the first viewer.
    changed: Option<watch::Sender<u64>>,
}

/// A compressed chunk.
#[derive(Debug)]
struct TailChunk {
    row: ChunkRow,
    is_kept: bool,
}

impl TailChunk {
    fn memory_bytes(&self) -> usize {
        self.row.chunk.body.len() + size_of::<TailChunk>()
    }
}

/// What becomes of a chunk that arrives.
#[derive(Debug)]
pub enum Arrival {
    /// It continues the output and is to be stored.
    New(ChunkRow),
    /// All of it was received before.
    Repeated,
    /// Something before it is missing, from this offset on.
    Gap(u64),
    /// The same, and it was reported to the worker.
    KnownGap,
    /// The worker has reported the end of the output.
    AfterEnd,
}

impl LiveOutputs {
    /// An attempt is about to be sent to its worker for the first time: it has no output yet.
    pub fn open_new(&self, attempt: AttemptRef, worker: WorkerId) {
        self.lock().slots.entry(attempt).or_insert(Slot::Fresh(worker));
    }

    /// The output of an attempt of this worker, as far as this master knows it.
    pub fn find(&self, attempt: AttemptRef, worker: WorkerId) -> Found {
        match self.lock().slots.get_mut(&attempt) {
            None => Found::Unknown,
            Some(slot) if slot.worker() != worker => Found::Foreign,
            Some(slot) => Found::Open(self.opened(attempt, slot)),
        }
    }

    /// The output of an attempt, continued from the store if this master does not know it yet. None if the attempt
    /// belongs to another worker.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn open(
        &self,
        store: &Store,
        attempt: AttemptRef,
        worker: WorkerId,
    ) -> Result<Option<Arc<LiveOutput>>, StoreError> {
        let mut unknown = Vec::new();
        match self.find(attempt, worker) {
            Found::Open(live) => return Ok(Some(live)),
            Found::Foreign => return Ok(None),
            Found::Unknown => unknown.push(attempt),
        }
        let asking = Asking::new(self, unknown);
        let found = store.outputs_of_worker(&asking.attempts, worker).await?.pop();
        Ok(found.map(|(attempt, known)| self.continued(attempt, known, worker, !known.ended)))
    }

    /// The outputs of several attempts that a worker holds; others are skipped. One query.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn open_all(
        &self,
        store: &Store,
        attempts: &[AttemptRef],
        worker: WorkerId,
    ) -> Result<Vec<Arc<LiveOutput>>, StoreError> {
        let mut open = Vec::new();
        let mut unknown = Vec::new();
        for attempt in attempts {
            match self.find(*attempt, worker) {
                Found::Open(live) => open.push(live),
                Found::Foreign => {}
                Found::Unknown => unknown.push(*attempt),
            }
        }
        if unknown.is_empty() {
            return Ok(open);
        }
        let asking = Asking::new(self, unknown);
        for (attempt, known) in store.outputs_of_worker(&asking.attempts, worker).await? {
            // Output of ended attempts may never arrive; it is opened on arrival.
            open.push(self.continued(attempt, known, worker, !known.over));
        }
        Ok(open)
    }

    /// Continues from the store, unless another call did meanwhile, and keeps it if requested. An attempt that was
    /// closed during the query stays closed.
    fn continued(
        &self,
        attempt: AttemptRef,
        known: AttemptOutput,
        worker: WorkerId,
        keep: bool,
    ) -> Arc<LiveOutput> {
        let mut table = self.lock();
        if let Some(slot) = table.slots.get_mut(&attempt) {
            return self.opened(attempt, slot);
        }
        let was_closed = table.asked.get(&attempt).is_some_and(|asked| asked.is_closed);
        let known = AttemptOutput { over: known.over || was_closed, ..known };
        let sha256 = (known.stored.bytes == 0).then(Box::default);
        let live = LiveOutput::new(attempt, worker, self.0.tails.clone(), known, sha256);
        if keep {
            table.slots.insert(attempt, Slot::Open(live.clone()));
        }
        live
    }

    fn opened(&self, attempt: AttemptRef, slot: &mut Slot) -> Arc<LiveOutput> {
        match slot {
            Slot::Open(live) => live.clone(),
            Slot::Fresh(worker) => {
                let (known, sha256) = (AttemptOutput::default(), Some(Box::default()));
                let live = LiveOutput::new(attempt, *worker, self.0.tails.clone(), known, sha256);
                *slot = Slot::Open(live.clone());
                live
            }
        }
    }

    /// The output of an attempt, if it is live here.
    pub fn get(&self, attempt: AttemptRef) -> Option<Arc<LiveOutput>> {
        let mut table = self.lock();
        let slot = table.slots.get_mut(&attempt)?;
        Some(self.opened(attempt, slot))
    }

    /// Everything before `offset` is committed.
    pub fn stored(&self, live: &Arc<LiveOutput>, offset: u64) {
        let is_complete = live.stored(offset);
        if is_complete && live.is_late.load(Ordering::Relaxed) {
            self.forget(live.attempt);
        }
        self.0.tails.shrink(live);
    }

    /// The attempt is not live any more. Its output stays until what has arrived is stored, so that nothing is asked for
    /// again that is on its way; viewers that hold it read on to its end. Gives the output if the attempt had any.
    pub fn close(&self, attempt: AttemptRef) -> Option<Arc<LiveOutput>> {
        let mut table = self.lock();
        if let Some(asked) = table.asked.get_mut(&attempt) {
            asked.is_closed = true;
        }
        if let Some(Slot::Open(live)) = table.slots.get(&attempt)
            && !live.is_complete()
        {
            live.is_late.store(true, Ordering::Relaxed);
            return Some(live.clone());
        }
        drop(table);
        self.forget(attempt)
    }

    /// How many attempts are known here.
    pub fn count(&self) -> usize {
        self.lock().slots.len()
    }

    /// How much committed output is kept for viewers, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.0.tails.bytes()
    }

    fn forget(&self, attempt: AttemptRef) -> Option<Arc<LiveOutput>> {
        let slot = {
            let mut table = self.lock();
            let slot = table.slots.remove(&attempt);
            // Many may have been live at once; what they took is given back.
            if table.slots.capacity() > 4_096 && table.slots.len() < table.slots.capacity() / 8 {
                table.slots.shrink_to_fit();
            }
            slot
        };
        match slot? {
            Slot::Fresh(_) => None,
            Slot::Open(live) => {
                live.announce();
                live.let_go_of_kept();
                Some(live)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Attempts that the store is being asked for: who closes one meanwhile leaves a note.
struct Asking<'a> {
    outputs: &'a LiveOutputs,
    attempts: Vec<AttemptRef>,
}

impl Asking<'_> {
    fn new(outputs: &LiveOutputs, attempts: Vec<AttemptRef>) -> Asking<'_> {
        let unique: HashSet<AttemptRef> = attempts.into_iter().collect();
        let attempts: Vec<AttemptRef> = unique.into_iter().collect();
        let mut table = outputs.lock();
        for attempt in &attempts {
            table.asked.entry(*attempt).or_default().times += 1;
        }
        Asking { outputs, attempts }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut table = self.outputs.lock();
        for attempt in &self.attempts {
            if let Some(asked) = table.asked.get_mut(attempt) {
                asked.times -= 1;
                if asked.times == 0 {
                    table.asked.remove(attempt);
                }
            }
        }
    }
}

impl LiveOutput {
    fn new(
        attempt: AttemptRef,
        worker: WorkerId,
        tails: Arc<Tails>,
        known: AttemptOutput,
        sha256: Option<Box<Sha256>>,
    ) -> Arc<LiveOutput> {
        let inner = Inner {
            tail: VecDeque::new(),
            kept_bytes: 0,
            received: known.stored,
            stored: known.stored.bytes,
            ended: known.ended,
            chunks: 0,
            told_gap: None,
            sha256,
            changed: None,
        };
        Arc::new(LiveOutput {
            attempt,
            worker,
            was_over: known.over,
            is_late: known.over.into(),
            tails,
            inner: Mutex::new(inner),
        })
    }

    /// Accepts a chunk, shows it to viewers, and decides what to do with it.
    pub fn arrive(&self, encoded: EncodedChunk, chunk: Chunk) -> Arrival {
        let mut inner = self.lock();
        let expected = inner.received.bytes;
        if chunk.offset > expected {
            if inner.ended {
                return Arrival::AfterEnd;
            }
            let is_known = inner.told_gap.replace(expected) == Some(expected);
            return if is_known { Arrival::KnownGap } else { Arrival::Gap(expected) };
        }
        let overlaps = chunk.offset < expected;
        let Some(chunk) = chunk.from_offset(expected) else { return Arrival::Repeated };
        if inner.ended {
            return Arrival::AfterEnd;
        }
        let mut encoded = if overlaps { chunk.encode() } else { encoded };
        // As it came it may be a piece of a larger buffer, and would keep all of that.
        encoded.body = Bytes::copy_from_slice(&encoded.body);

        let mut lines = 0;
        for record in &chunk.records {
            lines += line_ends(&record.bytes);
            if let Some(sha256) = &mut inner.sha256 {
                sha256.update(&record.bytes);
            }
        }
        let row = ChunkRow {
            chunk: encoded,
            payload_bytes: chunk.payload_bytes as u32,
            lines_before: inner.received.lines,
            lines: lines as u32,
        };
        inner.told_gap = None;
        inner.received.bytes = chunk.end();
        inner.received.lines += lines;
        inner.chunks += 1;
        inner.tail.push_back(TailChunk { row: row.clone(), is_kept: false });
        drop(inner);
        self.announce();
        Arrival::New(row)
    }

    /// The worker reported the end of the output.
    pub fn ends(&self) {
        self.lock().ended = true;
    }

    /// Whether the worker reported the end of the output.
    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// The offset from which the worker must resend; none if it was told already.
    pub fn tell_gap(&self) -> Option<u64> {
        let mut inner = self.lock();
        let expected = inner.received.bytes;
        (inner.told_gap.replace(expected) != Some(expected)).then_some(expected)
    }

    /// Whether the worker was told of a gap and has not filled it: an end that it sent before is repeated, too.
    pub fn has_told_gap(&self) -> bool {
        self.lock().told_gap.is_some()
    }

    /// A new session begins: the worker knows of no gap.
    pub fn session_begins(&self) {
        self.lock().told_gap = None;
    }

    /// Everything before `offset` is committed. Returns whether that is everything that arrived.
    fn stored(&self, offset: u64) -> bool {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.stored = inner.stored.max(offset);
        let mut newly_kept = 0;
        for chunk in &mut inner.tail {
            if chunk.row.end() > inner.stored {
                break;
            }
            if !chunk.is_kept {
                chunk.is_kept = true;
                newly_kept += chunk.memory_bytes();
            }
        }
        inner.kept_bytes += newly_kept;
        self.tails.add(newly_kept);
        while inner.kept_bytes > KEPT_BYTES && self.drop_first(inner) {}
        inner.stored >= inner.received.bytes
    }

    /// Drops the oldest chunk that is committed. False if there is none.
    fn drop_first(&self, inner: &mut Inner) -> bool {
        if !inner.tail.front().is_some_and(|first| first.is_kept) {
            return false;
        }
        let Some(first) = inner.tail.pop_front() else { return false };
        inner.kept_bytes -= first.memory_bytes();
        self.tails.remove(first.memory_bytes());
        if inner.tail.is_empty() {
            inner.tail.shrink_to_fit();
        }
        true
    }

    /// Drops everything that is committed.
    fn let_go_of_kept(&self) {
        let mut inner = self.lock();
        while self.drop_first(&mut inner) {}
    }

    /// Whether all that arrived is committed.
    fn is_complete(&self) -> bool {
        let inner = self.lock();
        inner.stored >= inner.received.bytes
    }

    /// Whether a viewer waits for more.
    fn is_viewed(&self) -> bool {
        self.lock().changed.as_ref().is_some_and(|changed| changed.receiver_count() > 0)
    }

    /// The chunks from the one that contains `offset` on, packed. None if `offset` is before the kept tail: then it is in the
    /// store.
    pub fn read(&self, offset: u64) -> Option<Vec<ChunkRow>> {
        let inner = self.lock();
        let start = inner.tail.front().map_or(inner.received.bytes, |first| first.row.chunk.offset);
        if offset < start {
            return None;
        }
        let from = inner.tail.partition_point(|chunk| chunk.row.end() <= offset);
        Some(inner.tail.range(from..).map(|chunk| chunk.row.clone()).collect())
    }

    pub fn received(&self) -> OutputHead {
        self.lock().received
    }

    /// How much is committed, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.lock().stored
    }

    /// In how many chunks the output arrived here.
    pub fn chunk_count(&self) -> u64 {
        self.lock().chunks
    }

    /// The checksum of all output so far in hexadecimal, if this master has seen all of it.
    pub fn sha256(&self) -> Option<String> {
        let digest = (*self.lock().sha256.clone()?).finalize();
        Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Wakes when output arrives, and at the end of the attempt.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.lock().changed.get_or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    fn announce(&self) {
        if let Some(changed) = &self.lock().changed {
            changed.send_modify(|version| *version += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LiveOutput {
    fn drop(&mut self) {
        self.let_go_of_kept();
    }
}

#[cfg(test)]
mod tests;
