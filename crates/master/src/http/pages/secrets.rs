//! The page *Secrets*: their names, a form that sets one, and no value.

use std::fmt;
use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use gaffer_domain::secrets::SecretValue;
use serde::Deserialize;

use super::super::Site;
use super::super::error::Error;
use super::format::sentence;
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use crate::operations::secrets::{self, SetSecret};
use crate::operations::{Context, OperationError};
use crate::records::Secret;

#[derive(Template)]
#[template(path = "secrets.html")]
struct SecretsPage {
    frame: Frame,
    cli: String,
    curl: String,
    /// What was set a moment ago.
    set: Option<SetRow>,
    /// The name in the form.
    name: String,
    name_error: Option<String>,
    value_error: Option<String>,
    /// What keeps secrets from being used.
    problem: Option<String>,
    rows: Vec<SecretRow>,
}

struct SetRow {
    name: String,
    version: u64,
    warning: Option<String>,
}

struct SecretRow {
    name: String,
    version: u64,
    created: Option<i64>,
    created_by: String,
    updated: Option<i64>,
    updated_by: String,
    used: Option<i64>,
}

impl SecretRow {
    fn of(secret: Secret) -> SecretRow {
        let Secret { name, version, created_by, created_at, updated_by, updated_at, last_used_at } = secret;
        SecretRow {
            name,
            version,
            created: Some(created_at.timestamp_millis()),
            created_by,
            updated: Some(updated_at.timestamp_millis()),
            updated_by,
            used: last_used_at.map(|at| at.timestamp_millis()),
        }
    }
}

async fn secrets_page(context: &Context, site: &Site, visitor: &SessionUser) -> Result<SecretsPage, Error> {
    let secrets = secrets::list(context, &visitor.actor).await?;
    Ok(SecretsPage {
        frame: visitor.frame("/secrets"),
        cli: "gaffer secrets\ngaffer secrets set DB_PASSWORD < password.txt".to_owned(),
        curl: format!(
            "{} \\\n  -H 'Content-Type: application/octet-stream' --data-binary @password.txt",
            curl(site, "PUT", "/secrets/DB_PASSWORD")
        ),
        set: None,
        name: String::new(),
        name_error: None,
        value_error: None,
        problem: None,
        rows: secrets.into_iter().map(SecretRow::of).collect(),
    })
}

/// `GET /secrets`
pub async fn list(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
) -> Result<Response, Error> {
    page(&secrets_page(&context, &site, &visitor).await?)
}

#[derive(Deserialize)]
pub struct SecretForm {
    name: String,
    value: String,
}

impl fmt::Debug for SecretForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretForm").field("name", &self.name).finish_non_exhaustive()
    }
}

/// `POST /secrets`
pub async fn set(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Form(form): Form<SecretForm>,
) -> Result<Response, Error> {
    let SecretForm { name, value } = form;
    let name = name.trim().to_owned();
    // Forms end lines as mail does.
    let value = SecretValue::new(value.replace("\r\n", "\n").into_bytes());
    match secrets::set(&context, &visitor.actor, &name, &value).await {
        Ok(SetSecret { secret, warning }) => {
            let set = SetRow { name: secret.name, version: secret.version, warning };
            page(&SecretsPage { set: Some(set), ..secrets_page(&context, &site, &visitor).await? })
        }
        Err(error) => {
            let told = sentence(&error.to_string());
            let answer = SecretsPage { name, ..secrets_page(&context, &site, &visitor).await? };
            let answer = match &error {
                OperationError::Invalid { field: Some("/value"), .. } => {
                    SecretsPage { value_error: Some(told), ..answer }
                }
                OperationError::Invalid { .. } => SecretsPage { name_error: Some(told), ..answer },
                OperationError::SecretsUnavailable(_) => SecretsPage { problem: Some(told), ..answer },
                _ => return Err(error.into()),
            };
            let status = Error::from(error).status();
            Ok((status, page(&answer)?).into_response())
        }
    }
}

/// `POST /secrets/{secret}/delete`
pub async fn delete(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(secret): Path<String>,
) -> Result<Response, Error> {
    secrets::delete(&context, &visitor.actor, &secret).await?;
    Ok(Redirect::to("/secrets").into_response())
}
