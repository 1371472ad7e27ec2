//! One task definition: what it is, its fields, and how it is read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::container::{self, CONTAINER, Container, MAX_WORKDIR_BYTES, Port};
use super::dependency::{DEPENDENCY, Dependency, When};
use super::driver::DriverKind;
use super::each::{EACH, Each, Item, MAX_TASKS_PER_JOB};
use super::field::{Field, Kind, Most, Tables, Words};
use super::health::{self, HEALTH, HealthCheck, READINESS};
use super::indices::{self, Indices};
use super::kind::JobKind;
use super::node::{Node, Object};
use super::program::{self, Action};
use super::reservation::{self, RESOURCES, Reservation};
use super::restart::{self, OnLost, RESTART, Restart, RestartPolicy};
use super::scheduling::{self, AFFINITIES, Affinity, CONSTRAINTS};
use super::secrets::{self, SECRETS, SecretUse};
use super::stop::{self, STOP, StopSpec};
use crate::constraint::{Constraint, Fact, MAX_CONSTRAINT_BYTES};
use crate::parameters::Code;
use crate::quantity::{Bytes, Span};
use crate::task_address;

/// The name of the task of a job that does not list its tasks.
pub(super) const ONLY_NAME: &str = "main";

/// How many tasks may fail.
pub(super) const MAX_FAILURES: Kind = Kind::Whole(0..=MAX_TASKS_PER_JOB as i64);

/// One task definition; it stands for as many tasks as it has indices.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskSpec {
    /// Unique in the job: a letter or digit, then letters, digits, `_` and `-`, at most 63 (no dot: `name.index` is an address).
    pub name: String,
    /// What executes it.
    pub driver: DriverKind,
    /// Its container: there is one exactly if the driver is [`DriverKind::Docker`].
    #[serde(flatten)]
    pub container: Option<Container>,
    /// Where it runs on the host: an absolute path; none means in a scratch directory of the attempt. A container has its
    /// own, [`Container::workdir`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Its named ports on the host. A container has its own, [`Container::ports`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// The niceness of its processes on the host: 0..=19, higher yields more to others.
    #[serde(skip_serializing_if = "is_zero")]
    pub nice: u8,
    /// Whether its standard input is what somebody writes through the API; else it is empty. Such a task is not repeated:
    /// what was written is not kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    /// What is executed.
    #[serde(flatten)]
    pub action: Action,
    /// Added to the environment that the worker gives; names as the kernel takes them, without the prefix `GAFFER_`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The secrets of its project that it uses; no value of them is here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretUse>,
    /// The definitions that it waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Dependency>,
    /// After which outcome of these it runs. Without any, [`When::Always`] and [`When::Failure`] wait for all definitions with
    /// [`When::Success`].
    #[serde(skip_serializing_if = "When::is_success")]
    pub when: When,
    /// The task indices. A single task has index 0 only and is addressed by its bare name.
    #[serde(flatten, skip_serializing_if = "Indices::follow_workers")]
    pub indices: Indices,
    /// An item for each index; then the indices are an [`Indices::Array`] of as many. For the workers of a batch job, those are as
    /// many once it is accepted; for those of a system job, they are [`Indices::Workers`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub each: Option<Each>,
    /// What it reserves on its worker.
    pub resources: Reservation,
    /// What its workers must be, beside what the job says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// What its workers should be, beside what the job says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub affinities: Vec<Affinity>,
    /// Over the values of this fact its tasks are spread evenly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Fact>,
    /// No two of its tasks are live on one worker.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub distinct_workers: bool,
    /// Longest time that one attempt may run; none means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// How much output one attempt may have; none means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputLimit>,
    /// More failed tasks than this stop the rest of them; none means any number may fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,
    /// When it is tried again.
    pub restart: Restart,
    /// How it is asked to end.
    pub stop: StopSpec,
    /// The check that it must pass; one that fails is restarted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// The check that it must pass to count as available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness: Option<HealthCheck>,
}

impl TaskSpec {
    /// Its ports, with and without a name.
    pub fn ports(&self) -> &[Port] {
        self.container.as_ref().map_or(&self.ports, |container| &container.ports)
    }

    /// Whether it has the network of its worker, so that what it listens on is a port of the worker.
    pub fn shares_network(&self) -> bool {
        self.container.as_ref().is_none_or(Container::shares_network)
    }

    /// How users address its task with this index: see [`task_address`].
    pub fn address(&self, index: u32) -> String {
        task_address(&self.name, index, self.indices.is_single())
    }

    /// Whether something checks its running tasks.
    pub fn has_checks(&self) -> bool {
        self.health.is_some() || self.readiness.is_some()
    }

    /// Whether each of its tasks is for one worker: `each: worker`, or `type: system`.
    pub fn is_for_each_worker(&self) -> bool {
        self.each == Some(Each::Workers)
    }

