//! The actor of an operation.

use std::net::IpAddr;
use std::sync::Arc;

use gaffer_domain::ProjectId;
use gaffer_domain::permissions::{self, Action, Denied, Standing};
use gaffer_domain::scopes::Scopes;

use super::OperationError;
use crate::open_streams::Credential;
use crate::store::audit::NewEntry;

/// Who performs an operation, and in which project.
#[derive(Debug, Clone)]
pub struct Actor {
    pub project: ProjectId,
    /// What they are in the project, and in the installation.
    pub standing: Standing,
    /// What their key may be used for. All, if they have shown something else.
    pub scopes: Scopes,
    /// Number of the user.
    pub user_id: i64,
    /// Name of the user, as history tells it.
    pub user: Arc<str>,
    /// The one project in which they can do something: that of their key. None if it is any of which they are a member.
    pub limited_to: Option<ProjectId>,
    /// What they have shown, and from where.
    pub shown: Shown,
}

/// What somebody has shown to prove who they are, and from where: nothing for the master itself and for monitoring.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    pub credential: Option<Credential>,
    /// The credential in words, for the audit log.
    pub name: Option<Arc<str>>,
    /// Address of the client, or of its proxy.
    pub address: Option<IpAddr>,
}

impl Actor {
    /// Passes if they may do this.
    ///
    /// # Errors
    /// [`OperationError::NotAllowed`] if their role may not, [`OperationError::ScopeMissing`] if their key may not.
    pub fn must_be_allowed(&self, action: Action) -> Result<(), OperationError> {
        permissions::check(self.standing, self.scopes, action).map_err(|denied| match denied {
            Denied::Role => OperationError::NotAllowed { role: self.standing.role, action },
            Denied::Scopes(missing) => OperationError::ScopeMissing { missing, action },
        })
    }

    /// Passes if a key with these scopes may do no more than the actor.
    ///
    /// # Errors
    /// [`OperationError::MoreThanOwn`] if it may.
    pub fn must_have(&self, scopes: Scopes) -> Result<(), OperationError> {
        let missing = scopes.without(self.scopes);
        if missing.is_empty() { Ok(()) } else { Err(OperationError::MoreThanOwn { missing }) }
    }
}

impl Actor {
    /// What the actor asks for, as the audit log has it.
    pub(super) fn entry<'a>(
        &'a self,
        action: &'a str,
        target: &'a str,
        address: Option<&'a str>,
    ) -> NewEntry<'a> {
        NewEntry {
            project: Some(self.project),
            user: &self.user,
            credential: self.shown.name.as_deref(),
            address,
            action,
            target,
        }
    }

    /// The address that the actor's request came from.
    pub(super) fn address_text(&self) -> Option<String> {
        self.shown.address.map(|address| address.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use gaffer_domain::permissions::Role;
    use gaffer_domain::scopes::Scope;

    use super::*;

    #[test]
    fn an_actor_that_may_not_do_something_is_told_what() {
        let actor = |role, scopes| Actor {
            project: ProjectId(1),
            standing: Standing::only(role),
            scopes,
            user_id: 1,
            user: "ana".into(),
            limited_to: Some(ProjectId(1)),
            shown: Shown::default(),
        };
        let error = actor(Role::Worker, Scopes::ALL).must_be_allowed(Action::StopJob).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the role worker may not stop jobs: that takes the role operator or admin"
        );
        for role in Role::ALL {
            for action in Action::ALL {
                let is_allowed = actor(role, Scopes::ALL).must_be_allowed(action).is_ok();
                assert_eq!(is_allowed, role.may(action), "{} {action}", role.as_str());
            }
        }
        let error =
            actor(Role::Operator, Scopes::only(Scope::Read)).must_be_allowed(Action::StopJob).unwrap_err();
        assert_eq!(
            error.to_string(),
            "this key may not stop jobs: it lacks the scope operate; use a key that has it, made on the page Keys or by \
             `gaffer keys create NAME --scope operate`"
        );
    }
}
