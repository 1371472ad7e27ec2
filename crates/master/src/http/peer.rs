//! Where a request came from.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::Extensions;
use axum::http::request::Parts;

use crate::listener::Connection;

/// The connection of a request; none without a listener, as in tests of handlers.
#[derive(Debug, Clone, Default)]
pub struct Peer(Option<Arc<Connection>>);

impl Peer {
    /// Of the request with these extensions.
    pub fn of(extensions: &Extensions) -> Peer {
        Peer(extensions.get::<Arc<Connection>>().cloned())
    }

    /// The request came with a good key or session: its connection keeps its place.
    pub fn prove(&self) {
        if let Some(connection) = &self.0 {
            connection.prove();
        }
    }

    /// The request becomes a session, whose silence is not the listener's business.
    pub fn becomes_session(&self) {
        if let Some(connection) = &self.0 {
            connection.becomes_session();
        }
    }

    /// The client's address, or its proxy's.
    pub fn address(&self) -> Option<IpAddr> {
        self.0.as_ref().map(|connection| connection.peer.ip().to_canonical())
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Peer, Infallible> {
        Ok(Peer::of(&parts.extensions))
    }
}
