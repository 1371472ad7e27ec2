//! The agent's watch over the executor: kills one that does not respond while leases expire, because no other
//! process enforces them; the next executor cleans up.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::handle::Asking;
use crate::clock::BootTime;

/// How often the executor is asked for a sign of life.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often one that does not answer is thought about.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
/// An executor that is silent for less is only slow.
const SLOW: Duration = Duration::from_secs(2);
/// An executor without attempts that is silent for this long is killed.
const USELESS: Duration = Duration::from_secs(30);

/// An executor's process; the handle stays valid even if its id is reused.
pub(super) struct ExecutorProcess {
    handle: AsyncFd<OwnedFd>,
}

impl ExecutorProcess {
    pub fn open(pid: i32) -> io::Result<ExecutorProcess> {
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process number"))?;
        let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        #[expect(
            deprecated,
            reason = "the new way is unsafe; here the descriptor lives as long as its registration"
        )]
        let handle = AsyncFd::with_interest(handle, Interest::READABLE)?;
        Ok(ExecutorProcess { handle })
    }

    pub fn kill(&self) {
        if let Err(errno) = rustix::process::pidfd_send_signal(self.handle.get_ref(), Signal::KILL) {
            tracing::debug!(%errno, "cannot kill the executor");
        }
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        let _ = self.handle.readable().await;
    }
}

/// Watches until the executor has exited.
pub(super) async fn watch(executor: Asking, process: Arc<ExecutorProcess>) {
    let mut interval = tokio::time::interval(INTERVAL);
    loop {
        interval.tick().await;
        let asked = Instant::now();
        let mut answer = std::pin::pin!(executor.ping());
        loop {
            tokio::select! {
                answer = &mut answer => match answer {
                    Ok(()) => break,
                    Err(_gone) => return,
                },
                () = tokio::time::sleep(PROBE_INTERVAL) => {
                    if is_hopeless(asked.elapsed(), executor.has_lapsed(BootTime::now())) {
                        tracing::error!("the executor of this worker does not respond; replacing it");
                        process.kill();
                        return;
                    }
                }
            }
        }
    }
}

/// `has_lapsed`: whether a lease has run out; none if there is none.
fn is_hopeless(silent_for: Duration, has_lapsed: Option<bool>) -> bool {
    silent_for >= SLOW && has_lapsed.unwrap_or(silent_for >= USELESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_executor_is_given_up_when_a_lease_ran_out_or_it_is_of_no_use() {
        let seconds = Duration::from_secs;
        assert!(!is_hopeless(seconds(1), Some(true)), "only slow");
        assert!(!is_hopeless(seconds(60), Some(false)), "it may come back in time");
        assert!(is_hopeless(seconds(3), Some(true)));
        assert!(!is_hopeless(seconds(3), None));
        assert!(is_hopeless(seconds(31), None));
    }
}
