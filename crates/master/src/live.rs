//! Output of attempts that are under way: what arrived lately, for viewers, and where the next byte belongs.
//!
//! Everything that is not committed yet is in here; what is committed can be dropped at any time, for it is in the
//! store. Nothing here waits for a viewer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gaffer_domain::{AttemptRef, WorkerId};
use gaffer_protocol::output::{Chunk, EncodedChunk};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::store::output::{AttemptOutput, ChunkRow, OutputHead};
use crate::store::{Store, StoreError};

/// So much of the newest output is kept for viewers although it is committed.
const KEPT_BYTES: usize = 256 << 10;

/// The output of all attempts that are under way.
#[derive(Debug, Clone, Default)]
pub struct LiveOutputs(Arc<Mutex<HashMap<AttemptRef, Arc<LiveOutput>>>>);

/// The output of one attempt.
#[derive(Debug)]
pub struct LiveOutput {
    /// Whose it is.
    pub attempt: AttemptRef,
    /// The only worker that may add to it.
    pub worker: WorkerId,
    /// Its attempt was over already when this was opened.
    pub was_over: bool,
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    tail: VecDeque<Arc<Chunk>>,
    tail_bytes: usize,
    received: OutputHead,
    stored: u64,
    /// Its worker has reported the end: nothing follows.
    ended: bool,
    chunks: u64,
    /// Over all that was received; none if it was begun by an earlier master.
    sha256: Option<Sha256>,
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
    /// Its worker has said before that there is no more.
    AfterEnd,
}

impl LiveOutputs {
    /// An attempt is about to be sent to its worker for the first time: it has no output yet.
    pub fn open_new(&self, attempt: AttemptRef, worker: WorkerId) {
        let fresh = LiveOutput::new(attempt, worker, AttemptOutput::default(), Some(Sha256::new()));
        self.lock().entry(attempt).or_insert(fresh);
    }

    /// The output of an attempt, continued from what is stored if this master does not know it yet. None if the
    /// attempt is not that worker's.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn open(
        &self,
        store: &Store,
        attempt: AttemptRef,
        worker: WorkerId,
    ) -> Result<Option<Arc<LiveOutput>>, StoreError> {
        if let Some(live) = self.get(attempt) {
            return Ok((live.worker == worker).then_some(live));
        }
        let Some(head) = store.output_head_of_worker(attempt, worker).await? else { return Ok(None) };
        let sha256 = (head.stored.bytes == 0).then(Sha256::new);
        let continued = LiveOutput::new(attempt, worker, head, sha256);
        Ok(Some(self.lock().entry(attempt).or_insert(continued).clone()))
    }

    /// The output of an attempt, if it is under way here.
    pub fn get(&self, attempt: AttemptRef) -> Option<Arc<LiveOutput>> {
        self.lock().get(&attempt).cloned()
    }

    /// The attempt is over and everything is stored. Viewers that hold it read on to its end.
    pub fn close(&self, attempt: AttemptRef) {
        if let Some(live) = self.lock().remove(&attempt) {
            live.changed.send_modify(|version| *version += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AttemptRef, Arc<LiveOutput>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LiveOutput {
    fn new(
        attempt: AttemptRef,
        worker: WorkerId,
        known: AttemptOutput,
        sha256: Option<Sha256>,
    ) -> Arc<LiveOutput> {
        let inner = Inner {
            tail: VecDeque::new(),
            tail_bytes: 0,
            received: known.stored,
            stored: known.stored.bytes,
            ended: known.ended,
            chunks: 0,
            sha256,
        };
        Arc::new(LiveOutput {
            attempt,
            worker,
            was_over: known.over,
            inner: Mutex::new(inner),
            changed: watch::Sender::new(0),
        })
    }

    /// Takes a chunk that arrived, shows it to viewers, and says what to do with it.
    pub fn arrive(&self, encoded: EncodedChunk, chunk: Chunk) -> Arrival {
        let mut inner = self.lock();
        let expected = inner.received.bytes;
        if chunk.offset > expected {
            return if inner.ended { Arrival::AfterEnd } else { Arrival::Gap(expected) };
        }
        let overlaps = chunk.offset < expected;
        let Some(chunk) = chunk.from_offset(expected) else { return Arrival::Repeated };
        if inner.ended {
            return Arrival::AfterEnd;
        }
        let encoded = if overlaps { chunk.encode() } else { encoded };

        let mut lines = 0;
        for record in &chunk.records {
            lines += memchr::memchr_iter(b'\n', &record.bytes).count();
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
        inner.received.bytes = chunk.end();
        inner.received.lines += lines as u64;
        inner.chunks += 1;
        inner.tail_bytes += chunk.payload_bytes;
        inner.tail.push_back(Arc::new(chunk));
        drop(inner);
        self.changed.send_modify(|version| *version += 1);
        Arrival::New(row)
    }

    /// Its worker says that this was all.
    pub fn ends(&self) {
        self.lock().ended = true;
    }

    /// Everything before `offset` is committed.
    pub fn stored(&self, offset: u64) {
        let mut inner = self.lock();
        inner.stored = inner.stored.max(offset);
        while let Some(first) = inner.tail.front()
            && first.end() <= inner.stored
            && inner.tail_bytes - first.payload_bytes >= KEPT_BYTES
        {
            inner.tail_bytes -= first.payload_bytes;
            inner.tail.pop_front();
        }
    }

    /// The chunks from the one that contains `offset` on. None if `offset` lies before what is kept here: then it is in
    /// the store.
    pub fn read(&self, offset: u64) -> Option<Vec<Arc<Chunk>>> {
        let inner = self.lock();
        let start = inner.tail.front().map_or(inner.received.bytes, |first| first.offset);
        if offset < start {
            return None;
        }
        let from = inner.tail.partition_point(|chunk| chunk.end() <= offset);
        Some(inner.tail.range(from..).cloned().collect())
    }

    /// How much has arrived.
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
        let digest = self.lock().sha256.clone()?.finalize();
        Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Wakes up whenever output arrives, and when the attempt is over.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
