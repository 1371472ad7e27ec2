//! The docker driver: one container per attempt, through the daemon's API.
//!
//! After a restart of the worker, a container is found by its name and adopted. Output written in between comes from the
//! daemon's log (see [`output`]). Containers with this worker's label but without an attempt are removed.

pub mod bare_container;
mod container;
mod daemon;
mod exec;
mod exit;
mod image;
mod output;
mod request;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, Mount, PortMap};
use bollard::query_parameters::{CreateContainerOptions, ListContainersOptions, UploadToContainerOptions};
use futures::future::BoxFuture;
use gaffer_domain::reason::LostCause;
use gaffer_domain::spec::{Action, Container, PortProtocol, PullPolicy};
use gaffer_domain::{AttemptRef, TaskId};
use gaffer_protocol::definitions::StartAttempt;
use gaffer_protocol::wire::{ContainerFacts, DriverStatus, PublishedPort};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Assignment, Capabilities, Driver, Exec, StartError, Started};
use crate::blocking::{BlockingThreads, NoAnswer, PATIENCE, tell_if_slow};
use crate::config::DockerSettings;
use crate::spool::Position;
use container::{Care, Cared, ContainerProcess, remove};
use daemon::{Daemon, is_away, message, status};
use exec::ContainerExec;
use output::{Beginning, ContainerOutput};
use request::{Abilities, Wanted};

/// Containers that are being started at once, for each processor: more would only make each of them slower.
const STARTS_PER_CPU: usize = 2;
/// How often to look for orphaned containers.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// How long a daemon that behaves strangely is left alone.
const RETRY: Duration = Duration::from_secs(1);
/// Containers whose volumes are looked at, at the same time; more wait for their turn.
const MAX_FILE_THREADS: usize = 16;
/// Images whose digests are remembered.
const MAX_DIGESTS: usize = 1000;

/// Starts containers.
pub(super) struct DockerDriver {
    core: Arc<Core>,
    /// Of attempts that are to be adopted, until they are.
    expected: Mutex<HashMap<AttemptRef, Care>>,
    _background: [AbortOnDropHandle<()>; 2],
}

struct Core {
    daemon: Arc<Daemon>,
    settings: DockerSettings,
    /// Tells the containers of this worker from all others on the machine.
    owner: String,
    cared: Cared,
    starts: Semaphore,
    digests: Mutex<HashMap<String, String>>,
    /// What the daemon turned out not to have.
    lacks_init: AtomicBool,
    lacks_disk_limit: AtomicBool,
    /// For looks at this machine's files.
    threads: BlockingThreads,
}

impl DockerDriver {
    /// `expected` are the attempts that will be adopted.
    pub async fn open(
        settings: DockerSettings,
        owner: String,
        expected: impl Iterator<Item = AttemptRef>,
    ) -> io::Result<DockerDriver> {
        let daemon = Arc::new(Daemon::new(settings.address.clone(), settings.is_expected));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let core = Arc::new(Core {
            daemon: daemon.clone(),
            settings,
            owner,
            cared: Cared::default(),
            starts: Semaphore::new(cpus * STARTS_PER_CPU),
            digests: Mutex::default(),
            lacks_init: AtomicBool::new(false),
            lacks_disk_limit: AtomicBool::new(false),
            threads: BlockingThreads::new("docker-files", MAX_FILE_THREADS, PATIENCE)?,
        });
        let expected = expected.map(|attempt| (attempt, core.cared.take(attempt))).collect();
        daemon.look().await;
        let watch = tokio::spawn(async move { daemon.watch().await });
        let sweep = tokio::spawn(core.clone().keep_swept());
        let background = [watch, sweep].map(AbortOnDropHandle::new);
        Ok(DockerDriver { core, expected: Mutex::new(expected), _background: background })
    }

