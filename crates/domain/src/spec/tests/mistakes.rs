//! What is refused, and with which words.

use super::*;

#[test]
fn all_mistakes_are_told_at_once_each_with_its_place() {
    let found = mistakes(json!({
        "name": "",
        "type": "cron",
        "priority": "high",
        "lost_after": "5s",
        "labels": {"a/b~c!": 1},
        "tasks": [
            {"name": "a b", "command": "echo hi", "timout": "5m"},
            {"command": ["true"], "resources": {"cpu": -1, "memory": "many"}},
            7,
        ],
    }));
    assert_eq!(
        found,
        [
            "/name: a name must not be blank",
            "/type: expected `batch`, `service` or `system`, found `cron`",
            "/priority: expected a whole number from 0 to 100, found a string",
            "/labels/a~1b~0c!: `a/b~c!` cannot be the key of a label: write 1 to 63 of the characters \
             a-z A-Z 0-9 . _ / - and begin with a letter or digit",
            "/lost_after: expected a time from 10s to 7d, found 5s",
            "/tasks/0/name: `a b` cannot be the name of a task: write 1 to 63 of the characters a-z A-Z 0-9 _ - \
             and begin with a letter or digit",
            "/tasks/0/command: expected a list of strings, found a string (write a list such as \
             [\"echo\", \"hello\"], or a `script` for a line of shell)",
            "/tasks/0/timout: unknown field `timout` (did you mean `timeout`?)",
            "/tasks/1: a task in a list of tasks needs a `name`",
            "/tasks/1/resources/cpu: `-1` is negative, which a number of processors cannot be: write processors \
             such as 0.5, or thousandths such as \"500m\"",
            "/tasks/1/resources/memory: `many` is not a number of bytes: write bytes such as 4096, or a number \
             and a unit such as \"512MiB\" or \"2GB\"",
            "/tasks/2: expected a task: an object with a `name`, and a `command` or a `script`, found 7",
        ]
    );
}

#[test]
fn a_flood_of_mistakes_is_cut_and_counted() {
    let fields: serde_json::Map<_, _> = (0..60).map(|n| (format!("x{n}"), json!(n))).collect();
    let found = mistakes(with(Value::Object(fields)));
    assert_eq!(found.len(), 51);
    assert_eq!(found[50], "10 more errors are not listed");
}

#[test]
fn a_document_that_is_no_object_is_refused() {
    for (document, found) in [
        (json!(null), "null"),
        (json!([]), "a list"),
        (json!("true"), "a string"),
        (json!(1), "1"),
        (json!(true), "true"),
    ] {
        assert_eq!(
            mistake(document),
            format!(
                "expected a job: an object with `tasks`, or with a `command` or a `script`, found {found}"
            )
        );
    }
}

#[test]
fn a_job_needs_something_to_run() {
    assert_eq!(
        mistake(json!({"name": "x"})),
        "a job needs something to run: a `command`, a `script`, or a list of `tasks`"
    );
    assert_eq!(mistake(json!({"tasks": []})), "/tasks: a job needs at least one task");
    assert_eq!(mistake(json!({"env": {}})), "a task needs a `command` or a `script`");
    assert_eq!(
        mistake(json!({"command": ["a"], "script": "b"})),
        "/script: a task has a `command` or a `script`, not both"
    );
}

#[test]
fn fields_of_a_task_and_a_list_of_tasks_do_not_mix() {
    let tasks = json!([{"name": "a", "command": ["true"], "priority": 3}]);
    assert_eq!(
        mistakes(with(json!({"env": {}, "tasks": tasks}))),
        [
            "/command: `command` belongs to a task: write it in an entry of `tasks`",
            "/env: `env` belongs to a task: write it in an entry of `tasks`",
            "/tasks/0/priority: `priority` belongs to the job: write it outside `tasks`",
        ]
    );
}

#[test]
fn what_this_version_does_not_do_yet_is_said_so() {
    let field = "schedule";
    let complaint = format!("`{field}` is not supported by this version yet");
    assert_eq!(mistake(with(json!({field: {}}))), format!("/{field}: {complaint}"));
    let task = json!({"name": "a", "command": ["true"], field: []});
    assert_eq!(mistake(json!({"tasks": [task]})), format!("/tasks/0/{field}: {complaint}"));
}

