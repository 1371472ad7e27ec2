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
    Arguments, Code, MAX_VALUES_BYTES, Parameter, ParameterType, Parameters, meant, placeholders, whole,
};
use crate::quantity::shown;
use crate::spelling::did_you_mean;

/// The field of a specification, and of what is submitted.
const PARAMETERS: &str = "parameters";
/// What a container runs, with `command` behind it.
const ENTRYPOINT: &str = "entrypoint";
/// More hints say nothing new.
const MAX_HINTS: usize = 10;

/// A specification whose parameters have no values yet.
#[derive(Debug, Clone, Copy)]
pub struct Unfilled<'a> {
    /// As it was written.
    pub document: &'a Value,
    /// Where it is in what was sent, as a JSON pointer; none if it was not sent, but kept from before. Then a mistake
    /// that comes from a value is reported at the value.
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

/// What is done about parameters without a value.
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
                let advice = match self.pointer {
                    Some(_) => {
                        format!("leave `{name}` out, or submit the specification that has placeholders")
                    }
                    None => "submit the specification that has placeholders".to_owned(),
                };
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
    fn with_origin(&self, mistake: FieldError, touched: &BTreeMap<String, Touched>) -> FieldError {
        let touched = touched.get(&mistake.pointer);
        let name = touched.map(|touched| &touched.parameter);
        if self.pointer.is_some() {
            let Some(name) = name.filter(|_| touched.is_some_and(|touched| !touched.is_refused)) else {
                return mistake;
            };
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

/// A string with a value in it.
struct Touched {
    /// The first parameter in it.
    parameter: String,
    /// The value was refused there, by name: other mistakes need not name it.
    is_refused: bool,
}

struct Filler<'v> {
    values: &'v BTreeMap<String, Slot>,
    /// Strings with values, by their places.
    touched: BTreeMap<String, Touched>,
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

    /// A copy of the document with the values in it.
    fn document(&mut self, root: &Node<'_>) -> Value {
        let Data::Object(entries) = &root.value.data else { return root.value.clone() };
        let entries = self.entries(root, entries, SINGLE_TASK_JOB_FIELDS, None);
        Value { data: Data::Object(entries), place: root.value.place }
    }

    fn value(&mut self, node: &Node<'_>, kind: Option<&'static Kind>, code: Option<Code>) -> Value {
        let data = match &node.value.data {
            Data::Scalar(scalar) => Data::Scalar(self.scalar(node, scalar, code)),
            Data::List(items) if matches!(kind, Some(Kind::Arguments(_))) => {
                Data::List(self.arguments(node, items, Arguments::default(), code))
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
                Data::Object(self.entries(node, entries, fields, code))
            }
        };
        Value { data, place: node.value.place }
    }

    /// The entries of an object. The entry point is filled before the command behind it, which is judged by it.
    fn entries(&mut self, node: &Node<'_>, all: &[Entry], fields: Tables, code: Option<Code>) -> Vec<Entry> {
        let entrypoint = all.iter().find(|entry| entry.key == ENTRYPOINT);
        let entrypoint = entrypoint.map(|entry| self.entry(node, entry, fields, code, Arguments::default()));
        let before = entrypoint.as_ref().map(|entry| words(&entry.value)).unwrap_or_default();
        let entry = |entry: &Entry| match (entry.key.as_str(), &entrypoint) {
            (ENTRYPOINT, Some(filled)) => filled.clone(),
            // What is declared stays as it is.
            (PARAMETERS, _) if find(fields, PARAMETERS).is_some() => entry.clone(),
            ("command", _) => self.entry(node, entry, fields, code, before.clone()),
            _ => self.entry(node, entry, fields, code, Arguments::default()),
        };
        all.iter().map(entry).collect()
    }

    /// An entry whose value, if it is a command, is behind these arguments.
    fn entry(
        &mut self,
        node: &Node<'_>,
        entry: &Entry,
        fields: Tables,
        code: Option<Code>,
        before: Arguments,
    ) -> Entry {
        let child = node.child(&entry.key, &entry.value);
        if let Some(name) = placeholders(&entry.key).map(|found| found.name).find(|name| self.is_open(name)) {
            child.wrong::<()>(format!("`{name}` is a parameter: values are put into values, not into names"));
        }
        let field: Option<&'static Field> = find(fields, &entry.key);
        let code = field.and_then(|field| field.code).or(code);
        let value = match (&child.value.data, field.map(|field| &field.kind)) {
            (Data::List(items), Some(Kind::Arguments(_))) => {
                let data = Data::List(self.arguments(&child, items, before, code));
                Value { data, place: child.value.place }
            }
            (_, kind) => self.value(&child, kind, code),
        };
        Entry { key: entry.key.clone(), place: entry.place, value }
    }

    /// The arguments of a program, after those `before`. Some programs take code as an argument.
    fn arguments(
        &mut self,
        node: &Node<'_>,
        items: &[Value],
        mut before: Arguments,
        code: Option<Code>,
    ) -> Vec<Value> {
        let argument = |(at, item): (usize, &Value)| {
            let is_code = before.is_code(self.up_to_a_value(item.as_text().unwrap_or_default()));
            let code = if is_code { Some(Code::Script) } else { code };
            let filled = self.value(&node.child(&at.to_string(), item), None, code);
            before.push(filled.as_text().unwrap_or_default());
            filled
        };
        items.iter().enumerate().map(argument).collect()
    }

    /// A text up to the first value that is put into it.
    fn up_to_a_value<'t>(&self, text: &'t str) -> &'t str {
        let first = placeholders(text).find(|found| self.is_open(found.name));
        first.and_then(|found| text.get(..found.range.start)).unwrap_or(text)
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
            let touched = self.touched.entry(node.pointer().to_owned());
            let touched =
                touched.or_insert_with(|| Touched { parameter: found.name.to_owned(), is_refused: false });
            if let Some(Err(why)) = code.map(|code| code.check(found.name, value)) {
                touched.is_refused = true;
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
            Some(Slot { takes, is_filled: false, value: Some(_) }) => takes.scalar_kind(),
            _ => ScalarKind::Text,
        };
        filled.push_str(text.get(rest..).unwrap_or_default());
        Scalar { kind, text: filled }
    }

    /// Reported once.
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

/// The arguments in a list.
fn words(list: &Value) -> Arguments {
    let mut arguments = Arguments::default();
    if let Data::List(items) = &list.data {
        items.iter().for_each(|item| arguments.push(item.as_text().unwrap_or_default()));
    }
    arguments
}
