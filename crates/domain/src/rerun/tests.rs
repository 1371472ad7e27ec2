#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::*;
use crate::conditions::StopScope;
use crate::conditions::tests::{Fate as End, Model, any_spec};
use crate::job::JobState;
use crate::spec::When;
use crate::spec::tests::tasks_with;

const FAILED: Part<'static> = Part { failed: true, from: None };

fn from(name: &str) -> Part<'_> {
    Part { failed: false, from: Some(name) }
}

/// A job that has ended: for each definition its fields, and how each of its tasks ended.
fn ended(tasks: &[(&str, Value, &[End])]) -> (JobSpec, Vec<Uncompleted>) {
    let fields: Vec<(&str, Value)> = tasks.iter().map(|(name, fields, _)| (*name, fields.clone())).collect();
    let spec = JobSpec::read(&tasks_with(&fields)).unwrap();
    let mut uncompleted = Vec::new();
    for (position, (definition, (_, _, ends))) in spec.tasks.iter().zip(tasks).enumerate() {
        assert_eq!(definition.indices.len() as usize, ends.len());
        uncompleted.extend(uncompleted_of(position, definition.indices.iter().zip(ends.iter().copied())));
    }
    (spec, uncompleted)
}

fn uncompleted_of(position: usize, ends: impl Iterator<Item = (u32, End)>) -> Vec<Uncompleted> {
    let ends = ends.filter(|(_, end)| *end != End::Completed);
    ends.map(|(index, end)| Uncompleted { position, index, is_skipped: end == End::Skipped }).collect()
}

/// The addresses of the tasks that run.
fn running(spec: &JobSpec, selection: &Selection) -> Vec<String> {
    let of = |(definition, share): (&TaskSpec, &Share)| {
        let indices = share.runs.iter().cloned().flatten();
        indices.map(|index| definition.address(index)).collect::<Vec<_>>()
    };
    spec.tasks.iter().zip(selection.definitions()).flat_map(of).collect()
}

/// What runs again of a job whose specification is not changed.
fn runs_again(tasks: &[(&str, Value, &[End])], part: Part<'_>) -> Result<Vec<String>, Refused> {
    let (spec, uncompleted) = ended(tasks);
    select(&spec, &uncompleted, &spec, part).map(|selection| running(&spec, &selection))
}

#[test]
fn of_an_array_only_what_failed_runs_again() {
    let mut ends = [End::Completed; 1_000];
    let failed: Vec<usize> = (0..11).map(|n| 7 + 90 * n).collect();
    failed.iter().for_each(|index| ends[*index] = End::Failed);
    let (spec, uncompleted) = ended(&[("train", json!({"array": "0-999"}), &ends)]);
    let selection = select(&spec, &uncompleted, &spec, FAILED).unwrap();
    assert_eq!((selection.runs(), selection.taken_over()), (11, 989));
    let expected: Vec<String> = failed.iter().map(|index| format!("train.{index}")).collect();
    assert_eq!(running(&spec, &selection), expected);
    let [train] = selection.definitions() else { panic!("{selection:?}") };
    assert_eq!(train.taken_over[..2], [0..=6, 8..=96]);
    assert_eq!((train.completed, train.skipped, train.earlier), (989, 0, Some(0)));
}

#[test]
fn what_did_not_run_because_of_a_failure_runs_and_what_is_apart_from_it_does_not() {
    let tasks: &[(&str, Value, &[End])] = &[
        ("lint", json!({}), &[End::Completed]),
        ("build", json!({}), &[End::Failed]),
        ("test", json!({"depends_on": ["build"]}), &[End::Cancelled]),
        ("repair", json!({"depends_on": [{"task": "build", "on": "failed"}]}), &[End::Completed]),
        ("publish", json!({"depends_on": ["lint"]}), &[End::Completed]),
        ("complain", json!({"depends_on": [{"task": "lint", "on": "failed"}]}), &[End::Skipped]),
        ("clean", json!({"when": "always", "depends_on": ["test"]}), &[End::Completed]),
    ];
    assert_eq!(runs_again(tasks, FAILED).unwrap(), ["build", "test", "repair", "clean"]);
}

#[test]
fn tasks_that_match_by_index_run_again_by_index() {
    use End::{Cancelled as C, Completed as O, Failed as F, Skipped as S};
    let same =
        |on: &str| json!({"array": "5-8", "depends_on": [{"task": "build", "index": "same", "on": on}]});
    let tasks: &[(&str, Value, &[End])] = &[
        ("build", json!({"array": "5-8"}), &[O, F, O, O]),
        ("test", same("completed"), &[O, C, F, O]),
        ("repair", same("failed"), &[S, O, S, S]),
        ("report", json!({"depends_on": [{"task": "test", "on": "ended"}]}), &[O]),
    ];
    assert_eq!(runs_again(tasks, FAILED).unwrap(), ["build.6", "test.6", "test.7", "repair.6", "report"]);
}

