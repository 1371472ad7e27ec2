//! Connections to the database, by who uses them: transitions, control, writes of users, readers. None can take another's.
//!
//! What a part of the master may do follows from the type that it holds. [`ReadStore`] has the statements of pages, lists and
//! viewers; [`WriteStore`] adds what users change; [`Store`] adds everything that moves tasks, sessions and loops.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::classes::ClassCache;
use super::events::SettledEvents;
use super::specs::SpecCache;
use super::{MIGRATIONS, StoreError};
use crate::leadership::Leadership;

/// How long one statement may take before the database gives it up.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for one that only reads for somebody who looks.
const READ_STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for sessions: when a whole fleet returns, its workers wait for about as long.
const CONTROL_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for readers: beyond that they are told to come back later.
const READ_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// Unused connections are closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// The write batcher commits one batch at a time; beside it, chunks of output are joined.
const TRANSITION_CONNECTIONS: u32 = 3;
const CONTROL_CONNECTIONS: u32 = 6;
const WRITE_CONNECTIONS: u32 = 6;
/// Of these, so many may be used by writes that take long; the others stay for checking keys and sessions.
const LARGE_WRITES: usize = 4;
const READ_CONNECTIONS: u32 = 6;

/// Reads what pages, lists and viewers show. Its connections are read-only, and a statement ends after five seconds.
#[derive(Debug, Clone)]
pub struct ReadStore {
    pub(super) pool: PgPool,
    pub(super) specs: SpecCache,
    pub(super) classes: ClassCache,
    pub(super) settled_events: SettledEvents,
}

/// Writes what users change: jobs, keys, sign-ins, what workers take. Reads, too.
#[derive(Debug, Clone)]
pub struct WriteStore {
    reads: ReadStore,
    pub(super) leadership: Leadership,
    large: Arc<Semaphore>,
}

/// Moves tasks, keeps sessions, serves the loops. Can do all the rest, too.
#[derive(Debug, Clone)]
pub struct Store(WriteStore);

/// The connections of a master, each part with its own.
#[derive(Debug, Clone)]
pub struct Stores {
    /// For the write batcher alone: transitions wait for nobody else's connection.
    pub transitions: Store,
    /// For sessions and loops.
    pub control: Store,
    /// For what users change.
    pub writes: WriteStore,
    /// For pages, lists and viewers.
    pub reads: ReadStore,
}

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

impl Stores {
    /// Connects without touching the schema, for a master that leads: its transactions fail once another one does.
    ///
    /// # Errors
    /// When the URL is invalid or the database does not answer.
    pub async fn connect_as(url: &str, leadership: Leadership) -> anyhow::Result<Stores> {
        let options: PgConnectOptions = url.parse().context("DATABASE_URL is not a Postgres URL")?;
        let writing = with_timeout(options.clone().application_name("gaffer"), STATEMENT_TIMEOUT);
        let reading = with_timeout(options.application_name("gaffer read"), READ_STATEMENT_TIMEOUT)
            .options([("default_transaction_read_only", "on"), LIST_PLANNER]);
        let control = pool(CONTROL_CONNECTIONS, CONTROL_ACQUIRE_TIMEOUT)
            .connect_with(writing.clone())
            .await
            .context("cannot connect to the database")?;
        let control = Store::of(control, leadership);
        let lazy = |connections, wait, options| pool(connections, wait).connect_lazy_with(options);
        let transitions = lazy(TRANSITION_CONNECTIONS, ACQUIRE_TIMEOUT, writing.clone());
        let writes = lazy(WRITE_CONNECTIONS, ACQUIRE_TIMEOUT, writing);
        let reads = lazy(READ_CONNECTIONS, READ_ACQUIRE_TIMEOUT, reading);
        Ok(Stores {
            transitions: Store(control.through(transitions)),
            writes: control.through(writes),
            reads: control.through(reads).reads,
            control,
        })
    }

    /// Closes all connections.
    pub async fn close(&self) {
        for pool in [&self.transitions.pool, &self.control.pool, &self.writes.pool, &self.reads.pool] {
            pool.close().await;
        }
    }
}

