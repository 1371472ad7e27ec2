//! A walk through an untrusted document that knows where it stands and collects every mistake on its way.
//!
//! A reader takes a [`Node`] and gives `None` after it reported a mistake. Its caller goes on with a stand-in,
//! so that the other mistakes are found too; what was built with stand-ins is thrown away at the end.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::FieldError;
use crate::document::{Data, Entry, ScalarKind, Value};
use crate::quantity::shown;
use crate::spelling::did_you_mean;

/// The most mistakes that are told in full.
const MAX_TOLD: usize = 50;

/// The mistakes found so far.
#[derive(Default)]
pub(super) struct Mistakes {
    told: RefCell<Vec<FieldError>>,
    left_out: Cell<usize>,
}

impl Mistakes {
    /// All mistakes; where there were too many, the last entry says how many more.
    pub fn into_list(self) -> Vec<FieldError> {
        let mut list = self.told.into_inner();
        match self.left_out.get() {
            0 => {}
            1 => list.push(FieldError::new("", "1 more mistake was left out of this list")),
            more => {
                list.push(FieldError::new("", format!("{more} more mistakes were left out of this list")))
            }
        }
        list
    }
}

/// One value, where it stands, and where to report what is wrong with it.
#[derive(Clone)]
pub(super) struct Node<'a> {
    pub value: &'a Value,
    pointer: String,
    mistakes: &'a Mistakes,
}

impl<'a> Node<'a> {
    /// The whole document.
    pub fn root(value: &'a Value, mistakes: &'a Mistakes) -> Node<'a> {
        Node { value, pointer: String::new(), mistakes }
    }

    fn child(&self, name: &str, value: &'a Value) -> Node<'a> {
        // RFC 6901 escapes the two characters that mean something in a pointer.
        let name = name.replace('~', "~0").replace('/', "~1");
        Node { value, pointer: format!("{}/{name}", self.pointer), mistakes: self.mistakes }
    }

    /// Reports a mistake in this value.
    pub fn wrong<T>(&self, detail: impl Into<String>) -> Option<T> {
        self.wrong_with(detail, || None)
    }

    /// Reports a mistake in this value together with what may have been meant.
    pub fn wrong_with<T>(
        &self,
        detail: impl Into<String>,
        suggest: impl FnOnce() -> Option<String>,
    ) -> Option<T> {
        let mut told = self.mistakes.told.borrow_mut();
        if told.len() < MAX_TOLD {
            told.push(FieldError {
                pointer: self.pointer.clone(),
                detail: detail.into(),
                suggestion: suggest(),
            });
        } else {
            self.mistakes.left_out.set(self.mistakes.left_out.get() + 1);
        }
        None
    }

    /// Reports that something else was expected here.
    pub fn expected<T>(&self, what: &str) -> Option<T> {
        let found = match &self.value.data {
            Data::Scalar(scalar) => match scalar.kind {
                ScalarKind::Null => "null".to_owned(),
                ScalarKind::Bool | ScalarKind::Number => scalar.text.clone(),
                ScalarKind::Text => "a string".to_owned(),
            },
            Data::List(_) => "a list".to_owned(),
            Data::Object(_) => "an object".to_owned(),
        };
        self.wrong(format!("expected {what}, found {found}"))
    }

    /// An object with fields of fixed names.
    pub fn object(&self, what: &str) -> Option<Object<'a>> {
        match &self.value.data {
            Data::Object(entries) => {
                Some(Object { node: self.clone(), entries, known: Vec::new(), refused: Vec::new() })
            }
            _ => self.expected(what),
        }
    }

    /// The entries of an object whose names are the user's own.
    pub fn entries(&self, what: &str) -> Option<impl ExactSizeIterator<Item = (&'a str, Node<'a>)>> {
        match &self.value.data {
            Data::Object(entries) => {
                Some(entries.iter().map(|entry| (entry.key.as_str(), self.child(&entry.key, &entry.value))))
            }
            _ => self.expected(what),
        }
    }

    /// The members of a list.
    pub fn list(&self, what: &str) -> Option<impl ExactSizeIterator<Item = Node<'a>>> {
        match &self.value.data {
            Data::List(items) => {
                Some(items.iter().enumerate().map(|(position, item)| self.child(&position.to_string(), item)))
            }
            _ => self.expected(what),
        }
    }

    /// A text: the own text of a scalar, whatever its language takes it for. YAML makes numbers of `8080` and `1.10`, and
    /// a boolean of `true`.
    pub fn text(&self, what: &str) -> Option<&'a str> {
        if self.value.is_null() {
            return self.wrong(format!("expected {what}, found null: write \"\" for an empty text"));
        }
        self.value.as_text().or_else(|| self.expected(what))
    }

    /// A whole number in a range.
    pub fn integer(&self, range: RangeInclusive<u32>) -> Option<u32> {
        match self.value.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number) if range.contains(&number) => Some(number),
            _ => self.expected(&format!("a whole number from {} to {}", range.start(), range.end())),
        }
    }

    /// An amount with a unit, in a range.
    pub fn amount<T>(&self, noun: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr<Err: Display> + Display + PartialOrd,
    {
        let what = format!("{noun} from {} to {}", range.start(), range.end());
        let Some(text) = self.value.amount_text() else { return self.expected(&what) };
        match text.parse::<T>() {
            Ok(amount) if range.contains(&amount) => Some(amount),
            Ok(amount) => self.wrong(format!("expected {what}, found {amount}")),
            Err(why) => self.wrong(why.to_string()),
        }
    }

    /// One of a few words, each of which stands for something.
    pub fn word<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        let what = one_of(&words);
        let text = self.text(&what)?;
        if let Some((_, meaning)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*meaning);
        }
        self.wrong_with(format!("expected {what}, found {}", shown(text)), || did_you_mean(text, words))
    }
}

