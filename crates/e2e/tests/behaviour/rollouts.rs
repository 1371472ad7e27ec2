//! Rolling updates: of services of each kind, and what happens while one is under way.

use std::path::PathBuf;

use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir, program};
use gaffer_protocol::rest::Job;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::updates::{apply, awaiting_promotion, kinds, quick, running, service, settled, versions};

/// Once an update was taken back, to the version before or by another one.
async fn at_version(dev: &Dev, job: i64, version: u32) -> Job {
    eventually(&format!("the service has version {version}"), async || {
        let found = dev.client.job(job).await;
        (found.version == version).then_some(found)
    })
    .await
}

/// Once its update has stopped; why.
async fn halted(dev: &Dev, job: i64) -> String {
    eventually("the update has stopped", async || {
        dev.client.job(job).await.updates.into_iter().find_map(|update| update.problem)
    })
    .await
}

async fn output(dev: &Dev, job: i64, task: &str) -> String {
    dev.client.get(&format!("/jobs/{job}/tasks/{task}/output")).await.text
}

/// How often the loop has looked at updates.
async fn looks(dev: &Dev) -> u64 {
    let system = dev.client.get("/system").await.body;
    let loops = system["loops"].as_array().unwrap().clone();
    loops.iter().find(|one| one["name"] == "updates").unwrap()["runs"].as_u64().unwrap()
}

/// The addresses of all tasks that the job ever had.
async fn addresses(dev: &Dev, job: i64) -> Vec<String> {
    dev.client.tasks(job).await.into_iter().map(|task| task.address).collect()
}

/// A service of several tasks that know the version.
fn several(version: &str, update: Value, tasks: &[Value]) -> Value {
    let task = |task: &Value| {
        let mut task = task.clone();
        task["env"] = json!({"VERSION": version});
        task["resources"] = json!({"cpu": 0.05});
        if task["when"].is_null() {
            task["restart"] = json!({"policy": "always", "delay": "0s"});
        }
        task
    };
    let tasks: Vec<Value> = tasks.iter().map(task).collect();
    json!({"name": "web", "type": "service", "update": update, "tasks": tasks})
}

#[tokio::test]
async fn instances_with_indices_and_items_of_their_own_keep_them_in_an_update() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let script = "echo $VERSION $GAFFER_TASK_INDEX $GAFFER_ITEM; exec sleep 1000";
    let of = |version: &str| {
        let tasks = [
            json!({"name": "shard", "script": script, "array": "5-7"}),
            json!({"name": "each", "script": script, "each": ["a", "b"]}),
        ];
        several(version, quick(), &tasks)
    };
    let job = apply(&dev, &of("one")).await.1.id.0;
    settled(&dev, job, 5).await;
    apply(&dev, &of("two")).await;
    let found = settled(&dev, job, 5).await;
    assert_eq!(found.version, 2, "it was not taken back");
    assert!(versions(&dev, job).await.iter().all(|(version, _)| *version == 2));
    let tasks = ["shard.5", "shard.6", "shard.7", "each.0", "each.1"];
    assert_eq!(addresses(&dev, job).await, tasks, "there were no others beside them");
    assert_eq!(output(&dev, job, "shard.6").await, "two 6\n");
    assert_eq!(output(&dev, job, "each.1").await, "two 1 b\n");

    // A definition that is new with a version has its own indices, too.
    let mut more = of("two");
    let mut added = more["tasks"][0].clone();
    (added["name"], added["array"]) = (json!("added"), json!("3-4"));
    more["tasks"].as_array_mut().unwrap().push(added);
    apply(&dev, &more).await;
    settled(&dev, job, 7).await;
    assert_eq!(output(&dev, job, "added.4").await, "two 4\n");
    assert_eq!(addresses(&dev, job).await[5..], ["added.3", "added.4"]);
}

