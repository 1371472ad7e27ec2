//! Sign-in with a password or a one-time link, and sign-out.

use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::super::auth::origin::is_from_another_site;
use super::super::auth::{sessions, signed_in};
use super::super::error::Error;
use super::super::params::Params;
use super::super::peer::Peer;
use super::super::session_cookie::{origin, set_session};
use super::super::{Doors, Site};
use super::format::{local_path, sentence};
use super::frame::{Frame, PageContext};
use super::page;
use crate::operations::Context;
use crate::operations::registration::{self, NotSignedIn};
use crate::operations::sign_in::{self, SESSION_SECS, Visit};
use crate::store::web_sessions::Wanted;

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    frame: Frame,
    problem: Option<String>,
    next: Option<String>,
    name: String,
    can_register: bool,
}

/// Asks before a link that another site led to is used.
#[derive(Template)]
#[template(path = "login_link.html")]
struct LinkPage {
    frame: Frame,
    token: String,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "signed_in.html")]
struct SignedInPage {
    frame: Frame,
    next: String,
}

/// `GET /login`: shows how to sign in; with a `token`, signs in.
pub async fn sign_in(
    State(doors): State<Doors>,
    surroundings: PageContext,
    method: Method,
    headers: HeaderMap,
    peer: Peer,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["token", "next"], &[])?;
    let next = params.text("next").and_then(local_path).map(str::to_owned);
    let frame = surroundings.frame();
    let can_register = doors.site.registration_is_open;
    let shown =
        |problem, next| LoginPage { frame: frame.clone(), problem, next, name: String::new(), can_register };
    let Some(token) = params.text("token").map(token_in) else { return page(&shown(None, next)) };
    // Who only looks ahead must not use the link up.
    let is_look_ahead =
        method == Method::HEAD || headers.contains_key("sec-purpose") || headers.contains_key("purpose");
    if is_look_ahead {
        return page(&shown(None, next));
    }
    // Another site must not choose as whom somebody is signed in, so the user does: the form is of this site.
    if is_from_another_site(&headers) {
        return page(&LinkPage { frame, token: token.to_owned(), next });
    }
    use_link(&doors, frame, &headers, &peer, (token, next)).await
}

#[derive(Debug, Deserialize)]
pub struct LinkForm {
    token: String,
    #[serde(default)]
    next: String,
}

/// `POST /login/link`: signs in with a link that another site led to.
pub async fn with_link(
    State(doors): State<Doors>,
    surroundings: PageContext,
    headers: HeaderMap,
    peer: Peer,
    Form(form): Form<LinkForm>,
) -> Result<Response, Error> {
    let next = local_path(&form.next).map(str::to_owned);
    use_link(&doors, surroundings.frame(), &headers, &peer, (token_in(&form.token), next)).await
}

async fn use_link(
    doors: &Doors,
    frame: Frame,
    headers: &HeaderMap,
    peer: &Peer,
    (token, next): (&str, Option<String>),
) -> Result<Response, Error> {
    let to = next.clone().unwrap_or_else(|| "/jobs".to_owned());
    let Some(session) = sign_in::use_link(&doors.context, token, &origin(headers, peer)).await? else {
        let visit = signed_in(doors, headers, peer, Wanted::Any).await?;
        if !matches!(visit, Visit::Nobody) {
            return Ok(Redirect::to(&to).into_response());
        }
        let problem = Some("This link has expired or was already used. Get a new one.".to_owned());
        let can_register = doors.site.registration_is_open;
        return page(&LoginPage { frame, problem, next, name: String::new(), can_register });
    };
    sign_in::sign_out(&doors.context, sessions(headers), peer.address()).await?;
    // After a link from elsewhere the browser would not send the new cookie on a redirect, so the response is a page that
    // continues.
    let mut response = page(&SignedInPage { frame, next: to })?;
    set_session(&doors.site, &mut response, &session, SESSION_SECS);
    Ok(response)
}

/// The token in what was given, which may be the whole link.
fn token_in(text: &str) -> &str {
    let token = text.trim().rsplit("token=").next().unwrap_or_default();
    token.split('&').next().unwrap_or_default()
}

#[derive(Debug, Deserialize)]
pub struct PasswordForm {
    name: String,
    password: String,
    #[serde(default)]
    next: String,
}

/// `POST /login`: signs in with a password. The session of before ends, so that nobody goes on with one that was known already.
pub async fn with_password(
    State(doors): State<Doors>,
    surroundings: PageContext,
    headers: HeaderMap,
    peer: Peer,
    Form(form): Form<PasswordForm>,
) -> Result<Response, Error> {
    let next = local_path(&form.next).map(str::to_owned);
    let origin = origin(&headers, &peer);
    let name = form.name.trim();
    match registration::with_password(&doors.context, name, &form.password, &origin).await {
        Ok(session) => {
            sign_in::sign_out(&doors.context, sessions(&headers), peer.address()).await?;
            let mut response = Redirect::to(next.as_deref().unwrap_or("/jobs")).into_response();
            set_session(&doors.site, &mut response, &session, SESSION_SECS);
            Ok(response)
        }
        Err(error) => {
            let (status, problem) = told(error)?;
            let can_register = doors.site.registration_is_open;
            let problem = Some(problem);
            let shown =
                LoginPage { frame: surroundings.frame(), problem, next, name: form.name, can_register };
            Ok((status, page(&shown)?).into_response())
        }
    }
}

/// What a form tells somebody who is not signed in by it, with the status of the page.
///
/// # Errors
/// When that is no page of this form.
pub fn told(error: NotSignedIn) -> Result<(StatusCode, String), Error> {
    let status = match error {
        NotSignedIn::Wrong => StatusCode::UNAUTHORIZED,
        NotSignedIn::LinkNotGood => StatusCode::NOT_FOUND,
        NotSignedIn::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        NotSignedIn::TooMany(wait) => return Err(Error::TooManyAttempts(wait)),
        NotSignedIn::Busy => return Err(Error::Busy("too many others are signing in")),
        NotSignedIn::Store(error) => return Err(error.into()),
    };
    Ok((status, sentence(&error.to_string())))
}

/// `POST /logout`
pub async fn sign_out(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    peer: Peer,
    headers: HeaderMap,
) -> Result<Response, Error> {
    sign_in::sign_out(&context, sessions(&headers), peer.address()).await?;
    let mut response = Redirect::to("/login").into_response();
    set_session(&site, &mut response, "", 0);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_link_is_as_good_as_its_token() {
        for text in
            ["gfl_x", " gfl_x\n", "http://h:3000/login?token=gfl_x", "/login?token=gfl_x&next=/jobs/1"]
        {
            assert_eq!(token_in(text), "gfl_x");
        }
    }
}
