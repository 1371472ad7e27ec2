//! Services: by name, where they are reached, at how many instances they are kept.

use gaffer_domain::JobId;
use gaffer_domain::job::JobState;
use gaffer_domain::permissions::Action;
use gaffer_domain::scale::Refused;
use gaffer_domain::spec::{MAX_NAME_CHARS, PortProtocol};
use gaffer_protocol::ports::NamedPort;
use serde_json::json;

use super::context::Effects;
use super::{Actor, Context, OperationError, no_job};
use crate::records::TaskPorts;
use crate::store::ReadStore;
use crate::store::transitions::{ScaleJob, ScaleResult};
use crate::views::Views;

/// Tasks that are read together.
const PAGE_TASKS: u32 = 1_000;

/// A service to which a load balancer sends requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub job: JobId,
    /// Its tasks with ports.
    pub tasks: Vec<TaskPorts>,
}

impl Service {
    /// TCP ports of its tasks: those of that name, or the first one of each task.
    pub fn targets<'a>(
        &'a self,
        name: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a TaskPorts, &'a NamedPort)> {
        ports_of(self.tasks.iter(), name)
    }

    /// The same without tasks of which checks say that they are not available. Those of which nothing is known stay: after
    /// a start of the master that is all of them.
    pub fn ready_targets<'a>(&'a self, name: Option<&'a str>) -> impl Iterator<Item = &'a NamedPort> {
        let ready = self.tasks.iter().filter(|task| task.ready != Some(false));
        ports_of(ready, name).map(|(_, port)| port)
    }
}

fn ports_of<'a>(
    tasks: impl Iterator<Item = &'a TaskPorts>,
    name: Option<&'a str>,
) -> impl Iterator<Item = (&'a TaskPorts, &'a NamedPort)> {
    tasks.filter_map(move |task| {
        let mut tcp = task.ports.iter().filter(|port| port.protocol == PortProtocol::Tcp);
        let port = tcp.find(|port| name.is_none_or(|name| port.name == name))?;
        Some((task, port))
    })
}

/// A service that is to be kept at another number of instances.
#[derive(Debug, Clone, Copy)]
pub struct ScaleService<'a> {
    pub job: JobId,
    /// Name of the task definition; none for the only one.
    pub task: Option<&'a str>,
    pub count: u32,
}

/// Keeps another number of instances of a service. That is committed when this returns; the instances follow. Returns the name of
/// the task definition.
///
/// # Errors
/// When there is no such job, or it cannot be scaled like that.
pub async fn scale(
    context: &Context,
    actor: &Actor,
    wanted: ScaleService<'_>,
) -> Result<String, OperationError> {
    let mut change = context.change(actor, Action::ScaleService, &format!("job {}", wanted.job)).await?;
    change.after(json!({ "task": wanted.task, "count": wanted.count }));
    let scaled = set_count(change.effects, actor, wanted).await;
    change.end(scaled).await
}

async fn set_count(
    effects: &Effects,
    actor: &Actor,
    wanted: ScaleService<'_>,
) -> Result<String, OperationError> {
    let ScaleService { job, task, count } = wanted;
    let task = task.map(str::to_owned);
    let (project, by) = (actor.project, actor.user.clone());
    match effects.write_batcher.scale(ScaleJob { job, project, actor: by, task, count }).await? {
        ScaleResult::Kept { task } => Ok(task),
        ScaleResult::Refused(refused) => Err(not_scaled(&refused)),
        ScaleResult::NotKept(state) => Err(not_kept(job, state, "scaled")),
        ScaleResult::Unreadable(problem) => Err(OperationError::Invalid {
            code: "unreadable_job",
            detail: format!("job {job} cannot be scaled: {problem}"),
            field: None,
        }),
        ScaleResult::Busy => {
            Err(OperationError::Busy("another transaction in the database has locked the job"))
        }
        ScaleResult::Unknown => Err(no_job(job)),
    }
}

/// A service that ends is not changed any more.
pub(super) fn not_kept(job: JobId, state: JobState, changed: &str) -> OperationError {
    let is = if state.is_final() { "has already ended" } else { "is being stopped" };
    let detail = format!("job {job} {is}: it cannot be {changed}");
    OperationError::Conflict { detail, state: state.as_str() }
}

fn not_scaled(refused: &Refused) -> OperationError {
    let field = match refused {
        Refused::NotAService => None,
        Refused::TooMany(_) => Some("/count"),
        Refused::NoDefinition { .. }
        | Refused::WhichDefinition { .. }
        | Refused::HasIndices { .. }
        | Refused::RunsAfterOthers(_)
        | Refused::FollowsWorkers(_)
        | Refused::IsAwaited { .. } => Some("/task"),
    };
    match field {
        Some(field) => OperationError::field(field, refused.to_string()),
        None => OperationError::Invalid { code: "invalid_body", detail: refused.to_string(), field: None },
    }
}

/// The job that a service's name means: the newest one of that name that is kept running and has not ended.
///
/// # Errors
/// When there is none in the actor's project.
pub async fn find(reads: &ReadStore, actor: &Actor, name: &str) -> Result<JobId, OperationError> {
    let found = match name.contains(char::is_control) {
        false => reads.service_named(actor.project, name).await?,
        // The database does not take all of these in a text, and no name has them.
        true => None,
    };
    found.ok_or_else(|| none_running(name))
}

pub(super) fn none_running(name: &str) -> OperationError {
    let shown: String = name.chars().filter(|char| !char.is_control()).take(MAX_NAME_CHARS).collect();
    OperationError::NotFound(format!("running service {shown}"))
}

/// A service with its tasks, for a load balancer.
///
/// # Errors
/// When there is none of that name.
pub async fn for_balancer(views: &Views, actor: &Actor, name: &str) -> Result<Service, OperationError> {
    let job = find(&views.reads, actor, name).await?;
    let (mut tasks, mut after): (Vec<TaskPorts>, _) = (Vec::new(), None);
    loop {
        let page = views.reads.task_ports(job, after, PAGE_TASKS).await?;
        let is_last = page.len() < PAGE_TASKS as usize;
        tasks.extend(page);
        after = tasks.last().map(|last| (last.position, last.index as i32));
        if is_last {
            views.healths.add_readiness(&mut tasks);
            return Ok(Service { job, tasks });
        }
    }
}
