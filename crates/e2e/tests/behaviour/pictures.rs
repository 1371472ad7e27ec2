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
async fn a_timeline_shows_when_each_task_waited_and_ran_and_what_the_duration_came_of() {
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
    let none = dev.client.submit(json!({"script": "true", "count": 10_001, "resources": {"cpu": 512}})).await;
    let page = visitor.page(&format!("/jobs/{none}?tab=timeline")).await;
    assert!(page.contains("No timeline is drawn of more than 10,000 tasks"), "{page}");
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
    assert_eq!(link, json!(format!("/jobs/{job}/tasks/fetch")));
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
