//! The API is what it says of itself: its routes, and what they answer.

use std::collections::BTreeSet;

use gaffer_domain::health::Health;
use gaffer_domain::reason::AttemptEnd;
use gaffer_e2e::client::{Client, script};
use gaffer_e2e::eventually;
use gaffer_e2e::openapi;
use gaffer_e2e::openapi::conformance::{Answered, differences, mismatches};
use gaffer_e2e::openapi::requests::make_up;
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::output::Stream;
use rand::SeedableRng;
use rand::rngs::StdRng;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde_json::{Value, json};

/// How many requests are made up.
const MADE_UP: u32 = 1_000;

/// Asks, and holds each answer against the description.
struct Reader {
    client: Client,
    document: Value,
    /// Which operation has answered with which status.
    seen: BTreeSet<(String, u16)>,
}

struct Asked<'a> {
    method: Method,
    /// The path as it is described.
    path: &'a str,
    address: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: Option<(&'a str, Vec<u8>)>,
}

fn get<'a>(path: &'a str, address: &'a str) -> Asked<'a> {
    Asked { method: Method::GET, path, address, headers: &[], body: None }
}

fn post<'a>(path: &'a str, address: &'a str) -> Asked<'a> {
    Asked { method: Method::POST, ..get(path, address) }
}

fn patch<'a>(path: &'a str, address: &'a str) -> Asked<'a> {
    Asked { method: Method::PATCH, ..get(path, address) }
}

fn put<'a>(path: &'a str, address: &'a str) -> Asked<'a> {
    Asked { method: Method::PUT, ..get(path, address) }
}

fn delete<'a>(path: &'a str, address: &'a str) -> Asked<'a> {
    Asked { method: Method::DELETE, ..get(path, address) }
}

impl<'a> Asked<'a> {
    fn with(self, headers: &'a [(&'a str, &'a str)]) -> Asked<'a> {
        Asked { headers, ..self }
    }

    fn json(self, body: &Value) -> Asked<'a> {
        Asked { body: Some(("application/json", body.to_string().into_bytes())), ..self }
    }
}

impl Reader {
    fn of(stage: &Stage) -> Reader {
        Reader { client: stage.client.clone(), document: openapi::present(), seen: BTreeSet::new() }
    }

    /// Gives the status and the body; of a stream only the status.
    async fn ask(&mut self, asked: Asked<'_>) -> (u16, Vec<u8>) {
        let Asked { method, path, address, headers, body } = asked;
        let mut request = self.client.request(method.clone(), address);
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request = request.header(name.parse::<HeaderName>().unwrap(), value);
        }
        if let Some((media_type, bytes)) = body {
            request = request.header(CONTENT_TYPE, media_type).body(bytes);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers: Vec<_> =
            response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let is_stream = headers.iter().any(|(_, value)| value == "text/event-stream");
        let body = if is_stream { Vec::new() } else { response.bytes().await.unwrap().to_vec() };
        let method = method.as_str().to_lowercase();
        let wrong =
            mismatches(&self.document, path, &method, Answered { status, headers: &headers, body: &body });
        assert_eq!(wrong, Vec::<String>::new(), "{method} {address}: {}", String::from_utf8_lossy(&body));
        let operation = self.document["paths"][path][&method]["operationId"].as_str().unwrap();
        self.seen.insert((operation.to_owned(), status));
        (status, body)
    }

