//! Named ports: assigned by workers, known to their tasks, and found again by others.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::spec::{DriverKind, PortProtocol};
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir, program};
use gaffer_e2e::raw_worker::{RawWorker, ended, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::ports::NamedPort;
use gaffer_protocol::wire::{DriverStatus, Ended, ToMaster};
use serde_json::{Value, json};

use super::tenants::neighbour;

/// The server that tests run as a task.
fn http_answer() -> PathBuf {
    program().with_file_name("http-answer")
}

/// Once so many tasks of a job have ports.
async fn ports(dev: &Dev, path: &str, tasks: usize) -> Vec<Value> {
    eventually(&format!("{tasks} tasks with ports"), async || {
        let items = dev.client.get(path).await.body["items"].as_array()?.clone();
        (items.len() == tasks).then_some(items)
    })
    .await
}

async fn run(dev: &Dev, args: &[&str]) -> String {
    let done = dev.cli(args).output().await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[tokio::test]
async fn a_service_is_reached_at_the_addresses_that_api_and_command_tell() {
    let dir = data_dir();
    let dev = Dev::start_with(dir.path(), &[("GAFFER_ADVERTISE_ADDR", "localhost")]).await;
    let spec = json!({
        "name": "web", "type": "service", "count": 3, "ports": ["http", "metrics"], "resources": {"cpu": 0.1},
        "command": [http_answer(), dir.path()],
    });
    let job = dev.client.submit(spec).await;
    let tasks = ports(&dev, "/services/web/ports", 3).await;
    assert_eq!(ports(&dev, &format!("/jobs/{job}/ports"), 3).await, tasks);
    let mut seen = BTreeSet::new();
    for (index, task) in tasks.iter().enumerate() {
        assert_eq!(task["address"], format!("main.{index}"));
        for (name, port) in ["http", "metrics"].iter().zip(task["ports"].as_array().unwrap()) {
            assert_eq!((&port["name"], &port["host"]), (&json!(name), &json!("localhost")));
            let number = port["port"].as_u64().unwrap();
            assert!((20_000..30_000).contains(&number) && seen.insert(number), "{number} of {seen:?}");
            assert_eq!(port["target"], port["port"]);
        }
    }
    let addresses = run(&dev, &["ports", "web", "--port", "http", "-o", "name"]).await;
    let addresses: Vec<&str> = addresses.lines().collect();
    assert_eq!(addresses.len(), 3);
    for (index, address) in addresses.iter().enumerate() {
        let body = eventually("an answer", async || {
            reqwest::get(format!("http://{address}/")).await.ok()?.text().await.ok()
        })
        .await;
        assert!(body.starts_with(&format!("job {job} index {index} attempt 1")), "{body}");
    }
    let first = addresses[0];
    let table = run(&dev, &["ports", &job.to_string()]).await;
    assert!(table.lines().nth(1).unwrap().contains(first), "{table}");
    let records = run(&dev, &["ports", "web", "--srv"]).await;
    let number = first.split_once(':').unwrap().1;
    assert_eq!(records.lines().next().unwrap(), format!("main.0._http._tcp.web SRV 0 0 {number} localhost"));
    let groups = dev.client.get("/services/web/http-sd?port=http").await.body;
    assert_eq!(groups[0]["targets"], json!([first]));
    assert_eq!(groups[2]["labels"]["__meta_gaffer_task"], "main.2");
    let servers =
        dev.client.get("/services/web/traefik").await.body["http"]["services"]["web"]["loadBalancer"].clone();
    assert_eq!(servers["servers"][0]["url"], format!("http://{first}"));

    dev.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    dev.client.finished(job).await;
    assert_eq!(dev.client.get(&format!("/jobs/{job}/ports")).await.body["items"], json!([]));
    assert_eq!(dev.client.get("/services/web/ports").await.status, 404);
    let detail = dev.client.get(&format!("/jobs/{job}/tasks/main.0")).await;
    assert_eq!(detail.body["attempts"][0]["ports"][0]["name"], "http", "what was is kept");
}

#[tokio::test]
async fn a_task_finds_its_ports_in_its_environment() {
    let dir = data_dir();
    let dev = Dev::start_with(dir.path(), &[("GAFFER_PORT_RANGE", "21000-21009")]).await;
    let script = "echo $GAFFER_PORT_WEB_UI $GAFFER_ADDR_WEB_UI $GAFFER_PORT_RPC";
    let job = dev.client.submit(json!({"script": script, "ports": ["web-ui", "rpc=21999"]})).await;
    assert_eq!(dev.client.finished(job).await.state, "completed");
    let output = String::from_utf8(dev.client.output(job).await).unwrap();
    let words: Vec<&str> = output.split_whitespace().collect();
    let assigned: u16 = words[0].parse().unwrap();
    assert!((21_000..=21_009).contains(&assigned), "{output}");
    // The master is on this machine, and reached over the loopback.
    assert_eq!(words[1..], [format!("127.0.0.1:{assigned}"), "21999".to_owned()]);
}

#[tokio::test]
async fn a_port_that_is_in_use_on_the_worker_fails_the_start_and_is_named() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = listener.local_addr().unwrap().port();
    let job = dev.client.submit(json!({"command": ["true"], "ports": [format!("http={taken}")]})).await;
    let reason = dev.client.finished(job).await.reason.unwrap();
    assert_eq!(reason.code.as_str(), "start_failed");
    let expected = format!("cannot prepare the task's ports: port {taken} is in use on this worker");
    assert_eq!(reason.message, expected);
}

#[tokio::test]
async fn ports_that_a_worker_tells_are_kept_whether_its_start_or_its_end_tells_them() {
    let stage = Stage::set().await;
    let mut hello = hello("w");
    hello.drivers.push(DriverStatus { driver: DriverKind::Docker, healthy: true, detail: None });
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello).await;
    let port = NamedPort {
        name: "http".to_owned(),
        host: "10.0.0.7".to_owned(),
        port: 20_000,
        target: 80,
        protocol: PortProtocol::Tcp,
    };
    for tells_at_start in [true, false] {
        let job = stage.client.submit(json!({"image": "busybox", "ports": ["http=80", "8080:81"]})).await;
        let start = worker.next_start().await;
        // A worker of an earlier version finds what it understands where it always was.
        let published = &start.definition.container.as_ref().unwrap().ports;
        assert_eq!(published.iter().map(ToString::to_string).collect::<Vec<_>>(), ["8080:81"]);
        let named: Vec<String> = start.definition.named_ports.iter().map(ToString::to_string).collect();
        assert_eq!(named, ["http=80"]);
        let attempt = start.attempt;
        let ports = |tells: bool| if tells { vec![port.clone()] } else { Vec::new() };
        let started = ToMaster::Started {
            attempt,
            at: chrono::Utc::now(),
            container: None,
            ports: ports(tells_at_start),
        };
        worker.say(&[started]).await;
        let end = ended(attempt, AttemptEnd::Exited { code: 0 }, 0);
        worker.say(&[ToMaster::Ended(Box::new(Ended { ports: ports(!tells_at_start), ..end }))]).await;
        stage.client.finished(job).await;
        let detail = stage.client.get(&format!("/jobs/{job}/tasks/main")).await;
        assert_eq!(detail.body["attempts"][0]["ports"], json!([port]));
        let cookie = stage.sign_in(&stage.client).await;
        let page = stage.page(&format!("/jobs/{job}/tasks/main"), &cookie).await.text().await.unwrap();
        assert!(page.contains("http 10.0.0.7:20000 → 80/tcp"), "{page}");
    }
}

