//! Several masters on one database: one leads, the others stand by, and who has been replaced acts no more.

use std::time::Duration;

use gaffer_domain::JobId;
use gaffer_domain::quantity::Span;
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::worker::{HeldPhase, Intake};
use gaffer_e2e::client::script;
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::database_proxy::DatabaseProxy;
use gaffer_e2e::eventually;
use gaffer_e2e::raw_worker::{RawWorker, hello, register};
use gaffer_e2e::stage::Stage;
use gaffer_master::store::jobs::NewJob;
use gaffer_master::store::transitions::Batch;
use gaffer_master::store::{Store, StoreError};
use gaffer_protocol::wire::{Heartbeat, HeldAttempt, MachineStats, ToMaster, ToWorker};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

/// So short that tests need not wait for long, and longer than a leader on a busy machine takes to confirm its term.
const LEASE: &str = "6s";

async fn master(database_url: &str) -> Stage {
    Stage::with(database_url.to_owned(), |config| config.leader_lease = LEASE.parse().unwrap()).await
}

/// What the database says of leadership.
async fn row(database_url: &str) -> (i64, i64) {
    let mut database = PgConnection::connect(database_url).await.unwrap();
    sqlx::query_as("SELECT term, confirmations FROM leadership").fetch_one(&mut database).await.unwrap()
}

#[tokio::test]
async fn a_second_master_stands_by_for_as_long_as_the_first_leads_and_says_so() {
    let url = fresh_database().await;
    let first = master(&url).await;
    let job = first.client.submit(script("true")).await;
    // Where nobody is who may be given a port.
    let port = loop {
        let port: u16 = rand::random_range(10_000..30_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            break port;
        }
    };
    let second = tokio::spawn(Stage::with(url.clone(), move |config| {
        config.leader_lease = LEASE.parse().unwrap();
        config.api_addr = format!("127.0.0.1:{port}");
    }));
    let asked = async |path: &str| {
        let answer = reqwest::get(format!("http://127.0.0.1:{port}{path}")).await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    };
    let ready = eventually("the second answers", async || asked("/readyz").await).await;
    assert!(ready.0 == 503 && ready.1.contains(r#""code":"standby""#), "{ready:?}");
    assert_eq!(asked("/livez").await, Some((200, "ok\n".to_owned())));
    let (status, text) = asked("/api/v1/jobs").await.unwrap();
    assert!(status == 503 && text.contains("another one leads"), "{text}");
    // For longer than it would wait for a leader that is silent: ten confirmations are one lease.
    let (term, before) = row(&url).await;
    eventually("the first has confirmed its term often", async || {
        (row(&url).await.1 > before + 15).then_some(())
    })
    .await;
    assert_eq!(row(&url).await.0, term);
    assert!(!second.is_finished(), "it serves beside the first");
    first.client.submit(script("true")).await;

    first.strike().await;
    let second = second.await.unwrap();
    assert_eq!(second.client.job(job).await.state, "pending");
    assert_eq!(row(&url).await.0, term + 1);
    assert_eq!(asked("/readyz").await.map(|(status, _)| status), Some(200));
}

#[tokio::test]
async fn who_leads_again_after_its_connections_were_cut_is_the_same_master() {
    let url = fresh_database().await;
    let first = master(&url).await;
    let second = tokio::spawn({
        let url = url.clone();
        async move { master(&url).await }
    });
    let (term, _) = row(&url).await;
    let mut database = PgConnection::connect(&url).await.unwrap();
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    eventually("the second stands by", async || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND application_name = 'gaffer leader'";
        (sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut database).await.unwrap() == 2).then_some(())
    })
    .await;
    sqlx::query(cut).execute(&mut database).await.unwrap();
    let (_, before) = row(&url).await;
    eventually("it confirms its term again", async || (row(&url).await.1 > before + 15).then_some(())).await;
    assert_eq!(row(&url).await.0, term);
    assert!(!second.is_finished() && !first.running.control.shutdown.is_cancelled());
    second.abort();
}

/// A master that is cut off from its database, with a worker that still reaches it and runs an attempt.
struct CutOff {
    stage: Stage,
    way: DatabaseProxy,
    database_url: String,
    term: i64,
    worker: RawWorker,
    held: HeldAttempt,
}

impl CutOff {
    async fn set() -> CutOff {
        let database_url = fresh_database().await;
        let way = DatabaseProxy::start(&database_url).await;
        let stage = master(way.url()).await;
        let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
        let job = stage.client.submit(json!({"script": "true", "lost_after": "10s"})).await;
        let attempt = worker.next_start().await.attempt;
        worker.started(attempt).await;
        stage.client.in_state(job, "running").await;
        let held = HeldAttempt { attempt, phase: HeldPhase::Running };
        worker.heartbeat(1, vec![held]).await;
        let (term, _) = row(&database_url).await;
        way.cut();
        CutOff { stage, way, database_url, term, worker, held }
    }
}

