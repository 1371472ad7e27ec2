//! One private Postgres per test process, one database per test, and a prepared cluster for each installation.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use gaffer_master::config::postgres_settings;
use gaffer_master::embedded_postgres::EmbeddedPostgres;
use gaffer_master::store::MIGRATIONS;
use sqlx::{Connection, PgConnection};

const TEMPLATE: &str = "template_gaffer";

/// Of the server that tests share. Nothing of it is to outlive the machine; many masters use it at once; and to look after
/// hundreds of databases that last for seconds would take more time than the tests do.
const OVERRIDES: [&str; 5] = [
    "fsync=off",
    "full_page_writes=off",
    "max_wal_size=256MB",
    "max_connections=500",
    "autovacuum_naptime=1h",
];

/// The server; it ends with the process.
struct Cluster {
    postgres: EmbeddedPostgres,
    _dir: tempfile::TempDir,
}

static CLUSTER: OnceLock<Cluster> = OnceLock::new();
static NUMBER: AtomicU32 = AtomicU32::new(0);
static IS_MEASURED: AtomicBool = AtomicBool::new(false);

/// From now on the server is set up as for users: for long runs and for benches, which say so before they use it.
pub fn as_for_users() {
    IS_MEASURED.store(true, Ordering::Relaxed);
}

/// Makes an empty database with the present schema; returns its URL.
pub async fn fresh_database() -> String {
    let name = clone_of(TEMPLATE).await;
    url_of(&name)
}

/// Makes an empty database without a schema; returns its URL.
pub async fn bare_database() -> String {
    let name = clone_of("template0").await;
    url_of(&name)
}

/// Copies a database to which nobody is connected; returns the copy's URL.
pub async fn copy_of(url: &str) -> String {
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let name = clone_of(options.get_database().unwrap()).await;
    url_of(&name)
}

async fn clone_of(template: &str) -> String {
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut admin = PgConnection::connect(cluster().await.postgres.url()).await.unwrap();
    // Two clones at once would find the template in use.
    let sql = format!("SELECT pg_advisory_lock(1); CREATE DATABASE {name} TEMPLATE {template}");
    for statement in sql.split(';') {
        sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).execute(&mut admin).await.unwrap();
    }
    name
}

fn url_of(database: &str) -> String {
    let url = CLUSTER.get().unwrap().postgres.url();
    let (before, after) = url.split_once('?').unwrap();
    let server = before.rsplit_once('/').unwrap().0;
    format!("{server}/{database}?{after}")
}

async fn cluster() -> &'static Cluster {
    if let Some(cluster) = CLUSTER.get() {
        return cluster;
    }
    once(&CLUSTER, start).await
}

/// Tests run side by side, each with its runtime; the first one makes what all share, the others wait.
async fn once<T, F>(cell: &'static OnceLock<T>, make: impl FnOnce() -> F + Send + 'static) -> &'static T
where
    T: Send + Sync,
    F: Future<Output = T>,
{
    let make = move || {
        cell.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(make())
        })
    };
    tokio::task::spawn_blocking(make).await.unwrap()
}

async fn start() -> Cluster {
    let dir = tempfile::Builder::new().prefix("gaffer-e2e-").tempdir().unwrap();
    // The server runs as another user when the tests run as root.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut settings = postgres_settings(dir.path().to_owned(), None);
    if !IS_MEASURED.load(Ordering::Relaxed) {
        settings.overrides = OVERRIDES.map(str::to_owned).to_vec();
    }
    let postgres = EmbeddedPostgres::start(settings).await.unwrap();
    let mut admin = PgConnection::connect(postgres.url()).await.unwrap();
    let sql = format!("CREATE DATABASE {TEMPLATE} TEMPLATE template0");
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
    let (before, after) = postgres.url().split_once('?').unwrap();
    let template = format!("{}/{TEMPLATE}?{after}", before.rsplit_once('/').unwrap().0);
    let mut connection = PgConnection::connect(&template).await.unwrap();
    MIGRATIONS.run(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    Cluster { postgres, _dir: dir }
}

/// What a `gaffer dev` has after its first start and its end: a cluster, and in it the present schema.
struct Made {
    postgres: PathBuf,
    _dir: tempfile::TempDir,
}

static MADE: OnceLock<Made> = OnceLock::new();

/// Puts a finished cluster into a data directory that has none, as its first start would make it.
pub async fn give_cluster(data_dir: &Path) {
    if data_dir.join("postgres").exists() {
        return;
    }
    let made = once(&MADE, make).await;
    // With owners and modes.
    let copied = tokio::process::Command::new("cp").arg("-a").args([&made.postgres, data_dir]).status().await;
    assert!(copied.unwrap().success(), "cannot copy the cluster to {}", data_dir.display());
}

async fn make() -> Made {
    let dir = tempfile::Builder::new().prefix("gaffer-e2e-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let postgres = EmbeddedPostgres::start(postgres_settings(dir.path().to_owned(), None)).await.unwrap();
    let mut connection = PgConnection::connect(postgres.url()).await.unwrap();
    MIGRATIONS.run(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    postgres.stop().await;
    Made { postgres: dir.path().join("postgres"), _dir: dir }
}
