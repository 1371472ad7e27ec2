//! One worker's session, from hello to goodbye.
//!
//! Nothing that a worker says is believed beyond its own attempts: the gate compares every report with the worker that
//! holds the attempt, and output is taken only from the worker that the attempt was placed on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use gaffer_domain::AttemptRef;
use gaffer_domain::constraint::is_resource_name;
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::worker::{HEARTBEAT_INTERVAL, Held, SILENCE_LIMIT};
use gaffer_protocol::output::EncodedChunk;
use gaffer_protocol::wire::{
    ContainerFacts, DriverStatus, Ended, GoodbyeCode, Heartbeat, HeldAttempt, Hello, MAX_MESSAGES_PER_FRAME,
    PROTOCOL_VERSION, StoredOutput, ToMaster, ToWorker, Welcome,
};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::Master;
use crate::boot_clock::BootTime;
use crate::hub::{Goodbye, SessionEnds, SessionHandle};
use crate::live::Arrival;
use crate::store::keys::KeyHolder;
use crate::store::workers::Registered;

/// A worker has so long to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A frame that can't be written within this time ends the session.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest text that is taken from a worker for people to read.
const MAX_TEXT_CHARS: usize = 2_000;
const MAX_NAME_CHARS: usize = 100;
const MAX_LABELS: usize = 64;
const MAX_COUNTABLES: usize = 64;
const MAX_DRIVERS: usize = 16;
const MAX_PORTS: usize = 64;
const MAX_NOTE_CHARS: usize = 300;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    /// The connection is gone.
    #[error("{0}")]
    Disconnected(String),
    /// The worker is told to go.
    #[error("{1}")]
    Goodbye(GoodbyeCode, String),
}

impl SessionEnd {
    fn protocol(message: impl Into<String>) -> SessionEnd {
        SessionEnd::Goodbye(GoodbyeCode::ProtocolError, message.into())
    }
}

type Sink = SplitSink<WebSocket, Message>;
type Source = SplitStream<WebSocket>;

/// Serves one connection until it ends.
pub async fn serve(master: Arc<Master>, socket: WebSocket, key: KeyHolder) {
    let (mut sink, mut source) = socket.split();
    let id = Uuid::now_v7();
    match begin(&master, &mut source, &key, id).await {
        Ok((registered, held)) => {
            let (handle, ends) = SessionHandle::new(id, registered.id, &registered.name, key.key);
            if let Some(older) = master.hub.attach(handle.clone()) {
                // What that one has taken in is on its way to the database then, and what is said next comes after it.
                older.no_longer_heard().await;
            }
            let why = talk(&master, &handle, ends, sink, source, registered, held).await;
            master.hub.detach(handle.worker, id);
            let silent_for = handle.last_seen().0.elapsed();
            master.absences.note(handle.worker, BootTime::now(), silent_for);
            let silent = silent_for.as_secs_f64();
            tracing::info!(worker = %handle.worker_name, reason = %why, "worker session ended");
            goodbye(&master, &handle, id, silent, &why.to_string()).await;
        }
        Err(end) => {
            tracing::warn!(key = %key.name, reason = %end, "a worker's hello failed");
            if let SessionEnd::Goodbye(code, message) = end {
                let _ = say_goodbye(&mut sink, code, message).await;
            }
        }
    }
}

