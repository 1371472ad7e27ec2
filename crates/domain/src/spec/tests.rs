#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod any;
mod container;
mod depends;
mod each;
mod exit_codes;
mod health;
mod mistakes;
mod parameters;
mod scheduling;
mod schema;
mod secrets;
mod system;

use serde_json::{Value, json};

use super::*;
use crate::constraint::Constraint;
use crate::document::Language;
use crate::quantity::{Bytes, Cpu, Span};

/// A job of tasks `(name, fields)`, each with a command.
pub(crate) fn tasks_with(tasks: &[(&str, Value)]) -> Value {
    let task = |(name, fields): &(&str, Value)| {
        let mut task = json!({"name": name, "command": ["true"]});
        task.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        task
    };
    json!({ "tasks": tasks.iter().map(task).collect::<Vec<_>>() })
}

fn read(value: Value) -> JobSpec {
    schema::accepts(&value).unwrap_or_else(|why| panic!("the schema refuses {value}: {why}"));
    JobSpec::read(&value).unwrap_or_else(|mistakes| panic!("{value} was refused: {mistakes:#?}"))
}

/// Every mistake as `pointer: detail (suggestion)`. The schema refuses the specification as well, if it can.
fn mistakes(value: Value) -> Vec<String> {
    let mistakes = told(&value);
    schema::refuses_or_cannot(&value, &mistakes);
    mistakes
}

/// The same, whatever the schema says.
fn told(value: &Value) -> Vec<String> {
    match JobSpec::read(value) {
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
        "retention": {"completed": "7d", "failed": "90d"},
        "pin": true,
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
    assert_eq!(indices("3-7"), Indices::Array { first: 3, last: 7, at_once: None });
    assert_eq!(indices("3-7%2"), Indices::Array { first: 3, last: 7, at_once: Some(2) });
    assert_eq!(indices("3 - 7 % 2"), Indices::Array { first: 3, last: 7, at_once: Some(2) });
    assert_eq!(indices("3 - 7"), Indices::Array { first: 3, last: 7, at_once: None });
    assert_eq!(indices("7"), Indices::Array { first: 7, last: 7, at_once: None });
    assert_eq!(indices("999999-1000000").len(), 2);
    for (array, complaint) in [
        (json!(""), "/array: expected a range of indices such as \"0-99\", found an empty text"),
        (json!("0-9%0"), "/array: expected a whole number from 1 after `%` (maximum number of live tasks)"),
        (json!("0-9%"), "/array: expected a whole number from 1 after `%` (maximum number of live tasks)"),
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
