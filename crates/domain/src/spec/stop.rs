//! How an attempt is asked to end.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::field::{Field, Kind, Most};
use super::node::{Node, Object};
use crate::quantity::{Span, shown};

/// How an attempt is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopSpec {
    /// The first, polite signal.
    pub signal: StopSignal,
    /// How long it has until everything it started is killed.
    pub grace: Span,
}

const SIGNAL: Kind = Kind::Text {
    what: "the name of a signal such as SIGTERM",
    pattern: "^([Ss][Ii][Gg])?([Tt][Ee][Rr][Mm]|[Ii][Nn][Tt]|[Qq][Uu][Ii][Tt]|[Hh][Uu][Pp]|[Uu][Ss][Rr][12]|[Kk][Ii][Ll][Ll])$",
    most: Most::Any,
};

/// The fields of `stop`.
pub const STOP: &[Field] = &[
    Field::new(
        "signal",
        SIGNAL,
        "First signal of a stop",
    )
    .limits(
        "`SIGTERM`, `SIGINT`, `SIGQUIT`, `SIGHUP`, `SIGUSR1`, `SIGUSR2`, `SIGKILL`; any case, `SIG` optional",
    )
    .default("SIGTERM")
    .example("SIGINT")
    .flag("stop-signal", "SIGNAL"),
    Field::new(
        "grace",
        Kind::Time(Span::from_millis(0)..=Span::from_secs(60 * 60)),
        "Time from the stop signal to SIGKILL",
    )
    .details("The kill ends everything that the attempt started.")
    .default("10s")
    .example("20s")
    .flag("grace", "TIME"),
];

/// The signals that may ask a task to end, and that a user may send to a running one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum StopSignal {
    Sigterm,
    Sigint,
    Sigquit,
    Sighup,
    Sigusr1,
    Sigusr2,
    Sigkill,
}

/// A text that is not the name of a signal which may be sent to a task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is not a signal that a task may get: write one of {}", StopSignal::ALL.map(StopSignal::name).join(", "))]
pub struct UnknownSignal {
    name: String,
}

impl StopSignal {
    /// All of them.
    pub const ALL: [StopSignal; 7] = [
        StopSignal::Sigterm,
        StopSignal::Sigint,
        StopSignal::Sigquit,
        StopSignal::Sighup,
        StopSignal::Sigusr1,
        StopSignal::Sigusr2,
        StopSignal::Sigkill,
    ];

    /// The number on Linux.
    pub fn number(self) -> i32 {
        match self {
            StopSignal::Sighup => 1,
            StopSignal::Sigint => 2,
            StopSignal::Sigquit => 3,
            StopSignal::Sigkill => 9,
            StopSignal::Sigusr1 => 10,
            StopSignal::Sigusr2 => 12,
            StopSignal::Sigterm => 15,
        }
    }

    /// The name as people and the C library write it: `SIGTERM`.
    pub const fn name(self) -> &'static str {
        match self {
            StopSignal::Sigterm => "SIGTERM",
            StopSignal::Sigint => "SIGINT",
            StopSignal::Sigquit => "SIGQUIT",
            StopSignal::Sighup => "SIGHUP",
            StopSignal::Sigusr1 => "SIGUSR1",
            StopSignal::Sigusr2 => "SIGUSR2",
            StopSignal::Sigkill => "SIGKILL",
        }
    }
}

impl Display for StopSignal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for StopSignal {
    type Err = UnknownSignal;

    /// Takes the name in any case, with or without its `SIG`.
    fn from_str(text: &str) -> Result<StopSignal, UnknownSignal> {
        let upper = text.to_ascii_uppercase();
        let short = upper.strip_prefix("SIG").unwrap_or(&upper);
        let known =
            StopSignal::ALL.into_iter().find(|signal| signal.name().strip_prefix("SIG") == Some(short));
        known.ok_or_else(|| UnknownSignal { name: shown(text) })
    }
}

/// Reads `stop`, or gives its defaults.
pub(super) fn read(task: &Object<'_>) -> StopSpec {
    let object = task.nested_or_empty("stop");
    let stop = StopSpec { signal: object.value_as("signal", signal), grace: object.value("grace") };
    object.finish();
    stop
}

fn signal(node: &Node<'_>) -> Option<StopSignal> {
    match node.own_text()?.parse() {
        Ok(signal) => Some(signal),
        Err(why) => node.wrong(UnknownSignal::to_string(&why)),
    }
}
