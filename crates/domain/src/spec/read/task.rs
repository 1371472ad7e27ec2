//! Reads one task definition.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::fields::{Node, Object};
use super::program::{MAX_ARGUMENT_BYTES, arguments};
use super::{BELONGS_TO_THE_JOB, IS_NOT_YET, JOB_FIELDS, NOT_YET, container, is_plain_name, scheduling};
use crate::document::{Data, Value};
use crate::quantity::{Bytes, Span, shown};
use crate::spec::{
    Action, Backoff, DriverKind, Indices, JobKind, MAX_TASKS_PER_JOB, OnLimit, OnLost, OutputLimit, Restart,
    RestartPolicy, StopSignal, StopSpec, TaskSpec,
};
use crate::text;

/// The fields of a task, except its name.
pub(super) const FIELDS: &[&str] = &[
    "driver",
    "command",
    "script",
    "workdir",
    "stdin",
    "env",
    "depends_on",
    "count",
    "array",
    "resources",
    "spread",
    "distinct_workers",
    "timeout",
    "output",
    "restart",
    "stop",
    // Of its container.
    "image",
    "pull",
    "entrypoint",
    "user",
    "pids_limit",
    "ports",
    "volumes",
    "tmpfs",
    "network",
    "capabilities",
    "gpus",
];
/// The name of the task of a job that does not list its tasks.
pub(super) const ONLY_NAME: &str = "main";

const MAX_NAME_LEN: usize = 63;
const MAX_ENV_BYTES: usize = 256 * 1024;
const MAX_SCRIPT_BYTES: usize = 512 * 1024;
const MAX_ARRAY_INDEX: u32 = 1_000_000;
const MAX_RESTARTS: u32 = 1_000_000;

const OUTPUT_LIMITS: RangeInclusive<Bytes> = Bytes(1)..=Bytes(1 << 50);
const AN_HOUR: Span = Span::from_secs(60 * 60);
const A_YEAR: Span = Span::from_secs(365 * 24 * 60 * 60);
const TIMEOUTS: RangeInclusive<Span> = Span::from_millis(100)..=A_YEAR;
const RESTART_WINDOWS: RangeInclusive<Span> = Span::from_secs(1)..=A_YEAR;
const UP_TO_AN_HOUR: RangeInclusive<Span> = Span::from_millis(0)..=AN_HOUR;
const DEFAULT_DELAY: Span = Span::from_secs(1);
const DEFAULT_STOP: StopSpec = StopSpec { signal: StopSignal::Sigterm, grace: Span::from_secs(10) };

const DEFAULT_LIMIT: u32 = 3;
/// A service may fail now and then for ever, but not this often in this time.
const DEFAULT_ALWAYS_LIMIT: u32 = 5;
const DEFAULT_ALWAYS_WINDOW: Span = Span::from_secs(10 * 60);

const POLICIES: &[(&str, RestartPolicy)] = &[
    ("never", RestartPolicy::Never),
    ("on-failure", RestartPolicy::OnFailure),
    ("always", RestartPolicy::Always),
];
const BACKOFFS: &[(&str, Backoff)] =
    &[("constant", Backoff::Constant), ("exponential", Backoff::Exponential)];
const ON_LIMIT: &[(&str, OnLimit)] = &[("truncate", OnLimit::Truncate), ("kill", OnLimit::Kill)];
const ON_LOST: &[(&str, OnLost)] = &[("restart", OnLost::Restart), ("fail", OnLost::Fail)];

/// A task definition that is read but for `depends_on`, which needs the names of all the others.
pub(super) struct Draft<'a> {
    pub spec: TaskSpec,
    /// Where its name stands; none for the task of a job that does not list its tasks.
    pub name: Option<Node<'a>>,
    pub depends_on: Option<Node<'a>>,
}

