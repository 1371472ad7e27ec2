#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::*;
use crate::seeds;

const GIB: u64 = 1 << 30;

/// What is known of a machine with graphics processors.
struct Machine {
    capacity: Resources,
    labels: BTreeMap<String, String>,
    countables: BTreeMap<String, u32>,
}

impl Machine {
    fn new() -> Machine {
        let label = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        Machine {
            capacity: Resources { cpu: Cpu::from_millis(8_000), memory: Bytes(16 * GIB), disk: Bytes(GIB) },
            labels: [("gpu", "v100"), ("rack", "10"), ("note", "two words"), ("cuda", "12.10")]
                .map(label)
                .into(),
            countables: [("gpu".to_owned(), 2)].into(),
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            arch: "x86_64",
            os: "linux",
            version: "0.10.1",
            datacenter: "lab",
            name: "box-1",
            capacity: &self.capacity,
            labels: &self.labels,
            countables: &self.countables,
        }
    }
}

fn parse(text: &str) -> Constraint {
    text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
}

fn complaint(text: &str) -> String {
    match text.parse::<Constraint>() {
        Ok(constraint) => panic!("{text} was read as {constraint}"),
        Err(why) => why.to_string(),
    }
}

#[test]
fn a_worker_meets_what_is_true_of_it() {
    let machine = Machine::new();
    for (text, expected) in [
        ("os == linux", true),
        ("os != linux", false),
        ("memory >= 8GiB", true),
        ("memory == 16GiB", true),
        ("memory < 16384MiB", false),
        ("cpu > 7500m", true),
        ("disk in [1GiB, 2GiB]", true),
        ("datacenter in [edge, lab]", true),
        ("name not in [box-1, box-2]", false),
        ("resources.gpu", true),
        ("resources.gpu >= 2", true),
        ("resources.fpga", false),
        ("resources.fpga == 0", true),
        ("labels.gpu", true),
        ("not labels.spot", true),
        ("labels.gpu == a100 or labels.gpu == v100", true),
        ("labels.gpu == a100 and os == linux", false),
        ("os == linux and (arch == arm64 or not labels.spot)", true),
        ("labels.note == \"two words\"", true),
    ] {
        assert_eq!(parse(text).holds(&machine.facts()), expected, "{text}");
        assert_eq!(parse(text).check(&machine.facts()).is_ok(), expected, "{text}");
        let negated = format!("not ({text})");
        assert_eq!(parse(&negated).holds(&machine.facts()), !expected, "{negated}");
    }
}

#[test]
fn an_architecture_has_the_same_meaning_under_each_of_its_names() {
    let machine = Machine::new();
    let holds = |arch, text: &str| parse(text).holds(&Facts { arch, ..machine.facts() });
    assert!(holds("x86_64", "arch == amd64") && holds("x86_64", "arch == x86_64"));
    assert!(holds("aarch64", "arch in [arm64, amd64]") && !holds("aarch64", "arch == amd64"));
    assert!(holds("riscv64", "arch == riscv64"));
}

#[test]
fn versions_are_compared_as_versions() {
    let ascending = ["0.2.0-alpha", "0.2.0-rc1", "0.2.0-rc1.2", "0.2", "0.2.1", "0.9", "0.10.1", "1", "v2.0"];
    for (position, one) in ascending.iter().enumerate() {
        for (other_position, other) in ascending.iter().enumerate() {
            let order = version::compare(one, other);
            assert_eq!(order, position.cmp(&other_position), "{one} and {other}");
        }
    }
    for (one, other) in [("0.2", "0.2.0"), ("v1", "1.0.0"), ("1.0+b1", "1.0+b2"), ("01.2", "1.02")] {
        assert_eq!(version::compare(one, other), std::cmp::Ordering::Equal, "{one} and {other}");
    }
    let machine = Machine::new();
    assert!(parse("version >= 0.9 and version < 0.11 and version == 0.10.1.0").holds(&machine.facts()));
}

#[test]
fn labels_are_equal_as_texts_and_ordered_as_versions() {
    let machine = Machine::new();
    for (text, expected) in [
        ("labels.cuda >= 12.9", true),
        ("labels.rack > 9", true),
        ("labels.rack == 10.0", false),
        ("labels.rack >= 10.0 and labels.rack <= 10.0", true),
    ] {
        assert_eq!(parse(text).holds(&machine.facts()), expected, "{text}");
    }
}

