#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use gaffer_domain::TaskId;
use gaffer_domain::quantity::Span;
use gaffer_domain::spec::{HealthCheck, Probe};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

const WORKER: WorkerId = WorkerId(3);
const JOB: JobId = JobId(5);

fn attempt(task: i64) -> AttemptRef {
    AttemptRef { task: TaskId(task), attempt: 1 }
}

fn now() -> Time {
    Time::from_timestamp(1_800_000_000, 0).unwrap()
}

fn check(failures: u32) -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp { port: "http".to_owned() },
        interval: Span::from_secs(1),
        timeout: Span::from_secs(1),
        start_period: Span::from_millis(0),
        failures,
        successes: 1,
    }
}

fn live(health: Option<HealthCheck>, readiness: Option<HealthCheck>) -> LiveAttempt {
    let [health, readiness] = [health, readiness].map(|check| check.as_ref().map(Into::into));
    LiveAttempt { worker: WORKER, job: JOB, position: 0, is_stopping: false, health, readiness }
}

fn checked(number: u64, passed: bool, before: Health) -> Checked {
    let result = CheckResult {
        at: now() + TimeDelta::seconds(number as i64),
        after_millis: number * 1000,
        passed,
        took_micros: 5,
        detail: format!("status {}", if passed { 200 } else { 500 }),
    };
    Checked { attempt: attempt(1), check: CheckKind::Health, number, before, is_whole: false, result }
}

fn record(healths: &Healths, number: u64, passed: bool) -> Recorded {
    healths.record(WORKER, &checked(number, passed, Health::default()), now())
}

const CHANGE: Recorded = Recorded::Counted { has_change: true };
const NO_CHANGE: Recorded = Recorded::Counted { has_change: false };

#[test]
fn a_state_is_told_once_and_a_stop_until_the_checks_end() {
    let healths = Healths::default();
    assert_eq!(record(&healths, 1, true), Recorded::Unknown);
    healths.open(attempt(1), live(Some(check(2)), None), now());
    assert_eq!(record(&healths, 1, true), CHANGE);
    let change = healths.pending_change(attempt(1), CheckKind::Health).unwrap();
    let told = ("task.healthy", "the health check passed: status 200".to_owned());
    assert_eq!((change.event, change.stop), (Some(told), None));
    healths.reported(attempt(1), CheckKind::Health, change.state);
    assert_eq!(healths.pending_change(attempt(1), CheckKind::Health), None);
    assert_eq!(record(&healths, 2, false), NO_CHANGE);
    assert_eq!(healths.lock().available(JOB, 0), 1);

    assert_eq!(record(&healths, 3, false), CHANGE);
    let change = healths.pending_change(attempt(1), CheckKind::Health).unwrap();
    let why = "2 health checks in a row failed; the last: status 500".to_owned();
    assert_eq!((change.event, change.stop), (Some(("task.unhealthy", why.clone())), Some(why)));
    healths.reported(attempt(1), CheckKind::Health, change.state);
    // The order to stop may have been lost on its way.
    assert_eq!(record(&healths, 4, false), CHANGE);
    let change = healths.pending_change(attempt(1), CheckKind::Health).unwrap();
    assert!(change.event.is_none() && change.stop.is_some());
    assert_eq!(healths.lock().available(JOB, 0), 0);
}

#[test]
fn results_that_are_repeated_or_come_from_elsewhere_say_nothing() {
    let healths = Healths::default();
    healths.open(attempt(1), live(Some(check(1)), None), now());
    record(&healths, 5, true);
    // What follows from it may have been lost.
    assert_eq!(record(&healths, 5, false), CHANGE);
    healths.reported(attempt(1), CheckKind::Health, HealthState::Healthy);
    assert_eq!(record(&healths, 5, true), NO_CHANGE);
    assert_eq!(healths.of(attempt(1)).unwrap().health.unwrap().state, HealthState::Healthy);
    assert_eq!(record(&healths, 4, false), Recorded::Stale);
    let other = healths.record(WorkerId(4), &checked(6, false, Health::default()), now());
    assert_eq!(other, Recorded::Stale);
    healths.close(&[attempt(1)], now());
    assert_eq!(record(&healths, 7, false), Recorded::Stale);
    assert_eq!(healths.results(attempt(1), now()).len(), 1, "what was is kept");
    assert_eq!(healths.lock().available(JOB, 0), 0);
}

#[test]
fn a_master_that_has_just_started_continues_from_the_state_that_a_worker_repeats() {
    let healths = Healths::default();
    healths.open(attempt(1), live(Some(check(3)), None), now());
    let before = Health { state: HealthState::Healthy, passed: 0, failed: 2 };
    assert_eq!(healths.record(WORKER, &checked(9, false, before), now()), CHANGE);
    assert!(healths.pending_change(attempt(1), CheckKind::Health).unwrap().stop.is_some());

    // It was unhealthy before, and the order to stop may have been lost with the master before this one.
    let healths = Healths::default();
    healths.open(attempt(1), live(Some(check(3)), None), now());
    let before = Health { state: HealthState::Unhealthy, passed: 0, failed: 3 };
    healths.record(WORKER, &checked(9, false, before), now());
    let change = healths.pending_change(attempt(1), CheckKind::Health).unwrap();
    assert!(change.event.is_none() && change.stop.is_some());
}

