//! Sessions: how they begin, what survives them, and what a worker makes of a master that does not want it.

use std::cell::RefCell;
use std::io;
use std::sync::Once;
use std::time::Duration;

use gaffer_domain::quantity::Span;
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::spec::DriverKind;
use gaffer_domain::worker::HeldPhase;
use gaffer_protocol::wire::{
    GoodbyeCode, HeldAttempt, PROTOCOL_VERSION, Start, StoredOutput, ToMaster, ToWorker,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::master::{Books, Order, Said, attempt, play, script, soon};
use super::{Worker, lives, pid_in};
use crate::driver::scripted::PseudoRandom;

#[tokio::test]
async fn a_worker_presents_itself() {
    let worker = Worker::start_with(|config| crate::WorkerConfig {
        labels: Some("gpu=a100".parse().unwrap()),
        datacenter: Some("lab".to_owned()),
        ..config
    })
    .await;
    let mut session = worker.master.accept().await;
    assert_eq!((session.path.as_str(), session.authorization.as_str()), ("/worker", "Bearer the-key"));
    let hello = session.hello.clone();
    assert_eq!(
        (hello.protocol, hello.name.as_str(), hello.datacenter.as_str()),
        (PROTOCOL_VERSION, "tester", "lab")
    );
    assert_eq!(hello.labels["gpu"], "a100");
    assert_eq!(hello.capacity.cpu.millis(), 8000);
    assert!(hello.capacity.memory.0 > 0 && hello.capacity.disk.0 > 0);
    assert!(hello.drivers.iter().any(|status| status.driver == DriverKind::Host && status.healthy));
    assert!(!hello.boot_id.is_empty() && !hello.arch.is_empty() && hello.held.is_empty());
    session.welcome(&[]).await;
    drop(session);
    let again = worker.master.accept().await.hello;
    assert_eq!((again.identity, again.process), (hello.identity, hello.process));
    worker.stop().await;
}

/// From which the master tells how far a worker's clock is off.
#[tokio::test]
async fn heartbeats_say_what_the_clock_says_and_which_answer_came_last() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let mut answered = 0;
    let mut named = 0;
    while named < 2 {
        let Said::Report(ToMaster::Heartbeat(beat)) = session.next().await else { continue };
        let clock = beat.clock.unwrap();
        assert!(clock.answer <= answered, "an answer that was never given: {clock:?}");
        assert!(clock.answer >= named, "it has heard of {named} before: {clock:?}");
        assert!(clock.since_micros < 600_000_000, "{clock:?}");
        assert!((chrono::Utc::now() - clock.at).abs() < chrono::TimeDelta::minutes(10), "{clock:?}");
        named = clock.answer;
        answered = beat.sequence;
        session.send(&[ToWorker::Alive { sequence: beat.sequence }]).await;
    }
    drop(session);
    worker.stop().await;
}

#[tokio::test]
async fn heartbeats_list_what_is_held_and_count_up() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    session.start([play(1, "hang")]).await;
    let mut last = 0;
    loop {
        let Said::Report(ToMaster::Heartbeat(beat)) = session.next().await else { continue };
        assert_eq!(beat.sequence, last + 1);
        last = beat.sequence;
        assert!(beat.stats.memory_total.0 > 0);
        if last >= 3 {
            assert_eq!(beat.held.unwrap(), [HeldAttempt { attempt: attempt(1), phase: HeldPhase::Running }]);
            break;
        }
    }
    worker.stop().await;
}

