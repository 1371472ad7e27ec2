//! User keys: their scopes, their rotation, and what is noted about their use.

use std::time::{Duration, Instant};

use futures::StreamExt;
use gaffer_e2e::browser::{Browser, Scheme};
use gaffer_e2e::client::{Client, script};
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_e2e::raw_worker::{RawWorker, dial, goodbye, hello};
use gaffer_e2e::stage::Stage;
use gaffer_e2e::{PATIENCE, eventually};
use gaffer_master::secret::{NewSecret, Purpose};
use gaffer_protocol::wire::GoodbyeCode;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::pages::sign_in;
use super::upgrade::database_before;

/// A client with a new key of these scopes, and the key.
async fn key_with(client: &Client, scopes: &[&str]) -> (Client, Value) {
    let created = client.post("/keys", &json!({"kind": "user", "name": "ci", "scopes": scopes})).await;
    assert_eq!(created.status, 201, "{}", created.text);
    (client.with_key(created.body["key"].as_str().unwrap()), created.body)
}

async fn listed(client: &Client, id: &Value) -> Value {
    let keys = client.get("/keys").await.body;
    keys["items"].as_array().unwrap().iter().find(|key| key["id"] == *id).unwrap().clone()
}

#[tokio::test]
async fn a_key_that_only_submits_gets_its_answer_and_reads_nothing_else() {
    let stage = Stage::set().await;
    let (client, _) = key_with(&stage.client, &["submit"]).await;
    let job = client.submit(script("true")).await;
    for path in
        [format!("/jobs/{job}"), format!("/jobs/{job}/output"), "/jobs".to_owned(), "/events".to_owned()]
    {
        let answer = client.get(&path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body["code"].as_str()),
            (403, Some("scope_missing")),
            "{path}"
        );
        assert_eq!(
            answer.body["detail"],
            "this key may not read jobs, output, history, workers and the queue: it lacks the scope read; use a key that has \
             it, made on the page Keys or by `gaffer keys create NAME --scope read`"
        );
    }
    let stopped = client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    assert_eq!(stopped.status, 403, "{}", stopped.text);
    assert_eq!(stage.client.job(job).await.state, "pending");
    // One that operates stops what it cannot read.
    let (operator, _) = key_with(&stage.client, &["operate"]).await;
    assert_eq!(operator.get(&format!("/jobs/{job}")).await.status, 403);
    assert_eq!(operator.post(&format!("/jobs/{job}/stop"), &json!({})).await.status, 202);
}

