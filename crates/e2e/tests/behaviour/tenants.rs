//! The wall between tenants: what one project has, another one neither sees nor touches.

use gaffer_domain::ProjectId;
use gaffer_domain::worker::HeldPhase;
use gaffer_e2e::client::{Client, script};
use gaffer_e2e::eventually;
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::{Stage, key_in};
use gaffer_master::secret::Purpose;
use gaffer_protocol::output::Stream;
use gaffer_protocol::wire::{HeldAttempt, ToWorker};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

/// A second project: a client with the key of its user, and a key for its workers.
pub async fn neighbour(stage: &Stage) -> (Client, String) {
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let sql = "INSERT INTO projects (name) VALUES ('neighbour') RETURNING id";
    let project = ProjectId(sqlx::query_scalar(sql).fetch_one(&mut database).await.unwrap());
    let master = &stage.running.control;
    let user_key = key_in(master, project, "eve", Purpose::UserKey).await;
    (stage.client.with_key(&user_key), key_in(master, project, "eve", Purpose::WorkerKey).await)
}

/// Sets a report aside, as if the database had refused it.
pub async fn dead_letter(stage: &Stage, job: i64) -> i64 {
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let sql = "INSERT INTO dead_letters (kind, project_id, job_id, task_id, attempt, body, reason) \
               SELECT 'report', j.project_id, j.id, t.id, 1, '', 'refused' \
               FROM jobs j JOIN tasks t ON t.job_id = j.id WHERE j.id = $1 RETURNING id";
    sqlx::query_scalar(sql).bind(job).fetch_one(&mut database).await.unwrap()
}

#[tokio::test]
async fn what_one_project_has_is_not_there_for_another_on_any_route() {
    let stage = Stage::set().await;
    let (eve, _) = neighbour(&stage).await;
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let id = worker.welcome.worker;
    let job = stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    worker.output(attempt, 0, Stream::Stdout, b"mine\n").await;
    stage.client.in_state(job, "running").await;
    let key = stage.client.get("/keys").await.body["items"][0]["id"].as_i64().unwrap();

    let mut paths = vec!["/workers/w".to_owned(), format!("/workers/{id}"), "/workers/w/samples".to_owned()];
    for path in [
        "",
        "/explain",
        "/events",
        "/output",
        "/output?q=m",
        "/ports",
        "/versions",
        "/source",
        "/tasks",
        "/tasks/main",
        "/tasks/main/output",
        "/tasks/main/output?q=m",
    ] {
        paths.push(format!("/jobs/{job}{path}"));
    }
    for path in paths {
        assert_eq!(stage.client.get(&path).await.status, 200, "{path}");
        let answer = eve.get(&path).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text);
    }
    let mut paths = ["drain", "cordon", "resume"].map(|verb| format!("/workers/{id}/{verb}")).to_vec();
    let of_job = [
        "stop",
        "scale",
        "rollback",
        "promote",
        "rerun",
        "pin",
        "unpin",
        "tasks/main/signal",
        "tasks/main/stdin",
    ];
    for path in of_job {
        paths.push(format!("/jobs/{job}/{path}"));
    }
    for path in paths {
        let as_it_was = stage.client.get(&format!("/jobs/{job}")).await.body;
        let answer = eve.post(&path, &json!({"signal": "SIGINT"})).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text);
        let as_it_is = stage.client.get(&format!("/jobs/{job}")).await.body;
        for field in ["state", "pinned"] {
            assert_eq!(as_it_is[field], as_it_was[field], "{path}");
        }
    }
    let letter = dead_letter(&stage, job).await;
    assert_eq!(eve.post(&format!("/dead-letters/{letter}/retry"), &json!({})).await.status, 404);
    assert_eq!(eve.get("/system").await.body["has_dead_letters"], false);
    for path in [
        format!("/jobs/{job}"),
        format!("/keys/{key}"),
        format!("/workers/{id}"),
        format!("/dead-letters/{letter}"),
    ] {
        assert_eq!(eve.delete(&path).await.status, 404, "{path}");
    }
    for path in ["/jobs", "/workers", "/events", "/dead-letters", &format!("/dead-letters?job={job}")] {
        let listed = eve.get(path).await;
        assert_eq!(listed.body["items"], json!([]), "{path}: {}", listed.text);
    }
    let waiting = stage.client.submit(json!({"script": "true", "resources": {"cpu": 99}})).await;
    assert_eq!(stage.client.get("/queue").await.body["classes"][0]["job"], waiting);
    assert_eq!(eve.get("/queue").await.body["waiting"], 0);
    assert_eq!(eve.get("/trace").await.text.lines().count(), 1, "a header alone");
    let keys = eve.get("/keys").await;
    assert!(keys.body["items"].as_array().unwrap().iter().all(|listed| listed["id"] != key), "{}", keys.text);

    let (cookie, eves) = (stage.sign_in(&stage.client).await, stage.sign_in(&eve).await);
    let mut paths = vec![format!("/workers/{id}")];
    for path in ["", "/live", "/lines?task=main", "/tasks/main"] {
        paths.push(format!("/jobs/{job}{path}"));
    }
    for path in paths {
        assert_eq!(stage.page(&path, &cookie).await.status(), 200, "{path}");
        assert_eq!(stage.page(&path, &eves).await.status(), 404, "{path}");
    }

    // And nothing of it did anything.
    assert_eq!(stage.client.get("/dead-letters").await.body["items"][0]["id"], letter);
    worker.heartbeat(1, vec![HeldAttempt { attempt, phase: HeldPhase::Running }]).await;
    assert_eq!(stage.client.job(job).await.state, "running");
    assert_eq!(stage.client.get("/workers/w").await.body["state"], "online");
    assert_eq!(stage.client.get("/keys").await.body["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_worker_runs_the_tasks_of_its_own_project_only() {
    let stage = Stage::set().await;
    let (eve, eves_worker_key) = neighbour(&stage).await;
    // The first one in the queue is not hers.
    let job = stage.client.submit(script("true")).await;
    let eves_job = eve.submit(script("true")).await;
    let mut eves = RawWorker::connect(&stage.worker_url(), &eves_worker_key, hello("w")).await;
    assert_eq!(eves.next_start().await.definition.job.0, eves_job);
    let said = hello("w");
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said.clone()).await;
    assert_eq!(worker.next_start().await.definition.job.0, job);

    let pose = async || {
        RawWorker::try_connect(&stage.worker_url(), &eves_worker_key, said.clone()).await.err().unwrap()
    };
    let posing = pose().await;
    assert!(matches!(posing, Some(ToWorker::Goodbye { .. })), "{posing:?}");
    worker.heartbeat(1, Vec::new()).await;
    // Nor while the worker that it poses as is away.
    drop(worker);
    eventually("the worker is away", async || {
        (stage.client.get("/workers/w").await.body["state"] == "offline").then_some(())
    })
    .await;
    let posing = pose().await;
    assert!(matches!(posing, Some(ToWorker::Goodbye { .. })), "{posing:?}");
}

#[tokio::test]
async fn how_the_scheduler_does_is_told_to_the_operator_alone() {
    let stage = Stage::set().await;
    let (eve, _) = neighbour(&stage).await;
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    stage.client.submit(script("true")).await;
    worker.next_start().await;
    eventually("a pass is counted", async || {
        let passes = stage.client.get("/queue").await.body["passes"]["count"].as_u64()?;
        (passes > 0).then_some(())
    })
    .await;
    assert_eq!(eve.get("/queue").await.body["passes"], json!({"count": 0, "recent": []}));
}
