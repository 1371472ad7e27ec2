//! Puts the values of parameters into the strings of a specification.
//!
//! The strings belong to a document that was parsed before, so a value that looks like YAML, or like another placeholder, is
//! only text. What a field of the tables calls [`Code`] takes only values that have no meaning for its parser.

use std::collections::{BTreeMap, BTreeSet};

use super::field::{Field, Kind, Tables, find};
use super::job::{JOB_FIELDS, JobSpec, SINGLE_TASK_JOB_FIELDS, job};
use super::node::{FieldError, Mistakes, Node};
use super::parameter::{Declared, declarations};
use crate::document::{Data, Entry, MAX_TEXT_BYTES, Scalar, ScalarKind, Value};
use crate::parameters::{
    Code, MAX_VALUES_BYTES, Parameter, ParameterType, Parameters, meant, placeholders, whole,
};
use crate::quantity::shown;
use crate::spelling::did_you_mean;

/// The field of a specification, and of what is submitted.
const PARAMETERS: &str = "parameters";
/// Programs whose argument after `-c` is a script.
const SHELLS: [&str; 8] = ["sh", "bash", "dash", "ash", "zsh", "ksh", "fish", "busybox"];
/// More hints say nothing new.
const MAX_HINTS: usize = 10;

/// A specification whose parameters have no values yet.
#[derive(Debug, Clone, Copy)]
pub struct Unfilled<'a> {
    /// As it was written.
    pub document: &'a Value,
    /// Where it stands in what was sent, as a JSON pointer; none if it was not sent, but kept from before. Then a mistake
    /// that comes from a value is told at the value.
    pub pointer: Option<&'a str>,
    /// The given values: an object.
    pub values: Option<&'a Value>,
    /// The parameters of an earlier job: their values are kept where none is given.
    pub earlier: Option<&'a Parameters>,
}

impl JobSpec {
    /// As [`JobSpec::of`], from JSON that a program has made: numbers have lost the text they were written with.
    ///
    /// # Errors
    /// All mistakes.
    pub fn read(value: &serde_json::Value) -> Result<JobSpec, Vec<FieldError>> {
        JobSpec::of(&Value::from(value))
    }

    /// Reads a specification and fills in its defaults, or says everything that is wrong with it: at least
    /// one mistake, and at most a bounded number of them. Its parameters have their default values.
    ///
    /// # Errors
    /// All mistakes.
    pub fn of(value: &Value) -> Result<JobSpec, Vec<FieldError>> {
        Unfilled::new(value).fill().map(|filled| filled.spec)
    }
}

/// What values are that nobody gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    AreMistakes,
    /// They are given with each job.
    ComeLater,
}

/// A specification with the values of its parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Filled {
    /// The specification.
    pub spec: JobSpec,
    /// The document as JSON that keeps how values were written, if it has parameters: other values can be put into it later.
    pub source: Option<String>,
    /// What may be a mistake and is none.
    pub hints: Vec<FieldError>,
}