    /// The item of its task with this index, if it has items and the specification says which.
    pub fn item(&self, index: u32) -> Option<Item> {
        self.each.as_ref()?.item(index.checked_sub(self.indices.first())?)
    }
}

/// The fields of a task, with those of its container.
pub const TASK_FIELDS: Tables = &[TASK, CONTAINER];

/// The fields of a task, without those of its container.
pub const TASK: &[Field] = &[
    Field::new(
        "name",
        Kind::Name { what: "the name of a task", max_len: 63, others: "_-" },
        "Name of the task, unique in its job",
    )
    .required()
    .example("train"),
    Field::new("driver", Kind::words::<DriverKind>(), "What executes the task")
        .otherwise("`docker` with an `image`, else `host`")
        .example("docker")
        .flag("driver", "DRIVER"),
    program::COMMAND,
    program::SCRIPT,
    Field::new("resources", Kind::Object(&[RESOURCES]), "Resources to reserve on the worker")
        .example("{cpu: 1, memory: 512MiB, gpu: 1}"),
    Field::new(
        "workdir",
        Kind::Text { what: "an absolute path", pattern: "^/", most: Most::Bytes(MAX_WORKDIR_BYTES) },
        "Directory to run in, on the host or in the container",
    )
    .details("GAFFER_SCRATCH_DIR is the path of a host task's scratch directory, with or without workdir.")
    .otherwise("host: a scratch directory; container: the image's")
    .example("/srv/project")
    .only(&[DriverKind::Host, DriverKind::Docker])
    .flag("workdir", "DIR")
    .on_page("Directory"),
    PORTS,
    Field::new("nice", Kind::Whole(0..=19), "Niceness: higher yields the processors to others")
        .details("If the worker's own niceness is higher, the task gets that.")
        .default("0")
        .example("10")
        .only(&[DriverKind::Host])
        .flag("nice", "N")
        .on_page("Nice"),
    Field::new("stdin", Kind::Bool, "Take standard input from the API; otherwise it is empty")
        .limits("needs `restart: never`")
        .default("false")
        .example("true")
        .only(&[DriverKind::Host, DriverKind::Docker]),
    program::ENV,
    SECRETS,
    Field::new(
        "depends_on",
        Kind::List {
            noun: "dependencies",
            max: usize::MAX,
            item: &Kind::WordOr { word: "task", fields: &[DEPENDENCY] },
        },
        "Tasks that this one waits for, and the outcome of each",
    )
    .details("A name alone means `on: completed`; `failed` and `ended` are the other outcomes.")
    .limits("names of other tasks of the job, no cycle")
    .example("[prepare, {task: check, on: ended}]"),
    Field::new("when", Kind::words::<When>(), "Outcome of the dependencies that makes this task run")
        .details("Without `depends_on`, `always` and `failure` wait for all tasks of the job without `when`.")
        .default("success")
        .example("always"),
    Field::new("count", Kind::Whole(1..=MAX_TASKS_PER_JOB as i64), "Number of copies, with indices from 0")
        .not_with(&["array"])
        .default("1")
        .example("4")
        .flag("count", "N")
        .on_page("Copies"),
    Field::new(
        "array",
        Kind::Text {
            what: r#"a range of indices such as "0-99""#,
            pattern: "^\\s*[0-9]+\\s*(-\\s*[0-9]+\\s*)?$|^\\s*[0-9]+\\s*(-\\s*[0-9]+\\s*)?%\\s*[0-9]+\\s*$|\
                ^\\s*%\\s*[0-9]+\\s*$",
            most: Most::Any,
        },
        "Range of task indices, both ends included",
    )
    .details("With `%N`, at most N of the tasks are live at once; beside `each`, `%N` alone says that.")
    .limits("`first-last` or `first-last%N`, up to 1,000,000; as many indices as `each` has items")
    .not_with(&["count"])
    .example("0-99%10")
    .flag("array", "FIRST-LAST%N"),
    EACH,
    Field::new(
        "spread",
        Kind::text("a fact of workers such as `labels.rack`", Most::Bytes(MAX_CONSTRAINT_BYTES)),
        "Spread the tasks over the values of a fact",
    )
    .code(Code::Constraint)
    .example("labels.rack")
    .flag("spread", "FACT"),
    Field::new("distinct_workers", Kind::Bool, "Run no two of the tasks on one worker")
        .default("false")
        .example("true")
        .flag("distinct-workers", ""),
    Field::new(
        "timeout",
        Kind::Time(Span::from_millis(100)..=Span::from_secs(365 * 24 * 60 * 60)),
        "Maximum run time of one attempt",
    )
    .otherwise("none")
    .example("30m")
    .flag("timeout", "TIME")
    .on_page("Timeout"),
    Field::new("output", Kind::Object(&[OUTPUT]), "Limit on the output of one attempt")
        .otherwise("none")
        .example("{limit: 100MiB, on_limit: truncate}"),
    Field::new("max_failures", MAX_FAILURES, "Stop the other tasks of the array once more than this fail")
        .otherwise("any number may fail")
        .example("3"),
    Field::new("restart", Kind::WordOr { word: "policy", fields: &[RESTART] }, "Restart policy")
        .example("{policy: on-failure, limit: 3}"),
    Field::new("stop", Kind::Object(&[STOP]), "How the task is asked to end")
        .example("{signal: SIGTERM, grace: 10s}"),
    Field::new("health", Kind::Object(&[HEALTH]), "Check of a running task; one that fails it is restarted")
        .details("The restart policy decides, as after any failure; the reason is `unhealthy`.")
        .example("{http: /health, port: http}")
        .only(&[DriverKind::Host, DriverKind::Docker]),
    Field::new("readiness", Kind::Object(&[READINESS]), "Check that a task must pass to be available")
        .details("It has the same fields as `health`. A task that fails it continues.")
        .example("{tcp: http}")
        .only(&[DriverKind::Host, DriverKind::Docker]),
    Field::new("constraints", CONSTRAINTS, "Requirements on workers, in addition to the job's")
        .code(Code::Constraint)
        .example(r#"["arch == arm64"]"#),
    Field::new("affinities", AFFINITIES, "Preferences for workers, in addition to the job's")
        .code(Code::Constraint)
        .example(r#"[{when: "labels.ssd", weight: 50}]"#),
];

const PORT: Kind = Kind::Text {
    what: "a text",
    pattern: "^[0-9]+(:[0-9]+)?(/(tcp|udp))?$|^[A-Za-z][A-Za-z0-9_-]*(=[0-9]+(:[0-9]+)?)?(/(tcp|udp))?$",
    most: Most::Any,
};

const PORTS: Field =
    Field::new("ports", Kind::List { noun: "ports", max: 64, item: &PORT }, "Ports of the task on its worker")
        .details(
            "`http` is a named port: the worker assigns a free one, and the task finds it in GAFFER_PORT_HTTP. `http=80` is port \
             80 of a container, or of the worker for a task on the host. `8080:80` publishes port 80 of a container as port 8080; \
             \"80\" is \"0:80\", which takes a free port.",
        )
        .limits("on the host only named ones; not with `network: none`")
        .example("[http, metrics]")
        .only(&[DriverKind::Host, DriverKind::Docker])
        .flag("publish", "PORT")
        .on_page("Ports");

/// The fields of `output`.
pub const OUTPUT: &[Field] = &[
    Field::new(
        "limit",
        Kind::Size(Bytes(1)..=Bytes(1 << 50)),
        "Maximum output of an attempt, both streams together",
    )
    .example("100MiB")
    .flag("output-limit", "BYTES"),
    Field::new("on_limit", Kind::words::<OnLimit>(), "What happens beyond the output limit")
        .limits("needs `limit`")
        .default("truncate")
        .example("kill")
        .flag("on-output-limit", "WHAT"),
];

/// How much output of one attempt is kept, and what happens beyond that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputLimit {
    /// Of both streams together.
    pub limit: Bytes,
    /// What happens when there is more.
    pub on_limit: OnLimit,
}

/// What happens to a task that writes more than it may. A marker in its output says how much is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLimit {
    /// It goes on, and what it writes is left out.
    Truncate,
    /// It is killed, and has failed.
    Kill,
}

