//! Values of parameters in a specification.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::document::{Data, Value as Document};
use crate::parameters::Parameters;

fn yaml(text: &str) -> Document {
    Language::Yaml.read(text).unwrap()
}

/// Fills a specification, both in YAML; or every mistake as `pointer: detail (suggestion)`.
fn fill(document: &str, values: &str) -> Result<Filled, Vec<String>> {
    fill_after(document, values, None)
}

fn fill_after(document: &str, values: &str, earlier: Option<&Parameters>) -> Result<Filled, Vec<String>> {
    let (document, values) = (yaml(document), yaml(values));
    let json = serde_json::from_str(&document.to_json()).unwrap();
    schema::accepts(&json).unwrap_or_else(|why| panic!("the schema refuses {json}: {why}"));
    let unfilled = Unfilled { values: Some(&values), earlier, ..Unfilled::new(&document) };
    unfilled.fill().map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

fn command(spec: &JobSpec) -> Vec<&str> {
    match &spec.tasks[0].action {
        Action::Command(words) => words.iter().map(String::as_str).collect(),
        Action::Script(script) => vec![script],
    }
}

const TRAIN: &str = r#"
command: [train, --lr, "{{ lr }}", "--data={{ data }}", "{{ .Names }}"]
count: "{{ n }}"
timeout: "{{ limit }}"
resources: {memory: "{{ memory }}"}
labels: {run: "{{ data }}-{{ n }}"}
distinct_workers: "{{ apart }}"
parameters:
  lr: {type: number, default: 0.10, min: 0}
  data: {max_length: 20}
  n: {type: integer, default: 2, min: 1, max: 8}
  limit: {type: duration, default: 30m}
  memory: {type: size, default: 1GiB}
  apart: {type: boolean, default: false}
"#;

#[test]
fn values_are_put_into_strings_and_fields_of_every_type() {
    let filled = fill(TRAIN, "{lr: 1e-3, data: cats, n: 3, apart: true}").unwrap();
    let spec = filled.spec;
    assert_eq!(command(&spec), ["train", "--lr", "1e-3", "--data=cats", "{{ .Names }}"]);
    let task = &spec.tasks[0];
    assert_eq!((task.indices, task.distinct_workers), (Indices::Count(3), true));
    assert_eq!((task.timeout, spec.labels["run"].as_str()), (Some(Span::from_secs(1800)), "cats-3"));
    assert_eq!(task.resources.amounts.memory, Bytes(1 << 30));
    assert_eq!(
        (spec.parameters["lr"].value.as_str(), spec.parameters["limit"].value.as_str()),
        ("1e-3", "30m")
    );
    assert_eq!(filled.hints, []);
    assert_eq!(command(&fill(TRAIN, "{data: a}").unwrap().spec)[2], "0.10");
}

#[test]
fn missing_wrong_and_unknown_values_are_told_at_their_names_all_at_once() {
    let told = fill(TRAIN, "{lr: -1, n: many, datas: x, memory: [1]}").unwrap_err();
    assert_eq!(
        told,
        [
            "/parameters/datas: the specification has no parameter `datas` (did you mean `data`?)",
            "/parameters/lr: expected a number of at least 0, found `-1`",
            "/parameters/data: the parameter `data` has no default and needs a value: a text of at most 20 characters",
            "/parameters/n: expected a whole number from 1 to 8, found `many`",
            "/parameters/memory: expected a size such as 2GiB, found a list",
        ]
    );
    let told = fill(TRAIN, "[1]").unwrap_err();
    assert_eq!(told[0], "/parameters: expected an object of values such as {lr: 0.1}, found a list");
    assert_eq!(told.len(), 2, "and one is missing: {told:?}");
    assert_eq!(
        fill("{command: [a]}", "{lr: 1}").unwrap_err(),
        ["/parameters/lr: the specification has no parameter `lr`"]
    );
}

#[test]
fn a_mistake_that_a_value_makes_names_its_parameter() {
    let told = fill("{command: [a], count: '{{ n }}', parameters: {n: {}}}", "{n: 0}").unwrap_err();
    let expected = "/count: expected a whole number from 1 to 100000, found a string (the value is that of the parameter `n`)";
    assert_eq!(told, [expected]);
    // A mistake of the text around the value is not hidden by one that names the same word.
    let told = fill(
        "{command: [a], labels: {x: '{{ n }}'}, timeout: '{{ timeout }}', parameters: {n: {}, timeout: {}}}",
        "{n: a, timeout: timeout}",
    )
    .unwrap_err();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].ends_with("the value is that of the parameter `timeout`)"), "{told:?}");
    // Of what was saved before, the sender knows the values alone.
    let document = yaml("{command: [a], count: '{{ n }}', parameters: {n: {type: integer}}}");
    let values = yaml("{n: 0}");
    let saved = Unfilled { pointer: None, values: Some(&values), ..Unfilled::new(&document) };
    let told = saved.fill().unwrap_err();
    assert_eq!(
        told.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["/parameters/n: /count: expected a whole number from 1 to 100000, found 0"]
    );
}