#[tokio::test]
async fn a_master_that_cannot_prove_that_it_leads_answers_no_heartbeat_until_it_can() {
    let CutOff { stage, way, database_url, term, mut worker, held } = CutOff::set().await;
    let master = stage.running.control.clone();
    eventually("its window is over", async || (!master.store.leadership().is_trusted()).then_some(())).await;
    let last_heard = || master.hub.all()[0].last_seen().0;
    let before = last_heard();
    let heartbeat =
        Heartbeat { sequence: 2, held: Some(vec![held]), stats: MachineStats::default(), clock: None };
    worker.say(&[ToMaster::Heartbeat(Box::new(heartbeat))]).await;
    eventually("the heartbeat has arrived", async || (last_heard() > before).then_some(())).await;
    way.restore();
    eventually("it leads as before", async || master.store.leadership().is_trusted().then_some(())).await;
    assert_eq!(row(&database_url).await.0, term);
    let heartbeat =
        Heartbeat { sequence: 3, held: Some(vec![held]), stats: MachineStats::default(), clock: None };
    worker.say(&[ToMaster::Heartbeat(Box::new(heartbeat))]).await;
    let answered = worker
        .hear_until(|message| match message {
            ToWorker::Alive { sequence } => Some(sequence),
            _ => None,
        })
        .await;
    assert_eq!(answered, 3, "a heartbeat was answered while another master could have taken over");
}

#[tokio::test]
async fn nothing_that_a_master_does_after_it_was_replaced_has_any_effect() {
    let CutOff { stage, way, database_url, term, mut worker, held } = CutOff::set().await;
    let old = stage.running.control.clone();
    worker.ended(held.attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    let new = master(&database_url).await;
    assert!(row(&database_url).await.0 > term);
    way.restore();
    let store = old.store.clone();
    let (project, worker_id) = (store.project_default().await.unwrap(), old.hub.all()[0].worker);
    let session = old.hub.all()[0].id;
    let spec = gaffer_domain::spec::JobSpec::read(&script("true")).unwrap();
    let job = NewJob::of(project, &spec, "ana");
    let now = chrono::Utc::now();
    let refused = [
        ("tasks", store.tasks_apply(&Batch::default(), now).await.err()),
        ("a job", store.job_insert(&job, now).await.err()),
        ("a hello", register(&store, (project, 1), session, &[1; 32], &hello("late")).await.err()),
        ("a goodbye", store.worker_goodbye(worker_id, session, 0.0, "late").await.err()),
        ("a boot", store.worker_booted(worker_id, "late").await.err()),
        ("drivers", store.worker_drivers(worker_id, session, &[]).await.err()),
        ("an amnesty", store.workers_amnesty(Span::from_millis(0)).await.err()),
        ("an intake", store.worker_intake(project, worker_id, Intake::Draining, None, "late").await.err()),
        ("what was drained", store.workers_drained().await.err()),
        ("a removal", store.worker_remove(project, worker_id, "late").await.err()),
        ("a note", store.attempt_note(worker_id, held.attempt, "late").await.err()),
        ("a deletion", store.job_delete(project, JobId(1), "late").await.err()),
    ];
    let accepted: Vec<&str> = refused
        .iter()
        .filter(|(_, error)| !matches!(error, Some(StoreError::NotLeader)))
        .map(|(what, _)| *what)
        .collect();
    assert!(accepted.is_empty(), "not refused for the term: {accepted:?} {refused:?}");
    // It finds out by itself, too, and goes down.
    old.shutdown.cancelled().await;
    assert!(old.store.leadership().is_over());
    let going_down = tokio::spawn(stage.strike());
    while let Some(message) = worker.hear().await {
        let is_acknowledgement = matches!(message, ToWorker::EndStored { .. } | ToWorker::Alive { .. });
        assert!(!is_acknowledgement, "{message:?}");
    }
    going_down.await.unwrap();
    assert_eq!(new.client.get("/workers/w").await.body["state"], "offline");
    assert_eq!(new.client.get("/jobs").await.body["items"][0]["state"], "running");
}

#[tokio::test]
async fn what_the_earlier_leader_has_under_way_is_ended_and_not_waited_for() {
    let url = fresh_database().await;
    // A leader that is gone together with its machine, in the middle of a transaction. The server has not noticed.
    let (mut lock, mut under_way) =
        (PgConnection::connect(&url).await.unwrap(), PgConnection::connect(&url).await.unwrap());
    sqlx::query("SELECT pg_advisory_lock(x'676166666572'::bigint)").execute(&mut lock).await.unwrap();
    sqlx::query("UPDATE leadership SET lease_millis = 2000").execute(&mut lock).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT leader_check(0); UPDATE projects SET name = 'late'")
        .execute(&mut under_way)
        .await
        .unwrap();
    let second = master(&url).await;
    assert_eq!(row(&url).await.0, 1);
    assert!(sqlx::raw_sql("COMMIT").execute(&mut under_way).await.is_err());
    assert_eq!(second.client.get("/jobs").await.status, reqwest::StatusCode::OK);
}

#[tokio::test]
async fn a_takeover_waits_for_a_transaction_that_ends_soon_and_a_transaction_for_a_takeover() {
    let url = fresh_database().await;
    let mut under_way = PgConnection::connect(&url).await.unwrap();
    let mut taking = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT leader_check(0)").execute(&mut under_way).await.unwrap();
    let take =
        "BEGIN; SET LOCAL lock_timeout = '50ms'; SELECT pg_advisory_xact_lock(x'676166666573'::bigint)";
    assert!(sqlx::raw_sql(take).execute(&mut taking).await.is_err(), "a takeover has to wait");
    let confirm = "ROLLBACK; UPDATE leadership SET confirmations = confirmations + 1";
    sqlx::raw_sql(confirm).execute(&mut taking).await.expect("a confirmation has not");
    sqlx::raw_sql("COMMIT; SELECT leader_check(0)").execute(&mut under_way).await.unwrap();
    let take = "BEGIN; SELECT pg_advisory_xact_lock(x'676166666573'::bigint); UPDATE leadership SET term = 1";
    sqlx::raw_sql(take).execute(&mut taking).await.unwrap();
    let store = Store::connect(&url).await.unwrap();
    let apply = tokio::spawn(async move { store.workers_drained().await });
    eventually("the check waits", async || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND wait_event_type = 'Lock' AND query LIKE 'SELECT leader_check%'";
        (sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut under_way).await.unwrap() == 1).then_some(())
    })
    .await;
    sqlx::raw_sql("COMMIT").execute(&mut taking).await.unwrap();
    assert!(matches!(apply.await.unwrap(), Err(StoreError::NotLeader)));
}

