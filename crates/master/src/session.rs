//! The session of one worker, from hello to goodbye.
//!
//! A worker is trusted only with its own attempts: `store/transitions` compares every report with the attempt's worker, and
//! output is accepted only from the worker that the attempt was placed on.

mod aside;
mod checks;
mod claims;
mod clean;
mod hello;
mod read;
mod reports;
mod secrets;
mod write;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ws::{Message, WebSocket};
use futures::StreamExt;
use futures::stream::{SplitSink, SplitStream};
use gaffer_domain::worker::ReportedAttempt;
use gaffer_protocol::boot_time::BootTime;
use gaffer_protocol::wire::{GoodbyeCode, HeldAttempt};
use tokio::sync::watch;
use uuid::Uuid;

use crate::control::Control;
use crate::hub::{Goodbye, SessionEnds, SessionHandle};
use crate::store::hellos::Registered;
use crate::store::keys::KeyHolder;
use crate::write_batcher::Reporter;
use hello::{begin, register, welcome};
use read::read;
use reports::Reports;
use write::{meanwhile_patience, say_goodbye, write};

#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error("{0}")]
    Disconnected(String),
    /// The worker is told to disconnect.
    #[error("{1}")]
    Goodbye(GoodbyeCode, String),
}

impl SessionEnd {
    fn protocol(message: impl Into<String>) -> SessionEnd {
        SessionEnd::Goodbye(GoodbyeCode::ProtocolError, message.into())
    }

    /// What the worker is told, if anything.
    fn code(&self) -> Option<GoodbyeCode> {
        match self {
            SessionEnd::Disconnected(_) => None,
            SessionEnd::Goodbye(code, _) => Some(*code),
        }
    }
}

/// One session, as its own parts see it.
struct Session {
    control: Arc<Control>,
    handle: Arc<SessionHandle>,
    reporter: Reporter,
    /// What the worker says faster than it is written.
    reports: Reports,
}

type Sink = SplitSink<WebSocket, Message>;
type Source = SplitStream<WebSocket>;

