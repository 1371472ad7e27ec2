//! Reads what a task says about its container.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::fields::{Node, Object};
use super::program::arguments;
use crate::document::Value;
use crate::quantity::{Bytes, shown};
use crate::spec::container::is_plain_path;
use crate::spec::{Container, DEFAULT_PIDS_LIMIT, DriverKind, Gpus, Network, Port, PullPolicy, Volume};
use crate::spelling::did_you_mean;

/// The fields beside `image` that make no sense without a container.
const OTHER_FIELDS: &[&str] = &[
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
/// What is said of them where there is none.
const BELONGS_TO_A_CONTAINER: &str = "belongs to a container: write `driver: docker` and an `image`";
/// What is said of an image beside another driver.
const CONFLICTS_WITH_THE_DRIVER: &str =
    "`image` conflicts with the `driver`: write `driver: docker`, or leave the image out";

const MAX_IMAGE_LEN: usize = 512;
const MAX_USER_LEN: usize = 128;
/// The longest path that Linux takes, with the zero byte that ends it.
const MAX_WORKDIR_BYTES: usize = 4095;
const MAX_PIDS: u32 = 1_000_000;
const MAX_PORTS: usize = 64;
const MAX_VOLUMES: usize = 32;
const MAX_TMPFS: usize = 16;
const TMPFS_SIZES: RangeInclusive<Bytes> = Bytes(4 << 10)..=Bytes(1 << 40);
const MAX_GPUS: u32 = 64;

const PULL_POLICIES: &[(&str, PullPolicy)] =
    &[("missing", PullPolicy::Missing), ("always", PullPolicy::Always), ("never", PullPolicy::Never)];
const NETWORKS: &[(&str, Network)] =
    &[("bridge", Network::Bridge), ("none", Network::None), ("host", Network::Host)];

/// capabilities(7), without `CAP_`.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// The driver of a task, and its container if that is docker. An image alone means docker.
pub(super) fn driver(object: &mut Object) -> (DriverKind, Option<Container>) {
    let named = object.field("driver");
    let kind = match &named {
        None if object.has("image") => Some(DriverKind::Docker),
        None => Some(DriverKind::Host),
        Some(node) => word(node),
    };
    match kind {
        Some(DriverKind::Docker) => (DriverKind::Docker, container(object)),
        Some(kind) => {
            if let Some(image) = object.field("image") {
                image.wrong::<()>(CONFLICTS_WITH_THE_DRIVER);
            }
            object.refuse(OTHER_FIELDS, BELONGS_TO_A_CONTAINER);
            if kind == DriverKind::Scripted {
                object.refuse(
                    &["workdir", "stdin"],
                    "is not allowed for a scripted task, which runs no program",
                );
            }
            (kind, None)
        }
        // Which driver was meant nobody knows, so nothing is said of its fields.
        None => {
            object.field("image");
            object.field("workdir");
            OTHER_FIELDS.iter().for_each(|name| drop(object.field(name)));
            (DriverKind::Host, None)
        }
    }
}

fn word(node: &Node) -> Option<DriverKind> {
    node.word(&[
        ("host", DriverKind::Host),
        ("docker", DriverKind::Docker),
        ("scripted", DriverKind::Scripted),
    ])
}

fn container(object: &mut Object) -> Option<Container> {
    let image = match object.field("image") {
        Some(node) => image(&node),
        None => object.node().wrong("a container needs an `image`"),
    };
    let network = object.read("network", |node| node.word(NETWORKS)).unwrap_or(Network::Bridge);
    let volumes = object.read("volumes", volumes).unwrap_or_default();
    Some(Container {
        pull: object.read("pull", |node| node.word(PULL_POLICIES)).unwrap_or(PullPolicy::Missing),
        entrypoint: entrypoint(object),
        user: object.read("user", user),
        workdir: object.read("workdir", workdir),
        pids_limit: object
            .read("pids_limit", |node| node.integer(1..=MAX_PIDS))
            .unwrap_or(DEFAULT_PIDS_LIMIT),
        ports: object.read("ports", |node| ports(node, network)).unwrap_or_default(),
        tmpfs: object.read("tmpfs", |node| tmpfs(node, &volumes)).unwrap_or_default(),
        volumes,
        network,
        capabilities: object.read("capabilities", capabilities).unwrap_or_default(),
        gpus: object.read("gpus", gpus),
        // The stand-in is never seen: where there is no image, a mistake was reported.
        image: image.unwrap_or_default(),
    })
}

fn image(node: &Node) -> Option<String> {
    let image = node.text("the name of an image such as busybox:1.36")?;
    if image.len() > MAX_IMAGE_LEN {
        let bytes = image.len();
        return node.wrong(format!(
            "the name of the image has {bytes} bytes, more than the {MAX_IMAGE_LEN} that are allowed"
        ));
    }
    let is_known = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    let is_shaped = image.starts_with(|c: char| c.is_ascii_alphanumeric())
        && image.ends_with(|c: char| c.is_ascii_alphanumeric() || "._-".contains(c))
        && !image.contains("//");
    if !image.chars().all(is_known) || !is_shaped {
        return node.wrong(format!(
            "{} cannot be the name of an image: write something like busybox:1.36 or registry.lab:5000/tools/train:v3",
            shown(image)
        ));
    }
    if repository(image).contains(|c: char| c.is_ascii_uppercase()) {
        return node
            .wrong(format!("{}: an image's name is written in lower case, except its tag", shown(image)));
    }
    Some(image.to_owned())
}

/// The name of an image between the registry and the tag or digest.
pub(super) fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    let path = match image.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first.eq_ignore_ascii_case("localhost") => rest,
        _ => image,
    };
    match path.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => path,
        _ => path,
    }
}

