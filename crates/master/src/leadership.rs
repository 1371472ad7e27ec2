//! One master's right to lead: its term, and until when it may act on that. [`crate::election`] gives and confirms it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gaffer_domain::lease::LeaderTimes;
use gaffer_domain::quantity::Span;
use gaffer_protocol::boot_time::BootTime;
use tokio_util::sync::CancellationToken;

/// One master's right to lead, as all its parts see it.
#[derive(Debug, Clone)]
pub struct Leadership(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    term: i64,
    times: LeaderTimes,
    /// Microseconds of [`BootTime`].
    trusted_until: AtomicU64,
    over: CancellationToken,
}

impl Leadership {
    /// A term that the database has given when it was `asked`.
    pub fn begun(term: i64, times: LeaderTimes, asked: BootTime) -> Leadership {
        let over = CancellationToken::new();
        let leadership = Leadership(Arc::new(Inner { term, times, trusted_until: AtomicU64::new(0), over }));
        leadership.confirmed(asked);
        leadership
    }

    /// For a store without leadership, in tests and benches.
    pub fn of_nobody() -> Leadership {
        let times = LeaderTimes::of(Span::from_secs(1));
        let trusted_until = AtomicU64::new(u64::MAX);
        Leadership(Arc::new(Inner { term: 0, times, trusted_until, over: CancellationToken::new() }))
    }

    /// The number of the term, which each transaction checks.
    pub fn term(&self) -> i64 {
        self.0.term
    }

    /// Whether no other master can have taken over and declared anything lost. Checked right before every message on
    /// which a worker relies, because this process may have been frozen.
    pub fn is_trusted(&self) -> bool {
        !self.is_over() && BootTime::now().as_micros() < self.0.trusted_until.load(Ordering::SeqCst)
    }

    /// Another master leads: this one does nothing any more, and goes down.
    pub fn stand_down(&self) {
        self.0.over.cancel();
    }

    /// The same, for a caller that has nothing left to do.
    pub async fn stand_down_for_good(&self) -> std::convert::Infallible {
        self.stand_down();
        std::future::pending().await
    }

    /// Nothing of this master acts any more, so the next one need not wait.
    pub fn lay_down(&self) {
        self.0.trusted_until.store(0, Ordering::SeqCst);
    }

    /// Waits until another master has taken over.
    pub async fn ended(&self) {
        self.0.over.cancelled().await;
    }

    /// The times that the term keeps.
    pub fn times(&self) -> LeaderTimes {
        self.0.times
    }

    /// Whether another master has taken over.
    pub fn is_over(&self) -> bool {
        self.0.over.is_cancelled()
    }

    /// The database has confirmed the term; it was `asked` at that time.
    fn confirmed(&self, asked: BootTime) {
        let until = asked.after(self.0.times.trust_window().to_std()).as_micros();
        self.0.trusted_until.fetch_max(until, Ordering::SeqCst);
    }

    /// Asks the database by `asking` whether the term lasts, and trusts that from before it was asked.
    ///
    /// # Errors
    /// Those of `asking`.
    pub async fn confirm_by<E>(
        &self,
        clock: impl Fn() -> BootTime,
        asking: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let asked = clock();
        asking.await?;
        self.confirmed(asked);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::cell::Cell;

    use super::*;

    /// A clock controlled by tests.
    fn clock(now: &Cell<u64>) -> impl Fn() -> BootTime {
        || BootTime::from_micros(now.get())
    }

    fn trusted_until(leadership: &Leadership) -> u64 {
        leadership.0.trusted_until.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn the_window_begins_before_the_database_was_asked_however_late_it_answers() {
        let times = LeaderTimes::of(Span::from_secs(20));
        let window = times.trust_window().as_millis() * 1_000;
        let leadership = Leadership::begun(7, times, BootTime::from_micros(1_000));
        assert_eq!(trusted_until(&leadership), 1_000 + window);
        let now = Cell::new(5_000);
        let slow = async {
            now.set(60_000_000);
            Ok::<(), &str>(())
        };
        leadership.confirm_by(clock(&now), slow).await.unwrap();
        assert_eq!(trusted_until(&leadership), 5_000 + window);
        let refused = async { Err("another master leads") };
        assert!(leadership.confirm_by(clock(&now), refused).await.is_err());
        assert_eq!(trusted_until(&leadership), 5_000 + window);
    }

    #[tokio::test]
    async fn the_window_is_compared_with_the_clock_and_shuts_for_good_when_another_master_leads() {
        let now = BootTime::now();
        let times = LeaderTimes::of(Span::from_secs(20));
        let leadership = Leadership::begun(7, times, now);
        assert!(leadership.is_trusted());
        let long_ago = BootTime::from_micros(now.as_micros().saturating_sub(15_000_000));
        assert!(!Leadership::begun(7, times, long_ago).is_trusted());
        leadership.stand_down();
        leadership.confirmed(BootTime::now());
        assert!(!leadership.is_trusted() && leadership.is_over());
    }
}
