//! A job: what it is, its fields, and how it is read.

use std::collections::BTreeMap;

use serde::Serialize;

use super::container::repository;
use super::depends;
use super::each::MAX_TASKS_PER_JOB;
use super::field::{Field, Kind, Most, Tables};
use super::kind::JobKind;
use super::node::{Node, Object};
use super::parameter::PARAMETERS;
use super::program::Action;
use super::retention::{Retention, SHORTEST};
use super::scheduling::{
    self, AFFINITIES, Affinity, CONCURRENCY, CONSTRAINTS, Concurrency, PLACEMENT, Placement,
};
use super::task::{self, Draft, MAX_FAILURES, TASK_FIELDS, TaskSpec};
use super::update::{self, UPDATE, Update};
use crate::constraint::Constraint;
use crate::lease::SHORTEST_LOST_AFTER;
use crate::parameters::{Code, Parameters};
use crate::quantity::{Span, shown};
use crate::visible::spoils_a_line;

/// The most bytes that the text of a specification may have, in any format. Each door checks it
/// before parsing.
pub const MAX_SPEC_BYTES: usize = 1024 * 1024;
/// The most task definitions that one job may have.
pub const MAX_DEFINITIONS_PER_JOB: usize = 200;

/// A valid job specification.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobSpec {
    /// Shown in lists; from the first command when the user gave none.
    pub name: String,
    /// Whether the job runs to completion or is kept running.
    #[serde(rename = "type")]
    pub kind: JobKind,
    /// 0..=100, higher goes first.
    pub priority: u8,
    /// The user's own marks, for finding the job again.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Datacenters in which it may run; empty means any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub datacenters: Vec<String>,
    /// What its workers must be; all of them hold, for every task.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// What its workers should be, for every task.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub affinities: Vec<Affinity>,
    /// How workers are chosen; none means as the installation does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// How many attempts may run beside each other; none means any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// More failed tasks than this stop its tasks with [`When::Success`](super::When); none means any number may fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,
    /// How long a worker may be out of contact before its attempts are stopped there and lost here.
    pub lost_after: Span,
    /// How long it is kept once it has finished; what this does not say, the server does.
    #[serde(skip_serializing_if = "Retention::is_empty")]
    pub retention: Retention,
    /// It never expires, until somebody unpins it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pin: bool,
    /// How the instances are replaced when a job that is kept running is updated; none means as [`Update::default`] says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update: Option<Update>,
    /// Its parameters; their values are in the strings of the specification already.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: Parameters,
    /// At least one; names are unique; `depends_on` names other definitions and has no cycle.
    pub tasks: Vec<TaskSpec>,
}

/// The fields of a job that lists its tasks.
pub const JOB_FIELDS: Tables = &[JOB];
/// The fields of a job that has those of its one task among its own.
pub const SINGLE_TASK_JOB_FIELDS: Tables = &[JOB, TASK_FIELDS[0], TASK_FIELDS[1]];

