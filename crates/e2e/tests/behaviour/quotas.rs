//! Weights and quotas of projects: who gets how much of a fleet.

use std::fs;

use futures::future::join_all;
use gaffer_domain::reason::AttemptEnd;
use gaffer_e2e::browser::{Browser, Scheme};
use gaffer_e2e::client::Client;
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use reqwest::Method;
use serde_json::{Value, json};

use super::pages::{look_at, sign_in};
use super::people::Person;
use super::tenants::neighbour;

/// Sets something for a project.
async fn set(client: &Client, project: &str, terms: &Value) -> Value {
    let request = client.request(Method::PATCH, &format!("/projects/{project}")).json(terms);
    let response = request.send().await.unwrap();
    let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

async fn reason(client: &Client, job: i64) -> String {
    client.get(&format!("/jobs/{job}/explain")).await.body["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn eight_submitters_at_once_never_exceed_the_quota_of_their_project() {
    const SUBMITTERS: usize = 8;
    const JOBS: usize = 6;
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    set(&dev.client, "default", &json!({"quota": {"cpu": 0.4, "tasks": 7}})).await;
    let record = dir.path().join("record");
    fs::write(&record, "").unwrap();
    fs::set_permissions(&record, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    // The tasks themselves say when they begin and end: each line is one write to the end of the file.
    let text = format!("echo begins >> {0}; sleep 0.2; echo ends >> {0}", record.display());
    let job = json!({"script": text, "resources": {"cpu": 0.1}, "array": "0-2"});
    let submitter = |_| async {
        let mut jobs = Vec::new();
        for _ in 0..JOBS {
            jobs.push(dev.client.submit(job.clone()).await);
        }
        jobs
    };
    let jobs = join_all((0..SUBMITTERS).map(submitter)).await.concat();
    for job in jobs {
        assert_eq!(dev.client.finished(job).await.state, "completed");
    }
    let (mut live, mut most, mut begun) = (0, 0, 0);
    for line in fs::read_to_string(&record).unwrap().lines() {
        match line {
            "begins" => (live, begun) = (live + 1, begun + 1),
            _ => live -= 1,
        }
        most = most.max(live);
    }
    assert_eq!((begun, live), (SUBMITTERS * JOBS * 3, 0));
    assert!(most <= 4, "{most} tasks of 0.1 processors each at once, with a quota of 0.4");
    assert!(most >= 2, "the quota was hardly used: {most} at once");
    let used = dev.client.get("/projects/default").await.body["quota"]["used"].clone();
    assert_eq!(used, json!({"cpu": 0.0, "memory_bytes": 0, "tasks": 0}));
}

#[tokio::test]
async fn what_exceeds_a_quota_waits_for_it_and_says_so() {
    let stage = Stage::set().await;
    let client = &stage.client;
    let project =
        set(client, "default", &json!({"quota": {"cpu": "1500m", "memory": "4GiB", "tasks": 9}})).await;
    assert_eq!(project["quota"]["cpu"], json!(1.5));
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let one = json!({"script": "true", "resources": {"cpu": 1, "memory": "1GiB"}});
    let first = client.submit(one.clone()).await;
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    client.in_state(first, "running").await;
    let second = client.submit(one.clone()).await;
    let expected = "quota of the project: cpu 1 of 1.5 in use, 1 requested";
    eventually("the reason is told", async || reason(client, second).await.contains(expected).then_some(()))
        .await;
    let queue = client.get("/queue").await;
    assert!(queue.text.contains(expected), "{}", queue.text);
    assert!(queue.text.contains("gaffer projects set NAME --cpu"), "{}", queue.text);
    let shown = client.get("/projects/default").await.body["quota"].clone();
    assert_eq!(
        shown,
        json!({"cpu": 1.5, "memory_bytes": 4_u64 << 30, "tasks": 9,
            "used": {"cpu": 1.0, "memory_bytes": 1 << 30, "tasks": 1}})
    );
    let cookie = stage.sign_in(client).await;
    let page = stage.page("/members", &cookie).await.text().await.unwrap();
    assert!(page.contains("1 of 1.5 in use") && page.contains("1GiB of 4GiB in use"), "{page}");

    // A smaller one goes past it.
    let small = client.submit(json!({"script": "true", "resources": {"cpu": 0.5}})).await;
    assert_eq!(worker.next_start().await.definition.job.0, small);
    // What has ended makes room.
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    assert_eq!(worker.next_start().await.definition.job.0, second);
    // A quota that is gone holds nothing up, and the scheduler looks at once.
    let third = client.submit(one).await;
    eventually("it waits", async || reason(client, third).await.contains("quota").then_some(())).await;
    let project = set(client, "default", &json!({"quota": {"cpu": null}})).await;
    assert_eq!((&project["quota"]["cpu"], &project["quota"]["tasks"]), (&Value::Null, &json!(9)));
    eventually("the reason is another one", async || {
        reason(client, third).await.contains("workers are busy").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_task_that_exceeds_a_quota_alone_is_refused_or_explained_if_the_quota_was_lowered() {
    let stage = Stage::set().await;
    let client = &stage.client;
    let large = json!({"tasks": [
        {"name": "small", "script": "true", "resources": {"cpu": 1}},
        {"name": "large", "script": "true", "resources": {"cpu": 4, "memory": "2GiB"}},
    ]});
    let before = client.submit(json!({"script": "true", "resources": {"cpu": 4}})).await;
    set(client, "default", &json!({"quota": {"cpu": 2}})).await;
    let refused = client.post("/jobs", &large).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    assert_eq!(
        refused.body["errors"],
        json!([{"pointer": "/tasks/1/resources/cpu",
            "detail": "quota of the project: cpu 2 in all, and one task requests 4"}]),
        "{}",
        refused.text
    );
    let service =
        json!({"name": "web", "type": "service", "script": "true", "resources": {"cpu": 1}, "count": 1});
    let applied = client.post("/services/web", &service).await;
    assert!(applied.status.is_success(), "{}", applied.text);
    let mut larger = service;
    larger["resources"]["cpu"] = json!(3);
    assert_eq!(client.post("/services/web", &larger).await.status, 422);
    eventually("the reason is told", async || {
        let why = client.get(&format!("/jobs/{before}/explain")).await.text;
        (why.contains("cpu 2 in all, and one task requests 4") && why.contains("reserve less")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn only_administrators_of_the_installation_set_weights_and_quotas() {
    let stage = Stage::set().await;
    let lead = Person::join(&stage, "lead", "default", "admin").await.key("default").await;
    let request = lead.request(Method::PATCH, "/projects/default").json(&json!({"weight": 900}));
    assert_eq!(request.send().await.unwrap().status(), 403);
    // Of projects, too, of which they are no member.
    let project = set(&stage.client, "lead", &json!({"weight": 300, "quota": {"tasks": 5}})).await;
    assert_eq!((&project["weight"], &project["quota"]["tasks"]), (&json!(300), &json!(5)));
    for wrong in [
        json!({"weight": 0}),
        json!({"weight": 1_001}),
        json!({"quota": {"cpu": 0}}),
        json!({"quota": {"memory": 0}}),
        json!({"quota": {"tasks": 0}}),
        json!({"quota": {"disk": 1}}),
    ] {
        let request = stage.client.request(Method::PATCH, "/projects/lead").json(&wrong);
        assert_eq!(request.send().await.unwrap().status(), 422, "{wrong}");
    }
    let again = stage.client.get("/projects/lead").await.body;
    assert_eq!((&again["weight"], &again["quota"]["tasks"]), (&json!(300), &json!(5)));
    let audit = stage.client.get("/audit?of=installation&limit=50").await.text
        + &stage.client.get("/audit?limit=50").await.text;
    assert!(audit.contains("set_terms"), "{audit}");
    assert_eq!(
        stage
            .client
            .request(Method::PATCH, "/projects/nowhere")
            .json(&json!({"weight": 1}))
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
}

#[tokio::test]
async fn pages_of_shared_workers_weights_and_quotas_fit_light_and_dark_wide_and_narrow() {
    let stage = Stage::set().await;
    let client = &stage.client;
    let Some(browser) = Browser::open(1280, 900, Scheme::Light).await else { return };
    let (eve, _) = neighbour(&stage).await;
    let pool = json!({"kind": "worker", "name": "pool", "shared": true});
    let key = client.post("/keys", &pool).await.body["key"].as_str().unwrap().to_owned();
    let mut worker = RawWorker::connect(&stage.worker_url(), &key, hello("pool")).await;
    set(client, "neighbour", &json!({"weight": 300, "quota": {"cpu": 1, "memory": "4GiB", "tasks": 9}}))
        .await;
    for _ in 0..2 {
        eve.submit(json!({"name": "build", "script": "true", "resources": {"cpu": 1, "memory": "1GiB"}}))
            .await;
    }
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    let url = sign_in(&browser, &eve).await;
    for (path, name) in
        [("/workers", "workers"), ("/workers/pool", "worker"), ("/queue", "queue"), ("/members", "limits")]
    {
        look_at(&browser, &format!("{url}{path}"), &format!("shared-{name}")).await;
    }
    assert!(browser.text().await.contains("1 of 1 in use"), "{}", browser.text().await);
    let url = sign_in(&browser, client).await;
    for (path, name) in [("/keys", "keys"), ("/projects", "projects"), ("/workers/pool", "own-worker")] {
        look_at(&browser, &format!("{url}{path}"), &format!("shared-{name}")).await;
    }
    browser.visit(&format!("{url}/projects")).await;
    browser.fill("form.terms input[name=weight]", "200").await;
    browser.fill("form.terms input[name=cpu]", "500m").await;
    browser.click("form.terms button").await;
    eventually("it is set", async || {
        let project = client.get("/projects/default").await.body;
        (project["weight"] == 200 && project["quota"]["cpu"] == 0.5).then_some(())
    })
    .await;
    browser.resize(1280, 900).await;
    browser.prefer(Scheme::Light).await;
    browser.visit(&format!("{url}/keys")).await;
    // The fields of a worker key are there once that is chosen.
    let visible = "getComputedStyle(document.querySelector('.shares')).display != 'none'";
    assert_eq!(browser.value(visible).await, json!(false));
    browser.value("document.querySelector('#kind').selectedIndex = 1").await;
    assert_eq!(browser.value(visible).await, json!(true));
    browser.screenshot("shared-new-key-light-1280").await;
    browser.close().await;
}
