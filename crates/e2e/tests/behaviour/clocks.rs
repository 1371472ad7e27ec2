//! Wall clocks that are hours apart: every length of time is right all the same, and the operator is warned.

use chrono::{DateTime, TimeDelta, Utc};
use gaffer_domain::AttemptRef;
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::worker::HeldPhase;
use gaffer_e2e::client::script;
use gaffer_e2e::raw_worker::{RawWorker, ended, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::wire::{ClockReading, HeldAttempt, Hello, ToMaster};
use serde_json::Value;

/// A heartbeat of a worker whose clock is off by so much, right after the answer to the one before.
async fn heartbeat(worker: &mut RawWorker, sequence: u64, held: Vec<HeldAttempt>, off: TimeDelta) {
    let clock = ClockReading { answer: sequence - 1, since_micros: 0, at: Utc::now() + off };
    worker.heartbeat_at(sequence, held, Some(clock)).await;
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap_or_else(|| panic!("{value} is no time")).parse().unwrap()
}

/// What a worker with such a clock reports of a run of three minutes that lies four minutes back.
async fn report(worker: &mut RawWorker, attempt: AttemptRef, off: TimeDelta) {
    let mut report = ended(attempt, AttemptEnd::Exited { code: 0 }, 0);
    report.started_at = Some(Utc::now() + off - TimeDelta::minutes(4));
    report.ended_at = Utc::now() + off - TimeDelta::minutes(1);
    report.ran_micros = 180_000_000;
    worker.say(&[ToMaster::Ended(Box::new(report))]).await;
}

#[tokio::test]
async fn lengths_of_time_are_right_whatever_a_workers_clock_says() {
    let stage = Stage::set().await;
    for (name, off, is_measured) in [
        ("ahead", TimeDelta::hours(2), false),
        ("behind", TimeDelta::hours(-2), false),
        ("ahead-known", TimeDelta::hours(2), true),
        ("behind-known", TimeDelta::hours(-2), true),
        ("mad", TimeDelta::days(90_000_000), false),
        ("madder", TimeDelta::days(-90_000_000), false),
    ] {
        let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello(name)).await;
        if is_measured {
            heartbeat(&mut worker, 1, vec![], off).await;
        }
        let spec = serde_json::json!({"script": "true", "constraints": [format!("name == {name}")]});
        let job = stage.client.submit(spec).await;
        let attempt = worker.next_start().await.attempt;
        worker
            .say(&[ToMaster::Started { attempt, at: Utc::now() + off, container: None, ports: Vec::new() }])
            .await;
        stage.client.in_state(job, "running").await;
        let running = stage.client.get(&format!("/jobs/{job}/tasks/main")).await.body;
        let ran = running["ran_seconds"].as_f64().unwrap();
        assert!((0.0..60.0).contains(&ran), "{name}: {running}");
        assert!(time(&running["started_at"]) <= Utc::now(), "{name}: {running}");

        report(&mut worker, attempt, off).await;
        let done = stage.client.finished(job).await;
        let (started, finished) = (done.started_at.unwrap(), done.finished_at.unwrap());
        assert!(done.created_at <= started && started <= finished, "{name}: {done:?}");
        assert!(finished <= Utc::now(), "{name}: {done:?}");
        assert!((finished - started).num_seconds() < 60, "{name}: by one clock");
        let task = stage.client.get(&format!("/jobs/{job}/tasks/main")).await.body;
        assert_eq!(task["ran_seconds"], 180.0, "{name}: as its worker measured it");
        let attempt = &task["attempts"][0];
        assert_eq!(attempt["ran_seconds"], 180.0);
        assert!(time(&attempt["scheduled_at"]) <= time(&attempt["started_at"]), "{name}: {attempt}");
        assert!(time(&attempt["started_at"]) <= time(&attempt["finished_at"]), "{name}: {attempt}");
        let page = stage.page(&format!("/jobs/{job}/tasks/main"), &stage.sign_in(&stage.client).await).await;
        let page = page.text().await.unwrap();
        assert!(page.contains("3m00s"), "{name}: the page tells another length");
    }
}

/// A run that ended while its worker was away is told with its real beginning.
#[tokio::test]
async fn times_that_a_worker_tells_are_corrected_by_what_its_clock_is_off() {
    let stage = Stage::set().await;
    let said = hello("w");
    let off = TimeDelta::hours(-3);
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said.clone()).await;
    let job = stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    worker.hang_up();
    // It was placed an hour ago.
    let mut database = {
        use sqlx::Connection as _;
        sqlx::PgConnection::connect(&stage.database_url).await.unwrap()
    };
    sqlx::raw_sql(
        "UPDATE live_tasks SET scheduled_at = scheduled_at - interval '1 hour', since = since - interval '1 hour'; \
         UPDATE jobs SET created_at = created_at - interval '1 hour'",
    )
    .execute(&mut database)
    .await
    .unwrap();
    let held = vec![HeldAttempt { attempt, phase: HeldPhase::Finished }];
    let said = Hello { held: held.clone(), ..said };
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    heartbeat(&mut worker, 1, held, off).await;
    report(&mut worker, attempt, off).await;
    let done = stage.client.finished(job).await;
    let ago = Utc::now() - done.started_at.unwrap();
    assert!((230..300).contains(&ago.num_seconds()), "{ago} ago is not four minutes ago");
}

#[tokio::test]
async fn a_worker_whose_clock_is_off_is_warned_about() {
    let stage = Stage::set().await;
    let mut off = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("off")).await;
    let mut right = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("right")).await;
    let unknown = stage.client.get("/workers/off").await.body;
    assert_eq!(unknown["clock_ahead_seconds"], Value::Null);
    heartbeat(&mut off, 1, vec![], TimeDelta::seconds(-90)).await;
    heartbeat(&mut right, 1, vec![], TimeDelta::zero()).await;
    let seen = stage.client.get("/workers/off").await.body;
    let ahead = seen["clock_ahead_seconds"].as_f64().unwrap();
    assert!((-120.0..-60.0).contains(&ahead), "{ahead}");
    let warning = seen["warnings"][0].as_str().unwrap();
    assert!(warning.contains("behind the master's"), "{warning}");
    let page = stage.page("/workers/off", &stage.sign_in(&stage.client).await).await.text().await.unwrap();
    assert!(page.contains("behind the master"), "the page says nothing of it");
    assert_eq!(stage.client.get("/workers/right").await.body["warnings"], serde_json::json!([]));
    // A clock that was set is no trouble any more.
    heartbeat(&mut off, 2, vec![], TimeDelta::zero()).await;
    assert_eq!(stage.client.get("/workers/off").await.body["warnings"], serde_json::json!([]));
}
