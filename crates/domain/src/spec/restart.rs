//! When a task is tried again.

use serde::{Deserialize, Serialize};

use super::field::{Field, Kind, Words};
use super::node::Object;
use crate::quantity::Span;

/// When a task is tried again, and how soon.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Restart {
    /// After which ends.
    pub policy: RestartPolicy,
    /// The most repeats (of any cause) within `within`; 0 means none.
    pub limit: u32,
    /// The window in which `limit` counts, from its first repeat on; none means the whole life of the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
    /// Wait before the first repeat.
    pub delay: Span,
    /// How the wait grows from repeat to repeat.
    pub backoff: Backoff,
    /// What happens when the worker that ran it is lost.
    pub on_lost: OnLost,
}

/// The fields of `restart`.
pub const RESTART: &[Field] = &[
    Field::new("policy", Kind::words::<RestartPolicy>(), "When the task is restarted")
        .otherwise("`never` for batch, `always` for service")
        .example("on-failure")
        .on_page("Run again"),
    Field::new("limit", Kind::Whole(0..=1_000_000), "Maximum number of repeats")
        .details("Counts repeats of any cause, within `within`.")
        .otherwise("0 for `never` with `on_lost: fail`; 5 for `always`; else 3")
        .example("3")
        .flag("retries", "N"),
    Field::new(
        "within",
        Kind::Time(Span::from_secs(1)..=Span::from_secs(365 * 24 * 60 * 60)),
        "Window in which repeats count",
    )
    .details("It opens with the first repeat.")
    .otherwise("10m for `always` without `limit`; else the life of the task")
    .example("10m"),
    Field::new(
        "delay",
        Kind::Time(Span::from_millis(0)..=Span::from_secs(60 * 60)),
        "Wait before the first repeat",
    )
    .default("1s")
    .example("5s"),
    Field::new("backoff", Kind::words::<Backoff>(), "Growth of the wait from repeat to repeat")
        .default("exponential")
        .example("constant"),
    Field::new("on_lost", Kind::words::<OnLost>(), "What happens if the worker is lost")
        .otherwise("`fail` for `never`, else `restart`")
        .example("restart")
        .flag("on-lost", "WHAT"),
];

const DEFAULT_LIMIT: u32 = 3;
/// A service may fail now and then for ever, but not this often in this time.
const DEFAULT_ALWAYS_LIMIT: u32 = 5;
const DEFAULT_ALWAYS_WINDOW: Span = Span::from_secs(10 * 60);

/// After which ends a task is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Not at all.
    Never,
    /// When it failed.
    OnFailure,
    /// Whenever it ended by itself.
    Always,
}

impl Words for RestartPolicy {
    const WORDS: &'static [(&'static str, RestartPolicy, &'static str)] = &[
        ("never", RestartPolicy::Never, "not at all"),
        ("on-failure", RestartPolicy::OnFailure, "if it fails"),
        ("always", RestartPolicy::Always, "whenever it ends by itself"),
    ];
}

/// Growth of the wait between repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// The same wait each time.
    Constant,
    /// Twice the last wait, at most [`crate::policy::MAX_BACKOFF`].
    Exponential,
}

impl Words for Backoff {
    const WORDS: &'static [(&'static str, Backoff, &'static str)] = &[
        ("constant", Backoff::Constant, "the same wait each time"),
        ("exponential", Backoff::Exponential, "twice the last wait, up to 1h"),
    ];
}

/// What happens to a task whose attempt was lost with its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLost {
    /// Try again elsewhere, within the restart limit.
    Restart,
    /// The task failed.
    Fail,
}

impl Words for OnLost {
    const WORDS: &'static [(&'static str, OnLost, &'static str)] = &[
        ("restart", OnLost::Restart, "the task runs again elsewhere, within the limit"),
        ("fail", OnLost::Fail, "the task fails"),
    ];
}

/// Reads `restart`, or gives its defaults; some of them depend on other fields.
pub(super) fn read(task: &Object<'_>, default_policy: RestartPolicy) -> Restart {
    let object = task.nested_or_empty("restart");
    let policy = object.optional("policy").unwrap_or(default_policy);
    let limit: Option<u32> = object.optional("limit");
    let within: Option<Span> = object.optional("within");
    let (delay, backoff) = (object.value("delay"), object.value("backoff"));
    let on_lost = object.optional("on_lost").unwrap_or(match policy {
        RestartPolicy::Never => OnLost::Fail,
        RestartPolicy::OnFailure | RestartPolicy::Always => OnLost::Restart,
    });
    object.finish();
    let (default_limit, default_within) = match (policy, on_lost) {
        (RestartPolicy::Never, OnLost::Fail) => (0, None),
        (RestartPolicy::Always, _) if limit.is_none() && within.is_none() => {
            (DEFAULT_ALWAYS_LIMIT, Some(DEFAULT_ALWAYS_WINDOW))
        }
        (RestartPolicy::Always, _) => (DEFAULT_ALWAYS_LIMIT, None),
        _ => (DEFAULT_LIMIT, None),
    };
    let (limit, within) = (limit.unwrap_or(default_limit), within.or(default_within));
    Restart { policy, limit, within, delay, backoff, on_lost }
}
