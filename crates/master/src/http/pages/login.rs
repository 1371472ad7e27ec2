//! Signing in with a link that works once, and signing out.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Redirect, Response};

use super::super::auth::{SESSION_COOKIE, SESSION_SECS, presented, sessions, signed_in};
use super::super::error::Error;
use super::super::params::Params;
use super::super::peer::Peer;
use super::format::{encoded, local_path};
use super::frame::{Frame, PageContext};
use super::page;
use crate::Master;
use crate::guesses::TooMany;
use crate::secret::{NewSecret, Purpose, hash_of};

/// Where whoever is not signed in is sent, to come back afterwards.
pub fn address(next: Option<&str>) -> String {
    match next.and_then(local_path).filter(|next| *next != "/") {
        Some(next) => format!("/login?next={}", encoded(next)),
        None => "/login".to_owned(),
    }
}

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

/// `GET /login`: says how to sign in; with a `token`, does it.
pub async fn sign_in(
    State(master): State<Arc<Master>>,
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
    let session = NewSecret::new(Purpose::WebSession);
    let is_good = match hash_of(token, Purpose::LoginLink) {
        Some(link) => {
            let presented = presented(&link, token, &peer);
            if let Err(TooMany(wait)) = master.guesses.may_ask(&master.writes, presented).await? {
                return Err(Error::TooManyAttempts(wait));
            }
            let is_good = master.writes.login_link_use(&link, &session.sha256, SESSION_SECS).await?;
            if !is_good {
                master.guesses.is_wrong(presented);
            }
            is_good
        }
        None => false,
    };
    let to = next.clone().unwrap_or_else(|| "/jobs".to_owned());
    if !is_good {
        if signed_in(&master, &headers, &peer).await?.is_some() {
            return Ok(Redirect::to(&to).into_response());
        }
        let problem = Some("This link was used before, or is too old. Each works once; get a new one.");
        return page(&LoginPage { frame, problem, next });
    }
    master.guesses.is_made(&session.sha256);
    // The browser may have come from another site, and then would not send the new cookie when redirected: it has to
    // go on from a page of this one.
    let mut response = page(&SignedInPage { frame, next: to })?;
    set_session(&master, &mut response, &session.text, SESSION_SECS);
    Ok(response)
}

/// The token in what was given, which may be the whole link.
fn token_in(text: &str) -> &str {
    let token = text.trim().rsplit("token=").next().unwrap_or_default();
    token.split('&').next().unwrap_or_default()
}

/// `POST /logout`
pub async fn sign_out(State(master): State<Arc<Master>>, headers: HeaderMap) -> Result<Response, Error> {
    for (session, _) in sessions(&headers) {
        master.writes.web_session_delete(&session).await?;
    }
    let mut response = Redirect::to("/login").into_response();
    set_session(&master, &mut response, "", 0);
    Ok(response)
}

fn set_session(master: &Master, response: &mut Response, value: &str, secs: u32) {
    let secure = if master.public_url.starts_with("https://") { "; Secure" } else { "" };
    let path = master.base_path.for_cookies();
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
    fn the_way_back_is_kept_if_it_leads_here() {
        assert_eq!(address(Some("/jobs?state=failed")), "/login?next=%2Fjobs%3Fstate%3Dfailed");
        assert_eq!(address(Some("//evil.example")), "/login");
        assert_eq!(address(None), "/login");
    }

    #[test]
    fn a_whole_link_is_as_good_as_its_token() {
        for text in
            ["gfl_x", " gfl_x\n", "http://h:3000/login?token=gfl_x", "/login?token=gfl_x&next=/jobs/1"]
        {
            assert_eq!(token_in(text), "gfl_x");
        }
    }
}
