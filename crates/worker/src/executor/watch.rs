//! The agent's watch over the executor: kills one that does not respond while leases expire, because no other
//! process enforces them; the next executor cleans up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gaffer_protocol::boot_time::BootTime;

use super::handle::{Asking, Executor};
use super::host::{ExecutorProcess, Host};

/// How often the executor is asked for a sign of life.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often one that does not answer is thought about.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
/// An executor that is silent for less is only slow.
const SLOW: Duration = Duration::from_secs(2);
/// An executor without attempts that is silent for this long is killed.
const USELESS: Duration = Duration::from_secs(30);

/// Watches over an executor that is a process, until the connection to it ends.
pub(super) fn begin(executor: &Executor, host: &Host) {
    if let Host::Process(process) = host {
        let watch = watch(executor.asking(), process.clone());
        tokio::spawn(executor.connection().run_until_cancelled_owned(watch));
    }
}

/// Watches until the executor is gone.
async fn watch(executor: Asking, process: Arc<ExecutorProcess>) {
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
