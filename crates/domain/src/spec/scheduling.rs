//! What a job and a task say about where and when they are placed, beside what they reserve.

use serde::{Deserialize, Serialize};

use super::field::{Field, Kind, Most, Words};
use super::node::{Node, Object};
use super::strategy::Strategy;
use crate::constraint::{Constraint, Fact, MAX_CONSTRAINT_BYTES};

/// A wish for workers of a kind, or against them. It never keeps a worker out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Affinity {
    /// Which workers are meant.
    pub when: Constraint,
    /// -100..=100: 100 counts as much as the whole load of a worker, less than 0 speaks against it.
    pub weight: i8,
}

/// The fields of a member of `affinities`.
pub const AFFINITY: &[Field] = &[
    Field::new("when", CONSTRAINT, "Constraint that the preferred workers meet")
        .required()
        .example("labels.ssd"),
    Field::new("weight", Kind::Whole(-100..=100), "Weight: 100 counts as much as a worker's whole load")
        .details("A negative weight avoids these workers.")
        .required()
        .example("50"),
];

/// What each member of `constraints` is.
pub const CONSTRAINT: Kind =
    Kind::text("a constraint such as `memory >= 8GiB`", Most::Bytes(MAX_CONSTRAINT_BYTES));
/// What `constraints` are.
pub const CONSTRAINTS: Kind = Kind::List { noun: "constraints", max: 32, item: &CONSTRAINT };
/// What `affinities` are.
pub const AFFINITIES: Kind = Kind::List { noun: "affinities", max: 32, item: &Kind::Object(&[AFFINITY]) };

/// How workers are chosen for the tasks of a job, and when they are left again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// What scores them; none means as the installation does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// What batch tasks do when their worker drains. Services always move.
    pub on_drain: OnDrain,
    /// Whether services may be moved to where they are much better off.
    pub rebalance: bool,
}

/// The fields of `placement`.
pub const PLACEMENT: &[Field] = &[
    Field::new("strategy", Kind::words::<Strategy>(), "How workers are chosen")
        .otherwise("the installation's")
        .example("binpack")
        .flag("strategy", "STRATEGY"),
    Field::new("on_drain", Kind::words::<OnDrain>(), "What batch tasks do when their worker drains")
        .default("finish")
        .example("move"),
    Field::new("rebalance", Kind::Bool, "Whether the master may move services for balance")
        .default("true")
        .example("false"),
];

/// What a batch task does when its worker drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDrain {
    /// It goes on there until it ends, or until the deadline if there is one.
    #[default]
    Finish,
    /// It is stopped and started anew elsewhere, as soon as there is room.
    Move,
}

impl Words for OnDrain {
    const WORDS: &'static [(&'static str, OnDrain, &'static str)] = &[
        ("finish", OnDrain::Finish, "they run to their end, or to the deadline of the drain"),
        ("move", OnDrain::Move, "they are stopped and start again elsewhere"),
    ];
}

impl Default for Placement {
    fn default() -> Placement {
        Placement { strategy: None, on_drain: OnDrain::Finish, rebalance: true }
    }
}

/// At most so many attempts of a group are live at once, over all jobs of the project that name the group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Concurrency {
    /// Its name.
    pub group: String,
    /// At least 1. Jobs may name different limits for one group; each keeps its own.
    pub limit: u32,
}

/// The fields of `concurrency`.
pub const CONCURRENCY: &[Field] = &[
    Field::new(
        "group",
        Kind::Name { what: "the name of a group", max_len: 63, others: "._/-" },
        "Group that jobs of a project share",
    )
    .required()
    .example("nightly"),
    Field::new("limit", Kind::Whole(1..=100_000), "Maximum number of live attempts of the group")
        .details("If jobs of a group have different limits, each is held to its own.")
        .required()
        .example("1"),
];

/// Reads `constraints`.
pub(super) fn constraints(node: &Node<'_>) -> Option<Vec<Constraint>> {
    Some(node.list()?.filter_map(|node| constraint(&node)).collect())
}

fn constraint(node: &Node<'_>) -> Option<Constraint> {
    let Kind::Text { what, .. } = CONSTRAINT else { return None };
    match node.text(what)?.parse::<Constraint>() {
        Ok(constraint) => Some(constraint),
        Err(why) => node.wrong_with(format!("column {}: {}", why.column, why.detail), || why.suggestion),
    }
}

/// Reads `affinities`.
pub(super) fn affinities(node: &Node<'_>) -> Option<Vec<Affinity>> {
    Some(node.list()?.filter_map(|node| affinity(&node)).collect())
}

fn affinity(node: &Node<'_>) -> Option<Affinity> {
    let object = node.object(r#"an object such as {when: "labels.ssd", weight: 50}"#, &[AFFINITY])?;
    let when = match object.field("when") {
        Some(node) => constraint(&node),
        None => node.wrong("an affinity needs a `when`: the constraint that the preferred workers meet"),
    };
    let weight = object.required("weight", "an affinity needs a `weight` from -100 to 100");
    object.finish();
    Some(Affinity { when: when?, weight: weight? })
}

/// Reads the fact over whose values the tasks of a definition are spread.
pub(super) fn spread(node: &Node<'_>) -> Option<Fact> {
    match node.own_text()?.parse::<Fact>() {
        Ok(fact) => Some(fact),
        Err(why) => node.wrong_with(why.detail, || why.suggestion),
    }
}

/// Reads `placement`: a word for the strategy alone, or an object.
pub(super) fn placement(job: &Object<'_>) -> Option<Placement> {
    let object = job.nested("placement")?;
    let placement = Placement {
        strategy: object.optional("strategy"),
        on_drain: object.value("on_drain"),
        rebalance: object.value("rebalance"),
    };
    object.finish();
    Some(placement)
}

/// Reads `concurrency`.
pub(super) fn concurrency(job: &Object<'_>) -> Option<Concurrency> {
    let object = job.nested("concurrency")?;
    let group = match object.field("group") {
        Some(node) => node.own_name().map(str::to_owned),
        None => object.node().wrong("concurrency needs a `group`: a name that jobs share"),
    };
    let limit = object
        .required("limit", "concurrency needs a `limit`: how many attempts of the group may run at once");
    object.finish();
    Some(Concurrency { group: group?, limit: limit? })
}