    async fn start(
        &self,
        assignment: Assignment,
        note: &(dyn Fn(String) + Send + Sync),
        cancelled: &CancellationToken,
    ) -> Result<Started, StartError> {
        let Assignment { start, environment, secret_files, .. } = &assignment;
        let core = &self.core;
        let Some(spec) = start.definition.container.as_deref() else {
            return Err(StartError::other("a container needs an image"));
        };
        request::check(spec, &core.settings.policy)?;
        let mut mounts = core.mounts(start, note, cancelled).await?;
        mounts.extend(secret_files.iter().map(|(source, target)| request::secret_mount(source, target)));
        let wanted = Wanted { start, spec, environment, mounts: &mounts };
        let care = core.cared.take(start.attempt);
        let docker = core.daemon.client().map_err(StartError::other)?;
        if spec.pull == PullPolicy::Always {
            core.pull(&docker, spec, note, cancelled).await?;
        }
        let _turn = tokio::select! {
            turn = core.starts.acquire() => turn,
            () = cancelled.cancelled() => return Err(StartError::cancelled()),
        };
        let id = match core.create(&docker, wanted).await {
            Err(error) if status(&error.cause) == Some(404) && error.is_for_image() => {
                if spec.pull == PullPolicy::Never {
                    return Err(image::missing(&spec.image));
                }
                core.pull(&docker, spec, note, cancelled).await?;
                core.create(&docker, wanted).await.map_err(|error| core.refused(error, start))?
            }
            created => created.map_err(|error| core.refused(error, start))?,
        };
        match core.launch(&docker, &id, start, care).await {
            Ok(started) => Ok(started),
            Err(error) => {
                remove(&docker, &id).await;
                Err(core.refused(error, start))
            }
        }
    }

