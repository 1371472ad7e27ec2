//! The container of a task whose driver is `docker`: what it runs, what it may reach, and what keeps it in.

mod bindings;
mod capabilities;
mod image;
mod ports;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use self::bindings::is_plain_path;
pub use self::bindings::{InvalidPort, InvalidVolume, MAX_PORT_NAME_LEN, Port, PortProtocol, Volume};
pub(super) use self::image::repository;
pub(super) use self::ports::host_ports;
use super::driver::DriverKind;
use super::field::{Field, Kind, Most, Words};
use super::node::{FieldValue, Node, Object};
use super::program::{MAX_COMMAND_BYTES, arguments};
use crate::document::Value;
use crate::quantity::{Bytes, shown};

/// What a container is made from. The task's command, environment and resources come on top: its memory is a hard
/// limit (0: none), and so are its processors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The image as people write it: `busybox`, `registry.lab:5000/tools/train:v3`, `busybox@sha256:…`.
    pub image: String,
    /// When the image is fetched from its registry.
    pub pull: PullPolicy,
    /// Takes the place of the image's own entry point; the command becomes its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// `user`, `user:group` or their numbers; none means as the image says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// An absolute path; none means as the image says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// The most processes and threads that it may have at once.
    pub pids_limit: u32,
    /// Ports that are reachable from outside of the worker, with and without a name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Directories of the worker's machine; only below those that its operator allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Absolute paths in the container that are kept in memory, with their sizes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tmpfs: BTreeMap<String, Bytes>,
    /// What it is connected to.
    pub network: Network,
    /// Capabilities by name, in capitals and without `CAP_`: all others are dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// The graphics processors that it sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Gpus>,
}

impl Container {
    /// Whether it has the network of its worker, so that what it listens on is a port of the worker.
    pub fn shares_network(&self) -> bool {
        self.network == Network::Host
    }
}

/// The drivers whose tasks have a container.
const ONLY: &[DriverKind] = &[DriverKind::Docker];
/// The longest path that Linux takes, with the zero byte that ends it.
pub(super) const MAX_WORKDIR_BYTES: usize = 4095;
const MAX_USER_LEN: usize = 128;
const MAX_TMPFS: usize = 16;
const VOLUME: Kind = Kind::Text { what: "a text", pattern: "^/[^:]*:/[^:]+(:(ro|rw))?$", most: Most::Any };
const TMPFS_SIZE: Kind = Kind::Size(Bytes(4 << 10)..=Bytes(1 << 40));

/// The fields that only a task in a container has; `workdir` is one of every task.
pub const CONTAINER: &[Field] = &[
    Field::new(
        "image",
        Kind::Text {
            what: "the name of an image such as busybox:1.36",
            pattern: "^[A-Za-z0-9][A-Za-z0-9._/:@-]*$",
            most: Most::Bytes(image::MAX_IMAGE_LEN),
        },
        "Run in a container of this image",
    )
    .details("Without a command, the image's own runs.")
    .limits("such as `registry.lab:5000/train@sha256:…`")
    .otherwise("none: the task is a process on its worker's machine")
    .example("busybox:1.36")
    .only(ONLY)
    .flag("image", "IMAGE")
    .on_page("Image"),
    Field::new("pull", Kind::words::<PullPolicy>(), "When the worker fetches the image")
        .default("missing")
        .example("always")
        .only(ONLY)
        .flag("pull", "WHEN"),
    Field::new("entrypoint", Kind::Arguments(MAX_COMMAND_BYTES), "Replace the entry point of the image")
        .not_with(&["script"])
        .otherwise("the image's")
        .example("[/bin/entry, -x]")
        .only(ONLY)
        .flag("entrypoint", "CMD"),
    Field::new(
        "user",
        Kind::Text {
            what: "the name of a user",
            pattern: "^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$",
            most: Most::Bytes(MAX_USER_LEN),
        },
        "User of the container, with a group after a colon",
    )
    .limits("names or numbers")
    .otherwise("the image's")
    .example("www-data:33")
    .only(ONLY)
    .flag("user", "USER[:GROUP]"),
    Field::new("pids_limit", Kind::Whole(1..=1_000_000), "Maximum number of processes and threads")
        .default("4096")
        .example("100")
        .only(ONLY),
    Field::new(
        "volumes",
        Kind::List { noun: "volumes", max: 32, item: &VOLUME },
        "Directories of the worker to mount",
    )
    .limits("below the directories of `GAFFER_VOLUME_ROOTS`")
    .example(r#"["/data:/data:ro"]"#)
    .only(ONLY)
    .short_flag('v', "volume", "SOURCE:TARGET[:ro]"),
    Field::new(
        "tmpfs",
        Kind::Map {
            noun: "paths and sizes",
            max: MAX_TMPFS,
            key: &Kind::Text { what: "a path", pattern: "^/.", most: Most::Any },
            value: &TMPFS_SIZE,
        },
        "Directories to keep in memory, with their sizes",
    )
    .example("{/scratch: 64MiB}")
    .only(ONLY),
    Field::new("network", Kind::words::<Network>(), "Network of the container")
        .limits("`host` needs `GAFFER_DOCKER_HOST_NETWORK=true`")
        .default("bridge")
        .example("none")
        .only(ONLY)
        .flag("network", "NETWORK"),
    Field::new(
        "capabilities",
        Kind::List {
            noun: "capabilities",
            max: usize::MAX,
            item: &Kind::text("the name of a capability such as NET_ADMIN", Most::Any),
        },
        "Linux capabilities to add",
    )
    .limits("those of `GAFFER_DOCKER_CAPABILITIES`")
    .example("[NET_ADMIN]")
    .only(ONLY)
    .flag("cap-add", "NAME"),
    Field::new("gpus", Kind::AllOr(1..=64), "GPUs that the container sees")
        .otherwise("none")
        .example("2")
        .only(ONLY)
        .flag("gpus", "N"),
];

/// When an image is fetched from its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// When the worker does not have it.
    Missing,
    /// Before each start.
    Always,
    /// Not at all: it must be there.
    Never,
}