fn entrypoint(object: &mut Object) -> Option<Vec<String>> {
    let node = object.field("entrypoint")?;
    if object.has("script") {
        return node
            .wrong("a script takes the place of the entry point: write a `command` instead of the script");
    }
    arguments(&node, "entry point", r#"write a list such as ["/bin/entry", "-x"]"#)
}

fn user(node: &Node) -> Option<String> {
    let user = node.text("the name of a user")?;
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

/// The directory in which a task runs, on the host or in its container.
pub(super) fn workdir(node: &Node) -> Option<String> {
    let path = node.text("an absolute path")?;
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

fn plain_path(node: &Node, path: &str) -> Option<String> {
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
    node: &Node,
    what: &str,
    most: usize,
    clash: impl Fn(&T, &T) -> Option<String>,
    advise: impl Fn(&Value) -> Option<String>,
) -> Option<Vec<T>> {
    let nodes = node.list(what)?;
    if nodes.len() > most {
        return node.wrong(format!("the list has {}, more than the {most} that are allowed", nodes.len()));
    }
    let mut known: Vec<T> = Vec::new();
    for node in nodes {
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

fn ports(node: &Node, network: Network) -> Option<Vec<Port>> {
    match network {
        Network::Bridge => {}
        Network::None => {
            return node.wrong(
                "a container without a network (`network: none`) has no ports: leave out one of the two",
            );
        }
        Network::Host => {
            return node.wrong(
                "with `network: host` the container's ports are those of the worker anyway: leave `ports` out",
            );
        }
    }
    let clash = |new: &Port, old: &Port| {
        if new.protocol != old.protocol {
            None
        } else if new.container == old.container {
            Some(format!("{new} and {old} are the same port of the container: write it once"))
        } else if new.host == old.host && new.host > 0 {
            let free = Port { host: 0, ..*new };
            Some(format!(
                "{new} and {old} want the same port of the worker: write another, or {free} for any that is free"
            ))
        } else {
            None
        }
    };
    let advise = |value: &Value| {
        let is_too_large = value.as_u64().is_some_and(|number| number > u64::from(u16::MAX));
        is_too_large.then(|| r#"put it in quotes, "8080:80": YAML may take it for one number"#.to_owned())
    };
    distinct(node, r#"a list of ports such as ["8080:80"]"#, MAX_PORTS, clash, advise)
}

fn volumes(node: &Node) -> Option<Vec<Volume>> {
    let clash = |new: &Volume, old: &Volume| {
        (new.target == old.target)
            .then(|| format!("{new} and {old} have the same target: write another path for one of them"))
    };
    distinct(node, r#"a list of volumes such as ["/data:/data:ro"]"#, MAX_VOLUMES, clash, |_| None)
}

fn tmpfs(node: &Node, volumes: &[Volume]) -> Option<BTreeMap<String, Bytes>> {
    let entries = node.entries("an object of paths and sizes such as {/scratch: 64MiB}")?;
    if entries.len() > MAX_TMPFS {
        return node
            .wrong(format!("there are {} paths, more than the {MAX_TMPFS} that are allowed", entries.len()));
    }
    let is_taken = |path: &str| volumes.iter().any(|volume| volume.target == path);
    let read = |(path, node): (&str, Node)| {
        if path == "/" {
            return node.wrong("`/` is all of the container: name a directory in it");
        }
        if is_taken(path) {
            return node
                .wrong(format!("{} is the target of a volume already: write another path", shown(path)));
        }
        Some((plain_path(&node, path)?, node.amount("a size", TMPFS_SIZES)?))
    };
    Some(entries.filter_map(read).collect())
}

fn capabilities(node: &Node) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for node in node.list("a list of capabilities such as [NET_ADMIN]")? {
        let Some(text) = node.text("the name of a capability such as NET_ADMIN") else { continue };
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" {
            node.wrong::<()>("capabilities are named one by one: there is no way to get them all");
        } else if !CAPABILITIES.contains(&name) {
            let suggestion = || did_you_mean(name, CAPABILITIES);
            node.wrong_with::<()>(format!("{} is not a capability", shown(text)), suggestion);
        } else if names.iter().any(|known| known == name) {
            node.wrong::<()>(format!("{name} is named twice"));
        } else {
            names.push(name.to_owned());
        }
    }
    Some(names)
}

fn gpus(node: &Node) -> Option<Gpus> {
    let count = node.value.as_u64().and_then(|count| u32::try_from(count).ok());
    match (node.value.as_text(), count) {
        (Some("all"), _) => Some(Gpus::All),
        (_, Some(count)) if (1..=MAX_GPUS).contains(&count) => Some(Gpus::Count(count)),
        _ => node.expected(&format!("`all` or a whole number from 1 to {MAX_GPUS}")),
    }
}
