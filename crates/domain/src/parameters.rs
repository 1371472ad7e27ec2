//! Parameters of a specification: what values they take, and where their values are put in.
//!
//! A specification declares its parameters. Each job has one value for each of them, as a text: it is put in the place of
//! `{{ name }}` in the strings of the specification, and it is the variable `GAFFER_PARAM_NAME` of each task. Values are
//! put into strings that were parsed before, so no value changes what the document around it is. Strings that something
//! else parses are [`Code`]: there, a value has only characters without a meaning.

mod arguments;
mod pattern;
mod placeholder;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::document::{ScalarKind, Value};
use crate::quantity::{Bytes, Span, shown};
use crate::spelling::{did_you_mean, nearest};
pub use arguments::Arguments;
pub use pattern::{InvalidPattern, MAX_PATTERN_BYTES, check_pattern};
pub use placeholder::{Placeholder, placeholders, whole};

/// The most parameters of one specification.
pub const MAX_PARAMETERS: usize = 64;
/// The most bytes of one value.
pub const MAX_VALUE_BYTES: usize = 16 * 1024;
/// The most bytes of all values of a job, so that they fit into the environment of a process.
pub const MAX_VALUES_BYTES: usize = 128 * 1024;
/// The most values that a choice may have.
pub const MAX_CHOICES: usize = 100;
/// The longest description, in characters.
pub const MAX_DESCRIPTION_CHARS: usize = 500;

/// Shorter names resemble too many words.
const SHORTEST_HINTED: usize = 3;

/// What a specification says of one parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Declaration {
    /// What values it takes.
    #[serde(flatten)]
    pub takes: ParameterType,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its value where none is given; without one, a value has to be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// A parameter of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// What the specification says of it.
    #[serde(flatten)]
    pub declaration: Declaration,
    /// The value that the job has.
    pub value: String,
}

/// The parameters of a job by their names.
pub type Parameters = BTreeMap<String, Parameter>;

/// What values a parameter takes. Limits are included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are named as in the specification")]
pub enum ParameterType {
    /// A text.
    String {
        /// A regular expression that matches all of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pattern: Option<String>,
        /// In characters.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_length: Option<u32>,
    },
    /// A whole number.
    Integer {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<i64>,
    },
    /// A number.
    Number {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<f64>,
    },
    /// `true` or `false`.
    Boolean,
    /// One of a few texts.
    Choice { values: Vec<String> },
    /// A length of time.
    Duration {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<Span>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<Span>,
    },
    /// A number of bytes.
    Size {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<Bytes>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<Bytes>,
    },
}

/// What else than gaffer parses a string of a specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// A shell, or another interpreter of scripts.
    Script,
    /// The grammar of constraints.
    Constraint,
}

/// Why a value is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedValue {
    /// What is wrong with it.
    pub detail: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
}

impl From<String> for RefusedValue {
    fn from(detail: String) -> RefusedValue {
        RefusedValue { detail, suggestion: None }
    }
}

impl ParameterType {
    /// Its name in a specification.
    pub fn name(&self) -> &'static str {
        match self {
            ParameterType::String { .. } => "string",
            ParameterType::Integer { .. } => "integer",
            ParameterType::Number { .. } => "number",
            ParameterType::Boolean => "boolean",
            ParameterType::Choice { .. } => "choice",
            ParameterType::Duration { .. } => "duration",
            ParameterType::Size { .. } => "size",
        }
    }

    /// What values it takes: `a whole number from 1 to 10`.
    pub fn expected(&self) -> String {
        match self {
            ParameterType::String { pattern, max_length } => {
                let longest = max_length.map(|most| format!(" of at most {most} characters"));
                let matching = pattern.as_ref().map(|pattern| format!(" that matches `{pattern}`"));
                format!("a text{}{}", longest.unwrap_or_default(), matching.unwrap_or_default())
            }
            ParameterType::Integer { min, max } => format!("a whole number{}", range(min, max)),
            ParameterType::Number { min, max } => format!("a number{}", range(min, max)),
            ParameterType::Boolean => "true or false".to_owned(),
            ParameterType::Choice { values } => {
                let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
                match values.split_last() {
                    Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
                    _ => values.concat(),
                }
            }
            ParameterType::Duration { min, max } => format!("a time{}", range_or(min, max, " such as 90s")),
            ParameterType::Size { min, max } => format!("a size{}", range_or(min, max, " such as 2GiB")),
        }
    }

    /// The text of a value, if it is one that the parameter takes. Whole numbers and booleans have one notation; other
    /// values stay as they were written.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, given: &Value) -> Result<String, RefusedValue> {
        let Some(text) = given.as_text() else {
            return Err(format!("expected {}, found {}", self.expected(), kind_of(given)).into());
        };
        if text.len() > MAX_VALUE_BYTES {
            let bytes = text.len();
            return Err(format!(
                "the value has {bytes} bytes, more than the {MAX_VALUE_BYTES} that are allowed"
            )
            .into());
        }
        if text.contains('\0') {
            return Err("a value cannot have a zero byte in it".to_owned().into());
        }
        let unexpected =
            || RefusedValue::from(format!("expected {}, found {}", self.expected(), shown(text)));
        match self {
            ParameterType::String { pattern, max_length } => {
                let is_short = max_length.is_none_or(|most| text.chars().count() <= most as usize);
                let is_match = pattern.as_ref().is_none_or(|pattern| pattern::matches(pattern, text));
                (is_short && is_match).then(|| text.to_owned()).ok_or_else(unexpected)
            }
            ParameterType::Integer { min, max } => {
                let number = given.as_integer().and_then(|number| i64::try_from(number).ok());
                let number = number.filter(|number| is_within(number, min, max));
                number.map(|number| number.to_string()).ok_or_else(unexpected)
            }
            ParameterType::Number { min, max } => {
                let plain = given.decimal_text().ok_or_else(unexpected)?;
                let number = plain.parse::<f64>().ok();
                number.filter(|number| is_within(number, min, max)).map(|_| plain).ok_or_else(unexpected)
            }
            ParameterType::Boolean => {
                given.as_bool().map(|is_true| is_true.to_string()).ok_or_else(unexpected)
            }
            ParameterType::Choice { values } if values.iter().any(|value| value == text) => {
                Ok(text.to_owned())
            }
            ParameterType::Choice { values } => {
                let suggestion = did_you_mean(text, values.iter().map(String::as_str));
                Err(RefusedValue { suggestion, ..unexpected() })
            }
            ParameterType::Duration { min, max } => self.check_amount(given, min, max),
            ParameterType::Size { min, max } => self.check_amount(given, min, max),
        }
    }

    fn check_amount<T: FromStr<Err: Display> + PartialOrd>(
        &self,
        given: &Value,
        min: &Option<T>,
        max: &Option<T>,
    ) -> Result<String, RefusedValue> {
        let text = given.amount_text().unwrap_or_default();
        match text.parse::<T>() {
            Ok(amount) if is_within(&amount, min, max) => Ok(text.trim().to_owned()),
            Ok(_) => Err(format!("expected {}, found {}", self.expected(), shown(&text)).into()),
            Err(why) => Err(why.to_string().into()),
        }
    }

    /// What a string that is nothing but a placeholder becomes with a value.
    pub fn scalar_kind(&self) -> ScalarKind {
        match self {
            ParameterType::Integer { .. } | ParameterType::Number { .. } => ScalarKind::Number,
            ParameterType::Boolean => ScalarKind::Bool,
            _ => ScalarKind::Text,
        }
    }
}

