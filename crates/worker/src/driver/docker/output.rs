//! The output of a container across restarts of worker and daemon: live from the attached stream, and missed parts
//! from the daemon's log.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::query_parameters::{AttachContainerOptions, LogsOptions};
use bytes::{Bytes, BytesMut};
use futures::{Stream as Frames, StreamExt as _};
use gaffer_protocol::output::{Record, Stream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::super::{Exit, InputSink, OutputSource};
use super::daemon::{Daemon, is_away, status};
use crate::clock::wall_micros;
use crate::spool::Position;

const MAX_RECORD_BYTES: usize = 64 << 10;
/// Records that were read and not taken yet: the daemon holds back the container for the rest.
const MAX_WAITING: usize = 2;
/// After the end of a container the daemon keeps its last output for at most two seconds; a slower reader must use
/// the log.
const SLOW: Duration = Duration::from_millis(500);
/// A paused container whose stream is silent for this long has no output in flight.
const SETTLED: Duration = Duration::from_millis(100);
const SETTLING_LIMIT: Duration = Duration::from_secs(10);
/// How long the end of a container may come after the end of its stream.
const END_LAG: Duration = Duration::from_millis(500);
/// How long the stream of a container that has ended may be silent before the log is asked for the rest.
const LAST_WORD: Duration = Duration::from_secs(2);
/// How long the daemon may be away after the end of a container until its last output is given up.
const MAX_ABSENCE: Duration = Duration::from_secs(60);

type Attached = Pin<Box<dyn Frames<Item = Result<LogOutput, Error>> + Send>>;

pub(super) enum Beginning {
    /// With everything, from a stream that was attached before the start.
    Attached(Attached),
    /// After what an earlier process of the worker has read; none if that is not known.
    At(Option<Position>),
}

/// Reads while it is asked to. See the module.
pub(super) struct ContainerOutput {
    records: mpsc::Receiver<Record>,
    _reader: tokio_util::task::AbortOnDropHandle<()>,
}

impl ContainerOutput {
    /// `exit` tells of the end of the container.
    pub fn new(
        daemon: Arc<Daemon>,
        container: String,
        beginning: Beginning,
        exit: watch::Receiver<Option<Exit>>,
    ) -> ContainerOutput {
        let (sender, records) = mpsc::channel(MAX_WAITING);
        let (attached, position) = match beginning {
            Beginning::Attached(attached) => (Some(attached), Some(Position::default())),
            Beginning::At(position) => (None, position),
        };
        let reader = Reader { daemon, container, exit, records: sender, position, was_slow: false };
        let task = tokio::spawn(reader.run(attached));
        ContainerOutput { records, _reader: tokio_util::task::AbortOnDropHandle::new(task) }
    }
}

impl OutputSource for ContainerOutput {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Record>> {
        self.records.poll_recv(cx)
    }

    fn has_certain_end(&self) -> bool {
        true
    }
}

/// Attaches to new output of a container.
pub(super) async fn attach(docker: &Docker, container: &str) -> Result<Attached, Error> {
    let options = AttachContainerOptions {
        stdout: true,
        stderr: true,
        stream: true,
        ..AttachContainerOptions::default()
    };
    Ok(docker.attach_container(container, Some(options)).await?.output)
}

/// Attaches to the standard input of a container that was made with one.
pub(super) async fn attach_input(docker: &Docker, container: &str) -> Result<InputSink, Error> {
    let options = AttachContainerOptions { stdin: true, stream: true, ..AttachContainerOptions::default() };
    Ok(docker.attach_container(container, Some(options)).await?.input)
}

struct Reader {
    daemon: Arc<Daemon>,
    container: String,
    exit: watch::Receiver<Option<Exit>>,
    records: mpsc::Sender<Record>,
    /// What was passed on so far; none if that is not known any more.
    position: Option<Position>,
    /// The records were not taken as fast as they came.
    was_slow: bool,
}

/// Result of resuming the output.
enum Rejoined {
    Live(Attached),
    /// There is nothing more.
    Over,
}

/// Why the log cannot be read: the daemon does not respond, or the receiver is gone.
enum Interrupted {
    Daemon(Error),
    NotWanted,
}

impl From<Error> for Interrupted {
    fn from(error: Error) -> Interrupted {
        Interrupted::Daemon(error)
    }
}

impl Reader {
    async fn run(mut self, mut attached: Option<Attached>) {
        loop {
            let live = match attached.take() {
                Some(live) => live,
                None => match self.rejoin().await {
                    Rejoined::Live(live) => live,
                    Rejoined::Over => return,
                },
            };
            let was_whole = self.forward(live).await;
            if self.records.is_closed() {
                return;
            }
            let ended = timeout(END_LAG, self.exit.wait_for(Option::is_some)).await.is_ok();
            if ended && was_whole && !self.was_slow && !self.was_lost() {
                return;
            }
        }
    }

    /// Whether the container ended with the daemon, which then had no time for its last output.
    fn was_lost(&self) -> bool {
        matches!(*self.exit.borrow(), Some(Exit::Lost(_)))
    }

    /// Passes on what comes until the stream ends; false if that was not a proper end.
    async fn forward(&mut self, mut live: Attached) -> bool {
        while let Some(frame) = self.next_frame(&mut live).await {
            let Ok(frame) = frame else { return false };
            let Some((stream, bytes)) = stream_of(frame) else { return false };
            if self.pass_on(stream, bytes).await.is_none() {
                return false;
            }
        }
        true
    }

    /// The next frame. After the end of the container it arrives soon, or never: a stream attached just after the end
    /// stays open for ever.
    async fn next_frame(&mut self, live: &mut Attached) -> Option<Result<LogOutput, Error>> {
        let ended = self.exit.wait_for(Option::is_some);
        tokio::select! {
            biased;
            frame = live.next() => return frame,
            _ = ended => {}
        }
        timeout(LAST_WORD, live.next()).await.unwrap_or(Some(Err(Error::RequestTimeoutError)))
    }

    async fn pass_on(&mut self, stream: Stream, mut bytes: Bytes) -> Option<()> {
        if let Some(position) = &mut self.position {
            position.of(stream).add(&bytes);
        }
        let at_micros = wall_micros();
        while !bytes.is_empty() {
            let bytes = bytes.split_to(bytes.len().min(MAX_RECORD_BYTES));
            let asked = Instant::now();
            self.records.send(Record { at_micros, stream, bytes }).await.ok()?;
            self.was_slow |= asked.elapsed() > SLOW;
        }
        Some(())
    }

    /// Resumes reading when the daemon allows it.
    async fn rejoin(&mut self) -> Rejoined {
        loop {
            let mut exit = self.exit.clone();
            let too_late = async {
                let _ = exit.wait_for(Option::is_some).await;
                tokio::time::sleep(MAX_ABSENCE).await;
            };
            let docker = tokio::select! {
                docker = self.daemon.up() => docker,
                () = too_late => {
                    let _ = self.mark("the Docker daemon did not return; the last output is missing").await;
                    return Rejoined::Over;
                }
            };
            match self.try_to_rejoin(&docker).await {
                Ok(rejoined) => {
                    self.was_slow = false;
                    return rejoined;
                }
                Err(Interrupted::NotWanted) => return Rejoined::Over,
                Err(Interrupted::Daemon(error)) if is_away(&error) => self.daemon.doubt(&error),
                Err(Interrupted::Daemon(error)) if status(&error) == Some(404) => {
                    let _ = self.mark("the container was removed; output may be missing").await;
                    return Rejoined::Over;
                }
                Err(Interrupted::Daemon(error)) => {
                    tracing::warn!(container = self.container, %error, "cannot read the output; retrying");
                    tokio::time::sleep(SLOW).await;
                }
            }
        }
    }

    async fn try_to_rejoin(&mut self, docker: &Docker) -> Result<Rejoined, Interrupted> {
        let inspected = docker.inspect_container(&self.container, None).await?;
        if inspected.state.and_then(|state| state.running) != Some(true) {
            self.catch_up(docker, false).await?;
            return Ok(Rejoined::Over);
        }
        let mut live = attach(docker, &self.container).await?;
        // While the container is paused its log is complete, and the stream begins exactly at its end.
        let paused = match docker.pause_container(&self.container).await {
            Ok(()) => true,
            Err(error) => status(&error) == Some(409),
        };
        if !paused {
            // Where a container cannot be paused, the log is followed to its end: slower, but as exact.
            drop(live);
            self.catch_up(docker, true).await?;
            return Ok(Rejoined::Over);
        }
        settle(&mut live).await;
        let caught_up = self.catch_up(docker, false).await;
        let resumed = docker.unpause_container(&self.container).await;
        caught_up?;
        match resumed {
            Ok(()) => {}
            // It was stopped, and with that it went on.
            Err(error) if status(&error).is_some() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Rejoined::Live(live))
    }

    /// Passes on what the log has after what was passed on already; with `follow`, until the container ends.
    async fn catch_up(&mut self, docker: &Docker, follow: bool) -> Result<(), Interrupted> {
        let Some(position) = self.position.clone() else {
            return self.mark("output from before the worker was restarted may be missing").await;
        };
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            follow,
            tail: "all".to_owned(),
            ..LogsOptions::default()
        };
        let mut log = std::pin::pin!(docker.logs(&self.container, Some(options)));
        let mut skip = [Skip::new(position.stdout), Skip::new(position.stderr)];
        while let Some(frame) = log.next().await {
            let Some((stream, bytes)) = stream_of(frame?) else { continue };
            let Some(new) = skip[usize::from(stream == Stream::Stderr)].skip(bytes) else {
                return self.forgotten().await;
            };
            if !new.is_empty() {
                self.pass_on(stream, new).await.ok_or(Interrupted::NotWanted)?;
            }
        }
        if skip.iter().any(|skip| !skip.is_done()) {
            return self.forgotten().await;
        }
        Ok(())
    }

    /// The log does not reach back to what was passed on already.
    async fn forgotten(&mut self) -> Result<(), Interrupted> {
        self.position = None;
        self.mark("the container's log was too long to keep: output is missing here").await
    }

    /// Writes a marker for missing output.
    async fn mark(&mut self, what: &str) -> Result<(), Interrupted> {
        let bytes = Bytes::from(format!("\n[gaffer: {what}]\n"));
        let record = Record { at_micros: wall_micros(), stream: Stream::Stderr, bytes };
        self.records.send(record).await.map_err(|_| Interrupted::NotWanted)
    }
}

