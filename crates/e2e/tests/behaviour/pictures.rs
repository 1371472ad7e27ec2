//! The tasks of a job as a graph and on a timeline.

use gaffer_e2e::browser::{Browser, Scheme};
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir};
use serde_json::{Value, json};

use super::pages::sign_in;
use super::texts::Visitor;

/// Fetch, 12 times transform, reduce, report; something that follows a failure, and something that always runs.
pub fn pipeline(transform: &str) -> Value {
    json!({"name": "pipeline", "tasks": [
        {"name": "clean", "script": "true", "when": "always"},
        {"name": "fetch", "script": "sleep 0.1"},
        {"name": "transform", "script": transform, "count": 12, "depends_on": ["fetch"]},
        {"name": "reduce", "script": "sleep 0.2", "depends_on": [{"task": "transform", "on": "ended"}]},
        {"name": "alarm", "script": "true", "depends_on": [{"task": "transform", "on": "failed"}]},
        {"name": "report", "script": "true", "depends_on": ["reduce", "fetch"]},
    ]})
}

/// What a page says of each row of its timeline that is marked: the addresses of these tasks.
fn critical(page: &str) -> Vec<&str> {
    let rows = page.split("<tr class=\"critical\">").skip(1);
    rows.map(|row| row.split("class=\"name\"").nth(1).unwrap().split(['>', '<']).nth(1).unwrap()).collect()
}

#[tokio::test]
async fn a_timeline_shows_when_each_task_waited_and_ran_and_the_critical_path() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let flag = dir.path().join("go");
    let last = format!("test $GAFFER_TASK_INDEX != 7 || until [ -e {} ]; do sleep 0.1; done", flag.display());
    let job = dev.client.submit(pipeline(&last)).await;
    eventually("all but one of them have ended", async || {
        let tasks = dev.client.tasks(job).await;
        let ended = tasks.iter().filter(|task| task.task == "transform" && task.finished_at.is_some());
        (ended.count() == 11).then_some(())
    })
    .await;
    std::fs::write(flag, "").unwrap();
    dev.client.finished(job).await;
    let visitor = Visitor::of(&dev).await;
    let page = visitor.page(&format!("/jobs/{job}?tab=timeline")).await;
    assert_eq!(page.matches("<svg class=\"bars\"").count(), 17, "one row a task: {page}");
    assert!(page.contains("<rect class=\"ran\""), "{page}");
    // `alarm` was not needed: it neither waited for a worker nor ran.
    let alarm = page.split("/tasks/alarm\"").nth(1).unwrap().split("</tr>").next().unwrap();
    assert!(!alarm.contains("<rect") && alarm.contains("waited —, starting —, ran —"), "{alarm}");
    // `clean` waited for the end of all others.
    assert_eq!(critical(&page), ["clean", "fetch", "transform.7", "reduce", "report"]);

    // The tasks of a definition are one row where there are many.
    let many = json!({"tasks": [{"name": "first", "script": "true"},
        {"name": "many", "script": "true", "count": 205, "depends_on": ["first"]}]});
    let many = dev.client.submit(many).await;
    dev.client.finished(many).await;
    let page = visitor.page(&format!("/jobs/{many}?tab=timeline")).await;
    assert!(page.contains("205 × many") && page.contains("1 × first"), "{page}");
    assert_eq!(critical(&page), ["1 × first", "205 × many"]);
    // One failure among many is said, and does not make all of it red.
    let failing = json!({"tasks": [{"name": "most", "count": 205, "script": "test $GAFFER_TASK_INDEX != 7"},
        {"name": "all", "script": "exit 1"}]});
    let failing = dev.client.submit(failing).await;
    dev.client.finished(failing).await;
    let page = visitor.page(&format!("/jobs/{failing}?tab=timeline")).await;
    let bar_of = |name: &str| page.split(name).nth(1).unwrap().split("</tr>").next().unwrap().to_owned();
    let most = bar_of("205 × most");
    assert!(most.contains("<rect class=\"ran\"") && most.contains("1 failed"), "{most}");
    assert!(bar_of("1 × all").contains("<rect class=\"failed\""), "{page}");
    let none = dev.client.submit(json!({"script": "true", "count": 10_001, "resources": {"cpu": 512}})).await;
    let page = visitor.page(&format!("/jobs/{none}?tab=timeline")).await;
    assert!(page.contains("No timeline is drawn of more than 10,000 tasks"), "{page}");
    dev.interrupt().await;
}

