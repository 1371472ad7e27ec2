//! What the options say of themselves, and what they refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

fn refused(words: &[&str]) -> String {
    parsed(words).map(|flags| panic!("{flags:?}")).unwrap_err().to_string()
}

#[test]
fn each_option_takes_its_own_example() {
    for flag in all() {
        let name = flag.name();
        let mut words = vec![name.clone()];
        if !matches!(flag.field.kind, Kind::Bool) {
            let example = flag.example();
            assert!(!example.is_empty(), "{name} has no example");
            words.push(example);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let flags = parsed(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let mut spec = Document::from(&json!({ "image": "busybox" }));
        flags.apply(&mut spec, |_| None).unwrap();
        // Only tasks on the host have some of the fields.
        let fields = match flag.field.drivers.contains(&gaffer_domain::spec::DriverKind::Docker) {
            true => spec,
            false => {
                let mut spec = Document::from(&json!({ "command": ["true"] }));
                flags.apply(&mut spec, |_| None).unwrap();
                spec
            }
        };
        let mistakes = gaffer_domain::spec::JobSpec::of(&fields).err().unwrap_or_default();
        // What stands alone there needs another field.
        let needs_another = name == "--on-output-limit" || flag.heading() == "Health checks";
        assert!(mistakes.is_empty() || needs_another, "{words:?}: {mistakes:?}");
    }
}

#[test]
fn a_plain_word_is_what_yaml_makes_of_it() {
    let plain = all().iter().map(|flag| flag.field.example).filter(|example| is_plain_word(example));
    let mut count = 0;
    for example in plain {
        let Data::Scalar(scalar) = Language::Yaml.read(example).unwrap().data else { panic!("{example}") };
        assert_eq!(scalar.text, example);
        count += 1;
    }
    assert!(count > 20, "{count}");
    assert!(!["a: b", "[a]", "'a'", "a # b", ""].into_iter().any(is_plain_word));
}

#[test]
fn each_option_says_what_it_is_in_one_short_line() {
    for flag in all() {
        let summary = flag.field.summary;
        assert!((5..=60).contains(&summary.chars().count()), "{}: {summary}", flag.name());
        assert!(!summary.ends_with('.'), "{}: {summary}", flag.name());
    }
}

#[test]
fn options_of_both_checks_go_together_and_those_of_one_exclude_each_other() {
    let words =
        ["--type", "service", "--publish", "http", "--health-http", "/health", "--health-failures", "5"];
    let words = [&words[..], &["--readiness-command", "./ready -q", "--readiness-interval", "2s"]].concat();
    let mut spec = Document::from(&json!({ "command": ["server"] }));
    parsed(&words).unwrap().apply(&mut spec, |_| None).unwrap();
    let spec = gaffer_domain::spec::JobSpec::of(&spec).unwrap();
    let task = serde_json::to_value(&spec.tasks[0]).unwrap();
    assert_eq!((&task["health"]["port"], &task["health"]["failures"]), (&json!("http"), &json!(5)));
    assert_eq!(task["readiness"]["command"], json!(["./ready", "-q"]));
    assert!(refused(&["--health-http", "/", "--health-tcp", "http"]).contains("cannot be used with"));
}

#[test]
fn a_wrong_value_is_refused_with_what_is_right() {
    assert!(refused(&["--pull", "missin"]).contains("a similar value exists: 'missing'"));
    assert!(refused(&["--priority", "101"]).contains("0..=100"));
    assert!(refused(&["--count", "2", "--array", "0-1"]).contains("cannot be used with"));
    let label = parsed(&["--label", "vision"]).unwrap();
    let why = label.apply(&mut Document::from(&json!({})), |_| None).unwrap_err().to_string();
    assert_eq!(why, "--label vision: write KEY=VALUE, such as team=vision");
    assert!(parsed(&["--driver", "scripted"]).is_ok(), "it is hidden, and works");
}
