//! Output in transit and in storage: chunks of records, each with a time, a stream and bytes.
//!
//! A chunk starts at an offset in the attempt's output, which is both streams in the order in which they were read.
//! Frame and rest share one encoding of the body: records one after the other, each a varint of the microseconds since
//! the record before (since 1970 for the first), a varint of `length * 2 + stream`, and the bytes. A body is kept plain
//! or compressed with zstd, whichever is smaller.
//!
//! A binary frame is a header of 22 bytes, little-endian (kind u8 = 1, task i64, attempt u32, offset u64, encoding u8),
//! then the body.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use gaffer_domain::{AttemptRef, TaskId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most output bytes in one chunk.
pub const MAX_CHUNK_PAYLOAD: usize = 256 << 10;
/// The longest uncompressed body. A one-byte record has up to 11 bytes of header, but a sender of many tiny records
/// ends the chunk early.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// The longest binary frame.
pub const MAX_OUTPUT_FRAME_BYTES: usize = HEADER_BYTES + MAX_BODY_BYTES;

const HEADER_BYTES: usize = 22;
const KIND_OUTPUT: u8 = 1;
/// Below this size compressing gains too little to be worth a reader's time.
const MIN_COMPRESSED_BYTES: usize = 256;
const ZSTD_LEVEL: i32 = 1;

/// Where bytes were written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Name in the API, the CLI and on pages.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// How a body is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// As it is.
    Plain = 0,
    /// Compressed with zstd.
    Zstd = 1,
}

impl TryFrom<u8> for Encoding {
    type Error = Malformed;

    fn try_from(byte: u8) -> Result<Self, Malformed> {
        match byte {
            0 => Ok(Encoding::Plain),
            1 => Ok(Encoding::Zstd),
            _ => Err(Malformed("the encoding is unknown")),
        }
    }
}

/// A frame or a stored chunk is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed output: {0}")]
pub struct Malformed(pub &'static str);

/// Some bytes of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When they were read, in microseconds since 1970 by the worker's clock.
    pub at_micros: u64,
    /// From which stream.
    pub stream: Stream,
    /// Never empty.
    pub bytes: Bytes,
}

/// A chunk as it travels and rests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedChunk {
    /// Whose output.
    pub attempt: AttemptRef,
    /// Offset of its first byte.
    pub offset: u64,
    /// How the body is kept.
    pub encoding: Encoding,
    /// The body.
    pub body: Bytes,
}

/// Collects records until they make a chunk.
#[derive(Debug, Default)]
pub struct ChunkBuilder {
    body: BytesMut,
    payload: usize,
    last_micros: u64,
}

impl ChunkBuilder {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Output bytes in it.
    pub fn payload_bytes(&self) -> usize {
        self.payload
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.payload == 0
    }

    /// How many bytes another record may have; 0 when the chunk is full.
    pub fn room(&self) -> usize {
        let head = 20;
        let body = MAX_BODY_BYTES.saturating_sub(self.body.len() + head);
        body.min(MAX_CHUNK_PAYLOAD.saturating_sub(self.payload))
    }

    /// Adds bytes, at most [`Self::room`] of them; returns how many were taken. Time never goes back within a chunk:
    /// a clock that was set back counts as standing still.
    pub fn push(&mut self, at_micros: u64, stream: Stream, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        if taken == 0 {
            return 0;
        }
        let at_micros = at_micros.max(self.last_micros);
        put_varint(&mut self.body, at_micros - self.last_micros);
        put_varint(&mut self.body, (taken as u64) << 1 | stream as u64);
        self.body.put_slice(&bytes[..taken]);
        self.last_micros = at_micros;
        self.payload += taken;
        taken
    }

    /// The chunk, compressed if that helps. The builder is empty afterwards.
    pub fn finish(&mut self, attempt: AttemptRef, offset: u64) -> EncodedChunk {
        let plain = self.body.split().freeze();
        self.payload = 0;
        self.last_micros = 0;
        EncodedChunk::compressed(attempt, offset, plain)
    }
}

impl EncodedChunk {
    /// A chunk of a plain body, compressed if that helps.
    pub fn compressed(attempt: AttemptRef, offset: u64, plain: Bytes) -> EncodedChunk {
        if plain.len() >= MIN_COMPRESSED_BYTES
            && let Ok(packed) = zstd::bulk::compress(&plain, ZSTD_LEVEL)
            && packed.len() < plain.len()
        {
            return EncodedChunk { attempt, offset, encoding: Encoding::Zstd, body: packed.into() };
        }
        EncodedChunk { attempt, offset, encoding: Encoding::Plain, body: plain }
    }

