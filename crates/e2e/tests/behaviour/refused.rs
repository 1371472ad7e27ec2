//! A database that refuses what is fine is waited out; what it refuses by itself is kept and shown; neither loses anything.

use gaffer_domain::AttemptRef;
use gaffer_domain::reason::AttemptEnd;
use gaffer_e2e::client::script;
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::eventually;
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::output::Stream;
use gaffer_protocol::wire::{HeldAttempt, ToMaster, ToWorker};
use reqwest::StatusCode;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

/// A master that is an ordinary role in its database, and the database's owner beside it.
struct Ordinary {
    stage: Stage,
    owner: PgConnection,
    role: String,
}

async fn run(database: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(database).await.unwrap();
}

impl Ordinary {
    async fn set() -> Ordinary {
        let url = fresh_database().await;
        let mut owner = PgConnection::connect(&url).await.unwrap();
        let database: String =
            sqlx::query_scalar("SELECT current_database()").fetch_one(&mut owner).await.unwrap();
        let role = format!("role_of_{database}");
        let sql = format!(
            "CREATE ROLE {role} LOGIN; GRANT ALL ON SCHEMA public TO {role}; \
             GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"
        );
        run(&mut owner, &sql).await;
        let mut as_role = url::Url::parse(&url).unwrap();
        as_role.set_username(&role).unwrap();
        let stage = Stage::on(as_role.to_string()).await;
        Ordinary { stage, owner, role }
    }

    async fn cut_connections(&mut self) {
        let sql =
            format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'", self.role);
        run(&mut self.owner, &sql).await;
    }

    async fn worker(&self) -> RawWorker {
        RawWorker::connect(&self.stage.worker_url(), &self.stage.worker_key, hello("w")).await
    }

    /// A job whose only attempt runs on that worker.
    async fn running(&self, worker: &mut RawWorker) -> (i64, AttemptRef) {
        let job = self.stage.client.submit(script("true")).await;
        let attempt = worker.next_start().await.attempt;
        worker.started(attempt).await;
        self.stage.client.in_state(job, "running").await;
        (job, attempt)
    }
}

async fn end_stored(worker: &mut RawWorker, attempt: AttemptRef) {
    let stored =
        |message| matches!(message, ToWorker::EndStored { attempt: of } if of == attempt).then_some(());
    worker.hear_until(stored).await;
}

