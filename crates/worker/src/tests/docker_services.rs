//! Named ports and health checks in containers of a real daemon.

use gaffer_domain::reason::{AttemptEnd, ProcessEnd};
use gaffer_domain::spec::{Container, Network, StopSignal};
use gaffer_protocol::health::CheckResult;
use gaffer_protocol::wire::{ToMaster, ToWorker};
use serde_json::json;

use super::docker::{container, in_container, worker};
use super::docker_daemon;
use super::master::{Order, Session, attempt, command};

/// The next result of a check that passed, or that failed.
async fn result(session: &mut Session, passed: bool) -> CheckResult {
    loop {
        if let ToMaster::Checked(checked) = session.report().await
            && checked.result.passed == passed
        {
            return checked.result;
        }
    }
}

#[tokio::test]
async fn a_container_is_checked_at_its_named_port_and_stopped_once_it_is_unhealthy() {
    let test = "a_container_is_checked_at_its_named_port_and_stopped_once_it_is_unhealthy";
    let Some(address) = docker_daemon::shared(test) else { return };
    let (worker, mut session) = worker(address).await;
    let text = "mkdir /www; echo fine > /www/index.html; [ \"$GAFFER_PORT_HTTP\" = 80 ] || exit 9; \
        exec httpd -f -p 80 -h /www";
    let spec = Container { network: Network::Bridge, ..container() };
    let check = json!({
        "http": "/index.html", "port": "http", "status": "200", "interval": "1s", "timeout": "1m",
        "start_period": "0s", "failures": 1, "successes": 1,
    });
    let order = Order {
        named_ports: vec!["http=80".parse().unwrap()],
        health: Some(serde_json::from_value(check).unwrap()),
        ..in_container(command(1, &["sh", "-c", text]), spec)
    };
    session.start([order]).await;
    let report = session.report().await;
    let ToMaster::Started { ports, container: Some(facts), .. } = report else {
        panic!("no start: {report:?}")
    };
    assert_eq!((ports[0].name.as_str(), ports[0].target, ports.len()), ("http", 80, 1));
    assert_eq!((facts.ports[0].host, facts.ports[0].container), (ports[0].port, 80));
    assert_eq!(result(&mut session, true).await.detail, "status 200: fine");
    let message = "a health check failed".to_owned();
    session.send(&[ToWorker::StopUnhealthy { attempt: attempt(1), message: message.clone() }]).await;
    let ended = session.ended().await;
    assert!(
        matches!(&ended.end, AttemptEnd::Unhealthy { message: said, .. } if *said == message),
        "{ended:?}"
    );
    assert_eq!(ended.ports, ports);
    worker.stop().await;
}

#[tokio::test]
async fn a_program_checks_inside_of_the_container() {
    let Some(address) = docker_daemon::shared("a_program_checks_inside_of_the_container") else { return };
    let (worker, mut session) = worker(address).await;
    // It fails once, and passes from then on.
    let program =
        "until [ -e /mood ]; do sleep 0.1; done; cat /mood; [ -e /good ] || { touch /good; exit 1; }";
    let check = json!({
        "command": ["sh", "-c", program], "interval": "1s", "timeout": "1m", "start_period": "0s", "failures": 1,
        "successes": 1,
    });
    // Its first process waits for both, and ends.
    let text = "echo fine > /mood; until [ -e /good ]; do sleep 0.1; done; exec sleep 1000";
    let order = Order {
        health: Some(serde_json::from_value(check).unwrap()),
        ..in_container(command(1, &["sh", "-c", text]), container())
    };
    session.start([order]).await;
    assert_eq!(result(&mut session, false).await.detail, "exit code 1: fine");
    assert_eq!(result(&mut session, true).await.detail, "exit code 0: fine");
    session.send(&[ToWorker::Kill { attempt: attempt(1) }]).await;
    assert_eq!(session.ended().await.end, AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(9)) });
    worker.stop().await;
}

#[tokio::test]
async fn a_program_in_a_container_is_not_started_again_while_an_earlier_one_runs() {
    let test = "a_program_in_a_container_is_not_started_again_while_an_earlier_one_runs";
    let Some(address) = docker_daemon::shared(test) else { return };
    let (worker, mut session) = worker(address).await;
    // It waits for a file, and says how often it was started.
    let program = "echo x >> /started; until [ -e /go ]; do sleep 0.1; done; wc -l < /started";
    let check = json!({
        "command": ["sh", "-c", program], "interval": "1s", "timeout": "2s", "start_period": "0s", "failures": 10,
        "successes": 1,
    });
    let text = "trap 'touch /go' USR1; while :; do sleep 0.1; done";
    let order = Order {
        health: Some(serde_json::from_value(check).unwrap()),
        ..in_container(command(1, &["sh", "-c", text]), container())
    };
    session.start([order]).await;
    let still_runs = "the program of an earlier check still runs";
    let (mut started, mut refused) = (0, 0);
    loop {
        let ToMaster::Checked(checked) = session.report().await else { continue };
        if checked.result.detail == still_runs {
            refused += 1;
            if refused == 2 {
                let signal = StopSignal::Sigusr1;
                session.send(&[ToWorker::Signal { attempt: attempt(1), signal }]).await;
            }
            continue;
        }
        started += 1;
        // Until the file is there, the first one runs.
        assert!(started == 1 || refused >= 2, "another one was started beside it");
        if checked.result.passed {
            assert_eq!(checked.result.detail, format!("exit code 0: {started}"));
            break;
        }
        assert_eq!(checked.result.detail, "no answer in time");
    }
    session.send(&[ToWorker::Kill { attempt: attempt(1) }]).await;
    assert_eq!(session.ended().await.end, AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(9)) });
    worker.stop().await;
}
