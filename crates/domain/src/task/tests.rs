#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod simulation;
mod table;

use super::*;
use crate::quantity::Span;
use crate::reason::ProcessEnd;
use crate::spec::{Backoff, ExitCodes, OnLost, RestartPolicy};

const HERE: WorkerId = WorkerId(1);
const ELSEWHERE: WorkerId = WorkerId(2);

/// So many seconds after the beginning of time.
fn at(secs: i64) -> Time {
    Time::from_timestamp(secs, 0).unwrap()
}

/// A policy that grants two repeats, after one second and after another.
fn restart(policy: RestartPolicy, on_lost: OnLost) -> Restart {
    let delay = Span::from_secs(1);
    let [on_exit, not_on_exit, success] = [ExitCodes::default(); 3];
    let backoff = Backoff::Constant;
    Restart { policy, on_exit, not_on_exit, success, limit: 2, within: None, delay, backoff, on_lost }
}

fn cannot_run() -> TaskEvent {
    let message = "task prepare, which it depends on, did not complete".to_owned();
    TaskEvent::CannotRun(Reason { code: ReasonCode::DependencyFailed, message })
}

fn never() -> Restart {
    restart(RestartPolicy::Never, OnLost::Fail)
}

fn on_failure() -> Restart {
    restart(RestartPolicy::OnFailure, OnLost::Restart)
}

fn exited(code: i32) -> AttemptEnd {
    AttemptEnd::Exited { code }
}

fn lost(cause: LostCause) -> AttemptEnd {
    AttemptEnd::Lost { cause }
}

fn by(worker: WorkerId, attempt: u32) -> Report {
    Report { worker, attempt }
}

/// A task in the state that follows from these events; each must be allowed.
fn after(restart: &Restart, events: impl IntoIterator<Item = TaskEvent>) -> Task {
    events
        .into_iter()
        .fold(Task::new(false, at(0)), |task, event| apply(&task, restart, event, at(1)).unwrap().task)
}

fn placed() -> TaskEvent {
    TaskEvent::Placed { worker: HERE }
}

fn started(attempt: u32) -> TaskEvent {
    TaskEvent::Started(by(HERE, attempt), at(2))
}

fn ended(attempt: u32, end: AttemptEnd) -> TaskEvent {
    TaskEvent::Ended(by(HERE, attempt), end)
}

fn stop() -> TaskEvent {
    TaskEvent::StopRequested(StopCause::by("ana"))
}

fn leave_here() -> StopCause {
    StopCause { message: "moved away from here".to_owned(), then: AfterStop::Move }
}

fn leave(attempt: u32) -> TaskEvent {
    TaskEvent::MoveRequested(by(HERE, attempt), "moved away from here".to_owned())
}

fn scale_down() -> StopCause {
    StopCause { message: "scaled down to 2 by ana".to_owned(), then: AfterStop::ScaleDown }
}

fn scaled_up(waits_for_others: bool) -> TaskEvent {
    TaskEvent::ScaledUp { message: "scaled up to 5 by ana".to_owned(), waits_for_others }
}

fn replaced() -> TaskEvent {
    TaskEvent::Replaced { message: "replaced by version 2".to_owned() }
}

fn message(task: &Task) -> &str {
    match &task.state {
        TaskState::Failed { reason, .. } | TaskState::Cancelled { reason, .. } => &reason.message,
        TaskState::Pending { after: Some(reason), .. } => &reason.message,
        state => panic!("a task that is {} has no reason", state.name()),
    }
}

#[test]
fn a_task_that_depends_on_others_is_born_blocked_and_any_other_pending() {
    assert_eq!(Task::new(true, at(7)).state, TaskState::Blocked);
    let task = Task::new(false, at(7));
    assert_eq!(task.state, TaskState::Pending { not_before: at(7), after: None });
    assert_eq!((task.attempt, task.repeats), (0, Repeats::default()));
}

#[test]
fn a_placement_opens_an_attempt_with_a_new_number_and_tells_its_worker_to_start() {
    let change = apply(&Task::new(false, at(0)), &never(), placed(), at(5)).unwrap();
    assert_eq!(change.task.attempt, 1);
    assert_eq!(change.task.state, TaskState::Scheduled { worker: HERE, since: at(5) });
    assert_eq!(change.attempt, Some(AttemptChange::Opened { worker: HERE }));
    assert_eq!(change.command, Some(Command::Start(HERE)));
}

