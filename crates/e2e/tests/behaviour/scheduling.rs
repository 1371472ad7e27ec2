//! Where tasks go: by what they need, by what they wish for, by whose turn it is; and what they are told while they wait.

use std::collections::BTreeMap;

use gaffer_domain::AttemptRef;
use gaffer_domain::reason::AttemptEnd;
use gaffer_e2e::client::Client;
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_e2e::{eventually, wait_for_a_lock};
use gaffer_protocol::definitions::StartAttempt;
use gaffer_protocol::wire::Hello;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::tenants::neighbour;

async fn worker(stage: &Stage, hello: Hello) -> RawWorker {
    RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello).await
}

fn with_label(name: &str, key: &str, value: &str) -> Hello {
    Hello { labels: BTreeMap::from([(key.to_owned(), value.to_owned())]), ..hello(name) }
}

async fn explained(stage: &Stage, job: i64) -> Value {
    stage.client.get(&format!("/jobs/{job}/explain")).await.body
}

/// Says that an attempt started and ended well.
async fn completes(worker: &mut RawWorker, start: &StartAttempt) {
    worker.started(start.attempt).await;
    worker.ended(start.attempt, AttemptEnd::Exited { code: 0 }, 0).await;
}

async fn placed_on(stage: &Stage, job: i64) -> Vec<Option<String>> {
    let mut names: Vec<_> = stage.client.tasks(job).await.into_iter().map(|task| task.worker).collect();
    names.sort();
    names
}

#[tokio::test]
async fn constraints_keep_workers_out_and_say_which_and_why() {
    let stage = Stage::set().await;
    let _old = worker(&stage, with_label("old", "gpu", "v100")).await;
    let job = stage.client.submit(json!({"script": "true", "constraints": ["labels.gpu == a100"]})).await;
    let told = eventually("it waits", async || {
        let told = explained(&stage, job).await;
        (told["waiting"][0]["workers"][0]["unfit"]["code"] == "constraint").then_some(told)
    })
    .await;
    let told = told["waiting"][0]["workers"][0]["message"].as_str().unwrap();
    assert_eq!(told, "old does not meet constraint `labels.gpu == a100`: labels.gpu is v100");
    let mut new = worker(&stage, with_label("new", "gpu", "a100")).await;
    let start = new.next_start().await;
    completes(&mut new, &start).await;
    assert_eq!(stage.client.finished(job).await.state, "completed");

    let wrong =
        stage.client.post("/jobs", &json!({"script": "true", "constraints": ["memroy > 1GiB"]})).await;
    assert_eq!(wrong.status, 422, "{}", wrong.text);
    assert_eq!(wrong.body["errors"][0]["pointer"], "/constraints/0");
    assert!(wrong.text.contains("did you mean `memory`?"), "{}", wrong.text);
}

#[tokio::test]
async fn countable_resources_are_never_promised_twice() {
    let stage = Stage::set().await;
    let mut worker =
        worker(&stage, Hello { countables: BTreeMap::from([("gpu".to_owned(), 2)]), ..hello("w") }).await;
    let job =
        stage.client.submit(json!({"script": "true", "count": 3, "resources": {"cpu": 0.1, "gpu": 1}})).await;
    let first = worker.next_start().await;
    let second = worker.next_start().await;
    assert_eq!(first.definition.countables, BTreeMap::from([("gpu".to_owned(), 1)]));
    let told = explained(&stage, job).await;
    assert_eq!(told["waiting"][0]["count"], 1, "{told}");
    assert_eq!(told["waiting"][0]["workers"][0]["message"], "w has 0 gpu free, 1 requested");
    completes(&mut worker, &second).await;
    let third = worker.next_start().await;
    completes(&mut worker, &third).await;
    completes(&mut worker, &first).await;
    assert_eq!(stage.client.finished(job).await.state, "completed");
}

