//! Workers that take tasks of several projects, and the wall between these.

use gaffer_domain::AttemptRef;
use gaffer_e2e::client::{Client, script};
use gaffer_e2e::gaffer::{Dev, command, data_dir};
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_e2e::{eventually, openapi};
use gaffer_protocol::definitions::StartAttempt;
use gaffer_protocol::output::Stream;
use gaffer_protocol::wire::{ToMaster, ToWorker};
use reqwest::Method;
use reqwest::header::{ACCEPT, COOKIE};
use reqwest::redirect::Policy;
use serde_json::{Value, json};

use super::people::Person;
use super::tenants::neighbour;

/// In all that the first project has of its jobs.
const OURS: &str = "zq7-ours";
/// The same for the other project.
const THEIRS: &str = "zq8-theirs";

/// A key for workers that are shared.
async fn shared_key(stage: &Stage, more: Value) -> String {
    let mut new = json!({"kind": "worker", "name": "pool", "shared": true});
    new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = stage.client.post("/keys", &new).await;
    assert_eq!(made.status, 201, "{}", made.text);
    made.body["key"].as_str().unwrap().to_owned()
}

async fn pool(stage: &Stage) -> RawWorker {
    let key = shared_key(stage, json!({})).await;
    RawWorker::connect(&stage.worker_url(), &key, hello("pool")).await
}

fn named(name: &str) -> Value {
    json!({"name": name, "script": "true", "labels": {"a": name}, "resources": {"cpu": 0.5}})
}

/// Starts a job of each project on a worker that both use, with output and a note; the attempts are ours and theirs.
async fn both_run(stage: &Stage, eve: &Client, worker: &mut RawWorker) -> [(i64, AttemptRef); 2] {
    let mut running = Vec::new();
    for (client, name) in [(&stage.client, OURS), (eve, THEIRS)] {
        let job = client.submit(named(name)).await;
        let StartAttempt { attempt, definition, .. } = worker.next_start().await;
        assert_eq!(definition.job.0, job);
        worker.say(&[ToMaster::Noted { attempt, message: format!("{name} pulls") }]).await;
        worker.started(attempt).await;
        worker.output(attempt, 0, Stream::Stdout, format!("{name}\n").as_bytes()).await;
        client.in_state(job, "running").await;
        running.push((job, attempt));
    }
    [running[0], running[1]]
}

#[tokio::test]
async fn a_shared_worker_runs_tasks_of_all_projects_and_shows_each_its_own_alone() {
    let stage = Stage::set().await;
    let (eve, _) = neighbour(&stage).await;
    let mut worker = pool(&stage).await;
    let id = worker.welcome.worker;
    let [(job, _), (eves_job, _)] = both_run(&stage, &eve, &mut worker).await;
    let admin = &stage.client;

    // What is reserved is of both, since it is what nobody else can have. What is counted is one's own.
    for (client, is_own) in [(admin, true), (&eve, false)] {
        let seen = client.get("/workers/pool").await;
        let of = |field: &str| seen.body[field].clone();
        assert_eq!((of("own"), of("shared")), (json!(is_own), json!(true)), "{}", seen.text);
        assert_eq!((of("running"), of("waiting")), (json!(1), json!(0)), "{}", seen.text);
        assert_eq!(seen.body["allocated"]["cpu"], json!(1.0), "{}", seen.text);
        let listed = client.get("/workers").await;
        assert_eq!(listed.body["items"][0]["id"], json!(id), "{}", listed.text);
        assert_eq!(listed.body["items"][0]["running"], json!(1), "{}", listed.text);
    }
    let jobs = |answer: &Value| -> Vec<i64> {
        answer["items"].as_array().unwrap().iter().map(|job| job["id"].as_i64().unwrap()).collect()
    };
    assert_eq!(jobs(&admin.get("/jobs?worker=pool").await.body), [job]);
    assert_eq!(jobs(&eve.get("/jobs?worker=pool").await.body), [eves_job]);
    for (client, own, other) in [(admin, job, eves_job), (&eve, eves_job, job)] {
        assert_eq!(client.get(&format!("/jobs/{own}/output")).await.status, 200);
        for path in ["", "/output", "/explain", "/events", "/tasks"] {
            assert_eq!(client.get(&format!("/jobs/{other}{path}")).await.status, 404, "{path}");
        }
    }
    // Each route and each page that is not about one thing of a project, or is about the worker.
    let document = openapi::present();
    let paths = document["paths"].as_object().unwrap().iter();
    let reads: Vec<String> = paths
        .filter(|(_, methods)| methods.get("get").is_some())
        .map(|(path, _)| path.replace("{worker}", &id.to_string()))
        .filter(|path| !path.contains('{'))
        .collect();
    assert!(reads.len() > 12, "{reads:?}");
    for (client, other) in [(admin, THEIRS), (&eve, OURS)] {
        for path in &reads {
            let answer = client.get(path).await;
            assert!(!answer.text.contains(other), "{path} tells of another project: {}", answer.text);
        }
        let cookie = stage.sign_in(client).await;
        for path in
            ["/", "/jobs", "/workers", &format!("/workers/{id}"), "/queue", "/events", "/keys", "/audit"]
        {
            let page = stage.page(path, &cookie).await;
            assert!(!page.text().await.unwrap().contains(other), "the page {path} tells of another project");
        }
    }
    // A note about an attempt is history of its job's project.
    let events = eve.get("/events").await.text;
    assert!(events.contains(&format!("{THEIRS} pulls")), "{events}");
    drop(worker);
}