#[test]
fn a_start_is_dated_by_the_worker_that_saw_it() {
    let change = apply(&after(&never(), [placed()]), &never(), started(1), at(60)).unwrap();
    assert_eq!(change.task.state, TaskState::Running { worker: HERE, since: at(2) });
    assert_eq!(change.attempt, Some(AttemptChange::Started { at: at(2) }));
}

#[test]
fn a_repeat_gets_a_new_number() {
    let waiting = after(&on_failure(), [placed(), started(1), ended(1, exited(1))]);
    assert_eq!((waiting.attempt, waiting.repeats.count), (1, 1));
    let again = apply(&waiting, &on_failure(), TaskEvent::Placed { worker: ELSEWHERE }, at(9)).unwrap();
    assert_eq!((again.task.attempt, again.task.repeats.count), (2, 1));
    assert_eq!(again.command, Some(Command::Start(ELSEWHERE)));
}

#[test]
fn a_task_that_waits_for_a_repeat_says_why_and_not_before_when() {
    let task = after(&on_failure(), [placed(), started(1)]);
    let waiting = apply(&task, &on_failure(), ended(1, exited(3)), at(100)).unwrap().task;
    assert_eq!(message(&waiting), "exited with code 3");
    assert!(matches!(waiting.state, TaskState::Pending { not_before, .. } if not_before == at(101)));
}

#[test]
fn a_task_fails_for_good_once_its_repeats_are_used_up() {
    let mut task = Task::new(false, at(0));
    for attempt in 1..=3 {
        task = apply(&task, &on_failure(), placed(), at(1)).unwrap().task;
        task = apply(&task, &on_failure(), ended(attempt, exited(4)), at(1)).unwrap().task;
    }
    assert_eq!((task.state.name(), task.attempt), (StateName::Failed, 3));
    assert_eq!(message(&task), "exited with code 4");
}

#[test]
fn an_end_counts_even_when_the_report_of_the_start_never_came() {
    let done = apply(&after(&never(), [placed()]), &never(), ended(1, exited(0)), at(9)).unwrap();
    assert_eq!(done.task.state, TaskState::Completed { at: at(9) });
    assert_eq!(done.attempt, Some(closed(&never(), exited(0))));
}

#[test]
fn an_attempt_given_back_unstarted_is_placed_again_without_counting_as_a_repeat() {
    let returned = TaskEvent::Returned(by(HERE, 1));
    let change = apply(&after(&never(), [placed()]), &never(), returned, at(8)).unwrap();
    assert_eq!(change.task.state, TaskState::Pending { not_before: at(8), after: None });
    assert_eq!(change.task.repeats, Repeats::default());
    assert_eq!(change.attempt, Some(AttemptChange::Closed { end: None, reason: None }));
    assert_eq!(apply(&change.task, &never(), placed(), at(9)).unwrap().task.attempt, 2);
}

#[test]
fn an_attempt_that_has_started_cannot_be_given_back() {
    let running = after(&never(), [placed(), started(1)]);
    let returned = || TaskEvent::Returned(by(HERE, 1));
    assert_eq!(apply(&running, &never(), returned(), at(3)), Err(Rejected::NotNow(StateName::Running)));
    let stopping = after(&never(), [placed(), started(1), stop()]);
    assert_eq!(apply(&stopping, &never(), returned(), at(3)), Err(Rejected::NotNow(StateName::Stopping)));
}

#[test]
fn a_report_of_an_earlier_attempt_changes_nothing_even_from_the_worker_that_has_the_present_one() {
    let second = after(&on_failure(), [placed(), ended(1, exited(1)), placed()]);
    assert_eq!(apply(&second, &on_failure(), ended(1, exited(0)), at(3)), Err(Rejected::Stale));
    assert_eq!(apply(&second, &on_failure(), started(1), at(3)), Err(Rejected::Stale));
    assert_eq!(apply(&second, &on_failure(), ended(2, exited(0)), at(3)).unwrap().task.attempt, 2);
}

