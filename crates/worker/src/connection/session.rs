//! One session with the master, from hello to goodbye.
//!
//! Two loops run side by side in one task: one reads and never waits for the other, one writes. They share the
//! [`Outbox`]; everything else goes to and comes from the [`Executor`].

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use gaffer_domain::worker::SILENCE_LIMIT;
use gaffer_protocol::boot_time::BootTime;
use gaffer_protocol::definitions::Definitions;
use gaffer_protocol::wire::{
    ClockReading, DriverStatus, GoodbyeCode, Heartbeat, HeldAttempt, Hello, StoredOutput, ToMaster, ToWorker,
    Welcome, frames,
};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;

use super::dial::Socket;
use super::outbox::Outbox;
use crate::execution::{Command, Event};
use crate::executor::{Executor, Gone};
use crate::stats::StatsReader;

/// A master that is silent this long before the welcome is given up. A busy master sends keepalives.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// The most output frames written before the writer looks for control messages again.
const MAX_FRAMES_PER_TURN: usize = 16;
/// How long a closing connection has for its last frames.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Heartbeats whose answers are waited for; there are never more within the silence limit.
const MAX_UNANSWERED: usize = 64;
/// A master may ask for heartbeats no more often than this.
const MIN_HEARTBEAT: Duration = Duration::from_millis(100);

type Writer = SplitSink<Socket, Message>;
type Reader = SplitStream<Socket>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SessionEnd {
    /// This worker closed it.
    #[error("the worker closed the connection")]
    Closing,
    #[error("{message}")]
    Goodbye { code: GoodbyeCode, message: String },
    /// The connection broke, or one side could not be understood.
    #[error("{0}")]
    Broken(String),
}

impl From<Gone> for SessionEnd {
    fn from(gone: Gone) -> SessionEnd {
        SessionEnd::Broken(gone.to_string())
    }
}

/// Sends the hello and waits for the welcome. Returns messages that followed it.
pub(super) async fn greet(
    socket: &mut Socket,
    executor: &Executor,
    hello: impl FnOnce(Vec<DriverStatus>, Vec<HeldAttempt>) -> Hello,
) -> Result<(Welcome, Vec<ToWorker>), SessionEnd> {
    let (drivers, held) = executor.open_session().await?;
    let hello = hello(drivers, held);
    let sent_at = BootTime::now();
    let too_long = |_| SessionEnd::Broken(format!("no welcome within {} s", WELCOME_TIMEOUT.as_secs()));
    let said = async {
        for text in texts(&[ToMaster::Hello(Box::new(hello))])? {
            socket.send(Message::text(text)).await.map_err(broken)?;
        }
        Ok::<(), SessionEnd>(())
    };
    tokio::time::timeout(WELCOME_TIMEOUT, said).await.map_err(too_long)??;
    loop {
        let frame = tokio::time::timeout(WELCOME_TIMEOUT, socket.next()).await.map_err(too_long)?;
        let frame = frame.ok_or_else(|| SessionEnd::Broken(CLOSED.to_owned()))?;
        let mut messages = read_frame(frame.map_err(broken)?)?.into_iter();
        match messages.next() {
            // It is busy, and knows that this worker waits.
            None => {}
            Some(ToWorker::Welcome(welcome)) => {
                executor.renew_lease(sent_at);
                return Ok((welcome, messages.collect()));
            }
            Some(ToWorker::Goodbye { code, message }) => {
                return Err(SessionEnd::Goodbye { code, message });
            }
            Some(_) => {
                return Err(SessionEnd::Broken(
                    "the first message of the master was not a welcome".to_owned(),
                ));
            }
        }
    }
}

/// Runs a welcomed session until it ends. `said` holds messages received right after the welcome.
pub(super) async fn run(
    socket: Socket,
    executor: &Executor,
    welcome: &Welcome,
    said: Vec<ToWorker>,
    stats: &mut StatsReader,
    closing: &CancellationToken,
) -> SessionEnd {
    let mut outbox = Outbox::new();
    outbox.grant(welcome.output_window);
    for StoredOutput { attempt, offset } in &welcome.stored {
        outbox.resume(*attempt, *offset);
    }
    let session = Session {
        executor,
        outbox: Mutex::new(outbox),
        acknowledged: Notify::new(),
        definitions: Mutex::default(),
        unanswered: Mutex::new(VecDeque::new()),
        // The welcome.
        answered: Mutex::new((0, BootTime::now())),
    };
    if let Err(end) = session.take_all(said) {
        return end;
    }
    let (mut writer, reader) = socket.split();
    let heartbeat = welcome.heartbeat.to_std().max(MIN_HEARTBEAT);
    tokio::select! {
        end = session.read(reader) => end,
        end = session.write(&mut writer, heartbeat, stats) => end,
        () = closing.cancelled() => {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, writer.close()).await;
            SessionEnd::Closing
        }
    }
}

