//! What the master makes of workers that run containers.

use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::spec::{DriverKind, PortProtocol};
use gaffer_e2e::eventually;
use gaffer_e2e::raw_worker::{RawWorker, ended, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::wire::{ContainerFacts, DriverStatus, Ended, Hello, PublishedPort, ToMaster};
use serde_json::{Value, json};

fn docker(healthy: bool, detail: &str) -> DriverStatus {
    DriverStatus { driver: DriverKind::Docker, healthy, detail: Some(detail.to_owned()) }
}

fn with_docker(name: &str) -> Hello {
    let mut hello = hello(name);
    hello.drivers.push(docker(true, "Docker 27.1"));
    hello
}

async fn worker(stage: &Stage, hello: Hello) -> RawWorker {
    RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello).await
}

fn facts() -> ContainerFacts {
    let port = PublishedPort { host: 32768, container: 80, protocol: PortProtocol::Tcp };
    let image = "busybox@sha256:00ff".to_owned();
    ContainerFacts { id: "0123456789abcdef".to_owned(), image, ports: vec![port] }
}

async fn messages(stage: &Stage, kind: &str) -> Vec<String> {
    let events = stage.client.get("/events?limit=500").await;
    let items = events.body["items"].as_array().unwrap().clone();
    let of_kind = items.iter().filter(|event| event["kind"] == kind);
    of_kind.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

async fn attempts(stage: &Stage, job: impl std::fmt::Display) -> Value {
    stage.client.get(&format!("/jobs/{job}/tasks/main")).await.body["attempts"].clone()
}

#[tokio::test]
async fn what_an_attempt_ran_in_is_kept_whether_its_start_or_its_end_tells_it() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, with_docker("w")).await;
    let spec = json!({"image": "busybox", "ports": ["0:80"], "volumes": ["/data:/data:ro"]});
    let expected = serde_json::to_value(facts()).unwrap();
    for tells_at_start in [true, false] {
        let job = stage.client.submit(spec.clone()).await;
        let start = worker.next_start().await;
        let container = start.definition.container.clone().unwrap();
        assert_eq!((start.definition.driver, container.image.as_str()), (DriverKind::Docker, "busybox"));
        assert_eq!(container.volumes[0].to_string(), "/data:/data:ro");
        let attempt = start.attempt;
        let container = tells_at_start.then(facts);
        worker
            .say(&[ToMaster::Started { attempt, at: chrono::Utc::now(), container, ports: Vec::new() }])
            .await;
        let container = (!tells_at_start).then(facts);
        let end = Ended { container, ..ended(attempt, AttemptEnd::Exited { code: 0 }, 0) };
        worker.say(&[ToMaster::Ended(Box::new(end))]).await;
        stage.client.finished(job).await;
        assert_eq!(attempts(&stage, job).await[0]["container"], expected);
    }
}

