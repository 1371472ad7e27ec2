//! A walk through an untrusted document that knows where it stands and collects every mistake on its way.
//!
//! A reader takes a [`Node`] and gives `None` after it reported a mistake. Its caller continues with a stand-in, so that
//! the other mistakes are found too; what was built with stand-ins is thrown away at the end.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Display, Formatter};
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::driver::DriverKind;
use super::field::{Absent, Field, Kind, Tables, Words, find};
use crate::document::{Data, Entry, ScalarKind, Value};
use crate::quantity::{Bytes, Cpu, Span, shown};
use crate::spelling::{did_you_mean, with_suggestion};

/// Maximum number of mistakes that are listed in full.
const MAX_LISTED: usize = 50;

/// One mistake in a specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// The place of the mistake, as a JSON pointer (RFC 6901); empty for the whole document.
    pub pointer: String,
    /// A sentence that says what is wrong.
    pub detail: String,
    /// A sentence that says what was probably meant, where that can be guessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl Display for FieldError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.pointer.is_empty() {
            write!(f, "{}: ", self.pointer)?;
        }
        f.write_str(&self.message())
    }
}

impl FieldError {
    /// What is wrong and what was probably meant, without the place.
    pub fn message(&self) -> String {
        with_suggestion(&self.detail, self.suggestion.as_deref())
    }
}

impl std::error::Error for FieldError {}

/// The mistakes found so far.
#[derive(Default)]
pub(super) struct Mistakes {
    found: RefCell<Vec<FieldError>>,
    left_out: Cell<usize>,
}

impl Mistakes {
    /// All mistakes; where there were too many, the last entry says how many more.
    pub fn into_list(self) -> Vec<FieldError> {
        let mut list = self.found.into_inner();
        let left_out = match self.left_out.get() {
            0 => return list,
            1 => "1 more error is not listed".to_owned(),
            more => format!("{more} more errors are not listed"),
        };
        list.push(FieldError { pointer: String::new(), detail: left_out, suggestion: None });
        list
    }
}

/// One value, where it stands, and where to report what is wrong with it.
#[derive(Clone)]
pub(super) struct Node<'a> {
    pub value: &'a Value,
    /// The field whose value it is; none for the whole document, a member of a list and an entry of a map.
    field: Option<&'static Field>,
    pointer: String,
    mistakes: &'a Mistakes,
}

impl<'a> Node<'a> {
    /// Whether it stands for this field of an object alone. A time may be written as a number.
    fn is_word_of(&self, word: &str, fields: Tables) -> bool {
        match find(fields, word).map(|field| &field.kind) {
            Some(Kind::Time(_)) => self.value.as_text().is_some(),
            _ => self.value.is_text(),
        }
    }

