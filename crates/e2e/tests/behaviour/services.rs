//! Services: at how many instances they are kept.

use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_protocol::rest::{Job, Task};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::texts::Visitor;

/// A service whose instances say when they come and go.
fn service(count: u32) -> Value {
    json!({
        "name": "web", "type": "service", "count": count, "resources": {"cpu": 0.05},
        "script": "trap 'echo bye; exit 0' TERM; echo up $GAFFER_TASK_INDEX $GAFFER_ATTEMPT; while :; do sleep 0.05; done",
        "restart": {"policy": "always", "delay": "0s"}, "lost_after": "10s",
    })
}

/// Once so many instances are kept, so many are available, and none is on its way.
async fn settled(dev: &Dev, job: i64, count: u64) -> Job {
    eventually(&format!("{count} instances are available"), async || {
        let found = dev.client.job(job).await;
        let is_settled = found.available == Some(count) && found.tasks_in_all() == count as i64;
        let on_their_way = ["pending", "scheduled", "stopping"];
        let is_quiet = on_their_way.iter().all(|state| !found.task_counts.contains_key(*state));
        (is_settled && is_quiet).then_some(found)
    })
    .await
}

async fn scale(dev: &Dev, what: &str, count: u32) -> StatusCode {
    dev.client.post(&format!("{what}/scale"), &json!({"count": count})).await.status
}

async fn task(dev: &Dev, job: i64, address: &str) -> Task {
    let task = dev.client.get(&format!("/jobs/{job}/tasks/{address}")).await;
    assert_eq!(task.status, StatusCode::OK, "{address}: {}", task.text);
    serde_json::from_value(task.body).unwrap()
}

async fn output(dev: &Dev, job: i64, task: &str) -> String {
    dev.client.get(&format!("/jobs/{job}/tasks/{task}/output")).await.text
}

