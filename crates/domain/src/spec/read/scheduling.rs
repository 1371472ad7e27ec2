//! Reads what a job or a task says about where and when its tasks are placed.

use std::collections::BTreeMap;

use super::fields::Node;
use super::is_plain_name;
use crate::constraint::{Constraint, Fact, is_resource_name};
use crate::quantity::{Bytes, Cpu, shown};
use crate::spec::Strategy;
use crate::spec::{Affinity, Concurrency, OnDrain, Placement, Reservation, Resources};
use crate::spelling::nearest;

const MAX_CPU: Cpu = Cpu::from_millis(4096 * 1000);
const MAX_BYTES: Bytes = Bytes(1 << 50);
const DEFAULT_AMOUNTS: Resources =
    Resources { cpu: Cpu::from_millis(1000), memory: Bytes(0), disk: Bytes(0) };
const MAX_COUNTABLES: usize = 16;
const MAX_COUNT: u32 = 1_000_000;
const ON_DRAIN: [(&str, OnDrain); 2] = [("finish", OnDrain::Finish), ("move", OnDrain::Move)];
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

const MAX_CONSTRAINTS: usize = 32;
const MAX_AFFINITIES: usize = 32;
const MAX_GROUP_LEN: usize = 63;
const MAX_GROUP_LIMIT: u32 = 100_000;

/// What a task reserves that does not say.
pub(super) fn default_reservation() -> Reservation {
    Reservation { amounts: DEFAULT_AMOUNTS, countables: BTreeMap::new() }
}

pub(super) fn resources(node: &Node) -> Option<Reservation> {
    let mut object = node.object("an object such as {cpu: 1, memory: 512MiB, gpu: 1}")?;
    let bytes = |node: &Node| node.amount("a size", Bytes(0)..=MAX_BYTES);
    let amounts = Resources {
        cpu: object
            .read("cpu", |node| node.amount("a number of processors", Cpu::default()..=MAX_CPU))
            .unwrap_or(DEFAULT_AMOUNTS.cpu),
        memory: object.read("memory", bytes).unwrap_or(DEFAULT_AMOUNTS.memory),
        disk: object.read("disk", bytes).unwrap_or(DEFAULT_AMOUNTS.disk),
    };
    let countables: BTreeMap<String, u32> =
        object.others().filter_map(|(name, node)| Some((name.to_owned(), countable(name, &node)?))).collect();
    if countables.len() > MAX_COUNTABLES {
        return node.wrong(format!(
            "there are {} countable resources, more than the {MAX_COUNTABLES} that are allowed",
            countables.len()
        ));
    }
    let countables = countables.into_iter().filter(|(_, count)| *count > 0).collect();
    Some(Reservation { amounts, countables })
}

fn countable(name: &str, node: &Node) -> Option<u32> {
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
    node.integer(0..=MAX_COUNT)
}

pub(super) fn constraints(node: &Node) -> Option<Vec<Constraint>> {
    let nodes = node.list(r#"a list of constraints such as ["arch == arm64"]"#)?;
    if nodes.len() > MAX_CONSTRAINTS {
        let len = nodes.len();
        return node
            .wrong(format!("the list has {len} constraints, more than the {MAX_CONSTRAINTS} allowed"));
    }
    Some(nodes.filter_map(|node| constraint(&node)).collect())
}

fn constraint(node: &Node) -> Option<Constraint> {
    let text = node.text("a constraint such as `memory >= 8GiB`")?;
    match text.parse::<Constraint>() {
        Ok(constraint) => Some(constraint),
        Err(why) => node.wrong_with(format!("column {}: {}", why.column, why.detail), || why.suggestion),
    }
}

pub(super) fn affinities(node: &Node) -> Option<Vec<Affinity>> {
    let nodes = node.list(r#"a list of affinities such as [{when: "labels.ssd", weight: 50}]"#)?;
    if nodes.len() > MAX_AFFINITIES {
        let len = nodes.len();
        return node.wrong(format!("the list has {len} affinities, more than the {MAX_AFFINITIES} allowed"));
    }
    Some(nodes.filter_map(|node| affinity(&node)).collect())
}

fn affinity(node: &Node) -> Option<Affinity> {
    let mut object = node.object(r#"an object such as {when: "labels.ssd", weight: 50}"#)?;
    let when = match object.field("when") {
        Some(node) => constraint(&node),
        None => node.wrong("an affinity needs a `when`: the constraint that the wished for workers meet"),
    };
    let weight = match object.field("weight") {
        Some(node) => weight(&node),
        None => node.wrong("an affinity needs a `weight` from -100 to 100"),
    };
    object.finish();
    Some(Affinity { when: when?, weight: weight? })
}

fn weight(node: &Node) -> Option<i8> {
    let weight = node.value.as_integer().and_then(|weight| i8::try_from(weight).ok());
    match weight {
        Some(weight) if (-100..=100).contains(&weight) => Some(weight),
        _ => node.expected("a whole number from -100 to 100"),
    }
}

/// The fact over whose values the tasks of a definition are spread.
pub(super) fn spread(node: &Node) -> Option<Fact> {
    let text = node.text("a fact of workers such as `labels.rack`")?;
    match text.parse::<Fact>() {
        Ok(fact) => Some(fact),
        Err(why) => node.wrong_with(why.detail, || why.suggestion),
    }
}

pub(super) fn yes_or_no(node: &Node) -> Option<bool> {
    match node.value.as_bool() {
        Some(value) => Some(value),
        None => node.expected("true or false"),
    }
}

/// Reads `placement`: a word for the strategy alone, or an object.
pub(super) fn placement(node: &Node) -> Option<Placement> {
    let words = Strategy::ALL.map(|strategy| (strategy.as_str(), strategy));
    if node.value.is_text() {
        return Some(Placement { strategy: Some(node.word(&words)?), ..Placement::default() });
    }
    let mut object = node.object("a word such as `binpack`, or an object such as {strategy: binpack}")?;
    let placement = Placement {
        strategy: object.read("strategy", |node| node.word(&words)),
        on_drain: object.read("on_drain", |node| node.word(&ON_DRAIN)).unwrap_or_default(),
        rebalance: object.read("rebalance", yes_or_no).unwrap_or(true),
    };
    object.finish();
    Some(placement)
}

pub(super) fn concurrency(node: &Node) -> Option<Concurrency> {
    let mut object = node.object("an object such as {group: nightly, limit: 1}")?;
    let group = match object.field("group") {
        Some(node) => group(&node),
        None => node.wrong("concurrency needs a `group`: a name that jobs share"),
    };
    let limit = match object.field("limit") {
        Some(node) => node.integer(1..=MAX_GROUP_LIMIT),
        None => node.wrong("concurrency needs a `limit`: how many attempts of the group may run at once"),
    };
    object.finish();
    Some(Concurrency { group: group?, limit: limit? })
}

fn group(node: &Node) -> Option<String> {
    let name = node.text("the name of a group such as nightly")?;
    if !is_plain_name(name, MAX_GROUP_LEN, "._/-") {
        return node.wrong(format!(
            "{} cannot be the name of a group: write 1 to {MAX_GROUP_LEN} of the characters \
             a-z A-Z 0-9 . _ / - and begin with a letter or digit",
            shown(name)
        ));
    }
    Some(name.to_owned())
}
