//! Parses constraints; errors name the column, the expected syntax and a suggestion.

use super::error::ConstraintError;
use super::token::{KEYWORDS, Token, is_word_char, tokens};
use super::{Expr, Fact, Value};
use crate::quantity::shown;
use crate::spelling::{did_you_mean, nearest};

/// The most bytes that a constraint may have, as written and in its normal form.
pub const MAX_CONSTRAINT_BYTES: usize = 1024;
/// How deep parentheses and `not` may be nested.
pub const MAX_CONSTRAINT_DEPTH: usize = 32;
const MAX_RESOURCE_NAME_LEN: usize = 63;

pub(super) fn constraint(text: &str) -> Result<Expr, ConstraintError> {
    let mut parser = Parser::new(text)?;
    let expr = parser.any(0)?;
    if *parser.token() != Token::End {
        return parser.expected("`and`, `or` or the end", &KEYWORDS);
    }
    // The stored normal form must be readable, too.
    bounded(&expr.to_string())?;
    Ok(expr)
}

/// A fact and nothing else.
pub(super) fn lone_fact(text: &str) -> Result<Fact, ConstraintError> {
    let mut parser = Parser::new(text)?;
    let fact = parser.fact()?;
    if *parser.token() != Token::End {
        return parser.expected("the end", &[]);
    }
    Ok(fact)
}

/// Whether a countable resource may have this name: a small letter, then small letters, digits, `_` and `-`.
pub fn is_resource_name(name: &str) -> bool {
    name.len() <= MAX_RESOURCE_NAME_LEN
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c))
}

fn bounded(text: &str) -> Result<(), ConstraintError> {
    let bytes = text.len();
    if bytes <= MAX_CONSTRAINT_BYTES {
        return Ok(());
    }
    let detail =
        format!("the constraint has {bytes} bytes, more than the {MAX_CONSTRAINT_BYTES} that are allowed");
    let suggestion = Some("split it: several constraints are combined with `and`".to_owned());
    Err(ConstraintError { column: 1, detail, suggestion })
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    /// Of the token that is looked at; never beyond the last, which is the end.
    position: usize,
}

impl Parser {
    fn new(text: &str) -> Result<Parser, ConstraintError> {
        bounded(text)?;
        Ok(Parser { tokens: tokens(text)?, position: 0 })
    }

    fn token(&self) -> &Token {
        self.tokens.get(self.position).map_or(&Token::End, |(_, token)| token)
    }

    fn column(&self) -> usize {
        self.tokens.get(self.position).map_or(1, |(column, _)| *column)
    }

    fn advance(&mut self) {
        self.position = (self.position + 1).min(self.tokens.len().saturating_sub(1));
    }

    /// Takes the token if it is this one.
    fn took(&mut self, token: &Token) -> bool {
        let is_it = self.token() == token;
        if is_it {
            self.advance();
        }
        is_it
    }

    fn took_word(&mut self, word: &str) -> bool {
        let is_it = matches!(self.token(), Token::Word(found) if found == word);
        if is_it {
            self.advance();
        }
        is_it
    }

    fn wrong<T>(&self, detail: String, suggestion: Option<String>) -> Result<T, ConstraintError> {
        Err(ConstraintError { column: self.column(), detail, suggestion })
    }

    fn expected<T>(&self, what: &str, words: &[&str]) -> Result<T, ConstraintError> {
        let suggestion = match self.token() {
            Token::Word(word) => did_you_mean(word, words.iter().copied()),
            _ => None,
        };
        self.wrong(format!("expected {what}, found {}", self.token()), suggestion)
    }

