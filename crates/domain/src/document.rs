//! Parses YAML, TOML and JSON into one tree that keeps the text and the position of every value.
//!
//! Usual parsers turn `1.10` into a number and lose how it was written. Here a text field gets the source text, and only
//! a numeric field parses a number. Duplicate keys are refused in all three languages, and so are documents whose values
//! cost far more memory than their text.

mod json;
mod numbers;
mod toml;
mod yaml;

#[cfg(test)]
mod tests;

use std::fmt::{self, Display, Formatter};

use crate::quantity::shown;

/// The most values that one document may have, those that its aliases repeat included: an item for each task that a job may have,
/// and some more.
pub const MAX_VALUES: usize = 104_000;
/// How deep lists and objects may be nested.
pub const MAX_DEPTH: usize = 64;
/// The most bytes of text that a document may have once its aliases are written out.
pub const MAX_TEXT_BYTES: usize = 1024 * 1024;

/// What a document is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// YAML 1.2 with the core schema, and merge keys.
    Yaml,
    /// TOML 1.1.
    Toml,
    /// JSON.
    Json,
}

/// A place in a text, both counted from 1; the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// A value, with its position if it comes from a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Its data.
    pub data: Data,
    /// Where it begins.
    pub place: Option<Place>,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// A text, a number, a boolean or null.
    Scalar(Scalar),
    /// A list.
    List(Vec<Value>),
    /// An object; its keys are unique and in the order in which they were written.
    Object(Vec<Entry>),
}

/// A scalar as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// What its language takes it for.
    pub kind: ScalarKind,
    /// Its own text: `1.10` stays `1.10`. Without quotes and escapes.
    pub text: String,
}

/// What the language of a document takes a scalar for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalarKind {
    /// Nothing: a field that is null is one that was left out.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// A text.
    Text,
}

/// One field of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name, as it was written.
    pub key: String,
    /// Position of the name.
    pub place: Option<Place>,
    /// Its value.
    pub value: Value,
}

/// Why a text is no document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where in the text, if that is known.
    pub place: Option<Place>,
    /// The value at fault as a JSON pointer, for a mistake that is in a single one: a key that is written twice.
    pub pointer: Option<String>,
    /// The mistake.
    pub message: String,
}