#[tokio::test]
async fn after_a_leader_that_did_not_step_down_absences_begin_when_its_window_is_over() {
    let url = fresh_database().await;
    let away_in = async |url: &str| -> f64 {
        let mut database = PgConnection::connect(url).await.unwrap();
        let sql = "SELECT extract(epoch FROM offline_since - now())::float8 FROM workers";
        sqlx::query_scalar(sql).fetch_one(&mut database).await.unwrap()
    };
    let long = Duration::from_secs(600);
    let with = async |url: &str| {
        Stage::with(url.to_owned(), move |config| {
            config.leader_lease = format!("{}s", long.as_secs()).parse().unwrap();
        })
        .await
    };
    let first = with(&url).await;
    let worker = RawWorker::connect(&first.worker_url(), &first.worker_key, hello("w")).await;
    // Killed: its connections end, and it says nothing.
    let mut database = PgConnection::connect(&url).await.unwrap();
    let gone = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE datname = current_database() AND application_name = 'gaffer leader'";
    sqlx::query(gone).execute(&mut database).await.unwrap();
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    eventually("the lock is free", async || {
        (sqlx::query_scalar::<_, i64>(locks).fetch_one(&mut database).await.unwrap() == 0).then_some(())
    })
    .await;
    let second = with(&url).await;
    let begins = away_in(&url).await;
    assert!(begins > 400.0 && begins < 460.0, "{begins}");
    let shown = second.client.get("/workers/w").await.body["last_seen_at"].as_str().unwrap().to_owned();
    assert!(shown.parse::<chrono::DateTime<chrono::Utc>>().unwrap() <= chrono::Utc::now());
    drop(worker);
    let worker = RawWorker::connect(&second.worker_url(), &second.worker_key, hello("x")).await;
    second.strike().await;
    let _third = with(&url).await;
    drop(worker);
    let mut database = PgConnection::connect(&url).await.unwrap();
    let sql = "SELECT extract(epoch FROM offline_since - now())::float8 FROM workers WHERE name = 'x'";
    let begins: f64 = sqlx::query_scalar(sql).fetch_one(&mut database).await.unwrap();
    assert!(begins <= 0.0, "one that stepped down answers nobody any more: {begins}");
}