#[tokio::test]
async fn what_waits_for_others_is_updated_without_instances_beside_it_and_without_a_limit() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let of = |version: &str| {
        let tasks = [
            json!({"name": "web", "script": "echo $VERSION; exec sleep 1000"}),
            json!({"name": "report", "script": "echo $VERSION", "depends_on": ["web"]}),
            json!({"name": "tidy", "script": "echo tidy $VERSION", "when": "always"}),
        ];
        several(version, json!({"healthy_for": "0s", "healthy_within": "3s"}), &tasks)
    };
    let job = apply(&dev, &of("one")).await.1.id.0;
    eventually("its first task runs", async || (running(&dev, job).await.len() == 1).then_some(())).await;
    // The others have waited for longer than a new instance may take.
    let other = dev.client.submit(json!({"script": "sleep 4", "resources": {"cpu": 0.05}})).await;
    dev.client.finished(other).await;
    apply(&dev, &of("two")).await;
    let updated = eventually("the update is done", async || {
        let found = dev.client.job(job).await;
        found.updates.is_empty().then_some(found)
    })
    .await;
    assert_eq!(updated.version, 2);
    assert_eq!(addresses(&dev, job).await, ["web", "report", "tidy"]);
    assert_eq!(versions(&dev, job).await, [(2, 2)]);
    dev.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    dev.client.finished(job).await;
    assert_eq!(output(&dev, job, "tidy").await, "tidy two\n");
}

#[tokio::test]
async fn an_old_instance_that_waits_for_its_next_attempt_gets_the_new_version_at_once() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let update = json!({"healthy_for": "0s", "healthy_within": "10s"});
    let mut broken = service("broken", 2, update.clone());
    broken["restart"] = json!({"policy": "always", "delay": "20m"});
    let job = apply(&dev, &broken).await.1.id.0;
    eventually("both wait for another attempt", async || {
        let tasks = dev.client.tasks(job).await;
        tasks.iter().all(|task| task.state == "pending" && task.attempt == 1).then_some(())
    })
    .await;
    apply(&dev, &service("two", 2, update)).await;
    let found = settled(&dev, job, 2).await;
    assert_eq!(found.version, 2);
    assert_eq!(versions(&dev, job).await, [(2, 2); 2]);
}

/// A service of which each instance is ready while there is a file.
fn checked(version: &str, count: u32, ready: &std::path::Path, update: Value) -> Value {
    let mut spec = service(version, count, update);
    spec["readiness"] =
        json!({"command": ["test", "-e", ready], "interval": "1s", "timeout": "30s", "failures": 1});
    spec
}

#[tokio::test]
async fn an_instance_that_was_available_may_be_away_for_longer_than_a_new_one_may_take() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let ready = dir.path().join("ready");
    std::fs::write(&ready, "").unwrap();
    let update = json!({"healthy_for": "0s", "healthy_within": "5s", "canary": 1, "auto_promote": false});
    let of = |version: &str| checked(version, 1, &ready, update.clone());
    let job = apply(&dev, &of("one")).await.1.id.0;
    settled(&dev, job, 1).await;
    assert_eq!(addresses(&dev, job).await, ["main"]);
    apply(&dev, &of("two")).await;
    eventually("the canary is ready", async || {
        (dev.client.job(job).await.available == Some(2)).then_some(())
    })
    .await;
    assert_eq!(addresses(&dev, job).await, ["main", "main.1"], "an instance keeps its name beside a canary");
    std::fs::remove_file(&ready).unwrap();
    eventually("none is ready", async || (dev.client.job(job).await.available == Some(0)).then_some(()))
        .await;
    let before = looks(&dev).await;
    eventually("that was looked at for longer", async || (looks(&dev).await > before + 12).then_some(()))
        .await;
    assert_eq!(dev.client.job(job).await.version, 2, "it was not taken back");
    std::fs::write(&ready, "").unwrap();
    let promoted = dev.client.post(&format!("/jobs/{job}/promote"), &json!({"version": 2})).await;
    assert_eq!(promoted.status, StatusCode::ACCEPTED, "{}", promoted.text);
    settled(&dev, job, 1).await;
    assert_eq!(versions(&dev, job).await, [(2, 2)]);
    assert_eq!(running(&dev, job).await[0].address, "main");
}

#[tokio::test]
async fn an_update_whose_instances_never_stay_available_fails_in_the_end() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let update = json!({"healthy_for": "5s", "healthy_within": "4s", "auto_revert": false});
    let job = apply(&dev, &service("one", 1, quick())).await.1.id.0;
    settled(&dev, job, 1).await;
    let mut restless = service("two", 1, update);
    // Passes once.
    let check = format!("mkdir {}/seen-$GAFFER_TASK_INDEX-$GAFFER_ATTEMPT", dir.path().display());
    restless["readiness"] =
        json!({"command": ["sh", "-c", check], "interval": "1s", "timeout": "30s", "failures": 1});
    apply(&dev, &restless).await;
    assert_eq!(halted(&dev, job).await, "the update of main to version 2 has made no progress for 13s");
    assert_eq!(kinds(&dev, job, "task.ready").await.len(), 1);
}