    /// The whole document.
    pub fn root(value: &'a Value, mistakes: &'a Mistakes) -> Node<'a> {
        Node::at("", value, mistakes)
    }

    /// A document that is a part of what was sent.
    pub fn at(pointer: &str, value: &'a Value, mistakes: &'a Mistakes) -> Node<'a> {
        Node { value, field: None, pointer: pointer.to_owned(), mistakes }
    }

    /// Another value in its place.
    pub fn with<'b>(&self, value: &'b Value) -> Node<'b>
    where
        'a: 'b,
    {
        Node { value, ..self.clone() }
    }

    /// Where it stands.
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// A value in this one, by its name or its position.
    pub fn child(&self, name: &str, value: &'a Value) -> Node<'a> {
        // RFC 6901 escapes the two characters that mean something in a pointer.
        let name = name.replace('~', "~0").replace('/', "~1");
        let pointer = format!("{}/{name}", self.pointer);
        Node { value, field: None, pointer, mistakes: self.mistakes }
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
        let mut found = self.mistakes.found.borrow_mut();
        if found.len() < MAX_LISTED {
            found.push(FieldError {
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

    /// What its field takes.
    pub fn kind(&self) -> Option<&'static Kind> {
        self.field.map(|field| &field.kind)
    }

    /// What its field takes, for a message.
    pub fn what(&self) -> String {
        self.field.map_or_else(String::new, Field::expected)
    }

    /// An object with these fields.
    pub fn object(&self, what: &str, fields: Tables) -> Option<Object<'a>> {
        match &self.value.data {
            Data::Object(entries) => Some(Object::new(self, entries, fields)),
            _ => self.expected(what),
        }
    }

    /// The entries of an object whose names are the user's own.
    pub fn entries(&self) -> Option<impl ExactSizeIterator<Item = (&'a str, Node<'a>)> + use<'a>> {
        let node = self.clone();
        match &self.value.data {
            Data::Object(entries) => Some(
                entries.iter().map(move |entry| (entry.key.as_str(), node.child(&entry.key, &entry.value))),
            ),
            _ => self.expected(&self.what()),
        }
    }

    /// The members of a list, as many as its field may have.
    pub fn list(&self) -> Option<impl ExactSizeIterator<Item = Node<'a>> + use<'a>> {
        let members = self.members()?;
        match self.kind() {
            Some(Kind::List { noun, max, .. }) if members.len() > *max => {
                let len = members.len();
                self.wrong(format!("the list has {len} {noun}, more than the {max} that are allowed"))
            }
            _ => Some(members),
        }
    }

    /// The members of a list, however many.
    pub fn members(&self) -> Option<impl ExactSizeIterator<Item = Node<'a>> + use<'a>> {
        let Data::List(items) = &self.value.data else { return self.expected(&self.what()) };
        let node = self.clone();
        Some(items.iter().enumerate().map(move |(position, item)| node.child(&position.to_string(), item)))
    }

    /// A text: the own text of a scalar, whatever its language takes it for. YAML makes numbers of `8080` and `1.10`, and
    /// a boolean of `true`.
    pub fn text(&self, what: &str) -> Option<&'a str> {
        if self.value.is_null() {
            return self.wrong(format!("expected {what}, found null: write \"\" for an empty text"));
        }
        self.value.as_text().or_else(|| self.expected(what))
    }

    /// The text of a field.
    pub fn own_text(&self) -> Option<&'a str> {
        self.text(&self.what())
    }

    /// The name in a field, of the characters that its kind of name may have.
    pub fn own_name(&self) -> Option<&'a str> {
        let name = self.own_text()?;
        self.field.is_none_or(|field| self.check_name(name, &field.kind)).then_some(name)
    }

    /// Reports a text that cannot be a name of this kind.
    pub fn check_name(&self, name: &str, kind: &Kind) -> bool {
        kind.check_name(name).map_err(|why| self.wrong::<()>(why)).is_ok()
    }

    /// An amount with a unit, in a range.
    fn amount<T>(&self, what: &str, range: &RangeInclusive<T>) -> Option<T>
    where
        T: FromStr<Err: Display> + Display + PartialOrd,
    {
        let Some(text) = self.value.amount_text() else { return self.expected(what) };
        match text.parse::<T>() {
            Ok(amount) if range.contains(&amount) => Some(amount),
            Ok(amount) => self.wrong(format!("expected {what}, found {amount}")),
            Err(why) => self.wrong(why.to_string()),
        }
    }
}

