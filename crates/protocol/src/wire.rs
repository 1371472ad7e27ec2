//! Messages between master and worker.
//!
//! A text frame is a JSON array of messages, in order. A binary frame is one chunk of output, see [`crate::output`].
//! The first frame of a session is the worker's [`ToMaster::Hello`], the second the master's [`ToWorker::Welcome`].
//! Messages of one direction arrive in order; control messages may overtake output, except that a worker reports an
//! end only after the master can have all its output: [`Ended::output_bytes`] says how much that is. Answers to heartbeats
//! may overtake everything. A [`ToWorker::Start`] comes after the definition that it names, see [`crate::definitions`].
//!
//! Frames are cut by bytes: a sender begins another one at [`FRAME_BYTES`]. The longest single message is a list of all
//! that a worker holds ([`MAX_HELD`]), and it fits into [`MAX_CONTROL_FRAME_BYTES`].
//!
//! Output goes against credit: a worker has no more output on its way than the master's last
//! [`ToWorker::OutputWindow`] allows, so a master never has to make it wait.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use gaffer_domain::placement::DefinitionRef;
use gaffer_domain::quantity::{Bytes, Span};
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::spec::{DriverKind, Item, PortProtocol, Resources, StopSignal};
use gaffer_domain::worker::HeldPhase;
use gaffer_domain::worker::place::Place;
use gaffer_domain::{AttemptRef, WorkerId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::health::Checked;
use crate::ports::NamedPort;
use crate::secrets::Secrets;

/// Version of everything in this module and in [`crate::output`]. A master refuses a worker with another one.
pub const PROTOCOL_VERSION: u32 = 2;
/// The path of the WebSocket on the worker listener.
pub const WORKER_PATH: &str = "/worker";
/// The largest text frame either side accepts.
pub const MAX_CONTROL_FRAME_BYTES: usize = 8 << 20;
/// A sender puts no further message into a text frame that would be longer than this with it.
pub const FRAME_BYTES: usize = 128 << 10;
/// The most messages that a sender puts into one text frame.
pub const MAX_MESSAGES_PER_FRAME: usize = 512;
/// The most attempts that a worker holds; it gives more back.
pub const MAX_HELD: usize = 100_000;

/// A message of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToMaster {
    /// The first message of a session.
    Hello(Box<Hello>),
    /// A sign of life, with all that the worker holds. Renews the lease.
    Heartbeat(Box<Heartbeat>),
    /// An attempt started.
    Started {
        /// Which.
        attempt: AttemptRef,
        /// When, by the worker's clock.
        at: DateTime<Utc>,
        /// The container, if it runs in one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<ContainerFacts>,
        /// Its named ports.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ports: Vec<NamedPort>,
    },
    /// An event for an attempt's history, such as the progress of an image pull. Nothing depends on it; it is sent
    /// once, or never without a session.
    Noted {
        /// Which.
        attempt: AttemptRef,
        /// One sentence without a full stop.
        message: String,
    },
    /// What this worker can execute with has changed: all drivers as they are now.
    Drivers {
        /// All of them.
        drivers: Vec<DriverStatus>,
    },
    /// An attempt has ended. Repeated in each session until it is acknowledged.
    Ended(Box<Ended>),
    /// An attempt was taken back in time: it never started and never will.
    Returned {
        /// Which.
        attempt: AttemptRef,
    },
    /// Answers [`ToWorker::Input`].
    InputTaken(InputTaken),
    /// A result of a health check. The latest ones are repeated in each session.
    Checked(Box<Checked>),
    /// An attempt is about to start and needs its secrets. Repeated until it is answered.
    SecretsWanted {
        /// Which.
        attempt: AttemptRef,
    },
}

