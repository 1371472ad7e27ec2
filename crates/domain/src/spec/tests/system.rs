//! `type: system`: one task on every worker that matches.

use super::*;

fn system(fields: Value) -> Value {
    let mut spec = json!({"type": "system", "command": ["x"]});
    spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    spec
}

#[test]
fn a_system_job_is_kept_running_with_a_task_on_each_worker_and_its_normal_form_says_the_same() {
    let spec = read(system(json!({})));
    assert!(spec.kind.is_kept_running() && spec.kind.follows_workers());
    let task = &spec.tasks[0];
    assert_eq!((task.indices, &task.each), (Indices::Workers, &Some(Each::Workers)));
    assert!(task.is_for_each_worker() && !task.indices.is_single() && task.indices.is_empty());
    assert_eq!((task.address(0), task.item(0), spec.task_count()), ("main.0".to_owned(), None, 0));
    assert_eq!(task.restart.policy, RestartPolicy::Always);
    let normal = serde_json::to_value(&spec).unwrap();
    assert_eq!(normal["tasks"][0]["each"], "worker");
    assert!(normal["tasks"][0].get("count").is_none() && normal["tasks"][0].get("array").is_none());
    assert_eq!(read(normal.clone()), spec);
    assert_eq!(JobSpec::read_stored(STORED_VERSION, &normal), Ok(spec));
    let several = read(json!({"type": "system", "update": {"parallel": 2}, "tasks": [
        {"name": "logs", "command": ["x"]},
        {"name": "gpus", "command": ["x"], "constraints": ["labels.gpu"], "health": {"command": ["x"]}},
    ]}));
    assert!(several.tasks.iter().all(|task| task.indices.follow_workers()));
    for kind in ["batch", "service"] {
        let other = read(json!({"type": kind, "command": ["x"]}));
        assert!(!other.kind.follows_workers() && !other.tasks[0].is_for_each_worker());
    }
}

#[test]
fn what_says_how_many_tasks_there_are_or_where_they_run_does_not_go_with_a_system_job() {
    let on_every = "it has one task on every worker that matches";
    let cases = [
        (json!({"count": 2}), format!("/count: `count` is not for `type: system`: {on_every}")),
        (json!({"array": "0-3"}), format!("/array: `array` is not for `type: system`: {on_every}")),
        (
            json!({"each": ["a", "b"]}),
            "/each: a job of `type: system` has one task on every worker that matches: leave `each` out"
                .to_owned(),
        ),
        (
            json!({"spread": "labels.rack"}),
            "/spread: `spread` has no effect with `type: system`: each worker runs one task".to_owned(),
        ),
        (
            json!({"distinct_workers": true}),
            "/distinct_workers: `distinct_workers` has no effect with `type: system`: each worker runs one task".to_owned(),
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(mistakes(system(fields)), [expected]);
    }
    let waits = |fields: Value| {
        let mut second = json!({"name": "b", "command": ["x"]});
        second.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        mistakes(json!({"type": "system", "tasks": [{"name": "a", "command": ["x"]}, second]}))
    };
    let no_waits = "is not for `type: system`: its tasks do not wait for each other";
    assert_eq!(
        waits(json!({"depends_on": ["a"]})),
        [format!("/tasks/1/depends_on: `depends_on` {no_waits}")]
    );
    assert_eq!(waits(json!({"when": "always"})), [format!("/tasks/1/when: `when` {no_waits}")]);
}
