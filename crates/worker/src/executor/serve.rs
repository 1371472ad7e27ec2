//! The executor's side of the connection to an agent.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, SinkExt, StreamExt as _};
use gaffer_protocol::boot_time::BootTime;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::frame::{self, FromExecutor, LogLine, ToExecutor, Wire};
use crate::clock::until;
use crate::execution::{Execution, Pending};

/// Requests that are dealt with before the answers are sent off.
const MAX_BATCH: usize = 256;

/// How long a start waits for what follows it: most often, both are one message on their way to the master.
const START_WAITS: Duration = Duration::from_millis(2);

/// What agents, one after the other, are served with.
pub(super) struct Served {
    pub execution: Execution,
    pub log: Mutex<mpsc::Receiver<LogLine>>,
    /// Time of the agent's last message, in microseconds since boot.
    heard_at_micros: AtomicU64,
    is_leaving: AtomicBool,
    /// It was asked to exit, and nothing runs.
    pub idle: CancellationToken,
    /// And all ends are acknowledged.
    pub settled: CancellationToken,
}

impl Served {
    pub fn new(execution: Execution, log: mpsc::Receiver<LogLine>) -> Arc<Served> {
        Arc::new(Served {
            execution,
            log: Mutex::new(log),
            heard_at_micros: AtomicU64::new(BootTime::now().as_micros()),
            is_leaving: AtomicBool::new(false),
            idle: CancellationToken::new(),
            settled: CancellationToken::new(),
        })
    }

    /// Time of the agent's last message.
    pub fn heard_at(&self) -> BootTime {
        BootTime::from_micros(self.heard_at_micros.load(Ordering::Relaxed))
    }

    /// Ends everything. Comes back at once.
    pub fn shut_down(self: &Arc<Self>) {
        if self.is_leaving.swap(true, Ordering::Relaxed) {
            return;
        }
        let served = self.clone();
        tokio::spawn(async move {
            served.execution.shut_down().await;
            served.idle.cancel();
            served.execution.all_acknowledged().await;
            served.settled.cancel();
        });
    }
}

/// Serves an accepted agent until it disconnects.
pub(super) async fn serve(served: Arc<Served>, mut wire: Wire) {
    let served_agent = async {
        let mut log = served.log.lock().await;
        let (mut told_idle, mut told_settled) = (false, false);
        // When starts that wait are told, if nothing follows them.
        let mut due = None;
        loop {
            tokio::select! {
                frame = wire.next() => {
                    if !take_all(&served, &mut wire, frame).await? {
                        return Ok(());
                    }
                }
                () = served.execution.eventful() => match served.execution.pending() {
                    Pending::Nothing => continue,
                    Pending::Starts => {
                        due = due.or_else(|| Some(Instant::now() + START_WAITS));
                        continue;
                    }
                    Pending::More => {
                        due = None;
                        feed_events(&served, &mut wire).await?;
                    }
                },
                () = until(due) => {
                    due = None;
                    feed_events(&served, &mut wire).await?;
                }
                Some(line) = log.recv() => wire.feed(frame::json(&FromExecutor::Log(line))?).await?,
                () = served.idle.cancelled(), if !told_idle => {
                    told_idle = true;
                    feed_events(&served, &mut wire).await?;
                    wire.feed(frame::json(&FromExecutor::Idle)?).await?;
                }
                () = served.settled.cancelled(), if !told_settled => {
                    told_settled = true;
                    wire.feed(frame::json(&FromExecutor::Settled)?).await?;
                }
            }
            SinkExt::<Bytes>::flush(&mut wire).await?;
        }
    };
    let ended: io::Result<()> = served_agent.await;
    if let Err(error) = ended {
        tracing::debug!(%error, "the connection to the agent broke");
    }
    served.execution.close_session();
}

/// Handles a frame and those received with it. False if the agent has disconnected.
async fn take_all(
    served: &Arc<Served>,
    wire: &mut Wire,
    first: Option<io::Result<BytesMut>>,
) -> io::Result<bool> {
    let (mut frame, mut taken) = (first, 0);
    loop {
        let Some(bytes) = frame else { return Ok(false) };
        let request = frame::to_executor(bytes?).map_err(io::Error::other)?;
        served.heard_at_micros.store(BootTime::now().as_micros(), Ordering::Relaxed);
        take(served, wire, request).await?;
        taken += 1;
        // What has been read is dealt with: the next one is read only if there is still time for it now.
        if taken == MAX_BATCH {
            return Ok(true);
        }
        match wire.next().now_or_never() {
            Some(next) => frame = next,
            None => return Ok(true),
        }
    }
}

async fn take(served: &Arc<Served>, wire: &mut Wire, request: ToExecutor) -> io::Result<()> {
    let execution = &served.execution;
    match request {
        ToExecutor::OpenSession => {
            let held = execution.open_session();
            let answer = FromExecutor::SessionOpen {
                drivers: execution.drivers(),
                held,
                takes_input: true,
                takes_secrets: true,
            };
            wire.feed(frame::json(&answer)?).await
        }
        ToExecutor::Welcomed(welcome) => {
            execution.welcomed(&welcome);
            Ok(())
        }
        ToExecutor::CloseSession => {
            execution.close_session();
            Ok(())
        }
        ToExecutor::Deliver(command) => {
            execution.deliver(command);
            Ok(())
        }
        ToExecutor::RenewLease { sent_at_micros } => {
            execution.renew_lease(BootTime::from_micros(sent_at_micros));
            Ok(())
        }
        ToExecutor::Held => {
            let (events, held) = execution.take_events_and_held();
            if !events.is_empty() {
                wire.feed(frame::json(&FromExecutor::Events(events))?).await?;
            }
            wire.feed(frame::json(&FromExecutor::Held(held))?).await
        }
        ToExecutor::Chunk { attempt, offset, max } => {
            let answer = match execution.next_chunk(attempt, offset, max).await {
                Some((chunk, length)) => frame::chunk(&chunk.to_frame(), length),
                None => frame::json(&FromExecutor::NoChunk)?,
            };
            wire.feed(answer).await
        }
        ToExecutor::Ping => {
            let answer = FromExecutor::Pong { shortest_lost_after: execution.shortest_lost_after() };
            wire.feed(frame::json(&answer)?).await
        }
        ToExecutor::ShutDown => {
            served.shut_down();
            Ok(())
        }
        ToExecutor::Open(_) => Err(io::Error::other("the agent began twice")),
    }
}

async fn feed_events(served: &Served, wire: &mut Wire) -> io::Result<()> {
    let events = served.execution.take_events();
    if events.is_empty() {
        return Ok(());
    }
    wire.feed(frame::json(&FromExecutor::Events(events))?).await
}