/// What a container is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// A private network with NAT.
    Bridge,
    /// Nothing.
    None,
    /// The machine's own network; only where the worker's operator allows it.
    Host,
}

impl Words for PullPolicy {
    const WORDS: &'static [(&'static str, PullPolicy, &'static str)] = &[
        ("missing", PullPolicy::Missing, "if the worker does not have it"),
        ("always", PullPolicy::Always, "before each start"),
        ("never", PullPolicy::Never, "the worker must already have it"),
    ];
}

impl Words for Network {
    const WORDS: &'static [(&'static str, Network, &'static str)] = &[
        ("bridge", Network::Bridge, "a private network with NAT"),
        ("none", Network::None, "no network"),
        ("host", Network::Host, "the network of the machine"),
    ];
}

/// The graphics processors of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gpus {
    /// All that the machine has.
    All,
    /// So many; at least 1.
    #[serde(untagged)]
    Count(u32),
}

/// What is said of a container's field where there is no container.
const BELONGS_TO_A_CONTAINER: &str = "belongs to a container: write `driver: docker` and an `image`";
const NOT_FOR_A_PLAY: &str = "is not allowed for a scripted task, which runs no program";
const NOT_FOR_A_CONTAINER: &str = "is for tasks on the host only: leave it out, or leave out the `image`";
/// What is said of an image beside another driver.
const CONFLICTS_WITH_THE_DRIVER: &str =
    "conflicts with the `driver`: write `driver: docker`, or leave the image out";

/// Reads the driver of a task, and its container if that is docker. An image alone means docker.
pub(super) fn driver(object: &mut Object<'_>) -> (DriverKind, Option<Container>) {
    let kind = match object.field("driver") {
        Some(_) => object.optional("driver"),
        None if object.has("image") => Some(DriverKind::Docker),
        None => Some(DriverKind::Host),
    };
    // Which driver was meant nobody knows, so nothing is said of its fields.
    let Some(kind) = kind else { return (DriverKind::Host, None) };
    object.refuse_other_drivers(kind, |field| match kind {
        _ if field.name == "image" => CONFLICTS_WITH_THE_DRIVER,
        _ if field.is_of_containers() => BELONGS_TO_A_CONTAINER,
        DriverKind::Scripted => NOT_FOR_A_PLAY,
        DriverKind::Host | DriverKind::Docker => NOT_FOR_A_CONTAINER,
    });
    (kind, (kind == DriverKind::Docker).then(|| container(object)))
}

fn container(object: &Object<'_>) -> Container {
    let image = match object.field("image") {
        Some(node) => image::image(&node),
        None => object.node().wrong("a container needs an `image`"),
    };
    let network = object.value("network");
    let volumes = object.read("volumes", volumes).unwrap_or_default();
    Container {
        pull: object.value("pull"),
        entrypoint: entrypoint(object),
        user: object.read("user", user),
        workdir: object.read("workdir", workdir),
        pids_limit: object.value("pids_limit"),
        ports: object.read("ports", |node| ports::container_ports(node, network)).unwrap_or_default(),
        tmpfs: object.read("tmpfs", |node| tmpfs(node, &volumes)).unwrap_or_default(),
        volumes,
        network,
        capabilities: object.read("capabilities", capabilities::capabilities).unwrap_or_default(),
        gpus: object.read("gpus", gpus),
        // The stand-in is never seen: where there is no image, a mistake was reported.
        image: image.unwrap_or_default(),
    }
}

