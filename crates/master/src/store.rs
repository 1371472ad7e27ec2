//! All that is remembered: every SQL statement of the master is in here, a file for each noun.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Transaction};

pub mod claim;
pub mod classes;
mod counts;
pub mod dead_letters;
pub mod deletion;
mod error;
pub mod events;
mod forms;
pub mod gate;
pub mod jobs;
pub mod keys;
pub mod leaving;
pub mod output;
pub mod placement;
pub mod places;
mod pools;
pub mod search;
pub mod specs;
pub mod tasks;
pub mod users;
pub mod workers;

pub use error::StoreError;
pub use pools::{ReadStore, Store, Stores, WriteStore};

/// Begins a transaction on the hot path: a statement in it may take 5 s, and 500 ms of that may be waiting for a lock.
/// The first limit means "too much at once", the second "somebody else is at it"; neither may hold up everybody.
const BEGIN_SHORT: &str = "BEGIN; SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '500ms'";

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

    /// Begins a transaction that everybody else waits for: whatever in it is slow or locked is given up soon.
    async fn begin_short(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        Ok(self.pool.begin_with(BEGIN_SHORT).await?)
    }
}