/// The fields of a job.
pub const JOB: &[Field] = &[
    Field::new(
        "name",
        Kind::Text { what: "a name", pattern: "\\S", most: Most::Chars(MAX_NAME_CHARS) },
        "Name to show in lists",
    )
    .limits("one line")
    .otherwise("program, image or first script line of the first task")
    .example("nightly")
    .flag("name", "NAME")
    .on_page("Name"),
    Field::new("type", Kind::words::<JobKind>(), "Whether the job ends or keeps running")
        .details(
            "A `system` job has one instance of each task on every worker that meets its constraints, also on workers that join \
             later. It has no `count`, `array` or list of items, and its tasks do not wait for each other.",
        )
        .default("batch")
        .example("service")
        .flag("type", "TYPE")
        .on_page("Type"),
    Field::new("priority", Kind::Whole(0..=100), "Priority: higher goes first")
        .default("50")
        .example("70")
        .flag("priority", "N")
        .on_page("Priority"),
    Field::new(
        "labels",
        Kind::Map { noun: "labels", max: MAX_LABELS, key: &LABEL_KEY, value: &LABEL_VALUE },
        "Labels to find the job by",
    )
    .example("{team: vision}")
    .short_flag('l', "label", "KEY=VALUE")
    .on_page("Labels"),
    Field::new(
        "datacenters",
        Kind::List { noun: "datacenters", max: 64, item: &DATACENTER },
        "Datacenters in which the job may run",
    )
    .otherwise("any")
    .example("[lab, edge]")
    .flag("datacenter", "NAME"),
    Field::new("constraints", CONSTRAINTS, "Requirements on workers, for all tasks")
        .details("An expression over the facts of a worker, such as 'labels.gpu == a100 and memory >= 8GiB'.")
        .code(Code::Constraint)
        .example(r#"["arch == arm64"]"#)
        .flag("constraint", "EXPRESSION"),
    Field::new("affinities", AFFINITIES, "Preferences for workers, for all tasks")
        .code(Code::Constraint)
        .example(r#"[{when: "labels.ssd", weight: 50}]"#),
    Field::new(
        "placement",
        Kind::WordOr { word: "strategy", fields: &[PLACEMENT] },
        "Placement strategy, drain behaviour and rebalancing",
    )
    .otherwise("the installation's")
    .example("{strategy: binpack}"),
    Field::new("concurrency", Kind::Object(&[CONCURRENCY]), "Limit on live attempts of a group of jobs")
        .otherwise("none")
        .example("{group: nightly, limit: 1}"),
    Field::new("max_failures", MAX_FAILURES, "Stop the job's tasks once more than this fail")
        .details("Tasks with `when: always` or `when: failure` still run.")
        .otherwise("any number may fail")
        .example("3")
        .flag("max-failures", "N"),
    Field::new(
        "lost_after",
        Kind::Time(SHORTEST_LOST_AFTER..=Span::from_secs(7 * 24 * 60 * 60)),
        "How long a worker may be out of contact",
    )
    .details("After that time the worker stops its attempts, and the master declares them lost.")
    .default("2m")
    .example("5m")
    .flag("lost-after", "TIME"),
    Field::new(
        "retention",
        Kind::WordOr { word: "all", fields: &[RETENTION] },
        "How long the job is kept once it has finished",
    )
    .details("One period, or one for each final state.")
    .otherwise("as the server's `GAFFER_RETENTION` says")
    .example("{completed: 7d, failed: 90d}"),
    Field::new("pin", Kind::Bool, "Keep the job for ever, whatever its retention is")
        .details("`gaffer unpin` ends that.")
        .default("false")
        .example("true")
        .flag("pin", ""),
    Field::new("update", Kind::Object(&[UPDATE]), "How the instances of a service are replaced")
        .details("Without meaning for a batch job.")
        .example("{parallel: 2, canary: 1}"),
    PARAMETERS,
    Field::new(
        "tasks",
        Kind::List { noun: "tasks", max: MAX_DEFINITIONS_PER_JOB, item: &Kind::Object(TASK_FIELDS) },
        "Tasks of the job",
    )
    .limits("100,000 in all, with their counts and arrays")
    .otherwise("one task called `main`, from the task fields at the top level")
    .example("[{name: main, command: [make]}]"),
];

/// The fields of `retention`.
pub const RETENTION: &[Field] = &[
    Field::new("all", PERIOD, "The period for final states that are not named")
        .example("30d")
        .flag("retention", "TIME"),
    Field::new("completed", PERIOD, "The period if all tasks complete").example("7d"),
    Field::new("failed", PERIOD, "The period if a task fails").example("90d"),
    Field::new("cancelled", PERIOD, "The period if tasks are cancelled and none fails").example("1d"),
];
const PERIOD: Kind = Kind::Time(SHORTEST..=Span::MAX);

/// Fields that the product knows and this version does not do yet, of the job and of its tasks.
pub(super) const NOT_YET: [&str; 1] = ["schedule"];
/// What is said of them.
pub(super) const IS_NOT_YET: &str = "is not supported by this version yet";
/// What is said of a task's field beside `tasks`.
const BELONGS_TO_A_TASK: &str = "belongs to a task: write it in an entry of `tasks`";
/// What is said of a job's field in a member of `tasks`.
const BELONGS_TO_THE_JOB: &str = "belongs to the job: write it outside `tasks`";

const MAX_LABELS: usize = 64;
const LABEL_KEY: Kind = Kind::Name { what: "the key of a label", max_len: 63, others: "._/-" };
const LABEL_VALUE: Kind = Kind::text("a text", Most::Chars(MAX_LABEL_VALUE_CHARS));
const MAX_LABEL_VALUE_CHARS: usize = 255;
const DATACENTER: Kind = Kind::Name { what: "a datacenter", max_len: 63, others: "._-" };
/// The longest name of a job, in characters.
pub const MAX_NAME_CHARS: usize = 120;
const MAX_DEFAULT_NAME_CHARS: usize = 80;

impl JobSpec {
    /// Number of tasks over all definitions, as far as the specification says it.
    pub fn task_count(&self) -> u32 {
        self.tasks.iter().map(|task| task.indices.len()).sum()
    }

    /// Whether it has tasks that clean up after the others: a stop leaves these to run, unless it is forced.
    pub fn has_cleanup(&self) -> bool {
        self.tasks.iter().any(TaskSpec::is_cleanup)
    }
}

/// Reads a job in whose strings the values of its parameters are.
pub(super) fn job(node: &Node<'_>, parameters: Parameters) -> Option<JobSpec> {
    let mut object =
        node.object("a job: an object with `tasks`, or with a `command` or a `script`", JOB_FIELDS)?;
    let name = object.read("name", job_name);
    let kind = object.value("type");
    let priority = object.value("priority");
    let labels = object.read("labels", labels).unwrap_or_default();
    let datacenters = object.read("datacenters", datacenters).unwrap_or_default();
    let constraints = object.read("constraints", scheduling::constraints).unwrap_or_default();
    let affinities = object.read("affinities", scheduling::affinities).unwrap_or_default();
    let placement = scheduling::placement(&object);
    let concurrency = scheduling::concurrency(&object);
    let max_failures = object.optional("max_failures");
    let lost_after = object.value("lost_after");
    let retention = retention(&object);
    let pin = object.value("pin");
    let update = update::update(&object);
    object.refuse(NOT_YET, IS_NOT_YET);

    let drafts = match object.field("tasks") {
        Some(node) => {
            object.refuse_fields(TASK_FIELDS, BELONGS_TO_A_TASK);
            tasks(&node, kind)
        }
        None => only_task(&mut object, kind),
    };
    object.finish();

    let drafts = drafts.unwrap_or_default();
    if kind == JobKind::Service {
        report_each_worker(&drafts);
    }
    let tasks = depends::resolve(drafts);
    let name = name.unwrap_or_else(|| default_name(tasks.first()));
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
        max_failures,
        lost_after,
        retention,
        pin,
        update,
        parameters,
        tasks,
    })
}

