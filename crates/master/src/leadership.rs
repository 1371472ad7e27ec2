//! Which of several masters leads: acquiring, confirming and losing leadership.
//!
//! What the times are and why nothing runs twice is in [`gaffer_domain::lease`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gaffer_domain::lease::{LeaderSeen, LeaderTimes};
use gaffer_domain::quantity::Span;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::boot_clock::BootTime;
use crate::store::leadership::{LeaderConnection, LeaderRow};
use crate::store::{Store, StoreError};

/// Wait after the database did not answer.
const RETRY: Duration = Duration::from_millis(250);
/// How long a standby waits for the database to answer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a master that goes down waits for the database to note that it has stepped down.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

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
    fn begun(term: i64, times: LeaderTimes, asked: BootTime) -> Leadership {
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
    async fn confirm_by(
        &self,
        clock: impl Fn() -> BootTime,
        asking: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let asked = clock();
        asking.await?;
        self.confirmed(asked);
        Ok(())
    }
}

/// A master that would lead.
#[derive(Debug)]
pub struct Candidate {
    url: String,
    holder: String,
    times: LeaderTimes,
    connection: Option<LeaderConnection>,
    observed: Option<Observed>,
}

/// What the row has been since when, as far as this process has seen.
#[derive(Debug)]
struct Observed {
    row: LeaderRow,
    since: BootTime,
}

/// What came of one try to lead.
#[derive(Debug)]
pub enum Attempt {
    /// This master leads.
    Leads(Leader),
    /// Another master leads.
    Waits(String),
}

impl Candidate {
    /// Connects to the database.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect(url: &str, lease: Span) -> Result<Candidate, StoreError> {
        let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Candidate {
            url: url.to_owned(),
            holder: format!("process {} on {host}", std::process::id()),
            times: LeaderTimes::of(lease),
            connection: Some(LeaderConnection::connect(url).await?),
            observed: None,
        })
    }

    /// Waits for leadership, however long that takes and whatever happens to the database.
    pub async fn lead(&mut self) -> Leader {
        let mut is_away = false;
        loop {
            match self.try_once().await {
                Ok(Attempt::Leads(leader)) => return leader,
                Ok(Attempt::Waits(_)) => is_away = false,
                Err(error) => {
                    if !is_away {
                        tracing::warn!(%error, "standby cannot read who leads; retrying");
                    }
                    is_away = true;
                }
            }
            sleep(self.times.renew_every().to_std() / 4).await;
        }
    }

    /// Takes over if the leader is gone.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn try_once(&mut self) -> Result<Attempt, StoreError> {
        let (connection, row) = in_time(look(self.connection.take(), &self.url)).await?;
        match row {
            Some(row) => in_time(self.compete(connection, row)).await,
            // However long that takes.
            None => Box::pin(self.prepare(connection)).await,
        }
    }

    async fn compete(
        &mut self,
        mut connection: LeaderConnection,
        row: LeaderRow,
    ) -> Result<Attempt, StoreError> {
        let now = BootTime::now();
        let is_first_look = self.observed.is_none();
        let has_changed = self.observed.as_ref().is_some_and(|observed| observed.row != row);
        if has_changed || is_first_look {
            self.observed = Some(Observed { row: row.clone(), since: now });
        }
        let lock_is_free = match has_changed {
            // A leader that has lost its connection, and not more than that, wants its lock back.
            true => {
                connection.unlock().await?;
                false
            }
            false => connection.try_lock().await?,
        };
        let since = self.observed.as_ref().map_or(now, |observed| observed.since);
        let silent_for = BootTime::now().since(since);
        let silent_for = Span::from_millis(u64::try_from(silent_for.as_millis()).unwrap_or(u64::MAX));
        let seen = LeaderSeen { released: row.released, lock_is_free, is_first_look, silent_for };
        let of_leader = LeaderTimes::of(row.lease());
        if seen.may_take_over(of_leader) {
            let asked = BootTime::now();
            let taken = connection.take_over(&row, &self.holder, self.times.lease()).await?;
            if let Some(term) = taken {
                connection.try_lock().await?;
                let grace = match row.released {
                    true => Span::from_millis(0),
                    false => of_leader.absence_grace(silent_for),
                };
                let leadership = Leadership::begun(term, self.times, asked);
                return Ok(Attempt::Leads(Leader {
                    leadership,
                    grace,
                    url: self.url.clone(),
                    connection: Some(connection),
                }));
            }
        }
        self.connection = Some(connection);
        Ok(Attempt::Waits(format!("{} leads (term {})", row.holder, row.term)))
    }

    /// Brings a schema that knows no leaders up to date, unless a master of its version serves it.
    async fn prepare(&mut self, mut connection: LeaderConnection) -> Result<Attempt, StoreError> {
        if connection.try_lock().await? {
            let migrated = async { Store::connect(&self.url).await?.migrate().await };
            migrated.await.map_err(|error| StoreError::Unreadable(format!("{error:#}")))?;
        }
        self.connection = Some(connection);
        Ok(Attempt::Waits("a master of an earlier version leads".to_owned()))
    }
}

