//! What executes a task.

use serde::{Deserialize, Serialize};

/// How an attempt executes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum DriverKind {
    /// A process on the worker's machine.
    Host,
    /// A container.
    Docker,
    /// A play that the job itself describes line by line; only workers started for tests offer it.
    Scripted,
}

impl DriverKind {
    /// All of them.
    pub const ALL: &'static [DriverKind] = &[DriverKind::Host, DriverKind::Docker, DriverKind::Scripted];

    /// The one with that word.
    pub fn named(word: &str) -> Option<DriverKind> {
        DriverKind::ALL.iter().copied().find(|driver| driver.as_str() == word)
    }

    /// Name in the API, the CLI and on pages.
    pub fn as_str(self) -> &'static str {
        match self {
            DriverKind::Host => "host",
            DriverKind::Docker => "docker",
            DriverKind::Scripted => "scripted",
        }
    }
}
