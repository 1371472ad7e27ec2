//! What ends with a project, a role or a password, also for what is under way in that moment.

use gaffer_e2e::client::{Answer, script};
use gaffer_e2e::eventually;
use gaffer_e2e::stage::Stage;
use reqwest::Response;
use reqwest::header::{CONTENT_TYPE, COOKIE, SET_COOKIE};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

use super::people::Person;

const PASSWORD: &str = "correct horse battery";

/// Sends a form to the dashboard.
async fn send(stage: &Stage, path: &str, cookie: &str, body: String) -> Response {
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    http.post(format!("http://{}{path}", stage.running.dashboard))
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(COOKIE, cookie)
        .body(body)
        .send()
        .await
        .unwrap()
}

fn token_of(answer: &Answer, field: &str) -> String {
    answer.body[field].as_str().unwrap().rsplit("token=").next().unwrap().to_owned()
}

/// Waits until so many sessions of the database wait for a lock.
async fn waiting(database: &mut PgConnection, least: i64) {
    eventually("others wait for the lock", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let waiting: i64 = sqlx::query_scalar(sql).fetch_one(&mut *database).await.unwrap();
        (waiting >= least).then_some(())
    })
    .await;
}

async fn audited(stage: &Stage, action: &str) -> Vec<Value> {
    let found = stage.client.get(&format!("/audit?of=installation&action={action}")).await;
    found.body["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_deleted_project_takes_its_secrets_and_invitations_with_it() {
    let stage = Stage::set().await;
    stage.client.post("/projects", &json!({"name": "lab"})).await;
    let admin = stage.page(&link(&stage).await, "").await;
    let cookie = admin.headers()[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let invited =
        stage.client.post("/invitations", &json!({"role": "admin", "project": "lab", "valid": "1d"})).await;
    assert_eq!(invited.status, 201, "{}", invited.text);
    let set = reqwest::Client::new()
        .put(format!("http://{}/projects/lab/api/v1/secrets/TOKEN", stage.running.dashboard))
        .header(COOKIE, &cookie)
        .header(CONTENT_TYPE, "text/plain")
        .body("a secret value")
        .send()
        .await
        .unwrap();
    assert!(set.status().is_success(), "{}", set.text().await.unwrap());
    assert_eq!(stage.client.delete("/projects/lab?confirm=lab").await.status, 204);
    let form = format!("token={}&name=eve&password={PASSWORD}", token_of(&invited, "url"));
    assert_eq!(send(&stage, "/invitation", "", form).await.status(), 404);
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let sql = "SELECT (SELECT count(*) FROM secrets) + (SELECT count(*) FROM invitations)";
    let left: i64 = sqlx::query_scalar(sql).fetch_one(&mut database).await.unwrap();
    assert_eq!(left, 0);
}

async fn link(stage: &Stage) -> String {
    let url = stage.running.sign_in_url(60).await.unwrap();
    url[url.find("/login").unwrap()..].to_owned()
}

#[tokio::test]
async fn nothing_is_made_in_a_project_while_it_is_deleted() {
    let stage = Stage::set().await;
    let ana = Person::create(&stage, "ana").await;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut watcher = PgConnection::connect(&stage.database_url).await.unwrap();
    for (n, (path, body)) in [
        ("/jobs", json!({"script": "true", "resources": {"cpu": 99}})),
        ("/keys", json!({"kind": "worker", "name": "w"})),
        ("/invitations", json!({"role": "viewer"})),
        ("/templates/t", script("true")),
        ("/projects/lab/members/admin", json!({"role": "viewer"})),
    ]
    .into_iter()
    .enumerate()
    {
        stage.client.post("/projects", &json!({"name": "lab"})).await;
        stage.client.post("/projects/lab/members/ana", &json!({"role": "admin"})).await;
        stage.client.delete("/projects/lab/members/admin").await;
        let client = ana.key("lab").await;
        if path == "/jobs" {
            // The classes of its tasks are there, and hold the project no more.
            let job = client.submit(body.clone()).await;
            client.post(&format!("/jobs/{job}/stop"), &json!({"force": true})).await;
        }
        let name = format!("was lab {n}");
        let count = "SELECT (SELECT count(*) FROM jobs WHERE project_id = p.id) \
             + (SELECT count(*) FROM keys WHERE project_id = p.id) \
             + (SELECT count(*) FROM invitations WHERE project_id = p.id) \
             + (SELECT count(*) FROM templates WHERE project_id = p.id) \
             + (SELECT count(*) FROM memberships WHERE project_id = p.id) FROM projects p WHERE name = $1";
        let before: i64 = sqlx::query_scalar(count).bind("lab").fetch_one(&mut database).await.unwrap();
        let mut deletion = database.begin().await.unwrap();
        let sql = "UPDATE projects SET deleted_at = now(), name = $1 WHERE name = 'lab'";
        sqlx::query(sql).bind(&name).execute(&mut *deletion).await.unwrap();
        let release = async {
            waiting(&mut watcher, 1).await;
            deletion.commit().await.unwrap();
        };
        let (answer, ()) = tokio::join!(client.post(path, &body), release);
        // Busy, if this machine is so slow that the wait for the lock was over.
        assert!([404, 503].contains(&answer.status.as_u16()), "{path}: {} {}", answer.status, answer.text);
        let after: i64 = sqlx::query_scalar(count).bind(&name).fetch_one(&mut watcher).await.unwrap();
        assert_eq!(after, before, "{path}");
    }
}

#[tokio::test]
async fn every_table_of_a_project_asks_whether_it_is_there() {
    let stage = Stage::set().await;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let unguarded: Vec<String> = sqlx::query_scalar(
        "SELECT c.conrelid::regclass::text FROM pg_constraint c \
         WHERE c.contype = 'f' AND c.confrelid = 'projects'::regclass AND NOT EXISTS ( \
             SELECT FROM pg_trigger t WHERE t.tgrelid = c.conrelid AND t.tgname = 'project_is_live') ORDER BY 1",
    )
    .fetch_all(&mut database)
    .await
    .unwrap();
    // These are written with a job, in its transaction.
    assert_eq!(unguarded, ["classes", "idempotency_keys"]);
}

#[tokio::test]
async fn an_invitation_is_no_better_than_who_made_it() {
    let stage = Stage::set().await;
    stage.client.post("/projects", &json!({"name": "lab"})).await;
    let ana = Person::create(&stage, "ana").await;
    stage.client.post("/projects/lab/members/ana", &json!({"role": "admin"})).await;
    let key = ana.key("lab").await;
    let invite = async || token_of(&key.post("/invitations", &json!({"role": "admin"})).await, "url");
    let tokens = [invite().await, invite().await];
    let form = |token: &str, name: &str| format!("token={token}&name={name}&password={PASSWORD}");
    stage.client.post("/users/ana/disable", &json!({})).await;
    assert_eq!(send(&stage, "/invitation", "", form(&tokens[0], "eve")).await.status(), 404);
    stage.client.post("/users/ana/enable", &json!({})).await;
    assert_eq!(send(&stage, "/invitation", "", form(&tokens[0], "bob")).await.status(), 303);
    stage.client.post("/projects/lab/members/ana", &json!({"role": "operator"})).await;
    stage.client.post("/projects/lab/members/ana", &json!({"role": "admin"})).await;
    assert_eq!(send(&stage, "/invitation", "", form(&tokens[1], "eve")).await.status(), 404);
    let another = invite().await;
    stage.client.delete("/projects/lab/members/ana").await;
    let joined = send(&stage, "/invitation", &ana.cookie, format!("token={another}")).await;
    assert_eq!(joined.status(), 404);
}

#[tokio::test]
async fn a_sign_in_with_the_old_password_does_not_survive_a_new_one() {
    let stage = Stage::set().await;
    stage.client.post("/users", &json!({"name": "ana"})).await;
    let reset = stage.client.post("/users/ana/reset-password", &json!({})).await;
    let form = format!("token={}&password={PASSWORD}", token_of(&reset, "url"));
    assert_eq!(send(&stage, "/reset", "", form).await.status(), 303);
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut watcher = PgConnection::connect(&stage.database_url).await.unwrap();
    let mut change = database.begin().await.unwrap();
    change.execute("UPDATE users SET password = 'another hash' WHERE name = 'ana'").await.unwrap();
    change.execute("DELETE FROM web_sessions").await.unwrap();
    let release = async {
        waiting(&mut watcher, 1).await;
        change.commit().await.unwrap();
    };
    let form = format!("name=ana&password={PASSWORD}");
    let (signed_in, ()) = tokio::join!(send(&stage, "/login", "", form), release);
    assert_eq!(signed_in.status(), 401);
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM web_sessions").fetch_one(&mut watcher).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn wrong_passwords_are_noted_once_a_minute_and_names_that_nobody_has_are_not_repeated() {
    let stage = Stage::set().await;
    stage.client.post("/users", &json!({"name": "ana"})).await;
    for name in ["ana", "ana", "my-own-password", "my-own-password"] {
        let form = format!("name={name}&password=wrong");
        assert_eq!(send(&stage, "/login", "", form).await.status(), 401);
    }
    let entries = audited(&stage, "sign_in").await;
    let refused: Vec<(&str, &str)> = entries
        .iter()
        .filter(|entry| entry["outcome"] == "refused")
        .map(|entry| (entry["user"].as_str().unwrap(), entry["detail"].as_str().unwrap()))
        .collect();
    assert_eq!(refused, [("(unknown)", "wrong name or password"), ("ana", "wrong name or password")]);
    assert!(!json!(entries).to_string().contains("my-own-password"));
}

#[tokio::test]
async fn who_cannot_be_noted_does_not_join_and_is_not_signed_in() {
    let stage = Stage::set().await;
    let invited = stage.client.post("/invitations", &json!({"role": "viewer"})).await;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    database
        .execute(
            "ALTER TABLE audit_entries ADD CONSTRAINT no_more CHECK (action NOT IN ('join_project', 'sign_in')) NOT VALID",
        )
        .await
        .unwrap();
    let form = format!("token={}&name=eve&password={PASSWORD}", token_of(&invited, "url"));
    let refused = send(&stage, "/invitation", "", form.clone()).await;
    assert!(refused.status().is_server_error(), "{}", refused.status());
    let link = link(&stage).await;
    assert!(stage.page(&link, "").await.headers().get(SET_COOKIE).is_none());
    let users: i64 = sqlx::query_scalar("SELECT count(*) FROM users WHERE name = 'eve'")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(users, 0);
    database.execute("ALTER TABLE audit_entries DROP CONSTRAINT no_more").await.unwrap();
    // Neither was used up.
    assert_eq!(send(&stage, "/invitation", "", form).await.status(), 303);
    assert!(stage.page(&link, "").await.headers().get(SET_COOKIE).is_some());
}

#[tokio::test]
async fn another_site_does_not_choose_as_whom_somebody_is_signed_in() {
    let stage = Stage::set().await;
    let link = link(&stage).await;
    let get = async |site: &str| {
        let url = format!("http://{}{link}", stage.running.dashboard);
        reqwest::Client::new().get(url).header("sec-fetch-site", site).send().await.unwrap()
    };
    for site in ["cross-site", "same-site"] {
        let asked = get(site).await;
        assert!(asked.headers().get(SET_COOKIE).is_none(), "{site}");
        assert!(asked.text().await.unwrap().contains("Sign in with this link?"), "{site}");
    }
    let token = link.rsplit("token=").next().unwrap();
    let signed_in = send(&stage, "/login/link", "", format!("token={token}")).await;
    assert!(signed_in.headers().get(SET_COOKIE).is_some(), "the link is good still");
    assert!(get("none").await.headers().get(SET_COOKIE).is_none(), "and is used up now");
}

#[tokio::test]
async fn what_a_page_refuses_is_noted_as_what_the_api_refuses() {
    let stage = Stage::set().await;
    let viewer = Person::join(&stage, "vera", "default", "viewer").await;
    let refused =
        send(&stage, "/projects/default/jobs/new", &viewer.cookie, "as=form&name=x&command=true".to_owned())
            .await;
    assert_eq!(refused.status(), 403, "{}", refused.text().await.unwrap());
    eventually("it is noted", async || {
        let entries = stage.client.get("/audit?user=vera&outcome=refused").await;
        let first = entries.body["items"][0].clone();
        (first["action"] == "submit_job").then_some(())
    })
    .await;
    for page in ["jobs", "queue", "workers", "keys", "members", "secrets"] {
        stage.page_at(&format!("/projects/default/{page}"), &viewer.cookie).await;
    }
}

#[tokio::test]
async fn a_request_that_waits_ends_with_its_key() {
    let stage = Stage::set().await;
    let ana = Person::join(&stage, "ana", "default", "operator").await;
    let key = ana.key("default").await;
    let job = key.submit(json!({"script": "true", "resources": {"cpu": 99}})).await;
    let path = format!("/jobs/{job}?wait=60s");
    let revoke = async {
        eventually("the request waits", async || {
            let listed = stage.client.get("/keys").await;
            let mine = listed.body["items"].as_array()?.iter().find(|key| key["name"] == "ana")?.clone();
            mine["last_used_at"].is_string().then_some(mine["id"].clone())
        })
        .await;
        stage.client.delete("/projects/default/members/ana").await;
        stage.client.post(&format!("/jobs/{job}/stop"), &json!({"force": true})).await;
    };
    let (waited, ()) = tokio::join!(key.get(&path), revoke);
    assert_eq!(waited.status, 401, "{}", waited.text);
}
