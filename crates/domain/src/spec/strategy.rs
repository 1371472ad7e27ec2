//! The ways to choose workers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::quantity::shown;

/// How workers are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The least loaded.
    #[default]
    Spread,
    /// The fullest that has room, so that others stay free for large tasks, or may be switched off.
    Binpack,
    /// One after the other.
    RoundRobin,
    /// The one whose processors are the least busy.
    Greedy,
    /// Where it costs the least opportunity.
    Epvm,
    /// E-PVM as the books had it, for comparison.
    EpvmLieb,
}

/// A text that is not the name of a strategy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is not a strategy: write one of {}", Strategy::words())]
pub struct UnknownStrategy {
    name: String,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(text: &str) -> Result<Strategy, UnknownStrategy> {
        let known = Strategy::ALL.into_iter().find(|strategy| strategy.as_str() == text);
        known.ok_or_else(|| UnknownStrategy { name: shown(text) })
    }
}

impl Strategy {
    /// All of them.
    pub const ALL: [Strategy; 6] = [
        Strategy::Spread,
        Strategy::Binpack,
        Strategy::RoundRobin,
        Strategy::Greedy,
        Strategy::Epvm,
        Strategy::EpvmLieb,
    ];

    /// The word used on every door.
    pub fn as_str(self) -> &'static str {
        match self {
            Strategy::Spread => "spread",
            Strategy::Binpack => "binpack",
            Strategy::RoundRobin => "round_robin",
            Strategy::Greedy => "greedy",
            Strategy::Epvm => "epvm",
            Strategy::EpvmLieb => "epvm_lieb",
        }
    }

    /// All their words.
    fn words() -> String {
        Strategy::ALL.map(Strategy::as_str).join(", ")
    }
}