/// Reads a member of `tasks`.
pub(super) fn read<'a>(node: &Node<'a>, kind: JobKind) -> Option<Draft<'a>> {
    let mut object = node.object("a task: an object with a `name`, and a `command` or a `script`")?;
    let name_node = object.field("name");
    let name = match &name_node {
        Some(node) => name(node),
        None => node.wrong("a task in a list of tasks needs a `name`"),
    };
    object.refuse(NOT_YET, IS_NOT_YET);
    object.refuse(JOB_FIELDS, BELONGS_TO_THE_JOB);
    let mut draft = read_fields(&mut object, name.unwrap_or_default(), kind);
    // These the job may have, too, so that the fields of its only task do not include them.
    draft.spec.constraints = object.read("constraints", scheduling::constraints).unwrap_or_default();
    draft.spec.affinities = object.read("affinities", scheduling::affinities).unwrap_or_default();
    object.finish();
    Some(Draft { name: name_node, ..draft })
}

/// Reads the [`FIELDS`].
pub(super) fn read_fields<'a>(object: &mut Object<'a>, name: String, kind: JobKind) -> Draft<'a> {
    let (driver, container) = container::driver(object);
    // An image that cannot be used is a mistake already: that its command is not there says nothing more.
    let has_image = container.is_some() || object.has("image");
    let stdin = object.read("stdin", scheduling::yes_or_no).unwrap_or_default();
    let restart_node = object.field("restart");
    let restart = restart_node.as_ref().and_then(restart).unwrap_or_default().complete(kind);
    if stdin && (restart.policy != RestartPolicy::Never || restart.on_lost == OnLost::Restart) {
        restart_node.as_ref().unwrap_or(object.node()).wrong::<()>(
            "a task with `stdin` is not repeated, as what was written to it is not kept: write `restart: never`",
        );
    }
    let spec = TaskSpec {
        name,
        driver,
        stdin,
        // A container has read its own.
        workdir: if driver == DriverKind::Host { object.read("workdir", container::workdir) } else { None },
        // The stand-in is never seen: where there is no action, a mistake was reported.
        action: action(object, has_image).unwrap_or(Action::Script(String::new())),
        container,
        env: object.read("env", env).unwrap_or_default(),
        depends_on: Vec::new(),
        indices: indices(object),
        resources: object
            .read("resources", scheduling::resources)
            .unwrap_or_else(scheduling::default_reservation),
        constraints: Vec::new(),
        affinities: Vec::new(),
        spread: object.read("spread", scheduling::spread),
        distinct_workers: object.read("distinct_workers", scheduling::yes_or_no).unwrap_or_default(),
        timeout: object.read("timeout", |node| node.amount("a time", TIMEOUTS)),
        output: object.read("output", output).flatten(),
        restart,
        stop: object.read("stop", stop).unwrap_or(DEFAULT_STOP),
    };
    Draft { spec, name: None, depends_on: object.field("depends_on") }
}

fn name(node: &Node) -> Option<String> {
    let name = node.text("the name of the task")?;
    if !is_plain_name(name, MAX_NAME_LEN, "_-") {
        return node.wrong(format!(
            "{} cannot be the name of a task: write 1 to {MAX_NAME_LEN} of the characters a-z A-Z 0-9 _ - \
             and begin with a letter or digit",
            shown(name)
        ));
    }
    Some(name.to_owned())
}

/// An image may have a command of its own.
fn action(object: &mut Object, has_image: bool) -> Option<Action> {
    match (object.field("command"), object.field("script")) {
        (Some(node), None) if has_image && is_empty_list(node.value) => Some(Action::Command(Vec::new())),
        (Some(node), None) => command(&node).map(Action::Command),
        (None, Some(node)) => script(&node).map(Action::Script),
        (Some(_), Some(node)) => node.wrong("a task has a `command` or a `script`, not both"),
        (None, None) if has_image => Some(Action::Command(Vec::new())),
        (None, None) => object.node().wrong("a task needs a `command` or a `script`"),
    }
}

fn is_empty_list(value: &Value) -> bool {
    matches!(&value.data, Data::List(items) if items.is_empty())
}

fn command(node: &Node) -> Option<Vec<String>> {
    let advice = r#"write a list such as ["echo", "hello"], or a `script` for a line of shell"#;
    arguments(node, "command", advice)
}