#[tokio::test]
async fn what_was_not_acknowledged_is_said_again() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    session.start([play(1, "out one\nexit 3"), play(2, "out two\nhang")]).await;
    let ended = session.ended().await;
    drop(session);

    let mut session = worker.master.accept().await;
    let mut held = session.hello.held.clone();
    held.sort_by_key(|held| held.attempt);
    assert_eq!(
        held.iter().map(|held| held.phase).collect::<Vec<_>>(),
        [HeldPhase::Finished, HeldPhase::Running]
    );
    session.welcome(&[StoredOutput { attempt: attempt(1), offset: 2 }]).await;
    let (mut started_again, mut ended_again, mut offsets) = (None, None, Vec::new());
    while started_again.is_none() || ended_again.is_none() || offsets.len() < 2 {
        match session.next().await {
            Said::Report(ToMaster::Started { attempt, .. }) => started_again = Some(attempt),
            Said::Report(ToMaster::Ended(report)) => ended_again = Some(*report),
            Said::Output(chunk) => offsets.push((chunk.attempt, chunk.offset)),
            _ => {}
        }
    }
    assert_eq!(started_again, Some(attempt(2)));
    assert_eq!(ended_again, Some(ended));
    offsets.sort_unstable();
    assert_eq!(offsets, [(attempt(1), 2), (attempt(2), 0)]);

    // Acknowledged, it is held no more.
    session.send(&[ToWorker::EndStored { attempt: attempt(1) }]).await;
    loop {
        if let Said::Report(ToMaster::Heartbeat(beat)) = session.next().await
            && beat.held.as_ref().unwrap().len() == 1
        {
            break;
        }
    }
    let spool = std::fs::read_dir(worker.dir.path().join("spool")).unwrap();
    let names: Vec<String> = spool.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.starts_with("1.1.")), "{names:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_is_lost_or_doubled_however_often_the_connection_breaks() {
    let rng = &mut StdRng::seed_from_u64(7);
    let worker = Worker::start().await;
    let mut session = worker.master.accept_and_welcome().await;
    let mut books = Books::default();
    let jobs = [
        (1, "bytes 9000000 1\nbytes 3000000 2 stderr"),
        (2, "bytes 500000 3\nsleep 20ms\nbytes 500000 4 stderr\nsleep 20ms\nbytes 500000 5"),
        (3, "lines 100000\nexit 1"),
        (4, "sleep 50ms\nout last"),
    ];
    let starts = jobs.map(|(task, text)| play(task, text));
    session.start(starts.clone()).await;
    let mut sessions = 1;
    while books.ended.len() < jobs.len() {
        // Some sessions break right away, some last.
        for _ in 0..rng.random_range(0..20) {
            if books.ended.len() == jobs.len() || !session.keep(&mut books).await {
                break;
            }
        }
        if books.ended.len() < jobs.len() {
            drop(session);
            session = worker.master.accept().await;
            session.welcome(&books.stored()).await;
            // The master would send them again if they had not arrived.
            let is_held = |start: &Order| session.hello.held.iter().any(|held| held.attempt == start.attempt);
            let missing: Vec<Order> = starts.iter().filter(|start| !is_held(start)).cloned().collect();
            session.start(missing).await;
            sessions += 1;
        }
    }
    assert!(sessions > 10, "only {sessions} sessions");
    assert_eq!(books.stdout[&attempt(1)], PseudoRandom::new(1).take_bytes(9_000_000));
    assert_eq!(books.stderr[&attempt(1)], PseudoRandom::new(2).take_bytes(3_000_000));
    let mut expected = PseudoRandom::new(3).take_bytes(500_000);
    expected.extend(PseudoRandom::new(5).take_bytes(500_000));
    assert_eq!(books.stdout[&attempt(2)], expected);
    assert_eq!(books.stderr[&attempt(2)], PseudoRandom::new(4).take_bytes(500_000));
    assert!(books.stdout(attempt(3)).ends_with("line 99999\nline 100000\n"));
    assert_eq!(books.ended[&attempt(3)].end, AttemptEnd::Exited { code: 1 });
    assert_eq!(books.stdout(attempt(4)), "last\n");
    worker.stop().await;
}

#[tokio::test]
async fn a_gap_is_filled_when_the_master_asks() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    session.start([play(1, "bytes 50000 9")]).await;
    session.ended().await;
    session.send(&[ToWorker::OutputWanted { attempt: attempt(1), offset: 0 }]).await;
    let mut books = Books::default();
    while books.ended.is_empty() {
        session.keep(&mut books).await;
    }
    assert_eq!(books.stdout[&attempt(1)], PseudoRandom::new(9).take_bytes(50_000));
    worker.stop().await;
}

#[tokio::test]
async fn a_slow_master_slows_the_job_and_not_the_heartbeats() {
    let worker = Worker::start_with(|config| crate::WorkerConfig {
        spool_limit: Some(gaffer_domain::quantity::Bytes(2 << 20)),
        ..config
    })
    .await;
    let mut session = worker.master.accept_and_welcome().await;
    let start = script(1, "head -c 20000000 /dev/zero");
    session.start([Order { lost_after: Span::from_secs(600), ..start }]).await;
    // Nothing is acknowledged: the window closes, the spool fills, the job stands still.
    let (mut beats, mut sent) = (0, 0);
    while beats < 5 {
        match session.next().await {
            Said::Report(ToMaster::Heartbeat(_)) => beats += 1,
            Said::Output(chunk) => sent = sent.max(chunk.end()),
            Said::Report(ToMaster::Ended(_)) => panic!("it cannot have written all of it"),
            _ => {}
        }
    }
    assert!(sent <= 1 << 20, "{sent} bytes were sent without an acknowledgement");
    let spool = std::fs::read_dir(worker.dir.path().join("spool")).unwrap();
    let spooled: u64 = spool.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(spooled < 3 << 20, "{spooled} bytes are spooled");
    let mut books = Books::default();
    session.send(&[ToWorker::OutputWanted { attempt: attempt(1), offset: 0 }]).await;
    while books.ended.is_empty() {
        session.keep(&mut books).await;
    }
    assert_eq!(books.output[&attempt(1)].len(), 20_000_000);
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_whose_place_was_taken_goes_and_takes_its_attempts_along() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let pid_file = worker.dir.path().join("pid");
    let text = format!("echo $$ > {}; exec sleep 1000", pid_file.display());
    session.start([script(1, &text)]).await;
    let pid = pid_in(&pid_file).await;
    let message = "another session began".to_owned();
    session.send(&[ToWorker::Goodbye { code: GoodbyeCode::Superseded, message }]).await;
    let error = soon("the end of the worker", worker.running).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("identity") && error.contains("another session began"), "{error}");
    assert!(!lives(pid));
}

