//! Updates of jobs of `type: system`.

use gaffer_e2e::eventually;
use gaffer_e2e::robot::{Robot, restarted};
use gaffer_e2e::stage::Stage;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::system_jobs::{agent, apply, events, explained, is, robots, running, settled, submit, task};

/// The version and the worker of the latest attempt of each running instance.
async fn versions(stage: &Stage, job: i64) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    for (worker, _, address) in running(stage, job).await {
        let task = stage.client.get(&format!("/jobs/{job}/tasks/{address}")).await.body;
        found.push((task["attempts"][0]["version"].as_u64().unwrap(), worker));
    }
    found
}

async fn all_have(stage: &Stage, job: i64, version: u64, workers: &[&str]) {
    let wanted: Vec<_> = workers.iter().map(|name| (version, (*name).to_owned())).collect();
    assert_eq!(versions(stage, job).await, wanted);
}

#[tokio::test]
async fn an_update_replaces_each_instance_on_its_worker_and_no_more_at_once_than_it_may() {
    let stage = Stage::set().await;
    let names = ["a", "b", "c", "d"];
    let workers = robots(&stage, names).await;
    let with = |version: &str, update: Value| {
        let mut spec = agent(version);
        spec["update"] = update;
        spec
    };
    let quick = || json!({"healthy_for": "100ms"});
    let job = apply(&stage, &with("one", quick())).await.id.0;
    settled(&stage, job, 4).await;
    assert_eq!(apply(&stage, &with("two", quick())).await.version, 2);
    eventually("the update is done", async || {
        let found = stage.client.job(job).await;
        let others = 4 - found.task_counts.get("running").copied().unwrap_or_default();
        assert!(others <= 1, "{:?}", found.task_counts);
        found.updates.is_empty().then_some(())
    })
    .await;
    settled(&stage, job, 4).await;
    all_have(&stage, job, 2, &names).await;

    // One that fails is taken back, and only one worker had it.
    let healthy = || json!({"healthy_for": "2s"});
    apply(&stage, &with("broken", healthy())).await;
    let back = eventually("it is taken back", async || {
        Some(stage.client.job(job).await).filter(|found| found.version == 4)
    })
    .await;
    assert_eq!(back.spec["tasks"][0]["env"]["VERSION"], "two");
    settled(&stage, job, 4).await;
    all_have(&stage, job, 2, &names).await;
    let told = events(&stage, job, "job.updated").await;
    assert!(
        told[2].starts_with("version 4: back to version 2, because an instance of version 3 "),
        "{told:?}"
    );

    // Canaries are the first workers.
    let canary = json!({"healthy_for": "100ms", "canary": 1, "auto_promote": false, "parallel": 3});
    apply(&stage, &with("three", canary)).await;
    let mixed = eventually("the canary runs", async || {
        Some(versions(&stage, job).await).filter(|of| of.len() == 4 && of[0].0 == 5)
    })
    .await;
    assert_eq!(mixed.iter().filter(|(version, _)| *version == 5).count(), 1, "{mixed:?}");
    assert!(stage.client.post(&format!("/jobs/{job}/promote"), &json!({})).await.status.is_success());
    settled(&stage, job, 4).await;
    all_have(&stage, job, 5, &names).await;
    let now = running(&stage, job).await;
    let places: Vec<&str> = now.iter().map(|(.., address)| address.as_str()).collect();
    assert_eq!(places, ["main.0", "main.1", "main.2", "main.3"], "each has kept its worker");
    assert!(workers.iter().all(|worker| worker.most() == 1), "never two on one worker");

    let rolled_back = stage.client.post(&format!("/jobs/{job}/rollback"), &json!({"to": 1})).await;
    assert!(rolled_back.status.is_success(), "{}", rolled_back.text);
    settled(&stage, job, 4).await;
    all_have(&stage, job, 1, &names).await;
}

