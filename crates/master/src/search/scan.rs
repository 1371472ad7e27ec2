//! Unpacks chunks of an attempt's output and searches them, a few at a time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gaffer_domain::AttemptRef;
use gaffer_domain::search::{FoundLine, LineQuery, LineSearch, Piece};
use gaffer_protocol::output::{Malformed, Stream, Unpacker};

use crate::output::PackedOutput;
use crate::store::output::ChunkRow;

/// A step ends when it has found about this many lines, or has taken this long.
const LINES_A_STEP: usize = 1_000;
const STEP_TIME: Duration = Duration::from_millis(50);

/// When and where a part of the output was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// In microseconds since 1970 by the worker's clock.
    pub at_micros: u64,
    pub stream: Stream,
}

/// Which part of an output is searched.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScanRange {
    /// The first byte.
    pub offset: u64,
    /// The first byte that is not searched any more.
    pub until: u64,
    /// Only this stream.
    pub stream: Option<Stream>,
}

/// The search of one attempt's output.
#[derive(Debug)]
pub(super) struct Scan {
    pub search: LineSearch<Written>,
    /// How much was searched since somebody took it from here.
    pub searched_bytes: u64,
    range: ScanRange,
    unpacker: Unpacker,
    attempt: AttemptRef,
    chunks: VecDeque<ChunkRow>,
    /// There may be more lines in what was unpacked.
    has_more: bool,
    is_complete: bool,
}

impl Scan {
    pub fn new(attempt: AttemptRef, query: LineQuery, range: ScanRange) -> Scan {
        Scan {
            search: LineSearch::new(query, range.offset),
            searched_bytes: 0,
            range,
            unpacker: Unpacker::default(),
            attempt,
            chunks: VecDeque::new(),
            has_more: false,
            is_complete: false,
        }
    }

    /// More chunks of the same output.
    pub fn take(&mut self, output: PackedOutput) {
        self.chunks.extend(output.chunks);
    }

    /// The output ends here.
    pub fn finish(&mut self) {
        self.search.finish();
        self.chunks.clear();
        (self.has_more, self.is_complete) = (true, true);
    }

    /// Whether a step would do nothing.
    pub fn needs_text(&self) -> bool {
        self.chunks.is_empty() && !self.has_more
    }

    /// Whether the end of what is to be searched was reached.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    pub fn attempt(&self) -> AttemptRef {
        self.attempt
    }

    /// Searches until something was found, and not for long.
    pub fn step(&mut self) -> Result<Vec<FoundLine<Written>>, Malformed> {
        let mut found = Vec::new();
        let begun = Instant::now();
        loop {
            self.has_more = !self.search.advance(LINES_A_STEP, &mut found);
            if self.has_more || self.search.is_done() || begun.elapsed() >= STEP_TIME {
                return Ok(found);
            }
            match self.chunks.pop_front() {
                Some(row) => self.unpack(&row)?,
                None => return Ok(found),
            }
        }
    }

    /// Hands the wanted part of a chunk to the search.
    fn unpack(&mut self, row: &ChunkRow) -> Result<(), Malformed> {
        let ScanRange { offset: from, until, stream } = self.range;
        let (mut offset, mut lines) = (row.chunk.offset, row.lines_before);
        for record in self.unpacker.records(&row.chunk)? {
            let record = record?;
            let end = offset + record.bytes.len() as u64;
            let (first, last) = (offset.max(from).min(end), end.min(until).max(offset));
            if first < last {
                let part =
                    |from: u64, to: u64| &record.bytes[(from - offset) as usize..(to - offset) as usize];
                let bytes = part(first, last);
                self.searched_bytes += bytes.len() as u64;
                match stream.is_none_or(|stream| stream == record.stream) {
                    false => self.search.pass(last),
                    true => self.search.push(Piece {
                        offset: first,
                        lines_before: lines + line_ends(part(offset, first)),
                        tag: Written { at_micros: record.at_micros, stream: record.stream },
                        bytes,
                    }),
                }
            }
            lines += line_ends(record.bytes);
            offset = end;
        }
        // Chunks are joined at the end of an attempt: the next one may begin before what was searched.
        self.range.offset = from.max(offset);
        if offset >= until {
            self.finish();
        }
        Ok(())
    }
}

fn line_ends(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use gaffer_domain::TaskId;
    use gaffer_domain::search::Pattern;
    use gaffer_protocol::output::ChunkBuilder;

    use super::*;

    const ATTEMPT: AttemptRef = AttemptRef { task: TaskId(1), attempt: 1 };

    /// One chunk with this text, which begins at `offset`, behind so many lines.
    fn chunk(text: &str, offset: u64, lines_before: u64) -> PackedOutput {
        let mut builder = ChunkBuilder::new();
        assert_eq!(builder.push(1, Stream::Stdout, text.as_bytes()), text.len());
        let lines = text.matches('\n').count() as u32;
        let chunk = builder.finish(ATTEMPT, offset);
        let row = ChunkRow { chunk, payload_bytes: text.len() as u32, lines_before, lines };
        PackedOutput { attempt: 1, offset, chunks: VecDeque::from([row]) }
    }

    #[test]
    fn what_was_searched_before_its_chunk_was_joined_with_the_next_is_not_searched_again() {
        let query = LineQuery::new(Pattern::compile(".").unwrap());
        let mut scan = Scan::new(ATTEMPT, query, ScanRange { offset: 0, until: u64::MAX, stream: None });
        scan.take(chunk("one\ntwo\nth", 0, 0));
        let mut found = scan.step().unwrap();
        scan.take(chunk("one\ntwo\nthree\nfour\n", 0, 0));
        found.extend(scan.step().unwrap());
        let found: Vec<(u64, String)> =
            found.into_iter().map(|line| (line.number, String::from_utf8(line.text).unwrap())).collect();
        let expected = [(1, "one"), (2, "two"), (3, "three"), (4, "four")];
        assert_eq!(found, expected.map(|(number, text)| (number, text.to_owned())));
        assert_eq!(scan.searched_bytes, 19);
    }
}
