//! Keys of workers: what they let a worker claim, and enrolment keys, for which workers get keys of their own.

use gaffer_e2e::client::{Client, script};
use gaffer_e2e::gaffer::{Dev, command, data_dir};
use gaffer_e2e::raw_worker::{RawWorker, dial, goodbye, hello};
use gaffer_e2e::stage::Stage;
use gaffer_e2e::{PATIENCE, eventually};
use gaffer_master::secret::{NewSecret, Purpose};
use gaffer_protocol::wire::{GoodbyeCode, Hello, OwnKey};
use nix::sys::signal::Signal;
use reqwest::header::COOKIE;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use std::os::unix::fs::PermissionsExt as _;

use super::upgrade::database_before;

async fn created(client: &Client, new: Value) -> Value {
    let created = client.post("/keys", &new).await;
    assert_eq!(created.status, 201, "{}", created.text);
    created.body
}

fn text(key: &Value) -> &str {
    key["key"].as_str().unwrap()
}

/// What a worker says that has made a key for itself, and that key.
fn newcomer(name: &str) -> (Hello, String) {
    let secret = NewSecret::new(Purpose::WorkerKey);
    let sha256 = secret.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    let own_key = Some(OwnKey { prefix: secret.shown().to_owned(), sha256 });
    (Hello { own_key, ..hello(name) }, secret.text)
}

async fn refused(stage: &Stage, key: &str, said: Hello) -> (GoodbyeCode, String) {
    goodbye(RawWorker::try_connect(&stage.worker_url(), key, said).await.err().unwrap())
}

async fn listed(stage: &Stage, id: &Value) -> Value {
    let keys = stage.client.get("/keys?limit=100").await.body["items"].as_array().unwrap().clone();
    keys.into_iter().find(|key| key["id"] == *id).unwrap()
}

/// The keys of workers that enrolled, newest first.
async fn enrolled(client: &Client) -> Vec<Value> {
    let keys = client.get("/keys?limit=100").await.body["items"].as_array().unwrap().clone();
    keys.into_iter().filter(|key| !key["worker"].is_null()).collect()
}

#[tokio::test]
async fn a_worker_that_claims_more_than_its_key_allows_is_told_what_is_allowed() {
    let stage = Stage::set().await;
    let limits =
        json!({"names": ["gpu-*"], "labels": {"rack": ["3", "4"], "gpu": ["*"]}, "datacenters": ["fra*"]});
    let key = created(&stage.client, json!({"kind": "worker", "name": "racks", "limits": limits})).await;
    assert_eq!(listed(&stage, &key["id"]).await["limits"], limits);
    let labelled = |name: &str, label: (&str, &str), datacenter: &str| {
        let labels = [(label.0.to_owned(), label.1.to_owned())].into();
        Hello { labels, datacenter: datacenter.to_owned(), ..hello(name) }
    };
    for (said, word) in [
        (labelled("cpu-1", ("rack", "3"), ""), "the names gpu-*, and not `cpu-1` (GAFFER_WORKER_NAME)"),
        (labelled("gpu-1", ("rack", "5"), ""), "and not the label rack=5 (GAFFER_WORKER_LABELS)"),
        (labelled("gpu-1", ("zone", "a"), ""), "the labels gpu=*, rack=3, rack=4"),
        (labelled("gpu-1", ("rack", "3"), "nyc"), "the datacenters fra*, and not `nyc`"),
    ] {
        let (code, message) = refused(&stage, text(&key), said.clone()).await;
        assert_eq!(code, GoodbyeCode::NotAllowed, "{message}");
        assert!(message.contains(word), "{message}");
        // A worker of an earlier version does not know that word.
        let earlier = Hello { knows_not_allowed: false, ..said };
        assert_eq!(refused(&stage, text(&key), earlier).await.0, GoodbyeCode::KeyRevoked);
    }
    assert_eq!(stage.client.get("/workers").await.body["items"], json!([]));
    let allowed = labelled("gpu-1", ("gpu", "a100"), "fra1");
    RawWorker::connect(&stage.worker_url(), text(&key), allowed).await;
    // A rotation changes the key, and not what it allows.
    let rotated = stage.client.post(&format!("/keys/{}/rotate", key["id"]), &json!({})).await.body;
    assert_eq!(rotated["limits"], limits);
    assert_eq!(refused(&stage, text(&rotated), hello("cpu-1")).await.0, GoodbyeCode::NotAllowed);
}

