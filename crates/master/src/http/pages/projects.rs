//! The page *Projects*.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use gaffer_domain::members::MemberRole;
use gaffer_domain::permissions::Action;
use serde::Deserialize;

use super::super::Site;
use super::super::error::Error;
use super::super::params::{Params, page_of, wrong};
use super::format::address;
use super::frame::{Frame, SessionUser};
use super::jobs::curl;
use super::page;
use crate::operations::projects::NewTerms;
use crate::operations::{Context, OperationError, members, projects};

const PAGE_ROWS: u32 = 100;

#[derive(Template)]
#[template(path = "projects.html")]
struct ProjectsPage {
    frame: Frame,
    cli: String,
    curl: String,
    may_create: bool,
    may_set: bool,
    name: String,
    error: Option<String>,
    rows: Vec<ProjectRow>,
    more: Option<String>,
}

struct ProjectRow {
    name: String,
    role: Option<&'static str>,
    personal_of: Option<String>,
    members: u32,
    weight: u32,
    cpu: String,
    memory: String,
    tasks: String,
    created: Option<i64>,
}

async fn projects_page(
    context: &Context,
    site: &Site,
    visitor: &SessionUser,
    after: Option<i64>,
) -> Result<ProjectsPage, Error> {
    let found = projects::list(context, &visitor.actor, after, PAGE_ROWS + 1).await?;
    let found = page_of(found, PAGE_ROWS, |project| project.id.0);
    let frame = visitor.frame("/projects");
    let row = |project: crate::records::Project| ProjectRow {
        name: project.name,
        role: project.role.map(MemberRole::as_str),
        personal_of: project.personal_of,
        members: project.members,
        weight: project.terms.weight.get(),
        cpu: project.terms.quota.cpu.map_or_else(String::new, |cpu| cpu.to_string()),
        memory: project.terms.quota.memory.map_or_else(String::new, |memory| memory.to_string()),
        tasks: project.terms.quota.tasks.map_or_else(String::new, |tasks| tasks.to_string()),
        created: Some(project.created_at.timestamp_millis()),
    };
    Ok(ProjectsPage {
        may_create: frame.may(Action::CreateProject),
        may_set: frame.may(Action::SetTerms),
        frame,
        cli: "gaffer projects\ngaffer projects create NAME".to_owned(),
        curl: curl(site, "GET", "/projects"),
        name: String::new(),
        error: None,
        rows: found.items.into_iter().map(row).collect(),
        more: found.next_cursor.map(|cursor| address("/projects", &[("cursor", &cursor)])),
    })
}

/// `GET /projects`
pub async fn list(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["cursor"], &[])?;
    page(&projects_page(&context, &site, &visitor, params.cursor()?).await?)
}

#[derive(Debug, Deserialize)]
pub struct ProjectForm {
    name: String,
}

/// `POST /projects`
pub async fn create(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    visitor: SessionUser,
    Form(form): Form<ProjectForm>,
) -> Result<Response, Error> {
    let detail = match projects::create(&context, &visitor.actor, form.name.trim()).await {
        Ok(project) => {
            return Ok(Redirect::to(&format!("/projects/{}/members", project.name)).into_response());
        }
        Err(OperationError::Invalid { detail, .. } | OperationError::Conflict { detail, .. }) => detail,
        Err(error) => return Err(error.into()),
    };
    let mut answer = projects_page(&context, &site, &visitor, None).await?;
    (answer.error, answer.name) = (Some(detail), form.name);
    page(&answer)
}

#[derive(Debug, Deserialize)]
pub struct TermsForm {
    name: String,
    weight: String,
    cpu: String,
    memory: String,
    tasks: String,
}

/// What a field has: nothing means no quota.
fn quota<T: FromStr>(name: &str, text: &str) -> Result<Option<Option<T>>, Error>
where
    T::Err: Display,
{
    match text.trim() {
        "" => Ok(Some(None)),
        text => text.parse().map(|quota| Some(Some(quota))).map_err(|error| wrong(name, &format!("{error}"))),
    }
}

/// `POST /project/terms`: what is set for a project.
pub async fn set_terms(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Form(form): Form<TermsForm>,
) -> Result<Response, Error> {
    let weight =
        form.weight.trim().parse().map_err(|_| wrong("weight", "expected a number from 1 to 1000"))?;
    let new = NewTerms {
        weight: Some(weight),
        cpu: quota("cpu", &form.cpu)?,
        memory: quota("memory", &form.memory)?,
        tasks: quota("tasks", &form.tasks)?,
    };
    projects::set_terms(&context, &visitor.actor, &form.name, new).await?;
    Ok(Redirect::to("/projects").into_response())
}

/// `POST /join`: makes an administrator of the installation an admin of a project.
pub async fn join(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Form(form): Form<ProjectForm>,
) -> Result<Response, Error> {
    let (user, role) = (visitor.actor.user.clone(), MemberRole::Admin.as_str());
    members::set(&context, &visitor.actor, &form.name, &user, role).await?;
    Ok(Redirect::to(&format!("/projects/{}/members", form.name)).into_response())
}
