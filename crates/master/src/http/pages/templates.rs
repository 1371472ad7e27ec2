//! The pages of templates: the list, and one template with a form that submits a job from it.

use std::sync::Arc;

use axum::Form;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use uuid::Uuid;

use super::super::Site;
use super::super::api::templates::{version, version_in};
use super::super::error::Error;
use super::super::params::{Params, encoded};
use super::format::{address, quoted, template_page_of};
use super::frame::{Frame, SessionUser};
use super::job::form_key;
use super::jobs::curl;
use super::page;
use super::parameter_form::{self, Fields, ParameterControl, controls, field_at};
use crate::operations::templates::{self, FromTemplate, Opened};
use crate::operations::{Context, OperationError};

#[derive(askama::Template)]
#[template(path = "templates.html")]
struct TemplatesPage {
    frame: Frame,
    cli: String,
    curl: String,
    rows: Vec<TemplateRow>,
}

struct TemplateRow {
    name: String,
    href: String,
    version: u32,
    versions: u32,
    saved_by: String,
    saved: Option<i64>,
}

/// `GET /templates`
pub async fn list(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
) -> Result<Response, Error> {
    let found = templates::list(&context, &visitor.actor).await?;
    let row = |template: crate::records::Template| TemplateRow {
        href: template_page_of(&template.name),
        name: template.name,
        version: template.version,
        versions: template.versions,
        saved_by: template.saved_by,
        saved: Some(template.saved_at.timestamp_millis()),
    };
    page(&TemplatesPage {
        frame: visitor.frame("/templates"),
        cli: "gaffer templates list\ngaffer templates save NAME job.yaml".to_owned(),
        curl: curl(&site, "GET", "/templates"),
        rows: found.into_iter().map(row).collect(),
    })
}

#[derive(askama::Template)]
#[template(path = "template.html")]
struct TemplatePage {
    frame: Frame,
    cli: String,
    curl: String,
    name: String,
    href: String,
    version: u32,
    /// The version is not the latest.
    latest: Option<u32>,
    saved_by: String,
    saved: Option<i64>,
    text: String,
    once: String,
    general: Vec<String>,
    parameters: Vec<ParameterControl>,
    versions: Vec<VersionRow>,
}

struct VersionRow {
    version: u32,
    href: String,
    is_shown: bool,
    saved_by: String,
    saved: Option<i64>,
}

/// What is on the page beside the template: nothing, or what was sent and is wrong.
#[derive(Default)]
struct Sent {
    once: Option<String>,
    fields: Fields,
    errors: Fields,
    general: Vec<String>,
}

async fn template_page(
    context: &Context,
    site: &Site,
    visitor: &SessionUser,
    name: &str,
    opened: Opened,
    sent: Sent,
) -> Result<TemplatePage, Error> {
    let versions = templates::versions(context, &visitor.actor, name).await?;
    let Opened { found, declared, .. } = opened;
    let latest = versions.first().map(|latest| latest.version).filter(|latest| *latest != found.version);
    let href = template_page_of(name);
    let needed = declared.iter().filter(|parameter| parameter.declaration.default.is_none());
    let values: String = needed.map(|parameter| format!(" -p {}=…", parameter.name)).collect();
    let chosen = latest.map(|_| format!(" --version {}", found.version)).unwrap_or_default();
    let word = quoted(name);
    Ok(TemplatePage {
        frame: visitor.frame("/templates"),
        cli: format!("gaffer submit --template {word}{chosen}{values}\ngaffer templates show {word}{chosen}"),
        curl: curl(site, "GET", &format!("/templates/{}", encoded(name))),
        name: name.to_owned(),
        version: found.version,
        latest,
        saved_by: found.saved_by,
        saved: Some(found.saved_at.timestamp_millis()),
        text: found.text.text,
        once: sent.once.unwrap_or_else(|| Uuid::new_v4().to_string()),
        general: sent.general,
        parameters: controls(&declared, &sent.fields, None, &sent.errors),
        versions: versions
            .into_iter()
            .map(|entry| VersionRow {
                href: address(&href, &[("version", &entry.version.to_string())]),
                is_shown: entry.version == found.version,
                version: entry.version,
                saved_by: entry.saved_by,
                saved: Some(entry.saved_at.timestamp_millis()),
            })
            .collect(),
        href,
    })
}

/// `GET /templates/{template}`
pub async fn show(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, Error> {
    let version = version(&params.only(&["version"], &[])?)?;
    let opened = templates::open(&context, &visitor.actor, &name, version).await?;
    page(&template_page(&context, &site, &visitor, &name, opened, Sent::default()).await?)
}

/// What the form sends.
#[derive(Debug, Deserialize)]
pub struct Values {
    /// Names this submission, so that sending it twice makes one job.
    #[serde(default)]
    once: String,
    version: String,
    /// Of the parameters.
    #[serde(flatten)]
    fields: Fields,
}

/// `POST /templates/{template}`: submits a job.
pub async fn submit(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Path(name): Path<String>,
    Form(Values { once, version, fields }): Form<Values>,
) -> Result<Response, Error> {
    let version = version_in(&version)?;
    let opened = templates::open(&context, &visitor.actor, &name, Some(version)).await?;
    let values = parameter_form::values(&opened.declared, &fields);
    let idempotency_key = form_key(&once);
    let wanted = FromTemplate { name: &name, version: Some(version), values: Some(&values), idempotency_key };
    let mut sent = Sent::default();
    match templates::submit(&context, &visitor.actor, wanted).await {
        Ok(accepted) => return Ok(Redirect::to(&format!("/jobs/{}", accepted.job)).into_response()),
        Err(OperationError::InvalidSpec(mistakes)) => {
            for mistake in mistakes {
                let text = mistake.message();
                match field_at(&mistake.pointer, &opened.declared) {
                    // The first mistake of a field is enough.
                    Some(field) => drop(sent.errors.entry(field).or_insert(text)),
                    None => sent.general.push(text),
                }
            }
            sent.once = Some(once);
        }
        Err(OperationError::KeyReused) => {
            let again = "This form made a job already, with other values. Submit again to make one more.";
            sent.general.push(again.to_owned());
        }
        Err(error) => return Err(error.into()),
    }
    sent.fields = fields;
    let mut response = page(&template_page(&context, &site, &visitor, &name, opened, sent).await?)?;
    *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
    Ok(response)
}

/// `POST /templates/{template}/delete`
pub async fn delete(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Path(name): Path<String>,
) -> Result<Response, Error> {
    templates::delete(&context, &visitor.actor, &name).await?;
    Ok(Redirect::to("/templates").into_response())
}