/// Nothing of what a worker sends while the database refuses is acknowledged, and nothing is lost.
async fn is_waited_out(refuse: &str, accept: &str, cut: bool) {
    let mut ordinary = Ordinary::set().await;
    let mut worker = ordinary.worker().await;
    let (job, attempt) = ordinary.running(&mut worker).await;
    let (refuse, accept) =
        (refuse.replace("{role}", &ordinary.role), accept.replace("{role}", &ordinary.role));
    run(&mut ordinary.owner, &refuse).await;
    if cut {
        ordinary.cut_connections().await;
    }
    worker.output(attempt, 0, Stream::Stdout, b"one\n").await;
    worker.output(attempt, 4, Stream::Stdout, b"two\n").await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 8).await;
    // It is tried and refused, and that shows.
    let base = format!("http://{}", ordinary.stage.running.api);
    let refused = eventually("the master is not ready", async || {
        let answer = reqwest::get(format!("{base}/readyz")).await.unwrap();
        (answer.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
    })
    .await;
    assert!(refused.headers().contains_key("retry-after"));
    let held = HeldAttempt { attempt, phase: gaffer_domain::worker::HeldPhase::Finished };
    worker.heartbeat(1, vec![held]).await;

    run(&mut ordinary.owner, &accept).await;
    end_stored(&mut worker, attempt).await;
    assert_eq!(ordinary.stage.client.finished(job).await.state, "completed");
    assert_eq!(ordinary.stage.client.output(job).await, b"one\ntwo\n");
    assert_eq!(ordinary.stage.client.get("/dead-letters").await.body["items"].as_array().unwrap().len(), 0);
    eventually("the master is ready again", async || {
        let answer = reqwest::get(format!("{base}/readyz")).await.unwrap();
        (answer.status() == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_role_that_may_not_sign_in_for_a_while_loses_nothing() {
    is_waited_out("ALTER ROLE {role} NOLOGIN", "ALTER ROLE {role} LOGIN", true).await;
}

#[tokio::test]
async fn sessions_that_stay_read_only_when_the_database_is_not_are_replaced() {
    let mut ordinary = Ordinary::set().await;
    let mut worker = ordinary.worker().await;
    let (job, attempt) = ordinary.running(&mut worker).await;
    let role = ordinary.role.clone();
    run(&mut ordinary.owner, &format!("ALTER ROLE {role} SET default_transaction_read_only = on")).await;
    ordinary.cut_connections().await;
    worker.output(attempt, 0, Stream::Stdout, b"all\n").await;
    let troubles = ordinary.stage.running.views.status.troubles.clone();
    eventually("what records finds its new session read-only", async || {
        troubles.database().filter(|trouble| trouble.message.contains("read-only transaction"))
    })
    .await;
    // Nobody ends the sessions that were begun meanwhile.
    run(&mut ordinary.owner, &format!("ALTER ROLE {role} RESET default_transaction_read_only")).await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 4).await;
    end_stored(&mut worker, attempt).await;
    assert_eq!(ordinary.stage.client.finished(job).await.state, "completed");
    assert_eq!(ordinary.stage.client.output(job).await, b"all\n");
}

#[tokio::test]
async fn a_privilege_on_output_that_is_revoked_for_a_while_loses_nothing() {
    is_waited_out(
        "REVOKE INSERT ON output_chunks FROM {role}",
        "GRANT INSERT ON output_chunks TO {role}",
        false,
    )
    .await;
}

#[tokio::test]
async fn a_privilege_on_tasks_that_is_revoked_for_a_while_loses_nothing() {
    is_waited_out(
        "REVOKE UPDATE, DELETE ON live_tasks FROM {role}",
        "GRANT UPDATE, DELETE ON live_tasks TO {role}",
        false,
    )
    .await;
}

#[tokio::test]
async fn a_submission_that_the_database_refuses_can_be_repeated() {
    let mut ordinary = Ordinary::set().await;
    let role = ordinary.role.clone();
    run(&mut ordinary.owner, &format!("REVOKE INSERT ON jobs FROM {role}")).await;
    let answer = ordinary.stage.client.post("/jobs", &script("true")).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text);
    assert!(answer.headers.contains_key("retry-after"));
    run(&mut ordinary.owner, &format!("GRANT INSERT ON jobs TO {role}")).await;
    assert_eq!(ordinary.stage.client.post("/jobs", &script("true")).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn output_that_a_constraint_refuses_is_kept_shown_and_put_back() {
    let mut ordinary = Ordinary::set().await;
    let mut worker = ordinary.worker().await;
    let (job, attempt) = ordinary.running(&mut worker).await;
    let sql = "ALTER TABLE output_chunks ADD CONSTRAINT no_second CHECK (start_offset <> 4) NOT VALID";
    run(&mut ordinary.owner, sql).await;
    worker.output(attempt, 0, Stream::Stdout, b"one\n").await;
    worker.output(attempt, 4, Stream::Stdout, b"two\n").await;
    worker.output(attempt, 8, Stream::Stdout, b"three\n").await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 14).await;
    end_stored(&mut worker, attempt).await;

    let client = &ordinary.stage.client;
    assert_eq!(client.finished(job).await.state, "completed");
    let letters = client.get(&format!("/dead-letters?job={job}")).await.body["items"].clone();
    let letter = &letters[0];
    assert_eq!(
        (letters.as_array().unwrap().len(), &letter["offset"], &letter["bytes"]),
        (1, &4.into(), &4.into())
    );
    assert!(letter["reason"].as_str().unwrap().contains("no_second"), "{letter}");
    let events = client.get(&format!("/jobs/{job}/events")).await.text;
    assert!(events.contains("task.set_aside"), "{events}");
    let retry = format!("/dead-letters/{}/retry", letter["id"]);
    assert_eq!(client.post(&retry, &json!({})).await.status, StatusCode::CONFLICT);
    assert_eq!(client.get("/system").await.body["has_dead_letters"], true);

    run(&mut ordinary.owner, "ALTER TABLE output_chunks DROP CONSTRAINT no_second").await;
    assert_eq!(client.post(&retry, &json!({})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(client.output(job).await, b"one\ntwo\nthree\n");
    assert_eq!(client.get("/system").await.body["has_dead_letters"], false);
    assert_eq!(client.post(&retry, &json!({})).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn much_output_that_is_refused_holds_nobody_up_and_is_put_back_in_one_go() {
    // More than one run of the loop tries.
    const CHUNKS: u64 = 250;
    let mut ordinary = Ordinary::set().await;
    let mut worker = ordinary.worker().await;
    let (job, attempt) = ordinary.running(&mut worker).await;
    let sql = format!(
        "ALTER TABLE output_chunks ADD CONSTRAINT none_of_it CHECK (task_id <> {}) NOT VALID",
        attempt.task.0
    );
    run(&mut ordinary.owner, &sql).await;
    for chunk in 0..CHUNKS {
        worker.output(attempt, 4 * chunk, Stream::Stdout, b"one\n").await;
    }
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 4 * CHUNKS).await;
    let client = &ordinary.stage.client;
    let troubles = &ordinary.stage.running.views.status.troubles;
    eventually("everything is set aside", async || {
        // The database takes what it is given to keep, so nothing else has to wait.
        assert_eq!(troubles.database(), None);
        let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM dead_letters")
            .fetch_one(&mut ordinary.owner)
            .await
            .unwrap();
        (kept.unsigned_abs() == CHUNKS).then_some(())
    })
    .await;
    end_stored(&mut worker, attempt).await;

    run(&mut ordinary.owner, "ALTER TABLE output_chunks DROP CONSTRAINT none_of_it").await;
    ordinary.stage.running.control.wakes.dead_letters.call();
    eventually("everything is put back", async || {
        (client.get("/system").await.body["has_dead_letters"] == false).then_some(())
    })
    .await;
    assert_eq!(client.output(job).await, b"one\n".repeat(CHUNKS as usize));
}

#[tokio::test]
async fn an_end_that_the_database_refuses_is_kept_and_the_task_ends_all_the_same() {
    let mut ordinary = Ordinary::set().await;
    let mut worker = ordinary.worker().await;
    let (job, attempt) = ordinary.running(&mut worker).await;
    let (other, fine) = ordinary.running(&mut worker).await;
    let sql =
        "ALTER TABLE finished_tasks ADD CONSTRAINT no_seven CHECK (exit_code IS DISTINCT FROM 7) NOT VALID";
    run(&mut ordinary.owner, sql).await;
    worker.ended(attempt, AttemptEnd::Exited { code: 7 }, 0).await;
    worker.ended(fine, AttemptEnd::Exited { code: 0 }, 0).await;
    end_stored(&mut worker, attempt).await;
    let client = &ordinary.stage.client;
    let failed = client.finished(job).await;
    assert_eq!(failed.state, "failed");
    let message = failed.reason.unwrap().message;
    assert!(message.contains("the database refused the worker's report"), "{message}");
    assert_eq!(client.finished(other).await.state, "completed");
    let letters = client.get("/dead-letters").await.body["items"].clone();
    assert_eq!((letters.as_array().unwrap().len(), &letters[0]["kind"]), (1, &"report".into()));
    let deleted = client.delete(&format!("/dead-letters/{}", letters[0]["id"])).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_job_that_somebody_holds_in_the_database_delays_no_other() {
    let mut ordinary = Ordinary::set().await;
    let mut worker = ordinary.worker().await;
    let (job, attempt) = ordinary.running(&mut worker).await;
    let mut lock = ordinary.owner.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM jobs WHERE id = $1 FOR UPDATE").bind(job).execute(&mut *lock).await.unwrap();
    worker.output(attempt, 0, Stream::Stdout, b"all\n").await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 4).await;

    let client = &ordinary.stage.client;
    let other = client.submit(script("true")).await;
    let second = worker.next_start().await.attempt;
    worker.started(second).await;
    worker.ended(second, AttemptEnd::Exited { code: 0 }, 0).await;
    assert_eq!(client.finished(other).await.state, "completed");
    let explained = client.get(&format!("/jobs/{job}/explain")).await.body["message"].clone();
    assert!(explained.as_str().unwrap().contains("another transaction"), "{explained}");
    let held = HeldAttempt { attempt, phase: gaffer_domain::worker::HeldPhase::Finished };
    worker.heartbeat(1, vec![held]).await;
    assert_eq!(client.job(job).await.state, "running");

    lock.rollback().await.unwrap();
    end_stored(&mut worker, attempt).await;
    assert_eq!(client.finished(job).await.state, "completed");
}

/// One after the other they would keep everybody waiting for minutes.
#[tokio::test]
async fn tasks_that_somebody_holds_in_the_database_delay_no_other_job() {
    let mut ordinary = Ordinary::set().await;
    let mut worker = ordinary.worker().await;
    let client = ordinary.stage.client.clone();
    client.submit(script("true")).await;
    let over = worker.next_start().await.attempt;
    worker.ended(over, AttemptEnd::Exited { code: 0 }, 0).await;
    end_stored(&mut worker, over).await;
    let job = client.submit(json!({"command": ["true"], "count": 100, "resources": {"cpu": 0.01}})).await;
    let mut started = Vec::new();
    for _ in 0..100 {
        let attempt = worker.next_start().await.attempt;
        started.push(ToMaster::Started {
            attempt,
            at: chrono::Utc::now(),
            container: None,
            ports: Vec::new(),
        });
    }
    let rolled_back = "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    let before: i64 = sqlx::query_scalar(rolled_back).fetch_one(&mut ordinary.owner).await.unwrap();
    let mut lock = ordinary.owner.begin().await.unwrap();
    let sql = "SELECT 1 FROM live_tasks WHERE job_id = $1 FOR UPDATE";
    sqlx::query(sql).bind(job).execute(&mut *lock).await.unwrap();
    worker.say(&started).await;
    // What is told again of a task that is over waits for nobody.
    worker.ended(over, AttemptEnd::Exited { code: 0 }, 0).await;
    end_stored(&mut worker, over).await;

    let other = client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    assert_eq!(client.finished(other).await.state, "completed");
    assert_eq!(client.job(job).await.task_counts.get("running"), None);

    lock.rollback().await.unwrap();
    // That they are held is found out of all of them together.
    let after: i64 = sqlx::query_scalar(rolled_back).fetch_one(&mut ordinary.owner).await.unwrap();
    assert!(after - before < 4, "{} transactions failed", after - before);
    eventually("all have started", async || {
        (client.job(job).await.task_counts.get("running") == Some(&100)).then_some(())
    })
    .await;
}

/// As on a database that is too slow for more than ten tasks at once.
#[tokio::test]
async fn a_batch_that_takes_too_long_is_halved_until_it_does_not() {
    let mut ordinary = Ordinary::set().await;
    let mut worker = ordinary.worker().await;
    let spec = json!({"command": ["true"], "count": 100, "resources": {"cpu": 0.01}});
    let job = ordinary.stage.client.submit(spec).await;
    let mut started = Vec::new();
    for _ in 0..100 {
        let attempt = worker.next_start().await.attempt;
        started.push(ToMaster::Started {
            attempt,
            at: chrono::Utc::now(),
            container: None,
            ports: Vec::new(),
        });
    }
    let sql = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                   IF (SELECT count(*) FROM changed) > 10 THEN \
                       RAISE EXCEPTION 'canceling statement due to statement timeout' USING ERRCODE = '57014'; \
                   END IF; RETURN NULL; END $$; \
               CREATE TRIGGER slow AFTER UPDATE ON live_tasks REFERENCING NEW TABLE AS changed \
                   FOR EACH STATEMENT EXECUTE FUNCTION slow()";
    run(&mut ordinary.owner, sql).await;
    worker.say(&started).await;
    let client = &ordinary.stage.client;
    eventually("all have started", async || {
        (client.job(job).await.task_counts.get("running") == Some(&100)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_large_job_is_stopped_and_deleted_beside_others() {
    let ordinary = Ordinary::set().await;
    let client = &ordinary.stage.client;
    let large = client.submit(json!({"command": ["true"], "count": 5_000})).await;
    assert_eq!(client.post(&format!("/jobs/{large}/stop"), &json!({})).await.status, StatusCode::ACCEPTED);
    let mut worker = ordinary.worker().await;
    let small = client.submit(script("true")).await;
    let attempt = loop {
        let start = worker.next_start().await;
        if start.definition.job.0 == small {
            break start.attempt;
        }
    };
    worker.started(attempt).await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    assert_eq!(client.finished(small).await.state, "completed");
    let stopped = client.finished(large).await;
    assert_eq!((stopped.state.as_str(), stopped.task_counts["cancelled"]), ("cancelled", 5_000));

    assert_eq!(client.delete(&format!("/jobs/{large}")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(client.get(&format!("/jobs/{large}")).await.status, StatusCode::NOT_FOUND);
    let mut database = PgConnection::connect(&ordinary.stage.database_url).await.unwrap();
    eventually("nothing of it is left", async || {
        let sql = "SELECT (SELECT count(*) FROM tasks WHERE job_id = $1) + (SELECT count(*) FROM deletions) \
                   + (SELECT count(*) FROM events WHERE job_id = $1)";
        let left: i64 = sqlx::query_scalar(sql).bind(large).fetch_one(&mut database).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
}
