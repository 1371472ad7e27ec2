//! How the instances of a service are replaced when it is updated.

use serde::{Deserialize, Serialize};

use super::field::{Field, Kind};
use super::node::Object;
use crate::quantity::Span;

/// What an update does. What is left out is as in [`Update::default`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// How many instances are replaced at once. At least 1.
    pub parallel: u32,
    /// How long a new instance has to be available before the next one is replaced.
    pub healthy_for: Span,
    /// A new instance that is not available within this time fails the update.
    pub healthy_within: Span,
    /// How many new instances are looked at before the update continues; 0 for none.
    pub canary: u32,
    /// Whether it continues by itself once these have been available for long enough.
    pub auto_promote: bool,
    /// Whether a failed update is undone.
    pub auto_revert: bool,
}

impl Default for Update {
    fn default() -> Update {
        Update {
            parallel: 1,
            healthy_for: Span::from_secs(10),
            healthy_within: Span::from_secs(300),
            canary: 0,
            auto_promote: true,
            auto_revert: true,
        }
    }
}

/// The fields of `update`.
pub const UPDATE: &[Field] = &[
    Field::new("parallel", Kind::Whole(1..=100), "Number of instances replaced at once")
        .details("As many further instances are started before, if there is room for them.")
        .default("1")
        .example("2"),
    Field::new(
        "healthy_for",
        Kind::Time(Span::from_millis(0)..=Span::from_secs(60 * 60)),
        "How long a new instance has to be available",
    )
    .details("Then the next one is replaced.")
    .default("10s")
    .example("30s"),
    Field::new(
        "healthy_within",
        Kind::Time(Span::from_secs(1)..=Span::from_secs(24 * 60 * 60)),
        "Time for a new instance to become available",
    )
    .details("An instance that takes longer fails the update.")
    .default("5m")
    .example("1m"),
    Field::new("canary", Kind::Whole(0..=100), "Number of new instances to try before the others")
        .default("0")
        .example("1"),
    Field::new("auto_promote", Kind::Bool, "Whether good canaries let the update continue by itself")
        .details("Otherwise it waits for `gaffer promote`.")
        .default("true")
        .example("false"),
    Field::new("auto_revert", Kind::Bool, "Whether a failed update is undone")
        .default("true")
        .example("false"),
];

/// Reads `update`. It says nothing about a batch job.
pub(super) fn update(job: &Object<'_>) -> Option<Update> {
    let object = job.nested("update")?;
    let update = Update {
        parallel: object.value("parallel"),
        healthy_for: object.value("healthy_for"),
        healthy_within: object.value("healthy_within"),
        canary: object.value("canary"),
        auto_promote: object.value("auto_promote"),
        auto_revert: object.value("auto_revert"),
    };
    object.finish();
    Some(update)
}
