//! Users, projects and roles: who sees and does what, and until when.

use futures::StreamExt;
use gaffer_e2e::client::{Answer, Client, script};
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_e2e::{PATIENCE, eventually};
use reqwest::Response;
use reqwest::header::{ACCEPT, COOKIE, LOCATION};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::upgrade::database_before;

/// Somebody who is signed in to the dashboard.
pub struct Person {
    name: String,
    pub cookie: String,
    dashboard: Client,
}

impl Person {
    /// A new user, who signs in with their first link.
    pub async fn create(stage: &Stage, name: &str) -> Person {
        let created = stage.client.post("/users", &json!({"name": name})).await;
        assert_eq!(created.status, 201, "{}", created.text);
        Person::sign_in(stage, name, created.body["login_url"].as_str().unwrap()).await
    }

    /// The same as a member of a project.
    pub async fn join(stage: &Stage, name: &str, project: &str, role: &str) -> Person {
        let person = Person::create(stage, name).await;
        let path = format!("/projects/{project}/members/{name}");
        let joined = stage.client.post(&path, &json!({"role": role})).await;
        assert_eq!((joined.status.as_u16(), &joined.body["role"]), (200, &json!(role)), "{}", joined.text);
        person
    }

    /// Somebody whose browser is signed in already.
    pub fn with_cookie(stage: &Stage, name: &str, cookie: &str) -> Person {
        let dashboard = Client::new(&format!("http://{}", stage.running.dashboard), "");
        Person { name: name.to_owned(), cookie: cookie.to_owned(), dashboard }
    }

    async fn sign_in(stage: &Stage, name: &str, link: &str) -> Person {
        let response = stage.page(&link[link.find("/login").unwrap()..], "").await;
        let cookie = response.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let dashboard = Client::new(&format!("http://{}", stage.running.dashboard), "");
        Person { name: name.to_owned(), cookie, dashboard }
    }

    /// A client with a new key of theirs in a project, made on the dashboard.
    pub async fn key(&self, project: &str) -> Client {
        let made = self.post(project, "/api/v1/keys", &json!({"kind": "user", "name": self.name})).await;
        assert_eq!(made.status, 201, "{}", made.text);
        self.dashboard.with_key(made.body["key"].as_str().unwrap())
    }

    /// Sends JSON to an address in a project.
    async fn post(&self, project: &str, path: &str, body: &Value) -> Answer {
        let url = format!("{}/projects/{project}{path}", self.dashboard.base());
        let request = reqwest::Client::new().post(url).header(COOKIE, &self.cookie).json(body);
        Answer::of(request.send().await.unwrap()).await
    }
}

async fn rest_of(response: Response) -> String {
    let mut text = String::new();
    let mut pieces = response.bytes_stream();
    let read = async {
        while let Some(Ok(piece)) = pieces.next().await {
            text.push_str(&String::from_utf8_lossy(&piece));
        }
    };
    tokio::time::timeout(*PATIENCE, read).await.expect("the stream ends");
    text
}

/// Streams of somebody: the history in the API, by their key, and as a page, by their session.
async fn streams(stage: &Stage, person: &Person, key: &Client, project: &str) -> [Response; 2] {
    let events = key.open("/events", "text/event-stream").await;
    let page = stage.page_at(&format!("/projects/{project}/events/live?after=0"), &person.cookie).await;
    assert_eq!((events.status().as_u16(), page.status().as_u16()), (200, 200));
    [events, page]
}

