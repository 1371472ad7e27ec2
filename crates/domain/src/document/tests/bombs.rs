//! Small texts that would become large: each is refused for what it is, before it costs anything.

use super::*;

/// As large as a specification may be.
const FULL: usize = 1024 * 1024;

fn filled(head: &str, part: &str, tail: &str) -> String {
    format!("{head}{}{tail}", part.repeat((FULL - head.len() - tail.len()) / part.len()))
}

fn is_refused(language: Language, text: &str, because: &str) {
    let error = refusal(language, text);
    assert!(error.message.contains(because), "{language:?} {:.60}: {error}", text);
}

#[test]
fn a_billion_laughs_are_not_written_out() {
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..12 {
        let before = level - 1;
        let nine = vec![format!("*a{before}"); 9].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{nine}]\n"));
    }
    is_refused(Language::Yaml, &laughs, "more than 104000 values");

    let long = "x".repeat(100_000);
    let text = format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 20].join(", "));
    is_refused(Language::Yaml, &text, "with its aliases written out");

    // A merged mapping counts like any other.
    let mut merges = "a0: &a0 {x: 1}\n".to_owned();
    for level in 1..30 {
        let before = level - 1;
        merges.push_str(&format!("a{level}: &a{level} {{l: *a{before}, r: *a{before}, <<: *a{before}}}\n"));
    }
    is_refused(Language::Yaml, &merges, "more than 104000 values");
}

#[test]
fn what_is_nested_deeply_is_refused_where_it_becomes_too_deep() {
    for (language, text) in [
        (Language::Yaml, filled("a: ", "[", "")),
        (Language::Yaml, filled("", "[", "")),
        (Language::Yaml, filled("", "{a: ", "")),
        (Language::Yaml, filled("", "- ", "x")),
        (Language::Yaml, filled("", "? ", "x")),
        (Language::Yaml, format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
        (Language::Json, filled("", "[", "")),
        (Language::Json, filled("", "{\"a\":", "")),
        (Language::Toml, filled("a = ", "[", "")),
        (Language::Toml, filled("", "a.", "b = 1")),
        (Language::Toml, filled("[", "a.", "b]")),
        (Language::Toml, filled("a = ", "{a=", "")),
    ] {
        let error = refusal(language, &text);
        let is_expected = error.message.contains("nested more than 64 deep")
            || error.message.contains("a list or an object");
        assert!(is_expected, "{language:?} {text:.20}: {error}");
    }
    let mut indented = String::new();
    for depth in 0..1_000 {
        indented.push_str(&format!("{}a:\n", " ".repeat(depth)));
    }
    is_refused(Language::Yaml, &indented, "nested more than 64 deep");
    let allowed = format!("{}x{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
    read(Language::Yaml, &allowed);
    read(Language::Json, &allowed.replace('x', "1"));
}

#[test]
fn more_values_than_anybody_writes_are_refused() {
    for (language, text) in [
        (Language::Yaml, filled("tasks: [", "{},", "]")),
        (Language::Yaml, filled("[", "a,", "]")),
        (Language::Yaml, filled("{", "a,", "}")),
        (Language::Yaml, filled("a: [[", "a,", "]]")),
        (Language::Yaml, filled("", "-\n", "")),
        (Language::Yaml, filled("tasks:\n", "- {}\n", "")),
        (Language::Yaml, filled("- [", "[],", "]")),
        (Language::Json, filled("{\"tasks\":[{}", ",{}", "]}")),
        (Language::Json, filled("[1", ",1", "]")),
        (Language::Toml, filled("a = [1", ",1", "]")),
        (Language::Toml, filled("", "[[a]]\n", "")),
        (Language::Toml, filled("a = [{}", ",{}", "]")),
    ] {
        is_refused(language, &text, "more than 104000 values");
    }
    let mut keys = "{".to_owned();
    (0..104_000).for_each(|n| keys.push_str(&format!("\"{n}\":0,")));
    keys.push_str("\"x\":0}");
    is_refused(Language::Json, &keys, "more than 104000 values");
}

#[test]
fn a_long_script_is_no_bomb() {
    let script = "echo a, b, [c], {d}: - ? x\n".repeat(18_000);
    let json = serde_json::json!({ "script": script }).to_string();
    let yaml = format!("script: |\n{}", script.lines().map(|line| format!("  {line}\n")).collect::<String>());
    let toml = format!("script = '''\n{script}'''\n");
    for (language, text) in [
        (Language::Yaml, yaml),
        (Language::Yaml, format!("{{script: {}}}", serde_json::Value::from(script.as_str()))),
        (Language::Json, json),
        (Language::Toml, toml),
    ] {
        assert_eq!(
            read(language, &text).get("script").unwrap().as_text(),
            Some(script.as_str()),
            "{language:?}"
        );
    }
}
