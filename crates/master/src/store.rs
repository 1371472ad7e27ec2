//! All that is remembered: every SQL statement of the master is in here, a file for each noun.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};

pub mod claim;
pub mod classes;
mod counts;
pub mod events;
pub mod gate;
pub mod jobs;
pub mod keys;
pub mod leaving;
pub mod output;
pub mod placement;
mod pools;
pub mod search;
pub mod specs;
pub mod tasks;
pub mod users;
pub mod workers;

pub use pools::{ReadStore, Store, Stores, WriteStore};

/// A call to the database failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached, or gave up on us: the same call may work later. Whether it took effect is unknown.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// It holds something that this version can't read.
    #[error("the database holds something unexpected: {0}")]
    Unreadable(String),
    /// A statement was refused: an error in this program.
    #[error("the database refused a statement: {0}")]
    Refused(#[source] sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
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
    async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        Ok(self.pool.begin().await?)
    }
}
