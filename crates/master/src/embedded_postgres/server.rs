//! Runs `initdb` and `postgres` as child processes.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tokio::process::Child;

use super::binaries::Binaries;
use super::data_dir::DataDir;
use super::program::{LOCALE, command, spawn_error};
use super::{StartError, leftovers};

/// Only part of the socket's name: the server listens on no port.
pub(super) const PORT: u16 = 5432;
pub(super) const USER: &str = "gaffer";
pub(super) const DATABASE: &str = "gaffer";

const NO_SUCH_DATABASE: &str = "3D000";
const TOO_MANY_CONNECTIONS: &str = "53300";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READY_POLL: Duration = Duration::from_millis(5);

/// What the server is told, beyond its directories; stronger than the cluster's postgresql.conf.
///
/// Nothing here may make a commit less durable. `wal_compression` stays off: lz4 is not in every build, and a server
/// without it would not start.
const SERVER_SETTINGS: &[&str] = &[
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "cluster_name=gaffer",
    "max_connections=100",
    "shared_buffers=128MB",
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "max_wal_size=2GB",
    "checkpoint_timeout=15min",
    "checkpoint_completion_target=0.9",
    "autovacuum=on",
    "jit=off",
    "log_destination=stderr",
    "logging_collector=off",
    "log_min_messages=warning",
];

/// What stands in a URL as it is.
const PLAIN: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'_').remove(b'-').remove(b'~');

/// Where clients find the server. The port and the TLS mode are spelled out because clients would otherwise take them from
/// `PGPORT` and `PGSSLMODE`, which are meant for another server.
pub(super) fn url(socket_dir: &Path) -> String {
    let host = percent_encode(socket_dir.as_os_str().as_encoded_bytes(), &PLAIN);
    format!("postgres://{USER}@localhost:{PORT}/{DATABASE}?host={host}&sslmode=disable")
}

/// Makes the cluster if there is none: beside its place, and moved there when it is complete and on disk.
pub(super) async fn make_cluster(binaries: &Binaries, data_dir: &DataDir) -> Result<(), StartError> {
    let (cluster, new) = (data_dir.cluster(), data_dir.new_cluster());
    leftovers::remove_unfinished(&data_dir.unfinished_clusters()?).await?;
    if data_dir.cluster_major()?.is_some() {
        return data_dir.give_cluster();
    }
    // An empty database in its place would look as if all were lost.
    if let Some(kept) = data_dir.last_replaced()? {
        return Err(StartError::InterruptedRestore { cluster, kept });
    }
    tracing::info!(directory = %cluster.display(), version = binaries.version, "creating the Postgres cluster");
    data_dir.make_private(&new)?;
    let mut initdb = command(&binaries.initdb(), data_dir, Some(data_dir.way_into(&new)?));
    initdb.args(["-E", "UTF8", "-A", "trust", "-U", USER, "--locale", LOCALE]);
    if cfg!(target_os = "linux") {
        // One call for the file system instead of one for each of a thousand files, which takes long on a slow disk.
        initdb.arg("--no-sync");
    }
    let output = initdb.kill_on_drop(true).output().await;
    let output = output.map_err(spawn_error(&binaries.initdb(), data_dir))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        let output_text = String::from_utf8_lossy(&text).trim().to_owned();
        return Err(StartError::Initdb {
            cluster_dir: new,
            status: output.status.to_string(),
            output: output_text,
        });
    }
    sync_file_system(&new).map_err(StartError::file("sync", &new))?;
    fs::rename(&new, &cluster).map_err(StartError::file("rename", &new))?;
    let home = data_dir.home();
    fs::File::open(&home).and_then(|dir| dir.sync_all()).map_err(StartError::file("sync", &home))
}

#[cfg(target_os = "linux")]
pub(super) fn sync_file_system(path: &Path) -> io::Result<()> {
    Ok(nix::unistd::syncfs(fs::File::open(path)?)?)
}

