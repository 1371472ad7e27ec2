//! Submitting a job: a form for one task, or the whole specification. What is wrong is said at its field, and nothing
//! that was written is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use gaffer_domain::JobId;
use gaffer_domain::document::{Language, Value as Document};
use gaffer_domain::spec::field::{self, Absent, Field, Kind, Word, with_pointers};
use gaffer_domain::spec::{Declared, FieldError, JOB_FIELDS, JobSpec, SINGLE_TASK_JOB_FIELDS, Unfilled};
use gaffer_domain::text::without_bom;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::super::error::Error;
use super::super::params::{Params, id};
use super::format::quoted;
use super::frame::{Frame, SessionUser};
use super::job::form_key;
use super::page;
use super::parameter_form::{self, ParameterControl, controls, field_at};
use crate::operations::sources::{self, JobSource};
use crate::operations::{Context, OperationError, jobs};

const EXAMPLE: &str = r##"{
  "name": "example",
  "tasks": [
    {"name": "prepare", "command": ["echo", "ready"]},
    {
      "name": "work",
      "script": "echo part $GAFFER_TASK_INDEX",
      "array": "0-9",
      "depends_on": ["prepare"],
      "resources": {"cpu": 0.5, "memory": "256MiB"}
    }
  ]
}"##;

#[derive(Template)]
#[template(path = "new_job.html")]
struct NewJobPage {
    frame: Frame,
    from: Option<JobId>,
    is_spec: bool,
    form_href: String,
    spec_href: String,
    once: String,
    values: Values,
    errors: Errors,
    general: Vec<String>,
    is_refused: bool,
    note: Option<&'static str>,
    /// What the specification declares.
    declared: Vec<Declared>,
    parameters: Vec<ParameterControl>,
}

/// What stands in the form.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Values {
    /// `script`, `command` or `spec`.
    #[serde(rename = "as")]
    action: String,
    /// Names this submission, so that sending it twice makes one job.
    once: String,
    script: String,
    command: String,
    spec: String,
    /// Of the [`rows`] and of parameters, by name.
    #[serde(flatten)]
    others: BTreeMap<String, String>,
}

/// The first mistake of each field, by its name.
type Errors = BTreeMap<String, String>;

/// A field of the specification that the form has.
struct Row {
    /// As a JSON pointer.
    pointer: String,
    /// The pointer without the first slash, and with dots: `resources.cpu`.
    name: String,
    label: &'static str,
    field: &'static Field,
}

/// A [`Row`] as the page shows it.
struct Control {
    name: String,
    label: &'static str,
    hint: &'static str,
    placeholder: &'static str,
    value: String,
    error: Option<String>,
    /// For the keyboard of a telephone.
    input_mode: &'static str,
    /// Of a field that is one of a few words: each with its meaning, and whether it is chosen.
    choices: Vec<(Word, bool)>,
}

/// Where a field is: alone on a line, beside others, or on several lines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Wide,
    Small,
    Lines,
}

/// The fields that have a label, in the order of the tables.
fn rows() -> Vec<Row> {
    let labelled = |(pointer, field): (String, &'static Field)| {
        let name = pointer.trim_start_matches('/').replace('/', ".");
        Some(Row { pointer, name, label: field.label?, field })
    };
    with_pointers(SINGLE_TASK_JOB_FIELDS).into_iter().filter_map(labelled).collect()
}

impl Row {
    fn size(&self) -> Size {
        match self.field.kind {
            Kind::Map { .. } => Size::Lines,
            Kind::Text { .. } | Kind::Name { .. } | Kind::List { .. } | Kind::Arguments(_) => Size::Wide,
            _ => Size::Small,
        }
    }

    /// Where its value stands in a specification that lists its one task.
    fn value_in<'s>(&self, spec: &'s Value, task: &'s Value) -> Option<&'s Value> {
        let first = self.pointer.split('/').nth(1)?;
        if field::find(JOB_FIELDS, first).is_some() { spec } else { task }.pointer(&self.pointer)
    }
}

