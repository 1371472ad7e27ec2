//! The beginning of a session: reads and checks the hello, registers the worker, repairs differences, sends the
//! welcome. Temporary database errors are retried while the worker waits.

use std::time::Duration;

use chrono::Utc;
use gaffer_domain::AttemptRef;
use gaffer_domain::worker::HEARTBEAT_INTERVAL;
use gaffer_domain::worker::place::Place;
use gaffer_protocol::wire::{
    GoodbyeCode, HeldAttempt, Hello, PROTOCOL_VERSION, StoredOutput, ToMaster, ToWorker, Welcome,
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::checks::checked;
use super::claims::{enrol, may_claim};
use super::clean::{clean, cleaned};
use super::read::{Frame, next_frame};
use super::{SessionEnd, Source, held_of};
use crate::arrivals::{self, Turn};
use crate::control::Control;
use crate::hub::SessionHandle;
use crate::store::StoreError;
use crate::store::hellos::{BeforeHello, Newcomer, Registered};
use crate::store::keys::KeyHolder;
use crate::store::places::KnownPlace;

/// Timeout of the hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Waits between tries while the database is away.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// Reads the hello.
pub(super) async fn begin(source: &mut Source) -> Result<Hello, SessionEnd> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, next_frame(source)).await;
    let first = first.map_err(|_| SessionEnd::protocol("no hello within 10 seconds"))??;
    let Frame::Control(messages) = first else {
        return Err(SessionEnd::protocol("the first frame must be a hello"));
    };
    let Some(first @ ToMaster::Hello(_)) = messages.into_iter().next() else {
        return Err(SessionEnd::protocol("the first message must be a hello"));
    };
    let ToMaster::Hello(hello) = checked(first, Utc::now(), |at| at)? else {
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
    cleaned(*hello)
}

/// Registers the worker, with the number of the key that its session ends with. No other session of its begins before the turn ends
/// that this gives.
pub(super) async fn register(
    control: &Control,
    key: &KeyHolder,
    session: Uuid,
    hello: &Hello,
) -> Result<(Registered, i64, Turn), SessionEnd> {
    let identity: [u8; 32] = Sha256::digest(hello.identity.as_bytes()).into();
    control.hub.may_say_hello(identity).map_err(|wait| {
        let wait = wait.as_secs() + 1;
        SessionEnd::protocol(format!("this worker connects too often; retry in {wait} s"))
    })?;
    may_claim(key, hello, &identity)?;
    let turn = control.arrivals.turn(identity).await;
    let place = Place { boot_id: hello.boot_id.clone(), ..hello.place.clone() };
    let newcomer =
        Newcomer { project: key.project, key: key.key, session, identity: &identity, hello, place: &place };
    let before = let_in(control, &newcomer).await?;
    let own_key = in_turn(control, || enrol(control, key, hello, &identity)).await??;
    let newcomer = Newcomer { key: own_key, ..newcomer };
    let register = || control.store.worker_hello(&newcomer, before.clone());
    // Without a turn: those that wait are registered together.
    let registered = patiently(control, register).await?.ok_or_else(|| {
        SessionEnd::protocol("the identity or name of this worker belongs to another worker")
    })?;
    tracing::info!(
        worker = %registered.name, id = %registered.id, version = %hello.version, held = hello.held.len(),
        new = registered.is_new, "worker connected"
    );
    Ok((registered, own_key, turn))
}

/// Whether this worker is the one of its identity, and may take the name of a lost one. Returns what is known
/// of it.
async fn let_in(control: &Control, newcomer: &Newcomer<'_>) -> Result<BeforeHello, SessionEnd> {
    let look = || control.store.worker_before_hello(newcomer);
    let before = in_turn(control, look).await?;
    if let Some(known) = &before.place {
        // Outside of a turn: this may take seconds and does not use the database.
        let is_well = arrivals::is_holder_well(&control.hub, known, newcomer.place).await;
        in_turn(control, || admit(control, known, newcomer.place, is_well)).await??;
    }
    if before.name_is_of_lost {
        let release = || control.store.worker_name_release(newcomer.project, &newcomer.hello.name);
        in_turn(control, release).await?;
        return in_turn(control, look).await;
    }
    Ok(before)
}

