//! The authorisation matrix, made from the API's own description and from the list of pages: a door that is added later is in it.

use std::sync::atomic::{AtomicU32, Ordering};

use gaffer_domain::members::MemberRole;
use gaffer_domain::scopes::{Scope, Scopes};
use gaffer_e2e::client::Client;
use gaffer_e2e::openapi;
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_master::http::page_paths;
use reqwest::header::{ACCEPT, AUTHORIZATION, COOKIE};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::people::Person;
use super::tenants::{dead_letter, neighbour};

/// In names of what the first project has, and nowhere else.
const OWN: &str = "zq7-own";
/// The name of its secret.
const SECRET: &str = "ZQ7_OWN";

/// Makes names that nobody has.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Operations whose path has the name of what they make, which may be free in each project.
const NAMES_WHAT_IT_MAKES: [&str; 4] = ["save_template", "apply_service", "diff_service", "set_secret"];

/// Operations that are asked for by `POST`, and change nothing.
const CHANGES_NOTHING: [&str; 2] = ["diff_service", "check_output_store"];

/// The newest entries of the audit logs of the project and of the installation.
async fn noted(client: &Client) -> [Value; 2] {
    let mut newest = [Value::Null, Value::Null];
    for (of, newest) in ["project", "installation"].into_iter().zip(&mut newest) {
        let answer = client.get(&format!("/audit?limit=1&of={of}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        *newest = answer.body["items"][0]["id"].clone();
    }
    newest
}

/// What the first project has, to be addressed by both.
struct Targets {
    stage: Stage,
    worker: i64,
    job: i64,
    key: i64,
    letter: i64,
    invitation: i64,
    session: i64,
}

impl Targets {
    /// Also gives the worker, which stays connected as long as it is kept.
    async fn set() -> (Targets, RawWorker) {
        let stage = Stage::set().await;
        let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello(OWN)).await;
        let job = stage.client.submit(json!({"name": OWN, "script": "true", "labels": {"a": OWN}})).await;
        stage.client.submit(json!({"name": OWN, "type": "service", "script": "true", "count": 1})).await;
        for _ in 0..2 {
            let attempt = worker.next_start().await.attempt;
            worker.started(attempt).await;
        }
        stage.client.in_state(job, "running").await;
        let key =
            stage.client.post("/keys", &json!({"kind": "worker", "name": OWN})).await.body["id"].clone();
        let letter = dead_letter(&stage, job).await;
        let number = worker.welcome.worker.0;
        (
            Targets {
                stage,
                worker: number,
                job,
                key: key.as_i64().unwrap(),
                letter,
                invitation: 0,
                session: 0,
            },
            worker,
        )
    }

    /// Puts back what an allowed request has deleted or used up. `of`: a client of the user who asks, who has all scopes.
    async fn renew(&mut self, path: &str, of: &Client) {
        if path.contains("{user}") {
            let admin = &self.stage.client;
            admin.post("/users", &json!({"name": OWN})).await;
            admin.post(&format!("/users/{OWN}/enable"), &json!({})).await;
            let member = format!("/projects/default/members/{OWN}");
            let set = admin.post(&member, &json!({"role": "viewer"})).await;
            assert_eq!(set.status, 200, "{}", set.text);
        }
        if path.contains("{invitation}") {
            let made = self.stage.client.post("/invitations", &json!({"role": "viewer"})).await;
            self.invitation = made.body["id"].as_i64().unwrap();
        }
        if path.contains("{session}") {
            self.stage.sign_in(of).await;
            let sessions = of.get("/sessions").await;
            self.session = sessions.body["items"][0]["id"].as_i64().unwrap();
        }
        if path.contains("{key}") {
            let new = json!({"kind": "user", "name": OWN, "scopes": ["admin"]});
            let key = of.post("/keys", &new).await;
            self.key = key.body["id"].as_i64().unwrap();
        }
        if path.contains("{template}") {
            let template = json!({"script": "true"});
            let saved = self.stage.client.post(&format!("/templates/{OWN}"), &template).await;
            assert!(saved.status.is_success(), "{}", saved.text);
        }
        if path.contains("secret") {
            let request = self.stage.client.request(Method::PUT, &format!("/secrets/{SECRET}"));
            let set = request.json(&json!({"value": "of the matrix"})).send().await.unwrap();
            assert!(set.status().is_success(), "{set:?}");
        }
        if path.contains("{letter}") {
            self.letter = dead_letter(&self.stage, self.job).await;
        }
    }

    fn address(&self, path: &str) -> String {
        path.replace("{job}", &self.job.to_string())
            .replace("{task}", "main")
            .replace("{service}", OWN)
            .replace("{worker}", &self.worker.to_string())
            .replace("{key}", &self.key.to_string())
            .replace("{template}", OWN)
            .replace("{project}", "default")
            .replace("{user}", OWN)
            .replace("{invitation}", &self.invitation.to_string())
            .replace("{session}", &self.session.to_string())
            .replace("{identity}", "7")
            .replace("{verb}", "disable")
            .replace("{secret}", SECRET)
            .replace("{letter}", &self.letter.to_string())
    }
}

/// A route with the scopes that a key needs for it.
struct Operation {
    id: String,
    method: Method,
    path: String,
    needs: Scopes,
    /// Names of the roles that may do it.
    roles: Vec<String>,
    has_body: bool,
}

/// All routes that need a key.
fn operations() -> Vec<Operation> {
    let document = openapi::present();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let Some(security) = operation["security"].as_array().unwrap().first() else { continue };
            let scopes = security["key"].as_array().unwrap().iter();
            all.push(Operation {
                id: operation["operationId"].as_str().unwrap().to_owned(),
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                roles: operation["x-roles"].as_array().unwrap().iter().map(text).collect(),
                needs: scopes.map(|scope| scope.as_str().unwrap().parse::<Scope>().unwrap()).collect(),
                has_body: operation.pointer("/requestBody/content/application~1json").is_some(),
            });
        }
    }
    all
}