impl NewJobPage {
    fn controls(&self, size: Size) -> Vec<Control> {
        let rows = rows().into_iter().filter(|row| row.size() == size);
        rows.map(|row| self.control(&row)).collect()
    }

    fn control(&self, row: &Row) -> Control {
        let Row { name, label, field, .. } = row;
        let value = self.values.others.get(name).cloned().unwrap_or_default();
        let default = match field.absent {
            Absent::Is(default) => default,
            _ => "",
        };
        let mut words = match &field.kind {
            Kind::Words(words) => words(),
            _ => Vec::new(),
        };
        if !words.is_empty() && default.is_empty() {
            words.insert(0, Word { word: "", meaning: "default" });
        }
        let chosen = [value.as_str(), default]
            .into_iter()
            .find_map(|wanted| words.iter().position(|word| word.word == wanted));
        let (placeholder, input_mode) = match field.kind {
            Kind::Whole(_) => (default, "numeric"),
            Kind::Cpus(_) => (default, "decimal"),
            Kind::List { .. } | Kind::Arguments(_) => (field.example.trim_matches(['[', ']']), "text"),
            _ => (field.example, "text"),
        };
        let choices = words.into_iter().enumerate();
        Control {
            name: name.clone(),
            label,
            hint: field.summary,
            placeholder,
            error: self.errors.get(name).cloned(),
            input_mode,
            choices: choices.map(|(at, word)| (word, at == chosen.unwrap_or(0))).collect(),
            value,
        }
    }

    fn wide(&self) -> Vec<Control> {
        self.controls(Size::Wide)
    }

    fn small(&self) -> Vec<Control> {
        self.controls(Size::Small)
    }

    fn lines(&self) -> Vec<Control> {
        self.controls(Size::Lines)
    }

    fn error(&self, name: &str) -> Option<&String> {
        self.errors.get(name)
    }
}

/// The field of the form that a place in the specification comes from; none if there is no such field.
fn name_of(pointer: &str, is_command: bool) -> Option<String> {
    let is_within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match pointer {
        "" => Some(if is_command { "command" } else { "script" }.to_owned()),
        _ if is_within(pointer, "/script") => Some("script".to_owned()),
        _ if is_within(pointer, "/command") => Some("command".to_owned()),
        _ => {
            let row = rows()
                .into_iter()
                .find(|row| is_within(pointer, &row.pointer) || is_within(&row.pointer, pointer));
            row.map(|row| row.name)
        }
    }
}

impl Values {
    /// The specification that the form stands for, and what is wrong with the form itself.
    fn to_spec(&self, errors: &mut Errors) -> Value {
        let mut spec = json!({});
        if self.action == "command" {
            match shell_words::split(&self.command) {
                Ok(words) => spec["command"] = json!(words),
                Err(why) => drop(errors.insert("command".to_owned(), why.to_string())),
            }
        } else {
            spec["script"] = json!(self.script);
        }
        for row in rows() {
            let text = self.others.get(&row.name).map_or("", String::as_str);
            if text.trim().is_empty() {
                continue;
            }
            let value = match row.field.kind {
                Kind::Map { .. } => match pairs(text) {
                    Ok(pairs) => Value::Object(pairs),
                    Err(why) => {
                        errors.insert(row.name, why);
                        continue;
                    }
                },
                Kind::Whole(_) => number_or_text(text.trim()),
                Kind::List { .. } => json!(members(text)),
                Kind::Arguments(_) => match shell_words::split(text) {
                    Ok(words) => json!(words),
                    Err(why) => {
                        errors.insert(row.name, why.to_string());
                        continue;
                    }
                },
                _ => json!(text.trim()),
            };
            let inner = row.pointer.split('/').skip(1).fold(&mut spec, |object, name| &mut object[name]);
            *inner = value;
        }
        spec
    }

    /// The fields of a form that stands for this specification; none if it does more than the form can say.
    fn of_spec(spec: &Value) -> Option<Values> {
        let values = Values::resembling(spec)?;
        let again = JobSpec::read(&values.to_spec(&mut Errors::default())).ok()?;
        let is_same = serde_json::to_value(again).is_ok_and(|again| again == *spec);
        is_same.then_some(values)
    }

