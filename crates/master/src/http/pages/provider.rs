//! Sign-in through an identity provider: there, back, and links with accounts.

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::Utc;
use serde::Deserialize;

use super::super::auth::{cookies, sessions};
use super::super::error::Error;
use super::super::params::{Params, id};
use super::super::peer::Peer;
use super::super::session_cookie::{origin, set_session};
use super::super::{Doors, Site};
use super::account::account_page;
use super::continue_page::ContinuePage;
use super::format::{local_path, sentence};
use super::frame::{Frame, PageContext, SessionUser};
use super::login::LoginPage;
use super::page;
use crate::oidc::{Answer, FLOW_SECS, OidcError, Provider, Purpose};
use crate::operations::provider::{self, Arrival, NotArrived};
use crate::operations::sign_in::{self, SESSION_SECS};
use crate::operations::{Context, OperationError};

/// The cookie of somebody who is on the way to the provider and back.
const COOKIE: &str = "gaffer_oidc";
/// Sessions of a browser that a sign-in replaces: there may be one of another gaffer on the same host.
const MAX_REPLACED: usize = 2;

#[derive(Template)]
#[template(path = "choose_name.html")]
struct ChooseNamePage {
    frame: Frame,
    provider: String,
    name: String,
    is_taken: bool,
    problem: Option<String>,
}

fn the_provider(doors: &Doors) -> Result<&Provider, Error> {
    doors.site.provider.as_deref().ok_or_else(|| Error::NotFound("sign-in provider".to_owned()))
}

/// `GET /login/oidc`: goes to the provider.
pub async fn begin(
    State(doors): State<Doors>,
    surroundings: PageContext,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["next"], &[])?;
    let next = params.text("next").and_then(local_path).map(str::to_owned);
    let replaces = sessions(&headers).take(MAX_REPLACED).map(str::to_owned).collect();
    let purpose = Purpose::SignIn { next: next.clone(), replaces };
    match the_provider(&doors)?.begin(purpose, Utc::now().timestamp()).await {
        Ok((address, cookie)) => {
            let mut response = Redirect::to(address.as_str()).into_response();
            set_cookie(&doors.site, &mut response, &cookie, FLOW_SECS);
            Ok(response)
        }
        Err(error) => refused(&doors, surroundings, error.into(), next),
    }
}

/// `GET /login/oidc/callback`: comes back from the provider.
pub async fn callback(
    State(doors): State<Doors>,
    surroundings: PageContext,
    headers: HeaderMap,
    peer: Peer,
    params: Params,
) -> Result<Response, Error> {
    let answer = Answer {
        code: params.text("code"),
        state: params.text("state"),
        issuer: params.text("iss"),
        error: params.text("error"),
    };
    let from = origin(&headers, &peer);
    let cookie = cookies(&headers, COOKIE).next();
    let arrival = provider::arrive(&doors.context, the_provider(&doors)?, cookie, answer, &from).await;
    arrived(&doors, surroundings, &peer, arrival).await
}

#[derive(Debug, Deserialize)]
pub struct NameForm {
    name: String,
}

/// `POST /login/oidc/name`: a newcomer chooses a name.
pub async fn choose_name(
    State(doors): State<Doors>,
    surroundings: PageContext,
    headers: HeaderMap,
    peer: Peer,
    Form(form): Form<NameForm>,
) -> Result<Response, Error> {
    let from = origin(&headers, &peer);
    let cookie = cookies(&headers, COOKIE).next();
    let found = the_provider(&doors)?;
    match provider::arrive_as(&doors.context, found, cookie, &form.name, &from).await {
        Err(NotArrived::Name(invalid)) => {
            let problem = Some(sentence(&format!("invalid name: {invalid}")));
            let provider = found.settings().name.clone();
            let shown = ChooseNamePage {
                frame: surroundings.frame(),
                provider,
                name: form.name,
                is_taken: false,
                problem,
            };
            Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&shown)?).into_response())
        }
        arrival => arrived(&doors, surroundings, &peer, arrival).await,
    }
}

async fn arrived(
    doors: &Doors,
    surroundings: PageContext,
    peer: &Peer,
    arrival: Result<Arrival, NotArrived>,
) -> Result<Response, Error> {
    let frame = surroundings.clone().frame();
    let base = frame.base.to_string();
    let mut response = match arrival {
        Ok(Arrival::SignedIn { session, next, replaces }) => {
            let replaced = replaces.iter().map(String::as_str);
            sign_in::sign_out(&doors.context, replaced, peer.address()).await?;
            let to = format!("{base}{}", next.as_deref().unwrap_or("/jobs"));
            let mut response = page(&ContinuePage { frame, heading: "You are signed in", to })?;
            set_session(&doors.site, &mut response, &session, SESSION_SECS);
            response
        }
        Ok(Arrival::Linked) => {
            let to = format!("{base}/account");
            page(&ContinuePage { frame, heading: "The account is linked", to })?
        }
        Ok(Arrival::NeedsName { waiting, suggestion, is_taken }) => {
            let provider = the_provider(doors)?.settings().name.clone();
            let (frame, name) = (surroundings.frame(), suggestion.unwrap_or_default());
            let mut response = page(&ChooseNamePage { frame, provider, name, is_taken, problem: None })?;
            set_cookie(&doors.site, &mut response, &waiting, FLOW_SECS);
            return Ok(response);
        }
        Err(error) => refused(doors, surroundings, error, None)?,
    };
    // What it stood for is over.
    set_cookie(&doors.site, &mut response, "", 0);
    Ok(response)
}