    /// As a binary frame.
    pub fn to_frame(&self) -> Bytes {
        let mut frame = BytesMut::with_capacity(HEADER_BYTES + self.body.len());
        frame.put_u8(KIND_OUTPUT);
        frame.put_i64_le(self.attempt.task.0);
        frame.put_u32_le(self.attempt.attempt);
        frame.put_u64_le(self.offset);
        frame.put_u8(self.encoding as u8);
        frame.put_slice(&self.body);
        frame.freeze()
    }

    /// Reads the header of a binary frame; the body is not looked at.
    ///
    /// # Errors
    /// [`Malformed`] if it is no output frame, or too large for one.
    pub fn from_frame(frame: Bytes) -> Result<EncodedChunk, Malformed> {
        if frame.len() < HEADER_BYTES {
            return Err(Malformed("the frame is shorter than its header"));
        }
        if frame.len() > MAX_OUTPUT_FRAME_BYTES {
            return Err(Malformed("the frame is too long"));
        }
        if frame[0] != KIND_OUTPUT {
            return Err(Malformed("the frame is of an unknown kind"));
        }
        let number = |from: usize, len: usize| {
            let mut bytes = [0_u8; 8];
            bytes[..len].copy_from_slice(&frame[from..from + len]);
            u64::from_le_bytes(bytes)
        };
        Ok(EncodedChunk {
            attempt: AttemptRef { task: TaskId(number(1, 8) as i64), attempt: number(9, 4) as u32 },
            offset: number(13, 8),
            encoding: Encoding::try_from(frame[21])?,
            body: frame.slice(HEADER_BYTES..),
        })
    }

    /// Unpacks the body and finds its records.
    ///
    /// # Errors
    /// [`Malformed`] if it can't be unpacked, is too large, or is cut in the middle of a record.
    pub fn decode(&self) -> Result<Chunk, Malformed> {
        let body = match self.encoding {
            Encoding::Plain => self.body.clone(),
            Encoding::Zstd => zstd::bulk::decompress(&self.body, MAX_BODY_BYTES)
                .map_err(|_| Malformed("the body can't be decompressed"))?
                .into(),
        };
        Chunk::read(self.attempt, self.offset, body)
    }
}

/// An unpacked chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Whose output.
    pub attempt: AttemptRef,
    /// Offset of its first byte.
    pub offset: u64,
    /// At least one; their lengths add up to [`Self::payload_bytes`].
    pub records: Vec<Record>,
    /// Output bytes in it.
    pub payload_bytes: usize,
}

impl Chunk {
    fn read(attempt: AttemptRef, offset: u64, body: Bytes) -> Result<Chunk, Malformed> {
        if body.len() > MAX_BODY_BYTES {
            return Err(Malformed("the body is too long"));
        }
        let mut records = Vec::new();
        let mut payload_bytes = 0;
        for record in Records::of(&body) {
            let RecordSlice { at_micros, stream, bytes } = record?;
            records.push(Record { at_micros, stream, bytes: body.slice_ref(bytes) });
            payload_bytes += bytes.len();
        }
        if records.is_empty() || payload_bytes > MAX_CHUNK_PAYLOAD {
            return Err(Malformed("the chunk is empty or too large"));
        }
        if offset.checked_add(payload_bytes as u64).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Malformed("the offset is out of range"));
        }
        Ok(Chunk { attempt, offset, records, payload_bytes })
    }

    /// Offset of the byte after its last.
    pub fn end(&self) -> u64 {
        self.offset + self.payload_bytes as u64
    }

    /// Drops everything before `offset`, which a repeated or overlapping chunk shares with the stored output. None if
    /// nothing is left.
    pub fn from_offset(mut self, offset: u64) -> Option<Chunk> {
        if offset <= self.offset {
            return Some(self);
        }
        if offset >= self.end() {
            return None;
        }
        let mut skip = (offset - self.offset) as usize;
        self.payload_bytes -= skip;
        self.offset = offset;
        self.records.retain_mut(|record| {
            let cut = skip.min(record.bytes.len());
            skip -= cut;
            record.bytes = record.bytes.slice(cut..);
            !record.bytes.is_empty()
        });
        Some(self)
    }

    /// Encodes it again, after [`Self::from_offset`] or joining.
    pub fn encode(&self) -> EncodedChunk {
        let mut builder = ChunkBuilder::new();
        for record in &self.records {
            builder.push(record.at_micros, record.stream, &record.bytes);
        }
        builder.finish(self.attempt, self.offset)
    }
}

