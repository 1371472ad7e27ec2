//! What a field of a specification is: its name, its type and limits, its default, and what is said of it.
//!
//! Each object of a specification has a table of its fields, beside its type, such as [`TASK`](super::TASK) and
//! [`CONTAINER`](super::CONTAINER). To add a field, add a row there, a member to the type, and a line to
//! the reader below it. From the row follow the reader's checks and messages, the options of `gaffer run` and
//! `gaffer submit`, the page *New job*, the JSON Schema ([`super::schema`]) and the tables of the documentation. Rules
//! between fields are the reader's.

use std::ops::RangeInclusive;

use crate::parameters::Code;
use crate::quantity::{Bytes, Cpu, Span, shown};

use super::driver::DriverKind;

/// The fields of an object. A task has those of its container beside its own.
pub type Tables = &'static [&'static [Field]];

/// What a matrix of items looks like.
pub const MATRIX: &str = r#"{os: [linux, mac], python: ["3.11", "3.12"]}"#;

/// The name of a row that stands for every field without a row.
pub const ANY_NAME: &str = "*";

/// One field.
#[derive(Debug)]
pub struct Field {
    /// As it is written; or [`ANY_NAME`].
    pub name: &'static str,
    /// Which values it takes.
    pub kind: Kind,
    /// What it is: a noun or an imperative of at most 60 characters, without a full stop.
    pub summary: &'static str,
    /// More sentences, where the summary does not say it all.
    pub details: &'static str,
    /// What leaving it out means.
    pub absent: Absent,
    /// A value in YAML; of [`ANY_NAME`], an object with one such field.
    pub example: &'static str,
    /// In Markdown: limits that its kind does not know.
    pub limits: &'static str,
    /// Fields beside it that go with it as little as it with them.
    pub excludes: &'static [&'static str],
    /// The drivers whose tasks may have it.
    pub drivers: &'static [DriverKind],
    /// What else than gaffer parses the strings in it, if anything does.
    pub code: Option<Code>,
    /// The option of `gaffer run` and `gaffer submit`.
    pub flag: Option<Flag>,
    /// Its label, if the page *New job* has it.
    pub label: Option<&'static str>,
}

/// What leaving a field out means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// It has this value, in YAML.
    Is(&'static str),
    /// This, in Markdown; empty if there is nothing to say.
    Means(&'static str),
    /// That is a mistake.
    Refused,
}

/// An option of the command line.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// `--long`.
    pub long: &'static str,
    /// `-s`.
    pub short: Option<char>,
    /// What help calls its value.
    pub value: &'static str,
}

/// Which values a field takes.
#[derive(Debug)]
pub enum Kind {
    /// True or false.
    Bool,
    /// A whole number.
    Whole(RangeInclusive<i64>),
    /// A length of time.
    Time(RangeInclusive<Span>),
    /// A number of bytes.
    Size(RangeInclusive<Bytes>),
    /// A number of processors.
    Cpus(RangeInclusive<Cpu>),
    /// One of a few words.
    Words(fn() -> Vec<Word>),
    /// A text, as which any scalar counts.
    Text {
        /// What a message calls it.
        what: &'static str,
        /// A regular expression for editors; may be looser than the reader. Empty for none.
        pattern: &'static str,
        /// How long it may be.
        most: Most,
    },
    /// A text of letters, digits and the `others`, beginning with a letter or digit.
    Name {
        /// What a message calls it.
        what: &'static str,
        /// The most characters.
        max_len: usize,
        /// Characters beside letters and digits.
        others: &'static str,
    },
    /// `all` or a whole number.
    AllOr(RangeInclusive<i64>),
    /// A program and its arguments, of so many bytes together.
    Arguments(usize),
    /// What stands for several tasks: a list of texts, an object of such lists, or the workers.
    Items,
    /// A list; `noun` is what its members are called.
    List {
        /// In the plural.
        noun: &'static str,
        /// The most members.
        max: usize,
        /// What each of them is.
        item: &'static Kind,
    },
    /// An object whose names are the user's own.
    Map {
        /// What its entries are called, in the plural.
        noun: &'static str,
        /// The most entries.
        max: usize,
        /// What each name is.
        key: &'static Kind,
        /// What each value is.
        value: &'static Kind,
    },
    /// An object with these fields.
    Object(Tables),
    /// An object with these fields, or a word that stands for one of them alone.
    WordOr {
        /// The field that the word stands for.
        word: &'static str,
        /// All fields.
        fields: Tables,
    },
}

