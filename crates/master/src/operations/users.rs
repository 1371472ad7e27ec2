//! Users of the installation: list, create, disable, enable, delete.

use gaffer_domain::permissions::Action;
use serde_json::{Value, json};

use super::context::Effects;
use super::projects::{kept, name_of, taken};
use super::sign_in::{self, Link};
use super::{Actor, Context, OperationError};
use crate::records::User;
use crate::secret::{NewSecret, Purpose};
use crate::store::users::{UserChange, UserChanged, UserDeleted};

/// How long the link of a new user is good for.
const FIRST_LINK_VALID_SECS: u32 = 24 * 3_600;

/// A new user, with a link that signs them in once.
#[derive(Debug, Clone)]
pub struct Created {
    pub user: User,
    pub link: Link,
}

/// The users, oldest first, from behind a number on.
///
/// # Errors
/// When the database does not answer.
pub async fn list(
    context: &Context,
    actor: &Actor,
    after: Option<i64>,
    limit: u32,
) -> Result<Vec<User>, OperationError> {
    let views = context.permit_to_look(actor, Action::ListUsers)?;
    Ok(views.reads.user_list(after, limit).await?)
}

/// Creates a user with a personal project of the same name.
///
/// # Errors
/// When the name is invalid or taken.
pub async fn create(
    context: &Context,
    actor: &Actor,
    name: &str,
    is_admin: bool,
) -> Result<Created, OperationError> {
    let mut change = context.change_in(None, actor, Action::ManageUsers, &format!("user {name}")).await?;
    change.after(json!({ "created": true, "installation_admin": is_admin }));
    let created = make(change.effects, name, is_admin).await;
    change.end(created).await
}

async fn make(effects: &Effects, name: &str, is_admin: bool) -> Result<Created, OperationError> {
    let name = name_of("/name", name)?;
    let user = effects.writes.user_create(&name, is_admin).await?.ok_or_else(|| taken(&name))?;
    let link = sign_in::link(effects, user.id, None, FIRST_LINK_VALID_SECS).await?;
    Ok(Created { user, link })
}

/// A link that signs a user in, once.
///
/// # Errors
/// When there is no such user, or they are disabled.
pub async fn create_link(context: &Context, actor: &Actor, name: &str) -> Result<Link, OperationError> {
    let mut change = context.change_in(None, actor, Action::ManageUsers, &format!("user {name}")).await?;
    change.after(json!({ "sign_in_link": "made" }));
    let link = make_link(change.effects, name).await;
    change.end(link).await
}

async fn make_link(effects: &Effects, name: &str) -> Result<Link, OperationError> {
    let user = enabled(effects.writes.user_find(name).await?, name)?;
    Ok(sign_in::link(effects, user.id, None, FIRST_LINK_VALID_SECS).await?)
}

/// A link with which a user chooses a password, once. Links of before are good no more.
///
/// # Errors
/// When there is no such user, or they are disabled.
pub async fn create_reset_link(context: &Context, actor: &Actor, name: &str) -> Result<Link, OperationError> {
    let mut change = context.change_in(None, actor, Action::ManageUsers, &format!("user {name}")).await?;
    change.after(json!({ "password_link": "made" }));
    let link = make_reset_link(change.effects, name).await;
    change.end(link).await
}

async fn make_reset_link(effects: &Effects, name: &str) -> Result<Link, OperationError> {
    let user = enabled(effects.writes.user_find(name).await?, name)?;
    let secret = NewSecret::new(Purpose::PasswordReset);
    let writes = &effects.writes;
    let expires_at = writes.reset_link_insert(user.id, &secret.sha256, FIRST_LINK_VALID_SECS).await?;
    effects.guesses.is_made(&secret.sha256);
    Ok(Link { token: secret.text, expires_at })
}

/// Disables or enables a user, or says whether they administer the installation. What a disabled user follows ends.
///
/// # Errors
/// When there is no such user, or nobody would be left to administer the installation.
pub async fn change(
    context: &Context,
    actor: &Actor,
    name: &str,
    change: UserChange,
) -> Result<User, OperationError> {
    let mut noted = context.change_in(None, actor, Action::ManageUsers, &format!("user {name}")).await?;
    noted.after(told(change));
    let changed = make_change(noted.effects, name, change).await;
    noted.end(changed).await
}

/// What the audit log says of a change.
fn told(change: UserChange) -> Value {
    match change {
        UserChange::Disable => json!({ "disabled": true }),
        UserChange::Enable => json!({ "disabled": false }),
        UserChange::SetAdmin(is_admin) => json!({ "installation_admin": is_admin }),
    }
}

async fn make_change(effects: &Effects, name: &str, change: UserChange) -> Result<User, OperationError> {
    // Also if the database does not say whether it has happened.
    let _checked = effects.wakes.key_check.call_on_drop();
    match effects.writes.user_change(name, change).await? {
        UserChanged::Done(user) => Ok(user),
        UserChanged::LastAdministrator => Err(last_administrator(name)),
        UserChanged::Unknown => Err(no_user(name)),
    }
}

/// Deletes a user with their sessions, keys and personal project. `confirmed`: their name, if all that the project has is to
/// go with it.
///
/// # Errors
/// When there is no such user, somebody or something would be left without them, or it is not confirmed.
pub async fn delete(
    context: &Context,
    actor: &Actor,
    name: &str,
    confirmed: Option<&str>,
) -> Result<(), OperationError> {
    let mut change = context.change_in(None, actor, Action::ManageUsers, &format!("user {name}")).await?;
    change.after(json!({ "deleted": true }));
    let deleted = delete_found(change.effects, name, confirmed).await;
    change.end(deleted).await
}

async fn delete_found(effects: &Effects, name: &str, confirmed: Option<&str>) -> Result<(), OperationError> {
    // Also if the database does not say whether they are gone.
    let (_checked, _deleted) =
        (effects.wakes.key_check.call_on_drop(), effects.wakes.deletion.call_on_drop());
    match effects.writes.user_delete(name, confirmed == Some(name)).await? {
        UserDeleted::Done => Ok(()),
        UserDeleted::LastAdministrator => Err(last_administrator(name)),
        UserDeleted::LastAdminOf(projects) => {
            let projects = projects.join(", ");
            let detail =
                format!("{name} is the last admin of {projects}; make somebody else an admin there first");
            Err(OperationError::Conflict { detail, state: "admin" })
        }
        UserDeleted::ProjectKept(why, holdings) => Err(kept(name, why, &holdings)),
        UserDeleted::Unknown => Err(no_user(name)),
    }
}

/// The user, if there is one who can do something.
fn enabled(user: Option<User>, name: &str) -> Result<User, OperationError> {
    let user = user.ok_or_else(|| no_user(name))?;
    if user.disabled_at.is_some() {
        let detail = format!("user {name} is disabled; enable the user first");
        return Err(OperationError::Conflict { detail, state: "disabled" });
    }
    Ok(user)
}

fn last_administrator(name: &str) -> OperationError {
    let detail = format!("{name} is the last administrator of the installation; name another one first");
    OperationError::Conflict { detail, state: "admin" }
}

fn no_user(name: &str) -> OperationError {
    OperationError::NotFound(format!("user {name}"))
}
