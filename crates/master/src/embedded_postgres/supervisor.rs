//! The thread that owns the server: creates the cluster, starts, restarts and stops the server.
//!
//! It has a separate thread because the kernel ties the server's life to the *thread* that started it, and the threads of
//! a pool come and go.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::binaries::Binaries;
use super::data_dir::DataDir;
use super::program::STOP_STEPS;
use super::server::{self, Server};
use super::{Exits, Facts, Settings, StartError, leftovers, socket_dir};

/// Recovery after a crash reads up to `max_wal_size` of log, on whatever disk there is.
const READY_TIMEOUT: Duration = Duration::from_secs(600);
/// Pauses between attempts of the first start. Few, because a user waits for the error.
const START_PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_millis(1500)];
/// A server that ran for this long is started again at once; otherwise pauses grow, so that a server that dies whenever it
/// is ready costs little.
const STABLE_AFTER: Duration = Duration::from_secs(30);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How much of the server's log goes into an error.
const LOG_TAIL_BYTES: u64 = 4096;

/// Runs until `stop`, or until the start has failed.
pub(super) fn run(
    settings: &Settings,
    stop: &CancellationToken,
    started: oneshot::Sender<Result<Facts, StartError>>,
    exits: &watch::Sender<Exits>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(StartError::Supervisor(error)));
            return;
        }
    };
    runtime.block_on(async {
        // A caller that gives up has dropped the receiver and cancelled `stop`.
        let mut supervisor = match stop.run_until_cancelled(Supervisor::prepare(settings)).await {
            Some(Ok(supervisor)) => supervisor,
            Some(Err(error)) => return drop(started.send(Err(error))),
            None => return,
        };
        match stop.run_until_cancelled(supervisor.start()).await {
            Some(Ok(())) => {
                let _ = started.send(Ok(supervisor.facts()));
                stop.run_until_cancelled(supervisor.keep_running(exits)).await;
                supervisor.finish().await;
            }
            Some(Err(error)) => {
                // Sent only when everything has ended and the directory is free.
                supervisor.finish().await;
                let _ = started.send(Err(error));
            }
            None => supervisor.finish().await,
        }
    });
}

struct Supervisor {
    data_dir: DataDir,
    binaries: Binaries,
    socket_dir: PathBuf,
    overrides: Vec<String>,
    /// The last one started. It may have ended.
    server: Option<Server>,
}

impl Supervisor {
    async fn prepare(settings: &Settings) -> Result<Supervisor, StartError> {
        let data_dir = DataDir::open(&settings.data_dir).await?;
        let binaries = Binaries::find(settings, &data_dir).await?;
        let socket_dir = socket_dir::choose(&data_dir, settings.runtime_dir.as_deref())?;
        server::make_cluster(&binaries, &data_dir).await?;
        data_dir.rotate_log()?;
        let overrides = settings.overrides.clone();
        Ok(Supervisor { data_dir, binaries, socket_dir, overrides, server: None })
    }

    fn facts(&self) -> Facts {
        Facts {
            url: server::url(&self.socket_dir),
            socket_dir: self.socket_dir.clone(),
            cluster_dir: self.data_dir.cluster(),
            version: self.binaries.version.clone(),
        }
    }

    /// The first start. Where a server was killed, one attempt may not be enough.
    async fn start(&mut self) -> Result<(), StartError> {
        for pause in START_PAUSES {
            match self.start_once().await {
                Err(error @ StartError::Server { .. }) => {
                    tracing::warn!(%error, "retrying to start Postgres")
                }
                result => return result,
            }
            tokio::time::sleep(pause).await;
        }
        self.start_once().await
    }

    async fn start_once(&mut self) -> Result<(), StartError> {
        // One that was started and did not become ready.
        self.stop().await;
        leftovers::end(&self.data_dir.cluster()).await?;
        socket_dir::sweep(&self.data_dir, &self.socket_dir)?;
        let (log, log_start) = self.data_dir.open_log()?;
        let begun = Instant::now();
        let server = self.server.insert(Server::spawn(
            &self.binaries,
            &self.data_dir,
            &self.socket_dir,
            &self.overrides,
            &log,
        )?);
        let problem = match tokio::time::timeout(READY_TIMEOUT, server.ready()).await {
            Ok(Ok(())) => {
                let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(version = self.binaries.version, socket = %self.socket_dir.display(), took_ms, "Postgres is ready");
                return Ok(());
            }
            Ok(Err(problem)) => problem,
            Err(_) => format!("it was not ready within {} s", READY_TIMEOUT.as_secs()),
        };
        Err(StartError::Server { problem, log: self.data_dir.log(), log_tail: self.log_since(log_start) })
    }

    /// What the server wrote into its log, or the end of that.
    fn log_since(&self, start: u64) -> String {
        let read = || {
            let mut log = std::fs::File::open(self.data_dir.log())?;
            let start = start.max(log.metadata()?.len().saturating_sub(LOG_TAIL_BYTES));
            log.seek(SeekFrom::Start(start))?;
            let mut tail = Vec::new();
            log.read_to_end(&mut tail)?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&tail).trim().to_owned())
        };
        read().unwrap_or_else(|error| format!("(it cannot be read: {error})"))
    }

    /// Starts the server again whenever it has ended. Never returns.
    async fn keep_running(&mut self, exits: &watch::Sender<Exits>) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let ready = Instant::now();
            let Some(server) = &mut self.server else { return std::future::pending().await };
            let status = server.ended().await;
            tracing::error!(%status, log = %self.data_dir.log().display(), "Postgres exited unexpectedly; restarting it");
            let note = |last| exits.send_modify(|exits| *exits = Exits { count: exits.count + 1, last });
            note(status);
            let mut again_at_once = ready.elapsed() > STABLE_AFTER;
            loop {
                if again_at_once {
                    pause = SHORTEST_PAUSE;
                } else {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                again_at_once = false;
                match self.start_once().await {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::error!(%error, "cannot restart Postgres yet");
                        note(error.to_string());
                    }
                }
            }
        }
    }

    /// Returns when the server has exited.
    async fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        for (signal, patience) in STOP_STEPS {
            server.signal(signal);
            if tokio::time::timeout(patience, server.ended()).await.is_ok() {
                return;
            }
            tracing::warn!(%signal, waited_secs = patience.as_secs(), "Postgres does not stop");
        }
    }

    /// The last stop: nothing of the server is left, and the data directory is free.
    async fn finish(mut self) {
        self.stop().await;
        // Of a server that did not end in order, children may be left.
        if let Err(error) = leftovers::end(&self.data_dir.cluster()).await {
            tracing::error!(%error, "Postgres has not exited completely");
        }
        socket_dir::tidy_up(&self.data_dir, &self.socket_dir);
    }
}