/// Takes the worker off the list of the connected. While the database is away this is tried again: a worker that stays
/// "online" for ever would keep its tasks for ever.
async fn goodbye(master: &Master, handle: &SessionHandle, id: Uuid, silent_secs: f64, why: &str) {
    let ended = Instant::now();
    let mut wait = Duration::from_millis(100);
    loop {
        let silent_secs = silent_secs + ended.elapsed().as_secs_f64();
        match master.store.worker_goodbye(handle.worker, id, silent_secs, why).await {
            Ok(()) => break,
            Err(_) if master.shutdown.is_cancelled() => break,
            Err(error) => tracing::debug!(%error, "could not note the end of a session; trying again"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(2));
    }
    master.changes.announce(&[]);
    master.sweeper_wake.notify_one();
}

/// Reads the hello and registers the worker.
async fn begin(
    master: &Master,
    source: &mut Source,
    key: &KeyHolder,
    session: Uuid,
) -> Result<(Registered, Vec<HeldAttempt>), SessionEnd> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, next_frame(source)).await;
    let first = first.map_err(|_| SessionEnd::protocol("there was no hello within 10 seconds"))??;
    let Frame::Control(messages) = first else {
        return Err(SessionEnd::protocol("the first frame must be a hello"));
    };
    let Some(ToMaster::Hello(hello)) = messages.into_iter().next() else {
        return Err(SessionEnd::protocol("the first message must be a hello"));
    };
    if hello.protocol != PROTOCOL_VERSION {
        let message = format!(
            "this master ({}) speaks worker protocol {PROTOCOL_VERSION}, the worker ({}) speaks {}: run the same \
             version of gaffer on both",
            env!("CARGO_PKG_VERSION"),
            clean(&hello.version, 40),
            hello.protocol
        );
        return Err(SessionEnd::Goodbye(GoodbyeCode::ProtocolVersion, message));
    }
    let hello = cleaned(*hello)?;
    let identity: [u8; 32] = Sha256::digest(hello.identity.as_bytes()).into();
    let registered = master
        .store
        .worker_hello(key.project, key.key, session, &identity, &hello)
        .await
        .map_err(|error| SessionEnd::Disconnected(error.to_string()))?
        .ok_or_else(|| SessionEnd::protocol("this worker's identity or name belongs to somebody else"))?;
    tracing::info!(
        worker = %registered.name, id = %registered.id, version = %hello.version, held = hello.held.len(),
        new = registered.is_new, "worker connected"
    );
    Ok((registered, hello.held))
}

