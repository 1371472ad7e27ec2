//! Delay before reconnecting: random up to a limit that doubles, so that a fleet does not return all at once.

use std::ops::Range;
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::dial::DIAL_TIMEOUT;

/// A session that lasted this long was successful.
const GOOD_SESSION: Duration = Duration::from_secs(5);
/// The longest wait after sessions that never last: they renew leases, and there may be attempts that have them.
const LONGEST_AFTER_SESSIONS: Duration = Duration::from_secs(2);
/// The longest wait.
const SHORT_WAIT: Duration = Duration::from_millis(200);

/// How long a worker waits for its master, and when.
#[derive(Debug, Clone)]
pub(crate) struct BackoffSettings {
    /// The first wait is at most this long.
    pub first: Duration,
    /// No wait is longer.
    pub longest: Duration,
    /// How long to leave a master alone that does not want this worker.
    pub refused: Range<Duration>,
    /// How long a worker that goes down waits for the master to acknowledge its last reports.
    pub farewell: Duration,
}

impl Default for BackoffSettings {
    fn default() -> BackoffSettings {
        BackoffSettings {
            first: Duration::from_millis(150),
            longest: Duration::from_secs(15),
            refused: Duration::from_secs(30)..Duration::from_secs(60),
            farewell: Duration::from_secs(2),
        }
    }
}

/// The waits between tries.
///
/// They double, but while a worker has not been away for long they stay short, for its attempts have leases: no longer than
/// a thirtieth of the time that it has been away.
#[derive(Debug)]
pub(crate) struct Backoff {
    patience: BackoffSettings,
    /// Since the last session.
    failures: u32,
    /// When the first of them was.
    away_since: Option<Instant>,
    /// Sessions in a row that did not last.
    short_sessions: u32,
}

impl Backoff {
    pub fn new(patience: BackoffSettings) -> Backoff {
        Backoff { patience, failures: 0, away_since: None, short_sessions: 0 }
    }

    pub fn session_lasted(&mut self, lasted: Duration) {
        self.short_sessions = if lasted < GOOD_SESSION { self.short_sessions.saturating_add(1) } else { 0 };
        (self.failures, self.away_since) = (0, None);
    }

    /// The wait after another failure.
    pub fn next(&mut self, now: Instant) -> Duration {
        let away = now.duration_since(*self.away_since.get_or_insert(now));
        let doubled = |times: u32| self.patience.first.saturating_mul(2_u32.saturating_pow(times));
        let after_failures = doubled(self.failures).min((away / 30).max(SHORT_WAIT));
        // Sessions that start but do not last are different from an unreachable master.
        let after_sessions = doubled(self.short_sessions.saturating_sub(1)).min(LONGEST_AFTER_SESSIONS);
        let limit = if self.short_sessions > 1 { after_failures.max(after_sessions) } else { after_failures };
        self.failures = self.failures.saturating_add(1);
        rand::rng().random_range(Duration::ZERO..=limit.min(self.patience.longest))
    }

    /// How long to wait for an answer to the first packet: in the beginning not for long, as it may just be lost, and its
    /// repetition comes late.
    pub fn connect_patience(&self, now: Instant) -> Duration {
        let away = self.away_since.map_or(Duration::ZERO, |since| now.duration_since(since));
        (away / 10).clamp(Duration::from_secs(1), DIAL_TIMEOUT)
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

    fn longest_wait(backoff: &mut Backoff, now: Instant) -> Duration {
        (0..200).map(|_| backoff.next(now)).max().unwrap()
    }

    #[test]
    fn waits_grow_with_the_time_away_and_start_over() {
        let start = Instant::now();
        let mut backoff = Backoff::new(BackoffSettings::default());
        assert!(longest_wait(&mut backoff, start) <= SHORT_WAIT);
        assert_eq!(backoff.connect_patience(start), Duration::from_secs(1));
        let later = start + Duration::from_secs(30);
        let longest = longest_wait(&mut backoff, later);
        assert!(longest > Duration::from_millis(700) && longest <= Duration::from_secs(1), "{longest:?}");
        let much_later = start + Duration::from_secs(3600);
        let longest = longest_wait(&mut backoff, much_later);
        assert!(longest > Duration::from_secs(10) && longest <= Duration::from_secs(15), "{longest:?}");
        assert_eq!(backoff.connect_patience(much_later), DIAL_TIMEOUT);
        assert!(backoff.after_refusal() >= Duration::from_secs(30));
        for lasted in [1, 100, 2] {
            backoff.session_lasted(Duration::from_secs(lasted));
            assert!(backoff.next(much_later) <= Duration::from_millis(150));
        }
    }

    #[test]
    fn sessions_that_never_last_are_tried_ever_more_slowly() {
        for _ in 0..100 {
            let mut backoff = Backoff::new(BackoffSettings::default());
            let mut longest = Duration::ZERO;
            for _ in 0..20 {
                backoff.session_lasted(Duration::from_millis(1));
                longest = longest.max(backoff.next(Instant::now()));
            }
            assert!(longest > Duration::from_secs(1) && longest <= LONGEST_AFTER_SESSIONS);
        }
    }
}
