//! Transactions whose outcome is unknown: what they may have changed is read about once a second, until they can no longer commit.

use std::time::{Duration, Instant};

use crate::store::COMMITTED_WITHIN;

/// Interval of the reads.
pub const READ_INTERVAL: Duration = Duration::from_secs(1);

/// There was no answer to some transactions: they may be committed, now or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownOutcome {
    /// The latest time at which one of them can be committed.
    until: Instant,
    /// When to read again.
    read_at: Instant,
}

impl UnknownOutcome {
    /// Nobody waits any longer for the answer to a transaction.
    pub fn new(now: Instant) -> UnknownOutcome {
        UnknownOutcome { until: now + COMMITTED_WITHIN, read_at: now }
    }

    /// Whether to read now.
    pub fn is_due(self, now: Instant) -> bool {
        self.read_at <= now
    }

    /// How long until the next read.
    pub fn due_in(self, now: Instant) -> Duration {
        self.read_at.saturating_duration_since(now)
    }

    /// What remains after a read that began at `began`; none if no further read is needed. The last one begins after the last
    /// commit that there can be.
    pub fn after_read(self, began: Instant) -> Option<UnknownOutcome> {
        if !self.is_due(began) {
            return Some(self);
        }
        (began < self.until).then_some(UnknownOutcome { read_at: began + READ_INTERVAL, ..self })
    }

    /// As if so much more time had passed.
    #[cfg(test)]
    pub fn earlier(self, by: Duration) -> Option<UnknownOutcome> {
        Some(UnknownOutcome { until: self.until.checked_sub(by)?, read_at: self.read_at.checked_sub(by)? })
    }
}