#[test]
fn a_label_that_is_not_set_is_equal_to_nothing_and_before_or_after_nothing() {
    let machine = Machine::new();
    for (text, expected) in [
        ("labels.spot == yes", false),
        ("labels.spot in [yes, no]", false),
        ("labels.spot != yes", true),
        ("labels.spot not in [yes, no]", true),
        ("labels.spot < 1", false),
        ("labels.spot >= 1", false),
    ] {
        assert_eq!(parse(text).holds(&machine.facts()), expected, "{text}");
    }
}

#[test]
fn an_explanation_names_the_first_part_that_does_not_hold_and_what_was_found() {
    let machine = Machine::new();
    let why = |text: &str| parse(text).check(&machine.facts()).unwrap_err().to_string();
    for (text, expected) in [
        ("labels.gpu == a100", "constraint `labels.gpu == a100`: labels.gpu is v100"),
        ("os == linux and (memory>=32GiB and labels.x)", "constraint `memory >= 32GiB`: memory is 16GiB"),
        ("labels.spot", "constraint `labels.spot`: labels.spot is not set"),
        ("not labels.gpu", "constraint `not labels.gpu`: labels.gpu is v100"),
        (
            "arch == arm64 or labels.gpu in [a100, h100] or arch == riscv64",
            "constraint `arch == arm64 or labels.gpu in [a100, h100] or arch == riscv64`: arch is x86_64, labels.gpu is v100",
        ),
        ("resources.gpu > 2", "constraint `resources.gpu > 2`: resources.gpu is 2"),
        ("resources.fpga", "constraint `resources.fpga`: resources.fpga is 0"),
        ("cpu >= 16", "constraint `cpu >= 16`: cpu is 8"),
    ] {
        assert_eq!(why(text), expected);
    }
}