#[test]
fn a_suggestion_is_made_only_for_what_is_close() {
    for (field, suggestion) in [
        ("Timeout", " (did you mean `timeout`?)"),
        ("comand", " (did you mean `command`?)"),
        ("depend_on", " (did you mean `depends_on`?)"),
        ("lables", " (did you mean `labels`?)"),
        ("retries", ""),
        ("x", ""),
    ] {
        assert_eq!(
            mistake(with(json!({field: 1}))),
            format!("/{field}: unknown field `{field}`{suggestion}")
        );
    }
    assert_eq!(
        mistake(with(json!({"restart": "onfailure"}))),
        "/restart: expected `never`, `on-failure` or `always`, found `onfailure` (did you mean `on-failure`?)"
    );
    assert_eq!(
        mistake(with(json!({"restart": {"delai": "5s"}}))),
        "/restart/delai: unknown field `delai` (did you mean `delay`?)"
    );
}

#[test]
fn values_of_the_wrong_type_or_size_are_refused() {
    for (fields, complaint) in [
        (json!({"priority": 101}), "/priority: expected a whole number from 0 to 100, found 101"),
        (json!({"priority": -1}), "/priority: expected a whole number from 0 to 100, found -1"),
        (json!({"priority": 1.5}), "/priority: expected a whole number from 0 to 100, found 1.5"),
        (json!({"name": [5]}), "/name: expected a name, found a list"),
        (json!({"name": "a\nb"}), "/name: a name is one line of visible text: it has no control characters"),
        (
            json!({"name": "a\u{202e}b"}),
            "/name: a name is one line of visible text: it has no control characters",
        ),
        (json!({"name": "x".repeat(121)}), "/name: a name has at most 120 characters, this one has 121"),
        (json!({"lost_after": "8d"}), "/lost_after: expected a time from 10s to 7d, found 8d"),
        (json!({"timeout": "50ms"}), "/timeout: expected a time from 100ms to 365d, found 50ms"),
        (json!({"output": {"limit": 0}}), "/output/limit: expected a size from 1B to 1PiB, found 0B"),
        (json!({"output": {"on_limit": "kill"}}), "/output/on_limit: `on_limit` needs a `limit`"),
        (json!({"timeout": true}), "/timeout: expected a time from 100ms to 365d, found true"),
        (json!({"count": 0}), "/count: expected a whole number from 1 to 100000, found 0"),
        (json!({"count": "3x"}), "/count: expected a whole number from 1 to 100000, found a string"),
        (json!({"count": 100_001}), "/count: expected a whole number from 1 to 100000, found 100001"),
        (
            json!({"resources": {"cpu": 4097}}),
            "/resources/cpu: expected a number of processors from 0 to 4096, found 4097",
        ),
        (
            json!({"resources": {"disk": "2PiB"}}),
            "/resources/disk: expected a size from 0B to 1PiB, found 2PiB",
        ),
        (json!({"restart": {"delay": "2h"}}), "/restart/delay: expected a time from 0s to 1h, found 2h"),
        (
            json!({"restart": 3}),
            "/restart: expected a word such as `on-failure`, or an object such as {policy: \
             on-failure, limit: 3}, found 3",
        ),
        (
            json!({"stop": "SIGINT"}),
            "/stop: expected an object such as {signal: SIGTERM, grace: 10s}, found a string",
        ),
        (json!({"stop": {"grace": 3601}}), "/stop/grace: expected a time from 0s to 1h, found 1h1s"),
        (
            json!({"datacenters": "lab"}),
            "/datacenters: expected a list of datacenters such as [lab, edge], found a string",
        ),
        (json!({"datacenters": ["a", "a"]}), "/datacenters/1: `a` is named twice"),
        (json!({"labels": {"a": [1]}}), "/labels/a: expected a text, found a list"),
        (json!({"env": ["A=1"]}), "/env: expected an object of variables such as {MODE: full}, found a list"),
        (json!({"env": {"A": null}}), "/env/A: expected a text, found null: write \"\" for an empty text"),
        (json!({"env": {"A": "\0"}}), "/env/A: a variable cannot have a zero byte in it"),
        (
            json!({"env": {"A=B": ""}}),
            "/env/A=B: `A=B` cannot be the name of a variable: it has at least one character, no = and no zero byte",
        ),
        (
            json!({"env": {"GAFFER_TASK": ""}}),
            "/env/GAFFER_TASK: `GAFFER_TASK` is reserved: gaffer itself sets the names in GAFFER_",
        ),
    ] {
        assert_eq!(mistake(with(fields)), complaint);
    }
}

