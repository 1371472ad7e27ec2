//! A container by nothing but the calls that anybody has to make to the daemon: what measurements compare container tasks with.

use anyhow::{Context as _, bail};
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig};
use bollard::query_parameters::{AttachContainerOptions, RemoveContainerOptions, WaitContainerOptions};
use futures::StreamExt as _;

use super::daemon;
use super::request::{LOG_DRIVER, LOG_OPTIONS};
use crate::config::DaemonAddress;

/// Processes in a container.
pub const PIDS_LIMIT: i64 = 100;

/// A daemon, and what it is asked for.
#[derive(Debug)]
pub struct BareContainer {
    docker: Docker,
    image: String,
    command: Vec<String>,
    /// Podman has other log drivers.
    has_local_log: bool,
}

impl BareContainer {
    /// Connects to the daemon at this address, else at the usual one.
    ///
    /// # Errors
    /// In a sentence, if no daemon answers there or it does not have the image.
    pub async fn new(address: Option<&str>, image: &str, command: &[&str]) -> anyhow::Result<BareContainer> {
        let address = DaemonAddress::given(address)?;
        let no_daemon = || format!("no Docker daemon at {address}");
        let client = daemon::connect(&address).with_context(no_daemon)?;
        let docker = client.negotiate_version().await.with_context(no_daemon)?;
        let has_local_log = !daemon::is_podman(&daemon::name(&docker).await.with_context(no_daemon)?);
        if docker.inspect_image(image).await.is_err() {
            bail!("the Docker daemon at {address} does not have the image {image}");
        }
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        Ok(BareContainer { docker, image: image.to_owned(), command, has_local_log })
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
        let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        let removed = docker.remove_container(&created.id, Some(options)).await;
        let output = ran?;
        removed.context("cannot remove a container")?;
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
            host_config: Some(host),
            ..ContainerCreateBody::default()
        }
    }
}
