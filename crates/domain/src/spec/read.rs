//! Reads a job's specification from an untrusted document and reports every mistake in it at once.

mod container;
mod depends;
mod fields;
mod program;
mod scheduling;
mod task;

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize, Serializer};

use self::fields::{Mistakes, Node, Object};
use self::task::Draft;
use super::{Action, JobKind, JobSpec, MAX_DEFINITIONS_PER_JOB, MAX_TASKS_PER_JOB, TaskSpec};
use crate::document::Value;
use crate::lease::SHORTEST_LOST_AFTER;
use crate::quantity::{Span, shown};

/// The most bytes that the text of a specification may have, in whatever format. Whoever takes the text in
/// checks it, before parsing.
pub const MAX_SPEC_BYTES: usize = 1024 * 1024;

/// Fields that the product knows and this version does not do yet, of the job and of its tasks.
const NOT_YET: &[&str] = &["schedule", "secrets", "health"];
/// What is said of them.
const IS_NOT_YET: &str = "is not supported by this version yet";

/// Fields of the job alone; a task has none of them.
const JOB_FIELDS: &[&str] =
    &["type", "priority", "labels", "datacenters", "placement", "concurrency", "lost_after", "tasks"];

/// What is said of a task's field beside `tasks`.
const BELONGS_TO_A_TASK: &str = "belongs to a task: a job with a list of `tasks` writes it inside of them";
/// What is said of a job's field in a member of `tasks`.
const BELONGS_TO_THE_JOB: &str = "belongs to the job: write it outside of `tasks`";

const MAX_LABELS: usize = 64;
const MAX_LABEL_KEY_LEN: usize = 63;
const MAX_LABEL_VALUE_CHARS: usize = 255;
const MAX_DATACENTERS: usize = 64;
const MAX_DATACENTER_LEN: usize = 63;
const MAX_NAME_CHARS: usize = 120;
const MAX_DEFAULT_NAME_CHARS: usize = 80;

const DEFAULT_PRIORITY: u32 = 50;
const DEFAULT_LOST_AFTER: Span = Span::from_secs(120);
const LONGEST_LOST_AFTER: Span = Span::from_secs(7 * 24 * 60 * 60);

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

impl FieldError {
    fn new(pointer: impl Into<String>, detail: impl Into<String>) -> FieldError {
        FieldError { pointer: pointer.into(), detail: detail.into(), suggestion: None }
    }
}

impl Display for FieldError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.pointer.is_empty() {
            write!(f, "{}: ", self.pointer)?;
        }
        f.write_str(&self.detail)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, " ({suggestion})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for FieldError {}

impl JobSpec {
    /// As [`JobSpec::of`], from JSON that a program has made: numbers have lost the text they were written with.
    ///
    /// # Errors
    /// All mistakes.
    pub fn read(value: &serde_json::Value) -> Result<JobSpec, Vec<FieldError>> {
        JobSpec::of(&Value::from(value))
    }

    /// Reads a specification and fills in its defaults, or says everything that is wrong with it: at least
    /// one mistake, and at most a bounded number of them.
    ///
    /// # Errors
    /// All mistakes.
    pub fn of(value: &Value) -> Result<JobSpec, Vec<FieldError>> {
        let mistakes = Mistakes::default();
        let spec = job(&Node::root(value, &mistakes));
        match (spec, mistakes.into_list()) {
            (Some(spec), mistakes) if mistakes.is_empty() => Ok(spec),
            (_, mistakes) => Err(mistakes),
        }
    }
}

fn job(node: &Node) -> Option<JobSpec> {
    let mut object = node.object("a job: an object with `tasks`, or with a `command` or a `script`")?;
    let name = object.read("name", job_name);
    let kind = object.read("type", kind).unwrap_or(JobKind::Batch);
    let priority = object.read("priority", |node| node.integer(0..=100)).unwrap_or(DEFAULT_PRIORITY);
    let labels = object.read("labels", labels).unwrap_or_default();
    let datacenters = object.read("datacenters", datacenters).unwrap_or_default();
    let constraints = object.read("constraints", scheduling::constraints).unwrap_or_default();
    let affinities = object.read("affinities", scheduling::affinities).unwrap_or_default();
    let placement = object.read("placement", scheduling::placement);
    let concurrency = object.read("concurrency", scheduling::concurrency);
    let lost_after = object.read("lost_after", lost_after).unwrap_or(DEFAULT_LOST_AFTER);
    object.refuse(NOT_YET, IS_NOT_YET);

    let drafts = match object.field("tasks") {
        Some(node) => {
            object.refuse(task::FIELDS, BELONGS_TO_A_TASK);
            tasks(&node, kind)
        }
        None => only_task(&mut object, kind),
    };
    object.finish();

    let tasks = depends::resolve(drafts.unwrap_or_default());
    let name = name.unwrap_or_else(|| default_name(tasks.first()));
    let priority = u8::try_from(priority).unwrap_or(u8::MAX);
    Some(JobSpec {
        name,
        kind,
        priority,
        labels,
        datacenters,
        constraints,
        affinities,
        placement,
        concurrency,
        lost_after,
        tasks,
    })
}

