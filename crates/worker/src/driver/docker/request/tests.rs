#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use gaffer_domain::quantity::Span;
use gaffer_domain::spec::{DriverKind, Port, PullPolicy, Resources, StopSignal, StopSpec};
use gaffer_domain::{JobId, TaskId};
use gaffer_protocol::definitions::Definition;

use super::*;

const ABLE: Abilities = Abilities { init: true, disk_limit: true, local_log: true };

fn spec() -> Container {
    Container {
        image: "busybox:local".to_owned(),
        pull: PullPolicy::Missing,
        entrypoint: None,
        user: None,
        workdir: None,
        pids_limit: 4096,
        ports: Vec::new(),
        volumes: Vec::new(),
        tmpfs: BTreeMap::new(),
        network: Network::Bridge,
        capabilities: Vec::new(),
        gpus: None,
    }
}

fn start(action: Action) -> StartAttempt {
    let definition = Definition {
        job: JobId(3),
        task: "train".to_owned(),
        driver: DriverKind::Docker,
        container: None,
        named_ports: Vec::new(),
        workdir: None,
        nice: 0,
        stdin: false,
        action,
        secrets: Vec::new(),
        env: BTreeMap::new(),
        resources: Resources { cpu: Cpu::from_millis(500), memory: Bytes(64 << 20), disk: Bytes(1 << 30) },
        timeout: None,
        output: None,
        countables: BTreeMap::new(),
        stop: StopSpec { signal: StopSignal::Sigterm, grace: Span::from_secs(1) },
        health: None,
        readiness: None,
        lost_after: Span::from_secs(120),
    };
    let attempt = AttemptRef { task: TaskId(7), attempt: 2 };
    let pieces = BTreeMap::new();
    StartAttempt {
        attempt,
        index: 5,
        item: None,
        pieces,
        assigned_ports: Vec::new(),
        definition: definition.into(),
    }
}

fn command(words: &[&str]) -> Action {
    Action::Command(words.iter().map(|word| (*word).to_owned()).collect())
}

fn asked(spec: &Container, policy: &ContainerPolicy) -> Result<ContainerCreateBody, String> {
    let mounts = || {
        check(spec, policy)?;
        spec.volumes.iter().map(|volume| mount(volume, &policy.volume_roots)).collect::<Result<Vec<_>, _>>()
    };
    let mounts = mounts().map_err(|error: StartError| error.message)?;
    Ok(made(&start(command(&["true"])), spec, &mounts, ABLE))
}

