//! What searches of output may take: places and turns that they share, and a budget for each.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How many searches of stored output are open at once; further ones wait, and are then asked to come back.
const MAX_OPEN: usize = 32;
const OPEN_WAIT: Duration = Duration::from_secs(2);
/// How many searches follow outputs at once: each keeps its automaton and some text for as long as its output goes on.
const MAX_FOLLOWING: usize = 64;
/// How much one search may search.
const SEARCH_BYTES: u64 = 16 << 30;

/// What all searches of a master share.
#[derive(Debug)]
pub struct Searches {
    open: Arc<Semaphore>,
    following: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    wait: Duration,
}

/// Too many searches are open.
#[derive(Debug)]
pub struct TooManySearches;

/// What a request may still search.
#[derive(Debug)]
pub struct Budget {
    deadline: Option<Instant>,
    bytes: u64,
    _place: Option<DropGuard>,
    _following: Option<OwnedSemaphorePermit>,
}

impl Default for Searches {
    fn default() -> Searches {
        Searches::with(MAX_OPEN, OPEN_WAIT)
    }
}

impl Searches {
    fn with(open: usize, wait: Duration) -> Searches {
        // At least half of the processors are left to everything else.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = Arc::new(Semaphore::new((processors / 2).max(1)));
        let following = Arc::new(Semaphore::new(MAX_FOLLOWING));
        Searches { open: Arc::new(Semaphore::new(open)), following, turns, wait }
    }

    /// Waits for a place among the open searches. `time`: how long the search may take, its reader included.
    ///
    /// # Errors
    /// When none becomes free for a while.
    pub async fn open(&self, time: Duration) -> Result<Budget, TooManySearches> {
        let waiting = tokio::time::timeout(self.wait, self.open.clone().acquire_owned());
        let Ok(Ok(place)) = waiting.await else { return Err(TooManySearches) };
        let deadline = Instant::now() + time;
        let closed = CancellationToken::new();
        let guard = closed.clone().drop_guard();
        // The place is free again at the deadline, also if the reader has stopped reading by then.
        tokio::spawn(async move {
            tokio::select! {
                () = closed.cancelled() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
            drop(place);
        });
        Ok(Budget { deadline: Some(deadline), bytes: SEARCH_BYTES, _place: Some(guard), _following: None })
    }

    /// Of a search that follows the output: it takes turns like others, and lasts as long as the output does.
    ///
    /// # Errors
    /// When as many follow as may.
    pub fn follow(&self) -> Result<Budget, TooManySearches> {
        let place = self.following.clone().try_acquire_owned().map_err(|_| TooManySearches)?;
        Ok(Budget { deadline: None, bytes: u64::MAX, _place: None, _following: Some(place) })
    }

    /// Waits for a turn on a processor; searches have theirs one after the other.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        self.turns.clone().acquire_owned().await.ok()
    }
}

impl Budget {
    /// Whether no more may be searched.
    pub fn is_used_up(&self) -> bool {
        self.bytes == 0 || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Something was searched.
    pub fn spend(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn only_some_searches_are_open_at_once() {
        let searches = Searches::with(2, Duration::ZERO);
        let (first, second) = (searches.open(LONG).await, searches.open(LONG).await);
        assert!(first.is_ok() && second.is_ok() && searches.open(LONG).await.is_err());
        drop(first);
        let patient = Searches { wait: LONG, ..searches };
        assert!(patient.open(LONG).await.is_ok(), "a place is free when its search is gone");
    }

    #[tokio::test]
    async fn only_some_searches_follow_outputs_at_once() {
        let searches = Searches::default();
        let following: Vec<_> = (0..MAX_FOLLOWING).map(|_| searches.follow()).collect();
        assert!(following.iter().all(Result::is_ok) && searches.follow().is_err());
        drop(following);
        assert!(searches.follow().is_ok());
    }

    #[tokio::test]
    async fn a_search_that_nobody_reads_keeps_its_place_until_its_deadline_only() {
        let searches = Searches::with(1, LONG);
        let unread = searches.open(Duration::ZERO).await;
        assert!(unread.as_ref().is_ok_and(Budget::is_used_up));
        assert!(searches.open(LONG).await.is_ok());
    }

    #[test]
    fn a_budget_is_used_up_by_what_is_searched() {
        let mut budget = Budget { deadline: None, bytes: 100, _place: None, _following: None };
        budget.spend(99);
        assert!(!budget.is_used_up());
        budget.spend(7);
        assert!(budget.is_used_up());
    }
}