#[tokio::test]
async fn a_canary_that_fails_while_its_promotion_is_awaited_takes_the_version_back() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let job = awaiting_promotion(&dev).await;
    // Nothing is looked at while another job runs for three seconds.
    let before = looks(&dev).await;
    let other = dev.client.submit(json!({"script": "sleep 3", "resources": {"cpu": 0.05}})).await;
    dev.client.finished(other).await;
    let looked = looks(&dev).await - before;
    assert!(looked <= 3, "looked {looked} times at an update that waits for a user");
    let killed =
        dev.client.post(&format!("/jobs/{job}/tasks/main.2/signal"), &json!({"signal": "SIGKILL"})).await;
    assert!(killed.status.is_success(), "{}", killed.text);
    at_version(&dev, job, 3).await;
    settled(&dev, job, 2).await;
    assert!(versions(&dev, job).await.iter().all(|(version, _)| *version == 1));
}

#[tokio::test]
async fn only_the_update_that_was_looked_at_is_promoted_and_none_that_has_stopped() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let update = json!({"healthy_for": "0s", "canary": 1, "auto_promote": false, "auto_revert": false});
    let job = apply(&dev, &service("one", 1, update.clone())).await.1.id.0;
    settled(&dev, job, 1).await;
    apply(&dev, &service("two", 1, update.clone())).await;
    let promote = async |body: Value| dev.client.post(&format!("/jobs/{job}/promote"), &body).await;
    let refused = promote(json!({"version": 1})).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text.contains(&format!("the present version of job {job} is 2")), "{}", refused.text);
    assert_eq!(promote(json!({"version": 2})).await.status, StatusCode::ACCEPTED);
    settled(&dev, job, 1).await;
    apply(&dev, &service("broken", 1, update)).await;
    halted(&dev, job).await;
    assert_eq!(promote(json!({})).await.status, StatusCode::CONFLICT);
    assert_eq!(kinds(&dev, job, "job.promoted").await, ["version 2"]);
}

#[tokio::test]
async fn going_back_leaves_out_versions_that_were_taken_back() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let update = json!({"healthy_for": "2s"});
    let job = apply(&dev, &service("one", 1, quick())).await.1.id.0;
    settled(&dev, job, 1).await;
    apply(&dev, &service("broken", 1, update)).await;
    at_version(&dev, job, 3).await;
    settled(&dev, job, 1).await;
    let back = async || dev.client.post(&format!("/jobs/{job}/rollback"), &json!({})).await;
    let refused = back().await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.text.contains("no earlier version that was not taken back"), "{}", refused.text);
    apply(&dev, &service("four", 1, quick())).await;
    settled(&dev, job, 1).await;
    assert_eq!(back().await.status, StatusCode::ACCEPTED);
    let found = settled(&dev, job, 1).await;
    assert_eq!((found.version, &found.spec["tasks"][0]["env"]["VERSION"]), (5, &json!("one")));
    let listed = dev.client.get(&format!("/jobs/{job}/versions")).await.body;
    let back: Vec<Value> =
        listed["items"].as_array().unwrap().iter().map(|version| version["goes_back_to"].clone()).collect();
    assert_eq!(back, [json!(1), Value::Null, json!(1), Value::Null, Value::Null]);
}

#[tokio::test]
async fn a_version_that_cannot_be_taken_back_says_why_it_stays() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let of = |version: &str, names: &[&str]| {
        let script = "[ $VERSION != broken ] || exit 7; exec sleep 1000";
        let tasks: Vec<Value> = names.iter().map(|name| json!({"name": name, "script": script})).collect();
        several(version, json!({"healthy_for": "2s"}), &tasks)
    };
    let job = apply(&dev, &of("one", &["app"])).await.1.id.0;
    settled(&dev, job, 1).await;
    apply(&dev, &of("broken", &["app", "cache"])).await;
    let problem = halted(&dev, job).await;
    assert!(problem.contains("; it cannot be taken back: the new version has no task cache"), "{problem}");
    assert_eq!(kinds(&dev, job, "job.update_failed").await, [problem]);
}

