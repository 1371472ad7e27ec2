//! Jobs of `type: system`: one instance on every worker that matches, also on workers that come later.

mod shown;

use std::collections::BTreeSet;
use std::time::Duration;

use gaffer_domain::system_jobs::Plan;
use gaffer_e2e::raw_worker::hello;
use gaffer_e2e::robot::{Robot, restarted};
use gaffer_e2e::stage::Stage;
use gaffer_e2e::{eventually, eventually_within};
use gaffer_master::store::transitions::{InstanceChanges, UpdateAction, UpdateStep};
use gaffer_protocol::rest::{Job, Task};
use gaffer_protocol::wire::Hello;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

fn labelled(name: &str, value: &str) -> Hello {
    Hello { labels: [("for".to_owned(), value.to_owned())].into(), ..hello(name) }
}

pub(super) async fn robots<const N: usize>(stage: &Stage, names: [&str; N]) -> Vec<Robot> {
    let mut robots = Vec::new();
    for name in names {
        robots.push(Robot::join(stage, hello(name)).await);
    }
    robots
}

pub(super) fn agent(version: &str) -> Value {
    json!({
        "name": "agent", "type": "system", "command": ["x"], "resources": {"cpu": 0.1}, "env": {"VERSION": version},
        "restart": {"policy": "always", "delay": "0s"}, "lost_after": "10s",
    })
}

pub(super) async fn submit(stage: &Stage, spec: &Value) -> i64 {
    let made = stage.client.post("/jobs", spec).await;
    assert_eq!(made.status, 201, "{}", made.text);
    made.body["id"].as_i64().unwrap()
}

pub(super) async fn apply(stage: &Stage, spec: &Value) -> Job {
    let answer = stage.client.post("/services/agent", spec).await;
    assert!(answer.status.is_success(), "{}", answer.text);
    serde_json::from_value(answer.body).unwrap()
}

/// The worker's name, the number of the attempt and the address of each running instance, by worker.
pub(super) async fn running(stage: &Stage, job: i64) -> Vec<(String, u32, String)> {
    let tasks = stage.client.tasks(job).await.into_iter().filter(|task| task.state == "running");
    let mut found: Vec<_> =
        tasks.map(|task| (task.worker.clone().unwrap(), task.attempt, task.address)).collect();
    found.sort();
    found
}

fn row(worker: &str, attempt: u32, address: &str) -> (String, u32, String) {
    (worker.to_owned(), attempt, address.to_owned())
}

/// Once this is what runs, and nothing else of the job is under way.
async fn runs(stage: &Stage, job: i64, wanted: &[(&str, u32, &str)]) -> Job {
    let wanted: Vec<_> =
        wanted.iter().map(|(worker, attempt, address)| row(worker, *attempt, address)).collect();
    eventually(&format!("{wanted:?} run"), async || {
        let found = stage.client.job(job).await;
        let is_quiet =
            ["pending", "scheduled", "stopping"].iter().all(|at| !found.task_counts.contains_key(*at));
        let count = found.task_counts.get("running").copied().unwrap_or_default();
        // The job and its tasks are read one after the other.
        let is_so = is_quiet && count == wanted.len() as i64 && running(stage, job).await == wanted;
        is_so.then_some(found)
    })
    .await
}

/// Once so many instances of its present version are available, and no update is under way.
pub(super) async fn settled(stage: &Stage, job: i64, count: u64) -> Job {
    eventually(&format!("{count} instances are available and no update is under way"), async || {
        let found = stage.client.job(job).await;
        (found.available == Some(count) && found.updates.is_empty()).then_some(found)
    })
    .await
}

pub(super) async fn task(stage: &Stage, job: i64, address: &str) -> Task {
    let tasks = stage.client.tasks(job).await;
    tasks.into_iter().find(|task| task.address == address).unwrap()
}

/// Once a task is in a state.
pub(super) async fn is(stage: &Stage, job: i64, address: &str, state: &str) -> Task {
    eventually(&format!("{address} is {state}"), async || {
        let tasks = stage.client.tasks(job).await;
        tasks.into_iter().find(|task| task.address == address && task.state == state)
    })
    .await
}

