//! Nothing is acknowledged before it is committed, however long that takes and however often it has to be tried.

use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::task::{Report, TaskEvent};
use gaffer_domain::worker::HeldPhase;
use gaffer_e2e::client::script;
use gaffer_e2e::eventually;
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_master::store::transitions::{Batch, Detail, Input};
use gaffer_protocol::output::Stream;
use gaffer_protocol::wire::{Heartbeat, HeldAttempt, MachineStats, ToMaster, ToWorker};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

/// What the master has said so far: its answer to a heartbeat comes after all of that.
async fn said_so_far(worker: &mut RawWorker, sequence: u64, held: HeldAttempt) -> Vec<ToWorker> {
    let heartbeat =
        Heartbeat { sequence, held: Some(vec![held]), stats: MachineStats::default(), clock: None };
    worker.say(&[ToMaster::Heartbeat(Box::new(heartbeat))]).await;
    let mut said = Vec::new();
    loop {
        match worker.hear().await.unwrap() {
            ToWorker::Alive { sequence: answered } if answered == sequence => return said,
            other => said.push(other),
        }
    }
}

/// The process of the database that waits for a lock, if it is not that one.
async fn waiting_for_a_lock(database: &mut PgConnection, but: i32) -> i32 {
    let sql = "SELECT pid FROM pg_stat_activity \
               WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> $1";
    eventually("something waits for a lock", async || {
        sqlx::query_scalar(sql).bind(but).fetch_optional(&mut *database).await.unwrap()
    })
    .await
}

#[tokio::test]
async fn output_and_ends_are_acknowledged_after_their_commit_only() {
    let stage = Stage::set().await;
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let job = stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    stage.client.in_state(job, "running").await;

    let mut watch = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut of_job = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut of_output = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut job_lock = of_job.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM jobs WHERE id = $1 FOR UPDATE")
        .bind(job)
        .execute(&mut *job_lock)
        .await
        .unwrap();
    let mut output_lock = of_output.begin().await.unwrap();
    sqlx::query("LOCK TABLE output_chunks IN SHARE MODE").execute(&mut *output_lock).await.unwrap();

    worker.output(attempt, 0, Stream::Stdout, b"all\n").await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 4).await;
    let held = HeldAttempt { attempt, phase: HeldPhase::Finished };
    let first_try = waiting_for_a_lock(&mut watch, 0).await;
    assert_eq!(said_so_far(&mut worker, 1, held).await, []);

    // Whether that was committed is not known to a client that loses the connection.
    sqlx::query("SELECT pg_terminate_backend($1)").bind(first_try).execute(&mut watch).await.unwrap();
    let second_try = waiting_for_a_lock(&mut watch, first_try).await;
    assert_eq!(said_so_far(&mut worker, 2, held).await, []);

    output_lock.rollback().await.unwrap();
    // The output needs no lock on the job: it is committed now. The end is not, and delays nobody else.
    let mut said = Vec::new();
    eventually("the output is stored", async || {
        said.extend(said_so_far(&mut worker, 3, held).await);
        said.iter().any(|message| matches!(message, ToWorker::OutputStored { .. })).then_some(())
    })
    .await;
    let system = eventually("it shows that the job is locked", async || {
        let system = stage.client.get("/system").await.body;
        system["locked_jobs"][0]["job"].is_i64().then_some(system)
    })
    .await;
    assert_eq!(system["locked_jobs"][0]["job"], job);
    said.extend(said_so_far(&mut worker, 4, held).await);
    assert!(said.iter().all(|message| matches!(message, ToWorker::OutputStored { .. })), "{said:?}");
    assert!(second_try != first_try && stage.client.job(job).await.state == "running");

    job_lock.rollback().await.unwrap();
    worker
        .hear_until(|message| {
            matches!(message, ToWorker::EndStored { attempt: of } if of == attempt).then_some(())
        })
        .await;
    assert_eq!(stage.client.finished(job).await.state, "completed");
    assert_eq!(stage.client.output(job).await, b"all\n");
}

#[tokio::test]
async fn what_a_batch_of_unknown_outcome_has_left_undone_is_found() {
    let stage = Stage::set().await;
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let spec = json!({"tasks": [
        {"name": "first", "script": "true"},
        {"name": "many", "script": "true", "count": 5, "depends_on": ["first"]},
    ]});
    let job = stage.client.submit(spec).await;
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    stage.client.in_state(job, "running").await;
    let by = stage.running.control.hub.all()[0].worker;
    worker.hang_up();
    let other = stage.client.submit(script("true")).await;

    // Committed in part, and the master has not heard of it.
    let report = Report { worker: by, attempt: attempt.attempt };
    let event = TaskEvent::Ended(report, AttemptEnd::Exited { code: 0 });
    let input = Input { task: attempt.task, event, actor: "test".into(), detail: Detail::None };
    let batch = Batch { inputs: vec![input], slice_tasks: 2, ..Batch::default() };
    let outcome = stage.running.control.store.tasks_apply(&batch, chrono::Utc::now()).await.unwrap();
    assert_eq!(outcome.unfinished.len(), 1);
    let blocked = async || stage.client.job(job).await.task_counts.get("blocked").copied().unwrap_or(0);
    assert_eq!(blocked().await, 3);

    let mut watch = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut of_counts = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut lock = of_counts.begin().await.unwrap();
    sqlx::query("LOCK TABLE task_definitions IN SHARE MODE").execute(&mut *lock).await.unwrap();
    let client = stage.client.clone();
    let stopped =
        tokio::spawn(async move { client.post(&format!("/jobs/{other}/stop"), &json!({})).await.status });
    let first_try = waiting_for_a_lock(&mut watch, 0).await;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(first_try).execute(&mut watch).await.unwrap();
    waiting_for_a_lock(&mut watch, first_try).await;
    lock.rollback().await.unwrap();
    assert!(stopped.await.unwrap().is_success());
    eventually("nothing is left", async || (blocked().await == 0).then_some(())).await;
}
