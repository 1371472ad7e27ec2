//! Starts a master, its loops and its three listeners, and takes them down again in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use gaffer_domain::queue::Turns;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::background::dead_letters::DeadLetters;
use crate::background::deletion::Deletion;
use crate::background::driver::Loops;
use crate::background::large_jobs::{LargeJobs, LargeJobsLoop};
use crate::changes::Changes;
use crate::cleaner;
use crate::config::{MasterConfig, postgres_settings, resolve};
use crate::embedded_postgres::EmbeddedPostgres;
use crate::guesses::Guesses;
use crate::hub::Hub;
use crate::input::Inputs;
use crate::listener::{Listener, Timeouts};
use crate::live::LiveOutputs;
use crate::mover::Mover;
use crate::pace::Pace;
use crate::recorder::{self, Recorder};
use crate::sampler::{Sampler, Samples};
use crate::scheduler::Scheduler;
use crate::scheduler::pauses::Pauses;
use crate::scheduler::recent::Recent;
use crate::scheduler::statistics::Statistics;
use crate::secret::{NewSecret, Purpose};
use crate::store::Store;
use crate::store::claim::Claim;
use crate::sweeper::Sweeper;
use crate::troubles::Troubles;
use crate::{Master, http, listener};

/// Open requests have so long to end when the master goes down.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// A sign-in link that a master prints is good for so long.
const LINK_VALID_SECS: u32 = 24 * 3_600;
/// The user that a new installation has.
pub const FIRST_USER: &str = "admin";

/// A master that is up.
#[derive(Debug)]
pub struct Running {
    /// Its parts.
    pub master: Arc<Master>,
    /// Where the dashboard listens.
    pub dashboard: SocketAddr,
    /// Where the API listens.
    pub api: SocketAddr,
    /// Where workers dial in.
    pub workers: SocketAddr,
    listeners: Vec<JoinHandle<()>>,
    recorder: JoinHandle<()>,
    loops: Vec<JoinHandle<()>>,
    claim: JoinHandle<()>,
    release: CancellationToken,
    taken_over: CancellationToken,
    postgres: Option<EmbeddedPostgres>,
}

/// Runs a master until `shutdown`.
///
/// # Errors
/// When it can't start: no database, an address in use.
pub async fn run(config: MasterConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    let running = start(&config, shutdown.clone()).await?;
    tracing::info!(
        dashboard = %running.dashboard, api = %running.api, workers = %running.workers, "the master is up"
    );
    if running.master.store.is_new_installation().await? {
        let user = running.master.first_user().await?;
        let link = running.master.login_link(user, LINK_VALID_SECS).await?;
        tracing::info!("nobody has signed in yet; this link does it, once, within a day: {link}");
    }
    shutdown.cancelled().await;
    let taken_over = running.taken_over.clone();
    running.stop().await;
    anyhow::ensure!(!taken_over.is_cancelled(), "another master has taken over the database");
    Ok(())
}

