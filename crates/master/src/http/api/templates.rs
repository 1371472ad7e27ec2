//! `/templates`: specifications that are saved under a name.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::{Page, Template, TemplateVersion, TemplateVersionEntry};

use super::super::bodies;
use super::super::description::{
    Answer, Description, Done, Operation, Parameter, Schemas, TemplateBody, Values,
};
use super::super::error::Error;
use super::super::params::{Params, wrong};
use crate::operations::templates::{self, SavedVersion};
use crate::operations::{Actor, Context, jobs};

/// A version of a template.
const VERSION: Parameter = Parameter::new(
    "version",
    Values::Integer { least: 1, most: i32::MAX as u64, default: None },
    "Number of the version; without it, the latest.",
);

pub const LIST: Operation = Operation {
    description: "By name, all in one page.",
    ..Operation::new("list_templates", "List templates", Action::Look)
};

/// `GET /templates`
pub async fn list(State(context): State<Arc<Context>>, actor: Actor) -> Result<Json<Page<Template>>, Error> {
    let items = templates::list(&context, &actor).await?;
    Ok(Json(Page { items: items.into_iter().map(bodies::template).collect(), next_cursor: None }))
}

pub const SAVE: Operation = Operation {
    description: "The body is a specification in JSON, YAML or TOML, by its content type. It is kept as it is written. Values of \
        parameters without a default are given with each job. If the latest version is the same, nothing is saved: 200. A \
        template keeps its 100 latest versions.",
    ..Operation::new("save_template", "Save a version of a template", Action::ManageTemplates)
};

/// `POST /templates/{template}`
pub async fn save(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(template): Path<String>,
    body: TemplateBody,
) -> Result<SavedTemplate, Error> {
    jobs::check_size(body.len())?;
    let text = body.read()?;
    let SavedVersion { opened, is_new, hints } = templates::save(&context, &actor, &template, &text).await?;
    let version = TemplateVersion {
        hints: bodies::problem_fields(hints),
        ..bodies::template_version(&template, opened)
    };
    Ok(SavedTemplate { version, is_new })
}

/// A version that was saved, now or before.
#[derive(Debug)]
pub struct SavedTemplate {
    version: TemplateVersion,
    is_new: bool,
}

impl IntoResponse for SavedTemplate {
    fn into_response(self) -> Response {
        let status = if self.is_new { StatusCode::CREATED } else { StatusCode::OK };
        (status, Json(self.version)).into_response()
    }
}

impl Answer for SavedTemplate {
    fn describe(description: &mut Description, schemas: &mut Schemas) {
        description.answers_json::<TemplateVersion>(StatusCode::CREATED, "The new version", &[], schemas);
        let same = "The latest version, which is the same";
        description.answers_json::<TemplateVersion>(StatusCode::OK, same, &[], schemas);
    }
}

pub const SHOW: Operation = Operation {
    query: &[VERSION],
    ..Operation::new("get_template", "Get a version of a template", Action::Look)
};

/// `GET /templates/{template}`
pub async fn show(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(template): Path<String>,
    params: Params,
) -> Result<Json<TemplateVersion>, Error> {
    let version = version(&params)?;
    let opened = templates::open(&context, &actor, &template, version).await?;
    Ok(Json(bodies::template_version(&template, opened)))
}

/// The number of a version in a query.
pub fn version(params: &Params) -> Result<Option<u32>, Error> {
    let Some(text) = params.text("version").filter(|text| !text.is_empty()) else { return Ok(None) };
    version_in(text).map(Some)
}

/// The number of a version.
pub fn version_in(text: &str) -> Result<u32, Error> {
    let number = text.parse::<u32>().ok().filter(|number| (1..=i32::MAX.unsigned_abs()).contains(number));
    number.ok_or_else(|| wrong("version", "expected the number of a version, from 1"))
}

pub const VERSIONS: Operation = Operation {
    description: "Latest first, all in one page.",
    ..Operation::new("list_template_versions", "List the versions of a template", Action::Look)
};

/// `GET /templates/{template}/versions`
pub async fn versions(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(template): Path<String>,
) -> Result<Json<Page<TemplateVersionEntry>>, Error> {
    let items = templates::versions(&context, &actor, &template).await?;
    Ok(Json(Page { items: items.into_iter().map(bodies::version_entry).collect(), next_cursor: None }))
}

pub const DELETE: Operation = Operation {
    description: "Jobs that were made from it stay as they are, and can be rerun. As long as there are such jobs, the numbers of \
        its versions are not used again.",
    ..Operation::new("delete_template", "Delete a template", Action::ManageTemplates)
};

/// `DELETE /templates/{template}`
pub async fn delete(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(template): Path<String>,
) -> Result<Done, Error> {
    templates::delete(&context, &actor, &template).await?;
    Ok(Done)
}