/// Sees who leads, on a new connection if there is none.
async fn look(
    connection: Option<LeaderConnection>,
    url: &str,
) -> Result<(LeaderConnection, Option<LeaderRow>), StoreError> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => LeaderConnection::connect(url).await?,
    };
    let row = connection.row().await?;
    Ok((connection, row))
}

/// A database that does not answer is away.
async fn in_time<T>(asking: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let answer = timeout(LOOK_TIMEOUT, asking).await;
    answer.unwrap_or(Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)))
}

/// A leading master, which must keep confirming its term.
#[derive(Debug)]
pub struct Leader {
    /// For the parts of the master.
    pub leadership: Leadership,
    /// How far in the future the absences of workers begin, see [`LeaderTimes::absence_grace`].
    pub grace: Span,
    url: String,
    connection: Option<LeaderConnection>,
}

/// Another master leads now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced;

impl Leader {
    /// Confirms the term until it is to be released, also over restarts of the database, or until another master has begun
    /// one.
    ///
    /// # Errors
    /// [`Replaced`] in that case.
    pub async fn keep(mut self, release: &CancellationToken) -> Result<(), Replaced> {
        let leadership = self.leadership.clone();
        let (times, over) = (leadership.0.times, &leadership.0.over);
        let mut was_trusted = true;
        let mut wait = times.renew_every().to_std();
        loop {
            tokio::select! {
                () = release.cancelled() => {
                    self.release().await;
                    return Ok(());
                }
                () = over.cancelled() => return Err(Replaced),
                () = sleep(wait) => {}
            }
            let confirmed = leadership.confirm_by(BootTime::now, self.confirm(leadership.term()));
            match timeout(times.renew_timeout().to_std(), confirmed).await {
                Ok(Ok(())) => {
                    wait = times.renew_every().to_std();
                    if !was_trusted {
                        tracing::info!("this master still leads");
                        was_trusted = true;
                    }
                }
                Ok(Err(StoreError::NotLeader)) => {
                    leadership.stand_down();
                    return Err(Replaced);
                }
                _ => {
                    self.connection = None;
                    wait = RETRY;
                    if was_trusted && !leadership.is_trusted() {
                        tracing::warn!(
                            "the database has not confirmed for {} that this master leads: leases of workers are not \
                             renewed, and nothing is placed, until it does",
                            times.trust_window()
                        );
                        was_trusted = false;
                    }
                }
            }
        }
    }

    async fn confirm(&mut self, term: i64) -> Result<(), StoreError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => LeaderConnection::connect(&self.url).await?,
        };
        connection.confirm(term).await?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Nothing of this master acts any more: the next one need not wait.
    async fn release(mut self) {
        self.leadership.0.trusted_until.store(0, Ordering::SeqCst);
        let term = self.leadership.term();
        let releasing = async {
            let connection = match self.connection.take() {
                Some(connection) => connection,
                None => LeaderConnection::connect(&self.url).await?,
            };
            connection.release(term).await
        };
        match timeout(RELEASE_TIMEOUT, releasing).await {
            Ok(Ok(())) => {}
            _ => tracing::debug!(
                "cannot record that this master stepped down; the next one takes over after its lease"
            ),
        }
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
            Ok(())
        };
        leadership.confirm_by(clock(&now), slow).await.unwrap();
        assert_eq!(trusted_until(&leadership), 5_000 + window);
        let refused = async { Err(StoreError::NotLeader) };
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