/// Reports tasks of a service that are to run on every worker.
fn report_each_worker(drafts: &[Draft<'_>]) {
    for draft in drafts.iter().filter(|draft| draft.spec.is_for_each_worker()) {
        if let Some(node) = &draft.each {
            node.wrong::<()>(
                "`each: worker` is for batch jobs: for a service on every worker, write `type: system`",
            );
        }
    }
}

fn retention(job: &Object<'_>) -> Retention {
    let object = job.nested_or_empty("retention");
    let all: Option<Span> = object.optional("all");
    let [completed, failed, cancelled] =
        ["completed", "failed", "cancelled"].map(|state| object.optional(state).or(all));
    object.finish();
    Retention { completed, failed, cancelled }
}

/// The tasks of a job that lists them.
fn tasks<'a>(node: &Node<'a>, kind: JobKind) -> Option<Vec<Draft<'a>>> {
    let nodes = node.members()?;
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
    let drafts: Vec<_> = nodes.filter_map(|node| listed_task(&node, kind)).collect();
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
    let has_any = object.has_any(TASK_FIELDS);
    object.also(TASK_FIELDS);
    if !has_any {
        return object
            .node()
            .wrong("a job needs something to run: a `command`, a `script`, or a list of `tasks`");
    }
    Some(vec![task::read(object, task::ONLY_NAME.to_owned(), kind)])
}

/// A member of `tasks`.
fn listed_task<'a>(node: &Node<'a>, kind: JobKind) -> Option<Draft<'a>> {
    let what = "a task: an object with a `name`, and a `command` or a `script`";
    let mut object = node.object(what, TASK_FIELDS)?;
    let name_node = object.field("name");
    let name = match &name_node {
        Some(node) => node.own_name().map(str::to_owned),
        None => node.wrong("a task in a list of tasks needs a `name`"),
    };
    object.refuse(NOT_YET, IS_NOT_YET);
    object.refuse_fields(JOB_FIELDS, BELONGS_TO_THE_JOB);
    let mut draft = task::read(&mut object, name.unwrap_or_default(), kind);
    // These the job may have, too, so that the fields of its only task do not include them.
    draft.spec.constraints = object.read("constraints", scheduling::constraints).unwrap_or_default();
    draft.spec.affinities = object.read("affinities", scheduling::affinities).unwrap_or_default();
    draft.spec.max_failures = object.optional("max_failures");
    object.finish();
    Some(Draft { name: name_node, ..draft })
}

fn job_name(node: &Node<'_>) -> Option<String> {
    let name = node.own_text()?;
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
            let called = command.first().map(String::as_str).or(image.map(repository));
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

fn labels(node: &Node<'_>) -> Option<BTreeMap<String, String>> {
    let entries = node.entries()?;
    if entries.len() > MAX_LABELS {
        return node.wrong(format!("a job has at most {MAX_LABELS} labels, this one has {}", entries.len()));
    }
    Some(entries.filter_map(|(key, node)| Some((key.to_owned(), label(key, &node)?))).collect())
}

fn label(key: &str, node: &Node<'_>) -> Option<String> {
    if !node.check_name(key, &LABEL_KEY) {
        return None;
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

fn datacenters(node: &Node<'_>) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for node in node.list()? {
        let Some(name) = node.text("the name of a datacenter") else { continue };
        if names.iter().any(|known| known == name) {
            node.wrong::<()>(format!("{} is named twice", shown(name)));
        } else if node.check_name(name, &DATACENTER) {
            names.push(name.to_owned());
        }
    }
    Some(names)
}
