//! `/keys` and `/login-links`: what lets workers and users in.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chrono::{TimeDelta, Utc};
use gaffer_protocol::rest::{Key, LoginLink, NewKey};
use gaffer_protocol::wire::GoodbyeCode;

use super::super::auth::Principal;
use super::super::error::Error;
use super::super::params::{Params, id, page_of};
use super::body_as;
use crate::Master;
use crate::secret::{NewSecret, Purpose};

const MAX_NAME_CHARS: usize = 120;
/// A hundred years.
const MAX_EXPIRY_SECS: u64 = 100 * 365 * 24 * 3_600;
/// A sign-in link that was asked for is good for so long.
const LINK_VALID_SECS: u32 = 15 * 60;

/// `GET /keys`
pub async fn list(
    State(master): State<Arc<Master>>,
    caller: Principal,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["limit", "cursor"], &[])?;
    let limit = params.limit()?;
    let keys = master.reads.key_list(caller.project, params.cursor()?, limit + 1).await?;
    Ok(params.answer(&page_of(keys, limit, |key| key.id)))
}

/// `POST /keys`: the answer holds the key, this once.
pub async fn create(
    State(master): State<Arc<Master>>,
    caller: Principal,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<Key>), Error> {
    let new = body_as(&headers, &body)?;
    Ok((StatusCode::CREATED, Json(create_key(&master, &caller, new).await?)))
}

/// Makes a key for the caller's project.
pub async fn create_key(master: &Master, caller: &Principal, mut new: NewKey) -> Result<Key, Error> {
    let unprocessable = |pointer: &str, detail: &str| Error::Unprocessable {
        code: "invalid_body",
        detail: detail.to_owned(),
        errors: vec![gaffer_protocol::rest::ProblemField {
            pointer: pointer.to_owned(),
            detail: detail.to_owned(),
            suggestion: None,
        }],
    };
    new.name = new.name.trim().to_owned();
    let printable = !new.name.chars().any(gaffer_domain::visible::spoils_a_line);
    if new.name.is_empty() || new.name.chars().count() > MAX_NAME_CHARS || !printable {
        return Err(unprocessable("/name", "a key needs a name of 1 to 120 printable characters"));
    }
    let (purpose, user_id) = match new.kind.as_str() {
        "worker" => (Purpose::WorkerKey, None),
        "user" => (Purpose::UserKey, Some(caller.user_id)),
        _ => return Err(unprocessable("/kind", "kind is `worker` or `user`")),
    };
    if new.expires_in_seconds.is_some_and(|secs| secs == 0 || secs > MAX_EXPIRY_SECS) {
        return Err(unprocessable(
            "/expires_in_seconds",
            "expected a number of seconds up to a hundred years",
        ));
    }
    let secret = NewSecret::new(purpose);
    let mut key =
        master.writes.key_insert(caller.project, user_id, &new, secret.shown(), &secret.sha256).await?;
    master.guesses.is_made(&secret.sha256);
    key.key = Some(secret.text);
    Ok(key)
}

/// `DELETE /keys/{key}`: revokes it; sessions that it opened end at once.
pub async fn revoke(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(key): Path<String>,
) -> Result<StatusCode, Error> {
    revoke_key(&master, &caller, &key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Revokes a key of the caller's project and ends the sessions that it opened.
pub async fn revoke_key(master: &Master, caller: &Principal, key: &str) -> Result<(), Error> {
    let key: i64 = id(key, "key")?;
    if !master.writes.key_revoke(caller.project, key).await? {
        return Err(Error::NotFound(format!("key {key}")));
    }
    for session in master.hub.all().iter().filter(|session| session.key == key) {
        session.end(GoodbyeCode::KeyRevoked, "the key was revoked");
    }
    Ok(())
}

/// `POST /login-links`: a link that signs the caller in to the dashboard, once.
pub async fn login_link(
    State(master): State<Arc<Master>>,
    caller: Principal,
) -> Result<(StatusCode, Json<LoginLink>), Error> {
    let url = master.login_link(caller.user_id, LINK_VALID_SECS).await?;
    let expires_at = Utc::now() + TimeDelta::seconds(i64::from(LINK_VALID_SECS));
    Ok((StatusCode::CREATED, Json(LoginLink { url, expires_at })))
}
