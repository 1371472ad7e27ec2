//! Reads rendered lines of an attempt's output: from a given line, or the last ones.

use std::sync::Arc;

use gaffer_domain::search::line_ends;
use gaffer_domain::{AttemptRef, JobId};
use gaffer_protocol::output::Chunk;

use super::super::error::Error;
use crate::output::{Piece, ReadFrom, TaskOutput, head};
use crate::render::{Line, Renderer};
use crate::store::StoreError;
use crate::store::output::OutputHead;
use crate::views::Views;

/// The last lines are searched in this many bytes at the end; long lines reduce their number.
const TAIL_BYTES: u64 = 256 << 10;
/// Maximum number of bytes read for one window.
const MAX_READ_BYTES: u64 = 1 << 20;
/// Bytes shown of a line that fills the whole window.
const LONG_LINE_BYTES: u64 = 64 << 10;
/// How far before the first line colours are tracked, in lines and in bytes.
const LOOK_BACK_LINES: u64 = 100;
const LOOK_BACK_BYTES: u64 = 512 << 10;

/// What was read of the output, or why it cannot be read, as a sentence: the rest of the page can be shown.
///
/// # Errors
/// With errors that do not concern the output alone.
pub fn read_or_problem<T>(read: Result<T, impl Into<Error>>) -> Result<Result<T, String>, Error> {
    match read.map_err(Into::into) {
        Ok(read) => Ok(Ok(read)),
        Err(Error::OutputUnavailable(why) | Error::OutputLost(why)) => {
            Ok(Err(format!("The output cannot be read: {why}.")))
        }
        Err(error) => Err(error),
    }
}

/// One attempt's output.
#[derive(Debug, Clone)]
pub struct Output {
    pub views: Arc<Views>,
    pub job: JobId,
    pub attempt: AttemptRef,
}

/// Some lines that follow each other.
#[derive(Debug, Clone, Default)]
pub struct Window {
    /// Number of the first of them, counted from 1.
    pub first: u64,
    pub lines: Vec<Line>,
    /// Whether the last of them has not ended yet.
    pub is_open: bool,
    /// How much there is in all.
    pub head: OutputHead,
}