/// Reconciles, welcomes, then passes messages on until something ends.
async fn talk(
    master: &Arc<Master>,
    handle: &Arc<SessionHandle>,
    ends: SessionEnds,
    mut sink: Sink,
    source: Source,
    registered: Registered,
    held: Vec<HeldAttempt>,
) -> SessionEnd {
    let welcome = match welcome(master, &registered, &held).await {
        Ok(welcome) => welcome,
        Err(end) => {
            if let SessionEnd::Goodbye(code, message) = &end {
                let _ = say_goodbye(&mut sink, *code, message.clone()).await;
            }
            return end;
        }
    };
    master.changes.announce(&[]);
    master.scheduler_wake.notify_one();

    let SessionEnds { queue, goodbye, hearing } = ends;
    let writer = tokio::spawn(write(sink, welcome, queue, goodbye.clone()));
    let end = read(master, handle, source, goodbye).await;
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

/// Repairs what worker and database disagree on; says how much of each held attempt's output is stored.
async fn welcome(
    master: &Master,
    registered: &Registered,
    held: &[HeldAttempt],
) -> Result<ToWorker, SessionEnd> {
    let shutting_down =
        |_| SessionEnd::Goodbye(GoodbyeCode::ShuttingDown, "the master is shutting down".into());
    master
        .recorder
        .reconcile_hello(registered.id, held_of(held), registered.rebooted)
        .await
        .map_err(shutting_down)?;
    if registered.rebooted {
        // Only now: had it been stored with the hello and this master died in between, the losses would be forgotten.
        master
            .store
            .worker_booted(registered.id, &registered.boot_id)
            .await
            .map_err(|error| SessionEnd::Disconnected(error.to_string()))?;
    }
    let mut stored = Vec::new();
    for held in held {
        let live = master
            .live
            .open(&master.store, held.attempt, registered.id)
            .await
            .map_err(|error| SessionEnd::Disconnected(error.to_string()))?;
        if let Some(live) = live {
            stored.push(StoredOutput { attempt: held.attempt, offset: live.stored_bytes() });
        }
    }
    master.clocks.welcomed(registered.id);
    // It renews the worker's leases, too.
    if !master.store.leadership().is_trusted() {
        return Err(SessionEnd::Disconnected("this master does not know whether it still leads".to_owned()));
    }
    Ok(ToWorker::Welcome(Welcome {
        worker: registered.id,
        name: registered.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        heartbeat: HEARTBEAT_INTERVAL,
        stored,
    }))
}

fn held_of(held: &[HeldAttempt]) -> Vec<Held> {
    held.iter().map(|held| Held { attempt: held.attempt, phase: held.phase }).collect()
}

/// Sends what is queued, as many messages in a frame as are there, until the session is to end.
async fn write(
    mut sink: Sink,
    welcome: ToWorker,
    mut queue: mpsc::Receiver<ToWorker>,
    mut goodbye: watch::Receiver<Option<Goodbye>>,
) {
    let mut messages = vec![welcome];
    loop {
        let Ok(text) = serde_json::to_string(&messages) else { return };
        match tokio::time::timeout(WRITE_TIMEOUT, sink.send(Message::Text(text.into()))).await {
            Ok(Ok(())) => messages.clear(),
            _ => return,
        }
        tokio::select! {
            biased;
            _ = goodbye.wait_for(Option::is_some) => break,
            received = queue.recv_many(&mut messages, MAX_MESSAGES_PER_FRAME) => if received == 0 { break },
        }
    }
    let told = goodbye.borrow().clone();
    if let Some(told) = told {
        let _ = say_goodbye(&mut sink, told.code, told.message).await;
    }
}

async fn say_goodbye(sink: &mut Sink, code: GoodbyeCode, message: String) -> Result<(), axum::Error> {
    let farewell = async {
        let text = serde_json::to_string(&[ToWorker::Goodbye { code, message }]).unwrap_or_default();
        sink.send(Message::Text(text.into())).await?;
        sink.send(Message::Close(Some(CloseFrame { code: 1000, reason: "goodbye".into() }))).await
    };
    match tokio::time::timeout(Duration::from_secs(2), farewell).await {
        Ok(sent) => sent,
        Err(_) => Ok(()),
    }
}

/// What a frame holds.
enum Frame {
    Control(Vec<ToMaster>),
    Output(Bytes),
    Nothing,
}

async fn next_frame(source: &mut Source) -> Result<Frame, SessionEnd> {
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
async fn read(
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
                // It renews the worker's leases.
                if master.store.leadership().is_trusted() {
                    handle.send(ToWorker::Alive { sequence });
                }
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

/// A hello in which every text is fit to be stored and shown.
fn cleaned(mut hello: Hello) -> Result<Hello, SessionEnd> {
    hello.name = clean(&hello.name, MAX_NAME_CHARS).trim().to_owned();
    // A name that is a number could not be told from one.
    if hello.name.is_empty() || hello.name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(SessionEnd::protocol("a worker's name must have a letter in it (GAFFER_WORKER_NAME)"));
    }
    if hello.labels.len() > MAX_LABELS || hello.warnings.len() > 16 {
        return Err(SessionEnd::protocol("the hello has too many labels or warnings"));
    }
    if hello.countables.len() > MAX_COUNTABLES || !hello.countables.keys().all(|name| is_resource_name(name))
    {
        return Err(SessionEnd::protocol(
            "the hello has too many countable resources, or one with an odd name",
        ));
    }
    if hello.capacity.memory.get() > i64::MAX as u64 || hello.capacity.disk.get() > i64::MAX as u64 {
        return Err(SessionEnd::protocol("the hello offers more memory or disk than there is in the world"));
    }
    hello.capacity.cpu = hello.capacity.cpu.min(gaffer_domain::quantity::Cpu::from_millis(i32::MAX as u32));
    hello.labels = hello.labels.iter().map(|(key, value)| (clean(key, 63), clean(value, 255))).collect();
    for text in
        [&mut hello.datacenter, &mut hello.arch, &mut hello.os, &mut hello.version, &mut hello.boot_id]
    {
        *text = clean(text, MAX_NAME_CHARS);
    }
    for warning in &mut hello.warnings {
        *warning = clean(warning, MAX_TEXT_CHARS);
    }
    hello.drivers = cleaned_drivers(hello.drivers)?;
    Ok(hello)
}

fn cleaned_drivers(mut drivers: Vec<DriverStatus>) -> Result<Vec<DriverStatus>, SessionEnd> {
    if drivers.len() > MAX_DRIVERS {
        return Err(SessionEnd::protocol("the worker speaks of too many drivers"));
    }
    for driver in &mut drivers {
        driver.detail = driver.detail.as_ref().map(|detail| clean(detail, MAX_TEXT_CHARS));
    }
    Ok(drivers)
}

/// None if they are beyond all measure: they are for people, and nothing depends on them.
fn cleaned_facts(facts: ContainerFacts) -> Option<ContainerFacts> {
    let ContainerFacts { id, image, ports } = facts;
    (ports.len() <= MAX_PORTS).then(|| ContainerFacts {
        id: clean(&id, MAX_NAME_CHARS),
        image: clean(&image, MAX_TEXT_CHARS),
        ports,
    })
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

/// Text from outside without control characters (which the database and terminals mind), and not too long.
fn clean(text: &str, max_chars: usize) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(max_chars).collect()
}
