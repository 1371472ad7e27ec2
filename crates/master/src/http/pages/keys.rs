//! The page *Keys*.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::{TimeDelta, Utc};
use gaffer_domain::Time;
use gaffer_domain::scopes::{Scope, Scopes};
use gaffer_domain::worker::limits::WorkerLimits;
use serde::Deserialize;

use super::super::Site;
use super::super::error::Error;
use super::super::params::{Params, id, page_of};
use super::format::{address, ago};
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use crate::operations::keys::{self, NewKey, SharedWith};
use crate::operations::{Context, OperationError};
use crate::records::{Key, KeyKind, KeyState};

const PAGE_ROWS: u32 = 100;
/// What a new key may be used for, unless somebody chooses otherwise: what `gaffer run` needs.
const USUAL: [Scope; 2] = [Scope::Read, Scope::Submit];

#[derive(Template)]
#[template(path = "keys.html")]
struct KeysPage {
    frame: Frame,
    cli: String,
    curl: String,
    created: Option<String>,
    kind: String,
    name: String,
    scopes: Vec<ScopeChoice>,
    shared: bool,
    shared_with: String,
    /// What was written about workers.
    names: String,
    labels: String,
    uses: String,
    error: Option<String>,
    rows: Vec<KeyRow>,
    older: Option<String>,
}

/// A scope in the form.
pub struct ScopeChoice {
    pub name: &'static str,
    pub meaning: &'static str,
    pub is_chosen: bool,
}

/// All scopes, with those that are ticked.
pub fn choices(chosen: Scopes) -> Vec<ScopeChoice> {
    let choice = |scope: Scope| ScopeChoice {
        name: scope.as_str(),
        meaning: scope.meaning(),
        is_chosen: chosen.contains(scope),
    };
    Scope::ALL.into_iter().map(choice).collect()
}

struct KeyRow {
    id: i64,
    prefix: String,
    name: String,
    kind: String,
    /// The worker whose key it is.
    worker: Option<String>,
    /// What it may be used for, or what its workers may claim.
    scopes: String,
    created: Option<i64>,
    used: Option<i64>,
    from: String,
    until: String,
    is_good: bool,
    is_replaced: bool,
    is_shared: bool,
    can_rotate: bool,
}