#[test]
fn a_report_from_a_worker_that_does_not_have_the_attempt_changes_nothing() {
    let running = after(&never(), [placed(), started(1)]);
    let forged = TaskEvent::Ended(by(ELSEWHERE, 1), exited(0));
    assert_eq!(apply(&running, &never(), forged, at(3)), Err(Rejected::Stale));
}

#[test]
fn a_report_that_comes_twice_changes_nothing_the_second_time() {
    let running = after(&never(), [placed(), started(1)]);
    assert_eq!(apply(&running, &never(), started(1), at(3)), Err(Rejected::NotNow(StateName::Running)));
    let done = after(&never(), [placed(), started(1), ended(1, exited(0))]);
    assert_eq!(apply(&done, &never(), ended(1, exited(0)), at(3)), Err(Rejected::Stale));
}

#[test]
fn a_task_without_an_attempt_is_cancelled_at_once_and_no_worker_hears_of_it() {
    for waiting in [Task::new(true, at(0)), Task::new(false, at(0))] {
        let change = apply(&waiting, &never(), stop(), at(6)).unwrap();
        assert_eq!(change.task.state.name(), StateName::Cancelled);
        assert_eq!(message(&change.task), "stopped by ana");
        assert_eq!((change.attempt, change.command), (None, None));
    }
}

#[test]
fn a_task_that_waits_out_its_back_off_is_cancelled_at_once() {
    let waiting = after(&on_failure(), [placed(), ended(1, exited(1))]);
    let change = apply(&waiting, &on_failure(), stop(), at(6)).unwrap();
    assert_eq!(
        (change.task.state.name(), change.attempt, change.command),
        (StateName::Cancelled, None, None)
    );
}

#[test]
fn a_stop_is_for_the_worker_to_carry_out_and_the_first_one_counts() {
    for task in [after(&never(), [placed()]), after(&never(), [placed(), started(1)])] {
        let stopping = apply(&task, &never(), stop(), at(4)).unwrap();
        assert_eq!(stopping.command, Some(Command::Stop(HERE)));
        assert_eq!((stopping.task.state.name(), stopping.attempt), (StateName::Stopping, None));
        let again = TaskEvent::StopRequested(StopCause::by("ben"));
        let refused = apply(&stopping.task, &never(), again, at(5));
        assert_eq!(refused, Err(Rejected::NotNow(StateName::Stopping)));
    }
}

#[test]
fn a_task_that_leaves_its_worker_waits_for_another_and_no_repeat_is_used_up() {
    let leaving = apply(&after(&never(), [placed(), started(1)]), &never(), leave(1), at(4)).unwrap();
    assert_eq!(leaving.command, Some(Command::Stop(HERE)));
    let end = AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(15)) };
    let waiting = apply(&leaving.task, &never(), ended(1, end.clone()), at(7)).unwrap();
    assert_eq!(waiting.task.repeats, Repeats::default());
    assert!(matches!(waiting.task.state, TaskState::Pending { not_before, .. } if not_before == at(7)));
    assert_eq!(message(&waiting.task), "moved away from here");
    assert_eq!(waiting.attempt, Some(closed(&never(), end)));
    let again = apply(&waiting.task, &never(), TaskEvent::Placed { worker: ELSEWHERE }, at(8)).unwrap();
    assert_eq!((again.task.attempt, again.command), (2, Some(Command::Start(ELSEWHERE))));
}

#[test]
fn who_does_not_want_a_task_any_more_ends_it_also_on_its_way_elsewhere() {
    let leaving = after(&never(), [placed(), started(1), leave(1)]);
    let stopping = apply(&leaving, &never(), stop(), at(5)).unwrap();
    assert_eq!(stopping.command, None, "its worker has been told");
    let end = AttemptEnd::Stopped { process: None };
    let over = apply(&stopping.task, &never(), ended(1, end), at(7)).unwrap();
    assert_eq!((over.task.state.name(), message(&over.task)), (StateName::Cancelled, "stopped by ana"));
    let refused = apply(&stopping.task, &never(), leave(1), at(5));
    assert_eq!(refused, Err(Rejected::NotNow(StateName::Stopping)));
}

