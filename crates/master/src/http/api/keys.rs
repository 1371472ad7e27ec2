//! `/keys` and `/login-links`.

use std::sync::Arc;

use axum::extract::{Path, State};
use gaffer_protocol::rest::{self, Key, LoginLink};

use super::super::description::{CURSOR, Created, Done, JsonBody, LIMIT, Listed, Operation};
use super::super::error::Error;
use super::super::params::{Params, id, page_of};
use super::super::{Site, bodies};
use crate::operations::keys::{self, NewKey};
use crate::operations::{Actor, Context, sign_in};

pub const LIST: Operation = Operation {
    description: "Newest first, without their secrets.",
    query: &[LIMIT, CURSOR],
    ..Operation::new("list_keys", "List keys")
};

/// `GET /keys`
pub async fn list(
    State(context): State<Arc<Context>>,
    actor: Actor,
    params: Params,
) -> Result<Listed<Key>, Error> {
    let limit = params.limit()?;
    let keys = keys::list(&context, &actor, params.cursor()?, limit + 1).await?;
    Ok(Listed::of(&params, page_of(keys, limit, |key| key.id).map(bodies::key)))
}

pub const CREATE: Operation = Operation {
    description: "The response has the key itself in `key`, this once.",
    ..Operation::new("create_key", "Create a key")
};

/// `POST /keys`
pub async fn create(
    State(context): State<Arc<Context>>,
    actor: Actor,
    body: JsonBody<rest::NewKey>,
) -> Result<Created<Key>, Error> {
    let rest::NewKey { kind, name, expires_in_seconds } = body.read()?;
    let new = NewKey::of(&kind, name, expires_in_seconds)?;
    let created = keys::create(&context, &actor, new).await?;
    Ok(Created(bodies::created_key(created)))
}

pub const REVOKE: Operation = Operation {
    description: "The worker sessions that it opened end at once.",
    ..Operation::new("revoke_key", "Revoke a key")
};

/// `DELETE /keys/{key}`
pub async fn revoke(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(key): Path<String>,
) -> Result<Done, Error> {
    keys::revoke(&context, &actor, id(&key, "key")?).await?;
    Ok(Done)
}

pub const LOGIN_LINK: Operation = Operation {
    description: "The link signs the caller in to the dashboard, once, within 15 minutes.",
    ..Operation::new("create_login_link", "Create a sign-in link")
};

/// `POST /login-links`
pub async fn login_link(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    actor: Actor,
) -> Result<Created<LoginLink>, Error> {
    let link = sign_in::create_link(&context, &actor).await?;
    let url = site.sign_in_url(&link.token);
    Ok(Created(LoginLink { url, expires_at: link.expires_at }))
}