/// Looks at the key again. While the database does not answer, the loop that checks the keys of sessions has to find out.
async fn key_is_still_good(control: &Control, key: i64) -> Result<(), SessionEnd> {
    match control.store.keys_refused(&[key]).await {
        Ok(refused) if !refused.is_empty() => {
            let message = "the key was revoked or has expired".to_owned();
            Err(SessionEnd::Goodbye(GoodbyeCode::KeyRevoked, message))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Serves one connection until it ends. What asks the database is boxed: an idle session holds this future, and there are thousands.
pub async fn serve(control: Arc<Control>, socket: WebSocket, key: KeyHolder) {
    let (mut sink, mut source) = socket.split();
    let id = Uuid::now_v7();
    let begun = async {
        let hello = begin(&mut source).await?;
        let registering = Box::pin(register(&control, &key, id, &hello));
        let (registered, own_key, turn) = meanwhile_patience(&mut sink, registering).await?;
        Ok::<_, SessionEnd>((registered, hello.held, own_key, turn))
    };
    match begun.await {
        Ok((registered, held, own_key, turn)) => {
            control.metrics.started(registered.is_new);
            let (handle, ends) =
                SessionHandle::new(&control.hub, id, registered.id, &registered.name, own_key);
            let alone = match control.hub.attach(handle.clone()) {
                // Reports of the older session are on their way to the database, and later ones follow them. It may
                // itself wait for the database.
                Some(older) => {
                    let gone = async {
                        older.no_longer_heard().await;
                        Ok(())
                    };
                    meanwhile_patience(&mut sink, gone).await
                }
                None => Ok(()),
            };
            drop(turn);
            // From here on a revocation finds the session. One that came since the key was checked at the door did not.
            let alone = match alone {
                Ok(()) => Box::pin(key_is_still_good(&control, own_key)).await,
                end => end,
            };
            let why = match alone {
                Ok(()) => talk(&control, &handle, ends, sink, source, registered, held).await,
                Err(end) => {
                    if let SessionEnd::Goodbye(code, message) = &end {
                        let _ = say_goodbye(&mut sink, *code, message.clone()).await;
                    }
                    end
                }
            };
            control.hub.detach(handle.worker, id);
            control.metrics.ended(why.code());
            let silent_for = handle.last_seen().0.elapsed();
            control.absences.note(handle.worker, BootTime::now(), silent_for);
            let silent = silent_for.as_secs_f64();
            tracing::info!(worker = %handle.worker_name, reason = %why, "worker session ended");
            Box::pin(goodbye(&control, &handle, id, silent, &why.to_string())).await;
        }
        Err(end) => {
            control.metrics.refused(end.code());
            tracing::warn!(key = %key.name, reason = %end, "a worker's hello failed");
            if let SessionEnd::Goodbye(code, message) = end {
                let _ = say_goodbye(&mut sink, code, message).await;
            }
        }
    }
}

/// Takes the worker off the list of the connected. While the database is away this is tried again: a worker that stays
/// `online` for ever would keep its tasks for ever.
async fn goodbye(control: &Control, handle: &SessionHandle, id: Uuid, silent_secs: f64, why: &str) {
    let ended = Instant::now();
    let mut wait = Duration::from_millis(100);
    loop {
        let silent_secs = silent_secs + ended.elapsed().as_secs_f64();
        match control.store.worker_goodbye(handle.worker, id, silent_secs, why).await {
            Ok(()) => break,
            Err(_) if control.shutdown.is_cancelled() => break,
            Err(error) => tracing::debug!(%error, "cannot record the end of a session; retrying"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(2));
    }
    control.changes.announce(&[]);
    control.wakes.sweeper.call();
}

/// Reconciles, welcomes, then passes messages on until something ends.
async fn talk(
    control: &Arc<Control>,
    handle: &Arc<SessionHandle>,
    ends: SessionEnds,
    mut sink: Sink,
    source: Source,
    registered: Registered,
    held: Vec<HeldAttempt>,
) -> SessionEnd {
    let welcome = Box::pin(welcome(control, handle, &registered, &held));
    let welcome = match meanwhile_patience(&mut sink, welcome).await {
        Ok(welcome) => welcome,
        Err(end) => {
            if let SessionEnd::Goodbye(code, message) = &end {
                let _ = say_goodbye(&mut sink, *code, message.clone()).await;
            }
            return end;
        }
    };
    control.changes.announce(&[]);
    control.wakes.scheduler.call();
    control.wakes.system_jobs.call();

    let SessionEnds { goodbye, hearing } = ends;
    let (written, told) = (handle.clone(), goodbye.clone());
    let writer = tokio::spawn(async move { write(sink, welcome, &written, told).await });
    let session = Arc::new(Session {
        control: control.clone(),
        handle: handle.clone(),
        reporter: Reporter::new(handle.worker, &handle.worker_name),
        reports: Reports::default(),
    });
    let reports = tokio::spawn({
        let session = session.clone();
        async move { session.write_waiting().await }
    });
    let end = read(&session, source, goodbye).await;
    // What waits still is said again in the next session.
    reports.abort();
    let _ = reports.await;
    drop(hearing);
    match &end {
        SessionEnd::Goodbye(code, message) => handle.end(*code, message),
        SessionEnd::Disconnected(reason) => handle.end(GoodbyeCode::ProtocolError, reason),
    }
    let _ = writer.await;
    end
}

async fn told_to_go(goodbye: &mut watch::Receiver<Option<Goodbye>>) -> Goodbye {
    match goodbye.wait_for(Option::is_some).await.ok().and_then(|told| told.clone()) {
        Some(told) => told,
        // Its sender lives as long as the session's handle, which lives as long as the session.
        None => std::future::pending().await,
    }
}

fn held_of(held: &[HeldAttempt]) -> Vec<ReportedAttempt> {
    held.iter().map(|held| ReportedAttempt { attempt: held.attempt, phase: held.phase }).collect()
}
