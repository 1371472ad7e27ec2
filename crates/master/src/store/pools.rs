//! Connections to the database, by who uses them: batches, scheduling, control, writes of users, readers. None can take another's.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::classes::ClassCache;
use super::error::may_be_read_only;
use super::events::SettledEvents;
use super::specs::SpecCache;
use super::transitions::KnownRows;
use super::{MIGRATIONS, ReadStore, SHORT_SESSION, Store, StoreError, WriteStore};
use crate::leadership::Leadership;
use crate::records::PoolUse;

/// How long one statement may take before the database gives it up.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a transaction may still commit after its client has stopped listening.
pub const COMMITTED_WITHIN: Duration = STATEMENT_TIMEOUT.saturating_add(Duration::from_secs(10));
/// The same for readers.
const READ_STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for sessions: when a whole fleet returns, its workers wait for about as long.
const CONTROL_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for readers, which are asked to retry later.
const READ_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// Unused connections are closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// The write batcher commits one batch at a time.
const BATCH_CONNECTIONS: u32 = 1;
/// The scheduler reads, and chunks of output are joined.
const SCHEDULING_CONNECTIONS: u32 = 3;
const CONTROL_CONNECTIONS: u32 = 6;
const WRITE_CONNECTIONS: u32 = 6;
/// How many of these slow writes may use; the rest checks keys and sessions.
const LARGE_WRITES: usize = 4;
const READ_CONNECTIONS: u32 = 6;

/// The connections of a master, each part with its own.
#[derive(Debug, Clone)]
pub struct Stores {
    /// For the batches of the write batcher only, so that they never wait for a connection.
    pub batches: Store,
    /// For the scheduler, and for what the write batcher does beside batches.
    pub scheduling: Store,
    /// For sessions and loops.
    pub control: Store,
    /// For what users change.
    pub writes: WriteStore,
    /// For pages, lists and viewers.
    pub reads: ReadStore,
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
            .options([("default_transaction_read_only", "on"), LIST_PLANNER, PLANNED_ONCE]);
        let control = pool(CONTROL_CONNECTIONS, CONTROL_ACQUIRE_TIMEOUT)
            .connect_with(writing.clone())
            .await
            .context("cannot connect to the database")?;
        let control = Store::of(control, leadership);
        let lazy = |connections, wait, options| pool(connections, wait).connect_lazy_with(options);
        let writing = writing.options([PLANNED_ONCE]);
        let of_batches = writing.clone().options(LOOK_UPS).options(SHORT_SESSION);
        let batches = lazy(BATCH_CONNECTIONS, ACQUIRE_TIMEOUT, of_batches);
        let scheduling = lazy(SCHEDULING_CONNECTIONS, ACQUIRE_TIMEOUT, writing.clone());
        let writes = lazy(WRITE_CONNECTIONS, ACQUIRE_TIMEOUT, writing);
        let reads = lazy(READ_CONNECTIONS, READ_ACQUIRE_TIMEOUT, reading);
        Ok(Stores {
            batches: Store(control.through(batches)),
            scheduling: Store(control.through(scheduling)),
            writes: control.through(writes),
            reads: control.through(reads).reads,
            control,
        })
    }

    /// The pools, to look at their use.
    pub fn pools(&self) -> Pools {
        let named = |name, pool: &PgPool| (name, pool.clone());
        Pools([
            named("batches", &self.batches.pool),
            named("scheduling", &self.scheduling.pool),
            named("control", &self.control.pool),
            named("writes", &self.writes.pool),
            named("reads", &self.reads.pool),
        ])
    }

    /// Closes all connections.
    pub async fn close(&self) {
        for (_, pool) in self.pools().0 {
            pool.close().await;
        }
    }
}

/// The pools by their names: how many connections they have. Nothing can be asked through them.
#[derive(Debug)]
pub struct Pools([(&'static str, PgPool); 5]);

impl Pools {
    pub fn uses(&self) -> [PoolUse; 5] {
        self.0.each_ref().map(|&(name, ref pool)| PoolUse {
            pool: name,
            open: pool.size() as usize,
            idle: pool.num_idle(),
            most: pool.options().get_max_connections(),
        })
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
        Store(WriteStore {
            reads,
            leadership,
            large: Arc::new(Semaphore::new(LARGE_WRITES)),
            known: KnownRows::default(),
            arrivals: Default::default(),
        })
    }

    /// The same store with its caches, over other connections.
    fn through(&self, pool: PgPool) -> WriteStore {
        let of_others = self.0.clone();
        WriteStore { reads: ReadStore { pool, ..of_others.reads }, ..of_others }
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

/// What makes a plan the same whatever the planner believes about a table: rows are looked up by an index, one by one.
/// Without statistics (a new installation, the minutes after a burst) it would rather read whole tables or join them by
/// hash. Compiling a plan would take longer than any statement here runs.
pub(super) const PLANNER: [(&str, &str); 4] =
    [("enable_seqscan", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off"), ("jit", "off")];

/// For batches: rows are looked up by conditions alone. A table that was empty when its statistics were gathered looks as if it were
/// empty for ever, and so the planner would rather read all of its index than look rows of a batch up in it.
const LOOK_UPS: [(&str, &str); 2] = [("enable_indexscan", "off"), ("enable_indexonlyscan", "off")];

/// A statement is planned once per connection, and not for each value that it is asked with: nearly all look rows up by one key, so
/// that there is nothing to choose, and to plan one takes longer than to carry it out. A plan made while a table is empty is kept, so
/// `project_id + 0` keeps a row that is known by its number from being looked for among all of its project. Not for loops: which
/// partition they read depends on a value.
const PLANNED_ONCE: (&str, &str) = ("plan_cache_mode", "force_generic_plan");

/// Lists are read in the order of an index, a page at a time: they are never sorted as a whole to find the latest.
const LIST_PLANNER: (&str, &str) = ("enable_sort", "off");

fn with_timeout(options: PgConnectOptions, timeout: Duration) -> PgConnectOptions {
    let timeout = timeout.as_millis().to_string();
    options.options(PLANNER).options([
        ("statement_timeout", timeout.as_str()),
        ("default_transaction_isolation", "read committed"),
    ])
}

fn pool(connections: u32, wait: Duration) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .min_connections(0)
        .acquire_timeout(wait)
        .idle_timeout(IDLE_TIMEOUT)
        .before_acquire(|_, session| Box::pin(std::future::ready(Ok(!may_be_read_only(session.age)))))
        // A broken connection shows itself in use; asking each time costs a round trip on every call.
        .test_before_acquire(false)
}
