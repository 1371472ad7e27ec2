//! The agent's side of a connection to its executor.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use gaffer_domain::AttemptRef;
use gaffer_domain::quantity::Span;
use gaffer_protocol::boot_time::BootTime;
use gaffer_protocol::wire::{DriverStatus, HeldAttempt, Welcome};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::frame::{self, FromExecutor, Heard, ToExecutor, Wire};
use super::host::Host;
use super::log;
use crate::execution::{Command, Event};

/// How long an executor that has nothing left to do may take to leave.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// An executor that took this agent. Everything goes in the order in which it is asked for.
#[derive(Clone)]
pub(crate) struct Executor {
    line: Arc<Line>,
    host: Host,
    hang_up: CancellationToken,
    /// Hangs up when the last handle goes.
    _connection: Arc<DropGuard>,
}

/// The executor has exited: nothing is known of its attempts until there is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the executor of this worker has exited")]
pub(crate) struct Gone;

struct Line {
    requests: mpsc::UnboundedSender<ToExecutor>,
    /// Who waits for an answer, in the order of the requests.
    waiting: Mutex<VecDeque<oneshot::Sender<Answer>>>,
    /// What happened and was not taken.
    events: Mutex<Vec<Event>>,
    eventful: Notify,
    lease: Mutex<Lease>,
    takes_input: AtomicBool,
    takes_secrets: AtomicBool,
    idle: CancellationToken,
    settled: CancellationToken,
    gone: CancellationToken,
}

enum Answer {
    SessionOpen(Vec<DriverStatus>, Vec<HeldAttempt>),
    Held(Vec<Event>, Vec<HeldAttempt>),
    Chunk(Option<(Bytes, u64)>),
    Pong,
}

/// What the agent knows of the leases of what executes.
#[derive(Debug)]
struct Lease {
    /// When the master last knew that this worker was alive.
    contact: BootTime,
    /// The shortest `lost_after` of its attempts, as last reported.
    told: Option<Span>,
    /// The same of what was delivered before the executor was last asked, and after that.
    before_asking: Option<Span>,
    since_asking: Option<Span>,
}

impl Executor {
    /// Over a connection that the executor has taken.
    pub(super) fn new(wire: Wire, host: Host) -> Executor {
        let (requests, to_send) = mpsc::unbounded_channel();
        let line = Arc::new(Line {
            requests,
            waiting: Mutex::default(),
            events: Mutex::default(),
            eventful: Notify::new(),
            lease: Mutex::new(Lease::new(BootTime::now())),
            takes_input: AtomicBool::new(false),
            takes_secrets: AtomicBool::new(false),
            idle: CancellationToken::new(),
            settled: CancellationToken::new(),
            gone: CancellationToken::new(),
        });
        let hang_up = CancellationToken::new();
        tokio::spawn(line.clone().talk(wire, to_send, hang_up.clone()));
        Executor { line, host, hang_up: hang_up.clone(), _connection: Arc::new(hang_up.drop_guard()) }
    }

    /// For the watch over the executor, which lets the connection end.
    pub(super) fn asking(&self) -> Asking {
        Asking(self.line.clone())
    }

    /// Cancelled when the connection ends.
    pub(super) fn connection(&self) -> CancellationToken {
        self.hang_up.clone()
    }

    /// Waits until it is gone.
    pub async fn gone(&self) {
        self.line.gone.cancelled().await;
    }

    pub fn is_gone(&self) -> bool {
        self.line.gone.is_cancelled()
    }

    /// Begins a session: returns the drivers and all held attempts. Later changes are sent as events.
    pub async fn open_session(&self) -> Result<(Vec<DriverStatus>, Vec<HeldAttempt>), Gone> {
        match self.line.ask(ToExecutor::OpenSession).await? {
            Answer::SessionOpen(drivers, held) => Ok((drivers, held)),
            _ => Err(Gone),
        }
    }

    /// The session was accepted: the executor repeats what the master may not know.
    pub fn welcomed(&self, welcome: &Welcome) {
        self.line.say(ToExecutor::Welcomed(welcome.clone()));
    }

    /// Ends the session: no more events.
    pub fn close_session(&self) {
        self.line.say(ToExecutor::CloseSession);
    }