/// How long a text may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Most {
    /// Only the document is limited.
    Any,
    /// Bytes of UTF-8.
    Bytes(usize),
    /// Characters.
    Chars(usize),
}

/// A word that a field may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// As it is written.
    pub word: &'static str,
    /// What it means; empty for one that is not documented.
    pub meaning: &'static str,
}

/// An enum whose variants are written as words.
pub trait Words: Copy + PartialEq + 'static {
    /// Each word, what it stands for, and what that means. One without a meaning is accepted, but not documented.
    const WORDS: &'static [(&'static str, Self, &'static str)];

    /// As it is written.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value, _)| *value == self).map_or("", |(word, ..)| word)
    }
}

impl Kind {
    /// The words of that enum.
    pub const fn words<T: Words>() -> Kind {
        fn list<T: Words>() -> Vec<Word> {
            T::WORDS.iter().map(|(word, _, meaning)| Word { word, meaning }).collect()
        }
        Kind::Words(list::<T>)
    }

    /// A text of which editors check no more than its length.
    pub const fn text(what: &'static str, most: Most) -> Kind {
        Kind::Text { what, pattern: "", most }
    }

    /// What a message says was expected. The example stands in that of lists and objects.
    pub fn expected(&self, example: &str) -> String {
        match self {
            Kind::Bool => "true or false".to_owned(),
            Kind::Whole(range) => format!("a whole number from {} to {}", range.start(), range.end()),
            Kind::Time(range) => format!("a time from {} to {}", range.start(), range.end()),
            Kind::Size(range) => format!("a size from {} to {}", range.start(), range.end()),
            Kind::Cpus(range) => {
                format!("a number of processors from {} to {}", range.start(), range.end())
            }
            Kind::Words(words) => {
                one_of(&words().iter().map(|word| format!("`{}`", word.word)).collect::<Vec<_>>())
            }
            Kind::Text { what, .. } | Kind::Name { what, .. } => (*what).to_owned(),
            Kind::AllOr(range) => {
                format!("`all` or a whole number from {} to {}", range.start(), range.end())
            }
            Kind::Arguments(_) => "a list of strings".to_owned(),
            Kind::Items => {
                format!("a list of items such as {example}, a matrix such as {MATRIX}, or `worker`")
            }
            Kind::List { noun, .. } => format!("a list of {noun} such as {example}"),
            Kind::Map { noun, .. } => format!("an object of {noun} such as {example}"),
            Kind::Object(_) => format!("an object such as {example}"),
            Kind::WordOr { word, fields } => {
                let word = find(fields, word).map_or("", |field| field.example);
                format!("a word such as `{word}`, or an object such as {example}")
            }
        }
    }

    /// Whether a text can be a name of this kind; of another kind, any can.
    ///
    /// # Errors
    /// Why it cannot, and what a name is made of.
    pub fn check_name(&self, name: &str) -> Result<(), String> {
        let Kind::Name { what, max_len, others } = self else { return Ok(()) };
        let is_name = name.len() <= *max_len
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c));
        if is_name {
            return Ok(());
        }
        let others: String = others.chars().map(|c| format!("{c} ")).collect();
        Err(format!(
            "{} cannot be {what}: write 1 to {max_len} of the characters a-z A-Z 0-9 {others}and begin with a letter or digit",
            shown(name)
        ))
    }

    /// The fields of an object of fixed names.
    pub fn fields(&self) -> Option<Tables> {
        match self {
            Kind::Object(fields) | Kind::WordOr { fields, .. } => Some(fields),
            _ => None,
        }
    }
}

impl Field {
    /// A field that may be left out, for tasks of every driver.
    pub const fn new(name: &'static str, kind: Kind, summary: &'static str) -> Field {
        Field {
            name,
            kind,
            summary,
            details: "",
            absent: Absent::Means(""),
            example: "",
            limits: "",
            excludes: &[],
            drivers: DriverKind::ALL,
            code: None,
            flag: None,
            label: None,
        }
    }

