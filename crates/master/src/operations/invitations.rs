//! Invitations to a project: make, list, revoke. `registration` takes them.

use std::time::Duration;

use gaffer_domain::members::{MemberRole, UnknownRole};
use gaffer_domain::permissions::Action;
use gaffer_domain::quantity::Span;
use serde_json::json;

use super::projects::reach;
use super::{Actor, Context, OperationError};
use crate::records::{Invitation, Project};
use crate::secret::{NewSecret, Purpose};

/// How long an invitation is good for, if nothing is said.
const DEFAULT_VALID: Duration = Duration::from_secs(7 * 24 * 3_600);
/// The longest that it may be.
const MAX_VALID: Duration = Duration::from_secs(30 * 24 * 3_600);

/// A new invitation with its secret, which is not stored.
#[derive(Debug, Clone)]
pub struct Invited {
    pub invitation: Invitation,
    pub token: String,
}

/// The project that an invitation is for: the actor's own, unless another one is named.
async fn project_of(
    context: &Context,
    actor: &Actor,
    project: Option<&str>,
) -> Result<Project, OperationError> {
    match project {
        Some(name) => reach(context, actor, name, Action::ManageMembers).await,
        None => super::projects::own(context, actor, Action::ManageMembers).await,
    }
}

/// Makes an invitation.
///
/// # Errors
/// When there is no such project or role, or it would be good for too long.
pub async fn create(
    context: &Context,
    actor: &Actor,
    project: Option<&str>,
    role: &str,
    valid: Option<Span>,
) -> Result<Invited, OperationError> {
    let project = project_of(context, actor, project).await?;
    let role: MemberRole =
        role.parse().map_err(|error: UnknownRole| OperationError::field("/role", error.to_string()))?;
    let valid = valid.map_or(DEFAULT_VALID, |span| Duration::from_millis(span.as_millis()));
    if valid < Duration::from_secs(1) || valid > MAX_VALID {
        return Err(OperationError::field("/valid", "expected a duration from 1s to 30d"));
    }
    let mut change = context.change_in(Some(project.id), actor, Action::ManageMembers, "invitation").await?;
    change.after(json!({ "role": role.as_str() }));
    let effects = change.effects;
    let (secret, secs) = (NewSecret::new(Purpose::Invitation), valid.as_secs());
    let by = (actor.user_id, &*actor.user);
    let made = effects.writes.invitation_insert(project.id, role, by, &secret.sha256, secs).await;
    let invitation = change.end(made.map_err(OperationError::from)).await?;
    effects.guesses.is_made(&secret.sha256);
    Ok(Invited { invitation, token: secret.text })
}

/// The invitations of a project, newest first, from below a number on.
///
/// # Errors
/// When there is no such project.
pub async fn list(
    context: &Context,
    actor: &Actor,
    project: Option<&str>,
    before: Option<i64>,
    limit: u32,
) -> Result<Vec<Invitation>, OperationError> {
    let project = project_of(context, actor, project).await?;
    let views = context.permit_to_look(actor, Action::ManageMembers)?;
    Ok(views.reads.invitation_list(project.id, before, limit).await?)
}

/// Revokes an invitation of the actor's project.
///
/// # Errors
/// When there is no such invitation that is neither used nor revoked.
pub async fn revoke(context: &Context, actor: &Actor, id: i64) -> Result<(), OperationError> {
    let mut change = context.change(actor, Action::ManageMembers, &format!("invitation {id}")).await?;
    change.after(json!({ "revoked": true }));
    let revoked = match change.effects.writes.invitation_revoke(actor.project, id).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(OperationError::NotFound(format!("open invitation {id}"))),
        Err(error) => Err(error.into()),
    };
    change.end(revoked).await
}