impl Operation {
    async fn ask(&self, client: &Client, address: &str, accept: &str) -> Response {
        self.ask_with(client, address, accept, &json!({})).await
    }

    async fn ask_with(&self, client: &Client, address: &str, accept: &str, body: &Value) -> Response {
        let request = client.request(self.method.clone(), address).header(ACCEPT, accept);
        let request = if self.has_body { request.json(body) } else { request };
        request.send().await.unwrap()
    }

    /// A body with which it does something, so that its answer is made, too.
    fn valid_body(&self) -> Value {
        let service = json!({"name": OWN, "type": "service", "script": "true", "count": 1});
        match self.id.as_str() {
            "submit_job" | "save_template" => json!({"script": "true"}),
            "apply_service" | "diff_service" => service,
            "scale_job" | "scale_service" => json!({"count": 2}),
            "signal_task" => json!({"signal": "SIGINT"}),
            "create_key" => json!({"kind": "user", "name": "of the matrix"}),
            "set_member" | "create_invitation" => json!({"role": "viewer"}),
            "rename_project" => json!({"name": "default"}),
            "set_project" => json!({"weight": 100}),
            "create_project" | "create_user" => {
                json!({"name": format!("{OWN}-{}", NUMBER.fetch_add(1, Ordering::Relaxed))})
            }
            "set_secret" => json!({"value": "of the matrix"}),
            _ => json!({}),
        }
    }
}

/// Keys of a user in their project: of one scope, of all but one, and of all, which is the last.
async fn keys(client: &Client) -> Vec<(Scopes, Client)> {
    let each = Scope::ALL.map(Scopes::only);
    let sets = each.into_iter().chain(each.map(|one| Scopes::ALL.without(one))).chain([Scopes::ALL]);
    let mut keys = Vec::new();
    for scopes in sets {
        let names: Vec<&str> = scopes.iter().map(Scope::as_str).collect();
        let new = json!({"kind": "user", "name": "of the matrix", "scopes": names});
        let created = client.post("/keys", &new).await;
        assert_eq!(created.body["scopes"], json!(names), "{}", created.text);
        keys.push((scopes, client.with_key(created.body["key"].as_str().unwrap())));
    }
    keys
}

/// Somebody with keys of their project.
struct Holder {
    /// Names of what they are: their role, and whether they administer the installation.
    roles: Vec<&'static str>,
    is_of_project: bool,
    keys: Vec<(Scopes, Client)>,
}

impl Holder {
    /// A client that may do all that they may.
    fn whole(&self) -> &Client {
        &self.keys.last().unwrap().1
    }

    fn may(&self, operation: &Operation) -> bool {
        operation.roles.iter().any(|role| self.roles.contains(&role.as_str()))
    }
}

