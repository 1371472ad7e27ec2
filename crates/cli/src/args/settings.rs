//! Tests that the example settings and compose files match the options of the program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;

use gaffer_domain::document::{Data, Language};

use super::*;

/// Read by the servers without being options.
const BESIDE_OPTIONS: [&str; 2] = ["GAFFER_LOG", "GAFFER_LOG_FORMAT"];

fn file(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The variables that a server understands, without those for tests.
fn understood(server: &str) -> BTreeSet<String> {
    let command = Args::described();
    let server = command.find_subcommand(server).unwrap();
    let options = server.get_arguments().filter(|option| !option.is_hide_set());
    let variables = options.filter_map(|option| Some(option.get_env()?.to_str()?.to_owned()));
    variables.chain(BESIDE_OPTIONS.map(str::to_owned)).collect()
}

/// Variables of a provider of object storage, of which the example has the most usual.
const OF_OBJECT_STORAGE: [&str; 4] =
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"];

/// The variables that a file of settings names, commented out or not.
fn named(example: &str) -> BTreeSet<String> {
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    let lines = example.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
    let names: Vec<_> = lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .filter(|name| is_name(name))
        .collect();
    let set: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(set.len(), names.len(), "a variable is named twice");
    set
}

/// The variables that a compose file asks for: `${NAME}`, `${NAME:-default}`, `${NAME:?complaint}`.
fn asked(compose: &str) -> BTreeSet<String> {
    let names = compose.split("${").skip(1).map(|rest| rest.split([':', '}']).next().unwrap());
    names.map(str::to_owned).collect()
}

#[test]
fn the_examples_name_exactly_the_variables_that_there_are() {
    for server in ["master", "worker"] {
        let example = named(&file(&format!(".env.{server}.example")));
        let mut known = understood(server);
        match server {
            "worker" => known.extend(gaffer_protocol::proxies::VARIABLES.map(str::to_owned)),
            _ => known.extend(OF_OBJECT_STORAGE.map(str::to_owned)),
        }
        known.extend(asked(&file(&format!("docker-compose-{server}.yaml"))));
        let missing: Vec<_> = known.difference(&example).collect();
        let unknown: Vec<_> = example.difference(&known).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "{server}: missing {missing:?}, unknown {unknown:?}"
        );
    }
}

#[test]
fn every_variable_of_the_examples_is_explained() {
    for server in ["master", "worker"] {
        let example = file(&format!(".env.{server}.example"));
        let is_setting = |line: &str| !named(line).is_empty();
        let mut is_explained = false;
        for line in example.lines() {
            if is_setting(line) {
                assert!(is_explained, "nothing explains {line}");
            } else {
                // Settings that belong together are explained together.
                is_explained = line.starts_with("# ") && !line.starts_with("# ---");
            }
        }
    }
}

#[test]
fn the_compose_files_publish_the_doors_and_check_the_health_of_everything() {
    let services = |name: &str| Language::Yaml.read(&file(name)).unwrap().get("services").unwrap().clone();
    let (master, worker) = (services("docker-compose-master.yaml"), services("docker-compose-worker.yaml"));
    let Data::List(ports) = &master.get("master").unwrap().get("ports").unwrap().data else {
        panic!("no list")
    };
    let ports: Vec<_> = ports.iter().map(|port| port.as_text().unwrap()).collect();
    for door in ["3000", "8000", "8080"] {
        assert!(ports.iter().any(|port| port.ends_with(&format!(":{door}:{door}"))), "{door}: {ports:?}");
    }
    for services in [&master, &worker] {
        let Data::Object(services) = &services.data else { panic!("no object") };
        for service in services {
            let test = service.value.get("healthcheck").and_then(|check| check.get("test"));
            assert!(test.is_some_and(|test| matches!(test.data, Data::List(_))), "{}", service.key);
        }
    }
}

#[test]
fn compose_accepts_both_files_with_the_examples() {
    let compose = [&["docker", "compose"][..], &["docker-compose"][..]].into_iter().find(|words| {
        let tried = std::process::Command::new(words[0]).args(&words[1..]).arg("version").output();
        tried.is_ok_and(|output| output.status.success())
    });
    let Some(compose) = compose else {
        use std::io::Write as _;
        let _ = writeln!(
            std::io::stderr(),
            "\nSKIPPED, NOT TESTED: compose_accepts_both_files_with_the_examples: there is no docker compose here"
        );
        return;
    };
    for (server, secret) in [("master", "POSTGRES_PASSWORD=secret"), ("worker", "API_KEY=secret")] {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("docker-compose-{server}.yaml");
        std::fs::write(dir.path().join(&name), file(&name)).unwrap();
        let (variable, _) = secret.split_once('=').unwrap();
        let example = file(&format!(".env.{server}.example"))
            .replace(&format!("\n{variable}=\n"), &format!("\n{secret}\n"));
        let env_file = format!(".env.{server}");
        std::fs::write(dir.path().join(&env_file), example).unwrap();
        let output = std::process::Command::new(compose[0])
            .args(&compose[1..])
            .args(["--env-file", &env_file, "-f", &name, "config"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{server}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