#[tokio::test]
async fn a_service_is_scaled_up_and_down_and_its_count_outlives_the_master() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let job = dev.client.submit(service(1)).await;
    settled(&dev, job, 1).await;
    let output_of = async |args: &[&str]| {
        let output = dev.cli(args).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(output_of(&["scale", "web=4"]).await, format!("{job}\n"));
    let scaled = settled(&dev, job, 4).await;
    assert_eq!(scaled.instances, [("main".to_owned(), 4)].into());
    assert_eq!(scaled.spec["tasks"][0]["count"], 1, "the specification is as it was submitted");
    assert!(output_of(&["jobs"]).await.contains("4 of 4 available"));

    // Those with the highest indices go, with their stop signal; what stays does not notice.
    assert_eq!(scale(&dev, "/services/web", 2).await, StatusCode::ACCEPTED);
    settled(&dev, job, 2).await;
    assert!(output_of(&["job", &job.to_string()]).await.contains("2 of 2 available: 2 cancelled, 2 running"));
    for (address, up) in [("main.2", "up 2 1\n"), ("main.3", "up 3 1\n")] {
        let gone = task(&dev, job, address).await;
        let reason = gone.reason.unwrap();
        assert_eq!((gone.state.as_str(), reason.code.as_str()), ("cancelled", "scaled_down"));
        assert!(reason.message.starts_with("scaled down to 2 by "), "{reason:?}");
        // Its shell may tell of the sleep that was ended with it.
        let output = output(&dev, job, address).await;
        assert!(output.starts_with(up) && output.ends_with("bye\n"), "{output}");
    }
    for address in ["main.0", "main.1"] {
        let kept = task(&dev, job, address).await;
        assert_eq!((kept.state.as_str(), kept.attempt), ("running", 1));
    }

    // One that ends is replaced, and no more than are kept.
    dev.kill().await;
    let dev = Dev::start(dir.path()).await;
    settled(&dev, job, 2).await;
    assert_eq!(scale(&dev, &format!("/jobs/{job}"), 3).await, StatusCode::ACCEPTED);
    settled(&dev, job, 3).await;
    let again = task(&dev, job, "main.2").await;
    assert_eq!((again.state.as_str(), again.attempt), ("running", 2));
    eventually("its further attempt has its output alone", async || {
        (output(&dev, job, "main.2").await == "up 2 2\n").then_some(())
    })
    .await;
    let first = dev.client.get(&format!("/jobs/{job}/tasks/main.2/output?attempt=1")).await.text;
    assert!(first.starts_with("up 2 1\n") && first.ends_with("bye\n"), "{first}");

    // Without an instance it is kept all the same.
    assert_eq!(scale(&dev, "/services/web", 0).await, StatusCode::ACCEPTED);
    let idle = settled(&dev, job, 0).await;
    assert_eq!(idle.state, "running");
    assert_eq!(scale(&dev, "/services/web", 1).await, StatusCode::ACCEPTED);
    settled(&dev, job, 1).await;
    scale(&dev, "/services/web", 0).await;
    settled(&dev, job, 0).await;
    dev.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    assert_eq!(dev.client.finished(job).await.state, "cancelled");
    let events = dev.client.get(&format!("/jobs/{job}/events?limit=500")).await.body;
    let events = events["items"].as_array().unwrap().clone();
    let told = events.iter().rev().filter(|event| event["kind"] == "job.scaled");
    let told: Vec<&str> = told.map(|event| event["message"].as_str().unwrap()).collect();
    assert_eq!(
        told,
        ["main: 1 → 4", "main: 4 → 2", "main: 2 → 3", "main: 3 → 0", "main: 0 → 1", "main: 1 → 0"]
    );
    assert_eq!(scale(&dev, &format!("/jobs/{job}"), 2).await, StatusCode::CONFLICT);
    assert_eq!(scale(&dev, "/services/web", 2).await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn scaling_up_and_down_at_once_ends_with_what_was_asked_for_last() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let job = dev.client.submit(service(2)).await;
    for count in [9, 1, 7, 0, 5, 2, 6, 3] {
        assert_eq!(scale(&dev, "/services/web", count).await, StatusCode::ACCEPTED);
    }
    settled(&dev, job, 3).await;
    let tasks = dev.client.tasks(job).await;
    let running: Vec<u32> =
        tasks.iter().filter(|task| task.state == "running").map(|task| task.index).collect();
    assert_eq!(running, [0, 1, 2]);
    assert_eq!(tasks.len(), 9);
}

#[tokio::test]
async fn what_cannot_be_scaled_says_why_at_every_door() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let batch = dev.client.submit(json!({"script": "true"})).await;
    let answer = dev.client.post(&format!("/jobs/{batch}/scale"), &json!({"count": 2})).await;
    assert!(matches!(answer.status.as_u16(), 409 | 422), "{}", answer.text);
    let tasks = json!([
        {"name": "app", "script": "sleep 1000"},
        {"name": "proxy", "script": "sleep 1000"},
    ]);
    let job = dev.client.submit(json!({"name": "web", "type": "service", "tasks": tasks})).await;
    let answer = dev.client.post(&format!("/jobs/{job}/scale"), &json!({"count": 2})).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.text);
    assert!(answer.text.contains("several tasks, app, proxy"), "{}", answer.text);
    let many = json!({"task": "app", "count": 100_000});
    let answer = dev.client.post(&format!("/jobs/{job}/scale"), &many).await;
    assert!(answer.text.contains("100,001") || answer.text.contains("100001"), "{}", answer.text);
    let refused = dev.cli(&["scale", "web/db=2"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("the service has no task db; it has app, proxy"), "{said}");
    assert_eq!(dev.cli(&["scale", "nothing=2"]).output().await.unwrap().status.code(), Some(3));
    let both = dev.cli(&["scale", "web/app=2", &format!("{job}/proxy=0")]).output().await.unwrap();
    assert!(both.status.success(), "{both:?}");
    settled(&dev, job, 2).await;
    let kept = dev.client.job(job).await.instances;
    assert_eq!(kept, [("app".to_owned(), 2), ("proxy".to_owned(), 0)].into());
}

#[tokio::test]
async fn the_page_of_a_service_scales_it() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let job = dev.client.submit(service(2)).await;
    settled(&dev, job, 2).await;
    let visitor = Visitor::of(&dev).await;
    let page = visitor.page(&format!("/jobs/{job}")).await;
    assert!(page.contains(&format!("action=\"/projects/default/jobs/{job}/scale\"")), "{page}");
    assert!(page.contains("id=\"scale-main\" name=\"count\"") && page.contains("value=\"2\""), "{page}");
    let sent = visitor.send(&format!("/jobs/{job}/scale"), "task=main&count=1".to_owned()).await;
    assert_eq!(sent.status(), StatusCode::SEE_OTHER);
    settled(&dev, job, 1).await;
    eventually("the page says so", async || {
        visitor.page(&format!("/jobs/{job}?tab=tasks")).await.contains("1 of 1 available").then_some(())
    })
    .await;
    let refused = visitor.send(&format!("/jobs/{job}/scale"), "task=main&count=many".to_owned()).await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let batch = dev.client.submit(json!({"script": "true"})).await;
    assert!(!visitor.page(&format!("/jobs/{batch}")).await.contains("/scale\""));
}
