//! Test support: a private Postgres, a real master, real and scripted workers, a small client.
//!
//! Nothing is imported from here but by tests. No test assumes how fast anything is: it waits for a condition with
//! [`eventually`], for as long as [`PATIENCE`]. Of how long something took, it asserts the least at most.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should fail"
)]

pub mod browser;
pub mod client;
pub mod cluster;
pub mod database_proxy;
pub mod eras;
pub mod gaffer;
pub mod glewlwyd;
pub mod identity_provider;
pub mod metrics;
pub mod openapi;
pub mod proxies;
pub mod raw_worker;
pub mod robot;
pub mod s3;
pub mod seeded_bugs;
pub mod spec_reference;
pub mod stage;
pub mod torture;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use sqlx::PgConnection;

/// How long a test waits for something that should happen at once, on a machine that may be very busy. Only a test that
/// fails waits for so long; set `GAFFER_TEST_PATIENCE` to fewer seconds where failures are expected.
pub static PATIENCE: LazyLock<Duration> = LazyLock::new(|| {
    let seconds = std::env::var("GAFFER_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(120))
});

/// Waits until `condition` gives something, and fails the test with `what` if it does not within [`PATIENCE`].
pub async fn eventually<T, F>(what: &str, condition: F) -> T
where
    F: AsyncFnMut() -> Option<T>,
{
    eventually_within(*PATIENCE, what, condition).await
}

/// The same with another deadline.
pub async fn eventually_within<T, F>(patience: Duration, what: &str, mut condition: F) -> T
where
    F: AsyncFnMut() -> Option<T>,
{
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(start.elapsed() < patience, "waited {patience:?} in vain until {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Waits until this many connections of the database wait for a lock, of readers or of writers.
pub async fn wait_for_a_lock(database: &mut PgConnection, application: &str, count: i64) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
               AND wait_event_type = 'Lock' AND application_name = $1";
    eventually("all connections that it may use wait for the lock", async || {
        let waiting: i64 = sqlx::query_scalar(sql).bind(application).fetch_one(&mut *database).await.unwrap();
        (waiting >= count).then_some(())
    })
    .await;
}
