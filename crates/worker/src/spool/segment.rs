//! A file of output records that tolerates torn ends and flipped bits.
//!
//! The first byte is the format. In every segment after an attempt's first, the [`Progress`] before it follows, so that a
//! segment is usable even if earlier ones are gone. Each record has a header of 16 bytes, little-endian (length and, in
//! the highest bit, the stream u32; microseconds since 1970 u64; CRC-32 of the 12 bytes before and of the record's bytes
//! u32), then the bytes. A segment is named `<task>.<attempt>.<offset of its first byte>`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, IoSlice, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use gaffer_domain::{AttemptRef, TaskId};
use gaffer_protocol::output::{Record, Stream};

use super::progress::Progress;

/// Bytes before each record.
pub const HEAD_BYTES: usize = 16;
/// The longest record: more than is ever read from a pipe at once.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

/// The byte that begins the first segment of an attempt.
const FORMAT: [u8; 1] = *b"1";
/// The byte that begins all others.
const FORMAT_WITH_PROGRESS: [u8; 1] = *b"2";
const FORMAT_BYTES: u64 = 1;

const STDERR_BIT: u32 = 1 << 31;

/// Where the segment that starts at `offset` lies.
pub fn path(dir: &Path, attempt: AttemptRef, offset: u64) -> PathBuf {
    dir.join(format!("{attempt}.{offset}"))
}

/// The opposite of [`path`]; none for a name that is no segment's.
pub fn parse_name(name: &str) -> Option<(AttemptRef, u64)> {
    let mut parts = name.split('.');
    let task = TaskId(parts.next()?.parse().ok()?);
    let attempt = AttemptRef { task, attempt: parts.next()?.parse().ok()? };
    let offset = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((attempt, offset))
}

/// A file with the output from `start` to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub start: u64,
    pub end: u64,
    /// Size of the file in bytes.
    pub size: u64,
}

/// Appends records to a new segment.
#[derive(Debug)]
pub struct SegmentWriter {
    file: File,
    size: u64,
}

