//! The docker driver with a real daemon.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptions, ListContainersOptions};
use gaffer_domain::quantity::{Bytes, Span};
use gaffer_domain::reason::{AttemptEnd, LostCause, ProcessEnd};
use gaffer_domain::spec::{Container, DriverKind, Network, PullPolicy, StopSignal, StopSpec};
use gaffer_domain::worker::HeldPhase;
use gaffer_protocol::wire::{DriverStatus, Ended, Input, InputBytes, InputState, ToMaster, ToWorker};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::docker_daemon::{self, Daemon, IMAGE, client};
use super::master::{Books, Order, Said, Session, attempt, command, eventually, script};
use super::{Worker, restart};
use crate::WorkerConfig;
use crate::config::{DockerConfig, VolumeRoots};

pub(super) fn container() -> Container {
    Container {
        image: IMAGE.to_owned(),
        pull: PullPolicy::Never,
        entrypoint: None,
        user: None,
        workdir: None,
        pids_limit: 4096,
        ports: Vec::new(),
        volumes: Vec::new(),
        tmpfs: BTreeMap::new(),
        network: Network::None,
        capabilities: Vec::new(),
        gpus: None,
    }
}

pub(super) fn in_container(start: Order, container: Container) -> Order {
    Order { driver: DriverKind::Docker, container: Some(Box::new(container)), ..start }
}

fn shell(task: i64, text: &str) -> Order {
    in_container(command(task, &["sh", "-c", text]), container())
}

fn with_docker(address: &str) -> impl FnOnce(WorkerConfig) -> WorkerConfig {
    let docker_host = Some(address.to_owned());
    move |config| WorkerConfig {
        drivers: Some("host,docker".to_owned()),
        docker: DockerConfig { docker_host, ..config.docker },
        ..config
    }
}

pub(super) async fn worker(address: &str) -> (Worker, Session) {
    let worker = Worker::start_with(with_docker(address)).await;
    let session = worker.master.accept_and_welcome().await;
    (worker, session)
}

/// Containers of any worker that carry the attempt's label and are still there.
async fn left_of(address: &str, worker: &Worker) -> Vec<String> {
    let identity = std::fs::read_to_string(worker.dir.path().join("identity")).unwrap();
    let owner = crate::container_owner(identity.trim().parse().unwrap());
    left(address, &owner).await
}

async fn left(address: &str, owner: &str) -> Vec<String> {
    labelled(address, format!("gaffer.worker={owner}")).await
}

/// The names of all containers with a label.
pub(super) async fn labelled(address: &str, label: String) -> Vec<String> {
    let options = ListContainersOptions {
        all: true,
        filters: Some(HashMap::from([("label".to_owned(), vec![label])])),
        ..ListContainersOptions::default()
    };
    let all = client(address).list_containers(Some(options)).await.unwrap();
    all.into_iter().map(|summary| summary.names.unwrap().join(",")).collect()
}

fn failure(ended: &Ended) -> (i32, &str) {
    match &ended.end {
        AttemptEnd::StartFailed { exit_code, message } => (*exit_code, message),
        end => panic!("it started: {end:?}"),
    }
}

