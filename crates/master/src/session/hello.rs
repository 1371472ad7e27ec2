//! The beginning of a session: the hello is read and checked, the worker registered, differences repaired, the welcome
//! made.

use std::time::Duration;

use chrono::Utc;
use gaffer_domain::ProjectId;
use gaffer_domain::worker::HEARTBEAT_INTERVAL;
use gaffer_domain::worker::place::Place;
use gaffer_protocol::wire::{
    GoodbyeCode, HeldAttempt, PROTOCOL_VERSION, StoredOutput, ToMaster, ToWorker, Welcome,
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::checks::checked;
use super::clean::{clean, cleaned};
use super::read::{Frame, next_frame};
use super::{SessionEnd, Source, held_of};
use crate::Master;
use crate::arrivals::{self, Turn};
use crate::store::StoreError;
use crate::store::keys::KeyHolder;
use crate::store::places::BeforeHello;
use crate::store::workers::Registered;

/// A worker has so long to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the hello and registers the worker.
pub(super) async fn begin(
    master: &Master,
    source: &mut Source,
    key: &KeyHolder,
    session: Uuid,
) -> Result<(Registered, Vec<HeldAttempt>, Turn), SessionEnd> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, next_frame(source)).await;
    let first = first.map_err(|_| SessionEnd::protocol("there was no hello within 10 seconds"))??;
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
    let hello = cleaned(*hello)?;
    let identity: [u8; 32] = Sha256::digest(hello.identity.as_bytes()).into();
    master.hub.may_say_hello(identity).map_err(|wait| {
        let wait = wait.as_secs() + 1;
        SessionEnd::protocol(format!("this worker connects too often; it may again in {wait} s"))
    })?;
    let turn = master.arrivals.turn(identity).await;
    let place = Place { boot_id: hello.boot_id.clone(), ..hello.place.clone() };
    let known = let_in(master, key.project, &identity, &hello.name, &place).await?;
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
    if known.as_ref() != Some(&place) {
        master
            .store
            .worker_placed(registered.id, &place)
            .await
            .map_err(|error| SessionEnd::Disconnected(error.to_string()))?;
    }
    Ok((registered, hello.held, turn))
}

/// Whether this worker is the one that its identity says, and has the name to itself that a lost one had. Gives where it
/// was before.
async fn let_in(
    master: &Master,
    project: ProjectId,
    identity: &[u8; 32],
    name: &str,
    place: &Place,
) -> Result<Option<Place>, SessionEnd> {
    let disconnected = |error: StoreError| SessionEnd::Disconnected(error.to_string());
    let BeforeHello { known, name_is_of_lost } =
        master.store.worker_before_hello(project, identity, name).await.map_err(disconnected)?;
    if let Some(known) = &known
        && let Err(duplicate) =
            arrivals::admit(&master.store, &master.hub, known, place).await.map_err(disconnected)?
    {
        tracing::warn!(
            worker = %duplicate.holder_name, relation = ?duplicate.relation, host = place.host,
            "a copy of a worker's data directory was started elsewhere; the worker keeps its place"
        );
        if master.arrivals.is_news(duplicate.holder) {
            let event = duplicate.event(place);
            master.store.worker_duplicate(duplicate.holder, &event).await.map_err(disconnected)?;
            master.hub.send(duplicate.holder, ToWorker::Notice { message: event });
            master.changes.announce(&[]);
        }
        let code = match duplicate.begins_anew {
            true => GoodbyeCode::BeginAnew,
            false => GoodbyeCode::Duplicate,
        };
        return Err(SessionEnd::Goodbye(code, duplicate.message()));
    }
    if name_is_of_lost {
        master.store.worker_name_release(project, name).await.map_err(disconnected)?;
    }
    Ok(known.map(|known| known.place))
}

/// Repairs what worker and database disagree on; says how much of each held attempt's output is stored.
pub(super) async fn welcome(
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
