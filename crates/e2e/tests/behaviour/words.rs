//! What a worker says is checked for sense, and written no faster than it makes sense.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::spec::DriverKind;
use gaffer_e2e::client::script;
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::command;
use gaffer_e2e::raw_worker::{RawWorker, ended, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::output::{ChunkBuilder, Stream};
use gaffer_protocol::wire::{DriverStatus, ToMaster, ToWorker};
use reqwest::StatusCode;

/// SHA-256 of `aaa`.
const SUM: &str = "9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0";

async fn worker(stage: &Stage, name: &str) -> RawWorker {
    RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello(name)).await
}

#[tokio::test]
async fn output_after_the_end_is_refused() {
    let stage = Stage::set().await;
    let said = hello("w");
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said.clone()).await;
    let job = stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    worker.output(attempt, 0, Stream::Stdout, b"hello\n").await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 6).await;
    // At once, when the end may not be committed yet; then when it is; then in another session.
    worker.output(attempt, 6, Stream::Stdout, b"more of it").await;
    stage.client.finished(job).await;
    worker.output(attempt, 6, Stream::Stdout, b"more of it").await;
    worker.heartbeat(1, Vec::new()).await;
    worker.hang_up();
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    worker.output(attempt, 6, Stream::Stdout, b"more of it").await;
    worker.output(attempt, 60, Stream::Stdout, b"far more").await;
    // The worker is to forget both; it may be told of the last alone.
    let is_forgotten =
        |message| matches!(message, ToWorker::OutputStored { attempt: of, offset: 68 } if of == attempt);
    worker.hear_until(|message| is_forgotten(message).then_some(())).await;
    worker.heartbeat(1, Vec::new()).await;
    assert_eq!(stage.client.output(job).await, b"hello\n");
    let detail = stage.client.get(&format!("/jobs/{job}/tasks/main")).await;
    assert_eq!(detail.body["attempts"][0]["output_bytes"], 6);
}

#[tokio::test]
async fn a_clock_that_shows_nonsense_neither_stops_a_job_nor_gets_into_its_history() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, "w").await;
    for stated in ["+262142-12-31T23:59:59Z", "-262143-01-01T00:00:00Z", "1970-01-01T00:00:00Z"] {
        let job = stage.client.submit(script("true")).await;
        let attempt = worker.next_start().await.attempt;
        let at: DateTime<Utc> = stated.parse().unwrap();
        let micros = u64::try_from(at.timestamp_micros()).unwrap_or(1);
        let mut chunk = ChunkBuilder::new();
        chunk.push(micros, Stream::Stdout, b"hello\n");
        worker.say(&[ToMaster::Started { attempt, at, container: None, ports: Vec::new() }]).await;
        worker.say_bytes(chunk.finish(attempt, 0).to_frame().to_vec()).await;
        let mut report = ended(attempt, AttemptEnd::Exited { code: 0 }, 6);
        (report.started_at, report.ended_at, report.ran_micros) = (Some(at), at, u64::MAX);
        worker.say(&[ToMaster::Ended(Box::new(report))]).await;
        assert_eq!(stage.client.finished(job).await.state, "completed", "{stated}");
        let about_now = |value: &serde_json::Value| {
            let at: DateTime<Utc> = value.as_str().unwrap().parse().unwrap();
            (Utc::now() - at).abs() < TimeDelta::hours(1)
        };
        let detail = stage.client.get(&format!("/jobs/{job}/tasks/main")).await;
        assert!(about_now(&detail.body["attempts"][0]["started_at"]), "{stated}: {}", detail.text);
        let lines = stage.client.open(&format!("/jobs/{job}/output"), "application/x-ndjson").await;
        let lines = lines.text().await.unwrap();
        let line: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert!(about_now(&line["data"]["at"]), "{stated}: {lines}");
    }
}

#[tokio::test]
async fn an_output_that_differs_shows_in_api_page_and_exit_code() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, "w").await;
    let cookie = stage.sign_in(&stage.client).await;
    for (bytes, complete, exit_code) in [(b"aaa", true, 0), (b"aab", false, 1)] {
        let job = stage.client.submit(script("true")).await;
        let attempt = worker.next_start().await.attempt;
        worker.output(attempt, 0, Stream::Stdout, bytes).await;
        let running = stage.client.open(&format!("/jobs/{job}/output"), "text/plain").await;
        assert!(!running.headers().contains_key("x-gaffer-complete"));
        let mut report = ended(attempt, AttemptEnd::Exited { code: 0 }, 3);
        report.output_sha256 = Some(SUM.to_owned());
        worker.say(&[ToMaster::Ended(Box::new(report))]).await;
        stage.client.finished(job).await;

        let detail = stage.client.get(&format!("/jobs/{job}/tasks/main")).await;
        assert_eq!(detail.body["output_complete"], complete, "{}", detail.text);
        assert_eq!(detail.body["attempts"][0]["output_complete"], complete);
        let output = stage.client.open(&format!("/jobs/{job}/output"), "text/plain").await;
        assert_eq!(output.headers()["x-gaffer-complete"], complete.to_string());
        let page = stage.page(&format!("/jobs/{job}/tasks/main"), &cookie).await.text().await.unwrap();
        assert_eq!(page.contains("checksums do not match"), !complete, "{page}");
        let verified = command(&["logs", &job.to_string(), "--verify"])
            .env("GAFFER_URL", format!("http://{}", stage.running.api))
            .env("GAFFER_KEY", stage.client.key())
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&verified.stdout).into_owned();
        assert_eq!(
            verified.status.code(),
            Some(exit_code),
            "{said}{}",
            String::from_utf8_lossy(&verified.stderr)
        );
        assert!(said.starts_with("main  attempt 1  3 bytes  "), "{said}");
    }
}

