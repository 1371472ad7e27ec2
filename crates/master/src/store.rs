//! All that is remembered: every SQL statement of the master is in here, a file for each noun.
//!
//! What a part of the master may do follows from the type that it holds. [`ReadStore`] has the statements of pages, lists and
//! viewers; [`WriteStore`] adds what users change; [`Store`] adds everything that moves tasks, sessions and loops.

use std::ops::Deref;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::{PgPool, Postgres, Transaction};
use tokio::sync::Semaphore;

use crate::leadership::Leadership;

pub mod accounts;
pub mod audit;
pub mod bench;
pub mod classes;
mod counts;
pub mod dead_letters;
pub mod deletion;
pub mod enrolment;
pub mod eras;
mod error;
mod event_rows;
pub mod events;
mod expired;
mod forms;
pub mod hellos;
pub mod identities;
pub mod invitations;
pub mod jobs;
pub(crate) mod kept;
pub mod keys;
pub mod leadership;
pub mod leaving;
pub mod members;
pub mod output;
pub mod placement;
pub mod places;
mod pools;
mod ports;
pub mod projects;
pub mod reruns;
pub mod restored;
pub mod retention;
pub mod search;
pub mod secrets;
pub mod specs;
pub mod system_jobs;
pub mod tasks;
pub mod templates;
mod timeline;
mod together;
pub mod totals;
pub mod transitions;
mod unnest;
pub mod updates;
pub mod users;
pub mod versions;
pub mod web_sessions;
pub mod workers;

use classes::ClassCache;
pub use error::{StoreError, failures};
use events::SettledEvents;
use hellos::{EndedSession, NewSession, Registration};
use keys::{AskedKey, KeyChecked};
pub use pools::{COMMITTED_WITHIN, Pools, Stores};
use specs::SpecCache;
use together::Together;
use transitions::KnownRows;

/// Settings of a hot-path transaction: 5 s per statement, 500 ms per lock. Exceeding the first means too much work,
/// the second a lock; neither may delay others.
const SHORT: &str = "SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '500ms'";
/// The same for all transactions of a connection.
const SHORT_SESSION: [(&str, &str); 2] = [("statement_timeout", "5s"), ("lock_timeout", "500ms")];

/// The migrations, embedded.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");

/// Reads what pages, lists and viewers show. Its connections are read-only, and a statement ends after five seconds.
#[derive(Debug, Clone)]
pub struct ReadStore {
    pool: PgPool,
    specs: SpecCache,
    classes: ClassCache,
    settled_events: SettledEvents,
}

/// What many workers ask at the same moment.
#[derive(Debug, Clone, Default)]
struct Arrivals {
    keys: Together<AskedKey, KeyChecked>,
    hellos: Together<NewSession, Registration>,
    goodbyes: Together<EndedSession, ()>,
}

/// Writes what users change: jobs, keys, sign-ins, what workers take. Reads, too.
#[derive(Debug, Clone)]
pub struct WriteStore {
    reads: ReadStore,
    leadership: Leadership,
    large: Arc<Semaphore>,
    known: KnownRows,
    arrivals: Arrivals,
}

/// Moves tasks, keeps sessions, serves the loops. Can do all the rest, too.
#[derive(Debug, Clone)]
pub struct Store(WriteStore);

impl Deref for Store {
    type Target = WriteStore;

    fn deref(&self) -> &WriteStore {
        &self.0
    }
}

impl Deref for WriteStore {
    type Target = ReadStore;

    fn deref(&self) -> &ReadStore {
        &self.reads
    }
}

impl ReadStore {
    /// The time that leases are judged by. Also shows whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        Ok(sqlx::query_scalar("SELECT now()").fetch_one(&self.pool).await?)
    }

    /// The mark of this installation.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn installation(&self) -> Result<uuid::Uuid, StoreError> {
        Ok(sqlx::query_scalar("SELECT id FROM installation").fetch_one(&self.pool).await?)
    }
}

impl WriteStore {
    /// This master's right to lead.
    pub fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// Begins a transaction that fails if another master leads, and that a takeover waits for. Every write of a master
    /// that another one could contradict is in one.
    async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        Ok(self.pool.begin_with(sqlx::AssertSqlSafe(self.begin_as_leader())).await?)
    }

    /// Begins a hot-path transaction: slow or locked work is aborted soon.
    async fn begin_short(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        let begin = format!("{}; {SHORT}", self.begin_as_leader());
        Ok(self.pool.begin_with(sqlx::AssertSqlSafe(begin)).await?)
    }

    /// One message, so the check costs no round trip. It comes first, so that a failure leaves no transaction behind.
    fn begin_as_leader(&self) -> String {
        format!("SELECT leader_check({}); BEGIN", self.leadership.term())
    }
}
