//! Builds the request that creates a container: restricted unless the operator allows more.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, Mount, MountType, PortBinding,
    RestartPolicy, RestartPolicyNameEnum,
};
use gaffer_domain::AttemptRef;
use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_domain::spec::{Action, Container, Gpus, Network, Volume};
use gaffer_protocol::definitions::StartAttempt;

use super::super::StartError;
use crate::config::ContainerPolicy;

/// Names the worker that a container belongs to.
pub(super) const OWNER_LABEL: &str = "gaffer.worker";
/// Names the attempt, as `task.attempt`.
pub(super) const ATTEMPT_LABEL: &str = "gaffer.attempt";
const JOB_LABEL: &str = "gaffer.job";
const TASK_LABEL: &str = "gaffer.task";

/// Where a script is put.
pub(super) const SCRIPT_DIR: &str = "/";
pub(super) const SCRIPT_NAME: &str = ".gaffer-script";
const SCRIPT_PATH: &str = "/.gaffer-script";

/// The log that the daemon keeps until the container is removed, for a worker that comes back: the `local` driver
/// keeps every byte (`json-file` only text), and before it is full it is not rotated, so that a place in the output is
/// a place in the log.
pub(super) const LOG_DRIVER: &str = "local";
pub(super) const LOG_OPTIONS: [(&str, &str); 3] =
    [("max-size", "256m"), ("max-file", "2"), ("compress", "false")];

/// What this daemon can do, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Abilities {
    /// A first process that passes signals on and reaps orphans.
    pub init: bool,
    /// Limits on the size of a container's own file system.
    pub disk_limit: bool,
    /// The log driver of [`LOG_DRIVER`]: Podman has others.
    pub local_log: bool,
}

/// The daemon's name for the container of an attempt.
pub(super) fn name(owner: &str, attempt: AttemptRef) -> String {
    format!("gaffer-{owner}-{attempt}")
}

/// The container that an attempt asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub start: &'a StartAttempt,
    pub spec: &'a Container,
    pub environment: &'a BTreeMap<String, String>,
    /// Its volumes, see [`mount`].
    pub mounts: &'a [Mount],
}

