//! Who is asking: a user's key, or a signed-in browser.

mod origin;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use gaffer_domain::ProjectId;

use super::error::Error;
use super::peer::Peer;
use crate::Master;
use crate::guesses::{Presented, TooMany};
use crate::secret::{Purpose, beginning_of, hash_of};
use crate::store::keys::{KeyHolder, KeyRefusal};

/// Name of the session cookie.
pub const SESSION_COOKIE: &str = "gaffer_session";
/// A browser session ends after so long without use.
pub const SESSION_IDLE_SECS: u32 = 7 * 24 * 3_600;
/// A browser session ends after so long in any case.
pub const SESSION_SECS: u32 = 30 * 24 * 3_600;

/// The most session cookies of a request that are looked up.
const MAX_SESSION_COOKIES: usize = 4;

/// Through which listener a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    /// Pages and API at one origin: a browser's session counts.
    Dashboard,
    /// The API alone, or the workers' door: only keys count.
    Api,
}

/// Whoever is asking, in the project that they are in.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The project.
    pub project: ProjectId,
    /// Number of the user.
    pub user_id: i64,
    /// Name of the user: the actor in the history.
    pub user: Arc<str>,
}

impl FromRequestParts<Arc<Master>> for Principal {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, master: &Arc<Master>) -> Result<Principal, Error> {
        if let Some(token) = bearer(&parts.headers)? {
            let holder = key_holder(master, token, Purpose::UserKey, &Peer::of(&parts.extensions)).await?;
            let (Some(user_id), Some(user)) = (holder.user_id, holder.user) else {
                return Err(Error::Unauthorized("key_wrong_kind", "this key is not a user's".to_owned()));
            };
            return Ok(Principal { project: holder.project, user_id, user: user.into() });
        }
        let door = parts.extensions.get::<ListenerKind>().copied();
        if door == Some(ListenerKind::Dashboard)
            && let Some(caller) = signed_in(master, &parts.headers, &Peer::of(&parts.extensions)).await?
        {
            return Ok(caller);
        }
        Err(Error::Unauthorized(
            "key_missing",
            "a key is needed: Authorization: Bearer <key>; `gaffer keys create --kind user` makes one"
                .to_owned(),
        ))
    }
}

/// Who is signed in with the request's cookies, if anybody. After too many unknown ones nobody is, without an error: a
/// cookie that has expired is sent with every request.
pub async fn signed_in(
    master: &Master,
    headers: &HeaderMap,
    peer: &Peer,
) -> Result<Option<Principal>, Error> {
    let mut wrong: Vec<([u8; 32], &str)> = Vec::new();
    for (sha256, token) in sessions(headers) {
        let presented = presented(&sha256, token, peer);
        if master.guesses.may_ask(&master.writes, presented).await?.is_err() {
            continue;
        }
        if let Some(session) = master.writes.web_session_check(&sha256, SESSION_IDLE_SECS).await? {
            master.guesses.is_good(presented);
            peer.prove();
            // The cookie of another gaffer on this host is no guess beside one that is good.
            let beside = wrong.iter().map(|(sha256, token)| self::presented(sha256, token, peer));
            beside.for_each(|stale| master.guesses.is_no_guess(stale));
            let user = session.user.into();
            return Ok(Some(Principal { project: session.project, user_id: session.user_id, user }));
        }
        wrong.push((sha256, token));
    }
    for (sha256, token) in wrong {
        master.guesses.is_wrong(presented(&sha256, token, peer));
    }
    Ok(None)
}

/// The sessions that a request's cookies name, as hashes with their tokens. There may be more than one: browsers send the
/// cookies of another gaffer on the same host too, whatever its port, if its path is the same or above this one's.
pub fn sessions(headers: &HeaderMap) -> impl Iterator<Item = ([u8; 32], &str)> {
    let texts = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let cookies = texts.flat_map(|text| text.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    let ours = cookies.filter(|(name, _)| *name == SESSION_COOKIE).map(|(_, value)| value);
    let hashed = ours.filter_map(|value| Some((hash_of(value, Purpose::WebSession)?, value)));
    hashed.take(MAX_SESSION_COOKIES)
}

/// The token of an `Authorization: Bearer` header, if there is such a header.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let malformed =
        || Error::Unauthorized("key_malformed", "expected Authorization: Bearer <key>".to_owned());
    let value = value.to_str().map_err(|_| malformed())?;
    let (scheme, token) = value.split_once(' ').ok_or_else(malformed)?;
    match scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() {
        true => Ok(Some(token.trim())),
        false => Err(malformed()),
    }
}

/// A secret as somebody presents it.
pub fn presented<'a>(sha256: &'a [u8; 32], text: &'a str, peer: &Peer) -> Presented<'a> {
    Presented { sha256, beginning: beginning_of(text), address: peer.network() }
}

/// Finds the holder of a key of the wanted kind.
pub async fn key_holder(
    master: &Master,
    token: &str,
    purpose: Purpose,
    peer: &Peer,
) -> Result<KeyHolder, Error> {
    let unauthorized = |code, detail: &str| Err(Error::Unauthorized(code, detail.to_owned()));
    let other = match purpose {
        Purpose::WorkerKey => Purpose::UserKey,
        _ => Purpose::WorkerKey,
    };
    let Some(sha256) = hash_of(token, purpose) else {
        return match hash_of(token, other) {
            Some(_) if other == Purpose::UserKey => {
                unauthorized("key_wrong_kind", "a worker needs a worker's key, this is a user's")
            }
            Some(_) => unauthorized("key_wrong_kind", "the API needs a user's key, this is a worker's"),
            None => unauthorized(
                "key_malformed",
                "the key is damaged: it is not one that gaffer made, or a part is missing",
            ),
        };
    };
    let presented = presented(&sha256, token, peer);
    if let Err(TooMany(wait)) = master.guesses.may_ask(&master.writes, presented).await? {
        return Err(Error::TooManyAttempts(wait));
    }
    let checked = master.writes.key_check(&sha256).await?;
    match &checked {
        Ok(_) => {
            master.guesses.is_good(presented);
            peer.prove();
        }
        Err(_) => master.guesses.is_wrong(presented),
    }
    match checked {
        Ok(holder) => Ok(holder),
        Err(KeyRefusal::Unknown) => unauthorized("key_unknown", "the key is not known to this master"),
        Err(KeyRefusal::Revoked) => unauthorized("key_revoked", "the key was revoked"),
        Err(KeyRefusal::Expired) => unauthorized("key_expired", "the key has expired"),
    }
}

/// Refuses what another site makes a browser write here. Browsers say where a request comes from; whoever says nothing
/// is no browser and has no cookie to abuse.
pub async fn same_origin_writes(
    State(master): State<Arc<Master>>,
    Extension(door): Extension<ListenerKind>,
    request: Request,
    next: Next,
) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if door == ListenerKind::Dashboard
        && !reads
        && let Err(refusal) = origin::check(request.headers(), &master.public_origin)
    {
        return Error::Forbidden(refusal.to_string()).into_response();
    }
    next.run(request).await
}
