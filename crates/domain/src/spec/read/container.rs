//! Reads what a task says about its container.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::fields::{Node, Object, did_you_mean};
use super::task::argument;
use crate::quantity::{Bytes, shown};
use crate::spec::container::is_plain_path;
use crate::spec::{Container, DEFAULT_PIDS_LIMIT, DriverKind, Gpus, Network, Port, PullPolicy, Volume};

/// The fields that make no sense without a container.
pub(super) const FIELDS: &[&str] = &[
    "image",
    "pull",
    "entrypoint",
    "user",
    "workdir",
    "pids_limit",
    "ports",
    "volumes",
    "tmpfs",
    "network",
    "capabilities",
    "gpus",
];
/// What is said of them where there is none.
const BELONGS_TO_A_CONTAINER: &str =
    "belongs to a container: write an `image`, and no other driver than docker";

const MAX_IMAGE_LEN: usize = 512;
const MAX_USER_LEN: usize = 128;
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
    let named = object.has("driver").then(|| object.read("driver", word));
    let kind = match named {
        None if object.has("image") => Some(DriverKind::Docker),
        None => Some(DriverKind::Host),
        Some(kind) => kind,
    };
    match kind {
        Some(DriverKind::Docker) => (DriverKind::Docker, container(object)),
        Some(kind) => {
            object.refuse(FIELDS, BELONGS_TO_A_CONTAINER);
            (kind, None)
        }
        // Which driver was meant nobody knows, so nothing is said of its fields.
        None => {
            object.refuse(&[], "");
            FIELDS.iter().for_each(|name| drop(object.field(name)));
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
    let is_known = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    let is_shaped = image.starts_with(|c: char| c.is_ascii_alphanumeric())
        && image.ends_with(|c: char| c.is_ascii_alphanumeric() || "._-".contains(c))
        && !image.contains("//");
    if image.len() > MAX_IMAGE_LEN || !image.chars().all(is_known) || !is_shaped {
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
    let arguments: Vec<_> = node.list("a list of strings")?.map(|node| argument(&node)).collect();
    let arguments: Vec<String> = arguments.into_iter().collect::<Option<_>>()?;
    if arguments.first().is_none_or(String::is_empty) {
        return node.wrong("the entry point is empty: it needs at least a program");
    }
    Some(arguments)
}

fn user(node: &Node) -> Option<String> {
    let user = node.scalar_text()?;
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    };
    let (name, group) =
        user.split_once(':').map_or((user.as_str(), None), |(name, group)| (name, Some(group)));
    if user.len() > MAX_USER_LEN || !is_name(name) || !group.is_none_or(is_name) {
        return node.wrong(format!(
            "{} cannot be a user: write a name or a number, and a group after a colon if need be",
            shown(&user)
        ));
    }
    Some(user)
}

fn workdir(node: &Node) -> Option<String> {
    let path = node.text("an absolute path")?;
    if !is_plain_path(path) {
        return node.wrong(format!("{} is not an absolute path without . and ..", shown(path)));
    }
    Some(path.to_owned())
}

/// A list of texts of one kind, each of which differs from the others in `key`.
fn distinct<T, K>(node: &Node, what: &str, most: usize, key: impl Fn(&T) -> Vec<K>) -> Option<Vec<T>>
where
    T: FromStr<Err: Display> + Display,
    K: PartialEq,
{
    let nodes = node.list(what)?;
    if nodes.len() > most {
        return node.wrong(format!("there are {}, more than the {most} that are allowed", nodes.len()));
    }
    let mut known: Vec<T> = Vec::new();
    for node in nodes {
        let Some(text) = node.scalar_text() else { continue };
        match text.parse::<T>() {
            Err(why) => {
                let is_sexagesimal =
                    node.value.is_number() && text.parse().is_ok_and(|number: u64| number > 65_535);
                let advice =
                    || is_sexagesimal.then(|| "put it in quotes: YAML took it for a number".to_owned());
                node.wrong_with::<()>(why.to_string(), advice);
            }
            Ok(new) => match known.iter().find(|old| key(old).iter().any(|part| key(&new).contains(part))) {
                Some(old) => {
                    node.wrong::<()>(format!("{new} and {old} cannot both be had"));
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
        Network::None => return node.wrong("a container without a network (`network: none`) has no ports"),
        Network::Host => {
            return node.wrong("with `network: host` the container's ports are those of the worker anyway");
        }
    }
    let key = |port: &Port| {
        let inside = (false, port.container, port.protocol);
        let outside = (port.host > 0).then_some((true, port.host, port.protocol));
        [Some(inside), outside].into_iter().flatten().collect()
    };
    distinct(node, r#"a list of ports such as ["8080:80"]"#, MAX_PORTS, key)
}

fn volumes(node: &Node) -> Option<Vec<Volume>> {
    let key = |volume: &Volume| vec![volume.target.trim_end_matches('/').to_owned()];
    distinct(node, r#"a list of volumes such as ["/data:/data:ro"]"#, MAX_VOLUMES, key)
}

fn tmpfs(node: &Node, volumes: &[Volume]) -> Option<BTreeMap<String, Bytes>> {
    let entries = node.entries("an object of paths and sizes such as {/scratch: 64MiB}")?;
    if entries.len() > MAX_TMPFS {
        return node
            .wrong(format!("there are {}, more than the {MAX_TMPFS} that are allowed", entries.len()));
    }
    let is_taken = |path: &str| volumes.iter().any(|volume| volume.target == path);
    let read = |(path, node): (&str, Node)| {
        if !is_plain_path(path) || path == "/" {
            return node.wrong(format!("{} is not an absolute path without . and ..", shown(path)));
        }
        if is_taken(path) {
            return node.wrong(format!("{} is a volume already", shown(path)));
        }
        Some((path.to_owned(), node.amount("a size", TMPFS_SIZES)?))
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
    match node.value.as_str() {
        Some("all") => Some(Gpus::All),
        Some(_) => node.expected(&format!("`all` or a whole number from 1 to {MAX_GPUS}")),
        None => node.integer(1..=MAX_GPUS).map(Gpus::Count),
    }
}