#[tokio::test]
async fn a_viewer_looks_an_operator_runs_jobs_and_an_admin_manages_members() {
    let stage = Stage::set().await;
    let job = stage.client.submit(script("true")).await;
    let mut clients = Vec::new();
    for role in ["viewer", "operator", "admin"] {
        clients.push(Person::join(&stage, &format!("a-{role}"), "default", role).await.key("default").await);
    }
    let [viewer, operator, admin] = clients.try_into().unwrap();
    for client in [&viewer, &operator, &admin] {
        assert_eq!(client.get(&format!("/jobs/{job}")).await.status, 200);
    }
    let refused = viewer.post("/jobs", &script("true")).await;
    assert_eq!((refused.status.as_u16(), &refused.body["code"]), (403, &json!("forbidden")));
    assert_eq!(
        refused.body["detail"],
        "the role viewer may not submit and rerun jobs, update services: that takes the role operator or admin"
    );
    operator.submit(script("true")).await;
    let joins = ("/projects/default/members/a-viewer", json!({"role": "operator"}));
    assert_eq!(operator.post(joins.0, &joins.1).await.status, 403);
    assert_eq!(admin.post(joins.0, &joins.1).await.status, 200);
    // The new role counts at once, with the key of before.
    viewer.submit(script("true")).await;
    assert_eq!(admin.post(joins.0, &json!({"role": "viewer"})).await.status, 200);
    assert_eq!(viewer.post("/jobs", &script("true")).await.status, 403);
    // Users, and other projects, are the business of the installation.
    for client in [&viewer, &operator, &admin] {
        assert_eq!(client.get("/users").await.status, 403);
        assert_eq!(client.post("/projects", &json!({"name": "x"})).await.status, 403);
        assert_eq!(client.get("/queue").await.body["passes"]["count"], 0, "of all projects");
    }
    let wrong = admin.post(joins.0, &json!({"role": "owner"})).await;
    assert_eq!((wrong.status.as_u16(), &wrong.body["errors"][0]["pointer"]), (422, &json!("/role")));
    let nobody = admin.post("/projects/default/members/nobody", &json!({"role": "viewer"})).await;
    assert_eq!((nobody.status.as_u16(), &nobody.body["detail"]), (404, &json!("no user nobody")));
}

#[tokio::test]
async fn who_is_no_admin_has_their_own_keys_and_sees_no_others() {
    let stage = Stage::set().await;
    let operator = Person::join(&stage, "olga", "default", "operator").await.key("default").await;
    let own = operator.get("/keys").await.body["items"].clone();
    assert_eq!(own.as_array().unwrap().len(), 1, "{own}");
    let all = stage.client.get("/keys").await.body["items"].clone();
    assert_eq!(all.as_array().unwrap().len(), 3, "{all}");
    let worker_key = operator.post("/keys", &json!({"kind": "worker", "name": "w"})).await;
    assert_eq!((worker_key.status.as_u16(), &worker_key.body["code"]), (403, &json!("forbidden")));
    for key in all.as_array().unwrap().iter().filter(|key| key["id"] != own[0]["id"]) {
        let path = format!("/keys/{}", key["id"]);
        assert_eq!(operator.delete(&path).await.status, 404);
        assert_eq!(operator.post(&format!("{path}/rotate"), &json!({})).await.status, 404);
    }
    let path = format!("/keys/{}", own[0]["id"]);
    assert_eq!(operator.post(&format!("{path}/rotate"), &json!({})).await.status, 201);
    // An admin revokes keys of others, and does not rotate them into their own hands.
    assert_eq!(stage.client.post(&format!("{path}/rotate"), &json!({})).await.status, 409);
    assert_eq!(stage.client.delete(&path).await.status, 204);
    assert_eq!(operator.get("/jobs").await.body["code"], "key_invalid");
}

