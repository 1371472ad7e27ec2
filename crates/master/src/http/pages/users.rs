//! The page *Users*.

use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::super::Site;
use super::super::error::Error;
use super::super::params::{Params, page_of};
use super::format::address;
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::members::ConfirmForm;
use super::page;
use crate::operations::{Context, OperationError, users};
use crate::records::User;
use crate::store::users::UserChange;

const PAGE_ROWS: u32 = 100;

#[derive(Template)]
#[template(path = "users.html")]
struct UsersPage {
    frame: Frame,
    cli: String,
    curl: String,
    /// A link that was made just now, and whose it is.
    link: Option<(String, String)>,
    name: String,
    error: Option<String>,
    rows: Vec<UserRow>,
    more: Option<String>,
}

struct UserRow {
    name: String,
    is_admin: bool,
    is_disabled: bool,
    used: Option<i64>,
    created: Option<i64>,
}

impl UserRow {
    fn of(user: User) -> UserRow {
        UserRow {
            name: user.name,
            is_admin: user.is_admin,
            is_disabled: user.disabled_at.is_some(),
            used: user.last_used_at.map(|at| at.timestamp_millis()),
            created: Some(user.created_at.timestamp_millis()),
        }
    }
}

async fn users_page(
    context: &Context,
    site: &Site,
    visitor: &SessionUser,
    after: Option<i64>,
) -> Result<UsersPage, Error> {
    let found = users::list(context, &visitor.actor, after, PAGE_ROWS + 1).await?;
    let found = page_of(found, PAGE_ROWS, |user| user.id);
    Ok(UsersPage {
        frame: visitor.frame("/users"),
        cli: "gaffer users\ngaffer users create NAME".to_owned(),
        curl: curl(site, "GET", "/users"),
        link: None,
        name: String::new(),
        error: None,
        rows: found.items.into_iter().map(UserRow::of).collect(),
        more: found.next_cursor.map(|cursor| address("/users", &[("cursor", &cursor)])),
    })
}

/// `GET /users`
pub async fn list(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["cursor"], &[])?;
    page(&users_page(&context, &site, &visitor, params.cursor()?).await?)
}

#[derive(Debug, Deserialize)]
pub struct UserForm {
    name: String,
    #[serde(default)]
    admin: Option<String>,
}

/// `POST /users`: shows the link of the new user, this once.
pub async fn create(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Form(form): Form<UserForm>,
) -> Result<Response, Error> {
    let created = users::create(&context, &visitor.actor, form.name.trim(), form.admin.is_some()).await;
    let (link, error) = match created {
        Ok(created) => (Some((created.user.name, site.sign_in_url(&created.link.token))), None),
        Err(OperationError::Invalid { detail, .. } | OperationError::Conflict { detail, .. }) => {
            (None, Some(detail))
        }
        Err(error) => return Err(error.into()),
    };
    let mut answer = users_page(&context, &site, &visitor, None).await?;
    if error.is_some() {
        answer.name = form.name;
    }
    (answer.link, answer.error) = (link, error);
    page(&answer)
}

/// `POST /users/{user}/{verb}`
pub async fn change(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path((user, verb)): Path<(String, String)>,
) -> Result<Response, Error> {
    let change = match &*verb {
        "disable" => UserChange::Disable,
        "enable" => UserChange::Enable,
        "grant-admin" => UserChange::SetAdmin(true),
        "revoke-admin" => UserChange::SetAdmin(false),
        _ => return Err(Error::NotFound(format!("change {verb} of users"))),
    };
    users::change(&context, &visitor.actor, &user, change).await?;
    Ok(Redirect::to("/users").into_response())
}

/// `POST /users/{user}/login-link`: shows the link, this once.
pub async fn login_link(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Path(user): Path<String>,
) -> Result<Response, Error> {
    let link = users::create_link(&context, &visitor.actor, &user).await?;
    let mut answer = users_page(&context, &site, &visitor, None).await?;
    answer.link = Some((user, site.sign_in_url(&link.token)));
    page(&answer)
}

/// `POST /users/{user}/reset-password`: shows the link, this once.
pub async fn reset_password(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Path(user): Path<String>,
) -> Result<Response, Error> {
    let link = users::create_reset_link(&context, &visitor.actor, &user).await?;
    let mut answer = users_page(&context, &site, &visitor, None).await?;
    answer.link = Some((user, site.reset_url(&link.token)));
    page(&answer)
}

/// `POST /users/{user}/delete`
pub async fn delete(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(user): Path<String>,
    Form(form): Form<ConfirmForm>,
) -> Result<Response, Error> {
    users::delete(&context, &visitor.actor, &user, form.given()).await?;
    Ok(Redirect::to("/users").into_response())
}
