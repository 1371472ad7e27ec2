//! Sign-in with a one-time link, and sign-out.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Redirect, Response};

use super::super::auth::{SESSION_COOKIE, sessions, signed_in};
use super::super::error::Error;
use super::super::params::Params;
use super::super::peer::Peer;
use super::super::{Doors, Site};
use super::format::local_path;
use super::frame::{Frame, PageContext};
use super::page;
use crate::operations::Context;
use crate::operations::sign_in::{self, SESSION_SECS, Visit};
use crate::store::web_sessions::Wanted;

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    frame: Frame,
    problem: Option<&'static str>,
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
    let Some(token) = params.text("token").map(token_in) else {
        return page(&LoginPage { frame, problem: None, next });
    };
    // Who only looks ahead must not use the link up.
    let is_look_ahead =
        method == Method::HEAD || headers.contains_key("sec-purpose") || headers.contains_key("purpose");
    if is_look_ahead {
        return page(&LoginPage { frame, problem: None, next });
    }
    let to = next.clone().unwrap_or_else(|| "/jobs".to_owned());
    let Some(session) = sign_in::use_link(&doors.context, token, peer.address()).await? else {
        let visit = signed_in(&doors, &headers, &peer, Wanted::Any).await?;
        if !matches!(visit, Visit::Nobody) {
            return Ok(Redirect::to(&to).into_response());
        }
        let problem = Some("This link has expired or was already used. Get a new one.");
        return page(&LoginPage { frame, problem, next });
    };
    // After a link from another site the browser would not send the new cookie on a redirect, so the response is a
    // page that continues.
    let mut response = page(&SignedInPage { frame, next: to })?;
    set_session(&doors.site, &mut response, &session, SESSION_SECS);
    Ok(response)
}

/// The token in what was given, which may be the whole link.
fn token_in(text: &str) -> &str {
    let token = text.trim().rsplit("token=").next().unwrap_or_default();
    token.split('&').next().unwrap_or_default()
}

/// `POST /logout`
pub async fn sign_out(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    headers: HeaderMap,
    peer: Peer,
) -> Result<Response, Error> {
    sign_in::sign_out(&context, sessions(&headers), peer.address()).await?;
    let mut response = Redirect::to("/login").into_response();
    set_session(&site, &mut response, "", 0);
    Ok(response)
}

fn set_session(site: &Site, response: &mut Response, value: &str, secs: u32) {
    let secure = if site.public_url.starts_with("https://") { "; Secure" } else { "" };
    let path = site.base_path.for_cookies();
    let cookie =
        format!("{SESSION_COOKIE}={value}; Path={path}; Max-Age={secs}; HttpOnly; SameSite=Strict{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
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