#[test]
fn commands_and_scripts_must_be_runnable() {
    for (job, complaint) in [
        (json!({"command": []}), "/command: the command is empty: it needs at least a program"),
        (json!({"command": ["", "x"]}), "/command: the program, the first of the command, is empty"),
        (
            json!({"command": ["sleep", null]}),
            "/command/1: expected a string, found null: write \"\" for an empty text",
        ),
        (json!({"command": [["a"]]}), "/command/0: expected a string, found a list"),
        (json!({"command": ["a", "\0"]}), "/command/1: an argument cannot have a zero byte in it"),
        (json!({"script": " \n"}), "/script: the script is empty"),
        (json!({"script": "a\0"}), "/script: a script cannot have a zero byte in it"),
        (json!({"script": ["a"]}), "/script: expected the text of a script, found a list"),
    ] {
        assert_eq!(mistake(job), complaint);
    }
}

#[test]
fn what_a_process_is_given_fits_into_what_linux_allows() {
    const KIB: usize = 1024;
    let text = |bytes: usize| "x".repeat(bytes);
    read(json!({"command": [text(128 * KIB - 1)]}));
    assert_eq!(
        mistake(json!({"command": ["a", text(128 * KIB - 2)]})),
        "/command: the command has 131073 bytes, more than the 131072 that are allowed"
    );
    read(json!({"script": text(512 * KIB)}));
    assert_eq!(
        mistake(json!({"script": text(512 * KIB + 1)})),
        "/script: the script has 524289 bytes, more than the 524288 that are allowed"
    );
    let largest = text(128 * KIB - 3);
    read(with(json!({"env": {"A": largest, "B": largest}})));
    assert_eq!(
        mistake(with(json!({"env": {"A": largest, "B": largest, "C": ""}}))),
        "/env: the variables have 262147 bytes, more than the 262144 that are allowed"
    );
    assert_eq!(
        mistake(with(json!({"env": {"AB": largest}}))),
        "/env/AB: the variable has 131073 bytes, more than the 131072 that are allowed"
    );
}

#[test]
fn a_job_has_a_bounded_number_of_everything() {
    let definitions = |count: usize, each: u32| -> Value {
        (0..count).map(|n| json!({"name": format!("t{n}"), "command": ["true"], "count": each})).collect()
    };
    assert_eq!(read(json!({"tasks": definitions(200, 500)})).task_count(), 100_000);
    assert_eq!(
        mistake(json!({"tasks": definitions(2, 50_001)})),
        "/tasks: with their counts and arrays these are 100002 tasks, more than the 100000 that one job \
         may have"
    );
    assert_eq!(
        mistake(json!({"tasks": definitions(201, 1)})),
        "/tasks: the list has 201 tasks, more than the 200 that are allowed; a task may have a `count` or \
         an `array`"
    );
    let labels: serde_json::Map<_, _> = (0..65).map(|n| (format!("k{n}"), json!("v"))).collect();
    assert_eq!(
        mistake(with(json!({"labels": labels}))),
        "/labels: a job has at most 64 labels, this one has 65"
    );
}

#[test]
fn a_field_at_the_wrong_level_is_told_where_it_belongs() {
    // Asks for every field of the normal form, so that the reader's lists of names stay complete.
    let normal = serde_json::to_value(read(with(json!({"timeout": 1, "env": {"A": 1}})))).unwrap();
    for field in normal["tasks"][0].as_object().unwrap().keys().filter(|field| *field != "name") {
        let found = mistake(json!({field: {}, "tasks": [{"name": "a", "command": ["true"]}]}));
        assert!(found.contains("belongs to a task"), "{found}");
    }
    let job = with(json!({"labels": {"a": 1}, "datacenters": ["a"]}));
    for field in
        serde_json::to_value(read(job)).unwrap().as_object().unwrap().keys().filter(|field| *field != "name")
    {
        let found = mistake(json!({"tasks": [{"name": "a", "command": ["true"], field: {}}]}));
        assert!(found.contains("belongs to the job"), "{found}");
    }
}
