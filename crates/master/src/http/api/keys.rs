//! `/keys` and `/login-links`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use gaffer_protocol::rest::{self, Key, LoginLink};

use super::super::error::Error;
use super::super::params::{Params, id, page_of};
use super::super::{Site, bodies};
use super::body_as;
use crate::operations::keys::{self, NewKey};
use crate::operations::{Actor, Context, sign_in};

/// `GET /keys`
pub async fn list(
    State(context): State<Arc<Context>>,
    actor: Actor,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["limit", "cursor"], &[])?;
    let limit = params.limit()?;
    let keys = keys::list(&context, &actor, params.cursor()?, limit + 1).await?;
    Ok(params.answer(&page_of(keys, limit, |key| key.id).map(bodies::key)))
}

/// `POST /keys`: the answer holds the key, this once.
pub async fn create(
    State(context): State<Arc<Context>>,
    actor: Actor,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<Key>), Error> {
    let rest::NewKey { kind, name, expires_in_seconds } = body_as(&headers, &body)?;
    let new = NewKey::of(&kind, name, expires_in_seconds)?;
    let created = keys::create(&context, &actor, new).await?;
    Ok((StatusCode::CREATED, Json(bodies::created_key(created))))
}

/// `DELETE /keys/{key}`: revokes it; sessions that it opened end at once.
pub async fn revoke(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(key): Path<String>,
) -> Result<StatusCode, Error> {
    keys::revoke(&context, &actor, id(&key, "key")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /login-links`: a link that signs the caller in to the dashboard, once.
pub async fn login_link(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    actor: Actor,
) -> Result<(StatusCode, Json<LoginLink>), Error> {
    let link = sign_in::create_link(&context, &actor).await?;
    let url = site.sign_in_url(&link.token);
    Ok((StatusCode::CREATED, Json(LoginLink { url, expires_at: link.expires_at })))
}
