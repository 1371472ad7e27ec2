//! That the JSON Schema says what the reader says, as far as a schema can: every specification that any test reads is tried
//! with both.

use std::path::Path;
use std::sync::LazyLock;

use serde::Serialize;

use super::field::{ANY_NAME, Absent, Field, Kind, Words, with_pointers};
use super::*;

static COMPILED: LazyLock<(boon::Schemas, boon::SchemaIndex)> = LazyLock::new(|| {
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource("job.json", crate::spec::schema::of_job()).unwrap();
    let index = compiler.compile("job.json", &mut schemas).unwrap();
    (schemas, index)
});

/// Whether the schema has nothing against a job, or what.
pub(super) fn accepts(value: &Value) -> Result<(), Box<boon::ValidationError<'_, '_>>> {
    let (schemas, job) = &*COMPILED;
    schemas.validate(value, *job).map_err(Box::new)
}

/// Validators read patterns as ECMAScript does for Unicode: there, an escape that means nothing is a mistake.
#[test]
fn patterns_have_no_escape_that_is_not_needed() {
    fn patterns(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(fields) => {
                found.extend(fields.get("pattern").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| patterns(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| patterns(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    patterns(&crate::spec::schema::of_job(), &mut found);
    assert!(found.len() > 10, "{found:?}");
    for pattern in found {
        let escaped = pattern.split('\\').skip(1).filter_map(|rest| rest.chars().next());
        let unneeded: Vec<char> = escaped.filter(|c| !"sSdDwWu^$\\.*+?()[]{}|/-".contains(*c)).collect();
        assert!(unneeded.is_empty(), "{pattern}: {unneeded:?}");
    }
}

/// What a schema cannot know: sizes in bytes and of amounts in words, grammars, and what fields say together.
const BEYOND_A_SCHEMA: &[&str] = &[
    " bytes",
    "zero byte",
    "expected a time from",
    "expected a size from",
    "expected a number of processors from",
    "expected a range of indices",
    "is too large for",
    "is finer than",
    "the range goes down",
    "the last index is",
    "tasks are more than the",
    "these are",
    "is the name of another task too",
    "is named twice",
    "there is no task",
    "cannot wait for itself",
    "wait for each other in a circle",
    "column ",
    "is not a fact of a worker",
    "expected a fact such as",
    "one line of visible text",
    "is reserved",
    "is not repeated",
    "needs a `limit`",
    "one by one",
    "is not a capability",
    "the name of an image",
    "in lower case",
    "without a network",
    "those of the worker anyway",
    "needs a name, as in",
    "has two numbers",
    "have the same variable",
    "the command is empty",
    "a check needs",
    "a check has",
    "no named TCP port",
    "no TCP port",
    "belongs to a check",
    "is not a path of an HTTP request",
    "is not a range of HTTP statuses",
    "cannot be a header",
    "a control character",
    "the same port",
    "is not a port",
    "is not a volume",
    "the same target",
    "is the target of a volume",
    "is all of the container",
    "more errors are not listed",
    "is a success",
    "is in `success` too",
    "is in `on_exit` too",
    "the list has no exit code",
    "has no effect with",
    "needs other tasks to wait for",
    "needs equal indices",
    "needs equal items",
    "needs `each: worker`",
    "is for batch jobs",
    "is not for `type: system`",
    "has one task on every worker",
    "in the environment",
    "the array has",
    "alone needs `each`",
    "maximum number of live tasks",
    "runs once: write",
];

/// The schema refuses what the reader refuses, but for mistakes that are beyond it.
pub(super) fn refuses_or_cannot(value: &Value, mistakes: &[String]) {
    // Of a number in quotes a schema sees the form alone, and of a text without quotes the type.
    let is_quoted_otherwise = |mistake: &str| {
        let at = mistake.split_once(": ").and_then(|(pointer, why)| Some((value.pointer(pointer)?, why)));
        at.is_some_and(|(value, why)| match value {
            // The schema takes digits of any base.
            Value::String(text) => i64::from_str_radix(text, 16).is_ok(),
            Value::Number(_) | Value::Bool(_) => !why.starts_with("expected"),
            _ => false,
        })
    };
    let is_beyond = |mistake: &&String| {
        // What a value may be follows from the type beside it.
        let is_of_parameter = mistake.starts_with("/parameters/");
        is_of_parameter
            || BEYOND_A_SCHEMA.iter().any(|known| mistake.contains(known))
            || is_quoted_otherwise(mistake)
    };
    let others: Vec<_> = mistakes.iter().filter(|mistake| !is_beyond(mistake)).collect();
    assert!(
        others.is_empty() || accepts(value).is_err(),
        "the schema accepts {value} in spite of {others:#?}"
    );
}

fn from_yaml(text: &str) -> Value {
    serde_json::from_str(&Language::Yaml.read(text).unwrap().to_json()).unwrap()
}

/// A job whose only task has this field, and whatever it needs beside it.
fn job_with(pointer: &str, field: &Field, value: Value) -> Value {
    let mut job = match (pointer, field.drivers.contains(&DriverKind::Host)) {
        ("/tasks", _) => json!({}),
        (_, false) => json!({ "image": "busybox" }),
        ("/command" | "/script", true) => json!({}),
        (_, true) => json!({ "command": ["true"] }),
    };
    match pointer {
        "/driver" => job["image"] = json!("busybox"),
        "/output/on_limit" => job["output"] = json!({ "limit": 1 }),
        "/concurrency/group" => job["concurrency"] = json!({ "limit": 1 }),
        "/concurrency/limit" => job["concurrency"] = json!({ "group": "a" }),
        _ if pointer.starts_with("/health") || pointer.starts_with("/readiness") => {
            job["ports"] = json!(["http"]);
            // Each field but those that are another check belongs to one.
            let (check, name) = pointer[1..].split_once('/').unwrap_or((&pointer[1..], "http"));
            if !["http", "tcp", "command"].contains(&name) {
                job[check] = json!({ "http": "/" });
            }
        }
        _ => {}
    }
    let inner = pointer.split('/').skip(1).fold(&mut job, |object, name| &mut object[name]);
    *inner = value;
    job
}

fn fields_of_a_job() -> Vec<(String, &'static Field)> {
    let mut seen = std::collections::BTreeSet::new();
    let fields = with_pointers(SINGLE_TASK_JOB_FIELDS).into_iter();
    // A job with one task has some under one name for both.
    fields.filter(|(pointer, _)| seen.insert(pointer.clone())).collect()
}

#[test]
fn the_example_of_each_field_is_right_and_what_is_no_such_value_is_refused() {
    for (pointer, field) in fields_of_a_job() {
        assert!(!field.example.is_empty(), "{pointer} has no example");
        let example = from_yaml(field.example);
        if field.name == ANY_NAME {
            read(with(json!({ "resources": example })));
            continue;
        }
        if pointer == "/depends_on" {
            // Tasks with names are needed for that.
            let tasks = json!([
                {"name": "prepare", "command": ["a"]}, {"name": "check", "command": ["a"]},
                {"name": "b", "command": ["a"], "depends_on": example},
            ]);
            read(json!({ "tasks": tasks }));
            continue;
        }
        if pointer == "/when" {
            let tasks =
                json!([{"name": "a", "command": ["a"]}, {"name": "b", "command": ["a"], "when": example}]);
            read(json!({ "tasks": tasks }));
            continue;
        }
        read(job_with(&pointer, field, example));
        // No field takes a list in a list.
        let wrong = job_with(&pointer, field, json!([[[]]]));
        let mistakes = JobSpec::read(&wrong).err().unwrap_or_default();
        let is_told = mistakes.iter().any(|mistake| mistake.pointer.starts_with(&pointer));
        assert!(is_told, "the reader does not read {pointer}: {mistakes:?}");
        assert!(accepts(&wrong).is_err(), "the schema accepts {wrong}");
    }
}

#[test]
fn a_default_is_what_leaving_the_field_out_means() {
    for (pointer, field) in fields_of_a_job() {
        let Absent::Is(default) = field.absent else { continue };
        let given = job_with(&pointer, field, from_yaml(default));
        let left_out = job_with(&pointer, field, Value::Null);
        assert_eq!(read(given), read(left_out), "{pointer}");
    }
}

/// Each word means what it is stored as.
fn words_are_as_stored<T: Words + Serialize + PartialEq + std::fmt::Debug>() {
    for (word, value, _) in T::WORDS {
        assert_eq!(serde_json::to_value(value).unwrap(), json!(word));
        assert_eq!(value.word(), *word);
    }
}

#[test]
fn a_word_is_stored_as_it_is_written() {
    words_are_as_stored::<JobKind>();
    words_are_as_stored::<DriverKind>();
    words_are_as_stored::<Strategy>();
    words_are_as_stored::<OnDrain>();
    words_are_as_stored::<OnLimit>();
    words_are_as_stored::<RestartPolicy>();
    words_are_as_stored::<Backoff>();
    words_are_as_stored::<OnLost>();
    words_are_as_stored::<PullPolicy>();
    words_are_as_stored::<Network>();
    assert!(DriverKind::ALL.iter().all(|driver| driver.word() == driver.as_str()));
}

#[test]
fn what_is_said_of_a_field_is_short() {
    for (pointer, Field { summary, .. }) in fields_of_a_job() {
        assert!((5..=60).contains(&summary.chars().count()), "{pointer}: {summary}");
        assert!(!summary.ends_with('.'), "{pointer}: {summary}");
    }
}

#[test]
fn every_field_that_is_named_after_an_excluded_one_exists() {
    for (pointer, field) in fields_of_a_job() {
        for other in field.excludes {
            let found = fields_of_a_job().into_iter().any(|(_, field)| field.name == *other);
            assert!(found, "{pointer} excludes {other}");
        }
        if let Kind::WordOr { word, fields } = field.kind {
            assert!(field::find(fields, word).is_some(), "{pointer}");
        }
    }
}

#[test]
fn the_jobs_of_the_documentation_are_accepted_by_reader_and_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let entries = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = entries.filter(|path| path.is_file()).collect();
    pages.push(root.join("README.md"));
    let mut jobs = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for block in text.split("```yaml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            let job = from_yaml(block);
            // Others show a few fields, or the configuration of another program.
            if ["tasks", "command", "script", "image"].iter().any(|name| job.get(name).is_some()) {
                read(job);
                jobs += 1;
            }
        }
    }
    assert!(jobs >= 2, "{jobs} jobs in the documentation");
}
