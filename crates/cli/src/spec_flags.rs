//! The options of `run` and `submit` that describe a job, made from the tables of a specification's fields.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::LazyLock;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use gaffer_domain::document::{Data, Entry, Language, Value as Document};
use gaffer_domain::spec::field::{ANY_NAME, Absent, Field, Flag, Kind, find, with_pointers};
use gaffer_domain::spec::{JOB_FIELDS, SINGLE_TASK_JOB_FIELDS};
use gaffer_domain::text;
use serde_json::{Map, Value, json};

use crate::failure::Failure;

/// The options that were given.
#[derive(Debug, Clone, Default)]
pub struct SpecFlags {
    given: Vec<(&'static SpecFlag, Vec<String>)>,
}

/// One option and its field.
#[derive(Debug, Clone)]
pub struct SpecFlag {
    field: &'static Field,
    flag: Flag,
    /// The field, as a JSON pointer.
    pointer: String,
}

/// All options, in the order of the tables.
pub fn all() -> &'static [SpecFlag] {
    static ALL: LazyLock<Vec<SpecFlag>> = LazyLock::new(|| {
        let fields = with_pointers(SINGLE_TASK_JOB_FIELDS).into_iter();
        fields.filter_map(|(pointer, field)| Some(SpecFlag { field, flag: field.flag?, pointer })).collect()
    });
    &ALL
}