#[tokio::test]
async fn limits_and_uses_that_make_no_sense_are_refused() {
    let stage = Stage::set().await;
    for (wrong, pointer) in [
        (json!({"kind": "user", "name": "x", "limits": {"names": ["a"]}}), "/limits"),
        (json!({"kind": "worker", "name": "x", "limits": {"names": [""]}}), "/limits"),
        (json!({"kind": "worker", "name": "x", "uses": 2}), "/uses"),
        (json!({"kind": "enrolment", "name": "x", "uses": 0}), "/uses"),
        (json!({"kind": "enrolment", "name": "x", "uses": 10_001}), "/uses"),
        (json!({"kind": "enrolment", "name": "x", "scopes": ["read"]}), "/scopes"),
        (json!({"kind": "enrolment", "name": "x", "expires_in_seconds": 2_592_001}), "/expires_in_seconds"),
    ] {
        let answer = stage.client.post("/keys", &wrong).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["errors"][0]["pointer"]),
            (422, &json!(pointer)),
            "{wrong}"
        );
    }
    let key = created(&stage.client, json!({"kind": "enrolment", "name": "racks"})).await;
    assert_eq!((&key["kind"], &key["uses_left"]), (&json!("enrolment"), &json!(1)));
    let at = |field: &str| chrono::DateTime::parse_from_rfc3339(key[field].as_str().unwrap()).unwrap();
    assert_eq!((at("expires_at") - at("created_at")).num_minutes(), 60);
    let rotated = stage.client.post(&format!("/keys/{}/rotate", key["id"]), &json!({})).await;
    assert_eq!(rotated.status, 409, "{}", rotated.text);
    // It calls nothing, and a worker that has made no key for itself gets nothing for it.
    assert_eq!(stage.client.with_key(text(&key)).get("/jobs").await.status, 401);
    let (_, message) = refused(&stage, text(&key), hello("old")).await;
    assert!(message.contains("newer version"), "{message}");
    assert_eq!(listed(&stage, &key["id"]).await["uses_left"], 1);
}

#[tokio::test]
async fn a_worker_gets_a_key_of_its_own_for_an_enrolment_key() {
    let stage = Stage::set().await;
    let new = json!({"kind": "enrolment", "name": "racks", "limits": {"names": ["gpu-*"]}});
    let enrolment = created(&stage.client, new).await;
    let (said, own) = newcomer("gpu-1");
    // What it may not claim uses nothing up.
    let strange = Hello { name: "cpu-1".to_owned(), ..said.clone() };
    assert_eq!(refused(&stage, text(&enrolment), strange).await.0, GoodbyeCode::NotAllowed);
    let mut worker = RawWorker::connect(&stage.worker_url(), text(&enrolment), said.clone()).await;
    let keys = enrolled(&stage.client).await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert_eq!((&keys[0]["worker"], &keys[0]["name"]), (&json!("gpu-1"), &json!("racks")));
    assert_eq!((&keys[0]["kind"], &keys[0]["expires_at"]), (&json!("worker"), &Value::Null));
    assert_eq!(keys[0]["limits"], json!({"names": ["gpu-*"]}));
    // The enrolment key is used up, and refused like any that is no good.
    assert!(dial(&stage.worker_url(), text(&enrolment)).await.is_err());
    assert_eq!(listed(&stage, &enrolment["id"]).await["uses_left"], 0);
    let noted = stage.client.get("/audit?action=enrol_worker").await.body["items"].clone();
    let credential = format!("key {} (racks)", enrolment["id"]);
    assert_eq!(
        (&noted[0]["outcome"], &noted[0]["credential"]),
        (&json!("done"), &json!(credential)),
        "{noted}"
    );
    assert_eq!(noted[0]["target"], json!(format!("key {} of worker gpu-1", keys[0]["id"])));
    // What was opened with it does not depend on it.
    assert_eq!(stage.client.delete(&format!("/keys/{}", enrolment["id"])).await.status, 204);
    stage.running.control.wakes.key_check.call();
    worker.heartbeat(1, vec![]).await;
    // The own key is this worker's alone, and cannot be rotated into other hands.
    let other = refused(&stage, &own, hello("gpu-2")).await;
    assert!(other.0 == GoodbyeCode::NotAllowed && other.1.contains("belongs to another worker"), "{other:?}");
    let path = format!("/keys/{}", keys[0]["id"]);
    assert_eq!(stage.client.post(&format!("{path}/rotate"), &json!({})).await.status, 409);
    let mut again =
        RawWorker::connect(&stage.worker_url(), &own, Hello { own_key: None, ..said.clone() }).await;
    assert_eq!(again.welcome.worker, worker.welcome.worker);
    // Its revocation ends this worker's session, and nobody else's.
    let mut neighbour = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("other")).await;
    assert_eq!(stage.client.delete(&path).await.status, 204);
    let (code, _) = eventually("the goodbye", async || {
        let said = again.hear().await;
        matches!(said, Some(gaffer_protocol::wire::ToWorker::Goodbye { .. }) | None).then(|| goodbye(said))
    })
    .await;
    assert_eq!(code, GoodbyeCode::KeyRevoked);
    neighbour.heartbeat(1, vec![]).await;
    assert!(dial(&stage.worker_url(), &own).await.is_err());
}

