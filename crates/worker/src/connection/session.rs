//! One session with the master, from hello to goodbye.
//!
//! Two loops run side by side in one task: one reads and never waits for the other, one writes. They share the
//! [`Outbox`]; everything else goes to and comes from the [`Keeper`].

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use gaffer_domain::worker::SILENCE_LIMIT;
use gaffer_protocol::wire::{
    ClockReading, DriverStatus, GoodbyeCode, Heartbeat, HeldAttempt, Hello, MAX_MESSAGES_PER_FRAME,
    StoredOutput, ToMaster, ToWorker, Welcome,
};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;

use super::dial::Socket;
use super::outbox::Outbox;
use crate::clock::BootTime;
use crate::execution::Event;
use crate::keeper::{Gone, Keeper};
use crate::stats::StatsReader;

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

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SessionEnd {
    /// This worker closed it.
    #[error("the worker closed the connection")]
    Closing,
    /// The master said why.
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

/// Says hello and waits for the welcome. Gives what the master said in the same breath, too.
pub(super) async fn greet(
    socket: &mut Socket,
    keeper: &Keeper,
    hello: impl FnOnce(Vec<DriverStatus>, Vec<HeldAttempt>) -> Hello,
) -> Result<(Welcome, Vec<ToWorker>), SessionEnd> {
    let (drivers, held) = keeper.open_session().await?;
    let hello = hello(drivers, held);
    let sent_at = BootTime::now();
    let hello = text_frame(&[ToMaster::Hello(Box::new(hello))])?;
    let greeted = async {
        socket.send(hello).await.map_err(broken)?;
        loop {
            let frame = socket.next().await.ok_or_else(|| SessionEnd::Broken(CLOSED.to_owned()))?;
            let mut messages = read_frame(frame.map_err(broken)?)?.into_iter();
            match messages.next() {
                None => {}
                Some(ToWorker::Welcome(welcome)) => return Ok((welcome, messages.collect())),
                Some(ToWorker::Goodbye { code, message }) => {
                    return Err(SessionEnd::Goodbye { code, message });
                }
                Some(_) => {
                    return Err(SessionEnd::Broken("the master did not begin with a welcome".to_owned()));
                }
            }
        }
    };
    let greeting = tokio::time::timeout(WELCOME_TIMEOUT, greeted).await.unwrap_or_else(|_| {
        Err(SessionEnd::Broken(format!("no welcome within {} s", WELCOME_TIMEOUT.as_secs())))
    })?;
    keeper.renew_lease(sent_at);
    Ok(greeting)
}

/// Runs a session that was welcomed until it ends. `said` is what the master said right after the welcome.
pub(super) async fn run(
    socket: Socket,
    keeper: &Keeper,
    welcome: &Welcome,
    said: Vec<ToWorker>,
    stats: &mut StatsReader,
    closing: &CancellationToken,
) -> SessionEnd {
    let mut outbox = Outbox::new();
    for StoredOutput { attempt, offset } in &welcome.stored {
        outbox.resume(*attempt, *offset);
    }
    let session = Session {
        keeper,
        outbox: Mutex::new(outbox),
        acknowledged: Notify::new(),
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
    keeper: &'a Keeper,
    outbox: Mutex<Outbox>,
    /// There may be room in the outbox's window.
    acknowledged: Notify,
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
        for message in messages {
            if let ToWorker::Goodbye { code, message } = message {
                return Err(SessionEnd::Goodbye { code, message });
            }
            self.take(message);
        }
        Ok(())
    }

    fn take(&self, message: ToWorker) {
        if let ToWorker::Notice { message } = message {
            tracing::warn!("the master says: {message}");
            return;
        }
        match &message {
            ToWorker::Alive { sequence } => {
                *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = (*sequence, BootTime::now());
                let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
                while let Some((sent, at)) = unanswered.front().copied()
                    && sent <= *sequence
                {
                    unanswered.pop_front();
                    if sent == *sequence {
                        self.keeper.renew_lease(at);
                    }
                }
            }
            ToWorker::OutputStored { attempt, offset } => {
                self.outbox().stored(*attempt, *offset, Instant::now());
                self.acknowledged.notify_one();
            }
            ToWorker::OutputWanted { attempt, offset } => {
                tracing::info!(%attempt, offset, "the master misses output and gets it again");
                self.outbox().wanted(*attempt, *offset);
                self.acknowledged.notify_one();
            }
            ToWorker::EndStored { attempt } => {
                self.outbox().forget(*attempt);
                self.acknowledged.notify_one();
            }
            _ => {}
        }
        self.keeper.deliver(message);
    }

    /// Writes until the connection breaks. Everything goes out as soon as there is something; only heartbeats have
    /// their time.
    async fn write(&self, writer: &mut Writer, heartbeat: Duration, stats: &mut StatsReader) -> SessionEnd {
        let mut next_beat = Instant::now() + heartbeat;
        let mut sequence = 0;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next_beat.into()) => {}
                () = self.keeper.gone() => return Gone.into(),
                () = self.keeper.eventful() => {}
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
                        self.write_heartbeat(writer, sequence, stats).await?;
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
    ) -> Result<(), SessionEnd> {
        let stats = stats.read();
        let (events, held) = self.keeper.take_events_and_held().await?;
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

    /// Writes control messages first, then some output. Says whether there may be more.
    async fn write_turn(&self, writer: &mut Writer) -> Result<bool, SessionEnd> {
        let mut messages = self.sort(self.keeper.take_events());
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
        let chunk = self.keeper.next_chunk(piece.attempt, piece.offset, piece.max).await?;
        let Some((frame, bytes)) = chunk else {
            self.outbox().sent(piece.attempt, piece.offset, 0, Instant::now());
            return Ok(true);
        };
        self.outbox().sent(piece.attempt, piece.offset, bytes, Instant::now());
        writer.feed(Message::Binary(frame)).await.map_err(broken)?;
        Ok(true)
    }

    /// Passes on to the outbox what has to wait for output; the rest can go out now.
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

const CLOSED: &str = "the master closed the connection";

/// Queues messages in as few frames as they fit.
async fn write_control(writer: &mut Writer, messages: &[ToMaster]) -> Result<(), SessionEnd> {
    for messages in messages.chunks(MAX_MESSAGES_PER_FRAME) {
        writer.feed(text_frame(messages)?).await.map_err(broken)?;
    }
    Ok(())
}

fn text_frame(messages: &[ToMaster]) -> Result<Message, SessionEnd> {
    let text = serde_json::to_string(messages).map_err(|error| SessionEnd::Broken(error.to_string()))?;
    Ok(Message::text(text))
}

/// The messages in a frame; none in one that carries none.
fn read_frame(frame: Message) -> Result<Vec<ToWorker>, SessionEnd> {
    match frame {
        Message::Text(text) => serde_json::from_str(&text)
            .map_err(|error| SessionEnd::Broken(format!("cannot understand the master: {error}"))),
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
