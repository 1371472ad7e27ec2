#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use futures::FutureExt;
use gaffer_domain::spec::JobSpec;
use gaffer_domain::{AttemptRef, JobId, TaskId};
use gaffer_protocol::definitions::Definitions;
use gaffer_protocol::wire::{FRAME_BYTES, MAX_MESSAGES_PER_FRAME};
use serde_json::json;

use super::*;

fn attempt(task: i64) -> AttemptRef {
    AttemptRef { task: TaskId(task), attempt: 1 }
}

fn order(task: i64, job: i64, script_bytes: usize) -> StartOrder {
    let spec = JobSpec::read(&json!({"script": "x".repeat(script_bytes)})).unwrap();
    let definition = DefinitionRef { job: JobId(job), position: 0 };
    StartOrder { attempt: attempt(task), definition, index: 0, spec: Arc::new(spec) }
}

fn frames(outbox: &Outbox) -> Vec<String> {
    std::iter::from_fn(|| outbox.next_frame().now_or_never()).collect()
}

fn messages(frames: &[String]) -> Vec<ToWorker> {
    frames.iter().flat_map(|frame| serde_json::from_str::<Vec<ToWorker>>(frame).unwrap()).collect()
}

#[test]
fn frames_are_short_whatever_is_queued_and_each_start_comes_after_its_definition() {
    let outbox = Outbox::new(Arc::default(), "w".into());
    for task in 0..64 {
        outbox.start(&order(task, 1, 400_000));
    }
    for task in 64..464 {
        outbox.start(&order(task, task, 25_000));
    }
    (0..2_000).for_each(|task| assert!(outbox.send(&ToWorker::Stop { attempt: attempt(task) })));
    let frames = frames(&outbox);
    // One part of a definition may be longer than a frame by what is escaped in it.
    assert!(frames.iter().all(|frame| frame.len() <= 2 * FRAME_BYTES));
    let all: usize = frames.iter().map(String::len).sum();
    assert!(all < 400_000 + 400 * 26_000 + 600_000, "the large script goes once: {all}");
    let (mut definitions, mut started, mut stopped) = (Definitions::default(), 0, 0);
    for frame in &frames {
        assert!(messages(std::slice::from_ref(frame)).len() <= MAX_MESSAGES_PER_FRAME);
    }
    for message in messages(&frames) {
        match message {
            ToWorker::Definition { definition, at, part, is_last } => {
                definitions.take(definition, at, &part, is_last).unwrap();
            }
            ToWorker::Start(start) => {
                assert!(definitions.resolve(&start).is_some());
                started += 1;
            }
            ToWorker::Stop { .. } => stopped += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((started, stopped), (464, 2_000));
    assert_eq!(outbox.lock().bytes, 0);
}

#[test]
fn the_answer_to_a_heartbeat_waits_for_nothing() {
    let outbox = Outbox::new(Arc::default(), "w".into());
    (0..64).for_each(|task| outbox.start(&order(task, task, 400_000)));
    let _ = outbox.next_frame().now_or_never().unwrap();
    assert!(outbox.send(&ToWorker::Alive { sequence: 1 }));
    assert!(outbox.send(&ToWorker::Alive { sequence: 2 }));
    let next = outbox.next_frame().now_or_never().unwrap();
    assert_eq!(messages(&[next])[0], ToWorker::Alive { sequence: 2 });
}

#[test]
fn a_full_queue_leaves_out_what_is_repaired_and_nothing_else() {
    let outbox =
        Outbox::new(Arc::new(Budget::new(Limits { session: 100_000, total: usize::MAX })), "w".into());
    (0..100).for_each(|task| outbox.start(&order(task, task, 10_000)));
    assert!(outbox.send(&ToWorker::Kill { attempt: attempt(500) }));
    assert!(outbox.send(&ToWorker::EndStored { attempt: attempt(600) }));
    let said = messages(&frames(&outbox));
    let starts = said.iter().filter(|message| matches!(message, ToWorker::Start(_))).count();
    assert!((8..=11).contains(&starts), "{starts}");
    assert_eq!(said.last(), Some(&ToWorker::EndStored { attempt: attempt(600) }));
    assert!(!said.iter().any(|message| matches!(message, ToWorker::Kill { .. })));
    outbox.start(&order(100, 100, 10_000));
    assert!(!frames(&outbox).is_empty(), "there is room again");
}

#[test]
fn all_queues_together_have_a_limit_in_which_a_definition_counts_once() {
    let budget = Arc::new(Budget::new(Limits { session: usize::MAX, total: 200_000 }));
    let boxes: Vec<Outbox> = (0..100).map(|_| Outbox::new(budget.clone(), "w".into())).collect();
    let shared = order(1, 1, 100_000);
    boxes.iter().for_each(|outbox| outbox.start(&shared));
    assert!(budget.bytes.load(Ordering::Relaxed) < 200_000, "one definition for a hundred");
    assert!(boxes.iter().all(|outbox| messages(&frames(outbox)).len() > 1));
    let starts = |outbox: &Outbox| {
        let said = messages(&frames(outbox));
        said.iter().filter(|message| matches!(message, ToWorker::Start(_))).count()
    };
    for (at, outbox) in boxes.iter().enumerate() {
        let at = at as i64;
        for job in [2 * at + 2, 2 * at + 3] {
            outbox.start(&order(job, job, 10_000));
        }
    }
    let waiting = budget.bytes.load(Ordering::Relaxed);
    assert!(waiting < 200_000 + 100 * 11_000, "{waiting}");
    // Nobody starves because others do not read.
    assert_eq!((starts(&boxes[0]), starts(&boxes[99])), (2, 1));
    drop(boxes);
    assert_eq!(budget.bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn ten_thousand_stops_and_a_hundred_thousand_kills_at_once_are_all_queued() {
    let outbox = Outbox::new(Arc::default(), "w".into());
    (0..10_000).for_each(|task| assert!(outbox.send(&ToWorker::Stop { attempt: attempt(task) })));
    (0..101_000).for_each(|task| assert!(outbox.send(&ToWorker::Kill { attempt: attempt(task) })));
    assert_eq!(messages(&frames(&outbox)).len(), 111_000);
}

#[test]
fn acknowledgements_that_are_not_read_have_a_limit() {
    let outbox =
        Outbox::new(Arc::new(Budget::new(Limits { session: 100_000, total: usize::MAX })), "w".into());
    let stored = ToWorker::OutputStored { attempt: attempt(1), offset: 7 };
    let queued = (0..100_000).take_while(|_| outbox.send(&stored)).count();
    assert!((1_000..3_000).contains(&queued), "{queued}");
    assert!(outbox.send(&ToWorker::Alive { sequence: 1 }), "which waits for nothing");
    assert_eq!(messages(&frames(&outbox)).len(), queued + 1);
    assert!(outbox.send(&stored), "there is room again");
}