#[tokio::test]
async fn who_is_no_member_any_more_is_out_at_once_and_what_they_follow_ends() {
    let stage = Stage::set().await;
    let ana = Person::join(&stage, "ana", "default", "operator").await;
    let (key, own) = (ana.key("default").await, ana.key("ana").await);
    let [events, page] = streams(&stage, &ana, &key, "default").await;
    let elsewhere = stage.page_at("/projects/ana/events/live?after=0", &ana.cookie).await;
    assert_eq!(elsewhere.status(), 200);
    let others = stage.client.open("/events", "text/event-stream").await;
    assert_eq!(stage.client.delete("/projects/default/members/ana").await.status, 204);
    let refused = key.get("/jobs").await;
    assert_eq!(refused.status, 401, "{}", refused.text);
    assert!(rest_of(events).await.contains("\"key_revoked\""));
    assert!(rest_of(page).await.contains("\"session_ended\""));
    assert_eq!(stage.page_at("/projects/default/jobs", &ana.cookie).await.status(), 404);
    // Her session and her own project are hers, and others go on.
    assert_eq!(stage.page_at("/projects/ana/jobs", &ana.cookie).await.status(), 200);
    own.submit(script("true")).await;
    stage.client.submit(script("true")).await;
    for stream in [elsewhere, others] {
        let mut pieces = stream.bytes_stream();
        let mut text = String::new();
        while !text.contains("submitted") {
            text.push_str(&String::from_utf8_lossy(&pieces.next().await.unwrap().unwrap()));
        }
        assert!(!text.contains("event: error"), "{text}");
    }
    // Should she come back, what she had does not.
    stage.client.post("/projects/default/members/ana", &json!({"role": "admin"})).await;
    assert_eq!(key.get("/jobs").await.body["code"], "key_invalid");
    assert_eq!(stage.client.delete("/projects/default/members/nobody").await.status, 404);
}

#[tokio::test]
async fn a_project_keeps_an_admin_and_everybody_their_own_project() {
    let stage = Stage::set().await;
    let ana = Person::join(&stage, "ana", "default", "operator").await;
    let members = "/projects/default/members";
    let set = async |user: &str, role: &str| {
        stage.client.post(&format!("{members}/{user}"), &json!({"role": role})).await
    };
    for refused in [set("admin", "viewer").await, stage.client.delete(&format!("{members}/admin")).await] {
        assert_eq!((refused.status.as_u16(), &refused.body["state"]), (409, &json!("admin")));
        assert!(refused.body["detail"].as_str().unwrap().contains("the last admin of project default"));
    }
    // A disabled admin is in charge of nothing.
    assert_eq!(set("ana", "admin").await.status, 200);
    assert_eq!(stage.client.post("/users/ana/disable", &json!({})).await.status, 200);
    assert_eq!(set("admin", "viewer").await.status, 409);
    stage.client.post("/users/ana/enable", &json!({})).await;
    // Of two who go at the same moment, one stays.
    let (client, key) = (&stage.client, ana.key("default").await);
    let paths = [format!("{members}/admin"), format!("{members}/ana")];
    let (one, other) = tokio::join!(key.delete(&paths[0]), client.delete(&paths[1]));
    let gone = [&one, &other].into_iter().filter(|answer| answer.status == 204).count();
    assert_eq!(gone, 1, "{} {}", one.text, other.text);
    let admins: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM memberships WHERE role = 'admin' AND project_id = (SELECT min(id) FROM projects)",
    )
    .fetch_one(&mut PgConnection::connect(&stage.database_url).await.unwrap())
    .await
    .unwrap();
    assert_eq!(admins, 1);
}

