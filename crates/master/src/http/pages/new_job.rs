//! Submitting a job: a form for one task, or the whole specification. What is wrong is said at its field, and nothing
//! that was written is lost.

use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use gaffer_domain::JobId;
use gaffer_domain::document::{Language, Value as Document};
use gaffer_domain::spec::{FieldError, JobSpec};
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
use crate::operations::jobs::{self, Submit};
use crate::operations::{Context, OperationError, tasks};
use crate::views::Views;

/// When a task is run again: the value, and how it is said.
pub const POLICIES: [(&str, &str); 3] =
    [("never", "never"), ("on-failure", "if it fails, up to 3 times"), ("always", "whenever it ends")];
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
    errors: FieldErrors,
    general: Vec<String>,
    is_refused: bool,
    note: Option<&'static str>,
}

/// What stands in the fields.
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
    image: String,
    workdir: String,
    name: String,
    cpu: String,
    memory: String,
    count: String,
    priority: String,
    timeout: String,
    restart: String,
    env: String,
    labels: String,
    spec: String,
}

/// What is wrong, field by field.
#[derive(Debug, Default)]
struct FieldErrors {
    script: Option<String>,
    command: Option<String>,
    image: Option<String>,
    workdir: Option<String>,
    name: Option<String>,
    cpu: Option<String>,
    memory: Option<String>,
    count: Option<String>,
    priority: Option<String>,
    timeout: Option<String>,
    restart: Option<String>,
    env: Option<String>,
    labels: Option<String>,
}

impl FieldErrors {
    /// The field that a place in the specification comes from; none if there is no such field.
    fn field(&mut self, pointer: &str, is_command: bool) -> Option<&mut Option<String>> {
        let mut parts = pointer.split('/').skip(1);
        Some(match (parts.next()?, parts.next()) {
            ("script", _) => &mut self.script,
            ("command", _) => &mut self.command,
            ("image", _) => &mut self.image,
            ("workdir", _) => &mut self.workdir,
            ("", _) if is_command => &mut self.command,
            ("", _) => &mut self.script,
            ("name", _) => &mut self.name,
            ("resources", Some("cpu")) => &mut self.cpu,
            ("resources", Some("memory")) => &mut self.memory,
            ("count", _) => &mut self.count,
            ("priority", _) => &mut self.priority,
            ("timeout", _) => &mut self.timeout,
            ("restart", _) => &mut self.restart,
            ("env", _) => &mut self.env,
            ("labels", _) => &mut self.labels,
            _ => return None,
        })
    }
}

impl Values {
    /// Whether this is the chosen policy.
    fn restarts(&self, policy: &str) -> bool {
        self.restart == policy
    }

    /// The specification that the form stands for, and what is wrong with the form itself.
    fn to_spec(&self, errors: &mut FieldErrors) -> Value {
        let mut spec = Map::new();
        if self.action == "command" {
            match shell_words::split(&self.command) {
                Ok(words) => drop(spec.insert("command".to_owned(), json!(words))),
                Err(why) => errors.command = Some(why.to_string()),
            }
        } else {
            spec.insert("script".to_owned(), json!(self.script));
        }
        let mut put = |name: &str, value: &str| {
            let value = value.trim();
            if !value.is_empty() {
                spec.insert(name.to_owned(), number_or_text(value));
            }
        };
        put("count", &self.count);
        put("priority", &self.priority);
        let texts = [
            ("name", &self.name),
            ("image", &self.image),
            ("workdir", &self.workdir),
            ("timeout", &self.timeout),
            ("restart", &self.restart),
        ];
        for (name, text) in texts {
            if !text.trim().is_empty() {
                spec.insert(name.to_owned(), json!(text.trim()));
            }
        }
        let mut resources = Map::new();
        for (name, text) in [("cpu", &self.cpu), ("memory", &self.memory)] {
            if !text.trim().is_empty() {
                resources.insert(name.to_owned(), json!(text.trim()));
            }
        }
        if !resources.is_empty() {
            spec.insert("resources".to_owned(), Value::Object(resources));
        }
        for (name, text, error) in
            [("env", &self.env, &mut errors.env), ("labels", &self.labels, &mut errors.labels)]
        {
            match pairs(text) {
                Ok(pairs) if pairs.is_empty() => {}
                Ok(pairs) => drop(spec.insert(name.to_owned(), Value::Object(pairs))),
                Err(why) => *error = Some(why),
            }
        }
        Value::Object(spec)
    }

    /// The fields of a form that stands for this specification; none if it does more than the form can say.
    fn of_spec(spec: &Value) -> Option<Values> {
        let values = Values::resembling(spec)?;
        let again = JobSpec::read(&values.to_spec(&mut FieldErrors::default())).ok()?;
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
        let lines = |value: Option<&Value>| -> String {
            let pairs = value.and_then(Value::as_object).into_iter().flatten();
            pairs.map(|(name, value)| format!("{name}={}\n", text(Some(value)))).collect()
        };
        let words = task.get("command").and_then(Value::as_array);
        let words = words
            .map(|words| words.iter().filter_map(Value::as_str).map(quoted).collect::<Vec<_>>().join(" "));
        Some(Values {
            action: if words.is_some() { "command" } else { "script" }.to_owned(),
            script: text(task.get("script")),
            command: words.unwrap_or_default(),
            image: text(task.get("image")),
            workdir: text(task.get("workdir")),
            name: text(spec.get("name")),
            cpu: text(task.pointer("/resources/cpu")),
            memory: text(task.pointer("/resources/memory")),
            count: text(task.get("count")),
            priority: text(spec.get("priority")),
            timeout: text(task.get("timeout")),
            restart: text(task.pointer("/restart/policy")),
            env: lines(task.get("env")),
            labels: lines(spec.get("labels")),
            ..Values::default()
        })
    }
}

