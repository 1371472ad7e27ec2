//! What commands and pages say of jobs of `type: system`.

use std::collections::BTreeMap;

use gaffer_e2e::browser::{Browser, Scheme};
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir};
use serde_json::json;

use crate::pages::sign_in;
use crate::texts::Visitor;

#[tokio::test]
async fn commands_and_pages_show_on_which_workers_a_system_job_runs() {
    let dirs = [data_dir(), data_dir(), data_dir()];
    let dev = Dev::start(dirs[0].path()).await;
    let _pi = dev.add_worker("pi", dirs[1].path()).await;
    let own = dev.client.get("/workers").await.body["items"].as_array().unwrap().clone();
    let own: Vec<&str> = own.iter().map(|worker| worker["name"].as_str().unwrap()).collect();
    let own = own.into_iter().find(|name| *name != "pi").unwrap().to_owned();
    let file = dirs[0].path().join("agent.yaml");
    let written = |script: &str| {
        format!(
            "name: agent\ntype: system\nports: [http]\nresources: {{cpu: 0.05}}\nupdate: {{healthy_for: 0s}}\n\
             script: {script}\n"
        )
    };
    std::fs::write(&file, written("'echo on $GAFFER_ITEM; exec sleep 1000'")).unwrap();
    let file = file.to_str().unwrap();
    let said = async |args: &[&str]| {
        let output = dev.cli(args).output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    };
    let (code, text) = said(&["submit", "--dry-run", file]).await;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = said(&["submit", file]).await;
    assert_eq!(code, Some(0), "{text}");
    let job = dev.client.get("/services/agent").await.body["id"].as_i64().unwrap();
    let number = job.to_string();
    let available = async |count| {
        eventually(&format!("{count} are available"), async || {
            let found = dev.client.job(job).await;
            (found.available == Some(count) && found.updates.is_empty()).then_some(())
        })
        .await;
    };
    available(2).await;
    for args in [&["job", &number][..], &["ports", "agent"], &["ports", &number]] {
        let (code, text) = said(args).await;
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("pi") && text.contains(&own), "{args:?}: {text}");
    }
    let (_, text) = said(&["jobs"]).await;
    assert!(text.contains("agent") && text.contains("running"), "{text}");
    let (code, text) = said(&["scale", "agent=3"]).await;
    assert_ne!(code, Some(0));
    assert!(text.contains("one instance on every worker that matches"), "{text}");
    let (_, text) = said(&["logs", &number]).await;
    assert!(text.contains("on pi") && text.contains(&format!("on {own}")), "{text}");

    let visitor = Visitor::of(&dev).await;
    let page = visitor.page(&format!("/jobs/{job}?tab=tasks")).await;
    assert!(page.contains("2 of 2 available") && page.contains(">pi<"), "{page}");
    assert!(dev.client.post("/workers/pi/drain", &json!({})).await.status.is_success());
    available(1).await;
    let (code, text) = said(&["explain", &number]).await;
    assert_eq!(code, Some(0), "{text}");
    let why = "has an instance on 1 of 2 workers: pi is draining and accepts no new tasks";
    assert!(text.contains(why) && text.contains("WORKER"), "{text}");
    let page = visitor.page(&format!("/jobs/{job}")).await;
    assert!(
        page.contains("Has an instance on 1 of 2 workers") && page.contains("1 of 1 available"),
        "{page}"
    );
    assert!(dev.client.post("/workers/pi/resume", &json!({})).await.status.is_success());

    let _nas = dev.add_worker("nas", dirs[2].path()).await;
    available(3).await;
    std::fs::write(file, written("'echo new on $GAFFER_ITEM; exec sleep 1000'")).unwrap();
    let (code, text) = said(&["diff", file]).await;
    assert!(code == Some(1) && text.contains("tasks.main.script"), "{text}");
    let (code, text) = said(&["submit", file]).await;
    assert_eq!(code, Some(0), "{text}");
    available(3).await;
    let mut outputs = BTreeMap::new();
    for task in dev.client.tasks(job).await {
        let output = dev.client.get(&format!("/jobs/{job}/tasks/{}/output", task.address)).await.text;
        outputs.insert(task.worker.unwrap(), output);
    }
    assert_eq!(outputs.len(), 3);
    assert!(outputs.iter().all(|(worker, output)| *output == format!("new on {worker}\n")), "{outputs:?}");
    dev.interrupt().await;
}

#[tokio::test]
async fn the_page_of_a_system_job_follows_the_workers() {
    let dirs = [data_dir(), data_dir()];
    let dev = Dev::start(dirs[0].path()).await;
    let spec = json!({
        "name": "agent", "type": "system", "script": "echo on $GAFFER_ITEM; exec sleep 1000", "resources": {"cpu": 0.05},
    });
    let job = dev.client.submit(spec).await;
    let Some(browser) = Browser::open(1280, 900, Scheme::Light).await else { return };
    let base = sign_in(&browser, &dev.client).await;
    browser.visit(&format!("{base}/jobs/{job}?tab=tasks")).await;
    browser.shows("1 of 1 available").await;
    browser.value("window.stays = 1").await;
    let _pi = dev.add_worker("pi", dirs[1].path()).await;
    browser.shows("2 of 2 available").await;
    browser.shows("main.1").await;
    dev.client.post("/workers/pi/drain", &json!({})).await;
    browser.shows("Has an instance on 1 of 2 workers: pi is draining and accepts no new tasks.").await;
    browser.shows("1 of 1 available").await;
    assert_eq!(browser.value("window.stays").await, 1, "the page was not loaded again");
    let overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
    let pages = [
        ("tasks", format!("/jobs/{job}?tab=tasks")),
        ("output", format!("/jobs/{job}")),
        ("jobs", "/jobs".to_owned()),
    ];
    for (scheme, shade) in [(Scheme::Light, "light"), (Scheme::Dark, "dark")] {
        browser.prefer(scheme).await;
        for (name, path) in &pages {
            for width in [1280, 360] {
                browser.resize(width, 900).await;
                browser.visit(&format!("{base}{path}")).await;
                browser.shows("1 of 1 available").await;
                assert_eq!(browser.value(overflow).await, 0, "{path} at {width}");
                browser.screenshot(&format!("system-{name}-{shade}-{width}")).await;
            }
        }
    }
    dev.client.post("/workers/pi/resume", &json!({})).await;
    browser.visit(&format!("{base}/jobs/{job}?tab=tasks")).await;
    browser.shows("2 of 2 available").await;
    let again = dev.client.get(&format!("/jobs/{job}")).await.body["spec"].clone();
    browser.visit(&format!("{base}/jobs/new?from={job}")).await;
    browser.shows("system").await;
    assert_eq!(again["type"], "system");
    browser.close().await;
    dev.interrupt().await;
}
