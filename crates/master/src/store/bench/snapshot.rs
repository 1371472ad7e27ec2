//! A transaction that stays open beside the measured work, as one that somebody has forgotten.

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use super::super::StoreError;

/// An open transaction with a snapshot: no row that was visible to it may be removed.
#[derive(Debug)]
pub struct Snapshot {
    connection: PgConnection,
    transaction: String,
}

/// What the snapshot sees: it stays the same until the transaction ends.
const SEEN: &str = "SELECT pg_current_snapshot()::text";

impl Snapshot {
    /// Opens it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn open(database_url: &str) -> Result<Snapshot, StoreError> {
        let options: PgConnectOptions = database_url.parse()?;
        let mut connection = options.application_name("gaffer bench snapshot").connect().await?;
        let begin = "SET idle_in_transaction_session_timeout = 0; BEGIN ISOLATION LEVEL REPEATABLE READ";
        sqlx::raw_sql(begin).execute(&mut connection).await?;
        let transaction = sqlx::query_scalar(SEEN).fetch_one(&mut connection).await?;
        Ok(Snapshot { connection, transaction })
    }

    /// Ends it; returns whether it was open all the time.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn close(mut self) -> Result<bool, StoreError> {
        let seen: String = sqlx::query_scalar(SEEN).fetch_one(&mut self.connection).await?;
        sqlx::raw_sql("ROLLBACK").execute(&mut self.connection).await?;
        self.connection.close().await?;
        Ok(seen == self.transaction)
    }
}
