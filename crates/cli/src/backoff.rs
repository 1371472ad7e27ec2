//! Retry policy while the API is unreachable.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::config;
use crate::failure::Failure;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// For what has no answer yet: a wrong address should be noticed.
const FOR_A_START: Duration = Duration::from_secs(15);
/// For jobs in progress: long enough for a restart or an upgrade of the master.
const FOR_A_JOB: Duration = Duration::from_secs(5 * 60);

/// Bounded patience with one thing that may fail for a while.
pub struct Backoff {
    budget: Duration,
    pause: Duration,
    since: Option<Instant>,
}

impl Backoff {
    /// For a request that starts something.
    pub fn for_a_start() -> Backoff {
        Backoff::of(config::patience(FOR_A_START))
    }

    /// For following a job that continues without this process.
    pub fn for_a_job() -> Backoff {
        Backoff::of(config::patience(FOR_A_JOB))
    }

    fn of(budget: Duration) -> Backoff {
        Backoff { budget, pause: FIRST_PAUSE, since: None }
    }

    /// Resets the backoff after a success. Returns whether there had been a failure.
    pub fn relax(&mut self) -> bool {
        self.pause = FIRST_PAUSE;
        self.since.take().is_some()
    }

    /// Waits a while before the next try. `tell` is called once per trouble.
    ///
    /// # Errors
    /// The failure, if trying again does not help or has been tried for long enough.
    pub async fn endure(&mut self, failure: Failure, tell: impl FnOnce(&Failure)) -> Result<(), Failure> {
        if !failure.is_passing() {
            return Err(failure);
        }
        let since = *self.since.get_or_insert_with(|| {
            if !self.budget.is_zero() {
                tell(&failure);
            }
            Instant::now()
        });
        let left = self.budget.saturating_sub(since.elapsed());
        if left.is_zero() {
            return Err(failure);
        }
        // Many clients lose their master at the same moment: they should not all come back at the same moment.
        sleep(self.pause.mul_f64(rand::random_range(0.5..1.0)).min(left)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}