#[tokio::test]
async fn a_timeline_tells_a_back_off_from_a_wait_and_a_stop_from_a_failure() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let restart = json!({"policy": "on-failure", "limit": 30, "delay": "10ms", "backoff": "constant"});
    let spec = json!({"tasks": [
        {"name": "often", "restart": restart, "script": "test $GAFFER_ATTEMPT -ge 23"},
        {"name": "endless", "script": "sleep 1000", "resources": {"cpu": 0}},
        {"name": "later", "script": "exit 1",
            "restart": {"policy": "on-failure", "limit": 1, "delay": "1h"}},
    ]});
    let job = dev.client.submit(spec).await;
    eventually("one is through, the others run and wait", async || {
        let tasks = dev.client.tasks(job).await;
        let states: Vec<&str> = tasks.iter().map(|task| task.state.as_str()).collect();
        (states == ["completed", "running", "pending"] && tasks[2].attempt == 1).then_some(())
    })
    .await;
    let visitor = Visitor::of(&dev).await;
    let row = async |task: &str| {
        let page = visitor.page(&format!("/jobs/{job}?tab=timeline")).await;
        let row = page.split(&format!("/tasks/{task}\"")).nth(1).unwrap();
        row.split("</tr>").next().unwrap().to_owned()
    };
    let often = row("often").await;
    assert!(often.contains("latest 20 attempts") && often.contains("<rect class=\"backoff\""), "{often}");
    assert_eq!(often.matches("<rect class=\"failed\"").count(), 19, "{often}");
    assert_eq!(often.matches("<rect class=\"ran\"").count(), 1, "{often}");
    // It waits for the end of its back-off, and for no worker.
    let later = row("later").await;
    assert!(later.rsplit("<rect").next().unwrap().starts_with(" class=\"backoff\""), "{later}");
    dev.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    dev.client.finished(job).await;
    let endless = row("endless").await;
    assert!(endless.contains("<rect class=\"stopped\"") && !endless.contains("\"failed\""), "{endless}");
    dev.interrupt().await;
}

#[tokio::test]
async fn a_graph_changes_while_its_job_goes_on() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let flag = dir.path().join("go");
    let wait = format!("until [ -e {} ]; do sleep 0.1; done; test $GAFFER_TASK_INDEX != 7", flag.display());
    let job = dev.client.submit(pipeline(&wait)).await;
    dev.client.in_state(job, "running").await;
    let visitor = Visitor::of(&dev).await;
    let page = visitor.page(&format!("/jobs/{job}?tab=graph")).await;
    let waits = "Runs once fetch, transform, reduce, alarm and report have ended, whatever the outcome.";
    assert!(page.contains(waits) && page.contains("after a failure"), "{page}");
    assert_eq!(page.matches("<a class=\"node\"").count(), 6, "{page}");
    assert!(!page.contains("Waits for to"), "{page}");

    let Some(browser) = Browser::open(1280, 900, Scheme::Light).await else { return };
    let base = sign_in(&browser, &dev.client).await;
    browser.visit(&format!("{base}/jobs/{job}?tab=graph")).await;
    browser.value("window.stays = 1").await;
    let is = async |task: &str, state: &str| {
        let node = format!("document.querySelector('a.node[aria-label^=\"{task}:\"]').dataset.s");
        eventually(&format!("{task} is {state}"), async || {
            (browser.value(&node).await == json!(state)).then_some(())
        })
        .await;
    };
    is("fetch", "completed").await;
    is("transform", "running").await;
    is("reduce", "blocked").await;
    std::fs::write(flag, "").unwrap();
    is("transform", "failed").await;
    is("alarm", "completed").await;
    is("clean", "completed").await;
    assert_eq!(browser.value("window.stays").await, json!(1), "the page was not loaded again");
    let link = browser.value("document.querySelector('a.node[aria-label^=\"fetch:\"]').href.baseVal").await;
    assert_eq!(link, json!(format!("/projects/default/jobs/{job}/tasks/fetch")));
    // Who follows a node of several tasks sees these first.
    let link =
        browser.value("document.querySelector('a.node[aria-label^=\"transform:\"]').href.baseVal").await;
    let page = visitor.page(link.as_str().unwrap()).await;
    let rows: Vec<&str> =
        page.split("<tr data-key=\"").skip(1).map(|row| row.split('"').next().unwrap()).collect();
    assert_eq!(rows[..2], ["transform.0", "transform.1"], "{page}");
    browser.close().await;
    dev.interrupt().await;
}