#[test]
fn a_move_is_for_the_attempt_that_was_seen_and_for_no_later_one() {
    let second = after(&on_failure(), [placed(), started(1), ended(1, exited(1)), placed(), started(2)]);
    assert_eq!(apply(&second, &on_failure(), leave(1), at(5)), Err(Rejected::Stale));
    let elsewhere = TaskEvent::MoveRequested(by(ELSEWHERE, 2), String::new());
    assert_eq!(apply(&second, &on_failure(), elsewhere, at(5)), Err(Rejected::Stale));
    assert_eq!(apply(&second, &on_failure(), leave(2), at(5)).unwrap().command, Some(Command::Stop(HERE)));
}

#[test]
fn a_stopping_task_remembers_when_it_started() {
    let known = after(&never(), [placed(), started(1), stop()]);
    let learned = after(&never(), [placed(), stop(), started(1)]);
    for task in [known, learned] {
        assert!(matches!(task.state, TaskState::Stopping { started: Some(start), .. } if start == at(1)));
    }
}

#[test]
fn a_stopped_task_is_cancelled_for_the_reason_of_the_stop_however_its_process_ended() {
    let stopping = after(&on_failure(), [placed(), started(1), stop()]);
    for process in [None, Some(ProcessEnd::Code(0)), Some(ProcessEnd::Code(1)), Some(ProcessEnd::Signal(9))] {
        let end = AttemptEnd::Stopped { process };
        let over = apply(&stopping, &on_failure(), ended(1, end.clone()), at(7)).unwrap();
        assert_eq!(over.task.state.name(), StateName::Cancelled);
        assert_eq!(message(&over.task), "stopped by ana");
        assert_eq!(over.attempt, Some(closed(&never(), end)));
    }
}

#[test]
fn a_task_that_was_done_before_the_stop_reached_it_has_completed() {
    let stopping = after(&never(), [placed(), started(1), stop()]);
    let done = apply(&stopping, &never(), ended(1, exited(0)), at(7)).unwrap();
    assert_eq!(done.task.state, TaskState::Completed { at: at(7) });
}

#[test]
fn a_task_that_failed_before_the_stop_reached_it_has_failed_and_is_not_repeated() {
    let stopping = after(&on_failure(), [placed(), started(1), stop()]);
    let failed = apply(&stopping, &on_failure(), ended(1, exited(2)), at(7)).unwrap();
    assert_eq!(failed.task.state.name(), StateName::Failed);
    assert_eq!(message(&failed.task), "exited with code 2");
}

#[test]
fn a_task_whose_worker_is_lost_during_the_stop_is_cancelled_with_both_reasons() {
    let stopping = after(&on_failure(), [placed(), started(1), stop()]);
    let over = apply(&stopping, &on_failure(), ended(1, lost(LostCause::OutOfContact)), at(7)).unwrap();
    assert_eq!(over.task.state.name(), StateName::Cancelled);
    assert_eq!(
        message(&over.task),
        "stopped by ana; the worker was out of contact for longer than lost_after"
    );
}

#[test]
fn a_stopping_task_whose_worker_shuts_down_is_cancelled_as_if_the_stop_had_done_it() {
    let stopping = after(&on_failure(), [placed(), started(1), stop()]);
    let over = apply(&stopping, &on_failure(), ended(1, lost(LostCause::WorkerShutDown)), at(7)).unwrap();
    assert_eq!((over.task.state.name(), message(&over.task)), (StateName::Cancelled, "stopped by ana"));
}

#[test]
fn a_stopped_attempt_that_never_started_and_comes_back_is_cancelled_not_placed_again() {
    let stopping = after(&on_failure(), [placed(), stop()]);
    let over = apply(&stopping, &on_failure(), TaskEvent::Returned(by(HERE, 1)), at(7)).unwrap();
    assert_eq!((over.task.state.name(), message(&over.task)), (StateName::Cancelled, "stopped by ana"));
    assert_eq!(over.attempt, Some(AttemptChange::Closed { end: None, reason: None }));
}

