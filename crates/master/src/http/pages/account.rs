//! The page *Account*: password and browser sessions of who is signed in.

use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::super::Site;
use super::super::error::Error;
use super::super::params::{Params, id};
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use crate::operations::{Context, OperationError, accounts, provider};
use crate::records::{LinkedIdentity, WebSession};

#[derive(Template)]
#[template(path = "account.html")]
pub struct AccountPage {
    frame: Frame,
    cli: String,
    curl: String,
    name: String,
    has_password: bool,
    /// The session is for one project, and may not set a password.
    is_limited: bool,
    is_changed: bool,
    error: Option<String>,
    rows: Vec<SessionRow>,
    /// Name of the sign-in provider, if there is one.
    provider: Option<String>,
    identities: Vec<IdentityRow>,
    pub link_error: Option<String>,
}

/// A linked identity.
struct IdentityRow {
    id: i64,
    name: String,
    issuer: String,
    used: Option<i64>,
}

impl IdentityRow {
    fn of(identity: LinkedIdentity) -> IdentityRow {
        IdentityRow {
            id: identity.id,
            name: identity.name,
            issuer: identity.issuer,
            used: identity.last_used_at.map(|at| at.timestamp_millis()),
        }
    }
}

struct SessionRow {
    id: i64,
    browser: String,
    address: String,
    project: String,
    used: Option<i64>,
    created: Option<i64>,
    is_current: bool,
}

impl SessionRow {
    fn of(session: WebSession) -> SessionRow {
        SessionRow {
            id: session.id,
            browser: session.browser.unwrap_or_else(|| "unknown browser".to_owned()),
            address: session.address.unwrap_or_else(|| "—".to_owned()),
            project: session.project.unwrap_or_else(|| "all".to_owned()),
            used: Some(session.last_used_at.timestamp_millis()),
            created: Some(session.created_at.timestamp_millis()),
            is_current: session.is_current,
        }
    }
}

/// The page as it is.
///
/// # Errors
/// When the database does not answer.
pub async fn account_page(
    context: &Context,
    site: &Site,
    visitor: &SessionUser,
) -> Result<AccountPage, Error> {
    let sessions = accounts::sessions(context, &visitor.actor).await?;
    let identities = provider::identities(context, &visitor.actor).await?;
    Ok(AccountPage {
        frame: visitor.frame("/account"),
        cli: "gaffer sessions\ngaffer sessions end --all".to_owned(),
        curl: curl(site, "GET", "/sessions"),
        name: visitor.actor.user.to_string(),
        has_password: accounts::has_password(context, &visitor.actor).await?,
        is_limited: visitor.actor.limited_to.is_some(),
        is_changed: false,
        error: None,
        rows: sessions.into_iter().map(SessionRow::of).collect(),
        provider: site.provider.as_ref().map(|provider| provider.settings().name.clone()),
        identities: identities.into_iter().map(IdentityRow::of).collect(),
        link_error: None,
    })
}

/// `GET /account`
pub async fn show(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    params.only(&[], &[])?;
    page(&account_page(&context, &site, &visitor).await?)
}

#[derive(Debug, Deserialize)]
pub struct ChangeForm {
    #[serde(default)]
    present: String,
    new: String,
}

/// `POST /account/password`
pub async fn change_password(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Form(form): Form<ChangeForm>,
) -> Result<Response, Error> {
    let changed = accounts::change_password(&context, &visitor.actor, &form.present, &form.new).await;
    let error = match changed {
        Ok(()) => None,
        Err(OperationError::Invalid { detail, .. }) => Some(detail),
        Err(error) => return Err(error.into()),
    };
    let answer = account_page(&context, &site, &visitor).await?;
    page(&AccountPage { is_changed: error.is_none(), error, ..answer })
}

/// `POST /account/sessions/{session}/end`
pub async fn end_session(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(session): Path<String>,
) -> Result<Response, Error> {
    accounts::end_session(&context, &visitor.actor, id(&session, "session")?).await?;
    Ok(Redirect::to("/account").into_response())
}

/// `POST /account/sessions/end`
pub async fn end_other_sessions(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
) -> Result<Response, Error> {
    accounts::end_other_sessions(&context, &visitor.actor).await?;
    Ok(Redirect::to("/account").into_response())
}