#[tokio::test]
async fn jobs_and_workers_are_filtered_by_driver() {
    let stage = Stage::set().await;
    let _with = worker(&stage, with_docker("with")).await;
    let _without = worker(&stage, hello("without")).await;
    let on_host = stage.client.submit(json!({"name": "a", "command": ["true"], "datacenters": ["x"]})).await;
    let in_container =
        stage.client.submit(json!({"name": "b", "image": "busybox", "datacenters": ["x"]})).await;
    let names = async |path: &str| {
        let answer = stage.client.get(path).await;
        let items = answer.body["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["id"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names("/jobs?driver=docker").await, [in_container]);
    assert_eq!(names("/jobs?driver=host").await, [on_host]);
    assert_eq!(names("/workers?driver=docker").await.len(), 1);
    assert_eq!(stage.client.get("/jobs?driver=podman").await.status, 400);
}

#[tokio::test]
async fn how_far_a_start_is_becomes_history_and_explains_the_wait() {
    let stage = Stage::set().await;
    let mut owner = worker(&stage, with_docker("w")).await;
    let job = stage.client.submit(json!({"image": "busybox"})).await;
    let attempt = owner.next_start().await.attempt;
    // Another worker may not speak about it, nor the owner about an attempt that is not its own any more.
    let mut stranger = worker(&stage, with_docker("stranger")).await;
    let note = |attempt, message: &str| ToMaster::Noted { attempt, message: message.to_owned() };
    stranger.say(&[note(attempt, "lies")]).await;
    stranger.heartbeat(1, vec![]).await;
    let other = gaffer_domain::AttemptRef { attempt: 2, ..attempt };
    owner.say(&[note(other, "too early"), note(attempt, "pulling busybox:\u{7} 1MiB of 2MiB (50 %)")]).await;
    eventually("the note", async || (!messages(&stage, "task.noted").await.is_empty()).then_some(())).await;
    assert_eq!(messages(&stage, "task.noted").await, ["pulling busybox:  1MiB of 2MiB (50 %)"]);
    let explained = stage.client.get(&format!("/jobs/{job}/explain")).await;
    assert_eq!(explained.body["message"], "main: starts on w: pulling busybox:  1MiB of 2MiB (50 %)");
}

#[tokio::test]
async fn a_flood_of_notes_is_not_all_recorded() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, with_docker("w")).await;
    stage.client.submit(json!({"image": "busybox"})).await;
    let attempt = worker.next_start().await.attempt;
    let flood: Vec<ToMaster> =
        (0..400).map(|n| ToMaster::Noted { attempt, message: format!("note {n}") }).collect();
    worker.say(&flood).await;
    worker
        .heartbeat(
            1,
            vec![gaffer_protocol::wire::HeldAttempt {
                attempt,
                phase: gaffer_domain::worker::HeldPhase::Queued,
            }],
        )
        .await;
    // Notes are written aside, so that nothing else waits for them.
    let recorded = eventually("the first of them are recorded", async || {
        let recorded = messages(&stage, "task.noted").await.len();
        (recorded >= 100).then_some(recorded)
    })
    .await;
    assert!(recorded < 200, "{recorded}");
}

#[tokio::test]
async fn without_its_daemon_a_worker_gets_no_containers_and_the_reason_is_told() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage, with_docker("w")).await;
    let why = "the Docker daemon at /run/x is away: connection refused";
    let host = DriverStatus { driver: DriverKind::Host, healthy: true, detail: None };
    worker.say(&[ToMaster::Drivers { drivers: vec![host.clone(), docker(false, why)] }]).await;
    let told = json!({"driver": "docker", "healthy": false, "detail": why});
    eventually("its drivers are shown", async || {
        (stage.client.get("/workers/w").await.body["drivers"][1] == told).then_some(())
    })
    .await;
    assert_eq!(messages(&stage, "worker.drivers").await, [format!("the docker driver is unhealthy: {why}")]);

    let job = stage.client.submit(json!({"image": "busybox"})).await;
    let explained = stage.client.get(&format!("/jobs/{job}/explain")).await;
    let verdict = explained.body["waiting"][0]["workers"][0]["message"].as_str().unwrap();
    assert_eq!(verdict, format!("w has no healthy docker driver: {why}"));

    worker.say(&[ToMaster::Drivers { drivers: vec![host, docker(true, "Docker 27.2")] }]).await;
    assert_eq!(worker.next_start().await.definition.driver, DriverKind::Docker, "it is placed at once");
    let news = messages(&stage, "worker.drivers").await;
    assert!(news.contains(&"the docker driver is healthy: Docker 27.2".to_owned()), "{news:?}");
}

#[tokio::test]
async fn more_drivers_or_ports_than_there_can_be_are_refused() {
    let stage = Stage::set().await;
    let mut flooding = worker(&stage, with_docker("w")).await;
    flooding.say(&[ToMaster::Drivers { drivers: vec![docker(true, "x"); 100] }]).await;
    flooding
        .hear_until(|message| {
            matches!(message, gaffer_protocol::wire::ToWorker::Goodbye { .. }).then_some(())
        })
        .await;
    let mut worker = worker(&stage, with_docker("v")).await;
    let job = stage.client.submit(json!({"image": "busybox"})).await;
    let attempt = worker.next_start().await.attempt;
    let port = facts().ports[0];
    let container = Some(ContainerFacts { ports: vec![port; 10_000], ..facts() });
    worker.say(&[ToMaster::Started { attempt, at: chrono::Utc::now(), container, ports: Vec::new() }]).await;
    worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    stage.client.finished(job).await;
    assert_eq!(attempts(&stage, job).await[0].get("container"), None);
}
