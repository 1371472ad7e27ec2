//! The door for workers: checks the key, then upgrades to a WebSocket.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use gaffer_protocol::output::MAX_OUTPUT_FRAME_BYTES;
use gaffer_protocol::wire::MAX_CONTROL_FRAME_BYTES;

use super::auth::{bearer, key_holder};
use super::error::Error;
use super::peer::Peer;
use crate::secret::Purpose;
use crate::{Master, session};

/// An idle connection costs about this much; the library's own choice of 128 KiB would be felt with a thousand workers.
const READ_BUFFER_BYTES: usize = 8 << 10;

/// `GET /worker`
pub async fn connect(
    State(master): State<Arc<Master>>,
    headers: HeaderMap,
    peer: Peer,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Error> {
    let token = bearer(&headers)?
        .ok_or_else(|| Error::Unauthorized("key_missing", "a worker needs a key: set API_KEY".to_owned()))?;
    let holder = key_holder(&master, token, Purpose::WorkerKey, &peer).await?;
    let upgrade = upgrade.map_err(|_| Error::Invalid {
        code: "not_a_websocket",
        detail:
            "workers connect here with a WebSocket; if there is a proxy in between, let it pass the upgrade"
                .into(),
        errors: Vec::new(),
    })?;
    if master.shutdown.is_cancelled() {
        return Err(Error::ShuttingDown);
    }
    peer.becomes_session();
    let largest = MAX_CONTROL_FRAME_BYTES.max(MAX_OUTPUT_FRAME_BYTES);
    Ok(upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(largest)
        .max_frame_size(largest)
        .on_upgrade(move |socket| session::serve(master, socket, holder)))
}