#[tokio::test]
async fn only_the_project_of_a_shared_worker_directs_it_and_sees_its_machine() {
    let stage = Stage::set().await;
    let (eve, _) = neighbour(&stage).await;
    let worker = pool(&stage).await;
    let id = worker.welcome.worker;
    for verb in ["drain", "cordon", "resume"] {
        let refused = eve.post(&format!("/workers/{id}/{verb}"), &json!({})).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.body["code"]),
            (403, &json!("forbidden")),
            "{}",
            refused.text
        );
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.starts_with("worker pool belongs to another project"), "{detail}");
    }
    assert_eq!(eve.delete(&format!("/workers/{id}")).await.status, 403);
    assert_eq!(eve.get(&format!("/workers/{id}/samples")).await.status, 403);
    assert_eq!(eve.get("/workers/pool").await.body["state"], "online");
    let page = stage.page(&format!("/workers/{id}"), &stage.sign_in(&eve).await).await.text().await.unwrap();
    assert!(page.contains("Shared by another project") && !page.contains("/drain\""), "{page}");

    assert_eq!(stage.client.post("/workers/pool/cordon", &json!({})).await.status, 200);
    let job = eve.submit(script("true")).await;
    eventually("the reason is told", async || {
        let why = eve.get(&format!("/jobs/{job}/explain")).await.text;
        why.contains("pool is cordoned").then_some(())
    })
    .await;
    drop(worker);
}

#[tokio::test]
async fn only_administrators_of_the_installation_make_keys_of_shared_workers() {
    let stage = Stage::set().await;
    let lead = Person::join(&stage, "lead", "default", "admin").await.key("default").await;
    let new = |more: Value| {
        let mut new = json!({"kind": "worker", "name": "pool"});
        new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        new
    };
    let refused = lead.post("/keys", &new(json!({"shared": true}))).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.body["code"]),
        (403, &json!("forbidden")),
        "{}",
        refused.text
    );
    assert_eq!(lead.post("/keys", &new(json!({}))).await.status, 201, "others they make as before");
    let wrong = [
        (json!({"kind": "user", "name": "x", "shared": true}), "only a worker key can be shared"),
        (new(json!({"shared_with": ["default"]})), "only with `shared`"),
        (new(json!({"shared": true, "shared_with": []})), "name 1 to 100 projects"),
        (new(json!({"shared": true, "shared_with": ["nowhere"]})), "there is no project `nowhere`"),
    ];
    for (body, expected) in wrong {
        let refused = stage.client.post("/keys", &body).await;
        assert_eq!(refused.status, 422, "{}", refused.text);
        assert!(refused.body["detail"].as_str().unwrap().contains(expected), "{}", refused.text);
    }
    let made =
        stage.client.post("/keys", &new(json!({"shared": true, "shared_with": ["lead", "default"]}))).await;
    assert_eq!(
        (made.status.as_u16(), &made.body["shared_with"]),
        (201, &json!(["default", "lead"])),
        "{}",
        made.text
    );
    let rotate = format!("/keys/{}/rotate", made.body["id"]);
    assert_eq!(lead.post(&rotate, &json!({})).await.status, 403, "who rotates it has it");
    let rotated = stage.client.post(&rotate, &json!({})).await;
    assert_eq!((rotated.status.as_u16(), &rotated.body["shared"]), (201, &json!(true)), "{}", rotated.text);
    assert_eq!(rotated.body["shared_with"], json!(["default", "lead"]));
    let noted = stage.client.get("/audit?limit=20").await.text;
    assert!(noted.contains("shared_with"), "{noted}");
    // Who may create the keys of a project may take them back.
    assert_eq!(lead.delete(&format!("/keys/{}", made.body["id"])).await.status, 204);
}

