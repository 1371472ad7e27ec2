//! A master that stands by: it answers that another one leads, so that whoever asks it goes elsewhere.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http;

/// The master was told to go down before it ever led.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped while another master led")]
pub struct Stopped;

/// Answers on these listeners until `leading` ends. They stay open for what follows: who connects in between waits.
///
/// # Errors
/// [`Stopped`] when this master is to go down; others when the listeners cannot be shared.
pub async fn answer<T>(
    listeners: [&TcpListener; 3],
    shutdown: &CancellationToken,
    leading: impl Future<Output = T>,
) -> anyhow::Result<T> {
    let done = CancellationToken::new();
    let _done = done.clone().drop_guard();
    for listener in listeners {
        let second = listener.as_fd().try_clone_to_owned().context("cannot share a listener")?;
        let second = TcpListener::from_std(second.into()).context("cannot share a listener")?;
        let service = http::standby().into_make_service_with_connect_info::<SocketAddr>();
        let served = axum::serve(second, service).with_graceful_shutdown(done.clone().cancelled_owned());
        tokio::spawn(async move { served.await });
    }
    shutdown.run_until_cancelled(leading).await.ok_or(Stopped.into())
}