#[tokio::test]
async fn output_that_is_lost_from_the_database_is_found_missing() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, "w").await;
    let job = stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    worker.output(attempt, 0, Stream::Stdout, b"aaa").await;
    let mut report = ended(attempt, AttemptEnd::Exited { code: 0 }, 3);
    report.output_sha256 = Some(SUM.to_owned());
    worker.say(&[ToMaster::Ended(Box::new(report))]).await;
    stage.client.finished(job).await;
    let verify = async || {
        let verified = command(&["logs", &job.to_string(), "--verify"])
            .env("GAFFER_URL", format!("http://{}", stage.running.api))
            .env("GAFFER_KEY", stage.client.key())
            .output();
        verified.await.unwrap().status.code()
    };
    assert_eq!(verify().await, Some(0));
    let mut database = <sqlx::PgConnection as sqlx::Connection>::connect(&stage.database_url).await.unwrap();
    sqlx::query("DELETE FROM output_chunks").execute(&mut database).await.unwrap();
    assert_eq!(verify().await, Some(1));
}

#[tokio::test]
async fn a_worker_that_gives_everything_back_is_asked_ever_more_rarely_and_others_at_once() {
    let stage = Stage::set().await;
    let mut shy = worker(&stage, "shy").await;
    let job = stage.client.submit(script("true")).await;
    let mut times = Vec::new();
    for _ in 0..4 {
        let attempt = shy.next_start().await.attempt;
        times.push(Instant::now());
        shy.say(&[ToMaster::Returned { attempt }]).await;
    }
    for (pause, at_least) in times.windows(2).zip([500, 1_000, 2_000]) {
        let pause = pause[1] - pause[0];
        assert!(pause >= Duration::from_millis(at_least - 50), "{pause:?} instead of {at_least} ms");
    }
    eventually("the pause is told", async || {
        let why = stage.client.get(&format!("/jobs/{job}/explain")).await;
        why.text.contains("returned such a task unstarted").then_some(())
    })
    .await;
    // The pause of the first is longer than it takes another one to come and be given the task.
    let mut other = worker(&stage, "other").await;
    assert_eq!(other.next_start().await.definition.job.0, job);
}

#[tokio::test]
async fn a_flood_of_driver_reports_is_written_rarely_and_the_last_one_is() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, "w").await;
    let drivers = |number: usize| {
        let detail = Some(format!("report {number}"));
        let host = DriverStatus { driver: DriverKind::Host, healthy: true, detail: None };
        vec![host, DriverStatus { driver: DriverKind::Docker, healthy: number.is_multiple_of(2), detail }]
    };
    for number in 0..2_000 {
        worker.say(&[ToMaster::Drivers { drivers: drivers(number) }]).await;
    }
    worker.heartbeat(1, Vec::new()).await;
    eventually("the last report is written", async || {
        let seen = stage.client.get("/workers/w").await;
        seen.text.contains("report 1999").then_some(())
    })
    .await;
    let events = stage.client.get("/events?limit=500").await;
    let written =
        events.body["items"].as_array().unwrap().iter().filter(|event| event["kind"] == "worker.drivers");
    assert!(written.count() < 60);
}

#[tokio::test]
async fn names_have_nothing_in_them_that_reorders_a_line() {
    let stage = Stage::set().await;
    let mut said = hello("safe\u{202e}eman\u{2067}");
    said.datacenter = "lab\u{200f}".to_owned();
    let worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    assert_eq!(worker.welcome.name, "safe eman");
    let listed = stage.client.get("/workers").await;
    assert!(!listed.text.contains(['\u{202e}', '\u{2067}', '\u{200f}']), "{}", listed.text);
    let name = serde_json::json!({"kind": "user", "name": "a\u{202e}b"});
    assert_eq!(stage.client.post("/keys", &name).await.status, StatusCode::UNPROCESSABLE_ENTITY);
}
