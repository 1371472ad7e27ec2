//! When to wait for more before a batch is written.

use std::time::Duration;

use tokio::time::Instant;

/// How long a start waits for what follows it.
const START_WAITS: Duration = Duration::from_millis(5);
/// How long a batch waits for more while much is coming.
const GATHERS_FOR: Duration = Duration::from_millis(12);
/// So many changes are worth that wait: to write them alone would cost more processor time than the wait costs anybody.
const WORTH_WAITING: f64 = 16.0;
/// Over which time it is judged how much is coming.
const MEMORY: Duration = Duration::from_millis(100);

/// How much has come lately: the number of changes, each counting less the longer it is ago.
#[derive(Debug)]
pub(super) struct Tempo {
    recent: f64,
    at: Instant,
}

impl Tempo {
    pub fn new(now: Instant) -> Tempo {
        Tempo { recent: 0.0, at: now }
    }

    /// Takes in that so many changes have come.
    pub fn note(&mut self, changes: usize, now: Instant) {
        self.recent = self.recent_at(now) + changes as f64;
        self.at = now;
    }

    fn recent_at(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64() / MEMORY.as_secs_f64();
        self.recent * (-age).exp()
    }

    /// How long a batch waits after its first change. Starts alone always wait: the output and the end of a short attempt
    /// follow at once, and all of it is one write then.
    pub fn wait(&self, only_starts: bool, now: Instant) -> Duration {
        let expected = self.recent_at(now) * (GATHERS_FOR.as_secs_f64() / MEMORY.as_secs_f64());
        match (expected >= WORTH_WAITING, only_starts) {
            (true, _) => GATHERS_FOR,
            (false, true) => START_WAITS,
            (false, false) => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_waits_while_much_is_coming_and_not_otherwise() {
        let mut now = Instant::now();
        let mut tempo = Tempo::new(now);
        assert_eq!(tempo.wait(false, now), Duration::ZERO);
        assert_eq!(tempo.wait(true, now), START_WAITS);
        // One job after the other.
        for _ in 0..100 {
            now += Duration::from_millis(2);
            tempo.note(1, now);
        }
        assert_eq!(tempo.wait(false, now), Duration::ZERO);
        for _ in 0..50 {
            now += Duration::from_millis(2);
            tempo.note(5, now);
        }
        assert_eq!(tempo.wait(false, now), GATHERS_FOR);
        now += Duration::from_millis(500);
        assert_eq!(tempo.wait(false, now), Duration::ZERO);
    }
}
