//! Checks whether a worker with these settings could connect, with the worker's own dialer.

use std::time::Duration;

use crate::config::{WorkerConfig, default_data_dir};
use crate::connection::dial::{DialError, Dialer};
use crate::connection::keys;
use crate::route::Route;

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Where the worker dials in.
    pub door: String,
    /// The proxy in between, for messages: empty, or ` (through the proxy …)`.
    pub detour: String,
    pub found: Found,
}

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
    /// No response, or not that of a master.
    Unreachable(String),
}

/// Connects to the master as a worker would, and disconnects.
///
/// # Errors
/// When the settings cannot be used.
pub async fn try_master(config: WorkerConfig, patience: Duration) -> anyhow::Result<Tried> {
    let settings = config.reaching()?;
    let data_dir = config.data_dir.clone().or_else(|| default_data_dir().ok());
    let route = Route::to(settings.master_url, &settings.proxies, settings.tls_ca.as_deref())?;
    let (door, detour) = (route.server().worker_door(), route.detour());
    let has_key = settings.api_key.is_some();
    let key = settings.api_key.map(|given| match &data_dir {
        Some(dir) => keys::present(&given, dir),
        None => given,
    });
    let dialer = Dialer::new(route, key.as_ref())?;
    let found = match Box::pin(dialer.dial(patience)).await {
        Ok(mut socket) => {
            let _ = tokio::time::timeout(patience, socket.close(None)).await;
            Found::LetsIn
        }
        // Who asks for a key has understood the question.
        Err(DialError::KeyRefused(reason)) if !has_key && reason.contains("no worker key") => {
            Found::AsksForKey
        }
        Err(DialError::Refused(reason) | DialError::KeyRefused(reason)) => Found::Refuses(reason),
        Err(DialError::Blocked(reason)) => Found::Blocked(reason),
        Err(DialError::Unreachable(reason)) => Found::Unreachable(reason),
    };
    Ok(Tried { door, detour, found })
}
