//! A private Postgres server as a child process, for installations without `DATABASE_URL`.
//!
//! It owns these files in `<data_dir>`, and nothing else:
//!
//! ```text
//! postgres/cluster       the database cluster, created by initdb
//! postgres/initdb-…      an incomplete cluster, or one that is being restored; removed at the next start
//! postgres/replaced-…    what `gaffer restore --replace` has put aside
//! postgres/run           the socket's directory (elsewhere if the path is too long for a socket)
//! postgres/lock          held while the cluster is in use; contains the process id
//! postgres.log           log of the server; the previous one is postgres.log.old
//! ```
//!
//! One thread (`supervisor`) starts, restarts and stops the server. The kernel stops the server when that thread ends, so
//! a killed gaffer leaves no server behind; where the kernel cannot do that (not Linux), the next start cleans up. The
//! server does not listen on the network, and only root and the server's own user can open its socket, so it needs no
//! password.

mod binaries;
mod data_dir;
mod leftovers;
mod program;
mod replacement;
mod server;
mod socket_dir;
mod supervisor;
#[cfg(test)]
mod tests;
mod tools;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::{oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use data_dir::major;
pub use replacement::Replacement;
pub use tools::Tools;

/// What the caller decides. This module reads nothing from the environment.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// gaffer's data directory; made if it is missing.
    pub data_dir: PathBuf,
    /// The directory of `initdb` and `postgres`. Without it, the usual places are searched.
    pub bin_dir: Option<PathBuf>,
    /// `$PATH`, the last place that is searched for the binaries, and the first for `pg_config`.
    pub search_path: Option<OsString>,
    /// `$XDG_RUNTIME_DIR`, the place of the socket if the data directory's path is too long for one.
    pub runtime_dir: Option<PathBuf>,
    /// Postgres's own settings, as `name=value`, which win over those that gaffer chooses. For tests.
    pub overrides: Vec<String>,
}

/// A private Postgres server, child of this process, reachable only through a socket in a private directory.
///
/// Dropping it stops the server too, but does not wait for that.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    facts: Facts,
    exits: watch::Receiver<Exits>,
    stop: DropGuard,
    finished: oneshot::Receiver<()>,
}

/// What stays true for as long as this server is kept running, over all its restarts.
#[derive(Debug, Clone)]
struct Facts {
    url: String,
    socket_dir: PathBuf,
    cluster_dir: PathBuf,
    version: String,
}

/// How often the server ended without being asked to, be it while it ran or while it was being started again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exits {
    /// How many times since the start.
    pub count: u64,
    /// How it ended the last time: `signal: 9 (SIGKILL)`, or why it could not be started again.
    pub last: String,
}

impl EmbeddedPostgres {
    /// Starts the server, after making the cluster if there is none, and returns once it answers at [`url`](Self::url).
    ///
    /// From then on the server is kept running: when it dies, it is started again at the same URL. Dropping the future
    /// ends whatever was begun.
    pub async fn start(settings: Settings) -> Result<EmbeddedPostgres, StartError> {
        let stop = CancellationToken::new();
        let (started_tx, started) = oneshot::channel();
        let (finished_tx, finished) = oneshot::channel();
        let (exits_tx, exits) = watch::channel(Exits::default());
        let stopped = stop.clone();
        let stop = stop.drop_guard();
        std::thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || {
                supervisor::run(&settings, &stopped, started_tx, &exits_tx);
                // The receiver is gone if nobody waits for the end.
                let _ = finished_tx.send(());
            })
            .map_err(StartError::Supervisor)?;
        let facts =
            started.await.map_err(|_| StartError::Supervisor(io::Error::other("it ended early")))??;
        Ok(EmbeddedPostgres { facts, exits, stop, finished })
    }

    /// Where clients connect. The database exists.
    pub fn url(&self) -> &str {
        &self.facts.url
    }

    /// The directory of the server's socket.
    pub fn socket_dir(&self) -> &Path {
        &self.facts.socket_dir
    }

    /// The directory of the cluster: what Postgres itself calls its data directory.
    pub fn cluster_dir(&self) -> &Path {
        &self.facts.cluster_dir
    }

    /// The server's version, like `15.18`.
    pub fn version(&self) -> &str {
        &self.facts.version
    }

    /// Completes when the server has ended without being asked to since the last call (or since the start). It is being
    /// started again by then: this is for reporting.
    pub async fn exited(&mut self) -> Exits {
        if self.exits.changed().await.is_err() {
            // The supervising thread has ended, and the server with it: the state is final.
            std::future::pending::<()>().await;
        }
        self.exits.borrow_and_update().clone()
    }

    /// Stops the server in order: clients are disconnected, commits are on disk, and the next start needs no
    /// recovery.
    pub async fn stop(self) {
        drop(self.stop);
        // An error means that the thread has ended already, which is what was wanted.
        let _ = self.finished.await;
    }
}

/// Where the running server of a data directory is reached, also if another process started it; none if none runs.
pub fn url_of_running(data_dir: &Path) -> Option<String> {
    let state = std::fs::read_to_string(cluster_of(data_dir).join("postmaster.pid")).ok()?;
    let socket_dir = state.lines().nth(4).filter(|dir| !dir.is_empty())?;
    Some(server::url(Path::new(socket_dir)))
}

