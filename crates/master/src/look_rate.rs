//! How often a follower reads again: at once after rare changes, a few times per second under constant changes.

use std::time::Duration;

use tokio::time::Instant;

/// Size of an unlimited burst.
const BURST: f64 = 20.0;
/// So often one looks at what changes all the time.
const PER_SEC: f64 = 5.0;

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
        let waits: Vec<_> = (0..22).map(|_| rate.take(start)).collect();
        assert!(waits[..20].iter().all(Option::is_none), "{waits:?}");
        assert_eq!(waits[20..], [Some(Duration::from_millis(200)), Some(Duration::from_millis(400))]);
        assert_eq!(rate.take(start + Duration::from_secs(60)), None);
    }
}