#[tokio::test]
async fn a_key_makes_no_key_that_may_do_more_than_itself() {
    let stage = Stage::set().await;
    let (client, key) = key_with(&stage.client, &["admin", "read"]).await;
    for (scopes, lacks) in [
        (json!(["submit"]), "submit"),
        (json!(["read", "operate"]), "operate"),
        (json!(["read", "submit", "operate", "admin"]), "submit, operate"),
    ] {
        let new = json!({"kind": "user", "name": "more", "scopes": scopes});
        let answer = client.post("/keys", &new).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body["code"].as_str()),
            (403, Some("scope_missing")),
            "{scopes}"
        );
        assert!(
            answer.body["detail"].as_str().unwrap().contains(&format!("lacks {lacks};")),
            "{}",
            answer.text
        );
    }
    // Not by a rotation, nor by a session in a browser.
    let (_, whole) = key_with(&stage.client, &["read", "submit"]).await;
    assert_eq!(client.post(&format!("/keys/{}/rotate", whole["id"]), &json!({})).await.status, 403);
    assert_eq!(client.post("/login-links", &json!({})).await.status, 403);
    assert_eq!(listed(&stage.client, &whole["id"]).await["replaced_by"], Value::Null);
    // As much as itself it may make, also when nothing is said; and keys of workers, which have no scopes.
    let new = client.post("/keys", &json!({"kind": "user", "name": "same"})).await;
    assert_eq!(new.body["scopes"], json!(["read", "admin"]), "{}", new.text);
    let new = client.post("/keys", &json!({"kind": "worker", "name": "lab"})).await;
    assert_eq!((new.status.as_u16(), &new.body["scopes"]), (201, &json!([])));
    assert_eq!(client.post(&format!("/keys/{}/rotate", key["id"]), &json!({})).await.status, 201);
    for wrong in [
        json!({"kind": "user", "name": "x", "scopes": []}),
        json!({"kind": "user", "name": "x", "scopes": ["root"]}),
        json!({"kind": "worker", "name": "x", "scopes": ["read"]}),
    ] {
        let answer = stage.client.post("/keys", &wrong).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["errors"][0]["pointer"]),
            (422, &json!("/scopes")),
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn a_rotation_leaves_the_old_key_good_for_the_overlap_and_the_new_one_is_like_it() {
    let stage = Stage::set().await;
    let new = json!({"kind": "user", "name": "ci", "scopes": ["read"], "expires_in_seconds": 86_400});
    let old = stage.client.post("/keys", &new).await.body;
    let (path, id) = (format!("/keys/{}/rotate", old["id"]), old["id"].clone());
    for wrong in [json!({"overlap": "31d"}), json!({"overlap": "soon"}), json!({"ovrlap": "1h"})] {
        assert_eq!(stage.client.post(&path, &wrong).await.status, 422, "{wrong}");
    }
    let rotated = stage.client.post(&path, &json!({"overlap": "2h"})).await;
    assert_eq!(rotated.status, 201, "{}", rotated.text);
    for field in ["kind", "name", "scopes"] {
        assert_eq!(rotated.body[field], old[field], "{field}");
    }
    for key in [&old, &rotated.body] {
        let client = stage.client.with_key(key["key"].as_str().unwrap());
        assert_eq!(client.get("/jobs").await.status, 200);
    }
    let at = |key: &Value, field: &str| {
        chrono::DateTime::parse_from_rfc3339(key[field].as_str().unwrap()).unwrap()
    };
    let (rotated, replaced) = (rotated.body, listed(&stage.client, &id).await);
    assert_eq!(replaced["replaced_by"], rotated["id"]);
    assert_eq!((at(&replaced, "expires_at") - at(&rotated, "created_at")).num_minutes(), 120);
    assert_eq!((at(&rotated, "expires_at") - at(&rotated, "created_at")).num_hours(), 24);
    // It has its successor. A key that is no good any more gets none.
    let again = stage.client.post(&path, &json!({})).await;
    assert_eq!((again.status.as_u16(), &again.body["state"]), (409, &json!("valid")));
    assert!(again.body["detail"].as_str().unwrap().contains(&format!("rotate key {}", rotated["id"])));
    stage.client.delete(&format!("/keys/{}", rotated["id"])).await;
    let revoked = stage.client.post(&format!("/keys/{}/rotate", rotated["id"]), &json!({})).await;
    assert_eq!((revoked.status.as_u16(), &revoked.body["state"]), (409, &json!("revoked")));
    // A key that expires before the overlap has passed does so.
    let short = stage
        .client
        .post("/keys", &json!({"kind": "user", "name": "x", "expires_in_seconds": 600}))
        .await
        .body;
    stage.client.post(&format!("/keys/{}/rotate", short["id"]), &json!({"overlap": "1h"})).await;
    assert_eq!(listed(&stage.client, &short["id"]).await["expires_at"], short["expires_at"]);
    // Another user's key would be a way to act as them.
    let other = stage.another_user("bob").await;
    let bobs = other.post("/keys", &json!({"kind": "user", "name": "bob"})).await.body;
    assert_eq!(stage.client.post(&format!("/keys/{}/rotate", bobs["id"]), &json!({})).await.status, 409);
}