#[test]
fn from_a_definition_on_it_and_all_that_depends_on_it_run_again() {
    let all = &[End::Completed];
    let after = |name: &str| json!({"depends_on": [name]});
    let tasks: &[(&str, Value, &[End])] = &[
        ("prepare", json!({}), all),
        ("train", after("prepare"), all),
        ("evaluate", after("train"), all),
        ("publish", after("evaluate"), all),
        ("document", after("prepare"), all),
        ("clean", json!({"when": "always"}), all),
    ];
    assert_eq!(runs_again(tasks, from("train")).unwrap(), ["train", "evaluate", "publish", "clean"]);
    assert_eq!(runs_again(tasks, from("clean")).unwrap(), ["clean"]);
    assert_eq!(runs_again(tasks, from("trian")), Err(Refused::NoDefinition("trian".to_owned())));
    assert_eq!(runs_again(tasks, FAILED), Err(Refused::NothingFailed));
}

#[test]
fn a_failure_is_never_taken_over() {
    let tasks: &[(&str, Value, &[End])] = &[
        ("lint", json!({"count": 2}), &[End::Completed, End::Failed]),
        ("train", json!({}), &[End::Completed]),
    ];
    assert_eq!(runs_again(tasks, from("train")), Err(Refused::LeftOut("lint.1".to_owned())));
    let both = Part { failed: true, from: Some("train") };
    assert_eq!(runs_again(tasks, both).unwrap(), ["lint.1", "train"]);
}

#[test]
fn in_a_changed_specification_definitions_are_found_by_name_and_tasks_by_index() {
    use End::{Completed as O, Failed as F, Skipped as S};
    let (earlier, uncompleted) = ended(&[
        ("gone", json!({}), &[F]),
        ("build", json!({"array": "0-3"}), &[O, F, O, O]),
        ("complain", json!({"depends_on": [{"task": "check", "on": "failed"}]}), &[S]),
        ("check", json!({}), &[O]),
    ]);
    let changed = |tasks: &[(&str, Value)]| JobSpec::read(&tasks_with(tasks)).unwrap();
    let chosen = |spec: &JobSpec| {
        select(&earlier, &uncompleted, spec, FAILED).map(|selection| running(spec, &selection))
    };
    let check = ("check", json!({"env": {"NEW": "1"}}));
    // Another place in the list, more indices, fewer, another command.
    let moved = changed(&[check.clone(), ("build", json!({"array": "1-5", "env": {"FIXED": "1"}}))]);
    assert_eq!(chosen(&moved).unwrap(), ["build.1", "build.4", "build.5"]);
    // What waits for something else now is judged anew, and something new runs.
    let waits_for_more = changed(&[
        check.clone(),
        ("complain", json!({"depends_on": [{"task": "check", "on": "ended"}]})),
        ("tell", json!({})),
    ]);
    assert_eq!(chosen(&waits_for_more).unwrap(), ["complain", "tell"]);
    assert_eq!(chosen(&changed(&[check])), Err(Refused::NothingFailed));
}

#[test]
fn a_task_with_another_item_is_another_task() {
    let job = |items: Value| JobSpec::read(&tasks_with(&[("convert", json!({"each": items}))])).unwrap();
    let earlier = job(json!(["a", "b", "c"]));
    let uncompleted = uncompleted_of(0, [(1, End::Failed)].into_iter());
    let chosen = |spec: &JobSpec| select(&earlier, &uncompleted, spec, FAILED).map(|all| running(spec, &all));
    assert_eq!(chosen(&earlier).unwrap(), ["convert.1"]);
    assert_eq!(chosen(&job(json!(["a", "b", "c", "d"]))).unwrap(), ["convert.1", "convert.3"]);
    assert_eq!(chosen(&job(json!(["a", "x", "c"]))).unwrap(), ["convert.1"]);
    assert_eq!(chosen(&job(json!(["b", "b", "c"]))).unwrap(), ["convert.0", "convert.1"]);
}