#[tokio::test]
async fn a_service_is_the_newest_one_of_its_name() {
    let stage = Stage::set().await;
    let service = json!({"name": "web", "type": "service", "command": ["x"], "ports": ["http"]});
    let old = stage.client.submit(service.clone()).await;
    assert_eq!(stage.client.get("/services/web/ports").await.status, 200);
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let first = worker.next_start().await.attempt;
    let new = stage.client.submit(service).await;
    let second = worker.next_start().await.attempt;
    let started = |attempt, port| ToMaster::Started {
        attempt,
        at: chrono::Utc::now(),
        container: None,
        ports: vec![NamedPort {
            name: "http".to_owned(),
            host: "10.0.0.7".to_owned(),
            port,
            target: port,
            protocol: PortProtocol::Tcp,
        }],
    };
    worker.say(&[started(first, 1), started(second, 2)]).await;
    stage.client.in_state(old, "running").await;
    stage.client.in_state(new, "running").await;
    let found = stage.client.get("/services/web/ports").await.body;
    assert_eq!(found["items"][0]["ports"][0]["port"], 2);
    let batch = stage.client.submit(json!({"name": "batch", "command": ["x"], "ports": ["http"]})).await;
    stage.client.job(batch).await;
    assert_eq!(stage.client.get("/services/batch/ports").await.status, 404, "no service");
    let name = "n".repeat(120);
    stage.client.submit(json!({"name": name, "type": "service", "command": ["x"]})).await;
    assert_eq!(stage.client.get(&format!("/services/{name}/ports")).await.status, 200, "the longest name");
}

#[tokio::test]
async fn a_service_of_another_project_is_not_found() {
    let stage = Stage::set().await;
    let (eve, _) = neighbour(&stage).await;
    stage.client.submit(json!({"name": "web", "type": "service", "command": ["x"], "ports": ["http"]})).await;
    for path in ["ports", "http-sd", "traefik"] {
        assert_eq!(stage.client.get(&format!("/services/web/{path}")).await.status, 200, "{path}");
        assert_eq!(eve.get(&format!("/services/web/{path}")).await.status, 404, "{path}");
    }
}
