//! The beginning of a session: the hello is read and checked, the worker registered, differences repaired, the welcome
//! made. The database may take its time for that: what fails for now is tried again while the worker waits.

use std::time::Duration;

use gaffer_domain::AttemptRef;
use gaffer_domain::worker::HEARTBEAT_INTERVAL;
use gaffer_protocol::wire::{
    GoodbyeCode, HeldAttempt, Hello, PROTOCOL_VERSION, StoredOutput, ToMaster, ToWorker, Welcome,
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::clean::{clean, cleaned};
use super::read::{Frame, next_frame};
use super::{SessionEnd, Source, held_of};
use crate::Master;
use crate::hub::SessionHandle;
use crate::store::StoreError;
use crate::store::keys::KeyHolder;
use crate::store::workers::Registered;

/// A worker has so long to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Waits between tries while the database is away.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// Reads the hello.
pub(super) async fn begin(source: &mut Source) -> Result<Hello, SessionEnd> {
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
    cleaned(*hello)
}

/// Registers the worker.
pub(super) async fn register(
    master: &Master,
    key: &KeyHolder,
    session: Uuid,
    hello: &Hello,
) -> Result<Registered, SessionEnd> {
    let identity: [u8; 32] = Sha256::digest(hello.identity.as_bytes()).into();
    let register = || master.store.worker_hello(key.project, key.key, session, &identity, hello);
    let registered = in_turn(master, register)
        .await?
        .ok_or_else(|| SessionEnd::protocol("this worker's identity or name belongs to somebody else"))?;
    tracing::info!(
        worker = %registered.name, id = %registered.id, version = %hello.version, held = hello.held.len(),
        new = registered.is_new, "worker connected"
    );
    Ok(registered)
}

/// Repairs what worker and database disagree on; says how much of each held attempt's output is stored.
pub(super) async fn welcome(
    master: &Master,
    handle: &SessionHandle,
    registered: &Registered,
    held: &[HeldAttempt],
) -> Result<ToWorker, SessionEnd> {
    master
        .recorder
        .reconcile_hello(registered.id, held_of(held), registered.rebooted)
        .await
        .map_err(|_| shutting_down())?;
    if registered.rebooted {
        // Only now: had it been stored with the hello and this master died in between, the losses would be forgotten.
        in_turn(master, || master.store.worker_booted(registered.id, &registered.boot_id)).await?;
    }
    let held: Vec<AttemptRef> = held.iter().map(|held| held.attempt).collect();
    let open = in_turn(master, || master.live.open_all(&master.store, &held, registered.id)).await?;
    master.clocks.welcomed(registered.id);
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
    master: &Master,
    ask: impl Fn() -> F,
) -> Result<T, SessionEnd> {
    let mut wait = RETRY_FIRST;
    loop {
        let answer = {
            let _turn = master.hub.hello_turn().await;
            ask().await
        };
        match answer {
            Ok(answer) => return Ok(answer),
            Err(_) if master.shutdown.is_cancelled() => return Err(shutting_down()),
            Err(StoreError::Unavailable(error)) => {
                tracing::debug!(%error, "a worker waits for the database");
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