/// Unpacks chunks one after the other in the same memory, for those who read many and keep none.
#[derive(Default)]
pub struct Unpacker {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    /// The body that is read: unpacked, or as the chunk has it.
    unpacked: Vec<u8>,
    plain: Option<Bytes>,
    /// How far it was read.
    at: usize,
    at_micros: u64,
}

impl Unpacker {
    /// Turns to another chunk.
    ///
    /// # Errors
    /// [`Malformed`] if it can't be unpacked or is too large.
    pub fn open(&mut self, chunk: &EncodedChunk) -> Result<(), Malformed> {
        (self.at, self.at_micros, self.plain) = (0, 0, None);
        self.unpacked.clear();
        match chunk.encoding {
            Encoding::Plain if chunk.body.len() > MAX_BODY_BYTES => Err(Malformed("the body is too long")),
            Encoding::Plain => {
                self.plain = Some(chunk.body.clone());
                Ok(())
            }
            Encoding::Zstd => self.decompress(&chunk.body),
        }
    }

    /// The next record of the chunk; none after the last one.
    ///
    /// # Errors
    /// [`Malformed`] if the body is cut in the middle of a record.
    pub fn next_record(&mut self) -> Result<Option<RecordSlice<'_>>, Malformed> {
        let body = self.plain.as_deref().unwrap_or(&self.unpacked);
        let mut records = Records { body, at: self.at, at_micros: self.at_micros };
        let record = records.next().transpose();
        (self.at, self.at_micros) = (records.at, records.at_micros);
        record
    }

    fn decompress(&mut self, body: &[u8]) -> Result<(), Malformed> {
        let failed = |_| Malformed("the body can't be decompressed");
        let mut zstd = match self.zstd.take() {
            Some(zstd) => zstd,
            None => zstd::bulk::Decompressor::new().map_err(failed)?,
        };
        self.unpacked.reserve_exact(MAX_BODY_BYTES);
        let done = zstd.decompress_to_buffer(body, &mut self.unpacked);
        self.zstd = Some(zstd);
        done.map_err(failed)?;
        match self.unpacked.len() > MAX_BODY_BYTES {
            true => Err(Malformed("the body is too long")),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacker").finish_non_exhaustive()
    }
}

/// Some bytes of one stream, as they are in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordSlice<'a> {
    /// When they were read, in microseconds since 1970 by the worker's clock.
    pub at_micros: u64,
    /// From which stream.
    pub stream: Stream,
    /// Never empty.
    pub bytes: &'a [u8],
}

/// The records of an unpacked body in their order; after a malformed one there are no more.
#[derive(Debug, Clone)]
struct Records<'a> {
    body: &'a [u8],
    at: usize,
    at_micros: u64,
}

impl<'a> Records<'a> {
    fn of(body: &'a [u8]) -> Records<'a> {
        Records { body, at: 0, at_micros: 0 }
    }

    fn read(&mut self) -> Result<RecordSlice<'a>, Malformed> {
        let delta = take_varint(self.body, &mut self.at)?;
        self.at_micros = self.at_micros.checked_add(delta).ok_or(Malformed("a time is out of range"))?;
        let head = take_varint(self.body, &mut self.at)?;
        let stream = if head & 1 == 0 { Stream::Stdout } else { Stream::Stderr };
        let length = usize::try_from(head >> 1).map_err(|_| Malformed("a record is too long"))?;
        if length == 0 || length > self.body.len() - self.at {
            return Err(Malformed("a record is empty or longer than its chunk"));
        }
        let bytes = &self.body[self.at..self.at + length];
        self.at += length;
        Ok(RecordSlice { at_micros: self.at_micros, stream, bytes })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordSlice<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.body.len() {
            return None;
        }
        let record = self.read();
        if record.is_err() {
            self.at = self.body.len();
        }
        Some(record)
    }
}

fn put_varint(into: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        into.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    into.put_u8(value as u8);
}

fn take_varint(from: &[u8], at: &mut usize) -> Result<u64, Malformed> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *from.get(*at).ok_or(Malformed("a number is cut off"))?;
        *at += 1;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed("a number is too large"))
}

#[cfg(test)]
mod tests;
