//! Health checks: what a worker finds, what the master makes of it, and what follows.

use std::path::{Path, PathBuf};

use gaffer_domain::AttemptRef;
use gaffer_domain::health::{CheckKind, Health, HealthState};
use gaffer_domain::reason::{AttemptEnd, ProcessEnd};
use gaffer_domain::spec::PortProtocol;
use gaffer_domain::worker::HeldPhase;
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir, program};
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::health::{CheckResult, Checked};
use gaffer_protocol::ports::NamedPort;
use gaffer_protocol::rest::Task;
use gaffer_protocol::wire::{HeldAttempt, Hello, ToMaster, ToWorker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A service of some copies of the server that tests run as a task. It answers 500 where a file of `dir` says so.
fn service(dir: &Path, count: u32, restart: Value) -> Value {
    let server: PathBuf = program().with_file_name("http-answer");
    json!({
        "name": "web", "type": "service", "count": count, "ports": ["http"], "lost_after": "10s", "resources": {"cpu": 0.1},
        "command": [server, dir], "restart": restart, "stop": {"grace": "1s"},
        "health": {"http": "/", "interval": "1s", "timeout": "20s", "start_period": "1h", "failures": 2},
    })
}

fn always(limit: u32) -> Value {
    json!({"policy": "always", "limit": limit, "delay": "0s"})
}

/// Once so many tasks of a job are available.
async fn available(dev: &Dev, job: i64, count: u64) -> Vec<Task> {
    eventually(&format!("{count} tasks are available"), async || {
        let found = dev.client.job(job).await.available?;
        if found == count { Some(dev.client.tasks(job).await) } else { None }
    })
    .await
}

/// Once another attempt of a task is healthy.
async fn replaced(dev: &Dev, job: i64, task: &str, before: u32) -> Task {
    eventually(&format!("another attempt of {task} is healthy"), async || {
        let tasks = dev.client.tasks(job).await;
        let task = tasks.into_iter().find(|found| found.address == task)?;
        let is_healthy = task.health.as_ref().is_some_and(|health| health.state == HealthState::Healthy);
        (task.attempt > before && is_healthy && task.state == "running").then_some(task)
    })
    .await
}

async fn printed(dev: &Dev, args: &[&str]) -> String {
    let output = dev.cli(args).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn kinds(dev: &Dev, job: i64, wanted: &str) -> Vec<String> {
    let events = dev.client.get(&format!("/jobs/{job}/events?limit=500")).await.body;
    let events = events["items"].as_array().unwrap().clone();
    let wanted = events.iter().filter(|event| event["kind"] == wanted);
    wanted.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_process_that_is_killed_is_replaced_and_one_that_answers_wrongly_is_restarted() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let job = dev.client.submit(service(dir.path(), 3, always(5))).await;
    available(&dev, job, 3).await;
    let job_text = job.to_string();
    let shown = printed(&dev, &["job", &job_text]).await;
    assert!(shown.contains("3 of 3 available: 3 running") && shown.contains("healthy"), "{shown}");
    assert!(printed(&dev, &["jobs"]).await.contains("3 of 3 available"));
    let results = printed(&dev, &["health", &format!("{job}.main.2")]).await;
    assert!(results.contains("main.2 healthy for") && results.contains("passed"), "{results}");
    assert!(results.contains("status 200: job"), "{results}");
    assert_eq!(dev.cli(&["health", &job_text]).output().await.unwrap().status.code(), Some(2));

    // The first one dies.
    let ports = dev.client.get("/services/web/ports").await.body;
    let address = format!("http://127.0.0.1:{}/", ports["items"][0]["ports"][0]["port"]);
    let body = reqwest::get(address).await.unwrap().text().await.unwrap();
    let process = body.trim().rsplit(' ').next().unwrap().parse().unwrap();
    kill(Pid::from_raw(process), Signal::SIGKILL).unwrap();
    replaced(&dev, job, "main.0", 1).await;

    // The second one answers 500, until it is another one.
    std::fs::write(dir.path().join("1"), "500").unwrap();
    let unhealthy = "2 health checks in a row failed; the last: status 500";
    eventually("it is unhealthy, and the event tells the answer", async || {
        let told = kinds(&dev, job, "task.unhealthy").await;
        told.iter().any(|message| message.starts_with(unhealthy)).then_some(())
    })
    .await;
    std::fs::remove_file(dir.path().join("1")).unwrap();
    replaced(&dev, job, "main.1", 1).await;
    let attempts = dev.client.get(&format!("/jobs/{job}/tasks/main.1")).await.body["attempts"].clone();
    let first = attempts.as_array().unwrap().last().unwrap();
    assert_eq!(first["reason"]["code"], "unhealthy", "{first}");
    assert!(first["reason"]["message"].as_str().unwrap().starts_with(unhealthy), "{first}");
    let untouched = dev.client.tasks(job).await.into_iter().find(|task| task.address == "main.2").unwrap();
    assert_eq!(untouched.attempt, 1);
    available(&dev, job, 3).await;
    let results = dev.client.get(&format!("/jobs/{job}/tasks/main.2/health")).await.body;
    // The first ones may have been too early for the server.
    let last = results["results"].as_array().unwrap().last().unwrap();
    assert!(last["detail"].as_str().unwrap().starts_with("status 200: job"), "{results}");
    assert_eq!((&results["health"]["state"], &results["ready"]), (&json!("healthy"), &json!(true)));
}

#[tokio::test]
async fn a_service_whose_checks_keep_failing_has_failed_with_the_reason_after_its_limit() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let mut spec = service(dir.path(), 1, always(1));
    spec["health"]["start_period"] = json!("0s");
    std::fs::write(dir.path().join("all"), "503").unwrap();
    let job = dev.client.submit(spec).await;
    let done = dev.client.finished(job).await;
    assert_eq!(done.state, "failed");
    let reason = done.reason.unwrap();
    assert_eq!(reason.code.as_str(), "unhealthy");
    assert!(reason.message.contains("2 health checks in a row failed; the last: status 503"), "{reason:?}");
    assert_eq!(dev.client.tasks(job).await[0].attempt, 2);
    assert_eq!(done.available, None);
}

#[tokio::test]
async fn an_unhealthy_task_goes_to_another_worker_and_so_do_those_of_a_dead_one() {
    let (dir, first_dir, second_dir) = (data_dir(), data_dir(), data_dir());
    let dev = Dev::start_with(dir.path(), &[("GAFFER_WORKER_NAME", "own")]).await;
    dev.client.post("/workers/own/drain", &json!({})).await;
    let first = dev.add_worker_with("first", first_dir.path(), &[("GAFFER_PORT_RANGE", "22000-22099")]).await;
    let job = dev.client.submit(service(dir.path(), 1, always(9))).await;
    available(&dev, job, 1).await;
    let second =
        dev.add_worker_with("second", second_dir.path(), &[("GAFFER_PORT_RANGE", "22100-22199")]).await;
    std::fs::write(dir.path().join("0"), "500").unwrap();
    eventually("it becomes unhealthy", async || {
        (!kinds(&dev, job, "task.unhealthy").await.is_empty()).then_some(())
    })
    .await;
    std::fs::remove_file(dir.path().join("0")).unwrap();
    let task = replaced(&dev, job, "main", 1).await;
    assert_eq!(task.worker.as_deref(), Some("second"), "not where it became unhealthy");

    // Its worker dies, with all that it runs.
    let executor = second.executor().unwrap();
    second.end(Signal::SIGKILL).await;
    kill(executor, Signal::SIGKILL).unwrap();
    let task = replaced(&dev, job, "main", task.attempt).await;
    assert_eq!(task.worker.as_deref(), Some("first"), "the only one that is left");
    drop(first);
}

#[tokio::test]
async fn checks_go_on_over_a_restart_of_the_master() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = Dev::start_with(dir.path(), &[("GAFFER_WORKER_NAME", "own")]).await;
    dev.client.post("/workers/own/drain", &json!({})).await;
    let worker = dev.add_worker("w", worker_dir.path()).await;
    let mut spec = service(dir.path(), 1, always(5));
    spec["lost_after"] = json!("120s");
    let job = dev.client.submit(spec).await;
    available(&dev, job, 1).await;
    let address = dev.env["MASTER_URL"].clone();
    let listen = address.trim_start_matches("ws://").to_owned();
    dev.interrupt().await;
    let variables = [("GAFFER_WORKER_NAME", "own"), ("GAFFER_WORKER_ADDR", listen.as_str())];
    let dev = Dev::start_with(dir.path(), &variables).await;
    // As soon as the worker has told it again.
    let tasks = available(&dev, job, 1).await;
    assert_eq!(tasks[0].attempt, 1);
    std::fs::write(dir.path().join("0"), "500").unwrap();
    eventually("it becomes unhealthy", async || {
        (!kinds(&dev, job, "task.unhealthy").await.is_empty()).then_some(())
    })
    .await;
    std::fs::remove_file(dir.path().join("0")).unwrap();
    replaced(&dev, job, "main", 1).await;
    drop(worker);
}

