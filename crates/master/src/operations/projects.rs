//! Projects: list, create, rename, delete. Which of them somebody reaches is decided here.

use gaffer_domain::members::{InvalidName, Name};
use gaffer_domain::permissions::{Action, Role};
use gaffer_domain::projects::{Holdings, NotDeleted, Terms, Weight};
use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_domain::quota::{Quota, Usage};
use serde_json::{Value, json};

use super::context::Effects;
use super::{Actor, Context, OperationError};
use crate::records::Project;
use crate::store::projects::{Looker, ProjectDeleted};

/// The most thousandths of processors, and tasks, of a quota.
const MAX_INTEGER: u32 = 2_000_000_000;
/// The most memory of a quota.
const MAX_BYTES: u64 = 1 << 60;

/// What somebody sees: the projects of which they are a member, in so far as their key or session is for them. Administrators of
/// the installation see all.
fn looker(actor: &Actor) -> Looker {
    let sees_all = actor.standing.is_installation_admin;
    let limited_to = actor.limited_to.filter(|_| !sees_all);
    Looker { user: actor.user_id, sees_all, limited_to }
}

/// The projects that the actor sees, oldest first, from behind a number on.
///
/// # Errors
/// When the database does not answer.
pub async fn list(
    context: &Context,
    actor: &Actor,
    after: Option<i64>,
    limit: u32,
) -> Result<Vec<Project>, OperationError> {
    let views = context.permit_to_look(actor, Action::LookAtProjects)?;
    Ok(views.reads.project_list(looker(actor), after, limit).await?)
}

/// One project.
///
/// # Errors
/// When the actor does not see it.
pub async fn show(context: &Context, actor: &Actor, name: &str) -> Result<Project, OperationError> {
    reach(context, actor, name, Action::LookAtProjects).await
}

/// The actor's own project, if they may do this there.
///
/// # Errors
/// When it was deleted just now.
pub(super) async fn own(context: &Context, actor: &Actor, action: Action) -> Result<Project, OperationError> {
    let effects = context.permit(actor, action)?;
    let found = effects.writes.project_of(actor.user_id, actor.project).await?;
    found.ok_or_else(|| OperationError::NotFound("project".to_owned()))
}

/// The project of that name, if the actor may do this there: in their own as their role says, in others as administrators of
/// the installation.
///
/// # Errors
/// [`OperationError::NotFound`] if it is not there for them.
pub(super) async fn reach(
    context: &Context,
    actor: &Actor,
    name: &str,
    action: Action,
) -> Result<Project, OperationError> {
    let effects = context.permit(actor, action)?;
    let found = effects.writes.project_find(looker(actor), name).await?;
    let is_reached = |project: &Project| {
        let administers = actor.standing.is_installation_admin && Role::InstallationAdmin.may(action);
        project.id == actor.project || administers || (action == Action::LookAtProjects)
    };
    found.filter(is_reached).ok_or_else(|| no_project(name))
}

/// Creates a project, of which the actor becomes an admin.
///
/// # Errors
/// When the name is invalid or taken.
pub async fn create(context: &Context, actor: &Actor, name: &str) -> Result<Project, OperationError> {
    let change = context.change_in(None, actor, Action::CreateProject, &format!("project {name}")).await?;
    let created = make(change.effects, actor, name).await;
    change.end(created).await
}

async fn make(effects: &Effects, actor: &Actor, name: &str) -> Result<Project, OperationError> {
    let name = name_of("/name", name)?;
    if !effects.writes.project_create(&name, actor.user_id).await? {
        return Err(taken(&name));
    }
    let made = effects.writes.project_find(looker(actor), name.as_str()).await?;
    made.ok_or_else(|| no_project(name.as_str()))
}

/// Gives a project another name. Its addresses change with it.
///
/// # Errors
/// When there is no such project, or the name is invalid or taken.
pub async fn rename(
    context: &Context,
    actor: &Actor,
    project: &str,
    name: &str,
) -> Result<Project, OperationError> {
    let project = reach(context, actor, project, Action::ManageProject).await?;
    let target = format!("project {}", project.name);
    let mut change = context.change_in(Some(project.id), actor, Action::ManageProject, &target).await?;
    change.before(json!({ "name": project.name }));
    change.after(json!({ "name": name }));
    let renamed = rename_found(change.effects, project, name).await;
    change.end(renamed).await
}

async fn rename_found(effects: &Effects, project: Project, name: &str) -> Result<Project, OperationError> {
    let name = name_of("/name", name)?;
    if let Some(user) = &project.personal_of {
        let detail =
            format!("project {} is the personal project of {user}, and keeps its name", project.name);
        return Err(OperationError::Conflict { detail, state: "personal" });
    }
    if name.as_str() != project.name && !effects.writes.project_rename(project.id, &name).await? {
        return Err(taken(&name));
    }
    Ok(Project { name: name.to_string(), ..project })
}

/// What is to be set for a project; what is none stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewTerms {
    pub weight: Option<u32>,
    /// None removes a quota.
    pub cpu: Option<Option<Cpu>>,
    pub memory: Option<Option<Bytes>>,
    pub tasks: Option<Option<u32>>,
}

