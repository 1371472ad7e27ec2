//! All that is remembered: every SQL statement of the master is in here, a file for each noun.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Postgres, Transaction};

use crate::leadership::Leadership;

mod counts;
pub mod dead_letters;
pub mod deletion;
mod error;
pub mod events;
mod forms;
pub mod gate;
pub mod jobs;
pub mod keys;
pub mod leadership;
pub mod leaving;
pub mod output;
pub mod placement;
pub mod places;
pub mod specs;
pub mod tasks;
pub mod users;
pub mod workers;

pub use error::StoreError;

/// How long one statement may take before the database gives it up.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a transaction on the hot path: a statement in it may take 5 s, and 500 ms of that may be waiting for a lock.
/// The first limit means "too much at once", the second "somebody else is at it"; neither may hold up everybody.
const SHORT: &str = "SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '500ms'";
/// How long to wait for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_CONNECTIONS: u32 = 16;

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    leadership: Leadership,
    specs: specs::SpecCache,
    settled_events: events::SettledEvents,
}

/// The migrations, embedded.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");

impl Store {
    /// Connects to a database and brings its schema up to date.
    ///
    /// # Errors
    /// When the URL makes no sense, nobody answers, or a migration fails.
    pub async fn open(url: &str) -> anyhow::Result<Store> {
        let store = Store::connect(url).await?;
        store.migrate().await?;
        Ok(store)
    }

    /// Brings the schema up to date, under a lock.
    ///
    /// # Errors
    /// When a migration fails.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        Ok(MIGRATIONS.run(&self.pool).await?)
    }

    /// Connects without touching the schema.
    ///
    /// # Errors
    /// When the URL makes no sense or nobody answers.
    pub async fn connect(url: &str) -> anyhow::Result<Store> {
        use anyhow::Context;
        let timeout = STATEMENT_TIMEOUT.as_millis().to_string();
        let options: PgConnectOptions = url.parse().context("DATABASE_URL is not a Postgres URL")?;
        let options = options.application_name("gaffer").options([
            ("statement_timeout", timeout.as_str()),
            ("default_transaction_isolation", "read committed"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .min_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A broken connection shows itself in use; asking each time costs a round trip on every call.
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .context("cannot connect to the database")?;
        Ok(Store {
            pool,
            leadership: Leadership::of_nobody(),
            specs: Default::default(),
            settled_events: Default::default(),
        })
    }

    /// The same, for a master that leads: its transactions fail once another one does.
    pub fn led_by(self, leadership: Leadership) -> Store {
        Store { leadership, ..self }
    }

    /// This master's right to lead.
    pub fn leadership(&self) -> &Leadership {
        &self.leadership
    }

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

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Begins a transaction that fails if another master leads, and that a takeover waits for. Every write of a master
    /// that another one could contradict is in one.
    async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        Ok(self.pool.begin_with(sqlx::AssertSqlSafe(self.begin_as_leader())).await?)
    }

    /// Begins a transaction that everybody else waits for: whatever in it is slow or locked is given up soon.
    async fn begin_short(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        let begin = format!("{}; {SHORT}", self.begin_as_leader());
        Ok(self.pool.begin_with(sqlx::AssertSqlSafe(begin)).await?)
    }

    /// One message, so the check costs no round trip. It comes first, so that a failure leaves no transaction behind.
    fn begin_as_leader(&self) -> String {
        format!("SELECT leader_check({}); BEGIN", self.leadership.term())
    }
}