#[tokio::test]
async fn a_program_checks_in_the_directory_and_environment_of_its_task() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let spec = json!({
        "type": "service", "env": {"MOOD": "fine"},
        "script": "printf '#!/bin/sh\\n[ -e bad ] && { echo it is bad; exit 3; }; echo $MOOD $GAFFER_TASK; [ -e ready ]' > check\n\
            chmod +x check\nuntil [ -e STOP ]; do [ -e DIR/$GAFFER_ATTEMPT.ready ] && touch ready; \
            [ -e DIR/$GAFFER_ATTEMPT.bad ] && touch bad; sleep 0.1; done",
        "readiness": {"command": ["./check"], "interval": "1s", "timeout": "20s", "failures": 1},
        "stop": {"grace": "1s"},
    });
    let text = spec.to_string().replace("DIR", &dir.path().display().to_string());
    let job = dev.client.submit(serde_json::from_str(&text).unwrap()).await;
    let ready = async |wanted: bool| {
        eventually("its readiness", async || {
            let task = dev.client.tasks(job).await.remove(0);
            (task.ready == Some(wanted)).then_some(task)
        })
        .await
    };
    ready(false).await;
    assert_eq!(dev.client.in_state(job, "running").await.available, Some(0));
    std::fs::write(dir.path().join("1.ready"), "").unwrap();
    ready(true).await;
    std::fs::write(dir.path().join("1.bad"), "").unwrap();
    let task = ready(false).await;
    assert_eq!((task.state.as_str(), task.attempt), ("running", 1), "it is not restarted");
    let told = kinds(&dev, job, "task.not_ready").await;
    assert_eq!(told, ["a readiness check failed: exit code 3: it is bad"]);
    assert_eq!(kinds(&dev, job, "task.ready").await, ["the readiness check passed: exit code 0: fine main"]);
}