    /// With the value that it has when it is left out.
    pub const fn default(self, value: &'static str) -> Field {
        Field { absent: Absent::Is(value), ..self }
    }

    /// With what leaving it out means.
    pub const fn otherwise(self, meaning: &'static str) -> Field {
        Field { absent: Absent::Means(meaning), ..self }
    }

    /// That may not be left out.
    pub const fn required(self) -> Field {
        Field { absent: Absent::Refused, ..self }
    }

    /// With more sentences.
    pub const fn details(self, details: &'static str) -> Field {
        Field { details, ..self }
    }

    /// With a value in YAML.
    pub const fn example(self, example: &'static str) -> Field {
        Field { example, ..self }
    }

    /// With limits that its kind does not know.
    pub const fn limits(self, limits: &'static str) -> Field {
        Field { limits, ..self }
    }

    /// Not beside these fields.
    pub const fn not_with(self, excludes: &'static [&'static str]) -> Field {
        Field { excludes, ..self }
    }

    /// Only for tasks of these drivers.
    pub const fn only(self, drivers: &'static [DriverKind]) -> Field {
        Field { drivers, ..self }
    }

    /// Whose strings something else parses, too: values of parameters in them are words without a meaning.
    pub const fn code(self, code: Code) -> Field {
        Field { code: Some(code), ..self }
    }

    /// With an option of the command line.
    pub const fn flag(self, long: &'static str, value: &'static str) -> Field {
        Field { flag: Some(Flag { long, short: None, value }), ..self }
    }

    /// With an option that has a letter, too.
    pub const fn short_flag(self, short: char, long: &'static str, value: &'static str) -> Field {
        Field { flag: Some(Flag { long, short: Some(short), value }), ..self }
    }

    /// With an option of the command line, if there is one.
    pub(super) const fn maybe_flag(self, long: Option<&'static str>, value: &'static str) -> Field {
        match long {
            Some(long) => self.flag(long, value),
            None => self,
        }
    }

    /// On the page *New job*, if it has a label there.
    pub(super) const fn maybe_on_page(self, label: Option<&'static str>) -> Field {
        Field { label, ..self }
    }

    /// On the page *New job*, under this label.
    pub const fn on_page(self, label: &'static str) -> Field {
        Field { label: Some(label), ..self }
    }

    /// Whether only containers have it.
    pub fn is_of_containers(&self) -> bool {
        self.drivers == [DriverKind::Docker]
    }

    /// In Markdown: what limits it beside its kind.
    pub fn rules(&self) -> Vec<String> {
        let mut rules: Vec<String> =
            [self.limits].into_iter().filter(|limits| !limits.is_empty()).map(str::to_owned).collect();
        rules.extend(self.excludes.iter().map(|other| format!("not with `{other}`")));
        if !self.drivers.contains(&DriverKind::Docker) {
            rules.push("only for tasks on the host".to_owned());
        }
        rules
    }

    /// What a message says was expected: `a list of datacenters such as [lab, edge]`.
    pub fn expected(&self) -> String {
        self.kind.expected(self.example)
    }
}

/// The row of a field.
pub fn find(tables: &[&'static [Field]], name: &str) -> Option<&'static Field> {
    let rows = tables.iter().copied().flatten();
    rows.filter(|field| field.name != ANY_NAME).find(|field| field.name == name)
}

/// Every field of these tables with its JSON pointer, those of inner objects after the object.
pub fn with_pointers(tables: &[&'static [Field]]) -> Vec<(String, &'static Field)> {
    let mut all = Vec::new();
    for field in tables.iter().copied().flatten() {
        let pointer = format!("/{}", field.name);
        let inner = field.kind.fields().map(with_pointers).unwrap_or_default();
        let inner = inner.into_iter().map(|(rest, field)| (format!("{pointer}{rest}"), field));
        let inner: Vec<_> = inner.collect();
        all.push((pointer, field));
        all.extend(inner);
    }
    all
}

/// `a, b or c`
fn one_of(words: &[String]) -> String {
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}
