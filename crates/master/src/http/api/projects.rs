//! `/projects`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::{NewProject, Project, SetProject, SetQuota};

use super::super::bodies::people;
use super::super::description::{
    CURSOR, Created, Done, JsonBody, LIMIT, Listed, Operation, Parameter, Values,
};
use super::super::error::Error;
use super::super::params::{Params, page_of};
use crate::operations::projects::NewTerms;
use crate::operations::{Actor, Context, projects};

/// Confirms a deletion.
pub const CONFIRM: Parameter = Parameter::new(
    "confirm",
    Values::Text,
    "The same name again, to delete finished jobs, templates, keys and disconnected workers with it.",
);

pub const LIST: Operation = Operation {
    description: "Oldest first. A key sees its own project, a browser session all projects of its user, and administrators of \
        the installation see all.",
    query: &[LIMIT, CURSOR],
    ..Operation::new("list_projects", "List projects", Action::LookAtProjects)
};

/// `GET /projects`
pub async fn list(
    State(context): State<Arc<Context>>,
    actor: Actor,
    params: Params,
) -> Result<Listed<Project>, Error> {
    let limit = params.limit()?;
    let found = projects::list(&context, &actor, params.cursor()?, limit + 1).await?;
    Ok(Listed::of(&params, page_of(found, limit, |project| project.id.0).map(people::project)))
}

pub const CREATE: Operation = Operation {
    description: "You become its admin.",
    errors: &[(409, "The name is taken by a project or a user.")],
    ..Operation::new("create_project", "Create a project", Action::CreateProject)
};

/// `POST /projects`
pub async fn create(
    State(context): State<Arc<Context>>,
    actor: Actor,
    body: JsonBody<NewProject>,
) -> Result<Created<Project>, Error> {
    let NewProject { name } = body.read()?;
    Ok(Created(people::project(projects::create(&context, &actor, &name).await?)))
}

pub const SHOW: Operation = Operation::new("get_project", "Get a project", Action::LookAtProjects);

/// `GET /projects/{project}`
pub async fn show(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(project): Path<String>,
) -> Result<Json<Project>, Error> {
    let found = projects::show(&context, &actor, &project).await?;
    let usage = projects::usage(&context, &actor, &found).await?;
    Ok(Json(people::project_in_use(found, usage)))
}

pub const RENAME: Operation = Operation {
    description: "The addresses of its pages change with the name. Keys and workers stay connected.",
    errors: &[(409, "The name is taken by a project or a user, or it is a personal project.")],
    ..Operation::new("rename_project", "Rename a project", Action::ManageProject)
};

/// `POST /projects/{project}/rename`
pub async fn rename(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(project): Path<String>,
    body: JsonBody<NewProject>,
) -> Result<Json<Project>, Error> {
    let NewProject { name } = body.read()?;
    Ok(Json(people::project(projects::rename(&context, &actor, &project, &name).await?)))
}

pub const SET: Operation = Operation {
    description: "What is left out stays as it is. Counts from the next pass of the scheduler on: tasks that exceed a quota wait, \
        and running tasks continue.",
    ..Operation::new("set_project", "Set the weight and the quotas of a project", Action::SetTerms)
};

/// `PATCH /projects/{project}`
pub async fn set(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(project): Path<String>,
    body: JsonBody<SetProject>,
) -> Result<Json<Project>, Error> {
    let SetProject { weight, quota } = body.read()?;
    let SetQuota { cpu, memory, tasks } = quota.unwrap_or_default();
    let new = NewTerms { weight, cpu, memory, tasks };
    Ok(Json(people::project(projects::set_terms(&context, &actor, &project, new).await?)))
}

pub const DELETE: Operation = Operation {
    description: "Its keys end at once. Its jobs disappear at once, and are removed in the background.",
    query: &[CONFIRM],
    errors: &[(
        409,
        "Jobs have not ended or workers are connected, or the project has something and `confirm` is missing: `detail` \
         says what it has. The first project of the installation and personal ones stay.",
    )],
    ..Operation::new("delete_project", "Delete a project", Action::ManageProject)
};

/// `DELETE /projects/{project}`
pub async fn delete(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(project): Path<String>,
    params: Params,
) -> Result<Done, Error> {
    projects::delete(&context, &actor, &project, params.text("confirm")).await?;
    Ok(Done)
}
