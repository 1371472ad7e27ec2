//! Starts a master with its loops and listeners, and shuts them down in order.

mod addresses;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use gaffer_domain::queue::Turns;
use gaffer_protocol::boot_time::BootTime;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::absences::Absences;
use crate::arrivals::Arrivals;
use crate::background::Loops;
use crate::background::audit::Audit;
use crate::background::dead_letters::DeadLetters;
use crate::background::deletion::Deletion;
use crate::background::drain::Drain;
use crate::background::driver::Statuses;
use crate::background::eras::Eras;
use crate::background::expired::Expired;
use crate::background::forget_workers::ForgetWorkers;
use crate::background::key_check::KeyCheck;
use crate::background::large_jobs::LargeJobsLoop;
use crate::background::moves::Moves;
use crate::background::orphans::Orphans;
use crate::background::output_mover::OutputMover;
use crate::background::rebalance::Rebalance;
use crate::background::removed_workers::RemovedWorkers;
use crate::background::retention::Expiry;
use crate::background::sampler::{Sampler, Samples};
use crate::background::scheduler::Scheduler;
use crate::background::scheduler::recent::Recent;
use crate::background::scheduler::reservations::Reservations;
use crate::background::scheduler::stats::SchedulerStats;
use crate::background::secret_keys::SecretKeys;
use crate::background::sweeper::{Strays, Sweeper};
use crate::background::system_jobs::SystemJobs;
use crate::background::unused_objects::UnusedObjects;
use crate::background::updates::Updates;
use crate::certificate::Certificate;
use crate::changes::Changes;
use crate::config::{MasterConfig, Registration, postgres_settings, resolve};
use crate::control::Control;
use crate::election::{Attempt, Candidate, Leader};
use crate::embedded_postgres::EmbeddedPostgres;
use crate::exposition::{Exposition, Sources};
use crate::health::Healths;
use crate::http::{BasePath, Doors, Site};
use crate::hub::Hub;
use crate::input::Inputs;
use crate::large_jobs::LargeJobs;
use crate::listener::{Listener, Timeouts, Transport};
use crate::live::LiveOutputs;
use crate::metrics::Metrics;
use crate::oidc::Provider;
use crate::open_streams::OpenStreams;
use crate::operations::metrics::StandbyMetrics;
use crate::operations::{self, sign_in};
use crate::output_store::{OutputStore, StoredOutput};
use crate::pace::Pace;
use crate::pauses::Pauses;
use crate::scheduling_state::SchedulingState;
use crate::standby::{Standby, Stopped};
use crate::store::{StoreError, Stores};
use crate::troubles::Troubles;
use crate::vault::Vault;
use crate::vault::master_key::KeyRing;
use crate::views::{Status, Views};
use crate::wakes::Wakes;
use crate::write_batcher::{self, WriteBatcher};
use crate::{http, listener};
use addresses::{public_url, worker_url};

/// How long running requests may take during shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Lifetime of a logged sign-in link.
const LINK_VALID_SECS: u32 = 24 * 3_600;

/// A master that is up.
#[derive(Debug)]
pub struct Running {
    /// What sessions with workers use.
    pub control: Arc<Control>,
    pub context: Arc<operations::Context>,
    pub views: Arc<Views>,
    /// Where it is.
    pub site: Arc<Site>,
    /// What its open pages show.
    pub feeds: Arc<http::Feeds>,
    /// Where the dashboard listens.
    pub dashboard: SocketAddr,
    pub api: SocketAddr,
    pub workers: SocketAddr,
    listeners: Vec<JoinHandle<()>>,
    write_batcher: JoinHandle<()>,
    loops: Vec<JoinHandle<()>>,
    leading: JoinHandle<()>,
    release: CancellationToken,
    stores: Stores,
    postgres: Option<EmbeddedPostgres>,
}

/// Runs a master until `shutdown`.
///
/// # Errors
/// When it can't start: no database, an address in use.
pub async fn run(config: MasterConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    let running = match start(&config, shutdown.clone()).await {
        Err(error) if error.is::<Stopped>() => return Ok(()),
        started => started?,
    };
    tracing::info!(
        dashboard = %running.dashboard, api = %running.api, workers = %running.workers, "the master is ready"
    );
    if running.control.store.is_new_installation().await? {
        let link = running.sign_in_url(LINK_VALID_SECS).await?;
        tracing::info!("sign in with this one-time link, valid for one day: {link}");
    }
    shutdown.cancelled().await;
    let leadership = running.control.store.leadership().clone();
    running.stop().await;
    anyhow::ensure!(
        !leadership.is_over(),
        "another master has taken over; restart this one to make it a standby"
    );
    Ok(())
}