/// A holder for each role in the first project, one who also administers the installation, and an admin of another project.
async fn holders(stage: &Stage) -> Vec<Holder> {
    let mut holders = Vec::new();
    for role in MemberRole::ALL {
        let person = Person::join(stage, &format!("a-{role}"), "default", role.as_str()).await;
        let keys = keys(&person.key("default").await).await;
        holders.push(Holder { roles: vec![role.as_str()], is_of_project: true, keys });
    }
    let keys_of_admin = keys(&stage.client).await;
    holders.push(Holder {
        roles: vec!["admin", "installation admin"],
        is_of_project: true,
        keys: keys_of_admin,
    });
    let (eve, _) = neighbour(stage).await;
    holders.push(Holder { roles: vec!["admin"], is_of_project: false, keys: keys(&eve).await });
    holders
}

/// Refused because scopes are missing, with each of them and the way to get them.
async fn assert_refused(cell: &str, response: Response, missing: Scopes) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    assert_eq!((status, body["code"].as_str()), (403, Some("scope_missing")), "{cell}: {body}");
    let detail = body["detail"].as_str().unwrap();
    assert!(detail.contains(&format!("lacks the scope {missing};")), "{cell}: {detail}");
    assert!(detail.contains("gaffer keys create NAME --scope"), "{cell}: {detail}");
}

/// Refused because of the role, whatever the key.
async fn assert_forbidden(cell: &str, response: Response) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    assert_eq!((status, body["code"].as_str()), (403, Some("forbidden")), "{cell}: {body}");
}

#[tokio::test]
async fn each_route_is_open_to_keys_of_its_roles_scopes_and_project_and_to_no_other_key() {
    let (mut targets, _worker) = Targets::set().await;
    let holders = holders(&targets.stage).await;
    let nobody = targets.stage.client.with_key("");
    let worker_key = targets.stage.client.with_key(&targets.stage.worker_key);
    let administrator = targets.stage.client.clone();
    let operations = operations();
    let mut cells = 0;
    // First all that must be refused, or find nothing.
    for operation in &operations {
        targets.renew(&operation.path, &administrator).await;
        let address = targets.address(&operation.path);
        let name = format!("{} {}", operation.method, operation.path);
        for client in [&nobody, &worker_key] {
            let response = operation.ask(client, &address, "application/json").await;
            let status = response.status().as_u16();
            let code = response.json::<Value>().await.unwrap()["code"].clone();
            // After many of them it says so, which only a route does that looks at keys.
            let is_refused = (status, &code) == (401, &json!("key_invalid"))
                || (status, &code) == (429, &json!("too_many_attempts"));
            assert!(is_refused, "{name}: {status} {code}");
            cells += 1;
        }
        for holder in &holders {
            for (scopes, client) in &holder.keys {
                let missing = operation.needs.without(*scopes);
                let cell = format!("{name} as {:?} with {scopes:?}", holder.roles);
                let ask = async |accept| operation.ask(client, &address, accept).await;
                // The role decides first.
                if !holder.may(operation) {
                    assert_forbidden(&cell, ask("application/json").await).await;
                } else if !missing.is_empty() {
                    for accept in
                        ["application/json", "text/event-stream", "application/x-ndjson", "text/html"]
                    {
                        assert_refused(&cell, ask(accept).await, missing).await;
                    }
                } else if !holder.is_of_project {
                    let is_of_something =
                        operation.path.contains('{') && !NAMES_WHAT_IT_MAKES.contains(&&*operation.id);
                    let body = if is_of_something { operation.valid_body() } else { json!({}) };
                    let response = operation.ask_with(client, &address, "application/json", &body).await;
                    let status = response.status().as_u16();
                    let text = response.text().await.unwrap();
                    match is_of_something {
                        // Nothing says that it exists.
                        true => assert_eq!(status, 404, "{cell}: {text}"),
                        false => {
                            assert!(![401, 403, 404].contains(&status) && status < 500, "{cell}: {text}")
                        }
                    }
                    let shows = status == 200 && (text.contains(OWN) || text.contains(SECRET));
                    assert!(!shows, "{cell} shows what is not theirs: {text}");
                } else {
                    continue;
                }
                cells += 1;
            }
        }
    }
    // Nothing of it did anything.
    let client = &targets.stage.client;
    assert_eq!(client.job(targets.job).await.state, "running");
    assert_eq!(client.get(&format!("/workers/{}", targets.worker)).await.body["state"], "online");
    assert_eq!(client.get(&format!("/services/{OWN}")).await.status, 200);
    let listed = client.get("/keys?limit=500").await.body;
    let items = listed["items"].as_array().unwrap();
    assert!(items.iter().all(|key| key["revoked_at"].is_null() && key["replaced_by"].is_null()), "{listed}");

    // Then all that must be let in.
    for operation in &operations {
        for holder in holders.iter().filter(|holder| holder.is_of_project && holder.may(operation)) {
            for (scopes, client) in &holder.keys {
                if !operation.needs.without(*scopes).is_empty() {
                    continue;
                }
                let cell =
                    format!("{} {} as {:?} with {scopes:?}", operation.method, operation.path, holder.roles);
                targets.renew(&operation.path, holder.whole()).await;
                let (address, body) = (targets.address(&operation.path), operation.valid_body());
                let noted = noted(&targets.stage.client).await;
                let response = operation.ask_with(client, &address, "application/json", &body).await;
                let status = response.status().as_u16();
                let text = response.text().await.unwrap();
                assert!(![401, 403, 404].contains(&status) && status < 500, "{cell}: {text}");
                // What changes something is in the audit log, and what only reads is not.
                let is_change = operation.method != Method::GET && !CHANGES_NOTHING.contains(&&*operation.id);
                let has_entry = self::noted(&targets.stage.client).await != noted;
                // One that was refused for its contents may be in it or not.
                assert!(
                    has_entry == is_change || status >= 400,
                    "{cell} is noted: {has_entry}; {status}: {text}"
                );
                cells += 1;
            }
        }
    }
    assert_eq!(cells, operations.len() * (2 + holders.len() * holders[0].keys.len()));
    assert!(operations.len() > 65, "{}", operations.len());
}