#[tokio::test]
async fn what_is_written_to_a_container_reaches_its_process_and_so_does_the_end() {
    const NAME: &str = "what_is_written_to_a_container_reaches_its_process_and_so_does_the_end";
    let Some(address) = docker_daemon::shared(NAME) else { return };
    let (worker, mut session) = worker(address).await;
    let start = Order { stdin: true, ..shell(1, "cat; echo over") };
    session.start([start]).await;
    let mut books = Books::default();
    while books.started.is_empty() {
        session.keep(&mut books).await;
    }
    let all: Vec<u8> = (0..100_000_u32).map(|number| (number * 31 % 251) as u8).collect();
    for (request, part, is_last) in [(1, 0..60_000, false), (2, 60_000..100_000, true)] {
        let bytes = InputBytes(all[part.clone()].to_vec().into());
        let (attempt, writer, offset) = (attempt(1), uuid::Uuid::from_u128(1), part.start as u64);
        let input = Input { attempt, request, writer, offset, bytes, is_last };
        session.send(&[ToWorker::Input(Box::new(input))]).await;
        while books.taken.len() < request as usize {
            session.keep(&mut books).await;
        }
        let state = if is_last { InputState::Closed } else { InputState::Open };
        let taken = books.taken[request as usize - 1];
        assert_eq!((taken.offset, taken.state), (part.end as u64, state));
    }
    while books.ended.is_empty() {
        session.keep(&mut books).await;
    }
    assert_eq!(books.ended[&attempt(1)].end, AttemptEnd::Exited { code: 0 });
    assert!(books.stdout[&attempt(1)] == [all, b"over\n".to_vec()].concat());
    worker.stop().await;
}

#[tokio::test]
async fn each_end_of_a_container_has_its_cause() {
    let Some(address) = docker_daemon::shared("each_end_of_a_container_has_its_cause") else { return };
    let (worker, mut session) = worker(address).await;
    let small = |start: Order| {
        let memory = Bytes(16 << 20);
        Order { resources: gaffer_domain::spec::Resources { memory, ..start.resources }, ..start }
    };
    let books = session
        .see_through(vec![
            shell(1, "echo out; echo err >&2; exit 3"),
            shell(2, "kill -SEGV $$"),
            small(shell(3, "tail /dev/zero")),
            in_container(command(5, &[]), container()),
            in_container(script(6, "echo \"$0 $GAFFER_TASK_INDEX\""), container()),
            in_container(script(7, "#!/bin/awk -f\nBEGIN { print \"awk\" }"), container()),
        ])
        .await;
    let end = |task| &books.ended[&attempt(task)].end;
    assert_eq!(end(1), &AttemptEnd::Exited { code: 3 });
    assert_eq!(
        (books.stdout(attempt(1)), books.stderr(attempt(1))),
        ("out\n".to_owned(), "err\n".to_owned())
    );
    assert_eq!(end(2), &AttemptEnd::Signalled { signal: 11 });
    assert_eq!(end(3), &AttemptEnd::OutOfMemory);
    assert_eq!(books.stdout(attempt(5)), "the image's own command\n");
    assert_eq!(books.stdout(attempt(6)), "/.gaffer-script 0\n");
    assert_eq!(books.stdout(attempt(7)), "awk\n");
    let facts = books.ended[&attempt(1)].container.clone().unwrap();
    assert!(facts.image.starts_with("sha256:") && facts.id.len() == 64, "{facts:?}");
    assert_eq!(left_of(address, &worker).await, [] as [&str; 0]);
    worker.stop().await;
}

#[tokio::test]
async fn time_runs_out_for_a_container_that_ignores_the_polite_signal() {
    let Some(address) = docker_daemon::shared("time_runs_out_for_a_container_that_ignores_the_polite_signal")
    else {
        return;
    };
    let (worker, mut session) = worker(address).await;
    let stop = StopSpec { signal: StopSignal::Sigterm, grace: Span::from_millis(200) };
    // Until the machine was quick enough to have it ignore the signal within its time.
    for (task, millis) in [(1, 400), (2, 2_000), (3, 10_000), (4, 50_000)] {
        let limit = Span::from_millis(millis);
        let stubborn = shell(task, "trap '' TERM; echo up; while :; do sleep 1; done");
        let books = session.see_through(vec![Order { timeout: Some(limit), stop, ..stubborn }]).await;
        if books.stdout(attempt(task)).is_empty() {
            continue;
        }
        let ended = &books.ended[&attempt(task)];
        assert_eq!(ended.end, AttemptEnd::TimedOut { limit, process: ProcessEnd::Signal(9) });
        let receipt = ended.killed.unwrap();
        assert!(receipt.killed >= 1 && receipt.left == 0, "{receipt:?}");
        assert_eq!(left_of(address, &worker).await, [] as [&str; 0]);
        return worker.stop().await;
    }
    panic!("it never got to its first word");
}