/// Drains a stream and drops the data.
async fn settle(live: &mut Attached) {
    let limit = Instant::now() + SETTLING_LIMIT;
    while Instant::now() < limit {
        if !matches!(timeout(SETTLED, live.next()).await, Ok(Some(Ok(_)))) {
            return;
        }
    }
}

fn stream_of(frame: LogOutput) -> Option<(Stream, Bytes)> {
    match frame {
        LogOutput::StdOut { message } => Some((Stream::Stdout, message)),
        LogOutput::StdErr { message } => Some((Stream::Stderr, message)),
        // The rest of a frame that was cut when the daemon went away.
        LogOutput::StdIn { .. } | LogOutput::Console { .. } => None,
    }
}

/// Leaves out the beginning of a stream, up to a place that is recognised by what comes before it.
struct Skip {
    left: u64,
    expected: Vec<u8>,
    /// The last bytes that were left out.
    seen: BytesMut,
}

impl Skip {
    fn new(until: crate::spool::StreamPosition) -> Skip {
        Skip { left: until.bytes, expected: until.tail, seen: BytesMut::new() }
    }

    fn is_done(&self) -> bool {
        self.left == 0
    }

    /// What remains of the next bytes; none if this is not the stream that the place is in.
    fn skip(&mut self, mut bytes: Bytes) -> Option<Bytes> {
        if self.is_done() {
            return Some(bytes);
        }
        let skipped = bytes.split_to(bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX)));
        self.left -= skipped.len() as u64;
        self.seen.extend_from_slice(&skipped[skipped.len().saturating_sub(self.expected.len())..]);
        let surplus = self.seen.len().saturating_sub(self.expected.len());
        let _ = self.seen.split_to(surplus);
        (!self.is_done() || self.seen == self.expected).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::spool::StreamPosition;

    #[test]
    fn a_stream_is_skipped_up_to_a_place_however_it_is_cut() {
        let text: Vec<u8> = (0..=255).collect();
        for (place, piece) in [(0, 1), (1, 7), (63, 64), (64, 10), (200, 1), (200, 256), (256, 100)] {
            let mut position = StreamPosition::default();
            position.add(&text[..place]);
            let mut skip = Skip::new(position);
            let mut rest = Vec::new();
            for bytes in text.chunks(piece) {
                rest.extend_from_slice(&skip.skip(Bytes::copy_from_slice(bytes)).unwrap());
            }
            assert!(skip.is_done());
            assert_eq!(rest, text[place..], "{place} in pieces of {piece}");
        }
    }

    #[test]
    fn another_stream_is_not_taken_for_the_one_that_was_read() {
        let mut position = StreamPosition::default();
        position.add(b"what was read");
        let mut skip = Skip::new(position.clone());
        assert_eq!(skip.skip(Bytes::from("what was rotated")), None);
        let mut short = Skip::new(position);
        assert_eq!(short.skip(Bytes::from("what was")), Some(Bytes::new()));
        assert!(!short.is_done());
    }
}
