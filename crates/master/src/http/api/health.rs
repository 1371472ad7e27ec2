//! Health checks and version.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use gaffer_protocol::rest::{RERUN_IN_PART, Version};
use gaffer_protocol::wire::PROTOCOL_VERSION;

use super::super::description::Operation;
use super::super::error::Error;
use crate::operations::Context;
use crate::operations::readiness::{self, Readiness};
use crate::views::Views;

pub const LIVEZ: Operation = Operation {
    takes_any_query: true,
    description: "Answers as long as the process does.",
    ..Operation::public("get_liveness", "Liveness check")
};

/// `GET /livez`
pub async fn livez() -> String {
    "ok\n".to_owned()
}

pub const READYZ: Operation = Operation {
    takes_any_query: true,
    description: "200 if the database answers and accepts changes, and this master leads.",
    ..Operation::public("get_readiness", "Readiness check")
};

/// `GET /readyz`
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

pub const VERSION: Operation = Operation::public("get_version", "Get the version of the master");

/// `GET /version`
pub async fn version() -> Json<Version> {
    Json(Version {
        name: "gaffer".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        worker_protocol: PROTOCOL_VERSION,
        features: vec![RERUN_IN_PART.to_owned()],
    })
}
