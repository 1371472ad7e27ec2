//! The side of a session that reads: takes what the worker says to the recorder, the hub and the store.

use std::sync::Arc;

use axum::extract::ws::Message;
use bytes::Bytes;
use chrono::Utc;
use futures::StreamExt;
use gaffer_domain::worker::SILENCE_LIMIT;
use gaffer_protocol::output::EncodedChunk;
use gaffer_protocol::wire::{Ended, GoodbyeCode, Heartbeat, MAX_MESSAGES_PER_FRAME, ToMaster, ToWorker};
use tokio::sync::watch;

use super::checks::{checked, checked_chunk};
use super::reports::{write_drivers, write_note};
use super::{SessionEnd, Source, held_of, told_to_go};
use crate::Master;
use crate::hub::{Goodbye, SessionHandle};
use crate::live::Arrival;
use crate::store::output::ReceivedOutput;

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
        let recorded = match checked(message, Utc::now(), |at| master.clocks.ours(worker, at))? {
            ToMaster::Hello(_) => return Err(SessionEnd::protocol("a second hello in one session")),
            ToMaster::Heartbeat(heartbeat) => {
                let Heartbeat { sequence, held, stats, clock } = *heartbeat;
                handle.heard(Some(stats));
                master.clocks.heartbeat(worker, sequence, clock, Utc::now());
                // It renews the worker's leases.
                if master.store.leadership().is_trusted() {
                    handle.send(ToWorker::Alive { sequence });
                }
                recorder.reconcile_heartbeat(worker, held_of(&held)).await
            }
            ToMaster::Started { attempt, at, container } => {
                recorder.started(worker, actor, attempt, at, container).await
            }
            ToMaster::Noted { attempt, message } => {
                if let Some(note) = handle.reports.note(attempt, &message) {
                    write_note(master, handle, attempt, &note).await;
                }
                Ok(())
            }
            ToMaster::Drivers { drivers } => {
                if let Some(drivers) = handle.reports.drivers(drivers) {
                    // Not stored, it would be forgotten until the next hello.
                    let written = write_drivers(master, handle, &drivers).await;
                    written.map_err(|error| SessionEnd::Disconnected(error.to_string()))?;
                }
                Ok(())
            }
            ToMaster::InputTaken(taken) => {
                master.inputs.taken(worker, taken);
                Ok(())
            }
            ToMaster::Returned { attempt } => recorder.returned(worker, actor, attempt).await,
            ToMaster::Ended(mut ended) => match end_of_output(master, handle, &mut ended).await? {
                Some((received, Course::UnderWay)) => recorder.ended(worker, actor, ended, received).await,
                Some((received, Course::Over)) => match handle.reports.late_end(ended, received) {
                    Some(ended) => recorder.ended(worker, actor, ended, received).await,
                    None => Ok(()),
                },
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

/// Whether an attempt is over by what is recorded.
enum Course {
    UnderWay,
    Over,
}

/// Checks a reported end against the output that has arrived, after which no more is taken. Returns what is known of that
/// output; none if the attempt does not exist (any more) or is another worker's, so that there is nothing to record.
async fn end_of_output(
    master: &Master,
    handle: &SessionHandle,
    ended: &mut Ended,
) -> Result<Option<(ReceivedOutput, Course)>, SessionEnd> {
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
        let message = "the output is not what its worker read: the checksums differ";
        if let Some(note) = handle.reports.note(ended.attempt, message) {
            write_note(master, handle, ended.attempt, &note).await;
        }
    }
    // A worker that lost part of its own record may know of less than is stored here; what is stored counts.
    if ended.output_bytes < received.bytes || ended.output_sha256.is_none() {
        ended.output_bytes = received.bytes;
        ended.output_sha256 = ours;
    }
    let course = if live.was_over { Course::Over } else { Course::UnderWay };
    Ok(Some((ReceivedOutput { lines: received.lines, complete }, course)))
}

async fn output(master: &Arc<Master>, handle: &Arc<SessionHandle>, frame: Bytes) -> Result<(), SessionEnd> {
    handle.heard(None);
    let malformed = |error: gaffer_protocol::output::Malformed| SessionEnd::protocol(error.to_string());
    let encoded = EncodedChunk::from_frame(frame).map_err(malformed)?;
    let chunk = encoded.decode().map_err(malformed)?;
    let (encoded, chunk) = checked_chunk(encoded, chunk, Utc::now())?;
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
    let end = chunk.end();
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
        Arrival::AfterEnd => {
            // Closed is closed. The worker is told to forget it: there will never be a place for it.
            let message = "output came after the end of the attempt and was refused";
            if let Some(note) = handle.reports.note(attempt, message) {
                tracing::warn!(%attempt, worker = %handle.worker_name, "{message}");
                write_note(master, handle, attempt, &note).await;
            }
            handle.send(ToWorker::OutputStored { attempt, offset: end });
            Ok(())
        }
        Arrival::Gap(offset) => {
            handle.send(ToWorker::OutputWanted { attempt, offset });
            Ok(())
        }
    }
}