/// The major version of the cluster in a data directory; none if there is no cluster.
///
/// # Errors
/// When it cannot be read, or something else is in its place.
pub fn cluster_major(data_dir: &Path) -> Result<Option<u32>, StartError> {
    data_dir::cluster_major(&cluster_of(data_dir))
}

/// Whether there is a cluster in a data directory, or anything in its place.
pub fn has_cluster(data_dir: &Path) -> bool {
    !data_dir::is_empty(&cluster_of(data_dir))
}

fn cluster_of(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres/cluster")
}

/// Whether the server of a data directory runs, also if another process started it.
pub fn is_running(data_dir: &Path) -> bool {
    // What cannot be told counts as running.
    leftovers::processes(&cluster_of(data_dir)).map_or(true, |pids| !pids.is_empty())
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No usable installation.
    #[error(
        "{problem} {install}, name the directory of its binaries in GAFFER_PG_BIN, or set DATABASE_URL to use another server."
    )]
    NoBinaries {
        /// A sentence: what was missing and where.
        problem: String,
        /// How to install it on this system.
        install: String,
    },
    /// A cluster of a version that no installation here can run.
    #[error(
        "{} was made by PostgreSQL {cluster}, which is not installed here (found: {found}). Install version {cluster}, or name the \
         directory of its binaries in GAFFER_PG_BIN. To change the version, run `gaffer backup` with version {cluster} and `gaffer restore` \
         with the new one.",
        cluster_dir.display()
    )]
    OtherVersion {
        cluster_dir: PathBuf,
        /// Its major version.
        cluster: u32,
        /// The versions that are installed.
        found: String,
    },
    /// Another gaffer uses the directory.
    #[error("another gaffer ({holder}) is using {}. Stop it, or choose another directory with GAFFER_DATA_DIR.", data_dir.display())]
    InUse {
        /// gaffer's data directory.
        data_dir: PathBuf,
        /// `process 123`.
        holder: String,
    },
    /// gaffer is root, the server must not be, and its user cannot get to the cluster.
    #[error(
        "Postgres refuses to run as root, so it runs as the user {user}, who may not pass {}, which is on the way to {}. \
         Choose another directory with GAFFER_DATA_DIR (like /var/lib/gaffer), or let others pass: chmod o+x {}",
        closed.display(), wanted.display(), closed.display()
    )]
    Unreachable {
        /// The directory that cannot be passed.
        closed: PathBuf,
        /// Where it was to go.
        wanted: PathBuf,
        user: String,
    },
    /// gaffer is root, and this system has no other user to run the server as.
    #[error(
        "Postgres refuses to run as root, and this system has neither a user `postgres` nor `nobody` to run it as"
    )]
    NoUser,
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// A verb: `create`, `lock`.
        action: &'static str,
        /// Of which file or directory.
        path: PathBuf,
        source: io::Error,
    },
    /// Something is where the cluster should be.
    #[error(
        "{} is not empty, but is no complete Postgres cluster either (it has no PG_VERSION). Move it away to start with an empty database.",
        .0.display()
    )]
    NoCluster(PathBuf),
    /// A restore was killed between its last two steps, or somebody has removed what it restored.
    #[error(
        "{} is missing, and {} holds a database that a restore has put aside. Use it again with `mv {} {}`, or move it away to start \
         with an empty database.",
        cluster.display(), kept.display(), kept.display(), cluster.display()
    )]
    InterruptedRestore { cluster: PathBuf, kept: PathBuf },
    /// A program could not even be started.
    #[error("cannot run {}{as_user}: {source}", program.display())]
    Spawn {
        program: PathBuf,
        /// Empty, or ` as the user postgres`.
        as_user: String,
        source: io::Error,
    },
    /// `initdb` did not succeed.
    #[error("initdb failed to make the cluster {} ({status}): {output}", cluster_dir.display())]
    Initdb { cluster_dir: PathBuf, status: String, output: String },
    /// The server ended again and again before it was ready.
    #[error("the Postgres server does not start: {problem}. Its log, {}, ends with:\n{log_tail}", log.display())]
    Server {
        problem: String,
        log: PathBuf,
        /// The lines it wrote in this attempt.
        log_tail: String,
    },
    /// Processes of an earlier server do not go away.
    #[error("processes of an earlier Postgres server still use {} and cannot be ended: {pids}", cluster_dir.display())]
    Leftovers {
        cluster_dir: PathBuf,
        /// Their process ids.
        pids: String,
    },
    /// No directory for the socket.
    #[error("found no place for the Postgres socket: {0}. Choose a shorter directory with GAFFER_DATA_DIR.")]
    NoSocketDir(String),
    #[error("cannot supervise Postgres: {0}")]
    Supervisor(io::Error),
}

impl StartError {
    /// For `map_err` behind a file operation.
    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StartError {
        let path = path.to_owned();
        move |source| StartError::File { action, path, source }
    }
}