#[tokio::test]
async fn what_cannot_start_says_why_and_leaves_nothing() {
    let Some(address) = docker_daemon::shared("what_cannot_start_says_why_and_leaves_nothing") else {
        return;
    };
    let (worker, mut session) = worker(address).await;
    let missing = |pull| Container { image: "localhost:1/no/such:image".to_owned(), pull, ..container() };
    let volume = "/etc:/x".parse().unwrap();
    let books = session
        .see_through(vec![
            in_container(command(1, &["true"]), missing(PullPolicy::Never)),
            in_container(command(2, &["true"]), missing(PullPolicy::Missing)),
            in_container(command(3, &["true"]), Container { volumes: vec![volume], ..container() }),
            in_container(
                command(4, &["true"]),
                Container { user: Some("nobody-here".to_owned()), ..container() },
            ),
        ])
        .await;
    let failure = |task| failure(&books.ended[&attempt(task)]);
    let (code, message) = failure(1);
    assert_eq!(code, 125);
    assert!(
        message.starts_with("image not found: localhost:1/no/such:image is not on this worker"),
        "{message}"
    );
    let (code, message) = failure(2);
    assert_eq!(code, 125);
    assert!(message.contains("registry cannot be reached"), "{message}");
    assert!(failure(3).1.contains("allows no volumes"), "{}", failure(3).1);
    assert!(failure(4).1.contains("nobody-here"), "{}", failure(4).1);
    assert_eq!(left_of(address, &worker).await, [] as [&str; 0]);
    worker.stop().await;
}

#[tokio::test]
async fn how_far_a_pull_is_is_told() {
    let Some(address) = docker_daemon::shared("how_far_a_pull_is_is_told") else { return };
    let (worker, mut session) = worker(address).await;
    let always =
        Container { image: "localhost:1/no/such".to_owned(), pull: PullPolicy::Always, ..container() };
    let start = in_container(command(1, &["true"]), always);
    session.start([start]).await;
    let noted = session.report().await;
    let message = "pulling localhost:1/no/such:latest".to_owned();
    assert_eq!(noted, ToMaster::Noted { attempt: attempt(1), message });
    let ended = session.ended().await;
    assert!(failure(&ended).1.contains("localhost:1/no/such:latest"));
    worker.stop().await;
}

