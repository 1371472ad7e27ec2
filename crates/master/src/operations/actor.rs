//! The actor of an operation.

use std::sync::Arc;

use gaffer_domain::ProjectId;
use gaffer_domain::permissions::{Action, Role};

use super::OperationError;
use crate::open_streams::Credential;

/// Who performs an operation, and in which project.
#[derive(Debug, Clone)]
pub struct Actor {
    pub project: ProjectId,
    pub role: Role,
    /// Number of the user.
    pub user_id: i64,
    /// Name of the user, as history tells it.
    pub user: Arc<str>,
    /// What they have shown; none for the master itself and for monitoring.
    pub credential: Option<Credential>,
}

impl Actor {
    /// Passes if they may do this.
    ///
    /// # Errors
    /// [`OperationError::NotAllowed`] if they may not.
    pub fn must_be_allowed(&self, action: Action) -> Result<(), OperationError> {
        match self.role.may(action) {
            true => Ok(()),
            false => Err(OperationError::NotAllowed { role: self.role, action }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn an_actor_that_may_not_do_something_is_told_what() {
        let actor = |role| Actor {
            project: ProjectId(1),
            role,
            user_id: 1,
            user: "ana".into(),
            credential: Some(Credential::Key(1)),
        };
        let error = actor(Role::Worker).must_be_allowed(Action::StopJob).unwrap_err();
        assert_eq!(error.to_string(), "the role worker may not stop jobs");
        for role in Role::ALL {
            for action in Action::ALL {
                let is_allowed = actor(role).must_be_allowed(action).is_ok();
                assert_eq!(is_allowed, role.may(action), "{} {action}", role.as_str());
            }
        }
    }
}