impl Language {
    /// The name that people use.
    pub fn name(self) -> &'static str {
        match self {
            Language::Yaml => "YAML",
            Language::Toml => "TOML",
            Language::Json => "JSON",
        }
    }

    /// Every language.
    pub const ALL: [Language; 3] = [Language::Yaml, Language::Toml, Language::Json];

    /// Its word in the API, in media types, in the database and at the end of file names.
    pub fn word(self) -> &'static str {
        match self {
            Language::Yaml => "yaml",
            Language::Toml => "toml",
            Language::Json => "json",
        }
    }

    /// The language of a word.
    pub fn named(word: &str) -> Option<Language> {
        Language::ALL.into_iter().find(|language| language.word() == word)
    }

    /// Detects the language of a text: JSON or TOML if it looks like it, otherwise YAML.
    pub fn guess(text: &str) -> Language {
        let text = crate::text::without_bom(text);
        let inside = text.trim_start().strip_prefix('{').map(str::trim_start);
        if inside.is_some_and(|inside| inside.starts_with(['"', '}'])) {
            return Language::Json;
        }
        let says_something = |line: &&str| !line.is_empty() && !line.starts_with('#');
        let first = text.lines().map(str::trim).find(says_something).unwrap_or_default();
        // In YAML either would be no object, and so no specification.
        let is_bare =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '"' | '\'' | ' ' | '\t');
        let is_assignment =
            first.split_once('=').is_some_and(|(key, _)| !key.is_empty() && key.chars().all(is_bare));
        if is_assignment || first.starts_with('[') { Language::Toml } else { Language::Yaml }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn read(self, text: &str) -> Result<Value, SyntaxError> {
        let text = crate::text::without_bom(text);
        match self {
            Language::Yaml => yaml::read(text),
            Language::Toml => toml::read(text),
            Language::Json => json::read(text),
        }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl SyntaxError {
    fn at(place: Place, message: impl Into<String>) -> SyntaxError {
        SyntaxError { place: Some(place), pointer: None, message: message.into() }
    }

    fn twice(key: &str, first: Option<Place>, second: Place) -> SyntaxError {
        let first = first.map(|first| format!(", the first time on line {}", first.line)).unwrap_or_default();
        let message = format!("the key {} is written twice{first}: leave out one of the two", shown(key));
        SyntaxError { pointer: Some(pointer_segment(key)), ..SyntaxError::at(second, message) }
    }

    fn too_deep(place: Place) -> SyntaxError {
        SyntaxError::at(
            place,
            format!(
                "lists and objects are nested more than {MAX_DEPTH} deep, which is the most that is allowed"
            ),
        )
    }

    fn too_many(place: Place) -> SyntaxError {
        SyntaxError::at(
            place,
            format!("there are more than {MAX_VALUES} values, which is the most that is allowed"),
        )
    }

    /// The same mistake, seen from the value around.
    fn within(mut self, segment: &str) -> SyntaxError {
        if let Some(pointer) = &mut self.pointer {
            pointer.insert_str(0, &pointer_segment(segment));
        }
        self
    }
}

impl Display for SyntaxError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for SyntaxError {}

impl Scalar {
    fn new(kind: ScalarKind, text: impl Into<String>) -> Scalar {
        Scalar { kind, text: text.into() }
    }
}

impl Value {
    fn scalar(kind: ScalarKind, text: impl Into<String>, place: Place) -> Value {
        Value { data: Data::Scalar(Scalar::new(kind, text)), place: Some(place) }
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        matches!(&self.data, Data::Scalar(scalar) if scalar.kind == ScalarKind::Null)
    }

    /// Whether it is a text, by its language: neither a number nor a boolean.
    pub fn is_text(&self) -> bool {
        matches!(&self.data, Data::Scalar(scalar) if scalar.kind == ScalarKind::Text)
    }

    /// The source text of a scalar, whatever its type; none for null.
    pub fn as_text(&self) -> Option<&str> {
        match &self.data {
            Data::Scalar(scalar) if scalar.kind != ScalarKind::Null => Some(&scalar.text),
            _ => None,
        }
    }

    /// The entry of an object.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.data {
            Data::Object(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The value in an object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The position of the value at a JSON pointer; in an object, that of its key.
    pub fn place_of(&self, pointer: &str) -> Option<Place> {
        let mut value = self;
        let mut place = self.place;
        for segment in pointer.split('/').skip(1) {
            let segment = segment.replace("~1", "/").replace("~0", "~");
            (place, value) = match &value.data {
                Data::Object(_) => value.entry(&segment).map(|entry| (entry.place, &entry.value))?,
                Data::List(items) => {
                    items.get(segment.parse::<usize>().ok()?).map(|item| (item.place, item))?
                }
                Data::Scalar(_) => return None,
            };
        }
        place
    }

    /// The document in JSON, of which every reader that keeps the text of numbers makes the same again.
    pub fn to_json(&self) -> String {
        let mut text = String::new();
        json::write(self, None, &mut text);
        text
    }

    /// The same with line ends and indentation, for people.
    pub fn to_pretty_json(&self) -> String {
        let mut text = String::new();
        json::write(self, Some(0), &mut text);
        text
    }
}

/// Numbers that would be written otherwise afterwards become texts, as which every field takes them.
impl From<&Value> for serde_json::Value {
    fn from(value: &Value) -> serde_json::Value {
        match &value.data {
            Data::Scalar(scalar) => match scalar.kind {
                ScalarKind::Null => serde_json::Value::Null,
                ScalarKind::Text => scalar.text.as_str().into(),
                ScalarKind::Bool | ScalarKind::Number => {
                    let read = serde_json::from_str::<serde_json::Value>(&scalar.text).ok();
                    let is_same = |read: &serde_json::Value| {
                        let again = read.to_string();
                        !read.is_string() && again == scalar.text
                    };
                    let same = read.filter(is_same);
                    same.unwrap_or_else(|| scalar.text.as_str().into())
                }
            },
            Data::List(items) => items.iter().map(serde_json::Value::from).collect(),
            Data::Object(entries) => {
                let entry = |entry: &Entry| (entry.key.clone(), serde_json::Value::from(&entry.value));
                serde_json::Value::Object(entries.iter().map(entry).collect())
            }
        }
    }
}

impl From<&serde_json::Value> for Value {
    fn from(value: &serde_json::Value) -> Value {
        let scalar = |kind, text: String| Data::Scalar(Scalar { kind, text });
        let data = match value {
            serde_json::Value::Null => scalar(ScalarKind::Null, "null".to_owned()),
            serde_json::Value::Bool(value) => scalar(ScalarKind::Bool, value.to_string()),
            serde_json::Value::Number(number) => scalar(ScalarKind::Number, number.to_string()),
            serde_json::Value::String(text) => scalar(ScalarKind::Text, text.clone()),
            serde_json::Value::Array(items) => Data::List(items.iter().map(Value::from).collect()),
            serde_json::Value::Object(map) => {
                let entry = |(key, value): (&String, _)| Entry {
                    key: key.clone(),
                    place: None,
                    value: Value::from(value),
                };
                Data::Object(map.iter().map(entry).collect())
            }
        };
        Value { data, place: None }
    }
}

/// A name as a part of a JSON pointer (RFC 6901).
fn pointer_segment(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Where the lines of a text begin, to tell places in it. Lines may be as long as the text.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
    /// How many characters come before each block.
    chars_before: Vec<usize>,
}

impl<'t> Lines<'t> {
    const BLOCK_BYTES: usize = 256;

    fn of(text: &'t str) -> Lines<'t> {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        let mut before = 0;
        let mut chars_before = Vec::with_capacity(text.len() / Self::BLOCK_BYTES + 1);
        for block in text.as_bytes().chunks(Self::BLOCK_BYTES) {
            chars_before.push(before);
            before += chars_in(block);
        }
        chars_before.push(before);
        Lines { text, starts, chars_before }
    }

    /// The place of a byte.
    fn place(&self, offset: usize) -> Place {
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let column = self.chars_before(offset) - self.chars_before(self.starts[line - 1]) + 1;
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Place { line: number(line), column: number(column) }
    }

    fn chars_before(&self, offset: usize) -> usize {
        let block = offset / Self::BLOCK_BYTES;
        self.chars_before[block] + chars_in(&self.text.as_bytes()[block * Self::BLOCK_BYTES..offset])
    }
}

/// Characters that begin in these bytes of UTF-8.
fn chars_in(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

/// What a document may still cost.
#[derive(Default)]
struct Budget {
    values: usize,
    text_bytes: usize,
}

impl Budget {
    /// Subtracts this many values and bytes of text.
    fn spend(&mut self, values: usize, text_bytes: usize, place: Place) -> Result<(), SyntaxError> {
        self.values += values;
        self.text_bytes += text_bytes;
        if self.values > MAX_VALUES {
            return Err(SyntaxError::too_many(place));
        }
        if self.text_bytes > MAX_TEXT_BYTES {
            return Err(SyntaxError::at(
                place,
                format!(
                    "with its aliases written out the text is larger than the {MAX_TEXT_BYTES} bytes allowed"
                ),
            ));
        }
        Ok(())
    }
}