pub fn checked(attempt: AttemptRef, number: u64, passed: bool, before: Health) -> ToMaster {
    let result = CheckResult {
        at: chrono::Utc::now(),
        after_millis: 1_000 * number,
        passed,
        took_micros: 1_000,
        detail: "status 500: <b>".to_owned(),
    };
    ToMaster::Checked(Box::new(Checked {
        attempt,
        check: CheckKind::Health,
        number,
        before,
        is_whole: false,
        result,
    }))
}

/// The next attempt that is to be stopped because it is unhealthy, and why.
async fn stopped(worker: &mut RawWorker) -> (AttemptRef, String) {
    worker
        .hear_until(|said| match said {
            ToWorker::StopUnhealthy { attempt, message } => Some((attempt, message)),
            _ => None,
        })
        .await
}

/// A worker with a started attempt of a task that two failures make unhealthy.
async fn with_attempt(stage: &Stage, hello: Hello) -> (RawWorker, i64, AttemptRef) {
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello).await;
    let health = json!({"tcp": "80", "failures": 2, "start_period": "0s"});
    let spec = json!({"type": "service", "command": ["x"], "health": health, "restart": "never"});
    let job = stage.client.submit(spec).await;
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    stage.client.in_state(job, "running").await;
    (worker, job, attempt)
}