#[tokio::test]
async fn a_master_that_is_going_down_is_dialled_again() {
    for code in [
        GoodbyeCode::ShuttingDown,
        GoodbyeCode::TooSlow,
        GoodbyeCode::ProtocolError,
        GoodbyeCode::ProtocolVersion,
    ] {
        let (worker, mut session) = Worker::start_and_welcome().await;
        session.send(&[ToWorker::Goodbye { code, message: "bye".to_owned() }]).await;
        let mut session = worker.master.accept_and_welcome().await;
        session.see_through(vec![play(1, "exit 0")]).await;
        worker.stop().await;
    }
}

#[tokio::test]
async fn nonsense_from_the_master_ends_the_session_and_not_the_worker() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    session.send_text("[{\"type\":\"dance\"}]").await;
    let mut session = worker.master.accept_and_welcome().await;
    session.see_through(vec![play(1, "exit 0")]).await;
    worker.stop().await;
}

thread_local! {
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Keeps what is logged on a thread, to be asked for there.
struct ThreadLog;

impl io::Write for ThreadLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to keep logs, for all tests: what is logged where nobody listens may be left out everywhere.
fn keep_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let log = tracing_subscriber::fmt().with_writer(|| ThreadLog).with_max_level(tracing::Level::INFO);
        tracing::subscriber::set_global_default(log.with_ansi(false).finish()).unwrap();
    });
}

// On one thread, which is the one whose log is collected.
#[tokio::test(flavor = "current_thread")]
async fn a_refused_key_is_told_once_for_each_reason() {
    keep_logs();
    let worker = Worker::start().await;
    let problem = |detail: &str| {
        format!(r#"{{"title":"Unauthorized","status":401,"code":"unauthorized","detail":"{detail}"}}"#)
    };
    for _ in 0..3 {
        worker.master.refuse("401 Unauthorized", &problem("this key was revoked")).await;
    }
    worker.master.refuse("403 Forbidden", &problem("this key is for users")).await;
    let mut session = worker.master.accept_and_welcome().await;
    session.see_through(vec![play(1, "exit 0")]).await;
    worker.stop().await;
    let log = LOG.with_borrow(|log| String::from_utf8(log.clone()).unwrap());
    let lines: Vec<&str> = log.lines().collect();
    let telling = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(telling("refused the key: this key was revoked"), 1, "{lines:?}");
    assert_eq!(telling("refused the key: this key is for users"), 1, "{lines:?}");
    assert_eq!(telling("connected to the master"), 1, "{lines:?}");
    assert_eq!(telling("the-key"), 0, "the key itself is never shown");
}

#[tokio::test]
async fn an_unreachable_master_is_waited_for() {
    let worker = Worker::start().await;
    worker.master.refuse("503 Service Unavailable", "").await;
    let silent = tokio::time::timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
    assert!(silent.is_err());
    worker.master.accept_and_welcome().await;
    worker.stop().await;
}

// Its master answers heartbeats while the worker has its hands full.
#[tokio::test(flavor = "multi_thread")]
async fn of_very_many_placements_at_once_none_is_lost_on_the_way_to_where_they_execute() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let books = session.see_through((1..=2_000).map(|task| play(task, "exit 0")).collect()).await;
    assert_eq!((books.ended.len(), books.returned.len()), (2_000, 0));
    worker.stop().await;
}

