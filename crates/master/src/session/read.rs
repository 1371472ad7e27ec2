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
use super::reports::OUTPUT_AFTER_END;
use super::{Session, SessionEnd, Source, held_of, told_to_go};
use crate::hub::Goodbye;
use crate::live::{Arrival, Found};
use crate::store::transitions::StartFacts;
use crate::write_batcher::NotTaken;

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
    session: &Arc<Session>,
    mut source: Source,
    mut goodbye: watch::Receiver<Option<Goodbye>>,
) -> SessionEnd {
    let reader = Reader { session, aside: Aside::new(session) };
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
    session: &'a Session,
    aside: Aside,
}

impl Reader<'_> {
    fn control(&self, messages: Vec<ToMaster>) -> Result<(), SessionEnd> {
        let write_batcher = &self.session.control.write_batcher;
        self.session.handle.heard(None);
        let ours = |at| self.session.control.clocks.ours(self.session.handle.worker, at);
        for message in messages {
            match checked(message, Utc::now(), ours)? {
                ToMaster::Hello(_) => return Err(SessionEnd::protocol("a second hello in one session")),
                ToMaster::Heartbeat(heartbeat) => self.heartbeat(*heartbeat)?,
                ToMaster::Started { attempt, at, container, ports } => {
                    let facts = StartFacts { container, ports };
                    write_batcher.started(&self.session.reporter, attempt, at, facts)?;
                }
                ToMaster::Noted { attempt, message } => {
                    if let Some(note) = self.session.reports.note(attempt, &message) {
                        self.aside.note(attempt, note);
                    }
                }
                ToMaster::Drivers { drivers } => {
                    if let Some(drivers) = self.session.reports.drivers(drivers) {
                        self.aside.drivers(drivers)?;
                    }
                }
                ToMaster::InputTaken(taken) => {
                    self.session.control.inputs.taken(self.session.handle.worker, taken)
                }
                ToMaster::SecretsWanted { attempt } => self.aside.secrets_wanted(attempt),
                ToMaster::Checked(checked) => self.aside.checked(checked),
                ToMaster::Returned { attempt } => write_batcher.returned(&self.session.reporter, attempt)?,
                ToMaster::Ended(ended) => self.ended(ended)?,
            }
        }
        Ok(())
    }

    fn heartbeat(&self, heartbeat: Heartbeat) -> Result<(), SessionEnd> {
        let Heartbeat { sequence, held, stats, clock } = heartbeat;
        self.session.handle.heard(Some(stats));
        self.session.control.clocks.heartbeat(self.session.handle.worker, sequence, clock, Utc::now());
        // It renews the worker's leases.
        if self.session.control.store.leadership().is_trusted() {
            self.session.handle.send(ToWorker::Alive { sequence });
        }
        let held = held.map(|held| held_of(&held));
        match self.session.handle.agreement.heard(held, Instant::now()) {
            Some(listed) => {
                let taken =
                    self.session.control.write_batcher.reconcile_heartbeat(&self.session.handle, listed);
                taken.map_err(|error| NotTaken::from(error).into())
            }
            None => Ok(()),
        }
    }

    fn ended(&self, ended: Box<Ended>) -> Result<(), SessionEnd> {
        let attempt = ended.attempt;
        let live = match self.session.control.live.find(attempt, self.session.handle.worker) {
            Found::Open(live) => live,
            Found::Unknown => return self.aside.ended(ended),
            Found::Foreign => {
                self.session.handle.send(ToWorker::EndStored { attempt });
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
        Ok(self.session.take_end(&live, ended)?)
    }

    fn note(&self, attempt: AttemptRef, message: &str) {
        if let Some(note) = self.session.reports.note(attempt, message) {
            self.aside.note(attempt, note);
        }
    }

    fn output(&self, frame: Bytes) -> Result<(), SessionEnd> {
        self.session.handle.heard(None);
        let malformed = |error: gaffer_protocol::output::Malformed| SessionEnd::protocol(error.to_string());
        let encoded = EncodedChunk::from_frame(frame).map_err(malformed)?;
        let chunk = encoded.decode().map_err(malformed)?;
        let (encoded, chunk) = checked_chunk(encoded, chunk, Utc::now())?;
        let (attempt, end) = (chunk.attempt, chunk.end());
        let live = match self.session.control.live.find(attempt, self.session.handle.worker) {
            Found::Open(live) => live,
            Found::Unknown => return self.aside.output(attempt, chunk.end()),
            Found::Foreign => {
                // There is no place for it, and never will be.
                self.session.handle.send(ToWorker::OutputStored { attempt, offset: chunk.end() });
                return Ok(());
            }
        };
        let Some(on_its_way) = self.session.handle.output_arrived(chunk.payload_bytes) else {
            return Err(SessionEnd::protocol(format!(
                "the worker sent more output than its credit of {} bytes",
                self.session.handle.window()
            )));
        };
        match live.arrive(encoded, chunk) {
            Arrival::New(row) => self.session.control.write_batcher.output(row, live, on_its_way)?,
            Arrival::Repeated => {
                self.session.handle.send(ToWorker::OutputStored { attempt, offset: live.stored_bytes() });
            }
            Arrival::Gap(offset) => self.session.handle.send(ToWorker::OutputWanted { attempt, offset }),
            Arrival::KnownGap => {}
            Arrival::AfterEnd => {
                // Closed is closed. The worker is told to forget it: there will never be a place for it.
                tracing::debug!(%attempt, worker = %self.session.handle.worker_name, "{OUTPUT_AFTER_END}");
                self.note(attempt, OUTPUT_AFTER_END);
                self.session.handle.send(ToWorker::OutputStored { attempt, offset: end });
            }
        }
        Ok(())
    }
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