#[tokio::test]
async fn an_update_is_accepted_once_and_only_after_the_version_that_its_user_has_seen() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let post = async |path: &str, key: &str, version: &str| {
        let request = dev.client.request(Method::POST, &format!("/services/web{path}"));
        let request = request.header("idempotency-key", key).json(&service(version, 1, quick()));
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        (status, serde_json::from_str::<Value>(&text).unwrap())
    };
    let (status, first) = post("", "first", "one").await;
    assert_eq!(status, StatusCode::CREATED);
    let job = first["id"].as_i64().unwrap();
    assert_eq!(post("", "second", "two").await.1["version"], 2);
    assert_eq!(post("", "third", "three").await.1["version"], 3);
    for (key, version) in [("first", "one"), ("second", "two")] {
        let (status, again) = post("", key, version).await;
        assert_eq!((status, again["id"].as_i64(), &again["version"]), (StatusCode::OK, Some(job), &json!(3)));
    }
    let (status, other) = post("", "second", "four").await;
    assert_eq!(
        (status, &other["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("idempotency_key_reused"))
    );
    let (status, refused) = post("?after=2", "fourth", "four").await;
    assert_eq!(status, StatusCode::CONFLICT, "{refused}");
    assert_eq!(post("?after=3", "fourth", "four").await.1["version"], 4, "a refused request claims no key");
    let late = dev.client.post(&format!("/jobs/{job}/rollback"), &json!({"to": 1, "after": 3})).await;
    assert_eq!(late.status, StatusCode::CONFLICT);
    let found = dev.client.get("/services/web").await.body;
    assert_eq!((&found["id"], &found["version"]), (&json!(job), &json!(4)));
}

#[tokio::test]
async fn requests_at_the_same_time_make_one_service() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let spec = service("one", 1, quick());
    let request = async || {
        let answer = dev.client.post("/services/web", &spec).await;
        (answer.status, answer.body["id"].as_i64().unwrap())
    };
    let (first, second, third) = tokio::join!(request(), request(), request());
    let made = [first, second, third];
    assert!(made.iter().all(|(_, job)| *job == first.1), "{made:?}");
    assert_eq!(made.iter().filter(|(status, _)| *status == StatusCode::CREATED).count(), 1, "{made:?}");
}

/// The server that tests run as a task.
fn http_answer() -> PathBuf {
    program().with_file_name("http-answer")
}

#[tokio::test]
async fn a_client_that_follows_the_addresses_of_a_service_finds_it_available_throughout_an_update() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let of = |version: &str| {
        json!({
            "name": "web", "type": "service", "count": 3, "ports": ["http"], "resources": {"cpu": 0.05},
            "env": {"VERSION": version}, "command": [http_answer(), dir.path()],
            "readiness": {"http": "/", "port": "http", "interval": "1s", "timeout": "30s"},
            "restart": {"policy": "always", "delay": "0s"}, "update": quick(),
        })
    };
    let answering = async || {
        let found = dev.client.get("/services/web/traefik").await.body;
        let servers = found["http"]["services"]["web"]["loadBalancer"]["servers"].as_array().cloned();
        let urls: Vec<String> =
            servers.unwrap_or_default().iter().map(|one| one["url"].as_str().unwrap().to_owned()).collect();
        let mut answering = 0;
        for url in &urls {
            answering +=
                usize::from(reqwest::get(url).await.is_ok_and(|answer| answer.status().is_success()));
        }
        answering
    };
    let job = apply(&dev, &of("one")).await.1.id.0;
    eventually("all answer", async || (answering().await == 3).then_some(())).await;
    settled(&dev, job, 3).await;
    apply(&dev, &of("two")).await;
    let mut fewest = usize::MAX;
    eventually("the update is done", async || {
        // One may be asked to stop after its address was read.
        fewest = fewest.min(answering().await);
        dev.client.job(job).await.updates.is_empty().then_some(())
    })
    .await;
    assert!(fewest >= 2, "only {fewest} answered");
    settled(&dev, job, 3).await;
    assert_eq!(versions(&dev, job).await, [(2, 2); 3]);
    assert_eq!(answering().await, 3);
}