/// The option for what a JSON pointer means.
pub fn for_pointer(pointer: &str) -> Option<&'static SpecFlag> {
    all().iter().find(|flag| {
        let own = flag.pointer.trim_end_matches("/*");
        pointer.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

impl Args for SpecFlags {
    fn augment_args(command: Command) -> Command {
        all().iter().fold(command, |command, flag| command.arg(flag.arg()))
    }

    fn augment_args_for_update(command: Command) -> Command {
        SpecFlags::augment_args(command)
    }
}

impl FromArgMatches for SpecFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SpecFlags, clap::Error> {
        let given = |flag: &'static SpecFlag| {
            let values: Vec<String> = match flag.field.kind {
                Kind::Bool => {
                    matches.get_flag(flag.flag.long).then(|| "true".to_owned()).into_iter().collect()
                }
                _ => {
                    let raw = matches.get_raw(flag.flag.long).into_iter().flatten();
                    raw.map(|value| value.to_string_lossy().into_owned()).collect()
                }
            };
            (!values.is_empty()).then_some((flag, values))
        };
        Ok(SpecFlags { given: all().iter().filter_map(given).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = SpecFlags::from_arg_matches(matches)?;
        Ok(())
    }
}

impl SpecFlag {
    /// `--cpu`
    pub fn name(&self) -> String {
        format!("--{}", self.flag.long)
    }

    fn is_repeatable(&self) -> bool {
        let takes_several = matches!(self.field.kind, Kind::List { .. } | Kind::Map { .. } | Kind::Items);
        self.field.name == ANY_NAME || takes_several
    }

    /// Whether both are fields of one object.
    fn is_beside(&self, other: &SpecFlag) -> bool {
        let parent = |flag: &SpecFlag| flag.pointer.rsplit_once('/').map(|(parent, _)| parent.to_owned());
        parent(self) == parent(other)
    }

    fn heading(&self) -> &'static str {
        match self.pointer.split('/').nth(1) {
            Some("health" | "readiness") => "Health checks",
            _ if self.field.is_of_containers() => "Containers",
            _ => "The job",
        }
    }

    fn is_of_job(&self) -> bool {
        self.pointer.split('/').nth(1).is_some_and(|first| find(JOB_FIELDS, first).is_some())
    }

    fn arg(&self) -> Arg {
        let SpecFlag { field, flag, .. } = self;
        let arg = Arg::new(flag.long)
            .long(flag.long)
            .help_heading(self.heading())
            .help(self.help())
            .long_help(self.long_help());
        let arg = match flag.short {
            Some(short) => arg.short(short),
            None => arg,
        };
        let siblings =
            all().iter().filter(|other| field.excludes.contains(&other.field.name) && self.is_beside(other));
        let arg = arg.conflicts_with_all(siblings.map(|other| other.flag.long));
        match &field.kind {
            Kind::Bool => return arg.action(ArgAction::SetTrue),
            _ if self.is_repeatable() => arg.action(ArgAction::Append),
            Kind::Whole(range) => arg.value_parser(value_parser!(i64).range(range.clone())),
            Kind::Words(words) => {
                let words = words().into_iter().map(|word| {
                    PossibleValue::new(word.word).help(word.meaning).hide(word.meaning.is_empty())
                });
                arg.value_parser(PossibleValuesParser::new(words))
            }
            _ => arg,
        }
        .value_name(flag.value)
    }

    /// One line.
    fn help(&self) -> String {
        let repeatable = if self.is_repeatable() { " (repeatable)" } else { "" };
        let default = match self.field.absent {
            Absent::Is(default) if !matches!(self.field.kind, Kind::Bool) => format!(" [default: {default}]"),
            _ => String::new(),
        };
        format!("{}{repeatable}{default}", self.field.summary)
    }

    /// The line, a paragraph and an example.
    fn long_help(&self) -> String {
        let field = self.field;
        let mut sentences = Vec::new();
        if !field.details.is_empty() {
            sentences.push(field.details.to_owned());
        }
        let rules = field.rules();
        if !rules.is_empty() {
            sentences.push(format!("Limits: {}.", rules.join("; ")));
        }
        if let Absent::Means(meaning) = field.absent
            && !meaning.is_empty()
        {
            sentences.push(format!("Default: {meaning}."));
        }
        let value = self.example();
        if !value.is_empty() {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "=_-./:@".contains(c);
            let value =
                if value.chars().all(is_plain) { value } else { shell_words::quote(&value).into_owned() };
            sentences.push(format!("Example: {} {value}", self.name()));
        }
        format!("{}\n\n{}", self.help(), sentences.join(" "))
    }

    /// The field's example as this option takes it: `team=vision` for `{team: vision}`.
    fn example(&self) -> String {
        if let Kind::Bool = self.field.kind {
            return String::new();
        }
        // These texts are made each time a client command starts, and most examples are one plain word.
        if is_plain_word(self.field.example) {
            return self.field.example.to_owned();
        }
        let Ok(document) = Language::Yaml.read(self.field.example) else { return String::new() };
        match &document.data {
            Data::Scalar(scalar) => scalar.text.clone(),
            Data::List(items) => {
                let texts: Vec<&str> = items.iter().filter_map(Document::as_text).collect();
                match self.field.kind {
                    Kind::Arguments(_) => texts.join(" "),
                    _ => texts.first().map_or(String::new(), |text| (*text).to_owned()),
                }
            }
            Data::Object(entries) => entries.first().map_or(String::new(), |entry| {
                format!("{}={}", entry.key, entry.value.as_text().unwrap_or_default())
            }),
        }
    }

    fn wrong(&self, given: &str, why: impl std::fmt::Display) -> Failure {
        Failure::Usage(format!("{} {given}: {why}", self.name()))
    }

    /// What was given, as the field takes it.
    fn value(&self, given: &[String], env: impl Fn(&str) -> Option<OsString>) -> Result<Value, Failure> {
        let last = given.last().map_or("", String::as_str);
        let number_or_text =
            |text: &str| text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number));
        Ok(match &self.field.kind {
            Kind::Map { .. } => self.pairs(given, env, |text| Some(json!(text)))?,
            _ if self.field.name == ANY_NAME => {
                self.pairs(given, env, |text| text.parse::<u32>().ok().map(|number| json!(number)))?
            }
            Kind::Bool => json!(true),
            Kind::List { .. } | Kind::Items => json!(given),
            Kind::Whole(_) | Kind::AllOr(_) => number_or_text(last),
            Kind::Arguments(_) => {
                json!(shell_words::split(last).map_err(|why| self.wrong(last, why))?)
            }
            _ => json!(last),
        })
    }

    /// An object of `NAME=VALUE`; where the value may be left out, it is that of the environment.
    fn pairs(
        &self,
        given: &[String],
        env: impl Fn(&str) -> Option<OsString>,
        read: impl Fn(&str) -> Option<Value>,
    ) -> Result<Value, Failure> {
        let mut pairs = Map::new();
        let takes_environment = self.flag.value.ends_with("[=VALUE]");
        for pair in given {
            let malformed =
                || self.wrong(pair, format!("write {}, such as {}", self.flag.value, self.example()));
            let (name, value) = match pair.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None if takes_environment => {
                    let value =
                        env(pair).ok_or_else(|| self.wrong(pair, "this environment has no such variable"))?;
                    let value = value.into_string().map_err(|value| {
                        self.wrong(pair, format!("its value in this environment {}", not_text(&value)))
                    })?;
                    (pair.as_str(), value)
                }
                None => return Err(malformed()),
            };
            pairs.insert(name.to_owned(), read(&value).ok_or_else(malformed)?);
        }
        Ok(Value::Object(pairs))
    }
}