/// A whole number as such, so that what is none is refused with what was written.
fn number_or_text(text: &str) -> Value {
    text.parse::<u64>().map_or_else(|_| json!(text), |number| json!(number))
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
    State(views): State<Arc<Views>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["from", "as"], &[])?;
    let mut is_spec = params.text("as") == Some("spec");
    let from: Option<JobId> = params.text("from").map(|from| id(from, "job")).transpose()?;
    let mut values = Values { spec: EXAMPLE.to_owned(), ..Values::default() };
    let mut note = None;
    if let Some(from) = from {
        tasks::own_job(&views.reads, &visitor.actor, from).await?;
        let spec = views.reads.job_specs(&[from], 0).await?.pop().unwrap_or_default();
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
            errors: FieldErrors::default(),
            general: Vec::new(),
            is_refused: false,
            note: None,
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
    match read(&values, &mut answer) {
        Some(spec) => {
            let wanted = Submit { spec: &spec, idempotency_key: form_key(&values.once) };
            match jobs::submit(&context, &visitor.actor, wanted).await {
                Ok(accepted) => {
                    return Ok(Redirect::to(&format!("/jobs/{}", accepted.job)).into_response());
                }
                Err(OperationError::KeyReused) => {
                    let again =
                        "This form made a job already, with other content. Submit again to make one more.";
                    answer.general.push(again.to_owned());
                }
                Err(error) => return Err(error.into()),
            }
        }
        None => answer.once = values.once.clone(),
    }
    answer.values = values;
    let mut response = page(&answer)?;
    *response.status_mut() = axum::http::StatusCode::UNPROCESSABLE_ENTITY;
    Ok(response)
}

/// The specification that was written; none if something is wrong with it, which the page then says.
fn read(values: &Values, page: &mut NewJobPage) -> Option<JobSpec> {
    if let Err(error) = jobs::check_size(values.spec.len()) {
        page.general.push(error.to_string());
        return None;
    }
    let document = match values.action.as_str() {
        "spec" => {
            let language = Language::guess(&values.spec);
            match language.read(&values.spec) {
                Ok(document) => document,
                Err(error) => {
                    page.general.push(format!("This cannot be read as {}: {error}", language.name()));
                    return None;
                }
            }
        }
        _ => Document::from(&values.to_spec(&mut page.errors)),
    };
    let form_is_wrong =
        [&page.errors.command, &page.errors.env, &page.errors.labels].into_iter().any(Option::is_some);
    match JobSpec::of(&document) {
        Ok(spec) if !form_is_wrong => return Some(spec),
        Ok(_) => {}
        Err(mistakes) => mistakes.into_iter().for_each(|mistake| say(mistake, values, &document, page)),
    }
    None
}

/// Puts a mistake at its field, or on top if it has none.
fn say(mistake: FieldError, values: &Values, document: &Document, page: &mut NewJobPage) {
    let suggestion =
        mistake.suggestion.as_ref().map(|suggestion| format!(" ({suggestion})")).unwrap_or_default();
    let text = format!("{}{suggestion}", mistake.detail);
    let is_command = values.action == "command";
    let pointer = if mistake.pointer.is_empty() { "/" } else { &mistake.pointer };
    let field = if page.is_spec { None } else { page.errors.field(pointer, is_command) };
    match field {
        Some(field @ None) => *field = Some(text),
        // The first mistake of a field is enough; what follows often follows from it.
        Some(_) => {}
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
    use super::*;

    #[test]
    fn a_filled_in_form_is_a_specification_and_back() {
        let values = Values {
            action: "command".to_owned(),
            command: "sh -c 'echo \"$MODE\"'".to_owned(),
            name: "nightly".to_owned(),
            workdir: "/srv/nightly".to_owned(),
            cpu: "1.5".to_owned(),
            memory: "512MiB".to_owned(),
            count: "2".to_owned(),
            priority: "70".to_owned(),
            timeout: "30m".to_owned(),
            restart: "on-failure".to_owned(),
            env: "MODE=a=b\r\n\r\nEMPTY=\n".to_owned(),
            labels: "team=vision".to_owned(),
            ..Values::default()
        };
        let spec = JobSpec::read(&values.to_spec(&mut FieldErrors::default())).unwrap();
        assert_eq!(spec.tasks[0].env["MODE"], "a=b");
        let back = Values::of_spec(&serde_json::to_value(&spec).unwrap()).unwrap();
        let again = JobSpec::read(&back.to_spec(&mut FieldErrors::default())).unwrap();
        assert_eq!(again, spec);
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