#[tokio::test]
async fn a_personal_project_stays_with_its_user() {
    let stage = Stage::set().await;
    let ana = Person::create(&stage, "ana").await;
    let client = ana.key("ana").await;
    let listed = client.get("/projects").await.body;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    let project = &listed["items"][0];
    assert_eq!((&project["name"], &project["personal_of"]), (&json!("ana"), &json!("ana")));
    assert_eq!((&project["role"], &project["members"]), (&json!("admin"), &json!(1)));
    for refused in [
        client.delete("/projects/ana/members/ana").await,
        client.post("/projects/ana/members/ana", &json!({"role": "viewer"})).await,
        client.post("/projects/ana/rename", &json!({"name": "hers"})).await,
        client.delete("/projects/ana").await,
    ] {
        assert_eq!(refused.status, 409, "{}", refused.text);
        assert!(refused.body["detail"].as_str().unwrap().contains("personal"), "{}", refused.text);
    }
    // Others may be members.
    stage.client.post("/users", &json!({"name": "bob"})).await;
    assert_eq!(client.post("/projects/ana/members/bob", &json!({"role": "viewer"})).await.status, 200);
    let members = client.get("/projects/ana/members").await.body["items"].clone();
    assert_eq!(members[1]["user"], "bob", "{members}");
    for taken in ["ana", "default"] {
        let refused = stage.client.post("/users", &json!({"name": taken})).await;
        assert_eq!((refused.status.as_u16(), &refused.body["state"]), (409, &json!("taken")), "{taken}");
        assert_eq!(stage.client.post("/projects", &json!({"name": taken})).await.status, 409, "{taken}");
    }
    for wrong in ["", "Ana", "a b", "../x", "-x"] {
        let refused = stage.client.post("/users", &json!({"name": wrong})).await;
        assert_eq!(refused.body["errors"][0]["pointer"], "/name", "{wrong}: {}", refused.text);
    }
}

#[tokio::test]
async fn a_disabled_user_is_out_at_once_and_back_when_enabled() {
    let stage = Stage::set().await;
    let ana = Person::join(&stage, "ana", "default", "viewer").await;
    let key = ana.key("default").await;
    let [events, page] = streams(&stage, &ana, &key, "default").await;
    let link = stage.client.post("/users/ana/login-link", &json!({})).await.body["url"].clone();
    let disabled = stage.client.post("/users/ana/disable", &json!({})).await;
    assert!(disabled.body["disabled_at"].is_string(), "{}", disabled.text);
    let refused = key.get("/jobs").await;
    assert_eq!((refused.status.as_u16(), &refused.body["code"]), (401, &json!("key_invalid")));
    assert!(rest_of(events).await.contains("\"key_revoked\""));
    assert!(rest_of(page).await.contains("\"session_ended\""));
    let signed_out = stage.page_at("/projects/default/jobs", &ana.cookie).await;
    assert!(signed_out.headers()[LOCATION].to_str().unwrap().contains("/login"));
    let link = link.as_str().unwrap();
    let used = stage.page(&link[link.find("/login").unwrap()..], "").await;
    assert!(!used.headers().contains_key("set-cookie"));
    assert_eq!(stage.client.post("/users/ana/login-link", &json!({})).await.status, 409);
    let members = stage.client.get("/projects/default/members").await.body["items"].clone();
    assert_eq!(members[1]["disabled"], true, "{members}");
    stage.client.post("/users/ana/enable", &json!({})).await;
    assert_eq!(key.get("/jobs").await.status, 200);
    assert_eq!(stage.page_at("/projects/default/jobs", &ana.cookie).await.status(), 200);
}

