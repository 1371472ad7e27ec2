#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod simulation;

use super::*;
use crate::TaskId;

/// What repairs which difference. `·` is nothing.
const TABLE: &str = "
| expected | held | hello | hello after a reboot | heartbeat, settled | heartbeat, young |
|---|---|---|---|---|---|
| scheduled | nothing | send start | rebooted | send start | · |
| scheduled | queued | · | · | · | · |
| scheduled | running | started | started | started | · |
| scheduled | finished | · | · | · | · |
| running | nothing | not held | rebooted | not held | · |
| running | queued | · | · | · | · |
| running | running | · | · | · | · |
| running | finished | · | · | · | · |
| stopping | nothing | send stop | rebooted | send stop | · |
| stopping | queued | send stop | send stop | send stop | · |
| stopping | running | send stop | send stop | send stop | · |
| stopping | finished | · | · | · | · |
| nothing | nothing | · | · | · | · |
| nothing | queued | send kill | send kill | send kill | send kill |
| nothing | running | send kill | send kill | send kill | send kill |
| nothing | finished | · | · | · | · |
";

const ATTEMPT: AttemptRef = attempt(7, 2);

const fn attempt(task: i64, attempt: u32) -> AttemptRef {
    AttemptRef { task: TaskId(task), attempt }
}

fn now() -> Time {
    Time::from_timestamp(1_000_000, 0).unwrap()
}

fn expected(attempt: AttemptRef, state: ExpectedState, age: Span) -> Expected {
    Expected { attempt, state, since: now() - millis(age), is_of_backup: false }
}

fn held(attempt: AttemptRef, phase: HeldPhase) -> ReportedAttempt {
    ReportedAttempt { attempt, phase }
}

