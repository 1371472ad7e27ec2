//! `each`: a task for each item.

use super::*;

fn with(fields: Value) -> Value {
    tasks_with(&[("convert", fields)])
}

fn items(fields: Value) -> Vec<(u32, String)> {
    let spec = read(with(fields));
    let again = serde_json::to_value(&spec).unwrap();
    assert_eq!(read(again), spec, "the normal form says the same");
    let task = &spec.tasks[0];
    assert!(!task.indices.is_single());
    task.indices.iter().map(|index| (index, task.item(index).unwrap().to_string())).collect()
}

fn numbered(first: u32, items: &[&str]) -> Vec<(u32, String)> {
    (first..).zip(items.iter().map(|item| (*item).to_owned())).collect()
}

#[test]
fn there_is_a_task_for_each_item() {
    assert_eq!(items(json!({"each": ["a", 1, "a", "", true]})), numbered(0, &["a", "1", "a", "", "true"]));
    assert_eq!(items(json!({"each": ["only"]})), numbered(0, &["only"]));
    assert_eq!(items(json!({"each": ["a", "b"], "array": "5-6"})), numbered(5, &["a", "b"]));
    let written = Language::Yaml.read("command: [x]\neach: [1.10, 0x1F, 010]\narray: \"%2\"\n").unwrap();
    let task = JobSpec::of(&written).unwrap().tasks.remove(0);
    assert_eq!(task.indices, Indices::Array { first: 0, last: 2, at_once: Some(2) });
    assert_eq!(task.item(0).unwrap().to_string(), "1.10", "as it was written");
    assert_eq!((task.item(2).unwrap().to_string(), task.item(3)), ("010".to_owned(), None));
}

#[test]
fn a_matrix_does_not_depend_on_the_order_of_its_lists() {
    let expected =
        ["os=linux, python=3.11", "os=linux, python=3.12", "os=mac, python=3.11", "os=mac, python=3.12"];
    for text in [
        "command: [x]\neach: {os: [linux, mac], python: [3.11, 3.12]}\n",
        "command: [x]\neach: {python: [3.11, 3.12], os: [linux, mac]}\n",
    ] {
        let task = JobSpec::of(&Language::Yaml.read(text).unwrap()).unwrap().tasks.remove(0);
        let shown: Vec<String> =
            task.indices.iter().filter_map(|index| task.item(index)).map(|item| item.to_string()).collect();
        assert_eq!(shown, expected, "{text}");
    }
}

#[test]
fn a_hundred_thousand_items_are_allowed_and_more_are_not() {
    let items: Vec<u32> = (0..100_000).collect();
    let text = json!({"command": ["x"], "each": items}).to_string();
    assert!(text.len() < MAX_SPEC_BYTES);
    let spec = JobSpec::of(&Language::Json.read(&text).unwrap()).unwrap();
    assert_eq!(
        (spec.task_count(), spec.tasks[0].item(99_999).unwrap().to_string()),
        (100_000, "99999".to_owned())
    );
    let mut more = items;
    more.push(0);
    assert_eq!(
        mistakes(with(json!({"each": more}))),
        ["/tasks/0/each: 100001 tasks are more than the 100000 that one job may have"]
    );
    let list: Vec<u32> = (0..400).collect();
    assert_eq!(
        mistakes(with(json!({"each": {"a": list, "b": list}}))),
        ["/tasks/0/each: 160000 tasks are more than the 100000 that one job may have"]
    );
}

