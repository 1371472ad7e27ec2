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
    assert_eq!(spec.tasks[0].depends_on, ["b", "c"]);
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
