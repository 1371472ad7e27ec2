#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use gaffer_domain::task::{Report, TaskEvent};
use gaffer_domain::{WorkerId, task::Rejected};
use tokio::sync::oneshot;

use super::*;
use crate::store::transitions::{Detail, Input};
use crate::write_batcher::batch::Answer;

fn input(task: i64, attempt: u32) -> Input {
    let event = TaskEvent::Returned(Report { worker: WorkerId(1), attempt });
    Input { task: TaskId(task), event, actor: "test".into(), detail: Detail::None }
}

fn report(task: i64, attempt: u32) -> Change {
    Change::found(input(task, attempt))
}

/// The task and the attempt of each change, in order.
fn order(changes: &[Change]) -> Vec<(i64, u32)> {
    let of = |change: &Change| match change {
        Change::Report { input, .. } => match &input.event {
            TaskEvent::Returned(report) => (input.task.0, report.attempt),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    changes.iter().map(of).collect()
}

#[tokio::test]
async fn what_comes_later_of_a_task_waits_behind_what_waits_already() {
    let now = Instant::now();
    let mut deferred = Deferred::default();
    deferred.defer(report(1, 1), now);
    let free = deferred.hold_back(vec![report(1, 2), report(2, 1), report(1, 3)]);
    assert_eq!(order(&free), [(2, 1)]);
    let due = deferred.due().unwrap();
    assert!(due > now);
    assert_eq!(order(&deferred.take_due(now, 10)), []);
    assert_eq!(order(&deferred.take_due(due, 10)), [(1, 1), (1, 2), (1, 3)]);
}

#[tokio::test]
async fn what_is_tried_again_in_vain_waits_longer_and_keeps_its_place() {
    let mut now = Instant::now();
    let mut deferred = Deferred::default();
    deferred.defer(report(1, 1), now);
    deferred.hold_back(vec![report(1, 2)]);
    let mut wait = Duration::ZERO;
    for _ in 0..10 {
        let due = deferred.due().unwrap();
        assert!(due - now >= wait && due - now <= LONGEST_WAIT);
        (wait, now) = (due - now, due);
        let tried = deferred.take_due(now, 10);
        assert_eq!(order(&tried), [(1, 1), (1, 2)]);
        // While these are tried nothing of the task waits, so what comes in between would overtake nothing.
        assert!(!deferred.holds(TaskId(1)));
        let mut tried = tried.into_iter();
        deferred.defer(tried.next().unwrap(), now);
        assert_eq!(deferred.hold_back(tried.collect()).len(), 0);
        deferred.forget_done();
    }
    assert_eq!(wait, LONGEST_WAIT);
    let due = deferred.due().unwrap();
    drop(deferred.take_due(due, 10));
    deferred.forget_done();
    assert_eq!(deferred.due(), None);
}

#[tokio::test]
async fn a_decision_on_a_task_that_waits_is_answered_and_made_anew() {
    let mut deferred = Deferred::default();
    deferred.defer(report(1, 1), Instant::now());
    let (done, result) = oneshot::channel();
    let answer = Answer::new(2, done);
    answer.set(1, Ok(()));
    let decision = Change::Decision { input: input(1, 1), answer, place: 0 };
    assert!(deferred.hold_back(vec![decision]).is_empty());
    assert_eq!(result.await.unwrap(), [Err(Rejected::Busy), Ok(())]);
}
