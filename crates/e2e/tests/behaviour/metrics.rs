//! Metrics: what is counted, who reads it, and that it can be read when it matters.

use std::collections::BTreeMap;

use gaffer_domain::reason::AttemptEnd;
use gaffer_e2e::client::{Client, script};
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::database_proxy::DatabaseProxy;
use gaffer_e2e::eventually;
use gaffer_e2e::metrics::{Scrape, promtool};
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::output::Stream;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use serde_json::json;

const TOKEN: &str = "a-token-for-monitoring-0123456789";

/// A reading of the metrics with a key or a token, in OpenMetrics.
async fn scrape(base: &str, token: &str) -> (StatusCode, Scrape) {
    let request = reqwest::Client::new().get(format!("http://{base}/metrics"));
    let answer = request.header(AUTHORIZATION, format!("Bearer {token}")).send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    match status.is_success() {
        true => {
            assert!(text.ends_with("# EOF\n"), "{text}");
            (status, Scrape::read(&text))
        }
        false => (status, Scrape::default()),
    }
}

async fn of(stage: &Stage) -> Scrape {
    scrape(&stage.running.api.to_string(), stage.client.key()).await.1
}

async fn with_token(database_url: &str) -> Stage {
    Stage::with(database_url.to_owned(), |config| config.metrics_token = Some(TOKEN.parse().unwrap())).await
}

/// Waits until a metric has a value.
async fn shows(stage: &Stage, name: &str, labels: &[(&str, &str)], expected: impl Fn(f64) -> bool) -> f64 {
    let what = format!("{name}{labels:?} is as it should be");
    eventually(&what, async || of(stage).await.get(name, labels).filter(|value| expected(*value))).await
}

#[tokio::test]
async fn a_job_shows_in_the_metrics_from_its_wait_to_its_end() {
    let stage = Stage::set().await;
    let before = of(&stage).await;
    assert_eq!(before.get("gaffer_leader", &[]), Some(1.0));
    assert_eq!(before.get("gaffer_transitions_total", &[("state", "completed")]), Some(0.0));
    assert_eq!(before.get("gaffer_attempts_ended_total", &[("end", "success")]), Some(0.0));

    let job = stage.client.submit(json!({"script": "true", "priority": 80})).await;
    let blocked = json!({"priority": 10, "tasks": [{"name": "a", "script": "true", "resources": {"cpu": 90}},
        {"name": "b", "script": "true", "depends_on": ["a"], "count": 3}]});
    stage.client.submit(blocked).await;
    let high = [("priority", "75-100"), ("waits_for", "worker")];
    shows(&stage, "gaffer_queue_tasks", &high, |tasks| tasks == 1.0).await;
    shows(&stage, "gaffer_queue_oldest_wait_seconds", &[("priority", "75-100")], |wait| wait > 0.0).await;
    let waiting = of(&stage).await;
    let low = |waits_for| [("priority", "0-24"), ("waits_for", waits_for)];
    assert_eq!(waiting.get("gaffer_queue_tasks", &low("worker")), Some(1.0));
    assert_eq!(waiting.get("gaffer_queue_tasks", &low("dependencies")), Some(3.0));
    assert_eq!(waiting.get("gaffer_tasks", &[("state", "pending")]), Some(2.0));
    assert_eq!(waiting.get("gaffer_sessions", &[]), Some(0.0));

    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    worker.output(attempt, 0, Stream::Stdout, b"hello\n").await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 6).await;
    stage.client.finished(job).await;
    let after = of(&stage).await;
    let counted = |name: &str, labels: &[(&str, &str)]| {
        after.get(name, labels).unwrap_or(-1.0) - before.get(name, labels).unwrap_or(0.0)
    };
    for state in ["scheduled", "running", "completed"] {
        assert_eq!(counted("gaffer_transitions_total", &[("state", state)]), 1.0, "{state}");
    }
    for stage in ["placement", "start"] {
        assert_eq!(counted("gaffer_dispatch_duration_seconds_count", &[("stage", stage)]), 1.0, "{stage}");
    }
    assert_eq!(counted("gaffer_attempts_ended_total", &[("end", "success")]), 1.0);
    assert_eq!(counted("gaffer_attempt_duration_seconds_count", &[]), 1.0);
    assert_eq!(counted("gaffer_output_received_bytes_total", &[]), 6.0);
    assert_eq!(counted("gaffer_output_stored_bytes_total", &[]), 6.0);
    assert_eq!(counted("gaffer_output_stored_chunks_total", &[]), 1.0);
    // The placement, and what its worker told, which may be one write.
    assert!(counted("gaffer_transition_batch_duration_seconds_count", &[]) >= 2.0);
    assert!(counted("gaffer_transition_batch_changes_sum", &[]) >= 4.0);
    assert!(counted("gaffer_scheduler_pass_duration_seconds_count", &[]) >= 1.0);
    assert_eq!(counted("gaffer_sessions_started_total", &[("worker", "new")]), 1.0);
    assert_eq!(after.get("gaffer_sessions", &[]), Some(1.0));
    assert_eq!(after.get("gaffer_output_unstored_bytes", &[]), Some(0.0));
    shows(&stage, "gaffer_queue_tasks", &high, |tasks| tasks == 0.0).await;

    // A short task, whose worker reports start and end together.
    let short = stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    stage.client.finished(short).await;
    let after_short = of(&stage).await;
    let starts = [("stage", "start")];
    assert_eq!(after_short.get("gaffer_dispatch_duration_seconds_count", &starts), Some(2.0));

    worker.hang_up();
    shows(&stage, "gaffer_sessions", &[], |sessions| sessions == 0.0).await;
    shows(&stage, "gaffer_sessions_ended_total", &[("reason", "disconnected")], |ended| ended == 1.0).await;
}