/// Identity, capacity and held attempts of a connecting worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the worker.
    pub protocol: u32,
    /// Version of its program.
    pub version: String,
    /// Made by the worker at its first start and kept in its data directory; a secret, for it is the worker's identity.
    pub identity: Uuid,
    /// Fresh at each start of the worker's process.
    pub process: Uuid,
    /// The kernel's boot id: a new one means that the machine was rebooted and nothing runs any more.
    pub boot_id: String,
    /// Where it is, beside the boot id: tells a worker that was restarted from a copy of it.
    #[serde(default)]
    pub place: Place,
    /// The key that it has made for itself, if it shows an enrolment key: from then on that key is its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_key: Option<OwnKey>,
    /// Whether it knows [`GoodbyeCode::NotAllowed`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub knows_not_allowed: bool,
    /// The name it would like to have.
    pub name: String,
    /// Its operator's marks.
    pub labels: BTreeMap<String, String>,
    /// Datacenter; empty if not set.
    pub datacenter: String,
    /// Capacity.
    pub capacity: Resources,
    /// Countable resources.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub countables: BTreeMap<String, u32>,
    /// Drivers.
    pub drivers: Vec<DriverStatus>,
    /// Names of what its program can do that earlier ones could not: see [`gaffer_domain::placement::Feature`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// Processor architecture, as printed by `uname -m`.
    pub arch: String,
    /// Operating system: `linux`.
    pub os: String,
    /// All attempts that it holds.
    pub held: Vec<HeldAttempt>,
    /// Things its operator should know, such as a missing way to kill a process tree; shown on its page.
    pub warnings: Vec<String>,
}

/// A key that a worker has made, as far as the master knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnKey {
    /// How it begins.
    pub prefix: String,
    /// SHA-256 of it, in hexadecimal.
    pub sha256: String,
}

/// A driver and whether it works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DriverStatus {
    /// Name of the driver.
    pub driver: DriverKind,
    /// Whether it works.
    pub healthy: bool,
    /// Its version, or why it does not work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// An attempt that a worker holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldAttempt {
    /// Which.
    #[serde(flatten)]
    pub attempt: AttemptRef,
    /// How far it is.
    pub phase: HeldPhase,
}

/// A sign of life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Counted up within the session; the answer repeats it.
    pub sequence: u64,
    /// All attempts that the worker holds; none if they are the same, as far on, as in the heartbeat before in this
    /// session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Vec<HeldAttempt>>,
    /// How its machine is doing.
    pub stats: MachineStats,
    /// The worker's wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockReading>,
}

/// A reading of a worker's wall clock, from which the master computes its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockReading {
    /// The last heartbeat of the session that was answered; 0: the welcome.
    pub answer: u64,
    /// How long ago that answer came, by a clock that only goes forward.
    pub since_micros: u64,
    /// The time now.
    pub at: DateTime<Utc>,
}

/// How a machine is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineStats {
    /// Share of all processors that was busy since the last reading, 0 to 1; none before the second reading.
    pub cpu: Option<f64>,
    /// Memory in use (total less available).
    pub memory_used: Bytes,
    /// Memory in all.
    pub memory_total: Bytes,
    /// Runnable processes, averaged over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// In use on the file system of the data directory.
    pub disk_used: Bytes,
    /// Size of that file system.
    pub disk_total: Bytes,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Which.
    pub attempt: AttemptRef,
    /// How.
    pub end: AttemptEnd,
    /// When it started, by the worker's clock; none if it did not. Here too, so that no end depends on an earlier message.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended, by the worker's clock.
    pub ended_at: DateTime<Utc>,
    /// How long it ran, by a clock that only goes forward.
    pub ran_micros: u64,
    /// Bytes of output in all.
    pub output_bytes: u64,
    /// SHA-256 over all output bytes in their order, in hexadecimal; none if the worker can't tell (it lost its state).
    pub output_sha256: Option<String>,
    /// Killed and remaining processes; none if nothing had to be killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub killed: Option<KillReceipt>,
    /// The container, if it ran in one. Repeated here for the same reason as `started_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerFacts>,
    /// Its named ports, for the same reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NamedPort>,
}

/// What an attempt runs in, beyond what its spec says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContainerFacts {
    /// Id of the container.
    pub id: String,
    /// Exactly which image: `name@sha256:…` as its registry knows it, else the image's own `sha256:…`.
    pub image: String,
    /// Published ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PublishedPort>,
}

