//! Writes an attempt's output to disk and into the checksum, then offers it to the connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use gaffer_protocol::output::Record;
use tokio_util::sync::CancellationToken;

use super::files::Files;
use super::limits::Limits;
use super::output::{Output, Place};
use super::progress::{Position, Progress};
use super::segment::SegmentWriter;
use crate::blocking::NoAnswer;

/// A segment of this size is full.
const SEGMENT_BYTES: u64 = 8 << 20;
/// How long a disk that refused a record is left alone.
const DISK_RETRY: Duration = Duration::from_millis(500);

/// The one writer of an [`Output`].
#[derive(Debug)]
pub(crate) struct OutputWriter {
    output: Arc<Output>,
    files: Arc<Files>,
    limits: Arc<Limits>,
    segment: Option<SegmentWriter>,
    progress: Progress,
    /// A record could not be written when there was no time left to wait: it and all that follow stay in memory.
    memory_only: bool,
}

/// What there was in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Totals {
    pub bytes: u64,
    /// In hexadecimal; none if some of it was lost with an earlier process of the worker.
    pub sha256: Option<String>,
}

impl OutputWriter {
    /// For an output that has come as far as `progress`.
    pub fn new(
        output: Arc<Output>,
        files: Arc<Files>,
        limits: Arc<Limits>,
        progress: Progress,
    ) -> OutputWriter {
        OutputWriter { output, files, limits, segment: None, progress, memory_only: false }
    }

    /// How much there is so far.
    pub fn bytes(&self) -> u64 {
        self.output.end()
    }

    /// How far the output has come; none if that is not known any more.
    pub fn position(&self) -> Option<&Position> {
        (self.progress.bytes() == self.output.end()).then(|| self.progress.position())
    }

    /// Adds a record. Waits while the spool is full, or its disk refuses or does not answer, but not much longer than until
    /// `hurry`: the little that comes after the end of a process always has room, if need be in memory.
    ///
    /// Must be awaited to its end.
    pub async fn append(&mut self, record: Record, hurry: &CancellationToken) {
        self.wait_for_room(hurry).await;
        let mut warned = false;
        let size = loop {
            if self.memory_only {
                break None;
            }
            match self.write(&record, hurry).await {
                Ok(Ok(size)) => break Some(size),
                Err(NoAnswer) => {
                    tracing::warn!("the spool's disk does not respond; keeping the last output in memory");
                    self.memory_only = true;
                }
                Ok(Err(error)) => {
                    if !warned {
                        tracing::warn!(%error, "cannot write to the spool; the task waits");
                        warned = true;
                    }
                    if hurry.is_cancelled() {
                        self.memory_only = true;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(DISK_RETRY) => {}
                () = hurry.cancelled() => {}
            }
        };
        self.progress.add(&record);
        self.output.commit(record, size);
    }

    /// End of output.
    pub fn finish(self) -> Totals {
        self.output.close();
        let bytes = self.output.end();
        let is_whole = self.progress.bytes() == bytes;
        Totals { bytes, sha256: is_whole.then(|| self.progress.sha256()) }
    }

    async fn wait_for_room(&self, hurry: &CancellationToken) {
        loop {
            let freed = self.limits.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if hurry.is_cancelled() || self.limits.has_room() {
                return;
            }
            tokio::select! {
                () = freed => {}
                () = hurry.cancelled() => {}
            }
        }
    }

    /// Writes the record to the segment; the new size of the segment.
    async fn write(
        &mut self,
        record: &Record,
        hurry: &CancellationToken,
    ) -> Result<io::Result<u64>, NoAnswer> {
        let is_full = self.segment.as_ref().is_none_or(|segment| segment.size() >= SEGMENT_BYTES);
        let (files, record, open) = (self.files.clone(), record.clone(), self.segment.take());
        let new = match self.output.begin(is_full) {
            Place::Same => None,
            Place::New(path) => Some((path, self.progress.clone())),
        };
        let append = move || {
            let opened = match (new, open) {
                (Some((path, before)), _) => files.create(&path, &before),
                (None, Some(segment)) => Ok(segment),
                (None, None) => Err(io::Error::other("the spool has no open segment")),
            };
            match opened {
                Ok(mut segment) => (segment.append(&record), Some(segment)),
                Err(error) => (Err(error), None),
            }
        };
        let Ok((written, segment)) = self.files.writers.run_until(hurry.cancelled(), append).await else {
            self.output.abandon();
            return Err(NoAnswer);
        };
        let size = segment.as_ref().map_or(0, SegmentWriter::size);
        if written.is_err() {
            self.output.cancel(segment.is_none());
        }
        self.segment = segment;
        Ok(written.map(|()| size))
    }
}
