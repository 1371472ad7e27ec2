//! What gaffer adds to a container, beside the bare calls to the daemon; and how fast output comes out of one.
//!
//! `cargo bench -p gaffer-worker --bench containers`; needs a Docker daemon, or root to start one.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    dead_code
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::ListContainersOptions;
use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_domain::spec::{Container, DriverKind, Network, PullPolicy, Resources};
use gaffer_worker::config::{DockerConfig, VolumeRoots};
use gaffer_worker::driver::bare_container::BareContainer;
use gaffer_worker::{ApiKey, ExecutorPlace, WorkerConfig};
use tokio_util::sync::CancellationToken;

#[path = "../src/tests/docker_daemon.rs"]
mod docker_daemon;
#[path = "../src/tests/master.rs"]
mod master;

use docker_daemon::IMAGE;
use master::{Master, Order, Session};

/// Containers one after the other, in turns with and without gaffer.
const PAIRS: i64 = 60;
const TASKS: i64 = 200;
const AT_ONCE: u32 = 8;
const OUTPUT_BYTES: usize = 50_000_000;

/// Whether a process lives, which [`docker_daemon`] asks of its parent module.
fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

#[tokio::main]
async fn main() {
    let Some(address) = docker_daemon::shared("containers") else { return };
    let docker = docker_daemon::client(address).negotiate_version().await.unwrap();
    overhead(address).await;
    many(address, &docker).await;
    output(address).await;
}

async fn worker(
    address: &str,
    slots: u32,
    roots: Vec<std::path::PathBuf>,
) -> (Session, tempfile::TempDir, impl Future<Output = ()>) {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start().await;
    let docker = DockerConfig {
        docker_host: Some(address.to_owned()),
        volume_roots: Some(VolumeRoots(roots)),
        ..DockerConfig::default()
    };
    let config = WorkerConfig {
        cpu: Some(Cpu::from_millis(slots * 1000)),
        docker,
        ..WorkerConfig::new(master.url.clone(), ApiKey::from("key".to_owned()), dir.path())
    };
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(gaffer_worker::run(config, ExecutorPlace::Here, shutdown.clone()));
    let session = master.accept_and_welcome().await;
    let stop = async move {
        shutdown.cancel();
        running.await.unwrap().unwrap();
    };
    (session, dir, stop)
}

fn task(number: i64, words: &[&str]) -> Order {
    let container = Container {
        image: IMAGE.to_owned(),
        pull: PullPolicy::Missing,
        entrypoint: None,
        user: None,
        workdir: None,
        pids_limit: 100,
        ports: Vec::new(),
        volumes: Vec::new(),
        tmpfs: BTreeMap::new(),
        network: Network::None,
        capabilities: Vec::new(),
        gpus: None,
    };
    let resources = Resources { cpu: Cpu::from_millis(1000), memory: Bytes(0), disk: Bytes(0) };
    let container = Some(Box::new(container));
    Order { driver: DriverKind::Docker, container, resources, ..master::command(number, words) }
}

async fn overhead(address: &str) {
    let bare = BareContainer::new(Some(address), IMAGE, &["echo", "hello"], "a bench").await.unwrap();
    let (mut session, _dir, stop) = worker(address, 1, Vec::new()).await;
    let (mut alone, mut with): (Vec<Duration>, Vec<Duration>) = Default::default();
    for number in 1..=PAIRS {
        let began = Instant::now();
        bare.run().await.unwrap();
        alone.push(began.elapsed());
        let began = Instant::now();
        session.see_through(vec![task(number, &["echo", "hello"])]).await;
        with.push(began.elapsed());
    }
    alone.sort_unstable();
    with.sort_unstable();
    let middle = alone.len() / 2;
    println!(
        "one container            {:.1?} bare, {:.1?} with gaffer: {:+.1} ms at the median of {PAIRS}",
        alone[middle],
        with[middle],
        (with[middle].as_secs_f64() - alone[middle].as_secs_f64()) * 1e3
    );
    stop.await;
}

async fn many(address: &str, docker: &Docker) {
    let count = async || {
        let options = ListContainersOptions { all: true, ..ListContainersOptions::default() };
        docker.list_containers(Some(options)).await.unwrap().len()
    };
    let before = count().await;
    let (mut session, _dir, stop) = worker(address, AT_ONCE, Vec::new()).await;
    let began = Instant::now();
    let books =
        session.see_through((1..=TASKS).map(|number| task(number, &["echo", "hello"])).collect()).await;
    let took = began.elapsed();
    let right = books.ended.values().filter(|ended| ended.end.exit_code() == Some(0)).count();
    let lines = books.stdout.values().filter(|output| output.as_slice() == b"hello\n").count();
    let left = count().await - before;
    println!(
        "{TASKS} containers, {AT_ONCE} at once {:6.1} tasks/s; {right} ended well, {lines} outputs exact, {left} containers left",
        TASKS as f64 / took.as_secs_f64(),
    );
    stop.await;
}

async fn output(address: &str) {
    let data = tempfile::tempdir().unwrap();
    let bytes = gaffer_worker::driver::scripted::PseudoRandom::new(1).take_bytes(OUTPUT_BYTES);
    std::fs::write(data.path().join("bytes"), &bytes).unwrap();
    let (mut session, _dir, stop) = worker(address, 2, vec![data.path().to_owned()]).await;
    let mut start = task(1, &["sh", "-c", "cat /data/bytes >&2 & cat /data/bytes; wait"]);
    if let Some(container) = &mut start.container {
        container.volumes = vec![format!("{}:/data:ro", data.path().display()).parse().unwrap()];
    }
    let began = Instant::now();
    session.start([start]).await;
    let mut books = master::Books::default();
    while books.ended.is_empty() {
        if !session.keep(&mut books).await {
            panic!("the worker went away");
        }
    }
    let took = began.elapsed();
    let attempt = master::attempt(1);
    let exact = books.stdout[&attempt] == bytes && books.stderr[&attempt] == bytes;
    println!(
        "output of a container    {:6.0} MB/s over both streams of {} MB; exact: {exact}",
        2.0 * OUTPUT_BYTES as f64 / took.as_secs_f64() / 1e6,
        OUTPUT_BYTES / 1_000_000
    );
    stop.await;
}