#[tokio::test]
async fn somebody_administers_the_installation_and_sees_no_jobs_for_that() {
    let stage = Stage::set().await;
    let users = async |verb: &str| stage.client.post(&format!("/users/{verb}"), &json!({})).await;
    for verb in ["admin/disable", "admin/revoke-admin"] {
        let refused = users(verb).await;
        assert_eq!(refused.status, 409, "{verb}");
        assert!(refused.body["detail"].as_str().unwrap().contains("last administrator"), "{}", refused.text);
    }
    assert_eq!(stage.client.delete("/users/admin").await.status, 409);
    let ana = Person::create(&stage, "ana").await;
    let key = ana.key("ana").await;
    assert_eq!(key.get("/users").await.status, 403);
    assert_eq!(users("ana/grant-admin").await.body["admin"], true);
    let listed = key.get("/users").await.body["items"].clone();
    assert_eq!((&listed[0]["name"], &listed[1]["name"]), (&json!("admin"), &json!("ana")), "{listed}");
    // All projects, their members, and nothing that is in them.
    let job = stage.client.submit(script("true")).await;
    let names = key.get("/projects").await.body["items"].clone();
    assert_eq!(names[0]["name"], "default", "{names}");
    assert_eq!(names[0]["role"], Value::Null);
    assert_eq!(key.get("/projects/default/members").await.body["items"][0]["user"], "admin");
    assert_eq!(key.get(&format!("/jobs/{job}")).await.status, 404);
    assert_eq!(stage.page_at("/projects/default/jobs", &ana.cookie).await.status(), 404);
    // A key that makes others members needs all scopes.
    let weak = key.post("/keys", &json!({"kind": "user", "name": "x", "scopes": ["admin", "read"]})).await;
    let weak = key.with_key(weak.body["key"].as_str().unwrap());
    for (path, body) in [
        ("/projects/default/members/ana", json!({"role": "admin"})),
        ("/users", json!({"name": "new"})),
        ("/users/admin/login-link", json!({})),
    ] {
        assert_eq!(weak.post(path, &body).await.body["code"], "scope_missing", "{path}");
    }
    assert_eq!(key.post("/projects/default/members/ana", &json!({"role": "admin"})).await.status, 200);
    assert_eq!(users("admin/revoke-admin").await.status, 200);
    assert_eq!(stage.client.get("/users").await.status, 403);
    assert_eq!(key.post("/users/ana/revoke-admin", &json!({})).await.status, 409);
}

