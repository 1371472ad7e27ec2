//! The output of one attempt between process and master: written to disk before it is sent, served from memory
//! while recent, dropped once the master has stored it.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gaffer_domain::AttemptRef;
use gaffer_protocol::output::{ChunkBuilder, EncodedChunk, MAX_CHUNK_PAYLOAD, Record, Stream};

use super::files::Files;
use super::limits::Limits;
use super::segment::{Segment, SegmentReader};

/// The most recent output that one attempt keeps in memory, in bytes.
const TAIL_LIMIT: usize = 1 << 20;
/// What a record in memory costs beyond its bytes.
const RECORD_COST: usize = 96;
/// A segment that is wholly stored is given up once it is so large; smaller ones are filled further.
const RETIRE_BYTES: u64 = 64 << 10;
/// How often a segment that cannot be read is tried again before it counts as lost.
const READ_TRIES: u32 = 3;
const READ_RETRY: Duration = Duration::from_millis(100);

/// The output of one attempt, for its writer and for those who send it on.
///
/// Invariants: everything from `stored` to `disk_end` is in a segment (unless it was damaged), everything from
/// `disk_end` to `end` is in `tail`, and nothing beyond `end` is visible to anybody.
#[derive(Debug)]
pub(crate) struct Output {
    attempt: AttemptRef,
    files: Arc<Files>,
    limits: Arc<Limits>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Offset of the first byte that the master has not stored.
    stored: u64,
    /// Offset after the last byte on disk.
    disk_end: u64,
    /// Offset after the last byte.
    end: u64,
    segments: VecDeque<Segment>,
    /// The last segment is open for writing, and `busy` while a record is on its way into it.
    writing: bool,
    busy: bool,
    /// All of the segment that is open is stored, and it has grown large: the next record begins another one.
    spent: bool,
    /// The latest records with their offsets, without a gap up to `end`.
    tail: VecDeque<(u64, Record)>,
    tail_cost: usize,
    /// Where the last read from disk ended.
    cursor: Option<Cursor>,
    /// A segment may be open elsewhere: for reading, or in an abandoned write.
    is_shared: bool,
    removed: bool,
}

/// A place between two records of a segment.
#[derive(Debug)]
struct Cursor {
    segment: u64,
    reader: SegmentReader,
    /// Offset of `next`, or of the record that comes next.
    offset: u64,
    /// Read already, but not used up.
    next: Option<Record>,
}

/// Where output is to be had.
enum Source {
    Nothing,
    Memory(Vec<Record>),
    Disk { segment: Segment, cursor: Option<Cursor> },
    Lost { until: u64 },
}

/// Which file the next record belongs into.
pub(super) enum Place {
    /// The one that is open.
    Same,
    New(PathBuf),
}

impl State {
    /// Continues from there next time, unless the segment was dropped meanwhile; an open file would keep its disk
    /// space.
    fn keep(&mut self, cursor: Cursor) {
        if self.segments.iter().any(|segment| segment.start == cursor.segment) {
            self.cursor = Some(cursor);
        }
    }
}

impl Output {
    /// For an attempt that has written nothing yet.
    pub fn new(attempt: AttemptRef, files: Arc<Files>, limits: Arc<Limits>) -> Output {
        Output { attempt, files, limits, state: Mutex::default() }
    }

    /// For an attempt of an earlier process: `segments` in order, `end` the offset after the last byte there ever was.
    pub fn recovered(
        attempt: AttemptRef,
        files: Arc<Files>,
        limits: Arc<Limits>,
        segments: VecDeque<Segment>,
        end: u64,
    ) -> Output {
        limits.disk_taken(segments.iter().map(|segment| segment.size).sum());
        let state = State { segments, end, disk_end: end, ..State::default() };
        Output { attempt, files, limits, state: Mutex::new(state) }
    }

    /// Offset after the last byte so far.
    pub fn end(&self) -> u64 {
        self.state().end
    }

    /// The master has stored everything before `offset`; it may be forgotten here.
    pub fn stored(&self, offset: u64) {
        let mut state = self.state();
        // Beyond the end there is nothing to forget; a damaged spool may have less than the master.
        let offset = offset.min(state.end);
        if offset <= state.stored {
            return;
        }
        state.stored = offset;
        while let Some((start, record)) = state.tail.front()
            && start + record.bytes.len() as u64 <= offset
        {
            self.forget_oldest(&mut state);
        }
        self.drop_segments(&mut state);
    }

    /// Removes everything, in memory and on disk.
    pub fn remove(&self) {
        let mut state = self.state();
        state.removed = true;
        state.writing = false;
        state.cursor = None;
        while !state.tail.is_empty() {
            self.forget_oldest(&mut state);
        }
        let (segments, is_private) = (std::mem::take(&mut state.segments), !state.is_shared);
        drop(state);
        for segment in segments {
            self.unlink(segment, is_private);
        }
    }

