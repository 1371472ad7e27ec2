//! What a task may say about its checks.

use super::*;

fn checked(health: Value, ports: Value) -> Value {
    with(json!({ "health": health, "ports": ports }))
}

fn health(health: Value, ports: Value) -> HealthCheck {
    read(checked(health, ports)).tasks[0].health.clone().unwrap()
}

#[test]
fn a_check_has_every_default_and_finds_its_port() {
    let check = health(json!({"http": "/health"}), json!(["dns/udp", "web", "admin"]));
    let Probe::Http { path, port, status, headers } = &check.probe else { panic!("{check:?}") };
    assert_eq!((path.as_str(), port.as_str(), headers.len()), ("/health", "web", 0));
    assert_eq!(status.to_string(), "200-399");
    let times = [check.interval, check.timeout, check.start_period].map(|time| time.to_string());
    assert_eq!(times, ["10s", "2s", "30s"]);
    assert_eq!((check.failures, check.successes), (3, 1));
    let stored = serde_json::to_value(&check).unwrap();
    assert_eq!(stored["http"], "/health");
    assert_eq!(serde_json::from_value::<HealthCheck>(stored).unwrap(), check);
}

#[test]
fn each_kind_of_check_is_read_as_it_is_written() {
    let tcp = health(json!({"tcp": 8080, "failures": 10}), json!([]));
    assert_eq!(tcp.probe, Probe::Tcp { port: "8080".to_owned() }, "any port of the worker");
    let command = health(json!({"command": ["./check", "-x"], "interval": "1s"}), json!([]));
    assert_eq!(command.probe, Probe::Command { command: vec!["./check".to_owned(), "-x".to_owned()] });
    let full = json!({"http": "/?q=1", "port": "admin", "status": 204, "headers": {"Host": "a.example"}});
    let Probe::Http { port, status, headers, .. } = health(full, json!(["admin=9000"])).probe else {
        panic!()
    };
    assert_eq!(
        (port.as_str(), status.to_string(), headers["Host"].as_str()),
        ("admin", "204".to_owned(), "a.example")
    );
    let both = with(json!({"ports": ["http"], "readiness": {"tcp": "http"}}));
    let task = &read(both).tasks[0];
    assert!(task.health.is_none() && task.readiness.is_some());
}

#[test]
fn mistakes_in_a_check_are_named() {
    for (check, ports, why) in [
        (json!({}), json!([]), "a check needs `http`, `tcp` or `command`"),
        (json!({"http": "/", "tcp": "http"}), json!(["http"]), "a check has `http` or `tcp`, not both"),
        (json!({"http": "/"}), json!([]), "no named TCP port"),
        (json!({"http": "/"}), json!(["dns/udp"]), "no named TCP port"),
        (json!({"http": "health"}), json!(["http"]), "it begins with /"),
        (json!({"http": "/a b"}), json!(["http"]), "is not a path"),
        (json!({"http": "/", "port": "htpp"}), json!(["http"]), "no TCP port named `htpp`"),
        (json!({"tcp": "http", "status": 200}), json!(["http"]), "belongs to a check with `http`"),
        (json!({"http": "/", "status": "399-200"}), json!(["http"]), "is not a range of HTTP statuses"),
        (json!({"http": "/", "status": 99}), json!(["http"]), "is not a range of HTTP statuses"),
        (json!({"http": "/", "headers": {"a b": "c"}}), json!(["http"]), "cannot be a header"),
        (json!({"http": "/", "headers": {"a": "b\nc: d"}}), json!(["http"]), "a control character"),
        (json!({"command": []}), json!([]), "the command is empty"),
        (json!({"command": ["x"], "failures": 11}), json!([]), "from 1 to 10"),
        (json!({"command": ["x"], "interval": "500ms"}), json!([]), "from 1s to 1h"),
    ] {
        let found = mistakes(checked(check.clone(), ports)).join("; ");
        assert!(found.contains(why), "{check}: {found}");
    }
    let inside = with(json!({"image": "busybox", "health": {"tcp": 81}, "ports": ["80"]}));
    assert!(mistake(inside).contains("publishes no TCP port 81"));
}