/// Starts a master, which waits for as long as another one leads; it goes down after `shutdown`, and [`Running::stop`] waits for that.
///
/// # Errors
/// When it can't start: no database, an address in use.
pub async fn start(config: &MasterConfig, shutdown: CancellationToken) -> anyhow::Result<Running> {
    // The addresses first: they are the most likely thing to be wrong, and cost nothing to try.
    let dashboard = listen("GAFFER_DASHBOARD_ADDR", &config.dashboard_addr).await?;
    let api = listen("GAFFER_API_ADDR", &config.api_addr).await?;
    let workers = listen("GAFFER_WORKER_ADDR", &config.worker_addr).await?;
    let (dashboard_addr, api_addr, workers_addr) =
        (dashboard.local_addr()?, api.local_addr()?, workers.local_addr()?);
    let configured = config.public_url.as_deref().filter(|url| !url.trim().is_empty());
    let certificate = match config.tls.files()? {
        Some((certificate, key)) => Some(Arc::new(Certificate::load(certificate, key).await?)),
        None => None,
    };
    let speaks_tls = certificate.is_some();
    let public = public_url(configured, dashboard_addr, speaks_tls)?;
    let provider = match config.oidc.settings()? {
        Some(settings) => Some(Arc::new(Provider::new(settings, &public.to_string())?)),
        None => None,
    };
    let base_path = BasePath::of(&public).context("GAFFER_PUBLIC_URL")?;

    let output_store = config.output_store.as_ref().map(OutputStore::connect).transpose()?.map(Arc::new);

    let (url, postgres, keys) = match &config.database_url {
        Some(url) => (url.0.clone(), None, KeyRing::load(&config.secrets_key).await),
        None => {
            let settings = postgres_settings(config.data_dir(), config.pg_bin.clone());
            let postgres = EmbeddedPostgres::start(settings).await?;
            let keys = KeyRing::load_or_create(&config.secrets_key, &config.data_dir()).await;
            (postgres.url().to_owned(), Some(postgres), keys)
        }
    };
    let vault = Arc::new(Vault::new(keys));
    vault.log();
    let limits = listener::limits(&config.connections);
    let timeouts = Timeouts { idle: config.connections.idle_timeout.to_std(), ..Timeouts::default() };
    let metrics = Metrics::default();
    // A standby needs a new certificate, too.
    if let Some(certificate) = certificate.clone() {
        tokio::spawn(certificate.watch(metrics.tls.clone(), shutdown.clone()));
    }
    let trusted_proxies = Arc::new(config.tls.trusted_proxies.clone());
    let transport = Transport { certificate: certificate.clone(), trusted_proxies };
    let of_standby = StandbyMetrics { metrics: metrics.clone(), token: config.metrics_token.clone() };
    // Before the schema changes: an earlier master that still runs knows the old one.
    let sockets = [&dashboard, &api, &workers];
    let standby = Standby { sockets, limits, timeouts, transport: transport.clone(), metrics: of_standby };
    let leader = lead(&url, config, standby, &shutdown).await?;
    let (leadership, grace) = (leader.leadership.clone(), leader.grace);
    let release = CancellationToken::new();
    // Should anything below fail, the next master need not wait.
    let release_unless_up = release.clone().drop_guard();
    // From now on, however long the rest takes.
    let leading = tokio::spawn(go_on_leading(leader, release.clone(), shutdown.clone()));
    let stores = Stores::connect_as(&url, leadership).await?;
    let store = stores.control.clone();
    store.migrate().await?;
    let project = store.project_default().await?;
    store.first_user_ensure(sign_in::FIRST_USER, project).await?;
    store.workers_amnesty(grace).await?;

    let absences = Absences::since(BootTime::now(), grace.to_std());
    let (hub, live, changes) = (Hub::default(), LiveOutputs::default(), Changes::default());
    let open_streams = OpenStreams::default();
    let (pauses, pace, troubles) = (Pauses::default(), Pace::default(), Troubles::default());
    let (wakes, large_jobs) = (Wakes::default(), LargeJobs::default());
    let scheduling = SchedulingState::new(wakes.scheduler.clone());
    let scheduler_stats = SchedulerStats::new(metrics.scheduler.clone());
    let reservations = Reservations::default();
    let samples = Samples::default();
    let healths = Healths::default();
    let (write_batcher, write_batcher_handle) = WriteBatcher::new(write_batcher::Parts {
        batches: stores.batches.clone(),
        store: stores.scheduling.clone(),
        hub: hub.clone(),
        live: live.clone(),
        pace: pace.clone(),
        pauses: pauses.clone(),
        healths: healths.clone(),
        changes: changes.clone(),
        scheduler_wake: wakes.scheduler.clone(),
        scheduling: scheduling.clone(),
        large_jobs: large_jobs.clone(),
        troubles: troubles.clone(),
        metrics: metrics.transitions.clone(),
        output_metrics: metrics.output.clone(),
    });
    let moves = Moves {
        store: store.clone(),
        hub: hub.clone(),
        write_batcher: write_batcher_handle.clone(),
        reservations: reservations.clone(),
    };
    let loops = Loops {
        scheduler: Scheduler {
            store: stores.scheduling.clone(),
            pace,
            write_batcher: write_batcher_handle.clone(),
            state: scheduling.clone(),
            large_jobs: large_jobs.clone(),
            wake: wakes.scheduler.clone(),
            hub: hub.clone(),
            strategy: config.strategy,
            turns: Turns::default(),
            pauses: pauses.clone(),
            recent: Recent::default(),
            stats: scheduler_stats.clone(),
            reservations: reservations.clone(),
            read_all_at: None,
            take_back_at: None,
        },
        drain: Drain { moves: moves.clone(), changes: changes.clone(), wake: wakes.drain.clone() },
        rebalance: config.rebalance.settled_after().map(|settled_after| Rebalance {
            moves,
            strategy: config.strategy,
            settled_after,
        }),
        sweeper: Sweeper {
            store: store.clone(),
            absences: absences.clone(),
            write_batcher: write_batcher_handle.clone(),
            hub: hub.clone(),
            wake: wakes.sweeper.clone(),
            strays: Strays::default(),
        },
        removed_workers: RemovedWorkers {
            store: store.clone(),
            write_batcher: write_batcher_handle.clone(),
            wake: wakes.removed_workers.clone(),
        },
        key_check: KeyCheck {
            store: store.clone(),
            hub: hub.clone(),
            open_streams: open_streams.clone(),
            session_idle_secs: sign_in::SESSION_IDLE_SECS,
            wake: wakes.key_check.clone(),
        },
        large_jobs: LargeJobsLoop::new(store.clone(), write_batcher_handle.clone(), large_jobs.clone()),
        updates: Updates {
            store: store.clone(),
            write_batcher: write_batcher_handle.clone(),
            healths: healths.clone(),
            large_jobs: large_jobs.clone(),
            changes: changes.clone(),
            wake: wakes.updates.clone(),
            system_jobs: wakes.system_jobs.clone(),
            began: chrono::Utc::now(),
            steps: Default::default(),
            watches: Default::default(),
        },
        system_jobs: SystemJobs::new(store.clone(), write_batcher_handle.clone(), wakes.system_jobs.clone()),
        deletion: Deletion { store: store.clone(), wake: wakes.deletion.clone() },
        dead_letters: DeadLetters {
            store: store.clone(),
            changes: changes.clone(),
            wake: wakes.dead_letters.clone(),
        },
        audit: Audit::new(store.clone(), config.audit_retention.after(), wakes.audit.clone()),
        sampler: Sampler {
            store: store.clone(),
            hub: hub.clone(),
            samples: samples.clone(),
            metrics: metrics.workers.clone(),
        },
        eras: Eras { store: store.clone(), retention: config.retention },
        expiry: Expiry {
            store: store.clone(),
            retention: config.retention,
            deletion: wakes.deletion.clone(),
        },
        expired: Expired { store: store.clone() },
        forget_workers: config.forget_workers.after().map(|after| ForgetWorkers {
            store: store.clone(),
            after,
            removed: [wakes.removed_workers.clone(), wakes.system_jobs.clone()],
        }),
        orphans: Orphans::new(store.clone()),
        secret_keys: SecretKeys { store: store.clone(), vault: vault.clone() },
        output_store: output_store.clone().map(|objects| {
            let mover = OutputMover::new(store.clone(), objects.clone(), config.output_store_after);
            (mover, UnusedObjects::new(store.clone(), objects))
        }),
    };
    let statuses = Statuses::new(metrics.loops.clone());
    let sources = Sources {
        pools: stores.pools(),
        hub: hub.clone(),
        live: live.clone(),
        queued: write_batcher_handle.queued(),
        troubles: troubles.clone(),
        leadership: store.leadership().clone(),
    };
    let control = Arc::new(Control {
        store,
        write_batcher: write_batcher_handle,
        hub,
        arrivals: Arrivals::default(),
        absences,
        inputs: Inputs::default(),
        clocks: Default::default(),
        healths,
        live,
        open_streams,
        changes,
        wakes,
        large_jobs,
        scheduling,
        vault: vault.clone(),
        metrics: metrics.sessions.clone(),
        shutdown: shutdown.clone(),
    });
    let status = Status {
        strategy: config.strategy,
        retention: config.retention,
        scheduler_stats,
        reservations,
        samples,
        troubles,
        loops: statuses.clone(),
        vault,
        certificate,
    };
    let exposition = Exposition::new(metrics.clone(), stores.reads.clone(), sources);
    let reads = stores.reads.clone();
    let stored_output = StoredOutput::new(reads.clone(), output_store);
    let views = Arc::new(Views::new(reads, stored_output, &control, pauses, status, exposition));
    let writes = stores.writes.clone();
    let token = config.metrics_token.clone();
    let context = Arc::new(operations::Context::new(&control, writes, views.clone(), project, token));
    let site = Arc::new(Site {
        worker_url: worker_url(configured, &public, dashboard_addr, workers_addr, speaks_tls),
        public_url: public.to_string(),
        public_origin: public.origin(),
        provider,
        registration_is_open: config.registration == Registration::Open,
        base_path,
    });
    let feeds = Arc::new(http::Feeds::new(metrics.http.viewers.clone()));
    let doors =
        Doors { context: context.clone(), views: views.clone(), site: site.clone(), feeds: feeds.clone() };
    release_unless_up.disarm();
    let port = |name, socket, router, limits| {
        let (transport, metrics) = (transport.clone(), metrics.http.clone());
        let listener = Listener { name, socket, router, limits, timeouts, transport, metrics };
        tokio::spawn(listener.serve(shutdown.clone()))
    };
    Ok(Running {
        leading,
        release,
        listeners: vec![
            port("dashboard", dashboard, http::dashboard(doors.clone(), control.clone()), limits[0]),
            port("api", api, http::api_alone(doors.clone()), limits[1]),
            port("workers", workers, http::workers(doors, control.clone()), limits[2]),
        ],
        write_batcher: tokio::spawn(write_batcher.run()),
        loops: loops.start(&statuses, &shutdown),
        control,
        context,
        views,
        site,
        feeds,
        dashboard: dashboard_addr,
        api: api_addr,
        workers: workers_addr,
        stores,
        postgres,
    })
}

