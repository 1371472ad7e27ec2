//! The ways to choose workers.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::field::Words;
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

impl Words for Strategy {
    const WORDS: &'static [(&'static str, Strategy, &'static str)] = &[
        ("spread", Strategy::Spread, "the least loaded worker"),
        ("binpack", Strategy::Binpack, "the fullest worker that has room"),
        ("round_robin", Strategy::RoundRobin, "one worker after the other"),
        ("greedy", Strategy::Greedy, "the worker with the lowest CPU usage"),
        ("epvm", Strategy::Epvm, "the worker with the lowest marginal cost"),
        ("epvm_lieb", Strategy::EpvmLieb, "E-PVM as first published, for comparison"),
    ];
}

/// A text that is not the name of a strategy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is not a strategy: write one of {}", Strategy::ALL.map(Strategy::as_str).join(", "))]
pub struct UnknownStrategy {
    name: String,
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

    /// Name in the API, the CLI and on pages.
    pub fn as_str(self) -> &'static str {
        self.word()
    }
}

impl Display for Strategy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(text: &str) -> Result<Strategy, UnknownStrategy> {
        let known = Strategy::WORDS.iter().find(|(word, ..)| *word == text);
        known.map(|(_, strategy, _)| *strategy).ok_or_else(|| UnknownStrategy { name: shown(text) })
    }
}
