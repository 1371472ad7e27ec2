//! Constraints on facts of a worker, such as `memory >= 8GiB and labels.gpu == a100`: parsing, display, evaluation.
//!
//! ```text
//! expression = all { "or" all }
//! all        = not { "and" not }
//! not        = "not" not | "(" expression ")" | condition
//! condition  = fact operator value              operator: == != < <= > >=
//!            | fact [ "not" ] "in" "[" value { "," value } "]"
//!            | "labels." key | "resources." name   (whether it is there)
//! ```
//!
//! | fact | what it is | compared as |
//! |---|---|---|
//! | `arch` | processor architecture; `amd64` and `x86_64` are the same, and so are `arm64` and `aarch64` | text |
//! | `os` | operating system: `linux` | text |
//! | `version` | version of the worker's program | version |
//! | `datacenter`, `name` | where it stands, what it is called | text |
//! | `cpu` | processors that it offers | amount |
//! | `memory`, `disk` | bytes that it offers | amount |
//! | `labels.KEY` | a mark of its operator | text; `<` and the like as versions |
//! | `resources.NAME` | a countable resource: how many it offers, 0 if none | whole number |
//!
//! Versions compare as in Semantic Versioning 2.0.0 §11, with as many parts as there are: `0.9` is before `0.10`, `0.2`
//! is `0.2.0`, `1.0-rc1` is before `1.0`. A label that is not set is equal to nothing and before or after nothing; so
//! `!=` and `not in`, which are exactly the opposites of `==` and `in`, hold for it.
//!
//! [`Display`](std::fmt::Display) gives the normal form, which is stored and shown; it parses back to the same.

mod check;
mod error;
mod parse;
#[cfg(test)]
mod tests;
mod token;
mod version;

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use crate::as_text::as_text;
use crate::quantity::{Bytes, Cpu};
use crate::resources::Resources;
pub use check::Unmet;
pub use error::ConstraintError;
pub use parse::{MAX_CONSTRAINT_BYTES, MAX_CONSTRAINT_DEPTH, is_resource_name};

/// A condition that a worker's facts meet or not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Constraint(Expr);

/// Its operands: `All` and `Any` have at least two, and none of them is of the same kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Expr {
    Any(Vec<Expr>),
    All(Vec<Expr>),
    Not(Box<Expr>),
    /// The label is set; the worker has at least one of the resource.
    Has(Fact),
    Compare(Fact, Operator, Value),
    OneOf(Fact, Vec<Value>),
}

/// Something that is known of a worker, by the name that it has in constraints: `arch`, `labels.gpu`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fact {
    /// Processor architecture.
    Arch,
    /// Operating system.
    Os,
    /// Version of the worker's program.
    Version,
    /// Datacenter of the worker.
    Datacenter,
    /// Name of the worker.
    Name,
    /// Processors that it offers.
    Cpu,
    /// Memory that it offers.
    Memory,
    /// Disk that it offers.
    Disk,
    /// One of its operator's marks.
    Label(String),
    /// How many it offers of a countable resource.
    Resource(String),
}

/// Facts of one worker.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "as in Fact")]
pub struct Facts<'a> {
    pub arch: &'a str,
    pub os: &'a str,
    pub version: &'a str,
    pub datacenter: &'a str,
    pub name: &'a str,
    pub capacity: &'a Resources,
    pub labels: &'a BTreeMap<String, String>,
    pub countables: &'a BTreeMap<String, u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// What a fact is compared with, of the kind that the fact is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Value {
    Text(String),
    Cpu(Cpu),
    Bytes(Bytes),
    Count(u32),
}

impl Fact {
    /// The facts that every worker has, by name.
    const PLAIN: [(&'static str, Fact); 8] = [
        ("arch", Fact::Arch),
        ("os", Fact::Os),
        ("version", Fact::Version),
        ("datacenter", Fact::Datacenter),
        ("name", Fact::Name),
        ("cpu", Fact::Cpu),
        ("memory", Fact::Memory),
        ("disk", Fact::Disk),
    ];

    /// Whether it can be asked for alone.
    fn may_be_absent(&self) -> bool {
        matches!(self, Fact::Label(_) | Fact::Resource(_))
    }

    /// Whether less and more mean something.
    fn has_order(&self) -> bool {
        !matches!(self, Fact::Arch | Fact::Os | Fact::Datacenter | Fact::Name)
    }
}

impl Operator {
    const ALL: [(&'static str, Operator); 6] = [
        ("==", Operator::Equal),
        ("!=", Operator::NotEqual),
        ("<=", Operator::AtMost),
        (">=", Operator::AtLeast),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ];

    fn as_str(self) -> &'static str {
        Operator::ALL.iter().find(|(_, operator)| *operator == self).map_or("", |(text, _)| text)
    }

    fn needs_order(self) -> bool {
        !matches!(self, Operator::Equal | Operator::NotEqual)
    }
}

impl Display for Constraint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Any(parts) => joined(f, parts, " or "),
            Expr::All(parts) => joined(f, parts, " and "),
            Expr::Not(inner) => match &**inner {
                Expr::OneOf(fact, values) => write!(f, "{fact} not in {}", List(values)),
                Expr::Any(_) | Expr::All(_) => write!(f, "not ({inner})"),
                _ => write!(f, "not {inner}"),
            },
            Expr::Has(fact) => fact.fmt(f),
            Expr::Compare(fact, operator, value) => write!(f, "{fact} {} {value}", operator.as_str()),
            Expr::OneOf(fact, values) => write!(f, "{fact} in {}", List(values)),
        }
    }
}

/// Parts that bind less than what joins them stand in parentheses.
fn joined(f: &mut Formatter<'_>, parts: &[Expr], between: &str) -> fmt::Result {
    for (position, part) in parts.iter().enumerate() {
        if position > 0 {
            f.write_str(between)?;
        }
        match part {
            Expr::Any(_) => write!(f, "({part})")?,
            _ => part.fmt(f)?,
        }
    }
    Ok(())
}

struct List<'a>(&'a [Value]);

impl Display for List<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (position, value) in self.0.iter().enumerate() {
            let between = if position > 0 { ", " } else { "" };
            write!(f, "{between}{value}")?;
        }
        f.write_str("]")
    }
}

impl Display for Fact {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Fact::Label(key) => write!(f, "labels.{key}"),
            Fact::Resource(name) => write!(f, "resources.{name}"),
            plain => {
                let known = Fact::PLAIN.iter().find(|(_, fact)| fact == plain);
                f.write_str(known.map_or("", |(name, _)| name))
            }
        }
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => token::write_text(f, text),
            Value::Cpu(cpu) => cpu.fmt(f),
            Value::Bytes(bytes) => bytes.fmt(f),
            Value::Count(count) => count.fmt(f),
        }
    }
}

impl FromStr for Constraint {
    type Err = ConstraintError;

    /// Reads a constraint of at most [`MAX_CONSTRAINT_BYTES`], as written and in its normal form.
    fn from_str(text: &str) -> Result<Constraint, ConstraintError> {
        parse::constraint(text).map(Constraint)
    }
}

impl FromStr for Fact {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Fact, ConstraintError> {
        parse::lone_fact(text)
    }
}

as_text!(Constraint);
as_text!(Fact);