#[tokio::test]
async fn what_a_rotated_key_opened_ends_when_the_overlap_has_passed() {
    let stage = Stage::set().await;
    let user = stage.client.post("/keys", &json!({"kind": "user", "name": "ci"})).await.body;
    let lab = stage.client.post("/keys", &json!({"kind": "worker", "name": "lab"})).await.body;
    let client = stage.client.with_key(user["key"].as_str().unwrap());
    let mut followed = client.open("/events", "text/event-stream").await.bytes_stream();
    let mut worker = RawWorker::connect(&stage.worker_url(), lab["key"].as_str().unwrap(), hello("w")).await;
    let rotated = Instant::now();
    let overlap = json!({"overlap": "2s"});
    let new = stage.client.post(&format!("/keys/{}/rotate", user["id"]), &overlap).await.body;
    let new_lab = stage.client.post(&format!("/keys/{}/rotate", lab["id"]), &overlap).await.body;
    let (code, _) = goodbye(worker.hear().await);
    assert_eq!(code, GoodbyeCode::KeyRevoked);
    let mut text = Vec::new();
    while let Some(piece) = tokio::time::timeout(*PATIENCE, followed.next()).await.expect("it does not end") {
        text.extend_from_slice(&piece.unwrap());
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("\"key_revoked\""), "{text}");
    let took = rotated.elapsed();
    assert!(took >= Duration::from_secs(2), "before the overlap has passed: {took:?}");
    // Keys are looked at every half minute, too.
    assert!(took < Duration::from_secs(20), "at once, not when somebody looks: {took:?}");
    assert_eq!(client.get("/jobs").await.body["code"], "key_invalid");
    assert!(dial(&stage.worker_url(), lab["key"].as_str().unwrap()).await.is_err());
    let client = client.with_key(new["key"].as_str().unwrap());
    assert_eq!(client.get("/jobs").await.status, 200);
    RawWorker::connect(&stage.worker_url(), new_lab["key"].as_str().unwrap(), hello("v")).await;
}

#[tokio::test]
async fn the_last_use_of_a_key_is_noted_with_the_address_at_most_once_a_minute() {
    let stage = Stage::set().await;
    let (client, key) = key_with(&stage.client, &["read"]).await;
    let lab = stage.client.post("/keys", &json!({"kind": "worker", "name": "lab"})).await.body;
    let unused = listed(&stage.client, &key["id"]).await;
    assert_eq!((&unused["last_used_at"], &unused["last_used_from"]), (&Value::Null, &Value::Null));
    client.get("/jobs").await;
    RawWorker::connect(&stage.worker_url(), lab["key"].as_str().unwrap(), hello("w")).await;
    for id in [&key["id"], &lab["id"]] {
        let used = listed(&stage.client, id).await;
        assert_eq!(used["last_used_from"], "127.0.0.1");
        assert!(!used["last_used_at"].is_null());
    }
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut used_before = async |age: &str| {
        let sql =
            "UPDATE keys SET last_used_at = now() - $2::interval, last_used_from = '192.0.2.7' WHERE id = $1";
        sqlx::query(sql).bind(key["id"].as_i64()).bind(age).execute(&mut database).await.unwrap();
        client.get("/jobs").await;
        listed(&stage.client, &key["id"]).await["last_used_from"].clone()
    };
    // Here "now" is a minute ahead, so that a slow machine has the time.
    assert_eq!(used_before("-1 minute").await, "192.0.2.7");
    assert_eq!(used_before("61 seconds").await, "127.0.0.1");
}

#[tokio::test]
async fn keys_of_an_earlier_version_may_do_what_they_could() {
    let (url, mut database) = database_before(55).await;
    let (user, worker) = (NewSecret::new(Purpose::UserKey), NewSecret::new(Purpose::WorkerKey));
    sqlx::raw_sql("INSERT INTO users (name) VALUES ('old')").execute(&mut database).await.unwrap();
    for (kind, secret) in [("user", &user), ("worker", &worker)] {
        let sql = "INSERT INTO keys (project_id, user_id, kind, name, prefix, sha256) \
                   SELECT 1, CASE WHEN $1 = 'user' THEN u.id END, $1, 'old', $2, $3 FROM users u WHERE u.name = 'old'";
        let insert = sqlx::query(sql).bind(kind).bind(secret.shown()).bind(&secret.sha256[..]);
        assert_eq!(insert.execute(&mut database).await.unwrap().rows_affected(), 1);
    }
    let stage = Stage::on(url).await;
    let client = stage.client.with_key(&user.text);
    let job = client.submit(script("true")).await;
    assert_eq!(client.post(&format!("/jobs/{job}/stop"), &json!({})).await.status, 202);
    assert_eq!(client.post("/login-links", &json!({})).await.status, 201);
    let keys = client.get("/keys").await.body;
    let scopes = |kind: &str| {
        let old =
            keys["items"].as_array().unwrap().iter().find(|key| key["name"] == "old" && key["kind"] == kind);
        old.unwrap()["scopes"].clone()
    };
    assert_eq!(scopes("user"), json!(["read", "submit", "operate", "admin"]));
    assert_eq!(scopes("worker"), json!([]));
    RawWorker::connect(&stage.worker_url(), &worker.text, hello("w")).await;
}

