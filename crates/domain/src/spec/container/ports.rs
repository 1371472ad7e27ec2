//! Ports of a task: published ports of a container, and named ports of any task.

use super::bindings::Port;
use super::{Network, distinct};
use crate::document::Value;
use crate::spec::node::Node;

/// Reads the ports of a container.
pub(super) fn container_ports(node: &Node<'_>, network: Network) -> Option<Vec<Port>> {
    match network {
        Network::Bridge => distinct(node, clash, too_large),
        Network::None => node
            .wrong("a container without a network (`network: none`) has no ports: leave out one of the two"),
        Network::Host => shared_ports(
            node,
            "with `network: host` the container's ports are those of the worker anyway: leave it out, or name it, as in",
        ),
    }
}

/// Reads the ports of a task on the host.
pub(in crate::spec) fn host_ports(node: &Node<'_>) -> Option<Vec<Port>> {
    shared_ports(node, "a port of a task on the host needs a name, as in")
}

/// Ports of a task that has the network of its worker: what it listens on is a port of the worker. `unnamed` says why each
/// of them needs a name, and is followed by an example.
fn shared_ports(node: &Node<'_>, unnamed: &str) -> Option<Vec<Port>> {
    let clash = |new: &Port, old: &Port| {
        let is_same = new.container == old.container && new.protocol == old.protocol && new.container > 0;
        let same = || format!("{new} and {old} are the same port of the worker: write it once");
        clash(&Port { container: 0, ..new.clone() }, &Port { container: 0, ..old.clone() })
            .or_else(|| is_same.then(same))
    };
    let ports = distinct(node, clash, too_large)?;
    for port in &ports {
        if port.name.is_none() {
            node.wrong::<()>(format!("{unnamed} `http={}`", port.container));
        } else if port.host > 0 {
            node.wrong::<()>(format!(
                "{port} has two numbers, and the task has the network of its worker: write the port on which it listens, \
                 or only the name for one that is free"
            ));
        }
    }
    Some(ports)
}

/// Why two ports of one task cannot both be there.
fn clash(new: &Port, old: &Port) -> Option<String> {
    let variable = |port: &Port| port.name.as_deref().map(Port::variable);
    if new.name.is_some() && variable(new) == variable(old) {
        let variable = variable(new).unwrap_or_default();
        Some(format!("{new} and {old} have the same variable GAFFER_PORT_{variable}: write another name"))
    } else if new.protocol != old.protocol {
        None
    } else if new.container == old.container && new.container > 0 {
        Some(format!("{new} and {old} are the same port of the container: write it once"))
    } else if new.host == old.host && new.host > 0 {
        let free = Port { host: 0, ..new.clone() };
        Some(format!(
            "{new} and {old} want the same port of the worker: write another, or {free} for any that is free"
        ))
    } else {
        None
    }
}

fn too_large(value: &Value) -> Option<String> {
    let is_too_large = value.as_u64().is_some_and(|number| number > u64::from(u16::MAX));
    is_too_large.then(|| r#"put it in quotes, "8080:80": YAML may take it for one number"#.to_owned())
}