#[tokio::test]
async fn a_worker_is_told_to_stop_what_is_unhealthy_and_told_again_until_it_does() {
    let stage = Stage::set().await;
    let (mut worker, job, attempt) = with_attempt(&stage, hello("w")).await;
    let before = Health::default();
    worker.say(&[checked(attempt, 1, false, before), checked(attempt, 2, false, before)]).await;
    let message = |failed| format!("{failed} health checks in a row failed; the last: status 500: <b>");
    for number in 3..5 {
        assert_eq!(stopped(&mut worker).await, (attempt, message(number - 1)));
        worker.say(&[checked(attempt, number, false, before)]).await;
    }
    let cookie = stage.sign_in(&stage.client).await;
    let page = stage.page(&format!("/jobs/{job}/tasks/main"), &cookie).await.text().await.unwrap();
    assert!(page.contains("unhealthy: status 500: &#60;b&#62;"), "{page}");
    let process = ProcessEnd::Signal(15);
    worker.ended(attempt, AttemptEnd::Unhealthy { message: message(2), process }, 0).await;
    let done = stage.client.finished(job).await;
    let reason = done.reason.unwrap();
    assert_eq!((reason.code.as_str(), reason.message), ("unhealthy", message(2)));
}

#[tokio::test]
async fn a_result_counts_only_from_the_worker_that_has_the_attempt() {
    let stage = Stage::set().await;
    let (mut worker, job, attempt) = with_attempt(&stage, hello("w")).await;
    let mut stranger = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("stranger")).await;
    let before = Health { state: HealthState::Healthy, passed: 0, failed: 1 };
    stranger.say(&[checked(attempt, 9, false, before)]).await;
    worker.say(&[checked(attempt, 1, true, Health::default())]).await;
    eventually("its own worker's result counts", async || {
        let task = stage.client.tasks(job).await.remove(0);
        (task.health?.state == HealthState::Healthy).then_some(())
    })
    .await;
    assert_eq!(stage.client.job(job).await.available, Some(1));
}

#[tokio::test]
async fn a_master_that_has_just_started_judges_by_what_a_worker_repeats() {
    let stage = Stage::set().await;
    let mut hello = hello("w");
    let (worker, job, attempt) = with_attempt(&stage, hello.clone()).await;
    worker.hang_up();
    let key = stage.worker_key.clone();
    let stage = Stage::on(stage.strike().await).await;
    hello.held = vec![HeldAttempt { attempt, phase: HeldPhase::Running }];
    let mut worker = RawWorker::connect(&stage.worker_url(), &key, hello).await;
    let before = Health { state: HealthState::Healthy, passed: 0, failed: 1 };
    worker.say(&[checked(attempt, 7, false, before)]).await;
    assert_eq!(stopped(&mut worker).await.0, attempt);
    let events = stage.client.get(&format!("/jobs/{job}/events")).await.body;
    assert!(events.to_string().contains("task.unhealthy"), "{events}");
}