impl KeyRow {
    fn of(key: Key) -> KeyRow {
        let now = Utc::now();
        let ago = |at: Time| ago(&at.timestamp_millis(), &now.timestamp_millis());
        let state = key.state(now);
        let until = match (state, key.revoked_at.or(key.expires_at)) {
            (KeyState::Used, _) => state.as_str().to_owned(),
            (KeyState::Revoked | KeyState::Expired, Some(at)) => format!("{} {}", state.as_str(), ago(at)),
            (_, Some(at)) if at - now < TimeDelta::days(2) => at.format("%Y-%m-%d %H:%M UTC").to_string(),
            (_, Some(at)) => at.format("%Y-%m-%d").to_string(),
            (_, None) => "never".to_owned(),
        };
        let none_if_empty = |text: String| if text.is_empty() { "—".to_owned() } else { text };
        KeyRow {
            id: key.id,
            prefix: key.prefix,
            name: key.name,
            kind: match &key.shared_with {
                None => key.kind.as_str().to_owned(),
                Some(None) => "worker, shared with all projects".to_owned(),
                Some(Some(projects)) => format!("worker, shared with {}", projects.join(", ")),
            },
            worker: key.worker,
            scopes: none_if_empty(match (key.kind, key.uses_left) {
                (KeyKind::User, _) => key.scopes.to_string(),
                (_, Some(uses)) => {
                    let uses = format!("{uses} left");
                    [uses, key.limits.to_string()]
                        .into_iter()
                        .filter(|part| !part.is_empty())
                        .collect::<Vec<_>>()
                        .join("; ")
                }
                (_, None) => key.limits.to_string(),
            }),
            created: Some(key.created_at.timestamp_millis()),
            used: key.last_used_at.map(|at| at.timestamp_millis()),
            from: none_if_empty(key.last_used_from.unwrap_or_default()),
            until,
            is_good: state == KeyState::Valid,
            is_replaced: key.replaced_by.is_some(),
            is_shared: key.shared_with.is_some(),
            can_rotate: key.replaced_by.is_none() && key.uses_left.is_none() && !key.is_enrolled,
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
        cli: "gaffer keys\ngaffer keys create ci --scope read,submit --expires 30d".to_owned(),
        curl: format!(
            "{} \\\n  --json '{{\"kind\": \"user\", \"name\": \"ci\", \"scopes\": [\"read\", \"submit\"]}}'",
            curl(site, "POST", "/keys")
        ),
        created: None,
        kind: String::new(),
        name: String::new(),
        scopes: choices(USUAL.into_iter().collect()),
        shared: false,
        shared_with: String::new(),
        names: String::new(),
        labels: String::new(),
        uses: String::new(),
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
    #[serde(default)]
    shared: String,
    /// Names, separated by commas; empty: all.
    #[serde(default)]
    shared_with: String,
    #[serde(default)]
    names: String,
    #[serde(default)]
    labels: String,
    #[serde(default)]
    uses: String,
    /// `scope-read` and the like, of the boxes that are ticked.
    #[serde(flatten)]
    ticked: HashMap<String, String>,
}

impl KeyForm {
    fn scopes(&self) -> Scopes {
        let is_ticked = |scope: &Scope| self.ticked.contains_key(&format!("scope-{scope}"));
        Scope::ALL.into_iter().filter(is_ticked).collect()
    }

    /// The projects that are named, if the key is to be shared.
    fn named(&self) -> Option<Vec<String>> {
        let names = self.shared_with.split(',').map(str::trim).filter(|name| !name.is_empty());
        let names: Vec<String> = names.map(str::to_owned).collect();
        (!self.shared.is_empty() && !names.is_empty()).then_some(names)
    }

    fn wanted(&self) -> Result<NewKey, OperationError> {
        let expires_in_seconds = self.expires.parse().ok();
        let new = NewKey::of(&self.kind, self.name.clone(), None, expires_in_seconds)?;
        // The boxes are of user keys; without scripts or styles a browser shows them for both kinds.
        let scopes = (new.kind == KeyKind::User).then(|| self.scopes());
        if !new.kind.is_of_workers() {
            return Ok(NewKey { scopes, ..new });
        }
        let uses = match self.uses.trim() {
            text if new.kind == KeyKind::Enrolment && !text.is_empty() => {
                let wrong = |_| OperationError::field("/uses", "the number of workers is a number");
                Some(text.parse().map_err(wrong)?)
            }
            _ => None,
        };
        // So is the box of shared workers.
        let shared_with = match new.kind {
            KeyKind::Worker => SharedWith::of(!self.shared.is_empty(), self.named())?,
            KeyKind::User | KeyKind::Enrolment => None,
        };
        Ok(NewKey { scopes, shared_with, limits: self.limits()?, uses, ..new })
    }

    /// What is written about names and labels, separated by commas.
    fn limits(&self) -> Result<WorkerLimits, OperationError> {
        let parts = |text: &str| {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect::<Vec<_>>()
        };
        let mut labels: Option<BTreeMap<String, Vec<String>>> = None;
        for part in parts(&self.labels) {
            let wrong =
                || OperationError::field("/labels", "a label is written rack=3, or gpu=* for all values");
            let (label, pattern) = part.split_once('=').ok_or_else(wrong)?;
            let patterns = labels.get_or_insert_default().entry(label.trim().to_owned()).or_default();
            patterns.push(pattern.trim().to_owned());
        }
        Ok(WorkerLimits { names: parts(&self.names), labels, datacenters: Vec::new() })
    }
}

/// `POST /keys`: shows the new key, this once.
pub async fn create(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Form(form): Form<KeyForm>,
) -> Result<Response, Error> {
    let created = match form.wanted() {
        Ok(new) => keys::create(&context, &visitor.actor, new).await,
        Err(error) => Err(error),
    };
    let mut answer = keys_page(&context, &site, &visitor, None).await?;
    match created {
        Ok(created) => answer.created = Some(created.secret),
        Err(OperationError::Invalid { detail, .. }) => {
            answer.error = Some(detail);
            answer.scopes = choices(form.scopes());
            answer.shared = !form.shared.is_empty();
            answer.shared_with = form.shared_with;
            answer.kind = form.kind;
            answer.name = form.name;
            (answer.names, answer.labels, answer.uses) = (form.names, form.labels, form.uses);
        }
        Err(error) => return Err(error.into()),
    }
    page(&answer)
}

/// `POST /keys/{key}/rotate`: shows the new key, this once.
pub async fn rotate(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Path(key): Path<String>,
) -> Result<Response, Error> {
    let created = keys::rotate(&context, &visitor.actor, id(&key, "key")?, None).await?;
    let mut answer = keys_page(&context, &site, &visitor, None).await?;
    answer.created = Some(created.secret);
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
