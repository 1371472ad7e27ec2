//! Ending attempts: politely, by force, by time, by lease, and before they start.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use gaffer_domain::quantity::{Cpu, Span};
use gaffer_domain::reason::{AttemptEnd, LostCause, ProcessEnd};
use gaffer_domain::spec::{Resources, StopSignal, StopSpec};
use gaffer_domain::worker::HeldPhase;
use gaffer_protocol::wire::{HeldAttempt, ToMaster, ToWorker};

use super::Worker;
use super::master::{Books, Order, Said, Session, attempt, command, play, script, soon};

async fn send_start(session: &mut Session, start: Order) {
    session.start([start]).await;
}

/// Starts an attempt and waits for the first of its output.
async fn start_and_hear(session: &mut Session, start: Order) -> Books {
    send_start(session, start).await;
    let mut books = Books::default();
    while books.output.is_empty() {
        session.keep(&mut books).await;
    }
    books
}

fn with_grace(start: Order, millis: u64) -> Order {
    Order { stop: StopSpec { grace: Span::from_millis(millis), ..start.stop }, ..start }
}

/// Takes all of the worker.
fn hog(start: Order) -> Order {
    Order { resources: Resources { cpu: Cpu::from_millis(8000), ..start.resources }, ..start }
}

#[tokio::test]
async fn a_stop_is_polite_first() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let text = "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.01; done";
    let mut books = start_and_hear(&mut session, script(1, text)).await;
    session.send(&[ToWorker::Stop { attempt: attempt(1) }]).await;
    while books.ended.is_empty() {
        session.keep(&mut books).await;
    }
    assert_eq!(books.ended[&attempt(1)].end, AttemptEnd::Stopped { process: Some(ProcessEnd::Code(5)) });
    assert_eq!(books.stdout(attempt(1)), "up\nbye\n");
    worker.stop().await;
}

#[tokio::test]
async fn the_signal_of_the_spec_is_sent() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let start = script(1, "trap 'exit 6' INT; echo up; while :; do sleep 0.01; done");
    let stop = StopSpec { signal: StopSignal::Sigint, ..start.stop };
    start_and_hear(&mut session, Order { stop, ..start }).await;
    session.send(&[ToWorker::Stop { attempt: attempt(1) }]).await;
    assert_eq!(session.ended().await.end, AttemptEnd::Stopped { process: Some(ProcessEnd::Code(6)) });
    worker.stop().await;
}

#[tokio::test]
async fn what_ignores_a_stop_is_killed_after_its_grace_with_a_receipt() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let start = with_grace(script(1, "trap '' TERM; sleep 1000 & echo up; wait"), 300);
    start_and_hear(&mut session, start).await;
    let asked = Instant::now();
    session.send(&[ToWorker::Stop { attempt: attempt(1) }]).await;
    let ended = session.ended().await;
    assert!(asked.elapsed() >= Duration::from_millis(300));
    assert_eq!(ended.end, AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(9)) });
    assert_eq!(ended.killed.map(|receipt| (receipt.killed, receipt.left)), Some((2, 0)));
    worker.stop().await;
}

#[tokio::test]
async fn a_kill_does_not_wait() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    start_and_hear(&mut session, script(1, "trap '' TERM; echo up; while :; do sleep 1; done")).await;
    session.send(&[ToWorker::Kill { attempt: attempt(1) }]).await;
    assert_eq!(session.ended().await.end, AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(9)) });
    worker.stop().await;
}

#[tokio::test]
async fn time_runs_out() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let limit = Span::from_millis(200);
    send_start(&mut session, Order { timeout: Some(limit), ..command(1, &["sleep", "1000"]) }).await;
    let process = ProcessEnd::Signal(15);
    assert_eq!(session.ended().await.end, AttemptEnd::TimedOut { limit, process });
    worker.stop().await;
}

#[tokio::test]
async fn signals_are_passed_on_and_change_nothing_else() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    start_and_hear(&mut session, script(1, "trap 'exit 4' USR1; echo up; while :; do sleep 0.01; done"))
        .await;
    session.send(&[ToWorker::Signal { attempt: attempt(1), signal: StopSignal::Sigusr1 }]).await;
    assert_eq!(session.ended().await.end, AttemptEnd::Exited { code: 4 });
    worker.stop().await;
}