/// A port of a container and where to find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublishedPort {
    /// Port on the worker's machine.
    pub host: u16,
    /// Port in the container.
    pub container: u16,
    /// Protocol of the port.
    pub protocol: PortProtocol,
}

/// What ending an attempt took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KillReceipt {
    /// Number of processes that were killed with SIGKILL.
    pub killed: u32,
    /// Number of processes that are still there.
    pub left: u32,
}

/// A message of a master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToWorker {
    /// Answers the hello.
    Welcome(Welcome),
    /// Answers a heartbeat: the lease counts from when the worker sent it.
    Alive {
        /// The heartbeat's number.
        sequence: u64,
    },
    /// A part of what the tasks of a definition have in common. The parts of one come one after the other.
    Definition {
        /// Of which definition.
        definition: DefinitionRef,
        /// Where in its text the part belongs, in bytes.
        at: usize,
        /// The next piece of its text, which is the JSON of [`crate::definitions::Definition`].
        part: String,
        /// Whether the text ends here.
        is_last: bool,
    },
    /// Start an attempt as soon as there is room. Ignored if it is held already.
    Start(Start),
    /// Take a started attempt down politely, or drop one that has not started; reported as ended (stopped) in each case.
    Stop {
        /// Which.
        attempt: AttemptRef,
    },
    /// Stop a started attempt, because its health check failed; reported as ended (unhealthy).
    StopUnhealthy {
        /// Which.
        attempt: AttemptRef,
        /// What the checks said.
        message: String,
    },
    /// Kill and forget an attempt that is not this worker's any more. Reported like any end.
    Kill {
        /// Which.
        attempt: AttemptRef,
    },
    /// Pass a signal to a running attempt; nothing else changes.
    Signal {
        /// Which.
        attempt: AttemptRef,
        /// What to send.
        signal: StopSignal,
    },
    /// Bytes for the standard input of an attempt. Answered by [`ToMaster::InputTaken`] once the process has read
    /// them, or not at all: then they are sent again.
    Input(Box<Input>),
    /// Answers [`ToMaster::SecretsWanted`].
    Secrets(Box<Secrets>),
    /// Give an attempt back if it has not started ([`ToMaster::Returned`]), also one that never arrived; else nothing
    /// happens.
    TakeBack {
        /// Which.
        attempt: AttemptRef,
    },
    /// Output up to this offset is stored; it may be forgotten.
    OutputStored {
        /// Whose.
        attempt: AttemptRef,
        /// First byte that is not stored yet.
        offset: u64,
    },
    /// There is a gap: send again from this offset.
    OutputWanted {
        /// Whose.
        attempt: AttemptRef,
        /// First byte that is missing.
        offset: u64,
    },
    /// Sets the limit on unacknowledged output of the worker.
    OutputWindow {
        /// Output bytes, as they were before compressing.
        bytes: u64,
    },
    /// The end is recorded; the attempt may be forgotten.
    EndStored {
        /// Whose.
        attempt: AttemptRef,
    },
    /// Something for the worker's operator to know; nothing follows from it.
    Notice {
        /// A sentence.
        message: String,
    },
    /// The session ends, for this reason. A close frame follows.
    Goodbye {
        /// Which kind of reason.
        code: GoodbyeCode,
        /// A sentence for the worker's operator.
        message: String,
    },
}

/// Bytes for the standard input of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The attempt whose process reads it.
    pub attempt: AttemptRef,
    /// The answer repeats it.
    pub request: u64,
    /// Who writes: the first one of an attempt is its only one.
    pub writer: Uuid,
    /// Where in all that is written these bytes begin. What was taken before is skipped.
    pub offset: u64,
    /// At most [`MAX_INPUT_BYTES`]; none, as a sign that the writer is still there.
    pub bytes: InputBytes,
    /// Nothing comes after these.
    pub is_last: bool,
}

/// The most bytes of one [`Input`].
pub const MAX_INPUT_BYTES: usize = 64 << 10;

/// Bytes in a message: base64 there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InputBytes(pub bytes::Bytes);

impl std::fmt::Debug for InputBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not for logs: it is a user's data.
        write!(f, "{} bytes", self.0.len())
    }
}