impl<'a> Unfilled<'a> {
    /// A specification alone.
    pub fn new(document: &'a Value) -> Unfilled<'a> {
        Unfilled { document, pointer: Some(""), values: None, earlier: None }
    }

    /// The parameters that it declares, in its order. Those with mistakes are left out.
    pub fn declared(&self) -> Vec<Declared> {
        let mistakes = Mistakes::default();
        self.declarations(&mistakes)
    }

    fn declarations(&self, mistakes: &Mistakes) -> Vec<Declared> {
        let root = Node::at(self.pointer.unwrap_or_default(), self.document, mistakes);
        match self.document.data {
            Data::Object(_) => {
                let job = root.object("", JOB_FIELDS);
                job.and_then(|job| job.field(PARAMETERS)).map_or_else(Vec::new, |node| declarations(&node))
            }
            _ => Vec::new(),
        }
    }

    /// Looks for mistakes that are there whatever values its parameters get. Returns hints.
    ///
    /// # Errors
    /// All mistakes.
    pub fn check(&self) -> Result<Vec<FieldError>, Vec<FieldError>> {
        let (_, hints, mistakes) = self.read(Missing::ComeLater);
        if mistakes.is_empty() { Ok(hints) } else { Err(mistakes) }
    }

    /// Gives every parameter its value, puts the values in and reads the specification.
    ///
    /// # Errors
    /// All mistakes.
    pub fn fill(&self) -> Result<Filled, Vec<FieldError>> {
        match self.read(Missing::AreMistakes) {
            (Some(spec), hints, mistakes) if mistakes.is_empty() => {
                let source = (!spec.parameters.is_empty()).then(|| self.document.to_json());
                Ok(Filled { spec, source, hints })
            }
            (_, _, mistakes) => Err(mistakes),
        }
    }

    /// The specification as far as it can be read, hints and mistakes.
    fn read(&self, missing: Missing) -> (Option<JobSpec>, Vec<FieldError>, Vec<FieldError>) {
        let mistakes = Mistakes::default();
        let declared = self.declarations(&mistakes);
        let values = self.values(&declared, missing, &mistakes);
        let root = Node::at(self.pointer.unwrap_or_default(), self.document, &mistakes);
        let mut filler = Filler::of(&values);
        // Most specifications have no parameters, and need no copy.
        let filled = (!values.is_empty()).then(|| filler.document(&root));
        let Filler { touched, unknown, hints, .. } = filler;
        let spec = match &filled {
            Some(filled) => job(&root.with(filled), parameters(declared, &values)),
            None => job(&root, Parameters::new()),
        };
        let mut list = mistakes.into_list();
        // What is wrong with a text that lacks a value says nothing.
        list.retain(|mistake| !unknown.contains(&mistake.pointer));
        let list = list.into_iter().map(|mistake| self.with_origin(mistake, &touched)).collect();
        (spec, hints, list)
    }

    /// The document with the values in it.
    #[cfg(test)]
    pub(super) fn filled_document(&self) -> Value {
        let mistakes = Mistakes::default();
        let values = self.values(&self.declared(), Missing::AreMistakes, &mistakes);
        Filler::of(&values).document(&Node::root(self.document, &mistakes))
    }

    /// The value of each parameter; none where it is missing or wrong.
    fn values(&self, declared: &[Declared], missing: Missing, mistakes: &Mistakes) -> BTreeMap<String, Slot> {
        let nothing = Value { data: Data::Object(Vec::new()), place: None };
        let given = self.values.filter(|values| !values.is_null());
        let node = Node::at("/parameters", given.unwrap_or(&nothing), mistakes);
        let entries: &[Entry] = match &node.value.data {
            Data::Object(entries) => entries,
            _ => node.expected("an object of values such as {lr: 0.1}").unwrap_or_default(),
        };
        // One with a mistake in its declaration is known, too.
        let known: Vec<&str> = match self.document.get(PARAMETERS).map(|value| &value.data) {
            Some(Data::Object(entries)) => entries.iter().map(|entry| entry.key.as_str()).collect(),
            _ => Vec::new(),
        };
        for Entry { key, value, .. } in entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let detail = format!("the specification has no parameter {}", shown(key));
            node.child(key, value).wrong_with::<()>(detail, || did_you_mean(key, known.iter().copied()));
        }
        let given = |name: &str| {
            let entry = entries.iter().find(|entry| entry.key == name && !entry.value.is_null())?;
            Some(node.child(name, &entry.value))
        };
        let mut slots: BTreeMap<String, Slot> = declared
            .iter()
            .map(|declared| {
                let value = self.value(declared, given(&declared.name), missing, &node);
                let takes = declared.declaration.takes.clone();
                (declared.name.clone(), Slot { takes, value, is_filled: declared.value.is_some() })
            })
            .collect();
        // Of what is declared wrongly, no value is known either.
        for name in known {
            let takes = ParameterType::String { pattern: None, max_length: None };
            slots.entry(name.to_owned()).or_insert(Slot { takes, value: None, is_filled: false });
        }
        let bytes: usize = slots.values().filter_map(|slot| Some(slot.value.as_ref()?.len())).sum();
        if bytes > MAX_VALUES_BYTES {
            node.wrong::<()>(format!(
                "the values have {bytes} bytes together, more than the {MAX_VALUES_BYTES} that are allowed"
            ));
        }
        slots
    }

    fn value(
        &self,
        declared: &Declared,
        given: Option<Node<'_>>,
        missing: Missing,
        all: &Node<'_>,
    ) -> Option<String> {
        let Declared { name, declaration, value } = declared;
        match (given, value) {
            (Some(node), Some(value)) => {
                let detail = format!(
                    "`{name}` has the value {} in this specification, whose placeholders were replaced with it",
                    shown(value)
                );
                let advice = format!(
                    "change it with `gaffer rerun JOB -p {name}=…`, or submit the specification that the job came from"
                );
                return node.wrong_with(detail, || Some(advice));
            }
            (Some(node), None) => {
                let checked = declaration.takes.check(node.value);
                return checked.map_err(|why| node.wrong_with::<()>(why.detail, || why.suggestion)).ok();
            }
            (None, Some(value)) => return Some(value.clone()),
            (None, None) => {}
        }
        let here = all.child(name, all.value);
        if let Some(earlier) = self.earlier.and_then(|earlier| earlier.get(name)) {
            let value = Value::from(&serde_json::Value::from(earlier.value.as_str()));
            return match declaration.takes.check(&value) {
                Ok(value) => Some(value),
                Err(why) => here.wrong(format!("the value of the earlier job does not fit: {}", why.detail)),
            };
        }
        if let Some(default) = &declaration.default {
            return Some(default.clone());
        }
        if missing == Missing::ComeLater {
            return None;
        }
        let expected = declaration.takes.expected();
        here.wrong(format!("the parameter `{name}` has no default and needs a value: {expected}"))
    }