/// Whether a YAML document is this text and nothing else.
fn is_plain_word(document: &str) -> bool {
    document.starts_with(|first: char| first.is_ascii_alphanumeric())
        && document.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
}

impl SpecFlags {
    /// Whether no option was given.
    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// Puts what was given over a specification. One that is no object stays as it is, for the API to refuse.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn apply(&self, spec: &mut Document, env: impl Fn(&str) -> Option<OsString>) -> Result<(), Failure> {
        let mut values = Vec::with_capacity(self.given.len());
        for (flag, given) in &self.given {
            values.push((flag, flag.value(given, &env)?));
        }
        let Data::Object(fields) = &mut spec.data else { return Ok(()) };
        if fields.iter().any(|field| field.key == "tasks")
            && let Some((flag, _)) = values.iter().find(|(flag, _)| !flag.is_of_job())
        {
            return Err(Failure::Usage(format!(
                "{} belongs to a task, and this job lists its tasks: write it in the file",
                flag.name()
            )));
        }
        for (flag, value) in values {
            put(fields, &flag.pointer, &value);
        }
        Ok(())
    }
}

/// Sets a field, making the objects around it; variables and labels join those that are there.
fn put(fields: &mut Vec<Entry>, pointer: &str, value: &Value) {
    let pointer = pointer.trim_end_matches("/*").trim_start_matches('/');
    match (pointer.split_once('/'), value) {
        (Some((first, second)), value) => {
            let object = object_in(fields, first);
            if pointer == "restart/limit" && *value != json!(0) {
                let policy = object.iter().find(|field| field.key == "policy");
                if policy.is_none_or(|policy| policy.value.as_text() == Some("never")) {
                    // Without a policy that repeats, a number of repeats would mean nothing.
                    set(object, "policy", &json!("on-failure"));
                }
            }
            set(object, second, value);
        }
        (None, Value::Object(more)) => {
            let object = object_in(fields, pointer);
            more.iter().for_each(|(name, value)| set(object, name, value));
        }
        (None, value) => set(fields, pointer, value),
    }
}

/// Sets a field.
pub fn set(fields: &mut Vec<Entry>, name: &str, value: &Value) {
    let value = Document::from(value);
    match fields.iter_mut().find(|field| field.key == name) {
        Some(field) => field.value = value,
        None => fields.push(Entry { key: name.to_owned(), place: None, value }),
    }
}

/// The object in a field, which is made if there is none. A word in its place is one of its fields: `restart: always`.
fn object_in<'a>(fields: &'a mut Vec<Entry>, name: &str) -> &'a mut Vec<Entry> {
    let at = fields.iter().position(|field| field.key == name).unwrap_or_else(|| {
        set(fields, name, &json!({}));
        fields.len() - 1
    });
    let value = &mut fields[at].value;
    if !matches!(value.data, Data::Object(_)) {
        let word = match find(SINGLE_TASK_JOB_FIELDS, name).map(|field| &field.kind) {
            Some(Kind::WordOr { word, .. }) if value.is_text() => Some(*word),
            _ => None,
        };
        let entry = word.map(|word| Entry { key: word.to_owned(), place: value.place, value: value.clone() });
        value.data = Data::Object(entry.into_iter().collect());
    }
    match &mut value.data {
        Data::Object(fields) => fields,
        _ => unreachable!("it was made an object"),
    }
}

/// What is to be said of an argument or a value that is no text: `is not text in UTF-8: …`.
pub fn not_text(value: &std::ffi::OsStr) -> String {
    let bytes = value.as_bytes();
    let valid = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    let byte = bytes.get(valid).copied().unwrap_or_default();
    let shown: String = text::escaped(bytes).chars().take(80).collect();
    format!("is not text in UTF-8: it has the byte {byte:#04x} after {valid} bytes: {shown}")
}

/// What these words on the command line mean.
#[cfg(test)]
pub fn parsed(words: &[&str]) -> Result<SpecFlags, clap::Error> {
    let command = SpecFlags::augment_args(Command::new("gaffer").no_binary_name(true));
    SpecFlags::from_arg_matches(&command.try_get_matches_from(words)?)
}

#[cfg(test)]
mod tests;