#[test]
fn a_value_is_text_whatever_it_looks_like() {
    for value in ["]", "a, b", "{{ other }}", "{x: 1}", "null", "\"", "\n- x", "#", "{{ data }}", "~"] {
        let document = yaml(
            "{command: [echo, '{{ data }}'], env: {A: 'x{{ data }}y'}, parameters: {data: {}, other: {default: o}}}",
        );
        let given = Document::from(&json!({ "data": value }));
        let filled = Unfilled { values: Some(&given), ..Unfilled::new(&document) }.fill().unwrap();
        assert_eq!(command(&filled.spec), ["echo", value]);
        assert_eq!(filled.spec.tasks[0].env["A"], format!("x{value}y"));
    }
}

#[test]
fn a_shell_and_a_constraint_get_only_plain_words() {
    let refused = |document: &str, value: &str| {
        let document = yaml(document);
        let given = Document::from(&json!({ "x": value }));
        Unfilled { values: Some(&given), ..Unfilled::new(&document) }.fill().is_err()
    };
    for document in [
        "{script: 'echo {{ x }}', parameters: {x: {}}}",
        "{command: [sh, -c, 'echo {{ x }}'], parameters: {x: {}}}",
        "{command: [env, A=b, /bin/bash, -lc, 'echo {{ x }}'], parameters: {x: {}}}",
        "{command: [bash, -c, -e, 'echo {{ x }}'], parameters: {x: {}}}",
        "{image: i, entrypoint: [sh, -c], command: ['echo {{ x }}'], parameters: {x: {}}}",
        "{image: i, command: ['echo {{ x }}'], entrypoint: ['{{ shell }}', -c], parameters: {x: {}, shell: {default: sh}}}",
        "{image: i, entrypoint: [sh, '{{ c }}'], command: ['echo {{ x }}'], parameters: {x: {}, c: {default: -c}}}",
        "{image: i, entrypoint: [sh, -c, 'echo {{ x }}'], parameters: {x: {}}}",
        "{command: ['{{ shell }}', -c, 'echo {{ x }}'], parameters: {x: {}, shell: {default: bash}}}",
        "{command: [su, worker, -c, 'echo {{ x }}'], parameters: {x: {}}}",
        "{command: [ssh, host, 'echo {{ x }}'], parameters: {x: {}}}",
        "{command: [python3, '-cprint(\"{{ x }}\")'], parameters: {x: {}}}",
        "{command: [a], health: {command: [sh, -c, 'test {{ x }}'], interval: 10s}, parameters: {x: {}}}",
        "{tasks: [{name: a, script: 'echo {{ x }}'}], parameters: {x: {}}}",
        "{command: [a], constraints: ['labels.a == {{ x }}'], parameters: {x: {}}}",
        "{command: [a], affinities: [{when: 'labels.a == {{ x }}', weight: 1}], parameters: {x: {}}}",
        "{tasks: [{name: a, command: [a], constraints: ['labels.a == {{ x }}']}], parameters: {x: {}}}",
    ] {
        assert!(!refused(document, "plain-1.0"), "{document}");
        for value in ["a b", "$(id)", "a or arch != x", "'", "\"; x"] {
            assert!(refused(document, value), "{document} takes {value}");
        }
    }
    // The shell's own arguments are no script, and neither are those of other programs.
    assert!(!refused("{command: [sh, -c, 'echo \"$1\"', sh, '{{ x }}'], parameters: {x: {}}}", "a b"));
    assert!(!refused("{command: [train, -n, '{{ x }}', '-o={{ x }}'], parameters: {x: {}}}", "a b"));
    let entrypoint = "{image: i, entrypoint: ['{{ shell }}', a.sh], command: ['{{ x }}'], parameters: {x: {}, shell: {default: sh}}}";
    assert!(!refused(entrypoint, "a b"));
    let told = fill("{script: 'echo {{ x }}', parameters: {x: {}}}", "{x: a b}").unwrap_err();
    assert_eq!(
        told,
        [
            "/script: the value of `x` is `a b`; in a script, a value has only letters, digits and the characters _./:@%+=,- \
          (use \"$GAFFER_PARAM_X\" there: it takes every value)"
        ]
    );
}

