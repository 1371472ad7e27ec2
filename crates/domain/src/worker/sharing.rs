//! Which projects a worker takes tasks of.

use std::collections::BTreeSet;

use crate::ProjectId;

/// Which projects a worker takes tasks of, beside the project that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sharing {
    /// No other ones.
    #[default]
    Own,
    /// All projects of the installation.
    All,
    /// These.
    Projects(BTreeSet<ProjectId>),
}

impl Sharing {
    /// Whether other projects may use the worker.
    pub fn is_shared(&self) -> bool {
        *self != Sharing::Own
    }

    /// Whether that project may use the worker, if it is not its own.
    pub fn includes(&self, project: ProjectId) -> bool {
        match self {
            Sharing::Own => false,
            Sharing::All => true,
            Sharing::Projects(projects) => projects.contains(&project),
        }
    }
}