    async fn must(&mut self, status: u16, asked: Asked<'_>) -> Value {
        let address = asked.address.to_owned();
        let (answered, body) = self.ask(asked).await;
        assert_eq!(answered, status, "{address}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap_or_default()
    }

    /// Operations of which no success was seen.
    fn unseen(&self) -> Vec<&str> {
        let operations = self.document["paths"].as_object().unwrap().values();
        let operations = operations.flat_map(|methods| methods.as_object().unwrap().values());
        let names = operations.map(|operation| operation["operationId"].as_str().unwrap());
        let is_unseen = |name: &&str| !self.seen.iter().any(|(seen, status)| seen == name && *status < 300);
        names.filter(is_unseen).collect()
    }
}

#[tokio::test]
async fn every_route_answers_as_it_is_described() {
    let stage = Stage::set().await;
    let mut reader = Reader::of(&stage);
    for path in [
        "/livez",
        "/readyz",
        "/version",
        "/metrics",
        "/openapi.json",
        "/schema/job.json",
        "/system",
        "/queue",
        "/trace",
        "/keys",
    ] {
        reader.must(200, get(path, path)).await;
    }

    // A job that waits, as there is no worker.
    let waiting = reader.must(201, post("/jobs", "/jobs").json(&script("true"))).await["id"].clone();
    for path in ["explain", "events", "output", "ports", "source", "tasks"] {
        reader.must(200, get(&format!("/jobs/{{job}}/{path}"), &format!("/jobs/{waiting}/{path}"))).await;
    }
    let stdin = format!("/jobs/{waiting}/tasks/main/stdin?writer=11111111-1111-4111-8111-111111111111");
    let position = reader.must(200, post("/jobs/{job}/tasks/{task}/stdin", &stdin)).await;
    assert_eq!(position["state"], "waiting");
    let cannot = format!("/jobs/{waiting}");
    reader.must(409, delete("/jobs/{job}", &cannot)).await;
    reader.must(202, post("/jobs/{job}/stop", &format!("/jobs/{waiting}/stop"))).await;
    reader.must(409, post("/jobs/{job}/stop", &format!("/jobs/{waiting}/stop"))).await;

    let (list, one) = ("/templates", "/templates/train");
    let template = json!({ "command": ["a", "{{ x }}"], "parameters": { "x": { "default": "y" } } });
    reader.must(201, post("/templates/{template}", one).json(&template)).await;
    reader.must(200, post("/templates/{template}", one).json(&template)).await;
    reader.must(422, post("/templates/{template}", one).json(&json!({}))).await;
    reader.must(200, get(list, list)).await;
    reader.must(200, get("/templates/{template}", "/templates/train?version=1")).await;
    reader.must(404, get("/templates/{template}", "/templates/train?version=2")).await;
    reader.must(200, get("/templates/{template}/versions", "/templates/train/versions")).await;
    let from_template = json!({ "template": "train", "version": 1, "parameters": { "x": 1.5 } });
    let made = reader.must(201, post("/jobs", "/jobs").json(&from_template)).await["id"].clone();
    reader.must(202, post("/jobs/{job}/stop", &format!("/jobs/{made}/stop"))).await;
    reader.must(204, delete("/templates/{template}", one)).await;

    let (list, one) = ("/secrets", "/secrets/TOKEN");
    let value = json!({ "value": "hunter2" });
    reader.must(201, put("/secrets/{secret}", one).json(&value)).await;
    reader.must(200, put("/secrets/{secret}", one).json(&value)).await;
    reader.must(422, put("/secrets/{secret}", one).json(&json!({ "value": "" }))).await;
    reader.must(200, get(list, list)).await;
    let unknown = json!({ "script": "true", "secrets": ["TOKENS"] });
    reader.must(422, post("/jobs", "/jobs").json(&unknown)).await;
    reader.must(204, delete("/secrets/{secret}", one)).await;

    let service = json!({ "name": "web", "type": "service", "script": "true", "ports": ["http"] });
    let service = reader.must(201, post("/jobs", "/jobs").json(&service)).await["id"].clone();
    for path in ["ports", "http-sd", "traefik"] {
        let route = format!("/services/{{service}}/{path}");
        reader.must(200, get(&route, &format!("/services/web/{path}"))).await;
    }
    let (count, here) = (json!({ "count": 2 }), format!("/jobs/{service}"));
    reader.must(202, post("/services/{service}/scale", "/services/web/scale").json(&count)).await;
    reader.must(202, post("/jobs/{job}/scale", &format!("{here}/scale")).json(&count)).await;
    reader.must(409, post("/jobs/{job}/promote", &format!("{here}/promote"))).await;
    let next = json!({ "name": "web", "type": "service", "script": "false", "ports": ["http"] });
    reader.must(200, post("/services/{service}/diff", "/services/web/diff").json(&next)).await;
    reader.must(422, post("/services/{service}/diff", "/services/shop/diff").json(&next)).await;
    reader.must(409, post("/services/{service}", "/services/web?after=9").json(&next)).await;
    let updated = reader.must(200, post("/services/{service}", "/services/web?after=1").json(&next)).await;
    reader.must(200, get("/services/{service}", "/services/web")).await;
    assert_eq!(updated["updates"][0]["version"], 2, "{updated}");
    reader.must(202, post("/jobs/{job}/promote", &format!("{here}/promote"))).await;
    reader.must(202, post("/jobs/{job}/rollback", &format!("{here}/rollback"))).await;
    reader
        .must(422, post("/jobs/{job}/rollback", &format!("{here}/rollback")).json(&json!({ "to": 9 })))
        .await;
    reader.must(200, get("/jobs/{job}/versions", &format!("{here}/versions"))).await;
    reader.must(202, post("/jobs/{job}/stop", &format!("/jobs/{service}/stop"))).await;
    reader.must(409, post("/jobs/{job}/rollback", &format!("{here}/rollback"))).await;
    reader.must(409, post("/jobs/{job}/scale", &format!("{here}/scale")).json(&count)).await;
    reader.must(404, get("/services/{service}/ports", "/services/web/ports")).await;

    // One that runs, and says something.
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let key = [("idempotency-key", "once")];
    let spec =
        json!({ "script": "echo", "labels": { "team": "a" }, "stdin": true, "health": { "command": ["x"] } });
    let job = reader.must(201, post("/jobs", "/jobs").with(&key).json(&spec)).await["id"].clone();
    reader.must(200, post("/jobs", "/jobs").with(&key).json(&spec)).await;
    reader.must(422, post("/jobs", "/jobs").with(&key).json(&script("false"))).await;
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    stage.client.in_state(job.as_i64().unwrap(), "running").await;
    let task = format!("/jobs/{job}/tasks/main");
    let health = format!("{task}/health");
    let none = reader.must(200, get("/jobs/{job}/tasks/{task}/health", &health)).await;
    assert_eq!(none["results"], json!([]));
    worker.say(&[super::health::checked(attempt, 1, true, Health::default())]).await;
    eventually("it has a result", async || {
        stage.client.get(&health).await.body["results"].get(0).is_some().then_some(())
    })
    .await;
    let found = reader.must(200, get("/jobs/{job}/tasks/{task}/health", &health)).await;
    assert_eq!(found["health"]["state"], "healthy");
    reader.must(200, get("/jobs/{job}/tasks", &format!("/jobs/{job}/tasks"))).await;
    let signal = json!({ "signal": "SIGUSR1" });
    reader.must(202, post("/jobs/{job}/tasks/{task}/signal", &format!("{task}/signal")).json(&signal)).await;
    reader.must(409, post("/jobs/{job}/rerun", &format!("/jobs/{job}/rerun"))).await;
    worker.output(attempt, 0, Stream::Stdout, b"mine\n").await;
    worker.ended(attempt, AttemptEnd::Exited { code: 3 }, 5).await;
    stage.client.finished(job.as_i64().unwrap()).await;
    reader.must(200, get("/jobs", "/jobs?spec=1&label=team%3Da")).await;
    reader.must(200, get("/jobs", "/jobs?limit=1")).await;
    reader.must(200, get("/jobs/{job}", &format!("/jobs/{job}"))).await;
    let detail = reader.must(200, get("/jobs/{job}/tasks/{task}", &task)).await;
    assert_eq!(detail["attempts"][0]["exit_code"], 3, "{detail}");
    reader.must(409, post("/jobs/{job}/tasks/{task}/signal", &format!("{task}/signal")).json(&signal)).await;
    for (path, base) in
        [("/jobs/{job}/output", format!("/jobs/{job}")), ("/jobs/{job}/tasks/{task}/output", task.clone())]
    {
        let output = format!("{base}/output");
        reader.must(200, get(path, &output)).await;
        reader.must(206, get(path, &output).with(&[("range", "bytes=1-2")])).await;
        reader.must(416, get(path, &output).with(&[("range", "bytes=9-")])).await;
        reader.must(200, get(path, &output).with(&[("accept", "text/event-stream")])).await;
        for query in ["", "?q=i", "?q=i&invert=1", "?q=i&limit=1", "?q=%5Bm-n%5D&count=1"] {
            let asked = format!("{output}{query}");
            let (_, lines) = reader.ask(get(path, &asked).with(&[("accept", "application/x-ndjson")])).await;
            let line = json!({ "$ref": "#/components/schemas/OutputLine" });
            for text in String::from_utf8(lines).unwrap().lines() {
                let wrong = differences(&reader.document, &line, &serde_json::from_str(text).unwrap());
                assert_eq!(wrong, Vec::<String>::new(), "{text}");
            }
        }
        reader.must(400, get(path, &format!("{output}?q=%28"))).await;
    }
    for (path, address) in
        [("/events", "/events".to_owned()), ("/jobs/{job}/events", format!("/jobs/{job}/events"))]
    {
        reader.must(200, get(path, &format!("{address}?after=0"))).await;
        reader.must(200, get(path, &address).with(&[("accept", "text/event-stream")])).await;
        reader.must(200, get(path, &address)).await;
    }
    reader.must(200, get("/trace", "/trace?since=1h")).await;
    reader.must(200, post("/jobs/{job}/pin", &format!("/jobs/{job}/pin"))).await;
    reader.must(200, post("/jobs/{job}/unpin", &format!("/jobs/{job}/unpin"))).await;
    reader.must(201, post("/jobs/{job}/rerun", &format!("/jobs/{job}/rerun"))).await;
    reader.must(204, delete("/jobs/{job}", &format!("/jobs/{job}"))).await;
    reader.must(404, get("/jobs/{job}", &format!("/jobs/{job}"))).await;
    reader.must(404, post("/jobs", "/jobs").with(&key).json(&spec)).await;

    // A worker, until it is gone.
    reader.must(200, get("/workers", "/workers?state=online")).await;
    reader.must(200, get("/workers/{worker}", "/workers/w")).await;
    reader.must(200, get("/workers/{worker}/samples", "/workers/w/samples")).await;
    let deadline = json!({ "deadline": "1h" });
    reader.must(200, post("/workers/{worker}/drain", "/workers/w/drain").json(&deadline)).await;
    reader
        .must(422, post("/workers/{worker}/drain", "/workers/w/drain").json(&json!({ "deadline": "9d" })))
        .await;
    reader.must(200, post("/workers/{worker}/cordon", "/workers/w/cordon")).await;
    reader.must(200, post("/workers/{worker}/resume", "/workers/w/resume")).await;
    reader.must(200, get("/queue", "/queue")).await;
    reader.must(409, delete("/workers/{worker}", "/workers/w")).await;
    let started = worker.next_start().await.attempt;
    worker.started(started).await;
    worker.ended(started, AttemptEnd::Exited { code: 0 }, 0).await;
    eventually("nothing is left of the repeated job", async || {
        let jobs = stage.client.get("/jobs?state=pending,running").await.body;
        jobs["items"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    worker.hang_up();
    eventually("the worker is forgotten", async || {
        let (status, _) = reader.ask(delete("/workers/{worker}", "/workers/w")).await;
        (status == 204).then_some(())
    })
    .await;

    // Keys, links, and what the database refused.
    let new = json!({ "kind": "worker", "name": "lab", "expires_in_seconds": 60 });
    let key = reader.must(201, post("/keys", "/keys").json(&new)).await["id"].clone();
    let rotate = format!("/keys/{key}/rotate");
    reader.must(201, post("/keys/{key}/rotate", &rotate).json(&json!({ "overlap": "1m" }))).await;
    reader.must(409, post("/keys/{key}/rotate", &rotate)).await;
    reader.must(204, delete("/keys/{key}", &format!("/keys/{key}"))).await;
    reader.must(422, post("/keys", "/keys").json(&json!({ "kind": "worker", "name": "" }))).await;
    reader.must(201, post("/login-links", "/login-links")).await;
    let letter = super::tenants::dead_letter(&stage, waiting.as_i64().unwrap()).await;
    reader.must(200, get("/dead-letters", "/dead-letters")).await;
    reader.must(200, get("/retention", "/retention")).await;
    eventually("the audit log has lines", async || {
        let noted = reader.must(200, get("/audit", "/audit?outcome=done")).await;
        noted["items"][0]["number"].is_number().then_some(())
    })
    .await;
    reader.must(200, get("/audit/lines", "/audit/lines?limit=2")).await;
    reader.must(400, get("/audit", "/audit?outcome=good")).await;
    reader.must(200, post("/system/output-store/check", "/system/output-store/check")).await;
    reader.must(409, post("/dead-letters/{letter}/retry", &format!("/dead-letters/{letter}/retry"))).await;
    reader.must(204, delete("/dead-letters/{letter}", &format!("/dead-letters/{letter}"))).await;

    people(&mut reader).await;

    let begin = post("/device/authorization", "/device/authorization");
    let begun = reader.must(200, begin.json(&json!({"client": "laptop"}))).await;
    let token = json!({"device_code": begun["device_code"]});
    reader.must(400, post("/device/token", "/device/token").json(&token)).await;
    super::device::allow(&stage, begun["user_code"].as_str().unwrap()).await;
    reader.must(200, post("/device/token", "/device/token").json(&token)).await;

    // Answers to a body that is too large, to invalid requests, and to requests without a key.
    reader
        .must(413, Asked { body: Some(("application/json", vec![b' '; 3 << 20])), ..post("/keys", "/keys") })
        .await;
    reader.must(400, get("/jobs/{job}", "/jobs/-1")).await;
    reader.must(400, get("/queue", "/queue?nobody-knows-this=1")).await;
    reader.client = stage.client.with_key("");
    reader.must(401, get("/jobs", "/jobs")).await;

    // A letter with output that the database takes is another test's business.
    assert_eq!(reader.unseen(), ["retry_dead_letter"]);
}

/// Users, projects and members, until they are gone.
async fn people(reader: &mut Reader) {
    let (projects, lab) = ("/projects", "/projects/lab");
    reader.must(201, post(projects, projects).json(&json!({ "name": "lab" }))).await;
    reader.must(409, post(projects, projects).json(&json!({ "name": "lab" }))).await;
    reader.must(422, post(projects, projects).json(&json!({ "name": "Lab" }))).await;
    let users = "/users";
    let user = reader.must(201, post(users, users).json(&json!({ "name": "ana" }))).await;
    assert!(user["login_url"].is_string(), "{user}");
    reader.must(200, get(users, users)).await;
    let member = "/projects/{project}/members/{user}";
    let role = json!({ "role": "viewer" });
    reader.must(200, post(member, "/projects/lab/members/ana").json(&role)).await;
    reader.must(409, post(member, "/projects/lab/members/admin").json(&role)).await;
    reader.must(404, post(member, "/projects/lab/members/bob").json(&role)).await;
    reader.must(200, get(projects, projects)).await;
    reader.must(200, get("/projects/{project}", lab)).await;
    let terms = json!({ "weight": 300, "quota": { "cpu": 8, "memory": "16GiB", "tasks": null } });
    reader.must(200, patch("/projects/{project}", lab).json(&terms)).await;
    reader.must(422, patch("/projects/{project}", lab).json(&json!({ "weight": 0 }))).await;
    let pool = json!({ "kind": "worker", "name": "pool", "shared": true, "shared_with": ["lab"] });
    let pool = reader.must(201, post("/keys", "/keys").json(&pool)).await["id"].clone();
    reader.must(204, delete("/keys/{key}", &format!("/keys/{pool}"))).await;
    reader.must(200, get("/projects/{project}/members", "/projects/lab/members")).await;
    reader.must(204, delete(member, "/projects/lab/members/ana")).await;
    let rename = "/projects/{project}/rename";
    reader.must(200, post(rename, "/projects/lab/rename").json(&json!({ "name": "bench" }))).await;
    reader.must(404, get("/projects/{project}", lab)).await;
    reader.must(204, delete("/projects/{project}", "/projects/bench?confirm=bench")).await;
    reader.must(201, post("/users/{user}/login-link", "/users/ana/login-link")).await;
    reader.must(201, post("/users/{user}/reset-password", "/users/ana/reset-password")).await;
    let invitations = "/invitations";
    let invited = reader.must(201, post(invitations, invitations).json(&json!({ "role": "viewer" }))).await;
    reader.must(422, post(invitations, invitations).json(&json!({ "role": "owner" }))).await;
    reader.must(200, get(invitations, invitations)).await;
    let invited = format!("/invitations/{}", invited["id"]);
    reader.must(204, delete("/invitations/{invitation}", &invited)).await;
    reader.must(404, delete("/invitations/{invitation}", &invited)).await;
    let link = reader.must(201, post("/login-links", "/login-links")).await["url"].clone();
    reqwest::get(link.as_str().unwrap()).await.unwrap();
    let sessions = reader.must(200, get("/sessions", "/sessions")).await["items"].clone();
    let session = format!("/sessions/{}", sessions[0]["id"]);
    reader.must(204, delete("/sessions/{session}", &session)).await;
    reader.must(404, delete("/sessions/{session}", &session)).await;
    reader.must(204, delete("/sessions", "/sessions")).await;
    for verb in ["disable", "enable", "grant-admin", "revoke-admin"] {
        let (path, address) = (format!("/users/{{user}}/{verb}"), format!("/users/ana/{verb}"));
        reader.must(200, post(&path, &address)).await;
    }
    reader.must(409, post("/users/{user}/disable", "/users/admin/disable")).await;
    reader.must(204, delete("/users/{user}", "/users/ana?confirm=ana")).await;
    reader.must(404, delete("/users/{user}", "/users/ana")).await;
}

#[tokio::test]
async fn made_up_requests_are_answered_as_described() {
    let stage = Stage::set().await;
    let mut reader = Reader::of(&stage);
    let own: Vec<String> = stage.client.get("/keys").await.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| format!("/keys/{}", key["id"]))
        .collect();
    let job = stage.client.submit(json!({ "script": "true", "count": 2 })).await;
    let over = stage.client.submit(script("true")).await;
    stage.client.post(&format!("/jobs/{over}/stop"), &json!({})).await;
    let known = vec![
        ("job", job.to_string()),
        ("job", over.to_string()),
        ("task", "main".to_owned()),
        ("task", "main.1".to_owned()),
    ];
    let document = reader.document.clone();
    let mut random = StdRng::seed_from_u64(14);
    for _ in 0..MADE_UP {
        let made_up = make_up(&document, &known, &mut random).unwrap();
        // The client goes on with its own key.
        let is_own = own.iter().any(|key| {
            made_up.address == *key || made_up.address.strip_suffix("/rotate") == Some(key.as_str())
        });
        if is_own {
            continue;
        }
        let headers: Vec<(&str, &str)> =
            made_up.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (status, body) = reader
            .ask(Asked {
                method: made_up.method.to_uppercase().parse().unwrap(),
                path: &made_up.path,
                address: &made_up.address,
                headers: &headers,
                body: made_up.body.as_ref().map(|(media_type, bytes)| (media_type.as_str(), bytes.clone())),
            })
            .await;
        assert!(status < 500, "{made_up:?}: {}", String::from_utf8_lossy(&body));
    }
    let successes = reader.seen.iter().filter(|(_, status)| *status < 300).count();
    assert!(successes >= 20, "most of what can succeed does: {:?}", reader.seen);
}

#[tokio::test]
async fn what_is_described_is_a_route_and_nothing_else_is() {
    let stage = Stage::set().await;
    let nobody = stage.client.with_key("");
    let document = openapi::present();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let parts = path.split('/').map(|part| if part.starts_with('{') { "1" } else { part });
        let address = parts.collect::<Vec<_>>().join("/");
        for method in ["get", "post", "put", "patch", "delete"] {
            let request = nobody.request(method.to_uppercase().parse().unwrap(), &address);
            let status = request.send().await.unwrap().status().as_u16();
            let is_open = methods[method]["security"].as_array().is_some_and(Vec::is_empty);
            match methods.get(method) {
                None => assert_eq!(status, 405, "{method} {path} is not described"),
                Some(_) if is_open && method == "post" => {
                    assert_eq!(status, 400, "{method} {path} without a body")
                }
                Some(_) if is_open => assert_eq!(status, 200, "{method} {path}"),
                // There it is, and asks for a key; 429 after many that are no good.
                Some(_) => assert!([401, 429].contains(&status), "{method} {path}: {status}"),
            }
        }
    }
    let served = stage.client.get("/openapi.json").await;
    assert_eq!(served.body, document);
}