#[tokio::test]
async fn what_has_run_can_be_simulated() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, hello("w")).await;
    let spec =
        json!({"script": "true", "count": 2, "priority": 7, "resources": {"cpu": 0.5, "memory": "64MiB"}});
    let job = stage.client.submit(spec).await;
    for _ in 0..2 {
        let start = worker.next_start().await;
        completes(&mut worker, &start).await;
    }
    stage.client.finished(job).await;
    let trace = stage.client.get("/trace").await.text;
    let arrivals = gaffer_protocol::trace::read(&trace).unwrap();
    assert_eq!(arrivals.iter().map(|arrival| arrival.count).sum::<u32>(), 2, "{trace}");
    assert_eq!((arrivals[0].cpu.to_string(), arrivals[0].priority), ("0.5".to_owned(), 7), "{trace}");
    assert_eq!(stage.client.get("/trace?since=nonsense").await.status, 400);
}

#[tokio::test]
async fn the_queue_is_told_in_its_order_with_reasons_and_what_would_help() {
    let stage = Stage::set().await;
    let _worker = worker(&stage, hello("w")).await;
    let low = json!({"script": "true", "count": 3, "priority": 10, "resources": {"cpu": 0.5, "gpu": 1}});
    let low = stage.client.submit(low).await;
    let high = json!({"script": "true", "count": 4, "priority": 90, "resources": {"cpu": 0.5},
        "constraints": ["labels.rack == b"]});
    let high = stage.client.submit(high).await;
    let queue = eventually("both wait", async || {
        let queue = stage.client.get("/queue").await.body;
        (queue["waiting"] == 7).then_some(queue)
    })
    .await;
    let classes = queue["classes"].as_array().unwrap();
    assert_eq!((&classes[0]["job"], &classes[1]["job"]), (&json!(high), &json!(low)));
    assert_eq!(classes[0]["line"], json!({"ahead": 0, "waiting": 7}));
    assert_eq!(classes[1]["line"], json!({"ahead": 4, "waiting": 7}));
    assert_eq!(classes[0]["message"], "no worker meets the job's constraints");
    let would_help = "without the constraint `labels.rack == b`, it can run on w now";
    assert_eq!(classes[0]["would_help"], json!([would_help]));
    assert_eq!(classes[1]["would_help"], json!(["without any gpu, it can run on w now"]));
    let told = explained(&stage, low).await;
    assert_eq!(told["waiting"][0]["line"], json!({"ahead": 4, "waiting": 7}));
    assert_eq!(queue["strategy"], "spread");
    assert!(queue["passes"]["count"].as_u64().unwrap() >= 1, "{queue}");
}

#[tokio::test]
async fn for_a_large_task_that_has_waited_for_long_a_worker_is_kept_free_and_all_are_told() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, hello("w")).await;
    let small = json!({"script": "true", "count": 20, "resources": {"cpu": 1}});
    let small = stage.client.submit(small).await;
    let running = [worker.next_start().await, worker.next_start().await];
    let large = stage.client.submit(json!({"script": "true", "priority": 60, "resources": {"cpu": 2}})).await;
    // Time passes.
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let older = "UPDATE live_tasks SET not_before = not_before - interval '10 minutes' WHERE state = 'pending' AND job_id = $1";
    sqlx::query(older).bind(large).execute(&mut database).await.unwrap();
    // Who gets no answer to a submission makes the master read anew what waits.
    let rename = async |database: &mut PgConnection, from: &str, to: &str| {
        let sql = format!("ALTER TABLE {from} RENAME TO {to}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(database).await.unwrap();
    };
    rename(&mut database, "idempotency_keys", "elsewhere").await;
    let answer = stage.client.post("/jobs", &json!({"script": "true"})).await;
    assert!(answer.status.is_server_error(), "{}", answer.status);
    rename(&mut database, "elsewhere", "idempotency_keys").await;
    completes(&mut worker, &running[0]).await;
    let told = eventually("the worker is kept", async || {
        let told = explained(&stage, small).await;
        (told["waiting"][0]["workers"][0]["unfit"]["code"] == "kept").then_some(told)
    })
    .await;
    let message = told["waiting"][0]["workers"][0]["message"].as_str().unwrap();
    assert_eq!(message, "w is reserved for a task that has waited longer");
    let told = explained(&stage, large).await;
    assert_eq!(told["message"], "main: all matching workers are busy; w is reserved for it");
    // Half of it is free, and none of the small ones gets that.
    completes(&mut worker, &running[1]).await;
    let next = worker.next_start().await;
    assert_eq!(next.definition.job.0, large);
}