/// Pages that anybody gets.
const PUBLIC: [&str; 12] = [
    "/login",
    "/login/link",
    "/login/oidc",
    "/login/oidc/callback",
    "/login/oidc/name",
    "/logout",
    "/reset",
    "/invitation",
    "/register",
    "/theme",
    "/static/{name}",
    "/favicon.ico",
];

#[tokio::test]
async fn each_page_is_open_to_sessions_of_its_project_and_to_no_key() {
    let (mut targets, _worker) = Targets::set().await;
    let administrator = targets.stage.client.clone();
    targets.renew("{template} {user}", &administrator).await;
    targets.renew("/secrets", &administrator).await;
    let stage = &targets.stage;
    let (eve, _) = neighbour(stage).await;
    let (cookie, eves) = (stage.sign_in(&stage.client).await, stage.sign_in(&eve).await);
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let base = format!("http://{}", stage.running.dashboard);
    let bearer = format!("Bearer {}", stage.client.key());
    let mut pages = 0;
    for path in page_paths().into_iter().filter(|path| !PUBLIC.contains(path)) {
        let address = format!("{base}{}", targets.address(path));
        for method in [Method::GET, Method::POST] {
            let request = || http.request(method.clone(), &address).header(ACCEPT, "text/html");
            let refused = request().header(AUTHORIZATION, &bearer).send().await.unwrap();
            let status = refused.status().as_u16();
            let place = refused.headers().get("location").map(|place| place.to_str().unwrap().to_owned());
            let to_login = status == 303 && place.is_some_and(|place| place.starts_with("/login"));
            assert!(to_login || status == 405, "{method} {path} with a key alone: {status}");
            if !path.contains('{') {
                continue;
            }
            for project in ["neighbour", "default", "nowhere"] {
                let address = format!("{base}/projects/{project}{}", targets.address(path));
                let request = http.request(method.clone(), &address).header(ACCEPT, "text/html");
                let found = request.header(COOKIE, &eves).send().await.unwrap().status().as_u16();
                match method {
                    Method::GET => {
                        assert!([404, 405].contains(&found), "{address} for another project: {found}")
                    }
                    // A form without its fields may be refused for that.
                    _ => assert!((400..500).contains(&found), "{address} from another project: {found}"),
                }
            }
        }
        pages += 1;
    }
    assert!(pages > 40, "{pages}");
    let own = stage.page(&format!("/jobs/{}", targets.job), &cookie).await;
    assert_eq!(own.status(), 200);
    assert_eq!(stage.client.job(targets.job).await.state, "running");
}

#[tokio::test]
async fn what_needs_no_key_is_a_short_list() {
    let document = openapi::present();
    let mut open = Vec::new();
    for methods in document["paths"].as_object().unwrap().values() {
        for operation in methods.as_object().unwrap().values() {
            if operation["security"].as_array().unwrap().is_empty() {
                open.push(operation["operationId"].as_str().unwrap().to_owned());
            }
        }
    }
    open.sort_unstable();
    let expected = [
        "authorize_device",
        "get_device_key",
        "get_job_schema",
        "get_liveness",
        "get_openapi",
        "get_readiness",
        "get_version",
    ];
    assert_eq!(open, expected);
}
