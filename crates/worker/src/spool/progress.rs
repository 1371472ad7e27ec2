//! How far the output of an attempt was read; enough to resume it in another process.

use gaffer_protocol::output::{Record, Stream};
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256};

/// What there was of an attempt's output up to some point.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    position: Position,
    /// Over all bytes in their order.
    checksum: Sha256,
}

/// A place in the two streams of an attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    pub stdout: StreamPosition,
    pub stderr: StreamPosition,
}

/// A place in a stream, and what comes right before it: to recognise it by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamPosition {
    pub bytes: u64,
    /// The last bytes, at most [`Self::MAX_TAIL`].
    pub tail: Vec<u8>,
}

const STATE_BYTES: usize = size_of::<SerializedState<Sha256>>();
const CHECK_BYTES: usize = 4;

impl Progress {
    /// Bytes of [`Self::to_bytes`].
    pub const ENCODED_BYTES: usize = 2 * StreamPosition::ENCODED_BYTES + STATE_BYTES + CHECK_BYTES;

    pub fn add(&mut self, record: &Record) {
        self.checksum.update(&record.bytes);
        self.position.of(record.stream).add(&record.bytes);
    }

    /// Bytes of both streams.
    pub fn bytes(&self) -> u64 {
        self.position.stdout.bytes + self.position.stderr.bytes
    }

    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The checksum in hexadecimal.
    pub fn sha256(self) -> String {
        const DIGITS: [char; 16] =
            ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
        let digest = self.checksum.finalize();
        digest
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .map(|digit| DIGITS[usize::from(digit)])
            .collect()
    }

    /// Both places, the state of the checksum, and a CRC-32 over these.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Progress::ENCODED_BYTES);
        self.position.stdout.write(&mut bytes);
        self.position.stderr.write(&mut bytes);
        bytes.extend_from_slice(&self.checksum.serialize());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// The opposite; none if the bytes are damaged.
    pub fn from_bytes(bytes: &[u8; Progress::ENCODED_BYTES]) -> Option<Progress> {
        let (content, check) = bytes.split_last_chunk::<CHECK_BYTES>()?;
        if crc32fast::hash(content) != u32::from_le_bytes(*check) {
            return None;
        }
        let (stdout, rest) = StreamPosition::read(content)?;
        let (stderr, state) = StreamPosition::read(rest)?;
        let checksum = Sha256::deserialize(state.try_into().ok()?).ok()?;
        Some(Progress { position: Position { stdout, stderr }, checksum })
    }
}

impl Position {
    pub fn of(&mut self, stream: Stream) -> &mut StreamPosition {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

impl StreamPosition {
    /// Number of remembered bytes before the position.
    pub const MAX_TAIL: usize = 64;
    const ENCODED_BYTES: usize = 8 + 1 + StreamPosition::MAX_TAIL;

    /// Moves the place to after these bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        let bytes = bytes.last_chunk::<{ StreamPosition::MAX_TAIL }>().map_or(bytes, |last| &last[..]);
        let surplus = (self.tail.len() + bytes.len()).saturating_sub(StreamPosition::MAX_TAIL);
        self.tail.drain(..surplus);
        self.tail.extend_from_slice(bytes);
    }

    /// The count (u64, little-endian), the length of the tail (u8), and the tail in a field of fixed length.
    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.bytes.to_le_bytes());
        let mut field = [0; 1 + StreamPosition::MAX_TAIL];
        field[0] = u8::try_from(self.tail.len()).unwrap_or(u8::MAX);
        field[1..=self.tail.len()].copy_from_slice(&self.tail);
        to.extend_from_slice(&field);
    }

    fn read(from: &[u8]) -> Option<(StreamPosition, &[u8])> {
        let (bytes, rest) = from.split_first_chunk()?;
        let (field, rest) = rest.split_first_chunk::<{ 1 + StreamPosition::MAX_TAIL }>()?;
        let tail = field[1..].get(..usize::from(field[0]))?.to_vec();
        Some((StreamPosition { bytes: u64::from_le_bytes(*bytes), tail }, rest))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use bytes::Bytes;

    use super::*;

    fn record(stream: Stream, bytes: &'static str) -> Record {
        Record { at_micros: 1, stream, bytes: Bytes::from(bytes) }
    }

    #[test]
    fn what_was_interrupted_goes_on_as_if_it_had_not_been() {
        let (mut whole, mut part) = (Progress::default(), Progress::default());
        for text in
            ["one", "two and a piece that is longer than the block of the checksum, which is 64 bytes"]
        {
            for progress in [&mut whole, &mut part] {
                progress.add(&record(Stream::Stdout, text));
                progress.add(&record(Stream::Stderr, "!"));
            }
            part = Progress::from_bytes(part.to_bytes().as_slice().try_into().unwrap()).unwrap();
        }
        assert_eq!(part.position(), whole.position());
        assert_eq!((part.bytes(), part.position().stderr.bytes), (whole.bytes(), 2));
        assert_eq!(part.sha256(), whole.sha256());
    }

    #[test]
    fn a_place_is_remembered_by_what_comes_before_it() {
        let mut place = StreamPosition::default();
        place.add(b"a");
        place.add(&[b'b'; 63]);
        assert_eq!((place.bytes, place.tail[0], place.tail.len()), (64, b'a', 64));
        place.add(b"c");
        assert_eq!((place.tail[0], place.tail[63], place.tail.len()), (b'b', b'c', 64));
        place.add(&[b'd'; 1000]);
        assert_eq!((place.bytes, &place.tail[..]), (1065, &[b'd'; 64][..]));
    }

    #[test]
    fn damage_is_noticed() {
        let bytes: [u8; Progress::ENCODED_BYTES] = Progress::default().to_bytes().try_into().unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[at] ^= 0x10;
            assert!(Progress::from_bytes(&damaged).is_none(), "byte {at}");
        }
    }
}
