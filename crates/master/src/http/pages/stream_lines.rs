//! Reads rendered lines of one stream of an attempt, with their numbers in the whole output.

use gaffer_domain::search::line_ends;
use gaffer_protocol::output::{Chunk, Stream};

use super::lines::Output;
use crate::output::{Piece, ReadFrom, TaskOutput, back_to};
use crate::render::{Line, Renderer};
use crate::store::StoreError;
use crate::store::output::OutputHead;

/// Maximum number of bytes searched for lines of one stream, because output of the other may lie between.
const MAX_BYTES: u64 = 4 << 20;

/// Lines of one stream.
#[derive(Debug, Clone, Default)]
pub struct StreamLines {
    /// The lines with their numbers in the whole output, counted from 1.
    pub lines: Vec<(u64, Line)>,
    /// Whether the last of them has not ended yet.
    pub is_open: bool,
    /// How much there is in all, of both streams.
    pub head: OutputHead,
}

impl StreamLines {
    /// Number of the first of them.
    pub fn first(&self) -> Option<u64> {
        self.lines.first().map(|(number, _)| *number)
    }

    /// Number of the last of them.
    pub fn last(&self) -> Option<u64> {
        self.lines.last().map(|(number, _)| *number)
    }
}

impl Output {
    /// The last lines of a stream, at most `count`; only those before a line if one is given.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn last_of(
        &self,
        stream: Stream,
        before: Option<u64>,
        count: u64,
    ) -> Result<StreamLines, StoreError> {
        let head = self.head().await?;
        let (end, ends_before) = match before {
            None => (head.bytes, head.lines),
            Some(line) => self.start_of(line.saturating_sub(1).min(head.lines), head).await?,
        };
        let from = back_to(&self.views, self.job, self.attempt, stream, end, count, MAX_BYTES).await?;
        let mut reading = StreamReading::new(stream, ends_before - from.line_ends + 1);
        self.read_into(&mut reading, from.offset, end, usize::MAX).await?;
        let (mut lines, is_open) = reading.finish(before.is_none());
        let surplus = lines.len().saturating_sub(count as usize);
        lines.drain(..surplus);
        Ok(StreamLines { lines, is_open, head })
    }

    /// Lines of a stream from a line on (counted from 1), at most `count`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn starting_with(
        &self,
        stream: Stream,
        first: u64,
        count: u64,
    ) -> Result<StreamLines, StoreError> {
        let head = self.head().await?;
        let index = first.saturating_sub(1).min(head.lines);
        let (offset, _) = self.start_of(index, head).await?;
        let end = head.bytes.min(offset.saturating_add(MAX_BYTES));
        let mut reading = StreamReading::new(stream, index + 1);
        self.read_into(&mut reading, offset, end, count as usize).await?;
        let (mut lines, is_open) = reading.finish(end == head.bytes);
        let is_all = lines.len() as u64 <= count;
        lines.truncate(count as usize);
        Ok(StreamLines { lines, is_open: is_open && is_all, head })
    }

    /// Where a line begins (0 is the first), and how many line ends come before it.
    async fn start_of(&self, index: u64, head: OutputHead) -> Result<(u64, u64), StoreError> {
        let found = crate::output::line_offset(&self.views, self.job, self.attempt, None, index).await?;
        Ok(found.map_or((head.bytes, head.lines), |offset| (offset, index)))
    }

    async fn read_into(
        &self,
        reading: &mut StreamReading,
        offset: u64,
        end: u64,
        count: usize,
    ) -> Result<(), StoreError> {
        let from = ReadFrom { offset, ..ReadFrom::only(self.attempt) };
        let mut reader = TaskOutput::new(self.views.clone(), self.job, self.attempt.task, from);
        while reading.lines.len() < count {
            let Some(Piece::Output(_, chunk)) = reader.next().await? else { break };
            reading.read(&chunk, end);
            if chunk.end() >= end {
                break;
            }
        }
        Ok(())
    }
}

/// Chunks on their way to the lines of one stream.
struct StreamReading {
    stream: Stream,
    renderer: Renderer,
    lines: Vec<(u64, Line)>,
    /// Number of the line that is being read, of both streams.
    number: u64,
}

impl StreamReading {
    fn new(stream: Stream, number: u64) -> StreamReading {
        StreamReading { stream, renderer: Renderer::new(), lines: Vec::new(), number }
    }

    fn read(&mut self, chunk: &Chunk, end: u64) {
        let mut at = chunk.offset;
        let mut ended = Vec::new();
        for record in &chunk.records {
            let wanted = record.bytes.len().min(end.saturating_sub(at) as usize);
            at += record.bytes.len() as u64;
            let mut bytes = &record.bytes[..wanted];
            if record.stream != self.stream {
                self.number += line_ends(bytes);
                continue;
            }
            while !bytes.is_empty() {
                let line_end = memchr::memchr(b'\n', bytes);
                let (piece, behind) = bytes.split_at(line_end.map_or(bytes.len(), |line_end| line_end + 1));
                bytes = behind;
                self.renderer.push(record.at_micros, record.stream, piece, &mut ended);
                self.lines.extend(ended.drain(..).map(|line| (self.number, line)));
                self.number += u64::from(line_end.is_some());
            }
        }
    }

    /// All lines, with one that has not ended if it is wanted; and whether there is one.
    fn finish(mut self, with_open: bool) -> (Vec<(u64, Line)>, bool) {
        let partial = self.renderer.partial().filter(|_| with_open);
        let is_open = partial.is_some();
        self.lines.extend(partial.map(|line| (self.number, line)));
        (self.lines, is_open)
    }
}
