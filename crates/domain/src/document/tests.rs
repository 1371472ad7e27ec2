#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bombs;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const ALL: [Language; 3] = [Language::Yaml, Language::Toml, Language::Json];

fn read(language: Language, text: &str) -> Value {
    language.read(text).unwrap_or_else(|error| panic!("{language:?} refused {text}: {error}"))
}

fn refusal(language: Language, text: &str) -> SyntaxError {
    match language.read(text) {
        Ok(value) => panic!("{language:?} took {text} for {value:?}"),
        Err(error) => error,
    }
}

/// The own texts of an object of scalars, with what they are taken for.
fn scalars(language: Language, text: &str) -> Vec<(String, ScalarKind, String)> {
    let Data::Object(entries) = read(language, text).data else { panic!("no object: {text}") };
    let scalar = |entry: Entry| match entry.value.data {
        Data::Scalar(scalar) => (entry.key, scalar.kind, scalar.text),
        other => panic!("{other:?}"),
    };
    entries.into_iter().map(scalar).collect()
}

#[test]
fn a_scalar_keeps_its_own_text_in_every_language() {
    let written = ["1.10", "680841e1", "0.10", "1e400", "-0", "123456789012345678901234567890", "true"];
    for text in written {
        for (language, document) in [
            (Language::Yaml, format!("a: {text}")),
            (Language::Toml, format!("a = {text}")),
            (Language::Json, format!("{{\"a\": {text}}}")),
        ] {
            if language == Language::Toml && ["1e400", "123456789012345678901234567890"].contains(&text) {
                // Its numbers have 64 bits.
                continue;
            }
            assert_eq!(read(language, &document).get("a").unwrap().as_text(), Some(text), "{language:?}");
        }
    }
    for text in ["+4915112345678", "0x1F", "0o17", ".5", "5.", "012", "True", ".inf", "08:30", "yes", "1_000"]
    {
        assert_eq!(read(Language::Yaml, &format!("a: {text}")).get("a").unwrap().as_text(), Some(text));
    }
    for text in ["+49", "0x1F", "1_000", "2026-11-29", "07:32:00", "-inf"] {
        assert_eq!(read(Language::Toml, &format!("a = {text}")).get("a").unwrap().as_text(), Some(text));
    }
}

#[test]
fn what_a_scalar_of_yaml_is_follows_the_core_schema() {
    use ScalarKind::{Bool, Null, Number, Text};
    let kinds = [
        ("", Null),
        ("~", Null),
        ("null", Null),
        ("nul", Text),
        ("TRUE", Bool),
        ("tRue", Text),
        ("yes", Text),
        ("1", Number),
        ("-1", Number),
        ("0x1f", Number),
        ("0x", Text),
        ("-0x1f", Text),
        ("1e3", Number),
        ("1e", Text),
        (".5", Number),
        (".", Text),
        ("1.2.3", Text),
        ("'1'", Text),
        ("\"~\"", Text),
        ("!!str 1.10", Text),
        ("! 1", Text),
        ("!!int 7", Number),
        ("!!null ~", Null),
    ];
    for (written, kind) in kinds {
        assert_eq!(scalars(Language::Yaml, &format!("a: {written}"))[0].1, kind, "{written}");
    }
    for wrong in ["!!int x", "!!binary aGVsbG8=", "!mine x", "!!set {a, b}", "!!str [a]", "!<tag:x> y"] {
        let error = refusal(Language::Yaml, &format!("a: {wrong}"));
        assert!(error.message.starts_with("the tag "), "{wrong}: {error}");
        assert_eq!(error.place.unwrap().line, 1);
    }
}

#[test]
fn numbers_are_read_only_where_a_number_is_wanted() {
    let number = |text: &str| read(Language::Yaml, &format!("a: {text}")).get("a").unwrap().as_integer();
    assert_eq!(number("012"), Some(12));
    assert_eq!(number("+12"), Some(12));
    assert_eq!(number("-7"), Some(-7));
    assert_eq!(number("0x10"), Some(16));
    assert_eq!(number("'3'"), Some(3));
    for none in ["1.0", "1e3", "true", "x", "''", "'-'", "0x", "1__0", "_1"] {
        assert_eq!(number(none), None, "{none}");
    }
    let toml = read(Language::Toml, "a = 1_000\nb = 0b101\nc = 1_0.5e1");
    assert_eq!((toml.get("a").unwrap().as_u64(), toml.get("b").unwrap().as_u64()), (Some(1000), Some(5)));
    assert_eq!(toml.get("c").unwrap().amount_text().as_deref(), Some("105"));
    assert_eq!(toml.get("a").unwrap().amount_text().as_deref(), Some("1000"));
}

