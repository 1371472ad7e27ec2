#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rand::Rng as _;

use super::*;
use crate::quantity::Span;
use crate::seeds::each;
use crate::spec::Probe;

fn check(failures: u32, successes: u32, start_period_secs: u64) -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp { port: "http".to_owned() },
        interval: Span::from_secs(10),
        timeout: Span::from_secs(2),
        start_period: Span::from_secs(start_period_secs),
        failures,
        successes,
    }
}

/// The states after results, a second apart, of which `+` passed.
fn states(check: &HealthCheck, results: &str) -> String {
    let mut health = Health::default();
    let letter = |health: Health| match health.state {
        HealthState::Starting => 's',
        HealthState::Healthy => 'h',
        HealthState::Unhealthy => 'u',
    };
    results
        .chars()
        .enumerate()
        .map(|(second, result)| {
            health = health
                .after(check.into(), Outcome { passed: result == '+', after_millis: second as u64 * 1000 });
            letter(health)
        })
        .collect()
}

#[test]
fn it_takes_as_many_results_in_a_row_as_the_task_says() {
    assert_eq!(states(&check(3, 1, 0), "+--+---+"), "hhhhhhuh");
    assert_eq!(states(&check(2, 2, 0), "+-++-+--++"), "ssshhhhuuh");
    assert_eq!(states(&check(1, 1, 0), "-+-"), "uhu");
}

#[test]
fn failures_count_after_the_start_period_or_once_it_was_healthy() {
    assert_eq!(states(&check(2, 1, 4), "------"), "sssssu");
    assert_eq!(states(&check(2, 1, 9), "-+--"), "shhu");
    // What failed in the start period is no beginning of a row after it.
    assert_eq!(states(&check(3, 1, 2), "-----"), "ssssu");
}

#[test]
fn a_task_is_available_once_it_is_ready_and_not_found_unhealthy() {
    use HealthState::{Healthy, Starting, Unhealthy};
    assert!(is_available(None, None));
    assert!(is_available(Some(Healthy), None) && !is_available(Some(Starting), None));
    assert!(is_available(Some(Starting), Some(Healthy)) && is_available(None, Some(Healthy)));
    assert!(!is_available(Some(Healthy), Some(Unhealthy)) && !is_available(Some(Healthy), Some(Starting)));
    assert!(!is_available(Some(Unhealthy), Some(Healthy)));
}

#[test]
fn what_checks_say_is_told_with_the_answer_that_matters() {
    use HealthState::{Healthy, Starting, Unhealthy};
    let answered = |state, passed, detail| Some(CheckStatus { state, last: Some((passed, detail)) });
    let good = answered(Healthy, true, "status 200");
    assert_eq!(in_words(good, None, true), "healthy");
    assert_eq!(in_words(good, good, true), "ready");
    assert_eq!(in_words(good, answered(Unhealthy, false, "status 503"), false), "not ready: status 503");
    let both = in_words(answered(Unhealthy, false, "a"), answered(Unhealthy, false, "b"), false);
    assert_eq!(both, "unhealthy: a");
    assert_eq!(in_words(good, answered(Starting, false, "refused"), false), "starting: refused");
    assert_eq!(in_words(Some(CheckStatus { state: Starting, last: None }), None, false), "starting");
}

/// The state by looking at all results again and again.
fn model(check: &HealthCheck, results: &[Outcome]) -> HealthState {
    let mut state = HealthState::Starting;
    // The results that count, in a row, of whatever outcome.
    let mut row: Vec<bool> = Vec::new();
    for result in results {
        let counts = result.passed
            || state != HealthState::Starting
            || result.after_millis >= check.start_period.as_millis();
        if !counts {
            row.clear();
            continue;
        }
        if row.last().is_some_and(|last| *last != result.passed) {
            row.clear();
        }
        row.push(result.passed);
        let wanted = if result.passed { check.successes } else { check.failures };
        if row.len() >= wanted as usize {
            state = if result.passed { HealthState::Healthy } else { HealthState::Unhealthy };
        }
    }
    state
}

#[test]
fn it_agrees_with_a_model_that_remembers_everything() {
    each(0..500, |mut rng| {
        let check = check(rng.random_range(1..5), rng.random_range(1..4), rng.random_range(0..30));
        let share = rng.random_range(0.1..0.9);
        let (mut health, mut results, mut millis) = (Health::default(), Vec::new(), 0);
        for _ in 0..60 {
            millis += rng.random_range(0..3_000);
            let outcome = Outcome { passed: rng.random_bool(share), after_millis: millis };
            health = health.after((&check).into(), outcome);
            results.push(outcome);
            assert_eq!(health.state, model(&check, &results), "{check:?}, {results:?}");
            assert!(health.passed == 0 || health.failed == 0);
        }
    });
}

#[test]
fn the_latest_results_are_enough_to_go_on_from_a_state_that_missed_some() {
    use crate::spec::MAX_IN_A_ROW;
    each(0..200, |mut rng| {
        let check = check(rng.random_range(1..=MAX_IN_A_ROW), rng.random_range(1..=MAX_IN_A_ROW), 0);
        let mut all = Health { state: HealthState::Healthy, ..Health::default() };
        let mut behind = all;
        let results: Vec<Outcome> = (0..60)
            .map(|second| Outcome {
                passed: rng.random_bool(0.8) ^ (second / 20 == 1),
                after_millis: second * 1000,
            })
            .collect();
        let known = results.len() - MAX_IN_A_ROW as usize;
        for (at, outcome) in results.iter().enumerate() {
            all = all.after((&check).into(), *outcome);
            if at >= known {
                behind = behind.after((&check).into(), *outcome);
            }
        }
        let decides = all.passed >= check.successes || all.failed >= check.failures;
        assert!(!decides || behind.state == all.state, "{check:?}, {results:?}");
    });
}
