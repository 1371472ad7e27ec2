//! An alarm that rings by the clock of leases, which goes on while the machine sleeps; and the wall clock.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use gaffer_protocol::boot_time::BootTime;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// When an attempt began to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Began {
    pub at: DateTime<Utc>,
    pub boot: BootTime,
}

impl Began {
    pub fn now() -> Began {
        Began { at: Utc::now(), boot: BootTime::now() }
    }
}

/// Microseconds since 1970 by the wall clock; 0 if that is set to before.
pub(crate) fn wall_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Waits until that time; for ever without one.
pub(crate) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Rings at a [`BootTime`], also when that came while the machine was suspended: then as soon as it wakes.
pub(crate) struct BootAlarm {
    timer: AsyncFd<Timer>,
}

struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl BootAlarm {
    /// One that does not ring yet. Must be called inside a Tokio runtime.
    pub fn new() -> io::Result<BootAlarm> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?;
        #[expect(
            deprecated,
            reason = "the new way is unsafe; here the descriptor lives as long as its registration"
        )]
        let timer = AsyncFd::with_interest(Timer(timer), Interest::READABLE)?;
        Ok(BootAlarm { timer })
    }

    /// Sets the next alarm in place of the previous one; `None` disables it.
    pub fn set(&self, at: Option<BootTime>) -> io::Result<()> {
        let timer = &self.timer.get_ref().0;
        match at {
            None => timer.unset()?,
            Some(at) => {
                // A timer set to 0 would be off.
                let at = TimeSpec::from_duration(Duration::from_micros(at.as_micros().max(1)));
                timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
        }
        Ok(())
    }

    /// Waits until it rings.
    pub async fn ring(&self) -> io::Result<()> {
        loop {
            let mut ready = self.timer.readable().await?;
            match ready.try_io(|timer| Ok(timer.get_ref().0.wait()?)) {
                Ok(rung) => return rung,
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::tests::docker_daemon::skip;

    #[tokio::test]
    async fn the_alarm_rings_at_its_time_and_not_before() {
        let alarm = BootAlarm::new().unwrap();
        let at = BootTime::now().after(Duration::from_millis(20));
        alarm.set(Some(at)).unwrap();
        tokio::time::timeout(Duration::from_secs(10), alarm.ring()).await.unwrap().unwrap();
        assert!(BootTime::now() >= at);
    }

    #[tokio::test]
    async fn an_alarm_for_the_past_rings_at_once_and_one_unset_does_not_ring() {
        let alarm = BootAlarm::new().unwrap();
        alarm.set(Some(BootTime::from_micros(0))).unwrap();
        tokio::time::timeout(Duration::from_secs(10), alarm.ring()).await.unwrap().unwrap();
        alarm.set(Some(BootTime::now().after(Duration::from_millis(5)))).unwrap();
        alarm.set(None).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), alarm.ring()).await.is_err());
    }

    /// Seconds since the machine was started, as the kernel tells everybody.
    fn uptime() -> f64 {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        text.split_ascii_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn time_counts_from_the_start_of_the_machine() {
        let (before, now, after) = (uptime(), BootTime::now().as_micros() as f64 / 1e6, uptime());
        assert!(before - 0.1 <= now && now <= after + 0.1, "{before} {now} {after}");
    }

    /// A machine that has slept: only one of the kernel's clocks that are never set has counted that.
    #[test]
    fn time_goes_on_while_the_machine_sleeps() {
        let slept = std::process::Command::new("unshare")
            .args(["--time", "--boottime", "100000"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "clock::tests::time_counts_from_the_start_of_the_machine"])
            .arg("clock::tests::the_alarm_rings_at_its_time_and_not_before")
            .output();
        let skip = |why: String| skip("time_goes_on_while_the_machine_sleeps", &why);
        match slept {
            Ok(output) if !String::from_utf8_lossy(&output.stdout).contains("running 2 tests") => {
                skip(format!("no namespaces for time: {output:?}"));
            }
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(error) => skip(format!("no `unshare`: {error}")),
        }
    }
}
