//! What the metrics take from the database: read when the first reader asks, for at most a twentieth of the time, and not waited
//! for when it takes long.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use gaffer_domain::Time;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::metrics::database::DatabaseMetrics;
use crate::store::totals::Totals;
use crate::store::{ReadStore, StoreError};

/// How long a reader waits for figures that are newer than the known ones.
const WAITS: Duration = Duration::from_secs(1);
/// How long figures stay good.
const GOOD_FOR: Duration = Duration::from_secs(5);
/// Pause after a reading, as a multiple of its duration.
const REST: u32 = 19;
/// A reading that takes longer shows that the database does not answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(8);

/// Reads for all who look at the metrics.
#[derive(Debug)]
pub struct Readings {
    reads: ReadStore,
    metrics: DatabaseMetrics,
    state: Arc<Mutex<State>>,
    /// Counts the readings that have ended.
    ended: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    under_way_since: Option<Instant>,
    not_before: Option<Instant>,
    known: Known,
}

/// What is known of the database.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The last figures, and when they were read; none before the first reading.
    pub totals: Option<(Arc<Totals>, Time)>,
    /// Whether the database answered the last time.
    pub is_up: bool,
}

impl Readings {
    pub fn new(reads: ReadStore, metrics: DatabaseMetrics) -> Readings {
        Readings { reads, metrics, state: Arc::default(), ended: watch::Sender::new(0) }
    }

    /// What is known now, after a short wait for something newer if it is time for that.
    pub async fn recent(&self) -> Known {
        let mut ended = self.ended.subscribe();
        ended.mark_unchanged();
        if self.begin_if_due(Instant::now()) {
            let read = read(self.reads.clone(), self.metrics.clone(), self.state.clone(), self.ended.clone());
            tokio::spawn(read);
        }
        if lock(&self.state).under_way_since.is_some() {
            let _ = timeout(WAITS, ended.changed()).await;
        }
        lock(&self.state).known_at(Instant::now())
    }

    fn begin_if_due(&self, now: Instant) -> bool {
        let mut state = lock(&self.state);
        let is_due = state.under_way_since.is_none() && state.not_before.is_none_or(|at| at <= now);
        if is_due {
            state.under_way_since = Some(now);
        }
        is_due
    }
}

impl State {
    fn known_at(&self, now: Instant) -> Known {
        let hangs = self.under_way_since.is_some_and(|since| now - since >= ANSWERS_WITHIN);
        Known { is_up: self.known.is_up && !hangs, ..self.known.clone() }
    }

    fn ends(&mut self, begun: Instant, now: Instant, read: Result<Totals, StoreError>) {
        self.under_way_since = None;
        self.not_before = Some(now + ((now - begun) * REST).max(GOOD_FOR));
        self.known.is_up = !matches!(read, Err(StoreError::Unavailable(_)));
        if let Ok(totals) = read {
            self.known.totals = Some((Arc::new(totals), Utc::now()));
        }
    }
}

/// Reads once. A caller that waits may give up; what was read is for the next one then.
async fn read(
    reads: ReadStore,
    metrics: DatabaseMetrics,
    state: Arc<Mutex<State>>,
    ended: watch::Sender<u64>,
) {
    let begun = Instant::now();
    let read = reads.totals().await;
    if let Err(error) = &read {
        tracing::debug!(%error, "cannot read the figures for the metrics");
    }
    metrics.read(begun.elapsed());
    lock(&state).ends(begun, Instant::now(), read);
    ended.send_modify(|ended| *ended += 1);
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_longer_a_reading_takes_the_longer_it_rests() {
        let begun = Instant::now();
        let rest_after = |took| {
            let mut state = State { under_way_since: Some(begun), ..State::default() };
            state.ends(begun, begun + took, Ok(Totals::default()));
            state.not_before.unwrap() - (begun + took)
        };
        assert_eq!(rest_after(Duration::from_millis(2)), GOOD_FOR);
        assert_eq!(rest_after(Duration::from_secs(2)), Duration::from_secs(38));
    }

    #[test]
    fn what_was_read_stays_while_the_database_is_away_and_a_slow_answer_is_one() {
        let now = Instant::now();
        let mut state = State::default();
        assert!(!state.known_at(now).is_up);
        state.ends(now, now, Ok(Totals::default()));
        assert!(state.known_at(now).is_up);
        state.ends(now, now, Err(StoreError::TooSlow(sqlx::Error::PoolClosed)));
        assert!(state.known_at(now).is_up);
        state.ends(now, now, Err(StoreError::Unavailable(sqlx::Error::PoolClosed)));
        let known = state.known_at(now);
        assert!(!known.is_up && known.totals.is_some());
        state.ends(now, now, Ok(Totals::default()));
        state.under_way_since = Some(now);
        assert!(state.known_at(now).is_up && !state.known_at(now + ANSWERS_WITHIN).is_up);
    }
}
