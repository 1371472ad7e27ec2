//! Unpacks chunks of an attempt's output and searches them, a few at a time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gaffer_domain::AttemptRef;
use gaffer_domain::search::{FoundLine, LineQuery, LineSearch, Piece, ResumePoint, Turn, line_ends};
use gaffer_protocol::output::{Malformed, RecordSlice, Stream, Unpacker};

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
    /// Where it begins. The rest of a line that begins before is not searched, unless this place says how.
    pub from: ResumePoint,
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
    /// The first byte that was not searched.
    from: u64,
    /// What comes before decides whether a line begins there.
    looks_back: bool,
    unpacker: Unpacker,
    attempt: AttemptRef,
    chunks: VecDeque<ChunkRow>,
    /// How far the chunk was searched that is unpacked.
    unpacked: Option<Place>,
    /// There may be more lines in what was unpacked.
    has_more: bool,
    is_complete: bool,
}

/// A place in a chunk.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    lines_before: u64,
}

impl Scan {
    pub fn new(attempt: AttemptRef, query: LineQuery, range: ScanRange) -> Scan {
        Scan {
            search: LineSearch::new(query, range.from),
            searched_bytes: 0,
            range,
            from: range.from.offset,
            looks_back: range.from.inside.is_none(),
            unpacker: Unpacker::default(),
            attempt,
            chunks: VecDeque::new(),
            unpacked: None,
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
        (self.unpacked, self.has_more, self.is_complete) = (None, true, true);
    }

    /// Whether a step would do nothing.
    pub fn needs_text(&self) -> bool {
        self.chunks.is_empty() && self.unpacked.is_none() && !self.has_more
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
        let mut is_over = || begun.elapsed() >= STEP_TIME;
        let mut turn = Turn::new(&mut is_over);
        loop {
            self.has_more = !self.search.advance(LINES_A_STEP, &mut found, &mut turn);
            if self.has_more || self.search.is_done() || begun.elapsed() >= STEP_TIME {
                return Ok(found);
            }
            if !self.feed()? {
                return Ok(found);
            }
        }
    }

    /// Hands some more text to the search: of one chunk, and no more than should be in memory. False if there is none.
    fn feed(&mut self) -> Result<bool, Malformed> {
        let mut place = match self.unpacked.take() {
            Some(place) => place,
            None => {
                let Some(row) = self.chunks.pop_front() else { return Ok(false) };
                self.unpacker.open(&row.chunk)?;
                Place { offset: row.chunk.offset, lines_before: row.lines_before }
            }
        };
        let ScanRange { until, stream: only, .. } = self.range;
        while let Some(RecordSlice { at_micros, stream, bytes }) = self.unpacker.next_record()? {
            let Place { offset, lines_before } = place;
            let end = offset + bytes.len() as u64;
            place = Place { offset: end, lines_before: lines_before + line_ends(bytes) };
            let part = |from: u64, to: u64| &bytes[(from - offset) as usize..(to - offset) as usize];
            let is_wanted = only.is_none_or(|only| only == stream);
            let has_byte_before = offset < self.from && self.from <= end;
            if self.looks_back && is_wanted && has_byte_before && part(self.from - 1, self.from) != b"\n" {
                self.search.pass_rest_of_line();
            }
            let (first, last) = (offset.max(self.from).min(end), end.min(until).max(offset));
            if first >= last {
                continue;
            }
            self.searched_bytes += last - first;
            match is_wanted {
                false => self.search.pass(last),
                true => self.search.push(Piece {
                    offset: first,
                    lines_before: lines_before + line_ends(part(offset, first)),
                    tag: Written { at_micros, stream },
                    bytes: part(first, last),
                }),
            }
            if self.search.is_full() {
                self.unpacked = Some(place);
                return Ok(true);
            }
        }
        // Chunks are joined at the end of an attempt: the next one may begin before what was searched.
        self.looks_back &= place.offset < self.from;
        self.from = self.from.max(place.offset);
        if place.offset >= self.range.until {
            self.finish();
        }
        Ok(true)
    }
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
        PackedOutput { attempt: 1, is_first_attempt: true, offset, chunks: VecDeque::from([row]) }
    }

    fn everything() -> ScanRange {
        ScanRange { from: ResumePoint::default(), until: u64::MAX, stream: None }
    }

    #[test]
    fn a_line_that_begins_before_the_first_byte_is_not_searched() {
        for (offset, expected) in [(0, vec![1, 2, 3]), (1, vec![2, 3]), (4, vec![2, 3]), (5, vec![3])] {
            let query = LineQuery::new(Pattern::compile("^[a-z]+$").unwrap());
            let from = ResumePoint::from(offset);
            let mut scan = Scan::new(ATTEMPT, query, ScanRange { from, ..everything() });
            // Where a chunk begins, the byte before is in the one before.
            scan.take(chunk("one\n", 0, 0));
            scan.take(chunk("two\nthree\n", 4, 1));
            let found = scan.step().unwrap();
            let numbers: Vec<u64> = found.iter().map(|line| line.number).collect();
            assert_eq!(numbers, expected, "from {offset}");
        }
    }

    #[test]
    fn what_was_searched_before_its_chunk_was_joined_with_the_next_is_not_searched_again() {
        let query = LineQuery::new(Pattern::compile(".").unwrap());
        let mut scan = Scan::new(ATTEMPT, query, everything());
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
