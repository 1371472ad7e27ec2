//! Deleted is gone: nothing of a job stays behind, whatever was going on with it.

use gaffer_domain::AttemptRef;
use gaffer_domain::reason::AttemptEnd;
use gaffer_e2e::client::script;
use gaffer_e2e::eventually;
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::output::Stream;
use sqlx::{Connection as _, PgConnection};

async fn chunks(database: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM output_chunks").fetch_one(database).await.unwrap()
}

/// A finished job whose output lies in chunks of one line each.
async fn job_in_chunks(stage: &Stage, database: &mut PgConnection, lines: usize) -> (i64, AttemptRef) {
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let job = stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    worker.output(attempt, 0, Stream::Stdout, b"line\n").await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 5).await;
    stage.client.finished(job).await;
    sqlx::query(
        "INSERT INTO output_chunks SELECT task_id, attempt, 5 * n, payload_bytes, n, lines, encoding, body \
         FROM output_chunks, generate_series(1, $1) n",
    )
    .bind(lines as i32 - 1)
    .execute(&mut *database)
    .await
    .unwrap();
    (job, attempt)
}

#[tokio::test]
async fn many_small_chunks_are_joined_into_the_same_output() {
    let stage = Stage::set().await;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let (job, attempt) = job_in_chunks(&stage, &mut database, 4_321).await;
    let before = stage.client.output(job).await;
    let saved = stage.running.control.store.output_compact(attempt).await.unwrap();
    assert_eq!(saved as i64, 4_321 - chunks(&mut database).await);
    assert!(chunks(&mut database).await <= 6, "few are left");
    assert!(stage.client.output(job).await == before && before == b"line\n".repeat(4_321));
    let line = stage.client.get(&format!("/jobs/{job}/tasks/main/output?lines=4000-4000")).await;
    assert_eq!(line.text, "line\n");
    let gaps: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT start_offset, lines_before, \
             lag(start_offset + payload_bytes, 1, 0) OVER w AS end_before, \
             lag(lines_before + lines, 1, 0) OVER w AS lines_there \
             FROM output_chunks WINDOW w AS (ORDER BY start_offset)) c \
         WHERE start_offset <> end_before OR lines_before <> lines_there",
    )
    .fetch_one(&mut database)
    .await
    .unwrap();
    assert_eq!(gaps, 0);
    stage.running.control.store.output_compact(attempt).await.unwrap();
    assert_eq!(
        stage.running.control.store.output_compact(attempt).await.unwrap(),
        0,
        "nothing is left to join"
    );
    assert!(stage.client.output(job).await == before);
}

/// The deletion waits for the rows that are being joined. What they were joined into must go with them.
#[tokio::test]
async fn output_that_is_being_joined_while_its_job_is_deleted_goes_with_it() {
    let stage = Stage::set().await;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let (job, attempt) = job_in_chunks(&stage, &mut database, 40).await;
    // Joining waits where it writes its result.
    sqlx::raw_sql(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END $$; \
         CREATE TRIGGER wait BEFORE INSERT OR UPDATE ON output_chunks FOR EACH ROW EXECUTE FUNCTION wait(); \
         SELECT pg_advisory_lock(42)",
    )
    .execute(&mut database)
    .await
    .unwrap();
    let store = stage.running.control.store.clone();
    let joining = tokio::spawn(async move { store.output_compact(attempt).await });
    waits_in(&mut database, "output_chunks SET%' OR query LIKE '%INTO output_chunks").await;
    let client = stage.client.clone();
    let deleting = tokio::spawn(async move { client.delete(&format!("/jobs/{job}")).await.status });
    waits_in(&mut database, "DELETE FROM output_chunks").await;
    sqlx::query("SELECT pg_advisory_unlock(42)").execute(&mut database).await.unwrap();
    joining.await.unwrap().unwrap();
    assert!(deleting.await.unwrap().is_success());
    eventually("nothing is left of the job", async || {
        (chunks(&mut PgConnection::connect(&stage.database_url).await.unwrap()).await == 0).then_some(())
    })
    .await;
}

/// Waits until a statement like this waits for somebody.
async fn waits_in(database: &mut PgConnection, statement: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE (query LIKE '%{statement}%') AND wait_event_type = 'Lock' \
         AND datname = current_database()"
    );
    eventually(&format!("a statement like {statement:?} waits"), async || {
        let waiting = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(sql.clone()));
        (waiting.fetch_one(&mut *database).await.unwrap() > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn output_that_earlier_versions_left_behind_is_removed() {
    let stage = Stage::set().await;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let (job, attempt) = job_in_chunks(&stage, &mut database, 3).await;
    sqlx::query(
        "INSERT INTO output_chunks SELECT task_id + n, attempt, start_offset, payload_bytes, lines_before, lines, \
             encoding, body FROM output_chunks, generate_series(1, 1000) n",
    )
    .execute(&mut database)
    .await
    .unwrap();
    let store = stage.running.control.store.clone();
    let first = store.output_orphans_delete(0, 100).await.unwrap();
    let reached = Some(attempt.task.0 + 99);
    assert_eq!((first.deleted, first.next), (99 * 3, reached), "the existing task's output stays");
    assert_eq!(chunks(&mut database).await, 3 + 901 * 3);

    // The rest goes by itself after a start.
    let stage = Stage::on(stage.strike().await).await;
    eventually("only the output of a task that exists is left", async || {
        (chunks(&mut PgConnection::connect(&stage.database_url).await.unwrap()).await == 3).then_some(())
    })
    .await;
    assert_eq!(stage.client.output(job).await, b"line\n".repeat(3));
}