/// Sets the weight and the quotas of a project. They count from the next pass of the scheduler on.
///
/// # Errors
/// When there is no such project, or a value is out of range.
pub async fn set_terms(
    context: &Context,
    actor: &Actor,
    name: &str,
    new: NewTerms,
) -> Result<Project, OperationError> {
    let project = reach(context, actor, name, Action::SetTerms).await?;
    let target = format!("project {}", project.name);
    let mut change = context.change_in(Some(project.id), actor, Action::SetTerms, &target).await?;
    change.before(in_audit(&project.terms));
    let set = set_found(change.effects, project, new).await;
    if let Ok(set) = &set {
        change.after(in_audit(&set.terms));
    }
    change.end(set).await
}

fn in_audit(Terms { weight, quota: Quota { cpu, memory, tasks } }: &Terms) -> Value {
    json!({ "weight": weight.get(), "cpu": cpu, "memory": memory, "tasks": tasks })
}

async fn set_found(effects: &Effects, project: Project, new: NewTerms) -> Result<Project, OperationError> {
    let mut terms = project.terms;
    if let Some(weight) = new.weight {
        let detail = || format!("expected a weight from {} to {}", Weight::MIN, Weight::MAX);
        terms.weight = Weight::new(weight).ok_or_else(|| OperationError::field("/weight", detail()))?;
    }
    let Quota { cpu, memory, tasks } = &mut terms.quota;
    *cpu = new.cpu.unwrap_or(*cpu);
    *memory = new.memory.unwrap_or(*memory);
    *tasks = new.tasks.unwrap_or(*tasks);
    let out_of_range = |field, most: &str| {
        OperationError::field(field, format!("expected more than 0, at most {most}; or null for no quota"))
    };
    if cpu.is_some_and(|cpu| cpu.millis() == 0 || cpu.millis() > MAX_INTEGER) {
        return Err(out_of_range("/quota/cpu", "2000000"));
    }
    if memory.is_some_and(|memory| memory.get() == 0 || memory.get() > MAX_BYTES) {
        return Err(out_of_range("/quota/memory", "1 EiB"));
    }
    if tasks.is_some_and(|tasks| tasks == 0 || tasks > MAX_INTEGER) {
        return Err(out_of_range("/quota/tasks", "2000000000"));
    }
    // Also if the database does not say whether it was stored.
    let _changed = effects.scheduling.terms_change();
    effects.writes.project_set_terms(project.id, &terms).await?;
    effects.changes.announce(&[]);
    Ok(Project { terms, ..project })
}

/// What a project has in use of its quotas.
///
/// # Errors
/// When the database does not answer.
pub async fn usage(context: &Context, actor: &Actor, project: &Project) -> Result<Usage, OperationError> {
    let views = context.permit_to_look(actor, Action::LookAtProjects)?;
    Ok(views.reads.project_usage(project.id).await?)
}

/// Deletes a project. `confirmed`: its name, if all that it has is to go with it.
///
/// # Errors
/// When there is no such project, something in it has not ended, or it has something and that is not confirmed.
pub async fn delete(
    context: &Context,
    actor: &Actor,
    name: &str,
    confirmed: Option<&str>,
) -> Result<(), OperationError> {
    let project = reach(context, actor, name, Action::ManageProject).await?;
    // Its own chain is about to belong to nobody.
    let mut change =
        context.change_in(None, actor, Action::ManageProject, &format!("project {name}")).await?;
    change.after(json!({ "deleted": true }));
    let deleted = delete_found(change.effects, &project, confirmed).await;
    change.end(deleted).await
}

async fn delete_found(
    effects: &Effects,
    project: &Project,
    confirmed: Option<&str>,
) -> Result<(), OperationError> {
    let name = project.name.as_str();
    // Also if the database does not say whether it is gone.
    let (_checked, _deleted) =
        (effects.wakes.key_check.call_on_drop(), effects.wakes.deletion.call_on_drop());
    let conflict = |detail: String| Err(OperationError::Conflict { detail, state: "in_use" });
    match effects.writes.project_delete(project.id, confirmed == Some(name)).await? {
        ProjectDeleted::Done => Ok(()),
        ProjectDeleted::Kept(why, holdings) => Err(kept(name, why, &holdings)),
        ProjectDeleted::First => {
            conflict(format!("project {name} is the first one of the installation, which cannot be deleted"))
        }
        ProjectDeleted::Personal => {
            conflict(format!("project {name} is a personal one: it is deleted with its user"))
        }
    }
}

/// Why a project is not deleted, and what to do about it.
pub(super) fn kept(name: &str, why: NotDeleted, holdings: &Holdings) -> OperationError {
    let (detail, state) = match why {
        NotDeleted::InUse => (
            format!(
                "project {name} is in use: it has {}; stop the jobs and the workers first",
                holdings.in_use()
            ),
            "in_use",
        ),
        NotDeleted::Unconfirmed => (
            format!(
                "project {name} has {holdings}; repeat the name as `confirm` ({name}) to delete it with all of that"
            ),
            "not_empty",
        ),
    };
    OperationError::Conflict { detail, state }
}

/// Reads a name of a user or a project.
pub(super) fn name_of(field: &'static str, name: &str) -> Result<Name, OperationError> {
    name.parse().map_err(|error: InvalidName| OperationError::field(field, error.to_string()))
}

/// Somebody or something has that name.
pub(super) fn taken(name: &Name) -> OperationError {
    let detail = format!("the name {name} is taken; users and projects share their names");
    OperationError::Conflict { detail, state: "taken" }
}

fn no_project(name: &str) -> OperationError {
    OperationError::NotFound(format!("project {name}"))
}
