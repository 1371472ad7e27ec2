//! What people do with an installation, and what happens to them: it meets nearly every statement of the store.

use gaffer_domain::reason::ReasonCode;
use gaffer_e2e::client::Client;
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir, kill_executor};
use nix::sys::signal::{Signal, kill};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use crate::texts::Visitor;

/// Number of pieces of output that are joined at the end of an attempt.
const MANY_CHUNKS: i64 = 10;

/// What people do with an installation, and what happens to them.
pub async fn everyday_life(dev: &Dev, round: u32, database_url: &str) {
    let client = &dev.client;
    people(client).await;
    let done =
        client.submit(json!({"script": "echo one; echo two", "count": 3, "labels": {"for": "plans"}})).await;
    client.finished(done).await;
    let restart = json!({"policy": "on-failure", "limit": 1, "delay": "10ms"});
    let failed = client.submit(json!({"script": "exit 3", "restart": restart})).await;
    client.finished(failed).await;
    client.get(&format!("/jobs/{failed}/output?attempt=1&follow=1")).await;
    let chain =
        json!([{"name": "a", "script": "true"}, {"name": "b", "script": "true", "depends_on": ["a"]}]);
    let chain = client.submit(json!({"tasks": chain})).await;
    client.finished(chain).await;
    let broken =
        json!([{"name": "a", "script": "exit 1"}, {"name": "b", "script": "true", "depends_on": ["a"]}]);
    client.finished(client.submit(json!({"tasks": broken})).await).await;
    let limited = json!([
        {"name": "a", "script": "exit 1"}, {"name": "b", "script": "sleep 1000"},
        {"name": "c", "script": "true", "when": "always"},
    ]);
    client.finished(client.submit(json!({"max_failures": 0, "tasks": limited})).await).await;
    let matching = json!([
        {"name": "a", "script": "exit $GAFFER_TASK_INDEX", "count": 3},
        {"name": "b", "script": "true", "depends_on": [{"task": "a", "on": "ended"}]},
        {"name": "c", "script": "true", "count": 3, "depends_on": ["b", {"task": "a", "index": "same"}]},
    ]);
    let matching = client.submit(json!({"tasks": matching})).await;
    client.finished(matching).await;
    let in_part = client.post(&format!("/jobs/{matching}/rerun"), &json!({"failed": true})).await;
    let in_part = in_part.body["id"].as_i64().unwrap();
    assert_eq!(client.finished(in_part).await.taken_over, 1);
    client.get(&format!("/jobs/{in_part}/tasks/a.0/output")).await;
    let apart = client.submit(json!({"script": "true", "distinct_workers": true})).await;
    client.finished(apart).await;
    let service = json!({
        "name": "web", "type": "service", "script": "sleep 1000", "ports": ["http"], "health": {"command": ["true"]},
        "resources": {"cpu": 0.1},
    });
    let long = client.submit(service).await;
    client.in_state(long, "running").await;
    let available = async |count| {
        eventually("it is healthy", async || {
            let found = client.job(long).await;
            (found.available == Some(count) && !found.task_counts.contains_key("stopping")).then_some(())
        })
        .await;
    };
    available(1).await;
    for count in [3, 1, 2] {
        client.post("/services/web/scale", &json!({"count": count})).await;
        available(count).await;
    }
    let updated = json!({
        "name": "web", "type": "service", "script": "sleep 1001", "ports": ["http"], "health": {"command": ["true"]},
        "count": 2, "update": {"healthy_for": "0s"}, "resources": {"cpu": 0.1},
    });
    let update =
        client.request(Method::POST, "/services/web").header("idempotency-key", format!("{round}-web"));
    assert!(update.json(&updated).send().await.unwrap().status().is_success());
    eventually("it is updated", async || client.job(long).await.updates.is_empty().then_some(())).await;
    assert!(client.post(&format!("/jobs/{long}/rollback"), &json!({})).await.status.is_success());
    client.post(&format!("/jobs/{long}/promote"), &json!({})).await;
    eventually("it is taken back", async || client.job(long).await.updates.is_empty().then_some(())).await;
    client.get(&format!("/jobs/{long}/versions")).await;
    look(client, done).await;
    let many = json!({"script": "true", "count": 201, "constraints": ["name == nobody"]});
    let many = client.submit(many).await;
    let visitor = Visitor::of(dev).await;
    for path in [
        format!("/jobs/{done}?tab=timeline"),
        format!("/jobs/{many}?tab=timeline"),
        format!("/jobs/{many}?tab=graph"),
    ] {
        assert!(visitor.page(&path).await.contains("data-f=\"picture\""), "{path}");
    }
    client.post(&format!("/jobs/{many}/stop"), &json!({})).await;
    client.post(&format!("/jobs/{long}/stop"), &json!({})).await;
    client.finished(long).await;
    let again = client.post(&format!("/jobs/{failed}/rerun"), &json!({})).await;
    client.finished(again.body["id"].as_i64().unwrap()).await;
    client.delete(&format!("/jobs/{chain}")).await;
    read_moved_output(client, database_url).await;
    for verb in ["pin", "unpin"] {
        assert!(client.post(&format!("/jobs/{failed}/{verb}"), &json!({})).await.status.is_success());
    }
    let key = client.post("/keys", &json!({"kind": "user", "name": format!("round {round}")})).await;
    let rotate = format!("/keys/{}/rotate", key.body["id"]);
    assert!(client.post(&rotate, &json!({"overlap": "1h"})).await.status.is_success());
    assert!(client.delete(&format!("/keys/{}", key.body["id"])).await.status.is_success());
    for path in ["/audit", "/audit?user=admin&action=stop_job&outcome=done", "/audit/lines"] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
    templates_are_used(client, round).await;
    secrets_are_used(client).await;
    workers_come_and_go(dev, round, database_url).await;
    // Keys are checked every half minute, the first time perhaps before a worker was there.
    eventually("the keys of workers are checked", async || {
        let system = client.get("/system").await.body;
        let loops = system["loops"].as_array()?;
        let check = loops.iter().find(|one| one["name"] == "key_check")?;
        (check["runs"].as_u64()? >= 2).then_some(())
    })
    .await;
}