    /// A mistake, with the parameter that it comes from.
    fn with_origin(&self, mistake: FieldError, touched: &BTreeMap<String, String>) -> FieldError {
        let name = touched.get(&mistake.pointer);
        if self.pointer.is_some() {
            let Some(name) = name else { return mistake };
            if mistake.detail.contains(&format!("`{name}`")) {
                return mistake;
            }
            let origin = format!("the value is that of the parameter `{name}`");
            let suggestion = match mistake.suggestion {
                Some(suggestion) => format!("{suggestion}; {origin}"),
                None => origin,
            };
            return FieldError { suggestion: Some(suggestion), ..mistake };
        }
        if mistake.pointer.starts_with("/parameters") {
            return mistake;
        }
        let pointer = name.map_or(String::new(), |name| format!("/parameters/{name}"));
        let place = if mistake.pointer.is_empty() { String::new() } else { format!("{}: ", mistake.pointer) };
        FieldError { detail: format!("{place}{}", mistake.detail), pointer, ..mistake }
    }
}

/// The parameters of a job. One without a value is in no job: there was a mistake.
fn parameters(declared: Vec<Declared>, values: &BTreeMap<String, Slot>) -> Parameters {
    let parameter = |Declared { name, declaration, .. }: Declared| {
        let value = values.get(&name)?.value.clone()?;
        Some((name, Parameter { declaration, value }))
    };
    declared.into_iter().filter_map(parameter).collect()
}

/// What is put in for a parameter.
struct Slot {
    takes: ParameterType,
    /// None if it is missing or wrong.
    value: Option<String>,
    /// Its placeholders were replaced before.
    is_filled: bool,
}

struct Filler<'v> {
    values: &'v BTreeMap<String, Slot>,
    /// Strings with values, by their places, with the first parameter of each.
    touched: BTreeMap<String, String>,
    /// Places of strings of which a value is missing.
    unknown: BTreeSet<String>,
    hints: Vec<FieldError>,
    /// Of text that was put in.
    bytes: usize,
}

