//! Services by name, and where they are reached.

use gaffer_domain::JobId;
use gaffer_domain::spec::{MAX_NAME_CHARS, PortProtocol};
use gaffer_protocol::ports::NamedPort;

use super::{Actor, OperationError};
use crate::records::TaskPorts;
use crate::store::ReadStore;

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
        self.tasks.iter().filter_map(move |task| {
            let mut tcp = task.ports.iter().filter(|port| port.protocol == PortProtocol::Tcp);
            let port = tcp.find(|port| name.is_none_or(|name| port.name == name))?;
            Some((task, port))
        })
    }
}

/// The job that a service's name means: the newest one of that name and of `type: service` that has not ended.
///
/// # Errors
/// When there is none in the actor's project.
pub async fn find(reads: &ReadStore, actor: &Actor, name: &str) -> Result<JobId, OperationError> {
    let found = match name.contains(char::is_control) {
        false => reads.service_named(actor.project, name).await?,
        // The database does not take all of these in a text, and no name has them.
        true => None,
    };
    let shown: String = name.chars().filter(|char| !char.is_control()).take(MAX_NAME_CHARS).collect();
    found.ok_or_else(|| OperationError::NotFound(format!("running service {shown}")))
}

/// A service with its tasks, for a load balancer.
///
/// # Errors
/// When there is none of that name.
pub async fn for_balancer(reads: &ReadStore, actor: &Actor, name: &str) -> Result<Service, OperationError> {
    let job = find(reads, actor, name).await?;
    let (mut tasks, mut after): (Vec<TaskPorts>, _) = (Vec::new(), None);
    loop {
        let page = reads.task_ports(job, after, PAGE_TASKS).await?;
        let is_last = page.len() < PAGE_TASKS as usize;
        tasks.extend(page);
        after = tasks.last().map(|last| (last.position, last.index as i32));
        if is_last {
            return Ok(Service { job, tasks });
        }
    }
}
