//! Why an operation was not done, in the words that users read, whatever door they came through.

use gaffer_domain::permissions::{Action, Role};

use crate::store::StoreError;
use crate::write_batcher::ShuttingDown;

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// Whoever asks may not do that.
    #[error("the role {} may not {action}", role.as_str())]
    NotAllowed { role: Role, action: Action },
    /// Not found in the project.
    #[error("no {0}")]
    NotFound(String),
    /// What is wanted makes no sense.
    #[error("{detail}")]
    Invalid {
        /// Stable, for programs.
        code: &'static str,
        /// For people.
        detail: String,
        /// JSON pointer to the field at fault.
        field: Option<&'static str>,
    },
    /// The name of this request was used for another one.
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
    /// It can't be done in the present state.
    #[error("{detail}")]
    Conflict {
        /// For people.
        detail: String,
        /// The present state.
        state: &'static str,
    },
    /// Somebody else is at it; the same may work in a moment.
    #[error("{0}; try again in a moment")]
    Busy(&'static str),
    /// The master goes down.
    #[error(transparent)]
    ShuttingDown(#[from] ShuttingDown),
    /// The database did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OperationError {
    /// A field of what is wanted is wrong.
    pub fn field(field: &'static str, detail: impl Into<String>) -> OperationError {
        OperationError::Invalid { code: "invalid_body", detail: detail.into(), field: Some(field) }
    }
}