#[tokio::test]
async fn an_update_does_not_wait_for_a_worker_that_is_away_and_leaves_one_alone_that_takes_nothing() {
    let stage = Stage::set().await;
    let mut workers = robots(&stage, ["a", "b", "c"]).await;
    let with = |version: &str| {
        let mut spec = agent(version);
        spec["update"] = json!({"healthy_for": "0s", "healthy_within": "1s"});
        spec
    };
    let job = apply(&stage, &with("one")).await.id.0;
    settled(&stage, job, 3).await;
    let c = workers.pop().unwrap().leave().await;
    is(&stage, job, "main.2", "pending").await;
    apply(&stage, &with("two")).await;
    settled(&stage, job, 2).await;
    all_have(&stage, job, 2, &["a", "b"]).await;
    // Its instance has the new version from its next attempt on.
    workers.push(Robot::join(&stage, restarted(c)).await);
    settled(&stage, job, 3).await;
    all_have(&stage, job, 2, &["a", "b", "c"]).await;

    stage.client.post("/workers/b/cordon", &json!({})).await;
    apply(&stage, &with("three")).await;
    eventually("the others are new", async || {
        let found = versions(&stage, job).await;
        (found.iter().filter(|(version, _)| *version == 3).count() == 2).then_some(())
    })
    .await;
    let found = stage.client.job(job).await;
    assert_eq!((found.available, found.updates.len()), (Some(3), 1), "what it could not have again stays");
    stage.client.post("/workers/b/resume", &json!({})).await;
    settled(&stage, job, 3).await;
    all_have(&stage, job, 3, &["a", "b", "c"]).await;
    assert!(workers.iter().all(|worker| worker.most() == 1));
}

#[tokio::test]
async fn a_worker_that_joins_during_an_update_or_comes_back_after_it_begins_with_the_new_version() {
    let stage = Stage::set().await;
    let mut workers = robots(&stage, ["a", "b"]).await;
    let canary = |version: &str| {
        let mut spec = agent(version);
        spec["update"] = json!({"healthy_for": "0s", "canary": 1, "auto_promote": false});
        spec
    };
    let job = apply(&stage, &canary("one")).await.id.0;
    settled(&stage, job, 2).await;
    stage.client.post("/workers/b/drain", &json!({})).await;
    is(&stage, job, "main.1", "cancelled").await;
    apply(&stage, &canary("two")).await;
    workers.extend(robots(&stage, ["c"]).await);
    is(&stage, job, "main.2", "running").await;
    stage.client.post("/workers/b/resume", &json!({})).await;
    is(&stage, job, "main.1", "running").await;
    stage.client.post(&format!("/jobs/{job}/promote"), &json!({})).await;
    settled(&stage, job, 3).await;
    all_have(&stage, job, 2, &["a", "b", "c"]).await;
    // Moved, lost and stopped ones keep the class of their worker, whichever version it is of.
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let places: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT w.name, c.worker_id, t.worker_id FROM live_tasks t JOIN classes c ON c.id = t.class_id \
         JOIN workers w ON w.id = t.worker_id JOIN task_definitions d ON d.job_id = t.job_id AND c.base_id = d.class_id \
         WHERE t.job_id = $1 ORDER BY w.name",
    )
    .bind(job)
    .fetch_all(&mut database)
    .await
    .unwrap();
    assert_eq!(places.len(), 3);
    assert!(places.iter().all(|(_, own, on)| own == on), "{places:?}");
    assert!(workers.iter().all(|worker| worker.most() == 1));
}

#[tokio::test]
async fn an_instance_that_ended_by_itself_stays_so_until_there_is_a_new_version() {
    let stage = Stage::set().await;
    let workers = robots(&stage, ["a", "b"]).await;
    let once = |version: &str, name: &str| {
        let mut spec = agent(version);
        (spec["name"], spec["restart"]) = (json!(name), json!("never"));
        spec
    };
    // All have ended: the job is over, as a service is.
    let job = submit(&stage, &once("ends", "once")).await;
    assert_eq!(stage.client.finished(job).await.state, "completed");

    let mut mixed = once("broken", "agent");
    mixed["tasks"] = json!([
        {"name": "bad", "command": ["x"], "constraints": ["name == a"], "restart": "never", "env": {"VERSION": "broken"}},
        {"name": "good", "command": ["x"], "restart": "never"},
    ]);
    for field in ["command", "env", "restart", "resources"] {
        mixed.as_object_mut().unwrap().remove(field);
    }
    let job = apply(&stage, &mixed).await.id.0;
    is(&stage, job, "bad.0", "failed").await;
    let told = explained(&stage, job).await["without_instance"][0]["workers"][0]["message"].clone();
    assert_eq!(told, "a has had an instance, which has ended and is not restarted");
    stage.client.post("/workers/a/cordon", &json!({})).await;
    stage.client.post("/workers/a/resume", &json!({})).await;
    assert_eq!(task(&stage, job, "bad.0").await.attempt, 1);
    mixed["tasks"][0]["env"]["VERSION"] = json!("two");
    apply(&stage, &mixed).await;
    let again = is(&stage, job, "bad.0", "running").await;
    assert_eq!((again.attempt, again.worker.as_deref()), (2, Some("a")));
    assert_eq!(stage.client.job(job).await.state, "running");
    drop(workers);
}
