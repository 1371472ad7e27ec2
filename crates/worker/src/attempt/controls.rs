//! Stop requests and signals for a running attempt.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use gaffer_domain::spec::{OutputLimit, StopSignal};
use gaffer_protocol::secrets::Secrets;
use gaffer_protocol::wire::Input;
use tokio::sync::{mpsc, watch};

/// Signals on their way to an attempt; more are dropped.
const MAX_SIGNALS: usize = 16;
/// Pieces of input on their way to an attempt, of 64 KiB at most; more are dropped, and come again.
const MAX_INPUTS: usize = 2;

/// Why gaffer ends an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    Stopped,
    TimedOut,
    /// Its health check failed: what the checks said.
    Unhealthy(Arc<str>),
    /// It wrote too much.
    OutputLimit(OutputLimit),
    /// The worker was out of contact for too long.
    LeaseExpired,
    /// The worker is going down.
    ShutDown,
}

/// Requests to an attempt. Each field changes from none to some once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StopRequests {
    /// Stop gracefully, then kill after this time.
    pub stop: Option<(Cause, Duration)>,
    /// End it now.
    pub kill: Option<Cause>,
}

impl StopRequests {
    /// Why it is to end; none if it is not.
    pub fn cause(&self) -> Option<Cause> {
        self.kill.as_ref().or(self.stop.as_ref().map(|(cause, _)| cause)).cloned()
    }
}

/// Sends requests to an attempt.
pub(crate) struct ControlSender {
    stops: watch::Sender<StopRequests>,
    pub signals: mpsc::Sender<StopSignal>,
    pub inputs: mpsc::Sender<Input>,
    pub secrets: mpsc::Sender<Secrets>,
}

/// Receives the requests of an attempt.
pub(crate) struct Controls {
    pub stops: watch::Receiver<StopRequests>,
    pub signals: mpsc::Receiver<StopSignal>,
    pub inputs: mpsc::Receiver<Input>,
    pub secrets: mpsc::Receiver<Secrets>,
}

/// The current requests.
pub(super) enum Told {
    Stop(StopRequests),
    Signal(StopSignal),
}

/// Both ends.
pub(crate) fn channels() -> (ControlSender, Controls) {
    let (stops, heard_stops) = watch::channel(StopRequests::default());
    let (signals, heard_signals) = mpsc::channel(MAX_SIGNALS);
    let (inputs, heard_inputs) = mpsc::channel(MAX_INPUTS);
    // It asks again if need be, so one answer is enough.
    let (secrets, heard_secrets) = mpsc::channel(1);
    let controls =
        Controls { stops: heard_stops, signals: heard_signals, inputs: heard_inputs, secrets: heard_secrets };
    (ControlSender { stops, signals, inputs, secrets }, controls)
}

impl ControlSender {
    /// Merges a request: the first cause stays, the shortest grace period counts. Returns whether anything changed.
    pub fn stop(&self, new: StopRequests) -> bool {
        self.stops.send_if_modified(|stops| {
            let before = stops.clone();
            stops.stop = match (stops.stop.take(), new.stop) {
                (Some((cause, grace)), Some((_, other))) => Some((cause, grace.min(other))),
                (old, new) => old.or(new),
            };
            stops.kill = stops.kill.take().or(new.kill);
            *stops != before
        })
    }
}

/// Waits until the attempt is to end.
pub(super) async fn told_to_end(mut stops: watch::Receiver<StopRequests>) {
    if stops.wait_for(|stops| stops.cause().is_some()).await.is_err() {
        pending::<()>().await;
    }
}

/// Waits for the next stop or signal.
pub(super) async fn next(
    stops: &mut watch::Receiver<StopRequests>,
    signals: &mut mpsc::Receiver<StopSignal>,
) -> Told {
    tokio::select! {
        biased;
        Ok(()) = stops.changed() => Told::Stop(stops.borrow_and_update().clone()),
        Some(signal) = signals.recv() => Told::Signal(signal),
        else => pending().await,
    }
}