#[tokio::test]
async fn an_enrolment_that_the_worker_did_not_hear_of_is_repeated_without_another_use() {
    let stage = Stage::set().await;
    let enrolment = created(&stage.client, json!({"kind": "enrolment", "name": "racks", "uses": 3})).await;
    let (said, own) = newcomer("w");
    for _ in 0..2 {
        RawWorker::connect(&stage.worker_url(), text(&enrolment), said.clone()).await;
        assert_eq!(listed(&stage, &enrolment["id"]).await["uses_left"], 2);
    }
    // Of another worker it is another use, and the key of one is no key of the other.
    let (other, _) = newcomer("v");
    let stolen = Hello { own_key: said.own_key.clone(), ..other.clone() };
    assert_eq!(refused(&stage, text(&enrolment), stolen).await.0, GoodbyeCode::NotAllowed);
    RawWorker::connect(&stage.worker_url(), text(&enrolment), other).await;
    assert_eq!(listed(&stage, &enrolment["id"]).await["uses_left"], 1);
    // A worker whose key was revoked is not let in again by repeating it.
    let keys = enrolled(&stage.client).await;
    let of_w = keys.iter().find(|key| key["worker"] == "w").unwrap();
    assert_eq!(stage.client.delete(&format!("/keys/{}", of_w["id"])).await.status, 204);
    let again = refused(&stage, text(&enrolment), said.clone()).await;
    assert!(again.0 == GoodbyeCode::NotAllowed && again.1.contains("was revoked"), "{again:?}");
    assert!(dial(&stage.worker_url(), &own).await.is_err());
    // Its operator may enrol it anew; then its former key is no good any more.
    let (anew, second) = newcomer("w");
    let anew = Hello { identity: said.identity, ..anew };
    RawWorker::connect(&stage.worker_url(), text(&enrolment), anew.clone()).await;
    let another = created(&stage.client, json!({"kind": "enrolment", "name": "more"})).await;
    let (third, own) = newcomer("w");
    RawWorker::connect(&stage.worker_url(), text(&another), Hello { identity: said.identity, ..third }).await;
    assert!(dial(&stage.worker_url(), &second).await.is_err());
    assert!(dial(&stage.worker_url(), &own).await.is_ok());
}

#[tokio::test]
async fn a_worker_enrols_once_keeps_its_key_and_comes_back_with_it() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = Dev::start(dir.path()).await;
    let enrol =
        ["keys", "create", "racks", "--kind", "enrolment", "--names", "gpu-*", "--labels", "rack=3,rack=4"];
    let made = dev.cli(&enrol).output().await.unwrap();
    let told = String::from_utf8(made.stderr).unwrap();
    assert!(
        told.contains("enrolment key") && told.contains("for 1 worker") && told.contains("gpu-*"),
        "{told}"
    );
    let key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    assert!(key.starts_with("gfe_"), "{key}");
    let start = |name: &'static str| {
        let mut worker = command(&["worker"]);
        worker.env("GAFFER_WORKER_LABELS", "rack=3").env("GAFFER_WORKER_NAME", name);
        worker.env("MASTER_URL", &dev.env["MASTER_URL"]).env("API_KEY", &key);
        worker.env("GAFFER_DATA_DIR", worker_dir.path());
        worker
    };
    // A name that the key does not allow ends the worker, which says why.
    let refused = tokio::time::timeout(*PATIENCE, start("cpu-1").output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("allows the names gpu-*, and not `cpu-1` (GAFFER_WORKER_NAME)"), "{said}");

    let worker = dev.add_worker_by(start("gpu-1"), "gpu-1", worker_dir.path()).await;
    let file = worker_dir.path().join("key");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert!(kept["key"].as_str().unwrap().starts_with("gfw_"), "the own key");
    assert!(!kept.to_string().contains(&key), "the enrolment key is not kept");
    let job = dev.client.submit(json!({"script": "echo here", "constraints": ["name == gpu-1"]})).await;
    dev.client.finished(job).await;
    worker.end(Signal::SIGTERM).await;

    // The same command again, when the enrolment key is used up.
    let worker = dev.add_worker_by(start("gpu-1"), "gpu-1", worker_dir.path()).await;
    assert_eq!(enrolled(&dev.client).await.len(), 1);
    worker.end(Signal::SIGTERM).await;
    // As if it had died before it could keep that the master has its key.
    let forgotten = json!({"key": kept["key"], "enrolment": kept["enrolment"], "is_enrolled": false});
    std::fs::write(&file, forgotten.to_string()).unwrap();
    let worker = dev.add_worker_by(start("gpu-1"), "gpu-1", worker_dir.path()).await;
    eventually("it knows that it is enrolled", async || {
        let kept: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
        (kept["is_enrolled"] == true).then_some(())
    })
    .await;
    let job = dev.client.submit(script("true")).await;
    dev.client.finished(job).await;
    // A check of this worker is about the key that it has now.
    let mut doctor = dev.cli(&["doctor"]);
    doctor.env("MASTER_URL", &dev.env["MASTER_URL"]).env("API_KEY", &key);
    let told = doctor.env("GAFFER_DATA_DIR", worker_dir.path()).output().await.unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("accepts the worker key"), "{told}");
    let table = dev.cli(&["keys", "-o", "wide"]).output().await.unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("used") && table.contains("gpu-1") && table.contains("WORKER"), "{table}");
    worker.end(Signal::SIGTERM).await;
    dev.interrupt().await;
}