impl Output {
    /// How much there is.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn head(&self) -> Result<OutputHead, StoreError> {
        head(&self.views, self.attempt).await
    }

    /// The last lines, at most `count`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn last(&self, count: u64) -> Result<Window, StoreError> {
        let head = self.head().await?;
        let offset = head.bytes.saturating_sub(TAIL_BYTES);
        let mut chunks = Vec::new();
        let mut reading = self.reading(offset, head.bytes);
        while let Some(chunk) = reading.next().await? {
            chunks.push(chunk);
        }
        let ends: u64 = chunks.iter().map(|chunk| line_ends_of(chunk)).sum();
        // The first bytes may be the rest of a line.
        let cut = u64::from(offset > 0);
        let skipped = ends.saturating_sub(count + LOOK_BACK_LINES).max(cut);
        let mut rendering = Rendering { skip: skipped, ..Rendering::default() };
        chunks.iter().for_each(|chunk| rendering.read(chunk));
        let (mut lines, is_open) = rendering.finish();
        if lines.is_empty() && head.bytes > 0 {
            return self.long_line(&chunks, head, ends == 0).await;
        }
        let before = (head.lines + skipped).saturating_sub(ends);
        let surplus = lines.len().saturating_sub(count as usize);
        lines.drain(..surplus);
        Ok(Window { first: before + surplus as u64 + 1, lines, is_open, head })
    }

    /// The last line, which fills all of these chunks: what was written over it, or else its beginning.
    async fn long_line(
        &self,
        chunks: &[Arc<Chunk>],
        head: OutputHead,
        is_open: bool,
    ) -> Result<Window, StoreError> {
        let index = if is_open { head.lines } else { head.lines.saturating_sub(1) };
        let mut rendering = Rendering { seek: Some(b'\r'), ..Rendering::default() };
        chunks.iter().for_each(|chunk| rendering.read(chunk));
        let (mut lines, _) = rendering.finish();
        if lines.is_empty() {
            let window = self.read(head, index, 1, 0, LONG_LINE_BYTES).await?;
            lines = window.unwrap_or_default().lines;
        }
        lines.truncate(1);
        Ok(Window { first: index + 1, lines, is_open, head })
    }

    /// Lines from one on (counted from 1), at most `count`; fewer if they are very long, but at least one if there is
    /// one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn from(&self, first: u64, count: u64) -> Result<Window, StoreError> {
        let head = self.head().await?;
        let index = first.saturating_sub(1).min(head.lines);
        if let Some(window) = self.read(head, index, count, LOOK_BACK_LINES, MAX_READ_BYTES).await? {
            return Ok(window);
        }
        // The lines before are too long to reach the requested ones: omit their colours.
        let window = self.read(head, index, count, 0, MAX_READ_BYTES).await?;
        Ok(window.unwrap_or(Window { first: index + 1, head, ..Window::default() }))
    }

    async fn read(
        &self,
        head: OutputHead,
        index: u64,
        count: u64,
        look_back: u64,
        max_bytes: u64,
    ) -> Result<Option<Window>, StoreError> {
        let begin = index.saturating_sub(look_back);
        let (offset, ends_before) = match begin {
            0 => (0, 0),
            _ => self.views.output.find_line(self.attempt, begin).await?.unwrap_or((0, 0)),
        };
        let mut reading = self.reading(offset, head.bytes);
        let mut rendering = Rendering { skip: begin.saturating_sub(ends_before), ..Rendering::default() };
        let before = (index - begin) as usize;
        let mut bytes = 0;
        while let Some(chunk) = reading.next().await? {
            bytes += chunk.payload_bytes as u64;
            rendering.read(&chunk);
            if rendering.lines.len() as u64 >= before as u64 + count || bytes > max_bytes {
                break;
            }
            if look_back > 0 && rendering.lines.len() < before && bytes > LOOK_BACK_BYTES {
                return Ok(None);
            }
        }
        // Else the line that has not ended is not the last one: reading stopped in it.
        let reached_end = ends_before + rendering.skipped + rendering.lines.len() as u64 >= head.lines;
        let (mut lines, has_partial) = rendering.finish();
        lines.drain(..before.min(lines.len()));
        let is_all = lines.len() as u64 <= count;
        lines.truncate(count as usize);
        let is_cut_short = has_partial && is_all && reading.at < head.bytes;
        if is_cut_short && let Some(cut) = lines.last_mut().and_then(|line| line.tokens.last_mut()) {
            cut.admit_more();
        }
        Ok(Some(Window { first: index + 1, lines, is_open: has_partial && is_all && reached_end, head }))
    }

    fn reading(&self, offset: u64, end: u64) -> Reading {
        let from = ReadFrom { offset, ..ReadFrom::only(self.attempt) };
        let reader = TaskOutput::new(self.views.clone(), self.job, self.attempt.task, from);
        Reading { reader, at: offset, end }
    }
}

/// Reads what was there at the beginning; what arrives meanwhile is left alone.
struct Reading {
    reader: TaskOutput,
    at: u64,
    end: u64,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Arc<Chunk>>, StoreError> {
        if self.at >= self.end {
            return Ok(None);
        }
        match self.reader.next().await? {
            Some(Piece::Output(_, chunk)) if chunk.offset < self.end => {
                self.at = chunk.end();
                Ok(Some(chunk))
            }
            _ => Ok(None),
        }
    }
}

fn line_ends_of(chunk: &Chunk) -> u64 {
    chunk.records.iter().map(|record| line_ends(&record.bytes)).sum()
}

/// Chunks on their way to lines.
#[derive(Debug, Default)]
struct Rendering {
    renderer: Renderer,
    lines: Vec<Line>,
    /// Line ends to pass over before anything is rendered.
    skip: u64,
    skipped: u64,
    /// A byte to look for before anything is rendered.
    seek: Option<u8>,
}

impl Rendering {
    fn read(&mut self, chunk: &Chunk) {
        for record in &chunk.records {
            let mut bytes = &record.bytes[..];
            while self.skip > 0 && !bytes.is_empty() {
                match memchr::memchr(b'\n', bytes) {
                    Some(end) => {
                        bytes = &bytes[end + 1..];
                        self.skip -= 1;
                        self.skipped += 1;
                    }
                    None => bytes = &[],
                }
            }
            if let Some(byte) = self.seek {
                let Some(at) = memchr::memchr(byte, bytes) else { continue };
                bytes = &bytes[at..];
                self.seek = None;
            }
            self.renderer.push(record.at_micros, record.stream, bytes, &mut self.lines);
        }
    }

    /// All lines, and whether the last one has not ended.
    fn finish(mut self) -> (Vec<Line>, bool) {
        let partial = self.renderer.partial();
        let is_open = partial.is_some();
        self.lines.extend(partial);
        (self.lines, is_open)
    }
}