    /// Executes a request of the master.
    pub fn deliver(&self, command: Command) {
        match &command {
            // An executor of an earlier build would run it without them. The master sends it again, until there is another one.
            Command::Start(start)
                if !start.definition.secrets.is_empty()
                    && !self.line.takes_secrets.load(Ordering::Relaxed) =>
            {
                return;
            }
            Command::Start(start) => self.line.lease().delivered(start.definition.lost_after),
            Command::Input(_) if !self.line.takes_input.load(Ordering::Relaxed) => return,
            _ => {}
        }
        self.line.say(ToExecutor::Deliver(command));
    }

    /// The master knows that this worker was alive at that moment.
    pub fn renew_lease(&self, sent_at: BootTime) {
        self.line.lease().renew(sent_at);
        self.line.say(ToExecutor::RenewLease { sent_at_micros: sent_at.as_micros() });
    }

    /// Waits until there may be events. Only one can wait.
    pub async fn eventful(&self) {
        self.line.eventful.notified().await;
    }

    /// What happened since the last call, in order.
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.line.events())
    }

    /// Events since the last call, and the attempts held right after them.
    pub async fn take_events_and_held(&self) -> Result<(Vec<Event>, Vec<HeldAttempt>), Gone> {
        match self.line.ask(ToExecutor::Held).await? {
            Answer::Held(events, held) => Ok((events, held)),
            _ => Err(Gone),
        }
    }

    /// Output of an attempt from `offset` on, at most `max` bytes, as the frame that goes to the master, and how many
    /// bytes it is; none if there is none.
    pub async fn next_chunk(
        &self,
        attempt: AttemptRef,
        offset: u64,
        max: usize,
    ) -> Result<Option<(Bytes, u64)>, Gone> {
        match self.line.ask(ToExecutor::Chunk { attempt, offset, max }).await? {
            Answer::Chunk(chunk) => Ok(chunk),
            _ => Err(Gone),
        }
    }

    /// Has everything ended, and waits until nothing runs.
    pub async fn shut_down(&self) {
        self.line.say(ToExecutor::ShutDown);
        tokio::select! {
            () = self.line.idle.cancelled() => {}
            () = self.line.gone.cancelled() => {}
        }
    }

    /// After that: waits until the master has acknowledged every end.
    pub async fn all_acknowledged(&self) {
        tokio::select! {
            () = self.line.settled.cancelled() => {}
            () = self.line.gone.cancelled() => {}
        }
    }

    /// After that: hangs up, and waits a while until it has left.
    pub async fn leave(self) {
        self.hang_up.cancel();
        if tokio::time::timeout(LEAVE_PATIENCE, self.host.ended()).await.is_err() {
            tracing::warn!("the old executor of this worker has not exited yet");
        }
    }
}

pub(super) struct Asking(Arc<Line>);

impl Asking {
    /// Waits for a sign of life.
    pub async fn ping(&self) -> Result<(), Gone> {
        self.0.ask(ToExecutor::Ping).await.map(|_| ())
    }

    /// Whether the lease of anything that executes has run out by now, as far as this agent knows; none if nothing has a
    /// lease.
    pub fn has_lapsed(&self, now: BootTime) -> Option<bool> {
        Some(self.0.lease().end()? <= now)
    }
}

impl Line {
    fn say(&self, request: ToExecutor) {
        // If nobody receives it, `gone` reports the end.
        let _ = self.requests.send(request);
    }

