//! `parameters`: their declarations and the values that are given for them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use serde::Serialize;

use super::field::{Field, Kind, Most, Words};
use super::node::{Node, Object};
use crate::parameters::{
    Declaration, MAX_CHOICES, MAX_DESCRIPTION_CHARS, MAX_PARAMETERS, MAX_PATTERN_BYTES, MAX_VALUE_BYTES,
    ParameterType, RefusedValue, check_pattern, variable,
};
use crate::quantity::shown;

/// What a parameter may be called.
pub(super) const NAME: Kind = Kind::Name { what: "the name of a parameter", max_len: 63, others: "_-" };
const VALUE: Kind = Kind::text("a value", Most::Bytes(MAX_VALUE_BYTES));
const LIMIT: Kind = Kind::text("a number, a time or a size", Most::Any);

/// The fields of an entry of `parameters`.
pub const PARAMETER: &[Field] = &[
    Field::new("type", Kind::words::<TypeWord>(), "What values the parameter takes")
        .otherwise("`choice` with `values`, else `string`")
        .example("number"),
    Field::new(
        "description",
        Kind::text("a text", Most::Chars(MAX_DESCRIPTION_CHARS)),
        "What the parameter is for",
    )
    .otherwise("none")
    .example("Learning rate"),
    Field::new("default", VALUE, "Value if none is given")
        .otherwise("a value has to be given")
        .example("0.1"),
    Field::new("min", LIMIT, "Smallest value")
        .limits("for `integer`, `number`, `duration` and `size`")
        .otherwise("none")
        .example("0"),
    Field::new("max", LIMIT, "Largest value")
        .limits("for `integer`, `number`, `duration` and `size`")
        .otherwise("none")
        .example("1"),
    Field::new("values", Kind::List { noun: "values", max: MAX_CHOICES, item: &VALUE }, "Allowed values")
        .limits("for `choice`, which needs them")
        .example("[small, large]"),
    Field::new(
        "pattern",
        Kind::text("a regular expression", Most::Bytes(MAX_PATTERN_BYTES)),
        "Regular expression that matches the whole value",
    )
    .limits("for `string`")
    .otherwise("none")
    .example("[a-z]+"),
    Field::new(
        "max_length",
        Kind::Whole(1..=MAX_VALUE_BYTES as i64),
        "Maximum length of the value in characters",
    )
    .limits("for `string`")
    .otherwise("16 KiB")
    .example("80"),
    Field::new("value", VALUE, "Value that the placeholders had, in the specification of a job")
        .details("gaffer writes it. With it, placeholders of the parameter are not replaced again.")
        .example("0.2"),
];

/// `parameters`
pub(super) const PARAMETERS: Field = Field::new(
    "parameters",
    Kind::Map { noun: "parameters", max: MAX_PARAMETERS, key: &NAME, value: &Kind::Object(&[PARAMETER]) },
    "Parameters, with their types and limits",
)
.details(
    "`{{ name }}` in any string of the specification becomes the value; tasks find it in GAFFER_PARAM_NAME. Values are \
     shown with the job: they are no place for secrets.",
)
.example("{lr: {type: number, default: 0.1, min: 0}}");

/// The words for [`ParameterType`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TypeWord {
    String,
    Integer,
    Number,
    Boolean,
    Choice,
    Duration,
    Size,
}

impl Words for TypeWord {
    const WORDS: &'static [(&'static str, TypeWord, &'static str)] = &[
        ("string", TypeWord::String, "a text"),
        ("integer", TypeWord::Integer, "a whole number"),
        ("number", TypeWord::Number, "a number"),
        ("boolean", TypeWord::Boolean, "`true` or `false`"),
        ("choice", TypeWord::Choice, "one of `values`"),
        ("duration", TypeWord::Duration, "a time such as `90s`"),
        ("size", TypeWord::Size, "bytes such as `2GiB`"),
    ];
}

/// A parameter as it is written, in the order of the document.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// What is said of it.
    pub declaration: Declaration,
    /// Its value, if its placeholders were replaced before.
    pub value: Option<String>,
}

/// Reads `parameters`. Those with a mistake are left out.
pub(super) fn declarations(node: &Node<'_>) -> Vec<Declared> {
    let Some(entries) = node.entries() else { return Vec::new() };
    if entries.len() > MAX_PARAMETERS {
        let len = entries.len();
        node.wrong::<()>(format!(
            "there are {len} parameters, more than the {MAX_PARAMETERS} that are allowed"
        ));
        return Vec::new();
    }
    let mut variables: BTreeMap<String, &str> = BTreeMap::new();
    let mut all = Vec::with_capacity(entries.len());
    for (name, node) in entries {
        if let Some(other) = variables.insert(variable(name), name) {
            let (other, both, variable) = (shown(other), shown(name), variable(name));
            node.wrong::<()>(format!("{other} and {both} would both be {variable} in the environment"));
        }
        let is_name = node.check_name(name, &NAME);
        all.extend(declared(name, &node).filter(|_| is_name));
    }
    all
}

