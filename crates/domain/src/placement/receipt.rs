//! The record of a placement decision, stored with the attempt.

use serde::{Deserialize, Serialize};

use crate::{Time, WorkerId};

/// How a decision came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The strategy that scored.
    pub strategy: String,
    /// When it was made; none in receipts from before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// The project's workers, in whatever state.
    pub workers: u32,
    /// Of those, the ones that could run the task if they did nothing else; none in receipts from before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suitable: Option<u32>,
    /// Of those, the ones that could take it now.
    pub feasible: u32,
    /// Of those, the ones that ranked behind all others because there was no fresh reading of their machines, which the
    /// strategy needs.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unmeasured: u32,
    /// The chosen one and the next best; at most [`Receipt::MAX_CANDIDATES`].
    pub candidates: Vec<Candidate>,
}

/// One worker's part in a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which worker.
    pub worker: WorkerId,
    /// Its name at the time.
    pub name: String,
    /// Lower is better, of those that start the task at once, have been measured where that matters, and hold equally many
    /// tasks of a definition that is spread.
    pub score: f64,
    /// What the score is made of; what is 0 is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// There was no fresh reading of its machine, which the strategy needs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unmeasured: bool,
    /// It had no room: the task would have waited there for a moment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// Tasks of the definition on workers with the same value of the fact that they are spread over.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub siblings: u32,
}

/// A part of a score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Where it comes from: `cpu`, `memory`, `disk`, `countables`, `jobs`, `affinity`, or `turn`.
    pub name: String,
    /// How much it adds; of *spread*, whose score is the largest, how large it is.
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