fn made(
    start: &StartAttempt,
    spec: &Container,
    mounts: &[Mount],
    abilities: Abilities,
) -> ContainerCreateBody {
    let environment = [("MODE", "full"), ("GAFFER_WORKER", "pi4")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    container(Wanted { start, spec, environment: &environment, mounts }, "owner", abilities)
}

#[test]
fn a_container_has_no_rights_unless_they_are_named() {
    let body = asked(&spec(), &ContainerPolicy::default()).unwrap();
    let host = body.host_config.unwrap();
    assert_eq!((host.cap_drop, host.cap_add), (Some(vec!["ALL".to_owned()]), None));
    assert_eq!(host.security_opt, Some(vec!["no-new-privileges".to_owned()]));
    assert_eq!((host.privileged, host.binds, host.devices), (Some(false), None, None));
    assert_eq!((host.mounts, host.network_mode), (Some(Vec::new()), Some("bridge".to_owned())));
    let policy = ContainerPolicy { capabilities: vec!["CHOWN".to_owned()], ..ContainerPolicy::default() };
    let wanted = |name: &str| Container { capabilities: vec![name.to_owned()], ..spec() };
    let host = asked(&wanted("CHOWN"), &policy).unwrap().host_config.unwrap();
    assert_eq!(host.cap_add, Some(vec!["CHOWN".to_owned()]));
    let refusal = asked(&wanted("SYS_ADMIN"), &policy).unwrap_err();
    assert!(refusal.contains("SYS_ADMIN") && refusal.contains("GAFFER_DOCKER_CAPABILITIES"), "{refusal}");
}

#[test]
fn what_a_task_reserves_is_its_limit() {
    let host = asked(&spec(), &ContainerPolicy::default()).unwrap().host_config.unwrap();
    assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
    assert_eq!((host.nano_cpus, host.pids_limit), (Some(500_000_000), Some(4096)));
    assert_eq!(host.storage_opt.unwrap()["size"], (1_u64 << 30).to_string());
    let unable = Abilities { disk_limit: false, ..ABLE };
    let body = made(&start(command(&["true"])), &spec(), &[], unable);
    assert_eq!(body.host_config.unwrap().storage_opt, None);
}

#[test]
fn a_command_gives_the_arguments_and_a_script_takes_the_place_of_the_entry_point() {
    let made = |action| {
        let body = made(&start(action), &spec(), &[], ABLE);
        (body.entrypoint, body.cmd)
    };
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    assert_eq!(made(command(&["echo", "hi"])), (None, words(&["echo", "hi"])));
    assert_eq!(made(command(&[])), (None, None), "as the image says");
    assert_eq!(made(Action::Script("echo".to_owned())), (words(&["/bin/sh", SCRIPT_PATH]), None));
    assert_eq!(made(Action::Script("#!/usr/bin/awk\n".to_owned())), (words(&[SCRIPT_PATH]), None));
}

#[test]
fn a_job_gets_its_environment_and_its_container_is_known() {
    let body = asked(&spec(), &ContainerPolicy::default()).unwrap();
    assert_eq!(body.env.unwrap(), ["GAFFER_WORKER=pi4", "MODE=full"]);
    let labels = body.labels.unwrap();
    assert_eq!((labels[OWNER_LABEL].as_str(), labels[ATTEMPT_LABEL].as_str()), ("owner", "7.2"));
    assert_eq!((labels[JOB_LABEL].as_str(), labels[TASK_LABEL].as_str()), ("3", "train.5"));
}

#[test]
fn ports_are_published_where_they_are_wanted() {
    let ports = ["8080:80", "0:53/udp"].map(|port| port.parse::<Port>().unwrap()).to_vec();
    let body = asked(&Container { ports, ..spec() }, &ContainerPolicy::default()).unwrap();
    assert_eq!(body.exposed_ports, Some(vec!["80/tcp".to_owned(), "53/udp".to_owned()]));
    let bindings = body.host_config.unwrap().port_bindings.unwrap();
    let host = |port: &str| bindings[port].as_ref().unwrap()[0].host_port.clone().unwrap();
    assert_eq!((host("80/tcp"), host("53/udp")), ("8080".to_owned(), String::new()));
}

#[test]
fn only_what_lies_below_an_allowed_directory_is_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    std::fs::create_dir_all(root.join("set")).unwrap();
    symlink("/etc", root.join("escape")).unwrap();
    let policy = ContainerPolicy { volume_roots: vec![root.clone()], ..ContainerPolicy::default() };
    let mounted = |source: &Path| {
        let volume =
            Volume { source: source.display().to_string(), target: "/x".to_owned(), read_only: true };
        let body = asked(&Container { volumes: vec![volume], ..spec() }, &policy)?;
        Ok(body.host_config.unwrap().mounts.unwrap().remove(0))
    };
    let mount = mounted(&root.join("set")).unwrap();
    assert_eq!(mount.source.unwrap(), root.canonicalize().unwrap().join("set").display().to_string());
    assert_eq!((mount.target.unwrap(), mount.read_only), ("/x".to_owned(), Some(true)));
    assert!(mounted(&root).is_ok());
    let refusal = |source: &Path| -> String { mounted(source).unwrap_err() };
    assert!(refusal(Path::new("/etc")).contains("GAFFER_VOLUME_ROOTS"));
    assert!(refusal(&root.join("escape")).contains("not below"), "links are followed first");
    assert!(refusal(&dir.path().join("database")).contains("does not exist"));
    let nothing_allowed = ContainerPolicy::default();
    let volume = Volume { source: "/etc".to_owned(), target: "/x".to_owned(), read_only: false };
    let refusal = asked(&Container { volumes: vec![volume], ..spec() }, &nothing_allowed).unwrap_err();
    assert!(refusal.contains("allows no volumes"), "{refusal}");
}

#[test]
fn images_and_the_network_of_the_machine_are_the_operators_to_allow() {
    let images = vec!["lab.example/*".to_owned(), "busybox:*".to_owned()];
    let policy = ContainerPolicy { images, ..ContainerPolicy::default() };
    assert!(asked(&spec(), &policy).is_ok());
    let refusal = asked(&Container { image: "evil".to_owned(), ..spec() }, &policy).unwrap_err();
    assert!(refusal.contains("lab.example/*, busybox:*"), "{refusal}");
    let wants_host = Container { network: Network::Host, ..spec() };
    assert!(asked(&wants_host, &policy).unwrap_err().contains("GAFFER_DOCKER_HOST_NETWORK"));
    let allowed = ContainerPolicy { host_network: true, ..ContainerPolicy::default() };
    assert!(asked(&wants_host, &allowed).is_ok());
}

#[test]
fn a_pattern_stands_for_what_its_stars_leave_open() {
    for (pattern, text, expected) in [
        ("busybox", "busybox", true),
        ("busybox", "busybox:1", false),
        ("*", "anything", true),
        ("busybox*", "busybox:1", true),
        ("*:v3", "lab/x:v3", true),
        ("*:v3", "lab/x:v31", false),
        ("lab/*/x:*", "lab/tools/x:1", true),
        ("lab/*/x:*", "lab/x:1", false),
        ("a*a", "a", false),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} for {text}");
    }
}
