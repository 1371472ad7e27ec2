//! Secrets: who may set them, who gets them, and where nothing of them is.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::{AttemptRef, TaskId};
use gaffer_e2e::client::{Answer, Client};
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, command, data_dir};
use gaffer_e2e::raw_worker::{RawWorker, ended, hello};
use gaffer_e2e::stage::{SECRETS_KEY, Stage};
use gaffer_master::background::driver::Background as _;
use gaffer_master::background::secret_keys::SecretKeys;
use gaffer_master::config::{SecretsKey, SecretsKeyConfig};
use gaffer_protocol::secrets::Secrets;
use gaffer_protocol::wire::{ToMaster, ToWorker};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, COOKIE};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::io::AsyncWriteExt as _;

use super::tenants::neighbour;

const OTHER_KEY: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

async fn set_as(client: &Client, name: &str, media_type: &str, value: &[u8]) -> Answer {
    let request = client.request(Method::PUT, &format!("/secrets/{name}")).header(CONTENT_TYPE, media_type);
    let response = request.body(value.to_vec()).send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::Null), text }
}

async fn set(client: &Client, name: &str, value: &str) {
    let answer = set_as(client, name, "application/octet-stream", value.as_bytes()).await;
    assert!(answer.status.is_success(), "{}", answer.text);
}

/// What the database has of the secrets, as text.
async fn stored(database_url: &str) -> String {
    let mut database = PgConnection::connect(database_url).await.unwrap();
    let rows = "SELECT coalesce(string_agg(s::text, ' '), '') FROM secrets s";
    sqlx::query_scalar(rows).fetch_one(&mut database).await.unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn worker(stage: &Stage, name: &str) -> RawWorker {
    RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello(name)).await
}

/// What the master answers to the question of a worker for the secrets of an attempt.
async fn asked(worker: &mut RawWorker, attempt: AttemptRef) -> Secrets {
    worker.say(&[ToMaster::SecretsWanted { attempt }]).await;
    worker
        .hear_until(|message| match message {
            ToWorker::Secrets(secrets) => Some(*secrets),
            _ => None,
        })
        .await
}

fn values(secrets: &Secrets) -> Vec<(&str, &[u8])> {
    secrets.values.iter().map(|sent| (sent.name.as_str(), sent.value.0.bytes())).collect()
}

#[tokio::test]
async fn a_secret_is_set_listed_and_deleted_and_its_value_is_nowhere_to_be_read() {
    let stage = Stage::set().await;
    let client = &stage.client;
    let value: Vec<u8> = (0..=255).collect();
    let made = set_as(client, "TLS_KEY", "application/octet-stream", &value).await;
    assert_eq!((made.status.as_u16(), &made.body["version"]), (201, &json!(1)), "{}", made.text);
    let again = set_as(client, "TLS_KEY", "application/json", br#"{"value": "hunter2 hunter2"}"#).await;
    assert_eq!((again.status.as_u16(), &again.body["version"]), (200, &json!(2)), "{}", again.text);
    let short = set_as(client, "PIN", "text/plain", b"123").await;
    assert!(short.body["warning"].as_str().unwrap().contains("not hidden"), "{}", short.text);

    let listed = client.get("/secrets").await;
    let items = listed.body["items"].as_array().unwrap();
    let names: Vec<&str> = items.iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["PIN", "TLS_KEY"]);
    assert_eq!((&items[1]["updated_by"], &items[1]["last_used_at"]), (&json!("admin"), &Value::Null));
    let rows = stored(&stage.database_url).await;
    for text in [&listed.text, &again.text, &rows] {
        assert!(!text.contains("hunter2") && !text.contains(&hex(b"hunter2")), "{text}");
    }
    assert_eq!(client.get("/secrets/TLS_KEY").await.status, 405, "no route gives a value");

    assert_eq!(client.delete("/secrets/TLS_KEY").await.status, 204);
    assert_eq!(client.delete("/secrets/TLS_KEY").await.status, 404);
    let anew = set_as(client, "TLS_KEY", "text/plain", b"value").await;
    assert_eq!(anew.status, 201);
}