impl Words for OnLimit {
    const WORDS: &'static [(&'static str, OnLimit, &'static str)] = &[
        ("truncate", OnLimit::Truncate, "further output is dropped"),
        ("kill", OnLimit::Kill, "the task is killed and fails with `output_limit`"),
    ];
}

impl Words for DriverKind {
    const WORDS: &'static [(&'static str, DriverKind, &'static str)] = &[
        ("host", DriverKind::Host, "a process on the worker's machine"),
        ("docker", DriverKind::Docker, "a container"),
        ("scripted", DriverKind::Scripted, ""),
    ];
}

impl TaskSpec {
    /// Whether its tasks wait for others of the job before they wait for a worker.
    pub fn waits_for_others(&self) -> bool {
        !self.depends_on.is_empty() || self.when != When::Success
    }

    /// Whether its tasks clean up after the others: they run even if the job is stopped, unless that is forced.
    pub fn is_cleanup(&self) -> bool {
        self.when == When::Always
    }
}

fn is_zero(number: &u8) -> bool {
    *number == 0
}

/// A task definition that is read but for `depends_on`, which needs the names of all the others.
pub(super) struct Draft<'a> {
    pub spec: TaskSpec,
    /// Where its name stands; none for the task of a job that does not list its tasks.
    pub name: Option<Node<'a>>,
    pub depends_on: Option<Node<'a>>,
    /// Where `when` is written.
    pub when: Option<Node<'a>>,
    /// Where `each` is written.
    pub each: Option<Node<'a>>,
}

