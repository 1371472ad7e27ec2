//! Templates: save, find, delete, and submit a job from one.

use gaffer_domain::document::Value as Document;
use gaffer_domain::permissions::Action;
use gaffer_domain::quantity::shown;
use gaffer_domain::spec::{Declared, FieldError, Filled, Unfilled, check_template_name};
use gaffer_domain::template::{MAX_TEMPLATES, TemplateRef, TemplateText};
use serde_json::json;

use super::context::Effects;
use super::jobs::{self, Accepted, Submit};
use super::{Actor, Context, OperationError};
use crate::records::{Template, TemplateVersion, VersionEntry};
use crate::store::StoreError;
use crate::store::jobs::Origin;
use crate::store::templates::Saved;

/// A version that is saved.
#[derive(Debug, Clone)]
pub struct SavedVersion {
    pub opened: Opened,
    /// Whether it was saved now; the latest version says the same otherwise.
    pub is_new: bool,
    /// What may be a mistake.
    pub hints: Vec<FieldError>,
}

/// A job that is to be made from a template.
#[derive(Debug, Clone, Copy)]
pub struct FromTemplate<'a> {
    /// Name of the template.
    pub name: &'a str,
    /// Number of the version; none for the latest.
    pub version: Option<u32>,
    /// Values of its parameters: an object.
    pub values: Option<&'a Document>,
    /// As in [`Submit`].
    pub idempotency_key: Option<&'a str>,
}

/// Saves a version of a template. Values that its parameters lack are given with each job.
///
/// # Errors
/// When the name or the specification is invalid, or the project has too many templates.
pub async fn save(
    context: &Context,
    actor: &Actor,
    name: &str,
    text: &TemplateText,
) -> Result<SavedVersion, OperationError> {
    let mut change = context.change(actor, Action::ManageTemplates, &format!("template {name}")).await?;
    let saved = save_version(change.effects, actor, name, text).await;
    if let Ok(saved) = &saved {
        change.after(json!({ "version": saved.opened.found.version, "is_new": saved.is_new }));
    }
    change.end(saved).await
}

async fn save_version(
    effects: &Effects,
    actor: &Actor,
    name: &str,
    text: &TemplateText,
) -> Result<SavedVersion, OperationError> {
    jobs::check_size(text.text.len())?;
    let invalid = |detail| OperationError::Invalid { code: "invalid_name", detail, field: None };
    check_template_name(name).map_err(invalid)?;
    let document = text.document().map_err(|error| OperationError::Invalid {
        code: "invalid_spec",
        detail: format!("the template cannot be read as {}: {error}", text.language.name()),
        field: None,
    })?;
    let hints = Unfilled::new(&document).check().map_err(OperationError::InvalidSpec)?;
    let (version, is_new) = match effects.writes.template_save(actor.project, name, text, &actor.user).await?
    {
        Saved::Version(version) => (version, true),
        Saved::Unchanged(version) => (version, false),
        Saved::TooMany => {
            let detail =
                format!("the project has {MAX_TEMPLATES} templates, the most that are allowed; delete one");
            return Err(OperationError::Invalid { code: "too_many_templates", detail, field: None });
        }
    };
    let found = effects.writes.template_version(actor.project, name, Some(version)).await?;
    let opened = opened(found.ok_or_else(|| no_template(name, Some(version)))?)?;
    Ok(SavedVersion { opened, is_new, hints })
}

/// Deletes a template. Jobs that were made from it stay as they are.
///
/// # Errors
/// When there is no such template.
pub async fn delete(context: &Context, actor: &Actor, name: &str) -> Result<(), OperationError> {
    let mut change = context.change(actor, Action::ManageTemplates, &format!("template {name}")).await?;
    change.after(json!({ "deleted": true }));
    let deleted = match change.effects.writes.template_delete(actor.project, name).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(no_template(name, None)),
        Err(error) => Err(error.into()),
    };
    change.end(deleted).await
}

/// The templates of the actor's project by their names.
///
/// # Errors
/// When the database does not answer.
pub async fn list(context: &Context, actor: &Actor) -> Result<Vec<Template>, OperationError> {
    let views = context.permit_to_look(actor, Action::Look)?;
    Ok(views.reads.template_list(actor.project).await?)
}

/// The versions of a template, latest first.
///
/// # Errors
/// When there is no such template.
pub async fn versions(
    context: &Context,
    actor: &Actor,
    name: &str,
) -> Result<Vec<VersionEntry>, OperationError> {
    let views = context.permit_to_look(actor, Action::Look)?;
    let versions = views.reads.template_versions(actor.project, name).await?;
    if versions.is_empty() { Err(no_template(name, None)) } else { Ok(versions) }
}

/// A version of a template with its document and its parameters.
#[derive(Debug, Clone)]
pub struct Opened {
    pub found: TemplateVersion,
    pub document: Document,
    /// In the order of the document.
    pub declared: Vec<Declared>,
}

/// One version of a template; without a number the latest.
///
/// # Errors
/// When there is no such template or version.
pub async fn open(
    context: &Context,
    actor: &Actor,
    name: &str,
    version: Option<u32>,
) -> Result<Opened, OperationError> {
    let views = context.permit_to_look(actor, Action::Look)?;
    let found = views.reads.template_version(actor.project, name, version).await?;
    opened(found.ok_or_else(|| no_template(name, version))?)
}

fn opened(found: TemplateVersion) -> Result<Opened, OperationError> {
    let unreadable = |error| StoreError::Unreadable(format!("a template: {error}"));
    let document = found.text.document().map_err(unreadable)?;
    let declared = Unfilled::new(&document).declared();
    Ok(Opened { found, document, declared })
}

/// Submits a job from a template with values for its parameters.
///
/// # Errors
/// When there is no such template or version, or the values are invalid.
pub async fn submit(
    context: &Context,
    actor: &Actor,
    wanted: FromTemplate<'_>,
) -> Result<Accepted, OperationError> {
    let effects = context.permit(actor, Action::SubmitJob)?;
    let FromTemplate { name, version, values, idempotency_key } = wanted;
    let request =
        json!({ "template": name, "version": version, "parameters": values.map(Document::to_json) });
    // A repeated request gets the same job, whatever has become of the template meanwhile.
    if let Some(earlier) = jobs::find_repeated(effects, actor, idempotency_key, &request).await? {
        return Ok(earlier);
    }
    let found = effects.writes.template_version(actor.project, name, version).await?;
    let Opened { found, document, .. } = opened(found.ok_or_else(|| no_template(name, version))?)?;
    let unfilled = Unfilled { pointer: None, values, ..Unfilled::new(&document) };
    let Filled { spec, source, hints } = unfilled.fill().map_err(OperationError::InvalidSpec)?;
    let template = TemplateRef { name: name.to_owned(), version: found.version };
    let origin = Origin { source: source.as_deref(), template: Some(&template) };
    let submit = Submit { spec: &spec, origin, request: Some(&request), idempotency_key };
    let accepted = jobs::submit(context, actor, submit).await?;
    Ok(accepted.with_hints(hints))
}

fn no_template(name: &str, version: Option<u32>) -> OperationError {
    let version = version.map(|version| format!(" with version {version}")).unwrap_or_default();
    OperationError::NotFound(format!("template {}{version}", shown(name)))
}
