//! `/keys` and `/login-links`.

use std::sync::Arc;

use axum::extract::{Path, State};
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::{self, Key, LoginLink, RotateRequest};

use super::super::description::{
    CURSOR, Created, Done, JsonBody, LIMIT, Listed, Operation, OptionalJsonBody,
};
use super::super::error::Error;
use super::super::params::{Params, id, page_of};
use super::super::{Site, bodies};
use crate::operations::keys::{self, NewKey, SharedWith};
use crate::operations::{Actor, Context, sign_in};

pub const LIST: Operation = Operation {
    description: "Newest first, without their secrets.",
    query: &[LIMIT, CURSOR],
    ..Operation::new("list_keys", "List keys", Action::ListKeys)
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
    description: "The response has the key itself in `key`, this once. A key cannot create one with scopes that it lacks itself. \
        Only administrators of the installation create shared keys. An enrolment key (`kind: enrolment`) makes workers: each that \
        connects with it gets its own key.",
    ..Operation::new("create_key", "Create a key", Action::CreateKey)
};

/// `POST /keys`
pub async fn create(
    State(context): State<Arc<Context>>,
    actor: Actor,
    body: JsonBody<rest::NewKey>,
) -> Result<Created<Key>, Error> {
    let rest::NewKey { kind, name, scopes, shared, shared_with, expires_in_seconds, limits, uses } =
        body.read()?;
    let shared_with = SharedWith::of(shared, shared_with)?;
    let new = NewKey::of(&kind, name, scopes.as_deref(), expires_in_seconds)?;
    let new = NewKey { shared_with, limits: limits.unwrap_or_default(), uses, ..new };
    let created = keys::create(&context, &actor, new).await?;
    Ok(Created(bodies::created_key(created)))
}

pub const ROTATE: Operation = Operation {
    description: "Creates a key with the same name, scopes and lifetime, in `key`, this once. The old one expires after the \
        overlap; sessions and responses that were opened with it end then. The body may be empty.",
    errors: &[(
        409,
        "The key was revoked, has expired, was rotated before, belongs to another user or is a worker's own, or is an \
        enrolment key.",
    )],
    ..Operation::new("rotate_key", "Rotate a key", Action::RotateKey)
};

/// `POST /keys/{key}/rotate`
pub async fn rotate(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(key): Path<String>,
    body: OptionalJsonBody<RotateRequest>,
) -> Result<Created<Key>, Error> {
    let RotateRequest { overlap } = body.read()?.unwrap_or_default();
    let created = keys::rotate(&context, &actor, id(&key, "key")?, overlap).await?;
    Ok(Created(bodies::created_key(created)))
}

pub const REVOKE: Operation = Operation {
    description: "The worker sessions that it opened end at once.",
    ..Operation::new("revoke_key", "Revoke a key", Action::RevokeKey)
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
    ..Operation::new("create_login_link", "Create a sign-in link", Action::CreateSignInLink)
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
