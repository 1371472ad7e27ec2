//! Copies output from the process to the spool, up to its limit.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use gaffer_domain::spec::{OnLimit, OutputLimit};
use gaffer_protocol::output::{Record, Stream};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::bursts::{Bursts, PAUSE};
use crate::clock::wall_micros;
use crate::driver::OutputSource;
use crate::spool::OutputWriter;

/// What a pipe holds if nothing is done about it.
const PIPE_BYTES: usize = 64 << 10;
/// With so many bytes at once there is much output, whether or not it comes in small pieces.
const MANY_BYTES: usize = 48 << 10;
/// How long after the end of the main process its streams may stay silent and open.
const DRAIN_SILENCE: Duration = Duration::from_secs(1);
/// Maximum time to read after the exit: a process that was not found may continue to write.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// The output limit of an attempt, and what it wrote beyond it.
#[derive(Debug)]
pub(super) struct Quota {
    limit: Option<OutputLimit>,
    /// Bytes that are still kept.
    room: u64,
    left_out: u64,
    exceeded: CancellationToken,
}

impl Quota {
    /// `written`: bytes that an earlier process of this worker kept.
    pub fn new(limit: Option<OutputLimit>, written: u64) -> Quota {
        let room = limit.map_or(u64::MAX, |limit| limit.limit.get().saturating_sub(written));
        Quota { limit, room, left_out: 0, exceeded: CancellationToken::new() }
    }

    /// Set as soon as something is left out.
    pub fn exceeded(&self) -> CancellationToken {
        self.exceeded.clone()
    }

    /// The limit, if the attempt must be killed for exceeding it.
    pub fn broken(&self) -> Option<OutputLimit> {
        self.limit.filter(|limit| self.left_out > 0 && limit.on_limit == OnLimit::Kill)
    }

    /// As much of it as there is room for; counts the rest.
    fn admit(&mut self, mut record: Record) -> Option<Record> {
        let length = record.bytes.len() as u64;
        let kept = length.min(self.room);
        self.room -= kept;
        if kept < length {
            self.left_out += length - kept;
            self.exceeded.cancel();
            record.bytes.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        }
        (kept > 0).then_some(record)
    }

    /// Writes the marker for dropped output, if any. It is the last output: after a crash of this worker, a
    /// container's log continues the output itself.
    fn marker(&self) -> Option<Record> {
        let limit = self.limit.filter(|_| self.left_out > 0)?.limit;
        let text = format!("\n[gaffer: {} bytes of output dropped: output limit {limit}]\n", self.left_out);
        Some(Record { at_micros: wall_micros(), stream: Stream::Stderr, bytes: Bytes::from(text) })
    }
}

/// Reads until the end; after the exit, only while data arrives, unless an end is certain.
pub(super) async fn pump(
    source: &mut dyn OutputSource,
    writer: &mut OutputWriter,
    quota: &mut Quota,
    exited: &CancellationToken,
    wrote: impl Fn(),
) {
    let (mut bursts, mut has_widened, mut drain_end) = (Bursts::new(PIPE_BYTES), false, None);
    loop {
        let next = if exited.is_cancelled() {
            next_after_exit(source, *drain_end.get_or_insert_with(|| Instant::now() + DRAIN_LIMIT)).await
        } else {
            tokio::select! {
                biased;
                next = poll_fn(|cx| source.poll_next(cx)) => next,
                () = exited.cancelled() => continue,
            }
        };
        let Some(record) = next else { break };
        let pauses = bursts.pauses_after(&record, Instant::now());
        if (pauses || record.bytes.len() >= MANY_BYTES) && !has_widened {
            has_widened = true;
            if let Some(bytes) = source.widen(record.stream) {
                bursts.holds(bytes);
            }
        }
        if pauses {
            source.rest(record.stream);
        }
        if let Some(record) = quota.admit(record) {
            writer.append(record, exited).await;
            wrote();
        }
        if pauses {
            // Its end does not wait for it, and what was collected meanwhile is read then.
            let _ = timeout(PAUSE, exited.cancelled()).await;
        }
    }
    for record in source.finish() {
        if let Some(record) = quota.admit(record) {
            writer.append(record, exited).await;
            wrote();
        }
    }
    if let Some(marker) = quota.marker() {
        writer.append(marker, exited).await;
        wrote();
    }
}

async fn next_after_exit(source: &mut dyn OutputSource, drain_end: Instant) -> Option<Record> {
    if source.has_certain_end() {
        return poll_fn(|cx| source.poll_next(cx)).await;
    }
    if Instant::now() >= drain_end {
        return None;
    }
    timeout(DRAIN_SILENCE, poll_fn(|cx| source.poll_next(cx))).await.ok().flatten()
}