impl SegmentWriter {
    /// Into a file of at most one byte; `before` is the progress before the segment.
    pub fn new(mut file: File, before: &Progress) -> io::Result<SegmentWriter> {
        if before.bytes() == 0 {
            file.write_all(&FORMAT)?;
            return Ok(SegmentWriter { file, size: FORMAT_BYTES });
        }
        let mut head = FORMAT_WITH_PROGRESS.to_vec();
        head.extend_from_slice(&before.to_bytes());
        file.write_all(&head)?;
        Ok(SegmentWriter { file, size: head.len() as u64 })
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes one record whole; after an error the file is as it was before.
    pub fn append(&mut self, record: &Record) -> io::Result<()> {
        let head = head(record)?;
        let written = write_both(&mut self.file, &head, &record.bytes);
        match written {
            Ok(()) => {
                self.size += (HEAD_BYTES + record.bytes.len()) as u64;
                Ok(())
            }
            Err(error) => {
                self.file.set_len(self.size)?;
                self.file.seek(SeekFrom::Start(self.size))?;
                Err(error)
            }
        }
    }
}

fn write_both(file: &mut File, head: &[u8], bytes: &[u8]) -> io::Result<()> {
    // One call, nearly always.
    let written = loop {
        match file.write_vectored(&[IoSlice::new(head), IoSlice::new(bytes)]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    if written < head.len() {
        file.write_all(&head[written..])?;
        return file.write_all(bytes);
    }
    file.write_all(&bytes[written - head.len()..])
}

fn head(record: &Record) -> io::Result<[u8; HEAD_BYTES]> {
    let length = u32::try_from(record.bytes.len()).ok().filter(|len| *len as usize <= MAX_RECORD_BYTES);
    let length = length.ok_or_else(|| io::Error::other("a record is too long for the spool"))?;
    let stream = if record.stream == Stream::Stderr { STDERR_BIT } else { 0 };
    let mut head = [0_u8; HEAD_BYTES];
    head[..4].copy_from_slice(&(length | stream).to_le_bytes());
    head[4..12].copy_from_slice(&record.at_micros.to_le_bytes());
    let check = checksum(&head[..12], &record.bytes);
    head[12..].copy_from_slice(&check.to_le_bytes());
    Ok(head)
}

fn checksum(head: &[u8], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(bytes);
    hasher.finalize()
}

/// Reads a segment record by record.
#[derive(Debug)]
pub struct SegmentReader {
    file: BufReader<File>,
    /// Where the next record begins in the file.
    position: u64,
    /// What went before; none if the file does not tell.
    before: Option<Box<Progress>>,
}

impl SegmentReader {
    /// Begins with the first record. A file of another format has none.
    pub fn open(path: &Path) -> io::Result<SegmentReader> {
        let file = BufReader::with_capacity(64 << 10, File::open(path)?);
        let mut reader = SegmentReader { file, position: 0, before: None };
        let mut format = [0; FORMAT.len()];
        if !reader.read_whole(&mut format)? {
            return Ok(reader);
        }
        if format == FORMAT {
            reader.position = FORMAT_BYTES;
            reader.before = Some(Box::default());
        } else if format == FORMAT_WITH_PROGRESS {
            let mut progress = [0; Progress::ENCODED_BYTES];
            if reader.read_whole(&mut progress)? {
                reader.position = FORMAT_BYTES + progress.len() as u64;
                reader.before = Progress::from_bytes(&progress).map(Box::new);
            }
        }
        Ok(reader)
    }

    /// Bytes of the file that held whole records so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next record; none at the end, and where what follows is torn or damaged.
    pub fn next(&mut self) -> io::Result<Option<Record>> {
        let mut head = [0_u8; HEAD_BYTES];
        if self.position == 0 || !self.read_whole(&mut head)? {
            return Ok(None);
        }
        let field = |from: usize| [head[from], head[from + 1], head[from + 2], head[from + 3]];
        let first = u32::from_le_bytes(field(0));
        let at_micros =
            u64::from(u32::from_le_bytes(field(4))) | u64::from(u32::from_le_bytes(field(8))) << 32;
        let length = (first & !STDERR_BIT) as usize;
        if length == 0 || length > MAX_RECORD_BYTES {
            return Ok(None);
        }
        let mut bytes = vec![0_u8; length];
        if !self.read_whole(&mut bytes)? || checksum(&head[..12], &bytes) != u32::from_le_bytes(field(12)) {
            return Ok(None);
        }
        self.position += (HEAD_BYTES + length) as u64;
        let stream = if first & STDERR_BIT == 0 { Stream::Stdout } else { Stream::Stderr };
        Ok(Some(Record { at_micros, stream, bytes: Bytes::from(bytes) }))
    }

    /// False if the file ends before the buffer is full.
    fn read_whole(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match self.file.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What a segment from before holds.
#[derive(Debug, Clone)]
pub struct Scanned {
    /// Output bytes in whole records.
    pub payload: u64,
    /// Size of the file up to their end.
    pub size: u64,
    /// How far the output had come after them; none if the file does not tell.
    pub progress: Option<Progress>,
}

/// Reads a whole segment, passing each record to `each`, and cuts off what follows the last whole record.
pub fn scan(path: &Path, mut each: impl FnMut(&Record)) -> io::Result<Scanned> {
    let mut reader = SegmentReader::open(path)?;
    let mut progress = reader.before.take().map(|before| *before);
    let mut payload = 0;
    while let Some(record) = reader.next()? {
        payload += record.bytes.len() as u64;
        if let Some(progress) = &mut progress {
            progress.add(&record);
        }
        each(&record);
    }
    let size = reader.position();
    if fs::metadata(path)?.len() > size {
        OpenOptions::new().write(true).open(path)?.set_len(size)?;
    }
    Ok(Scanned { payload, size, progress })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    fn record(rng: &mut StdRng) -> Record {
        let mut bytes = vec![0_u8; rng.random_range(1..300)];
        rng.fill(&mut bytes[..]);
        let stream = if rng.random() { Stream::Stdout } else { Stream::Stderr };
        Record { at_micros: rng.random(), stream, bytes: bytes.into() }
    }

    fn written(dir: &Path, count: usize, rng: &mut StdRng) -> (PathBuf, Vec<Record>) {
        let path = dir.join("1.1.0");
        let file = File::create(&path).unwrap();
        let mut writer = SegmentWriter::new(file, &Progress::default()).unwrap();
        let records: Vec<Record> = (0..count).map(|_| record(rng)).collect();
        for record in &records {
            writer.append(record).unwrap();
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), writer.size());
        (path, records)
    }

    fn read(path: &Path) -> (Scanned, Vec<Record>) {
        let mut records = Vec::new();
        let scanned = scan(path, |record| records.push(record.clone())).unwrap();
        (scanned, records)
    }

    #[test]
    fn names_are_read_back_and_foreign_ones_are_not() {
        let attempt = AttemptRef { task: TaskId(42), attempt: 7 };
        let path = path(Path::new("/x"), attempt, 99);
        assert_eq!(parse_name(path.file_name().unwrap().to_str().unwrap()), Some((attempt, 99)));
        for name in ["", "42", "42.7", "42.7.", "42.7.x", "42.7.1.2", "journal"] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let (path, records) = written(dir.path(), 100, &mut StdRng::seed_from_u64(1));
        let (scanned, read) = read(&path);
        assert_eq!(read, records);
        assert_eq!(scanned.payload, records.iter().map(|record| record.bytes.len() as u64).sum::<u64>());
    }

    #[test]
    fn a_file_torn_anywhere_gives_its_whole_records_and_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let rng = &mut StdRng::seed_from_u64(2);
        for _ in 0..200 {
            let (path, records) = written(dir.path(), 20, rng);
            let whole = fs::metadata(&path).unwrap().len();
            let cut = rng.random_range(0..=whole);
            OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
            let (scanned, read) = read(&path);
            assert_eq!(read, records[..read.len()]);
            assert!(cut == whole || read.len() < records.len());
            assert_eq!(fs::metadata(&path).unwrap().len(), scanned.size);
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_records_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let rng = &mut StdRng::seed_from_u64(3);
        for _ in 0..200 {
            let (path, records) = written(dir.path(), 20, rng);
            let mut bytes = fs::read(&path).unwrap();
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
            fs::write(&path, &bytes).unwrap();
            let (_, read) = read(&path);
            assert!(read.len() < records.len());
            assert_eq!(read, records[..read.len()]);
        }
    }

    #[test]
    fn garbage_gives_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let rng = &mut StdRng::seed_from_u64(4);
        let path = dir.path().join("1.1.0");
        for _ in 0..200 {
            let mut bytes = vec![0_u8; rng.random_range(0..500)];
            rng.fill(&mut bytes[..]);
            fs::write(&path, &bytes).unwrap();
            assert_eq!(read(&path).1, []);
        }
    }
}