/// Reads the fields of a task, but for its name and for those that a job may have, too.
pub(super) fn read<'a>(object: &mut Object<'a>, name: String, kind: JobKind) -> Draft<'a> {
    let (driver, container) = container::driver(object);
    // An image that cannot be used is a mistake already: that its command is not there says nothing more.
    let has_image = container.is_some() || object.has("image");
    let stdin = object.value("stdin");
    let when = object.value("when");
    let restart = restart::read(object, kind.restart_policy(), when);
    if stdin && (restart.policy != RestartPolicy::Never || restart.on_lost == OnLost::Restart) {
        object.field("restart").as_ref().unwrap_or(object.node()).wrong::<()>(
            "a task with `stdin` is not repeated, as what was written to it is not kept: write `restart: never`",
        );
    }
    let ports = match driver {
        DriverKind::Host => object.read("ports", container::host_ports).unwrap_or_default(),
        DriverKind::Docker | DriverKind::Scripted => Vec::new(),
    };
    let (health, readiness) = checks(object, driver, container.as_ref(), &ports);
    let env = object.read("env", program::env).unwrap_or_default();
    let (indices, each) = match kind.follows_workers() {
        true => indices::of_workers(object),
        false => indices::indices(object),
    };
    let spec = TaskSpec {
        health,
        readiness,
        name,
        driver,
        stdin,
        // A container has read its own.
        workdir: if driver == DriverKind::Host { object.read("workdir", container::workdir) } else { None },
        ports,
        nice: object.value("nice"),
        // The stand-in is never seen: where there is no action, a mistake was reported.
        action: program::action(object, has_image).unwrap_or(Action::Script(String::new())),
        container,
        secrets: object
            .read("secrets", |node| secrets::secrets(node, driver, |name| env.contains_key(name)))
            .unwrap_or_default(),
        env,
        depends_on: Vec::new(),
        when,
        indices,
        each,
        resources: reservation::read(object),
        constraints: Vec::new(),
        affinities: Vec::new(),
        spread: object.read("spread", scheduling::spread),
        distinct_workers: object.value("distinct_workers"),
        timeout: object.optional("timeout"),
        output: output(object),
        max_failures: None,
        restart,
        stop: stop::read(object),
    };
    report_choice_of_workers(object, &spec, kind);
    if kind.follows_workers() {
        report_waits(object);
    }
    let [depends_on, when, each] = ["depends_on", "when", "each"].map(|name| object.field(name));
    Draft { spec, name: None, depends_on, when, each }
}

/// Reports what says how to choose among workers where each task has its own.
fn report_choice_of_workers(object: &Object<'_>, spec: &TaskSpec, kind: JobKind) {
    if !spec.is_for_each_worker() {
        return;
    }
    let why = if kind.follows_workers() { "type: system" } else { "each: worker" };
    for (name, is_said) in [("spread", spec.spread.is_some()), ("distinct_workers", spec.distinct_workers)] {
        if let Some(node) = object.field(name).filter(|_| is_said) {
            node.wrong::<()>(format!("`{name}` has no effect with `{why}`: each worker runs one task"));
        }
    }
}

/// Reports what tasks would wait for where workers that join later bring further ones.
fn report_waits(object: &Object<'_>) {
    for name in ["depends_on", "when"] {
        if let Some(node) = object.field(name) {
            node.wrong::<()>(format!(
                "`{name}` is not for `type: system`: its tasks do not wait for each other"
            ));
        }
    }
}

/// Reads `health` and `readiness`.
fn checks(
    object: &Object<'_>,
    driver: DriverKind,
    container: Option<&Container>,
    ports: &[Port],
) -> (Option<HealthCheck>, Option<HealthCheck>) {
    // A mistake was reported: no check belongs there.
    if driver == DriverKind::Scripted {
        return (None, None);
    }
    let ports = container.map_or(ports, |container| &container.ports);
    let shared = container.is_none_or(Container::shares_network);
    let read = |name| health::read(object, name, ports, shared);
    (read("health"), read("readiness"))
}

/// Without a limit, what happens beyond it says nothing, and is a mistake.
fn output(task: &Object<'_>) -> Option<OutputLimit> {
    let object = task.nested("output")?;
    let limit = object.optional("limit");
    let on_limit = object.value("on_limit");
    if let Some(node) = object.field("on_limit").filter(|_| !object.has("limit")) {
        node.wrong::<()>("`on_limit` needs a `limit`");
    }
    object.finish();
    Some(OutputLimit { limit: limit?, on_limit })
}
