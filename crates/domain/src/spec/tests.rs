#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod any;
mod container;
mod scheduling;

use serde_json::{Value, json};

use super::*;
use crate::document::Language;

fn read(value: Value) -> JobSpec {
    JobSpec::read(&value).unwrap_or_else(|mistakes| panic!("{value} was refused: {mistakes:#?}"))
}

/// Every mistake as `pointer: detail (suggestion)`.
fn mistakes(value: Value) -> Vec<String> {
    match JobSpec::read(&value) {
        Ok(spec) => panic!("{value} was read as {spec:#?}"),
        Err(mistakes) => {
            assert!(!mistakes.is_empty(), "{value} was refused without a reason");
            for mistake in &mistakes {
                assert!(value.pointer(&mistake.pointer).is_some(), "nothing is at {mistake}");
            }
            mistakes.iter().map(ToString::to_string).collect()
        }
    }
}

/// The one mistake in a specification.
fn mistake(value: Value) -> String {
    let mut all = mistakes(value);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

/// A job with one task that runs `true` and has these fields too.
fn with(fields: Value) -> Value {
    let mut job = json!({"command": ["true"]});
    let Value::Object(fields) = fields else { panic!("not an object: {fields}") };
    job.as_object_mut().unwrap().extend(fields);
    job
}

fn restart_of(fields: Value) -> Restart {
    read(with(fields)).tasks[0].restart
}

#[test]
fn a_command_alone_is_a_job_with_every_default() {
    let spec = read(json!({"command": ["/usr/bin/python3", "train.py"]}));
    assert_eq!(
        serde_json::to_value(spec).unwrap(),
        json!({
            "name": "python3",
            "type": "batch",
            "priority": 50,
            "lost_after": "2m",
            "tasks": [{
                "name": "main",
                "driver": "host",
                "command": ["/usr/bin/python3", "train.py"],
                "count": 1,
                "resources": {"cpu": 1, "memory": 0, "disk": 0},
                "restart": {"policy": "never", "limit": 0, "delay": "1s", "backoff": "exponential",
                            "on_lost": "fail"},
                "stop": {"signal": "SIGTERM", "grace": "10s"},
            }],
        })
    );
}

#[test]
fn a_full_job_is_read_as_it_is_written() {
    let full = json!({
        "name": "nightly",
        "type": "service",
        "priority": 7,
        "labels": {"team": "vision"},
        "datacenters": ["lab", "edge"],
        "lost_after": "5m",
        "tasks": [
            {
                "name": "prepare",
                "driver": "host",
                "script": "#!/bin/sh\n./prepare.sh",
                "env": {"MODE": "full"},
                "count": 3,
                "resources": {"cpu": 1.5, "memory": "512MiB", "disk": "1GiB"},
                "timeout": "30m",
                "output": {"limit": "100MiB", "on_limit": "kill"},
                "restart": {"policy": "on-failure", "limit": 3, "within": "10m", "delay": "5s",
                            "backoff": "constant", "on_lost": "fail"},
                "stop": {"signal": "SIGINT", "grace": "20s"},
            },
            {
                "name": "train",
                "driver": "scripted",
                "command": ["sh", "-c", "echo $GAFFER_TASK_INDEX"],
                "depends_on": ["prepare"],
                "array": "0-99",
                "resources": {"cpu": 0.5, "memory": "256MiB", "disk": 0},
                "restart": {"policy": "always", "limit": 5, "delay": "0s", "backoff": "exponential",
                            "on_lost": "restart"},
                "stop": {"signal": "SIGTERM", "grace": "10s"},
            },
        ],
    });
    let spec = read(full.clone());
    assert_eq!(spec.task_count(), 103);
    assert_eq!(serde_json::to_value(spec).unwrap(), full);
}

#[test]
fn a_job_without_a_name_is_called_after_what_it_runs() {
    for (job, name) in [
        (json!({"command": ["./bin/build.sh", "-x"]}), "build.sh"),
        (json!({"command": ["odd/"]}), "job"),
        (json!({"command": ["be\u{7}ll"]}), "bell"),
        (json!({"script": "\n  make all  \nmake test"}), "make all"),
        (json!({"script": "#!/usr/bin/env python3\nprint(1)"}), "print(1)"),
        (json!({"script": "#!/bin/cat"}), "job"),
        (json!({"script": "é".repeat(200)}), &"é".repeat(80)),
        (
            json!({"tasks": [{"name": "a", "command": ["first"]}, {"name": "b", "command": ["second"]}]}),
            "first",
        ),
    ] {
        assert_eq!(read(job).name, name);
    }
}

#[test]
fn null_fields_count_as_left_out() {
    let spec = read(with(
        json!({"name": null, "timeout": null, "tasks": null, "schedule": null, "restart": {"limit": null}}),
    ));
    assert_eq!(spec, read(with(json!({}))));
}

/// The same job in all three languages.
fn in_every_language(yaml: &str, toml: &str, json: &str) -> Vec<JobSpec> {
    [(Language::Yaml, yaml), (Language::Toml, toml), (Language::Json, json)]
        .map(|(language, text)| JobSpec::of(&language.read(text).unwrap()).unwrap())
        .into()
}

#[test]
fn a_field_that_is_a_text_gets_what_was_written() {
    let yaml = "name: 1.10\ncommand: [sleep, 5.0, true]\nenv: {A: 1.10, B: 680841e1, D: 0.30}\nlabels: {v: 2.0}\n\
                datacenters: [1.50]\nconcurrency: {group: 1.0, limit: 1}\nimage: busybox\nuser: 007\n";
    let toml = "name = 1.10\ncommand = ['sleep', 5.0, true]\ndatacenters = [1.50]\nimage = 'busybox'\nuser = '007'\n\
                env = {A = 1.10, B = 680841e1, D = 0.30}\nlabels = {v = 2.0}\nconcurrency = {group = 1.0, limit = 1}\n";
    let json = r#"{"name": 1.10, "command": ["sleep", 5.0, true], "env": {"A": 1.10, "B": 680841e1, "D": 0.30},
        "labels": {"v": 2.0}, "datacenters": [1.50], "concurrency": {"group": 1.0, "limit": 1}, "image": "busybox",
        "user": "007"}"#;
    for spec in in_every_language(yaml, toml, json) {
        let task = &spec.tasks[0];
        let env: Vec<_> = task.env.values().collect();
        assert_eq!(env, ["1.10", "680841e1", "0.30"]);
        assert_eq!((spec.name.as_str(), spec.labels["v"].as_str()), ("1.10", "2.0"));
        assert_eq!(spec.datacenters, ["1.50"]);
        assert_eq!(spec.concurrency.as_ref().unwrap().group, "1.0");
        assert_eq!(
            task.action,
            Action::Command(vec!["sleep".to_owned(), "5.0".to_owned(), "true".to_owned()])
        );
        assert_eq!(task.container.as_ref().unwrap().user.as_deref(), Some("007"));
    }
    let only_yaml = "command: [echo, 0x1F, +4915112345678, 08, yes]\nenv: {ON: on, N: 012, 1.10: x}\n";
    let spec = JobSpec::of(&Language::Yaml.read(only_yaml).unwrap()).unwrap();
    let words = ["echo", "0x1F", "+4915112345678", "08", "yes"].map(str::to_owned);
    assert_eq!(spec.tasks[0].action, Action::Command(words.into()));
    let env: Vec<_> = spec.tasks[0].env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["1.10=x", "N=012", "ON=on"]);
}

