//! One private Postgres for each test process, and a database of its own for each test.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use gaffer_master::config::postgres_settings;
use gaffer_master::embedded_postgres::EmbeddedPostgres;
use gaffer_master::store::MIGRATIONS;
use sqlx::{Connection, PgConnection};

const TEMPLATE: &str = "template_gaffer";

/// The server; it ends with the process.
struct Cluster {
    postgres: EmbeddedPostgres,
    _dir: tempfile::TempDir,
}

static CLUSTER: OnceLock<Cluster> = OnceLock::new();
static NUMBER: AtomicU32 = AtomicU32::new(0);

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
    // Tests run side by side, each with a runtime of its own; the first one starts the server, the others wait.
    tokio::task::spawn_blocking(|| {
        CLUSTER.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(start())
        })
    })
    .await
    .unwrap()
}

async fn start() -> Cluster {
    let dir = tempfile::Builder::new().prefix("gaffer-e2e-").tempdir().unwrap();
    // The server runs as another user when the tests run as root.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let postgres = EmbeddedPostgres::start(postgres_settings(dir.path().to_owned(), None)).await.unwrap();
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
