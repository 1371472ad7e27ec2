//! The side of a session that reads: takes what the worker says to the recorder, the hub and the store.

use std::sync::Arc;

use axum::extract::ws::Message;
use bytes::Bytes;
use futures::StreamExt;
use gaffer_domain::AttemptRef;
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::worker::SILENCE_LIMIT;
use gaffer_protocol::output::EncodedChunk;
use gaffer_protocol::wire::{
    DriverStatus, Ended, GoodbyeCode, Heartbeat, MAX_MESSAGES_PER_FRAME, ToMaster, ToWorker,
};
use tokio::sync::watch;

use super::clean::{MAX_NOTE_CHARS, MAX_TEXT_CHARS, clean, cleaned_drivers, cleaned_facts};
use super::{SessionEnd, Source, held_of, told_to_go};
use crate::Master;
use crate::hub::{Goodbye, SessionHandle};
use crate::live::Arrival;

/// What a frame holds.
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

/// Reads until the session ends. A frame that was begun with is dealt with to its end: output that counts as received
/// has to reach the recorder.
pub(super) async fn read(
    master: &Arc<Master>,
    handle: &Arc<SessionHandle>,
    mut source: Source,
    mut goodbye: watch::Receiver<Option<Goodbye>>,
) -> SessionEnd {
    let actor: Arc<str> = format!("worker {}", handle.worker_name).into();
    loop {
        let frame = tokio::select! {
            biased;
            told = told_to_go(&mut goodbye) => return SessionEnd::Goodbye(told.code, told.message),
            frame = tokio::time::timeout(SILENCE_LIMIT.to_std(), next_frame(&mut source)) => frame,
        };
        let handled = match frame {
            Err(_) => Err(SessionEnd::Disconnected(format!("nothing was heard for {SILENCE_LIMIT}"))),
            Ok(Err(end)) => Err(end),
            Ok(Ok(Frame::Nothing)) => Ok(()),
            Ok(Ok(Frame::Output(frame))) => output(master, handle, frame).await,
            Ok(Ok(Frame::Control(messages))) => control(master, handle, &actor, messages).await,
        };
        if let Err(end) = handled {
            return end;
        }
    }
}

async fn control(
    master: &Arc<Master>,
    handle: &Arc<SessionHandle>,
    actor: &Arc<str>,
    messages: Vec<ToMaster>,
) -> Result<(), SessionEnd> {
    let worker = handle.worker;
    let recorder = &master.recorder;
    handle.heard(None);
    for message in messages {
        let recorded = match message {
            ToMaster::Hello(_) => return Err(SessionEnd::protocol("a second hello in one session")),
            ToMaster::Heartbeat(heartbeat) => {
                let Heartbeat { sequence, held, stats, clock } = *heartbeat;
                handle.heard(Some(stats));
                master.clocks.heartbeat(worker, sequence, clock, chrono::Utc::now());
                handle.send(ToWorker::Alive { sequence });
                recorder.reconcile_heartbeat(worker, held_of(&held)).await
            }
            ToMaster::Started { attempt, at, container } => {
                let container = container.and_then(cleaned_facts);
                let at = master.clocks.ours(worker, at);
                recorder.started(worker, actor, attempt, at, container).await
            }
            ToMaster::Noted { attempt, message } => {
                note(master, handle, attempt, &message).await;
                Ok(())
            }
            ToMaster::Drivers { drivers } => {
                drivers_changed(master, handle, drivers).await?;
                Ok(())
            }
            ToMaster::InputTaken(taken) => {
                master.inputs.taken(worker, taken);
                Ok(())
            }
            ToMaster::Returned { attempt } => recorder.returned(worker, actor, attempt).await,
            ToMaster::Ended(mut ended) => match end_of_output(master, handle, &mut ended).await? {
                Some(lines) => recorder.ended(worker, actor, ended, lines).await,
                None => {
                    handle.send(ToWorker::EndStored { attempt: ended.attempt });
                    Ok(())
                }
            },
        };
        recorded.map_err(|error| SessionEnd::Goodbye(GoodbyeCode::ShuttingDown, error.to_string()))?;
    }
    Ok(())
}

