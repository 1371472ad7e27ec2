//! All that is remembered: every SQL statement of the master is in here, a file for each noun.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Postgres, Transaction};

use crate::leadership::Leadership;

mod counts;
pub mod events;
pub mod gate;
pub mod jobs;
pub mod keys;
pub mod leadership;
pub mod leaving;
pub mod output;
pub mod placement;
pub mod specs;
pub mod tasks;
pub mod users;
pub mod workers;

/// How long one statement may take before the database gives it up.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// What `leader_check` fails with.
const TERM_IS_OVER: &str = "LT001";
const MAX_CONNECTIONS: u32 = 16;

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    leadership: Leadership,
    specs: specs::SpecCache,
}

/// A call to the database failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached, or gave up on us: the same call may work later. Whether it took effect is unknown.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// It holds something that this version can't read.
    #[error("the database holds something unexpected: {0}")]
    Unreadable(String),
    /// Another master leads. Nothing took effect, and nothing will that this one tries.
    #[error("another master leads now")]
    NotLeader,
    /// A statement was refused: an error in this program.
    #[error("the database refused a statement: {0}")]
    Refused(#[source] sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        if error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == TERM_IS_OVER) {
            return StoreError::NotLeader;
        }
        let passing = match &error {
            E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed | E::Protocol(_) => {
                true
            }
            E::Database(database) => database.code().is_some_and(|code| is_passing(&code)),
            _ => false,
        };
        match (passing, error) {
            (true, error) => StoreError::Unavailable(error),
            (false, E::ColumnDecode { index, source }) => {
                StoreError::Unreadable(format!("column {index}: {source}"))
            }
            (false, error) => StoreError::Refused(error),
        }
    }
}

/// SQLSTATEs that say nothing against the statement: connection trouble, deadlock, resources, shutdown, timeouts.
fn is_passing(code: &str) -> bool {
    matches!(&code[..2.min(code.len())], "08" | "53" | "57" | "58")
        || matches!(code, "40001" | "40P01" | "55P03" | "25006")
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
        Ok(Store { pool, leadership: Leadership::of_nobody(), specs: specs::SpecCache::default() })
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
        // One message, so the check costs no round trip. It comes first, so that a failure leaves no transaction behind.
        let begin = format!("SELECT leader_check({}); BEGIN", self.leadership.term());
        Ok(self.pool.begin_with(sqlx::AssertSqlSafe(begin)).await?)
    }
}
