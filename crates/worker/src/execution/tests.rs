#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use gaffer_domain::WorkerId;
use gaffer_domain::quantity::{Bytes, Cpu, Span};
use gaffer_domain::reason::LostCause;
use gaffer_domain::worker::HeldPhase;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::tests::master::{Order, attempt, play, soon, until};

async fn open(dir: &Path) -> Execution {
    let capacity = Resources { cpu: Cpu::from_millis(1000), memory: Bytes(0), disk: Bytes(0) };
    let settings = ExecutionSettings {
        data_dir: dir.to_owned(),
        boot_id: "boot-1".to_owned(),
        token: Uuid::new_v4().to_string(),
        worker_name: "tester".to_owned(),
        countables: BTreeMap::new(),
        capacity,
        spool_limit: Some(1 << 30),
        drivers: DriverSettings {
            host: true,
            inherited: BTreeMap::new(),
            user: None,
            allow_setuid: true,
            docker: None,
            scripted: true,
        },
        owner: "tester".to_owned(),
        ports: PortSettings::default(),
    };
    Execution::open(settings).await.unwrap()
}

async fn new() -> (TempDir, Execution) {
    let dir = tempfile::tempdir().unwrap();
    let execution = open(dir.path()).await;
    (dir, execution)
}

fn welcome(stored: Vec<StoredOutput>) -> Welcome {
    let heartbeat = Span::from_secs(5);
    Welcome {
        worker: WorkerId(1),
        name: "granted".to_owned(),
        version: String::new(),
        heartbeat,
        stored,
        output_window: 8 << 20,
    }
}

fn start(execution: &Execution, task: i64, text: &str) {
    deliver(execution, play(task, text));
}

fn deliver(execution: &Execution, order: Order) {
    execution.deliver(Command::Start(Box::new(order.start())));
}