pub(super) async fn explained(stage: &Stage, job: i64) -> Value {
    stage.client.get(&format!("/jobs/{job}/explain")).await.body
}

pub(super) async fn events(stage: &Stage, job: i64, kind: &str) -> Vec<String> {
    let found = stage.client.get(&format!("/jobs/{job}/events?limit=500")).await.body;
    let found = found["items"].as_array().unwrap().clone();
    let wanted = found.iter().rev().filter(|event| event["kind"] == kind);
    wanted.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_worker_has_one_instance_and_one_that_joins_later_gets_its_own() {
    let stage = Stage::set().await;
    let mut workers = robots(&stage, ["a", "b", "c"]).await;
    let made = stage.client.post("/jobs", &agent("one")).await;
    assert_eq!((made.status.as_u16(), &made.body["type"]), (201, &json!("system")), "{}", made.text);
    let task = &made.body["spec"]["tasks"][0];
    assert_eq!(
        (&task["each"], &task["count"], &task["array"]),
        (&json!("worker"), &Value::Null, &Value::Null)
    );
    assert_eq!(made.body["hints"].as_array().map_or(0, Vec::len), 0, "{}", made.text);
    let job = made.body["id"].as_i64().unwrap();
    let found = runs(&stage, job, &[("a", 1, "main.0"), ("b", 1, "main.1"), ("c", 1, "main.2")]).await;
    assert_eq!((found.state.as_str(), found.available), ("running", Some(3)));
    assert_eq!(found.instances, [("main".to_owned(), 3)].into());
    let items: Vec<_> =
        stage.client.tasks(job).await.into_iter().map(|task| task.item.unwrap().to_string()).collect();
    assert_eq!(items, ["a", "b", "c"]);

    workers.extend(robots(&stage, ["d", "e"]).await);
    let all = [("a", 1, "main.0"), ("b", 1, "main.1"), ("c", 1, "main.2")];
    eventually("the new ones have theirs", async || (running(&stage, job).await.len() == 5).then_some(()))
        .await;
    let found = stage.client.job(job).await;
    assert_eq!(found.instances["main"], 5);
    let now = running(&stage, job).await;
    assert_eq!(
        now[..3],
        all.map(|(worker, attempt, address)| row(worker, attempt, address)),
        "nothing was disturbed"
    );
    let later: BTreeSet<&str> = now[3..].iter().map(|(.., address)| address.as_str()).collect();
    assert_eq!(later, ["main.3", "main.4"].into());
    assert!(workers.iter().all(|worker| worker.most() == 1));
    let told = events(&stage, job, "job.scaled").await;
    assert!(told[0].starts_with("main: an instance on d"), "{told:?}");
    assert_eq!(explained(&stage, job).await["without_instance"], json!([]));

    // One of another project is none of ours; a second job has its own.
    let other =
        submit(&stage, &json!({"type": "system", "command": ["x"], "constraints": ["name == e"]})).await;
    runs(&stage, other, &[("e", 1, "main.0")]).await;
    assert!(stage.client.post(&format!("/jobs/{job}/stop"), &json!({})).await.status.is_success());
    assert_eq!(stage.client.finished(job).await.state, "cancelled");
    assert_eq!(stage.client.job(other).await.state, "running");
}

#[tokio::test]
async fn a_worker_whose_labels_change_gets_an_instance_or_loses_it() {
    let stage = Stage::set().await;
    let one = Robot::join(&stage, labelled("one", "it")).await;
    let two = Robot::join(&stage, labelled("two", "other")).await;
    let mut spec = agent("one");
    spec["constraints"] = json!(["labels.for == it"]);
    let job = submit(&stage, &spec).await;
    runs(&stage, job, &[("one", 1, "main.0")]).await;
    let told = explained(&stage, job).await;
    let without = &told["without_instance"][0];
    assert_eq!((&without["task"], &without["workers"][0]["worker"]), (&json!("main"), &json!("two")));
    assert_eq!(
        without["message"],
        "has an instance on 1 of 2 workers: two does not meet constraint `labels.for == it`: labels.for is other"
    );

    let with = |hello: Hello, value: &str| Hello { labels: labelled("", value).labels, ..hello };
    let two = Robot::join(&stage, with(two.leave().await, "it")).await;
    runs(&stage, job, &[("one", 1, "main.0"), ("two", 1, "main.1")]).await;

    let one = Robot::join(&stage, with(one.leave().await, "other")).await;
    let found = runs(&stage, job, &[("two", 1, "main.1")]).await;
    assert_eq!((found.available, found.instances["main"]), (Some(1), 1), "it is no part of what is to be");
    let gone = task(&stage, job, "main.0").await;
    let reason = gone.reason.unwrap();
    assert_eq!((gone.state.as_str(), reason.code.as_str()), ("cancelled", "scaled_down"));
    assert_eq!(
        reason.message,
        "scaled down: one does not meet constraint `labels.for == it`: labels.for is other"
    );

    let one = Robot::join(&stage, with(one.leave().await, "it")).await;
    runs(&stage, job, &[("one", 2, "main.0"), ("two", 1, "main.1")]).await;
    assert!(one.most() == 1 && two.most() <= 1);
}

#[tokio::test]
async fn an_instance_whose_worker_is_lost_runs_nowhere_else_and_comes_back_with_it() {
    let stage = Stage::set().await;
    let mut workers = robots(&stage, ["a", "b"]).await;
    let job = submit(&stage, &agent("one")).await;
    runs(&stage, job, &[("a", 1, "main.0"), ("b", 1, "main.1")]).await;
    let b = workers.pop().unwrap().leave().await;
    let lost = is(&stage, job, "main.1", "pending").await;
    assert_eq!(lost.item.unwrap().to_string(), "b");
    let told = explained(&stage, job).await;
    let message = told["waiting"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("waits for its worker: b is offline since 20"), "{message}");
    let found = stage.client.job(job).await;
    assert_eq!((found.available, found.instances["main"]), (Some(1), 2), "1 of 2 is available");
    assert_eq!(workers[0].most(), 1, "it is not placed on the other one, which has room");
    workers.push(Robot::join(&stage, restarted(b)).await);
    runs(&stage, job, &[("a", 1, "main.0"), ("b", 2, "main.1")]).await;
}

#[tokio::test]
async fn a_worker_that_drains_stops_its_instance_at_once_and_has_it_again_when_it_resumes() {
    let stage = Stage::set().await;
    let workers = robots(&stage, ["a", "b"]).await;
    let job = submit(&stage, &agent("one")).await;
    let both = [("a", 1, "main.0"), ("b", 1, "main.1")];
    runs(&stage, job, &both).await;
    let direct = async |worker: &str, verb: &str| {
        let done = stage.client.post(&format!("/workers/{worker}/{verb}"), &json!({})).await;
        assert!(done.status.is_success(), "{}", done.text);
    };
    // One that is cordoned keeps what it has.
    direct("a", "cordon").await;
    direct("b", "drain").await;
    let found = runs(&stage, job, &both[..1]).await;
    assert_eq!((found.available, found.instances["main"]), (Some(1), 1));
    let reason = task(&stage, job, "main.1").await.reason.unwrap();
    assert_eq!(reason.message, "scaled down: b is draining and accepts no new tasks");
    eventually("it has nothing left", async || {
        let worker = stage.client.get("/workers/b").await.body;
        worker["draining"]["drained_at"].is_string().then_some(())
    })
    .await;
    direct("b", "resume").await;
    runs(&stage, job, &[both[0], ("b", 2, "main.1")]).await;

    // A cordoned worker gets nothing new.
    let hinted = stage.client.post("/jobs", &json!({"type": "system", "command": ["x"]})).await;
    let hint = &hinted.body["hints"][0];
    assert_eq!(
        (&hint["pointer"], &hint["detail"]),
        (&json!("/type"), &json!("not on every worker that matches: a is cordoned"))
    );
    let second = hinted.body["id"].as_i64().unwrap();
    runs(&stage, second, &[("b", 1, "main.0")]).await;
    direct("a", "resume").await;
    runs(&stage, second, &[("a", 1, "main.1"), ("b", 1, "main.0")]).await;
    runs(&stage, job, &[both[0], ("b", 2, "main.1")]).await;
    assert!(workers.iter().all(|worker| worker.most() <= 2));
}

#[tokio::test]
async fn a_system_job_whose_workers_all_drain_is_kept() {
    let stage = Stage::set().await;
    let _worker = Robot::join(&stage, hello("a")).await;
    let job = submit(&stage, &agent("one")).await;
    runs(&stage, job, &[("a", 1, "main.0")]).await;
    for attempt in [2, 3] {
        stage.client.post("/workers/a/drain", &json!({})).await;
        is(&stage, job, "main.0", "cancelled").await;
        let found = stage.client.job(job).await;
        assert_eq!((found.state.as_str(), found.available, found.instances["main"]), ("running", Some(0), 0));
        stage.client.post("/workers/a/resume", &json!({})).await;
        runs(&stage, job, &[("a", attempt, "main.0")]).await;
    }
}

#[tokio::test]
async fn a_worker_that_joins_has_its_instance_at_once() {
    let stage = Stage::set().await;
    let job = submit(&stage, &agent("one")).await;
    let _worker = Robot::join(&stage, hello("a")).await;
    // Without being told, the loop looks once a minute.
    eventually_within(Duration::from_secs(30), "the instance runs", async || {
        (running(&stage, job).await.len() == 1).then_some(())
    })
    .await;
}

/// As the loop hands it over. Whether a step was taken may be unknown to it, and it decides anew.
#[tokio::test]
async fn instances_that_were_decided_twice_begin_once() {
    let stage = Stage::set().await;
    let mut spec = agent("one");
    spec["constraints"] = json!(["labels.for == it"]);
    let job = submit(&stage, &spec).await;
    let _worker = Robot::join(&stage, hello("a")).await;
    let control = &stage.running.control;
    let definition = control.store.system_definitions().await.unwrap().remove(0);
    let worker = control.store.worker_rows(None).await.unwrap().remove(0).id;
    control.store.classes_of_workers(definition.job, definition.class, &[worker]).await.unwrap();
    let plan = Plan { start: vec![(worker, "a".to_owned())], ..Plan::default() };
    let changes = InstanceChanges { plan, total: definition.total };
    let step = UpdateStep {
        job: definition.job,
        position: definition.position,
        version: definition.version,
        action: UpdateAction::Instances(changes),
    };
    let taken = [
        control.write_batcher.update_step(step.clone()).await.unwrap(),
        control.write_batcher.update_step(step).await.unwrap(),
    ];
    assert_eq!(taken, [true, false]);
    assert_eq!(stage.client.tasks(job).await.len(), 1);
}

#[tokio::test]
async fn a_removed_worker_has_no_instance_until_it_is_back() {
    let stage = Stage::set().await;
    let mut workers = robots(&stage, ["a", "b"]).await;
    let b = workers.pop().unwrap().leave().await;
    eventually("it is away", async || {
        (stage.client.get("/workers/b").await.body["state"] == "offline").then_some(())
    })
    .await;
    let job = submit(&stage, &agent("one")).await;
    is(&stage, job, "main.0", "running").await;
    assert_eq!(
        task(&stage, job, "main.1").await.state,
        "pending",
        "one that is away for a moment is one of them"
    );
    assert!(stage.client.delete("/workers/b").await.status.is_success());
    let gone = is(&stage, job, "main.1", "cancelled").await.reason.unwrap();
    assert_eq!(
        (gone.code.as_str(), gone.message.as_str()),
        ("scaled_down", "scaled down: its worker b was removed")
    );
    let found = stage.client.job(job).await;
    assert_eq!((found.state.as_str(), found.available, found.instances["main"]), ("running", Some(1), 1));
    workers.push(Robot::join(&stage, b).await);
    runs(&stage, job, &[("a", 1, "main.0"), ("b", 1, "main.1")]).await;
}

#[tokio::test]
async fn an_instance_does_not_fail_with_its_removed_worker() {
    let stage = Stage::set().await;
    let mut workers = robots(&stage, ["a", "b"]).await;
    workers.pop().unwrap().leave().await;
    eventually("it is away", async || {
        (stage.client.get("/workers/b").await.body["state"] == "offline").then_some(())
    })
    .await;
    let job = submit(&stage, &agent("one")).await;
    is(&stage, job, "main.1", "pending").await;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    sqlx::query("UPDATE workers SET removed_at = now() WHERE name = 'b'")
        .execute(&mut database)
        .await
        .unwrap();
    let fail = stage.running.control.store.tasks_for_removed_workers(10).await.unwrap();
    assert_eq!(fail, [], "what ends tasks of removed workers leaves it alone");
    stage.client.post("/workers/a/resume", &json!({})).await;
    is(&stage, job, "main.1", "cancelled").await;
}

#[tokio::test]
async fn a_system_job_without_a_worker_waits_for_one_and_can_be_stopped() {
    let stage = Stage::set().await;
    let made = stage.client.post("/jobs", &agent("one")).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.body["hints"][0]["detail"], "it runs nowhere yet: no worker has connected yet");
    let job = made.body["id"].as_i64().unwrap();
    let found = stage.client.job(job).await;
    assert_eq!((found.state.as_str(), found.available, found.instances["main"]), ("pending", Some(0), 0));
    assert_eq!(explained(&stage, job).await["message"], "main: no worker has connected yet");
    let small = stage
        .client
        .post("/jobs", &json!({"type": "system", "command": ["x"], "resources": {"cpu": 64}}))
        .await;
    let small = small.body["id"].as_i64().unwrap();
    let cookie = stage.sign_in(&stage.client).await;
    let there = stage.page(&format!("/jobs/{job}"), &cookie).await;
    assert_eq!(
        there.headers()["location"],
        format!("/projects/default/jobs/{job}?tab=tasks"),
        "there is no output to show"
    );
    let page = stage.page(&format!("/jobs/{job}?tab=tasks"), &cookie).await.text().await.unwrap();
    assert!(page.contains("No worker matches.") && page.contains("0 of 0 available"), "{page}");
    assert!(stage.page("/jobs", &cookie).await.text().await.unwrap().contains("no worker matches"));

    let worker = Robot::join(&stage, hello("w")).await;
    runs(&stage, job, &[("w", 1, "main.0")]).await;
    let too_small = "main: no worker matches: w has 2 cpu in total, 64 requested";
    assert_eq!(explained(&stage, small).await["message"], too_small);
    for stopped in [small, job] {
        assert!(stage.client.post(&format!("/jobs/{stopped}/stop"), &json!({})).await.status.is_success());
        assert_eq!(stage.client.finished(stopped).await.state, "cancelled");
    }
    assert_eq!(worker.most(), 1);
    let again = stage.client.post(&format!("/jobs/{job}/rerun"), &json!({"failed": true})).await;
    assert_eq!(again.status, 409, "{}", again.text);
    let again = stage.client.post(&format!("/jobs/{job}/rerun"), &json!({})).await;
    runs(&stage, again.body["id"].as_i64().unwrap(), &[("w", 1, "main.0")]).await;
}

