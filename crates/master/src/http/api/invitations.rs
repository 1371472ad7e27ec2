//! `/invitations`.

use std::sync::Arc;

use axum::extract::{Path, State};
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::{Invitation, NewInvitation};

use super::super::Site;
use super::super::bodies::people;
use super::super::description::{
    CURSOR, Created, Done, JsonBody, LIMIT, Listed, Operation, Parameter, Values,
};
use super::super::error::Error;
use super::super::params::{Params, id, page_of};
use crate::operations::{Actor, Context, invitations};

const PROJECT: Parameter =
    Parameter::new("project", Values::Text, "Name of the project; without it, that of the key.");

pub const LIST: Operation = Operation {
    description: "Newest first, without their links.",
    query: &[PROJECT, LIMIT, CURSOR],
    errors: &[(404, "There is no such project.")],
    ..Operation::new("list_invitations", "List invitations", Action::ManageMembers)
};

/// `GET /invitations`
pub async fn list(
    State(context): State<Arc<Context>>,
    actor: Actor,
    params: Params,
) -> Result<Listed<Invitation>, Error> {
    let limit = params.limit()?;
    let (project, cursor) = (params.text("project"), params.cursor()?);
    let found = invitations::list(&context, &actor, project, cursor, limit + 1).await?;
    Ok(Listed::of(&params, page_of(found, limit, |invitation| invitation.id).map(people::invitation)))
}

pub const CREATE: Operation = Operation {
    description: "The response has the link in `url`, this once. It makes one person a member with that role, as a new \
        user with a name and a password of their choice, or as the user who is signed in.",
    errors: &[(404, "There is no such project.")],
    ..Operation::new("create_invitation", "Invite somebody to a project", Action::ManageMembers)
};

/// `POST /invitations`
pub async fn create(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    actor: Actor,
    body: JsonBody<NewInvitation>,
) -> Result<Created<Invitation>, Error> {
    let NewInvitation { project, role, valid } = body.read()?;
    let invited = invitations::create(&context, &actor, project.as_deref(), &role, valid).await?;
    Ok(Created(people::created_invitation(&site, invited)))
}

pub const REVOKE: Operation =
    Operation::new("revoke_invitation", "Revoke an invitation", Action::ManageMembers);

/// `DELETE /invitations/{invitation}`
pub async fn revoke(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(invitation): Path<String>,
) -> Result<Done, Error> {
    invitations::revoke(&context, &actor, id(&invitation, "invitation")?).await?;
    Ok(Done)
}