#[test]
fn a_name_that_nobody_declares_stays_and_one_that_resembles_gets_a_hint() {
    let document =
        "{command: ['{{ learnrate }}', '{{ item }}', '{{ lr }}'], parameters: {learn_rate: {default: 1}}}";
    let filled = fill(document, "{}").unwrap();
    assert_eq!(command(&filled.spec), ["{{ learnrate }}", "{{ item }}", "{{ lr }}"]);
    let hints: Vec<String> = filled.hints.iter().map(ToString::to_string).collect();
    assert_eq!(
        hints,
        [
            "/command/0: `{{ learnrate }}` stays as it is: there is no parameter `learnrate` (did you mean `{{ learn_rate }}`?)"
        ]
    );
}

#[test]
fn a_name_is_not_made_of_a_value() {
    let told = fill("{command: [a], env: {'{{ x }}': a}, parameters: {x: {default: A}}}", "{}").unwrap_err();
    assert_eq!(told, ["/env/{{ x }}: `x` is a parameter: values are put into values, not into names"]);
}

#[test]
fn declarations_are_read_with_all_their_mistakes() {
    let mistakes = mistakes(with(json!({"parameters": {
        "a": {"type": "numbr"},
        "b": {"type": "integer", "pattern": "x"},
        "c": {"type": "integer", "min": 2, "max": 1},
        "d": {"type": "choice"},
        "e": {"pattern": "("},
        "f": {"type": "integer", "default": "x"},
        "g-h": {"default": 1},
        "g_h": {"default": 1},
        "i": 1,
        "j k": {"default": 1},
        "l": {"values": ["a", "a"], "default": "a"},
        "m": {"type": "boolean", "min": true, "unit": "x"},
        "n": {"type": "duration", "max": "soon", "default": 1},
    }})));
    let places = [
        "a/type",
        "b/pattern",
        "b",
        "c/min",
        "c",
        "d",
        "e/pattern",
        "f/default",
        "g_h",
        "i",
        "j k",
        "l/values/1",
        "m/unit",
    ];
    for place in places {
        assert!(
            mistakes.iter().any(|mistake| mistake.contains(&format!("/parameters/{place}"))),
            "{place}: {mistakes:#?}"
        );
    }
}

#[test]
fn the_normal_form_has_the_values_and_is_not_filled_again() {
    let spec = fill(TRAIN, "{data: '{{ n }}'}").unwrap().spec;
    let normal = serde_json::to_value(&spec).unwrap();
    assert_eq!(normal["parameters"]["data"], json!({"type": "string", "max_length": 20, "value": "{{ n }}"}));
    assert_eq!(read(normal.clone()), spec);
    assert_eq!(JobSpec::read_stored(STORED_VERSION, &normal), Ok(spec));
    let told = fill(&normal.to_string(), "{lr: 2}").unwrap_err();
    assert!(
        told[0].starts_with("/parameters/lr: `lr` has the value `0.10` in this specification"),
        "{told:?}"
    );
}

#[test]
fn values_of_an_earlier_job_are_kept_where_none_is_given_and_must_fit() {
    let earlier = fill(TRAIN, "{data: cats, n: 5, lr: 0.5}").unwrap().spec.parameters;
    let again = fill_after(TRAIN, "{lr: 0.2}", Some(&earlier)).unwrap().spec;
    assert_eq!(command(&again)[2..4], ["0.2", "--data=cats"]);
    assert_eq!(again.task_count(), 5);
    let tighter = TRAIN.replace("max: 8", "max: 4");
    let told = fill_after(&tighter, "{}", Some(&earlier)).unwrap_err();
    assert!(told[0].starts_with("/parameters/n: the value of the earlier job does not fit"), "{told:?}");
}