impl<'v> Filler<'v> {
    fn of(values: &'v BTreeMap<String, Slot>) -> Filler<'v> {
        let (touched, unknown, hints) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        Filler { values, touched, unknown, hints, bytes: 0 }
    }

    /// A copy of the document with the values in it. What it declares stays as it is.
    fn document(&mut self, root: &Node<'_>) -> Value {
        let Data::Object(entries) = &root.value.data else { return root.value.clone() };
        let entries = entries.iter().map(|entry| match entry.key.as_str() {
            PARAMETERS => entry.clone(),
            _ => self.entry(root, entry, entries, SINGLE_TASK_JOB_FIELDS, None),
        });
        Value { data: Data::Object(entries.collect()), place: root.value.place }
    }

    fn value(&mut self, node: &Node<'_>, kind: Option<&'static Kind>, code: Option<Code>) -> Value {
        let data = match &node.value.data {
            Data::Scalar(scalar) => Data::Scalar(self.scalar(node, scalar, code)),
            Data::List(items) if matches!(kind, Some(Kind::Arguments(_))) => {
                Data::List(self.arguments(node, items, Vec::new(), code))
            }
            Data::List(items) => {
                let kind = match kind {
                    Some(Kind::List { item, .. }) => Some(*item),
                    _ => None,
                };
                let member =
                    |(at, item): (usize, &Value)| self.value(&node.child(&at.to_string(), item), kind, code);
                Data::List(items.iter().enumerate().map(member).collect())
            }
            Data::Object(entries) => {
                let fields = kind.and_then(Kind::fields).unwrap_or_default();
                let entry = |entry: &Entry| self.entry(node, entry, entries, fields, code);
                Data::Object(entries.iter().map(entry).collect())
            }
        };
        Value { data, place: node.value.place }
    }

    fn entry(
        &mut self,
        node: &Node<'_>,
        entry: &Entry,
        all: &[Entry],
        fields: Tables,
        code: Option<Code>,
    ) -> Entry {
        let child = node.child(&entry.key, &entry.value);
        if let Some(name) = placeholders(&entry.key).map(|found| found.name).find(|name| self.is_open(name)) {
            child.wrong::<()>(format!("`{name}` is a parameter: values are put into values, not into names"));
        }
        let field: Option<&'static Field> = find(fields, &entry.key);
        let code = field.and_then(|field| field.code).or(code);
        let value = match (&child.value.data, field.map(|field| &field.kind)) {
            // What a container runs is both of them.
            (Data::List(items), Some(Kind::Arguments(_))) if entry.key == "command" => {
                let before =
                    all.iter().find(|entry| entry.key == "entrypoint").map(|entry| &entry.value.data);
                let before = match before {
                    Some(Data::List(items)) => items.clone(),
                    _ => Vec::new(),
                };
                let data = Data::List(self.arguments(&child, items, before, code));
                Value { data, place: child.value.place }
            }
            (_, kind) => self.value(&child, kind, code),
        };
        Entry { key: entry.key.clone(), place: entry.place, value }
    }

    /// The arguments of a program, after those `before`. A shell's script is a script.
    fn arguments(
        &mut self,
        node: &Node<'_>,
        items: &[Value],
        mut before: Vec<Value>,
        code: Option<Code>,
    ) -> Vec<Value> {
        let start = before.len();
        for (at, item) in items.iter().enumerate() {
            let code = if is_followed_by_script(&before) { Some(Code::Script) } else { code };
            before.push(self.value(&node.child(&at.to_string(), item), None, code));
        }
        before.split_off(start)
    }

    fn scalar(&mut self, node: &Node<'_>, scalar: &Scalar, code: Option<Code>) -> Scalar {
        let text = &scalar.text;
        if scalar.kind != ScalarKind::Text || !text.contains("{{") {
            return scalar.clone();
        }
        let mut filled = String::new();
        let mut rest = 0;
        for found in placeholders(text) {
            let Some(slot) = self.values.get(found.name) else {
                self.hint(node, found.name);
                continue;
            };
            if slot.is_filled {
                continue;
            }
            let Some(value) = &slot.value else {
                self.unknown.insert(node.pointer().to_owned());
                continue;
            };
            self.touched.entry(node.pointer().to_owned()).or_insert_with(|| found.name.to_owned());
            if let Some(Err(why)) = code.map(|code| code.check(found.name, value)) {
                node.wrong_with::<()>(why.detail, || why.suggestion);
                return scalar.clone();
            }
            self.bytes = self.bytes.saturating_add(value.len());
            if self.bytes > MAX_TEXT_BYTES {
                self.too_large(node);
                return scalar.clone();
            }
            filled.push_str(text.get(rest..found.range.start).unwrap_or_default());
            filled.push_str(value);
            rest = found.range.end;
        }
        let kind = match whole(text).and_then(|name| self.values.get(name)) {
            Some(Slot { takes, is_filled: false, value: Some(_) }) if takes.is_number() => ScalarKind::Number,
            Some(Slot { takes: ParameterType::Boolean, is_filled: false, value: Some(_) }) => {
                ScalarKind::Bool
            }
            _ => ScalarKind::Text,
        };
        filled.push_str(text.get(rest..).unwrap_or_default());
        Scalar { kind, text: filled }
    }

    /// Told once.
    fn too_large(&mut self, node: &Node<'_>) {
        if self.bytes != usize::MAX {
            self.bytes = usize::MAX;
            node.wrong::<()>(format!(
                "with the values of its parameters the text is larger than the {MAX_TEXT_BYTES} bytes allowed"
            ));
        }
    }

    /// Whether a parameter's value is put in for its placeholders.
    fn is_open(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|slot| !slot.is_filled)
    }

    /// Says that a name may be misspelt. It may as well belong to a template of the user's own.
    fn hint(&mut self, node: &Node<'_>, name: &str) {
        let Some(meant) = meant(name, self.values.keys().map(String::as_str)) else { return };
        if self.hints.len() < MAX_HINTS {
            self.hints.push(FieldError {
                pointer: node.pointer().to_owned(),
                detail: format!("`{{{{ {name} }}}}` stays as it is: there is no parameter {}", shown(name)),
                suggestion: Some(format!("did you mean `{{{{ {meant} }}}}`?")),
            });
        }
    }
}

/// Whether the next argument is a script: `sh -c`, also after `env` or `timeout 5`.
fn is_followed_by_script(arguments: &[Value]) -> bool {
    let is_option = |argument: &&Value| argument.as_text().is_some_and(|text| text.starts_with('-'));
    let options = arguments.iter().rev().take_while(is_option).count();
    let (before, options) = arguments.split_at(arguments.len() - options);
    let takes_script = |option: &Value| {
        let letters = option.as_text().and_then(|text| text.strip_prefix('-')).unwrap_or_default();
        letters.contains('c') && letters.chars().all(|c| c.is_ascii_alphabetic())
    };
    let is_shell = |argument: &Value| {
        let program = argument.as_text().and_then(|text| text.rsplit('/').next());
        program.is_some_and(|program| SHELLS.contains(&program))
    };
    options.iter().any(takes_script) && before.iter().any(is_shell)
}