impl Code {
    /// Whether a value can be put there without being more than a word.
    ///
    /// # Errors
    /// What is wrong with it, and what to do instead.
    pub fn check(self, name: &str, value: &str) -> Result<(), RefusedValue> {
        let allowed = match self {
            Code::Script => "_./:@%+=,-",
            Code::Constraint => "_./:@%+~*-",
        };
        let is_plain = |c: char| match self {
            // No shell gives a letter of any script a meaning.
            Code::Script => c.is_alphanumeric() || allowed.contains(c),
            Code::Constraint => c.is_ascii_alphanumeric() || allowed.contains(c),
        };
        let is_keyword = self == Code::Constraint && ["and", "or", "not", "in"].contains(&value);
        if value.chars().all(is_plain) && !is_keyword {
            return Ok(());
        }
        let whose = match self {
            Code::Script => "a script",
            Code::Constraint => "a constraint",
        };
        let detail = format!(
            "the value of `{name}` is {}; in {whose}, a value has only letters, digits and the characters {allowed}",
            shown(value)
        );
        let suggestion = match self {
            Code::Script => Some(format!("use \"${}\" there: it takes every value", variable(name))),
            Code::Constraint => None,
        };
        Err(RefusedValue { detail, suggestion })
    }
}

/// The environment variable of a parameter: `GAFFER_PARAM_BATCH_SIZE`.
pub fn variable(name: &str) -> String {
    format!("GAFFER_PARAM_{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// The environment variables of a job's parameters.
pub fn variables(parameters: &Parameters) -> impl Iterator<Item = (String, String)> {
    parameters.iter().map(|(name, parameter)| (variable(name), parameter.value.clone()))
}

/// The declared name that was probably meant by a name that is not declared.
pub fn meant<'d>(name: &str, declared: impl Iterator<Item = &'d str>) -> Option<&'d str> {
    let is_long = |name: &str| name.chars().count() >= SHORTEST_HINTED;
    nearest(name, declared.filter(|declared| is_long(declared))).filter(|_| is_long(name))
}

fn kind_of(value: &Value) -> &'static str {
    match value.data {
        crate::document::Data::Scalar(_) => "null",
        crate::document::Data::List(_) => "a list",
        crate::document::Data::Object(_) => "an object",
    }
}

fn is_within<T: PartialOrd>(value: &T, min: &Option<T>, max: &Option<T>) -> bool {
    min.as_ref().is_none_or(|min| value >= min) && max.as_ref().is_none_or(|max| value <= max)
}

/// A range, or an example where there is none.
fn range_or<T: Display>(min: &Option<T>, max: &Option<T>, example: &str) -> String {
    if min.is_none() && max.is_none() { example.to_owned() } else { range(min, max) }
}

/// ` from 1 to 10`
fn range<T: Display>(min: &Option<T>, max: &Option<T>) -> String {
    match (min, max) {
        (Some(min), Some(max)) => format!(" from {min} to {max}"),
        (Some(min), None) => format!(" of at least {min}"),
        (None, Some(max)) => format!(" of at most {max}"),
        (None, None) => String::new(),
    }
}
