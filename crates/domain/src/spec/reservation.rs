//! What a task reserves on its worker.

use std::collections::BTreeMap;

use serde::Serialize;

use super::field::{ANY_NAME, Field, Kind};
use super::node::{FieldValue, Node, Object};
use crate::constraint::is_resource_name;
use crate::quantity::{Bytes, Cpu, shown};
use crate::resources::Resources;
use crate::spelling::nearest;

/// What a task reserves on its worker: what every worker has some of, and what only some workers have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reservation {
    /// Processors, memory and disk.
    #[serde(flatten)]
    pub amounts: Resources,
    /// Countable resources by name, such as `gpu: 1`; none of them 0.
    #[serde(flatten)]
    pub countables: BTreeMap<String, u32>,
}

const MAX_COUNTABLES: usize = 16;
const COUNT: Kind = Kind::Whole(0..=1_000_000);
const SIZE: Kind = Kind::Size(Bytes(0)..=Bytes(1 << 50));

/// The fields of `resources`.
pub const RESOURCES: &[Field] = &[
    Field::new(
        "cpu",
        Kind::Cpus(Cpu::from_millis(0)..=Cpu::from_millis(4096 * 1000)),
        "Processors to reserve",
    )
    .default("1")
    .example("0.5")
    .flag("cpu", "N")
    .on_page("CPU"),
    Field::new("memory", SIZE, "Memory to reserve")
        .default("0")
        .example("512MiB")
        .flag("memory", "BYTES")
        .on_page("Memory"),
    Field::new("disk", SIZE, "Disk to reserve").default("0").example("2GiB").flag("disk", "BYTES"),
    Field::new(ANY_NAME, COUNT, "Countable resource to reserve, by its name")
        .limits("16 names of up to 63 of `a-z 0-9 _ -`, first a letter")
        .example("{gpu: 1}")
        .flag("resource", "NAME=NUMBER"),
];

/// What people may write for the resources that every worker has.
const OTHER_NAMES: [(&str, &str); 7] = [
    ("mem", "memory"),
    ("ram", "memory"),
    ("cpus", "cpu"),
    ("cores", "cpu"),
    ("disc", "disk"),
    ("disks", "disk"),
    ("storage", "disk"),
];

/// Reads `resources`, or gives its defaults.
pub(super) fn read(task: &Object<'_>) -> Reservation {
    let object = task.nested_or_empty("resources");
    let amounts =
        Resources { cpu: object.value("cpu"), memory: object.value("memory"), disk: object.value("disk") };
    let node = object.node().clone();
    let countables: BTreeMap<String, u32> =
        object.others().filter_map(|(name, node)| Some((name.to_owned(), countable(name, &node)?))).collect();
    if countables.len() > MAX_COUNTABLES {
        node.wrong::<()>(format!(
            "there are {} countable resources, more than the {MAX_COUNTABLES} that are allowed",
            countables.len()
        ));
    }
    let countables = countables.into_iter().filter(|(_, count)| *count > 0).collect();
    Reservation { amounts, countables }
}

fn countable(name: &str, node: &Node<'_>) -> Option<u32> {
    let other_name = OTHER_NAMES.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
    let meant = other_name.map(|(_, meant)| *meant);
    // `gpu` is one letter away from `cpu`: only the long name is worth guessing.
    let meant = meant.or_else(|| nearest(name, ["memory"]).filter(|_| name.len() > 4));
    if let Some(meant) = meant {
        let suggestion = || Some(format!("did you mean `{meant}`?"));
        return node.wrong_with(format!("unknown resource {}", shown(name)), suggestion);
    }
    if !is_resource_name(name) {
        return node.wrong(format!(
            "{} cannot be the name of a resource: write small letters, digits, _ and - and begin with a letter",
            shown(name)
        ));
    }
    u32::read(node, &COUNT)
}
