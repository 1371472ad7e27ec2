//! Health checks and version.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use gaffer_protocol::rest::Version;
use gaffer_protocol::wire::PROTOCOL_VERSION;

use super::super::error::Error;
use crate::operations::Context;
use crate::operations::readiness::{self, Readiness};
use crate::views::Views;

/// `GET /livez`: the process answers.
pub async fn livez() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: the database responds and accepts writes, and this master leads.
pub async fn readyz(
    State(context): State<Arc<Context>>,
    State(views): State<Arc<Views>>,
) -> Result<String, Error> {
    if views.shutdown.is_cancelled() {
        return Err(Error::ShuttingDown);
    }
    match readiness::check(&context).await? {
        Readiness::NotTrusted => Err(Error::Unavailable),
        Readiness::NothingAccepted { since } => Err(Error::NotReady(since)),
        Readiness::Ready { warning: Some(why) } => Ok(format!("ok\nwarning: {why}\n")),
        Readiness::Ready { warning: None } => Ok("ok\n".to_owned()),
    }
}

/// `GET /readyz` and all other requests to a standby.
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
