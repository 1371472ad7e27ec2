//! Where a request came from.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::Extensions;
use axum::http::request::Parts;

use crate::listener::{Client, Connection};

/// The connection of a request; none without a listener, as in tests of handlers.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    connection: Option<Arc<Connection>>,
    client: Option<Client>,
}

impl Peer {
    /// Of the request with these extensions.
    pub fn of(extensions: &Extensions) -> Peer {
        Peer { connection: extensions.get().cloned(), client: extensions.get().copied() }
    }

    /// The request came with a good key or session: its connection keeps its place.
    pub fn prove(&self) {
        if let Some(connection) = &self.connection {
            connection.prove();
        }
    }

    /// The request becomes a session, whose silence is not the listener's business.
    pub fn becomes_session(&self) {
        if let Some(connection) = &self.connection {
            connection.becomes_session();
        }
    }

    /// The client's address, as far as trusted proxies tell it.
    pub fn address(&self) -> Option<IpAddr> {
        self.client.map(|client| client.address)
    }

    /// Whether the client speaks TLS, to this master or to a proxy.
    pub fn is_secure(&self) -> bool {
        self.client.is_some_and(|client| client.is_secure)
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Peer, Infallible> {
        Ok(Peer::of(&parts.extensions))
    }
}
