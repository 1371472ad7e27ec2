//! What a task definition waits for: which others, and which outcome.

use serde::{Deserialize, Serialize};

use super::field::{Field, Kind, Most, Words};

/// Another definition of the job that a definition waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredDependency", into = "StoredDependency")]
pub struct Dependency {
    /// Its name.
    pub task: String,
    /// What its tasks have to come to.
    pub on: On,
    /// Which of its tasks each task waits for.
    pub index: IndexMatch,
}

/// A dependency as it is stored: its name alone, if it has to complete.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredDependency {
    Name(String),
    Outcome {
        task: String,
        #[serde(default)]
        on: On,
        #[serde(default, skip_serializing_if = "IndexMatch::is_all")]
        index: IndexMatch,
    },
}

impl From<StoredDependency> for Dependency {
    fn from(stored: StoredDependency) -> Dependency {
        match stored {
            StoredDependency::Name(task) => Dependency { task, on: On::Completed, index: IndexMatch::All },
            StoredDependency::Outcome { task, on, index } => Dependency { task, on, index },
        }
    }
}

impl From<Dependency> for StoredDependency {
    fn from(Dependency { task, on, index }: Dependency) -> StoredDependency {
        match (on, index) {
            (On::Completed, IndexMatch::All) => StoredDependency::Name(task),
            (on, index) => StoredDependency::Outcome { task, on, index },
        }
    }
}

/// The fields of a member of `depends_on`.
pub const DEPENDENCY: &[Field] = &[
    Field::new("task", Kind::text("the name of a task", Most::Any), "Name of the other task")
        .required()
        .example("prepare"),
    Field::new("on", Kind::words::<On>(), "Outcome of the other task to wait for")
        .default("completed")
        .example("ended"),
    Field::new("index", Kind::words::<IndexMatch>(), "Which of the other's tasks each task waits for")
        .limits("`same` needs equal indices in both tasks")
        .default("all")
        .example("same"),
];

/// What a dependency has to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// All of its tasks complete.
    #[default]
    Completed,
    /// All of its tasks end, and at least one of them failed, or was cancelled and not skipped.
    Failed,
    /// All of its tasks end.
    Ended,
}

impl Words for On {
    const WORDS: &'static [(&'static str, On, &'static str)] = &[
        ("completed", On::Completed, "all of its tasks complete"),
        ("failed", On::Failed, "all of its tasks end, and one failed or was cancelled (not skipped)"),
        ("ended", On::Ended, "all of its tasks end, whatever the outcome"),
    ];
}

/// Which tasks of a dependency a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexMatch {
    /// All of them.
    #[default]
    All,
    /// The one with its own index. Both definitions have the same indices.
    Same,
}

impl Words for IndexMatch {
    const WORDS: &'static [(&'static str, IndexMatch, &'static str)] =
        &[("all", IndexMatch::All, "all of them"), ("same", IndexMatch::Same, "the one with the same index")];
}

impl IndexMatch {
    pub(super) fn is_all(&self) -> bool {
        *self == IndexMatch::All
    }
}

/// After which outcome of what it waits for a definition runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// When its dependencies have come to what they are waited for.
    #[default]
    Success,
    /// When all it waits for has ended, whatever came of it; also if the job is stopped.
    Always,
    /// When all it waits for has ended and something of it failed, or was cancelled and not skipped.
    Failure,
}

impl Words for When {
    const WORDS: &'static [(&'static str, When, &'static str)] = &[
        ("success", When::Success, "after its dependencies, if each came to what `depends_on` says"),
        ("always", When::Always, "once what it waits for has ended, also if the job is stopped"),
        (
            "failure",
            When::Failure,
            "once what it waits for has ended, if a task of it failed or was cancelled (not skipped)",
        ),
    ];
}

impl When {
    pub(super) fn is_success(&self) -> bool {
        *self == When::Success
    }
}
