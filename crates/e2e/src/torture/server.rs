//! A Postgres server of a run's own, which dies when it is told to and is started again.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use gaffer_master::config::postgres_settings;
use gaffer_master::embedded_postgres::EmbeddedPostgres;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{Connection as _, PgConnection};
use tokio::process::{Child, Command};

use crate::eventually_within;

/// Recovery after a crash, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    url: String,
    cluster: PathBuf,
    /// The program, and how it was started.
    program: PathBuf,
    arguments: Vec<String>,
    child: Child,
    dir: tempfile::TempDir,
}

impl Server {
    /// Has the master's own code make a cluster, and takes it over: nobody else starts it again.
    pub async fn start() -> Server {
        let dir = tempfile::Builder::new().prefix("gaffer-server-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let made = EmbeddedPostgres::start(postgres_settings(dir.path().to_owned(), None)).await.unwrap();
        let (url, cluster) = (made.url().to_owned(), made.cluster_dir().to_owned());
        let sockets = made.socket_dir().to_owned();
        let owner = std::fs::metadata(&sockets).unwrap();
        let pid = postmaster(&cluster).unwrap();
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        let arguments = line.split_terminator('\0').skip(1).map(str::to_owned).collect::<Vec<_>>();
        made.stop().await;
        if !sockets.exists() {
            std::fs::create_dir(&sockets).unwrap();
            std::os::unix::fs::chown(&sockets, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        let child = spawn(&program, &arguments, &cluster, dir.path());
        let mut server = Server { url, cluster, program, arguments, child, dir };
        server.answers().await;
        server
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Lets the server write below a directory.
    pub fn give(&self, dir: &Path) {
        let owner = std::fs::metadata(&self.cluster).unwrap();
        std::os::unix::fs::chown(dir, Some(owner.uid()), Some(owner.gid())).unwrap();
    }

    /// Ends it with SIGKILL or, at once but by itself, with SIGQUIT; then starts it again and waits until it answers.
    pub async fn strike(&mut self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap());
        kill(pid, signal).unwrap();
        self.child.wait().await.unwrap();
        self.answers().await;
    }

    /// Waits until it answers; started too early after a kill it gives up, and is started again.
    async fn answers(&mut self) {
        eventually_within(PATIENCE, "Postgres answers", async || {
            if self.child.try_wait().unwrap().is_some() {
                self.child = spawn(&self.program, &self.arguments, &self.cluster, self.dir.path());
            }
            PgConnection::connect(&self.url).await.ok()
        })
        .await;
    }

    pub async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGINT);
        }
        let _ = self.child.wait().await;
    }
}

fn spawn(program: &Path, arguments: &[String], cluster: &Path, dir: &Path) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("server.log")).unwrap();
    let owner = std::fs::metadata(cluster).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/").process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    // Postgres refuses to run as root. Without being root, this user owns the cluster.
    if nix::unistd::geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    command.spawn().unwrap()
}

fn postmaster(cluster: &Path) -> Option<i32> {
    std::fs::read_to_string(cluster.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
}