#[tokio::test]
async fn a_project_is_made_renamed_and_deleted_with_all_that_it_has() {
    let stage = Stage::set().await;
    let made = stage.client.post("/projects", &json!({"name": "lab"})).await;
    assert_eq!((made.status.as_u16(), &made.body["role"]), (201, &json!("admin")), "{}", made.text);
    let admin = Person::sign_in(&stage, "admin", &stage.running.sign_in_url(60).await.unwrap()).await;
    let client = admin.key("lab").await;
    let job = client.submit(json!({"script": "true", "resources": {"cpu": 99}})).await;
    let renamed = stage.client.post("/projects/lab/rename", &json!({"name": "bench"})).await;
    assert_eq!(renamed.body["name"], "bench", "{}", renamed.text);
    assert_eq!(stage.client.get("/projects/lab").await.status, 404);
    assert_eq!(client.get("/projects/bench").await.status, 200, "the key is good as before");
    assert_eq!(stage.client.post("/projects/bench/rename", &json!({"name": "default"})).await.status, 409);

    let worker_key = client.post("/keys", &json!({"kind": "worker", "name": "w"})).await;
    let worker_key = worker_key.body["key"].as_str().unwrap().to_owned();
    let worker = RawWorker::connect(&stage.worker_url(), &worker_key, hello("w")).await;
    let refused = stage.client.delete("/projects/bench?confirm=bench").await;
    assert_eq!((refused.status.as_u16(), &refused.body["state"]), (409, &json!("in_use")));
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("1 job that has not ended, 1 connected worker;"), "{detail}");
    client.post(&format!("/jobs/{job}/stop"), &json!({"force": true})).await;
    client.finished(job).await;
    drop(worker);
    eventually("the worker is away", async || {
        (client.get("/workers/w").await.body["state"] == "offline").then_some(())
    })
    .await;
    for path in ["/projects/bench", "/projects/bench?confirm=lab"] {
        let refused = stage.client.delete(path).await;
        assert_eq!((refused.status.as_u16(), &refused.body["state"]), (409, &json!("not_empty")));
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains("1 finished job, 1 disconnected worker, 2 keys"), "{detail}");
    }
    let [events, page] = streams(&stage, &admin, &client, "bench").await;
    assert_eq!(stage.client.delete("/projects/bench?confirm=bench").await.status, 204);
    assert_eq!(client.get("/jobs").await.status, 401);
    rest_of(events).await;
    rest_of(page).await;
    assert_eq!(stage.page_at("/projects/bench/jobs", &admin.cookie).await.status(), 404);
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    eventually("its jobs are gone", async || {
        let counted = "SELECT (SELECT count(*) FROM jobs WHERE id = $1) + (SELECT count(*) FROM finished_tasks WHERE job_id = $1)";
        let left: i64 = sqlx::query_scalar(counted).bind(job).fetch_one(&mut database).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
    // The name is free, and brings nothing back.
    assert_eq!(stage.client.post("/projects", &json!({"name": "bench"})).await.status, 201);
    assert_eq!(admin.key("bench").await.get("/jobs").await.body["items"], json!([]));
    assert_eq!(stage.client.delete("/projects/default?confirm=default").await.status, 409);
}

#[tokio::test]
async fn a_user_is_deleted_with_their_keys_and_leaves_no_project_without_an_admin() {
    let stage = Stage::set().await;
    let ana = Person::create(&stage, "ana").await;
    let key = ana.key("ana").await;
    stage.client.post("/projects", &json!({"name": "lab"})).await;
    stage.client.post("/projects/lab/members/ana", &json!({"role": "admin"})).await;
    stage.client.delete("/projects/lab/members/admin").await;
    let refused = stage.client.delete("/users/ana?confirm=ana").await;
    assert_eq!(
        refused.body["detail"],
        "ana is the last admin of lab; make somebody else an admin there first"
    );
    stage.client.post("/projects/lab/members/admin", &json!({"role": "admin"})).await;
    let refused = stage.client.delete("/users/ana").await;
    assert!(refused.body["detail"].as_str().unwrap().contains("project ana has 1 key"), "{}", refused.text);
    assert_eq!(stage.client.delete("/users/ana?confirm=ana").await.status, 204);
    assert_eq!(key.get("/jobs").await.status, 401);
    assert_eq!(stage.client.get("/projects/ana").await.status, 404);
    assert_eq!(stage.client.delete("/users/ana").await.status, 404);
    assert_eq!(stage.client.post("/users", &json!({"name": "ana"})).await.status, 201);
}

#[tokio::test]
async fn an_address_names_its_project_and_one_without_leads_to_the_project_of_the_job() {
    let stage = Stage::set().await;
    let ana = Person::join(&stage, "ana", "default", "viewer").await;
    let (job, own) =
        (stage.client.submit(json!({"name": "shared", "script": "true"})).await, ana.key("ana").await);
    let own_job = own.submit(json!({"name": "private", "script": "true"})).await;
    let at = async |path: &str| stage.page_at(path, &ana.cookie).await;
    let place = |response: &Response| response.headers()[LOCATION].to_str().unwrap().to_owned();
    assert_eq!(place(&at("/jobs?state=failed").await), "/projects/default/jobs?state=failed");
    assert_eq!(place(&at("/").await), "/projects/default/");
    assert_eq!(
        place(&at(&format!("/jobs/{job}?tab=spec")).await),
        format!("/projects/default/jobs/{job}?tab=spec")
    );
    assert_eq!(place(&at(&format!("/jobs/{own_job}")).await), format!("/projects/ana/jobs/{own_job}"));
    // Two tabs show two projects.
    let (one, other) =
        (at("/projects/default/jobs").await.text().await, at("/projects/ana/jobs").await.text().await);
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(one.contains("shared") && !one.contains("private"), "{one}");
    assert!(other.contains("private") && !other.contains("shared"), "{other}");
    assert!(other.contains(&format!("href=\"/projects/ana/jobs/{own_job}\"")), "{other}");
    assert!(other.contains("href=\"/projects/default/\""), "a way to the other one: {other}");
    // What is not there, or not hers, is not found.
    let hers = format!("/projects/default/jobs/{own_job}");
    for path in
        [hers.as_str(), "/projects/nowhere/jobs", "/projects/admin/jobs", "/projects/admin", "/jobs/987654"]
    {
        assert_eq!(stage.page(path, &ana.cookie).await.status(), 404, "{path}");
    }
    // The API with a session is about the same project.
    let http = reqwest::Client::new();
    let jobs = async |path: &str| {
        let url = format!("http://{}{path}", stage.running.dashboard);
        http.get(url).header(COOKIE, &ana.cookie).header(ACCEPT, "application/json").send().await.unwrap()
    };
    for (path, name) in
        [("/projects/ana/api/v1/jobs", "private"), ("/projects/default/api/v1/jobs", "shared")]
    {
        let listed: Value = jobs(path).await.json().await.unwrap();
        assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
        assert_eq!(listed["items"][0]["name"], name, "{listed}");
    }
    assert_eq!(jobs("/projects/admin/api/v1/jobs").await.status(), 404);
    // An admin of one project is nobody in another.
    for (path, body) in [("rename", json!({"name": "hers"})), ("members/ana", json!({"role": "admin"}))] {
        let refused = ana.post("ana", &format!("/api/v1/projects/default/{path}"), &body).await;
        assert_eq!(refused.status, 404, "{path}: {}", refused.text);
    }
    // A viewer is shown nothing that would be refused.
    let page = at(&format!("/projects/default/jobs/{job}")).await.text().await.unwrap();
    assert!(!page.contains("/stop\"") && !page.contains(">New job</a>"), "{page}");
    let page = at(&format!("/projects/ana/jobs/{own_job}")).await.text().await.unwrap();
    assert!(page.contains("/stop\"") && page.contains(">New job</a>"), "{page}");
}

#[tokio::test]
async fn a_session_that_a_key_opened_is_for_the_project_of_the_key() {
    let stage = Stage::set().await;
    let ana = Person::join(&stage, "ana", "default", "viewer").await;
    let cookie = stage.sign_in(&ana.key("default").await).await;
    assert_eq!(stage.page_at("/projects/default/jobs", &cookie).await.status(), 200);
    assert_eq!(stage.page_at("/projects/ana/jobs", &cookie).await.status(), 404);
    let page = stage.page("/projects", &cookie).await.text().await.unwrap();
    assert!(!page.contains("/projects/ana/"), "{page}");
    // Nor does a link that it makes.
    let made = reqwest::Client::new()
        .post(format!("http://{}/projects/default/api/v1/login-links", stage.running.dashboard))
        .header(COOKIE, &cookie);
    let made = Answer::of(made.send().await.unwrap()).await;
    let link = made.body["url"].as_str().unwrap();
    let again = Person::sign_in(&stage, "ana", link).await;
    assert_eq!(stage.page_at("/projects/ana/jobs", &again.cookie).await.status(), 404);
    assert_eq!(stage.page_at("/projects/default/jobs", &again.cookie).await.status(), 200);
}

#[tokio::test]
async fn the_only_user_of_an_earlier_version_administers_all_of_it() {
    let (url, mut database) = database_before(56).await;
    sqlx::raw_sql(
        "INSERT INTO users (name) VALUES ('admin'), ('default'); \
         INSERT INTO memberships (project_id, user_id, role) VALUES (1, 1, 'admin'); \
         INSERT INTO projects (name) VALUES ('neighbour'); \
         INSERT INTO memberships (project_id, user_id, role) VALUES (2, 2, 'admin');",
    )
    .execute(&mut database)
    .await
    .unwrap();
    let secret = gaffer_master::secret::NewSecret::new(gaffer_master::secret::Purpose::UserKey);
    let sql = "INSERT INTO keys (project_id, user_id, kind, name, prefix, sha256) VALUES (1, 1, 'user', 'old', $1, $2)";
    let insert = sqlx::query(sql).bind(secret.shown()).bind(&secret.sha256[..]);
    insert.execute(&mut database).await.unwrap();
    let stage = Stage::on(url).await;
    let client = stage.client.with_key(&secret.text);
    client.submit(script("true")).await;
    let users = client.get("/users").await.body["items"].clone();
    assert_eq!((&users[0]["name"], &users[0]["admin"]), (&json!("admin"), &json!(true)), "{users}");
    assert_eq!((&users[1]["name"], &users[1]["admin"]), (&json!("default"), &json!(false)), "{users}");
    let projects = client.get("/projects").await.body["items"].clone();
    let named: Vec<_> = projects.as_array().unwrap().iter().map(|project| project["name"].as_str()).collect();
    assert_eq!(named, [Some("default"), Some("neighbour"), Some("admin"), Some("default-2")]);
    let members = client.get("/projects/default/members").await.body["items"].clone();
    assert_eq!((&members[0]["user"], &members[0]["role"]), (&json!("admin"), &json!("admin")), "{members}");
}

#[tokio::test]
async fn a_first_user_who_has_gone_does_not_come_back_with_a_restart() {
    let stage = Stage::set().await;
    stage.client.post("/users", &json!({"name": "ana", "admin": true})).await;
    stage.client.post("/projects/default/members/ana", &json!({"role": "admin"})).await;
    let ana = Person::sign_in(
        &stage,
        "ana",
        stage.client.post("/users/ana/login-link", &json!({})).await.body["url"].as_str().unwrap(),
    )
    .await;
    let key = ana.key("default").await;
    assert_eq!(key.delete("/users/admin?confirm=admin").await.status, 204);
    let (url, key) = (stage.strike().await, key.key().to_owned());
    let running = Stage::without_user(url).await;
    let client = Client::new(&format!("http://{}", running.api), &key);
    let users = client.get("/users").await.body["items"].clone();
    assert_eq!(users.as_array().unwrap().len(), 1, "{users}");
    // The master's link is for who administers it now.
    let link = running.sign_in_url(60).await.unwrap();
    assert!(link.contains("/login?token="), "{link}");
    running.stop().await;
}

#[tokio::test]
async fn users_and_projects_are_managed_from_the_command_line() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let run = async |args: &[&str]| {
        let output = dev.cli(args).output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    let (code, link, said) = run(&["users", "create", "ana"]).await;
    assert!(code == 0 && link.contains("/login?token=gfl_") && said.contains("user ana created"), "{said}");
    assert_eq!(run(&["users", "-o", "name"]).await.1, "admin\nana");
    assert_eq!(run(&["projects", "create", "lab"]).await.0, 0);
    assert_eq!(run(&["projects", "set-member", "lab", "ana", "operator"]).await.0, 0);
    let (_, members, _) = run(&["projects", "members", "lab"]).await;
    assert!(members.contains("ana") && members.contains("operator"), "{members}");
    assert_eq!(run(&["projects", "-o", "name"]).await.1, "default\nadmin\nana\nlab");
    assert_eq!(run(&["projects", "remove-member", "lab", "admin"]).await.0, 5);
    assert_eq!(run(&["projects", "remove-member", "lab", "ana"]).await.0, 0);
    assert_eq!(run(&["projects", "rename", "lab", "bench"]).await.0, 0);
    assert_eq!(run(&["projects", "delete", "bench"]).await.0, 0);
    assert_eq!(run(&["users", "disable", "ana"]).await.0, 0);
    assert!(run(&["users"]).await.1.contains("disabled"));
    assert_eq!(run(&["users", "enable", "ana"]).await.0, 0);
    assert!(run(&["users", "login-link", "ana"]).await.1.contains("/login?token=gfl_"));
    assert_eq!(run(&["users", "grant-admin", "ana"]).await.0, 0);
    assert_eq!(run(&["users", "revoke-admin", "ana"]).await.0, 0);
    assert_eq!(run(&["users", "delete", "ana", "--confirm", "ana"]).await.0, 0);
    assert_eq!(run(&["users", "delete", "ana"]).await.0, 3);
}
