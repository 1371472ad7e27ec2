//! One master at a time: an advisory lock of the database, held by a connection of its own for as long as the master lives.

use std::time::Duration;

use anyhow::{Context as _, bail};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// The lock's number: `gaffer` in ASCII.
const LOCK: i64 = 0x6761_6666_6572;
/// So long a master waits for an earlier one that is going down.
const PATIENCE: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(250);
/// By then the server has missed a connection that broke, see [`connect`].
const MISSED_AFTER: Duration = Duration::from_secs(15);
/// So often it is made sure that the connection lives.
const LOOK: Duration = Duration::from_secs(5);

/// The right to be the master of a database. It ends with its connection, so also with this process.
#[derive(Debug)]
pub struct Claim {
    url: String,
    connection: PgConnection,
}

impl Claim {
    /// Takes the right, or waits for it for a while.
    ///
    /// # Errors
    /// When the database cannot be reached, or another master goes on.
    pub async fn take(url: &str) -> anyhow::Result<Claim> {
        let mut connection = connect(url).await.context("cannot connect to the database")?;
        let begun = Instant::now();
        while !is_taken(&mut connection).await.context("cannot ask the database for its lock")? {
            if begun.elapsed() < RETRY {
                tracing::info!("another master serves this database; waiting for its end");
            }
            if begun.elapsed() >= PATIENCE {
                bail!(
                    "another master serves this database: stop it first, or give this one another DATABASE_URL \
                     (two at once would each declare lost what the other's workers run)"
                );
            }
            sleep(RETRY).await;
        }
        Ok(Claim { url: url.to_owned(), connection })
    }

    /// Holds on to it until it is to be released, also over restarts of the database. Returns early if another master has taken it
    /// meanwhile.
    pub async fn hold(mut self, release: &CancellationToken) -> Result<(), TakenOver> {
        loop {
            tokio::select! {
                () = release.cancelled() => {
                    let _ = self.connection.close().await;
                    return Ok(());
                }
                () = sleep(LOOK) => {}
            }
            let lives = timeout(LOOK, self.connection.ping()).await.is_ok_and(|pong| pong.is_ok());
            if lives {
                continue;
            }
            match release.run_until_cancelled(self.take_again()).await {
                Some(Ok(again)) => self = again,
                Some(Err(TakenOver)) => return Err(TakenOver),
                None => return Ok(()),
            }
        }
    }

    /// Connects anew, however long that takes. Who has the lock then may be this master's own last connection, which the
    /// server has not missed yet; only somebody who keeps it is another one.
    async fn take_again(self) -> Result<Claim, TakenOver> {
        // Not in good order: nobody may be there to answer.
        drop(self.connection);
        let mut connected: Option<PgConnection> = None;
        let mut refused_since: Option<Instant> = None;
        loop {
            if connected.is_none() {
                connected = timeout(LOOK, connect(&self.url)).await.ok().and_then(Result::ok);
            }
            if let Some(mut connection) = connected.take() {
                match timeout(LOOK, is_taken(&mut connection)).await {
                    Ok(Ok(true)) => return Ok(Claim { url: self.url, connection }),
                    Ok(Ok(false)) => connected = Some(connection),
                    _ => {}
                }
            }
            if connected.is_some() && refused_since.get_or_insert_with(Instant::now).elapsed() >= MISSED_AFTER
            {
                return Err(TakenOver);
            }
            sleep(RETRY).await;
        }
    }
}

/// Another master serves the database now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenOver;

/// The server is to notice soon if this machine is gone, as only then another one can take over.
async fn connect(url: &str) -> sqlx::Result<PgConnection> {
    let options: PgConnectOptions = url.parse()?;
    let keepalives =
        [("tcp_keepalives_idle", "5"), ("tcp_keepalives_interval", "2"), ("tcp_keepalives_count", "3")];
    PgConnection::connect_with(&options.application_name("gaffer master").options(keepalives)).await
}

async fn is_taken(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(LOCK).fetch_one(connection).await
}
