//! The beginning of a session: the hello is read and checked, the worker registered, differences repaired, the welcome
//! made.

use std::time::Duration;

use gaffer_domain::worker::HEARTBEAT_INTERVAL;
use gaffer_protocol::wire::{
    GoodbyeCode, HeldAttempt, PROTOCOL_VERSION, StoredOutput, ToMaster, ToWorker, Welcome,
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::clean::{clean, cleaned};
use super::read::{Frame, next_frame};
use super::{SessionEnd, Source, held_of};
use crate::Master;
use crate::store::keys::KeyHolder;
use crate::store::workers::Registered;

/// A worker has so long to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the hello and registers the worker.
pub(super) async fn begin(
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
    Ok(ToWorker::Welcome(Welcome {
        worker: registered.id,
        name: registered.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        heartbeat: HEARTBEAT_INTERVAL,
        stored,
    }))
}