/// The tasks of a job that lists them.
fn tasks<'a>(node: &Node<'a>, kind: JobKind) -> Option<Vec<Draft<'a>>> {
    let nodes = node.list("a list of tasks")?;
    if nodes.len() == 0 {
        return node.wrong("a job needs at least one task");
    }
    if nodes.len() > MAX_DEFINITIONS_PER_JOB {
        let len = nodes.len();
        return node.wrong(format!(
            "the list has {len} tasks, more than the {MAX_DEFINITIONS_PER_JOB} that are allowed; \
             a task may have a `count` or an `array`"
        ));
    }
    let drafts: Vec<_> = nodes.filter_map(|node| task::read(&node, kind)).collect();
    let task_count: u32 = drafts.iter().map(|draft| draft.spec.indices.len()).sum();
    if task_count > MAX_TASKS_PER_JOB {
        node.wrong::<()>(format!(
            "with their counts and arrays these are {task_count} tasks, more than the {MAX_TASKS_PER_JOB} that \
             one job may have"
        ));
    }
    Some(drafts)
}

/// The one task of a job that has the task's fields among its own.
fn only_task<'a>(object: &mut Object<'a>, kind: JobKind) -> Option<Vec<Draft<'a>>> {
    if !task::FIELDS.iter().any(|name| object.has(name)) {
        return object
            .node()
            .wrong("a job needs something to run: a `command`, a `script`, or a list of `tasks`");
    }
    Some(vec![task::read_fields(object, task::ONLY_NAME.to_owned(), kind)])
}

fn kind(node: &Node) -> Option<JobKind> {
    node.word(&[("batch", JobKind::Batch), ("service", JobKind::Service)])
}

fn lost_after(node: &Node) -> Option<Span> {
    node.amount("a time", SHORTEST_LOST_AFTER..=LONGEST_LOST_AFTER)
}

fn job_name(node: &Node) -> Option<String> {
    let name = node.text("a name")?;
    let chars = name.chars().count();
    if name.trim().is_empty() {
        node.wrong("a name must not be blank")
    } else if chars > MAX_NAME_CHARS {
        node.wrong(format!("a name has at most {MAX_NAME_CHARS} characters, this one has {chars}"))
    } else if name.chars().any(spoils_a_line) {
        node.wrong("a name is one line of visible text: it has no control characters")
    } else {
        Some(name.to_owned())
    }
}

/// What the job is called when its user did not say: as what it runs.
fn default_name(first: Option<&TaskSpec>) -> String {
    let source = match first.map(|task| &task.action) {
        Some(Action::Command(command)) => {
            let image =
                first.and_then(|task| task.container.as_ref()).map(|container| container.image.as_str());
            let called = command.first().map(String::as_str).or(image.map(container::repository));
            called.and_then(|path| path.rsplit('/').next()).unwrap_or_default()
        }
        Some(Action::Script(script)) => {
            let says_something = |line: &&str| !line.is_empty() && !line.starts_with("#!");
            script.lines().map(str::trim).find(says_something).unwrap_or_default()
        }
        None => "",
    };
    let visible: String =
        source.chars().filter(|c| !spoils_a_line(*c)).take(MAX_DEFAULT_NAME_CHARS).collect();
    match visible.trim() {
        "" => "job".to_owned(),
        name => name.to_owned(),
    }
}

/// Whether a character ends, hides or reorders the line that it is shown in.
fn spoils_a_line(c: char) -> bool {
    crate::visible::spoils_a_line(c)
}

fn labels(node: &Node) -> Option<BTreeMap<String, String>> {
    let entries = node.entries("an object of labels such as {team: vision}")?;
    if entries.len() > MAX_LABELS {
        return node.wrong(format!("a job has at most {MAX_LABELS} labels, this one has {}", entries.len()));
    }
    Some(entries.filter_map(|(key, node)| Some((key.to_owned(), label(key, &node)?))).collect())
}

fn label(key: &str, node: &Node) -> Option<String> {
    if !is_plain_name(key, MAX_LABEL_KEY_LEN, "._/-") {
        return node.wrong(format!(
            "{} cannot be the key of a label: write 1 to {MAX_LABEL_KEY_LEN} of the characters \
             a-z A-Z 0-9 . _ / - and begin with a letter or digit",
            shown(key)
        ));
    }
    let value = node.text("a text")?;
    let chars = value.chars().count();
    if chars > MAX_LABEL_VALUE_CHARS {
        node.wrong(format!(
            "the value of a label has at most {MAX_LABEL_VALUE_CHARS} characters, this one has {chars}"
        ))
    } else if value.chars().any(spoils_a_line) {
        node.wrong("the value of a label is one line of visible text: it has no control characters")
    } else {
        Some(value.to_owned())
    }
}

fn datacenters(node: &Node) -> Option<Vec<String>> {
    let nodes = node.list("a list of datacenters such as [lab, edge]")?;
    if nodes.len() > MAX_DATACENTERS {
        return node
            .wrong(format!("a job names at most {MAX_DATACENTERS} datacenters, this one {}", nodes.len()));
    }
    let mut names: Vec<String> = Vec::new();
    for node in nodes {
        let Some(name) = node.text("the name of a datacenter") else { continue };
        if names.iter().any(|known| known == name) {
            node.wrong::<()>(format!("{} is named twice", shown(name)));
        } else if !is_plain_name(name, MAX_DATACENTER_LEN, "._-") {
            node.wrong::<()>(format!(
                "{} cannot be a datacenter: write 1 to {MAX_DATACENTER_LEN} of the characters \
                 a-z A-Z 0-9 . _ - and begin with a letter or digit",
                shown(name)
            ));
        } else {
            names.push(name.to_owned());
        }
    }
    Some(names)
}

/// Whether a text is a letter or digit, followed by letters, digits and the `others`.
fn is_plain_name(text: &str, max_len: usize, others: &str) -> bool {
    text.len() <= max_len
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

/// Writes [`super::Indices::Array`] as it is read: `"first-last"`.
pub(super) fn write_array<S: Serializer>(first: &u32, last: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{first}-{last}"))
}
