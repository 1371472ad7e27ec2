//! A container by nothing but the calls that anybody has to make to the daemon: what measurements compare container tasks with.

use std::collections::HashMap;

use anyhow::{Context as _, bail};
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig};
use bollard::query_parameters::{
    AttachContainerOptions, ListContainersOptions, RemoveContainerOptions, WaitContainerOptions,
};
use futures::StreamExt as _;

use super::daemon;
use super::request::{LOG_DRIVER, LOG_OPTIONS};
use crate::config::DaemonAddress;

/// Processes in a container.
pub const PIDS_LIMIT: i64 = 100;
/// The label of all bare containers; its value says whose they are, so that somebody else can remove what is left of them.
pub const OWNER_LABEL: &str = "gaffer.bench";

/// A daemon, and what it is asked for.
#[derive(Debug, Clone)]
pub struct BareContainer {
    docker: Docker,
    image: String,
    command: Vec<String>,
    owner: String,
    /// Podman has other log drivers.
    has_local_log: bool,
}

impl BareContainer {
    /// Connects to the daemon at this address, else at the usual one.
    ///
    /// # Errors
    /// In a sentence, if no daemon answers there or it does not have the image.
    pub async fn new(
        address: Option<&str>,
        image: &str,
        command: &[&str],
        owner: &str,
    ) -> anyhow::Result<BareContainer> {
        let address = DaemonAddress::given(address)?;
        let no_daemon = || format!("no Docker daemon at {address}");
        let docker = connect(&address).await.with_context(no_daemon)?;
        let has_local_log = !daemon::is_podman(&daemon::name(&docker).await.with_context(no_daemon)?);
        if docker.inspect_image(image).await.is_err() {
            bail!("the Docker daemon at {address} does not have the image {image}");
        }
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let (image, owner) = (image.to_owned(), owner.to_owned());
        Ok(BareContainer { docker, image, command, owner, has_local_log })
    }

    /// Runs it to its end and removes it; returns its standard output.
    ///
    /// # Errors
    /// When the daemon refuses, or the command fails.
    pub async fn run(&self) -> anyhow::Result<Vec<u8>> {
        let docker = &self.docker;
        let created =
            docker.create_container(None, self.body()).await.context("cannot create a container")?;
        let ran = self.run_created(&created.id).await;
        let removed = remove(docker, &created.id).await;
        let output = ran?;
        removed?;
        Ok(output)
    }

    async fn run_created(&self, id: &str) -> anyhow::Result<Vec<u8>> {
        let docker = &self.docker;
        let options = AttachContainerOptions {
            stdout: true,
            stderr: true,
            stream: true,
            ..AttachContainerOptions::default()
        };
        let attached = docker.attach_container(id, Some(options)).await;
        let mut attached = attached.context("cannot attach to a container")?.output;
        docker.start_container(id, None).await.context("cannot start a container")?;
        let options = WaitContainerOptions { condition: "not-running".to_owned() };
        if let Some(ended) = docker.wait_container(id, Some(options)).next().await {
            ended.context("a container failed")?;
        }
        let mut stdout = Vec::new();
        while let Some(piece) = attached.next().await {
            if let LogOutput::StdOut { message } = piece.context("cannot read from a container")? {
                stdout.extend_from_slice(&message);
            }
        }
        Ok(stdout)
    }

    fn body(&self) -> ContainerCreateBody {
        let log_config = self.has_local_log.then(|| HostConfigLogConfig {
            typ: Some(LOG_DRIVER.to_owned()),
            config: Some(LOG_OPTIONS.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
        });
        let host = HostConfig {
            network_mode: Some("none".to_owned()),
            init: Some(true),
            nano_cpus: Some(1_000_000_000),
            pids_limit: Some(PIDS_LIMIT),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            log_config,
            ..HostConfig::default()
        };
        ContainerCreateBody {
            image: Some(self.image.clone()),
            cmd: Some(self.command.clone()),
            labels: Some(HashMap::from([(OWNER_LABEL.to_owned(), self.owner.clone())])),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        }
    }
}

/// Removes the bare containers whose owner is meant; returns how many there were, none if no daemon answers at this address.
///
/// # Errors
/// In a sentence, if the daemon refuses.
pub async fn remove_where(
    address: Option<&str>,
    is_meant: impl Fn(&str) -> bool,
) -> anyhow::Result<Option<usize>> {
    let Ok(docker) = connect(&DaemonAddress::given(address)?).await else { return Ok(None) };
    let options = ListContainersOptions {
        all: true,
        filters: Some(HashMap::from([("label".to_owned(), vec![OWNER_LABEL.to_owned()])])),
        ..ListContainersOptions::default()
    };
    let mut removed = 0;
    for summary in docker.list_containers(Some(options)).await.context("cannot list containers")? {
        let owner = summary.labels.as_ref().and_then(|labels| labels.get(OWNER_LABEL));
        let (Some(id), true) = (&summary.id, owner.is_some_and(|owner| is_meant(owner))) else { continue };
        remove(&docker, id).await?;
        removed += 1;
    }
    Ok(Some(removed))
}

async fn connect(address: &DaemonAddress) -> anyhow::Result<Docker> {
    Ok(daemon::connect(address)?.negotiate_version().await?)
}

async fn remove(docker: &Docker, id: &str) -> anyhow::Result<()> {
    let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
    match docker.remove_container(id, Some(options)).await {
        // Somebody else was faster.
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
        removed => removed.context("cannot remove a container"),
    }
}