impl Store {
    /// Connects to a database and brings its schema up to date; everything over the same connections.
    ///
    /// # Errors
    /// When the URL is invalid, the database does not answer, or a migration fails.
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
        // An index on a large table takes longer than any other statement may.
        let options = self.pool.connect_options().as_ref().clone().options([("statement_timeout", "0")]);
        let pool = pool(1, CONTROL_ACQUIRE_TIMEOUT).connect_with(options).await?;
        MIGRATIONS.run(&pool).await?;
        pool.close().await;
        Ok(())
    }

    /// Connects without touching the schema; everything over the same connections.
    ///
    /// # Errors
    /// When the URL is invalid or the database does not answer.
    pub async fn connect(url: &str) -> anyhow::Result<Store> {
        Ok(Stores::connect_as(url, Leadership::of_nobody()).await?.control)
    }

    /// Closes its connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    fn of(pool: PgPool, leadership: Leadership) -> Store {
        let reads = ReadStore {
            pool,
            specs: SpecCache::default(),
            classes: ClassCache::default(),
            settled_events: SettledEvents::default(),
        };
        Store(WriteStore { reads, leadership, large: Arc::new(Semaphore::new(LARGE_WRITES)) })
    }

    /// The same, with what it remembers, over other connections.
    fn through(&self, pool: PgPool) -> WriteStore {
        let WriteStore { reads, leadership, large } = self.0.clone();
        WriteStore { reads: ReadStore { pool, ..reads }, leadership, large }
    }
}

impl WriteStore {
    /// Waits for a turn to write much. A storm of submissions leaves connections to those who only sign in.
    ///
    /// # Errors
    /// When too many have been waiting for too long.
    pub(super) async fn turn_to_write_much(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        match tokio::time::timeout(ACQUIRE_TIMEOUT, self.large.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(StoreError::too_busy()),
        }
    }
}

impl StoreError {
    /// Somebody waited for too long for others who use the database.
    pub fn too_busy() -> StoreError {
        sqlx::Error::PoolTimedOut.into()
    }
}

/// What makes a plan the same whatever the planner believes about a table: rows are looked up by an index, one by one.
/// Without statistics (a new installation, the minutes after a burst) it would rather read whole tables or join them by
/// hash. Compiling a plan would take longer than any statement here runs.
const PLANNER: [(&str, &str); 4] =
    [("enable_seqscan", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off"), ("jit", "off")];

/// Lists are read in the order of an index, a page at a time: they are never sorted as a whole to find the latest.
const LIST_PLANNER: (&str, &str) = ("enable_sort", "off");

fn with_timeout(options: PgConnectOptions, timeout: Duration) -> PgConnectOptions {
    let timeout = timeout.as_millis().to_string();
    options.options(PLANNER).options([
        ("statement_timeout", timeout.as_str()),
        ("default_transaction_isolation", "read committed"),
    ])
}

/// A session that is read-only remains so when others are not any more: after a failover that left it on a standby, or when
/// an operator has reset what made it so. So whatever was connected when this was found last is not used again.
static FOUND_READ_ONLY: Mutex<Option<Instant>> = Mutex::new(None);
/// While the whole database is read-only, connections are replaced no more often than this.
const REPLACED_EVERY: Duration = Duration::from_secs(1);

/// A session was found that can't write.
pub(super) fn found_read_only() {
    let mut found = FOUND_READ_ONLY.lock().unwrap_or_else(PoisonError::into_inner);
    if found.is_none_or(|at| at.elapsed() >= REPLACED_EVERY) {
        *found = Some(Instant::now());
    }
}

/// Whether a session that began so long ago may be one of those that can't write.
fn is_outdated(age: Duration) -> bool {
    let found = FOUND_READ_ONLY.lock().unwrap_or_else(PoisonError::into_inner);
    found.is_some_and(|at| at.elapsed() <= age)
}

fn pool(connections: u32, wait: Duration) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .min_connections(0)
        .acquire_timeout(wait)
        .idle_timeout(IDLE_TIMEOUT)
        .before_acquire(|_, session| Box::pin(std::future::ready(Ok(!is_outdated(session.age)))))
        // A broken connection shows itself in use; asking each time costs a round trip on every call.
        .test_before_acquire(false)
}