    fn any(&mut self, depth: usize) -> Result<Expr, ConstraintError> {
        let mut parts = vec![self.all(depth)?];
        while self.took_word("or") {
            parts.push(self.all(depth)?);
        }
        let flat = parts.into_iter().flat_map(|part| match part {
            Expr::Any(inner) => inner,
            other => vec![other],
        });
        Ok(one_or(flat.collect(), Expr::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Expr, ConstraintError> {
        let mut parts = vec![self.not(depth)?];
        while self.took_word("and") {
            parts.push(self.not(depth)?);
        }
        let flat = parts.into_iter().flat_map(|part| match part {
            Expr::All(inner) => inner,
            other => vec![other],
        });
        Ok(one_or(flat.collect(), Expr::All))
    }

    fn not(&mut self, depth: usize) -> Result<Expr, ConstraintError> {
        if depth > MAX_CONSTRAINT_DEPTH {
            return self
                .wrong(format!("nested deeper than the {MAX_CONSTRAINT_DEPTH} that are allowed"), None);
        }
        if self.took_word("not") {
            return Ok(Expr::Not(Box::new(self.not(depth + 1)?)));
        }
        if self.took(&Token::OpenParen) {
            let inner = self.any(depth + 1)?;
            if !self.took(&Token::CloseParen) {
                return self.expected("`and`, `or` or `)`", &KEYWORDS);
            }
            return Ok(inner);
        }
        self.condition()
    }

    fn condition(&mut self) -> Result<Expr, ConstraintError> {
        let fact = self.fact()?;
        if let Token::Operator(operator) = *self.token() {
            if operator.needs_order() && !fact.has_order() {
                let detail = format!("`{fact}` has no order: compare it with `==`, `!=` or `in`");
                return self.wrong(detail, None);
            }
            self.advance();
            let value = self.value(&fact)?;
            return Ok(Expr::Compare(fact, operator, value));
        }
        // `not` can only follow a fact before `in`.
        if self.took_word("not") {
            if !self.took_word("in") {
                return self.expected("`in`", &["in"]);
            }
            return Ok(Expr::Not(Box::new(self.one_of(fact)?)));
        }
        if self.took_word("in") {
            return self.one_of(fact);
        }
        if fact.may_be_absent() {
            return Ok(Expr::Has(fact));
        }
        self.expected(&format!("`==`, another operator or `in` after `{fact}`"), &["in", "not"])
    }

    fn one_of(&mut self, fact: Fact) -> Result<Expr, ConstraintError> {
        if !self.took(&Token::OpenBracket) {
            return self.expected("a list such as `[a, b]` after `in`", &[]);
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value(&fact)?);
            if self.took(&Token::CloseBracket) {
                return Ok(Expr::OneOf(fact, values));
            }
            if !self.took(&Token::Comma) {
                return self.expected("`,` or `]`", &[]);
            }
        }
    }

    fn fact(&mut self) -> Result<Fact, ConstraintError> {
        let word = match self.token() {
            Token::Word(word) if !KEYWORDS.contains(&word.as_str()) => word.clone(),
            _ => return self.expected("a fact such as `arch` or `labels.gpu`", &[]),
        };
        let fact = match word.split_once('.') {
            Some(("labels", key)) => self.label(key)?,
            Some(("resources", name)) => self.resource(name)?,
            _ => match Fact::PLAIN.iter().find(|(name, _)| *name == word) {
                Some((_, fact)) => fact.clone(),
                None => {
                    let detail = format!("{} is not a fact of a worker", shown(&word));
                    return self.wrong(detail, Some(fact_meant(&word)));
                }
            },
        };
        self.advance();
        Ok(fact)
    }

    fn label(&self, key: &str) -> Result<Fact, ConstraintError> {
        let is_key = key.starts_with(|c: char| c.is_ascii_alphanumeric())
            && key.chars().all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c));
        if is_key {
            return Ok(Fact::Label(key.to_owned()));
        }
        let detail = format!("{} cannot be the key of a label", shown(key));
        self.wrong(detail, Some("write `labels.` and a key such as `labels.gpu`".to_owned()))
    }

    fn resource(&self, name: &str) -> Result<Fact, ConstraintError> {
        match Fact::PLAIN.iter().find(|(plain, _)| *plain == name) {
            Some((plain @ ("cpu" | "memory" | "disk"), _)) => {
                self.wrong(format!("`{plain}` is a fact by itself"), Some(format!("write `{plain}`")))
            }
            _ if is_resource_name(name) => Ok(Fact::Resource(name.to_owned())),
            _ => {
                let detail = format!("{} cannot be the name of a resource", shown(name));
                self.wrong(detail, Some("write `resources.` and a name such as `resources.gpu`".to_owned()))
            }
        }
    }

    /// A value of the kind that the fact is compared with.
    fn value(&mut self, fact: &Fact) -> Result<Value, ConstraintError> {
        let text = match self.token() {
            Token::Word(word) if KEYWORDS.contains(&word.as_str()) => {
                let advice = format!(r#"if the value is `{word}`, write "{word}""#);
                return self
                    .wrong(format!("expected a value, found the word {}", self.token()), Some(advice));
            }
            Token::Word(text) | Token::Quoted(text) => text.clone(),
            _ => return self.expected("a value", &[]),
        };
        let value = match fact {
            Fact::Cpu => text.parse().map(Value::Cpu).map_err(|why| why.to_string()),
            Fact::Memory | Fact::Disk => text.parse().map(Value::Bytes).map_err(|why| why.to_string()),
            Fact::Resource(_) => {
                let count =
                    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
                count
                    .map(Value::Count)
                    .ok_or_else(|| format!("{} is not a number: write a whole one such as 2", shown(&text)))
            }
            _ => Ok(Value::Text(text)),
        };
        match value {
            Ok(value) => {
                self.advance();
                Ok(value)
            }
            Err(why) => self.wrong(why, None),
        }
    }
}

fn one_or(mut parts: Vec<Expr>, many: fn(Vec<Expr>) -> Expr) -> Expr {
    if parts.len() == 1
        && let Some(only) = parts.pop()
    {
        return only;
    }
    many(parts)
}

/// Which fact may have been meant.
fn fact_meant(word: &str) -> String {
    let (first, rest) = word.split_once('.').map_or((word, None), |(first, rest)| (first, Some(rest)));
    let plain = Fact::PLAIN.iter().map(|(name, _)| *name);
    match (rest, nearest(first, plain.clone().chain(["labels", "resources"]))) {
        (Some(rest), Some(meant @ ("labels" | "resources"))) if rest.chars().all(is_word_char) => {
            format!("did you mean `{meant}.{rest}`?")
        }
        (None, Some(meant @ ("labels" | "resources"))) => format!("write a name after it: `{meant}.gpu`"),
        (None, Some(meant)) => format!("did you mean `{meant}`?"),
        _ => {
            let names: Vec<String> = plain.map(|name| format!("`{name}`")).collect();
            let names = names.join(", ");
            let label =
                if rest.is_none() { format!("write `labels.{first}` for a label; ") } else { String::new() };
            format!("{label}there are {names}, `labels.KEY` and `resources.NAME`")
        }
    }
}