#[tokio::test]
async fn keys_are_made_with_scopes_and_rotated_in_the_browser() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let Some(browser) = Browser::open(1280, 900, Scheme::Light).await else { return };
    let base = sign_in(&browser, &dev.client).await;
    let is_seen = "getComputedStyle(document.querySelector('.scopes')).display !== 'none'";
    browser.visit(&format!("{base}/keys")).await;
    assert_eq!(browser.value(is_seen).await, json!(true));
    browser.value("(document.querySelector('#kind').value = 'worker', 1)").await;
    assert_eq!(browser.value(is_seen).await, json!(false), "a worker key has no scopes");
    let is_limited = "getComputedStyle(document.querySelector('.limits')).display !== 'none'";
    assert_eq!(browser.value(is_limited).await, json!(true), "it has limits");
    browser.value("(document.querySelector('#kind').value = 'enrolment', 1)").await;
    assert_eq!(browser.value(is_seen).await, json!(false), "an enrolment key has no scopes");
    browser.click(".limits summary").await;
    for (width, height) in [(1280, 900), (360, 800)] {
        browser.resize(width, height).await;
        for scheme in [Scheme::Light, Scheme::Dark] {
            browser.prefer(scheme).await;
            let fits = "document.documentElement.scrollWidth <= innerWidth";
            assert_eq!(browser.value(fits).await, json!(true), "{width} {scheme:?}");
            browser.screenshot(&format!("keys-limits-{scheme:?}-{width}")).await;
        }
    }
    browser.resize(1280, 900).await;
    browser.value("(document.querySelector('#kind').value = 'user', 1)").await;
    assert_eq!(browser.value(is_limited).await, json!(false), "a user key has none");
    browser.fill("input[name=name]", "from the browser").await;
    browser.click("input[name=scope-submit]").await;
    browser.click("form[action$='/keys'] button.primary").await;
    browser.shows("Copy the new key now").await;
    let secret = browser.value("document.querySelector('#new-key').textContent").await;
    let client = dev.client.with_key(secret.as_str().unwrap());
    assert_eq!(client.get("/jobs").await.status, 200);
    assert_eq!(client.post("/jobs", &script("true")).await.body["code"], "scope_missing");

    browser.visit(&format!("{base}/keys")).await;
    browser.shows("127.0.0.1").await;
    let row =
        "[...document.querySelectorAll('tr[data-key]')].find(r => r.innerText.includes('from the browser'))";
    assert_eq!(browser.value(&format!("{row}.querySelector('[data-l^=scopes]').textContent")).await, "read");
    for (width, height) in [(1280, 900), (360, 800)] {
        browser.resize(width, height).await;
        for scheme in [Scheme::Light, Scheme::Dark] {
            browser.prefer(scheme).await;
            let fits = "document.documentElement.scrollWidth <= innerWidth";
            assert_eq!(browser.value(fits).await, json!(true), "{width} {scheme:?}");
            browser.screenshot(&format!("keys-scopes-{scheme:?}-{width}")).await;
        }
    }
    browser.resize(1280, 900).await;
    // Without a question to answer, as a browser without JavaScript does it.
    browser.value(&format!("({row}.querySelector(\"form[action$='/rotate']\").submit(), 1)")).await;
    browser.shows("Copy the new key now").await;
    browser.shows("(rotated)").await;
    let new = browser.value("document.querySelector('#new-key').textContent").await;
    assert_ne!(new, secret);
    let client = client.with_key(new.as_str().unwrap());
    eventually("the new key is good", async || (client.get("/jobs").await.status == 200).then_some(())).await;
    browser.close().await;
}