#[tokio::test]
async fn what_waits_for_room_can_be_stopped_or_taken_back() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let mut books = start_and_hear(&mut session, hog(play(1, "out up\nhang"))).await;
    for task in [2, 3, 4] {
        send_start(&mut session, hog(play(task, "exit 0"))).await;
    }
    let mut messages = vec![
        ToWorker::Stop { attempt: attempt(2) },
        ToWorker::TakeBack { attempt: attempt(3) },
        // It runs: nothing happens.
        ToWorker::TakeBack { attempt: attempt(1) },
    ];
    // The master did not hear of it, as it were.
    messages.extend(hog(play(3, "exit 0")).messages());
    messages.push(ToWorker::Kill { attempt: attempt(1) });
    session.send(&messages).await;
    while books.ended.len() < 3 {
        session.keep(&mut books).await;
    }
    assert_eq!(books.ended[&attempt(2)].end, AttemptEnd::Stopped { process: None });
    assert_eq!(books.returned, [attempt(3), attempt(3)]);
    assert_eq!(books.ended[&attempt(4)].end, AttemptEnd::Exited { code: 0 }, "it got the room");
    assert!(!books.started.contains_key(&attempt(2)) && !books.started.contains_key(&attempt(3)));
    worker.stop().await;
}

#[tokio::test]
async fn the_end_of_what_is_not_held_is_told_when_it_is_asked_for() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    for order in [ToWorker::Stop { attempt: attempt(1) }, ToWorker::Kill { attempt: attempt(1) }] {
        session.send(&[order]).await;
        let ended = session.ended().await;
        assert_eq!((ended.end, ended.output_bytes), (AttemptEnd::Stopped { process: None }, 0));
    }
    // Its start, which had been on its way, comes too late.
    session.start([play(1, "exit 0"), play(2, "exit 0")]).await;
    assert_eq!(session.ended().await.attempt, attempt(2));
    worker.stop().await;
}

#[tokio::test]
async fn doubled_starts_start_once() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let file = worker.dir.path().join("starts");
    // Takes all of the worker, so that what comes after it has to wait for it, should it start.
    let start = hog(script(1, &format!("echo x >> {}", file.display())));
    send_start(&mut session, start.clone()).await;
    send_start(&mut session, start.clone()).await;
    session.ended().await;
    // Once more while it waits for its acknowledgement, and once after it.
    send_start(&mut session, start.clone()).await;
    session.send(&[ToWorker::EndStored { attempt: attempt(1) }]).await;
    send_start(&mut session, start).await;
    session.see_through(vec![hog(play(2, "exit 0"))]).await;
    assert_eq!(std::fs::read_to_string(file).unwrap(), "x\n");
    worker.stop().await;
}

#[tokio::test]
async fn a_start_that_comes_again_does_not_disturb_what_runs() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let start = script(1, "echo up; exec sleep 1000");
    let mut books = start_and_hear(&mut session, start.clone()).await;
    send_start(&mut session, start).await;
    // By its end the worker has dealt with what came before it.
    send_start(&mut session, play(2, "exit 0")).await;
    while !books.ended.contains_key(&attempt(2)) {
        session.keep(&mut books).await;
    }
    session.send(&[ToWorker::Kill { attempt: attempt(1) }]).await;
    while !books.ended.contains_key(&attempt(1)) {
        session.keep(&mut books).await;
    }
    let end = AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(9)) };
    assert_eq!((&books.ended[&attempt(1)].end, books.started[&attempt(1)]), (&end, 1));
    assert_eq!(books.stdout(attempt(1)), "up\n");
    worker.stop().await;
}

