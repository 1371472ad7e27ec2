#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::document::Language;
use crate::spelling::with_suggestion;

fn yaml(text: &str) -> Value {
    Language::Yaml.read(text).unwrap()
}

/// What the type makes of a value that is written like this in YAML, or what is said of it.
fn checked(takes: &ParameterType, written: &str) -> Result<String, String> {
    takes.check(&yaml(written)).map_err(|why| with_suggestion(&why.detail, why.suggestion.as_deref()))
}

fn names(text: &str) -> Vec<&str> {
    placeholders(text).map(|found| found.name).collect()
}

#[test]
fn a_placeholder_is_a_name_in_double_braces_and_nothing_else_is() {
    assert_eq!(names("{{ lr }} {{lr}}{{\tbatch-size }} {{ a_1 }}"), ["lr", "lr", "batch-size", "a_1"]);
    for text in [
        "{{ .Names }}",
        "{{ a | b }}",
        "{{ a b }}",
        "{{}}",
        "{{ }}",
        "{{ _a }}",
        "{ a }",
        "{{ a",
        "{{\na }}",
        "{{ é }}",
    ] {
        assert_eq!(names(text), Vec::<&str>::new(), "{text}");
    }
    // Three braces are an object of JSON around one.
    assert_eq!(names(r#"{"a": {{{ x }}}}"#), ["x"]);
    assert_eq!(names("{{ {{ x }} }}"), ["x"]);
    assert_eq!((whole("{{ n }}"), whole(" {{ n }}"), whole("{{ n }}{{ m }}")), (Some("n"), None, None));
}

#[test]
fn numbers_have_limits_and_whole_ones_one_notation() {
    let whole = ParameterType::Integer { min: Some(1), max: Some(64) };
    assert_eq!(checked(&whole, "0x10"), Ok("16".to_owned()));
    assert_eq!(checked(&whole, "'+8'"), Ok("8".to_owned()));
    for wrong in ["0", "65", "1.5", "a", "true", "''"] {
        assert!(
            checked(&whole, wrong).unwrap_err().starts_with("expected a whole number from 1 to 64, found")
        );
    }
    assert_eq!(checked(&whole, "[1]").unwrap_err(), "expected a whole number from 1 to 64, found a list");
    let number = ParameterType::Number { min: Some(0.0), max: None };
    // What a program reads is what was written.
    assert_eq!(checked(&number, "1e-3"), Ok("1e-3".to_owned()));
    assert_eq!(checked(&number, "0.10"), Ok("0.10".to_owned()));
    for (written, plain) in [("+5", "5"), ("1_000.5", "1000.5"), ("'+1e3'", "1e3"), ("0x1F", "31")] {
        assert_eq!(checked(&number, written), Ok(plain.to_owned()), "{written}");
    }
    for wrong in [
        "-1", ".inf", "inf", "NaN", "1e999", "x", "++5", "+-5", "--5", "_1_", "_1", "1_", "1__0", "1_.5",
        "1._5", "1e_5", "1_e5", "''", "+",
    ] {
        assert!(
            checked(&number, wrong).unwrap_err().starts_with("expected a number of at least 0"),
            "{wrong}"
        );
    }
}

#[test]
fn amounts_stay_as_they_are_written_within_their_limits() {
    let span = ParameterType::Duration { min: Some(Span::from_secs(10)), max: Some(Span::from_secs(3600)) };
    assert_eq!(checked(&span, "90s"), Ok("90s".to_owned()));
    assert_eq!(checked(&span, "5s").unwrap_err(), "expected a time from 10s to 1h, found `5s`");
    let size = ParameterType::Size { min: None, max: Some(Bytes(1 << 30)) };
    assert_eq!(checked(&size, "512MiB"), Ok("512MiB".to_owned()));
    assert!(checked(&size, "2GiB").unwrap_err().starts_with("expected a size of at most 1GiB"));
    assert!(checked(&size, "2 parsecs").is_err());
}

#[test]
fn a_text_matches_its_pattern_from_beginning_to_end() {
    let takes = |pattern: &str| ParameterType::String { pattern: Some(pattern.to_owned()), max_length: None };
    assert_eq!(checked(&takes("[a-z]+|x"), "abc"), Ok("abc".to_owned()));
    for wrong in ["abc1", "1abc", "\"abc\\n\"", "''"] {
        assert!(checked(&takes("[a-z]+|x"), wrong).is_err(), "{wrong}");
    }
    // What belongs together in the pattern stays together.
    assert!(checked(&takes("a|b"), "ab").is_err());
    assert!(check_pattern("a)|(b").is_err());
    assert!(check_pattern("(").is_err());
    assert_eq!(check_pattern(r"\bé"), Err(InvalidPattern::Unusable));
    assert_eq!(check_pattern("((a{1000}){1000}){1000}"), Err(InvalidPattern::Unusable));
    let short = ParameterType::String { pattern: None, max_length: Some(2) };
    assert_eq!(checked(&short, "äö"), Ok("äö".to_owned()));
    assert_eq!(checked(&short, "äöü").unwrap_err(), "expected a text of at most 2 characters, found `äöü`");
}

#[test]
fn a_choice_names_its_values_and_the_nearest_one() {
    let choice = ParameterType::Choice { values: vec!["small".to_owned(), "large".to_owned()] };
    assert_eq!(checked(&choice, "large"), Ok("large".to_owned()));
    let told = checked(&choice, "smal").unwrap_err();
    assert_eq!(told, "expected `small` or `large`, found `smal` (did you mean `small`?)");
    assert_eq!(checked(&ParameterType::Boolean, "TRUE"), Ok("true".to_owned()));
    assert!(checked(&ParameterType::Boolean, "yes").is_err());
}

#[test]
fn what_a_shell_or_a_constraint_would_read_is_no_value_there() {
    for value in ["0.1", "/data/set-1", "a=b", "user@host:22", "größe", ""] {
        assert_eq!(Code::Script.check("x", value), Ok(()), "{value}");
    }
    for value in [
        "a b", "$(id)", "`id`", "a;b", "a|b", "a&b", "*", "~root", "a\nb", "'", "\"", "\\", "#", "{a,b}",
        "!x", ">f",
    ] {
        let why = Code::Script.check("batch-size", value).unwrap_err();
        assert!(why.suggestion.unwrap().contains("\"$GAFFER_PARAM_BATCH_SIZE\""), "{value}");
    }
    for value in ["a100", "arm64", "8GiB", "pool/*"] {
        assert_eq!(Code::Constraint.check("x", value), Ok(()), "{value}");
    }
    for value in ["a or arch", "or", "not", "\"", "a]", "(a"] {
        assert!(Code::Constraint.check("x", value).is_err(), "{value}");
    }
}