fn script(node: &Node) -> Option<String> {
    let script = text::script(node.text("the text of a script")?);
    let bytes = script.len();
    if script.trim().is_empty() {
        node.wrong("the script is empty")
    } else if bytes > MAX_SCRIPT_BYTES {
        node.wrong(format!("the script has {bytes} bytes, more than the {MAX_SCRIPT_BYTES} that are allowed"))
    } else if script.contains('\0') {
        node.wrong("a script cannot have a zero byte in it")
    } else {
        Some(script.into_owned())
    }
}

fn env(node: &Node) -> Option<BTreeMap<String, String>> {
    let entries = node.entries("an object of variables such as {MODE: full}")?;
    let env: BTreeMap<_, _> =
        entries.filter_map(|(name, node)| Some((name.to_owned(), variable(name, &node)?))).collect();
    let bytes: usize = env.iter().map(|(name, value)| variable_bytes(name, value)).sum();
    if bytes > MAX_ENV_BYTES {
        return node.wrong(format!(
            "the variables have {bytes} bytes, more than the {MAX_ENV_BYTES} that are allowed"
        ));
    }
    Some(env)
}

fn variable(name: &str, node: &Node) -> Option<String> {
    // What the kernel takes; images rely on it with names such as `discovery.type`.
    if name.is_empty() || name.contains(['=', '\0']) {
        return node.wrong(format!(
            "{} cannot be the name of a variable: it has at least one character, no = and no zero byte",
            shown(name)
        ));
    }
    if name.starts_with("GAFFER_") {
        return node.wrong(format!("{} is reserved: gaffer itself sets the names in GAFFER_", shown(name)));
    }
    let value = node.text("a text")?;
    let bytes = variable_bytes(name, value);
    if bytes > MAX_ARGUMENT_BYTES {
        node.wrong(format!(
            "the variable has {bytes} bytes, more than the {MAX_ARGUMENT_BYTES} that are allowed"
        ))
    } else if value.contains('\0') {
        node.wrong("a variable cannot have a zero byte in it")
    } else {
        Some(value.to_owned())
    }
}

/// The size that a variable has in the memory of a process: `NAME=value` and a zero byte.
fn variable_bytes(name: &str, value: &str) -> usize {
    name.len() + 1 + value.len() + 1
}

fn indices(object: &mut Object) -> Indices {
    let count = object.field("count");
    let array = object.field("array");
    let indices = match (count, array) {
        (Some(count), None) => count.integer(1..=MAX_TASKS_PER_JOB).map(Indices::Count),
        (None, Some(node)) => array_range(&node),
        (Some(_), Some(node)) => node.wrong("a task has a `count` or an `array`, not both"),
        (None, None) => None,
    };
    indices.unwrap_or(Indices::Count(1))
}