#[tokio::test]
async fn a_lease_that_runs_out_ends_what_runs_and_gives_back_what_waits() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let short = |start| Order { lost_after: Span::from_millis(4_000), ..start };
    // There is no time for being polite: nobody would wait for the end of that.
    let stubborn = with_grace(script(1, "trap '' TERM; echo up; sleep 1000"), 1_000_000);
    start_and_hear(&mut session, hog(short(stubborn))).await;
    send_start(&mut session, hog(short(play(2, "exit 0")))).await;
    send_start(&mut session, Order { lost_after: Span::from_secs(600), ..hog(play(3, "exit 0")) }).await;
    // From here on heartbeats come, but no answer goes. What waited may end first: room is free as soon as nothing of 1 runs,
    // before its directory is gone and its end is reported.
    let (mut ended, mut returned) = (HashMap::new(), Vec::new());
    soon("both ends", async {
        while ended.len() < 2 {
            match session.next().await {
                Said::Report(ToMaster::Ended(report)) => drop(ended.insert(report.attempt, report)),
                Said::Report(ToMaster::Returned { attempt }) => returned.push(attempt),
                _ => {}
            }
        }
    })
    .await;
    let lost = &ended[&attempt(1)];
    assert_eq!(lost.end, AttemptEnd::Lost { cause: LostCause::LeaseExpired });
    assert_eq!(lost.killed.as_ref().map(|receipt| receipt.left), Some(0));
    assert_eq!(returned, [attempt(2)]);
    assert_eq!(ended[&attempt(3)].end, AttemptEnd::Exited { code: 0 }, "3 has a longer lease");
    worker.stop().await;
}

/// The master counts from the heartbeat that it received; an answer that was long on its way is worth less.
#[tokio::test]
async fn a_lease_counts_from_the_heartbeat_and_not_from_its_answer() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let lost_after = Span::from_millis(4_000);
    send_start(&mut session, Order { lost_after, ..command(1, &["sleep", "1000"]) }).await;
    let answered = loop {
        if let Said::Report(ToMaster::Heartbeat(beat)) = session.next().await
            && beat.held.as_ref().unwrap().iter().any(|held| held.phase == HeldPhase::Running)
        {
            break beat.sequence;
        }
    };
    // The answers to the first ten, sent within two seconds, go out two seconds apart, which a lease that counted from
    // them would outlive. Heartbeats come five times a second, or more slowly.
    let mut sent = 0;
    let ended = loop {
        match session.next().await {
            Said::Report(ToMaster::Heartbeat(beat)) if beat.sequence == answered + 10 * (sent + 1) => {
                session.send(&[ToWorker::Alive { sequence: answered + sent }]).await;
                sent += 1;
                assert!(sent < 10, "late answers keep it alive");
            }
            Said::Report(ToMaster::Ended(ended)) => break ended,
            _ => {}
        }
    };
    assert_eq!(ended.end, AttemptEnd::Lost { cause: LostCause::LeaseExpired });
    worker.stop().await;
}

#[tokio::test]
async fn a_stop_is_for_all_that_an_attempt_has_started() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let child = "sh -c 'trap \"echo child; exit\" TERM; echo up; while :; do sleep 0.01; done'";
    let text = format!("trap 'wait; exit 5' TERM; {child} & wait");
    let mut books = start_and_hear(&mut session, with_grace(script(1, &text), 10_000)).await;
    session.send(&[ToWorker::Stop { attempt: attempt(1) }]).await;
    while books.ended.is_empty() {
        session.keep(&mut books).await;
    }
    assert_eq!(books.stdout(attempt(1)), "up\nchild\n");
    worker.stop().await;
}

#[tokio::test]
async fn a_lease_that_is_renewed_does_not_run_out() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let start = script(1, "sleep 12");
    send_start(&mut session, Order { lost_after: Span::from_secs(8), ..start }).await;
    assert_eq!(session.ended().await.end, AttemptEnd::Exited { code: 0 });
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_that_goes_down_ends_what_it_has_and_says_so() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let mut books = start_and_hear(&mut session, hog(script(1, "echo up; sleep 1000"))).await;
    send_start(&mut session, hog(play(2, "exit 0"))).await;
    let waits = HeldAttempt { attempt: attempt(2), phase: HeldPhase::Queued };
    loop {
        if let Said::Report(ToMaster::Heartbeat(beat)) = session.next().await
            && beat.held.as_ref().unwrap().contains(&waits)
        {
            break;
        }
    }
    let (_, ()) = tokio::join!(worker.stop(), async { while session.keep(&mut books).await {} });
    assert_eq!(books.ended[&attempt(1)].end, AttemptEnd::Lost { cause: LostCause::WorkerShutDown });
    assert_eq!(books.returned, [attempt(2)]);
}