#[test]
fn a_key_that_is_written_twice_is_refused_with_both_lines_at_every_depth() {
    let cases = [
        (Language::Yaml, "a: 1\nb: 2\na: 3\n", 3, Some(1), "/a"),
        (
            Language::Yaml,
            "tasks:\n  - env:\n      A: 1\n      B: 2\n      A: 1\n",
            5,
            Some(3),
            "/tasks/0/env/A",
        ),
        (Language::Yaml, "env: {1: a, '1': b}\n", 1, Some(1), "/env/1"),
        (Language::Yaml, "x: &x {a: 1}\nenv:\n  <<: *x\n  <<: *x\n", 4, Some(3), "/env/<<"),
        (Language::Json, "{\"a\": 1,\n\"a\": 1}", 2, Some(1), "/a"),
        (
            Language::Json,
            "{\"tasks\": [{}, {\"env\": {\"A\": 1,\n\"\\u0041\": 2}}]}",
            2,
            Some(1),
            "/tasks/1/env/A",
        ),
        (Language::Toml, "a = 1\na = 2\n", 2, None, ""),
        (Language::Toml, "[[tasks]]\n[tasks.env]\nA = 1\nB = 1\nA = 1\n", 5, None, ""),
        (Language::Toml, "env = {A = 1, A = 2}\n", 1, None, ""),
        (Language::Toml, "[env]\nA = 1\n[x]\n[env]\n", 4, None, ""),
    ];
    for (language, text, line, first, pointer) in cases {
        let error = refusal(language, text);
        assert_eq!(error.place.unwrap().line, line, "{language:?} {text}: {error}");
        if let Some(first) = first {
            assert!(error.message.contains(&format!("the first time on line {first}")), "{error}");
            assert_eq!(error.pointer.as_deref(), Some(pointer));
        }
    }
}