fn in_words(repairs: &[Repair]) -> &'static str {
    match repairs {
        [] => "·",
        [Repair::SendStart(ATTEMPT)] => "send start",
        [Repair::Started(ATTEMPT)] => "started",
        [Repair::SendStop(ATTEMPT)] => "send stop",
        [Repair::SendKill(ATTEMPT)] => "send kill",
        [Repair::Lost(ATTEMPT, LostCause::Rebooted)] => "rebooted",
        [Repair::Lost(ATTEMPT, LostCause::NotHeld)] => "not held",
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_difference_is_repaired_as_the_table_says() {
    let occasions = [
        (Occasion::Hello { rebooted: false }, Span::from_millis(0)),
        (Occasion::Hello { rebooted: true }, Span::from_millis(0)),
        (Occasion::Heartbeat, RESEND_AFTER),
        (Occasion::Heartbeat, Span::from_millis(RESEND_AFTER.as_millis() - 1)),
    ];
    let states = [
        ("scheduled", Some(ExpectedState::Scheduled)),
        ("running", Some(ExpectedState::Running)),
        ("stopping", Some(ExpectedState::Stopping)),
        ("nothing", None),
    ];
    let phases = [
        ("nothing", None),
        ("queued", Some(HeldPhase::Queued)),
        ("running", Some(HeldPhase::Running)),
        ("finished", Some(HeldPhase::Finished)),
    ];
    let mut rows = TABLE.lines().filter(|line| line.starts_with('|')).skip(2);
    for (state_name, state) in states {
        for (phase_name, phase) in phases {
            let mut row = vec![state_name, phase_name];
            for (occasion, age) in occasions {
                let expected: Vec<_> = state.map(|state| expected(ATTEMPT, state, age)).into_iter().collect();
                let held: Vec<_> = phase.map(|phase| held(ATTEMPT, phase)).into_iter().collect();
                row.push(in_words(&reconcile(&expected, &held, occasion, now())));
            }
            assert_eq!(format!("| {} |", row.join(" | ")), rows.next().unwrap_or("nothing: the table ends"));
        }
    }
    assert_eq!(rows.next(), None);
}

#[test]
fn attempts_are_repaired_one_by_one_and_those_that_nobody_expects_come_last_in_order() {
    let (scheduled, running) = (attempt(1, 1), attempt(2, 1));
    let expected = [
        expected(running, ExpectedState::Running, RESEND_AFTER),
        expected(scheduled, ExpectedState::Scheduled, RESEND_AFTER),
    ];
    let held = [
        held(attempt(9, 1), HeldPhase::Running),
        held(running, HeldPhase::Running),
        held(attempt(3, 2), HeldPhase::Finished),
        held(attempt(3, 1), HeldPhase::Queued),
    ];
    let repairs = reconcile(&expected, &held, Occasion::Heartbeat, now());
    let kills = [Repair::SendKill(attempt(3, 1)), Repair::SendKill(attempt(9, 1))];
    assert_eq!(repairs, [&[Repair::SendStart(scheduled)][..], &kills].concat());
}

#[test]
fn an_earlier_attempt_of_an_expected_task_is_killed_and_the_present_one_is_sent_again() {
    let expected = [expected(attempt(7, 3), ExpectedState::Scheduled, RESEND_AFTER)];
    let held = [held(ATTEMPT, HeldPhase::Running)];
    let repairs = reconcile(&expected, &held, Occasion::Heartbeat, now());
    assert_eq!(repairs, [Repair::SendStart(attempt(7, 3)), Repair::SendKill(ATTEMPT)]);
}

/// It may still be on its way. The second one does no harm: it arrives after the first and before any acknowledgement
/// of the attempt's end, so the worker holds the attempt and ignores it. The simulation does this all the time.
#[test]
fn a_start_that_is_slow_to_arrive_is_sent_again() {
    let in_flight = [expected(ATTEMPT, ExpectedState::Scheduled, RESEND_AFTER)];
    assert_eq!(reconcile(&in_flight, &[], Occasion::Heartbeat, now()), [Repair::SendStart(ATTEMPT)]);
}

#[test]
fn after_a_restore_what_was_live_in_the_backup_is_killed_and_counts_as_lost_only_once_its_worker_has_nothing_of_it()
 {
    for state in [ExpectedState::Scheduled, ExpectedState::Running, ExpectedState::Stopping] {
        let expected = [Expected { is_of_backup: true, ..expected(ATTEMPT, state, Span::from_millis(0)) }];
        for occasion in
            [Occasion::Hello { rebooted: false }, Occasion::Hello { rebooted: true }, Occasion::Heartbeat]
        {
            let repairs = |phase: Option<HeldPhase>| {
                let held: Vec<_> = phase.map(|phase| held(ATTEMPT, phase)).into_iter().collect();
                reconcile(&expected, &held, occasion, now())
            };
            assert_eq!(repairs(None), [Repair::Lost(ATTEMPT, LostCause::Restored)]);
            assert_eq!(repairs(Some(HeldPhase::Finished)), []);
            for phase in [HeldPhase::Queued, HeldPhase::Running] {
                assert_eq!(repairs(Some(phase)), [Repair::SendKill(ATTEMPT)], "{state:?} {phase:?}");
            }
        }
    }
}

#[test]
fn a_database_whose_clock_went_back_repairs_nothing_in_haste() {
    let future = Expected {
        attempt: ATTEMPT,
        state: ExpectedState::Running,
        since: now() + millis(Span::from_secs(3600)),
        is_of_backup: false,
    };
    assert_eq!(reconcile(&[future], &[], Occasion::Heartbeat, now()), []);
}

#[test]
fn a_worker_is_what_its_connection_and_its_operator_make_it() {
    let ago = |span: Span| Some(now() - millis(span));
    let almost = Span::from_millis(WORKER_LOST_AFTER.as_millis() - 1);
    for (offline_since, intake, expected) in [
        (None, Intake::Open, WorkerState::Online),
        (None, Intake::Cordoned, WorkerState::Cordoned),
        (None, Intake::Draining, WorkerState::Draining),
        (ago(Span::from_millis(0)), Intake::Open, WorkerState::Offline),
        (ago(almost), Intake::Draining, WorkerState::Offline),
        (ago(WORKER_LOST_AFTER), Intake::Open, WorkerState::Lost),
        (ago(WORKER_LOST_AFTER), Intake::Draining, WorkerState::Lost),
    ] {
        assert_eq!(WorkerState::of(offline_since, intake, now()), expected);
    }
}

#[test]
fn the_state_of_a_worker_is_one_word_on_every_door() {
    for state in WorkerState::ALL {
        assert_eq!(state.to_string(), state.as_str());
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
}
