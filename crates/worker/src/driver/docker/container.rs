//! A running container, as a process that can be stopped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{KillContainerOptions, RemoveContainerOptions};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use gaffer_domain::AttemptRef;
use gaffer_domain::spec::StopSignal;
use gaffer_protocol::wire::KillReceipt;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::super::{Exit, Process};
use super::daemon::{Daemon, is_away, status};
use super::exit;

/// The attempts that own containers; other containers are removed.
#[derive(Clone, Default)]
pub(super) struct Cared(Arc<Mutex<std::collections::HashMap<AttemptRef, usize>>>);

/// Cares for the container of an attempt as long as this lives.
pub(super) struct Care {
    cared: Cared,
    attempt: AttemptRef,
}

impl Cared {
    pub fn take(&self, attempt: AttemptRef) -> Care {
        *self.lock().entry(attempt).or_default() += 1;
        Care { cared: self.clone(), attempt }
    }

    pub fn has(&self, attempt: AttemptRef) -> bool {
        self.lock().contains_key(&attempt)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<AttemptRef, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Care {
    fn drop(&mut self) {
        let mut cared = self.cared.lock();
        if let Some(count) = cared.get_mut(&self.attempt) {
            *count -= 1;
            if *count == 0 {
                cared.remove(&self.attempt);
            }
        }
    }
}

/// A started container. If it is dropped before [`Process::clean_up`], it is removed as an orphan.
pub(super) struct ContainerProcess {
    daemon: Arc<Daemon>,
    id: String,
    exit: BoxFuture<'static, Exit>,
    /// A signal was sent from here.
    was_told: Arc<AtomicBool>,
    /// Something was to be killed.
    killed: Option<KillReceipt>,
    _watch: AbortOnDropHandle<()>,
    _care: Care,
}

impl ContainerProcess {
    /// Also gives a way to hear of its end. For `oom_kills` see [`exit::watch`].
    pub fn new(
        daemon: Arc<Daemon>,
        id: String,
        care: Care,
        oom_kills: Option<u64>,
    ) -> (ContainerProcess, watch::Receiver<Option<Exit>>) {
        let (sender, ended) = watch::channel(None);
        let was_told = Arc::new(AtomicBool::new(false));
        let watch = exit::watch(daemon.clone(), id.clone(), was_told.clone(), oom_kills);
        let watch = tokio::spawn(async move {
            let exit = watch.await;
            sender.send_replace(Some(exit));
            // Stored, so that later callers get it at once.
            sender.closed().await;
        });
        let mut wait = ended.clone();
        let exit = async move {
            let exit = wait.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
            match exit {
                Some(exit) => exit,
                None => std::future::pending().await,
            }
        };
        let process = ContainerProcess {
            daemon,
            id,
            exit: exit.boxed(),
            was_told,
            killed: None,
            _watch: AbortOnDropHandle::new(watch),
            _care: care,
        };
        (process, ended)
    }

    /// Sends a signal, or as soon as the daemon is back. False if the container has exited.
    async fn send(&mut self, signal: StopSignal) -> bool {
        self.was_told.store(true, Ordering::Relaxed);
        let sent = match self.daemon.client() {
            Ok(docker) => send(&docker, &self.id, signal).await,
            Err(_) => Err(Error::RequestTimeoutError),
        };
        match sent {
            Ok(()) => true,
            Err(error) if is_away(&error) => {
                let (daemon, id) = (self.daemon.clone(), self.id.clone());
                tokio::spawn(async move {
                    let docker = daemon.up().await;
                    let _ = send(&docker, &id, signal).await;
                });
                true
            }
            // The container is paused while its output is caught up; a caller that needs the effect sends the signal
            // again.
            Err(error) if status(&error) == Some(409) => self.is_paused().await,
            Err(error) if status(&error) == Some(404) => false,
            Err(error) => {
                tracing::warn!(container = self.id, %signal, %error, "the daemon refused to pass a signal on");
                true
            }
        }
    }

    async fn is_paused(&mut self) -> bool {
        let Ok(docker) = self.daemon.client() else { return false };
        let inspected = docker.inspect_container(&self.id, None).await;
        inspected.is_ok_and(|inspected| inspected.state.and_then(|state| state.paused) == Some(true))
    }

    /// Number of processes in the container; none if unknown.
    async fn count(&mut self) -> Option<u32> {
        let top = self.daemon.client().ok()?.top_processes(&self.id, None).await.ok()?;
        u32::try_from(top.processes?.len()).ok()
    }
}

impl Process for ContainerProcess {
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        self.exit.poll_unpin(cx)
    }

    fn signal(&mut self, signal: StopSignal) -> BoxFuture<'_, bool> {
        self.send(signal).boxed()
    }

    fn kill(&mut self) -> BoxFuture<'_, bool> {
        async {
            let count = self.count().await;
            let was_there = self.send(StopSignal::Sigkill).await;
            if was_there {
                // With its first process the kernel ends all others of a container.
                self.killed = Some(KillReceipt { killed: count.unwrap_or(1), left: 0 });
            }
            was_there
        }
        .boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Option<KillReceipt>> {
        async {
            let mut receipt = self.killed.take()?;
            // Unknown only while the daemon is unavailable.
            if self.daemon.client().is_err() {
                receipt = KillReceipt { killed: 0, left: receipt.killed };
            }
            Some(receipt)
        }
        .boxed()
    }

    fn clean_up(&mut self) -> BoxFuture<'_, ()> {
        async {
            let Ok(docker) = self.daemon.client() else { return };
            remove(&docker, &self.id).await;
        }
        .boxed()
    }
}

async fn send(docker: &Docker, id: &str, signal: StopSignal) -> Result<(), Error> {
    let options = KillContainerOptions { signal: signal.name().to_owned() };
    docker.kill_container(id, Some(options)).await
}

/// Removes a container and its anonymous volumes, running or not.
pub(super) async fn remove(docker: &Docker, id: &str) {
    let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
    match docker.remove_container(id, Some(options)).await {
        Ok(()) => {}
        // Gone already, or about to go.
        Err(error) if matches!(status(&error), Some(404 | 409)) => {}
        Err(error) => {
            tracing::warn!(container = id, %error, "cannot remove a container; retrying later")
        }
    }
}
