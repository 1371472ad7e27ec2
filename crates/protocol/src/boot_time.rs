//! The clock that leases and a leader's window are measured by: it goes on while the machine sleeps, and nobody sets it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A time by CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    pub fn now() -> BootTime {
        // Every Linux since 2.6.39 has this clock, and reading it cannot fail. If it did, every lease and every window
        // would be over.
        BootTime(clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or(Duration::MAX))
    }

    /// Time since boot.
    pub const fn from_micros(micros: u64) -> BootTime {
        BootTime(Duration::from_micros(micros))
    }

    /// Microseconds since the machine was started.
    pub fn as_micros(self) -> u64 {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX)
    }

    /// Adds a duration.
    pub fn after(self, span: Duration) -> BootTime {
        BootTime(self.0.saturating_add(span))
    }

    /// Subtracts a duration; not before boot.
    pub fn before(self, span: Duration) -> BootTime {
        BootTime(self.0.saturating_sub(span))
    }

    /// How long ago `earlier` was; nothing if it was not.
    pub fn since(self, earlier: BootTime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