/// A value that is read as a kind says.
pub(super) trait FieldValue: Sized {
    fn read(node: &Node<'_>, kind: &Kind) -> Option<Self>;
}

/// Where a reader asks for another type than a row says. No test that reads a specification passes then.
fn other_type<T>(kind: &Kind) -> Option<T> {
    unreachable!("{kind:?} is read as something else")
}

impl FieldValue for bool {
    fn read(node: &Node<'_>, kind: &Kind) -> Option<bool> {
        node.value.as_bool().or_else(|| node.expected(&kind.expected("")))
    }
}

impl FieldValue for Span {
    fn read(node: &Node<'_>, kind: &Kind) -> Option<Span> {
        let Kind::Time(range) = kind else { return other_type(kind) };
        node.amount(&kind.expected(""), range)
    }
}

impl FieldValue for Bytes {
    fn read(node: &Node<'_>, kind: &Kind) -> Option<Bytes> {
        let Kind::Size(range) = kind else { return other_type(kind) };
        node.amount(&kind.expected(""), range)
    }
}

impl FieldValue for Cpu {
    fn read(node: &Node<'_>, kind: &Kind) -> Option<Cpu> {
        let Kind::Cpus(range) = kind else { return other_type(kind) };
        node.amount(&kind.expected(""), range)
    }
}

impl FieldValue for i64 {
    fn read(node: &Node<'_>, kind: &Kind) -> Option<i64> {
        let Kind::Whole(range) = kind else { return other_type(kind) };
        let number = node.value.as_integer().and_then(|number| i64::try_from(number).ok());
        number.filter(|number| range.contains(number)).or_else(|| node.expected(&kind.expected("")))
    }
}

macro_rules! whole_numbers {
    ($($type:ty),*) => { $(
        impl FieldValue for $type {
            fn read(node: &Node<'_>, kind: &Kind) -> Option<$type> {
                i64::read(node, kind)?.try_into().ok().or_else(|| other_type(kind))
            }
        }
    )* };
}
whole_numbers!(u8, i8, u32);

impl<T: Words> FieldValue for T {
    fn read(node: &Node<'_>, kind: &Kind) -> Option<T> {
        let what = kind.expected("");
        let text = node.text(&what)?;
        if let Some((_, meaning, _)) = T::WORDS.iter().find(|(word, ..)| *word == text) {
            return Some(*meaning);
        }
        let words = T::WORDS.iter().map(|(word, ..)| *word);
        node.wrong_with(format!("expected {what}, found {}", shown(text)), || did_you_mean(text, words))
    }
}

/// An object of which the fields are taken one by one.
pub(super) struct Object<'a> {
    node: Node<'a>,
    entries: &'a [Entry],
    fields: Vec<&'static [Field]>,
    /// Names that were reported already.
    refused: Vec<&'static str>,
    /// The value of a field for which a word stands in the object's place.
    word: Option<(&'static str, Node<'a>)>,
}