/// A template is saved, used and deleted.
async fn templates_are_used(client: &Client, round: u32) {
    let template = json!({"command": ["echo", "{{ x }}"], "parameters": {"x": {"default": round}}});
    let saved = client.post("/templates/plans", &template).await;
    assert!(saved.status.is_success(), "{}", saved.text);
    let made = client.post("/jobs", &json!({"template": "plans", "parameters": {"x": "y"}})).await;
    let job = made.body["id"].as_i64().unwrap();
    client.finished(job).await;
    for path in
        ["/templates", "/templates/plans", "/templates/plans/versions", &format!("/jobs/{job}/source")]
    {
        assert!(client.get(path).await.status.is_success(), "{path}");
    }
    assert!(client.delete("/templates/plans").await.status.is_success());
}

/// Secrets are set, listed, used by a task and deleted.
async fn secrets_are_used(client: &Client) {
    for name in ["PLANS", "PLANS_2"] {
        let request = client.request(Method::PUT, &format!("/secrets/{name}"));
        let set = request.json(&json!({"value": "of the plans"})).send().await.unwrap();
        assert!(set.status().is_success(), "{set:?}");
    }
    let job = client.submit(json!({"script": "true", "secrets": ["PLANS", "PLANS_2"]})).await;
    client.finished(job).await;
    assert!(client.get("/secrets").await.status.is_success());
    assert!(client.delete("/secrets/PLANS_2").await.status.is_success());
}

/// Reads output that has moved to object storage.
async fn read_moved_output(client: &Client, database_url: &str) {
    let mut database = PgConnection::connect(database_url).await.unwrap();
    // Those that were finished last are moved last, and expire last.
    let moved = "SELECT t.job_id FROM output_objects o JOIN finished_tasks t ON t.id = o.task_id \
                 JOIN jobs j ON j.id = t.job_id WHERE j.output_moved ORDER BY j.finished_at DESC LIMIT 1";
    let job = eventually("some output has moved", async || {
        sqlx::query_scalar::<_, i64>(moved).fetch_optional(&mut database).await.unwrap()
    })
    .await;
    for query in ["", "?lines=2-2", "?tail=1", "?q=done"] {
        let answer = client.get(&format!("/jobs/{job}/output{query}")).await;
        assert!(answer.status.is_success(), "{query}: {} {}", answer.status, answer.text);
    }
}