/// Lets a worker with a known identity in, or tells both that it is a copy.
async fn admit(
    control: &Control,
    known: &KnownPlace,
    place: &Place,
    is_well: bool,
) -> Result<Result<(), SessionEnd>, StoreError> {
    if let Err(duplicate) = arrivals::admit(&control.store, known, place, is_well).await? {
        tracing::warn!(
            worker = %duplicate.holder_name, relation = ?duplicate.relation, host = place.host,
            "a copy of a worker's data directory was started elsewhere; the connected worker keeps its identity"
        );
        if control.arrivals.is_news(duplicate.holder) {
            let event = duplicate.event(place);
            control.store.worker_duplicate(duplicate.holder, &event).await?;
            control.hub.send(duplicate.holder, ToWorker::Notice { message: event });
            control.changes.announce(&[]);
        }
        let code = match duplicate.begins_anew {
            true => GoodbyeCode::BeginAnew,
            false => GoodbyeCode::Duplicate,
        };
        return Ok(Err(SessionEnd::Goodbye(code, duplicate.message())));
    }
    Ok(Ok(()))
}

/// Repairs differences between worker and database; returns how much output of each held attempt is stored.
pub(super) async fn welcome(
    control: &Control,
    handle: &SessionHandle,
    registered: &Registered,
    held: &[HeldAttempt],
) -> Result<ToWorker, SessionEnd> {
    let compared =
        control.write_batcher.reconcile_hello(registered.id, held_of(held), registered.rebooted).await;
    if !compared.map_err(|_| shutting_down())? {
        let why = "the database took too long to list the worker's attempts";
        return Err(SessionEnd::Disconnected(why.to_owned()));
    }
    if registered.rebooted {
        // Only now: had it been stored with the hello and this master died in between, the losses would be forgotten.
        in_turn(control, || control.store.worker_booted(registered.id, &registered.boot_id)).await?;
    }
    let held: Vec<AttemptRef> = held.iter().map(|held| held.attempt).collect();
    let open = in_turn(control, || control.live.open_all(&control.store, &held, registered.id)).await?;
    control.clocks.welcomed(registered.id);
    // It renews the worker's leases, too.
    if !control.store.leadership().is_trusted() {
        return Err(SessionEnd::Disconnected("this master cannot confirm that it still leads".to_owned()));
    }
    let stored = open.iter().map(|live| {
        live.session_begins();
        StoredOutput { attempt: live.attempt, offset: live.stored_bytes() }
    });
    Ok(ToWorker::Welcome(Welcome {
        worker: registered.id,
        name: registered.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        heartbeat: HEARTBEAT_INTERVAL,
        stored: stored.collect(),
        output_window: handle.window(),
    }))
}

/// Asks the database when it is this worker's turn, and again while it does not answer.
async fn in_turn<T, F: Future<Output = Result<T, StoreError>>>(
    control: &Control,
    ask: impl Fn() -> F,
) -> Result<T, SessionEnd> {
    let ask = &ask;
    let in_turn = || async move {
        let _turn = control.hub.hello_turn().await;
        ask().await
    };
    patiently(control, in_turn).await
}

/// Asks again while the database does not answer.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
    control: &Control,
    ask: impl Fn() -> F,
) -> Result<T, SessionEnd> {
    let mut wait = RETRY_FIRST;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(_) if control.shutdown.is_cancelled() => return Err(shutting_down()),
            Err(StoreError::Unavailable(error)) => {
                tracing::debug!(%error, "a worker's hello waits for the database");
            }
            Err(error) => return Err(SessionEnd::Disconnected(error.to_string())),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_LONGEST);
    }
}

fn shutting_down() -> SessionEnd {
    SessionEnd::Goodbye(GoodbyeCode::ShuttingDown, "the master is shutting down".to_owned())
}