#[tokio::test]
async fn a_job_whose_client_went_away_before_it_was_accepted_is_placed_nevertheless() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, hello("w")).await;
    // Its class is known from one before, so that one statement accepts it.
    let before = stage.client.submit(json!({"script": "true"})).await;
    let start = worker.next_start().await;
    completes(&mut worker, &start).await;
    stage.client.finished(before).await;
    let mut other = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut looking = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut locked = other.begin().await.unwrap();
    // An era that begins: submissions wait for it.
    let lock = "SELECT pg_advisory_xact_lock(x'67616666657265'::bigint)";
    sqlx::query(lock).execute(&mut *locked).await.unwrap();
    let client = stage.client.clone();
    let request = tokio::spawn(async move { client.post("/jobs", &json!({"script": "true"})).await });
    wait_for_a_lock(&mut looking, "gaffer", 1).await;
    let passes = async || {
        let system = stage.client.get("/system").await.body;
        let loops = system["loops"].as_array().unwrap();
        loops.iter().find(|one| one["name"] == "scheduler").unwrap()["runs"].as_u64().unwrap()
    };
    request.abort();
    let scheduling = &stage.running.control.scheduling;
    eventually("the master notices", async || scheduling.reads_again_in()).await;
    let before = passes().await;
    // The first of them may have begun earlier.
    eventually("it has looked in vain", async || (passes().await > before + 1).then_some(())).await;
    locked.rollback().await.unwrap();
    let start = worker.next_start().await;
    completes(&mut worker, &start).await;
    stage.client.finished(start.definition.job.0).await;
}

#[tokio::test]
async fn of_a_concurrency_group_no_more_are_under_way_than_may_be() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, hello("w")).await;
    let spec =
        json!({"script": "true", "resources": {"cpu": 0.1}, "concurrency": {"group": "deploy", "limit": 1}});
    let jobs = [stage.client.submit(spec.clone()).await, stage.client.submit(spec).await];
    let first = worker.next_start().await;
    let told = explained(&stage, jobs[1]).await;
    let message = "main: the concurrency group deploy is full: 1 of 1 attempts are live";
    assert_eq!(told["message"], message);
    worker.started(first.attempt).await;
    stage.client.in_state(jobs[0], "running").await;
    assert_eq!(stage.client.job(jobs[1]).await.state, "pending");
    worker.ended(first.attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    let second = worker.next_start().await;
    completes(&mut worker, &second).await;
    for job in jobs {
        assert_eq!(stage.client.finished(job).await.state, "completed");
    }
}

#[tokio::test]
async fn nine_equal_tasks_take_turns_on_three_workers() {
    let stage = Stage::set().await;
    let mut workers = Vec::new();
    for name in ["a", "b", "c"] {
        workers.push(worker(&stage, hello(name)).await);
    }
    let spec = json!({"script": "true", "count": 9, "resources": {"cpu": 0.1},
        "placement": {"strategy": "round_robin"}});
    let job = stage.client.submit(spec).await;
    let placed = eventually("all are placed", async || {
        let placed = placed_on(&stage, job).await;
        placed.iter().all(Option::is_some).then_some(placed)
    })
    .await;
    for name in ["a", "b", "c"] {
        assert_eq!(placed.iter().filter(|worker| worker.as_deref() == Some(name)).count(), 3, "{placed:?}");
    }
    let receipt =
        &stage.client.get(&format!("/jobs/{job}/tasks/main.0")).await.body["attempts"][0]["placement"];
    assert_eq!((&receipt["strategy"], &receipt["feasible"]), (&json!("round_robin"), &json!(3)));
}