/// An object of which the known fields are taken one by one.
pub(super) struct Object<'a> {
    node: Node<'a>,
    entries: &'a [Entry],
    known: Vec<&'static str>,
    refused: Vec<&'static str>,
}

impl<'a> Object<'a> {
    /// The object itself, for mistakes that are in no single field.
    pub fn node(&self) -> &Node<'a> {
        &self.node
    }

    /// Whether a field is there and not null.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        let entry = self.entries.iter().find(|entry| entry.key == name)?;
        Some(&entry.value).filter(|value| !value.is_null())
    }

    /// A field, if it is there. One that is null is left out, as many programs write it.
    pub fn field(&mut self, name: &'static str) -> Option<Node<'a>> {
        self.known.push(name);
        Some(self.node.child(name, self.get(name)?))
    }

    /// A field as `read` understands it; none when it is not there or wrong.
    pub fn read<T>(&mut self, name: &'static str, read: impl FnOnce(&Node<'a>) -> Option<T>) -> Option<T> {
        read(&self.field(name)?)
    }

    /// Reports each of the named fields that is there.
    pub fn refuse(&mut self, names: &[&'static str], why: &str) {
        self.refused.extend(names);
        for name in names {
            if let Some(value) = self.get(name) {
                self.node.child(name, value).wrong::<()>(format!("`{name}` {why}"));
            }
        }
    }

    /// The fields that nobody asked for, for those whose names are the user's own. Those that are null are left out.
    pub fn others(self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        let Object { node, entries, known, .. } = self;
        let is_other = move |entry: &&Entry| !known.contains(&entry.key.as_str()) && !entry.value.is_null();
        entries
            .iter()
            .filter(is_other)
            .map(move |entry| (entry.key.as_str(), node.child(&entry.key, &entry.value)))
    }

    /// Reports the fields that nobody asked for.
    pub fn finish(self) {
        for entry in self.entries {
            let name = entry.key.as_str();
            if self.known.contains(&name) || self.refused.contains(&name) {
                continue;
            }
            let node = self.node.child(name, &entry.value);
            node.wrong_with::<()>(format!("unknown field {}", shown(name)), || {
                did_you_mean(name, self.known.iter().copied())
            });
        }
    }
}

/// `` `a`, `b` or `c` ``
fn one_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}