/// initdb has done it.
#[cfg(not(target_os = "linux"))]
pub(super) fn sync_file_system(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// A running server, ready or not.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    pid: Pid,
    pid_file: PathBuf,
    url: String,
}

impl Server {
    /// Starts the server. Its output goes to the log.
    pub(super) fn spawn(
        binaries: &Binaries,
        data_dir: &DataDir,
        socket_dir: &Path,
        overrides: &[String],
        log: &fs::File,
    ) -> Result<Server, StartError> {
        let program = binaries.postgres();
        let cluster = data_dir.cluster();
        let mut postgres = command(&program, data_dir, Some(data_dir.way_into(&cluster)?));
        postgres.arg("-k").arg(socket_dir).arg("-p").arg(PORT.to_string());
        // Of two of the same name, the last one counts.
        for setting in SERVER_SETTINGS.iter().copied().chain(overrides.iter().map(String::as_str)) {
            postgres.args(["-c", setting]);
        }
        let duplicate = || log.try_clone().map(Stdio::from);
        let spawned = duplicate().and_then(|out| postgres.stdout(out).stderr(duplicate()?).spawn());
        let child = spawned.map_err(spawn_error(&program, data_dir))?;
        // A child that has not been waited for has an id that fits.
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let pid =
            pid.ok_or_else(|| spawn_error(&program, data_dir)(io::Error::other("it has no process id")))?;
        Ok(Server { child, pid, pid_file: cluster.join("postmaster.pid"), url: url(socket_dir) })
    }

    /// Returns when the server answers and has the database, or with a sentence when it has ended before.
    pub(super) async fn ready(&mut self) -> Result<(), String> {
        let mut refusing_since = None;
        loop {
            tokio::select! {
                status = self.child.wait() => return Err(format!("it ended ({})", describe(&status))),
                () = tokio::time::sleep(READY_POLL) => {}
            }
            if !self.says_ready() {
                continue;
            }
            let refusal = match tokio::time::timeout(CONNECT_TIMEOUT, connect(&self.url)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => format!("it refuses a connection: {error}"),
                Err(_) => "it does not respond to a connection".to_owned(),
            };
            // It may have ended meanwhile, which the next round sees and tells better.
            if refusing_since.get_or_insert_with(Instant::now).elapsed() > CONNECT_TIMEOUT {
                return Err(refusal);
            }
        }
    }

    /// The eighth line of `postmaster.pid` is the server's state. The first tells whether the file is this server's.
    fn says_ready(&self) -> bool {
        let text = fs::read_to_string(&self.pid_file).unwrap_or_default();
        let mut lines = text.lines();
        lines.next().and_then(|line| line.trim().parse().ok()) == Some(self.pid.as_raw())
            && lines.nth(6).is_some_and(|state| state.trim() == "ready")
    }

    /// Waits for the end of the server, and describes it.
    pub(super) async fn ended(&mut self) -> String {
        describe(&self.child.wait().await)
    }

    /// Sends a signal, unless the server has been waited for already, when its process id may be another process's.
    pub(super) fn signal(&self, signal: Signal) {
        if self.child.id().is_some() {
            // It may end at this very moment.
            let _ = nix::sys::signal::kill(self.pid, signal);
        }
    }
}

fn describe(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("cannot wait for it: {error}"),
    }
}

/// Connects the way clients will, and makes the database in a new cluster.
async fn connect(url: &str) -> Result<(), sqlx::Error> {
    let options = PgConnectOptions::from_str(url)?.disable_statement_logging();
    match options.connect().await {
        Ok(connection) => connection.close().await,
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(NO_SUCH_DATABASE) => {
            let mut connection = options.database("postgres").connect().await?;
            sqlx::raw_sql("CREATE DATABASE gaffer").execute(&mut connection).await?;
            connection.close().await
        }
        // The clients have come back sooner.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(TOO_MANY_CONNECTIONS) => Ok(()),
        Err(error) => Err(error),
    }
}