#[test]
fn the_normal_form_has_one_way_of_writing_each_thing() {
    for (text, normal) in [
        ("memory>=8192MiB", "memory >= 8GiB"),
        ("cpu == 500m", "cpu == 0.5"),
        ("((os == linux))", "os == linux"),
        ("(a.b == c)", ""),
        ("arch in[ arm64 ,'amd64' ]", "arch in [arm64, amd64]"),
        ("not arch in [arm64]", "arch not in [arm64]"),
        ("not (labels.spot)", "not labels.spot"),
        ("not not labels.spot", "not not labels.spot"),
        ("labels.a and (labels.b and labels.c)", "labels.a and labels.b and labels.c"),
        ("labels.a or labels.b and labels.c", "labels.a or labels.b and labels.c"),
        ("(labels.a or labels.b) and labels.c", "(labels.a or labels.b) and labels.c"),
        ("not (labels.a or labels.b)", "not (labels.a or labels.b)"),
        ("labels.x == 'and'", "labels.x == \"and\""),
        (r#"labels.x == 'say "hi" \\'"#, r#"labels.x == "say \"hi\" \\""#),
        ("labels.x == ''", "labels.x == \"\""),
        ("resources.gpu == 02", "resources.gpu == 2"),
    ] {
        match text.parse::<Constraint>() {
            Ok(constraint) => {
                assert_eq!(constraint.to_string(), normal);
                assert_eq!(parse(normal), constraint);
            }
            Err(_) => assert_eq!(normal, "", "{text}"),
        }
    }
}

#[test]
fn a_mistake_is_told_with_its_place_and_what_was_expected() {
    for (text, expected) in [
        ("", "column 1: expected a fact such as `arch` or `labels.gpu`, found the end"),
        ("arch", "column 5: expected `==`, another operator or `in` after `arch`, found the end"),
        ("arch = arm64", "column 6: `=` is not an operator (write `==`)"),
        ("arch == arm64 && labels.a", "column 15: `&` is not an operator (write `and`)"),
        ("!labels.a", "column 1: `!` is not an operator (write `not`, or `!=` to compare)"),
        ("arch == ", "column 9: expected a value, found the end"),
        (
            "arch == in",
            "column 9: expected a value, found the word `in` (if the value is `in`, write \"in\")",
        ),
        ("arch < arm64", "column 6: `arch` has no order: compare it with `==`, `!=` or `in`"),
        ("arch in arm64", "column 9: expected a list such as `[a, b]` after `in`, found `arm64`"),
        ("arch in [arm64", "column 15: expected `,` or `]`, found the end"),
        ("arch in []", "column 10: expected a value, found `]`"),
        ("(arch == a", "column 11: expected `and`, `or` or `)`, found the end"),
        ("arch == a)", "column 10: expected `and`, `or` or the end, found `)`"),
        (
            "arch == a AND os == b",
            "column 11: expected `and`, `or` or the end, found `AND` (did you mean `and`?)",
        ),
        ("memroy >= 1GiB", "column 1: `memroy` is not a fact of a worker (did you mean `memory`?)"),
        ("label.gpu", "column 1: `label.gpu` is not a fact of a worker (did you mean `labels.gpu`?)"),
        ("labels == a", "column 1: `labels` is not a fact of a worker (write a name after it: `labels.gpu`)"),
        (
            "zone == a",
            "column 1: `zone` is not a fact of a worker (write `labels.zone` for a label; there are `arch`, `os`, `version`, `datacenter`, `name`, \
             `cpu`, `memory`, `disk`, `labels.KEY` and `resources.NAME`)",
        ),
        (
            "labels. == a",
            "column 1: an empty text cannot be the key of a label (write `labels.` and a key such as `labels.gpu`)",
        ),
        ("resources.memory > 1", "column 1: `memory` is a fact by itself (write `memory`)"),
        (
            "resources.GPU",
            "column 1: `GPU` cannot be the name of a resource (write `resources.` and a name such as `resources.gpu`)",
        ),
        ("resources.gpu > many", "column 17: `many` is not a number: write a whole one such as 2"),
        (
            "memory >= lots",
            "column 11: `lots` is not a number of bytes: write bytes such as 4096, or a number and a unit such as \
             \"512MiB\" or \"2GB\"",
        ),
        ("labels.a == 'x", "column 13: the quote that opens here is never closed"),
        (
            "labels.é == x",
            "column 8: `é` cannot stand here (values with such characters are written in quotes)",
        ),
        ("labels.a not labels.b", "column 14: expected `in`, found `labels.b`"),
    ] {
        assert_eq!(complaint(text), expected, "{text}");
    }
}

#[test]
fn a_constraint_is_neither_long_nor_deep() {
    let deep = |n: usize| format!("{}labels.a{}", "(".repeat(n), ")".repeat(n));
    assert_eq!(parse(&deep(MAX_CONSTRAINT_DEPTH)).to_string(), "labels.a");
    assert_eq!(
        complaint(&deep(MAX_CONSTRAINT_DEPTH + 1)),
        "column 34: nested deeper than the 32 that are allowed"
    );
    assert!(complaint(&format!("{}labels.a", "not ".repeat(200))).contains("nested deeper"));
    assert!(complaint(&"x".repeat(MAX_CONSTRAINT_BYTES + 1)).contains("1025 bytes"));
    // The normal form would be longer than what may be read again.
    let squeezed = format!("arch in[{}]", vec!["a"; 400].join(","));
    assert!(squeezed.len() < MAX_CONSTRAINT_BYTES && complaint(&squeezed).contains("bytes"));
}

#[test]
fn a_fact_alone_is_read_as_it_is_written() {
    for text in ["labels.rack", "datacenter", "name", "resources.gpu", "arch"] {
        assert_eq!(text.parse::<Fact>().unwrap().to_string(), text);
    }
    assert!("labels.rack == 1".parse::<Fact>().is_err());
    let json = serde_json::to_string(&parse("os==linux")).unwrap();
    assert_eq!(json, r#""os == linux""#);
    assert_eq!(serde_json::from_str::<Constraint>(&json).unwrap(), parse("os == linux"));
}

fn any_text(rng: &mut StdRng) -> String {
    const CHARS: &[char] = &['a', 'Z', '0', '.', '-', ' ', '"', '\'', '\\', 'é', '(', '=', '['];
    let some = *["and", "not", "a100", "1.2", "", "0.10-rc1"].choose(rng).unwrap();
    if rng.random_bool(0.5) {
        return some.to_owned();
    }
    (0..rng.random_range(0..8)).map(|_| *CHARS.choose(rng).unwrap()).collect()
}

fn any_value(rng: &mut StdRng, fact: &Fact) -> Value {
    match fact {
        Fact::Cpu => Value::Cpu(Cpu::from_millis(rng.random_range(0..20_000))),
        Fact::Memory | Fact::Disk => Value::Bytes(Bytes(rng.random_range(0..40) * (GIB / 2))),
        Fact::Resource(_) => Value::Count(rng.random_range(0..4)),
        _ => Value::Text(any_text(rng)),
    }
}

fn any_fact(rng: &mut StdRng) -> Fact {
    match rng.random_range(0..3) {
        0 => Fact::Label((*["gpu", "a/b.c_d-e", "note", "0"].choose(rng).unwrap()).to_owned()),
        1 => Fact::Resource((*["gpu", "fpga-2"].choose(rng).unwrap()).to_owned()),
        _ => Fact::PLAIN.choose(rng).unwrap().1.clone(),
    }
}

/// As the parser would build it: no `All` directly in `All`, no `Any` directly in `Any`.
fn any_expr(rng: &mut StdRng, depth: u32) -> Expr {
    let several = |rng: &mut StdRng, unwanted: fn(&Expr) -> bool| -> Vec<Expr> {
        let mut parts = Vec::new();
        while parts.len() < 2 || rng.random_bool(0.3) {
            let part = any_expr(rng, depth - 1);
            if !unwanted(&part) {
                parts.push(part);
            }
        }
        parts
    };
    let fact = any_fact(rng);
    match rng.random_range(0..if depth == 0 { 3 } else { 6 }) {
        0 if fact.may_be_absent() => Expr::Has(fact),
        0 | 1 => {
            let operator = Operator::ALL.choose(rng).unwrap().1;
            let operator = if fact.has_order() { operator } else { Operator::NotEqual };
            let value = any_value(rng, &fact);
            Expr::Compare(fact, operator, value)
        }
        2 => {
            let values = (0..rng.random_range(1..4)).map(|_| any_value(rng, &fact)).collect();
            Expr::OneOf(fact, values)
        }
        3 => Expr::Not(Box::new(any_expr(rng, depth - 1))),
        4 => Expr::All(several(rng, |part| matches!(part, Expr::All(_)))),
        _ => Expr::Any(several(rng, |part| matches!(part, Expr::Any(_)))),
    }
}

#[test]
fn the_normal_form_of_any_constraint_is_read_as_the_same_constraint() {
    let mut read = 0;
    seeds::each(0..3_000, |mut rng| {
        let constraint = Constraint(any_expr(&mut rng, 3));
        let text = constraint.to_string();
        if text.len() <= MAX_CONSTRAINT_BYTES {
            assert_eq!(parse(&text), constraint, "{text}");
            read += 1;
        }
    });
    assert!(read > 2_000, "{read}");
}

#[test]
fn a_reason_is_given_exactly_where_a_constraint_does_not_hold() {
    let machine = Machine::new();
    seeds::each(0..2_000, |mut rng| {
        let constraint = Constraint(any_expr(&mut rng, 3));
        let verdict = constraint.check(&machine.facts());
        assert_eq!(verdict.is_ok(), constraint.holds(&machine.facts()), "{constraint}");
        if let Err(unmet) = verdict {
            assert!(!unmet.found.is_empty());
            let condition = unmet.condition.parse::<Constraint>();
            assert!(
                condition.is_ok_and(|part| !part.holds(&machine.facts())) || unmet.condition.len() > 1024
            );
        }
    });
}

#[test]
fn no_text_whatever_makes_the_parser_fail_otherwise_than_by_an_error() {
    const PIECES: &[&str] = &[
        "arch",
        "labels.",
        "gpu",
        "==",
        "=",
        "!",
        "<",
        "in",
        "not",
        "and",
        "or",
        "(",
        ")",
        "[",
        "]",
        ",",
        "\"",
        "'",
        "\\",
        " ",
        "é",
        "🦀",
        "\0",
        "8GiB",
        "memory",
        "resources.x",
        ".",
        "cpu",
        "1e9",
        "-1",
    ];
    seeds::each(0..20_000, |mut rng| {
        let text: String = (0..rng.random_range(0..14)).map(|_| *PIECES.choose(&mut rng).unwrap()).collect();
        match text.parse::<Constraint>() {
            Ok(constraint) => assert_eq!(parse(&constraint.to_string()), constraint),
            Err(why) => assert!((1..=text.chars().count() + 1).contains(&why.column), "{text:?}: {why}"),
        }
    });
}