    /// Waits for the daemon, but no longer than until it is `cancelled`.
    async fn adopt(
        &self,
        start: &StartAttempt,
        has_started: bool,
        position: Option<Position>,
        cancelled: &CancellationToken,
    ) -> Result<Started, LostCause> {
        let core = &self.core;
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner).remove(&start.attempt);
        let care = expected.unwrap_or_else(|| core.cared.take(start.attempt));
        let name = request::name(&core.owner, start.attempt);
        loop {
            let docker = tokio::select! {
                docker = core.daemon.up() => docker,
                () = cancelled.cancelled() => return Err(LostCause::DaemonGone),
            };
            match docker.inspect_container(&name, None).await {
                Ok(inspected) => {
                    let state = inspected.state.as_ref().and_then(|state| state.status);
                    if state == Some(ContainerStateStatusEnum::CREATED) {
                        remove(&docker, &name).await;
                        return Err(LostCause::WorkerRestarted);
                    }
                    let id = inspected.id.clone().unwrap_or(name);
                    let facts = core.facts(&docker, &id, &inspected).await;
                    return Ok(core.started(id, care, Beginning::At(position), Some(facts), None));
                }
                Err(error) if status(&error) == Some(404) && has_started => {
                    return Err(LostCause::ContainerRemoved);
                }
                Err(error) if status(&error) == Some(404) => return Err(LostCause::WorkerRestarted),
                Err(error) if is_away(&error) => core.daemon.doubt(&error),
                Err(error) => {
                    tracing::warn!(attempt = %start.attempt, %error, "cannot look for a container; retrying");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

impl Driver for DockerDriver {
    fn capabilities(&self) -> Capabilities {
        Capabilities { outlives_executor: true, uses_host_files: false, workdir: false, stdin: true }
    }

    /// None if there is no daemon and none is expected.
    fn status(&self) -> Option<DriverStatus> {
        self.core.daemon.status()
    }

    fn changes(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.core.daemon.changes())
    }

    fn start<'a>(
        &'a self,
        assignment: Assignment,
        note: &'a (dyn Fn(String) + Send + Sync),
        cancelled: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Started, StartError>> {
        Box::pin(DockerDriver::start(self, assignment, note, cancelled))
    }

    fn adopt<'a>(
        &'a self,
        start: &'a StartAttempt,
        has_started: bool,
        position: Option<Position>,
        cancelled: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Started, LostCause>> {
        Box::pin(DockerDriver::adopt(self, start, has_started, position, cancelled))
    }
}

/// A step on the way to a container that failed.
struct Failure {
    step: &'static str,
    cause: Error,
}

impl Failure {
    fn at(step: &'static str) -> impl Fn(Error) -> Failure {
        move |cause| Failure { step, cause }
    }

    /// Not found was the image, and not a network or a volume.
    fn is_for_image(&self) -> bool {
        message(&self.cause).to_lowercase().contains("image")
    }
}

impl Core {
    async fn pull(
        &self,
        docker: &Docker,
        spec: &Container,
        note: &(dyn Fn(String) + Send + Sync),
        cancelled: &CancellationToken,
    ) -> Result<(), StartError> {
        let pull = async {
            let credentials = self.credentials(&spec.image).await;
            image::pull(docker, &spec.image, credentials, note).await
        };
        tokio::select! {
            pulled = pull => pulled,
            () = cancelled.cancelled() => Err(StartError::cancelled()),
        }
    }

    /// What this worker has for the registry of an image.
    async fn credentials(&self, image: &str) -> Option<DockerCredentials> {
        let (file, image) = (self.settings.credentials.clone()?, image.to_owned());
        self.threads.run(move || image::credentials_for(&file, &image)).await
    }

    /// What of this machine's files the container may see, as far as the operator allows it.
    async fn mounts(
        &self,
        start: &Arc<StartAttempt>,
        note: &(dyn Fn(String) + Send + Sync),
        cancelled: &CancellationToken,
    ) -> Result<Vec<Mount>, StartError> {
        let (start, roots) = (start.clone(), self.settings.policy.volume_roots.clone());
        let look = move || {
            let volumes = start.definition.container.iter().flat_map(|container| &container.volumes);
            volumes.map(|volume| request::mount(volume, &roots)).collect()
        };
        let looked = self.threads.run_until(cancelled.cancelled(), look);
        let slow = || note("not started yet: the directory of a volume does not respond".to_owned());
        tell_if_slow(looked, slow).await.unwrap_or_else(|NoAnswer| {
            let why = "not started: the directory of a volume does not respond";
            note(why.to_owned());
            Err(StartError::other(why))
        })
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            init: !self.lacks_init.load(Ordering::Relaxed),
            disk_limit: !self.lacks_disk_limit.load(Ordering::Relaxed),
            local_log: !self.daemon.is_podman(),
        }
    }

    /// Creates the container, without what the daemon turns out not to have.
    async fn create(&self, docker: &Docker, wanted: Wanted<'_>) -> Result<String, Failure> {
        loop {
            let abilities = self.abilities();
            let body = request::container(wanted, &self.owner, abilities);
            let options = CreateContainerOptions {
                name: Some(request::name(&self.owner, wanted.start.attempt)),
                ..CreateContainerOptions::default()
            };
            match docker.create_container(Some(options), body).await {
                Ok(created) => return Ok(created.id),
                Err(error) if abilities.disk_limit && message(&error).contains("storage-opt") => {
                    tracing::warn!(
                        "this Docker daemon cannot limit the disk of a container: {}",
                        message(&error)
                    );
                    self.lacks_disk_limit.store(true, Ordering::Relaxed);
                }
                Err(error) if abilities.init && is_about_init(&error) => self.lack_init(),
                Err(cause) => return Err(Failure { step: "create the container", cause }),
            }
        }
    }

    fn lack_init(&self) {
        tracing::warn!(
            "this Docker daemon has no init program: signals may not reach the command, and orphans are not reaped"
        );
        self.lacks_init.store(true, Ordering::Relaxed);
    }

    /// Starts a container that was created, with its output attached before its first instruction.
    async fn launch(
        &self,
        docker: &Docker,
        id: &str,
        start: &StartAttempt,
        care: Care,
    ) -> Result<Started, Failure> {
        if let Action::Script(text) = &start.definition.action {
            upload_script(docker, id, text)
                .await
                .map_err(Failure::at("put the script into the container"))?;
        }
        let attached = output::attach(docker, id).await.map_err(Failure::at("attach to the container"))?;
        let input = match start.definition.stdin {
            true => Some(
                output::attach_input(docker, id)
                    .await
                    .map_err(Failure::at("attach to the container's standard input"))?,
            ),
            false => None,
        };
        let is_limited = start.definition.resources.memory > gaffer_domain::quantity::Bytes(0);
        let oom_kills = is_limited.then(crate::stats::oom_kills).flatten();
        docker.start_container(id, None).await.map_err(Failure::at("start the container"))?;
        // Podman 4 cannot always tell at once.
        let facts = match docker.inspect_container(id, None).await {
            Ok(inspected) => Some(self.facts(docker, id, &inspected).await),
            Err(_) => None,
        };
        let started = self.started(id.to_owned(), care, Beginning::Attached(attached), facts, oom_kills);
        Ok(Started { input, ..started })
    }

    fn started(
        &self,
        id: String,
        care: Care,
        beginning: Beginning,
        container: Option<ContainerFacts>,
        oom_kills: Option<u64>,
    ) -> Started {
        let exec = ContainerExec::new(self.daemon.clone(), id.clone());
        let (process, exit) = ContainerProcess::new(self.daemon.clone(), id.clone(), care, oom_kills);
        let output = ContainerOutput::new(self.daemon.clone(), id, beginning, exit);
        let exec: Option<Box<dyn Exec>> = Some(Box::new(exec));
        Started {
            process: Box::new(process),
            output: Box::new(output),
            input: None,
            pid: None,
            container,
            exec,
        }
    }

    async fn facts(&self, docker: &Docker, id: &str, inspected: &ContainerInspectResponse) -> ContainerFacts {
        let image = inspected.image.clone().unwrap_or_default();
        let digests = || self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        let known = digests().get(&image).cloned();
        let digest = match known {
            Some(digest) => digest,
            None => {
                let digest = image::digest(docker, &image).await;
                let mut digests = digests();
                if digests.len() >= MAX_DIGESTS {
                    digests.clear();
                }
                digests.insert(image, digest.clone());
                digest
            }
        };
        let ports = inspected.network_settings.as_ref().and_then(|network| network.ports.as_ref());
        ContainerFacts { id: id.to_owned(), image: digest, ports: ports.map(published).unwrap_or_default() }
    }

    /// Why the container could not be created or started.
    fn refused(&self, failure: Failure, start: &StartAttempt) -> StartError {
        let Failure { step, cause } = failure;
        if is_away(&cause) {
            self.daemon.doubt(&cause);
        }
        let said = message(&cause);
        let program = match &start.definition.action {
            Action::Command(command) => command.first().map_or("", String::as_str),
            Action::Script(_) => "the script's interpreter",
        };
        let image = start.definition.container.as_ref().map_or("", |container| container.image.as_str());
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        if has(&["executable file not found", "no such file or directory"]) && step.starts_with("start") {
            StartError::not_found(format!("command not found: {program} (in the image {image}: {said})"))
        } else if has(&["permission denied"]) && step.starts_with("start") {
            StartError {
                exit_code: 126,
                message: format!("not executable: {program} (in the image {image}: {said})"),
            }
        } else if has(&["port is already allocated", "address already in use"]) {
            StartError::other(format!("a port of the task is in use on this worker ({said})"))
        } else if has(&["could not select device driver"]) {
            StartError::other(format!("this worker's Docker daemon offers no GPUs ({said})"))
        } else {
            StartError::other(format!("cannot {step}: {said}"))
        }
    }

    /// Removes orphaned containers periodically. Never returns.
    async fn keep_swept(self: Arc<Self>) {
        loop {
            let docker = self.daemon.up().await;
            if let Err(error) = self.sweep(&docker).await {
                tracing::debug!(%error, "cannot look for forgotten containers");
            }
            tokio::time::sleep(SWEEP_INTERVAL).await;
        }
    }

    async fn sweep(&self, docker: &Docker) -> Result<(), Error> {
        let label = format!("{}={}", request::OWNER_LABEL, self.owner);
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), vec![label])])),
            ..ListContainersOptions::default()
        };
        for summary in docker.list_containers(Some(options)).await? {
            let attempt =
                summary.labels.as_ref().and_then(|labels| attempt_of(labels.get(request::ATTEMPT_LABEL)?));
            let (Some(id), Some(attempt)) = (summary.id, attempt) else { continue };
            if !self.cared.has(attempt) {
                tracing::info!(%attempt, container = id, "removing an orphaned container");
                remove(docker, &id).await;
            }
        }
        Ok(())
    }
}

