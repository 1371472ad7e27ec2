//! A standby master: answers that another one leads.

use std::os::fd::AsFd as _;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http;
use crate::listener::{Listener, PlaceLimits, Timeouts, Transport};
use crate::operations::metrics::StandbyMetrics;

/// The master was stopped before it ever led.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped while another master led")]
pub struct Stopped;

/// The names of the ports, and whether metrics can be read there.
const PORTS: [(&str, bool); 3] = [("dashboard", true), ("api", true), ("workers", false)];

/// The ports of a standby.
#[derive(Debug)]
pub struct Standby<'a> {
    /// Dashboard, API and workers. They stay open for what follows: who connects in between waits.
    pub sockets: [&'a TcpListener; 3],
    /// How many connections there may be on each.
    pub limits: [PlaceLimits; 3],
    /// How long they may say nothing.
    pub timeouts: Timeouts,
    pub transport: Transport,
    pub metrics: StandbyMetrics,
}

impl Standby<'_> {
    /// Answers until `leading` ends.
    ///
    /// # Errors
    /// [`Stopped`] when this master is to go down; others when the sockets cannot be shared.
    pub async fn answer<T>(
        self,
        shutdown: &CancellationToken,
        leading: impl Future<Output = T>,
    ) -> anyhow::Result<T> {
        let done = CancellationToken::new();
        let _done = done.clone().drop_guard();
        for ((socket, limits), (name, has_metrics)) in self.sockets.into_iter().zip(self.limits).zip(PORTS) {
            let second = socket.as_fd().try_clone_to_owned().context("cannot share a socket")?;
            let socket = TcpListener::from_std(second.into()).context("cannot share a socket")?;
            let router = http::standby(self.metrics.clone(), name, has_metrics);
            let (timeouts, transport) = (self.timeouts, self.transport.clone());
            let metrics = self.metrics.metrics.http.clone();
            let listener = Listener { name, socket, router, limits, timeouts, transport, metrics };
            tokio::spawn(listener.serve(done.clone()));
        }
        shutdown.run_until_cancelled(leading).await.ok_or(Stopped.into())
    }
}