/// Starts a master; it goes down after `shutdown`, and [`Running::stop`] waits for that.
///
/// # Errors
/// When it can't start: no database, an address in use.
pub async fn start(config: &MasterConfig, shutdown: CancellationToken) -> anyhow::Result<Running> {
    // The addresses first: they are the most likely thing to be wrong, and cost nothing to try.
    let dashboard = listen("GAFFER_DASHBOARD_ADDR", &config.dashboard_addr).await?;
    let api = listen("GAFFER_API_ADDR", &config.api_addr).await?;
    let workers = listen("GAFFER_WORKER_ADDR", &config.worker_addr).await?;

    let (url, postgres) = match &config.database_url {
        Some(url) => (url.0.clone(), None),
        None => {
            let settings = postgres_settings(config.data_dir(), config.pg_bin.clone());
            let postgres = EmbeddedPostgres::start(settings).await?;
            (postgres.url().to_owned(), Some(postgres))
        }
    };
    // Before the schema changes: an earlier master that still runs knows the old one.
    let claim = Claim::take(&url).await?;
    let store = Store::connect(&url).await?;
    store.migrate().await?;
    let project = store.project_default().await?;
    store.user_ensure(FIRST_USER, project).await?;
    store.workers_amnesty().await?;

    let (hub, live) = (Hub::default(), LiveOutputs::default());
    let pauses = Pauses::default();
    let (pace, changes) = (Pace::default(), Changes::default());
    let (scheduler_wake, sweeper_wake) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (large_jobs, troubles) = (LargeJobs::default(), Troubles::default());
    let (deletion_wake, dead_letters_wake) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (recorder, recorder_handle) = Recorder::new(recorder::Parts {
        store: store.clone(),
        hub: hub.clone(),
        live: live.clone(),
        pace: pace.clone(),
        pauses: pauses.clone(),
        changes: changes.clone(),
        scheduler_wake: scheduler_wake.clone(),
        large_jobs: large_jobs.clone(),
        troubles: troubles.clone(),
    });
    let statistics = Statistics::default();
    let scheduler = Scheduler {
        store: store.clone(),
        pace,
        recorder: recorder_handle.clone(),
        large_jobs: large_jobs.clone(),
        wake: scheduler_wake.clone(),
        hub: hub.clone(),
        strategy: config.strategy,
        turns: Turns::default(),
        pauses: pauses.clone(),
        recent: Recent::default(),
        statistics: statistics.clone(),
    };
    let mover_wake = Arc::new(Notify::new());
    let mover = Mover {
        store: store.clone(),
        hub: hub.clone(),
        recorder: recorder_handle.clone(),
        wake: mover_wake.clone(),
        changes: changes.clone(),
        strategy: config.strategy,
        statistics: statistics.clone(),
        settled_after: config.rebalance.settled_after(),
    };
    let samples = Samples::default();
    let sampler = Sampler { store: store.clone(), hub: hub.clone(), samples: samples.clone() };
    let sweeper = Sweeper {
        store: store.clone(),
        hub: hub.clone(),
        recorder: recorder_handle.clone(),
        wake: sweeper_wake.clone(),
    };
    let large_jobs = LargeJobsLoop::new(store.clone(), recorder_handle.clone(), large_jobs);
    let deletion = Deletion { store: store.clone(), wake: deletion_wake.clone() };
    let dead_letters =
        DeadLetters { store: store.clone(), changes: changes.clone(), wake: dead_letters_wake.clone() };
    let background = Loops::default();
    let (dashboard_addr, api_addr, workers_addr) =
        (dashboard.local_addr()?, api.local_addr()?, workers.local_addr()?);
    let public_url = public_url(config, dashboard_addr);
    let master = Arc::new(Master {
        store,
        hub,
        inputs: Inputs::default(),
        clocks: Default::default(),
        live,
        changes,
        recorder: recorder_handle,
        scheduler_wake,
        mover_wake,
        sweeper_wake,
        troubles,
        loops: background.clone(),
        deletion_wake,
        dead_letters_wake,
        strategy: config.strategy,
        pauses,
        statistics,
        samples,
        guesses: Guesses::default(),
        worker_url: worker_url(&public_url, workers_addr),
        public_url,
        shutdown: shutdown.clone(),
    });
    let (release, taken_over) = (CancellationToken::new(), CancellationToken::new());
    let limits = listener::limits(&config.connections);
    let timeouts = Timeouts { idle: config.connections.idle_timeout.to_std(), ..Timeouts::default() };
    let port = |name, socket, router, limits| {
        let listener = Listener { name, socket, router, limits, timeouts };
        tokio::spawn(listener.serve(shutdown.clone()))
    };
    Ok(Running {
        claim: tokio::spawn(hold(claim, release.clone(), shutdown.clone(), taken_over.clone())),
        release,
        taken_over,
        listeners: vec![
            port("dashboard", dashboard, http::dashboard(master.clone()), limits[0]),
            port("api", api, http::api_alone(master.clone()), limits[1]),
            port("workers", workers, http::workers(master.clone()), limits[2]),
        ],
        recorder: tokio::spawn(recorder.run()),
        loops: vec![
            tokio::spawn(scheduler.run(shutdown.clone())),
            tokio::spawn(mover.run(shutdown.clone())),
            tokio::spawn(sampler.run(shutdown.clone())),
            background.start(large_jobs, shutdown.clone()),
            background.start(deletion, shutdown.clone()),
            background.start(dead_letters, shutdown.clone()),
            tokio::spawn(cleaner::run(master.store.clone(), shutdown.clone())),
            tokio::spawn(sweeper.run(shutdown)),
        ],
        master,
        dashboard: dashboard_addr,
        api: api_addr,
        workers: workers_addr,
        postgres,
    })
}

