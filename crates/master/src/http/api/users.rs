//! `/users`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::{LoginLink, NewUser, User};

use super::super::Site;
use super::super::bodies::people;
use super::super::description::{CURSOR, Created, Done, JsonBody, LIMIT, Listed, Operation};
use super::super::error::Error;
use super::super::params::{Params, page_of};
use super::projects::CONFIRM;
use crate::operations::{Actor, Context, users};
use crate::store::users::UserChange;

const LAST: (u16, &str) = (409, "Nobody would be left to administer the installation.");

pub const LIST: Operation = Operation {
    description: "Oldest first.",
    query: &[LIMIT, CURSOR],
    ..Operation::new("list_users", "List users", Action::ListUsers)
};

/// `GET /users`
pub async fn list(
    State(context): State<Arc<Context>>,
    actor: Actor,
    params: Params,
) -> Result<Listed<User>, Error> {
    let limit = params.limit()?;
    let found = users::list(&context, &actor, params.cursor()?, limit + 1).await?;
    Ok(Listed::of(&params, page_of(found, limit, |user| user.id).map(people::user)))
}

pub const CREATE: Operation = Operation {
    description: "The user gets a personal project of the same name. The response has a link that signs the user in, once, \
        within a day.",
    errors: &[(409, "The name is taken by a user or a project.")],
    ..Operation::new("create_user", "Create a user", Action::ManageUsers)
};

/// `POST /users`
pub async fn create(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    actor: Actor,
    body: JsonBody<NewUser>,
) -> Result<Created<User>, Error> {
    let NewUser { name, admin } = body.read()?;
    let created = users::create(&context, &actor, &name, admin).await?;
    Ok(Created(people::created_user(&site, created)))
}

pub const DELETE: Operation = Operation {
    description: "Deletes the user with all sessions and keys, and the personal project. Jobs in other projects stay.",
    query: &[CONFIRM],
    errors: &[(
        409,
        "The user is the last admin of a project or of the installation, or the personal project has something: `detail` \
         says which.",
    )],
    ..Operation::new("delete_user", "Delete a user", Action::ManageUsers)
};

/// `DELETE /users/{user}`
pub async fn delete(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(user): Path<String>,
    params: Params,
) -> Result<Done, Error> {
    users::delete(&context, &actor, &user, params.text("confirm")).await?;
    Ok(Done)
}

pub const DISABLE: Operation = Operation {
    description: "The user's sessions and keys are refused from then on, and responses that are read with them end. Jobs go on.",
    errors: &[LAST],
    ..Operation::new("disable_user", "Disable a user", Action::ManageUsers)
};

/// `POST /users/{user}/disable`
pub async fn disable(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(user): Path<String>,
) -> Result<Json<User>, Error> {
    change(&context, &actor, &user, UserChange::Disable).await
}

pub const ENABLE: Operation = Operation {
    description: "Sessions and keys that have not expired are valid again.",
    ..Operation::new("enable_user", "Enable a user", Action::ManageUsers)
};

/// `POST /users/{user}/enable`
pub async fn enable(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(user): Path<String>,
) -> Result<Json<User>, Error> {
    change(&context, &actor, &user, UserChange::Enable).await
}

pub const GRANT_ADMIN: Operation = Operation {
    description: "The user then manages users and all projects, and does not see the jobs of projects for that.",
    ..Operation::new("grant_admin", "Let a user administer the installation", Action::ManageUsers)
};

/// `POST /users/{user}/grant-admin`
pub async fn grant_admin(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(user): Path<String>,
) -> Result<Json<User>, Error> {
    change(&context, &actor, &user, UserChange::SetAdmin(true)).await
}

pub const REVOKE_ADMIN: Operation = Operation {
    errors: &[LAST],
    ..Operation::new("revoke_admin", "End a user's administration of the installation", Action::ManageUsers)
};

/// `POST /users/{user}/revoke-admin`
pub async fn revoke_admin(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(user): Path<String>,
) -> Result<Json<User>, Error> {
    change(&context, &actor, &user, UserChange::SetAdmin(false)).await
}

async fn change(
    context: &Context,
    actor: &Actor,
    user: &str,
    change: UserChange,
) -> Result<Json<User>, Error> {
    Ok(Json(people::user(users::change(context, actor, user, change).await?)))
}

pub const RESET_PASSWORD: Operation = Operation {
    description: "With the link the user chooses a password, once, within a day. All of their sessions end then.",
    errors: &[(409, "The user is disabled.")],
    ..Operation::new("reset_password", "Create a link to set a password", Action::ManageUsers)
};

/// `POST /users/{user}/reset-password`
pub async fn reset_password(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    actor: Actor,
    Path(user): Path<String>,
) -> Result<Created<LoginLink>, Error> {
    let link = users::create_reset_link(&context, &actor, &user).await?;
    Ok(Created(LoginLink { url: site.reset_url(&link.token), expires_at: link.expires_at }))
}

pub const LOGIN_LINK: Operation = Operation {
    description: "The link signs the user in to the dashboard, once, within a day.",
    errors: &[(409, "The user is disabled.")],
    ..Operation::new("create_login_link_for_user", "Create a sign-in link for a user", Action::ManageUsers)
};

/// `POST /users/{user}/login-link`
pub async fn login_link(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    actor: Actor,
    Path(user): Path<String>,
) -> Result<Created<LoginLink>, Error> {
    let link = users::create_link(&context, &actor, &user).await?;
    Ok(Created(LoginLink { url: site.sign_in_url(&link.token), expires_at: link.expires_at }))
}