#[test]
fn what_makes_no_sense_is_told_with_its_place() {
    let long = "x".repeat(MAX_ITEM_BYTES + 1);
    let nine: serde_json::Map<String, Value> = (0..9).map(|n| (format!("l{n}"), json!(["a"]))).collect();
    let cases = [
        (json!({"each": []}), "/each: `each` has no items: it needs at least one"),
        (
            json!({"each": {}}),
            "/each: the matrix is empty: it needs at least one list, such as {os: [linux, mac]}",
        ),
        (json!({"each": {"os": []}}), "/each/os: the list `os` has no items: it needs at least one"),
        (
            json!({"each": ["a", null]}),
            "/each/1: expected a text or a number, found null: write \"\" for an empty text",
        ),
        (json!({"each": ["a", ["b"]]}), "/each/1: expected a text or a number, found a list"),
        (json!({"each": ["a\u{0}"]}), "/each/0: an item cannot have a zero byte in it"),
        (json!({"each": [long]}), "/each/0: the item has 16385 bytes, more than the 16384 that are allowed"),
        (json!({"each": nine}), "/each: the matrix has 9 lists, more than the 8 that are allowed"),
        (
            json!({"each": {"a-b": ["1"], "A_B": ["1"]}}),
            "/each/a-b: `A_B` and `a-b` would both be GAFFER_ITEM_A_B in the environment",
        ),
        (json!({"each": ["a"], "count": 1}), "/each: a task has a `count` or `each`, not both"),
        (
            json!({"each": ["a"], "array": "0-1"}),
            "/array: the array has 2 indices and `each` has 1 items: leave `array` out, or write `%N` for a limit",
        ),
        (
            json!({"array": "%2"}),
            "/array: `%N` alone needs `each`: write the indices before it, such as `0-99%10`",
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(mistakes(with(fields)), [format!("/tasks/0{expected}")]);
    }
    let wrong = mistakes(with(json!({"each": "a"})));
    assert!(
        wrong[0].starts_with("/tasks/0/each: expected a list of items such as [a.png, b.png], a matrix"),
        "{wrong:?}"
    );
    let wrong = mistakes(with(json!({"each": {"a b": ["x"]}})));
    assert!(wrong[0].contains("cannot be the name of a list in a matrix"), "{wrong:?}");
}

#[test]
fn tasks_that_match_by_index_have_equal_items() {
    let job = |items: Value| {
        tasks_with(&[
            ("build", json!({"each": ["a", "b"]})),
            ("test", json!({"each": items, "depends_on": [{"task": "build", "index": "same"}]})),
        ])
    };
    read(job(json!(["a", "b"])));
    let expected =
        "/tasks/1/depends_on: `index: same` needs equal items: `test` and `build` have different ones";
    assert_eq!(mistakes(job(json!(["a", "c"]))), [expected]);
    assert_eq!(mistakes(job(json!(["a"]))), [expected]);
    let mut with_array = job(json!(null));
    with_array["tasks"][1]["array"] = json!("0-1");
    read(with_array);
}

#[test]
fn a_task_for_each_worker_says_neither_which_nor_how_many() {
    let spec = read(with(json!({"each": "worker"})));
    let task = &spec.tasks[0];
    assert!(task.is_for_each_worker() && !task.indices.is_single());
    assert_eq!((&task.each, task.item(0)), (&Some(Each::Workers), None));
    let limited = read(with(json!({"each": "worker", "array": "%3"})));
    assert_eq!(limited.tasks[0].indices, Indices::Array { first: 0, last: 0, at_once: Some(3) });
    // As the specification of an accepted job says it.
    let again = read(with(json!({"each": "worker", "array": "0-11%3"})));
    assert_eq!(again.tasks[0].indices, Indices::Array { first: 0, last: 11, at_once: Some(3) });
    let stored = serde_json::to_value(&again).unwrap();
    assert_eq!(
        (&stored["tasks"][0]["each"], &stored["tasks"][0]["array"]),
        (&json!("worker"), &json!("0-11%3"))
    );
    assert_eq!(read(stored), again);
}

#[test]
fn what_does_not_go_with_each_worker_is_told() {
    let cases = [
        (json!({"each": "worker", "count": 2}), "/each: a task has a `count` or `each`, not both"),
        (
            json!({"each": "worker", "spread": "labels.rack"}),
            "/spread: `spread` has no effect with `each: worker`: each worker runs one task",
        ),
        (
            json!({"each": "worker", "distinct_workers": true}),
            "/distinct_workers: `distinct_workers` has no effect with `each: worker`: each worker runs one task",
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(mistakes(with(fields)), [format!("/tasks/0{expected}")]);
    }
    let wrong = mistakes(with(json!({"each": "workers"})));
    assert!(wrong[0].ends_with("or `worker`, found `workers` (did you mean `worker`?)"), "{wrong:?}");
    let service = json!({"type": "service", "command": ["x"], "each": "worker"});
    let expected =
        "/each: `each: worker` is for batch jobs: for a service on every worker, write `type: system`";
    assert_eq!(mistakes(service), [expected]);
}

#[test]
fn tasks_that_match_by_index_are_both_for_each_worker_or_neither_is() {
    let job = |first: Value, second: Value| {
        let mut second = second;
        second["depends_on"] = json!([{"task": "build", "index": "same"}]);
        tasks_with(&[("build", first), ("test", second)])
    };
    let each = || json!({"each": "worker"});
    read(job(each(), each()));
    read(job(json!({"each": "worker", "array": "0-3"}), each()));
    let expected =
        "/tasks/1/depends_on: `index: same` needs `each: worker` in both tasks: `test` and `build` differ";
    for other in [json!({}), json!({"each": ["a"]}), json!({"count": 1})] {
        assert_eq!(mistakes(job(each(), other.clone())), [expected]);
        assert_eq!(mistakes(job(other, each())), [expected]);
    }
}