fn declared(name: &str, node: &Node<'_>) -> Option<Declared> {
    let example = "an object such as {type: number, default: 0.1}";
    let object = node.object(example, &[PARAMETER])?;
    let takes = takes(&object);
    let description = object.read("description", description);
    let read = |name| {
        object.read(name, |node: &Node<'_>| {
            let takes = takes.as_ref()?;
            takes.check(node.value).map_err(|why| refuse(node, why)).ok()
        })
    };
    let (default, value) = (read("default"), read("value"));
    object.finish();
    let declaration = Declaration { takes: takes?, description, default };
    Some(Declared { name: name.to_owned(), declaration, value })
}

fn refuse(node: &Node<'_>, why: RefusedValue) {
    node.wrong_with::<()>(why.detail, || why.suggestion);
}

fn takes(object: &Object<'_>) -> Option<ParameterType> {
    let word = match object.field("type") {
        Some(_) => object.optional("type")?,
        None if object.has("values") => TypeWord::Choice,
        None => TypeWord::String,
    };
    let may_have: &[&str] = match word {
        TypeWord::String => &["pattern", "max_length"],
        TypeWord::Choice => &["values"],
        TypeWord::Boolean => &[],
        _ => &["min", "max"],
    };
    for name in ["pattern", "max_length", "values", "min", "max"] {
        if let Some(node) = object.field(name).filter(|_| !may_have.contains(&name)) {
            node.wrong::<()>(format!("a parameter of type `{}` has no `{name}`", word.word()));
        }
    }
    Some(match word {
        TypeWord::String => {
            let pattern = object.read("pattern", pattern);
            ParameterType::String { pattern, max_length: object.optional("max_length") }
        }
        TypeWord::Integer => {
            let (min, max) = limits(object, |node| node.value.as_integer()?.try_into().ok())?;
            ParameterType::Integer { min, max }
        }
        TypeWord::Number => {
            let number = |node: &Node<'_>| node.value.amount_text()?.parse::<f64>().ok();
            let (min, max) = limits(object, |node| number(node).filter(|number| number.is_finite()))?;
            ParameterType::Number { min, max }
        }
        TypeWord::Boolean => ParameterType::Boolean,
        TypeWord::Choice => ParameterType::Choice { values: choices(object)? },
        TypeWord::Duration => {
            let (min, max) = limits(object, amount)?;
            ParameterType::Duration { min, max }
        }
        TypeWord::Size => {
            let (min, max) = limits(object, amount)?;
            ParameterType::Size { min, max }
        }
    })
}

fn amount<T: FromStr>(node: &Node<'_>) -> Option<T> {
    node.value.amount_text()?.parse().ok()
}

/// `min` and `max`; none if one of them is wrong.
fn limits<T: PartialOrd + Display>(
    object: &Object<'_>,
    read: impl Fn(&Node<'_>) -> Option<T>,
) -> Option<(Option<T>, Option<T>)> {
    let limit = |name| match object.field(name) {
        None => Some(None),
        Some(node) => match read(&node) {
            Some(limit) => Some(Some(limit)),
            None => node.expected("a limit of the parameter's type"),
        },
    };
    let (min, max) = (limit("min"), limit("max"));
    let (min, max) = (min?, max?);
    if let (Some(least), Some(most)) = (&min, &max)
        && least > most
        && let Some(node) = object.field("min")
    {
        return node.wrong(format!("no value is at least {least} and at most {most}"));
    }
    Some((min, max))
}

fn choices(object: &Object<'_>) -> Option<Vec<String>> {
    let Some(node) = object.field("values") else {
        return object.node().wrong("a parameter of type `choice` needs `values`");
    };
    let mut values: Vec<String> = Vec::new();
    let mut is_right = true;
    for member in node.list()? {
        match text(&member) {
            Some(value) if values.iter().any(|known| known == value) => {
                is_right = false;
                member.wrong::<()>(format!("{} is in the list twice", shown(value)));
            }
            Some(value) => values.push(value.to_owned()),
            None => is_right = false,
        }
    }
    if values.is_empty() && is_right {
        return node.wrong("a choice needs at least one value");
    }
    is_right.then_some(values)
}

/// A text with the limits of any value.
fn text<'a>(node: &Node<'a>) -> Option<&'a str> {
    let text = node.text("a value")?;
    let takes = ParameterType::String { pattern: None, max_length: None };
    match takes.check(node.value) {
        Ok(_) => Some(text),
        Err(why) => {
            refuse(node, why);
            None
        }
    }
}

fn pattern(node: &Node<'_>) -> Option<String> {
    let pattern = node.own_text()?;
    if pattern.len() > MAX_PATTERN_BYTES {
        let bytes = pattern.len();
        return node.wrong(format!(
            "the pattern has {bytes} bytes, more than the {MAX_PATTERN_BYTES} that are allowed"
        ));
    }
    match check_pattern(pattern) {
        Ok(()) => Some(pattern.to_owned()),
        Err(why) => node.wrong(why.to_string()),
    }
}

fn description(node: &Node<'_>) -> Option<String> {
    let text = node.own_text()?;
    let chars = text.chars().count();
    if chars > MAX_DESCRIPTION_CHARS {
        return node.wrong(format!(
            "the description has {chars} characters, more than the {MAX_DESCRIPTION_CHARS} that are allowed"
        ));
    }
    Some(text.to_owned())
}