/// Every task that must run again, by position and offset of the index, found task by task.
fn expected(model: &Model, part: Part<'_>) -> BTreeSet<(usize, usize)> {
    let all: Vec<(usize, usize)> = (0..model.tasks.len())
        .flat_map(|at| (0..model.tasks[at].len()).map(move |index| (at, index)))
        .collect();
    let is_asked_for = |&(at, index): &(usize, usize)| {
        let has_failed = matches!(model.tasks[at][index], End::Failed | End::Cancelled);
        (part.failed && has_failed) || part.from == Some(model.spec.tasks[at].name.as_str())
    };
    let waits_for = |(at, index): (usize, usize), (other, of_other): (usize, usize)| {
        let (task, waited_for) = (&model.spec.tasks[at], &model.spec.tasks[other]);
        if task.depends_on.is_empty() {
            return task.when != When::Success && waited_for.when == When::Success;
        }
        task.depends_on.iter().any(|dependency| {
            dependency.task == waited_for.name && (dependency.index == IndexMatch::All || index == of_other)
        })
    };
    let mut found: BTreeSet<(usize, usize)> = all.iter().copied().filter(is_asked_for).collect();
    loop {
        let follows = |task: &&(usize, usize)| found.iter().any(|other| waits_for(**task, *other));
        let more: Vec<_> = all.iter().filter(|task| !found.contains(task)).filter(follows).copied().collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// Runs a job to its end. With `fails`, some of its tasks fail, and it may be stopped.
fn run(model: &mut Model, rng: &mut StdRng, fails: bool) {
    model.settle();
    loop {
        if fails && model.stop == StopScope::None && rng.random_ratio(1, 60) {
            model.stop(StopScope::AllButCleanup);
        }
        let Some((at, index)) = model.runnable().choose(rng).copied() else { return };
        let completes = !fails || rng.random_ratio(3, 4);
        model.tasks[at][index] = if completes { End::Completed } else { End::Failed };
        model.settle();
    }
}

#[test]
fn random_jobs_run_again_where_they_must_and_what_they_take_over_is_what_would_come_out_again() {
    let mut rng = StdRng::seed_from_u64(40);
    let (mut reruns, mut taken_over, mut left_out, mut nothing) = (0, 0, 0, 0);
    for _ in 0..10_000 {
        let spec = any_spec(&mut rng);
        if JobSpec::read(&spec).is_err() {
            continue;
        }
        let mut first = Model::of(spec.clone());
        run(&mut first, &mut rng, true);
        let uncompleted: Vec<Uncompleted> = (0..first.tasks.len())
            .flat_map(|at| uncompleted_of(at, (0..).zip(first.tasks[at].iter().copied())))
            .collect();
        let start = first.spec.tasks.choose(&mut rng).unwrap().name.clone();
        let part =
            *[FAILED, from(&start), Part { failed: true, from: Some(&start) }].choose(&mut rng).unwrap();
        let expected = expected(&first, part);
        let is_open = |&(at, index): &(usize, usize)| {
            matches!(first.tasks[at][index], End::Failed | End::Cancelled) && !expected.contains(&(at, index))
        };
        let mut all = (0..first.tasks.len()).flat_map(|at| (0..first.tasks[at].len()).map(move |i| (at, i)));
        let selection = match select(&first.spec, &uncompleted, &first.spec, part) {
            Ok(selection) => selection,
            Err(Refused::LeftOut(_)) => {
                assert!(all.any(|task| is_open(&task)), "{first:?} {part:?}");
                left_out += 1;
                continue;
            }
            Err(Refused::NothingFailed) => {
                assert!(expected.is_empty() && part.from.is_none(), "{first:?} {part:?}");
                nothing += 1;
                continue;
            }
            Err(refused) => panic!("{refused:?} {first:?} {part:?}"),
        };
        assert!(!all.any(|task| is_open(&task)), "a failure is taken over: {first:?} {part:?}");
        let of = |(at, share): (usize, &Share)| {
            share.runs.iter().cloned().flatten().map(move |index| (at, index as usize)).collect::<Vec<_>>()
        };
        let found: BTreeSet<_> = selection.definitions().iter().enumerate().flat_map(of).collect();
        assert_eq!(found, expected, "{first:?} {part:?}");

        // The new job begins with what is taken over, and all that runs completes.
        let mut again = Model::of(spec);
        for (at, fates) in first.tasks.iter().enumerate() {
            for (index, fate) in fates.iter().enumerate().filter(|(index, _)| !found.contains(&(at, *index)))
            {
                again.tasks[at][index] = *fate;
                taken_over += 1;
            }
        }
        run(&mut again, &mut rng, false);
        let waits = |fates: &Vec<End>| fates.iter().any(|fate| matches!(fate, End::Blocked | End::Pending));
        assert!(!again.tasks.iter().any(waits), "it never ends: {again:?}");
        assert_eq!(again.state(), JobState::Completed, "{again:?}");
        for (at, fates) in first.tasks.iter().enumerate() {
            for (index, fate) in fates.iter().enumerate().filter(|(index, _)| !found.contains(&(at, *index)))
            {
                let would_come_out_again = match fate {
                    End::Completed => again.may_run(at, index),
                    _ => again.can_never_run(at, index),
                };
                assert!(would_come_out_again, "{at}.{index} of {first:?} {again:?}");
            }
        }
        reruns += 1;
    }
    assert!(reruns > 2_000 && taken_over > 1_000, "{reruns} {taken_over}");
    assert!(left_out > 100 && nothing > 100, "{left_out} {nothing}");
}