/// The ends that are told until there are so many.
async fn ends(execution: &Execution, count: usize) -> Vec<Ended> {
    let mut ends = Vec::new();
    soon("the ends of all attempts", async {
        while ends.len() < count {
            execution.eventful().await;
            for event in execution.take_events() {
                if let Event::Report(ToMaster::Ended(ended)) = event {
                    ends.push(*ended);
                }
            }
        }
    })
    .await;
    ends
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_attempts_come_to_their_ends() {
    let (dir, execution) = new().await;
    execution.open_session();
    for task in 1..=5_000 {
        start(&execution, task, if task % 2 == 0 { "exit 0" } else { "out hello\nexit 1" });
    }
    let (mut count, mut failed) = (0, 0);
    while count < 5_000 {
        for ended in ends(&execution, 1).await {
            count += 1;
            failed += usize::from(ended.end == AttemptEnd::Exited { code: 1 });
            execution.deliver(Command::EndStored { attempt: ended.attempt });
        }
    }
    assert_eq!((count, failed), (5_000, 2_500));
    soon("acknowledgements", execution.all_acknowledged()).await;
    let spool = std::fs::read_dir(dir.path().join("spool")).unwrap();
    assert!(!spool.into_iter().any(|entry| entry.unwrap().file_name().to_str().unwrap().ends_with(".1.0")));
    assert_eq!(std::fs::read_dir(dir.path().join("attempts")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_happens_without_a_session_is_told_in_the_next() {
    let (_dir, execution) = new().await;
    start(&execution, 1, "out hello\nexit 3");
    start(&execution, 2, "hang");
    until("an end", || execution.core.state().held().iter().any(|held| held.phase == HeldPhase::Finished))
        .await;
    assert_eq!(execution.take_events(), []);

    let held = execution.open_session();
    assert_eq!(held.len(), 2);
    assert_eq!(execution.take_events(), [], "the session is not accepted yet");
    execution.welcomed(&welcome(Vec::new()));
    let events = execution.take_events();
    let is_end =
        |event: &Event| matches!(event, Event::Report(ToMaster::Ended(ended)) if ended.attempt == attempt(1));
    let is_start = |event: &Event| matches!(event, Event::Report(ToMaster::Started { attempt: who, .. }) if *who == attempt(2));
    assert_eq!(events.iter().filter(|event| is_end(event)).count(), 1);
    assert_eq!(events.iter().filter(|event| is_start(event)).count(), 1);
    assert!(events.contains(&Event::Output { attempt: attempt(1), end: 6 }));
    execution.close_session();
    execution.deliver(Command::Kill { attempt: attempt(2) });
    soon("the end", execution.shut_down()).await;
    assert_eq!(execution.take_events(), []);
}

#[tokio::test]
async fn starts_alone_can_wait_and_nothing_else_can() {
    let (_dir, execution) = new().await;
    execution.open_session();
    assert_eq!(execution.pending(), Pending::Nothing);
    start(&execution, 1, "hang");
    until("the start", || execution.pending() == Pending::Starts).await;
    execution.deliver(Command::Kill { attempt: attempt(1) });
    until("the end", || execution.pending() == Pending::More).await;
    execution.take_events();
    start(&execution, 2, "out hello\nhang");
    until("the output", || execution.pending() == Pending::More).await;
    execution.deliver(Command::Kill { attempt: attempt(2) });
    soon("the end", execution.shut_down()).await;
}

#[tokio::test]
async fn output_that_the_master_has_beyond_what_is_left_here_counts() {
    let (dir, execution) = new().await;
    start(&execution, 1, "out hello\nhang");
    until("output", || execution.core.state().output(attempt(1)).is_some_and(|output| output.end() == 6))
        .await;
    drop(execution);
    // Everything of it was stored, and gone here, when the worker was killed.
    std::fs::remove_file(dir.path().join("spool/1.1.0")).unwrap();
    let execution = open(dir.path()).await;
    execution.open_session();
    execution.welcomed(&welcome(vec![StoredOutput { attempt: attempt(1), offset: 6 }]));
    let ended = ends(&execution, 1).await.remove(0);
    assert_eq!((ended.output_bytes, ended.output_sha256), (6, None));
    assert_eq!(ended.end, AttemptEnd::Lost { cause: LostCause::WorkerRestarted });
    assert_eq!(execution.next_chunk(attempt(1), 6, 100).await, None);
}

#[tokio::test]
async fn nothing_starts_while_the_disk_is_nearly_full() {
    let (_dir, execution) = new().await;
    execution.open_session();
    // The first look at the disk is over.
    until("a look", || !execution.core.state().set_disk_is_low(true)).await;
    start(&execution, 1, "exit 0");
    let (events, held) = execution.take_events_and_held();
    assert_eq!((events, held[0].phase), (Vec::new(), HeldPhase::Queued));
    execution.core.state().set_disk_is_low(false);
    execution.core.launch_ready();
    assert_eq!(ends(&execution, 1).await[0].end, AttemptEnd::Exited { code: 0 });
}

#[tokio::test]
async fn a_start_that_arrives_after_its_lease_is_given_back_and_never_starts() {
    let (_dir, execution) = new().await;
    execution.open_session();
    execution.renew_lease(BootTime::from_micros(0));
    // As on a machine that slept: what waited in its socket is older than the attempt's lease.
    let late = Order { lost_after: Span::from_millis(1), ..play(1, "exit 0") };
    deliver(&execution, late);
    assert_eq!(execution.take_events(), [Event::Report(ToMaster::Returned { attempt: attempt(1) })]);

    execution.renew_lease(BootTime::now());
    start(&execution, 2, "exit 0");
    assert_eq!(ends(&execution, 1).await[0].attempt, attempt(2));
}

/// An attempt that takes all of the worker, with that lease.
fn hog(task: i64, text: &str, lost_after: Span) -> Order {
    let start = play(task, text);
    let resources = Resources { cpu: Cpu::from_millis(1000), ..start.resources };
    Order { lost_after, resources, ..start }
}

/// As on a machine that sleeps: time passes, and nothing here gets to do anything.
fn oversleep(contact: BootTime, lost_after: Span) {
    while BootTime::now() <= contact.after(lost_after.to_std()) {
        std::thread::sleep(lost_after.to_std() / 10);
    }
}

#[tokio::test]
async fn an_answer_that_is_read_after_a_sleep_does_not_bring_a_lapsed_lease_back() {
    let (_dir, execution) = new().await;
    execution.open_session();
    let (contact, lost_after) = (BootTime::now(), Span::from_millis(4_000));
    execution.renew_lease(contact);
    deliver(&execution, hog(1, "exit 0", lost_after));
    oversleep(contact, lost_after);
    execution.renew_lease(BootTime::now());
    let end = ends(&execution, 1).await.remove(0).end;
    assert_eq!(end, AttemptEnd::Lost { cause: LostCause::LeaseExpired });
}

#[tokio::test]
async fn what_waited_for_room_until_its_lease_lapsed_is_given_back_and_never_starts() {
    let (_dir, execution) = new().await;
    execution.open_session();
    let (contact, lost_after) = (BootTime::now(), Span::from_millis(4_000));
    execution.renew_lease(contact);
    deliver(&execution, hog(1, "hang", Span::from_secs(600)));
    deliver(&execution, hog(2, "exit 0", lost_after));
    assert_eq!(execution.core.state().held().len(), 2);
    oversleep(contact, lost_after);
    let twice = Resources { cpu: Cpu::from_millis(2000), memory: Bytes(0), disk: Bytes(0) };
    execution.set_offer(twice, BTreeMap::new());
    assert_eq!(execution.take_events(), [Event::Report(ToMaster::Returned { attempt: attempt(2) })]);
}

#[tokio::test]
async fn attempts_of_one_definition_share_it() {
    let (_dir, execution) = new().await;
    execution.open_session();
    until("a look", || !execution.core.state().set_disk_is_low(true)).await;
    let large = format!("# {}\nexit 0", "x".repeat(300_000));
    let of = |task: i64, text: &str| Order { attempt: attempt(task), ..play(1, text) };
    (1..=100).for_each(|task| deliver(&execution, of(task, &large)));
    // Another of the same name, which is not the same.
    deliver(&execution, of(101, "exit 0"));
    assert_eq!(execution.core.state().distinct_definitions(), 2);
}

#[test]
fn the_words_that_a_executor_hears_are_those_of_every_version() {
    let start = Order { index: 4, ..play(7, "exit 0") }.start();
    let said = serde_json::to_value(Command::Start(Box::new(start))).unwrap();
    let expected = serde_json::json!({
        "type": "start", "attempt": {"task": 7, "attempt": 1}, "job": 1, "task": "main", "index": 4,
        "driver": "scripted", "action": {"script": "exit 0"}, "env": {},
        "resources": said["resources"], "timeout": null, "stop": said["stop"], "lost_after": said["lost_after"],
    });
    assert_eq!(said, expected);
    let said = serde_json::to_value(Command::TakeBack { attempt: attempt(7) }).unwrap();
    assert_eq!(said, serde_json::json!({"type": "take_back", "attempt": {"task": 7, "attempt": 1}}));
}