#[tokio::test]
async fn tasks_that_want_distinct_workers_get_them() {
    let stage = Stage::set().await;
    let mut workers = [worker(&stage, hello("a")).await, worker(&stage, hello("b")).await];
    let spec = json!({"script": "true", "count": 3, "resources": {"cpu": 0.1}, "distinct_workers": true});
    let job = stage.client.submit(spec).await;
    let [first, _] = [workers[0].next_start().await, workers[1].next_start().await];
    let told = explained(&stage, job).await;
    assert_eq!(told["waiting"][0]["count"], 1, "{told}");
    let message = told["waiting"][0]["workers"][0]["message"].as_str().unwrap();
    assert_eq!(message, "a already runs a task of the same definition (distinct_workers)");
    completes(&mut workers[0], &first).await;
    assert_ne!(workers[0].next_start().await.attempt, first.attempt);
}

#[tokio::test]
async fn one_task_of_somebody_else_does_not_wait_behind_a_hundred_of_the_first() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, hello("w")).await;
    let many = stage.client.submit(json!({"name": "many", "script": "true", "count": 100})).await;
    let mut under_way = [worker.next_start().await, worker.next_start().await].to_vec();
    let other = stage.another_user("ben").await;
    let one = other.submit(json!({"name": "one", "script": "true"})).await;
    let done = under_way.remove(0);
    completes(&mut worker, &done).await;
    let next: AttemptRef = worker.next_start().await.attempt;
    let task = other.tasks(one).await.remove(0);
    assert_eq!(task.worker.as_deref(), Some("w"), "{next:?} was placed instead");
    assert!(stage.client.tasks(many).await.len() >= 100);
}

#[tokio::test]
async fn jobs_are_found_by_every_worker_on_which_they_ever_were() {
    let stage = Stage::set().await;
    let mut first = worker(&stage, hello("first")).await;
    let restart = json!({"policy": "on-failure", "limit": 1, "delay": "10ms"});
    let moved = stage.client.submit(json!({"name": "moved", "script": "x", "restart": restart})).await;
    let failing = first.next_start().await;
    first.started(failing.attempt).await;
    assert!(stage.client.post("/workers/first/cordon", &json!({})).await.status.is_success());
    let mut second = worker(&stage, hello("second")).await;
    first.ended(failing.attempt, AttemptEnd::Exited { code: 1 }, 0).await;
    let again = second.next_start().await;
    completes(&mut second, &again).await;
    let other = stage.client.submit(json!({"script": "x", "labels": {"a": "b"}})).await;
    let start = second.next_start().await;
    second.started(start.attempt).await;
    second.ended(start.attempt, AttemptEnd::Exited { code: 1 }, 0).await;
    for job in [moved, other] {
        stage.client.finished(job).await;
    }

    let listed = async |client: &Client, query: &str| -> Vec<i64> {
        let answer = client.get(&format!("/jobs?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text);
        answer.body["items"].as_array().unwrap().iter().map(|job| job["id"].as_i64().unwrap()).collect()
    };
    assert_eq!(listed(&stage.client, "worker=first").await, [moved]);
    assert_eq!(listed(&stage.client, "worker=second").await, [other, moved], "the latest first");
    assert_eq!(listed(&stage.client, "worker=second&state=failed").await, [other]);
    assert_eq!(listed(&stage.client, "worker=second&name=MOVED").await, [moved]);
    assert_eq!(listed(&stage.client, "worker=second&label=a%3Db").await, [other]);
    assert_eq!(listed(&stage.client, "worker=first&label=a%3Db").await, [0; 0]);

    let numbers: Vec<i64> = stage.client.get("/workers").await.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|worker| worker["id"].as_i64().unwrap())
        .collect();
    let (stranger, _) = neighbour(&stage).await;
    assert_eq!(listed(&stranger, &format!("worker={}", numbers[1])).await, [0; 0]);
    first.hang_up();
    eventually("the first worker is removed", async || {
        stage.client.delete("/workers/first").await.status.is_success().then_some(())
    })
    .await;
    assert_eq!(stage.client.get("/jobs?worker=first").await.status, 400);
    assert_eq!(listed(&stage.client, &format!("worker={}", numbers[0])).await, [moved]);
    assert!(stage.client.delete(&format!("/jobs/{moved}")).await.status.is_success());
    assert_eq!(listed(&stage.client, &format!("worker={}", numbers[0])).await, [0; 0]);
}