#[tokio::test]
async fn every_page_and_list_says_how_many_tasks_of_a_service_are_available() {
    let stage = Stage::set().await;
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let spec = json!({
        "name": "web", "type": "service", "count": 2, "command": ["x"], "ports": ["http"], "resources": {"cpu": 0.1},
        "readiness": {"tcp": "http", "failures": 1, "start_period": "0s"},
    });
    let job = stage.client.submit(spec).await;
    let mut attempts = Vec::new();
    for port in [20_000, 20_001] {
        let attempt = worker.next_start().await.attempt;
        let ports = vec![NamedPort {
            name: "http".to_owned(),
            host: "127.0.0.1".to_owned(),
            port,
            target: port,
            protocol: PortProtocol::Tcp,
        }];
        worker.say(&[ToMaster::Started { attempt, at: chrono::Utc::now(), container: None, ports }]).await;
        attempts.push(attempt);
    }
    let readiness = |attempt: AttemptRef, passed| match checked(attempt, 1, passed, Health::default()) {
        ToMaster::Checked(result) => {
            ToMaster::Checked(Box::new(Checked { check: CheckKind::Readiness, ..*result }))
        }
        other => other,
    };
    worker.say(&[readiness(attempts[0], true), readiness(attempts[1], false)]).await;
    eventually("one of them is available", async || {
        let tasks = stage.client.tasks(job).await;
        let ready: Vec<Option<bool>> = tasks.iter().map(|task| task.ready).collect();
        (ready.contains(&Some(true)) && ready.contains(&Some(false))).then_some(())
    })
    .await;
    assert_eq!(stage.client.job(job).await.available, Some(1));
    let listed = stage.client.get("/jobs").await.body;
    assert_eq!(listed["items"][0]["available"], 1, "{listed}");
    let cookie = stage.sign_in(&stage.client).await;
    for path in ["/".to_owned(), "/jobs".to_owned(), format!("/jobs/{job}"), format!("/jobs/{job}?tab=tasks")]
    {
        let page = stage.page(&path, &cookie).await.text().await.unwrap();
        assert!(page.contains("1 of 2 available"), "{path}: {page}");
    }
    let tasks = stage.page(&format!("/jobs/{job}?tab=tasks"), &cookie).await.text().await.unwrap();
    assert!(tasks.contains("not ready: status 500"), "{tasks}");
    // Requests go to the one that is ready.
    let servers = stage.client.get("/services/web/traefik").await.body;
    let servers = &servers["http"]["services"]["web"]["loadBalancer"]["servers"];
    let ready = stage.client.get("/services/web/ports").await.body["items"].clone();
    let ready = ready.as_array().unwrap().iter().find(|task| task["ready"] == true).unwrap().clone();
    assert_eq!(*servers, json!([{"url": format!("http://127.0.0.1:{}", ready["ports"][0]["port"])}]));
    let ended = AttemptEnd::Exited { code: 0 };
    worker.ended(attempts[0], ended, 0).await;
    eventually("none is available", async || {
        (stage.client.job(job).await.available == Some(0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_program_that_does_not_end_is_killed_with_what_it_started() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let (main, child) = (dir.path().join("check.pid"), dir.path().join("child.pid"));
    let check = format!("echo $$ > {}; sleep 1000 & echo $! > {}; wait", main.display(), child.display());
    let spec = json!({
        "script": "sleep 1000",
        "readiness": {"command": ["sh", "-c", check], "interval": "1h", "timeout": "15s", "start_period": "0s"},
        "stop": {"grace": "1s"},
    });
    let job = dev.client.submit(spec).await;
    let found = eventually("the check has a result", async || {
        let results = dev.client.get(&format!("/jobs/{job}/tasks/main/health")).await.body;
        results["results"].get(0).cloned()
    })
    .await;
    assert_eq!(found["detail"], "no answer in time: it was killed");
    for path in [main, child] {
        let pid = std::fs::read_to_string(&path).unwrap();
        // Nor has a zombie a command line.
        let words = PathBuf::from(format!("/proc/{}/cmdline", pid.trim()));
        let is_gone = || std::fs::read(&words).unwrap_or_default().is_empty();
        eventually("the process is gone", async || is_gone().then_some(())).await;
    }
    assert_eq!(dev.client.tasks(job).await[0].state, "running");
}