#[test]
fn results_that_did_not_arrive_are_in_the_state_that_the_next_one_carries() {
    let healths = Healths::default();
    healths.open(attempt(1), live(Some(check(3)), None), now());
    record(&healths, 1, true);
    healths.reported(attempt(1), CheckKind::Health, HealthState::Healthy);
    // The second and the third were lost with a session.
    let before = Health { state: HealthState::Healthy, passed: 0, failed: 2 };
    let fourth = Checked { is_whole: true, ..checked(4, false, before) };
    assert_eq!(healths.record(WORKER, &fourth, now()), CHANGE);
    assert_eq!(healths.of(attempt(1)).unwrap().health.unwrap().state, HealthState::Unhealthy);

    // An executor that has adopted the attempt knows less than this master.
    let healths = Healths::default();
    healths.open(attempt(1), live(Some(check(3)), None), now());
    record(&healths, 1, true);
    healths.reported(attempt(1), CheckKind::Health, HealthState::Healthy);
    assert_eq!(record(&healths, 2, false), NO_CHANGE);
    assert_eq!(healths.of(attempt(1)).unwrap().health.unwrap().state, HealthState::Healthy);
}

#[test]
fn an_attempt_that_is_being_stopped_is_not_available_to_a_master_that_has_just_started() {
    let healths = Healths::default();
    healths.open(attempt(1), LiveAttempt { is_stopping: true, ..live(Some(check(1)), None) }, now());
    record(&healths, 1, true);
    assert!(!healths.of(attempt(1)).unwrap().available);
}

#[test]
fn readiness_decides_whether_it_is_available_and_stops_nothing() {
    let healths = Healths::default();
    healths.open(attempt(1), live(None, Some(check(1))), now());
    let readiness = |number, passed| Checked {
        check: CheckKind::Readiness,
        ..checked(number, passed, Health::default())
    };
    healths.record(WORKER, &readiness(1, true), now());
    assert_eq!(healths.lock().available(JOB, 0), 1);
    healths.record(WORKER, &readiness(2, false), now());
    assert_eq!(healths.lock().available(JOB, 0), 0);
    let change = healths.pending_change(attempt(1), CheckKind::Readiness).unwrap();
    assert_eq!((change.event.unwrap().0, change.stop), ("task.not_ready", None));
    healths.record(WORKER, &readiness(3, true), now());
    assert_eq!(healths.lock().available(JOB, 0), 1);
    healths.stopping([attempt(1)]);
    assert_eq!(healths.lock().available(JOB, 0), 0, "one that is asked to stop is not");
}

#[test]
fn results_are_kept_for_an_hour_and_in_bounded_bytes() {
    let healths = Healths::default();
    healths.open(attempt(1), live(Some(check(1)), None), now());
    for number in 1..=20_000 {
        let checked = checked(number, true, Health::default());
        healths.record(WORKER, &checked, checked.result.at);
    }
    let last = now() + TimeDelta::seconds(20_000);
    let kept = healths.results(attempt(1), last);
    assert!(kept.len() <= 3_600 && kept.len() > 1_000, "{}", kept.len());
    assert!(kept.iter().all(|kept| kept.result.at > last - KEPT));
    assert!(healths.lock().bytes <= MAX_BYTES_PER_CHECK);
    healths.close(&[attempt(1)], last);
    healths.open(attempt(2), live(Some(check(1)), None), last + TimeDelta::hours(2));
    let inner = healths.lock();
    assert_eq!((inner.attempts.len(), inner.bytes, inner.checks), (1, 0, 1));
}

#[test]
fn the_number_of_available_tasks_is_that_of_those_that_are() {
    let mut rng = StdRng::seed_from_u64(26);
    let healths = Healths::default();
    let place = |task: i64| (JobId(task % 3), (task % 2) as usize);
    for number in 1..3_000 {
        let attempt = attempt(rng.random_range(0..150));
        let (job, position) = place(attempt.task.0);
        match rng.random_range(0..20) {
            0 => healths.close(&[attempt], now()),
            1 => healths.stopping([attempt]),
            2 => {
                let readiness = rng.random::<bool>().then(|| check(2));
                let live = live(Some(check(1)), readiness);
                healths.open(attempt, LiveAttempt { job, position, ..live }, now());
            }
            kind => {
                let check = if kind % 2 == 0 { CheckKind::Health } else { CheckKind::Readiness };
                let checked = checked(number, rng.random(), Health::default());
                healths.record(WORKER, &Checked { attempt, check, ..checked }, now());
            }
        }
        let inner = healths.lock();
        for of in (0..6).map(place) {
            let is_of = |entry: &&Entry| (entry.job, entry.position) == of && entry.is_available();
            assert_eq!(inner.available(of.0, of.1), inner.attempts.values().filter(is_of).count() as u64);
        }
    }
}
