//! Whether a worker with these settings would reach its master, asked with the worker's own dialer.

use std::time::Duration;

use crate::config::WorkerConfig;
use crate::connection::dial::{DialError, Dialer};
use crate::route::Route;

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Where the worker dials in.
    pub door: String,
    /// What is on the way, for a message: empty, or ` (through the proxy …)`.
    pub detour: String,
    /// What it found.
    pub found: Found,
}

/// What a try found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A master that lets the worker's key in.
    LetsIn,
    /// A master; there was no key to try.
    AsksForKey,
    /// The server refuses this worker.
    Refuses(String),
    /// A proxy on the way does not pass this on.
    Blocked(String),
    /// Nobody answered, or not as a master does.
    Unreachable(String),
}

/// Dials the master that `config` names, as a worker would, says nothing and hangs up.
///
/// # Errors
/// When the settings cannot be used.
pub async fn try_master(config: WorkerConfig, patience: Duration) -> anyhow::Result<Tried> {
    let settings = config.reaching()?;
    let route = Route::to(settings.master_url, &settings.proxies, settings.tls_ca.as_deref())?;
    let (door, detour) = (route.server().worker_door(), route.detour());
    let has_key = settings.api_key.is_some();
    let dialer = Dialer::new(route, settings.api_key.as_ref())?;
    let found = match Box::pin(dialer.dial(patience)).await {
        Ok(mut socket) => {
            let _ = tokio::time::timeout(patience, socket.close(None)).await;
            Found::LetsIn
        }
        // Who asks for a key has understood the question.
        Err(DialError::Refused(reason)) if !has_key && reason.contains("no worker key") => Found::AsksForKey,
        Err(DialError::Refused(reason)) => Found::Refuses(reason),
        Err(DialError::Blocked(reason)) => Found::Blocked(reason),
        Err(DialError::Unreachable(reason)) => Found::Unreachable(reason),
    };
    Ok(Tried { door, detour, found })
}
