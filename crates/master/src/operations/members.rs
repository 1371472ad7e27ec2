//! Members of projects: list, add, change their role, remove.

use gaffer_domain::members::{KeepsRole, MemberRole, UnknownRole};
use gaffer_domain::permissions::Action;
use serde_json::json;

use super::context::Effects;
use super::projects::reach;
use super::{Actor, Context, OperationError};
use crate::records::{Member, Project};
use crate::store::members::MemberChanged;

/// The members of a project, in the order in which their users were created, from behind a number on.
///
/// # Errors
/// When the actor does not see the project.
pub async fn list(
    context: &Context,
    actor: &Actor,
    project: &str,
    after: Option<i64>,
    limit: u32,
) -> Result<Vec<Member>, OperationError> {
    let project = reach(context, actor, project, Action::LookAtProjects).await?;
    let views = context.permit_to_look(actor, Action::LookAtProjects)?;
    Ok(views.reads.member_list(project.id, after, limit).await?)
}

/// Makes a user a member with this role, or gives a member another role.
///
/// # Errors
/// When there is no such project, user or role, or the project would be left without an admin.
pub async fn set(
    context: &Context,
    actor: &Actor,
    project: &str,
    user: &str,
    role: &str,
) -> Result<Member, OperationError> {
    let role: MemberRole =
        role.parse().map_err(|error: UnknownRole| OperationError::field("/role", error.to_string()))?;
    let changed = change(context, actor, project, user, Some(role)).await?;
    changed.ok_or_else(|| no_member(project, user))
}

/// Removes a member. Their keys of the project are revoked, and what they follow in it ends.
///
/// # Errors
/// When there is no such project or member, or the project would be left without an admin.
pub async fn remove(
    context: &Context,
    actor: &Actor,
    project: &str,
    user: &str,
) -> Result<(), OperationError> {
    change(context, actor, project, user, None).await.map(drop)
}

async fn change(
    context: &Context,
    actor: &Actor,
    project: &str,
    user: &str,
    role: Option<MemberRole>,
) -> Result<Option<Member>, OperationError> {
    let found = reach(context, actor, project, Action::ManageMembers).await?;
    let target = format!("member {user}");
    let mut noted = context.change_in(Some(found.id), actor, Action::ManageMembers, &target).await?;
    noted.after(json!({ "role": role.map(MemberRole::as_str) }));
    let changed = make_change(noted.effects, &found, user, role).await;
    noted.end(changed).await
}

async fn make_change(
    effects: &Effects,
    found: &Project,
    user: &str,
    role: Option<MemberRole>,
) -> Result<Option<Member>, OperationError> {
    let project = &found.name;
    // Also if the database does not say whether it has happened.
    let _checked = effects.wakes.key_check.call_on_drop();
    let detail = match effects.writes.member_change(found.id, user, role).await? {
        MemberChanged::Done(member) => return Ok(member),
        MemberChanged::UnknownUser => return Err(OperationError::NotFound(format!("user {user}"))),
        MemberChanged::NoMember => return Err(no_member(project, user)),
        MemberChanged::Kept(KeepsRole::LastAdmin) => {
            format!("{user} is the last admin of project {project}; make somebody else an admin first")
        }
        MemberChanged::Kept(KeepsRole::Personal) => {
            format!("project {project} is the personal project of {user}, who stays its admin")
        }
    };
    Err(OperationError::Conflict { detail, state: MemberRole::Admin.as_str() })
}

fn no_member(project: &str, user: &str) -> OperationError {
    OperationError::NotFound(format!("member {user} in project {project}"))
}
