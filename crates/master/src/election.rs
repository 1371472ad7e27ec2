//! Which of several masters on one database leads: how one begins to, confirms that it still does, and is replaced.
//!
//! What the times are and why nothing runs twice is in [`gaffer_domain::lease`].

use std::time::Duration;

use gaffer_domain::lease::{LeaderSeen, LeaderTimes};
use gaffer_domain::quantity::Span;
use gaffer_protocol::boot_time::BootTime;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::leadership::Leadership;
use crate::store::leadership::{LeaderConnection, LeaderRow};
use crate::store::{Store, StoreError};

/// Wait after the database did not answer.
const RETRY: Duration = Duration::from_millis(250);
/// How long a standby waits for the database to answer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a master that goes down waits for the database to note that it has stepped down.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

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
    /// Another one does, of which this is said.
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

    /// Leads as soon as no other master does, however long that takes and whatever becomes of the database meanwhile.
    pub async fn lead(&mut self) -> Leader {
        let mut is_away = false;
        loop {
            match self.try_once().await {
                Ok(Attempt::Leads(leader)) => return leader,
                Ok(Attempt::Waits(_)) => is_away = false,
                Err(error) => {
                    if !is_away {
                        tracing::warn!(%error, "a master that stands by cannot see who leads; trying again");
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

/// The connection, or a new one if there is none.
async fn connected(connection: Option<LeaderConnection>, url: &str) -> Result<LeaderConnection, StoreError> {
    match connection {
        Some(connection) => Ok(connection),
        None => LeaderConnection::connect(url).await,
    }
}

/// Sees who leads, on a new connection if there is none.
async fn look(
    connection: Option<LeaderConnection>,
    url: &str,
) -> Result<(LeaderConnection, Option<LeaderRow>), StoreError> {
    let mut connection = connected(connection, url).await?;
    let row = connection.row().await?;
    Ok((connection, row))
}

/// A database that does not answer is away.
async fn in_time<T>(asking: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let answer = timeout(LOOK_TIMEOUT, asking).await;
    answer.unwrap_or(Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)))
}

/// A master that leads, and has to go on confirming it.
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
        let times = leadership.times();
        let mut was_trusted = true;
        let mut wait = times.renew_every().to_std();
        loop {
            tokio::select! {
                () = release.cancelled() => {
                    self.release().await;
                    return Ok(());
                }
                () = leadership.ended() => return Err(Replaced),
                () = sleep(wait) => {}
            }
            let confirmed = leadership.confirm_by(BootTime::now, self.confirm(leadership.term()));
            match timeout(times.renew_timeout().to_std(), confirmed).await {
                Ok(Ok(())) => {
                    wait = times.renew_every().to_std();
                    if !was_trusted {
                        tracing::info!("this master leads as before");
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
        let mut connection = connected(self.connection.take(), &self.url).await?;
        connection.confirm(term).await?;
        self.connection = Some(connection);
        Ok(())
    }

    async fn release(mut self) {
        self.leadership.lay_down();
        let term = self.leadership.term();
        let releasing = async {
            let connection = connected(self.connection.take(), &self.url).await?;
            connection.release(term).await
        };
        match timeout(RELEASE_TIMEOUT, releasing).await {
            Ok(Ok(())) => {}
            _ => tracing::debug!(
                "could not note that this master has stepped down; the next one waits for a while"
            ),
        }
    }
}
