//! Frames between agent and executor: length-prefixed, JSON except for output.

use std::os::unix::fs::MetadataExt as _;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use gaffer_domain::AttemptRef;
use gaffer_domain::quantity::Span;
use gaffer_protocol::wire::{DriverStatus, HeldAttempt, Welcome};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::execution::{Command, Event, ExecutionSettings};

/// The longest frame: a list of all that a worker can hold fits well.
const MAX_FRAME_BYTES: usize = 256 << 20;
const KIND_JSON: u8 = b'J';
const KIND_CHUNK: u8 = b'C';

/// A connection between the two.
pub(super) type Wire = Framed<UnixStream, LengthDelimitedCodec>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum ToExecutor {
    /// The first message. Answered by `Ready` or `Refused`.
    Open(Box<Opening>),
    /// Answered by `SessionOpen`.
    OpenSession,
    Welcomed(Welcome),
    CloseSession,
    Deliver(Command),
    /// The master knows that this worker was alive then: microseconds since the machine was started.
    RenewLease {
        sent_at_micros: u64,
    },
    /// Answered by `Held`.
    Held,
    /// Answered by `NoChunk` or a chunk.
    Chunk {
        attempt: AttemptRef,
        offset: u64,
        max: usize,
    },
    /// Answered by `Pong`.
    Ping,
    /// End everything and leave.
    ShutDown,
}

/// How an agent presents itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Opening {
    pub settings: ExecutionSettings,
    pub build: Build,
    /// What the agent logs, by the names of `tracing`.
    pub log_level: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum FromExecutor {
    Ready,
    Refused(Refusal),
    SessionOpen {
        drivers: Vec<DriverStatus>,
        held: Vec<HeldAttempt>,
        /// An executor of an earlier build knows nothing of standard input.
        #[serde(default)]
        takes_input: bool,
        /// Likewise of secrets.
        #[serde(default)]
        takes_secrets: bool,
    },
    /// What happened, in order; not asked for.
    Events(Vec<Event>),
    /// The held attempts right after the last `Events`.
    Held(Vec<HeldAttempt>),
    NoChunk,
    Pong {
        shortest_lost_after: Option<Span>,
    },
    /// All attempts have ended, as requested.
    Idle,
    /// And the master has acknowledged every end.
    Settled,
    /// A line of its log.
    Log(LogLine),
}

/// Why an executor does not take an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// Another agent has it, or another executor has the data directory.
    Busy,
    /// It leaves, and makes room for another executor.
    Leaving,
    /// It could not start; the text says why.
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogLine {
    /// By the names of `tracing`.
    pub level: String,
    pub text: String,
}

/// Tells one build of the program from another: its file's device, number and time of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Build(u64, u64, i64);

impl Build {
    /// Of this process.
    pub fn own() -> Build {
        // What the process was started from, also when another file has that name by now.
        std::fs::metadata("/proc/self/exe")
            .map_or(Build(0, 0, 0), |file| Build(file.dev(), file.ino(), file.mtime_nsec() ^ file.mtime()))
    }
}

/// A frame from the executor.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Heard {
    Message(FromExecutor),
    /// A frame of output as it goes to the master, and the number of output bytes in it.
    Chunk(Bytes, u64),
}

/// The other side does not speak this language.
#[derive(Debug, thiserror::Error)]
#[error("invalid frame: {0}")]
pub(super) struct Garbled(&'static str);

pub(super) fn wire(stream: UnixStream) -> Wire {
    LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME_BYTES).new_framed(stream)
}

pub(super) fn json(message: &impl Serialize) -> std::io::Result<Bytes> {
    let mut frame = vec![KIND_JSON];
    serde_json::to_writer(&mut frame, message)?;
    Ok(frame.into())
}

pub(super) fn chunk(output: &[u8], length: u64) -> Bytes {
    let mut frame = BytesMut::with_capacity(output.len() + 9);
    frame.put_u8(KIND_CHUNK);
    frame.put_u64_le(length);
    frame.put_slice(output);
    frame.freeze()
}

pub(super) fn to_executor(frame: BytesMut) -> Result<ToExecutor, Garbled> {
    read_json(&frame).ok_or(Garbled("the agent"))
}

pub(super) fn from_executor(frame: BytesMut) -> Result<Heard, Garbled> {
    if frame.first() == Some(&KIND_CHUNK) && frame.len() >= 9 {
        let mut rest = frame.freeze().slice(1..);
        let length = rest.get_u64_le();
        return Ok(Heard::Chunk(rest, length));
    }
    read_json(&frame).map(Heard::Message).ok_or(Garbled("the executor"))
}

fn read_json<T: DeserializeOwned>(frame: &[u8]) -> Option<T> {
    let (kind, json) = frame.split_first()?;
    if *kind != KIND_JSON {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// The next message; none if the other side has closed or sent an invalid frame.
pub(super) async fn hear<T: DeserializeOwned>(wire: &mut Wire) -> Option<T> {
    read_json(&wire.next().await?.ok()?)
}

/// Sends one message and waits until it is on its way.
pub(super) async fn say(wire: &mut Wire, message: &impl Serialize) -> std::io::Result<()> {
    wire.send(json(message)?).await
}

/// The agent's next message; none if it has closed or sent an invalid frame.
pub(super) async fn hear_agent(wire: &mut Wire) -> Option<ToExecutor> {
    to_executor(wire.next().await?.ok()?).ok()
}

/// The executor's next message; none if it has closed or sent an invalid frame.
pub(super) async fn hear_executor(wire: &mut Wire) -> Option<FromExecutor> {
    match from_executor(wire.next().await?.ok()?).ok()? {
        Heard::Message(message) => Some(message),
        Heard::Chunk(..) => None,
    }
}
