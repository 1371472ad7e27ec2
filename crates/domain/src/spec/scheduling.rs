//! What a job says about where and when its tasks are placed, beside what they reserve.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Resources;
use crate::constraint::Constraint;
use crate::spec::Strategy;

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

/// A wish for workers of a kind, or against them. It never keeps a worker out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Affinity {
    /// Which workers are meant.
    pub when: Constraint,
    /// -100..=100: 100 counts as much as the whole load of a worker, less than 0 speaks against it.
    pub weight: i8,
}

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