#[tokio::test]
async fn a_worker_that_is_shared_with_some_projects_is_there_for_these_until_it_comes_with_another_key() {
    let stage = Stage::set().await;
    let (eve, _) = neighbour(&stage).await;
    let stranger = Person::create(&stage, "stranger").await.key("stranger").await;
    let key = shared_key(&stage, json!({"shared_with": ["neighbour"]})).await;
    let said = hello("pool");
    let mut worker = RawWorker::connect(&stage.worker_url(), &key, said.clone()).await;
    let waits = stranger.submit(named(OURS)).await;
    let job = eve.submit(named(THEIRS)).await;
    assert_eq!(
        worker.next_start().await.definition.job.0,
        job,
        "the task of a stranger was first in the queue"
    );
    assert_eq!(stranger.get("/workers").await.body["items"], json!([]));
    assert_eq!(stranger.get("/workers/pool").await.status, 404);
    let why = stranger.get(&format!("/jobs/{waits}/explain")).await;
    assert!(why.text.contains("no worker has connected yet"), "{}", why.text);

    // The key says with whom a worker is shared, each time that it connects.
    drop(worker);
    let _worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    assert_eq!(eve.get("/workers").await.body["items"], json!([]));
    assert_eq!(stage.client.get("/workers/pool").await.body["shared"], false);
}

#[tokio::test]
async fn what_is_for_each_worker_is_for_those_of_its_project_alone() {
    let stage = Stage::set().await;
    let (eve, _) = neighbour(&stage).await;
    let mut worker = pool(&stage).await;
    let each = json!({"script": "true", "each": "worker"});
    let refused = eve.post("/jobs", &each).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.body["code"]),
        (422, &json!("no_matching_worker")),
        "{}",
        refused.text
    );
    let system = json!({"name": "agent", "type": "system", "script": "true"});
    eve.submit(system.clone()).await;
    // The project of the worker decides what each of its machines runs.
    let job = stage.client.submit(each).await;
    assert_eq!(worker.next_start().await.definition.job.0, job);
    let job = stage.client.submit(system).await;
    assert_eq!(
        worker.next_start().await.definition.job.0,
        job,
        "nothing of the other system job came before"
    );
}

#[tokio::test]
async fn an_attempt_on_a_shared_worker_gets_the_secrets_of_its_own_project() {
    let stage = Stage::set().await;
    let (eve, _) = neighbour(&stage).await;
    for (client, value) in [(&stage.client, "ours-ours"), (&eve, "theirs-theirs")] {
        let set = client.request(Method::PUT, "/secrets/TOKEN").json(&json!({"value": value}));
        assert!(set.send().await.unwrap().status().is_success());
    }
    let mut worker = pool(&stage).await;
    for (client, value) in [(&stage.client, "ours-ours"), (&eve, "theirs-theirs")] {
        let spec = json!({"script": "true", "secrets": ["TOKEN"], "resources": {"cpu": 0.5}});
        client.submit(spec).await;
        let attempt = worker.next_start().await.attempt;
        worker.say(&[ToMaster::SecretsWanted { attempt }]).await;
        let secrets = worker
            .hear_until(|message| match message {
                ToWorker::Secrets(secrets) => Some(*secrets),
                _ => None,
            })
            .await;
        assert_eq!(secrets.problem, None);
        assert_eq!(secrets.values[0].value.0.bytes(), value.as_bytes());
    }
}