    /// The fields of a form, as far as the specification has them.
    fn resembling(spec: &Value) -> Option<Values> {
        let [task] = spec.get("tasks")?.as_array()?.as_slice() else { return None };
        let text = |value: Option<&Value>| match value {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        let written = |row: Row| {
            let value = match row.value_in(spec, task) {
                Some(Value::Array(items)) => {
                    let items = items.iter().map(|item| text(Some(item)));
                    match row.field.kind {
                        Kind::Arguments(_) => items.map(|item| quoted(&item)).collect::<Vec<_>>().join(" "),
                        _ => items.collect::<Vec<_>>().join(", "),
                    }
                }
                Some(Value::Object(pairs)) => {
                    pairs.iter().map(|(name, value)| format!("{name}={}\n", text(Some(value)))).collect()
                }
                value => text(value),
            };
            (row.name, value)
        };
        let words = task.get("command").and_then(Value::as_array);
        let words = words
            .map(|words| words.iter().filter_map(Value::as_str).map(quoted).collect::<Vec<_>>().join(" "));
        Some(Values {
            action: if words.is_some() { "command" } else { "script" }.to_owned(),
            script: text(task.get("script")),
            command: words.unwrap_or_default(),
            others: rows().into_iter().map(written).collect(),
            ..Values::default()
        })
    }
}

/// A whole number as such, so that what is none is refused with what was written.
fn number_or_text(text: &str) -> Value {
    text.parse::<u64>().map_or_else(|_| json!(text), |number| json!(number))
}

/// The members of a list that are written on one line.
fn members(text: &str) -> Vec<&str> {
    text.split(|c: char| c == ',' || c.is_whitespace()).filter(|member| !member.is_empty()).collect()
}

/// The pairs that stand on the lines of a text, or what is wrong with one of them. Values are kept to the last blank.
fn pairs(text: &str) -> Result<Map<String, Value>, String> {
    let mut pairs = Map::new();
    let lines = without_bom(text).lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    for (number, line) in lines {
        let Some((name, value)) = line.split_once('=') else {
            return Err(format!("expected NAME=value on each line, found {line:?}"));
        };
        if pairs.insert(name.trim().to_owned(), json!(value)).is_some() {
            let line = number + 1;
            return Err(format!("{:?} is repeated on line {line}; remove one", name.trim()));
        }
    }
    Ok(pairs)
}

/// `GET /jobs/new`: empty, or filled in after an earlier job.
pub async fn form(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["from", "as"], &[])?;
    let mut is_spec = params.text("as") == Some("spec");
    let from: Option<JobId> = params.text("from").map(|from| id(from, "job")).transpose()?;
    let mut values = Values { spec: EXAMPLE.to_owned(), ..Values::default() };
    let mut note = None;
    if let Some(from) = from {
        let source = sources::get(&context, &visitor.actor, from).await?;
        if !source.parameters.is_empty() {
            return page(&with_parameters(&visitor, from, &source));
        }
        let spec = Value::from(&source.document);
        match Values::of_spec(&spec) {
            Some(known) => values = known,
            None if !is_spec => {
                is_spec = true;
                note = Some("This job does more than the form can say, so here is its specification.");
            }
            None => {}
        }
        values.spec = serde_json::to_string_pretty(&spec).unwrap_or_default();
    }
    page(&NewJobPage { note, values, ..NewJobPage::new(&visitor, from, is_spec) })
}

/// The form for a job with parameters: the specification as it was submitted, and the values of the job.
fn with_parameters(visitor: &SessionUser, from: JobId, source: &JobSource) -> NewJobPage {
    let mut page = NewJobPage::new(visitor, Some(from), true);
    page.values.spec = source.document.to_pretty_json();
    page.declared = Unfilled::new(&source.document).declared();
    page.parameters = controls(&page.declared, &page.values.others, Some(&source.parameters), &page.errors);
    page
}