#[tokio::test]
async fn starts_refer_to_a_definition_that_was_sent_once_in_parts() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let text = format!("out {}\nexit 3", "x".repeat(400_000));
    let first = play(1, &text);
    let mut messages = first.clone().messages();
    assert!(messages.len() > 5, "in parts");
    let Some(ToWorker::Start(start)) = messages.last().cloned() else { panic!("no start") };
    messages.extend((2..=30).map(|task| ToWorker::Start(Start { attempt: attempt(task), ..start.clone() })));
    session.send(&messages).await;
    let mut books = Books::default();
    while books.ended.len() < 30 {
        session.keep(&mut books).await;
    }
    for task in 1..=30 {
        assert_eq!(books.ended[&attempt(task)].end, AttemptEnd::Exited { code: 3 });
        assert_eq!(books.output[&attempt(task)].len(), 400_001);
    }
    // A new session has no definitions: what refers to one begins another, in which everything is said again.
    drop(session);
    let mut session = worker.master.accept_and_welcome().await;
    session.send(&[ToWorker::Start(Start { attempt: attempt(31), ..start })]).await;
    while session.next().await != Said::Nothing {}
    let mut session = worker.master.accept_and_welcome().await;
    session.start([play(31, "exit 0")]).await;
    assert_eq!(session.ended().await.attempt, attempt(31));
    worker.stop().await;
}

#[tokio::test]
async fn what_never_arrived_can_be_taken_back_and_does_not_start_afterwards() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    session.send(&[ToWorker::TakeBack { attempt: attempt(1) }]).await;
    assert_eq!(session.report().await, ToMaster::Returned { attempt: attempt(1) });
    session.start([play(1, "exit 0"), play(2, "exit 0")]).await;
    assert_eq!(session.report().await, ToMaster::Returned { attempt: attempt(1) });
    assert_eq!(session.ended().await.attempt, attempt(2));
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_waits_for_its_welcome_as_long_as_its_master_says_that_it_is_busy() {
    let worker = Worker::start().await;
    let mut session = worker.master.accept().await;
    for _ in 0..3 {
        session.send_text("[]").await;
    }
    session.welcome(&[]).await;
    session.start([play(1, "exit 0")]).await;
    assert_eq!(session.ended().await.attempt, attempt(1));
    worker.stop().await;
}

#[tokio::test]
async fn output_waits_for_the_masters_grant_and_heartbeats_do_not() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    session.send(&[ToWorker::OutputWindow { bytes: 20_000 }]).await;
    session.start([play(1, "bytes 1000000 9")]).await;
    let (mut beats, mut sent) = (0, 0);
    while beats < 5 {
        match session.next().await {
            Said::Report(ToMaster::Heartbeat(beat)) => {
                beats += 1;
                session.send(&[ToWorker::Alive { sequence: beat.sequence }]).await;
            }
            Said::Output(chunk) => sent += chunk.payload_bytes,
            _ => {}
        }
    }
    assert!(sent > 0 && sent <= 20_000, "{sent}");
    worker.stop().await;
}

#[tokio::test]
async fn a_copy_of_another_worker_begins_as_a_new_one_and_says_so() {
    let worker = Worker::start().await;
    let mut session = worker.master.accept().await;
    let copied = session.hello.identity;
    let spool = worker.dir.path().join("spool");
    assert!(spool.exists());
    let message = "worker `edge7` on another machine has the same identity and keeps it".to_owned();
    session.send(&[ToWorker::Goodbye { code: GoodbyeCode::BeginAnew, message }]).await;
    let mut session = worker.master.accept_and_welcome().await;
    assert_ne!(session.hello.identity, copied);
    let warned = session.hello.warnings.iter().any(|warning| warning.contains("edge7"));
    assert!(warned, "{:?}", session.hello.warnings);
    let kept = std::fs::read_to_string(worker.dir.path().join("identity")).unwrap();
    assert_eq!(kept.trim(), session.hello.identity.to_string());
    let aside = format!("spool.of-{}", crate::process_token(copied));
    assert!(worker.dir.path().join(aside).exists() && spool.exists());
    session.see_through(vec![play(1, "exit 0")]).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_copy_beside_the_worker_of_its_identity_ends_with_advice() {
    let worker = Worker::start().await;
    let mut session = worker.master.accept().await;
    let message = "worker `edge7` on this machine is connected with the same identity".to_owned();
    session.send(&[ToWorker::Goodbye { code: GoodbyeCode::Duplicate, message }]).await;
    let error = soon("the end of the worker", worker.running).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("on this machine") && error.contains("remove the file `identity`"), "{error}");
}

#[tokio::test]
async fn a_hello_says_where_the_worker_is() {
    let (worker, session) = Worker::start_and_welcome().await;
    let place = &session.hello.place;
    assert_eq!(place.boot_id, session.hello.boot_id);
    assert!(place.directory.is_some() && place.host.is_some(), "{place:?}");
    worker.stop().await;
}
