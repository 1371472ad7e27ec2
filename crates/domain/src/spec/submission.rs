//! What is submitted: a specification alone, or a specification with values for its parameters.

use super::field::{Field, Kind, Tables};
use super::filling::{Filled, Unfilled};
use super::job::JOB_FIELDS;
use super::node::{FieldError, Mistakes, Node};
use super::parameter::NAME;
use crate::document::Value;
use crate::parameters::{MAX_PARAMETERS, MAX_VALUE_BYTES};

/// The fields of what is submitted, if it is not a specification alone.
pub const SUBMISSION: &[Field] = &[
    Field::new("spec", Kind::Object(JOB_FIELDS), "Specification of the job")
        .required()
        .example("{command: [train, \"{{ lr }}\"], parameters: {lr: {type: number}}}"),
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
const SUBMISSION_FIELDS: Tables = &[SUBMISSION];

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
}

impl<'a> Submission<'a> {
    /// Reads what was sent: an object with `spec` has values beside it; everything else is a specification alone.
    ///
    /// # Errors
    /// Mistakes around the specification.
    pub fn of(sent: &'a Value) -> Result<Submission<'a>, Vec<FieldError>> {
        let Some(spec) = sent.get("spec").filter(|spec| !spec.is_null()) else {
            return Ok(Submission { source: Source::Sent(sent, ""), values: None });
        };
        let mistakes = Mistakes::default();
        let around = Node::root(sent, &mistakes).object("an object with a `spec`", SUBMISSION_FIELDS);
        around.into_iter().for_each(super::node::Object::finish);
        match mistakes.into_list() {
            mistakes if mistakes.is_empty() => {
                Ok(Submission { source: Source::Sent(spec, "/spec"), values: sent.get("parameters") })
            }
            mistakes => Err(mistakes),
        }
    }

    /// Reads the specification with its values.
    ///
    /// # Errors
    /// All mistakes.
    pub fn fill(&self) -> Result<Filled, Vec<FieldError>> {
        let Source::Sent(document, pointer) = self.source;
        Unfilled { pointer: Some(pointer), values: self.values, ..Unfilled::new(document) }.fill()
    }
}
