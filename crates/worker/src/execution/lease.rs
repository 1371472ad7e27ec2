//! The watch over leases: an attempt whose master may think it lost is killed before the master may replace it.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use crate::clock::{BootAlarm, BootTime};

/// How long to wait after a timer failed, which no kernel does.
const TIMER_RETRY: Duration = Duration::from_secs(1);

/// Kills attempts as their leases run out. Never ends. Must be called inside a Tokio runtime.
pub(super) fn watch(core: Arc<Core>) -> io::Result<impl Future<Output = ()> + Send> {
    let alarm = BootAlarm::new()?;
    Ok(async move {
        loop {
            let next = core.expire(BootTime::now());
            let armed = alarm.set(next);
            let rung = async {
                armed?;
                alarm.ring().await
            };
            tokio::select! {
                rung = rung => if let Err(error) = rung {
                    tracing::error!(%error, "cannot wait for the end of a lease");
                    tokio::time::sleep(TIMER_RETRY).await;
                },
                () = core.lease_changed.notified() => {}
            }
        }
    })
}

impl Core {
    /// Ends what has lost its lease by `now`. Gives the moment at which the next lease runs out.
    pub(super) fn expire(self: &Arc<Self>, now: BootTime) -> Option<BootTime> {
        let (expired, next) = self.state().expire(now);
        if expired > 0 {
            tracing::warn!(
                attempts = expired,
                "the master was out of reach for too long: attempts are given up"
            );
            self.eventful.notify_one();
            self.launch_ready();
        }
        next
    }
}