#[tokio::test]
async fn what_cannot_be_a_secret_is_refused() {
    let stage = Stage::set().await;
    let bytes = "application/octet-stream";
    let long = vec![b'x'; (64 << 10) + 1];
    let cases: [(&str, &str, &[u8], u16, &str); 8] = [
        ("1A", bytes, b"value", 422, "invalid_name"),
        ("A-B", bytes, b"value", 422, "invalid_name"),
        ("GAFFER_KEY", bytes, b"value", 422, "invalid_name"),
        ("A", bytes, b"", 422, "invalid_secret"),
        ("A", bytes, &long, 422, "invalid_secret"),
        ("A", "application/json", br#"{"value": 7}"#, 422, "invalid_body"),
        ("A", "application/json", br#"{"value": "a", "name": "b"}"#, 422, "invalid_body"),
        ("A", "application/x-www-form-urlencoded", b"value", 400, "unsupported_media_type"),
    ];
    for (name, media_type, value, status, code) in cases {
        let answer = set_as(&stage.client, name, media_type, value).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body["code"].as_str()),
            (status, Some(code)),
            "{}",
            answer.text
        );
    }
    assert_eq!(stage.client.get("/secrets").await.body["items"], json!([]));
    assert!(
        set_as(&stage.client, "A", bytes, &long[1..]).await.status.is_success(),
        "as much as there may be"
    );
}

#[tokio::test]
async fn a_job_with_an_unknown_secret_is_refused_and_told_which_one_was_meant() {
    let stage = Stage::set().await;
    let client = &stage.client;
    set(client, "DB_PASSWORD", "hunter2").await;
    let spec = json!({"tasks": [
        {"name": "load", "script": "true", "secrets": ["DB_PASWORD", "DB_PASSWORD"]},
        {"name": "send", "script": "true", "secrets": [{"name": "TOKEN", "file": "token"}]},
    ]});
    let refused = client.post("/jobs", &spec).await;
    assert_eq!((refused.status.as_u16(), refused.body["code"].as_str()), (422, Some("unknown_secret")));
    let detail = refused.body["detail"].as_str().unwrap();
    for part in
        ["load", "DB_PASWORD", "did you mean `DB_PASSWORD`?", "send", "TOKEN", "gaffer secrets set NAME"]
    {
        assert!(detail.contains(part), "{detail}");
    }
    // What was accepted once is accepted again under its name, whatever has become of the secret.
    let spec = json!({"script": "true", "secrets": ["DB_PASSWORD"]});
    let request = || client.request(Method::POST, "/jobs").header("idempotency-key", "one").json(&spec);
    assert_eq!(request().send().await.unwrap().status(), 201);
    client.delete("/secrets/DB_PASSWORD").await;
    assert_eq!(request().send().await.unwrap().status(), 200);
    assert_eq!(client.post("/jobs", &spec).await.status, 422);
    // Those of another project do not count.
    let (eve, _) = neighbour(&stage).await;
    set(&eve, "DB_PASSWORD", "hunter2").await;
    assert_eq!(client.post("/jobs", &spec).await.status, 422);
}

#[tokio::test]
async fn a_service_is_not_updated_to_a_secret_that_does_not_exist() {
    let stage = Stage::set().await;
    let service = json!({"name": "web", "type": "service", "script": "sleep 1000"});
    assert_eq!(stage.client.post("/services/web", &service).await.status, 201);
    let mut next = service;
    next["secrets"] = json!(["TOKEN"]);
    let refused = stage.client.post("/services/web", &next).await;
    assert_eq!((refused.status.as_u16(), refused.body["code"].as_str()), (422, Some("unknown_secret")));
    set(&stage.client, "TOKEN", "hunter2").await;
    assert!(stage.client.post("/services/web", &next).await.status.is_success());
}

