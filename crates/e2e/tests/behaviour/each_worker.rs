//! Tasks that run once on every worker that matches: `each: worker`.

use gaffer_domain::reason::{AttemptEnd, ReasonCode};
use gaffer_domain::spec::Item;
use gaffer_domain::worker::HeldPhase;
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::wire::{HeldAttempt, Hello};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::texts::Visitor;

async fn join(stage: &Stage, hello: &Hello) -> RawWorker {
    RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello.clone()).await
}

async fn worker(stage: &Stage, name: &str) -> RawWorker {
    join(stage, &hello(name)).await
}

/// Takes the next attempt and ends it with this exit code; returns its job and item.
async fn runs(worker: &mut RawWorker, code: i32) -> (i64, Option<Item>) {
    let start = worker.next_start().await;
    worker.ended(start.attempt, AttemptEnd::Exited { code }, 0).await;
    (start.definition.job.0, start.item)
}

fn item(name: &str) -> Option<Item> {
    Some(Item::One(name.to_owned()))
}

async fn items(stage: &Stage, job: i64) -> Vec<String> {
    let tasks = stage.client.tasks(job).await;
    tasks.iter().map(|task| task.item.as_ref().map(ToString::to_string).unwrap_or_default()).collect()
}

async fn is_away(stage: &Stage, name: &str) {
    eventually("the worker is away", async || {
        let state = stage.client.get(&format!("/workers/{name}")).await.body["state"].clone();
        (state == "offline").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_task_runs_once_on_every_worker_that_matches_and_finds_its_name() {
    let stage = Stage::set().await;
    let labelled = |name: &str| Hello { labels: [("for".to_owned(), "it".to_owned())].into(), ..hello(name) };
    let (mut pi, mut nas) = (join(&stage, &labelled("pi")).await, join(&stage, &labelled("nas")).await);
    let _held = join(&stage, &labelled("held")).await;
    let _other = worker(&stage, "other").await;
    stage.client.post("/workers/held/cordon", &json!({})).await;
    let spec = json!({"command": ["x"], "each": "worker", "constraints": ["labels.for == it"]});
    let made = stage.client.post("/jobs", &spec).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let job = made.body["id"].as_i64().unwrap();
    assert_eq!(made.body["hints"][0]["detail"], "not on every worker that matches: held is cordoned");
    assert_eq!(made.body["spec"]["tasks"][0]["array"], "0-1");
    assert_eq!(made.body["spec"]["tasks"][0]["each"], "worker");
    assert_eq!(items(&stage, job).await, ["nas", "pi"], "in the order of their names");
    assert_eq!(runs(&mut pi, 0).await, (job, item("pi")));
    assert_eq!(runs(&mut nas, 0).await, (job, item("nas")));
    let finished = stage.client.finished(job).await;
    assert_eq!((finished.state.as_str(), finished.task_counts["completed"]), ("completed", 2));
    let on: Vec<_> = stage.client.tasks(job).await.into_iter().map(|task| task.worker.unwrap()).collect();
    assert_eq!(on, ["nas", "pi"]);
    let events = stage.client.get(&format!("/jobs/{job}/events")).await.text;
    assert!(events.contains("2 tasks, on each worker but these: held is cordoned"), "{events}");
}

#[tokio::test]
async fn a_task_waits_for_its_own_worker_until_that_is_back() {
    let stage = Stage::set().await;
    let mut here = worker(&stage, "here").await;
    let away = hello("away");
    join(&stage, &away).await.hang_up();
    is_away(&stage, "away").await;
    let job = stage.client.submit(json!({"command": ["x"], "each": "worker"})).await;
    assert_eq!(runs(&mut here, 0).await, (job, item("here")));
    // There is room for it, and others get that.
    let plain = stage.client.submit(json!({"command": ["x"]})).await;
    assert_eq!(runs(&mut here, 0).await, (plain, None));
    let told = stage.client.get(&format!("/jobs/{job}/explain")).await.body;
    let waiting = &told["waiting"][0];
    let message = waiting["message"].as_str().unwrap();
    assert!(message.starts_with("waits for its worker: away is offline since 20"), "{message}");
    assert_eq!((&waiting["count"], &waiting["workers"][0]["worker"]), (&json!(1), &json!("away")));
    assert_eq!(waiting["workers"].as_array().unwrap().len(), 1, "no other worker has anything to do with it");
    let queue = stage.client.get("/queue").await.body;
    assert_eq!(queue["classes"][0]["message"], waiting["message"]);
    assert_eq!(queue["waiting"], 1);
    let mut back = join(&stage, &Hello { process: hello("x").process, ..away }).await;
    assert_eq!(runs(&mut back, 0).await, (job, item("away")));
    assert_eq!(stage.client.finished(job).await.state, "completed");
}

#[tokio::test]
async fn a_task_fails_when_its_worker_is_removed() {
    let stage = Stage::set().await;
    let mut here = worker(&stage, "here").await;
    worker(&stage, "away").await.hang_up();
    is_away(&stage, "away").await;
    let tasks = json!([
        {"name": "patch", "command": ["x"], "each": "worker"},
        {"name": "check", "command": ["x"], "each": "worker", "depends_on": [{"task": "patch", "index": "same"}]},
    ]);
    let job = stage.client.submit(json!({"tasks": tasks})).await;
    for _ in 0..2 {
        assert_eq!(runs(&mut here, 0).await, (job, item("here")));
    }
    assert_eq!(stage.client.job(job).await.task_counts["pending"], 1);
    assert!(stage.client.delete("/workers/away").await.status.is_success());
    let finished = stage.client.finished(job).await;
    let reason = finished.reason.unwrap();
    assert_eq!((finished.state.as_str(), reason.code), ("failed", ReasonCode::LostWorker));
    assert_eq!(reason.message, "task patch.0: its worker away was removed");
    let states: Vec<_> = stage.client.tasks(job).await.into_iter().map(|task| task.state).collect();
    assert_eq!(states, ["failed", "completed", "cancelled", "completed"]);
    assert_eq!(items(&stage, job).await[0], "away", "it is still known which that was");
}

#[tokio::test]
async fn a_job_for_each_worker_is_refused_if_none_matches_and_repeated_if_it_was_accepted() {
    let stage = Stage::set().await;
    let spec = json!({"command": ["x"], "each": "worker"});
    let refused = stage.client.post("/jobs", &spec).await;
    assert_eq!((refused.status.as_u16(), &refused.body["code"]), (422, &json!("no_matching_worker")));
    assert_eq!(refused.body["detail"], "task main would run nowhere: no worker has connected yet");
    let mut w = worker(&stage, "w").await;
    let picky = json!({"command": ["x"], "each": "worker", "resources": {"cpu": 64}});
    let detail = stage.client.post("/jobs", &picky).await.body["detail"].clone();
    assert_eq!(detail, "task main would run nowhere: no worker matches: w has 2 cpu in total, 64 requested");
    let submit = async || {
        let request = stage.client.request(reqwest::Method::POST, "/jobs").header("idempotency-key", "k");
        request.json(&spec).send().await.unwrap()
    };
    let first = submit().await;
    assert_eq!(first.status(), 201);
    let job = first.json::<Value>().await.unwrap()["id"].as_i64().unwrap();
    runs(&mut w, 0).await;
    stage.client.finished(job).await;
    stage.client.post("/workers/w/cordon", &json!({})).await;
    let again = submit().await;
    assert_eq!(again.status(), 200, "the answer may have got lost");
    assert_eq!(again.json::<Value>().await.unwrap()["id"], job);
    let none = stage.client.post("/jobs", &spec).await.body["detail"].clone();
    let expected = "every worker that matches is lost or takes no new tasks: w is cordoned";
    assert_eq!(none, format!("task main would run nowhere: {expected}"));
}

#[tokio::test]
async fn a_rerun_of_what_failed_goes_to_the_same_workers_and_one_of_everything_to_all() {
    let stage = Stage::set().await;
    let (mut b, mut c) = (worker(&stage, "b").await, worker(&stage, "c").await);
    let job = stage.client.submit(json!({"command": ["x"], "each": "worker"})).await;
    assert_eq!((runs(&mut b, 0).await, runs(&mut c, 1).await), ((job, item("b")), (job, item("c"))));
    stage.client.finished(job).await;
    // Its name comes first.
    let mut a = worker(&stage, "a").await;
    let rerun = async |body: Value| {
        let made = stage.client.post(&format!("/jobs/{job}/rerun"), &body).await;
        made.body["id"].as_i64().unwrap_or_else(|| panic!("{}", made.text))
    };
    let failed = rerun(json!({"failed": true})).await;
    assert_eq!(runs(&mut c, 0).await, (failed, item("c")));
    let finished = stage.client.finished(failed).await;
    assert_eq!((finished.state.as_str(), finished.taken_over), ("completed", 1));
    assert_eq!(items(&stage, failed).await, ["b", "c"]);
    let all = rerun(json!({})).await;
    for (worker, name) in [(&mut a, "a"), (&mut b, "b"), (&mut c, "c")] {
        assert_eq!(runs(worker, 0).await, (all, item(name)));
    }
    assert_eq!(stage.client.finished(all).await.state, "completed");
}

#[tokio::test]
async fn a_limit_holds_for_all_workers_together_and_its_classes_go_with_the_job() {
    let url = fresh_database().await;
    let stage = Stage::on(url.clone()).await;
    let mut workers = Vec::new();
    for name in ["a", "b", "c"] {
        workers.push(worker(&stage, name).await);
    }
    let mut database = PgConnection::connect(&url).await.unwrap();
    let mut classes = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM classes WHERE worker_id IS NOT NULL")
            .fetch_one(&mut database)
            .await
            .unwrap()
    };
    let plain = json!({"command": ["x"], "each": "worker"});
    for _ in 0..2 {
        let job = stage.client.submit(plain.clone()).await;
        for worker in &mut workers {
            runs(worker, 0).await;
        }
        stage.client.finished(job).await;
        assert_eq!(classes().await, 3, "one of each worker, however many jobs there are");
    }
    let job = stage.client.submit(json!({"command": ["x"], "each": "worker", "array": "%1"})).await;
    for worker in &mut workers {
        let start = worker.next_start().await;
        assert_eq!(start.definition.job.0, job);
        let counts = stage.client.job(job).await.task_counts;
        let live = counts.get("scheduled").copied().unwrap_or_default();
        assert_eq!(live, 1, "{counts:?}");
        worker.ended(start.attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    }
    stage.client.finished(job).await;
    assert_eq!(classes().await, 6);
    stage.client.delete(&format!("/jobs/{job}")).await;
    assert_eq!(classes().await, 3, "tasks that look at each other share classes with no other job");
}

#[tokio::test]
async fn a_failed_task_is_repeated_on_its_worker() {
    let stage = Stage::set().await;
    let (mut a, mut b) = (worker(&stage, "a").await, worker(&stage, "b").await);
    let restart = json!({"policy": "on-failure", "limit": 2, "delay": "10ms"});
    let job = stage.client.submit(json!({"command": ["x"], "each": "worker", "restart": restart})).await;
    assert_eq!(runs(&mut b, 0).await, (job, item("b")));
    for code in [1, 1, 0] {
        assert_eq!(runs(&mut a, code).await, (job, item("a")));
    }
    assert_eq!(stage.client.finished(job).await.state, "completed");
    assert_eq!(stage.client.tasks(job).await[0].attempt, 3);
}

/// A worker that takes nothing more, and a job that another one takes before anything that waits for the first.
async fn passes_over(stage: &Stage, held: &str, other: &mut RawWorker) {
    let plain = stage.client.submit(json!({"command": ["x"]})).await;
    let start = other.next_start().await;
    assert_eq!(start.definition.job.0, plain, "it got what is for {held}: {:?}", start.item);
    other.ended(start.attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    assert!(stage.client.post(&format!("/workers/{held}/resume"), &json!({})).await.status.is_success());
}

#[tokio::test]
async fn what_waits_for_a_task_of_a_worker_runs_on_that_worker_too() {
    let stage = Stage::set().await;
    let (mut a, mut b) = (worker(&stage, "a").await, worker(&stage, "b").await);
    let tasks = json!([
        {"name": "patch", "command": ["x"], "each": "worker"},
        {"name": "check", "command": ["x"], "each": "worker", "depends_on": [{"task": "patch", "index": "same"}]},
    ]);
    let job = stage.client.submit(json!({"tasks": tasks})).await;
    let (patch, other) = (a.next_start().await, b.next_start().await);
    stage.client.post("/workers/a/cordon", &json!({})).await;
    a.ended(patch.attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    eventually("the first is done", async || {
        (stage.client.job(job).await.task_counts.get("completed") == Some(&1)).then_some(())
    })
    .await;
    passes_over(&stage, "a", &mut b).await;
    assert_eq!(runs(&mut a, 0).await, (job, item("a")));
    b.ended(other.attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    assert_eq!(runs(&mut b, 0).await, (job, item("b")));
    assert_eq!(stage.client.finished(job).await.state, "completed");
    let on = stage.client.tasks(job).await.into_iter().map(|task| task.worker.unwrap());
    assert_eq!(on.collect::<Vec<_>>(), ["a", "b", "a", "b"]);
}

#[tokio::test]
async fn a_master_that_has_just_begun_repeats_a_task_on_its_worker() {
    let stage = Stage::set().await;
    let (said_a, said_b) = (hello("a"), hello("b"));
    let (mut a, mut b) = (join(&stage, &said_a).await, join(&stage, &said_b).await);
    let restart = json!({"policy": "on-failure", "limit": 2, "delay": "10ms"});
    let job = stage.client.submit(json!({"command": ["x"], "each": "worker", "restart": restart})).await;
    assert_eq!(runs(&mut b, 0).await, (job, item("b")));
    let first = a.next_start().await.attempt;
    a.started(first).await;
    stage.client.in_state(job, "running").await;
    let stage = Stage::on(stage.strike().await).await;
    let held = vec![HeldAttempt { attempt: first, phase: HeldPhase::Running }];
    let mut a = join(&stage, &Hello { held, ..said_a }).await;
    let mut b = join(&stage, &said_b).await;
    stage.client.post("/workers/a/cordon", &json!({})).await;
    a.ended(first, AttemptEnd::Exited { code: 1 }, 0).await;
    eventually("it waits", async || {
        let task = &stage.client.tasks(job).await[0];
        (task.state == "pending" || task.attempt == 2).then_some(())
    })
    .await;
    passes_over(&stage, "a", &mut b).await;
    assert_eq!(runs(&mut a, 0).await, (job, item("a")));
    assert_eq!(stage.client.finished(job).await.state, "completed");
}

#[tokio::test]
async fn run_shows_the_output_of_each_worker_with_its_name() {
    let dirs = [data_dir(), data_dir()];
    let dev = Dev::start(dirs[0].path()).await;
    let _pi = dev.add_worker("pi", dirs[1].path()).await;
    let shell = ["sh", "-c", "echo \"$GAFFER_ITEM is $GAFFER_WORKER\"; printf end >&2"];
    let args = [&["run", "--each-worker", "--"], &shell[..]].concat();
    let output = dev.cli(&args).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let workers = dev.client.get("/workers").await.body;
    let mut expected: Vec<String> = workers["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|worker| {
            let name = worker["name"].as_str().unwrap();
            format!("{name}: {name} is {name}")
        })
        .collect();
    let mut lines: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    expected.sort();
    assert_eq!((lines, expected.len()), (expected, 2));
    assert!(said.contains("pi: end\n"), "{said}");

    let job = dev.client.get("/jobs?limit=1").await.body["items"][0]["id"].as_i64().unwrap();
    let browser = Visitor::of(&dev).await;
    let page = browser.page(&format!("/jobs/{job}?tab=tasks")).await;
    assert!(page.contains(">pi</span>"), "{page}");
    let file = dirs[0].path().join("job.yaml");
    std::fs::write(&file, "tasks: [{name: a, command: [a]}]\n").unwrap();
    let refused = dev.cli(&["submit", "--each-worker", file.to_str().unwrap()]).output().await.unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

#[tokio::test]
async fn a_failed_task_is_still_for_its_worker_after_the_master_was_replaced() {
    let stage = Stage::set().await;
    let hellos = [hello("a"), hello("b")];
    let mut workers = Vec::new();
    for hello in &hellos {
        workers.push(join(&stage, hello).await);
    }
    let restart = json!({"policy": "on-failure", "limit": 1, "delay": "0s"});
    let job = stage.client.submit(json!({"command": ["x"], "each": "worker", "restart": restart})).await;
    let mut attempts = Vec::new();
    for worker in &mut workers {
        let attempt = worker.next_start().await.attempt;
        worker.started(attempt).await;
        attempts.push(attempt);
    }
    stage.client.in_state(job, "running").await;
    let stage = Stage::on(stage.strike().await).await;
    let mut back = Vec::new();
    for (hello, attempt) in hellos.into_iter().zip(&attempts) {
        let held = vec![HeldAttempt { attempt: *attempt, phase: HeldPhase::Running }];
        back.push(join(&stage, &Hello { held, ..hello }).await);
    }
    stage.client.post("/workers/a/cordon", &json!({})).await;
    back[0].ended(attempts[0], AttemptEnd::Exited { code: 1 }, 0).await;
    back[1].ended(attempts[1], AttemptEnd::Exited { code: 0 }, 0).await;
    eventually("the other task has completed", async || {
        (stage.client.job(job).await.task_counts.get("completed") == Some(&1)).then_some(())
    })
    .await;
    let told = stage.client.get(&format!("/jobs/{job}/explain")).await.body;
    assert_eq!(
        told["waiting"][0]["message"], "waits for its worker: a is cordoned and accepts no new tasks",
        "the other one has room, but the task is not for it"
    );
    stage.client.post("/workers/a/resume", &json!({})).await;
    assert_eq!(runs(&mut back[0], 0).await, (job, item("a")));
    assert_eq!(stage.client.finished(job).await.state, "completed");
}