#[tokio::test]
async fn both_streams_are_exact() {
    let Some(address) = docker_daemon::shared("both_streams_are_exact") else { return };
    let data = tempfile::tempdir().unwrap();
    let random = |seed| crate::driver::scripted::PseudoRandom::new(seed).take_bytes(3_000_000);
    std::fs::write(data.path().join("out"), random(1)).unwrap();
    std::fs::write(data.path().join("err"), random(2)).unwrap();
    let roots = VolumeRoots(vec![data.path().to_owned()]);
    let configure = |config| {
        let config = with_docker(address)(config);
        let docker = DockerConfig { volume_roots: Some(roots), ..config.docker };
        WorkerConfig { docker, ..config }
    };
    let worker = Worker::start_with(configure).await;
    let mut session = worker.master.accept_and_welcome().await;
    let volume = format!("{}:/data:ro", data.path().display()).parse().unwrap();
    let start = in_container(
        command(1, &["sh", "-c", "cat /data/out & cat /data/err >&2; wait; touch /data/x"]),
        Container { volumes: vec![volume], ..container() },
    );
    let quick = (2..12).map(|task| shell(task, &format!("echo {task}")));
    let books = session.see_through([start].into_iter().chain(quick).collect()).await;
    assert!(books.stdout[&attempt(1)] == random(1));
    assert!(books.stderr[&attempt(1)].starts_with(&random(2)));
    assert_eq!(books.ended[&attempt(1)].end, AttemptEnd::Exited { code: 1 }, "it may only read");
    for task in 2..12 {
        assert_eq!(books.stdout(attempt(task)), format!("{task}\n"));
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_container_is_as_its_spec_says() {
    let Some(address) = docker_daemon::shared("a_container_is_as_its_spec_says") else { return };
    let (worker, mut session) = worker(address).await;
    let spec = Container {
        user: Some("1234:5678".to_owned()),
        workdir: Some("/tmp".to_owned()),
        tmpfs: BTreeMap::from([("/scratch".to_owned(), Bytes(1 << 20))]),
        capabilities: vec!["CHOWN".to_owned()],
        pids_limit: 20,
        ..container()
    };
    let text = "id -u; id -g; pwd; stat -f -c %T /scratch; grep -c . /proc/net/dev; \
                cat /proc/self/status | grep -e CapBnd -e NoNewPrivs; echo $MODE $GAFFER_WORKER";
    let mut start = in_container(command(1, &["sh", "-c", text]), spec.clone());
    start.env.insert("MODE".to_owned(), "full".to_owned());
    let entry = Container { entrypoint: Some(vec!["echo".to_owned(), "entry".to_owned()]), ..spec };
    let books = session.see_through(vec![start, in_container(command(2, &["point"]), entry)]).await;
    assert_eq!(
        books.stdout(attempt(1)),
        "1234\n5678\n/tmp\ntmpfs\n3\nCapBnd:\t0000000000000001\nNoNewPrivs:\t1\nfull tester\n",
        "{}",
        books.stderr(attempt(1))
    );
    assert_eq!(books.stdout(attempt(2)), "entry point\n");
    worker.stop().await;
}

#[tokio::test]
async fn a_port_that_was_left_open_is_told_and_reachable() {
    let Some(address) = docker_daemon::shared("a_port_that_was_left_open_is_told_and_reachable") else {
        return;
    };
    let (worker, mut session) = worker(address).await;
    let spec = Container { ports: vec!["0:80".parse().unwrap()], network: Network::Bridge, ..container() };
    let text = "while :; do echo hello | nc -l -p 80; done";
    let start = in_container(command(1, &["sh", "-c", text]), spec);
    session.start([start]).await;
    let report = session.report().await;
    let ToMaster::Started { container: Some(facts), .. } = report else { panic!("no start: {report:?}") };
    let [port] = facts.ports[..] else { panic!("{facts:?}") };
    assert_eq!(port.container, 80);
    eventually("an answer from the container", async || {
        let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port.host)).await else {
            return false;
        };
        let _ = stream.shutdown().await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.is_ok() && answer == "hello\n"
    })
    .await;
    session.send(&[ToWorker::Kill { attempt: attempt(1) }]).await;
    let ended = session.ended().await;
    assert_eq!(ended.end, AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(9)) });
    worker.stop().await;
}

#[tokio::test]
async fn what_ignores_the_polite_signal_is_gone_after_its_grace() {
    let Some(address) = docker_daemon::shared("what_ignores_the_polite_signal_is_gone_after_its_grace")
    else {
        return;
    };
    let (worker, mut session) = worker(address).await;
    let stop = StopSpec { signal: StopSignal::Sigterm, grace: Span::from_millis(500) };
    let start = Order { stop, ..shell(1, "trap '' TERM; sleep 1000 & sleep 1000 & echo up; wait; wait") };
    session.start([start, shell(2, "echo up; sleep 1000")]).await;
    let mut books = Books::default();
    while books.output.len() < 2 {
        session.keep(&mut books).await;
    }
    let asked = Instant::now();
    session.send(&[1, 2].map(|task| ToWorker::Stop { attempt: attempt(task) })).await;
    while books.ended.len() < 2 {
        session.keep(&mut books).await;
    }
    assert!(asked.elapsed() < Duration::from_secs(20));
    let ended = &books.ended[&attempt(1)];
    assert_eq!(ended.end, AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(9)) });
    let receipt = ended.killed.unwrap();
    assert!(receipt.killed >= 3 && receipt.left == 0, "{receipt:?}");
    // One that does nothing about the signal ends by it, though it is the first process of its container.
    let ended = &books.ended[&attempt(2)];
    assert_eq!(ended.end, AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(15)) });
    assert_eq!(ended.killed, None);
    worker.stop().await;
}

