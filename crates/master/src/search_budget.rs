//! What searches of output may take: places and turns that they share, and a budget for each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gaffer_domain::ProjectId;
use gaffer_domain::search::{InvalidPattern, Pattern};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How many searches of stored output are open at once; further ones wait, and are then asked to come back.
const MAX_OPEN: usize = 32;
const OPEN_WAIT: Duration = Duration::from_secs(2);
/// How many searches follow outputs at once: each keeps its automaton and some text for as long as its output goes on.
const MAX_FOLLOWING: usize = 64;
/// How much one search may search.
const SEARCH_BYTES: u64 = 16 << 30;
/// How long its reader may take to read the rest of what it found, as a part of the time that it may search: one in this many.
const READING_ONE_IN: u32 = 6;

/// Why a search does not begin while others run.
pub const TOO_MANY: &str = "too many searches are running; try again in a moment";

/// What all searches of a master share.
#[derive(Debug)]
pub struct Searches {
    open: Places,
    following: Places,
    turns: Arc<Semaphore>,
    wait: Duration,
}

/// When a search ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// As long as the output that it follows.
    WithTheOutput,
    /// At most this long, including the compilation of its pattern.
    AtMost(Duration),
}

/// Why a search does not begin.
#[derive(Debug, thiserror::Error)]
pub enum NotBegun {
    #[error("{TOO_MANY}")]
    TooMany,
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
}

/// What a request may still search.
#[derive(Debug)]
pub struct Budget {
    deadline: Option<Instant>,
    bytes: u64,
    over: CancellationToken,
    _open: DropGuard,
    _following: Option<Place>,
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
        Searches { open: Places::new(open), following: Places::new(MAX_FOLLOWING), turns, wait }
    }

    /// Waits for a place among the searches, and compiles the pattern in the time that the search has.
    ///
    /// # Errors
    /// [`NotBegun`].
    pub async fn begin(
        &self,
        project: ProjectId,
        pattern: &str,
        lasting: Lasting,
    ) -> Result<(Pattern, Budget), NotBegun> {
        let budget = match lasting {
            Lasting::WithTheOutput => self.follow(project)?,
            Lasting::AtMost(time) => self.open(project, time).await?,
        };
        let pattern = self.compile(&budget, pattern).await.ok_or(NotBegun::TooMany)??;
        Ok((pattern, budget))
    }

    /// Waits for a place among the open searches. `time`: how long it may take to compile the pattern and to search.
    ///
    /// # Errors
    /// When none becomes free for a while.
    pub async fn open(&self, project: ProjectId, time: Duration) -> Result<Budget, NotBegun> {
        let place = self.open.take(project, self.wait).await.ok_or(NotBegun::TooMany)?;
        let deadline = Instant::now() + time;
        let over = CancellationToken::new();
        let closes = deadline + time / READING_ONE_IN;
        tokio::spawn({
            let over = over.clone();
            // The place is free again at the deadline, also if the reader has stopped reading by then.
            async move {
                tokio::select! {
                    () = over.cancelled() => {}
                    () = tokio::time::sleep_until(closes) => over.cancel(),
                }
                drop(place);
            }
        });
        let open = over.clone().drop_guard();
        Ok(Budget { deadline: Some(deadline), bytes: SEARCH_BYTES, over, _open: open, _following: None })
    }

    /// Of a search that follows the output: it takes turns like others, and lasts as long as the output does.
    ///
    /// # Errors
    /// When as many follow as may.
    fn follow(&self, project: ProjectId) -> Result<Budget, NotBegun> {
        let place = self.following.try_take(project).ok_or(NotBegun::TooMany)?;
        let over = CancellationToken::new();
        let open = over.clone().drop_guard();
        Ok(Budget { deadline: None, bytes: u64::MAX, over, _open: open, _following: Some(place) })
    }

    /// Waits for a turn on a processor; searches have theirs one after the other. None if the time is over before.
    pub async fn turn(&self, budget: &Budget) -> Option<OwnedSemaphorePermit> {
        // Also if there is a turn at once.
        if budget.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return None;
        }
        let deadline = async {
            match budget.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // It is never closed.
            turn = self.turns.clone().acquire_owned() => turn.ok(),
            () = deadline => None,
        }
    }

    /// Compiles a pattern when it is its turn. None if the time is over before.
    async fn compile(&self, budget: &Budget, text: &str) -> Option<Result<Pattern, InvalidPattern>> {
        let turn = self.turn(budget).await?;
        let text = text.to_owned();
        let compiled = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            Pattern::compile(&text)
        });
        compiled.await.ok()
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

    /// Cancelled when the place is given up: what the reader has not taken by then is dropped.
    pub fn over(&self) -> CancellationToken {
        self.over.clone()
    }
}

/// Places that projects share. One may have as many as are still free, so that there is always one for another.
#[derive(Debug, Clone)]
struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    all: usize,
    taken: Mutex<HashMap<ProjectId, usize>>,
    freed: Notify,
}

/// A place, until it is dropped.
#[derive(Debug)]
struct Place {
    of: Arc<Shared>,
    project: ProjectId,
}

impl Places {
    fn new(all: usize) -> Places {
        Places(Arc::new(Shared { all, taken: Mutex::default(), freed: Notify::new() }))
    }