impl NewJobPage {
    fn new(visitor: &SessionUser, from: Option<JobId>, is_spec: bool) -> NewJobPage {
        let from_text = from.map(|from| from.to_string()).unwrap_or_default();
        let href = |kind| super::format::address("/jobs/new", &[("from", &from_text), ("as", kind)]);
        NewJobPage {
            frame: visitor.frame("/jobs"),
            from,
            is_spec,
            form_href: href("form"),
            spec_href: href("spec"),
            once: Uuid::new_v4().to_string(),
            values: Values::default(),
            errors: Errors::new(),
            general: Vec::new(),
            is_refused: false,
            note: None,
            declared: Vec::new(),
            parameters: Vec::new(),
        }
    }
}

/// `POST /jobs/new`
pub async fn submit(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Form(values): Form<Values>,
) -> Result<Response, Error> {
    let is_spec = values.action == "spec";
    let mut answer = NewJobPage { is_refused: true, ..NewJobPage::new(&visitor, None, is_spec) };
    if let Some(document) = read(&values, &mut answer) {
        let unfilled = Unfilled::new(&document);
        answer.declared = unfilled.declared();
        let given = parameter_form::values(&answer.declared, &values.others);
        let unfilled = Unfilled { values: Some(&given), ..unfilled };
        let submitted = match answer.errors.is_empty() {
            true => jobs::submit_document(&context, &visitor.actor, unfilled, form_key(&values.once)).await,
            // What the form itself says is not all that is wrong.
            false => Err(OperationError::InvalidSpec(unfilled.fill().err().unwrap_or_default())),
        };
        match submitted {
            Ok(accepted) => return Ok(Redirect::to(&format!("/jobs/{}", accepted.job)).into_response()),
            Err(OperationError::KeyReused) => {
                let again =
                    "This form made a job already, with other content. Submit again to make one more.";
                answer.general.push(again.to_owned());
            }
            Err(OperationError::InvalidSpec(mistakes)) => {
                answer.once = values.once.clone();
                mistakes.into_iter().for_each(|mistake| say(mistake, &values, &document, &mut answer));
            }
            Err(error) => return Err(error.into()),
        }
    } else {
        answer.once = values.once.clone();
    }
    answer.parameters = controls(&answer.declared, &values.others, None, &answer.errors);
    answer.values = values;
    let mut response = page(&answer)?;
    *response.status_mut() = axum::http::StatusCode::UNPROCESSABLE_ENTITY;
    Ok(response)
}

/// The document that was written; none if it cannot be read, which the page then says.
fn read(values: &Values, page: &mut NewJobPage) -> Option<Document> {
    if let Err(error) = jobs::check_size(values.spec.len()) {
        page.general.push(error.to_string());
        return None;
    }
    if values.action != "spec" {
        return Some(Document::from(&values.to_spec(&mut page.errors)));
    }
    let language = Language::guess(&values.spec);
    let document = language.read(&values.spec);
    let cannot = |error| page.general.push(format!("This cannot be read as {}: {error}", language.name()));
    document.map_err(cannot).ok()
}

