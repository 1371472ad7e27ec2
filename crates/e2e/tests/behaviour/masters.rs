//! One master at a time: another one waits, and who has lost the database goes.

use std::collections::BTreeSet;

use gaffer_e2e::client::script;
use gaffer_e2e::eventually;
use gaffer_e2e::stage::Stage;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::Connection as _;

#[tokio::test]
async fn a_second_master_waits_for_the_end_of_the_first_and_never_serves_beside_it() {
    let first = Stage::set().await;
    let job = first.client.submit(script("true")).await;
    let second = tokio::spawn(Stage::on(first.database_url.clone()));
    // It asks for the lock again and again.
    let mut database = sqlx::PgConnection::connect(&first.database_url).await.unwrap();
    let asked = "SELECT DISTINCT query_start::text FROM pg_stat_activity WHERE query LIKE '%pg_try_advisory_lock%' \
                 AND pid <> pg_backend_pid() AND datname = current_database()";
    let mut times = BTreeSet::new();
    eventually("it has asked five times", async || {
        let more: Vec<String> = sqlx::query_scalar(asked).fetch_all(&mut database).await.unwrap();
        times.extend(more);
        // One of them is when the first one got it.
        (second.is_finished() || times.len() > 5).then_some(())
    })
    .await;
    assert!(!second.is_finished(), "it serves beside the first");
    first.client.submit(script("true")).await;
    first.strike().await;
    let second = second.await.unwrap();
    assert_eq!(second.client.job(job).await.state, "pending");
}

#[tokio::test]
async fn a_master_does_not_take_its_own_last_connection_for_another_master() {
    let stage = Stage::set().await;
    let mut database = sqlx::PgConnection::connect(&stage.database_url).await.unwrap();
    let holder = "SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
                  WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()";
    let old: i32 = sqlx::query_scalar(holder).fetch_one(&mut database).await.unwrap();
    // The server is so busy that it does not even answer a ping, and does not notice who hangs up.
    kill(Pid::from_raw(old), Signal::SIGSTOP).unwrap();
    let others = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_try_advisory_lock%' \
                  AND pid NOT IN (pg_backend_pid(), $1) AND datname = current_database()";
    eventually("the master asks on another connection", async || {
        let others: i64 = sqlx::query_scalar(others).bind(old).fetch_one(&mut database).await.unwrap();
        (others > 0).then_some(())
    })
    .await;
    assert!(!stage.running.master.shutdown.is_cancelled());
    kill(Pid::from_raw(old), Signal::SIGCONT).unwrap();
    eventually("it has the lock again", async || {
        let pid: Option<i32> = sqlx::query_scalar(holder).fetch_optional(&mut database).await.unwrap();
        pid.filter(|pid| *pid != old)
    })
    .await;
    assert!(!stage.running.master.shutdown.is_cancelled());
}

#[tokio::test]
async fn a_master_whose_database_another_one_has_taken_goes_down_by_itself() {
    let first = Stage::set().await;
    // Its lock ends as if the server had been restarted, and somebody is faster.
    let mut other = sqlx::PgConnection::connect(&first.database_url).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    sqlx::query(end).execute(&mut other).await.unwrap();
    eventually("the lock is free", async || {
        let take = "SELECT pg_try_advisory_lock(x'676166666572'::bigint)";
        sqlx::query_scalar::<_, bool>(take).fetch_one(&mut other).await.unwrap().then_some(())
    })
    .await;
    first.running.master.shutdown.cancelled().await;
}