    fn try_take(&self, project: ProjectId) -> Option<Place> {
        let mut taken = self.0.lock();
        let free = self.0.all.saturating_sub(taken.values().sum());
        if taken.get(&project).copied().unwrap_or(0) >= free {
            return None;
        }
        *taken.entry(project).or_default() += 1;
        Some(Place { of: self.0.clone(), project })
    }

    async fn take(&self, project: ProjectId, wait: Duration) -> Option<Place> {
        let taking = async {
            loop {
                let mut freed = std::pin::pin!(self.0.freed.notified());
                freed.as_mut().enable();
                match self.try_take(project) {
                    Some(place) => return place,
                    None => freed.await,
                }
            }
        };
        tokio::time::timeout(wait, taking).await.ok()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<ProjectId, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.lock();
        if let Some(count) = taken.get_mut(&self.project) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.project);
            }
        }
        drop(taken);
        self.of.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]

    use super::*;

    const LONG: Duration = Duration::from_secs(600);
    const ONE: ProjectId = ProjectId(1);
    const OTHER: ProjectId = ProjectId(2);

    #[tokio::test]
    async fn only_some_searches_are_open_at_once() {
        let searches = Searches::with(2, Duration::ZERO);
        let (first, second) = (searches.open(ONE, LONG).await, searches.open(OTHER, LONG).await);
        assert!(first.is_ok() && second.is_ok() && searches.open(ProjectId(3), LONG).await.is_err());
        drop(first);
        let patient = Searches { wait: LONG, ..searches };
        assert!(patient.open(ONE, LONG).await.is_ok(), "a place is free when its search is gone");
    }

    #[tokio::test]
    async fn one_project_leaves_places_to_the_others() {
        let searches = Searches::with(8, Duration::ZERO);
        let mut open = Vec::new();
        while let Ok(budget) = searches.open(ONE, LONG).await {
            open.push(budget);
        }
        assert_eq!(open.len(), 4, "as many as are free");
        open.extend(searches.open(OTHER, LONG).await);
        open.extend(searches.open(OTHER, LONG).await);
        assert_eq!(open.len(), 6);
        assert!(searches.open(OTHER, LONG).await.is_err() && searches.open(ProjectId(3), LONG).await.is_ok());
        let following: Vec<_> = std::iter::from_fn(|| searches.follow(ONE).ok()).collect();
        assert_eq!(following.len(), MAX_FOLLOWING / 2);
        assert!(searches.follow(OTHER).is_ok());
    }

    #[tokio::test]
    async fn only_some_searches_follow_outputs_at_once() {
        let searches = Searches::default();
        let following: Vec<_> =
            (0..MAX_FOLLOWING).map(|project| searches.follow(ProjectId(project as i64))).collect();
        assert!(following.iter().all(Result::is_ok) && searches.follow(ProjectId(-1)).is_err());
        drop(following);
        assert!(searches.follow(ONE).is_ok());
    }

    #[tokio::test]
    async fn a_search_that_nobody_reads_keeps_its_place_until_its_deadline_only() {
        let searches = Searches::with(1, LONG);
        let unread = searches.open(ONE, Duration::ZERO).await;
        assert!(unread.as_ref().is_ok_and(Budget::is_used_up));
        assert!(searches.open(ONE, LONG).await.is_ok());
        assert!(unread.is_ok_and(|budget| budget.over().is_cancelled()));
    }

    #[tokio::test]
    async fn a_turn_is_not_waited_for_beyond_the_deadline() {
        let searches = Searches::with(2, LONG);
        let mut turns = Vec::new();
        while let Ok(turn) = searches.turns.clone().try_acquire_owned() {
            turns.push(turn);
        }
        let late = searches.open(ONE, Duration::ZERO).await;
        let Ok(late) = late else { panic!("there are places") };
        assert!(searches.turn(&late).await.is_none());
        assert!(searches.compile(&late, "x").await.is_none(), "nor for compiling");
        drop(turns);
        let Ok(budget) = searches.open(OTHER, LONG).await else { panic!("there are places") };
        assert!(searches.turn(&budget).await.is_some());
        assert!(searches.compile(&budget, "x").await.is_some_and(|compiled| compiled.is_ok()));
    }

    #[tokio::test]
    async fn a_search_begins_with_a_place_and_a_pattern_or_says_why_not() {
        let wrong = Searches::default().begin(ONE, "a(", Lasting::AtMost(LONG)).await;
        assert!(matches!(wrong, Err(NotBegun::Pattern(InvalidPattern::Syntax { .. }))));
        let searches = Searches::with(2, Duration::ZERO);
        let begin = async |pattern| searches.begin(ONE, pattern, Lasting::AtMost(LONG)).await;
        let begun = begin("a").await;
        assert!(begun.as_ref().is_ok_and(|(_, budget)| !budget.is_used_up()));
        assert!(matches!(begin("a").await, Err(NotBegun::TooMany)), "one project may not have all places");
        let late = searches.begin(OTHER, "a", Lasting::AtMost(Duration::ZERO)).await;
        assert!(matches!(late, Err(NotBegun::TooMany)), "all the time went by before it was its turn");
        assert!(searches.begin(ONE, "a", Lasting::WithTheOutput).await.is_ok());
    }

    #[tokio::test]
    async fn a_budget_is_used_up_by_what_is_searched() {
        let searches = Searches::default();
        let Ok(mut budget) = searches.follow(ONE) else { panic!("there are places") };
        budget.bytes = 100;
        budget.spend(99);
        assert!(!budget.is_used_up());
        budget.spend(7);
        assert!(budget.is_used_up());
    }
}