#[tokio::test]
async fn a_project_stays_while_a_worker_of_it_may_execute_tasks_of_another() {
    let stage = Stage::set().await;
    let (eve, _) = neighbour(&stage).await;
    assert_eq!(stage.client.post("/projects", &json!({"name": "pool"})).await.status, 201);
    let lead = Person::join(&stage, "lead", "pool", "admin").await;
    assert!(stage.client.post("/users/lead/grant-admin", &json!({})).await.status.is_success());
    let new = json!({"kind": "worker", "name": "pool", "shared": true});
    let made = lead.key("pool").await.post("/keys", &new).await;
    let key = made.body["key"].as_str().unwrap().to_owned();
    let mut worker = RawWorker::connect(&stage.worker_url(), &key, hello("pool")).await;
    eve.submit(named(THEIRS)).await;
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    drop(worker);
    eventually("the worker is away", async || {
        (eve.get("/workers/pool").await.body["state"] == "offline").then_some(())
    })
    .await;
    let refused = stage.client.delete("/projects/pool?confirm=pool").await;
    assert_eq!(refused.status, 409, "{}", refused.text);
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("1 disconnected worker with tasks of other projects"), "{detail}");
}

/// A client with a key of a new user, for their personal project.
async fn newcomer(dev: &Dev, name: &str) -> Client {
    let created = dev.client.post("/users", &json!({"name": name})).await;
    let link = created.body["login_url"].as_str().unwrap();
    let http = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
    let signed_in = http.get(link).header(ACCEPT, "text/html").send().await.unwrap();
    let cookie = signed_in.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let url = format!("{}/projects/{name}/api/v1/keys", &link[..link.find("/login").unwrap()]);
    let new = json!({"kind": "user", "name": name});
    let made: Value =
        http.post(url).header(COOKIE, cookie).json(&new).send().await.unwrap().json().await.unwrap();
    dev.client.with_key(made["key"].as_str().unwrap())
}

#[tokio::test]
async fn two_projects_share_a_worker_by_their_weights() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = Dev::start(dir.path()).await;
    let (ana, ben) = (newcomer(&dev, "ana").await, newcomer(&dev, "ben").await);
    let weight = dev.client.request(Method::PATCH, "/projects/ben").json(&json!({"weight": 300}));
    assert_eq!(weight.send().await.unwrap().status(), 200);
    let mut worker = command(&["worker"]);
    worker.env("GAFFER_CPU", "4");
    let key = json!({"kind": "worker", "name": "pool", "shared": true});
    let _worker = dev.add_worker_with_key(&key, worker, "pool", worker_dir.path()).await;
    // Both have their tasks in the queue before the first one starts.
    assert_eq!(dev.client.post("/workers/pool/cordon", &json!({})).await.status, 200);
    let record = dir.path().join("record");
    std::fs::write(&record, "").unwrap();
    std::fs::set_permissions(&record, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    for (client, name, priority) in [(&ana, "ana", 90), (&ben, "ben", 10)] {
        // The task itself says that it runs: each line is one write to the end of the file.
        let text = format!("echo {name} >> {}; sleep 0.2", record.display());
        let spec = json!({"script": text, "array": "0-199", "priority": priority, "resources": {"cpu": 0.5}});
        client.submit(spec).await;
    }
    let queue = ben.get("/queue").await;
    assert_eq!((&queue.body["weight"], &queue.body["share"]), (&json!(300), &json!(0.0)), "{}", queue.text);
    assert_eq!(dev.client.post("/workers/pool/resume", &json!({})).await.status, 200);
    let begun = eventually("most tasks of one have begun", async || {
        let text = std::fs::read_to_string(&record).unwrap();
        (text.lines().count() >= 200).then(|| text.lines().take(200).map(str::to_owned).collect::<Vec<_>>())
    })
    .await;
    let of = |name: &str| begun.iter().filter(|line| *line == name).count();
    let (anas, bens) = (of("ana"), of("ben"));
    assert!(
        (42..=58).contains(&anas),
        "{anas} tasks of ana and {bens} of ben, whose weight is three times hers"
    );
}