impl<'a> Object<'a> {
    fn new(node: &Node<'a>, entries: &'a [Entry], fields: Tables) -> Object<'a> {
        Object { node: node.clone(), entries, fields: fields.to_vec(), refused: Vec::new(), word: None }
    }

    /// The object itself, for mistakes that are in no single field.
    pub fn node(&self) -> &Node<'a> {
        &self.node
    }

    /// Whether a field is there and not null.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether any of these fields is there, but for those that the object has under the same name.
    pub fn has_any(&self, fields: Tables) -> bool {
        self.names_beside_own(fields).iter().any(|name| self.has(name))
    }

    fn names_beside_own(&self, fields: Tables) -> Vec<&'static str> {
        let names = fields.iter().copied().flatten().map(|field| field.name);
        names.filter(|name| find(&self.fields, name).is_none()).collect()
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        let entry = self.entries.iter().find(|entry| entry.key == name)?;
        Some(&entry.value).filter(|value| !value.is_null())
    }

    fn declared(&self, name: &str) -> &'static Field {
        find(&self.fields, name).unwrap_or_else(|| unreachable!("`{name}` is in no table of this object"))
    }

    /// A field, if it is there. One that is null is left out, as many programs write it.
    pub fn field(&self, name: &'static str) -> Option<Node<'a>> {
        let field = Some(self.declared(name));
        if let Some((_, node)) = self.word.as_ref().filter(|(word, _)| *word == name) {
            return Some(Node { field, ..node.clone() });
        }
        Some(Node { field, ..self.node.child(name, self.get(name)?) })
    }

    /// A field as `read` understands it; none when it is not there or wrong.
    pub fn read<T>(&self, name: &'static str, read: impl FnOnce(&Node<'a>) -> Option<T>) -> Option<T> {
        read(&self.field(name)?)
    }

    /// A field as its kind says; none when it is not there or wrong.
    pub fn optional<T: FieldValue>(&self, name: &'static str) -> Option<T> {
        self.read(name, |node| T::read(node, &self.declared(name).kind))
    }

    /// A field as its kind says; its default when it is not there or wrong.
    pub fn value<T: FieldValue>(&self, name: &'static str) -> T {
        self.value_as(name, |node| T::read(node, &self.declared(name).kind))
    }

    /// A field as `read` understands it; its default when it is not there or wrong.
    pub fn value_as<T>(&self, name: &'static str, read: impl Fn(&Node<'_>) -> Option<T>) -> T {
        self.read(name, &read).unwrap_or_else(|| {
            let field = self.declared(name);
            let Absent::Is(default) = field.absent else { unreachable!("`{name}` has no default") };
            let value = Value::from(&serde_json::Value::from(default));
            let mistakes = Mistakes::default();
            let node = Node { field: Some(field), ..Node::root(&value, &mistakes) };
            read(&node).unwrap_or_else(|| unreachable!("the default of `{name}` is wrong"))
        })
    }

    /// A field that has to be there; `why` is said where it is not.
    pub fn required<T: FieldValue>(&self, name: &'static str, why: &str) -> Option<T> {
        match self.field(name) {
            Some(node) => T::read(&node, &self.declared(name).kind),
            None => self.node.wrong(why),
        }
    }

    /// A field that is an object, or the word that stands for one; none when it is not there or wrong.
    pub fn nested(&self, name: &'static str) -> Option<Object<'a>> {
        let node = self.field(name)?;
        match &self.declared(name).kind {
            Kind::WordOr { word, fields } if node.is_word_of(word, fields) => {
                Some(Object { word: Some((word, node.clone())), ..Object::new(&node, &[], fields) })
            }
            kind => node.object(&node.what(), kind.fields().unwrap_or_default()),
        }
    }

    /// A field that is an object, or the word that stands for one; an empty object when it is not there or wrong.
    pub fn nested_or_empty(&self, name: &'static str) -> Object<'a> {
        let fields = self.declared(name).kind.fields().unwrap_or_default();
        self.nested(name).unwrap_or_else(|| Object::new(&self.node, &[], fields))
    }

    /// Lets the object have these fields, too.
    pub fn also(&mut self, fields: Tables) {
        self.fields.extend(fields);
    }

    /// Reports each of the named fields that is there.
    pub fn refuse(&mut self, names: impl IntoIterator<Item = &'static str>, why: &str) {
        for name in names {
            self.refused.push(name);
            if let Some(value) = self.get(name) {
                self.node.child(name, value).wrong::<()>(format!("`{name}` {why}"));
            }
        }
    }

    /// Reports each of these fields that is there, but for those that the object has under the same name.
    pub fn refuse_fields(&mut self, fields: Tables, why: &str) {
        self.refuse(self.names_beside_own(fields), why);
    }

    /// Reports the fields that tasks of this driver cannot have.
    pub fn refuse_other_drivers(&mut self, driver: DriverKind, why: impl Fn(&Field) -> &'static str) {
        let fields = self.fields.iter().copied().flatten();
        let others: Vec<_> = fields.filter(|field| !field.drivers.contains(&driver)).collect();
        for field in others {
            self.refuse([field.name], why(field));
        }
    }

    /// The fields that have no row of their own. Those that are null are left out.
    pub fn others(self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        let Object { node, entries, fields, .. } = self;
        let is_other = move |entry: &&Entry| find(&fields, &entry.key).is_none() && !entry.value.is_null();
        entries
            .iter()
            .filter(is_other)
            .map(move |entry| (entry.key.as_str(), node.child(&entry.key, &entry.value)))
    }

    /// Reports the fields that the object cannot have.
    pub fn finish(self) {
        for entry in self.entries {
            let name = entry.key.as_str();
            if find(&self.fields, name).is_some() || self.refused.contains(&name) {
                continue;
            }
            let known = self.fields.iter().copied().flatten().map(|field| field.name);
            let known = known.filter(|known| !self.refused.contains(known));
            let node = self.node.child(name, &entry.value);
            node.wrong_with::<()>(format!("unknown field {}", shown(name)), || did_you_mean(name, known));
        }
    }
}