#[test]
fn merge_keys_bring_in_what_is_not_written() {
    let text = "base: &base {A: 1, B: 1}\nother: &other {B: 2, C: 2}\n\
                one: {<<: *base, B: own}\nlist: {D: 4, <<: [*base, *other]}\nquoted: {'<<': x}\n\
                nested: {<<: {<<: *base, E: 5}}\n";
    let value = read(Language::Yaml, text);
    let object = |name: &str| {
        let Data::Object(entries) = &value.get(name).unwrap().data else { panic!() };
        entries
            .iter()
            .map(|entry| format!("{}={}", entry.key, entry.value.as_text().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(object("one"), ["B=own", "A=1"]);
    assert_eq!(object("list"), ["D=4", "A=1", "B=1", "C=2"]);
    assert_eq!(object("quoted"), ["<<=x"]);
    assert_eq!(object("nested"), ["E=5", "A=1", "B=1"]);
    for wrong in ["a: {<<: 1}", "a: {<<: [1]}", "x: &x [1]\na:\n  <<: *x"] {
        assert!(refusal(Language::Yaml, wrong).message.contains("`<<` merges an object"), "{wrong}");
    }
}

#[test]
fn aliases_repeat_and_cannot_hold_themselves() {
    let value = read(Language::Yaml, "a: &a {x: [1, &two 2]}\nb: *a\nc: *two\n? *two\n: d\n");
    assert_eq!(value.get("b").unwrap().data, value.get("a").unwrap().data);
    assert_eq!(value.get("c").unwrap().as_text(), Some("2"));
    assert_eq!(value.get("2").unwrap().as_text(), Some("d"));
    assert!(refusal(Language::Yaml, "a: &a [*a]").message.contains("part of the value that it repeats"));
    assert_eq!(refusal(Language::Yaml, "a: 1\nb: *none").place.unwrap().line, 2);
}

#[test]
fn one_document_with_one_leading_byte_order_mark() {
    for (language, text) in [
        (Language::Yaml, "\u{feff}a: x"),
        (Language::Toml, "\u{feff}a = 'x'"),
        (Language::Json, "\u{feff}{\"a\": \"x\"}"),
    ] {
        let value = read(language, text);
        assert_eq!(value.get("a").unwrap().as_text(), Some("x"), "{language:?}");
        assert_eq!(value.place_of("/a").unwrap().line, 1);
    }
    assert!(refusal(Language::Yaml, "a: 1\n---\nb: 2\n").message.contains("second document"));
    assert!(read(Language::Yaml, "").is_null());
    assert!(read(Language::Yaml, "# nothing\n---\n").is_null());
    assert_eq!(read(Language::Yaml, "%YAML 1.2\n---\na: 1\n...\n").get("a").unwrap().as_text(), Some("1"));
}

#[test]
fn line_ends_of_another_system_are_line_ends() {
    for (language, text) in [
        (Language::Yaml, "a: |\r\n  one\r\n  two\r\nb: x\r\n"),
        (Language::Toml, "a = \"\"\"\r\none\r\ntwo\r\n\"\"\"\r\nb = 'x'\r\n"),
        (Language::Json, "{\"a\": \"one\\r\\ntwo\\r\\n\",\r\n\"b\": \"x\"}\r\n"),
    ] {
        let value = read(language, text);
        assert_eq!(
            crate::text::script(value.get("a").unwrap().as_text().unwrap()),
            "one\ntwo\n",
            "{language:?}"
        );
        assert_eq!(value.get("b").unwrap().as_text(), Some("x"));
    }
}

#[test]
fn every_value_has_its_place() {
    let yaml = "name: nightly\ntasks:\n  - name: one\n    command: [a, é, b]\n  - env:\n      a/b: 1\n";
    let json = "{\n  \"name\": \"x\", \"tasks\": [\n    {\"env\": {\"~\": 1}}\n  ]}";
    let toml = "name = \"x\"\n\n[[tasks]]\nname = \"one\"\n\n[[tasks]]\nresources.cpu = \"lots\"\n";
    let cases = [
        (Language::Yaml, yaml, "", Some((1, 1))),
        (Language::Yaml, yaml, "/tasks", Some((2, 1))),
        (Language::Yaml, yaml, "/tasks/0", Some((3, 5))),
        (Language::Yaml, yaml, "/tasks/0/command/2", Some((4, 21))),
        (Language::Yaml, yaml, "/tasks/1/env/a~1b", Some((6, 7))),
        (Language::Yaml, yaml, "/tasks/7", None),
        (Language::Yaml, yaml, "/name/x", None),
        (Language::Json, json, "/tasks/0/env/~0", Some((3, 14))),
        (Language::Json, json, "/name", Some((2, 3))),
        (Language::Toml, toml, "/name", Some((1, 1))),
        (Language::Toml, toml, "/tasks/0/name", Some((4, 1))),
        (Language::Toml, toml, "/tasks/1/resources/cpu", Some((7, 11))),
    ];
    for (language, text, pointer, place) in cases {
        let place = place.map(|(line, column)| Place { line, column });
        assert_eq!(read(language, text).place_of(pointer), place, "{language:?} {pointer}");
    }
}

#[test]
fn a_mistake_in_the_language_has_its_place() {
    for (language, text, line) in [
        (Language::Yaml, "a: 1\nb: [1, 2\nc: 3\n", None),
        (Language::Yaml, "a: 1\nb: \"x\n", None),
        (Language::Yaml, "a: 1\n? [x]\n: y\n", Some(2)),
        (Language::Yaml, "a: 1\n b: 2\n", Some(2)),
        (Language::Toml, "a = 1\nb = = 2\n", Some(2)),
        (Language::Json, "{\n\"a\": 1,\n}", Some(3)),
        (Language::Json, "{\n\"a\": 012}", Some(2)),
        (Language::Json, "{}\nx", Some(2)),
    ] {
        let found = refusal(language, text).place.unwrap();
        assert!(line.is_none_or(|line| line == found.line), "{language:?} {text}: {found}");
    }
    assert_eq!(Language::guess(" {\n \"a\": 1}"), Language::Json);
    assert_eq!(Language::guess("{a: 1}"), Language::Yaml);
    for yaml in ["a: {}", "", "env: {A: b=c}", "# a = 1\na: b = 2", "script: |\n  a=1"] {
        assert_eq!(Language::guess(yaml), Language::Yaml, "{yaml}");
    }
    for toml in ["\u{feff}# x: y\n\nname = \"a: b\"", "a.b='x'", "[[tasks]]\nname = 'a'"] {
        assert_eq!(Language::guess(toml), Language::Toml, "{toml}");
    }
}

#[test]
fn a_document_in_json_is_the_same_document() {
    for (language, text) in [
        (Language::Yaml, "a: [1.10, +49, 0x1F, True, ~, 'q\"\\n', -0]\n\"k\\\"\": {}\n"),
        (Language::Toml, "a = [1_000, 1.50, 2026-11-29, inf]\n[b]\nc = true\n"),
        (Language::Json, "{\"a\": [1.10, 1e5, null, \"\\u0000é\", []]}"),
    ] {
        let value = read(language, text);
        let again = read(Language::Json, &value.to_json());
        assert_eq!(texts(&again), texts(&value), "{language:?}");
        assert!(serde_json::from_str::<serde_json::Value>(&value.to_json()).is_ok());
    }
}

/// Every text in a document, without what it is taken for.
fn texts(value: &Value) -> Vec<String> {
    match &value.data {
        Data::Scalar(scalar) if scalar.kind == ScalarKind::Null => vec!["null".to_owned()],
        Data::Scalar(scalar) => vec![format!("={}", scalar.text)],
        Data::List(items) => items.iter().flat_map(texts).collect(),
        Data::Object(entries) => entries
            .iter()
            .flat_map(|entry| std::iter::once(format!("{}:", entry.key)).chain(texts(&entry.value)))
            .collect(),
    }
}

#[test]
fn the_reader_of_json_agrees_with_another_one() {
    const PARTS: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\"a\"",
        "\"a\":",
        "\"b\":",
        "\\",
        "\\u00e9",
        "\\ud83d\\ude00",
        "\\ud83d",
        "\\n",
        "\\x",
        "1",
        "0",
        "-",
        ".5",
        "1.5",
        "e3",
        "E-",
        "true",
        "null",
        "nul",
        " ",
        "\n",
        "\t",
        "é",
        "🦀",
        "\u{1}",
        "\u{feff}",
    ];
    let mut rng = StdRng::seed_from_u64(13);
    let mut accepted = 0;
    for _ in 0..60_000 {
        let count = rng.random_range(1..9);
        let text: String = (0..count).map(|_| PARTS[rng.random_range(0..PARTS.len())]).collect();
        let theirs = serde_json::from_str::<serde_json::Value>(crate::text::without_bom(&text));
        let ours = Language::Json.read(&text);
        match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => {
                accepted += 1;
                assert_eq!(
                    serde_json::from_str::<serde_json::Value>(&ours.to_json()).unwrap(),
                    *theirs,
                    "{text}"
                );
            }
            (Err(error), Ok(_)) => assert!(error.message.contains("written twice"), "{text:?}: {error}"),
            (Err(_), Err(_)) => {}
            // It reads numbers as floats, which have a largest one.
            (Ok(_), Err(error)) => assert!(error.to_string().contains("out of range"), "{text:?}: {error}"),
        }
    }
    assert!(accepted > 1_000, "only {accepted} of the texts were JSON");
}

#[test]
fn no_text_makes_a_reader_panic() {
    const PARTS: &[&str] = &[
        "a: ",
        "- ",
        "? ",
        ": ",
        "\n",
        "\n  ",
        " ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "&a ",
        "*a",
        "<<: ",
        "|\n",
        ">-\n",
        "'",
        "\"",
        "#",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "!!str ",
        "! ",
        "a",
        "1.10",
        "= ",
        "a = ",
        "[a]\n",
        "[[a]]\n",
        "a.b",
        "\"\"\"",
        "\u{0}",
        "\u{feff}",
        "\r",
        "\t",
        "é",
        "\\",
        "~",
    ];
    let mut rng = StdRng::seed_from_u64(14);
    for _ in 0..40_000 {
        let count = rng.random_range(1..14);
        let text: String = (0..count).map(|_| PARTS[rng.random_range(0..PARTS.len())]).collect();
        for language in ALL {
            if let Ok(value) = language.read(&text) {
                let again = read(Language::Json, &value.to_json());
                assert_eq!(texts(&again), texts(&value), "{language:?} {text:?}");
            }
        }
    }
}