/// Puts a mistake at its field, or on top if it has none.
fn say(mistake: FieldError, values: &Values, document: &Document, page: &mut NewJobPage) {
    let text = mistake.message();
    let is_command = values.action == "command";
    let name = match page.is_spec {
        true => field_at(&mistake.pointer, &page.declared),
        false => name_of(&mistake.pointer, is_command),
    };
    match name {
        // The first mistake of a field is enough; what follows often follows from it.
        Some(name) => drop(page.errors.entry(name).or_insert(text)),
        None => {
            let place =
                document.place_of(&mistake.pointer).map(|place| format!("{place}: ")).unwrap_or_default();
            let pointer = mistake.pointer.as_str();
            let pointer = if pointer.is_empty() { String::new() } else { format!("{pointer}: ") };
            page.general.push(format!("{place}{pointer}{text}"));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use gaffer_domain::spec::DriverKind;

    use super::*;

    #[test]
    fn a_filled_in_form_is_a_specification_and_back() {
        let others = [
            ("name", "nightly"),
            ("workdir", "/srv/nightly"),
            ("resources.cpu", "1.5"),
            ("resources.memory", "512MiB"),
            ("count", "2"),
            ("priority", "70"),
            ("timeout", "30m"),
            ("restart.policy", "on-failure"),
            ("env", "MODE=a=b\r\n\r\nEMPTY=\n"),
            ("labels", "team=vision"),
        ];
        assert!(others.iter().all(|(name, _)| rows().iter().any(|row| row.name == *name)));
        let values = Values {
            action: "command".to_owned(),
            command: "sh -c 'echo \"$MODE\"'".to_owned(),
            others: others.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..Values::default()
        };
        let spec = JobSpec::read(&values.to_spec(&mut Errors::default())).unwrap();
        assert_eq!(spec.tasks[0].env["MODE"], "a=b");
        let back = Values::of_spec(&serde_json::to_value(&spec).unwrap()).unwrap();
        let again = JobSpec::read(&back.to_spec(&mut Errors::default())).unwrap();
        assert_eq!(again, spec);
    }

    /// The example of a field as somebody writes it into the form.
    fn example(field: &Field) -> String {
        let example = Language::Yaml.read(field.example).unwrap();
        match serde_json::from_str(&example.to_json()).unwrap() {
            Value::Object(pairs) => {
                pairs.iter().map(|(name, value)| format!("{name}={}\n", value.as_str().unwrap())).collect()
            }
            Value::Array(items) => {
                let words: Vec<_> = items.iter().map(|item| item.as_str().unwrap()).collect();
                words.join(if matches!(field.kind, Kind::Arguments(_)) { " " } else { ", " })
            }
            _ => field.example.to_owned(),
        }
    }

    #[test]
    fn each_field_of_the_form_takes_its_example_and_gives_it_back() {
        for driver in [DriverKind::Host, DriverKind::Docker] {
            // A check is one of the two.
            let rows = rows().into_iter().filter(|row| row.name != "health.command");
            let rows = rows.filter(|row| row.field.drivers.contains(&driver));
            let others: BTreeMap<_, _> = rows.map(|row| (row.name, example(row.field))).collect();
            let values = Values { script: "true".to_owned(), others: others.clone(), ..Values::default() };
            let spec = JobSpec::read(&values.to_spec(&mut Errors::default())).unwrap();
            let mut back = Values::of_spec(&serde_json::to_value(&spec).unwrap()).unwrap();
            back.others.retain(|name, _| others.contains_key(name));
            assert_eq!(back.others, others);
        }
    }

    #[test]
    fn a_mistake_is_told_at_the_field_that_it_comes_from() {
        for (pointer, name) in [
            ("/resources/cpu", "resources.cpu"),
            ("/restart", "restart.policy"),
            ("/env/A~1B", "env"),
            ("/command/0", "command"),
            ("", "script"),
        ] {
            assert_eq!(name_of(pointer, false).as_deref(), Some(name), "{pointer}");
        }
        assert_eq!(name_of("", true).as_deref(), Some("command"));
        assert_eq!(name_of("/resources/disk", false), None);
        assert_eq!(name_of("/names", false), None);
    }

    #[test]
    fn a_specification_that_is_too_much_for_the_form_is_not_squeezed_into_it() {
        let spec: Value = serde_json::from_str(EXAMPLE).unwrap();
        let spec = serde_json::to_value(JobSpec::read(&spec).unwrap()).unwrap();
        assert!(Values::of_spec(&spec).is_none());
    }

    #[test]
    fn lines_that_are_no_pairs_are_named() {
        assert_eq!(pairs("A=1\nB"), Err("expected NAME=value on each line, found \"B\"".to_owned()));
        assert_eq!(pairs("A=1\n  \n").unwrap().len(), 1);
    }

    #[test]
    fn values_are_what_was_written_and_no_name_comes_twice() {
        let read = pairs("\u{feff}A= x \r\nB=\r\n").unwrap();
        assert_eq!(Value::Object(read), json!({"A": " x ", "B": ""}));
        let twice = pairs("A=1\nB=2\n\nA=3").unwrap_err();
        assert_eq!(twice, "\"A\" is repeated on line 4; remove one");
    }
}