impl Running {
    /// Waits until everything is down: listeners, sessions, loops, what is still to be recorded, the database.
    pub async fn stop(self) {
        self.master.shutdown.cancel();
        for session in self.master.hub.all() {
            session.end(gaffer_protocol::wire::GoodbyeCode::ShuttingDown, "the master is shutting down");
        }
        let drain = async {
            for listener in self.listeners {
                let _ = listener.await;
            }
            for looping in self.loops {
                let _ = looping.await;
            }
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, drain).await.is_err() {
            tracing::debug!("some requests did not end in time and are cut off");
        }
        let store = self.master.store.clone();
        // The recorder ends when nobody can send to it any more; what it has by then is committed first.
        drop(self.master);
        if tokio::time::timeout(DRAIN_TIMEOUT, self.recorder).await.is_err() {
            tracing::warn!("not everything was recorded in time; workers will report it again");
        }
        store.close().await;
        // Only now: the next master may begin.
        self.release.cancel();
        let _ = self.claim.await;
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
    }
}

impl Master {
    /// The number of the user that every installation has.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn first_user(&self) -> Result<i64, crate::store::StoreError> {
        let project = self.store.project_default().await?;
        self.store.user_ensure(FIRST_USER, project).await
    }

    /// Makes a link that signs a user in, once.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn login_link(
        &self,
        user_id: i64,
        valid_secs: u32,
    ) -> Result<String, crate::store::StoreError> {
        let secret = NewSecret::new(Purpose::LoginLink);
        self.store.login_link_insert(user_id, &secret.sha256, valid_secs).await?;
        self.guesses.is_made(&secret.sha256);
        Ok(format!("{}/login?token={}", self.public_url, secret.text))
    }
}

/// Holds on to the database, and takes everything down if another master has taken it.
async fn hold(
    claim: Claim,
    release: CancellationToken,
    shutdown: CancellationToken,
    taken_over: CancellationToken,
) {
    if claim.hold(&release).await.is_err() {
        tracing::error!("another master has taken over the database while it was away; this one goes down");
        taken_over.cancel();
        shutdown.cancel();
    }
}

async fn listen(setting: &str, address: &str) -> anyhow::Result<TcpListener> {
    let resolved = resolve(setting, address).await?;
    TcpListener::bind(resolved).await.with_context(|| {
        format!("cannot listen on {resolved}; is another gaffer running? {setting} chooses another address")
    })
}

/// What links begin with: as configured, else this machine's own view of the dashboard.
fn public_url(config: &MasterConfig, dashboard: SocketAddr) -> String {
    match &config.public_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None if dashboard.ip().is_unspecified() => format!("http://localhost:{}", dashboard.port()),
        None => format!("http://{dashboard}"),
    }
}

/// Where workers dial in: behind a proxy that speaks TLS it is the one address for all, else the dashboard's host with the
/// workers' own port.
fn worker_url(public_url: &str, workers: SocketAddr) -> String {
    let (scheme, rest) = public_url.split_once("://").unwrap_or(("http", public_url));
    if scheme == "https" {
        return format!("wss://{rest}");
    }
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    format!("ws://{host}:{}", workers.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn workers_are_told_the_port_that_is_theirs_or_the_proxy() {
        let workers = "0.0.0.0:8081".parse().unwrap();
        for (public, expected) in [
            ("http://localhost:3000", "ws://localhost:8081"),
            ("http://127.0.0.1:41234", "ws://127.0.0.1:8081"),
            ("http://[::1]:3000", "ws://[::1]:8081"),
            ("http://lab/gaffer", "ws://lab:8081"),
            ("https://gaffer.example.org", "wss://gaffer.example.org"),
        ] {
            assert_eq!(worker_url(public, workers), expected);
        }
    }
}