/// Describes the container of an attempt.
pub(super) fn container(wanted: Wanted<'_>, owner: &str, abilities: Abilities) -> ContainerCreateBody {
    let Wanted { start, spec, environment, .. } = wanted;
    let (entrypoint, command) = match &start.definition.action {
        Action::Command(command) => {
            (spec.entrypoint.clone(), Some(command.clone()).filter(|c| !c.is_empty()))
        }
        // A text without a `#!` line is a shell's.
        Action::Script(text) if text.starts_with("#!") => (Some(vec![SCRIPT_PATH.to_owned()]), None),
        Action::Script(_) => (Some(vec!["/bin/sh".to_owned(), SCRIPT_PATH.to_owned()]), None),
    };
    let labels = [
        (OWNER_LABEL, owner.to_owned()),
        (ATTEMPT_LABEL, start.attempt.to_string()),
        (JOB_LABEL, start.definition.job.to_string()),
        (TASK_LABEL, format!("{}.{}", start.definition.task, start.index)),
    ];
    let exposed = bindings(wanted).map(|(port, _)| port);
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint,
        cmd: command,
        env: Some(environment.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        user: spec.user.clone(),
        working_dir: spec.workdir.clone(),
        labels: Some(labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        attach_stdin: Some(start.definition.stdin),
        open_stdin: Some(start.definition.stdin),
        // Its input ends with the connection that writes it.
        stdin_once: Some(start.definition.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        exposed_ports: Some(exposed.collect()),
        host_config: Some(host_config(wanted, abilities)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(wanted: Wanted<'_>, abilities: Abilities) -> HostConfig {
    let Wanted { start, spec, mounts, .. } = wanted;
    let resources = start.definition.resources;
    let memory = Some(resources.memory).filter(|memory| *memory > Bytes(0)).map(|Bytes(bytes)| to_i64(bytes));
    let binding = |host: u16| PortBinding {
        host_ip: None,
        host_port: Some(if host == 0 { String::new() } else { host.to_string() }),
    };
    let ports = bindings(wanted).map(|(port, host)| (port, Some(vec![binding(host)])));
    let tmpfs =
        spec.tmpfs.iter().map(|(path, size)| (path.clone(), format!("rw,nosuid,nodev,size={}", size.0)));
    let network = match spec.network {
        Network::Bridge => "bridge",
        Network::None => "none",
        Network::Host => "host",
    };
    let options = |all: &[(&str, &str)]| -> HashMap<String, String> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let disk = Some(resources.disk).filter(|disk| abilities.disk_limit && *disk > Bytes(0));
    HostConfig {
        memory,
        // Without swap beyond it: a limit that slows a machine down for minutes is none.
        memory_swap: memory,
        nano_cpus: Some(nano_cpus(resources.cpu)).filter(|cpus| *cpus > 0),
        pids_limit: Some(i64::from(spec.pids_limit)),
        storage_opt: disk.map(|Bytes(bytes)| HashMap::from([("size".to_owned(), bytes.to_string())])),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(spec.capabilities.clone()).filter(|names| !names.is_empty()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        privileged: Some(false),
        port_bindings: Some(ports.collect()),
        mounts: Some(mounts.to_vec()),
        tmpfs: Some(tmpfs.collect()),
        network_mode: Some(network.to_owned()),
        device_requests: spec.gpus.map(|gpus| {
            let count = match gpus {
                Gpus::All => -1,
                Gpus::Count(count) => i64::from(count),
            };
            let capabilities = Some(vec![vec!["gpu".to_owned()]]);
            vec![DeviceRequest { count: Some(count), capabilities, ..DeviceRequest::default() }]
        }),
        log_config: abilities.local_log.then(|| HostConfigLogConfig {
            typ: Some(LOG_DRIVER.to_owned()),
            config: Some(options(&LOG_OPTIONS)),
        }),
        init: Some(abilities.init),
        // Whether it runs again is the master's decision.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        auto_remove: Some(false),
        ..HostConfig::default()
    }
}

/// Ports of the container, as the daemon writes them, and those of the host to which they are bound; 0 for any.
fn bindings(wanted: Wanted<'_>) -> impl Iterator<Item = (String, u16)> {
    let Wanted { start, spec, .. } = wanted;
    let published = spec.ports.iter().map(|port| (port.container, port.protocol, port.host));
    let is_own_network = spec.network == Network::Bridge;
    let named = start.assigned_ports.iter().filter(move |_| is_own_network);
    let named = named.map(|port| (port.target, port.protocol, port.port));
    published.chain(named).map(|(port, protocol, host)| (format!("{port}/{}", protocol.as_str()), host))
}

/// Errors for what the operator does not allow.
pub(super) fn check(spec: &Container, policy: &ContainerPolicy) -> Result<(), StartError> {
    let is_allowed = |pattern: &String| matches(pattern, &spec.image);
    if !policy.images.is_empty() && !policy.images.iter().any(is_allowed) {
        return Err(StartError::other(format!(
            "image refused: this worker allows only {}, not {} (GAFFER_DOCKER_IMAGES)",
            policy.images.join(", "),
            spec.image
        )));
    }
    let refused: Vec<&str> = spec
        .capabilities
        .iter()
        .filter(|name| !policy.capabilities.contains(name))
        .map(String::as_str)
        .collect();
    if !refused.is_empty() {
        return Err(StartError::other(format!(
            "capability refused: this worker does not allow {} (GAFFER_DOCKER_CAPABILITIES)",
            refused.join(", ")
        )));
    }
    if spec.network == Network::Host && !policy.host_network {
        return Err(StartError::other(
            "network refused: this worker does not allow `network: host` (GAFFER_DOCKER_HOST_NETWORK)",
        ));
    }
    Ok(())
}

/// A volume, if it lies below one of the roots once all symbolic links are followed. Blocks.
pub(super) fn mount(volume: &Volume, roots: &[PathBuf]) -> Result<Mount, StartError> {
    let refused = |why: String| StartError::other(format!("volume refused: {} {why}", volume.source));
    if roots.is_empty() {
        return Err(refused("cannot be mounted: this worker allows no volumes (GAFFER_VOLUME_ROOTS)".into()));
    }
    let source = Path::new(&volume.source)
        .canonicalize()
        .map_err(|error| refused(format!("does not exist on this worker ({error})")))?;
    let is_below = |root: &PathBuf| root.canonicalize().is_ok_and(|root| source.starts_with(root));
    if !roots.iter().any(is_below) {
        let roots: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
        return Err(refused(format!(
            "is not below an allowed directory ({}, from GAFFER_VOLUME_ROOTS)",
            roots.join(", ")
        )));
    }
    Ok(Mount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(volume.target.clone()),
        read_only: Some(volume.read_only),
        ..Mount::default()
    })
}

/// A file with a secret.
pub(super) fn secret_mount(source: &Path, target: &str) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target.to_owned()),
        read_only: Some(true),
        ..Mount::default()
    }
}

/// Whether a text matches a pattern, in which `*` matches any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

fn nano_cpus(cpu: Cpu) -> i64 {
    i64::from(cpu.millis()) * 1_000_000
}

fn to_i64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