impl From<InputBytes> for String {
    fn from(bytes: InputBytes) -> String {
        BASE64.encode(bytes.0)
    }
}

impl TryFrom<String> for InputBytes {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<InputBytes, base64::DecodeError> {
        BASE64.decode(text).map(|bytes| InputBytes(bytes.into()))
    }
}

/// How far the standard input of an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputTaken {
    /// The attempt whose process reads it.
    pub attempt: AttemptRef,
    /// Which request this answers.
    pub request: u64,
    /// The first byte that is not taken.
    pub offset: u64,
    /// Whether there can be more.
    pub state: InputState,
}

/// Whether bytes can be written to the standard input of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputState {
    /// Not yet: it has not started.
    Waiting,
    /// Yes.
    Open,
    /// Closed: the end of input was sent, or the process reads no more.
    Closed,
    /// Not by this writer: there is another one.
    Foreign,
    /// It has none that could be written to.
    Absent,
}

/// The answer to a hello.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The worker's number.
    pub worker: WorkerId,
    /// The name it got; another than it asked for if that one is taken.
    pub name: String,
    /// Version of the master's program.
    pub version: String,
    /// How often to send a heartbeat.
    pub heartbeat: Span,
    /// For each held attempt that has output here: the first byte that is not stored. Those not named start at 0.
    pub stored: Vec<StoredOutput>,
    /// How much output the worker may have on its way, see [`ToWorker::OutputWindow`].
    pub output_window: u64,
}

/// How much of an attempt's output is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOutput {
    /// Whose.
    pub attempt: AttemptRef,
    /// First byte that is not stored.
    pub offset: u64,
}

/// Why a master ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoodbyeCode {
    /// Another session of the same worker began.
    Superseded,
    /// Another machine's worker has this identity and keeps it: make another one and dial again, as a new worker.
    BeginAnew,
    /// A worker of this very machine has this identity and keeps it.
    Duplicate,
    /// The key was revoked or has expired.
    KeyRevoked,
    /// The key does not allow what the worker claims to be: its operator has to change that.
    NotAllowed,
    /// The worker's protocol version is not spoken here.
    ProtocolVersion,
    /// The worker sent an invalid message.
    ProtocolError,
    /// The worker did not read fast enough.
    TooSlow,
    /// The master is going down; dial again soon.
    ShuttingDown,
}

/// An attempt to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Which.
    pub attempt: AttemptRef,
    /// The definition to run, sent before in the same session.
    pub definition: DefinitionRef,
    /// The task's index.
    pub index: u32,
    /// The task's item, if it has one. A worker that does not know the field starts the task without its variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<Item>,
    /// How long the worker may be out of contact before it must have stopped it.
    pub lost_after: Span,
}

/// A text frame in the making.
#[derive(Debug, Default)]
pub struct Frame {
    text: String,
    messages: usize,
}

impl Frame {
    /// Whether a message of this length still belongs into it. An empty frame takes any.
    pub fn takes(&self, message_bytes: usize) -> bool {
        self.messages == 0
            || (self.messages < MAX_MESSAGES_PER_FRAME && self.text.len() + message_bytes + 2 <= FRAME_BYTES)
    }

    /// Adds the JSON of a message.
    pub fn push(&mut self, message: &str) {
        self.text.push(if self.messages == 0 { '[' } else { ',' });
        self.text.push_str(message);
        self.messages += 1;
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        self.text.push_str(if self.messages == 0 { "[]" } else { "]" });
        self.text
    }
}

/// Puts messages into as few frames as take them, in order.
///
/// # Errors
/// When a message has no JSON, which no message of this protocol is.
pub fn frames<M: Serialize>(messages: &[M]) -> serde_json::Result<Vec<String>> {
    let (mut frames, mut frame) = (Vec::new(), Frame::default());
    for message in messages {
        let text = serde_json::to_string(message)?;
        if !frame.takes(text.len()) {
            frames.push(std::mem::take(&mut frame).finish());
        }
        frame.push(&text);
    }
    if !frame.is_empty() {
        frames.push(frame.finish());
    }
    Ok(frames)
}

#[cfg(test)]
mod tests;