/// Checks a reported end against the output that has arrived. Returns the line ends in it; none if the attempt does
/// not exist (any more) or is another worker's, so that there is nothing to record.
async fn end_of_output(
    master: &Master,
    handle: &SessionHandle,
    ended: &mut Ended,
) -> Result<Option<u64>, SessionEnd> {
    let live = master
        .live
        .open(&master.store, ended.attempt, handle.worker)
        .await
        .map_err(|error| SessionEnd::Disconnected(error.to_string()))?;
    let Some(live) = live else { return Ok(None) };
    let received = live.received();
    if ended.output_bytes > received.bytes {
        return Err(SessionEnd::protocol(format!(
            "the end of attempt {} speaks of {} bytes of output, only {} have arrived",
            ended.attempt, ended.output_bytes, received.bytes
        )));
    }
    if let (Some(theirs), Some(ours)) = (&ended.output_sha256, live.sha256())
        && ended.output_bytes == received.bytes
        && *theirs != ours
    {
        tracing::error!(attempt = %ended.attempt, theirs, ours, "the output's checksums differ");
        let message = "the output is not what its worker read: the checksums differ";
        let noted = master.store.attempt_note(handle.worker, ended.attempt, message).await;
        noted.map_err(|error| SessionEnd::Disconnected(error.to_string()))?;
    }
    // A worker that lost part of its own record may know of less than is stored here; what is stored counts.
    if ended.output_bytes < received.bytes || ended.output_sha256.is_none() {
        ended.output_bytes = received.bytes;
        ended.output_sha256 = live.sha256();
    }
    if let AttemptEnd::StartFailed { message, .. } = &mut ended.end {
        *message = clean(message, MAX_TEXT_CHARS);
    }
    ended.started_at = ended.started_at.map(|at| master.clocks.ours(handle.worker, at));
    ended.ended_at = master.clocks.ours(handle.worker, ended.ended_at);
    ended.output_sha256 = ended.output_sha256.take().map(|sum| clean(&sum, 64));
    ended.container = ended.container.take().and_then(cleaned_facts);
    Ok(Some(received.lines))
}

async fn output(master: &Arc<Master>, handle: &Arc<SessionHandle>, frame: Bytes) -> Result<(), SessionEnd> {
    handle.heard(None);
    let malformed = |error: gaffer_protocol::output::Malformed| SessionEnd::protocol(error.to_string());
    let encoded = EncodedChunk::from_frame(frame).map_err(malformed)?;
    let chunk = encoded.decode().map_err(malformed)?;
    let attempt = chunk.attempt;
    let live = master
        .live
        .open(&master.store, attempt, handle.worker)
        .await
        .map_err(|error| SessionEnd::Disconnected(error.to_string()))?;
    let Some(live) = live else {
        // Of a job that was deleted, or of somebody else's attempt: there is no place for it, and never will be.
        handle.send(ToWorker::OutputStored { attempt, offset: chunk.end() });
        return Ok(());
    };
    match live.arrive(encoded, chunk) {
        Arrival::New(row) => master
            .recorder
            .output(row, live)
            .await
            .map_err(|error| SessionEnd::Goodbye(GoodbyeCode::ShuttingDown, error.to_string())),
        Arrival::Repeated => {
            handle.send(ToWorker::OutputStored { attempt, offset: live.stored_bytes() });
            Ok(())
        }
        Arrival::Gap(offset) => {
            handle.send(ToWorker::OutputWanted { attempt, offset });
            Ok(())
        }
    }
}

/// Records something worth a line in an attempt's history. What comes too fast, or is not this worker's to say, is
/// left out.
async fn note(master: &Master, handle: &SessionHandle, attempt: AttemptRef, message: &str) {
    if !handle.may_note() {
        return;
    }
    let message = clean(message, MAX_NOTE_CHARS);
    match master.store.attempt_note(handle.worker, attempt, &message).await {
        Ok(Some(job)) => master.changes.announce(&[job]),
        Ok(None) => {}
        Err(error) => tracing::debug!(%attempt, %error, "a note was not recorded"),
    }
}

/// A driver of the worker fails, or works again.
async fn drivers_changed(
    master: &Master,
    handle: &SessionHandle,
    drivers: Vec<DriverStatus>,
) -> Result<(), SessionEnd> {
    let drivers = cleaned_drivers(drivers)?;
    // Not stored, it would be forgotten until the next hello.
    master
        .store
        .worker_drivers(handle.worker, handle.id, &drivers)
        .await
        .map_err(|error| SessionEnd::Disconnected(error.to_string()))?;
    master.changes.announce(&[]);
    master.scheduler_wake.notify_one();
    Ok(())
}