/// The sign-in page with what went wrong.
fn refused(
    doors: &Doors,
    surroundings: PageContext,
    error: NotArrived,
    next: Option<String>,
) -> Result<Response, Error> {
    let status = match &error {
        NotArrived::Provider(OidcError::Away(reason)) => {
            tracing::warn!(reason, "sign-in through the provider failed");
            StatusCode::SERVICE_UNAVAILABLE
        }
        NotArrived::Provider(OidcError::NotValid(reason)) => {
            tracing::warn!(reason, "an answer of the sign-in provider is not valid");
            StatusCode::BAD_REQUEST
        }
        NotArrived::Provider(OidcError::Stale) => StatusCode::BAD_REQUEST,
        NotArrived::Provider(OidcError::Refused(_)) | NotArrived::Disabled | NotArrived::NoRole(_) => {
            StatusCode::FORBIDDEN
        }
        NotArrived::LinkedWithOther(_) | NotArrived::HasIdentity => StatusCode::CONFLICT,
        NotArrived::Name(_) => StatusCode::UNPROCESSABLE_ENTITY,
        NotArrived::Store(_) => {
            let NotArrived::Store(error) = error else { return Err(Error::Internal) };
            return Err(error.into());
        }
    };
    let mut problem = sentence(&error.to_string());
    if matches!(error, NotArrived::Provider(OidcError::Away(_))) {
        problem.push_str(" Passwords and sign-in links work.");
    }
    let shown =
        LoginPage { problem: Some(problem), ..LoginPage::new(&doors.site, surroundings.frame(), next) };
    Ok((status, page(&shown)?).into_response())
}

#[derive(Debug, Deserialize)]
pub struct LinkForm {
    #[serde(default)]
    present: String,
}

/// `POST /account/identities`: goes to the provider to link an identity with the account.
pub async fn link(
    State(doors): State<Doors>,
    visitor: SessionUser,
    Form(form): Form<LinkForm>,
) -> Result<Response, Error> {
    let (found, actor) = (the_provider(&doors)?, &visitor.actor);
    let problem = match provider::may_link(&doors.context, actor, &form.present).await {
        Ok(()) => {
            let purpose = Purpose::Link { user_id: actor.user_id, user: actor.user.to_string() };
            match found.begin(purpose, Utc::now().timestamp()).await {
                Ok((address, cookie)) => {
                    let frame = visitor.frame("/account");
                    let heading = "Continue at the sign-in provider";
                    let mut response = page(&ContinuePage { frame, heading, to: address.into() })?;
                    set_cookie(&doors.site, &mut response, &cookie, FLOW_SECS);
                    return Ok(response);
                }
                Err(error) => sentence(&error.to_string()),
            }
        }
        Err(OperationError::Invalid { detail, .. }) => detail,
        Err(error) => return Err(error.into()),
    };
    let mut shown = account_page(&doors.context, &doors.site, &visitor).await?;
    shown.link_error = Some(problem);
    page(&shown)
}

/// `POST /account/identities/{identity}/unlink`
pub async fn unlink(
    State(doors): State<Doors>,
    visitor: SessionUser,
    Path(identity): Path<String>,
) -> Result<Response, Error> {
    let context: &Context = &doors.context;
    match provider::unlink(context, &visitor.actor, id(&identity, "identity")?).await {
        Ok(()) => Ok(Redirect::to("/account").into_response()),
        Err(OperationError::Invalid { detail, .. }) => {
            let mut shown = account_page(context, &doors.site, &visitor).await?;
            shown.link_error = Some(detail);
            page(&shown)
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives the browser what it keeps on the way. The way back begins at another site, so `Strict` would withhold it.
fn set_cookie(site: &Site, response: &mut Response, value: &str, secs: u32) {
    let secure = if site.public_url.starts_with("https://") { "; Secure" } else { "" };
    let path = site.base_path.for_cookies();
    let path = path.trim_end_matches('/');
    let cookie =
        format!("{COOKIE}={value}; Path={path}/login/oidc; Max-Age={secs}; HttpOnly; SameSite=Lax{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}
