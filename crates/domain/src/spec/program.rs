//! What a task executes, and with which environment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::field::{Field, Kind, Most};
use super::node::{Node, Object};
use crate::document::{Data, Value};
use crate::parameters::Code;
use crate::quantity::shown;
use crate::text;

/// A command (argument vector) or a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Program and arguments; never through a shell. Only a container's may be empty (then the image's own command
    /// runs), and the program is not an empty string.
    Command(Vec<String>),
    /// Text run by the interpreter that its `#!` line names, else by `/bin/sh`.
    Script(String),
}

/// What Linux allows for one argument or variable with the zero byte that ends it (`MAX_ARG_STRLEN`).
const MAX_ARGUMENT_BYTES: usize = 128 * 1024;
/// All arguments of one command together, so that an environment fits beside them.
pub(super) const MAX_COMMAND_BYTES: usize = MAX_ARGUMENT_BYTES;
const MAX_ENV_BYTES: usize = 256 * 1024;
const MAX_SCRIPT_BYTES: usize = 512 * 1024;

/// `command`
pub(super) const COMMAND: Field =
    Field::new("command", Kind::Arguments(MAX_COMMAND_BYTES), "Program and its arguments, without a shell")
        .not_with(&["script"])
        .example("[make, -j4]");
/// `script`
pub(super) const SCRIPT: Field = Field::new(
    "script",
    Kind::Text { what: "the text of a script", pattern: "\\S", most: Most::Bytes(MAX_SCRIPT_BYTES) },
    "Script to run instead of a command",
)
.details("The interpreter is that of its `#!` line, else `/bin/sh`.")
.not_with(&["command"])
.code(Code::Script)
.example("echo hello");
/// `env`
pub(super) const ENV: Field = Field::new(
    "env",
    Kind::Map {
        noun: "variables",
        max: usize::MAX,
        key: &Kind::Text { what: "a name", pattern: "^[^=\\u0000]+$", most: Most::Any },
        value: &Kind::text("a text", Most::Bytes(MAX_ARGUMENT_BYTES)),
    },
    "Environment variables",
)
.limits("256 KiB in all; names without `=`, not beginning with `GAFFER_`")
.example("{MODE: full}")
.short_flag('e', "env", "NAME[=VALUE]")
.on_page("Environment");

/// Reads `command` or `script`; an image may have its own command.
pub(super) fn action(object: &Object<'_>, has_image: bool) -> Option<Action> {
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

fn command(node: &Node<'_>) -> Option<Vec<String>> {
    let advice = r#"write a list such as ["echo", "hello"], or a `script` for a line of shell"#;
    arguments(node, "command", advice)
}

/// A program and its arguments; `advice` is for those who write them as one string.
pub(super) fn arguments(node: &Node<'_>, noun: &str, advice: &str) -> Option<Vec<String>> {
    if node.value.is_text() {
        return node.wrong_with("expected a list of strings, found a string", || Some(advice.to_owned()));
    }
    // Collected twice, so that the mistakes in all arguments are found.
    let arguments: Vec<_> = node.list()?.map(|node| argument(&node)).collect();
    let arguments: Vec<String> = arguments.into_iter().collect::<Option<_>>()?;
    let bytes: usize = arguments.iter().map(|argument| argument.len() + 1).sum();
    if bytes > MAX_COMMAND_BYTES {
        return node.wrong(format!(
            "the {noun} has {bytes} bytes, more than the {MAX_COMMAND_BYTES} that are allowed"
        ));
    }
    match arguments.first() {
        None => node.wrong(format!("the {noun} is empty: it needs at least a program")),
        Some(program) if program.is_empty() => {
            node.wrong(format!("the program, the first of the {noun}, is empty"))
        }
        Some(_) => Some(arguments),
    }
}

fn argument(node: &Node<'_>) -> Option<String> {
    let argument = node.text("a string")?;
    if argument.contains('\0') {
        return node.wrong("an argument cannot have a zero byte in it");
    }
    Some(argument.to_owned())
}

fn script(node: &Node<'_>) -> Option<String> {
    let script = text::script(node.own_text()?);
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

/// Reads `env`.
pub(super) fn env(node: &Node<'_>) -> Option<BTreeMap<String, String>> {
    let entries = node.entries()?;
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

fn variable(name: &str, node: &Node<'_>) -> Option<String> {
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
