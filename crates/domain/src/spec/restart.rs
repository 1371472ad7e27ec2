//! When a task is tried again.

use serde::{Deserialize, Serialize};

use super::dependency::When;
use super::exit_codes::{self, EXIT_CODES, ExitCodes};
use super::field::{Field, Kind, Words};
use super::node::Object;
use crate::quantity::Span;

/// When a task is tried again, and how soon; and which exit codes count as success.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Restart {
    /// After which ends.
    pub policy: RestartPolicy,
    /// Exit codes that are tried again; every other failure of the task is then final. Empty means that all failures are.
    #[serde(default, skip_serializing_if = "ExitCodes::is_empty")]
    pub on_exit: ExitCodes,
    /// Exit codes that are final failures.
    #[serde(default, skip_serializing_if = "ExitCodes::is_empty")]
    pub not_on_exit: ExitCodes,
    /// Exit codes that count as success, beside 0.
    #[serde(default, skip_serializing_if = "ExitCodes::is_empty")]
    pub success: ExitCodes,
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
        .limits("no `always` with `when: always` or `when: failure`")
        .otherwise(
            "`always` for the tasks of a service without `when`; else `on-failure` with `on_exit` or `not_on_exit`, \
             `never` without",
        )
        .example("on-failure")
        .on_page("Run again"),
    Field::new("on_exit", EXIT_CODES, "Exit codes after which the task runs again")
        .details(
            "Any other failure is then final, also a signal or a timeout. A lost worker follows `on_lost`.",
        )
        .limits("not with `policy: never`")
        .otherwise("every failure")
        .example("[75]")
        .flag("restart-on-exit", "CODE"),
    Field::new("not_on_exit", EXIT_CODES, "Exit codes that are final failures")
        .limits("not with `policy: never`")
        .example("[2]")
        .flag("no-restart-on-exit", "CODE"),
    Field::new("success", EXIT_CODES, "Exit codes that count as success, beside 0")
        .details(
            "Treated like exit code 0: the task completes, or runs again with `policy: always`. An exit code may be in one list \
             only.",
        )
        .example("[3]")
        .flag("success-code", "CODE"),
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

/// Reads `restart`, or gives its defaults; some of them depend on other fields. `of_job` is the default policy of the job's
/// tasks.
pub(super) fn read(task: &Object<'_>, of_job: RestartPolicy, when: When) -> Restart {
    let object = task.nested_or_empty("restart");
    let (on_exit, not_on_exit, success) = exit_codes(&object);
    let names_codes = object.has("on_exit") || object.has("not_on_exit");
    // What runs after the others ends, also in a service: it may be all that a stopped job waits for.
    let runs_once = when != When::Success;
    let default = if runs_once { RestartPolicy::Never } else { of_job };
    let policy = object.optional("policy").unwrap_or(match default {
        RestartPolicy::Never if names_codes => RestartPolicy::OnFailure,
        policy => policy,
    });
    if let Some(node) = object.field("policy").filter(|_| runs_once && policy == RestartPolicy::Always) {
        node.wrong::<()>(
            "a task with `when: always` or `when: failure` runs once: write `on-failure` or `never`, or leave the policy out",
        );
    }
    for name in ["on_exit", "not_on_exit"] {
        if let Some(node) = object.field(name).filter(|_| policy == RestartPolicy::Never) {
            node.wrong::<()>(format!(
                "`{name}` has no effect with `policy: never`: write `policy: on-failure`, or leave it out"
            ));
        }
    }
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
    Restart { policy, on_exit, not_on_exit, success, limit, within, delay, backoff, on_lost }
}

/// Reads `on_exit`, `not_on_exit` and `success`. No exit code may have two meanings.
fn exit_codes(object: &Object<'_>) -> (ExitCodes, ExitCodes, ExitCodes) {
    let read = |name, other: &dyn Fn(u8) -> Option<&'static str>| {
        object.read(name, |node| exit_codes::read(node, other)).unwrap_or_default()
    };
    let success = read("success", &|_| None);
    let is_success = move |code: u8| match code {
        0 => Some("is a success"),
        code => success.contains(code.into()).then_some("is in `success` too"),
    };
    let on_exit = read("on_exit", &is_success);
    let is_known =
        move |code: u8| is_success(code).or(on_exit.contains(code.into()).then_some("is in `on_exit` too"));
    (on_exit, read("not_on_exit", &is_known), success)
}