/// Asks for the secrets of an attempt, to which there is to be no answer.
async fn is_not_answered(worker: &mut RawWorker, attempt: AttemptRef) {
    // An end of what nobody knows is answered after what was asked before.
    let nobodys = AttemptRef { task: TaskId(attempt.task.0 + 1_000_000), ..attempt };
    let end = ended(nobodys, AttemptEnd::Exited { code: 0 }, 0);
    worker.say(&[ToMaster::SecretsWanted { attempt }, ToMaster::Ended(Box::new(end))]).await;
    worker
        .hear_until(|message| match message {
            ToWorker::Secrets(secrets) => panic!("it was answered: {secrets:?}"),
            ToWorker::EndStored { attempt } => (attempt == nobodys).then_some(()),
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn a_worker_gets_the_secrets_of_its_own_attempts_alone() {
    let stage = Stage::set().await;
    let client = &stage.client;
    for (name, value) in [("MINE", "hunter2"), ("OTHERS", "opensesame")] {
        set(client, name, value).await;
    }
    let (eve, eves_key) = neighbour(&stage).await;
    set(&eve, "MINE", "eves own").await;
    let mut stranger = worker(&stage, "stranger").await;
    client.post("/workers/stranger/cordon", &json!({})).await;
    let mut foreigner = RawWorker::connect(&stage.worker_url(), &eves_key, hello("foreigner")).await;
    let mut owner = worker(&stage, "owner").await;
    let uses = json!(["MINE", {"name": "MINE", "file": "f"}]);
    let job = client.submit(json!({"script": "true", "secrets": uses})).await;
    let start = owner.next_start().await;
    assert_eq!(start.definition.secrets.len(), 2);
    let attempt = start.attempt;

    // The secret of its definition, and no other of the project or of another one.
    assert_eq!(values(&asked(&mut owner, attempt).await), [("MINE", &b"hunter2"[..])]);
    let listed = client.get("/secrets").await.body;
    assert!(listed["items"][0]["last_used_at"].is_string() && listed["items"][1]["last_used_at"].is_null());
    // The present value, also for a start that was delayed.
    set(client, "MINE", "hunter3").await;
    assert_eq!(values(&asked(&mut owner, attempt).await), [("MINE", &b"hunter3"[..])]);

    is_not_answered(&mut stranger, attempt).await;
    is_not_answered(&mut foreigner, attempt).await;
    is_not_answered(&mut owner, AttemptRef { attempt: attempt.attempt + 1, ..attempt }).await;
    is_not_answered(&mut owner, AttemptRef { task: TaskId(attempt.task.0 + 1), ..attempt }).await;
    // Nor is it after its end, or while it is being stopped.
    owner.started(attempt).await;
    client.in_state(job, "running").await;
    client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    client.in_state(job, "stopping").await;
    is_not_answered(&mut owner, attempt).await;
    owner.ended(attempt, AttemptEnd::Stopped { process: None }, 0).await;
    client.finished(job).await;
    is_not_answered(&mut owner, attempt).await;
}

#[tokio::test]
async fn a_secret_that_is_gone_is_told_by_explain_and_by_the_reason_of_the_failure() {
    let dir = data_dir();
    let dev = Dev::start_with(dir.path(), &[("GAFFER_WORKER_NAME", "own")]).await;
    let client = &dev.client;
    set(client, "TOKEN", "hunter2").await;
    client.post("/workers/own/cordon", &json!({})).await;
    let job = client.submit(json!({"script": "true", "secrets": ["TOKEN"]})).await;
    client.delete("/secrets/TOKEN").await;
    let explained = client.get(&format!("/jobs/{job}/explain")).await.body;
    let message = explained["waiting"][0]["message"].as_str().unwrap();
    assert!(message.contains("it will not start: the secret TOKEN does not exist"), "{message}");
    client.post("/workers/own/resume", &json!({})).await;
    let reason = client.finished(job).await.reason.unwrap();
    assert_eq!(reason.code.as_str(), "start_failed");
    assert!(reason.message.contains("the secret TOKEN does not exist; set it with"), "{}", reason.message);
    dev.interrupt().await;
}

fn keys(text: &str) -> SecretsKeyConfig {
    SecretsKeyConfig { secrets_key: Some(SecretsKey::from(text)), ..SecretsKeyConfig::default() }
}

#[tokio::test]
async fn without_the_right_master_key_secrets_alone_do_not_work_and_it_is_told_what_to_do() {
    let database_url = fresh_database().await;
    let stage =
        Stage::with(database_url.clone(), |config| config.secrets_key = SecretsKeyConfig::default()).await;
    let refused = set_as(&stage.client, "TOKEN", "text/plain", b"hunter2").await;
    assert_eq!((refused.status.as_u16(), refused.body["code"].as_str()), (503, Some("secrets_unavailable")));
    assert!(refused.text.contains("GAFFER_SECRETS_KEY_FILE"), "{}", refused.text);
    assert_eq!(stage.client.get("/secrets").await.status, 200);
    // As long as nobody uses any, nothing is wrong.
    assert_eq!(stage.client.get("/system").await.body["secrets"]["problem"], Value::Null);
    stage.strike().await;

    let stage = Stage::on(database_url.clone()).await;
    set(&stage.client, "TOKEN", "hunter2").await;
    let state = stage.client.get("/system").await.body["secrets"].clone();
    let key = state["key"].as_str().unwrap().to_owned();
    assert_eq!(state["problem"], Value::Null);
    stage.strike().await;

    let stage = Stage::with(database_url.clone(), |config| config.secrets_key = keys(OTHER_KEY)).await;
    let refused = set_as(&stage.client, "MORE", "text/plain", b"hunter2").await;
    assert!(refused.status == 503 && refused.text.contains(&key), "{}", refused.text);
    let problem = stage.client.get("/system").await.body["secrets"]["problem"].clone();
    assert!(problem.as_str().unwrap().contains(&key), "{problem}");
    let cookie = stage.sign_in(&stage.client).await;
    let page = stage.page("/system", &cookie).await.text().await.unwrap();
    assert!(page.contains("Secrets cannot be used") && page.contains(&key), "{page}");
    let mut worker = worker(&stage, "w").await;
    let job = stage.client.submit(json!({"script": "true", "secrets": ["TOKEN"]})).await;
    let attempt = worker.next_start().await.attempt;
    let answer = asked(&mut worker, attempt).await;
    assert!(answer.values.is_empty() && answer.problem.unwrap().contains(&key));
    let other = stage.client.submit(json!({"script": "true"})).await;
    worker.next_start().await;
    assert_ne!(job, other, "what uses no secrets goes on");
    // They can be given up.
    assert_eq!(stage.client.delete("/secrets/TOKEN").await.status, 204);
    set(&stage.client, "MORE", "hunter2").await;
}

#[tokio::test]
async fn a_new_master_key_takes_over_while_the_old_one_is_in_the_list() {
    let stage = Stage::on(fresh_database().await).await;
    set(&stage.client, "TOKEN", "hunter2").await;
    let before = stored(&stage.database_url).await;
    let old = stage.client.get("/system").await.body["secrets"]["key"].as_str().unwrap().to_owned();
    let database_url = stage.strike().await;

    let both = format!("{OTHER_KEY},{SECRETS_KEY}");
    let stage = Stage::with(database_url, |config| config.secrets_key = keys(&both)).await;
    let control = &stage.running.control;
    let mut keys_loop = SecretKeys { store: control.store.clone(), vault: control.vault.clone() };
    eventually("nothing is on the old key", async || {
        keys_loop.run_once().await.unwrap();
        let state = stage.client.get("/system").await.body["secrets"].clone();
        (state["on_old_keys"] == 0 && state["key"] != json!(old)).then_some(())
    })
    .await;
    let after = stored(&stage.database_url).await;
    assert!(before.contains(&old) && !after.contains(&old), "{after}");
    let database_url = stage.strike().await;

    let stage = Stage::with(database_url, |config| config.secrets_key = keys(OTHER_KEY)).await;
    let mut worker = worker(&stage, "w").await;
    stage.client.submit(json!({"script": "true", "secrets": ["TOKEN"]})).await;
    let attempt = worker.next_start().await.attempt;
    assert_eq!(values(&asked(&mut worker, attempt).await), [("TOKEN", &b"hunter2"[..])]);
}

#[tokio::test]
async fn a_row_in_the_place_of_another_one_gives_nothing_away() {
    let stage = Stage::set().await;
    for (name, value) in [("PUBLIC", "not so secret"), ("TOKEN", "hunter2")] {
        set(&stage.client, name, value).await;
    }
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let swap = "UPDATE secrets SET data_key = o.data_key, value = o.value FROM secrets o \
                WHERE secrets.name = 'PUBLIC' AND o.name = 'TOKEN'";
    sqlx::query(swap).execute(&mut database).await.unwrap();
    let mut worker = worker(&stage, "w").await;
    stage.client.submit(json!({"script": "true", "secrets": ["PUBLIC"]})).await;
    let attempt = worker.next_start().await.attempt;
    let answer = asked(&mut worker, attempt).await;
    assert!(answer.values.is_empty(), "{answer:?}");
    assert!(answer.problem.unwrap().contains("the secret PUBLIC is damaged"));
}

#[tokio::test]
async fn the_page_sets_and_deletes_secrets_and_shows_no_value() {
    let stage = Stage::set().await;
    let cookie = stage.sign_in(&stage.client).await;
    let base = format!("http://{}", stage.running.dashboard);
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let send = async |path: &str, form: &[(&str, &str)]| {
        let request = http.post(format!("{base}{path}")).header(COOKIE, &cookie).header(ACCEPT, "text/html");
        let body =
            reqwest::Url::parse_with_params("http://x", form).unwrap().query().unwrap_or_default().to_owned();
        let request =
            request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").header("origin", &base);
        let response = request.body(body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let (status, page) = send("/secrets", &[("name", " TLS_KEY "), ("value", "two\r\nlines of it")]).await;
    assert!(status == 200 && page.contains("<strong>TLS_KEY</strong> is set (version 1)"), "{page}");
    assert!(!page.contains("lines of it"), "{page}");
    let (status, page) = send("/secrets", &[("name", "TLS-KEY"), ("value", "lines of it")]).await;
    assert!(
        status == 422 && page.contains("cannot be the name of a secret") && !page.contains("lines of it")
    );
    let page = stage.page("/secrets", &cookie).await.text().await.unwrap();
    assert!(page.contains("TLS_KEY") && !page.contains("lines of it"), "{page}");
    // Lines end as those of files do.
    let mut worker = worker(&stage, "w").await;
    stage.client.submit(json!({"script": "true", "secrets": ["TLS_KEY"]})).await;
    let attempt = worker.next_start().await.attempt;
    assert_eq!(values(&asked(&mut worker, attempt).await), [("TLS_KEY", &b"two\nlines of it"[..])]);
    assert_eq!(send("/secrets/TLS_KEY/delete", &[]).await.0, 303);
    assert_eq!(stage.client.get("/secrets").await.body["items"], json!([]));
}

/// All files below a directory with this text in them, and how many bytes were read.
fn search(dir: &Path, texts: &[Vec<u8>], found: &mut Vec<PathBuf>) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            bytes += search(&path, texts, found);
        } else if kind.is_file() {
            let content = std::fs::read(&path).unwrap_or_default();
            bytes += content.len() as u64;
            if has(&content, texts) {
                found.push(path);
            }
        }
    }
    bytes
}

fn has(content: &[u8], texts: &[Vec<u8>]) -> bool {
    texts.iter().any(|text| memchr::memmem::find(content, text).is_some())
}

/// The environment and the arguments of all processes of the program below another one, with that one.
fn of_processes(root: i32) -> Vec<u8> {
    let mut all = Vec::new();
    let mut pids = vec![root];
    while let Some(pid) = pids.pop() {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        if program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("gaffer")) {
            for file in ["environ", "cmdline"] {
                all.extend(std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default());
            }
        }
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
    }
    all
}

/// A value that is in a job, in every place where it could be: none has it.
#[tokio::test]
async fn a_canary_in_a_job_is_found_in_no_file_no_process_no_page_and_no_backup() {
    let dir = data_dir();
    let dev = Dev::start_with(dir.path(), &[("GAFFER_LOG", "debug")]).await;
    let client = &dev.client;
    let canary = format!("canary/{}", uuid::Uuid::new_v4());
    let mut child =
        dev.cli(&["secrets", "set", "CANARY"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{canary}\n").as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let refused = dev.cli(&["secrets", "set", "CANARY", &canary]).output().await.unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(2) && told.contains("history") && !told.contains(&canary),
        "{told}"
    );

    let script = "echo \"<$CANARY>\"; printf %s \"$CANARY\" | base64 >&2; cat $GAFFER_SECRETS_DIR/file; echo; \
                  printf 'AA%s' \"$CANARY\" | base64; printf '{\"x\":\"%s\"}\\n' \"$CANARY\"";
    let secrets = json!(["CANARY", {"name": "CANARY", "file": "file"}]);
    let failing = json!({"script": format!("{script}; exit 3"), "secrets": secrets});
    let failed = client.submit(failing).await;
    client.finished(failed).await;
    let check = json!({"command": ["sh", "-c", "echo $CANARY; exit 1"], "interval": "1s"});
    let running = json!({"script": format!("{script}; echo ready; sleep 1000"), "secrets": secrets, "readiness": check});
    let running = client.submit(running).await;
    eventually("it has printed everything, and was checked", async || {
        let output = String::from_utf8(client.output(running).await).unwrap();
        let health = client.get(&format!("/jobs/{running}/tasks/main/health")).await.text;
        (output.contains("ready") && health.contains("***")).then_some(())
    })
    .await;

    let inner = STANDARD.encode(format!("AA{canary}"));
    let texts: Vec<Vec<u8>> =
        [canary.clone(), STANDARD.encode(&canary), inner[4..40].to_owned(), hex(canary.as_bytes())]
            .map(String::into_bytes)
            .into();
    let (mut places, mut bytes) = (0_usize, 0_u64);
    let mut look = |what: &str, content: &[u8]| {
        assert!(!has(content, &texts), "{what} has it: {}", String::from_utf8_lossy(content));
        places += 1;
        bytes += content.len() as u64;
    };
    // What there is for people and programs.
    let link = client.post("/login-links", &json!({})).await.body["url"].as_str().unwrap().to_owned();
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let signed_in = http.get(&link).header(ACCEPT, "text/html").send().await.unwrap();
    let cookie = signed_in.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let dashboard = link[..link.find("/login").unwrap()].to_owned();
    for job in [failed, running] {
        for path in
            ["", "/output", "/events", "/explain", "/source", "/tasks", "/tasks/main", "/tasks/main/health"]
        {
            let answer = client.get(&format!("/jobs/{job}{path}")).await;
            look(path, answer.text.as_bytes());
        }
        for path in ["", "?tab=events", "?tab=spec", "?tab=tasks", "/tasks/main"] {
            let page = http
                .get(format!("{dashboard}/jobs/{job}{path}"))
                .header(COOKIE, &cookie)
                .header(ACCEPT, "text/html");
            let page = page.send().await.unwrap();
            assert_eq!(page.status(), 200, "{path}");
            look(path, page.text().await.unwrap().as_bytes());
        }
        let shown = String::from_utf8(client.output(job).await).unwrap();
        assert!(shown.contains("<***>\n") && shown.contains("{\"x\":\"***\"}"), "{shown}");
    }
    for path in ["/secrets", "/events?limit=500", "/system", "/workers", "/queue"] {
        look(path, client.get(path).await.text.as_bytes());
    }
    for page in ["/", "/secrets", "/events", "/system", "/jobs"] {
        let page = http.get(format!("{dashboard}{page}")).header(COOKIE, &cookie).header(ACCEPT, "text/html");
        look("a page", page.send().await.unwrap().text().await.unwrap().as_bytes());
    }
    // Processes of the program, while the task runs.
    look("a process", &of_processes(dev.pid().as_raw()));
    if let Some(executor) = gaffer_e2e::gaffer::executor(&dir.path().join("worker")) {
        look("the executor", &of_processes(executor.as_raw()));
    }
    // A backup, and all that is in it.
    let backups = data_dir();
    let backup = backups.path().join("all.backup");
    let made = command(&["backup", backup.to_str().unwrap()])
        .env("GAFFER_DATA_DIR", dir.path())
        .output()
        .await
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut unpack = tokio::process::Command::new("tar");
    let unpacked = unpack.args(["xf", "all.backup"]).current_dir(backups.path()).status().await;
    assert!(unpacked.unwrap().success());
    let dump = backups.path().join("gaffer.dump");
    if let Ok(restored) =
        tokio::process::Command::new("pg_restore").args(["-f", "-"]).arg(&dump).output().await
    {
        look("the dump as text", &restored.stdout);
    }
    // All files: the cluster with its log of changes, the worker's journal, spool and logs, the log of the program.
    client.post(&format!("/jobs/{running}/stop"), &json!({})).await;
    client.finished(running).await;
    dev.interrupt().await;
    let mut found = Vec::new();
    let in_files = search(dir.path(), &texts, &mut found) + search(backups.path(), &texts, &mut found);
    assert_eq!(found, Vec::<PathBuf>::new());
    let mut in_memory = Vec::new();
    search(Path::new("/dev/shm"), &texts, &mut in_memory);
    assert_eq!(in_memory, Vec::<PathBuf>::new());
    assert!(places > 40 && in_files > 1 << 20, "{places} places, {in_files} bytes in files");
    use std::io::Write as _;
    let line = format!(
        "looked for the canary in {places} answers, pages and processes ({bytes} bytes) and {in_files} bytes of files\n"
    );
    let _ = std::io::stderr().write_all(line.as_bytes());
}