/// A service moves when its worker is drained; another worker is killed, and the sweeper takes from it what it had.
async fn workers_come_and_go(dev: &Dev, round: u32, database_url: &str) {
    let client = &dev.client;
    let dirs = [data_dir(), data_dir()];
    let (leaving, dying_name) = (format!("leaving-{round}"), format!("dying-{round}"));
    let labels = format!("for=moves-{round}");
    let moving = [("GAFFER_WORKER_LABELS", labels.as_str())];
    let _leaving = dev.add_worker_with(&leaving, dirs[0].path(), &moving).await;
    let placement = json!({"on_drain": "move"});
    let batch = json!({"script": "while echo x; do sleep 0.2; done", "constraints": [format!("labels.for == moves-{round}")], "placement": placement});
    let batch = client.submit(batch).await;
    client.in_state(batch, "running").await;
    // On each of these two, also on the one that comes now.
    let system = |script: &str| {
        json!({
            "name": format!("agent-{round}"), "type": "system", "script": script, "resources": {"cpu": 0.05},
            "constraints": [format!("labels.for == moves-{round}")], "update": {"healthy_for": "0s"},
        })
    };
    let agent = client.submit(system("exec sleep 1000")).await;
    let available = async |count| {
        eventually("its instances are available", async || {
            let found = client.job(agent).await;
            (found.available == Some(count) && found.updates.is_empty()).then_some(())
        })
        .await;
    };
    available(1).await;
    let dying = dev.add_worker_with(&dying_name, dirs[1].path(), &moving).await;
    available(2).await;
    assert!(client.post(&format!("/workers/{leaving}/drain"), &json!({})).await.status.is_success());
    eventually("the worker is drained", async || {
        client.get(&format!("/workers/{leaving}")).await.body["draining"]["drained_at"]
            .is_string()
            .then_some(())
    })
    .await;
    // Its new worker loses the connection and comes back with it.
    client.in_state(batch, "running").await;
    let mut database = PgConnection::connect(database_url).await.unwrap();
    let mut chunks = async || {
        let count = "SELECT count(*) FROM output_chunks o JOIN tasks t ON t.id = o.task_id AND t.attempt = o.attempt \
                     WHERE t.job_id = $1";
        sqlx::query_scalar::<_, i64>(count).bind(batch).fetch_one(&mut database).await.unwrap()
    };
    let process = dying.agent().unwrap();
    kill(process, Signal::SIGKILL).unwrap();
    eventually("another agent speaks for the worker", async || dying.agent().filter(|new| *new != process))
        .await;
    let before = chunks().await;
    eventually("its output is in many pieces", async || {
        (chunks().await > before + MANY_CHUNKS).then_some(())
    })
    .await;
    client.post(&format!("/jobs/{batch}/stop"), &json!({})).await;
    client.finished(batch).await;
    eventually("these are joined", async || (chunks().await < before + MANY_CHUNKS).then_some(())).await;
    available(1).await;
    assert!(client.get(&format!("/jobs/{agent}/explain")).await.text.contains("on 1 of "));
    client.post(&format!("/workers/{leaving}/resume"), &json!({})).await;
    available(2).await;
    let updated = client.post(&format!("/services/agent-{round}"), &system("exec sleep 1001")).await;
    assert!(updated.status.is_success(), "{}", updated.text);
    available(2).await;
    client.post(&format!("/jobs/{agent}/stop"), &json!({})).await;
    client.finished(agent).await;

    // Workers of an earlier round are still waited for.
    let own = [format!("labels.for == moves-{round}")];
    let each = json!({"script": "true", "each": "worker", "array": "%2", "constraints": own});
    let each = client.submit(each).await;
    client.finished(each).await;
    let each =
        client.post(&format!("/jobs/{each}/rerun"), &json!({"from": "main"})).await.body["id"].as_i64();
    client.finished(each.unwrap()).await;
    let waits = json!({"tasks": [
        {"name": "a", "script": "true"},
        {"name": "b", "script": "true", "each": "worker", "constraints": [format!("name == {leaving}")], "depends_on": ["a"]},
    ]});
    let waits = client.submit(waits).await;
    client.finished(waits).await;

    let lost = json!({"script": "sleep 1000", "constraints": [format!("name == {dying_name}")], "lost_after": "10s",
        "restart": {"policy": "never", "on_lost": "fail"}});
    let lost = client.submit(lost).await;
    client.in_state(lost, "running").await;
    kill_executor(dirs[1].path()).await;
    dying.end(Signal::SIGKILL).await;
    eventually("the worker is away", async || {
        let state = client.get(&format!("/workers/{dying_name}")).await.body["state"].clone();
        (state == "offline").then_some(())
    })
    .await;
    let waits = json!({"script": "true", "each": "worker", "constraints": [format!("name == {dying_name}")]});
    let waits = client.submit(waits).await;
    assert!(client.get(&format!("/jobs/{waits}/tasks")).await.text.contains(&dying_name));
    for path in [format!("/jobs/{waits}/explain"), "/queue".to_owned()] {
        assert!(client.get(&path).await.text.contains("waits for its worker"), "{path}");
    }
    assert_eq!(client.finished(lost).await.reason.map(|reason| reason.code), Some(ReasonCode::LostWorker));
    eventually("the lost worker is removed", async || {
        client.delete(&format!("/workers/{dying_name}")).await.status.is_success().then_some(())
    })
    .await;
    assert_eq!(client.finished(waits).await.state, "failed");
}

