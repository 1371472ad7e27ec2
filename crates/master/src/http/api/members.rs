//! `/projects/{project}/members`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::{Member, SetMember};

use super::super::bodies::people;
use super::super::description::{CURSOR, Done, JsonBody, LIMIT, Listed, Operation};
use super::super::error::Error;
use super::super::params::{Params, page_of};
use crate::operations::{Actor, Context, members};

pub const LIST: Operation = Operation {
    query: &[LIMIT, CURSOR],
    ..Operation::new("list_members", "List the members of a project", Action::LookAtProjects)
};

/// `GET /projects/{project}/members`
pub async fn list(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(project): Path<String>,
    params: Params,
) -> Result<Listed<Member>, Error> {
    let limit = params.limit()?;
    let found = members::list(&context, &actor, &project, params.cursor()?, limit + 1).await?;
    Ok(Listed::of(&params, page_of(found, limit, |member| member.user_id).map(people::member)))
}

pub const SET: Operation = Operation {
    description: "Adds a user to the project, or changes the role of a member.",
    errors: &[(409, "The project would be left without an admin, or it is the user's personal project.")],
    ..Operation::new("set_member", "Add a member, or change the role", Action::ManageMembers)
};

/// `POST /projects/{project}/members/{user}`
pub async fn set(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path((project, user)): Path<(String, String)>,
    body: JsonBody<SetMember>,
) -> Result<Json<Member>, Error> {
    let SetMember { role } = body.read()?;
    Ok(Json(people::member(members::set(&context, &actor, &project, &user, &role).await?)))
}

pub const REMOVE: Operation = Operation {
    description: "The member's keys of the project are revoked, and responses that the member reads in it end.",
    errors: &[(409, "The project would be left without an admin, or it is the user's personal project.")],
    ..Operation::new("remove_member", "Remove a member", Action::ManageMembers)
};

/// `DELETE /projects/{project}/members/{user}`
pub async fn remove(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path((project, user)): Path<(String, String)>,
) -> Result<Done, Error> {
    members::remove(&context, &actor, &project, &user).await?;
    Ok(Done)
}
