//! The reading side of a session: passes messages to the write batcher, the hub and the store.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::ws::Message;
use bytes::Bytes;
use chrono::Utc;
use futures::StreamExt;
use gaffer_domain::AttemptRef;
use gaffer_domain::worker::SILENCE_LIMIT;
use gaffer_protocol::output::EncodedChunk;
use gaffer_protocol::wire::{Ended, GoodbyeCode, Heartbeat, MAX_MESSAGES_PER_FRAME, ToMaster, ToWorker};
use tokio::sync::watch;

use super::aside::Aside;
use super::checks::{checked, checked_chunk};
use super::{SessionEnd, Source, held_of, told_to_go};
use crate::control::Control;
use crate::hub::{Goodbye, SessionHandle};
use crate::live::{Arrival, Found, LiveOutput};
use crate::store::output::ReceivedOutput;
use crate::write_batcher::{NotTaken, Reporter};

pub(super) const OUTPUT_AFTER_END: &str = "output came after the end of the attempt and was refused";

pub(super) enum Frame {
    Control(Vec<ToMaster>),
    Output(Bytes),
    Nothing,
}

pub(super) async fn next_frame(source: &mut Source) -> Result<Frame, SessionEnd> {
    match source.next().await {
        Some(Ok(Message::Text(text))) => match serde_json::from_str::<Vec<ToMaster>>(&text) {
            Ok(messages) if messages.len() <= MAX_MESSAGES_PER_FRAME => Ok(Frame::Control(messages)),
            Ok(_) => Err(SessionEnd::protocol("a frame has too many messages")),
            Err(error) => Err(SessionEnd::protocol(format!("a message can't be read: {error}"))),
        },
        Some(Ok(Message::Binary(frame))) => Ok(Frame::Output(frame)),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(Frame::Nothing),
        Some(Ok(Message::Close(_))) | None => {
            Err(SessionEnd::Disconnected("the worker closed the connection".to_owned()))
        }
        Some(Err(error)) => Err(SessionEnd::Disconnected(format!("the connection broke: {error}"))),
    }
}

/// Reads until the session ends. Waits for nothing but the worker: what needs the database goes to the write batcher's queue
/// or is done aside. Output that counts as received is in that queue.
pub(super) async fn read(
    control: &Arc<Control>,
    handle: &Arc<SessionHandle>,
    mut source: Source,
    mut goodbye: watch::Receiver<Option<Goodbye>>,
) -> SessionEnd {
    let reporter = Arc::new(Reporter::new(handle.worker, &handle.worker_name));
    let aside = Aside::new(control, handle, &reporter);
    let reader = Reader { control, handle, reporter: &reporter, aside };
    loop {
        let frame = tokio::select! {
            biased;
            told = told_to_go(&mut goodbye) => return SessionEnd::Goodbye(told.code, told.message),
            frame = tokio::time::timeout(SILENCE_LIMIT.to_std(), next_frame(&mut source)) => frame,
        };
        let handled = match frame {
            Err(_) => Err(SessionEnd::Disconnected(format!("the worker was silent for {SILENCE_LIMIT}"))),
            Ok(Err(end)) => Err(end),
            Ok(Ok(Frame::Nothing)) => Ok(()),
            Ok(Ok(Frame::Output(frame))) => reader.output(frame),
            Ok(Ok(Frame::Control(messages))) => reader.control(messages),
        };
        if let Err(end) = handled {
            return end;
        }
    }
}

struct Reader<'a> {
    control: &'a Arc<Control>,
    handle: &'a Arc<SessionHandle>,
    reporter: &'a Reporter,
    aside: Aside,
}