#[tokio::test]
async fn containers_outlive_their_worker_and_are_found_again() {
    let Some(address) = docker_daemon::shared("containers_outlive_their_worker_and_are_found_again") else {
        return;
    };
    let (master, dir) = (super::Master::start().await, tempfile::tempdir().unwrap());
    let gates = tempfile::tempdir().unwrap();
    let spawn = || restart::spawn_docker_worker(dir.path(), &master.url, address, gates.path());
    let mut child = spawn();
    let mut session = master.accept_and_welcome().await;
    // Each writes a numbered line now and then, on both streams, without the worker and with it, until its gate opens.
    let writing = |task: i64| {
        let text = format!(
            "i=0; while ! [ -e /gates/{task} ]; do echo out $i; echo err $i >&2; i=$((i+1)); usleep 20000; done; \
             echo over $i; exit {task}"
        );
        let volumes = vec![format!("{}:/gates:ro", gates.path().display()).parse().unwrap()];
        in_container(command(task, &["sh", "-c", &text]), Container { volumes, ..container() })
    };
    let open = |tasks: std::ops::RangeInclusive<i64>| {
        tasks.for_each(|task| std::fs::write(gates.path().join(task.to_string()), "").unwrap());
    };
    session.start((1..=10).map(writing)).await;
    let mut books = Books::default();
    while books.output.len() < 10 {
        session.keep(&mut books).await;
    }
    child.kill().await.unwrap();
    // Some end while nobody looks.
    open(1..=3);
    let owner = crate::container_owner(session.hello.identity);
    let running = || async {
        let options = ListContainersOptions {
            filters: Some(HashMap::from([("label".to_owned(), vec![format!("gaffer.worker={owner}")])])),
            ..ListContainersOptions::default()
        };
        client(address).list_containers(Some(options)).await.unwrap().len()
    };
    eventually("the end of some", async || running().await <= 7).await;

    let _child = spawn();
    let mut session = master.accept().await;
    let held = &session.hello.held;
    assert_eq!(held.iter().filter(|held| held.phase == HeldPhase::Running).count(), 10);
    session.welcome(&books.stored()).await;
    // The others write on, and end under its eyes.
    let written = |books: &Books| (4..=10).map(|task| books.stdout(attempt(task)).len()).min().unwrap();
    let before = (4..=10).map(|task| books.stdout(attempt(task)).len()).max().unwrap();
    while written(&books) <= before {
        session.keep(&mut books).await;
    }
    open(4..=10);
    while books.ended.len() < 10 {
        session.keep(&mut books).await;
    }
    for task in 1..=10 {
        let ended = &books.ended[&attempt(task)];
        assert_eq!(ended.end, AttemptEnd::Exited { code: i32::try_from(task).unwrap() });
        let stdout = books.stdout(attempt(task));
        let count: u32 = stdout.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
        let expected = |stream: &str| (0..count).map(|i| format!("{stream} {i}\n")).collect::<String>();
        assert_eq!(stdout, format!("{}over {count}\n", expected("out")));
        assert_eq!(books.stderr(attempt(task)), expected("err"));
        assert!(ended.output_sha256.is_some() && ended.started_at.is_some());
    }
    assert_eq!(left(address, &owner).await, [] as [&str; 0]);
}