struct Session<'a> {
    executor: &'a Executor,
    outbox: Mutex<Outbox>,
    /// There may be room in the outbox's window.
    acknowledged: Notify,
    definitions: Mutex<Definitions>,
    /// Heartbeats that were sent, with their times, oldest first.
    unanswered: Mutex<VecDeque<(u64, BootTime)>>,
    /// The last of them that was answered, and when the answer came.
    answered: Mutex<(u64, BootTime)>,
}

impl Session<'_> {
    /// Reads until the session ends. Waits for nothing but the socket.
    async fn read(&self, mut reader: Reader) -> SessionEnd {
        let silence_limit = SILENCE_LIMIT.to_std();
        loop {
            let frame = match tokio::time::timeout(silence_limit, reader.next()).await {
                Err(_) => return SessionEnd::Broken(format!("silent for {SILENCE_LIMIT}")),
                Ok(None) => return SessionEnd::Broken(CLOSED.to_owned()),
                Ok(Some(Err(error))) => return broken(error),
                Ok(Some(Ok(frame))) => frame,
            };
            if let Err(end) = read_frame(frame).and_then(|messages| self.take_all(messages)) {
                return end;
            }
        }
    }

    fn take_all(&self, messages: Vec<ToWorker>) -> Result<(), SessionEnd> {
        messages.into_iter().try_for_each(|message| self.take(message))
    }

    /// Messages about attempts are passed to the executor, each start with its definition.
    fn take(&self, message: ToWorker) -> Result<(), SessionEnd> {
        let command = match message {
            ToWorker::Goodbye { code, message } => return Err(SessionEnd::Goodbye { code, message }),
            ToWorker::Alive { sequence } => {
                self.was_answered(sequence);
                return Ok(());
            }
            ToWorker::Definition { definition, at, part, is_last } => {
                let taken = self.definitions().take(definition, at, &part, is_last);
                return taken.map_err(|broken| inconsistent(&broken.to_string()));
            }
            ToWorker::OutputWanted { attempt, offset } => {
                tracing::info!(%attempt, offset, "the master is missing output; sending it again");
                self.outbox().wanted(attempt, offset);
                self.acknowledged.notify_one();
                return Ok(());
            }
            ToWorker::OutputWindow { bytes } => {
                self.outbox().grant(bytes);
                self.acknowledged.notify_one();
                return Ok(());
            }
            ToWorker::Welcome(_) => return Ok(()),
            ToWorker::Notice { message } => {
                tracing::warn!("message from the master: {message}");
                return Ok(());
            }
            ToWorker::Input(input) => Command::Input(input),
            ToWorker::Secrets(secrets) => Command::Secrets(secrets),
            ToWorker::Start(start) => {
                let resolved = self.definitions().resolve(&start);
                let resolved = resolved.ok_or_else(|| {
                    inconsistent(&format!(
                        "the start of attempt {} came without its definition",
                        start.attempt
                    ))
                })?;
                Command::Start(Box::new(resolved))
            }
            ToWorker::OutputStored { attempt, offset } => {
                self.outbox().stored(attempt, offset, Instant::now());
                self.acknowledged.notify_one();
                Command::OutputStored { attempt, offset }
            }
            ToWorker::EndStored { attempt } => {
                self.outbox().forget(attempt);
                self.acknowledged.notify_one();
                Command::EndStored { attempt }
            }
            ToWorker::Stop { attempt } => Command::Stop { attempt },
            ToWorker::StopUnhealthy { attempt, message } => Command::StopUnhealthy { attempt, message },
            ToWorker::Kill { attempt } => Command::Kill { attempt },
            ToWorker::Signal { attempt, signal } => Command::Signal { attempt, signal },
            ToWorker::TakeBack { attempt } => Command::TakeBack { attempt },
        };
        self.executor.deliver(command);
        Ok(())
    }

    /// The master had this heartbeat: the leases count from when it was sent.
    fn was_answered(&self, sequence: u64) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = (sequence, BootTime::now());
        let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((sent, at)) = unanswered.front().copied()
            && sent <= sequence
        {
            unanswered.pop_front();
            if sent == sequence {
                self.executor.renew_lease(at);
            }
        }
    }

    fn definitions(&self) -> MutexGuard<'_, Definitions> {
        self.definitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes until the connection breaks. Everything goes out as soon as there is something; only heartbeats have
    /// their time.
    async fn write(&self, writer: &mut Writer, heartbeat: Duration, stats: &mut StatsReader) -> SessionEnd {
        let mut next_beat = Instant::now() + heartbeat;
        let mut sequence = 0;
        let mut said_held = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next_beat.into()) => {}
                () = self.executor.gone() => return Gone.into(),
                () = self.executor.eventful() => {}
                () = self.acknowledged.notified() => {}
            }
            let mut has_more = true;
            while has_more {
                // Looked at in each turn: with a flood of output there may never be an end of turns.
                let now = Instant::now();
                let is_beat = now >= next_beat;
                if is_beat {
                    sequence += 1;
                    next_beat = now + heartbeat;
                }
                let turn = async {
                    if is_beat {
                        self.write_heartbeat(writer, sequence, stats, &mut said_held).await?;
                    }
                    let has_more = self.write_turn(writer).await?;
                    writer.flush().await.map_err(broken)?;
                    Ok(has_more)
                };
                match turn.await {
                    Ok(more) => has_more = more,
                    Err(end) => return end,
                }
            }
        }
    }

    async fn write_heartbeat(
        &self,
        writer: &mut Writer,
        sequence: u64,
        stats: &mut StatsReader,
        said_held: &mut Option<Vec<HeldAttempt>>,
    ) -> Result<(), SessionEnd> {
        let stats = stats.read().await;
        let (events, mut held) = self.executor.take_events_and_held().await?;
        held.sort_unstable_by_key(|held| held.attempt);
        let is_same = said_held.as_ref() == Some(&held);
        let held = if is_same { None } else { said_held.insert(held).clone().into() };
        let mut messages = self.sort(events);
        let clock = Some(self.clock());
        messages.push(ToMaster::Heartbeat(Box::new(Heartbeat { sequence, held, stats, clock })));
        self.expect_answer(sequence);
        write_control(writer, &messages).await
    }

    fn clock(&self) -> ClockReading {
        let (answer, heard) = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let since_micros = BootTime::now().as_micros().saturating_sub(heard.as_micros());
        ClockReading { answer, since_micros, at: Utc::now() }
    }

    fn expect_answer(&self, sequence: u64) {
        let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        unanswered.push_back((sequence, BootTime::now()));
        if unanswered.len() > MAX_UNANSWERED {
            unanswered.pop_front();
        }
    }

    /// Writes control messages first, then some output. Returns whether more may be pending.
    async fn write_turn(&self, writer: &mut Writer) -> Result<bool, SessionEnd> {
        let mut messages = self.sort(self.executor.take_events());
        messages.extend(self.outbox().take_ends());
        write_control(writer, &messages).await?;
        let mut frames = 0;
        while frames < MAX_FRAMES_PER_TURN && self.write_output(writer).await? {
            frames += 1;
        }
        Ok(frames > 0)
    }

    /// Writes one frame of output, if there is one to be written.
    async fn write_output(&self, writer: &mut Writer) -> Result<bool, SessionEnd> {
        let Some(piece) = self.outbox().next() else { return Ok(false) };
        let chunk = self.executor.next_chunk(piece.attempt, piece.offset, piece.max).await?;
        let Some((frame, bytes)) = chunk else {
            self.outbox().sent(piece.attempt, piece.offset, 0, Instant::now());
            return Ok(true);
        };
        self.outbox().sent(piece.attempt, piece.offset, bytes, Instant::now());
        writer.feed(Message::Binary(frame)).await.map_err(broken)?;
        Ok(true)
    }

    /// Passes reports that must wait for output to the outbox; the rest is sent now.
    fn sort(&self, events: Vec<Event>) -> Vec<ToMaster> {
        let mut now = Vec::new();
        let mut outbox = self.outbox();
        for event in events {
            match event {
                Event::Report(ToMaster::Ended(ended)) => outbox.ended(ended),
                Event::Report(report) => now.push(report),
                Event::Output { attempt, end } => outbox.grown(attempt, end),
            }
        }
        now
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The master's messages are inconsistent, so some were lost. A new session repeats them.
fn inconsistent(what: &str) -> SessionEnd {
    SessionEnd::Broken(format!("invalid message from the master: {what}"))
}

const CLOSED: &str = "the master closed the connection";

/// Queues messages in as few frames as they fit.
async fn write_control(writer: &mut Writer, messages: &[ToMaster]) -> Result<(), SessionEnd> {
    for text in texts(messages)? {
        writer.feed(Message::text(text)).await.map_err(broken)?;
    }
    Ok(())
}

fn texts(messages: &[ToMaster]) -> Result<Vec<String>, SessionEnd> {
    frames(messages).map_err(|error| SessionEnd::Broken(error.to_string()))
}

/// The messages in a frame; none in one that carries none.
fn read_frame(frame: Message) -> Result<Vec<ToWorker>, SessionEnd> {
    match frame {
        Message::Text(text) => serde_json::from_str(&text)
            .map_err(|error| SessionEnd::Broken(format!("invalid message from the master: {error}"))),
        Message::Binary(_) => Err(SessionEnd::Broken("the master sent a binary frame".to_owned())),
        Message::Close(Some(close)) if !close.reason.is_empty() => {
            Err(SessionEnd::Broken(format!("{CLOSED}: {}", close.reason)))
        }
        Message::Close(_) => Err(SessionEnd::Broken(CLOSED.to_owned())),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(Vec::new()),
    }
}

fn broken(error: tungstenite::Error) -> SessionEnd {
    SessionEnd::Broken(match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => CLOSED.to_owned(),
        tungstenite::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    })
}
