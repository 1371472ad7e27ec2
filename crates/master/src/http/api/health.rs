//! What operators ask: is it alive, can it serve, which version is it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use gaffer_protocol::rest::Version;
use gaffer_protocol::wire::PROTOCOL_VERSION;

use super::super::error::Error;
use crate::Master;

/// `GET /livez`: the process answers.
pub async fn livez() -> &'static str {
    "ok\n"
}

/// What holds live events back for so long is worth a word.
const HELD_BACK_FOR: Duration = Duration::from_secs(10);

/// `GET /readyz`: the database answers, takes what is to be recorded, and this master leads.
pub async fn readyz(State(master): State<Arc<Master>>) -> Result<String, Error> {
    if master.shutdown.is_cancelled() {
        return Err(Error::ShuttingDown);
    }
    master.writes.now().await?;
    if !master.writes.leadership().is_trusted() {
        return Err(Error::Unavailable);
    }
    if let Some(trouble) = master.troubles.database() {
        return Err(Error::NotReady(trouble.since));
    }
    Ok(match master.writes.events_held_back(HELD_BACK_FOR).await? {
        Some(why) => format!("ok\nwarning: {why}\n"),
        None => "ok\n".to_owned(),
    })
}

/// `GET /readyz` of a master that stands by, and everything else that it is asked.
pub async fn standby() -> Error {
    Error::Standby
}

/// `GET /version`
pub async fn version() -> Json<Version> {
    Json(Version {
        name: "gaffer".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        worker_protocol: PROTOCOL_VERSION,
    })
}
