//! The record of a placement decision, stored with the attempt.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Time, WorkerId};

/// How a worker was chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// Placement strategy.
    pub strategy: String,
    /// When the worker was chosen; absent in old records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// Number of workers of the project, in any state.
    pub workers: u32,
    /// Number of those that could run the task if they ran nothing else; absent in old records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suitable: Option<u32>,
    /// Number of those that could take the task at that time.
    pub feasible: u32,
    /// Number of those that ranked last, as there was no recent measurement of their machines, which the strategy needs.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unmeasured: u32,
    /// The chosen worker and the next best.
    pub candidates: Vec<Candidate>,
}

/// A worker that could have been chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Candidate {
    /// Worker number.
    pub worker: WorkerId,
    /// Name of the worker at that time.
    pub name: String,
    /// Score: lower is better among workers that can start the task at once, have been measured if that matters, and hold
    /// equally many tasks of a definition that is spread.
    pub score: f64,
    /// Parts of the score; those that are 0 are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// Whether there was no recent measurement of its machine, which the strategy needs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unmeasured: bool,
    /// Whether the task would have waited there for room.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// Number of tasks of the definition on workers with the same value of the fact that they are spread over.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub siblings: u32,
    /// Number of attempts of the definition that became unhealthy there lately; a worker with fewer goes first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unhealthy: u32,
}

/// A part of a score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    /// What it is about: `cpu`, `memory`, `disk`, `countables`, `jobs`, `affinity`, or `turn`.
    pub name: String,
    /// How much it adds; for the strategy `spread`, whose score is the largest part, how large it is.
    pub value: f64,
}

impl Receipt {
    /// So many candidates are kept. A receipt is stored with each attempt: what a choice was between is worth that, the rest
    /// of the fleet is a count.
    pub const MAX_CANDIDATES: usize = 2;
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}