#[tokio::test]
async fn every_loop_the_database_the_ports_and_the_process_are_in_the_metrics() {
    let stage = Stage::set().await;
    let system = stage.client.get("/system").await.body;
    let loops: Vec<String> = system["loops"]
        .as_array()
        .unwrap()
        .iter()
        .map(|known| known["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(loops.len() >= 10);
    for name in &loops {
        shows(&stage, "gaffer_loop_runs_total", &[("loop", name), ("result", "ok")], |runs| runs >= 1.0)
            .await;
        let scrape = of(&stage).await;
        let label = [("loop", name.as_str())];
        assert_eq!(scrape.get("gaffer_loop_failing", &label), Some(0.0), "{name}");
        assert!(scrape.get("gaffer_loop_run_duration_seconds_count", &label) >= Some(1.0), "{name}");
        assert!(scrape.get("gaffer_loop_last_success_timestamp_seconds", &label) > Some(1.0e9), "{name}");
        assert!(scrape.get("gaffer_loop_period_seconds", &label) > Some(0.0), "{name}");
    }
    stage.client.get("/jobs/4711").await;
    let scrape = of(&stage).await;
    for pool in ["batches", "scheduling", "control", "writes", "reads"] {
        assert!(scrape.get("gaffer_database_pool_max_connections", &[("pool", pool)]) >= Some(3.0), "{pool}");
        assert!(scrape.get("gaffer_database_pool_connections", &[("pool", pool)]).is_some(), "{pool}");
    }
    let of_job = [("port", "api"), ("method", "GET"), ("route", "/api/v1/jobs/{job}"), ("status", "4xx")];
    assert_eq!(scrape.get("gaffer_http_requests_total", &of_job), Some(1.0));
    assert!(scrape.get("gaffer_http_request_duration_seconds_count", &of_job[..1]) >= Some(2.0));
    assert_eq!(scrape.get("gaffer_database_up", &[]), Some(1.0));
    assert_eq!(scrape.get("gaffer_database_writable", &[]), Some(1.0));
    // The reader itself.
    shows(&stage, "gaffer_http_requests_in_progress", &[("port", "api")], |requests| requests == 1.0).await;
    assert!(scrape.get("process_resident_memory_bytes", &[]) > Some(1.0e6));
    assert!(scrape.get("process_open_fds", &[]) > Some(3.0));
    assert!(scrape.get("process_cpu_seconds_total", &[]) > Some(0.0));
    assert_eq!(scrape.get("gaffer_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), Some(1.0));
}

#[tokio::test]
async fn the_metrics_are_read_while_the_database_is_away_and_say_so() {
    let way = DatabaseProxy::start(&fresh_database().await).await;
    let stage = with_token(way.url()).await;
    let api = stage.running.api.to_string();
    stage.client.submit(script("true")).await;
    let known = [("priority", "50-74"), ("waits_for", "worker")];
    eventually("the queue is read", async || {
        let (_, scrape) = scrape(&api, TOKEN).await;
        scrape.get("gaffer_queue_tasks", &known).filter(|tasks| *tasks == 1.0)
    })
    .await;
    way.cut();
    let away = eventually("the database is away", async || {
        let (status, scrape) = scrape(&api, TOKEN).await;
        assert_eq!(status, StatusCode::OK);
        (scrape.get("gaffer_database_up", &[]) == Some(0.0)).then_some(scrape)
    })
    .await;
    assert_eq!(away.get("gaffer_queue_tasks", &known), Some(1.0), "what is known stays");
    assert!(away.get("gaffer_leader_term", &[]) > Some(0.0));
    way.restore();
    eventually("the database is back", async || {
        let (_, scrape) = scrape(&api, TOKEN).await;
        scrape.get("gaffer_database_up", &[]).filter(|up| *up == 1.0)
    })
    .await;
}

#[tokio::test]
async fn a_database_that_is_asked_often_is_read_seldom() {
    let stage = Stage::set().await;
    for _ in 0..100 {
        of(&stage).await;
    }
    let readings = of(&stage).await.get("gaffer_database_reading_duration_seconds_count", &[]).unwrap();
    // One in five seconds, however slow the machine is.
    assert!((1.0..25.0).contains(&readings), "{readings} readings for 101 readers");
}

#[tokio::test]
async fn the_operator_and_the_token_read_metrics_and_the_token_reads_nothing_else() {
    let stage = with_token(&fresh_database().await).await;
    let [api, dashboard, workers] = [stage.running.api, stage.running.dashboard, stage.running.workers]
        .map(|address| address.to_string());
    let (eve, _) = super::tenants::neighbour(&stage).await;
    for base in [&api, &dashboard] {
        assert_eq!(scrape(base, TOKEN).await.0, StatusCode::OK);
        assert_eq!(scrape(base, stage.client.key()).await.0, StatusCode::OK);
        assert_eq!(scrape(base, eve.key()).await.0, StatusCode::FORBIDDEN, "it counts all projects");
        assert_eq!(scrape(base, &stage.worker_key).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(scrape(base, &TOKEN[1..]).await.0, StatusCode::UNAUTHORIZED);
        let nobody = reqwest::get(format!("http://{base}/metrics")).await.unwrap();
        assert_eq!(nobody.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(scrape(&workers, TOKEN).await.0, StatusCode::NOT_FOUND);
    let monitoring = stage.client.with_key(TOKEN);
    for path in ["/jobs", "/workers", "/system", "/keys"] {
        assert_eq!(monitoring.get(path).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(monitoring.get("/metrics").await.status, StatusCode::OK);
    // Without the setting nothing is a token.
    let plain = Stage::set().await;
    assert_eq!(scrape(&plain.running.api.to_string(), TOKEN).await.0, StatusCode::UNAUTHORIZED);
    let cookie = plain.sign_in(&plain.client).await;
    let page = plain.page("/metrics", &cookie).await;
    assert_eq!(page.headers()[CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
}

#[tokio::test]
async fn both_formats_have_the_same_samples_and_prometheus_takes_them() {
    let stage = Stage::set().await;
    let job = stage.client.submit(script("true")).await;
    let read = async |accept: &str| {
        let request = stage.client.request(reqwest::Method::GET, "/metrics").header(ACCEPT, accept);
        let answer = request.send().await.unwrap();
        let content_type = answer.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        (content_type, answer.text().await.unwrap())
    };
    let (open_type, open) = read("application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await;
    let (plain_type, plain) = read("text/plain").await;
    assert_eq!(open_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_eq!(plain_type, "text/plain; version=0.0.4; charset=utf-8");
    let names = |text: &str| -> Vec<String> {
        let mut names: Vec<String> = Scrape::read(text).0.into_iter().map(|sample| sample.name).collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(names(&open), names(&plain));
    assert_eq!(promtool(&["check", "metrics"], &plain), None, "{plain}");
    assert!(stage.client.post(&format!("/jobs/{job}/stop"), &json!({})).await.status.is_success());
}

#[tokio::test]
async fn no_label_has_a_number_or_a_name_of_anybody_in_it() {
    let stage = Stage::set().await;
    let mut named = hello("a-worker-of-its-kind");
    named.labels = BTreeMap::from([("rack".to_owned(), "rack-of-its-kind".to_owned())]);
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, named).await;
    let spec =
        json!({"name": "a-job-of-its-kind", "script": "exit 3", "labels": {"team": "team-of-its-kind"}});
    let job = stage.client.submit(spec).await;
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    worker.ended(attempt, AttemptEnd::Exited { code: 3 }, 0).await;
    stage.client.finished(job).await;
    let cookie = stage.sign_in(&stage.client).await;
    for path in [
        format!("/jobs/{job}"),
        "/workers/a-worker-of-its-kind".to_owned(),
        "/nonsense-of-its-kind".to_owned(),
    ] {
        stage.page(&path, &cookie).await;
        stage.client.get(&path).await;
    }
    let scrape = of(&stage).await;
    assert_eq!(scrape.get("gaffer_attempts_ended_total", &[("end", "exit_code")]), Some(1.0));
    let mut series: BTreeMap<&str, usize> = BTreeMap::new();
    for sample in &scrape.0 {
        *series.entry(&sample.name).or_default() += 1;
        for (label, value) in sample.labels.iter().filter(|(label, _)| *label != "le") {
            let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            assert!(!is_number && !value.contains("of-its-kind"), "{}: {label}={value}", sample.name);
        }
    }
    let most = series.iter().max_by_key(|(_, count)| **count).unwrap();
    assert!(*most.1 < 2_000, "{most:?}");
}

#[tokio::test]
async fn a_standby_says_that_it_does_not_lead_to_who_has_the_token() {
    let url = fresh_database().await;
    let first = with_token(&url).await;
    // In a range from which no program is given a port.
    let free_port = || {
        let mut ports = std::iter::repeat_with(|| rand::random_range(10_000_u16..30_000));
        ports.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
    };
    let (port, worker_port) = (free_port(), free_port());
    let second = tokio::spawn(Stage::with(url, move |config| {
        config.api_addr = format!("127.0.0.1:{port}");
        config.worker_addr = format!("127.0.0.1:{worker_port}");
        config.metrics_token = Some(TOKEN.parse().unwrap());
    }));
    let base = format!("127.0.0.1:{port}");
    let reader = Client::new(&format!("http://{base}"), TOKEN);
    eventually("the second answers", async || {
        let answer = reader.request(reqwest::Method::GET, "/livez").send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    let (status, standby) = scrape(&base, TOKEN).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(standby.get("gaffer_leader", &[]), Some(0.0));
    assert_eq!(standby.get("gaffer_leader_term", &[]), Some(0.0));
    assert!(standby.get("gaffer_http_requests_total", &[("port", "api")]) >= Some(1.0));
    let workers = Client::new(&format!("http://127.0.0.1:{worker_port}"), TOKEN);
    let refused = workers.request(reqwest::Method::GET, "/metrics").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE, "networks see the port for workers");
    assert_eq!(scrape(&base, first.client.key()).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(scrape(&first.running.api.to_string(), TOKEN).await.1.get("gaffer_leader", &[]), Some(1.0));
    second.abort();
}
