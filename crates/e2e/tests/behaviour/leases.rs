//! When a worker counts as out of contact, and what becomes of its attempts: never early, whether the worker or the master was away.

use std::time::Duration;

use gaffer_domain::quantity::Span;
use gaffer_domain::worker::{HeldPhase, SILENCE_LIMIT};
use gaffer_e2e::eventually;
use gaffer_e2e::raw_worker::{RawWorker, hello, register};
use gaffer_e2e::stage::Stage;
use gaffer_master::absences::Absences;
use gaffer_master::background::sweeper::Sweeper;
use gaffer_protocol::boot_time::BootTime;
use gaffer_protocol::wire::{GoodbyeCode, HeldAttempt, Hello, ToWorker};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use sqlx::{Connection as _, PgConnection};

/// A worker with one running attempt of a job with that `lost_after`.
async fn running(stage: &Stage, said: Hello, lost_after: &str) -> (RawWorker, i64, HeldAttempt) {
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    let job = stage.client.submit(json!({"script": "true", "lost_after": lost_after})).await;
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    stage.client.in_state(job, "running").await;
    (worker, job, HeldAttempt { attempt, phase: HeldPhase::Running })
}

/// Makes the only worker, which has hung up, one that was last heard of so long ago.
async fn last_heard_of(database_url: &str, ago: Span) {
    let mut database = PgConnection::connect(database_url).await.unwrap();
    eventually("the worker is away", async || {
        let sql = "UPDATE workers SET offline_since = now() - $1 * interval '1 millisecond' \
                   WHERE offline_since IS NOT NULL";
        let done = sqlx::query(sql).bind(ago.as_millis() as f64).execute(&mut database).await.unwrap();
        (done.rows_affected() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_attempt_is_lost_after_its_own_time_and_a_margin_for_its_worker_and_the_clocks() {
    let week = 7 * 24 * 60 * 60 * 1000;
    for (lost_after, almost, enough) in [
        ("10s", Span::from_millis(14_500), Span::from_millis(15_100)),
        // Two clocks that run apart by a thousandth are ten minutes apart after a week.
        ("7d", Span::from_millis(week + 600_000), Span::from_millis(week + 615_000)),
    ] {
        let stage = Stage::set().await;
        let (worker, _, held) = running(&stage, hello("w"), lost_after).await;
        worker.hang_up();
        let store = &stage.running.control.store;
        last_heard_of(&stage.database_url, almost).await;
        let (due, next) = store.tasks_out_of_contact(10).await.unwrap();
        assert!(due.is_empty() && next.is_some_and(|secs| secs > 0.0), "{lost_after}: {due:?} {next:?}");
        last_heard_of(&stage.database_url, enough).await;
        let (due, _) = store.tasks_out_of_contact(10).await.unwrap();
        assert_eq!(due.iter().map(|overdue| overdue.attempt).collect::<Vec<_>>(), [held.attempt]);
    }
}

#[tokio::test]
async fn nothing_is_lost_because_somebody_sets_the_clock_of_the_database() {
    let stage = Stage::set().await;
    let (worker, job, _) = running(&stage, hello("w"), "10s").await;
    worker.hang_up();
    // To the database an hour has passed at once.
    last_heard_of(&stage.database_url, Span::from_secs(3_600)).await;
    let master = &stage.running.control;
    assert_eq!(master.store.tasks_out_of_contact(10).await.unwrap().0.len(), 1);
    let sweep_with = async |absences: Absences| {
        Sweeper { absences, ..sweeper(&stage) }.sweep_once().await.unwrap().again_after
    };
    let next = sweep_with(master.absences.clone()).await;
    assert!(next.is_some_and(|next| next < Duration::from_secs(16)), "{next:?}");
    assert_eq!(stage.client.job(job).await.state, "running");
    // And to this machine, too.
    sweep_with(Absences::since(BootTime::from_micros(0), Duration::ZERO)).await;
    stage.client.in_state(job, "failed").await;
}

#[tokio::test]
async fn a_master_that_was_away_for_long_calls_nothing_lost_before_its_workers_could_come_back() {
    let stage = Stage::set().await;
    let said = hello("w");
    let (worker, job, held) = running(&stage, said.clone(), "10s").await;
    worker.hang_up();
    let database_url = stage.strike().await;
    last_heard_of(&database_url, Span::from_secs(3_600)).await;

    let stage = Stage::on(database_url).await;
    let (due, next) = stage.running.control.store.tasks_out_of_contact(10).await.unwrap();
    assert!(due.is_empty() && next.is_some_and(|secs| secs > 5.0), "{due:?} {next:?}");
    let said = Hello { held: vec![held], ..said };
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    worker.heartbeat(1, vec![held]).await;
    assert_eq!(stage.client.job(job).await.state, "running");
    assert_eq!(stage.client.tasks(job).await[0].attempt, 1);
}

#[tokio::test]
async fn a_worker_that_falls_silent_is_away_since_its_last_word() {
    let stage = Stage::set().await;
    let before = chrono::Utc::now();
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    worker.fall_silent();
    while worker.hear().await.is_some() {}
    let over = chrono::Utc::now();
    assert!((over - before).num_milliseconds() >= SILENCE_LIMIT.as_millis() as i64, "{before} {over}");
    let seen = eventually("the worker is away", async || {
        let seen = stage.client.get("/workers/w").await.body;
        (seen["state"] == "offline").then_some(seen)
    })
    .await;
    let last_seen: chrono::DateTime<chrono::Utc> = seen["last_seen_at"].as_str().unwrap().parse().unwrap();
    // By two clocks of one machine, of which one was rounded.
    let silent = (over - last_seen).num_milliseconds();
    assert!(last_seen >= before - chrono::TimeDelta::seconds(1), "{last_seen} {before}");
    assert!(
        silent >= SILENCE_LIMIT.as_millis() as i64 - 1_000,
        "it counts as away since {last_seen}, until {over}"
    );
}

/// Says hello, and hangs up before that is recorded; it is recorded all the same.
async fn hang_up_in_the_hello(stage: &Stage, said: &Hello) {
    let mut locking = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut lock = locking.begin().await.unwrap();
    sqlx::query("LOCK TABLE workers IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let identity: [u8; 32] = Sha256::digest(said.identity.as_bytes()).into();
    let saying = {
        let (url, key, said) = (stage.worker_url(), stage.worker_key.clone(), said.clone());
        tokio::spawn(async move { RawWorker::try_connect(&url, &key, said).await })
    };
    eventually("its hello waits for the lock", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%INSERT INTO workers%' \
                   AND wait_event_type = 'Lock' AND datname = current_database()";
        (sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut database).await.unwrap() > 0).then_some(())
    })
    .await;
    saying.abort();
    let _ = saying.await;
    // The master has noticed once another one with this identity gets its turn.
    drop(stage.running.control.arrivals.turn(identity).await);
    let recorded = "SELECT count(*) FROM events WHERE kind = 'worker.online'";
    let before: i64 = sqlx::query_scalar(recorded).fetch_one(&mut database).await.unwrap();
    lock.rollback().await.unwrap();
    eventually("its hello is recorded", async || {
        let now: i64 = sqlx::query_scalar(recorded).fetch_one(&mut database).await.unwrap();
        (now > before).then_some(())
    })
    .await;
}

/// A sweeper that begins now.
fn sweeper(stage: &Stage) -> Sweeper {
    let master = &stage.running.control;
    Sweeper {
        store: master.store.clone(),
        absences: master.absences.clone(),
        write_batcher: master.write_batcher.clone(),
        hub: master.hub.clone(),
        wake: master.wakes.sweeper.clone(),
        strays: Default::default(),
    }
}

#[tokio::test]
async fn a_worker_that_hangs_up_while_its_hello_is_recorded_does_not_count_as_connected_for_ever() {
    let stage = Stage::set().await;
    let state = async |name: &str| stage.client.get(&format!("/workers/{name}")).await.body["state"].clone();
    hang_up_in_the_hello(&stage, &hello("w")).await;
    let _present = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("present")).await;
    let mut sweeper = sweeper(&stage);
    sweeper.end_strays_once().await.unwrap();
    assert_eq!(state("w").await, "online", "its session may just have begun");
    sweeper.end_strays_once().await.unwrap();
    assert_eq!((state("w").await, state("present").await), (json!("offline"), json!("online")));
}

#[tokio::test]
async fn a_connected_worker_of_which_a_later_hello_was_recorded_is_asked_to_connect_again() {
    let stage = Stage::set().await;
    let said = hello("w");
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said.clone()).await;
    hang_up_in_the_hello(&stage, &said).await;
    let mut sweeper = sweeper(&stage);
    for _ in 0..2 {
        sweeper.end_strays_once().await.unwrap();
        assert_eq!(stage.client.get("/workers/w").await.body["state"], "online", "it is connected");
    }
    let told = worker
        .hear_until(|message| match message {
            ToWorker::Goodbye { code, .. } => Some(code),
            _ => None,
        })
        .await;
    assert_eq!(told, GoodbyeCode::ProtocolError);
    let _again = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    for _ in 0..2 {
        sweeper.end_strays_once().await.unwrap();
        assert_eq!(stage.client.get("/workers/w").await.body["state"], "online");
    }
}

#[tokio::test]
async fn a_restart_of_a_workers_machine_is_told_again_until_its_losses_are_recorded() {
    let stage = Stage::set().await;
    let store = &stage.running.control.store;
    let project = store.project_default().await.unwrap();
    let key = stage.client.get("/keys").await.body["items"][0]["id"].as_i64().unwrap();
    let is_reboot = async |boot_id: &str| {
        let said = Hello { boot_id: boot_id.to_owned(), ..hello("w") };
        let registered = register(store, (project, key), uuid::Uuid::now_v7(), &[1; 32], &said).await;
        let registered = registered.unwrap().unwrap();
        (registered.id, registered.rebooted)
    };
    let (id, rebooted) = is_reboot("boot-1").await;
    assert!(!rebooted && !is_reboot("boot-1").await.1);
    // The master may die right after the hello: the next one has to know as well.
    assert!(is_reboot("boot-2").await.1 && is_reboot("boot-2").await.1);
    store.worker_booted(id, "boot-2").await.unwrap();
    assert!(!is_reboot("boot-2").await.1);
}