#[tokio::test]
async fn worker_keys_of_an_earlier_version_allow_everything() {
    let (url, mut database) = database_before(61).await;
    let secret = NewSecret::new(Purpose::WorkerKey);
    let sql = "INSERT INTO keys (project_id, kind, name, prefix, sha256, scopes) VALUES (1, 'worker', 'lab', 'gfw_', $1, '{}')";
    sqlx::query(sql).bind(&secret.sha256[..]).execute(&mut database).await.unwrap();
    let stage = Stage::on(url).await;
    let said = Hello { labels: [("a".to_owned(), "b".to_owned())].into(), ..hello("any") };
    RawWorker::connect(&stage.worker_url(), &secret.text, said).await;
}

#[tokio::test]
async fn an_enrolment_key_expires_before_it_is_used() {
    let stage = Stage::set().await;
    let key = created(&stage.client, json!({"kind": "enrolment", "name": "racks"})).await;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let (said, _) = newcomer("w");
    // The hour passes between the door and the hello.
    let socket = dial(&stage.worker_url(), text(&key)).await.unwrap();
    let pass = "UPDATE keys SET expires_at = now() WHERE kind = 'enrolment'";
    sqlx::query(pass).execute(&mut database).await.unwrap();
    let (code, message) = goodbye(RawWorker::begin(socket, said).await.err().unwrap());
    assert!(code == GoodbyeCode::NotAllowed && message.contains("used up, revoked or expired"), "{message}");
    assert!(dial(&stage.worker_url(), text(&key)).await.is_err());
    assert_eq!(enrolled(&stage.client).await.len(), 0);
}

#[tokio::test]
async fn enrolment_keys_are_made_on_the_pages_keys_and_add_a_worker() {
    let stage = Stage::set().await;
    let cookie = stage.sign_in(&stage.client).await;
    let post = async |path: &str, form: &[(&str, &str)]| {
        let url = format!("http://{}/projects/default{path}", stage.running.dashboard);
        let fields = form.iter().map(|(name, value)| {
            let escaped = value.replace(' ', "+").replace(',', "%2C").replace('=', "%3D");
            format!("{name}={escaped}")
        });
        let request = reqwest::Client::new().post(url).header(COOKIE, &cookie);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(fields.collect::<Vec<_>>().join("&")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap()
    };
    let limits = [
        ("kind", "enrolment"),
        ("name", "racks"),
        ("names", "gpu-*, lab"),
        ("labels", "rack=3"),
        ("uses", "7"),
    ];
    let page = post("/keys", &limits).await;
    assert!(page.contains("gfe_") && page.contains("7 left; names gpu-*, lab; the labels rack=3"), "{page}");
    let page =
        post("/keys", &[("kind", "enrolment"), ("name", "racks"), ("labels", "rack"), ("uses", "7")]).await;
    assert!(page.contains("a label is written rack=3") && page.contains("value=\"rack\""), "{page}");
    let page = post("/workers/new", &[("kind", "enrolment"), ("name", "desk")]).await;
    assert!(page.contains("API_KEY=gfe_") && page.contains("One worker can use this key"), "{page}");
}
