//! The audit log: every change has an entry, and a log that was tampered with is found out.

use chrono::{DateTime, Utc};
use gaffer_e2e::browser::{Browser, Scheme};
use gaffer_e2e::client::{Client, script};
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_master::embedded_postgres::url_of_running;
use gaffer_protocol::audit::{Broken, End};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::pages::sign_in;
use super::tenants::neighbour;

/// The entries of the client's project that match, newest first.
async fn entries(client: &Client, query: &str) -> Vec<Value> {
    let answer = client.get(&format!("/audit?limit=500&{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body["items"].as_array().unwrap().clone()
}

/// The lines of a chain, once all that is noted has its place in it.
async fn whole_chain(client: &Client) -> Vec<String> {
    eventually("all entries are in the chain", async || {
        entries(client, "").await.iter().all(|entry| !entry["number"].is_null()).then_some(())
    })
    .await;
    let answer = client.get("/audit/lines?limit=500").await;
    answer.text.lines().map(str::to_owned).collect()
}

fn checked(lines: &[String]) -> Result<u64, Broken> {
    let mut end = End::default();
    lines.iter().try_for_each(|line| end.follow(line).map(drop))?;
    Ok(end.number)
}

/// What a command said.
#[derive(Debug)]
struct Told {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn told(dev: &Dev, arguments: &[&str]) -> Told {
    let output = dev.cli(arguments).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Told { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[tokio::test]
async fn a_change_is_noted_with_who_made_it_with_what_and_from_where() {
    let stage = Stage::set().await;
    let key = stage.client.post("/keys", &json!({"kind": "user", "name": "ci"})).await.body;
    let client = stage.client.with_key(key["key"].as_str().unwrap());
    let before = Utc::now();
    let job = client.submit(json!({"name": "nightly", "script": "true"})).await;
    client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    let again = client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    assert_eq!(again.status, 409, "{}", again.text);

    let noted = entries(&stage.client, &format!("target=job {job}")).await;
    let told: Vec<_> = noted.iter().map(|entry| (&entry["action"], &entry["outcome"])).collect();
    let (stop, done) = (json!("stop_job"), json!("done"));
    assert_eq!(told, [(&stop, &json!("refused")), (&stop, &done), (&json!("submit_job"), &done)]);
    for entry in &noted {
        assert_eq!(entry["user"], "admin");
        assert_eq!(entry["credential"], json!(format!("key {} (ci)", key["id"])));
        assert_eq!(entry["address"], "127.0.0.1");
        assert_eq!(entry["project"], "default");
        let at: DateTime<Utc> = entry["at"].as_str().unwrap().parse().unwrap();
        // By the clock of the database, which may differ a little.
        assert!((at - before).num_seconds() > -60, "{entry}");
    }
    assert!(noted[0]["detail"].as_str().unwrap().contains("already ended"), "{}", noted[0]);
    assert_eq!(noted[2]["after"], json!({"name": "nightly"}));
    // The key's own creation, with what it may do and never with what it is.
    let made = entries(&stage.client, "action=create_key").await;
    assert_eq!((&made[0]["target"], &made[0]["after"]["key"]), (&json!("user key ci"), &key["id"]));
    assert!(!made[0].to_string().contains(key["key"].as_str().unwrap()));
    for (filter, count) in [("user=admin&action=stop_job", 2), ("user=eve", 0), ("outcome=refused", 1)] {
        assert_eq!(entries(&stage.client, filter).await.len(), count, "{filter}");
    }
    for wrong in ["outcome=good", "since=yesterday", "of=everybody", "usr=admin"] {
        assert_eq!(stage.client.get(&format!("/audit?{wrong}")).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn what_was_before_is_noted_beside_what_is_after() {
    let stage = Stage::set().await;
    let worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("lab")).await;
    stage.client.post("/workers/lab/drain", &json!({"deadline": "10m"})).await;
    stage.client.post("/workers/lab/resume", &json!({})).await;
    drop(worker);
    let noted = entries(&stage.client, "action=direct_worker").await;
    assert_eq!(noted[0]["before"], json!({"intake": "draining"}));
    assert_eq!(noted[0]["after"], json!({"intake": "open", "deadline": null}));
    assert_eq!(noted[1]["before"], json!({"intake": "open"}));
    assert_eq!(noted[1]["after"], json!({"intake": "draining", "deadline": "10m"}));
}

#[tokio::test]
async fn a_key_that_is_refused_again_and_again_is_noted_once() {
    let stage = Stage::set().await;
    let key = stage.client.post("/keys", &json!({"kind": "user", "name": "reads", "scopes": ["read"]})).await;
    let client = stage.client.with_key(key.body["key"].as_str().unwrap());
    for _ in 0..5 {
        assert_eq!(client.post("/jobs", &script("true")).await.status, 403);
        assert_eq!(client.get("/audit").await.status, 403);
    }
    let refused = entries(&stage.client, "outcome=refused").await;
    let mut actions: Vec<_> = refused.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    actions.sort_unstable();
    assert_eq!(actions, ["read_audit", "submit_job"]);
    assert!(refused.iter().all(|entry| entry["detail"].as_str().unwrap().contains("lacks the scope")));
}

#[tokio::test]
async fn another_project_has_its_own_log() {
    let stage = Stage::set().await;
    let (eve, _) = neighbour(&stage).await;
    let job = stage.client.submit(script("true")).await;
    let hers = eve.submit(script("true")).await;
    let targets = async |client| {
        let noted = entries(client, "action=submit_job").await;
        noted.iter().map(|entry| entry["target"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(targets(&stage.client).await, [format!("job {job}")]);
    assert_eq!(targets(&eve).await, [format!("job {hers}")]);
    // Each chain has no gap that tells what others do.
    for client in [&stage.client, &eve] {
        let lines = whole_chain(client).await;
        assert_eq!(checked(&lines), Ok(lines.len() as u64));
    }
    assert_eq!(stage.client.get("/audit?of=installation").await.status, 200);
    assert_eq!(eve.get("/audit?of=installation").await.status, 403);
    assert_eq!(eve.get("/audit/lines?of=installation").await.status, 403);
}

#[tokio::test]
async fn what_nobody_noted_the_end_of_is_unknown() {
    let stage = Stage::set().await;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    // As a master that was killed in the middle of it leaves it.
    let begun = "INSERT INTO audit_entries (project_id, at, user_name, action, target) VALUES \
                 (1, now() - interval '3 minutes', 'admin', 'stop_job', 'job 7'), (1, now(), 'admin', 'stop_job', 'job 8')";
    sqlx::query(begun).execute(&mut database).await.unwrap();
    // Wakes the loop.
    stage.client.submit(script("true")).await;
    eventually("it is unknown", async || {
        let noted = entries(&stage.client, "target=job 7").await;
        (noted[0]["outcome"] == "unknown" && !noted[0]["number"].is_null()).then_some(())
    })
    .await;
    let under_way = &entries(&stage.client, "target=job 8").await[0];
    assert_eq!((&under_way["outcome"], &under_way["number"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn a_log_that_was_changed_cut_or_made_anew_is_not_intact() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let client = &dev.client;
    for name in ["a", "b", "c"] {
        client.post("/keys", &json!({"kind": "worker", "name": name})).await;
    }
    let lines = whole_chain(client).await;
    assert_eq!(checked(&lines), Ok(lines.len() as u64));
    let verify = async |more: &[&str]| {
        let arguments: Vec<&str> = ["audit", "verify"].iter().chain(more).copied().collect();
        told(&dev, &arguments).await
    };
    let intact = verify(&[]).await;
    assert_eq!(intact.code, Some(0), "{intact:?}");
    let last = intact.stdout.trim().to_owned();
    assert!(last.starts_with(&format!("{}:", lines.len())), "{last}");
    assert_eq!(verify(&["--expect", &last]).await.code, Some(0));
    let export = dir.path().join("audit.jsonl");
    let exported = told(&dev, &["audit", "export"]).await.stdout;
    assert_eq!(exported.lines().collect::<Vec<_>>(), lines);
    std::fs::write(&export, &exported).unwrap();
    assert_eq!(verify(&[export.to_str().unwrap(), "--expect", &last]).await.code, Some(0));
    std::fs::write(&export, exported.replacen("key b", "key x", 1)).unwrap();
    let changed = verify(&[export.to_str().unwrap()]).await;
    assert_eq!(changed.code, Some(1), "{changed:?}");
    assert!(changed.stderr.contains("was changed"), "{changed:?}");

    let mut database = PgConnection::connect(&url_of_running(dir.path()).unwrap()).await.unwrap();
    let mut tampered = async |sql: &str, expected: &str| {
        sqlx::raw_sql("BEGIN; CREATE TABLE kept AS SELECT * FROM audit_entries; COMMIT")
            .execute(&mut database)
            .await
            .unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut database).await.unwrap();
        let found = verify(&["--expect", &last]).await;
        assert_eq!(found.code, Some(1), "{sql}: {found:?}");
        assert!(found.stderr.contains(expected), "{sql}: {found:?}");
        let back = "BEGIN; DELETE FROM audit_entries; \
                    INSERT INTO audit_entries OVERRIDING SYSTEM VALUE SELECT * FROM kept; DROP TABLE kept; COMMIT";
        sqlx::raw_sql(back).execute(&mut database).await.unwrap();
    };
    tampered("UPDATE audit_entries SET line = replace(line, 'key b', 'key x')", "was changed").await;
    tampered("DELETE FROM audit_entries WHERE number = 2", "line 2 is missing").await;
    tampered(
        "DELETE FROM audit_entries WHERE number = (SELECT max(number) FROM audit_entries)",
        "is not in it",
    )
    .await;
    let forged = "UPDATE audit_entries SET line = replace(line, 'key b', 'key x'), \
                  sha256 = sha256(convert_to(replace(line, 'key b', 'key x'), 'UTF8')) WHERE line LIKE '%key b%'";
    tampered(forged, "does not follow").await;
    assert_eq!(verify(&[]).await.code, Some(0));
}

#[tokio::test]
async fn the_oldest_entries_are_removed_and_the_rest_is_intact() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    dev.client.post("/keys", &json!({"kind": "worker", "name": "old"})).await;
    let lines = whole_chain(&dev.client).await;
    assert_eq!(dev.interrupt().await, Some(0));
    let dev = Dev::start_with(dir.path(), &[("GAFFER_AUDIT_RETENTION", "1ms")]).await;
    let first = eventually("only the last of the old entries is left", async || {
        let left = whole_chain(&dev.client).await;
        let first: Value = serde_json::from_str(left.first()?).unwrap();
        (first["number"].as_u64()? >= lines.len() as u64).then_some(first)
    })
    .await;
    let verified = told(&dev, &["audit", "verify"]).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert!(
        verified.stderr.contains(&format!("lines before {} were removed", first["number"])),
        "{verified:?}"
    );
}

#[tokio::test]
async fn the_log_is_read_and_filtered_in_the_browser() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let Some(browser) = Browser::open(1280, 900, Scheme::Light).await else { return };
    let base = sign_in(&browser, &dev.client).await;
    let hostile = "<img src=x onerror=alert(1)>";
    dev.client.post("/keys", &json!({"kind": "worker", "name": hostile})).await;
    let job = dev.client.submit(script("true")).await;
    browser.visit(&format!("{base}/events")).await;
    browser.click("a[href$='/audit']").await;
    browser.shows(&format!("job {job}")).await;
    browser.shows(hostile).await;
    for (width, height) in [(1280, 900), (360, 800)] {
        browser.resize(width, height).await;
        for scheme in [Scheme::Light, Scheme::Dark] {
            browser.prefer(scheme).await;
            let fits = "document.documentElement.scrollWidth <= innerWidth";
            assert_eq!(browser.value(fits).await, json!(true), "{width} {scheme:?}");
            browser.screenshot(&format!("audit-{scheme:?}-{width}")).await;
        }
    }
    browser.resize(1280, 900).await;
    browser.value("(document.querySelector('#action').value = 'create_key', 1)").await;
    browser.click("form[role=search] button").await;
    browser.shows("Remove filters").await;
    let rows = browser
        .value("[...document.querySelectorAll('tbody tr')].every(r => r.innerText.includes('create key'))")
        .await;
    assert_eq!(rows, json!(true));
    // The browser's own way in concerns the installation.
    browser.click("a[href*='of=installation']").await;
    browser.shows("browser session from 127.0.0.1").await;
    browser.close().await;
}