fn array_range(node: &Node) -> Option<Indices> {
    let what = r#"a range of indices such as "0-99""#;
    if let Some(number) = node.value.as_u64().filter(|_| !node.value.is_text()) {
        // `array: 5` could mean five tasks or the index 5: the user knows which.
        return node.wrong_with(format!("expected {what}, found {number}"), || {
            Some(format!(
                r#"write `count: {number}` for {number} tasks, or `array: "{number}"` for that one index"#
            ))
        });
    }
    let text = node.text(what)?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Some(first), Some(last)) = (index(first), index(last)) else {
        return node.wrong(format!("expected {what}, found {}", shown(text)));
    };
    if last > MAX_ARRAY_INDEX {
        node.wrong(format!("the last index is {last}, more than the {MAX_ARRAY_INDEX} that is allowed"))
    } else if first > last {
        node.wrong_with(format!("the range goes down, from {first} to {last}"), || {
            Some(format!(r#"did you mean "{last}-{first}"?"#))
        })
    } else if last - first >= MAX_TASKS_PER_JOB {
        let count = last - first + 1;
        node.wrong(format!("{count} tasks are more than the {MAX_TASKS_PER_JOB} that one job may have"))
    } else {
        Some(Indices::Array { first, last })
    }
}

/// One end of a range: digits only.
fn index(text: &str) -> Option<u32> {
    let text = text.trim();
    if text.starts_with('+') { None } else { text.parse().ok() }
}

/// Without a limit, what happens beyond it says nothing, and is a mistake.
fn output(node: &Node) -> Option<Option<OutputLimit>> {
    let mut object = node.object("an object such as {limit: 100MiB, on_limit: truncate}")?;
    let limit = object.read("limit", |node| node.amount("a size", OUTPUT_LIMITS));
    let has_limit = object.has("limit");
    let on_limit = object.read("on_limit", |node| match has_limit {
        true => node.word(ON_LIMIT),
        false => node.wrong("`on_limit` needs a `limit`"),
    });
    object.finish();
    Some(limit.map(|limit| OutputLimit { limit, on_limit: on_limit.unwrap_or(OnLimit::Truncate) }))
}

/// What the user wrote about restarts; the defaults of some fields depend on others.
#[derive(Default)]
struct Wishes {
    policy: Option<RestartPolicy>,
    limit: Option<u32>,
    within: Option<Span>,
    delay: Option<Span>,
    backoff: Option<Backoff>,
    on_lost: Option<OnLost>,
}

/// Reads `restart`: a word for the policy alone, or an object.
fn restart(node: &Node) -> Option<Wishes> {
    if node.value.is_text() {
        return Some(Wishes { policy: node.word(POLICIES), ..Wishes::default() });
    }
    let mut object =
        node.object("a word such as `on-failure`, or an object such as {policy: on-failure, limit: 3}")?;
    let wishes = Wishes {
        policy: object.read("policy", |node| node.word(POLICIES)),
        limit: object.read("limit", |node| node.integer(0..=MAX_RESTARTS)),
        within: object.read("within", |node| node.amount("a time", RESTART_WINDOWS)),
        delay: object.read("delay", |node| node.amount("a time", UP_TO_AN_HOUR)),
        backoff: object.read("backoff", |node| node.word(BACKOFFS)),
        on_lost: object.read("on_lost", |node| node.word(ON_LOST)),
    };
    object.finish();
    Some(wishes)
}

impl Wishes {
    fn complete(self, kind: JobKind) -> Restart {
        let policy = self.policy.unwrap_or(match kind {
            JobKind::Batch => RestartPolicy::Never,
            JobKind::Service => RestartPolicy::Always,
        });
        let on_lost = self.on_lost.unwrap_or(match policy {
            RestartPolicy::Never => OnLost::Fail,
            RestartPolicy::OnFailure | RestartPolicy::Always => OnLost::Restart,
        });
        let is_unbounded = self.limit.is_none() && self.within.is_none();
        let (default_limit, default_within) = match (policy, on_lost) {
            (RestartPolicy::Never, OnLost::Fail) => (0, None),
            (RestartPolicy::Always, _) if is_unbounded => (DEFAULT_ALWAYS_LIMIT, Some(DEFAULT_ALWAYS_WINDOW)),
            (RestartPolicy::Always, _) => (DEFAULT_ALWAYS_LIMIT, None),
            _ => (DEFAULT_LIMIT, None),
        };
        Restart {
            policy,
            limit: self.limit.unwrap_or(default_limit),
            within: self.within.or(default_within),
            delay: self.delay.unwrap_or(DEFAULT_DELAY),
            backoff: self.backoff.unwrap_or(Backoff::Exponential),
            on_lost,
        }
    }
}

fn stop(node: &Node) -> Option<StopSpec> {
    let mut object = node.object("an object such as {signal: SIGTERM, grace: 10s}")?;
    let stop = StopSpec {
        signal: object.read("signal", signal).unwrap_or(DEFAULT_STOP.signal),
        grace: object
            .read("grace", |node| node.amount("a time", UP_TO_AN_HOUR))
            .unwrap_or(DEFAULT_STOP.grace),
    };
    object.finish();
    Some(stop)
}

fn signal(node: &Node) -> Option<StopSignal> {
    let name = node.text("the name of a signal such as SIGTERM")?;
    match name.parse::<StopSignal>() {
        Ok(signal) => Some(signal),
        Err(why) => node.wrong(why.to_string()),
    }
}