impl Running {
    /// An address that signs the operator in, once.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sign_in_url(&self, valid_secs: u32) -> Result<String, StoreError> {
        let link = sign_in::link_for_operator(&self.context, valid_secs).await?;
        Ok(self.site.sign_in_url(&link.token))
    }

    /// Waits for shutdown: listeners, sessions, loops, pending writes, the database.
    pub async fn stop(self) {
        self.control.shutdown.cancel();
        for session in self.control.hub.all() {
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
            tracing::debug!("some requests did not end in time; closing them");
        }
        // The write batcher ends when all handles are dropped; pending changes are committed first.
        drop((self.control, self.context));
        if self.stores.control.leadership().is_over() {
            // Nothing of it counts any more.
            self.write_batcher.abort();
        }
        if tokio::time::timeout(DRAIN_TIMEOUT, self.write_batcher).await.is_err() {
            tracing::warn!("some reports were not stored in time; workers will repeat them");
        }
        // A database that does not respond is not waited for.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, self.stores.close()).await;
        // Only now: the next master may begin.
        self.release.cancel();
        let _ = self.leading.await;
        if let Some(postgres) = self.postgres {
            postgres.stop().await;
        }
    }
}

/// Waits until this master leads. Meanwhile it answers that another one does.
async fn lead(
    url: &str,
    config: &MasterConfig,
    standby: Standby<'_>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Leader> {
    let lease = config.leader_lease.span();
    let mut candidate = Candidate::connect(url, lease).await.context("cannot connect to the database")?;
    let why = match candidate.try_once().await {
        Ok(Attempt::Leads(leader)) => return Ok(leader),
        Ok(Attempt::Waits(why)) => why,
        // It answered a moment ago: that passes.
        Err(StoreError::Unavailable(error)) => format!("the database does not respond ({error})"),
        Err(error) => return Err(error).context("cannot ask the database which master leads"),
    };
    tracing::info!("{why}: this master is a standby and takes over when no other one leads");
    let leader = standby.answer(shutdown, Box::pin(candidate.lead())).await?;
    tracing::info!(term = leader.leadership.term(), "this master leads now");
    Ok(leader)
}

/// Keeps leading, and shuts everything down if another master takes over.
async fn go_on_leading(leader: Leader, release: CancellationToken, shutdown: CancellationToken) {
    if leader.keep(&release).await.is_err() {
        tracing::error!("another master has taken over; this one shuts down and acknowledges nothing more");
        shutdown.cancel();
    }
}

async fn listen(setting: &str, address: &str) -> anyhow::Result<TcpListener> {
    let resolved = resolve(setting, address).await?;
    TcpListener::bind(resolved).await.with_context(|| {
        format!("cannot listen on {resolved}; is another gaffer running? {setting} chooses another address")
    })
}
