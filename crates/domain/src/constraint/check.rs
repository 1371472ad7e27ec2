//! Evaluates a constraint against a worker; on a mismatch reports the failing part and the found value.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::{self, Display, Formatter};

use super::{Constraint, Expr, Fact, Facts, Operator, Value, version};
use crate::quantity::shown;

/// The part of a constraint that a worker does not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// The first part that does not hold, of those that are joined by `and`, in its normal form.
    pub condition: String,
    /// The facts that it asks about, as they are: `labels.gpu is v100`.
    pub found: String,
}

impl Display for Unmet {
    /// `` constraint `labels.gpu == a100`: labels.gpu is v100 ``
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "constraint `{}`: {}", self.condition, self.found)
    }
}

impl Constraint {
    /// Whether a worker with these facts meets it.
    pub fn holds(&self, facts: &Facts<'_>) -> bool {
        self.0.holds(facts)
    }

    /// The same with a reason.
    ///
    /// # Errors
    /// The part that does not hold.
    pub fn check(&self, facts: &Facts<'_>) -> Result<(), Unmet> {
        match self.0.first_unmet(facts) {
            None => Ok(()),
            Some(part) => {
                let mut asked = Vec::new();
                part.facts(&mut asked);
                let found: Vec<String> = asked.into_iter().map(|fact| facts.sentence(fact)).collect();
                Err(Unmet { condition: part.to_string(), found: found.join(", ") })
            }
        }
    }
}

impl Expr {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        match self {
            Expr::Any(parts) => parts.iter().any(|part| part.holds(facts)),
            Expr::All(parts) => parts.iter().all(|part| part.holds(facts)),
            Expr::Not(inner) => !inner.holds(facts),
            Expr::Has(fact) => facts.has(fact),
            Expr::Compare(fact, operator, value) => {
                let order = |wanted: fn(Ordering) -> bool| facts.order(fact, value).is_some_and(wanted);
                match operator {
                    Operator::Equal => facts.equals(fact, value),
                    Operator::NotEqual => !facts.equals(fact, value),
                    Operator::Less => order(Ordering::is_lt),
                    Operator::AtMost => order(Ordering::is_le),
                    Operator::Greater => order(Ordering::is_gt),
                    Operator::AtLeast => order(Ordering::is_ge),
                }
            }
            Expr::OneOf(fact, values) => values.iter().any(|value| facts.equals(fact, value)),
        }
    }

    /// The first conjunct that does not hold.
    fn first_unmet(&self, facts: &Facts<'_>) -> Option<&Expr> {
        match self {
            Expr::All(parts) => parts.iter().find_map(|part| part.first_unmet(facts)),
            other => (!other.holds(facts)).then_some(other),
        }
    }

    /// The facts that it asks about, each once.
    fn facts<'e>(&'e self, asked: &mut Vec<&'e Fact>) {
        match self {
            Expr::Any(parts) | Expr::All(parts) => parts.iter().for_each(|part| part.facts(asked)),
            Expr::Not(inner) => inner.facts(asked),
            Expr::Has(fact) | Expr::Compare(fact, ..) | Expr::OneOf(fact, _) => {
                if !asked.contains(&fact) {
                    asked.push(fact);
                }
            }
        }
    }
}

impl<'a> Facts<'a> {
    /// The fact as a text; none for a label that is not set.
    pub fn get(&self, fact: &Fact) -> Option<Cow<'a, str>> {
        let text = match fact {
            Fact::Arch => self.arch,
            Fact::Os => self.os,
            Fact::Version => self.version,
            Fact::Datacenter => self.datacenter,
            Fact::Name => self.name,
            Fact::Label(key) => self.labels.get(key)?,
            Fact::Cpu => return Some(self.capacity.cpu.to_string().into()),
            Fact::Memory => return Some(self.capacity.memory.to_string().into()),
            Fact::Disk => return Some(self.capacity.disk.to_string().into()),
            Fact::Resource(name) => return Some(self.count(name).to_string().into()),
        };
        Some(text.into())
    }

    fn count(&self, name: &str) -> u32 {
        self.countables.get(name).copied().unwrap_or(0)
    }

    fn has(&self, fact: &Fact) -> bool {
        match fact {
            Fact::Label(key) => self.labels.contains_key(key),
            Fact::Resource(name) => self.count(name) > 0,
            _ => true,
        }
    }

    fn equals(&self, fact: &Fact, value: &Value) -> bool {
        match (fact, value) {
            (Fact::Arch, Value::Text(text)) => architecture(self.arch) == architecture(text),
            (Fact::Os, Value::Text(text)) => self.os == text,
            (Fact::Datacenter, Value::Text(text)) => self.datacenter == text,
            (Fact::Name, Value::Text(text)) => self.name == text,
            // As texts, though `1` and `1.0` are one version.
            (Fact::Label(key), Value::Text(text)) => self.labels.get(key) == Some(text),
            _ => self.order(fact, value).is_some_and(Ordering::is_eq),
        }
    }

    /// How the fact compares to a value; none if the label is not set.
    fn order(&self, fact: &Fact, value: &Value) -> Option<Ordering> {
        Some(match (fact, value) {
            (Fact::Cpu, Value::Cpu(cpu)) => self.capacity.cpu.cmp(cpu),
            (Fact::Memory, Value::Bytes(bytes)) => self.capacity.memory.cmp(bytes),
            (Fact::Disk, Value::Bytes(bytes)) => self.capacity.disk.cmp(bytes),
            (Fact::Resource(name), Value::Count(count)) => self.count(name).cmp(count),
            (Fact::Version, Value::Text(text)) => version::compare(self.version, text),
            (Fact::Label(key), Value::Text(text)) => version::compare(self.labels.get(key)?, text),
            // The parser makes no other pairs.
            _ => return None,
        })
    }

    /// `labels.gpu is v100`
    fn sentence(&self, fact: &Fact) -> String {
        match self.get(fact) {
            None => format!("{fact} is not set"),
            Some(text) if text.is_empty() => format!("{fact} is empty"),
            Some(text) => {
                let shown = shown(&text);
                format!("{fact} is {}", shown.trim_matches('`'))
            }
        }
    }
}

/// One name for each architecture, of those that Linux, Debian and Go have for it.
fn architecture(name: &str) -> &str {
    match name {
        "x86_64" | "x64" => "amd64",
        "aarch64" => "arm64",
        "armv7l" | "armhf" => "armv7",
        "i386" | "i686" | "x86" => "386",
        other => other,
    }
}
