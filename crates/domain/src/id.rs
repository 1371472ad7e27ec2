//! Numeric ids, one type each, so that they cannot be mixed up.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                match text.parse::<i64>() {
                    Ok(number) if number > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok($name(number)),
                    _ => Err(InvalidId),
                }
            }
        }
    };
}

id! {
    /// A project: the wall between tenants.
    ProjectId
}
id! {
    /// A job, as its users address it: `42`.
    JobId
}
id! {
    /// A task, inside master and worker; users say `name.index`.
    TaskId
}
id! {
    /// A registered worker.
    WorkerId
}

/// How users address a task in its job: `name`, or `name.index` if its definition has several tasks. The single one keeps its bare
/// name while an update has further instances beside it.
pub fn task_address(name: &str, index: u32, is_single: bool) -> String {
    match is_single && index == 0 {
        true => name.to_owned(),
        false => format!("{name}.{index}"),
    }
}

/// The text was not a positive whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a positive integer such as 42")]
pub struct InvalidId;

/// One execution of a task. The number is the fence: what is said of an older attempt changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptRef {
    /// The task.
    pub task: TaskId,
    /// Counted from 1 within the task.
    pub attempt: u32,
}

impl fmt::Display for AttemptRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.task, self.attempt)
    }
}