#[tokio::test]
async fn a_daemon_that_goes_away_is_missed_and_takes_its_containers_along() {
    let test = "a_daemon_that_goes_away_is_missed_and_takes_its_containers_along";
    let mut daemon = match Daemon::start(docker_daemon::Network::Own) {
        Ok(daemon) => daemon,
        Err(why) => return docker_daemon::skip(test, &why),
    };
    let address = daemon.address();
    if let Err(why) = docker_daemon::add_image(&address) {
        return docker_daemon::skip(test, &why);
    }
    let (worker, mut session) = worker(&address).await;
    assert!(session.hello.drivers.iter().any(|driver| driver.driver == DriverKind::Docker && driver.healthy));
    for signal in [nix::sys::signal::Signal::SIGKILL, nix::sys::signal::Signal::SIGTERM] {
        session.start([shell(signal as i64, "echo up; sleep 1000")]).await;
        while !matches!(session.next().await, Said::Output(_)) {}
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon.pid()), signal).unwrap();
        let down = docker_status(&mut session).await;
        assert!(!down.healthy && down.detail.as_ref().unwrap().contains("is unavailable"), "{down:?}");
        daemon.start_again();
        let (mut ended, mut up) = (None, None);
        while ended.is_none() || up.is_none() {
            match session.report().await {
                ToMaster::Ended(end) => {
                    session.send(&[ToWorker::EndStored { attempt: end.attempt }]).await;
                    ended = Some(end);
                }
                ToMaster::Drivers { drivers } => up = Some(drivers),
                _ => {}
            }
        }
        assert_eq!(ended.unwrap().end, AttemptEnd::Lost { cause: LostCause::DaemonGone }, "{signal}");
        assert!(up.unwrap().iter().all(|driver| driver.healthy));
    }
    let books = session.see_through(vec![shell(100, "echo again")]).await;
    assert_eq!(books.stdout(attempt(100)), "again\n");
    worker.stop().await;
}

/// The docker driver's state as it is reported next.
async fn docker_status(session: &mut Session) -> DriverStatus {
    loop {
        if let ToMaster::Drivers { drivers } = session.report().await {
            return drivers.into_iter().find(|driver| driver.driver == DriverKind::Docker).unwrap();
        }
    }
}

#[tokio::test]
async fn a_container_that_nobody_cares_for_is_removed() {
    let Some(address) = docker_daemon::shared("a_container_that_nobody_cares_for_is_removed") else { return };
    let dir = tempfile::tempdir().unwrap();
    let identity = uuid::Uuid::new_v4();
    std::fs::write(dir.path().join("identity"), identity.to_string()).unwrap();
    let owner = crate::container_owner(identity);
    let name = format!("gaffer-{owner}-77.1");
    let labels = [("gaffer.worker", owner.as_str()), ("gaffer.attempt", "77.1")];
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptions { name: Some(name), ..CreateContainerOptions::default() };
    client(address).create_container(Some(options), body).await.unwrap();
    let master = super::Master::start().await;
    let _child = restart::spawn_docker_worker(dir.path(), &master.url, address, dir.path());
    let _session = master.accept_and_welcome().await;
    eventually("the end of the container", async || left(address, &owner).await.is_empty()).await;
}

#[tokio::test]
async fn without_a_daemon_a_task_in_a_container_says_so() {
    let nowhere = tempfile::tempdir().unwrap();
    let (worker, mut session) = worker(&format!("unix://{}/none", nowhere.path().display())).await;
    let docker = session.hello.drivers.iter().find(|driver| driver.driver == DriverKind::Docker).unwrap();
    assert!(!docker.healthy && docker.detail.as_ref().unwrap().contains("no socket"), "{docker:?}");
    let books = session.see_through(vec![shell(1, "true")]).await;
    let (code, message) = failure(&books.ended[&attempt(1)]);
    assert!(code == 125 && message.contains("the Docker daemon is unavailable"), "{message}");
    worker.stop().await;
}