#[test]
fn a_field_that_is_a_number_reads_it_however_it_is_written() {
    let yaml = "command: [a]\ncount: 0x10\npriority: '+7'\ntimeout: 1e3\nresources: {cpu: .5, memory: 1e3}\n\
                distinct_workers: True\n";
    let toml = "command = ['a']\ncount = 1_6\npriority = +7\ntimeout = 1e3\ndistinct_workers = true\n\
                resources = {cpu = 5e-1, memory = 1_000}\n";
    let json = r#"{"command": ["a"], "count": 16, "priority": "7", "timeout": 1000.0, "distinct_workers": true,
        "resources": {"cpu": 0.50, "memory": "1000"}}"#;
    for spec in in_every_language(yaml, toml, json) {
        let task = &spec.tasks[0];
        assert_eq!((spec.priority, task.indices, task.distinct_workers), (7, Indices::Count(16), true));
        assert_eq!(task.timeout, Some(Span::from_secs(1000)));
        assert_eq!(task.resources.amounts.cpu, Cpu::from_millis(500));
        assert_eq!(task.resources.amounts.memory, Bytes(1000));
    }
}

#[test]
fn a_script_has_the_line_ends_of_a_shell_and_no_byte_order_mark() {
    let spec = read(json!({"script": "\u{feff}#!/bin/sh\r\necho hello\r\n"}));
    assert_eq!(spec.tasks[0].action, Action::Script("#!/bin/sh\necho hello\n".to_owned()));
    assert_eq!(spec.name, "echo hello");
}

#[test]
fn the_names_of_variables_are_those_of_the_kernel() {
    let names = ["discovery.type", "1A", "a-b", "PATH with blanks", "é", "%"];
    let env: serde_json::Map<_, _> = names.into_iter().map(|name| (name.to_owned(), json!("x"))).collect();
    assert_eq!(read(with(json!({ "env": env }))).tasks[0].env.len(), names.len());
    for name in ["", "A=", "=", "A\0"] {
        let refused = mistake(with(json!({"env": {name: "x"}})));
        assert!(refused.contains("cannot be the name of a variable"), "{refused}");
    }
}

#[test]
fn numbers_and_booleans_become_the_texts_of_variables_and_labels() {
    let spec = read(with(json!({"env": {"PORT": 8080, "RATIO": 0.5, "DEBUG": true}, "labels": {"rack": 3}})));
    let env: Vec<_> = spec.tasks[0].env.values().collect();
    assert_eq!(env, ["true", "8080", "0.5"]);
    assert_eq!(spec.labels["rack"], "3");
}

