//! The page *Keys*.

use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::Utc;
use serde::Deserialize;

use super::super::Site;
use super::super::error::Error;
use super::super::params::{Params, id, page_of};
use super::format::{address, ago};
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use crate::operations::keys::{self, NewKey};
use crate::operations::{Context, OperationError};
use crate::records::{Key, KeyKind};

const PAGE_ROWS: u32 = 100;

#[derive(Template)]
#[template(path = "keys.html")]
struct KeysPage {
    frame: Frame,
    cli: String,
    curl: String,
    created: Option<String>,
    kind: String,
    name: String,
    error: Option<String>,
    rows: Vec<KeyRow>,
    older: Option<String>,
}

struct KeyRow {
    id: i64,
    prefix: String,
    name: String,
    kind: String,
    created: Option<i64>,
    used: Option<i64>,
    until: String,
    is_good: bool,
}

impl KeyRow {
    fn of(key: Key) -> KeyRow {
        let now = Utc::now();
        let until = match (key.revoked_at, key.expires_at) {
            (Some(at), _) => format!("revoked {}", ago(&at.timestamp_millis(), &now.timestamp_millis())),
            (None, Some(at)) if at <= now => {
                format!("expired {}", ago(&at.timestamp_millis(), &now.timestamp_millis()))
            }
            (None, Some(at)) => at.format("%Y-%m-%d").to_string(),
            (None, None) => "never".to_owned(),
        };
        KeyRow {
            id: key.id,
            prefix: key.prefix,
            name: key.name,
            kind: if key.kind == KeyKind::Worker { "worker".to_owned() } else { "user".to_owned() },
            created: Some(key.created_at.timestamp_millis()),
            used: key.last_used_at.map(|at| at.timestamp_millis()),
            is_good: key.revoked_at.is_none() && key.expires_at.is_none_or(|at| at > now),
            until,
        }
    }
}

async fn keys_page(
    context: &Context,
    site: &Site,
    visitor: &SessionUser,
    before: Option<i64>,
) -> Result<KeysPage, Error> {
    let keys = keys::list(context, &visitor.actor, before, PAGE_ROWS + 1).await?;
    let keys = page_of(keys, PAGE_ROWS, |key| key.id);
    Ok(KeysPage {
        frame: visitor.frame("/keys"),
        cli: "gaffer keys list\ngaffer keys create --kind worker --name lab".to_owned(),
        curl: format!(
            "{} \\\n  --json '{{\"kind\": \"worker\", \"name\": \"lab\"}}'",
            curl(site, "POST", "/keys")
        ),
        created: None,
        kind: String::new(),
        name: String::new(),
        error: None,
        rows: keys.items.into_iter().map(KeyRow::of).collect(),
        older: keys.next_cursor.map(|cursor| address("/keys", &[("cursor", &cursor)])),
    })
}

/// `GET /keys`
pub async fn list(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["cursor"], &[])?;
    page(&keys_page(&context, &site, &visitor, params.cursor()?).await?)
}

#[derive(Debug, Deserialize)]
pub struct KeyForm {
    kind: String,
    name: String,
    #[serde(default)]
    expires: String,
}

/// `POST /keys`: shows the new key, this once.
pub async fn create(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Form(form): Form<KeyForm>,
) -> Result<Response, Error> {
    let expires_in_seconds = form.expires.parse().ok();
    let wanted = NewKey::of(&form.kind, form.name.clone(), expires_in_seconds);
    let created = match wanted {
        Ok(new) => keys::create(&context, &visitor.actor, new).await,
        Err(error) => Err(error),
    };
    let mut answer = keys_page(&context, &site, &visitor, None).await?;
    match created {
        Ok(created) => answer.created = Some(created.secret),
        Err(OperationError::Invalid { detail, .. }) => {
            answer.error = Some(detail);
            answer.kind = form.kind;
            answer.name = form.name;
        }
        Err(error) => return Err(error.into()),
    }
    page(&answer)
}

/// `POST /keys/{key}/revoke`
pub async fn revoke(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(key): Path<String>,
) -> Result<Response, Error> {
    keys::revoke(&context, &visitor.actor, id(&key, "key")?).await?;
    Ok(Redirect::to("/keys").into_response())
}