#[test]
fn a_template_may_lack_values_and_has_no_other_mistake() {
    let check = |document: &str| {
        let document = yaml(document);
        let checked = Unfilled::new(&document).check();
        checked.map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(check(TRAIN), Ok(Vec::new()));
    assert_eq!(check("{command: [a], count: '{{ n }}', parameters: {n: {type: integer}}}"), Ok(Vec::new()));
    let told =
        check("{command: [], count: '{{ n }}', parameters: {n: {type: integer, default: x}}}").unwrap_err();
    assert_eq!(told.len(), 2, "{told:?}");
    let told = check("{command: [], count: '{{ n }}', parameters: {n: {type: intger}}}").unwrap_err();
    assert_eq!(told.len(), 2, "what has no value says nothing: {told:?}");
    // A default has to fit the field where it goes.
    assert!(check("{command: [a], count: '{{ n }}', parameters: {n: {type: integer, default: 0}}}").is_err());
    assert_eq!(check("{command: ['{{ dat }}'], parameters: {data: {}}}").unwrap().len(), 1);
}

#[test]
fn many_placeholders_of_a_long_value_are_refused() {
    let document = yaml(&format!("{{command: [a, '{}'], parameters: {{x: {{}}}}}}", "{{ x }}".repeat(1000)));
    let given = Document::from(&json!({ "x": "y".repeat(16_000) }));
    let told = Unfilled { values: Some(&given), ..Unfilled::new(&document) }.fill().unwrap_err();
    assert!(told[0].detail.contains("larger than the 1048576 bytes"), "{told:?}");
    let long = Document::from(&json!({ "x": "y".repeat(17_000) }));
    assert!(Unfilled { values: Some(&long), ..Unfilled::new(&document) }.fill().is_err());
    let documents = format!(
        "{{command: [a], parameters: {{{}}}}}",
        (0..10).map(|n| format!("x{n}: {{default: {}}}", "y".repeat(16_000))).collect::<Vec<_>>().join(", ")
    );
    let told = fill(&documents, "{}").unwrap_err();
    assert!(told[0].starts_with("/parameters: the values have 160000 bytes"), "{told:?}");
}

/// Names of fields, lengths of lists and types of values: all but texts.
fn structure(document: &Document) -> String {
    match &document.data {
        Data::Scalar(_) => "_".to_owned(),
        Data::List(items) => format!("[{}]", items.iter().map(structure).collect::<Vec<_>>().join(",")),
        Data::Object(entries) => {
            let entries: Vec<String> =
                entries.iter().map(|entry| format!("{:?}:{}", entry.key, structure(&entry.value))).collect();
            format!("{{{}}}", entries.join(","))
        }
    }
}

#[test]
fn no_value_changes_the_structure_around_it_and_each_comes_back() {
    const PIECES: &[&str] = &[
        "{{ x }}", "{{ y }}", "}}", "{{", ": ", "- ", "\n", "\"", "'", "#", "[", "]", ",", "a", "é", "0",
        " ", "\\", "&a", "*a", "<<",
    ];
    let mut rng = StdRng::seed_from_u64(7);
    let document = yaml(
        "{command: [echo, '{{ x }}', 'a{{ y }}b{{ x }}'], env: {A: '{{ y }}', B: '{{{ x }}}'}, labels: {a: b}, \
         each: ['{{ x }}', z], parameters: {x: {}, y: {}}}",
    );
    for _ in 0..2_000 {
        let mut text =
            || -> String { (0..rng.random_range(0..6)).map(|_| *PIECES.choose(&mut rng).unwrap()).collect() };
        let (x, y) = (text(), text());
        let given = Document::from(&json!({ "x": x, "y": y }));
        let unfilled = Unfilled { values: Some(&given), ..Unfilled::new(&document) };
        let filled = unfilled.filled_document();
        assert_eq!(structure(&filled), structure(&document));
        let spec = unfilled.fill().unwrap().spec;
        assert_eq!(command(&spec), ["echo", &x, &format!("a{y}b{x}")]);
        assert_eq!((&spec.parameters["x"].value, &spec.parameters["y"].value), (&x, &y));
        assert_eq!(spec.tasks[0].env["B"], format!("{{{x}}}"));
        assert_eq!(read(serde_json::to_value(&spec).unwrap()), spec);
    }
}