fn entrypoint(object: &Object<'_>) -> Option<Vec<String>> {
    let node = object.field("entrypoint")?;
    if object.has("script") {
        return node
            .wrong("a script takes the place of the entry point: write a `command` instead of the script");
    }
    arguments(&node, "entry point", r#"write a list such as ["/bin/entry", "-x"]"#)
}

fn user(node: &Node<'_>) -> Option<String> {
    let user = node.own_text()?;
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    };
    let (name, group) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
    if user.len() > MAX_USER_LEN || !is_name(name) || !group.is_none_or(is_name) {
        return node.wrong(format!(
            "{} cannot be a user: write a name or a number, and a group after a colon if need be",
            shown(user)
        ));
    }
    Some(user.to_owned())
}

/// Reads the directory in which a task runs, on the host or in its container.
pub(super) fn workdir(node: &Node<'_>) -> Option<String> {
    let path = node.own_text()?;
    if path.len() > MAX_WORKDIR_BYTES || path.contains('\0') {
        return node.wrong(format!(
            "the path has more than the {MAX_WORKDIR_BYTES} bytes that are allowed, or a zero byte in it"
        ));
    }
    if !path.starts_with('/') {
        let suggest = || {
            let is_home = path == "~" || path.starts_with("~/");
            is_home.then(|| "a home directory is written out, as in /home/ana: `~` is for shells".to_owned())
        };
        return node
            .wrong_with(format!("{} is not an absolute path: it begins with /", shown(path)), suggest);
    }
    Some(path.to_owned())
}

fn plain_path(node: &Node<'_>, path: &str) -> Option<String> {
    if is_plain_path(path) {
        return Some(path.to_owned());
    }
    let without_slashes = path.trim_end_matches('/');
    let suggest = || {
        let is_all = path.len() > without_slashes.len() && is_plain_path(without_slashes);
        is_all.then(|| format!("write {} without a slash at the end", shown(without_slashes)))
    };
    node.wrong_with(
        format!("{} is not an absolute path without . and .., empty parts, colons and commas", shown(path)),
        suggest,
    )
}

/// A list of texts of one kind. `clash` says why two of them cannot both be there, and `advise` what may have been
/// meant by a value that is none.
fn distinct<T: FromStr<Err: Display>>(
    node: &Node<'_>,
    clash: impl Fn(&T, &T) -> Option<String>,
    advise: impl Fn(&Value) -> Option<String>,
) -> Option<Vec<T>> {
    let mut known: Vec<T> = Vec::new();
    for node in node.list()? {
        let Some(text) = node.text("a text") else { continue };
        match text.parse::<T>() {
            Err(why) => {
                node.wrong_with::<()>(why.to_string(), || advise(node.value));
            }
            Ok(new) => match known.iter().find_map(|old| clash(&new, old)) {
                Some(why) => {
                    node.wrong::<()>(why);
                }
                None => known.push(new),
            },
        }
    }
    Some(known)
}

fn volumes(node: &Node<'_>) -> Option<Vec<Volume>> {
    let clash = |new: &Volume, old: &Volume| {
        (new.target == old.target)
            .then(|| format!("{new} and {old} have the same target: write another path for one of them"))
    };
    distinct(node, clash, |_| None)
}

fn tmpfs(node: &Node<'_>, volumes: &[Volume]) -> Option<BTreeMap<String, Bytes>> {
    let entries = node.entries()?;
    if entries.len() > MAX_TMPFS {
        return node
            .wrong(format!("there are {} paths, more than the {MAX_TMPFS} that are allowed", entries.len()));
    }
    let is_taken = |path: &str| volumes.iter().any(|volume| volume.target == path);
    let read = |(path, node): (&str, Node<'_>)| {
        if path == "/" {
            return node.wrong("`/` is all of the container: name a directory in it");
        }
        if is_taken(path) {
            return node
                .wrong(format!("{} is the target of a volume already: write another path", shown(path)));
        }
        Some((plain_path(&node, path)?, Bytes::read(&node, &TMPFS_SIZE)?))
    };
    Some(entries.filter_map(read).collect())
}

fn gpus(node: &Node<'_>) -> Option<Gpus> {
    let Kind::AllOr(range) = node.kind()? else { return None };
    let count = node.value.as_integer().and_then(|count| u32::try_from(count).ok());
    match (node.value.as_text(), count) {
        (Some("all"), _) => Some(Gpus::All),
        (_, Some(count)) if range.contains(&i64::from(count)) => Some(Gpus::Count(count)),
        _ => node.expected(&node.what()),
    }
}
