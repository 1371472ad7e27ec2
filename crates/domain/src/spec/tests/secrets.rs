//! `secrets`: which a task uses, and how.

use super::*;
use crate::JobId;
use crate::placement::{DefinitionRef, Feature, Requirements};

fn with(fields: Value) -> Value {
    tasks_with(&[("load", fields)])
}

fn uses(fields: Value) -> Vec<SecretUse> {
    let spec = read(with(fields));
    let again = serde_json::to_value(&spec).unwrap();
    assert_eq!(read(again), spec, "the normal form says the same");
    spec.tasks[0].secrets.clone()
}

fn used(name: &str, file: Option<&str>) -> SecretUse {
    SecretUse { name: name.to_owned(), file: file.map(str::to_owned) }
}

#[test]
fn a_secret_is_a_variable_or_a_file() {
    let all =
        json!(["A", {"name": "B"}, {"name": "A", "file": "a.key"}, {"name": "C", "file": "tls/c d.key"}]);
    let expected =
        [used("A", None), used("B", None), used("A", Some("a.key")), used("C", Some("tls/c d.key"))];
    assert_eq!(uses(json!({ "secrets": all })), expected);
    let absolute = json!([{"name": "A", "file": "/etc/app/a.key"}]);
    assert_eq!(uses(json!({"image": "x", "secrets": absolute})), [used("A", Some("/etc/app/a.key"))]);
    assert_eq!(uses(json!({})), []);
}

#[test]
fn a_name_or_a_path_that_cannot_be_one_is_refused() {
    let named = |name: &str| told(&with(json!({ "secrets": [name] }))).concat();
    for name in ["A-B", "1A", "", "A=B"] {
        assert!(named(name).contains("cannot be the name of a secret"), "{name}");
    }
    assert!(named("GAFFER_KEY").contains("is reserved"));
    for path in ["", "..", "../a", "a/../b", "./a", "a//b", "a/", "a\nb", &"x".repeat(256)] {
        let told = told(&with(json!({"secrets": [{"name": "A", "file": path}]})));
        assert!(told[0].contains("is not a path without"), "{path:?}: {told:?}");
    }
    let absolute = told(&with(json!({"secrets": [{"name": "A", "file": "/etc/a"}]}))).concat();
    assert!(absolute.contains("which only a container can have"), "{absolute}");
    assert!(mistake(with(json!({"secrets": [{"file": "a"}]}))).contains("needs a `name`"));
    let many: Vec<String> = (0..33).map(|n| format!("S{n}")).collect();
    assert!(mistake(with(json!({ "secrets": many }))).contains("more than the 32 that are allowed"));
}

#[test]
fn two_uses_cannot_have_one_place() {
    let of = |secrets: Value| told(&with(json!({ "secrets": secrets }))).concat();
    assert!(of(json!(["A", "A"])).contains("A is in the list twice"));
    assert!(
        mistake(with(json!({"env": {"A": "x"}, "secrets": ["A"]}))).contains("a variable of `env` as well")
    );
    for (one, other) in [("a", "a"), ("a", "a/b"), ("a/b", "a")] {
        let told = of(json!([{"name": "A", "file": one}, {"name": "B", "file": other}]));
        assert!(told.contains("A and B have files in each other's place"), "{told}");
    }
    assert_eq!(uses(json!({"secrets": [{"name": "A", "file": "a"}, {"name": "B", "file": "ab"}]})).len(), 2);
}

#[test]
fn a_task_with_secrets_needs_a_worker_that_knows_of_them() {
    let features = |fields: Value| {
        let spec = read(with(fields));
        let definition = DefinitionRef { job: JobId(1), position: 0 };
        Requirements::of(&spec, &spec.tasks[0], definition).features
    };
    assert_eq!(features(json!({"secrets": ["A"]})), [Feature::Secrets]);
    assert_eq!(features(json!({})), []);
}

#[test]
fn what_does_not_exist_is_named_with_its_place() {
    let spec =
        read(tasks_with(&[("a", json!({"secrets": ["X"]})), ("b", json!({"secrets": ["Y", "Z", "X"]}))]));
    let unknown = unknown_secrets(&spec, |name| name == "X");
    let places: Vec<_> = unknown.iter().map(|one| (one.name.as_str(), one.task, one.place)).collect();
    assert_eq!(places, [("Y", 1, 0), ("Z", 1, 1)]);
    assert_eq!(secret_names(&spec.tasks[1].secrets), ["X", "Y", "Z"]);
    assert!(missing_secrets(&["A"]).starts_with("the secret A does not exist; set it with"));
    assert!(missing_secrets(&["A", "B"]).starts_with("the secrets A, B do not exist; set them with"));
}
