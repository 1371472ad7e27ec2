//! How often a follower reads again: at once after rare changes, a few times per second under constant changes.

use std::time::Duration;

use tokio::time::Instant;

/// Size of an unlimited burst.
const BURST: f64 = 40.0;
/// So often one looks at what changes all the time.
const PER_SEC: f64 = 5.0;

/// Looks gained by each of many that is over.
const PER_ONE_OF_MANY: f64 = 0.25;

/// Counts the looks of one follower.
#[derive(Debug)]
pub struct LookRate {
    /// Looks that may follow at once.
    left: f64,
    counted: Instant,
}

impl Default for LookRate {
    fn default() -> Self {
        LookRate { left: BURST, counted: Instant::now() }
    }
}

impl LookRate {
    /// Waits until one may look again.
    pub async fn turn(&mut self) {
        if let Some(wait) = self.take(Instant::now()) {
            tokio::time::sleep(wait).await;
        }
    }

    /// One of many that it looks at is over. So a follower of thousands of short tasks is seldom far behind, and looks at the few
    /// of a short job without a wait.
    pub fn one_is_over(&mut self) {
        self.left = (self.left + PER_ONE_OF_MANY).min(BURST);
    }

    /// Takes a token; returns how long to wait for it.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.counted).as_secs_f64();
        self.left = (self.left + passed * PER_SEC).min(BURST) - 1.0;
        self.counted = now;
        (self.left < 0.0).then(|| Duration::from_secs_f64(-self.left / PER_SEC))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_looks_wait_for_nothing_and_many_come_at_a_steady_rate() {
        let (mut rate, start) = (LookRate::default(), Instant::now());
        let waits: Vec<_> = (0..42).map(|_| rate.take(start)).collect();
        assert!(waits[..40].iter().all(Option::is_none), "{waits:?}");
        assert_eq!(waits[40..], [Some(Duration::from_millis(200)), Some(Duration::from_millis(400))]);
        assert_eq!(rate.take(start + Duration::from_secs(60)), None);
        for _ in 0..100 {
            rate.one_is_over();
        }
        assert_eq!(rate.left, BURST, "a burst is never longer");
    }
}