#[test]
fn a_lost_attempt_is_repeated_only_as_the_policy_for_lost_ones_says() {
    for (policy, on_lost, expected) in [
        (RestartPolicy::Never, OnLost::Restart, StateName::Pending),
        (RestartPolicy::Never, OnLost::Fail, StateName::Failed),
        (RestartPolicy::Always, OnLost::Restart, StateName::Pending),
        (RestartPolicy::Always, OnLost::Fail, StateName::Failed),
    ] {
        let restart = restart(policy, on_lost);
        let over = after(&restart, [placed(), started(1), ended(1, lost(LostCause::Rebooted))]);
        assert_eq!(over.state.name(), expected);
        assert_eq!(message(&over), "the worker's machine was restarted");
    }
}

#[test]
fn a_task_whose_dependency_failed_is_cancelled_and_names_it() {
    let change = apply(&Task::new(true, at(0)), &never(), cannot_run(), at(3)).unwrap();
    let TaskState::Cancelled { at: when, reason } = change.task.state else { panic!("it was not cancelled") };
    assert_eq!((when, reason.code), (at(3), ReasonCode::DependencyFailed));
    assert_eq!(reason.message, "task prepare, which it depends on, did not complete");
}

#[test]
fn a_worker_is_told_of_placements_and_stops_only() {
    for task in table::rows().into_iter().flat_map(|row| table::tasks(&row)) {
        for event in table::events(&task) {
            let Ok(change) = apply(&task, &on_failure(), event.clone(), at(9)) else { continue };
            let held_by = change.task.state.worker();
            match change.command {
                Some(Command::Start(worker)) => {
                    assert!(matches!(event, TaskEvent::Placed { .. }), "{event:?}");
                    assert_eq!(held_by, Some(worker));
                }
                Some(Command::Stop(worker)) => {
                    assert!(
                        matches!(
                            event,
                            TaskEvent::StopRequested(_)
                                | TaskEvent::MoveRequested(..)
                                | TaskEvent::Replaced { .. }
                        ),
                        "{event:?}"
                    );
                    assert_eq!(held_by, Some(worker));
                }
                None => assert!(!matches!(event, TaskEvent::Placed { .. }), "{event:?}"),
            }
        }
    }
}

#[test]
fn a_state_is_written_and_read_as_the_same_word() {
    for name in StateName::ALL {
        assert_eq!(name.to_string().parse(), Ok(name));
    }
    assert_eq!("Running".parse::<StateName>(), Err(UnknownState));
    assert_eq!("lost".parse::<StateName>(), Err(UnknownState));
}

#[test]
fn after_a_restore_no_number_is_given_out_that_a_worker_may_know() {
    let unseen = Unseen { attempts: 1_000, until: None };
    for attempt in [0, 3] {
        let task = Task { attempt, unseen, ..Task::new(false, at(0)) };
        let placed = apply(&task, &never(), placed(), at(1)).unwrap().task;
        assert_eq!((placed.attempt, placed.unseen), (1_001, unseen));
        // From then on as always.
        let returned = apply(&placed, &never(), TaskEvent::Returned(by(HERE, 1_001)), at(2)).unwrap().task;
        let placed = apply(&returned, &never(), self::placed(), at(3)).unwrap().task;
        assert_eq!(placed.attempt, 1_002);
    }
}

#[test]
fn after_a_restore_no_task_waits_for_a_worker_before_the_leases_from_before_are_over() {
    let unseen = Unseen { attempts: 1_000, until: Some(at(60)) };
    let restored = |task: Task| Task { unseen, ..task };
    let running = || after(&on_failure(), [placed(), started(1)]);
    let ways = [
        (restored(Task::new(true, at(0))), TaskEvent::DependenciesMet),
        (restored(after(&on_failure(), [placed()])), TaskEvent::Returned(by(HERE, 1))),
        (restored(running()), ended(1, lost(LostCause::Restored))),
        (
            restored(after(&on_failure(), [placed(), started(1), leave(1)])),
            ended(1, AttemptEnd::Stopped { process: None }),
        ),
    ];
    for (task, event) in ways {
        for (now, earliest) in [(5, at(60)), (70, at(70))] {
            let task = apply(&task, &on_failure(), event.clone(), at(now)).unwrap().task;
            let TaskState::Pending { not_before, .. } = task.state else { panic!("{:?}", task.state) };
            assert!(not_before >= earliest && not_before <= earliest + chrono::TimeDelta::seconds(1));
        }
    }
}
