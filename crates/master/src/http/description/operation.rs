//! What is said of one route.

use std::collections::BTreeMap;

use gaffer_domain::permissions::Action;
use serde_json::{Value, json};

use super::super::params::{DEFAULT_LIMIT, MAX_LIMIT};

/// What is said of a route in words, beside what the types of its handler say.
#[derive(Debug)]
pub struct Operation {
    /// Name for programs, such as generated clients.
    pub id: &'static str,
    /// What it does, in a few words.
    pub summary: &'static str,
    /// What it does, as far as permissions go: who may not do this gets no further. None for what needs no key.
    pub action: Option<Action>,
    /// What there is to know beyond that; may be empty.
    pub description: &'static str,
    /// Parameters of the query. All others are refused, unless the operation takes any.
    pub query: &'static [Parameter],
    /// Whether a query does not matter: probes add words of their own to it.
    pub takes_any_query: bool,
    /// Headers that matter here.
    pub headers: &'static [Parameter],
    /// Statuses that do not follow from the types, and what leads to them.
    pub errors: &'static [(u16, &'static str)],
}

impl Operation {
    /// An operation without its own parameters and errors.
    pub const fn new(id: &'static str, summary: &'static str, action: Action) -> Operation {
        Operation { action: Some(action), ..Operation::public(id, summary) }
    }

    /// The same for what needs no key.
    pub const fn public(id: &'static str, summary: &'static str) -> Operation {
        Operation {
            id,
            summary,
            action: None,
            description: "",
            query: &[],
            takes_any_query: false,
            headers: &[],
            errors: &[],
        }
    }
}

/// A parameter of a query, a header or a path.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it means, with its unit.
    pub description: &'static str,
    /// What it can be.
    pub values: Values,
    /// Whether a request without it is refused.
    pub is_required: bool,
    /// Whether it may be given more than once.
    pub is_repeatable: bool,
}

/// What a parameter can be.
#[derive(Debug, Clone, Copy)]
pub enum Values {
    /// A whole number.
    Integer {
        /// The least.
        least: u64,
        /// The greatest.
        most: u64,
        /// What its absence means.
        default: Option<u64>,
    },
    /// 1 or 0.
    Flag,
    /// Any text.
    Text,
    /// A text that the regular expression matches, such as the example.
    Pattern(&'static str, &'static str),
    /// One of these words.
    Word(fn() -> Vec<&'static str>),
    /// A UUID.
    Uuid,
}

impl Parameter {
    /// One that may be left out.
    pub const fn new(name: &'static str, values: Values, description: &'static str) -> Parameter {
        Parameter { name, description, values, is_required: false, is_repeatable: false }
    }

    /// The same, to be given in each request.
    pub const fn required(self) -> Parameter {
        Parameter { is_required: true, ..self }
    }

    /// The same, to be given as often as one likes.
    pub const fn repeatable(self) -> Parameter {
        Parameter { is_repeatable: true, ..self }
    }

    /// Its JSON Schema.
    pub fn schema(&self) -> Value {
        let one = self.values.schema();
        if self.is_repeatable { json!({ "type": "array", "items": one }) } else { one }
    }
}

impl Values {
    fn schema(self) -> Value {
        match self {
            Values::Integer { least, most, default } => {
                let mut schema = json!({ "type": "integer", "minimum": least, "maximum": most });
                if let Some(default) = default {
                    schema["default"] = json!(default);
                }
                schema
            }
            Values::Flag => json!({ "type": "string", "enum": ["0", "1", "false", "true"] }),
            Values::Text => json!({ "type": "string" }),
            Values::Pattern(pattern, example) => {
                json!({ "type": "string", "pattern": pattern, "examples": [example] })
            }
            Values::Word(words) => json!({ "type": "string", "enum": words() }),
            Values::Uuid => json!({ "type": "string", "format": "uuid" }),
        }
    }
}

/// How many entries are wanted on a page.
pub const LIMIT: Parameter = Parameter::new(
    "limit",
    Values::Integer { least: 1, most: MAX_LIMIT as u64, default: Some(DEFAULT_LIMIT as u64) },
    "Maximum number of entries.",
);
/// Which page.
pub const CURSOR: Parameter =
    Parameter::new("cursor", Values::Pattern(r"^c\d+$", "c42"), "`next_cursor` of the previous page.");

/// A length of time.
pub const SPAN: Values = Values::Pattern("^([0-9]{1,9}([.][0-9]{1,3})?(ms|s|m|h|d)?)+$", "30s");

/// All that is known of a route.
#[derive(Debug, Clone)]
pub struct Description {
    /// The part of the reference that it is in.
    pub section: &'static str,
    /// In small letters.
    pub method: &'static str,
    /// Below `/api/v1`.
    pub path: &'static str,
    /// What is said of it in words.
    pub operation: &'static Operation,
    /// Whether a key or a session is needed.
    pub needs_key: bool,
    /// What is sent.
    pub body: Option<RequestBody>,
    /// What is answered when it is done, by status.
    pub successes: BTreeMap<u16, Success>,
    /// What is answered when it is not, by status, and what leads to that beyond what the status always means.
    pub errors: BTreeMap<u16, &'static str>,
}

impl Description {
    /// That of a route whose handler has not been looked at.
    pub fn new(
        section: &'static str,
        method: &'static str,
        path: &'static str,
        operation: &'static Operation,
    ) -> Description {
        Description {
            section,
            method,
            path,
            operation,
            needs_key: false,
            body: None,
            successes: BTreeMap::new(),
            errors: operation.errors.iter().copied().collect(),
        }
    }

    /// The route can answer with this error; what the operation says of it stays.
    pub fn may_fail(&mut self, status: u16) {
        self.errors.entry(status).or_default();
    }

    /// The parameters of its path, in their order.
    pub fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}

/// A body of a request.
#[derive(Debug, Clone)]
pub struct RequestBody {
    /// Whether a request without it is refused.
    pub is_required: bool,
    /// In which forms.
    pub content: Vec<Content>,
}

/// A form of a body.
#[derive(Debug, Clone)]
pub struct Content {
    /// Its media type.
    pub media_type: &'static str,
    /// The JSON Schema of what it stands for; empty for bytes.
    pub schema: Value,
}

impl Content {
    /// JSON.
    pub fn json(schema: Value) -> Content {
        Content { media_type: "application/json", schema }
    }
}

/// An answer to a request that was done.
#[derive(Debug, Clone, Default)]
pub struct Success {
    /// What it means.
    pub description: &'static str,
    /// Headers that it has, or may have.
    pub headers: Vec<Header>,
    /// Its body; none if it has none.
    pub content: Vec<Content>,
}

/// A header of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub description: &'static str,
    /// Whether it is always there.
    pub is_always_there: bool,
}
