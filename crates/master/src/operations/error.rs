//! Errors of operations, with the text that users see.

use gaffer_domain::JobId;
use gaffer_domain::permissions::{Action, Role};
use gaffer_domain::scopes::Scopes;
use gaffer_domain::spec::FieldError;

use crate::store::StoreError;
use crate::write_batcher::ShuttingDown;

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// Not allowed.
    #[error("the role {} may not {action}: that takes the role {}", role.as_str(), one_of(action.roles()))]
    NotAllowed { role: Role, action: Action },
    /// Their key was not made for it.
    #[error(
        "this key may not {action}: it lacks the scope {missing}; use a key that has it, made on the page Keys or by \
         `gaffer keys create NAME --scope {}`", for_command(*.missing)
    )]
    ScopeMissing { missing: Scopes, action: Action },
    /// A key would be able to do more than the one that makes it.
    #[error(
        "a key can only make keys with scopes that it has: this one lacks {missing}; leave that out, or make the key on \
         the page Keys"
    )]
    MoreThanOwn { missing: Scopes },
    /// A shared worker of another project.
    #[error(
        "worker {worker} belongs to another project, which shares it: only members of that project may do this"
    )]
    OfAnotherProject { worker: String },
    /// Not found in the project.
    #[error("no {0}")]
    NotFound(String),
    /// Invalid input.
    #[error("{detail}")]
    Invalid {
        /// Stable, for programs.
        code: &'static str,
        /// For people.
        detail: String,
        /// JSON pointer to the field at fault.
        field: Option<&'static str>,
    },
    /// An invalid specification, or invalid values of its parameters.
    #[error("invalid job specification")]
    InvalidSpec(Vec<FieldError>),
    /// The name of this request was used for another one.
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
    /// It can't be done in the present state.
    #[error("{detail}")]
    Conflict {
        /// For people.
        detail: String,
        state: &'static str,
    },
    /// Secrets cannot be used; the text says what the operator of the master has to do.
    #[error("{0}")]
    SecretsUnavailable(String),
    /// A lock or too much load; the same request may succeed soon.
    #[error("{0}; try again in a moment")]
    Busy(&'static str),
    #[error(transparent)]
    ShuttingDown(#[from] ShuttingDown),
    /// The database did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OperationError {
    /// A field of the input is wrong.
    pub fn field(field: &'static str, detail: impl Into<String>) -> OperationError {
        OperationError::Invalid { code: "invalid_body", detail: detail.into(), field: Some(field) }
    }
}

/// Such as "operator or admin".
fn one_of(roles: &[Role]) -> String {
    let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    match names.as_slice() {
        [before @ .., last] if !before.is_empty() => format!("{} or {last}", before.join(", ")),
        names => names.concat(),
    }
}

/// Scopes as an option of a command has them.
fn for_command(scopes: Scopes) -> String {
    scopes.to_string().replace(' ', "")
}

/// Not found, or in another project.
pub fn no_job(job: JobId) -> OperationError {
    OperationError::NotFound(format!("job {job}"))
}