    async fn ask(&self, request: ToExecutor) -> Result<Answer, Gone> {
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if request == ToExecutor::Ping {
                self.lease().asked();
            }
            self.requests.send(request).map_err(|_| Gone)?;
            waiting.push_back(answer);
        }
        answered.await.map_err(|_| Gone)
    }

    /// Carries messages both ways until one side closes.
    async fn talk(
        self: Arc<Self>,
        wire: Wire,
        mut to_send: mpsc::UnboundedReceiver<ToExecutor>,
        hang_up: CancellationToken,
    ) {
        let (mut sink, mut stream) = wire.split();
        let send = async {
            while let Some(mut request) = to_send.recv().await {
                loop {
                    sink.feed(frame::json(&request)?).await?;
                    match to_send.try_recv() {
                        Ok(next) => request = next,
                        Err(_) => break,
                    }
                }
                sink.flush().await?;
            }
            io::Result::Ok(())
        };
        let hear = async {
            while let Some(bytes) = stream.next().await {
                self.heard(frame::from_executor(bytes?).map_err(io::Error::other)?)?;
            }
            io::Result::Ok(())
        };
        let ended = tokio::select! {
            ended = send => ended,
            ended = hear => ended,
            () = hang_up.cancelled() => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "the connection to the executor broke");
        }
        // In this order, so that no caller waits for a response that never comes.
        drop(to_send);
        self.gone.cancel();
        self.waiting().clear();
        self.eventful.notify_one();
    }

    fn heard(&self, heard: Heard) -> io::Result<()> {
        let answer = match heard {
            Heard::Chunk(frame, bytes) => Answer::Chunk(Some((frame, bytes))),
            Heard::Message(message) => match message {
                FromExecutor::Events(events) => {
                    self.events().extend(events);
                    self.eventful.notify_one();
                    return Ok(());
                }
                FromExecutor::Idle => {
                    self.idle.cancel();
                    return Ok(());
                }
                FromExecutor::Settled => {
                    self.settled.cancel();
                    return Ok(());
                }
                FromExecutor::Log(line) => {
                    log::repeat(&line);
                    return Ok(());
                }
                FromExecutor::SessionOpen { drivers, held, takes_input, takes_secrets } => {
                    self.takes_secrets.store(takes_secrets, Ordering::Relaxed);
                    self.takes_input.store(takes_input, Ordering::Relaxed);
                    // What was on its way is of a session before.
                    self.events().clear();
                    Answer::SessionOpen(drivers, held)
                }
                FromExecutor::Held(held) => Answer::Held(std::mem::take(&mut *self.events()), held),
                FromExecutor::NoChunk => Answer::Chunk(None),
                FromExecutor::Pong { shortest_lost_after } => {
                    self.lease().told(shortest_lost_after);
                    Answer::Pong
                }
                FromExecutor::Ready | FromExecutor::Refused(_) => {
                    return Err(io::Error::other("the executor answered twice"));
                }
            },
        };
        let waiting = self.waiting().pop_front();
        let waiting = waiting.ok_or_else(|| io::Error::other("the executor answered without a question"))?;
        // The caller may have gone.
        let _ = waiting.send(answer);
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self) -> MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    fn new(contact: BootTime) -> Lease {
        Lease { contact, told: None, before_asking: None, since_asking: None }
    }

    fn renew(&mut self, sent_at: BootTime) {
        self.contact = self.contact.max(sent_at);
    }

    fn delivered(&mut self, lost_after: Span) {
        self.since_asking = shortest([self.since_asking, Some(lost_after)]);
    }

    fn asked(&mut self) {
        self.before_asking = shortest([self.before_asking, self.since_asking.take()]);
    }

    fn told(&mut self, shortest_lost_after: Option<Span>) {
        (self.told, self.before_asking) = (shortest_lost_after, None);
    }

    fn end(&self) -> Option<BootTime> {
        let lost_after = shortest([self.told, self.before_asking, self.since_asking])?;
        Some(self.contact.after(lost_after.to_std()))
    }
}

fn shortest<const N: usize>(spans: [Option<Span>; N]) -> Option<Span> {
    spans.into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_lease_ends_with_the_shortest_that_may_execute() {
        let seconds = |secs: u64| BootTime::from_micros(secs * 1_000_000);
        let mut lease = Lease::new(seconds(100));
        assert_eq!(lease.end(), None);
        lease.delivered(Span::from_secs(30));
        lease.delivered(Span::from_secs(60));
        assert_eq!(lease.end(), Some(seconds(130)));
        lease.asked();
        lease.delivered(Span::from_secs(20));
        assert_eq!(lease.end(), Some(seconds(120)));
        lease.told(Some(Span::from_secs(60)));
        assert_eq!(lease.end(), Some(seconds(120)), "what was delivered after the question still counts");
        lease.asked();
        lease.told(None);
        assert_eq!(lease.end(), None, "everything is over");
        lease.delivered(Span::from_secs(30));
        lease.renew(seconds(140));
        lease.renew(seconds(120));
        assert_eq!(lease.end(), Some(seconds(170)));
    }
}