#[tokio::test]
async fn instances_follow_the_workers_after_the_master_was_replaced() {
    let stage = Stage::set().await;
    let workers = robots(&stage, ["a", "b"]).await;
    let job = submit(&stage, &agent("one")).await;
    runs(&stage, job, &[("a", 1, "main.0"), ("b", 1, "main.1")]).await;
    let mut hellos = Vec::new();
    for worker in workers {
        hellos.push(worker.leave().await);
    }
    let stage = Stage::on(stage.strike().await).await;
    let mut workers = Vec::new();
    for hello in hellos {
        workers.push(Robot::join(&stage, hello).await);
    }
    workers.extend(robots(&stage, ["c"]).await);
    runs(&stage, job, &[("a", 1, "main.0"), ("b", 1, "main.1"), ("c", 1, "main.2")]).await;
    assert!(workers.iter().all(|worker| worker.most() <= 1));
}

#[tokio::test]
async fn what_does_not_go_with_a_system_job_is_refused_with_a_reason() {
    let stage = Stage::set().await;
    let _workers = robots(&stage, ["a"]).await;
    let job = apply(&stage, &agent("one")).await.id.0;
    settled(&stage, job, 1).await;
    for path in [format!("/jobs/{job}/scale"), "/services/agent/scale".to_owned()] {
        let refused = stage.client.post(&path, &json!({"count": 3})).await;
        assert_eq!(refused.status, 422, "{}", refused.text);
        assert_eq!(
            refused.body["detail"],
            "task main is of a job of `type: system`, which has one instance on every worker that matches: to have \
             fewer, change its constraints"
        );
    }
    let mut service = agent("one");
    service["type"] = json!("service");
    let refused = stage.client.post("/services/agent", &service).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    assert_eq!(
        refused.body["detail"],
        "the job is of `type: system`, and the new version of `type: service`: stop it and submit it again"
    );
    let mut counted = agent("one");
    counted["count"] = json!(2);
    let refused = stage.client.post("/jobs", &counted).await;
    let mistake = &refused.body["errors"][0];
    assert_eq!((refused.status.as_u16(), &mistake["pointer"]), (422, &json!("/count")));
    let cookie = stage.sign_in(&stage.client).await;
    let page = stage.page(&format!("/jobs/{job}"), &cookie).await.text().await.unwrap();
    assert!(page.contains("1 of 1 available") && !page.contains("<summary class=\"button\">Scale"), "{page}");
}

