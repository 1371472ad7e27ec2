//! The secrets that a task uses, and how each reaches it.

use serde::{Deserialize, Serialize};

use super::driver::DriverKind;
use super::field::{Field, Kind, Most};
use super::job::JobSpec;
use super::node::{Node, Object};
use crate::quantity::shown;
use crate::secrets::{MAX_NAME_BYTES, MAX_USES, wrong_name};

/// A secret of the project that a task uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredUse", into = "StoredUse")]
pub struct SecretUse {
    /// Its name, and that of the variable that has its value.
    pub name: String,
    /// The file that has its value instead: an absolute path in the container, or a path below the directory that
    /// `GAFFER_SECRETS_DIR` names.
    pub file: Option<String>,
}

/// A use as it is stored: its name alone, if it is a variable.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredUse {
    Name(String),
    Full {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<String>,
    },
}

impl From<StoredUse> for SecretUse {
    fn from(stored: StoredUse) -> SecretUse {
        match stored {
            StoredUse::Name(name) => SecretUse { name, file: None },
            StoredUse::Full { name, file } => SecretUse { name, file },
        }
    }
}

impl From<SecretUse> for StoredUse {
    fn from(SecretUse { name, file }: SecretUse) -> StoredUse {
        match file {
            None => StoredUse::Name(name),
            file => StoredUse::Full { name, file },
        }
    }
}

const MAX_PATH_BYTES: usize = 255;

/// `secrets`
pub(super) const SECRETS: Field = Field::new(
    "secrets",
    Kind::List { noun: "secrets", max: MAX_USES, item: &Kind::WordOr { word: "name", fields: &[SECRET] } },
    "Secrets of the project for the task",
)
.details(
    "A name alone is an environment variable with the value. With `file`, the value is in a file below the directory of \
     GAFFER_SECRETS_DIR, or at an absolute path in a container. The output shows `***` instead of values.",
)
.limits("secrets that exist; 256 KiB in all")
.example("[DB_PASSWORD, {name: TLS_KEY, file: tls.key}]")
.only(&[DriverKind::Host, DriverKind::Docker])
.flag("secret", "NAME");

/// The fields of a member of `secrets`.
pub const SECRET: &[Field] = &[
    Field::new(
        "name",
        Kind::Text {
            what: "the name of a secret",
            pattern: "^[A-Za-z_][A-Za-z0-9_]*$",
            most: Most::Bytes(MAX_NAME_BYTES),
        },
        "Name of the secret",
    )
    .required()
    .example("TLS_KEY"),
    Field::new(
        "file",
        Kind::Text { what: "a path", pattern: "^[^\\u0000]+$", most: Most::Bytes(MAX_PATH_BYTES) },
        "File that has the value, instead of a variable",
    )
    .limits("without `.` and `..`; absolute only in a container")
    .otherwise("none: a variable")
    .example("tls.key"),
];

/// Reads `secrets`. `has_variable`: whether `env` has a variable of that name.
pub(super) fn secrets(
    node: &Node<'_>,
    driver: DriverKind,
    has_variable: impl Fn(&str) -> bool,
) -> Option<Vec<SecretUse>> {
    let mut uses: Vec<SecretUse> = Vec::new();
    for node in node.list()? {
        let Some(used) = read(&node, driver) else { continue };
        if used.file.is_none() && has_variable(&used.name) {
            node.wrong::<()>(format!("{} is a variable of `env` as well: leave one of them out", used.name));
        } else if uses.iter().any(|other| other.file.is_none() && *other == used) {
            node.wrong::<()>(format!("{} is in the list twice", used.name));
        } else if let Some(other) = uses.iter().find(|other| clash(other, &used)) {
            node.wrong::<()>(format!(
                "{} and {} have files in each other's place: write another path for one of them",
                other.name, used.name
            ));
        } else {
            uses.push(used);
        }
    }
    Some(uses)
}

/// Whether two files are the same, or one of them is a directory of the other.
fn clash(one: &SecretUse, other: &SecretUse) -> bool {
    let (Some(one), Some(other)) = (&one.file, &other.file) else { return false };
    let is_above =
        |above: &str, path: &str| path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'));
    one == other || is_above(one, other) || is_above(other, one)
}

fn read(node: &Node<'_>, driver: DriverKind) -> Option<SecretUse> {
    if node.value.as_text().is_some() {
        let name = name(node)?;
        return Some(SecretUse { name, file: None });
    }
    let object: Object<'_> =
        node.object("the name of a secret, or an object with `name` and `file`", &[SECRET])?;
    let name = match object.field("name") {
        Some(node) => name(&node),
        None => node.wrong("a secret needs a `name`"),
    };
    let file = object.read("file", |node| path(node, driver));
    let is_mistaken = object.has("file") && file.is_none();
    object.finish();
    Some(SecretUse { name: name?, file }).filter(|_| !is_mistaken)
}

fn name(node: &Node<'_>) -> Option<String> {
    let name = node.text("the name of a secret")?;
    match wrong_name(name) {
        Some(why) => node.wrong(why),
        None => Some(name.to_owned()),
    }
}

fn path(node: &Node<'_>, driver: DriverKind) -> Option<String> {
    let path = node.own_text()?;
    let (is_absolute, inner) = match path.strip_prefix('/') {
        Some(inner) => (true, inner),
        None => (false, path),
    };
    if is_absolute && driver != DriverKind::Docker {
        return node.wrong(format!(
            "{} is an absolute path, which only a container can have: write one below $GAFFER_SECRETS_DIR",
            shown(path)
        ));
    }
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    let is_plain = !inner.contains(['\0', '\n', '\r']) && inner.split('/').all(is_part);
    if path.len() > MAX_PATH_BYTES || !is_plain {
        return node.wrong(format!(
            "{} is not a path without `.`, `..`, empty parts and line ends, of at most {MAX_PATH_BYTES} bytes",
            shown(path)
        ));
    }
    Some(path.to_owned())
}

/// A place in a specification that names a secret which does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownSecret {
    /// Its name.
    pub name: String,
    /// Position of the task definition.
    pub task: usize,
    /// Position in its list.
    pub place: usize,
}

/// Every use of a secret that is not among these names.
pub fn unknown_secrets(spec: &JobSpec, exists: impl Fn(&str) -> bool) -> Vec<UnknownSecret> {
    let mut unknown = Vec::new();
    for (task, definition) in spec.tasks.iter().enumerate() {
        for (place, used) in definition.secrets.iter().enumerate() {
            if !exists(&used.name) {
                unknown.push(UnknownSecret { name: used.name.clone(), task, place });
            }
        }
    }
    unknown
}

/// The names of the secrets that a task uses, each once, in order.
pub fn secret_names(uses: &[SecretUse]) -> Vec<&str> {
    let mut names: Vec<&str> = uses.iter().map(|used| used.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Why an attempt cannot start: these secrets of its task do not exist. One sentence without a full stop.
pub fn missing_secrets(names: &[&str]) -> String {
    let (noun, verb, pronoun) = match names {
        [_] => ("secret", "does", "it"),
        _ => ("secrets", "do", "them"),
    };
    format!(
        "the {noun} {} {verb} not exist; set {pronoun} with `gaffer secrets set NAME < FILE` and run the job again",
        names.join(", ")
    )
}