#[test]
fn a_signal_may_be_written_in_any_case_and_without_its_prefix() {
    for (text, signal) in
        [("SIGINT", StopSignal::Sigint), ("usr1", StopSignal::Sigusr1), ("SigKill", StopSignal::Sigkill)]
    {
        assert_eq!(read(with(json!({"stop": {"signal": text}}))).tasks[0].stop.signal, signal);
    }
    for signal in StopSignal::ALL {
        assert_eq!(serde_json::to_value(signal).unwrap(), signal.name());
        assert_eq!(signal.to_string().parse(), Ok(signal));
    }
    assert_eq!(
        mistake(with(json!({"stop": {"signal": "SIGSTOP"}}))),
        "/stop/signal: `SIGSTOP` is not a signal that a task may get: write one of SIGTERM, SIGINT, SIGQUIT, \
         SIGHUP, SIGUSR1, SIGUSR2, SIGKILL"
    );
}

#[test]
fn restart_is_a_word_or_an_object() {
    let word = restart_of(json!({"restart": "on-failure"}));
    assert_eq!(word, restart_of(json!({"restart": {"policy": "on-failure"}})));
    assert_eq!((word.policy, word.limit, word.within), (RestartPolicy::OnFailure, 3, None));
    assert_eq!(word.on_lost, OnLost::Restart);
}

#[test]
fn a_service_is_always_restarted_within_a_limit_unless_told_otherwise() {
    let service = restart_of(json!({"type": "service"}));
    assert_eq!(service, restart_of(json!({"restart": "always"})));
    assert_eq!(service.policy, RestartPolicy::Always);
    assert_eq!((service.limit, service.within), (5, Some(Span::from_secs(600))));
    assert_eq!(service.on_lost, OnLost::Restart);

    let limited = restart_of(json!({"type": "service", "restart": {"limit": 9}}));
    assert_eq!((limited.limit, limited.within), (9, None));
    let windowed = restart_of(json!({"type": "service", "restart": {"within": "1h"}}));
    assert_eq!((windowed.limit, windowed.within), (5, Some(Span::from_secs(3600))));
    assert_eq!(restart_of(json!({"type": "service", "restart": "never"})).policy, RestartPolicy::Never);
}

#[test]
fn a_batch_task_may_be_repeated_only_when_its_worker_is_lost() {
    let restart = restart_of(json!({"restart": {"on_lost": "restart"}}));
    assert_eq!((restart.policy, restart.limit, restart.on_lost), (RestartPolicy::Never, 3, OnLost::Restart));
}

#[test]
fn an_array_is_a_range_or_one_index() {
    let indices = |array: &str| read(with(json!({"array": array}))).tasks[0].indices;
    assert_eq!(indices("3-7"), Indices::Array { first: 3, last: 7 });
    assert_eq!(indices("3 - 7"), Indices::Array { first: 3, last: 7 });
    assert_eq!(indices("7"), Indices::Array { first: 7, last: 7 });
    assert_eq!(indices("999999-1000000").len(), 2);
    for (array, complaint) in [
        (json!(""), "/array: expected a range of indices such as \"0-99\", found an empty text"),
        (json!("a-b"), "/array: expected a range of indices such as \"0-99\", found `a-b`"),
        (json!("1-"), "/array: expected a range of indices such as \"0-99\", found `1-`"),
        (json!("-1"), "/array: expected a range of indices such as \"0-99\", found `-1`"),
        (json!("+1-+2"), "/array: expected a range of indices such as \"0-99\", found `+1-+2`"),
        (json!([0, 1]), "/array: expected a range of indices such as \"0-99\", found a list"),
        (
            json!(5),
            "/array: expected a range of indices such as \"0-99\", found 5 (write `count: 5` for 5 tasks, or \
             `array: \"5\"` for that one index)",
        ),
        (json!("9-3"), "/array: the range goes down, from 9 to 3 (did you mean \"3-9\"?)"),
        (json!("0-1000001"), "/array: the last index is 1000001, more than the 1000000 that is allowed"),
        (json!("0-100000"), "/array: 100001 tasks are more than the 100000 that one job may have"),
    ] {
        assert_eq!(mistake(with(json!({"array": array}))), complaint);
    }
    assert_eq!(
        mistake(with(json!({"array": "0-3", "count": 4}))),
        "/array: a task has a `count` or an `array`, not both"
    );
}

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
            "/type: expected `batch` or `service`, found `cron`",
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
    assert_eq!(found[50], "10 more mistakes were left out of this list");
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
            "/command: `command` belongs to a task: a job with a list of `tasks` writes it inside of them",
            "/env: `env` belongs to a task: a job with a list of `tasks` writes it inside of them",
            "/tasks/0/priority: `priority` belongs to the job: write it outside of `tasks`",
        ]
    );
}

#[test]
fn what_this_version_does_not_do_yet_is_said_so() {
    for field in ["schedule", "secrets", "health"] {
        let complaint = format!("`{field}` is not supported by this version yet");
        assert_eq!(mistake(with(json!({field: {}}))), format!("/{field}: {complaint}"));
        let task = json!({"name": "a", "command": ["true"], field: []});
        assert_eq!(mistake(json!({"tasks": [task]})), format!("/tasks/0/{field}: {complaint}"));
    }
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
