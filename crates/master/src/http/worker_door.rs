//! The door for workers: checks the key, then upgrades to a WebSocket.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use gaffer_protocol::output::MAX_OUTPUT_FRAME_BYTES;
use gaffer_protocol::wire::{MAX_CONTROL_FRAME_BYTES, WORKER_PATH};

use super::Doors;
use super::auth::{bearer, proven};
use super::error::Error;
use super::peer::Peer;
use crate::control::Control;
use crate::operations::sign_in;
use crate::records::KeyKind;
use crate::session;

/// An idle connection costs about this much; the library's own choice of 128 KiB would be felt with a thousand workers.
const READ_BUFFER_BYTES: usize = 8 << 10;

/// The only door behind which control is.
#[derive(Debug, Clone)]
struct WorkerDoor {
    doors: Doors,
    control: Arc<Control>,
}

pub fn route<S: Clone + Send + Sync + 'static>(doors: Doors, control: Arc<Control>) -> Router<S> {
    Router::new().route(WORKER_PATH, get(connect)).with_state(WorkerDoor { doors, control })
}

/// `GET /worker`
async fn connect(
    State(WorkerDoor { doors, control }): State<WorkerDoor>,
    headers: HeaderMap,
    peer: Peer,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Error> {
    let token = bearer(&headers)
        .ok_or_else(|| Error::Unauthorized("key_missing", "no worker key: set API_KEY".to_owned()))?;
    let holder = sign_in::holder_of_key(&doors.context, KeyKind::Worker, token, peer.address()).await;
    let holder = proven(holder, &peer)?;
    let upgrade = upgrade.map_err(|_| Error::Invalid {
        code: "not_a_websocket",
        detail: "expected a WebSocket upgrade; configure the reverse proxy to pass Upgrade and Connection"
            .into(),
        errors: Vec::new(),
    })?;
    if control.shutdown.is_cancelled() {
        return Err(Error::ShuttingDown);
    }
    peer.becomes_session();
    let largest = MAX_CONTROL_FRAME_BYTES.max(MAX_OUTPUT_FRAME_BYTES);
    Ok(upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(largest)
        .max_frame_size(largest)
        .on_upgrade(move |socket| session::serve(control, socket, holder)))
}