    /// Up to `max` bytes from `offset` on, as they were read, and how many they are; none if there are none.
    ///
    /// What was lost with the disk that held it is replaced, byte for byte, by a text that says so.
    pub async fn chunk(&self, offset: u64, max: usize) -> Option<(EncodedChunk, u64)> {
        let max = max.min(MAX_CHUNK_PAYLOAD);
        let mut tries_left = READ_TRIES;
        loop {
            let records = match self.locate(offset, max) {
                Source::Nothing => return None,
                Source::Memory(records) => records,
                Source::Lost { until } => vec![lost_record(offset, until, max)],
                Source::Disk { segment, cursor } => {
                    let path = self.files.path(self.attempt, segment.start);
                    let read = move || {
                        read_segment(&path, segment, cursor, offset, max).map_err(|error| (error, path))
                    };
                    match self.files.readers.run(read).await {
                        Ok((records, cursor)) if !records.is_empty() => {
                            self.state().keep(cursor);
                            records
                        }
                        Err((error, path)) if tries_left > 0 => {
                            tracing::debug!(attempt = %self.attempt, path = %path.display(), %error, "cannot read the spool; retrying");
                            tries_left -= 1;
                            tokio::time::sleep(READ_RETRY).await;
                            continue;
                        }
                        unreadable => {
                            let error = match unreadable {
                                Err((error, _)) => error.to_string(),
                                Ok(_) => "damaged".to_owned(),
                            };
                            self.give_up(segment.start, offset, &error);
                            continue;
                        }
                    }
                }
            };
            return Some(encode(self.attempt, offset, &records, max));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locate(&self, offset: u64, max: usize) -> Source {
        let mut state = self.state();
        if offset >= state.end || state.removed {
            return Source::Nothing;
        }
        if state.tail.front().is_some_and(|(start, _)| *start <= offset) {
            return Source::Memory(from_tail(&state.tail, offset, max));
        }
        let found = state.segments.iter().find(|segment| segment.end > offset).copied();
        match found {
            Some(segment) if segment.start <= offset => {
                let fits = |cursor: &Cursor| cursor.segment == segment.start && cursor.offset <= offset;
                let cursor = state.cursor.take().filter(fits);
                state.is_shared = true;
                Source::Disk { segment, cursor }
            }
            found => {
                let tail_start = state.tail.front().map_or(state.end, |(start, _)| *start);
                Source::Lost { until: found.map_or(tail_start, |segment| segment.start.min(tail_start)) }
            }
        }
    }

    /// Counts what a segment holds from `offset` on as lost.
    fn give_up(&self, segment_start: u64, offset: u64, error: &str) {
        let mut state = self.state();
        if let Some(segment) = state.segments.iter_mut().find(|segment| segment.start == segment_start)
            && segment.end > offset
        {
            let bytes = segment.end - offset;
            tracing::error!(attempt = %self.attempt, offset, bytes, error, "output is lost: the spool cannot be read");
            segment.end = offset;
        }
    }

    /// Where the next record goes; only the writer knows it until [`Self::commit`].
    pub(super) fn begin(&self, must_change: bool) -> Place {
        let mut state = self.state();
        state.busy = true;
        if state.writing && !must_change && !state.spent {
            return Place::Same;
        }
        (state.writing, state.spent) = (false, false);
        let start = state.end;
        state.segments.push_back(Segment { start, end: start, size: 0 });
        state.writing = true;
        Place::New(self.files.path(self.attempt, start))
    }

    /// The record is on its way no more: nothing came of it, and if `file_lost`, nothing of its file either.
    pub(super) fn cancel(&self, file_lost: bool) {
        let mut state = self.state();
        state.busy = false;
        if file_lost {
            state.writing = false;
            if state.segments.back().is_some_and(|segment| segment.end == segment.start) {
                state.segments.pop_back();
            }
        }
        // On a full disk only stored output can make room, and nothing else would check again.
        self.drop_segments(&mut state);
    }

    /// The record is on its way to a disk that does not answer, and its file with it: nothing more can be written there.
    pub(super) fn abandon(&self) {
        self.state().is_shared = true;
        self.cancel(true);
    }

    /// Publishes the record. `size`: that of its file; none if it is in memory only.
    pub(super) fn commit(&self, record: Record, size: Option<u64>) {
        let mut state = self.state();
        let start = state.end;
        state.busy = false;
        state.end += record.bytes.len() as u64;
        let end = state.end;
        if let Some(size) = size
            && let Some(segment) = state.segments.back_mut()
        {
            self.limits.disk_taken(size - segment.size);
            (segment.end, segment.size) = (end, size);
            state.disk_end = end;
        }
        let cost = record.bytes.len() + RECORD_COST;
        state.tail.push_back((start, record));
        state.tail_cost += cost;
        self.limits.memory_taken(cost);
        while state.tail_cost > TAIL_LIMIT || self.limits.is_memory_short() {
            match state.tail.front() {
                Some((start, record)) if start + record.bytes.len() as u64 <= state.disk_end => {
                    self.forget_oldest(&mut state);
                }
                _ => break,
            }
        }
    }

    /// Nothing more is written.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.busy = false;
        state.writing = false;
        self.drop_segments(&mut state);
    }

    fn forget_oldest(&self, state: &mut State) {
        if let Some((_, record)) = state.tail.pop_front() {
            let cost = record.bytes.len() + RECORD_COST;
            state.tail_cost -= cost;
            self.limits.memory_freed(cost);
        }
    }

    /// Drops segments that are completely stored. The one being written stays until there is another, because it
    /// records how far the output was read; but it no longer counts against the limit, and is not filled further if
    /// it is large.
    fn drop_segments(&self, state: &mut State) {
        while let Some(first) = state.segments.front().copied()
            && first.end <= state.stored
        {
            if state.writing && state.segments.len() == 1 {
                if !state.busy
                    && first.size >= RETIRE_BYTES
                    && let Some(open) = state.segments.front_mut()
                {
                    open.size = 0;
                    state.spent = true;
                    self.limits.disk_freed(first.size);
                }
                return;
            }
            state.segments.pop_front();
            state.cursor.take_if(|cursor| cursor.segment == first.start);
            self.unlink(first, !state.is_shared);
        }
    }

    fn unlink(&self, segment: Segment, is_private: bool) {
        self.files.remove_later(self.attempt, segment, is_private, self.limits.clone());
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.limits.memory_freed(state.tail_cost);
        self.limits.disk_freed(state.segments.iter().map(|segment| segment.size).sum());
    }
}

/// The records from `offset` on, until they have `max` bytes; the first one cut.
fn from_tail(tail: &VecDeque<(u64, Record)>, offset: u64, max: usize) -> Vec<Record> {
    let first = tail.partition_point(|(start, record)| start + record.bytes.len() as u64 <= offset);
    let mut gathered = 0;
    let mut records = Vec::new();
    for (start, record) in tail.range(first..) {
        if gathered >= max {
            break;
        }
        let skipped = usize::try_from(offset.saturating_sub(*start)).unwrap_or(0);
        let record = Record { bytes: record.bytes.slice(skipped..), ..record.clone() };
        gathered += record.bytes.len();
        records.push(record);
    }
    records
}

/// The same from a segment. Reads nothing beyond the segment's end, where a record may just be written.
fn read_segment(
    path: &Path,
    segment: Segment,
    cursor: Option<Cursor>,
    offset: u64,
    max: usize,
) -> io::Result<(Vec<Record>, Cursor)> {
    let mut cursor = match cursor {
        Some(cursor) => cursor,
        None => {
            let reader = SegmentReader::open(path)?;
            Cursor { segment: segment.start, reader, offset: segment.start, next: None }
        }
    };
    let mut records = Vec::new();
    let mut gathered = 0;
    while gathered < max && cursor.offset < segment.end {
        let next = match cursor.next.take() {
            Some(record) => Some(record),
            None => cursor.reader.next_record()?,
        };
        let Some(record) = next else { break };
        let length = record.bytes.len() as u64;
        if cursor.offset + length <= offset {
            cursor.offset += length;
            continue;
        }
        let skipped = usize::try_from(offset.saturating_sub(cursor.offset)).unwrap_or(0);
        let usable = record.bytes.slice(skipped..);
        let taken = usable.len().min(max - gathered);
        gathered += taken;
        records.push(Record { bytes: usable.slice(..taken), ..record.clone() });
        if taken < usable.len() {
            // The next chunk continues inside this record.
            cursor.next = Some(record);
        } else {
            cursor.offset += length;
        }
    }
    Ok((records, cursor))
}

fn encode(attempt: AttemptRef, offset: u64, records: &[Record], max: usize) -> (EncodedChunk, u64) {
    let mut builder = ChunkBuilder::new();
    for record in records {
        let room = max - builder.payload_bytes();
        let bytes = &record.bytes[..record.bytes.len().min(room)];
        if builder.push(record.at_micros, record.stream, bytes) < bytes.len() {
            break;
        }
    }
    let bytes = builder.payload_bytes() as u64;
    (builder.finish(attempt, offset), bytes)
}

/// Replaces the bytes from `offset` to `until`, at most `max` per record.
fn lost_record(offset: u64, until: u64, max: usize) -> Record {
    let lost = until - offset;
    let mut bytes =
        format!("\n[gaffer: {lost} bytes of output were lost on the worker's disk]\n").into_bytes();
    bytes.resize(usize::try_from(lost).unwrap_or(max).min(max), b' ');
    Record { at_micros: crate::clock::wall_micros(), stream: Stream::Stderr, bytes: Bytes::from(bytes) }
}