/// Users, projects and members come and go.
async fn people(client: &Client) {
    let no = json!({});
    for (path, body) in [
        ("/projects", json!({"name": "lab"})),
        ("/users", json!({"name": "ana"})),
        ("/projects/lab/members/ana", json!({"role": "operator"})),
        ("/projects/lab/rename", json!({"name": "bench"})),
        ("/users/ana/login-link", no.clone()),
        ("/users/ana/reset-password", no.clone()),
        ("/invitations", json!({"role": "viewer", "project": "bench"})),
        ("/invitations", json!({"role": "viewer"})),
        ("/users/ana/disable", no.clone()),
        ("/users/ana/enable", no.clone()),
        ("/users/ana/grant-admin", no.clone()),
        ("/users/ana/revoke-admin", no),
    ] {
        let answer = client.post(path, &body).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text);
    }
    let terms = json!({"weight": 300, "quota": {"cpu": 8, "memory": "16GiB", "tasks": 50}});
    let set = client.request(Method::PATCH, "/projects/bench").json(&terms).send().await.unwrap();
    assert_eq!(set.status(), 200);
    let shared = json!({"kind": "worker", "name": "pool", "shared": true, "shared_with": ["bench"]});
    let key = client.post("/keys", &shared).await;
    assert!(client.delete(&format!("/keys/{}", key.body["id"])).await.status.is_success(), "{}", key.text);
    for path in
        ["/projects", "/projects/bench", "/projects/bench/members", "/users", "/invitations", "/sessions"]
    {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
    let invited = client.get("/invitations").await.body["items"][0]["id"].clone();
    assert_eq!(client.delete(&format!("/invitations/{invited}")).await.status, 204);
    for path in ["/projects/bench/members/ana", "/projects/bench", "/users/ana"] {
        assert_eq!(client.delete(path).await.status, 204, "{path}");
    }
}

/// Every list and every view, as their readers ask for them.
async fn look(client: &Client, job: i64) {
    let paths = [
        "/jobs".to_owned(),
        "/jobs?spec=1".to_owned(),
        "/jobs?state=failed".to_owned(),
        "/jobs?state=cancelled".to_owned(),
        "/jobs?state=running".to_owned(),
        "/jobs?name=nobody".to_owned(),
        "/jobs?label=for%3Dplans".to_owned(),
        "/jobs?driver=docker".to_owned(),
        "/jobs?worker=1".to_owned(),
        "/jobs?worker=1&label=for%3Dplans".to_owned(),
        "/jobs?worker=1&name=nobody".to_owned(),
        format!("/jobs/{job}"),
        format!("/jobs/{job}/tasks"),
        format!("/jobs/{job}/tasks?state=failed"),
        format!("/jobs/{job}/events"),
        format!("/jobs/{job}/output"),
        format!("/jobs/{job}/tasks/main.0"),
        format!("/jobs/{job}/tasks/main.0/output?lines=1-2"),
        format!("/jobs/{job}/output?q=two"),
        format!("/jobs/{job}/explain"),
        format!("/jobs/{job}/ports"),
        "/events".to_owned(),
        "/events?after=0".to_owned(),
        "/workers".to_owned(),
        "/keys".to_owned(),
        "/queue".to_owned(),
        "/system".to_owned(),
        "/metrics".to_owned(),
        "/trace?since=1h".to_owned(),
        "/dead-letters".to_owned(),
        "/services/web/ports".to_owned(),
    ];
    let mut refused = Vec::new();
    for path in paths {
        let answer = client.get(&path).await;
        if !answer.status.is_success() {
            refused.push(format!("{path}: {} {}", answer.status, answer.text));
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
}
