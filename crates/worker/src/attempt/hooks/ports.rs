//! Hook: named ports of an attempt, and the variables by which its task knows them.

use std::future::ready;
use std::sync::Arc;

use futures::future::BoxFuture;
use gaffer_domain::spec::Port;
use gaffer_protocol::definitions::StartAttempt;
use gaffer_protocol::ports::NamedPort;
use gaffer_protocol::wire::Ended;
use tokio_util::sync::CancellationToken;

use super::{Attempt, Hook};
use crate::driver::{Assignment, StartError, Started};
use crate::ports::{NoPort, WantedPort};

pub(super) struct Ports;

impl Hook for Ports {
    fn concern(&self) -> &'static str {
        "ports"
    }

    fn before_start<'a>(
        &'a mut self,
        attempt: &'a Attempt,
        assignment: &'a mut Assignment,
        cancelled: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), StartError>> {
        Box::pin(async move {
            let assigned = cancelled.run_until_cancelled(assign(attempt)).await;
            let assigned = assigned.ok_or_else(StartError::cancelled)?;
            let ports = assigned.map_err(|why| StartError::other(why.to_string()))?;
            if ports.is_empty() {
                return Ok(());
            }
            for port in &ports {
                let name = Port::variable(&port.name);
                assignment.environment.insert(format!("GAFFER_PORT_{name}"), port.target.to_string());
                assignment.environment.insert(format!("GAFFER_ADDR_{name}"), port.address());
            }
            let start = (*assignment.start).clone();
            assignment.start = Arc::new(StartAttempt { assigned_ports: ports, ..start });
            Ok(())
        })
    }

    /// An attempt that is adopted has kept its ports since this executor opened.
    fn adopted<'a>(&'a mut self, _attempt: &'a Attempt, _started: &'a mut Started) -> BoxFuture<'a, ()> {
        Box::pin(ready(()))
    }

    fn after_end<'a>(&'a mut self, attempt: &'a Attempt, _ended: &'a Ended) -> BoxFuture<'a, ()> {
        attempt.context.ports.release(attempt.reference());
        Box::pin(ready(()))
    }
}

/// Takes the ports of an attempt and gives the named ones. A published port without a name is only kept from others.
async fn assign(attempt: &Attempt) -> Result<Vec<NamedPort>, NoPort> {
    let definition = &attempt.start.definition;
    let shared = definition.shares_network();
    let wanted = |port: &Port| WantedPort { number: port.fixed(shared), protocol: port.protocol };
    let published =
        definition.published_ports().map(|(number, protocol)| WantedPort { number: Some(number), protocol });
    let all: Vec<WantedPort> = definition.named_ports.iter().map(wanted).chain(published).collect();
    let numbers = attempt.context.ports.take(attempt.reference(), &all)?;
    if definition.named_ports.is_empty() {
        return Ok(Vec::new());
    }
    let host = attempt.context.ports.host().await?;
    let named = |(port, number): (&Port, u16)| NamedPort {
        name: port.name.clone().unwrap_or_default(),
        host: host.clone(),
        port: number,
        target: if port.container > 0 { port.container } else { number },
        protocol: port.protocol,
    };
    Ok(definition.named_ports.iter().zip(numbers).map(named).collect())
}
