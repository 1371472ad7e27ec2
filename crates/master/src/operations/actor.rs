//! Who asks.

use std::sync::Arc;

use gaffer_domain::ProjectId;
use gaffer_domain::permissions::{Action, Role};

use super::OperationError;

/// Somebody who asks for something, in the project that they are in.
#[derive(Debug, Clone)]
pub struct Actor {
    /// The project.
    pub project: ProjectId,
    /// What they are there.
    pub role: Role,
    /// Number of the user.
    pub user_id: i64,
    /// Name of the user, as history tells it.
    pub user: Arc<str>,
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
