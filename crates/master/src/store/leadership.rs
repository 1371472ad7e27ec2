//! The leadership row, and the leader's advisory lock.
//!
//! The row decides. The lock only shows earlier that a leader's process is gone: a server may hold it for a dead
//! connection, or drop it under a live one. It also keeps out masters of versions without the row.

use gaffer_domain::quantity::Span;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};

use super::StoreError;

/// The lock's number: `gaffer` in ASCII.
const LOCK: i64 = 0x6761_6666_6572;
/// The lock that transactions of a leader share and a takeover has alone, see `leader_check` in the migrations.
const TERM_LOCK: i64 = LOCK + 1;
/// How long a takeover waits for transactions of the earlier leader before it ends their connections.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '1s'";
const LOCK_NOT_AVAILABLE: &str = "55P03";
const UNDEFINED_TABLE: &str = "42P01";

/// A connection that is for leadership alone, so that nothing else can keep it waiting.
#[derive(Debug)]
pub struct LeaderConnection {
    connection: PgConnection,
    holds_lock: bool,
}

/// Who leads, as the database has it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct LeaderRow {
    /// The number of the term.
    pub term: i64,
    /// The leader's machine and process.
    pub holder: String,
    lease_millis: i64,
    /// How often it has confirmed its term.
    pub confirmations: i64,
    /// It has stepped down.
    pub released: bool,
}

impl LeaderRow {
    pub fn lease(&self) -> Span {
        Span::from_millis(self.lease_millis.unsigned_abs())
    }
}

impl LeaderConnection {
    /// Connects.
    ///
    /// # Errors
    /// When the database does not answer, or the URL is invalid.
    pub async fn connect(url: &str) -> Result<LeaderConnection, StoreError> {
        let options: PgConnectOptions = url.parse()?;
        // The server must detect a dead machine soon.
        let settings = [
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
            ("statement_timeout", "10s"),
        ];
        let options = options.application_name("gaffer leader").options(settings);
        Ok(LeaderConnection { connection: PgConnection::connect_with(&options).await?, holds_lock: false })
    }

    /// Who leads; none if the schema is of a version that has no such row.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn row(&mut self) -> Result<Option<LeaderRow>, StoreError> {
        let row =
            sqlx::query_as("SELECT term, holder, lease_millis, confirmations, released FROM leadership")
                .fetch_one(&mut self.connection)
                .await;
        match row {
            Ok(row) => Ok(Some(row)),
            Err(error) if is(&error, UNDEFINED_TABLE) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the leader's lock, unless another connection has it. Returns whether this one has it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn try_lock(&mut self) -> Result<bool, StoreError> {
        if !self.holds_lock {
            let taken = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)");
            self.holds_lock = taken.bind(LOCK).fetch_one(&mut self.connection).await?;
        }
        Ok(self.holds_lock)
    }

    /// Gives the leader's lock back if this connection has it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn unlock(&mut self) -> Result<(), StoreError> {
        if std::mem::take(&mut self.holds_lock) {
            let given_back = sqlx::query("SELECT pg_advisory_unlock($1)");
            given_back.bind(LOCK).execute(&mut self.connection).await?;
        }
        Ok(())
    }

    /// Begins a new term, if the row is still as `seen`. Waits for open transactions of the earlier leader, and
    /// terminates its connections if that takes long, because their clients may be gone. Returns the term; none if
    /// another master was faster, or if this must be retried.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn take_over(
        &mut self,
        seen: &LeaderRow,
        holder: &str,
        lease: Span,
    ) -> Result<Option<i64>, StoreError> {
        let mut tx = self.connection.begin().await?;
        sqlx::query(LOCK_TIMEOUT).execute(&mut *tx).await?;
        let locked = sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(TERM_LOCK).execute(&mut *tx).await;
        match locked {
            Ok(_) => {}
            Err(error) if is(&error, LOCK_NOT_AVAILABLE) => {
                tx.rollback().await?;
                self.end_transactions_of_leader().await?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        let taken = sqlx::query_scalar(
            "UPDATE leadership SET term = term + 1, holder = $3, lease_millis = $4, released = false, \
                 confirmations = confirmations + 1, taken_at = clock_timestamp(), confirmed_at = clock_timestamp() \
             WHERE term = $1 AND confirmations = $2 AND released = $5 RETURNING term",
        )
        .bind(seen.term)
        .bind(seen.confirmations)
        .bind(holder)
        .bind(lease.as_millis() as i64)
        .bind(seen.released)
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(taken)
    }

    /// Ends the connections that share the lock of the present term: all transactions of the leader, and nothing else.
    async fn end_transactions_of_leader(&mut self) -> Result<(), StoreError> {
        let ended: i64 = sqlx::query_scalar(
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_locks \
             WHERE locktype = 'advisory' AND objsubid = 1 AND (classid::bigint << 32) | objid::bigint = $1 \
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                 AND granted AND pid <> pg_backend_pid()",
        )
        .bind(TERM_LOCK)
        .fetch_one(&mut self.connection)
        .await?;
        tracing::warn!(connections = ended, "ended database sessions of the earlier leader");
        Ok(())
    }

    /// Confirms that this term lasts.
    ///
    /// # Errors
    /// [`StoreError::NotLeader`] when it does not; others when the database does not answer.
    pub async fn confirm(&mut self, term: i64) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE leadership SET confirmations = confirmations + 1, confirmed_at = clock_timestamp() \
             WHERE term = $1 AND NOT released",
        )
        .bind(term)
        .execute(&mut self.connection)
        .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::NotLeader);
        }
        // Without it nothing is wrong, so it need not be had at once.
        self.try_lock().await?;
        Ok(())
    }

    /// Steps down: another master may take over at once.
    ///
    /// # Errors
    /// When the database does not answer. The leader is replaced for its silence then.
    pub async fn release(mut self, term: i64) -> Result<(), StoreError> {
        sqlx::query("UPDATE leadership SET released = true WHERE term = $1")
            .bind(term)
            .execute(&mut self.connection)
            .await?;
        Ok(self.connection.close().await?)
    }
}

fn is(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|found| found == code)
}
