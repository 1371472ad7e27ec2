//! A scratch installation: `gaffer dev` in a temporary directory, on free ports of the loopback address, removed at the end.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use gaffer_master::embedded_postgres::url_of_running;
use gaffer_protocol::rest::{Job, Page};
use gaffer_protocol::server_url::ServerUrl;
use gaffer_worker::route::Route;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde::Deserialize;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::directory::{ScratchDirectory, WORKER_DIR};
use super::installation::Installation;
use super::leftovers::Leftovers;
use super::{local, program};
use crate::client::Query;
use crate::config;
use crate::failure::Failure;
use crate::login;

/// How long a scratch installation may take to start or to stop.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);
/// The end of the log that a message shows.
const LOG_TAIL_LINES: usize = 5;

/// A running `gaffer dev`. It stops when this process ends, however that comes about.
pub struct Scratch {
    dir: ScratchDirectory,
    dev: Child,
}

impl Scratch {
    /// Starts it in a new directory; it is not ready yet.
    ///
    /// # Errors
    /// [`Failure::Local`].
    pub fn start(dir: ScratchDirectory, pg_bin: Option<&Path>) -> Result<Scratch, Failure> {
        let log = fs::File::create(dir.path().join("dev.log"))
            .map_err(local("cannot write to the scratch directory"))?;
        let mut command = Command::new(program::path()?);
        command.args(["dev", "--stop-with-stdin", "--data-dir"]).arg(dir.path());
        for port in ["--dashboard-addr", "--api-addr", "--worker-addr"] {
            command.args([port, "127.0.0.1:0"]);
        }
        // A fleet has many addresses; simulated workers have one.
        command.args(["--max-connections-per-address", "65536"]);
        if let Some(pg_bin) = pg_bin {
            command.arg("--pg-bin").arg(pg_bin);
        }
        command.env_clear().envs(config::scratch_environment());
        // The Ctrl-C of a terminal is for this process, which stops the other one.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let dev = command.spawn().map_err(local("cannot start a scratch installation"))?;
        Ok(Scratch { dir, dev })
    }

    /// Waits until it serves and has a worker. Its sample job is removed.
    ///
    /// # Errors
    /// [`Failure::Local`] with its log if it ended or takes too long.
    pub async fn ready(&mut self) -> Result<Installation, Failure> {
        let file = self.dir.path().join("dev.env");
        let started = async {
            loop {
                if let Ok(Some(status)) = self.dev.try_wait() {
                    return Err(Failure::Local(format!(
                        "the scratch installation ended ({status}){}",
                        self.log()
                    )));
                }
                if let Some(access) = login::read_dev(file.clone())? {
                    return Ok(access);
                }
                sleep(PAUSE).await;
            }
        };
        let access = timeout(START_TIMEOUT, started).await.unwrap_or_else(|_| Err(self.too_slow()))?;
        // What is left there goes with its directory.
        let installation = Installation::new(access, None, Leftovers::default())?;
        let has_worker = async {
            while installation.check().await.is_err() {
                sleep(PAUSE).await;
            }
        };
        timeout(START_TIMEOUT, has_worker).await.map_err(|_| self.too_slow())?;
        remove_sample(&installation).await?;
        Ok(installation)
    }

    fn too_slow(&self) -> Failure {
        let seconds = START_TIMEOUT.as_secs();
        Failure::Local(format!("the scratch installation is not ready after {seconds} s{}", self.log()))
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("dev.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        tail.iter().map(|line| format!("\n  {line}")).collect()
    }

    /// Where its database is reached.
    ///
    /// # Errors
    /// [`Failure::Local`] if its server does not run.
    pub fn database_url(&self) -> Result<String, Failure> {
        url_of_running(self.dir.path())
            .ok_or_else(|| Failure::Local("the database of the scratch installation does not run".to_owned()))
    }

    /// The directory of its data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process of the master and of the worker's agent.
    pub fn pid(&self) -> Option<u32> {
        self.dev.id()
    }

    /// The process that owns the worker's attempts.
    pub fn executor(&self) -> Option<u32> {
        fs::read_to_string(self.dir.path().join(WORKER_DIR).join("lock")).ok()?.trim().parse().ok()
    }

    /// The first process of its database.
    pub fn postgres(&self) -> Option<u32> {
        let state = fs::read_to_string(self.dir.path().join("postgres/cluster/postmaster.pid")).ok()?;
        state.lines().next()?.trim().parse().ok()
    }

    /// The way to its master for workers, with a new key.
    ///
    /// # Errors
    /// Errors of the API; [`Failure::Local`] if it does not say where workers connect.
    pub async fn for_workers(&self, installation: &Installation) -> Result<(Route, String), Failure> {
        #[derive(Deserialize)]
        struct Created {
            key: String,
        }
        let body = json!({"kind": "worker", "name": "bench"});
        let key: Created = installation.client.post(&["keys"], &body).await?.read()?;
        let text = fs::read_to_string(self.dir.path().join("dev.env")).unwrap_or_default();
        let url = text.lines().find_map(|line| line.strip_prefix("MASTER_URL=")).unwrap_or_default();
        let url: ServerUrl =
            url.parse().map_err(local("the scratch installation has no port for workers"))?;
        Ok((config::route(&url)?, key.key))
    }

    /// Stops it and removes its directory.
    ///
    /// # Errors
    /// [`Failure::Local`] if something is left.
    pub async fn stop(mut self) -> Result<(), Failure> {
        drop(self.dev.stdin.take());
        if timeout(STOP_TIMEOUT, self.dev.wait()).await.is_err() {
            let _ = self.dev.kill().await;
        }
        self.dir.remove()
    }
}

/// Whether a commit in this directory would survive the machine.
pub fn is_in_memory(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|system| system.filesystem_type() == TMPFS_MAGIC)
}

/// The job that a newcomer sees would run beside the measurements.
async fn remove_sample(installation: &Installation) -> Result<(), Failure> {
    let query: Query = vec![("label", "sample=yes".to_owned())];
    let page: Page<Job> = installation.client.read(&["jobs"], &query).await?;
    for job in page.items {
        let number = job.id.to_string();
        match installation.client.post(&["jobs", &number, "stop"], &json!({})).await {
            Err(failure) if !failure.is_conflict() => return Err(failure),
            _ => {}
        }
        installation.ended(job.id).await?;
        installation.client.delete(&["jobs", &number]).await?;
    }
    Ok(())
}