/// Workers that there are only in the database, and this many.
async fn add_workers(database: &mut PgConnection, prefix: &str, count: i32) {
    sqlx::query(
        "INSERT INTO workers (project_id, identity_sha256, name, datacenter, labels, cpu_millis, memory_bytes, disk_bytes, \
             drivers, features, arch, os, version, warnings, countables, place, boot_id, process, offline_since) \
         SELECT project_id, sha256(convert_to($1 || n, 'UTF8')), $1 || n, datacenter, labels, cpu_millis, memory_bytes, \
             disk_bytes, drivers, features, arch, os, version, warnings, countables, place, boot_id, gen_random_uuid(), now() FROM workers, generate_series(1, $2) n WHERE name = 'a'",
    )
    .bind(prefix)
    .bind(count)
    .execute(database)
    .await
    .unwrap();
}

#[tokio::test]
async fn ten_thousand_workers_have_one_instance_each_and_further_ones_are_added_together() {
    let stage = Stage::set().await;
    let _a = Robot::join(&stage, hello("a")).await;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    add_workers(&mut database, "w", 9_999).await;
    let job = submit(&stage, &agent("one")).await;
    add_workers(&mut database, "x", 1_200).await;
    // Its hello wakes who looks at all of them.
    let _b = Robot::join(&stage, hello("b")).await;
    let found = eventually("all have an instance", async || {
        let found = stage.client.job(job).await;
        (found.instances["main"] == 11_201).then_some(found)
    })
    .await;
    assert_eq!(found.task_counts.values().sum::<i64>(), 11_201);
    let (tasks, workers, highest): (i64, i64, i32) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT c.worker_id), max(t.index) FROM live_tasks t JOIN classes c ON c.id = t.class_id \
         WHERE t.job_id = $1",
    )
    .bind(job)
    .fetch_one(&mut database)
    .await
    .unwrap();
    assert_eq!((tasks, workers, highest), (11_201, 11_201, 11_200));
    let began = events(&stage, job, "job.scaled").await.len();
    assert!(began <= 4, "{began} steps");
}