async fn upload_script(docker: &Docker, id: &str, text: &str) -> Result<(), Error> {
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o755);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, request::SCRIPT_NAME, text.as_bytes())?;
    let archive = archive.into_inner()?;
    let options = UploadToContainerOptions {
        path: request::SCRIPT_DIR.to_owned(),
        ..UploadToContainerOptions::default()
    };
    docker.upload_to_container(id, Some(options), bollard::body_full(archive.into())).await
}

fn attempt_of(label: &str) -> Option<AttemptRef> {
    let (task, attempt) = label.split_once('.')?;
    Some(AttemptRef { task: TaskId(task.parse().ok()?), attempt: attempt.parse().ok()? })
}

fn is_about_init(error: &Error) -> bool {
    let said = message(error);
    ["docker-init", "catatonit", "init binary", "container-init"].iter().any(|word| said.contains(word))
}

/// The ports as they turned out; each once, though it may be bound for both versions of IP.
fn published(ports: &PortMap) -> Vec<PublishedPort> {
    let mut all: Vec<PublishedPort> = ports
        .iter()
        .filter_map(|(name, bindings)| {
            let (container, protocol) = name.split_once('/')?;
            let protocol = match protocol {
                "tcp" => PortProtocol::Tcp,
                "udp" => PortProtocol::Udp,
                _ => return None,
            };
            let host =
                bindings.as_ref()?.iter().find_map(|binding| binding.host_port.as_ref()?.parse().ok())?;
            Some(PublishedPort { host, container: container.parse().ok()?, protocol })
        })
        .collect();
    all.sort_by_key(|port| (port.container, port.host));
    all
}