impl Reader<'_> {
    fn control(&self, messages: Vec<ToMaster>) -> Result<(), SessionEnd> {
        let write_batcher = &self.control.write_batcher;
        self.handle.heard(None);
        let ours = |at| self.control.clocks.ours(self.handle.worker, at);
        for message in messages {
            match checked(message, Utc::now(), ours)? {
                ToMaster::Hello(_) => return Err(SessionEnd::protocol("a second hello in one session")),
                ToMaster::Heartbeat(heartbeat) => self.heartbeat(*heartbeat)?,
                ToMaster::Started { attempt, at, container } => {
                    write_batcher.started(self.reporter, attempt, at, container)?;
                }
                ToMaster::Noted { attempt, message } => {
                    if let Some(note) = self.handle.reports.note(attempt, &message) {
                        self.aside.note(attempt, note);
                    }
                }
                ToMaster::Drivers { drivers } => {
                    if let Some(drivers) = self.handle.reports.drivers(drivers) {
                        self.aside.drivers(drivers)?;
                    }
                }
                ToMaster::InputTaken(taken) => self.control.inputs.taken(self.handle.worker, taken),
                ToMaster::Returned { attempt } => write_batcher.returned(self.reporter, attempt)?,
                ToMaster::Ended(ended) => self.ended(ended)?,
            }
        }
        Ok(())
    }

    fn heartbeat(&self, heartbeat: Heartbeat) -> Result<(), SessionEnd> {
        let Heartbeat { sequence, held, stats, clock } = heartbeat;
        self.handle.heard(Some(stats));
        self.control.clocks.heartbeat(self.handle.worker, sequence, clock, Utc::now());
        // It renews the worker's leases.
        if self.control.store.leadership().is_trusted() {
            self.handle.send(ToWorker::Alive { sequence });
        }
        let held = held.map(|held| held_of(&held));
        match self.handle.agreement.heard(held, Instant::now()) {
            Some(listed) => {
                let taken = self.control.write_batcher.reconcile_heartbeat(self.handle, listed);
                taken.map_err(|error| NotTaken::from(error).into())
            }
            None => Ok(()),
        }
    }

    fn ended(&self, mut ended: Box<Ended>) -> Result<(), SessionEnd> {
        let attempt = ended.attempt;
        let live = match self.control.live.find(attempt, self.handle.worker) {
            Found::Open(live) => live,
            Found::Unknown => return self.aside.ended(ended),
            Found::Foreign => {
                self.handle.send(ToWorker::EndStored { attempt });
                return Ok(());
            }
        };
        let received = live.received();
        if ended.output_bytes > received.bytes {
            // Sent before the worker knew of a gap: it is repeated after the missing part.
            if live.has_told_gap() {
                return Ok(());
            }
            return Err(SessionEnd::protocol(format!(
                "the end of attempt {attempt} reports {} bytes of output, but only {} arrived",
                ended.output_bytes, received.bytes
            )));
        }
        let received = check_end(&live, &mut ended);
        // One that comes late has a rate.
        let ended = match live.was_over {
            true => self.handle.reports.late_end(ended, received),
            false => Some(ended),
        };
        match ended {
            Some(ended) => Ok(self.control.write_batcher.ended(self.reporter, ended, received)?),
            None => Ok(()),
        }
    }

    fn note(&self, attempt: AttemptRef, message: &str) {
        if let Some(note) = self.handle.reports.note(attempt, message) {
            self.aside.note(attempt, note);
        }
    }

    fn output(&self, frame: Bytes) -> Result<(), SessionEnd> {
        self.handle.heard(None);
        let malformed = |error: gaffer_protocol::output::Malformed| SessionEnd::protocol(error.to_string());
        let encoded = EncodedChunk::from_frame(frame).map_err(malformed)?;
        let chunk = encoded.decode().map_err(malformed)?;
        let (encoded, chunk) = checked_chunk(encoded, chunk, Utc::now())?;
        let (attempt, end) = (chunk.attempt, chunk.end());
        let live = match self.control.live.find(attempt, self.handle.worker) {
            Found::Open(live) => live,
            Found::Unknown => return self.aside.output(attempt, chunk.end()),
            Found::Foreign => {
                // It can never be stored.
                self.handle.send(ToWorker::OutputStored { attempt, offset: chunk.end() });
                return Ok(());
            }
        };
        let Some(on_its_way) = self.handle.output_arrived(chunk.payload_bytes) else {
            return Err(SessionEnd::protocol(format!(
                "the worker sent more output than its credit of {} bytes",
                self.handle.window()
            )));
        };
        match live.arrive(encoded, chunk) {
            Arrival::New(row) => self.control.write_batcher.output(row, live, on_its_way)?,
            Arrival::Repeated => {
                self.handle.send(ToWorker::OutputStored { attempt, offset: live.stored_bytes() });
            }
            Arrival::Gap(offset) => self.handle.send(ToWorker::OutputWanted { attempt, offset }),
            Arrival::KnownGap => {}
            Arrival::AfterEnd => {
                // The attempt is closed and its output can never be stored. The worker is told to forget it.
                tracing::debug!(%attempt, worker = %self.handle.worker_name, "{OUTPUT_AFTER_END}");
                self.note(attempt, OUTPUT_AFTER_END);
                self.handle.send(ToWorker::OutputStored { attempt, offset: end });
            }
        }
        Ok(())
    }
}

/// Checks a reported end against the received output, and closes that. Returns what is known of it.
pub(super) fn check_end(live: &LiveOutput, ended: &mut Ended) -> ReceivedOutput {
    let received = live.received();
    live.ends();
    let ours = live.sha256();
    let complete = match (&ended.output_sha256, &ours) {
        (Some(theirs), Some(ours)) if ended.output_bytes == received.bytes => {
            Some(theirs.eq_ignore_ascii_case(ours))
        }
        _ => None,
    };
    if complete == Some(false) {
        let theirs = ended.output_sha256.as_deref();
        tracing::error!(attempt = %ended.attempt, theirs, ours, "the output's checksums differ");
    }
    // A worker that lost part of its record may know less than is stored; the stored output counts.
    if ended.output_bytes < received.bytes || ended.output_sha256.is_none() {
        ended.output_bytes = received.bytes;
        ended.output_sha256 = ours;
    }
    ReceivedOutput { lines: received.lines, complete }
}

impl From<NotTaken> for SessionEnd {
    fn from(error: NotTaken) -> SessionEnd {
        let code = match error {
            NotTaken::ShuttingDown => GoodbyeCode::ShuttingDown,
            NotTaken::TooMuch => GoodbyeCode::ProtocolError,
        };
        SessionEnd::Goodbye(code, error.to_string())
    }
}
