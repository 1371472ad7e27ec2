//! One master at a time: another one waits, and who has lost the database goes.

use std::collections::BTreeSet;

use gaffer_e2e::client::script;
use gaffer_e2e::eventually;
use gaffer_e2e::stage::Stage;
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
