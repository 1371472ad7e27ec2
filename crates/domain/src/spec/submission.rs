//! What is submitted: a specification alone, or a specification or a template with values for its parameters.

use super::field::{Field, Kind, Tables};
use super::job::JOB_FIELDS;
use super::node::{FieldError, Mistakes, Node};
use super::parameter::NAME;
use crate::document::Value;
use crate::parameters::{MAX_PARAMETERS, MAX_VALUE_BYTES};

/// The fields of what is submitted, if it is not a specification alone.
pub const SUBMISSION: &[Field] = &[
    Field::new("spec", Kind::Object(JOB_FIELDS), "Specification of the job")
        .not_with(&["template"])
        .example("{command: [train, \"{{ lr }}\"], parameters: {lr: {type: number}}}"),
    Field::new("template", TEMPLATE_NAME, "Name of a template, instead of a specification").example("train"),
    Field::new("version", Kind::Whole(1..=i32::MAX as i64), "Version of the template")
        .otherwise("the latest")
        .example("3"),
    Field::new(
        "parameters",
        Kind::Map {
            noun: "values",
            max: MAX_PARAMETERS,
            key: &NAME,
            value: &Kind::text("a value", super::field::Most::Bytes(MAX_VALUE_BYTES)),
        },
        "Values of the specification's parameters",
    )
    .otherwise("their defaults")
    .example("{lr: 0.1}"),
];
/// The name of a template; one part of an address.
const TEMPLATE_NAME: Kind = Kind::Name { what: "the name of a template", max_len: 63, others: "._-" };
const SUBMISSION_FIELDS: Tables = &[SUBMISSION];

/// Checks what a template is to be called.
///
/// # Errors
/// Why it cannot be called that.
pub fn check_template_name(name: &str) -> Result<(), String> {
    TEMPLATE_NAME.check_name(name)
}

/// What was submitted.
#[derive(Debug, Clone, Copy)]
pub struct Submission<'a> {
    /// Where its specification is.
    pub source: Source<'a>,
    /// Values of its parameters: an object.
    pub values: Option<&'a Value>,
}

/// Where the specification of a submission is.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// In what was sent, at this JSON pointer.
    Sent(&'a Value, &'static str),
    /// Saved under this name; without the number of a version, the latest.
    Template(&'a str, Option<u32>),
}

impl<'a> Submission<'a> {
    /// Reads what was sent: an object with `spec` or `template` has values beside it; everything else is a specification
    /// alone.
    ///
    /// # Errors
    /// Mistakes around the specification.
    pub fn of(sent: &'a Value) -> Result<Submission<'a>, Vec<FieldError>> {
        let has = |name| sent.get(name).is_some_and(|value| !value.is_null());
        if !has("spec") && !has("template") {
            return Ok(Submission { source: Source::Sent(sent, ""), values: None });
        }
        let mistakes = Mistakes::default();
        let version = around(&Node::root(sent, &mistakes));
        let list = mistakes.into_list();
        let source = match sent.get("spec").filter(|spec| !spec.is_null()) {
            Some(spec) => Some(Source::Sent(spec, "/spec")),
            None => sent.get("template").and_then(Value::as_text).map(|name| Source::Template(name, version)),
        };
        match source {
            Some(source) if list.is_empty() => Ok(Submission { source, values: sent.get("parameters") }),
            _ => Err(list),
        }
    }
}

/// Reads what is beside the specification or in its place; the version of a template, if it is given.
fn around(node: &Node<'_>) -> Option<u32> {
    let object = node.object("an object with a `spec` or a `template`", SUBMISSION_FIELDS)?;
    let template = object.field("template");
    let version = object.optional("version");
    if let Some(node) = object.field("version").filter(|_| template.is_none()) {
        node.wrong::<()>("`version` is that of a `template`");
    }
    if let Some(node) = template {
        match object.has("spec") {
            true => node.wrong("a job is made from a `spec` or from a `template`, not from both"),
            false => node.own_name().map(drop),
        };
    }
    object.finish();
    version
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_template_is_one_part_of_an_address() {
        for name in ["train", "t", "7", "a.b_c-D", &"x".repeat(63)] {
            assert_eq!(check_template_name(name), Ok(()), "{name}");
        }
        for name in ["", "-a", ".a", "a b", "a/b", "ä", "a%", &"x".repeat(64)] {
            assert!(check_template_name(name).is_err(), "{name}");
        }
    }
}
