//! Services by name, and where they are reached.

use gaffer_domain::JobId;
use gaffer_domain::spec::PortProtocol;
use gaffer_protocol::ports::NamedPort;

use super::{Actor, OperationError};
use crate::records::TaskPorts;
use crate::store::ReadStore;

/// The most addresses that a load balancer is told of one service.
const MAX_TARGETS: u32 = 1_000;

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
    let shown: String = name.chars().filter(|char| !char.is_control()).take(100).collect();
    let found = match shown.len() == name.len() {
        true => reads.service_named(actor.project, name).await?,
        false => None,
    };
    found.ok_or_else(|| OperationError::NotFound(format!("running service {shown}")))
}

/// A service with its tasks, for a load balancer.
///
/// # Errors
/// When there is none of that name.
pub async fn for_balancer(reads: &ReadStore, actor: &Actor, name: &str) -> Result<Service, OperationError> {
    let job = find(reads, actor, name).await?;
    Ok(Service { job, tasks: reads.task_ports(job, None, MAX_TARGETS).await? })
}
