//! How long to wait before dialling again: at random up to a limit that doubles, so that a fleet does not come back
//! all at once.

use std::ops::Range;
use std::time::Duration;

use rand::Rng as _;

/// A session that lasted so long was a good one.
const GOOD_SESSION: Duration = Duration::from_secs(5);

/// How long a worker waits for its master, and when.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    /// The first wait is at most this long.
    pub first: Duration,
    /// No wait is longer.
    pub longest: Duration,
    /// How long to leave a master alone that does not want this worker.
    pub refused: Range<Duration>,
    /// How long a worker that goes down waits for the master to acknowledge its last reports.
    pub farewell: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            first: Duration::from_millis(150),
            longest: Duration::from_secs(15),
            refused: Duration::from_secs(30)..Duration::from_secs(60),
            farewell: Duration::from_secs(2),
        }
    }
}

/// The waits between tries.
#[derive(Debug)]
pub(super) struct Backoff {
    patience: Patience,
    failures: u32,
    /// Sessions in a row that did not last.
    short_sessions: u32,
}

impl Backoff {
    pub fn new(patience: Patience) -> Backoff {
        Backoff { patience, failures: 0, short_sessions: 0 }
    }

    /// A session began: the next wait is short again, unless sessions never last.
    pub fn welcomed(&mut self) {
        self.failures = self.short_sessions;
    }

    /// A session ended.
    pub fn session_lasted(&mut self, lasted: Duration) {
        self.short_sessions = if lasted < GOOD_SESSION { self.short_sessions.saturating_add(1) } else { 0 };
        self.failures = self.short_sessions.saturating_sub(1);
    }

    /// The wait after another failure.
    pub fn next(&mut self) -> Duration {
        let limit = self.patience.first.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        rand::rng().random_range(Duration::ZERO..=limit.min(self.patience.longest))
    }

    /// The wait after a refusal.
    pub fn after_refusal(&self) -> Duration {
        rand::rng().random_range(self.patience.refused.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_start_over() {
        for _ in 0..100 {
            let mut backoff = Backoff::new(Patience::default());
            assert!(backoff.next() <= Duration::from_millis(150));
            assert!(backoff.next() <= Duration::from_millis(300));
            let longest = (0..100).map(|_| backoff.next()).max().unwrap();
            assert!(longest > Duration::from_secs(5) && longest <= Duration::from_secs(15));
            assert!(backoff.after_refusal() >= Duration::from_secs(30));
            for lasted in [1, 100, 2] {
                backoff.welcomed();
                backoff.session_lasted(Duration::from_secs(lasted));
                assert!(backoff.next() <= Duration::from_millis(150));
            }
        }
    }

    #[test]
    fn sessions_that_never_last_are_tried_ever_more_slowly() {
        for _ in 0..100 {
            let mut backoff = Backoff::new(Patience::default());
            let mut longest = Duration::ZERO;
            for _ in 0..20 {
                backoff.welcomed();
                backoff.session_lasted(Duration::from_millis(1));
                longest = longest.max(backoff.next());
            }
            assert!(longest > Duration::from_secs(2));
        }
    }
}
