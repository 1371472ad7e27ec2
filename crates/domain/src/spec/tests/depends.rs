//! Tasks that wait for others.

use super::*;

/// Tasks that wait for others, from `(name, waits for)`.
fn waiting(tasks: &[(&str, &[&str])]) -> Value {
    let tasks: Vec<_> = tasks
        .iter()
        .map(|(name, others)| json!({"name": name, "command": ["true"], "depends_on": others}))
        .collect();
    json!({"tasks": tasks})
}

#[test]
fn tasks_may_wait_for_tasks_before_and_after_them() {
    let spec = read(waiting(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])]));
    let names: Vec<_> = spec.tasks[0].depends_on.iter().map(|other| other.task.as_str()).collect();
    assert_eq!(names, ["b", "c"]);
}

#[test]
fn a_task_can_only_wait_for_another_task_that_exists() {
    assert_eq!(
        mistakes(waiting(&[
            ("prepare", &[]),
            ("train", &["prepair", "train", "prepare", "prepare", "nothing"])
        ])),
        [
            "/tasks/1/depends_on/0: there is no task `prepair` (did you mean `prepare`?)",
            "/tasks/1/depends_on/1: a task cannot wait for itself",
            "/tasks/1/depends_on/3: `prepare` is named twice",
            "/tasks/1/depends_on/4: there is no task `nothing`",
        ]
    );
    assert_eq!(mistake(with(json!({"depends_on": ["other"]}))), "/depends_on/0: there is no task `other`");
}

#[test]
fn names_of_tasks_are_unique() {
    assert_eq!(
        mistake(waiting(&[("a", &[]), ("a", &[])])),
        "/tasks/1/name: `a` is the name of another task too"
    );
}

#[test]
fn every_circle_of_waiting_tasks_is_named() {
    assert_eq!(
        mistakes(waiting(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"]), ("d", &["e", "a"]), ("e", &["d"])])),
        [
            "/tasks/2/depends_on: these tasks wait for each other in a circle: `b` → `c` → `b`",
            "/tasks/4/depends_on: these tasks wait for each other in a circle: `d` → `e` → `d`",
        ]
    );
}

#[test]
fn a_dependency_says_which_outcome_it_waits_for() {
    let on = json!([{"task": "a", "on": "failed"}, {"task": "b"}, "123"]);
    let spec = read(tasks_with(&[
        ("a", json!({})),
        ("b", json!({})),
        ("123", json!({})),
        ("c", json!({"depends_on": on})),
    ]));
    let outcomes: Vec<_> =
        spec.tasks[3].depends_on.iter().map(|other| (other.task.as_str(), other.on)).collect();
    assert_eq!(outcomes, [("a", On::Failed), ("b", On::Completed), ("123", On::Completed)]);
    let normal = serde_json::to_value(&spec).unwrap();
    assert_eq!(normal["tasks"][3]["depends_on"], json!([{"task": "a", "on": "failed"}, "b", "123"]));
    let wrong =
        json!([{"on": "ended"}, {"task": "nothing", "on": "started", "x": 1}, [], {"task": "a"}, "a"]);
    assert_eq!(
        mistakes(tasks_with(&[("a", json!({})), ("b", json!({"depends_on": wrong}))])),
        [
            "/tasks/1/depends_on/0: a dependency needs a `task`: the name of another task",
            "/tasks/1/depends_on/1/on: expected `completed`, `failed` or `ended`, found `started`",
            "/tasks/1/depends_on/1/x: unknown field `x`",
            "/tasks/1/depends_on/1/task: there is no task `nothing`",
            "/tasks/1/depends_on/2: expected the name of a task, or an object such as {task: prepare, on: ended}, \
             found a list",
            "/tasks/1/depends_on/4: `a` is named twice",
        ]
    );
}

#[test]
fn a_condition_needs_other_tasks_and_says_the_outcome_once() {
    assert_eq!(
        mistake(with(json!({"when": "always"}))),
        "/when: `when: always` needs other tasks to wait for, and no task of the job is without `when`"
    );
    let both = tasks_with(&[("a", json!({"when": "always"})), ("b", json!({"when": "failure"}))]);
    assert_eq!(mistakes(both).len(), 2);
    let twice = json!({"when": "always", "depends_on": [{"task": "a", "on": "ended"}]});
    assert_eq!(
        mistake(tasks_with(&[("a", json!({})), ("b", twice)])),
        "/tasks/1/depends_on/0/on: `on` has no effect with `when: always`: name the task only, or leave `when` out"
    );
}

#[test]
fn what_runs_after_the_others_runs_once_also_in_a_service() {
    for when in ["always", "failure"] {
        let spec = |restart: Value| {
            let after = json!({"when": when, "restart": restart});
            let mut spec = tasks_with(&[("serve", json!({})), ("after", after)]);
            spec["type"] = json!("service");
            spec
        };
        let policy = |restart| read(spec(restart)).tasks[1].restart.policy;
        assert_eq!(policy(json!({"delay": "2s"})), RestartPolicy::Never);
        assert_eq!(policy(json!({"on_exit": [75]})), RestartPolicy::OnFailure);
        assert_eq!(policy(json!("on-failure")), RestartPolicy::OnFailure);
        assert_eq!(read(spec(json!({}))).tasks[0].restart.policy, RestartPolicy::Always);
        let runs_once = "a task with `when: always` or `when: failure` runs once: write `on-failure` or `never`, or leave the \
                         policy out";
        assert_eq!(mistake(spec(json!("always"))), format!("/tasks/1/restart: {runs_once}"));
        let spelled_out = spec(json!({"policy": "always", "limit": 3}));
        assert_eq!(mistake(spelled_out), format!("/tasks/1/restart/policy: {runs_once}"));
    }
}

#[test]
fn what_waits_for_all_others_is_no_part_of_a_circle() {
    let spec = tasks_with(&[
        ("a", json!({})),
        ("clean", json!({"when": "always"})),
        ("b", json!({"depends_on": ["clean"]})),
    ]);
    assert_eq!(
        mistake(spec),
        "/tasks/2/depends_on: these tasks wait for each other in a circle: `clean` → `b` → `clean`"
    );
}

#[test]
fn tasks_that_match_by_index_have_the_same_indices() {
    let arrays = |first: Value, second: Value| {
        let (mut first, mut second) = (json!({"array": first}), json!({"array": second}));
        for (task, name) in [(&mut first, "a"), (&mut second, "b")] {
            task["name"] = json!(name);
            task["command"] = json!(["true"]);
        }
        second["depends_on"] = json!([{"task": "a", "index": "same", "on": "ended"}]);
        json!({ "tasks": [first, second] })
    };
    let spec = read(arrays(json!("2-5"), json!("2-5")));
    assert_eq!(spec.tasks[1].depends_on[0].index, IndexMatch::Same);
    let normal = serde_json::to_value(&spec).unwrap();
    assert_eq!(normal["tasks"][1]["depends_on"], json!([{"task": "a", "on": "ended", "index": "same"}]));
    assert_eq!(
        mistake(arrays(json!("2-5"), json!("2-6"))),
        "/tasks/1/depends_on: `index: same` needs equal indices: `b` has 2-6, `a` has 2-5"
    );
}
